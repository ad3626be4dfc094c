"""The whole bundle: every file of it, each made from those before, and looked through as its receiver will."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from g2l.deploy.bundle import Bundle, building, write_json, write_network
from g2l.deploy.card import Known, licence_in_words, write_card
from g2l.deploy.metadata import METADATA, write_metadata
from g2l.deploy.opening import Opened
from g2l.deploy.parity import BATCH, References, What, write_formats
from g2l.deploy.patches import Patches, read_patches
from g2l.deploy.progress import say
from g2l.deploy.pyz import PYZ, REQUIREMENTS, write_pyz, write_requirements
from g2l.deploy.runtime.engines import open_engine
from g2l.deploy.runtime.formats import get_format
from g2l.deploy.runtime.gates import compare
from g2l.deploy.runtime.opened import PARITY, VECTOR, open_bundle
from g2l.deploy.scores import read_scores
from g2l.deploy.timm_folder import TENSORS
from g2l.deploy.vector import COUNT, draw_patches, write_vector
from g2l.errors import ConfigError, EncoderError
from g2l.sums import sha256, write_sums

# Bytes for each parameter: float32 twice, float16, int8, and as much again while ONNX is written.
ROOM = 16


@dataclass(frozen=True)
class Wanted:
    """The settings of `export`, which explains them; formats: at least one."""

    formats: tuple[What, ...]
    patches: str | None = None
    count: int = 256
    vector: Literal["drawn", "real"] = "drawn"
    tokens: bool = False
    results: str | None = None
    cancer: str | None = None


def write_whole(opened: Opened, out: Path, wanted: Wanted) -> Bundle:
    """Writes the bundle into a folder beside `out`, which it replaces at the end, when it has proved itself.

    Raises:
        ConfigError: no mpp, no patches to compare on, a full disk, an `out` that is no bundle, or foreign results.
        EncoderError: the network cannot be exported, or its files do not give PyTorch's embeddings.
    """
    encoder, mpp = opened.encoder, opened.encoder.spec.mpp
    if mpp is None:
        raise ConfigError(f"{encoder.spec.name} does not state the um per px that it sees; give --mpp")
    patches = _patches(opened, wanted, mpp)
    with building(out) as folder:
        _require_room(opened, folder, out)
        bundle = write_network(encoder, opened.networks, folder, out, opened.distilled_on, opened.what)
        facts = _facts(opened, wanted, sha256(folder / TENSORS))
        images = draw_patches(encoder.size, mpp) if wanted.vector == "drawn" else patches.parity[:COUNT]
        parity, reference = write_formats(encoder, folder, wanted.formats, patches, images, wanted.tokens)
        write_json(folder / PARITY, parity)
        write_vector(folder / VECTOR, images, reference.vector, wanted.vector)
        licence = licence_in_words(bundle, opened.networks)
        write_metadata(folder / METADATA, encoder, facts, licence, wanted.tokens)
        write_pyz(folder / PYZ)
        write_requirements(folder / REQUIREMENTS)
        write_card(folder, Known(encoder, bundle, opened.networks, facts, parity, wanted.vector))
        write_sums(folder)
        _prove(folder, out, images, reference)
        return replace(bundle, table=_table(folder, parity))


def _patches(opened: Opened, wanted: Wanted, mpp: float) -> Patches:
    encoder, trained, place = opened.encoder, None, wanted.patches
    if place is not None and opened.cohort is not None and Path(place).resolve() == Path(opened.cohort["cohort"]):
        trained = opened.cohort
    if place is None:
        remedy = "give --patches (a cohort, slides or images), or --formats [] for the folder that timm loads"
        if opened.cohort is None:
            raise ConfigError(f"there are no patches to compare the formats of {encoder.spec.name} on; {remedy}")
        trained, place = opened.cohort, str(opened.cohort["cohort"])
        if not Path(place).exists():
            raise ConfigError(f"the cohort of the training is no longer in {place}; {remedy}")
    say(f"reading patches of {encoder.size} px at {mpp:g} um/px")
    return read_patches(place, encoder.size, mpp, wanted.count, trained)


def _require_room(opened: Opened, folder: Path, out: Path) -> None:
    needed = ROOM * sum(parameter.numel() for parameter in opened.encoder.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{out} cannot be written: the disk has {free / 1e6:,.0f} MB left and the bundle may need "
            f"{needed / 1e6:,.0f} MB; free it, or choose another --out"
        )


def _facts(opened: Opened, wanted: Wanted, tensors: str) -> dict[str, Any]:
    """What is known of training and scores, of now and of a former bundle."""
    facts = dict(opened.facts)
    if wanted.cancer:
        facts["training"] = facts.get("training", {}) | {"cancer": wanted.cancer}
    if wanted.results:
        hashes = {tensors, str(opened.encoder.source.get("sha256"))}
        facts["scores"] = read_scores(Path(wanted.results), hashes)
    return facts


def _prove(folder: Path, out: Path, images: Any, reference: References) -> None:
    """Opens the folder as its receiver will, and runs the test vector through the format that it would take."""
    try:
        bundle = open_bundle(folder)
        with open_engine(bundle, None, BATCH) as engine:
            found = compare(reference.vector, engine.all(images), engine.format.kind)
    except ConfigError as error:
        raise EncoderError(f"the bundle does not open: {str(error).replace(str(folder), str(out))}") from error
    if not found.passed:
        raise EncoderError(f"the bundle does not give the embeddings of its test vector: {found.why}")


def _table(folder: Path, parity: dict[str, Any]) -> str:
    """Formats, fastest first: least cosine on real patches, size of the files, and the verdict."""
    rows = [("format", "least cosine", "MB", "")]
    for name, entry in parity["formats"].items():
        cosine = entry.get("real", {}).get("min_cosine")
        files = [folder / part for part in get_format(name).files]
        size = sum(part.stat().st_size for part in files if part.is_file())
        verdict = "passed" if entry["passed"] else f"not usable: {entry['why']}"
        shown = "-" if cosine is None else f"{cosine:.6f}"
        rows.append((name, shown, f"{size / 1e6:.1f}" if size else "-", verdict))
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{row[0]:<{wide[0]}}  {row[1]:>{wide[1]}}  {row[2]:>{wide[2]}}  {row[3]}".rstrip() for row in rows
    )
