"""Patch classification on frozen embeddings: a linear probe, a kNN vote, and GPFM's head. Letter: D width."""

from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import ConfigError
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.patches import check_classes, check_k, check_known, embeddings, whose
from g2l.evaluation.tasks.task import Context, Outcome, Task

PRIMARY = "balanced accuracy"


class PatchClassification(Task):
    """Classes of images, told from their embeddings.

    * linear: L2-regularised logistic regression on standardised features. The smallest C with the best balanced
      accuracy on val; then it is fitted again to train and val. Val has served once C is chosen, and where it was
      carved from train, its patients would else be lost to the fit. `refit: false` leaves them out, as eva does.
    * knn: the k nearest of train and val by cosine vote; nothing is chosen.
    * sgd: GPFM's head: see `measures.head.sgd_head`. Fitted to train alone, since val decides when it stops.
    """

    kind: ClassVar[str] = "classification"

    def __init__(
        self,
        data: Source,
        heads: list[Literal["linear", "knn", "sgd"]] | None = None,
        k: int = 20,
        refit: bool = True,
    ) -> None:
        """
        Args:
            data: where the images and their classes come from.
            heads: what tells the classes: linear, knn, sgd (GPFM's). Default: linear and knn.
            k: neighbours that vote.
            refit: the linear probe and the vote use val too once nothing is left to choose on it.
        """
        super().__init__(data)
        self.heads, self.k, self.refit = heads if heads is not None else ["linear", "knn"], k, refit
        if not self.heads or set(self.heads) - {"linear", "knn", "sgd"}:
            raise ConfigError(f"heads are {self.heads}; name at least one of linear, knn, sgd")
        if k < 1:
            raise ConfigError(f"k is {k}; a vote needs at least one neighbour")

    def check(self, table: Table) -> None:
        """CohortError: a row without a class, or one class only."""
        check_known(table, table.labels, "label")

    def run(self, context: Context) -> dict[str, Outcome]:
        """One outcome for each head."""
        check_classes(context)
        split, labels = context.split, context.table.labels
        kept = np.concatenate([split.train, split.val]) if self.refit else split.train
        if "knn" in self.heads:
            check_k(self.k, len(kept), "images to vote")
        data = {part: embeddings(context, getattr(split, part)) for part in ("train", "val", "test")}
        data["kept"] = np.concatenate([data["train"], data["val"]]) if self.refit else data["train"]
        truth = {part: labels[getattr(split, part)] for part in ("train", "val")} | {"kept": labels[kept]}
        methods = {"linear": self._linear, "knn": self._knn, "sgd": self._sgd}
        return {head: methods[head](context, data, truth) for head in self.heads}

    def _linear(self, context: Context, x: dict[str, NDArray], y: dict[str, NDArray]) -> Outcome:
        from g2l.evaluation.measures.probe import choose_strength, fit_path

        c, scores = choose_strength(x["train"], y["train"], x["val"], y["val"], report=context.report)
        (fitted,) = fit_path(x["kept"], y["kept"], x["test"], (c,), partial(_again, context.report))
        chosen = {"C": c, "chosen on": f"balanced accuracy on val ({len(y['val'])} rows)", "val": scores}
        notes = ["C lies at the end of its range"] if c in (min(scores), max(scores)) else []
        return self._outcome(context, fitted.predicted, fitted.classes, fitted.probabilities, chosen, notes)

    def _knn(self, context: Context, x: dict[str, NDArray], y: dict[str, NDArray]) -> Outcome:
        from g2l.evaluation.measures.knn import knn_votes

        def report(text: str) -> None:
            context.report(f"kNN: {text}")

        votes = knn_votes(x["kept"], y["kept"], x["test"], self.k, report)
        return self._outcome(
            context, votes.predicted, votes.classes, votes.shares, {"k": self.k, "chosen on": "nothing"}
        )

    def _sgd(self, context: Context, x: dict[str, NDArray], y: dict[str, NDArray]) -> Outcome:
        from g2l.evaluation.measures.head import sgd_head

        head = sgd_head(x["train"], y["train"], x["val"], y["val"], x["test"], context.seed, report=context.report)
        chosen = {"epoch": head.epoch, "chosen on": f"AUC on val ({len(y['val'])} rows)", "val": head.auc}
        predicted = head.classes[head.probabilities.argmax(axis=1)]
        return self._outcome(context, predicted, head.classes, head.probabilities, chosen)

    def _outcome(
        self,
        context: Context,
        predicted: NDArray,
        classes: NDArray,
        probabilities: NDArray[np.float64],
        chosen: dict[str, Any],
        notes: list[str] | None = None,
    ) -> Outcome:
        from g2l.evaluation.measures.classification import columns, measure_classification

        table, rows = context.table, context.split.test
        predictions = whose(table, rows) | columns(table.labels[rows], predicted, classes, probabilities)
        names, counts = np.unique(table.labels[rows], return_counts=True)
        facts = {"classes": classes.tolist(), "test rows": dict(zip(names.tolist(), counts.tolist(), strict=True))}
        absent = sorted(set(classes.tolist()) - set(names.tolist()))
        said = list(notes or [])
        if absent:
            said.append(f"test holds no {', '.join(absent)}: left out of AUC and balanced accuracy")
        return Outcome("patch", predictions, measure_classification, PRIMARY, chosen, said, facts=facts)


def _again(report: Any, text: str) -> None:
    report(text.replace("C 1 of 1", "fitted again with the chosen C"))
