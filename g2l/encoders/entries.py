"""Reads and checks the YAML entries that describe encoders: every fault of an entry is reported at once."""

import functools
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from g2l.errors import EncoderError

POOLINGS = ("cls", "mean", "cls+mean", "native")
INTERPOLATIONS = ("bilinear", "bicubic")
# The names defined in keymaps.py, restated so that reading a catalogue needs no torch; a test keeps the two equal.
KEY_MAPS = ("timm", "hf-dinov2", "hf-vit", "dinov2", "gpfm", "lightning", "conch")
_REQUIRED = ("architecture", "mean", "std", "size")
_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "architecture": (str,),
    "args": (dict,),
    "resize": (bool,),
    "gated": (bool,),
    "licence": (str,),
    "redistribute": (bool,),
    "redistribute_reason": (str,),
    "mpp": (int, float, type(None)),
    "hub": (str, type(None)),
    "weights": (str, type(None)),
    "norm_eps": (int, float, type(None)),
    "parameters": (int, float, type(None)),
    "embed_dim": (int, type(None)),
}
_CHOICES = {"pooling": POOLINGS, "interpolation": INTERPOLATIONS, "key_map": KEY_MAPS}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, interpolations resolved. EncoderError when it cannot be read or is not a mapping."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise EncoderError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise EncoderError(
            f"{path} holds no mapping of fields; write one encoder as `architecture: ...`, `size: ...`, ..."
        )
    return {str(key): value for key, value in content.items()}


@functools.cache
def normalisations() -> dict[str, dict[str, list[float]]]:
    """The named (mean, std) pairs of the catalogue."""
    return read_yaml(Path(__file__).parent / "catalog.yaml")["normalisations"]


def check_entry(entry: dict[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """The entry with `normalisation` resolved and lists made tuples.

    Args:
        entry: fields as read from YAML or a checkpoint.
        known: the fields there are.
        where: what to call the entry in a message.
    Raises:
        EncoderError: naming all faults together.
    """
    fields, faults = dict(entry), []
    if "normalisation" in fields:
        chosen = fields.pop("normalisation")
        named = normalisations().get(chosen) if isinstance(chosen, str) else None
        if named is None:
            faults.append(f"normalisation {chosen!r} is none of {', '.join(normalisations())} (or give mean and std)")
        fields = {**(named or {"mean": [0, 0, 0], "std": [1, 1, 1]}), **fields}
    for key in sorted(set(fields) - known):
        close = get_close_matches(key, [*known, "normalisation"], 1)
        faults.append(f"unknown field {key!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
    missing = [key for key in _REQUIRED if key not in fields]
    if missing:
        faults.append(
            f"missing {', '.join(missing)}"
            + (" (`normalisation: imagenet` gives mean and std)" if "mean" in missing else "")
        )
    for key, value in fields.items():
        faults.extend(_fault(key, value))
    if faults:
        raise EncoderError(f"{where}: {'; '.join(faults)}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


def _fault(key: str, value: Any) -> list[str]:
    """What is wrong with one value: nothing or one sentence."""
    if key in _KINDS and (not isinstance(value, _KINDS[key]) or (isinstance(value, bool) and bool not in _KINDS[key])):
        return [f"{key} is {value!r}, not {' or '.join(kind.__name__ for kind in _KINDS[key])}"]
    if key in _CHOICES and value not in _CHOICES[key]:
        return [f"{key} {value!r} is none of {', '.join(_CHOICES[key])}"]
    if key in ("mean", "std") and not _numbers(value, 3, positive=key == "std"):
        return [f"{key} is {value!r}, not three {'positive ' if key == 'std' else ''}numbers (R, G, B)"]
    if key == "size" and not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return [f"size is {value!r}, not a number of pixels"]
    if key in ("grid", "file_grid") and value is not None and not _numbers(value, 2):
        return [f"{key} is {value!r}, not [height, width] in tokens"]
    return []


def _numbers(value: Any, count: int, positive: bool = False) -> bool:
    if not isinstance(value, list | tuple) or len(value) != count:
        return False
    return all(isinstance(v, int | float) and not isinstance(v, bool) and (v > 0 or not positive) for v in value)
