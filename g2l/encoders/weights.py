"""Weight files: reading without executing anything in them, strict loading, SHA-256."""

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from g2l.encoders.keymaps import flatten, translate
from g2l.encoders.positions import fit_positions
from g2l.errors import EncoderError
from g2l.sums import sha256

SUFFIXES = (".safetensors", ".pth", ".bin", ".pt", ".ckpt")


class Loaded(NamedTuple):
    """The file's SHA-256, the layout it had (`own` or a key map), and what was done to its position embeddings."""

    sha256: str
    layout: str
    positions: str | None


def read_file(file: Path) -> Any:
    """Tensors of a .safetensors file, or the content of a torch file read with weights_only.

    Raises:
        EncoderError: when the file is neither, is damaged, or is a pickle that would have to run code.
    """
    if file.suffix not in SUFFIXES:
        raise EncoderError(f"{file} is no weight file: {', '.join(SUFFIXES)} can be read")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise EncoderError(f"{file} is damaged: {one_line(error)}; fetch it again") from error
        raise EncoderError(
            f"{file} holds Python objects beside tensors and is not read, as that would run code from the file; "
            "save its state dict alone, best as .safetensors"
        ) from error
    except (
        Exception
    ) as error:  # the readers raise some ten kinds (zip, struct, safetensors' own): all mean an unreadable file
        raise EncoderError(f"{file} cannot be read as weights: {one_line(error)}; fetch it again") from error


def load_weights(
    module: nn.Module, file: Path, key_map: str = "timm", file_grid: tuple[int, int] | None = None
) -> Loaded:
    """Loads every tensor of `module` from `file`, in float32; modules on the meta device take the tensors over.

    Args:
        module: the backbone.
        file: weights in the layout `key_map` (keymaps.py), or already in the module's own.
        file_grid: token grid of the file's position embeddings where it is not the module's.
    Raises:
        EncoderError: unless every tensor of the module is in the file with its shape, and nothing else is.
    """
    layout, positions = load_content(module, read_file(file), str(file), key_map, file_grid)
    return Loaded(sha256(file), layout, positions)


def load_content(
    module: nn.Module, content: Any, where: str, key_map: str = "timm", file_grid: tuple[int, int] | None = None
) -> tuple[str, str | None]:
    """As `load_weights`, from what was read out of a file. Returns (layout, what was done to the positions)."""
    state, layout = translate(flatten(content), module, key_map)
    state = _without_classifier(state, module)
    positions = fit_positions(state, module, file_grid, where)
    wanted = module.state_dict()
    _refuse_misfit(state, wanted, where, key_map)
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    # Cloned, since a mapped file must not change under a running model.
    state = {
        key: value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=on_meta)
        for key, value in state.items()
    }
    module.load_state_dict(state, strict=True, assign=on_meta)
    return layout, positions


def _refuse_misfit(state: dict[str, Tensor], wanted: dict[str, Tensor], where: str, key_map: str) -> None:
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    misshapen = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    if not (missing or unexpected or misshapen):
        return
    faults = [
        f"{len(missing)} missing (first: {missing[0]})" if missing else "",
        f"{len(unexpected)} unexpected (first: {unexpected[0]})" if unexpected else "",
        f"{len(misshapen)} of another shape (first: {_shapes(misshapen[0], state, wanted)})" if misshapen else "",
    ]
    matched = len(wanted) - len(missing) - len(misshapen)
    raise EncoderError(
        f"{where} does not fit: {matched} of {len(wanted)} tensors match under key map {key_map!r}; "
        f"{', '.join(f for f in faults if f)}; is it the file of this encoder, and its key_map right?"
    )


def _without_classifier(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """Leaves out the classification layer that a published timm file may hold; an encoder (num_classes 0) has none."""
    stated = getattr(module, "pretrained_cfg", {}).get("classifier") or ()
    layers = [f"{name}." for name in ((stated,) if isinstance(stated, str) else stated)]
    wanted = module.state_dict().keys()
    return {key: value for key, value in state.items() if key in wanted or not key.startswith(tuple(layers))}


def one_line(error: BaseException) -> str:
    """An error's text for a message of ours: no line breaks, at most 200 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _shapes(key: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    return f"{key} {list(state[key].shape)}, not {list(wanted[key].shape)}"
