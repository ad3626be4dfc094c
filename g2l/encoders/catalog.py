"""What an encoder is, as one value: architecture, pooling, normalisation, size, resolution, licence, weights."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from g2l.encoders.entries import check_entry, read_yaml
from g2l.errors import EncoderError

PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0")
CATALOG = Path(__file__).parent / "catalog.yaml"


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder.

    Attributes:
        architecture: a timm model name, `conch-visual`, or `transformers` (a Hugging Face folder).
        args: arguments of its constructor.
        pooling: `cls`, `mean` (of the patch tokens), `cls+mean` (both, concatenated) or `native` (what the model
            itself calls its embedding).
        size: side of the square image it takes (px); `resize` says whether images of another size are brought to it.
        mpp: resolution it was trained at (um/px), None where mixed or not stated.
        redistribute: whether a student distilled from it may be passed on, with the reason.
        key_map: layout of its weight file (keymaps.py).
        file_grid: grid of the file's position embeddings where that differs from `grid`.
        weights: file that comes with the entry, beside its YAML.
        norm_eps: epsilon of every LayerNorm where it differs from timm's.
        parameters, embed_dim, grid: facts about the built encoder: count (millions), D, patch tokens (height, width).
            `embed_dim` and `grid` are checked whenever it is built.
    """

    name: str
    architecture: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    size: int
    args: dict[str, Any] = field(default_factory=dict)
    pooling: str = "cls"
    interpolation: str = "bicubic"
    resize: bool = True
    mpp: float | None = None
    hub: str | None = None
    gated: bool = False
    licence: str = "unknown"
    redistribute: bool = False
    redistribute_reason: str = "its licence is not stated"
    key_map: str = "timm"
    file_grid: tuple[int, int] | None = None
    weights: str | None = None
    norm_eps: float | None = None
    parameters: float | None = None
    embed_dim: int | None = None
    grid: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings: a checkpoint holding it loads with weights_only, and JSON can carry it."""
        plain = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any], where: str = "an encoder's description") -> EncoderSpec:
        """The inverse of `to_dict`, also for entries of a YAML. EncoderError names all faults of the entry together."""
        checked = check_entry(plain, {f.name for f in dataclasses.fields(cls)}, where)
        return cls(**checked)

    def override(self, img_size: int | None = None, **overrides: Any) -> EncoderSpec:
        """A variant: names in OVERRIDABLE replace fields, all others become arguments of the architecture.

        Facts that the change may falsify are given up. EncoderError when a value does not fit its field.
        """
        fields = {key: value for key, value in overrides.items() if key in OVERRIDABLE}
        args = {key: value for key, value in overrides.items() if key not in OVERRIDABLE}
        if img_size is not None:
            fields["size"] = img_size
            if "img_size" in self.args:
                args["img_size"] = img_size
            if self.grid is not None and self.file_grid is None and "img_size" in self.args:
                fields.setdefault("file_grid", self.grid)  # the published file keeps the grid of the published size
        if args or "pooling" in fields:
            fields |= {"parameters": None, "embed_dim": None, "grid": None, "args": {**self.args, **args}}
        return EncoderSpec.from_dict({**self.to_dict(), **fields}, f"encoder {self.name}") if fields else self


OVERRIDABLE = ("pooling", "mean", "std", "interpolation", "resize", "mpp", "key_map", "file_grid", "norm_eps")


@functools.cache
def load_catalog() -> dict[str, EncoderSpec]:
    """All encoders of catalog.yaml by name."""
    entries = read_yaml(CATALOG)["encoders"]
    return {
        name: EncoderSpec.from_dict({"name": name, **entry}, f"catalog.yaml: {name}") for name, entry in entries.items()
    }


def get_spec(name: str) -> EncoderSpec:
    """The encoder called `name`: a catalogue name, a timm model name, or the path of a YAML file holding one entry.

    Raises:
        EncoderError: when there is none; the message names the closest ones.
    """
    catalog = load_catalog()
    if name in catalog:
        return catalog[name]
    if name.endswith((".yaml", ".yml")):
        return _spec_from_yaml(Path(name))
    import timm

    bare = name.split(".")[0]
    if timm.is_model(bare):
        return _spec_from_timm(name)
    close = get_close_matches(name, list(catalog), 3, 0.4) + get_close_matches(name, timm.list_models(), 2, 0.7)
    hint = f"; did you mean {', '.join(close)}?" if close else "."
    raise EncoderError(
        f"no encoder is called {name!r}{hint} There are the catalogue's ({', '.join(catalog)}), "
        "timm's, and those of YAML files of your own"
    )


def _spec_from_yaml(path: Path) -> EncoderSpec:
    if not path.is_file():
        raise EncoderError(
            f"encoder file {path} does not exist; give a catalogue name, a timm name, or the path of a YAML"
        )
    entry = {"name": path.stem, **read_yaml(path)}
    if isinstance(entry.get("weights"), str):
        entry["weights"] = str((path.parent / entry["weights"]).resolve())
    return EncoderSpec.from_dict(entry, str(path))


def _spec_from_timm(name: str) -> EncoderSpec:
    import timm

    try:
        cfg = timm.get_pretrained_cfg(name)
    except (RuntimeError, KeyError) as error:
        raise EncoderError(
            f"timm has no weights tagged {name!r} ({error}); leave the part after the dot out, or choose another"
        ) from error
    if cfg is None:
        raise EncoderError(f"timm states no normalisation or size for {name!r}; describe it in a YAML of your own")
    licence = cfg.license or "unknown"
    free = licence.lower() in PERMISSIVE
    # Models of a fixed input size take it as an argument; with it an override of the size reaches the architecture.
    args = {"img_size": cfg.input_size[-1]} if cfg.fixed_input_size else {}
    return EncoderSpec(
        name=name,
        architecture=name,
        args=args,
        pooling="native",
        mean=(cfg.mean[0], cfg.mean[1], cfg.mean[2]),
        std=(cfg.std[0], cfg.std[1], cfg.std[2]),
        size=cfg.input_size[-1],
        interpolation=cfg.interpolation if cfg.interpolation in ("bilinear", "bicubic") else "bicubic",
        hub=cfg.hf_hub_id,
        licence=licence,
        redistribute=free,
        redistribute_reason=f"{licence} permits it; keep its notice"
        if free
        else f"its licence ({licence}) must be read first",
    )
