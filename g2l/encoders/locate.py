"""Where an encoder's weight file is: a path, a folder, beside its entry, or (only when asked) on its hub."""

from collections.abc import Sequence
from pathlib import Path

from g2l.encoders.catalog import CATALOG, EncoderSpec, get_spec
from g2l.encoders.weights import SUFFIXES, one_line
from g2l.errors import EncoderError

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def find_weights(spec: EncoderSpec, weights: str | Path | None) -> Path:
    """The weight file of an encoder.

    Args:
        weights: a file; a folder holding `<name>.safetensors` (or .pth, .bin, .pt, .ckpt); `hub` for its hub id; None
            for the file that comes with it.
    Raises:
        EncoderError: naming the file expected, the hub id, the licence, and whether access is gated.
    """
    shipped = CATALOG.parent / spec.weights if spec.weights else None
    if weights == "hub":
        return _from_hub(spec)
    if weights is not None:
        path = Path(weights)
        if path.is_file():
            return path
        found = next(
            (path / f"{spec.name}{suffix}" for suffix in SUFFIXES if (path / f"{spec.name}{suffix}").is_file()), None
        )
        if found is not None:
            return found
        if path.suffix in SUFFIXES:
            raise EncoderError(_missing(spec, path))
    if shipped is not None and shipped.is_file():
        return shipped
    raise EncoderError(_missing(spec, shipped or Path(weights or "weights") / f"{spec.name}.safetensors"))


def _missing(spec: EncoderSpec, expected: Path) -> str:
    gate = "access is gated: accept its terms there first" if spec.gated else "not gated"
    hub = (
        f"hub id {spec.hub}, licence {spec.licence}, {gate}"
        if spec.hub
        else f"no hub id is known, licence {spec.licence}"
    )
    return f"weights of {spec.name} are missing: {expected} does not exist ({hub}); put the file there"


def require_weights(names: Sequence[str], weights: str | Path | None) -> None:
    """Find the weights of all these encoders before any of them is read: EncoderError naming every missing file."""
    if weights == "hub":
        return
    missing = []
    for spec in [get_spec(name) for name in names]:
        try:
            if spec.architecture != "transformers":
                find_weights(spec, weights)
        except EncoderError as error:
            missing.append(str(error))
    if missing:
        raise EncoderError("; and ".join(missing))


def _from_hub(spec: EncoderSpec) -> Path:
    """Downloads (or finds in the hub's cache) a weight file; only ever called when the user wrote `weights: hub`."""
    if spec.hub is None:
        raise EncoderError(f"{spec.name} has no hub id; give its weights as a file")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    reason = ""
    for name in _HUB_FILES:
        try:
            return Path(hf_hub_download(spec.hub, name))
        except EntryNotFoundError as error:
            reason = one_line(error)
        except Exception as error:  # offline, refused, unknown: the hub client's own kinds and those of its transport
            reason = one_line(error)
            break
    raise EncoderError(f"{_missing(spec, Path(f'{spec.name}.safetensors'))}; the hub answered: {reason}")
