"""One door for whatever names an encoder: a catalogue or timm name, a YAML, a checkpoint of `g2l fit`, a folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from g2l.encoders.build import build_backbone, build_empty
from g2l.encoders.catalog import EncoderSpec, get_spec, load_catalog
from g2l.encoders.checkpoint import student_state
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.encoders.locate import require_weights
from g2l.encoders.weights import SUFFIXES, load_content, load_weights, read_file
from g2l.errors import EncoderError
from g2l.sums import SUMS, read_sums, sha256

CONFIG, TENSORS, PREPARED, LICENCES = "config.json", "model.safetensors", "preprocess.json", "licences.json"
KNOWN = (
    "give a catalogue name, a timm name, the path of a YAML, a .ckpt of g2l fit, or a folder written by g2l export "
    f"({CONFIG} and {TENSORS})"
)
Init = Literal["weights", "random"]


def open_encoder(
    model: str, weights: str | Path | None = None, init: Init = "weights", img_size: int | None = None
) -> Encoder:
    """The encoder that `model` names, in eval mode and float32. No file is unpickled.

    Args:
        model: a catalogue name, a timm name, the path of a YAML with a catalogue entry's fields, a checkpoint of
            `g2l fit`, or a folder written by `g2l export` (or any other that timm loads).
        weights: of a name or YAML, as in `create_encoder`; the others hold their own.
        init: `random`: the same architecture with random weights from torch's global generator.
        img_size: takes images of this size (px) instead; position embeddings are resampled.
    Raises:
        EncoderError: nothing of the kind is there, it is damaged, or its files are not those that were hashed.
    """
    kind = kind_of(model, weights)
    if kind == "checkpoint":
        return open_checkpoint(Path(model), init, img_size).encoder
    if kind == "folder":
        return open_folder(Path(model), init, img_size)
    return create_encoder(model, weights, init=init, img_size=img_size)


def require_encoder(model: str, weights: str | Path | None = None, init: Init = "weights") -> None:
    """EncoderError where `open_encoder` would find nothing; no network is built and no weights are read.

    Args: as those of `open_encoder`.
    """
    kind = kind_of(model, weights)
    if kind == "checkpoint":
        _require_checkpoint(Path(model))
    elif kind == "folder":
        _require_folder(Path(model))
    elif init == "weights":
        require_weights([model], weights)


def kind_of(model: str, weights: str | Path | None = None) -> Literal["checkpoint", "folder", "name"]:
    """What `model` is, by its looks; only a name has its weights elsewhere.

    Raises:
        EncoderError: it is none of these, or has weights of its own and is given others.
    """
    path = Path(model)
    if model in load_catalog():
        return "name"
    if path.suffix == ".ckpt":
        _refuse_weights(model, weights)
        return "checkpoint"
    if path.is_dir() and (weights is None or (path / CONFIG).is_file()):
        _refuse_weights(model, weights)
        return "folder"
    if path.suffix in SUFFIXES:
        raise EncoderError(
            f"{model} holds tensors alone, which do not say of which encoder; give the encoder's name or YAML as the "
            "model and this file as its weights"
        )
    if path.suffix not in (".yaml", ".yml") and (path.is_absolute() or len(path.parts) > 1 or path.is_file()):
        raise EncoderError(f"{model} is no encoder{'' if path.exists() else ' and does not exist'}; {KNOWN}")
    _named(model)
    return "name"


def _named(model: str) -> EncoderSpec:
    try:
        return get_spec(model)
    except EncoderError as error:
        if not str(error).startswith("no encoder is called"):
            raise
        raise EncoderError(f"{error}; or {KNOWN}") from error


def _refuse_weights(model: str, weights: str | Path | None) -> None:
    if weights is not None:
        raise EncoderError(f"{model} holds its own weights; leave out {weights}")


# --- checkpoints ---------------------------------------------------------------------------------------------------


class Student(NamedTuple):
    """What a checkpoint of `g2l fit` holds: the student; what it was made from, as `Encoder.source` gives it; what it
    was trained on (data.record) and how (training.facts), where the checkpoint says so.
    """

    encoder: Encoder
    networks: list[dict[str, Any]]
    distilled_on: dict[str, Any] | None = None
    training: dict[str, Any] | None = None


def open_checkpoint(file: Path, init: Init = "weights", img_size: int | None = None) -> Student:
    """The result of a training (the student, or its moving average where the run says so), from its checkpoint.

    Raises:
        EncoderError: it is no checkpoint of `g2l fit`, or is damaged.
    """
    _require_checkpoint(file)
    content = read_file(file)
    made = content.get("g2l") if isinstance(content, dict) else None
    if not isinstance(made, dict) or not isinstance(made.get("student"), dict) or "state_dict" not in content:
        raise EncoderError(f"{file} is no checkpoint of `g2l fit`: it does not say what its student is; {KNOWN}")
    networks = made.get("networks", [])
    free, reason = _verdict(networks)
    # The grid that the published file had says nothing of the checkpoint, which has the student's own.
    known = {"file_grid": None, "redistribute": free, "redistribute_reason": reason}
    spec = _sized(EncoderSpec.from_dict(made["student"] | known, f"the student in {file}"), img_size)
    said = networks, made.get("distilled_on"), made.get("training")
    if init == "random":
        return Student(Encoder(spec, build_backbone(spec)).eval(), *said)
    backbone = build_empty(spec)
    state = {f"student.{key}": value for key, value in student_state(content).items()}
    layout, positions = load_content(backbone, {"state_dict": state}, str(file), "lightning", spec.file_grid)
    source = {"file": file.name, "sha256": sha256(file), "layout": layout, "positions": positions}
    return Student(Encoder(spec, backbone, source).eval(), *said)


def _require_checkpoint(file: Path) -> None:
    if not file.is_file():
        raise EncoderError(f"checkpoint {file} does not exist; give the .ckpt file of a training")


def _verdict(networks: list[dict[str, Any]]) -> tuple[bool, str]:
    """Whether a student of these may be passed on, and why."""
    bound = [network for network in networks if not network.get("redistribute", False)]
    if not networks or bound:
        reasons = [f"{one.get('name')} ({one.get('licence')}): {one.get('redistribute_reason')}" for one in bound]
        return False, "; ".join(reasons) or "it does not say what it was made from"
    return True, "all that it was made from permits it"


# --- folders -------------------------------------------------------------------------------------------------------


def open_folder(folder: Path, init: Init = "weights", img_size: int | None = None) -> Encoder:
    """A bundle of `g2l export`, or any folder that `timm.create_model("local-dir:...")` takes.

    Raises:
        EncoderError: a file is missing or damaged, or is not the one that SHA256SUMS states.
    """
    _require_folder(folder)
    check_sums(folder)
    spec = _sized(folder_spec(folder), img_size)
    if init == "random":
        return Encoder(spec, build_backbone(spec)).eval()
    backbone = build_empty(spec)
    loaded = load_weights(backbone, folder / TENSORS, spec.key_map, spec.file_grid)
    return Encoder(spec, backbone, {"file": TENSORS, **loaded._asdict()}).eval()


def _require_folder(folder: Path) -> None:
    lacking = [name for name in (CONFIG, TENSORS) if not (folder / name).is_file()]
    if lacking:
        raise EncoderError(f"folder {folder} is no encoder: {' and '.join(lacking)} missing; {KNOWN}")


def check_sums(folder: Path) -> None:
    """EncoderError unless every file that SHA256SUMS lists, in subfolders too, lies in the folder and is what it was;
    nothing where a folder has no such list.
    """
    if not (folder / SUMS).is_file():
        return
    stated = read_sums(folder, EncoderError)
    wrong = [name for name, digest in stated.items() if _digest(folder / name) != digest]
    wrong += [name for name in (CONFIG, TENSORS) if name not in stated]
    if wrong:
        raise EncoderError(
            f"folder {folder}: {', '.join(wrong)} not as {SUMS} states; it is damaged or was changed: export it again"
        )


def folder_spec(folder: Path) -> EncoderSpec:
    """What the JSON files of a folder say of its encoder; pooling is timm's own where no preprocess.json states it."""
    config, prepared, licences = (_json(folder / name) for name in (CONFIG, PREPARED, LICENCES))
    where = str(folder / CONFIG)
    published = config.get("pretrained_cfg")
    if not isinstance(config.get("architecture"), str) or not isinstance(published, dict):
        raise EncoderError(f"{where} states no architecture and pretrained_cfg, so timm did not write it; {KNOWN}")
    networks = licences.get("networks", [])
    names = sorted({str(network.get("licence")) for network in networks})
    free, reason = _verdict(networks)
    try:
        entry = {
            "name": licences.get("student") or folder.resolve().name,
            "architecture": config["architecture"],
            "args": {key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"},
            "mean": prepared.get("mean") or published["mean"],
            "std": prepared.get("std") or published["std"],
            "size": prepared.get("size") or published["input_size"][-1],
            "pooling": prepared.get("pooling", "native"),
            "interpolation": prepared.get("interpolation") or published.get("interpolation", "bicubic"),
            "mpp": prepared.get("mpp"),
            "embed_dim": prepared.get("embed_dim"),
            "grid": prepared.get("grid"),
            "licence": " + ".join(names) or str(published.get("license") or "unknown"),
            "redistribute": free,
            "redistribute_reason": reason,
        }
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EncoderError(f"{where} does not say how images are prepared ({error!r}); {KNOWN}") from error
    return EncoderSpec.from_dict(entry, where)


def _sized(spec: EncoderSpec, img_size: int | None) -> EncoderSpec:
    """Of another size; the file keeps the grid of the size it was made for."""
    if img_size is None or img_size == spec.size:
        return spec
    known = spec if spec.grid is not None else spec.override(file_grid=Encoder(spec, build_empty(spec)).grid)
    return known.override(img_size)


def _digest(file: Path) -> str:
    return sha256(file) if file.is_file() else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EncoderError(f"{file} cannot be read ({error}); export it again") from error


def _json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(_text(file))
    except ValueError as error:
        raise EncoderError(f"{file} is no JSON ({error}); export it again") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{file} holds no mapping; export it again")
    return content
