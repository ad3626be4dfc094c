"""How alike an encoder and its teacher see the same images."""

from typing import ClassVar

from g2l.errors import ConfigError
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.patches import check_k, embeddings, whose
from g2l.evaluation.tasks.task import Context, Outcome, Task


class Similarity(Task):
    """Linear CKA and shared neighbours of two encoders on the test part; labels are not used.

    The overlap of neighbours is a mean over images, and has an interval. CKA is one number of all images at once, that
    no column of predictions can give again: it stands in the facts, without an interval, biased as it is usually
    reported and by the unbiased estimate, which does not grow with the width of the embeddings.
    """

    kind: ClassVar[str] = "similarity"
    parts: ClassVar[tuple[str, ...]] = ("test",)

    def __init__(self, data: Source, teacher: str, k: int = 20) -> None:
        """
        Args:
            data: where the images come from.
            teacher: name of another encoder of the same evaluation.
            k: neighbours of each image that are compared.
        """
        super().__init__(data)
        self.teacher, self.k = teacher, k
        if k < 1:
            raise ConfigError(f"k is {k}; an overlap needs at least one neighbour")

    def teachers(self) -> list[str]:
        """The teacher."""
        return [self.teacher]

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError: fewer images than neighbours."""
        check_k(self.k + 1, len(split.test), "images in the test part, the image itself among them")

    def run(self, context: Context) -> dict[str, Outcome]:
        """One method, named after the teacher."""
        from g2l.evaluation.measures.similarity import linear_cka, measure_similarity, overlaps, unbiased_cka

        self.check_split(context.table, context.split)
        rows = context.split.test
        mine = embeddings(context, rows)
        theirs = embeddings(context._replace(encoder=self.teacher), rows, context.features_of(self.teacher))

        def report(text: str) -> None:
            context.report(f"similarity to {self.teacher}: {text}")

        report("CKA")
        facts = {
            "teacher": self.teacher,
            "linear CKA": linear_cka(mine, theirs),
            "linear CKA, unbiased": unbiased_cka(mine, theirs),
            "k": self.k,
            "overlap by chance": self.k / (len(rows) - 1),
        }
        predictions = whose(context.table, rows) | {"overlap": overlaps(mine, theirs, self.k, report)}
        notes = ["CKA is one number of all images at once: it has no interval"]
        if context.encoder == self.teacher:
            notes.append("the encoder is compared with itself")
        return {f"to {self.teacher}": Outcome("patch", predictions, measure_similarity, None, {}, notes, facts=facts)}
