"""What is fitted never sees labels of the test part: one check for every task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.tables.table import Table
from g2l.evaluation.tasks.task import Context, Outcome, Task

# Columns that say what is right, or how right the answer was; all others are the answer.
JUDGED = ("truth", "right", "hit_", "vote_", "average_precision", "time", "event")


def with_test_permuted(table: Table, rows: NDArray[np.int64], columns: tuple[str, ...], seed: int = 0) -> Table:
    """The table with `columns` (`labels` or names of `extra`) permuted over the rows of the test part."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(rows)
    changed: dict[str, NDArray] = {}
    for name in columns:
        column = (table.labels if name == "labels" else table.extra[name]).copy()
        column[rows] = column[order]
        changed[name] = column
    labels = changed.pop("labels", table.labels)
    return replace(table, labels=labels, extra={**table.extra, **changed})


def answers(outcome: Outcome, judged: tuple[str, ...] = JUDGED) -> Mapping[str, NDArray]:
    """The columns of predictions that must not depend on the truth."""
    return {name: column for name, column in outcome.predictions.items() if not name.startswith(judged)}


def assert_blind_to_test_labels(
    task: Task, context: Context, columns: tuple[str, ...] = ("labels",), judged: tuple[str, ...] = JUDGED
) -> None:
    """Permuting the labels of the test part changes the truth, and neither what was chosen nor any answer.

    Args:
        columns: what the labels of the task are: "labels" and names of `table.extra` (time, event, target).
        judged: prefixes of the columns of predictions that may change.
    """
    table = with_test_permuted(context.table, context.split.test, columns)
    before, after = task.run(context), task.run(context._replace(table=table))
    assert before.keys() == after.keys() and before
    for method, first in before.items():
        second = after[method]
        assert _plain(first.chosen) == _plain(second.chosen), method
        assert answers(first, judged).keys() == answers(second, judged).keys()
        for name, column in answers(first, judged).items():
            np.testing.assert_array_equal(column, answers(second, judged)[name], err_msg=f"{method}: {name}")
        moved = [name for name in first.predictions if name.startswith(judged)]
        changed = [not np.array_equal(first.predictions[name], second.predictions[name]) for name in moved]
        assert any(changed), f"{method}: the permuted labels reached no column, so that this check shows nothing"


def _plain(value: Any) -> Any:
    """Comparable, nan equal to nan."""
    return repr(value)
