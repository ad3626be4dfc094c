"""Intervals from resampled patients. Letters: U units (rows of predictions), P patients, B resamples.

Patients are drawn, not patches: patches of a patient resemble each other, so that an interval which draws patches is
far too short. There is deliberately no test over the resamples: their number is chosen, and with it any p-value.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from g2l.errors import G2LError
from g2l.evaluation.tasks.task import Predictions

Measure = Callable[[Predictions], dict[str, float]]
Progress = Callable[[Iterable[int]], Iterable[int]]

RESAMPLES = 1000
LEVEL = 0.95
# Below this no interval is given. Percentile intervals from few patients are too short: for the mean of a normal
# variable a nominal 95 % covers 83 % with 5 patients, 90 % with 10 and 93 % with 20 (the last two: test_bootstrap.py).
FEWEST_PATIENTS = 10
# Of resamples in which a metric has no value (a class is lost); with more of them what is left is a selection.
MOST_UNDEFINED = 0.1
SHOWN = 5


class Interval(NamedTuple):
    """A metric with its percentile interval; nan where there is none, and `why` says why.

    undefined: share of resamples that gave no value; the interval is that of the others.
    """

    value: float
    low: float
    high: float
    undefined: float
    why: str

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether its sign is beyond the luck of the patients."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Resampled:
    """Metrics of the predictions, and of the same B resamples of patients for whoever has the same patients and seed.

    Attributes:
        values: metric -> its value on all units; nan where undefined or infinite.
        drawn: metric -> (B,), nan where undefined.
        ids, patients: (U,) sorted by id.
        truth: (U,) in the same order, as text; None where the predictions have no such column.
    """

    values: dict[str, float]
    drawn: dict[str, NDArray[np.float64]]
    ids: NDArray
    patients: NDArray
    truth: NDArray | None

    @property
    def count(self) -> int:
        """Patients."""
        return len(np.unique(self.patients))


class _Drawn(Mapping[str, NDArray]):
    """Some rows of the predictions; a column that the measure does not read is not copied."""

    def __init__(self, columns: Predictions, rows: NDArray[np.int64]) -> None:
        self.columns, self.rows = columns, rows

    def __getitem__(self, name: str) -> NDArray:
        return self.columns[name][self.rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return len(self.columns)


def resample(
    measure: Measure, predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0, progress: Progress = iter
) -> Resampled:
    """Measure the predictions, and again on B draws of P patients with replacement, each with all its units.

    The draws depend on the seed and the patients' names alone: two models on the same patients get the same ones, and
    B differences of theirs are paired. Other patients get others, so that a mean over tasks may add its draws up.

    Args:
        measure: columns -> metrics by name; pure. nan where the drawn rows lost what the metric is a mean over, such as
            a class: the mean over what is left is another metric.
        predictions: columns of U values, `id` (unique) and `patient` among them.
        progress: wraps the iterable of resamples, as tqdm does.
    Raises:
        G2LError: no units, no patient of a unit, an id twice.
    """
    ids, patients = (np.asarray(predictions[name]).astype(str) for name in ("id", "patient"))
    if not len(ids):
        raise G2LError("there are no predictions to resample; evaluate again")
    order = np.argsort(ids, kind="stable")
    twice = ids[order][1:][ids[order][1:] == ids[order][:-1]]
    if twice.size or (patients == "").any():
        rows = _shown(twice) if twice.size else _shown(ids[patients == ""])
        raise G2LError(f"predictions: {'an id occurs twice' if twice.size else 'units without a patient'}: {rows}")
    columns = {name: np.asarray(column)[order] for name, column in predictions.items()}
    names, codes = np.unique(patients[order], return_inverse=True)
    values = {name: _finite(value) for name, value in measure(columns).items()}
    drawn = {name: np.full(resamples, np.nan) for name in values}
    rng = np.random.default_rng([seed, crc32("\0".join(names.tolist()).encode())])
    every = np.arange(len(codes))
    for number in progress(range(resamples)):
        times = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        again = measure(_Drawn(columns, np.repeat(every, times[codes])))
        for name in drawn:
            drawn[name][number] = _finite(again.get(name, math.nan))
    truth = columns["truth"].astype(str) if "truth" in columns else None
    return Resampled(values, drawn, ids[order], patients[order], truth)


def interval_of(sample: Resampled, metric: str, level: float = LEVEL) -> Interval:
    """The percentile interval of a metric."""
    return _percentiles(sample.values[metric], sample.drawn[metric], sample.count, level)


def difference_of(a: Resampled, b: Resampled, metric: str, level: float = LEVEL) -> Interval:
    """The percentile interval of a - b, resample by resample on the same patients.

    Raises:
        G2LError: they are not of the same units, patients and truth, or not of the same resamples.
    """
    if not np.array_equal(a.ids, b.ids):
        alone = np.setxor1d(a.ids, b.ids)
        raise G2LError(
            f"a difference needs both models on the same units; only one has {_shown(alone)}; use one split for both"
        )
    for name, one, other in (("patients", a.patients, b.patients), ("labels", a.truth, b.truth)):
        if one is not None and other is not None and not np.array_equal(one, other):
            raise G2LError(f"a difference needs the same {name}; they differ for {_shown(a.ids[one != other])}")
    if len(a.drawn[metric]) != len(b.drawn[metric]):
        raise G2LError("a difference needs the same resamples of both models; resample both with one seed and number")
    return _percentiles(a.values[metric] - b.values[metric], a.drawn[metric] - b.drawn[metric], a.count, level)


def interval(
    measure: Measure,
    predictions: Predictions,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    progress: Progress = iter,
) -> dict[str, Interval]:
    """Every metric with its percentile interval, by patient. Arguments as `resample`."""
    sample = resample(measure, predictions, resamples, seed, progress)
    return {metric: interval_of(sample, metric, level) for metric in sample.values}


def difference(
    measure: Measure,
    a: Predictions,
    b: Predictions,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    progress: Progress = iter,
) -> dict[str, Interval]:
    """Every metric of a minus that of b with the percentile interval of the difference, paired by patient.

    Raises:
        G2LError: a and b are not of the same units; the message names some.
    """
    one, other = (resample(measure, each, resamples, seed, progress) for each in (a, b))
    return {metric: difference_of(one, other, metric, level) for metric in one.values if metric in other.values}


def percentiles(drawn: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of the values that are defined, at least one."""
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn[~np.isnan(drawn)], [tail, 100 - tail])
    return float(low), float(high)


def _percentiles(value: float, drawn: NDArray[np.float64], patients: int, level: float) -> Interval:
    undefined = float(np.isnan(drawn).mean()) if drawn.size else 1.0
    why = ""
    if math.isnan(value):
        why = "the metric is undefined on these units"
    elif patients < FEWEST_PATIENTS:
        why = f"{patients} patients are too few to resample; {FEWEST_PATIENTS} are needed"
    elif undefined > MOST_UNDEFINED:
        why = f"{undefined:.0%} of the resamples give no value"
    low, high = (math.nan, math.nan) if why else percentiles(drawn, level)
    return Interval(value, low, high, undefined, why)


def _finite(value: float) -> float:
    """A division by 0 is as undefined as 0 / 0: neither has a place among percentiles."""
    return float(value) if math.isfinite(value) else math.nan


def _shown(values: NDArray) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(map(str, values[:SHOWN])) + more
