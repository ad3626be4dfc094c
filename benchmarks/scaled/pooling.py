"""Results of several seeds as one, so that `g2l report` draws groups again over all of them. Letter: U units of a seed.

A seed has its own split, networks and probes. Its units stand under those of the other seeds, and a group that two
seeds tested is one patient. So the intervals are those of the groups; the seeds are taken as they are, and how far they
agree is told beside (`verdicts`).
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import G2LError
from g2l.evaluation.measures.classification import CLASSES, measure_classification
from g2l.evaluation.measures.retrieval import measure_gpfm_retrieval, measure_retrieval
from g2l.evaluation.measures.robustness import ALL, KINDS, measure_robustness
from g2l.evaluation.measures.similarity import measure_similarity
from g2l.evaluation.results import Result, folder_name, place, read_results, write_result
from scaled.merging import Seeds, about, chosen, facts, notes, unit

Columns = dict[str, NDArray]
Key = tuple[str, str, str]  # task, method, encoder
MOST_SHOWN = 3
AUC_NOTE = "AUC ranks probabilities of all seeds together, each from a probe of its own: read it by seed"


def pool(seeds: Mapping[str, Path], out: Path) -> None:
    """Write one result for each task, encoder and method of the seeds, in place of whatever lies in `out`.

    Units are called "<seed>/<id>". `about["seeds"]` holds the metrics of each seed, and facts that differ stand "by
    seed" beside their mean (`merging`).

    Args:
        seeds: name of the seed ("seed-0") -> the folder that `g2l evaluate` wrote its results to.
        out: folder that `g2l report` can read.
    Raises:
        G2LError: a seed lacks a task, method or encoder that another has, or has other settings, columns or networks;
            results that cannot be one, such as clusters, whose numbers mean something else in every seed.
    """
    if not seeds:
        raise G2LError("no seeds to pool; name at least one folder of results")
    found = {name: {_key(result): result for result in read_results([folder])} for name, folder in seeds.items()}
    _require_the_same(found)
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for key in next(iter(found.values())):
        one = pooled({name: results[key] for name, results in found.items()})
        write_result(replace(one, folder=place(partial, one.task, one.encoder) / folder_name(one.method)))
    shutil.rmtree(out, ignore_errors=True)
    partial.replace(out)


def pooled(seeds: Seeds) -> Result:
    """The results of one task, method and encoder as one.

    Raises:
        G2LError: as `pool`.
    """
    first = next(iter(seeds.values()))
    outcome, where = first.outcome, f"task {first.task}, {first.method}, {first.encoder}"
    for name, result in seeds.items():
        other = result.outcome
        same = (result.kind, other.unit, other.measure, other.primary) == (
            first.kind, outcome.unit, outcome.measure, outcome.primary,
        )  # fmt: skip
        if not same or set(other.predictions) != set(outcome.predictions):
            columns = sorted(set(other.predictions) ^ set(outcome.predictions))
            what = f"columns {', '.join(columns)}" if columns else "kind, unit, measure or primary metric"
            raise G2LError(f"{where}: {name} differs from {next(iter(seeds))} in {what}; evaluate both alike")
    if outcome.measure not in STACKED:
        raise G2LError(
            f"{where}: {outcome.measure.__name__} of several seeds is not that of their rows together; leave this "
            "method out of the evaluation"
        )
    every = {name: result.outcome.predictions for name, result in seeds.items()}
    columns = {name: np.concatenate([one[name] for one in every.values()]) for name in outcome.predictions}
    columns["id"] = np.array([unit(name, str(identity)) for name, one in every.items() for identity in one["id"]])
    columns |= STACKED[outcome.measure](list(every.values()), columns)
    said = [*notes(seeds), _said(list(seeds)), *([AUC_NOTE] if outcome.measure is measure_classification else [])]
    whole = replace(outcome, predictions=columns, chosen=chosen(seeds), notes=said, facts=facts(seeds), pictures={})
    metrics = {name: float(value) for name, value in whole.measure(columns).items()}
    return replace(first, outcome=whole, metrics=metrics, about=about(seeds))


def _means(every: list[Mapping[str, NDArray]], columns: Columns) -> Columns:
    """A mean over rows is that of all rows."""
    return {}


def _classes(every: list[Mapping[str, NDArray]], columns: Columns) -> Columns:
    """Recall and F1 are counts of rows. How many classes the truth has is counted again."""
    return {CLASSES: np.full(len(columns["truth"]), len(np.unique(columns["truth"])))}


def _pairs(every: list[Mapping[str, NDArray]], columns: Columns) -> Columns:
    """Rows are numbered through, and pairs of the whole are those of all seeds.

    A pair joins units of one seed, so the pairs of a draw are a sum over seeds of (drawn as queries) x (drawn as
    neighbours) / (all); the measure takes this product of the sums instead. With 1 + q and 1 + n for the shares that
    are drawn, both are 1 + q + n but for the product q n, which is small.
    """
    size = len(columns["row"])
    whole = {ALL + kind: np.full(size, sum(int(one[ALL + kind][0]) for one in every)) for kind in KINDS}
    return {"row": np.arange(size), **whole}


# measure -> columns that are not those of the seeds one under another
STACKED: dict[Callable[..., Any], Callable[[list[Mapping[str, NDArray]], Columns], Columns]] = {
    measure_classification: _classes,
    measure_retrieval: _means,
    measure_gpfm_retrieval: _means,
    measure_similarity: _means,
    measure_robustness: _pairs,
}


def _said(names: list[str]) -> str:
    return (
        f"{len(names)} seeds together ({', '.join(names)}), each with its own split, networks and probes: rows of the "
        "parts are added up, groups that several seeds tested are one patient, and an interval is that of the groups "
        "with the seeds as they are"
    )


def _key(result: Result) -> Key:
    return result.task, result.method, result.encoder


def _require_the_same(found: Mapping[str, Mapping[Key, Result]]) -> None:
    every = dict.fromkeys(key for results in found.values() for key in results)
    lacking = [
        f"{name} lacks task {task}, {method}, of {encoder}"
        for name, results in found.items()
        for task, method, encoder in every
        if (task, method, encoder) not in results
    ]
    if lacking:
        more = f" and {len(lacking) - MOST_SHOWN} more" if len(lacking) > MOST_SHOWN else ""
        raise G2LError(
            f"seeds differ in what was evaluated: {', '.join(lacking[:MOST_SHOWN])}{more}; evaluate it there too, or "
            "leave it out of all seeds"
        )
