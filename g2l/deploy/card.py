"""CARD.md: what a receiver must know before using a bundle. All of it comes from data; what is not known is said so."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g2l import __version__
from g2l.deploy.bundle import Bundle
from g2l.deploy.card_tables import (
    formats_table,
    gates_in_words,
    networks_table,
    number,
    robustness_table,
    scores_tables,
    table,
    text,
)
from g2l.encoders.encoder import Encoder
from g2l.sums import sha256

CARD = "CARD.md"
NON_COMMERCIAL, NO_DERIVATIVES = ("-nc", "non-commercial", "noncommercial"), ("-nd", "no-derivatives", "noderivatives")
HASHED = ("model.safetensors", "model.onnx", "openvino/model.bin", "openvino/int8.bin", "test_vector.h5")


@dataclass(frozen=True)
class Known:
    """What a card is written from.

    Attributes:
        networks: what the network was made from. facts: as metadata.json has them (metadata.py).
        parity: parity.json. vector: "drawn" or "real".
    """

    encoder: Encoder
    bundle: Bundle
    networks: list[dict[str, Any]]
    facts: dict[str, Any]
    parity: dict[str, Any]
    vector: str


def write_card(folder: Path, known: Known) -> None:
    """Writes CARD.md into a folder that holds all files but the card and SHA256SUMS."""
    parts = [
        [f"# {text(known.encoder.spec.name)}"],
        notice(known),
        _use(known),
        _training(known.facts.get("training", {}), known.bundle.what),
        ["## Networks and licences", *networks_table(known.networks)],
        scores_tables(known.facts),
        robustness_table(known.facts),
        ["## Formats", *formats_table(known.parity), "", _measured_on(known.parity)],
        _limits(known),
        _run(known),
        _hashes(folder, known),
    ]
    body = "\n\n".join("\n".join(part) for part in parts)
    (folder / CARD).write_text(body + "\n", encoding="utf-8")


def notice(known: Known) -> list[str]:
    """The first lines: whether it may be passed on, by which networks, and that it is no medical device."""
    bundle, networks = known.bundle, known.networks
    lines: list[str] = []
    if bundle.redistribute:
        lines.append(f"> **This {bundle.what} may be redistributed.** Every network that it was made from permits it:")
        lines += [f"> - {_licence(network)}" for network in networks]
    else:
        lines.append(f"> **This {bundle.what} must NOT be redistributed.**{_bounds(networks)} Because of:")
        bound = [network for network in networks if not network.get("redistribute", False)]
        lines += [f"> - {_licence(network)}" for network in bound] or [f"> - {text(bundle.reasons[0])}"]
    lines += [">", "> **Not a medical device.** For research; not for diagnosis or for choosing a treatment."]
    return lines


def licence_in_words(bundle: Bundle, networks: Sequence[dict[str, Any]]) -> str:
    """One sentence for metadata.json."""
    names = ", ".join(f"{network.get('name')}: {network.get('licence')}" for network in networks) or "unknown"
    return f"{'may' if bundle.redistribute else 'must not'} be redistributed; made from {names}"


def _bounds(networks: Sequence[dict[str, Any]]) -> str:
    """What the licences' names themselves forbid."""
    names = [str(network.get("licence", "")).lower() for network in networks]
    found = [
        (NON_COMMERCIAL, " **Non-commercial use only.**"),
        (NO_DERIVATIVES, " **Its licences include one that allows no derivatives.**"),
    ]
    return "".join(words for marks, words in found if any(mark in name for mark in marks for name in names))


def _licence(network: dict[str, Any]) -> str:
    reason = network.get("redistribute_reason") or "no reason is stated"
    return f"{text(network.get('name'))} ({text(network.get('licence', 'unknown licence'))}): {text(reason)}"


def _use(known: Known) -> list[str]:
    spec, encoder = known.encoder.spec, known.encoder
    million = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    return [
        "## Intended use",
        f"Turns a patch of a stained tissue section, {spec.size} x {spec.size} px at {spec.mpp:g} um/px (RGB), into a "
        f"vector of {encoder.embed_dim} numbers, for research on slides: search, classification, survival models, "
        f"maps. It has {million:.1f} million parameters ({text(spec.architecture)}, pooling {spec.pooling}).",
        "",
        "Whoever builds a decision for patients on it must validate that whole system for its purpose, and have it "
        "approved where the law asks for it.",
    ]


def _training(training: dict[str, Any], what: str) -> list[str]:
    if not training:
        unknown = "its training is described by its makers" if what == "encoder" else "it was not recorded"
        return ["## Training", f"Nothing is stated here: {unknown}."]
    losses = training.get("losses", {})
    rows = [
        ("Cancer and tissue", training.get("cancer") or "not stated"),
        ("Slides", number(training.get("slides"))),
        ("Patients", number(training.get("patients"))),
        ("Centres", number(training.get("centres"))),
        ("Resolution, um/px", ", ".join(f"{mpp:g}" for mpp in training.get("mpp", [])) or "not recorded"),
        ("Patches already cut", number(training.get("patches"))) if training.get("kind") == "patches" else None,
        ("Patches seen", number(training.get("patches_seen"))),
        ("Steps", number(training.get("steps"))),
        ("Losses and their weights", ", ".join(f"{name} {weight:g}" for name, weight in losses.items()) or "none"),
    ]
    cells = [(name, text(value)) for name, value in filter(None, rows)]
    return [
        "## Training",
        "Counts of the training part; no names of slides or patients are in this folder.",
        "",
        *table(("", "Training cohort"), cells),
    ]


def _measured_on(parity: dict[str, Any]) -> str:
    patches, made = parity["patches"], parity["made_on"]
    slides = "1 slide" if patches["slides"] == 1 else f"{patches['slides']} slides"
    return (
        f"Against PyTorch in float32, on {patches['count']} real patches of {slides} ({text(patches['source'])}).\n"
        f"A format passes where the {patches['vector']} patches of the test vector pass too. "
        f"Gates: {gates_in_words(parity['gates'])} (kNN agreement from 256 patches on).\n"
        f"Measured on: {text(made['processor'])}. `verify` repeats it on your computer."
    )


def _limits(known: Known) -> list[str]:
    facts, spec = known.facts, known.encoder.spec
    rows = (facts.get("scores") or {}).get("rows", [])
    robust = any(row["kind"] == "robustness" for row in rows)
    lines = [
        f"Made for {spec.mpp:g} um/px: at another resolution it sees other structures than those it learned.",
        "Other stains than those of the training, other tissues, other scanners: not tested here.",
        "No clinical validation of any kind.",
    ]
    if not rows:
        lines.append("No scores with intervals were given at the export: how well it serves a task is not known here.")
    if not robust:
        lines.append("Whether embeddings depend on the centre or scanner was not measured with intervals.")
    left = [name for name, entry in known.parity["formats"].items() if not entry["passed"]]
    if left:
        lines.append(f"Formats that are not part of this bundle or did not pass: {', '.join(left)}.")
    seen = "pixels of real slides" if known.vector == "real" else "drawings; no pixel of a patient is in this folder"
    lines.append(f"The test vector's patches are {seen}.")
    return ["## Limits", *(f"- {line}" for line in lines)]


def _run(known: Known) -> list[str]:
    size, spec = known.encoder.size, known.encoder.spec
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (spec.mean, spec.std))
    return [
        "## How to run it",
        "On a CPU, offline, without PyTorch (`requirements.txt` says what is needed):",
        "",
        "```",
        "python embed.pyz --verify               # hashes, test vector, formats",
        "python embed.pyz SLIDES --out FEATURES  # one HDF5 file for each slide: features, coords",
        "```",
        "",
        f"ONNX Runtime (`patches`: n x {size} x {size} x 3 bytes, RGB; normalisation is inside):",
        "",
        "```python",
        "import os",
        'os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # or it reports its use to its makers',
        "import onnxruntime",
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
        '(embedding,) = session.run(["embedding"], {"patches": patches})',
        "```",
        "",
        f"timm (images: n x 3 x {size} x {size}, in 0-1, then (images - mean) / std with mean [{mean}] and std "
        f"[{std}]; {_pooling(known.encoder)}):",
        "",
        "```python",
        "import timm",
        'model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()',
        "```",
    ]


def _pooling(encoder: Encoder) -> str:
    pooling, token = encoder.spec.pooling, getattr(encoder.backbone, "global_pool", "")
    if pooling == "native" or (pooling == "cls" and token == "token"):
        return "its output is the embedding"
    return f"the embedding is `{pooling}` of `forward_features`, as preprocess.json states"


def _hashes(folder: Path, known: Known) -> list[str]:
    files = [(name, f"`{sha256(folder / name)}`") for name in HASHED if (folder / name).is_file()]
    versions = {"g2l": __version__} | known.parity["made_on"]["versions"]
    return [
        "## Versions and hashes",
        "Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        *table(("File", "SHA-256"), files),
        "",
        "SHA256SUMS lists every file.",
    ]
