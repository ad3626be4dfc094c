"""Every metric of a study with its interval, and the differences between encoders on the same patients."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import G2LError
from g2l.evaluation.report.study import Study, TaskResults, by_unit, drawn_units
from g2l.evaluation.results import Result
from g2l.evaluation.statistics.bootstrap import (
    FEWEST_PATIENTS,
    RESAMPLES,
    Interval,
    Resampled,
    difference_of,
    interval_of,
    percentiles,
    resample,
)

Key = tuple[str, str, str]  # task, method, encoder


@dataclass(frozen=True)
class Measured:
    """Resamples of every result; one draw of patients serves all encoders of a task."""

    study: Study
    samples: dict[Key, Resampled]
    resamples: int
    seed: int
    _intervals: dict[tuple[Key, str], Interval] = field(default_factory=dict)

    def interval(self, result: Result, metric: str) -> Interval:
        """Of a metric of a result."""
        key = (result.task, result.method, result.encoder)
        if (key, metric) not in self._intervals:
            sample = self.samples[key]
            if metric in sample.values:
                found = interval_of(sample, metric)
            else:
                found = Interval(result.metrics[metric], math.nan, math.nan, 1.0, "it is no metric of single units")
            self._intervals[key, metric] = found
        return self._intervals[key, metric]

    def difference(self, a: Result, b: Result, metric: str) -> Interval | None:
        """a - b of one task and method; None where one of them has no such metric.

        It has no interval where nobody says whose the units are: too short, it would tell equals apart.
        """
        one, two = (self.samples[r.task, r.method, r.encoder] for r in (a, b))
        if metric not in one.values or metric not in two.values:
            return None
        try:
            found = difference_of(one, two, metric)
        except G2LError as error:
            raise G2LError(f"task {a.task}, {a.method}, {a.encoder} and {b.encoder}: {error}") from error
        unit = by_unit(a) or by_unit(b)
        if unit:
            return Interval(found.value, math.nan, math.nan, found.undefined, f"nobody says whose a {unit} is")
        return found

    def best(self, task: TaskResults, method: str, metric: str) -> str | None:
        """The encoder whose difference to every other has an interval that excludes 0; None where there is none."""
        results = list(task.methods[method].values())
        values = [self.interval(result, metric).value for result in results]
        if len(results) < 2 or not np.isfinite(values).all():
            return None
        best = results[int(np.argmax(values))]
        found = [self.difference(best, other, metric) for other in results if other is not best]
        return best.encoder if all(each is not None and each.low > 0 for each in found) else None

    def mean_score(self, tasks: list[TaskResults], encoder: str) -> Interval:
        """Mean primary metric of the main methods over tasks, with the interval that the patients leave.

        The tasks are taken as they are: this says nothing of other tasks. Tasks with the same patients see the same
        draws, and tasks with others independent ones; where some patients are shared, the draws are neither.
        """
        samples = [(self.samples[task.name, task.main, encoder], task.primary or "") for task in tasks]
        value = float(np.mean([sample.values[metric] for sample, metric in samples]))
        drawn: NDArray[np.float64] = np.mean([sample.drawn[metric] for sample, metric in samples], axis=0)
        why = self._no_mean(tasks, encoder)
        if why:
            return Interval(value, math.nan, math.nan, 0.0, why)
        low, high = percentiles(drawn)
        return Interval(value, low, high, 0.0, "")

    def _no_mean(self, tasks: list[TaskResults], encoder: str) -> str:
        """Why the mean over the tasks has no interval; "" where it has one."""
        for task in tasks:
            result = task.methods[task.main][encoder]
            if math.isnan(self.interval(result, task.primary or "").low):
                return f"{task.name} has none (say fewer than {FEWEST_PATIENTS} patients)"
            if by_unit(result):
                return f"that of {task.name} is by {by_unit(result)}, hence too short"
        people = {task.name: set(self.samples[task.name, task.main, encoder].patients.tolist()) for task in tasks}
        for one, other in combinations(people, 2):
            if people[one] != people[other] and people[one] & people[other]:
                shared = len(people[one] & people[other])
                return f"{one} and {other} share {shared} of their patients (by name), not all: no draw fits both"
        return ""

    def rows(self) -> list[dict[str, Any]]:
        """One row per task, method, encoder and metric, as in metrics.csv; None where undefined."""
        return [row for result in self.study for row in self._rows(result)]

    def _rows(self, result: Result) -> list[dict[str, Any]]:
        task = next(task for task in self.study.tasks if task.name == result.task)
        reference = task.methods[result.method].get(self.study.reference)
        sample = self.samples[result.task, result.method, result.encoder]
        rows, drawn = [], drawn_units(result)
        for metric in result.metrics:
            found = self.interval(result, metric)
            apart = None
            if reference is not None and reference is not result:
                apart = self.difference(result, reference, metric)
            rows.append(
                {
                    "task": result.task,
                    "kind": result.kind,
                    "method": result.method,
                    "encoder": result.encoder,
                    "metric": metric,
                    "primary": metric == result.outcome.primary,
                    "value": _known(found.value),
                    "low": _known(found.low),
                    "high": _known(found.high),
                    "units": len(sample.ids),
                    "unit": result.outcome.unit,
                    "patients": sample.count if drawn == "patient" else None,
                    "resampled": drawn,
                    "resampled_units": sample.count,
                    "undefined_resamples": found.undefined,
                    "no_interval_because": found.why,
                    "reference": self.study.reference if apart else None,
                    "difference": _known(apart.value) if apart else None,
                    "difference_low": _known(apart.low) if apart else None,
                    "difference_high": _known(apart.high) if apart else None,
                }
            )
        return rows


def measure_all(
    study: Study,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[Iterable[Result]], Iterable[Result]] = iter,
) -> Measured:
    """Measure every result again, and on resamples.

    Raises:
        G2LError: predictions that cannot be resampled.
    """
    samples = {}
    for result in progress(list(study)):
        try:
            sample = resample(result.outcome.measure, result.outcome.predictions, resamples, seed)
        except (G2LError, KeyError, ValueError, IndexError, TypeError) as error:
            raise G2LError(f"result {result.folder} cannot be measured again ({error}); evaluate again") from error
        samples[result.task, result.method, result.encoder] = sample
    return Measured(study, samples, resamples, seed)


def ranked_tasks(study: Study) -> list[TaskResults]:
    """Tasks that have a primary metric and a finite value of it for every encoder: the rows of every rank."""
    found = []
    for task in study.tasks:
        results = task.methods[task.main]
        primary = task.primary
        if primary is not None and list(results) == list(study.encoders):
            values = [result.metrics.get(primary, math.nan) for result in results.values()]
            if np.isfinite(values).all():
                found.append(task)
    return found


def score_table(study: Study, tasks: list[TaskResults]) -> NDArray[np.float64]:
    """(N, k) primary metrics of the main methods, tasks by encoders."""
    return np.array(
        [[task.methods[task.main][encoder].metrics[task.primary or ""] for encoder in study.encoders] for task in tasks]
    ).reshape(len(tasks), len(study.encoders))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
