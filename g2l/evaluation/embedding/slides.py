"""Slides as parts: which cohort knows them, the grid over each, and how its patches are read."""

import csv
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.data.kept import Kept
from g2l.data.source import OpenSlides
from g2l.errors import CohortError, SlideError
from g2l.evaluation.embedding.digests import digest_of, plain
from g2l.evaluation.embedding.grid import tissue_grid
from g2l.evaluation.embedding.parts import Part, part_key
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.tables.table import Table
from g2l.slides.cohort import REJECTED, Cohort
from g2l.slides.grid import attributes
from g2l.slides.slide import Slide

COHORT = "cohort"  # column of a table: the folder of a cohort that holds the slide already
MPP = "mpp"  # column of a table: um per px of level 0 of a slide that does not state it
SHOWN = 5
AT_ONCE = 16  # files looked at: a network mount takes milliseconds for each, but serves many at once


def find_slides(table: Table, rows: NDArray[np.int64], folder: Path) -> list[tuple[Cohort, int]]:
    """The cohort of each row's slide and its number there; slides of no cohort are indexed into `folder`.

    Raises:
        CohortError: slides that were rejected or that a cohort does not hold, in one line.
    """
    given = np.asarray(table.extra.get(COHORT, np.full(len(table), "")), np.str_)[rows]
    paths = [Path(path).resolve() for path in table.paths[rows].tolist()]
    own = [k for k, name in enumerate(given.tolist()) if not name]
    folders: list[Path] = [Path(name) for name in given.tolist()]
    if own:
        made = _index(table, rows[own], [paths[k] for k in own], folder)
        for k in own:
            folders[k] = made
    cohorts = {place: Cohort.open(place) for place in dict.fromkeys(folders)}
    numbers = {
        place: {Path(path).resolve(): i for i, path in enumerate(cohort.column("path"))}
        for place, cohort in cohorts.items()
    }
    lost = [k for k, path in enumerate(paths) if path not in numbers[folders[k]]]
    if lost:
        names = ", ".join(table.ids[rows[lost]][:SHOWN].tolist())
        where = sorted({str(folders[k] / REJECTED) for k in lost})
        raise CohortError(
            f"table {table.name}: {len(lost)} of {len(rows)} slides were rejected or are in no cohort ({names}); "
            f"reasons and remedies are in {', '.join(where)}: follow them, or leave these slides out of the table"
        )
    return [(cohorts[place], numbers[place][path]) for place, path in zip(folders, paths, strict=True)]


def _index(table: Table, rows: NDArray[np.int64], paths: Sequence[Path], folder: Path) -> Path:
    """A cohort of these slides; what was indexed before is taken up."""
    from g2l.slides.index import index

    out = folder / digest_of(*sorted(map(str, paths)))[:16]
    out.mkdir(parents=True, exist_ok=True)
    known = table.extra.get(MPP)
    stated = ["" if known is None or not _positive(value) else f"{float(value):g}" for value in _some(known, rows)]
    manifest = out / "slides.csv"
    with manifest.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide", "mpp"])
        writer.writerows(sorted({str(path): mpp for path, mpp in zip(paths, stated, strict=True)}.items()))
    index(str(manifest), str(out), mpp=table.mpp)
    return out


def _some(known: NDArray[Any] | None, rows: NDArray[np.int64]) -> list[Any]:
    return [""] * len(rows) if known is None else known[rows].tolist()


def _positive(value: Any) -> bool:
    try:
        return float(value) > 0
    except ValueError:
        return False


def slide_part(
    cohort: Cohort,
    slide: int,
    opened: Kept[int, Slide],
    size: int,
    settings: Embedding,
    encoder: str,
    transform: Mapping[str, Any],
    name: str,
    fingerprint: str,
    file: str,
) -> Part:
    """The patches of one slide.

    Args:
        slide: its number in the cohort. opened: the cohort's slides.
        size: px of a patch, which the encoder takes.
        encoder, transform: as in `part_key`. name: of the slide, in its file and in messages.
        fingerprint: of the slide, as the cohort has it.
        file: name of the part's file; `{key}` in it stands for the beginning of the key.
    Returns:
        A part; of no patches where the grid has none.
    """
    record, mpp = cohort[slide], settings.mpp
    grid = tissue_grid(cohort, slide, size, mpp, settings.min_tissue, settings.max_patches, fingerprint)
    level0 = cohort.geometry.levels[cohort.geometry.first_level[slide], :2]
    place = plain({"mpp": mpp, "level0": level0.tolist(), "size": size, "coords": grid.coords.tobytes().hex()})
    content = digest_of(fingerprint, place)
    key = part_key(encoder, transform, content)
    about = attributes(name, size, mpp, record.mpp, record.width, record.height)
    columns = {"coords": grid.coords, "um": grid.um}
    read = partial(_read, opened, slide, grid.um, size, mpp)
    return Part(file.format(key=key[:16]), key, [name], read, len(grid.coords), columns, about)


def refuse_changed(slides: Sequence[tuple[Cohort, int]]) -> None:
    """CohortError, in one line, when files are no longer those that were indexed: their tissue would be elsewhere."""
    from g2l.slides.indexing.scan import fingerprint

    cohorts = {cohort.folder: cohort for cohort, _ in slides}
    stated = {place: cohort.column("fingerprint") for place, cohort in cohorts.items()}

    def changed(one: tuple[Cohort, int]) -> str | None:
        cohort, slide = one
        path = cohort[slide].path
        try:
            return None if fingerprint(path) == stated[cohort.folder][slide] else str(path)
        except OSError as error:
            return f"{path} ({error.strerror or error})"

    with ThreadPoolExecutor(AT_ONCE) as threads:
        found = [text for text in threads.map(changed, slides) if text is not None]
    if found:
        raise CohortError(
            f"{len(found)} of {len(slides)} slides are gone or have changed since they were indexed "
            f"({', '.join(found[:SHOWN])}); run g2l index again"
        )


def _read(
    opened: Kept[int, Slide], slide: int, um: NDArray[np.float64], size: int, mpp: float, k: int
) -> NDArray[np.uint8]:
    x, y = um[k].tolist()
    try:
        return opened.get(slide).read_patch(x, y, size, mpp)
    except SlideError:
        opened.forget(slide)  # the handle itself may be what failed
        raise


def refuse_empty(parts: Sequence[Part], what: str, size: int, settings: Embedding) -> None:
    """CohortError, in one line, when the grid of some slides holds no patch."""
    empty = [part.ids[0] for part in parts if not part.count]
    if empty:
        raise CohortError(
            f"{what}: {len(empty)} slides have no patch of {size} px at {settings.mpp:g} um/px with "
            f"{settings.min_tissue:.0%} tissue ({', '.join(empty[:SHOWN])}); lower min_tissue, or leave them out"
        )


def slide_parts(
    table: Table,
    rows: NDArray[np.int64],
    size: int,
    folder: Path,
    settings: Embedding,
    encoder: str,
    transform: Mapping[str, Any],
) -> list[Part]:
    """A part for each of these rows of a table. Args: folder: where cohorts of slides that have none are kept.

    Raises:
        CohortError: slides that were rejected, or that hold too little tissue.
    """
    from g2l.evaluation.results import folder_name

    found = find_slides(table, rows, folder)
    refuse_changed(found)
    cohorts = {cohort.folder: cohort for cohort, _ in found}
    opened = {place: OpenSlides(cohort) for place, cohort in cohorts.items()}
    prints = {place: cohort.column("fingerprint") for place, cohort in cohorts.items()}
    parts = [
        slide_part(
            cohort, slide, opened[cohort.folder], size, settings, encoder, transform, name,
            prints[cohort.folder][slide], f"{folder_name(name)}-{{key}}.h5",
        )
        for (cohort, slide), name in zip(found, table.ids[rows].tolist(), strict=True)
    ]  # fmt: skip
    refuse_empty(parts, f"table {table.name}", size, settings)
    return parts
