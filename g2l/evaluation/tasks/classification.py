"""Patch classification on frozen embeddings: a linear probe, a kNN vote, and GPFM's head. Letter: D width."""

from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.splits import Split, check_labels, folds
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.patches import absent, check_k, check_known, embeddings, named, whose
from g2l.evaluation.tasks.task import Context, Outcome, Task

PRIMARY = "balanced accuracy"


class PatchClassification(Task):
    """Classes of images, told from their embeddings.

    * linear: L2-regularised logistic regression on standardised features. The smallest C with the best balanced
      accuracy on val; then it is fitted again to train and val, the classes weighing what they weigh in train. Val
      has served once C is chosen, and where it was carved from train, its patients would else be lost to the fit.
      `refit: false` leaves them out, as eva does. Where val lacks a class of train, C is chosen by folds of the
      patients of train and val instead: val would reward a C with which that class is never predicted. With
      `choice: folds` it always is, and is the smallest C that lies within a standard error of the best.
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
        folds: int = 3,
        choice: Literal["val", "folds"] = "val",
    ) -> None:
        """
        Args:
            data: where the images and their classes come from.
            heads: what tells the classes: linear, knn, sgd (GPFM's). Default: linear and knn.
            k: neighbours that vote.
            refit: the linear probe and the vote use val too once nothing is left to choose on it.
            folds: by patient, on which the linear probe chooses C where val lacks a class of train; every class needs
                as many patients in train and val.
            choice: on what the linear probe chooses C. folds: always on these, for few patients: their luck would
                choose among penalties that are hardly better than each other, and apart by .1 on other patients.
        """
        super().__init__(data)
        self.heads, self.k = heads if heads is not None else ["linear", "knn"], k
        self.refit, self.folds, self.choice = refit, folds, choice
        if not self.heads or set(self.heads) - {"linear", "knn", "sgd"}:
            raise ConfigError(f"heads are {self.heads}; name at least one of linear, knn, sgd")
        if k < 1:
            raise ConfigError(f"k is {k}; a vote needs at least one neighbour")
        if folds < 2:
            raise ConfigError(f"folds is {folds}; a choice needs at least two")
        if choice not in ("val", "folds"):
            raise ConfigError(f"choice is {choice}; name val or folds")

    def check(self, table: Table) -> None:
        """CohortError: a row without a class, or one class only."""
        check_known(table, table.labels, "label")

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError: too few classes, patients or images in a part for a head that was asked for."""
        check_labels(table, split)
        if "knn" in self.heads:
            check_k(self.k, len(split.train) + len(split.val) * self.refit, "images to vote")
        seen = np.unique(table.labels[split.val])
        if "linear" in self.heads and (self.choice == "folds" or np.setdiff1d(table.labels[split.train], seen).size):
            folds(table, split, self.folds)
        if "sgd" in self.heads and len(seen) < 2:
            raise CohortError(
                f"table {table.name}: val holds the class {named(seen)} alone, but the head sgd stops by the AUC on it"
                "; move patients of other classes to val, or leave sgd out of heads"
            )

    def run(self, context: Context) -> dict[str, Outcome]:
        """One outcome for each head."""
        self.check_split(context.table, context.split)
        split, labels = context.split, context.table.labels
        kept = np.concatenate([split.train, split.val]) if self.refit else split.train
        data = {part: embeddings(context, getattr(split, part)) for part in ("train", "val", "test")}
        data["kept"] = np.concatenate([data["train"], data["val"]]) if self.refit else data["train"]
        truth = {part: labels[getattr(split, part)] for part in ("train", "val")} | {"kept": labels[kept]}
        methods = {"linear": self._linear, "knn": self._knn, "sgd": self._sgd}
        return {head: methods[head](context, data, truth) for head in self.heads}

    def _linear(self, context: Context, x: dict[str, NDArray], y: dict[str, NDArray]) -> Outcome:
        from g2l.evaluation.measures.probe import choose_by_folds, choose_strength, fit_path, weights_like

        lost, notes, weights = np.setdiff1d(y["train"], y["val"]), [], None
        if lost.size or self.choice == "folds":
            fold = folds(context.table, context.split, self.folds, context.seed)
            rows, labels = np.concatenate([x["train"], x["val"]]), np.concatenate([y["train"], y["val"]])
            within = float(self.choice == "folds")  # standard errors
            c, scores = choose_by_folds(rows, labels, fold, report=context.report, within=within)
            place = f"{self.folds} folds by patient of train and val ({len(rows)} rows)"
            if lost.size:
                notes.append(f"val holds no {named(lost)}: C was chosen on {place}")
        else:
            c, scores = choose_strength(x["train"], y["train"], x["val"], y["val"], report=context.report)
            place, weights = f"val ({len(y['val'])} rows)", weights_like(y["train"], y["kept"])
        (fitted,) = fit_path(x["kept"], y["kept"], x["test"], (c,), partial(_again, context.report), weights)
        chosen = {"C": c, "chosen on": f"balanced accuracy on {place}", "val": scores}
        if c in (min(scores), max(scores)):
            notes.append("C lies at the end of its range")
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

        lost = np.setdiff1d(y["train"], y["val"])
        head = sgd_head(x["train"], y["train"], x["val"], y["val"], x["test"], context.seed, report=context.report)
        chosen = {"epoch": head.epoch, "chosen on": f"AUC on val ({len(y['val'])} rows)", "val": head.auc}
        predicted = head.classes[head.probabilities.argmax(axis=1)]
        notes = [f"val holds no {named(lost)}: the epoch was chosen without"] if lost.size else []
        return self._outcome(context, predicted, head.classes, head.probabilities, chosen, notes)

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
        said = [*(notes or []), *absent(classes, table, rows)]
        return Outcome("patch", predictions, measure_classification, PRIMARY, chosen, said, facts=facts)


def _again(report: Any, text: str) -> None:
    report(text.replace("C 1 of 1", "fitted again with the chosen C"))
