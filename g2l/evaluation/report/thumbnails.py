"""Retrieval examples as pictures: a query and its nearest neighbours, read from where the data set lies."""

from pathlib import Path
from typing import Any

import numpy as np

from g2l.errors import G2LError
from g2l.evaluation.report.drawing import jpeg
from g2l.evaluation.results import Result

SIDE = 112  # px of a thumbnail
MOST = 4  # queries shown for an encoder, spread over those that the task chose
NEIGHBOURS = 5


def examples(result: Result) -> tuple[list[list[dict[str, Any]]], str]:
    """Rows of pictures, the query first, each with `label`, `right`, `id` and `image` (data URI, "" where unreadable),
    and a sentence on what could not be shown.
    """
    paths = result.about.get("data", {}).get("paths") or {}
    rows, missing = [], 0
    given = result.outcome.facts.get("examples") or []
    for place in np.linspace(0, len(given) - 1, min(MOST, len(given))).round().astype(int):
        row: list[dict[str, Any]] = []
        for identity, label in _pictures(given[place]):
            image = _thumbnail(identity, paths)
            missing += not image
            right = not row or label == row[0]["label"]
            row.append({"id": identity, "label": label, "right": right, "image": image})
        rows.append(row)
    total = sum(map(len, rows))
    if missing and missing == total:
        return [], "The images of the examples are no longer where they were, so that none is shown."
    return rows, f"{missing} of {total} images are no longer where they were." if missing else ""


def _pictures(example: dict[str, Any]) -> list[tuple[str, str]]:
    """(id, label) of the query and of its neighbours."""
    return [(str(each["id"]), str(each["label"])) for each in (example, *example["neighbours"][:NEIGHBOURS])]


def _thumbnail(identity: str, paths: dict[str, str]) -> str:
    """A small JPEG as a data URI; "" where the file is gone or is no image."""
    from g2l.evaluation.embedding.images import read_image

    place = paths.get(identity, "")
    file, mark, row = place.rpartition("#")
    stacked = bool(mark) and row.isdigit() and not Path(place).is_file()
    path = Path(file if stacked else place)
    if not place or not path.is_file():
        return ""
    try:
        return jpeg(read_image(path, int(row) if stacked else -1), SIDE)
    except (G2LError, OSError, ValueError, IndexError):
        return ""
