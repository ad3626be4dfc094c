"""The bundle: the folder that leaves the laboratory, written whole or not at all.

Torch and timm are imported inside the function, so that a command's help needs neither.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2l import __version__
from g2l.errors import ConfigError, G2LError
from g2l.sums import SUMS, write_sums

if TYPE_CHECKING:
    from g2l.encoders.encoder import Encoder

SLIDES = "slides.json"
FULL = 1 << 20  # bytes left of a disk that is full: libraries tell it by errors of their own


@dataclass(frozen=True)
class Bundle:
    """What was written. As text: the formats, where, and as the last line whether it may be passed on."""

    folder: Path
    student: str
    redistribute: bool
    reasons: tuple[str, ...]
    table: str = ""
    what: str = "student"

    def __str__(self) -> str:
        verdict = (
            "may be redistributed" if self.redistribute else f"must NOT be redistributed: {'; '.join(self.reasons)}"
        )
        lines = [f"exported {self.student} to {self.folder}", self.table, f"this {self.what} {verdict}"]
        return "\n".join(line for line in lines if line)


def write_bundle(
    encoder: Encoder, networks: list[dict[str, Any]], out: Path, distilled_on: dict[str, Any] | None = None
) -> Bundle:
    """Writes what timm needs of a student, with its licences: into a folder beside `out`, checked, then renamed.

    Files: model.safetensors and config.json (timm), preprocess.json, licences.json, slides.json, SHA256SUMS. The whole
    bundle (`g2l export`) begins with these.

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
    with building(out) as folder:
        return write_network(encoder, networks, folder, out, distilled_on)


def write_network(
    encoder: Encoder,
    networks: list[dict[str, Any]],
    folder: Path,
    out: Path,
    distilled_on: dict[str, Any] | None = None,
    what: str = "student",
) -> Bundle:
    """The files of `write_bundle` into a folder that `building` made for `out`. Raises: as `write_bundle`."""
    from g2l.deploy.timm_folder import write_timm_folder

    bundle = Bundle(out, encoder.spec.name, *verdict(networks), what=what)
    write_timm_folder(encoder, folder)
    write_json(folder / "preprocess.json", preprocessing(encoder))
    licences = {"redistribute": bundle.redistribute, "reasons": list(bundle.reasons), "networks": networks}
    write_json(folder / "licences.json", {"student": encoder.spec.name, **licences, "g2l": __version__})
    if distilled_on is not None:
        kept = {key: distilled_on[key] for key in ("format", "fingerprints")}
        write_json(folder / SLIDES, kept | {"names_left_out": True})
    return bundle


def verdict(networks: list[dict[str, Any]]) -> tuple[bool, tuple[str, ...]]:
    """Whether what was made from these networks may be passed on, and what forbids it."""
    if not networks:
        return False, ("it does not say what it was made from",)
    bound = [network for network in networks if not network.get("redistribute", False)]
    return not bound, tuple(f"{n['name']} ({n.get('licence')}): {n.get('redistribute_reason')}" for n in bound)


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


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into: at the end it gets its SHA256SUMS and takes `out`'s place; after an error it
    is removed, and a former bundle in `out` stays as it was. What killed exports left is tidied first.

    Raises:
        ConfigError: `out` holds something else than a bundle, or the disk is full or not writable.
    """
    refuse_foreign(out)
    folder = out.parent / f".{out.name}.{platform.node()}.{os.getpid()}.tmp"
    try:
        tidy(out)
        folder.mkdir(parents=True)
        yield folder
        _readable(folder)
        if not (folder / SUMS).is_file():
            write_sums(folder)
        _replace(out, folder)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}; choose another --out") from error
    except Exception as error:  # not a refusal of ours: of a full disk each library says something else
        if isinstance(error, G2LError) or not folder.is_dir() or shutil.disk_usage(folder).free >= FULL:
            raise
        raise ConfigError(f"{out} cannot be written: the disk is full; free it, or choose another --out") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_foreign(out: Path) -> None:
    """Nothing but a former bundle, or an empty folder, is ever replaced."""
    if out.is_dir():
        if any(out.iterdir()) and not (out / SUMS).is_file():
            raise ConfigError(f"{out} holds files but no {SUMS}, so it is no former bundle; choose another --out")
    elif out.exists():
        raise ConfigError(f"{out} is a file; choose another --out")


def tidy(out: Path) -> None:
    """Removes what exports that were killed on this machine left beside `out`; puts a former bundle back that one of
    them had just moved aside.
    """
    name = re.compile(re.escape(f".{out.name}.{platform.node()}.") + r"(\d+)\.(tmp|old)")
    if not out.parent.is_dir():
        return
    for place in sorted(out.parent.iterdir()):
        found = name.fullmatch(place.name)
        if not found or _alive(int(found[1])):
            continue
        if found[2] == "old" and not out.exists():
            place.rename(out)
        else:
            shutil.rmtree(place, ignore_errors=True)


def _readable(folder: Path) -> None:
    """Whoever may read the folder may read its files: some libraries write for their user alone."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def _alive(process: int) -> bool:
    if os.name == "nt":  # there a signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return process != os.getpid()


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


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Readable JSON, UTF-8."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
