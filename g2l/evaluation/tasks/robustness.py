"""Does an embedding follow the tissue or the hospital: PathoROB's three measures and de Jong's ratio."""

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.splits import Rows
from g2l.evaluation.tables.table import Source, Table, Texts
from g2l.evaluation.tasks.patches import check_classes, check_known, embeddings, whose
from g2l.evaluation.tasks.task import Context, Outcome, Task

# Cramer's V of biology and centre above which a note warns: at .1, 1 % of the association there can be
UNBALANCED = 0.1


class Robustness(Task):
    """Nearest neighbours and clusters of the test part, whose labels are the biology. Nothing is fitted to labels.

    * neighbours: robustness index with its support, and the ratio.
    * clusters: clustering score.

    Both mean little where centres send different tissues: a note says so, and the cross table is in the facts.
    """

    kind: ClassVar[str] = "robustness"
    parts: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(self, data: Source, k: int = 20, clustering: bool = True, repeats: int = 10, most: int = 5000) -> None:
        """
        Args:
            data: where the images come from, with class, centre and slide (else patient) of each.
            k: neighbours of each image that are counted. PathoROB's published values count 61 (TCGA, by pairs of
                classes and centres), 11 (Camelyon) and 46 (ESCA).
            clustering: the clustering score too.
            repeats: of the k-means behind it.
            most: images that are clustered; of more, so many are drawn by seed.
        """
        super().__init__(data)
        self.k, self.clustering, self.repeats, self.most = k, clustering, repeats, most
        if k < 1 or repeats < 1 or most < 3:
            raise ConfigError(f"k is {k}, repeats {repeats}, most {most}; they must be at least 1, 1 and 3")

    def check(self, table: Table) -> None:
        """CohortError: a row without class, centre, or slide and patient; one class or one centre only."""
        check_known(table, table.labels, "label")
        check_known(table, table.centres, "centre")
        origins(table)

    def run(self, context: Context) -> dict[str, Outcome]:
        """Methods "neighbours" and "clusters"."""
        table, rows = context.table, context.split.test
        found = embeddings(context, rows)
        facts, notes = _balance(table, rows)
        outcomes = {"neighbours": self._neighbours(context, found, facts, notes)}
        if self.clustering and len(rows) >= 3:
            outcomes["clusters"] = self._clusters(context, found, facts, notes)
        return outcomes

    def _neighbours(self, context: Context, x: NDArray, balance: dict[str, Any], notes: list[str]) -> Outcome:
        from g2l.evaluation.measures.published import PATHOROB_INDEX, PATHOROB_K
        from g2l.evaluation.measures.robustness import KINDS, measure_robustness, neighbour_kinds

        def report(text: str) -> None:
            context.report(f"robustness: {text}")

        table, rows = context.table, context.split.test
        slides = origins(table)[rows]
        counts = neighbour_kinds(x, table.labels[rows], table.centres[rows], slides, self.k, report)
        predictions = whose(table, rows) | {kind: counts[:, number] for number, kind in enumerate(KINDS)}
        k, said = int(counts[0].sum()), list(notes)
        if k < self.k:
            said.append(
                f"only {k} of the {self.k} neighbours asked for lie outside the largest slide: {k} were counted"
            )
        metrics = measure_robustness(predictions)
        if math.isnan(metrics["robustness index"]):
            said.append("the robustness index is undefined: no neighbour shares either biology or centre alone")
        facts = balance | {"k": k, "published": PATHOROB_INDEX, "published k": PATHOROB_K}
        return Outcome("patch", predictions, measure_robustness, "robustness index", {"k": k}, said, facts=facts)

    def _clusters(self, context: Context, x: NDArray, balance: dict[str, Any], notes: list[str]) -> Outcome:
        from g2l.evaluation.measures.clustering import CLUSTER, clusters, measure_clustering

        table, rows, said = context.table, context.split.test, list(notes)
        if len(rows) > self.most:
            drawn = np.sort(np.random.default_rng(context.seed).permutation(len(rows))[: self.most])
            said.append(f"clusters of {self.most:,} of {len(rows):,} images, drawn by seed {context.seed}")
            rows, x = rows[drawn], x[drawn]
        found = clusters(x, self.repeats, context.seed, context.report)
        predictions = {
            **whose(table, rows), "biology": table.labels[rows], "centre": table.centres[rows],
            **{f"{CLUSTER}{run}": found.labels[:, run] for run in range(self.repeats)},
        }  # fmt: skip
        chosen = {"clusters": found.number, "chosen on": "silhouette, without labels"}
        facts = balance | {"silhouettes": found.silhouettes}
        # None: the index stands for the task
        return Outcome("patch", predictions, measure_clustering, None, chosen, said, facts=facts)


class PerformanceDrop(Task):
    """Average performance drop: balanced accuracy on test of classifiers trained with class and centre ever closer.

    Training and validation rows are drawn by centre from train and val; the test part is used whole.
    """

    kind: ClassVar[str] = "robustness"

    def __init__(self, data: Source, levels: int = 4, repeats: int = 5) -> None:
        """
        Args:
            data: where the images come from, with class and centre of each.
            levels: trainings beside the balanced one.
            repeats: drawings of each.
        """
        super().__init__(data)
        self.levels, self.repeats = levels, repeats
        if levels < 1 or repeats < 1:
            raise ConfigError(f"levels are {levels} and repeats {repeats}; both must be at least 1")

    def check(self, table: Table) -> None:
        """CohortError: a row without class or centre; one class or one centre only."""
        check_known(table, table.labels, "label")
        check_known(table, table.centres, "centre")

    def run(self, context: Context) -> dict[str, Outcome]:
        """Method "drop"."""
        from g2l.evaluation.measures.drop import biased_predictions, measure_drop

        check_classes(context)
        table, split = context.table, context.split
        train, val = (
            (embeddings(context, rows), table.labels[rows], table.centres[rows]) for rows in (split.train, split.val)
        )
        test = embeddings(context, split.test)
        columns, strengths = biased_predictions(
            train, val, test, self.levels, self.repeats, context.seed, context.report
        )
        predictions = whose(table, split.test) | {"truth": table.labels[split.test]} | columns
        chosen = {"C": strengths, "chosen on": "balanced accuracy on val, drawn like the training rows"}
        facts, _ = _balance(table, split.test)
        return {"drop": Outcome("patch", predictions, measure_drop, "APD", chosen, facts=facts)}


def origins(table: Table) -> Texts:
    """(N,) the slide of every row, which no neighbour may share; the patient where slides are unknown.

    Raises:
        CohortError: rows with neither, unless the table declares that every image is of another patient.
    """
    known = table.slides if (table.slides != "").all() else table.units
    alone = (table.slides == "") & (table.patients == "")
    if alone.any() and not table.independent:
        raise CohortError(
            f"table {table.name}: {int(alone.sum())} rows have neither slide nor patient, so that neighbours of the "
            "same slide cannot be left out; fill one of the columns"
        )
    # two centres may use the same name
    return np.char.add(np.char.add(table.centres, "/"), known)


def _balance(table: Table, rows: Rows) -> tuple[dict[str, Any], list[str]]:
    """The cross table of biology and centre, Cramer's V, and what must be said of it."""
    biology, of_biology = np.unique(table.labels[rows], return_inverse=True)
    centre, of_centre = np.unique(table.centres[rows], return_inverse=True)
    counts = np.zeros((len(biology), len(centre)), np.int64)
    np.add.at(counts, (of_biology, of_centre), 1)
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / len(rows)
    freedom = min(counts.shape) - 1
    v = math.sqrt(((counts - expected) ** 2 / expected).sum() / (len(rows) * freedom)) if freedom else math.nan
    facts = {
        "cross table": {"biology": biology.tolist(), "centres": centre.tolist(), "counts": counts.tolist()},
        "Cramer's V": v,
    }
    if not freedom:
        return facts, ["the test part has one class or one centre only: nothing can be said of robustness"]
    if v > UNBALANCED:
        said = f"biology and centre go together (Cramer's V {v:.2f}, {int((counts == 0).sum())} empty cells)"
        return facts, [f"{said}: robustness to the centre cannot be told from differences of tissue"]
    return facts, []
