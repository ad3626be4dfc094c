"""Does an embedding follow the tissue or the hospital: PathoROB's three measures and de Jong's ratio."""

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.splits import Rows, Split, check_labels
from g2l.evaluation.tables.table import Source, Table, Texts
from g2l.evaluation.tasks.patches import check_known, embeddings, named, whose
from g2l.evaluation.tasks.task import Context, Outcome, Task

# Cramer's V of biology and centre, less what luck gives, above which a note warns: 1 % of the association there can be
UNBALANCED = 0.1


class Robustness(Task):
    """Nearest neighbours and clusters of the test part, whose labels are the biology. Nothing is fitted to labels.

    * neighbours: robustness index with its support, and the ratio.
    * clusters: clustering score.

    Both mean little where centres send different tissues: a note says so, and the cross table is in the facts.
    """

    kind: ClassVar[str] = "robustness"
    parts: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(
        self,
        data: Source,
        k: int = 20,
        clustering: bool = True,
        repeats: int = 10,
        most: int = 5000,
        rescanned: bool = False,
    ) -> None:
        """
        Args:
            data: where the images come from, with class, centre and slide (else patient) of each.
            k: neighbours of each image that are counted. PathoROB's published values count 61 (TCGA, by pairs of
                classes and centres), 11 (Camelyon) and 46 (ESCA).
            clustering: the clustering score too.
            repeats: of the k-means behind it.
            most: images that are clustered; of more, so many are drawn by seed.
            rescanned: slides (else patients) of one name are the same tissue in every centre, stained or scanned again
                (as in PLISM): an image's neighbours then leave out its tissue in all centres. Otherwise such a name
                in two centres means two slides. Clusters leave nothing out either way: copies lie in one cluster.
        """
        super().__init__(data)
        self.k, self.clustering, self.repeats, self.most, self.rescanned = k, clustering, repeats, most, rescanned
        if k < 1 or repeats < 1 or most < 3:
            raise ConfigError(f"k is {k}, repeats {repeats}, most {most}; they must be at least 1, 1 and 3")

    def check(self, table: Table) -> None:
        """CohortError: a row without class, centre, or slide and patient; one class or one centre only; rescanned, but
        no slide lies in two centres.
        """
        check_known(table, table.labels, "label")
        check_known(table, table.centres, "centre")
        scans = origins(table)
        if self.rescanned and len(np.unique(scans)) == len(np.unique(origins(table, rescanned=True))):
            raise CohortError(
                f"table {table.name}: rescanned is set, but no slide or patient is in two centres; give one tissue the "
                "same name in all of them, or leave rescanned out"
            )

    def run(self, context: Context) -> dict[str, Outcome]:
        """Methods "neighbours" and "clusters"."""
        table, rows = context.table, context.split.test
        found = embeddings(context, rows)
        facts, said = _balance(table, rows)
        notes = [f"{said}: robustness to the centre cannot be told from differences of tissue"] if said else []
        outcomes = {"neighbours": self._neighbours(context, found, facts, notes)}
        if self.clustering and len(rows) >= 3:
            outcomes["clusters"] = self._clusters(context, found, facts, notes)
        return outcomes

    def _neighbours(self, context: Context, x: NDArray, balance: dict[str, Any], notes: list[str]) -> Outcome:
        from g2l.evaluation.measures.published import PATHOROB_INDEX, PATHOROB_K
        from g2l.evaluation.measures.robustness import columns, measure_robustness, pairs_of

        def report(text: str) -> None:
            context.report(f"robustness: {text}")

        table, rows = context.table, context.split.test
        own = origins(table, self.rescanned)[rows]
        pairs = pairs_of(x, table.labels[rows], table.centres[rows], own, self.k, report, self.rescanned)
        predictions = whose(table, rows) | columns(pairs)
        k, said = int(pairs.queries[0].sum()), list(notes)
        if k < self.k:
            said.append(
                f"only {k} of the {self.k} neighbours asked for lie outside the largest slide"
                f"{' and its other scans' if self.rescanned else ''}: {k} were counted"
            )
        metrics = measure_robustness(predictions)
        if math.isnan(metrics["robustness index"]):
            said.append("the robustness index is undefined: no neighbour shares either biology or centre alone")
        facts = balance | {"k": k, "published": PATHOROB_INDEX, "published k": PATHOROB_K}
        return Outcome("patch", predictions, measure_robustness, "robustness index", {"k": k}, said, facts=facts)

    def _clusters(self, context: Context, x: NDArray, balance: dict[str, Any], notes: list[str]) -> Outcome:
        from g2l.evaluation.measures.clustering import CLUSTER, clusters, mean_rand, measure_clustering

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
        facts = balance | {
            "silhouettes": found.silhouettes,
            "ARI biology": mean_rand(predictions, "biology"),
            "ARI centre": mean_rand(predictions, "centre"),
        }
        said.append("the two ARI behind the clustering score have no interval: copies of a patient raise both")
        # None: the index stands for the task
        return Outcome("patch", predictions, measure_clustering, None, chosen, said, facts=facts)


class PerformanceDrop(Task):
    """Average performance drop: balanced accuracy on test of classifiers trained with class and centre ever closer.

    Training and validation rows are drawn by centre from train and val. Of the test part all rows of the same centres
    are judged, and every pair of class and centre weighs the same: in a test part in which they go together, who knows
    the centre alone would gain by bias. The drop stands for no rank: who cannot tell the classes has none either.
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

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError: fewer than two centres send every class, or test lacks a class in one of them."""
        check_labels(table, split, ("test",))
        _pairs(table, split)

    def run(self, context: Context) -> dict[str, Outcome]:
        """Method "drop".

        Raises:
            CohortError: as `check_split`, or val lacks a class in one of the centres.
        """
        from g2l.evaluation.measures.drop import biased_predictions, columns, measure_drop

        table, split = context.table, context.split
        self.check_split(table, split)
        rows, used = _pairs(table, split)
        train, val = (
            (embeddings(context, part), table.labels[part], table.centres[part]) for part in (split.train, split.val)
        )
        test = embeddings(context, rows)
        answers, strengths = biased_predictions(
            train, val, test, self.levels, self.repeats, context.seed, context.report
        )
        predictions = whose(table, rows) | columns(table.labels[rows], table.centres[rows], answers)
        chosen = {"C": strengths, "chosen on": "balanced accuracy on val, drawn like the training rows"}
        facts, said = _balance(table, rows)
        notes = ["who cannot tell the classes has no drop either: read APD beside the balanced accuracy"]
        if len(rows) < len(split.test):
            left, others = len(split.test) - len(rows), np.setdiff1d(table.centres[split.test], used)
            notes.append(f"{left:,} test images of centres that no training used ({named(others)}) are left out")
        if said:
            least = int(np.min(facts["cross table"]["counts"]))
            notes.append(f"{said}: each pair of them weighs the same, the rarest has {least:,} images")
        return {"drop": Outcome("patch", predictions, measure_drop, None, chosen, notes, facts=facts)}


def _pairs(table: Table, split: Split) -> tuple[Rows, Texts]:
    """Test rows of the centres that training uses, which must hold every class of every centre; and these centres."""
    from g2l.evaluation.measures.drop import centres_for, check_cells

    classes = np.unique(table.labels[split.train])
    used = centres_for(table.labels[split.train], table.centres[split.train], classes)
    rows = split.test[np.isin(table.centres[split.test], used)]
    check_cells(table.labels[rows], table.centres[rows], classes, used)
    return rows, used


def origins(table: Table, rescanned: bool = False) -> Texts:
    """(N,) the slide of every row, which no neighbour may share; the patient where slides are unknown.

    Args:
        rescanned: a name means the same tissue in all centres; otherwise each centre has slides of its own.
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
    if rescanned:
        return known
    # two centres may use the same name
    return np.char.add(np.char.add(table.centres, "/"), known)


def _balance(table: Table, rows: Rows) -> tuple[dict[str, Any], str]:
    """The cross table of biology and centre, Cramer's V by slides, and how to say that they go together, if they do.

    A tissue that was scanned in several centres counts as a slide in each. Its scans were not dealt to centres by luck
    alone, so that luck is overrated, by about (classes - 1) (centres - 1) / scans of phi squared at most.
    """
    from g2l.evaluation.measures.association import cramers_v, cross_table

    biology, centre = table.labels[rows], table.centres[rows]
    slides = np.char.add(np.char.add(centre, "/"), np.where(table.slides != "", table.slides, table.units)[rows])
    classes, centres, counts = cross_table(biology, centre)
    v = cramers_v(biology, centre, slides)
    facts = {
        "cross table": {"biology": classes.tolist(), "centres": centres.tolist(), "counts": counts.tolist()},
        "Cramer's V": v,
    }
    if min(counts.shape) < 2:
        return facts, "the test part has one class or one centre only"
    if math.isnan(v):
        return facts, "the slides are too few to tell whether biology and centre go together"
    if v > UNBALANCED:
        return facts, f"biology and centre go together (Cramer's V {v:.2f}, {int((counts == 0).sum())} empty cells)"
    return facts, ""
