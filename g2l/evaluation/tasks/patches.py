"""What all tasks over embeddings of images have in common. Letters: n rows asked for, D width."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError, G2LError
from g2l.evaluation.embedding.features import Features
from g2l.evaluation.tables.splits import Rows
from g2l.evaluation.tables.table import SHOWN, Table, Texts
from g2l.evaluation.tasks.task import Context


def named(ids: Texts) -> str:
    """The first of the ids, and how many there are more."""
    shown = ", ".join(ids[:SHOWN].tolist())
    return shown if len(ids) <= SHOWN else f"{shown} and {len(ids) - SHOWN} more"


def check_known(table: Table, values: Texts, what: str) -> None:
    """CohortError where a row has no `what` ("label", "centre", ...), or all rows have the same."""
    unknown = values == ""
    if unknown.any():
        raise CohortError(
            f"table {table.name}: {int(unknown.sum())} of {len(table)} rows have no {what} "
            f"({named(table.ids[unknown])}); fill the column or leave these rows out"
        )
    if len(np.unique(values)) < 2:
        only = str(values[0])
        raise CohortError(f"table {table.name}: every row has the {what} {only!r}; the task needs at least two")


def absent(classes: NDArray, table: Table, rows: Rows) -> list[str]:
    """What a report must say of classes that no test row has."""
    lost = np.setdiff1d(classes, table.labels[rows])
    return [f"test holds no {named(lost)}: left out of AUC and balanced accuracy"] if lost.size else []


def check_k(k: int, rows: int, what: str) -> None:
    """CohortError where there are fewer rows than neighbours asked for."""
    if k > rows:
        raise CohortError(f"k is {k} but there are {rows} {what}; choose a smaller k or add images")


def check_fitting(where: str, methods: Sequence[str], epochs: int, patience: int) -> None:
    """ConfigError where nothing would be fitted."""
    if not methods:
        raise ConfigError(f"{where}: methods are empty; name at least one")
    if min(epochs, patience) < 1:
        raise ConfigError(f"{where}: epochs are {epochs} and patience {patience}; both must be at least 1")


def embeddings(context: Context, rows: Rows, features: Features | None = None) -> NDArray[np.float32]:
    """(n, D) embeddings of the rows; G2LError with the ids where one is not finite."""
    found = (features or context.features).cls(rows)
    # a sum is finite where all its terms are, and costs no table of n x D truths; what overflows is looked at again
    suspect = np.flatnonzero(~np.isfinite(found.sum(axis=1, dtype=np.float64)))
    bad = suspect[~np.isfinite(found[suspect]).all(axis=1)]
    if bad.size:
        raise G2LError(
            f"{context.encoder} on {context.table.name}: {bad.size} of {len(rows)} embeddings hold nan or inf "
            f"({named(context.table.ids[rows[bad]])}); check the weights, or leave these images out"
        )
    return found


def whose(table: Table, rows: Rows) -> dict[str, NDArray]:
    """The columns that all predictions have: `id`, and `patient` for the bootstrap."""
    return {"id": table.ids[rows], "patient": table.units[rows]}
