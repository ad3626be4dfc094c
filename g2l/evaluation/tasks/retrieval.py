"""Patch retrieval: are the nearest images of the same class?"""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.tables.splits import Split, check_labels
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.patches import check_k, check_known, embeddings, whose
from g2l.evaluation.tasks.task import Context, Outcome, Task

GPFM_NOTE = (
    "GPFM's score is a weighted vote over classes, whose ties raise its top 3 and top 5; it is no retrieval, and not "
    "comparable with Acc@k"
)


class Retrieval(Task):
    """Database: train. Queries: test. Cosine similarity of the embeddings; nothing is fitted or chosen."""

    kind: ClassVar[str] = "retrieval"
    parts: ClassVar[tuple[str, ...]] = ("train", "test")

    def __init__(self, data: Source, faithful: bool = False, examples: int = 8) -> None:
        """
        Args:
            data: where the images and their classes come from.
            faithful: also GPFM's own score, as method "gpfm", for comparison with its table.
            examples: queries shown in the report with their neighbours, half of them misses where there are so many.
        """
        super().__init__(data)
        self.faithful, self.examples = faithful, examples

    def check(self, table: Table) -> None:
        """CohortError: a row without a class, or one class only."""
        check_known(table, table.labels, "label")

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError: train holds one class, or lacks one that test holds, or has too few images."""
        from g2l.evaluation.measures.retrieval import SHOWN

        check_labels(table, split, ("test",))
        check_k(SHOWN, len(split.train), "images in the database")

    def run(self, context: Context) -> dict[str, Outcome]:
        """Method "cosine", and "gpfm" where asked for."""
        from g2l.evaluation.measures.retrieval import hits, measure_retrieval, retrieve

        table, split = context.table, context.split
        self.check_split(table, split)
        base, query = embeddings(context, split.train), embeddings(context, split.test)
        known, truth = table.labels[split.train], table.labels[split.test]

        def report(text: str) -> None:
            context.report(f"retrieval: {text}")

        found = retrieve(base, known, query, truth, report)
        right = known[found.neighbours] == truth[:, None]
        predictions: dict[str, NDArray] = {
            **whose(table, split.test), "truth": truth, "predicted": found.predicted, **hits(right),
            "vote_5": (found.predicted == truth).astype(np.int64), "average_precision": found.average_precision,
        }  # fmt: skip
        facts = {"database": len(split.train), "examples": self._examples(context, found.neighbours, right)}
        outcomes = {"cosine": Outcome("patch", predictions, measure_retrieval, "Acc@1", facts=facts)}
        if self.faithful:
            outcomes["gpfm"] = self._gpfm(context, base, known, query, truth)
        return outcomes

    def _examples(self, context: Context, neighbours: NDArray, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Queries drawn by seed, misses (the nearest is of another class) and hits alternating while both last."""
        table, split = context.table, context.split
        order = np.random.default_rng(context.seed).permutation(len(right))
        missed, met = ([int(row) for row in order if right[row, 0] == kind] for kind in (False, True))
        some = min(len(missed), max(self.examples // 2, self.examples - len(met)))
        drawn = missed[:some] + met[: self.examples - some]
        return [
            {
                "id": str(table.ids[split.test[row]]),
                "label": str(table.labels[split.test[row]]),
                "neighbours": [
                    {"id": str(table.ids[other]), "label": str(table.labels[other])}
                    for other in split.train[neighbours[row]]
                ],
            }
            for row in drawn
        ]

    def _gpfm(self, context: Context, base: NDArray, known: NDArray, query: NDArray, truth: NDArray) -> Outcome:
        from g2l.evaluation.measures.retrieval import DEPTHS, gpfm_ranks, measure_gpfm_retrieval

        context.report("retrieval: GPFM's class vote")
        ranks, first = gpfm_ranks(base, known, query, truth)
        predictions = {
            **whose(context.table, context.split.test), "truth": truth, "predicted": first,
            **{f"hit_{k}": (ranks < k).astype(np.int64) for k in DEPTHS},
        }  # fmt: skip
        # None: it takes no part in ranks beside the honest score of the same neighbours
        return Outcome("patch", predictions, measure_gpfm_retrieval, None, notes=[GPFM_NOTE])
