"""The bundle: the folder that leaves the laboratory, written whole or not at all.

Torch and timm are imported inside the function, so that a command's help needs neither.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2l import __version__
from g2l.errors import ConfigError

if TYPE_CHECKING:
    from g2l.encoders.encoder import Encoder

SUMS, SLIDES = "SHA256SUMS", "slides.json"


@dataclass(frozen=True)
class Bundle:
    """What was written. As text: where, and as the last line whether it may be passed on."""

    folder: Path
    student: str
    redistribute: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        verdict = (
            "may be redistributed" if self.redistribute else f"must NOT be redistributed: {'; '.join(self.reasons)}"
        )
        return f"exported {self.student} to {self.folder}\nthis student {verdict}"


def write_bundle(
    encoder: Encoder, networks: list[dict[str, Any]], out: Path, distilled_on: dict[str, Any] | None = None
) -> Bundle:
    """Writes a student as a bundle: into a folder beside `out`, checked, then renamed.

    Files: model.safetensors and config.json (timm), preprocess.json, licences.json, slides.json, SHA256SUMS.

    Args:
        encoder: the student, on any device.
        networks: what it was made from, as `Encoder.source` gives it (name, hub, licence, redistribute, sha256, ...).
        distilled_on: what it was trained on (data.record.record_of); without it there is no slides.json. Only the
            fingerprints of files leave the house: the hash of a short patient number could be guessed.
        out: the folder; one that holds a former bundle (a SHA256SUMS) is replaced.
    Raises:
        ConfigError: when `out` holds something else or cannot be written.
        EncoderError: when timm cannot state the student, or the folder does not reload to identical embeddings.
    """
    from g2l.deploy.timm_folder import write_timm_folder

    refuse_foreign(out)
    bound = [network for network in networks if not network.get("redistribute", False)]
    reasons = tuple(f"{n['name']} ({n.get('licence')}): {n.get('redistribute_reason')}" for n in bound)
    bundle = Bundle(out, encoder.spec.name, not bound, reasons)
    building = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        building.mkdir(parents=True)
        write_timm_folder(encoder, building)
        _write_json(building / "preprocess.json", preprocessing(encoder))
        _write_json(
            building / "licences.json",
            {
                "student": encoder.spec.name,
                "redistribute": bundle.redistribute,
                "reasons": list(reasons),
                "networks": networks,
                "g2l": __version__,
            },
        )
        if distilled_on is not None:
            kept = {"format": distilled_on["format"], "fingerprints": distilled_on["fingerprints"]}
            _write_json(building / SLIDES, kept | {"names_left_out": True})
        (building / SUMS).write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in sorted(building.iterdir())))
        _replace(out, building)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}; choose another --out") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return bundle


def preprocessing(encoder: Encoder) -> dict[str, Any]:
    """preprocess.json: what to do with a slide's pixels before the model, and what comes out of it."""
    spec = encoder.spec
    return {
        "size": spec.size,
        "mpp": spec.mpp,
        "colour_order": "RGB",
        "range": [0.0, 1.0],
        "mean": list(spec.mean),
        "std": list(spec.std),
        "interpolation": spec.interpolation,
        "pooling": spec.pooling,
        "embed_dim": encoder.embed_dim,
        "token_dim": encoder.token_dim,
        "grid": list(encoder.grid),
    }


def refuse_foreign(out: Path) -> None:
    """Nothing but a former bundle, or an empty folder, is ever replaced."""
    if out.is_dir():
        if any(out.iterdir()) and not (out / SUMS).is_file():
            raise ConfigError(f"{out} holds files but no {SUMS}, so it is no former bundle; choose another --out")
    elif out.exists():
        raise ConfigError(f"{out} is a file; choose another --out")


def _replace(out: Path, building: Path) -> None:
    """Puts the new folder in the old one's place: two renames, so that `out` is whole or (for an instant) absent."""
    former = building.with_suffix(".old")
    if out.exists():
        out.rename(former)
    try:
        building.rename(out)
    except OSError:
        if former.exists():
            former.rename(out)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
