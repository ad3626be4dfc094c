"""Slide classification: a class per slide from the bag of its patches. Letters: U slides of the test part, D width."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables.splits import Split, check_labels
from g2l.evaluation.tables.table import SHOWN, Source, Table
from g2l.evaluation.tasks.bags import Bags, shown_units
from g2l.evaluation.tasks.patches import absent, check_fitting, named
from g2l.evaluation.tasks.task import Context, Outcome, Task

Floats = NDArray[np.float64]


class SlideClassification(Task):
    """Classes of slides by attention over their patches (ABMIL), and by logistic regression on the mean patch."""

    kind: ClassVar[str] = "slides"
    needs: ClassVar[Literal["cls", "tokens", "bag"]] = "bag"

    def __init__(
        self,
        data: Source,
        methods: Sequence[Literal["abmil", "mean"]] = ("abmil", "mean"),
        epochs: int = 100,
        patience: int = 10,
    ) -> None:
        """Args:
        data: slides with labels.
        methods: `abmil` (attention-based multiple-instance learning), `mean` (logistic regression on the mean of a
            slide's embeddings: what attention must beat).
        epochs: of ABMIL at most.
        patience: epochs without a smaller validation loss after which ABMIL ends.
        """
        super().__init__(data)
        self.methods, self.epochs, self.patience = list(methods), epochs, patience
        check_fitting("slides", self.methods, epochs, patience)

    def check(self, table: Table) -> None:
        """CohortError: slides without a label, or one class only."""
        empty = table.labels == ""
        if empty.any():
            raise CohortError(
                f"table {table.name}: {empty.sum()} of {len(table)} slides have no label "
                f"({', '.join(table.ids[empty][:SHOWN].tolist())}); give each one, or leave them out"
            )
        classes = np.unique(table.labels)
        if len(classes) < 2:
            raise CohortError(f"table {table.name}: all {len(table)} slides are {str(classes[0])!r}; give two classes")

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError: train holds one class, test or val one that train lacks, or train one that val lacks."""
        check_labels(table, split)
        lost = np.setdiff1d(table.labels[split.train], table.labels[split.val])
        if lost.size:
            raise CohortError(
                f"table {table.name}: val holds no {named(lost)}, and what is chosen on val would forget it; move "
                "patients of it to val, or add some (three of a class reach every part of a drawn split), or leave "
                "its slides out"
            )

    def run(self, context: Context) -> dict[str, Outcome]:
        """Method -> outcome; probabilities of the classes of the training part."""
        table, split = context.table, context.split
        self.check_split(table, split)
        rows = np.concatenate([split.train, split.val, split.test])
        ends = np.cumsum([len(split.train), len(split.val), len(split.test)])
        train, val, test = np.split(np.arange(len(rows)), ends[:-1])
        labels = table.labels[rows]
        classes = np.unique(labels[train])
        code = np.searchsorted(classes, labels)
        bags = Bags(context.features, table, [row[None] for row in rows])
        found = {}
        for method in self.methods:
            judge = self._abmil if method == "abmil" else self._mean
            probabilities, chosen, notes, facts = judge(context, bags, code, len(classes), train, val, test)
            found[method] = _outcome(table, rows[test], classes, probabilities, chosen, notes, facts)
        return found

    def _abmil(
        self,
        context: Context,
        bags: Bags,
        code: NDArray[np.int64],
        count: int,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        test: NDArray[np.int64],
    ) -> tuple[Floats, dict[str, Any], list[str], dict[str, Any]]:
        import torch
        from torch import Tensor
        from torch.nn.functional import cross_entropy

        from g2l.evaluation.tasks.abmil import balanced, fit, predict

        def loss(logits: Tensor, unit: int) -> Tensor:
            return cross_entropy(logits, torch.tensor(code[unit], device=logits.device))

        fitted = fit(
            bags, count, loss, train.tolist(), val.tolist(), draw=balanced(code[train]),
            epochs=self.epochs, patience=self.patience, seed=context.seed, say=context.report,
        )  # fmt: skip
        logits, attention = predict(fitted.model, bags, test.tolist())
        shown = [bags.top(int(test[k]), attention[k]) for k in shown_units(len(test), context.seed)]
        return logits.double().softmax(dim=1).numpy(), fitted.chosen, fitted.notes, {"attention": shown}

    def _mean(
        self,
        context: Context,
        bags: Bags,
        code: NDArray[np.int64],
        count: int,
        train: NDArray[np.int64],
        val: NDArray[np.int64],
        test: NDArray[np.int64],
    ) -> tuple[Floats, dict[str, Any], list[str], dict[str, Any]]:
        context.report("mean embeddings: logistic regression")
        means = bags.means()
        probabilities, chosen = fit_means(means[train], code[train], means[val], code[val], means[test])
        return probabilities, chosen, [], {}


def fit_means(
    train: Floats, train_y: NDArray[np.int64], val: Floats, val_y: NDArray[np.int64], test: Floats
) -> tuple[Floats, dict[str, Any]]:
    """Class-balanced logistic regression on standardised embeddings; C by the class-balanced log loss on val.

    Slides are few: the log loss hears every slide, where accuracy would tie over half of the strengths.

    Args:
        train, val, test: (., D). train_y, val_y: classes 0..K-1, all of them in train.
    Returns:
        (U, K) probabilities of the test rows, and what was chosen.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.class_weight import compute_sample_weight
    from threadpoolctl import threadpool_limits

    from g2l.evaluation.measures.probe import STRENGTHS

    scaler = StandardScaler().fit(train)
    fit_x, val_x, test_x = (scaler.transform(part) for part in (train, val, test))
    weight, classes = compute_sample_weight("balanced", val_y), np.unique(train_y)
    best, chosen, probabilities = np.inf, {}, np.empty((len(test), len(classes)))
    with threadpool_limits(limits=1):  # few rows: threads only wait for each other
        for c in STRENGTHS:
            model = LogisticRegression(C=c, class_weight="balanced", max_iter=5000).fit(fit_x, train_y)
            loss = float(log_loss(val_y, model.predict_proba(val_x), sample_weight=weight, labels=classes))
            if loss < best:
                best, chosen = loss, {"C": c, "log loss": loss, "on": "class-balanced log loss of the validation part"}
                probabilities = model.predict_proba(test_x)
    return probabilities, chosen


def _outcome(
    table: Table,
    rows: NDArray[np.int64],
    classes: NDArray[np.str_],
    probabilities: Floats,
    chosen: dict[str, Any],
    notes: list[str],
    facts: dict[str, Any],
) -> Outcome:
    from g2l.evaluation.measures.classification import columns, measure_classification

    predicted = classes[probabilities.argmax(axis=1)]
    predictions = {
        "id": table.ids[rows],
        "patient": table.units[rows],
        **columns(table.labels[rows], predicted, classes, probabilities),
    }
    said = [*notes, *absent(classes, table, rows)]
    return Outcome("slide", predictions, measure_classification, "AUC", chosen, said, facts=facts)
