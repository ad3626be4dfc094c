"""What is exported: an encoder, what it was made from, and what is known of its training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2l.deploy.bundle import SLIDES
from g2l.deploy.metadata import read_facts
from g2l.deploy.scores import read_summary
from g2l.encoders.encoder import Encoder
from g2l.encoders.opening import LICENCES, kind_of, open_checkpoint, open_encoder
from g2l.errors import ConfigError
from g2l.slides.resolution import plausible


@dataclass(frozen=True)
class Opened:
    """An encoder to export.

    Attributes:
        networks: what it was made from, as `Encoder.source` gives it, each with its role.
        distilled_on: data.record of its training; None where there was none, or none is known.
        facts: what the card says of its training and scores (metadata.py).
        cohort: where the data lie that it was trained on (training.facts: data); None where that is not known.
        what: "student" or "encoder".
    """

    encoder: Encoder
    networks: list[dict[str, Any]]
    distilled_on: dict[str, Any] | None
    facts: dict[str, Any]
    cohort: dict[str, Any] | None
    what: str


def open_exported(model: str, weights: str | None, mpp: float | None) -> Opened:
    """Opens whatever names an encoder.

    Args:
        model, weights: as `open_encoder` takes them.
        mpp: um per px that it is to be used at; wins over what it states.
    Raises:
        EncoderError: nothing of the kind is there, or it is damaged.
        ConfigError: the mpp given is one that no slide has.
    """
    if mpp is not None and not plausible(mpp):
        raise ConfigError(f"--mpp {mpp:g} is outside 0.1-4 um/px; give the resolution that the network sees")
    kind = kind_of(model, weights)
    if kind == "checkpoint":
        opened = _checkpoint(Path(model))
    else:
        encoder = open_encoder(model, weights)
        own = [{"role": "encoder"} | encoder.source]
        opened = Opened(encoder, own, None, {}, None, "encoder")
        if kind == "folder":
            opened = _folder(Path(model), encoder, own)
    if mpp is not None:
        opened.encoder.spec = opened.encoder.spec.override(mpp=mpp)
    return opened


def _checkpoint(file: Path) -> Opened:
    student = open_checkpoint(file)
    training = dict(student.training or {})
    cohort = training.pop("data", None)  # a place on this machine
    facts: dict[str, Any] = {"training": training} if training else {}
    summary = read_summary(file)
    if summary is not None:
        facts["summary"] = summary
    return Opened(student.encoder, student.networks, student.distilled_on, facts, cohort, "student")


def _folder(folder: Path, encoder: Encoder, own: list[dict[str, Any]]) -> Opened:
    """A bundle passes on what it says of itself; of any other folder nothing is known."""
    said, record = (_json(folder / name) for name in (LICENCES, SLIDES))
    networks = said.get("networks") or own
    made = any(network.get("role") != "encoder" for network in networks)
    return Opened(encoder, networks, record or None, read_facts(folder), None, "student" if made else "encoder")


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); export it again from its checkpoint") from error
    return content if isinstance(content, dict) else {}
