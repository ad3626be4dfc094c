"""The scores of the study, and which of them are ranked: fixed here, before any is looked at. Letter: S seeds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from g2l.errors import G2LError
from g2l.evaluation.report.study import Study
from g2l.evaluation.results import Result

REFERENCE = "log-sum faithful"
# What the arms are held against, none of which is a recipe to choose: no ranks, and not counted among the comparisons.
CONTEXT = ("teacher", "none", "labels")


class Score(NamedTuple):
    """A number of every arm and seed; larger is better, but for the support, which only says how far the index carries.

    key: a metric of the method's predictions, or a fact beside them, which has no interval by group. ranked: enters the
    mean rank. short: heads a column.
    """

    name: str
    short: str
    task: str
    method: str
    key: str
    ranked: bool


# Not ranked is what says the same again: ratio (the counts of the index), overlap and the unbiased estimate (CKA).
SCORES = (
    Score("linear probe", "linear", "tissue", "linear", "balanced accuracy", True),
    Score("kNN", "kNN", "tissue", "knn", "balanced accuracy", True),
    Score("retrieval", "mAP", "retrieval", "cosine", "mAP", True),
    Score("CKA", "CKA", "like the teacher", "to teacher", "linear CKA", True),
    Score("CKA, unbiased", "CKA, unbiased", "like the teacher", "to teacher", "linear CKA, unbiased", False),
    Score("neighbour overlap", "overlap", "like the teacher", "to teacher", "neighbour overlap", False),
    Score("robustness index", "index", "robustness", "neighbours", "robustness index", True),
    Score("robustness ratio", "ratio", "robustness", "neighbours", "ratio", False),
    Score("support", "support", "robustness", "neighbours", "support", False),
)


def results_of(study: Study, score: Score) -> dict[str, Result]:
    """Encoder -> the pooled result that holds the score.

    Raises:
        G2LError: the study has no such task and method.
    """
    for task in study.tasks:
        if task.name == score.task and score.method in task.methods:
            return task.methods[score.method]
    raise G2LError(
        f"the pooled results hold no {score.method} of task {score.task}, which the score {score.name} is read from; "
        "evaluate it in every seed"
    )


def by_seed(result: Result, score: Score) -> dict[str, float | None]:
    """Seed -> its value; None where undefined."""
    seeds: Mapping[str, Mapping[str, float | None]] = result.about["seeds"]
    if score.key in result.metrics:
        return {name: metrics[score.key] for name, metrics in seeds.items()}
    facts: Mapping[str, Any] = result.outcome.facts
    apart = facts.get(f"{score.key}, by seed")
    return dict(apart) if apart else dict.fromkeys(seeds, facts[score.key])
