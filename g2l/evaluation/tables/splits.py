"""Parts of a table that share no patient: rules 1 and 2 of a number that can be trusted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.groups import carve, deal, groups_of
from g2l.evaluation.tables.table import SHOWN, Table, Texts

Rows = NDArray[np.int64]
PARTS = ("train", "val", "test")
# Key of `Table.origin`: what the publisher says of patients that no column names; it becomes a note. With it the parts
# that the publisher states are taken as they are.
PATIENTS = "patients"
# Columns of `Table.extra` that say who had the event of a survival study, where they hold two values. A part without an
# event can neither choose nor judge a risk.
EVENTS = ("event", "censorship")


@dataclass(frozen=True)
class Split:
    """Rows of the table in each part, ascending. `notes`: what a report must say of how they were made."""

    train: Rows
    val: Rows
    test: Rows
    notes: list[str] = field(default_factory=list)


def make_split(
    table: Table,
    needs: Sequence[str] = PARTS,
    share: float = 0.2,
    seed: int = 0,
    digests: Mapping[str, str] | None = None,
) -> Split:
    """The parts that a task works with: those that the table states, or drawn by patient.

    Without stated parts all rows are test for a task that fits nothing; otherwise whole patients (with all their
    slides) are drawn, `share` of the rows of every class to test and as many to val. A stated train without val gives
    `share` of itself to val. A class of three patients or more comes into every part, as far as patients of several
    classes allow it; so do patients with and without the event of a survival study (column `event` or `censorship`).

    Args:
        needs: parts that must hold rows.
        share: of the rows of every class, for each part that is drawn. seed: of the draw.
        digests: id -> hash of the image's or slide's file, where known: the same content in two parts is refused,
            whoever the table says it is of.
    Raises:
        CohortError: parts share a patient, a slide, a file or its content; rows of no patient; too few patients.
    """
    parts = table.splits
    unknown = sorted(set(parts.tolist()) - {*PARTS, ""})
    if unknown:
        raise CohortError(f"table {table.name}: split {', '.join(unknown[:SHOWN])} is none of train, val, test")
    stated = bool((parts != "").any())
    notes = _check_patients(table, stated)
    if stated:
        _check_stated(table)
        lacking = [part for part in needs if part != "val" and not (parts == part).any()]
        if lacking:
            raise CohortError(
                f"table {table.name}: its split column puts no rows into {' and '.join(lacking)}; name some, or leave "
                "the column out to have all parts drawn by patient"
            )
        spare = int((parts == "").sum())
        if spare:
            notes.append(f"{spare} of {len(table)} rows are in no part of the split and were left out")
    elif tuple(needs) == ("test",):
        parts = np.full(len(table), "test")
    else:
        parts = _draw(table, parts, np.arange(len(table)), ("test", "val"), share, seed)
        counts = ", ".join(f"{part} {_units(table, parts == part)}" for part in PARTS)
        notes.append(f"no published split: drawn by patient with seed {seed} ({counts})")
    if "val" in needs and not (parts == "val").any():
        parts = _draw(table, parts, np.flatnonzero(parts == "train"), ("val",), share, seed)
        notes.append(f"validation carved from train with seed {seed}: {_units(table, parts == 'val')}")
        if _unknown(table).any() and not table.independent:
            notes.append(
                "its images may be of patients in train, which makes choices on validation optimistic; test is not "
                "touched"
            )
    _check_contents(table, parts, digests or {})
    train, val, test = (np.flatnonzero(parts == part) for part in PARTS)
    return Split(train, val, test, notes)


def folds(table: Table, split: Split, k: int, seed: int = 0) -> NDArray[np.int64]:
    """(n,) a number below `k` for each row of train and then val: whole patients, and every class in several folds.

    For a choice in place of one on val, where val lacks a class that train holds, or is of few patients.

    Args:
        k: folds, two or more. seed: of the draw.
    Raises:
        CohortError: a class of fewer patients than folds, or whose patients are all dealt to one fold.
    """
    rows = np.concatenate([split.train, split.val])
    whose, labels = groups_of(table)[rows], table.labels[rows]
    owner, of = np.unique(whose, return_inverse=True)
    names, kinds = np.unique(labels, return_inverse=True)
    # each patient once for each class: rows of one could outweigh all other patients
    patients, classes = np.unique(np.stack([of, kinds]), axis=1)
    counts = np.bincount(classes)
    if counts.min() < k:
        lost = np.setdiff1d(table.labels[split.train], table.labels[split.val])
        why = f"val holds no {shown(lost)}, and " if lost.size else ""
        few = shown(f"{counts[number]} of {names[number]}" for number in np.flatnonzero(counts < k))
        fewer = f", set folds to {counts.min()}" if counts.min() > 1 else ""
        raise CohortError(
            f"table {table.name}: {why}to choose on {k} folds by patient needs {k} patients of every class, but train "
            f"and val hold {few}; add patients{fewer}, leave "
            "these classes out, or ask for no head that chooses (heads: [knn])"
        )
    dealt = deal(patients, names[classes], k, seed)
    fold = np.empty(len(owner), np.int64)
    fold[patients] = dealt
    alone = [name for number, name in enumerate(names) if len(np.unique(dealt[classes == number])) < 2]
    if alone:
        raise CohortError(
            f"table {table.name}: all patients of {shown(alone)} in train and val fall into one of the {k} folds by "
            "patient on which a choice is made; add others"
        )
    return fold[of]


def check_labels(table: Table, split: Split, parts: Sequence[str] = ("val", "test")) -> None:
    """CohortError unless a classifier can be fitted on train and judged on the other parts."""
    fitted = {part: getattr(split, part) for part in ("train", *parts)}
    rows = np.concatenate(list(fitted.values()))
    bare = rows[table.labels[rows] == ""]
    if len(bare):
        raise CohortError(
            f"table {table.name}: {len(bare)} of {len(rows)} rows have no label ({shown(table.ids[bare])}); give them "
            "one, or leave them out of the split"
        )
    classes = {part: set(table.labels[found].tolist()) for part, found in fitted.items()}
    if len(classes["train"]) < 2:
        only = ", ".join(classes["train"]) or "none"
        raise CohortError(f"table {table.name}: train has one class only ({only}); a classifier needs two or more")
    for part in parts:
        strange = sorted(classes[part] - classes["train"])
        if strange:
            raise CohortError(
                f"table {table.name}: {part} holds {shown(strange)}, which train has not; move patients of these "
                "classes to train, or leave their rows out"
            )


def shown(names: Iterable[object]) -> str:
    """The first of some names, for a message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:SHOWN]) + (", ..." if listed[SHOWN:] else "")


def _unknown(table: Table) -> NDArray[np.bool_]:
    return (table.patients == "") & (table.slides == "")


def _units(table: Table, rows: NDArray[np.bool_]) -> str:
    what = "images" if _unknown(table)[rows].all() else "patients" if (table.patients[rows] != "").all() else "slides"
    count = f"{len(np.unique(table.units[rows]))} {what}"
    return count if what == "images" else f"{count}, {int(rows.sum())} rows"


def _check_patients(table: Table, stated: bool) -> list[str]:
    """Refuse rows of nobody; what a report must say of rows whose patients are not known."""
    bare = np.flatnonzero(_unknown(table))
    said = table.origin.get(PATIENTS, "")
    if not len(bare):
        if (table.patients != "").all():
            return []
        return ["patients are not known for all rows: a slide counts as one" + (f" ({said})" if said else "")]
    if table.independent:
        return ["every image counts as a patient of its own, as declared"]
    if stated and said:
        return [f"patients are not known for {len(bare)} of {len(table)} rows: {said}; intervals count each as its own"]
    raise CohortError(
        f"table {table.name}: {len(bare)} of {len(table)} rows have no patient and no slide ({shown(table.ids[bare])})"
        ", so a split could put one patient into two parts; add the column, or declare `independent: true` where every "
        "image is of another patient"
    )


def _check_stated(table: Table) -> None:
    """No patient, slide or file in two parts."""
    places = np.char.add(np.char.add(table.paths, "#"), table.rows.astype(np.str_))
    columns = {"patients": table.patients, "slides": table.slides, "files": places}
    for what, column in columns.items():
        torn = _torn(column, table.splits)
        if torn:
            raise CohortError(
                f"table {table.name}: {len(torn)} {what} are in more than one part of the split ({shown(torn)}); put "
                "each into one part"
            )


def _check_contents(table: Table, parts: Texts, digests: Mapping[str, str]) -> None:
    """No content in two parts: a file under two names may be under two patients as well."""
    # a file that holds several images has one digest for all of them
    alone = np.where(table.rows < 0, table.ids, "")
    content = np.array([digests.get(name, "") for name in alone.tolist()], np.str_)
    torn = _torn(content, parts)
    if torn:
        twins = [
            " = ".join(f"{table.ids[row]} ({parts[row]})" for row in _one_of_each_part(content == one, parts))
            for one in torn[:SHOWN]
        ]
        raise CohortError(
            f"table {table.name}: the same image is in more than one part of the split {len(torn)} times "
            f"({'; '.join(twins)}); keep one of each"
        )


def _one_of_each_part(same: NDArray[np.bool_], parts: Texts) -> list[int]:
    return sorted(np.flatnonzero(same & (parts == part))[0] for part in np.unique(parts[same & (parts != "")]))


def _torn(column: Texts, parts: Texts) -> list[str]:
    """Values of a column that occur in two parts, sorted."""
    known = (column != "") & (parts != "")
    pairs = np.unique(np.stack([column[known], parts[known]], axis=1), axis=0)
    names, counts = np.unique(pairs[:, 0], return_counts=True)
    return names[counts > 1].tolist()


def _draw(table: Table, parts: Texts, rows: Rows, drawn: Sequence[str], share: float, seed: int) -> Texts:
    """The parts, where whole groups of the given rows became `drawn`, and the rest of them train."""
    found = np.where(np.isin(np.arange(len(table)), rows), "train", parts).astype("<U5")
    groups = groups_of(table)
    count = len(np.unique(groups[rows]))
    if count < len(drawn) + 1:
        raise CohortError(
            f"table {table.name}: {' and '.join((*drawn, 'train'))} need {len(drawn) + 1} patients, but there are "
            f"{count}; add patients"
        )
    if not 0 < share * len(drawn) < 1:
        raise CohortError(f"table {table.name}: share is {share}; give one between 0 and {1 / len(drawn):g}")
    classes = _classes(table, rows)
    for number, part in enumerate(drawn):
        inside = found[rows] == "train"
        left = rows[inside]
        # a class keeps a patient for train and for each part that is still to be drawn
        keep = len(drawn) - number
        held = carve(groups[left], classes[inside], share / (1 - number * share), seed + number, keep)
        found[left[held]] = part
    return found


def _classes(table: Table, rows: Rows) -> Texts:
    """(n, S) what a draw spreads over the parts: labels, and whether patients had the event where that is known."""
    columns = [table.labels[rows]]
    for name in EVENTS:
        values = table.extra[name][rows].astype(np.str_) if name in table.extra else np.array([""])
        if len(np.unique(values)) == 2:
            columns.append(values)
    return np.stack(columns, axis=1)
