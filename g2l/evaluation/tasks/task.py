"""What a task is: it fits on train, chooses on val, and predicts test once. Letter: U units of the test part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.embedding.features import Features
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Source, Table

Predictions = Mapping[str, NDArray]


class Context(NamedTuple):
    """All that one run of a task sees.

    encoder: its name in the report. features: of `encoder` on `table`. features_of: those of another encoder of the
    same evaluation. report: says how far it is ("linear probe: C 3 of 7").
    """

    table: Table
    split: Split
    encoder: str
    features: Features
    features_of: Callable[[str], Features]
    seed: int
    report: Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a method of a task said of the test part.

    Attributes:
        unit: what a row of `predictions` is: "patch", "slide", "patient", "image".
        predictions: columns of U values: `id` and `patient` (for the bootstrap: `Table.units`) always; what `measure`
            needs besides. It becomes a Parquet table, so one plain column per value: `truth`, `predicted`, and
            `p_<class>` for probabilities.
        measure: predictions -> metrics by name, nan where undefined; a function of a module, and pure, so that drawn
            rows can be measured again. Every metric is better when larger.
        primary: the metric that stands for the task in ranks and overviews; None: it takes no part in ranks.
        chosen: what was chosen on val, and on what (plain JSON).
        notes: what a reader must know ("validation carved from train: 12 patients").
        pictures: name -> (H, W, 3) uint8, such as overlays.
        facts: further results that are no metric of predictions (counts, curves), plain JSON.
    """

    unit: Literal["patch", "slide", "patient", "image"]
    predictions: Predictions
    measure: Callable[[Predictions], dict[str, float]]
    primary: str | None
    chosen: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Task:
    """A kind of task over a table. Subclasses take plain settings in `__init__` (they stand in YAML) beside `data`.

    Attributes:
        kind: short name, as in results ("classification").
        needs: which features it reads.
        parts: parts that must hold rows; without val one is carved from train.
    """

    kind: ClassVar[str]
    needs: ClassVar[Literal["cls", "tokens", "bag"]] = "cls"
    parts: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, data: Source) -> None:
        self.data = data

    def check(self, table: Table) -> None:
        """CohortError when the table cannot serve (no labels, one class, ...): called before anything is embedded."""

    def check_split(self, table: Table, split: Split) -> None:
        """CohortError when a split of the table cannot serve (a class that train lacks, ...): called before anything is
        embedded, and by `run`.
        """

    def teachers(self) -> list[str]:
        """Names of other encoders of the evaluation whose features it reads."""
        return []

    def run(self, context: Context) -> dict[str, Outcome]:
        """Method ("linear", "knn", "abmil", ...) -> outcome. What is fitted never sees labels of the test part."""
        raise NotImplementedError
