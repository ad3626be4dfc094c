"""Images of an evaluation that the student was distilled on: rule 1 of a number that can be trusted."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.data.record import CAP, TCGA, name_hash, plain_name, text_hash
from g2l.errors import EncoderError
from g2l.evaluation.tables.splits import Split, shown
from g2l.evaluation.tables.table import Table

SLIDES = "slides.json"  # in a bundle of g2l export
KEYS = ("slides", "patients", "fingerprints", "images")
# Files of which a cohort takes a fingerprint; images of a table are known by their paths.
WHOLE_SLIDES = frozenset(
    {".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm"}
)


@dataclass(frozen=True)
class Seen:
    """Rows of a table that belong to a slide or patient that the student was distilled on.

    Attributes:
        test, train: ids of the test part, and of train and val together.
        text: for a report.
    """

    test: list[str]
    train: list[str]
    text: str


def read_record(model: str) -> dict[str, Any] | None:
    """What the encoder was distilled on, of a checkpoint of `g2l fit` or a bundle of `g2l export`; None where it is
    neither, or does not say.

    Raises:
        EncoderError: what it says is damaged.
    """
    path = Path(model)
    record: Any = None
    if path.suffix == ".ckpt" and path.is_file():
        import torch

        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # torch raises many kinds on a damaged file
            raise EncoderError(f"checkpoint {path} cannot be read ({' '.join(str(error).split())[:200]})") from error
        record = content.get("g2l", {}).get("distilled_on") if isinstance(content, dict) else None
    elif (path / SLIDES).is_file():
        try:
            record = json.loads((path / SLIDES).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EncoderError(f"{path / SLIDES} cannot be read ({error}); export the student again") from error
    if record is None:
        return None
    keys = ("fingerprints",) if isinstance(record, dict) and record.get("names_left_out") else KEYS
    if not isinstance(record, dict) or not all(isinstance(record.get(key), list) for key in keys):
        raise EncoderError(f"{model}: its list of training slides is damaged; export or train again")
    return {key: [] for key in KEYS} | record


def seen_in_distillation(table: Table, split: Split, record: dict[str, Any] | None) -> Seen:
    """Which rows of the parts are of slides, patients, files or images that the record names.

    Names are compared without folders, suffix and capitals (`plain_name`), patients of TCGA by their barcode, too.
    """
    by_file = record is not None and record.get("names_left_out")
    if record is None or (by_file and not record["fingerprints"]):
        return Seen([], [], "what the encoder was trained on is not known: it may have seen the test slides")
    found = _found(table, np.concatenate([split.train, split.val, split.test]), record)
    test, train = (
        [str(name) for name in table.ids[rows[found[rows]]]]
        for rows in (split.test, np.concatenate([split.train, split.val]))
    )
    counted = int(record.get("images_counted", 0))
    capped = f" (of {counted} images it was distilled on, {CAP} are known)" if counted > CAP else ""
    if by_file:
        capped = " (looked for by slide files alone: an exported student names no slides; its checkpoint does)"
    if not test and not train:
        return Seen(test, train, f"no slide, patient or image of it was in the distillation{capped}")
    names = f": {shown(test)}" if test else ""
    return Seen(
        test,
        train,
        f"distilled on {len(test)} of {len(split.test)} test rows and {len(train)} of "
        f"{len(split.train) + len(split.val)} others, by slide, patient or image{capped}{names}",
    )


def _found(table: Table, rows: NDArray[np.int64], record: dict[str, Any]) -> NDArray[np.bool_]:
    """(N,) rows of the table that the record names; only `rows` are looked at."""
    from g2l.slides.indexing.scan import fingerprint

    slides, patients, fingerprints, images = (set(record[key]) for key in KEYS)
    found = np.zeros(len(table), np.bool_)
    hashes: dict[str, str] = {}

    def hashed(name: str) -> str:
        if name not in hashes:
            hashes[name] = name_hash(name)
        return hashes[name]

    for row in rows.tolist():
        path, single = Path(str(table.paths[row])), table.rows[row] < 0
        # a slide is known by its name in the table and by that of its file
        names = [str(table.slides[row])] if table.slides[row] else []
        whole = single and path.suffix.lower() in WHOLE_SLIDES
        names += [path.name] if whole else []
        people = [str(table.patients[row])] if table.patients[row] else []
        people += [match[1] for name in names if (match := TCGA.fullmatch(plain_name(name)))]
        found[row] = (
            any(hashed(name) in slides for name in names)
            or any(hashed(name) in patients for name in people)
            or (bool(images) and text_hash(str(table.ids[row])) in images)
            or (bool(fingerprints) and whole and path.is_file() and fingerprint(path) in fingerprints)
        )
    return found
