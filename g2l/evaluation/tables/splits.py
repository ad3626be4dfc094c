"""Parts of a table that share no patient: rules 1 and 2 of a number that can be trusted."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Rows of the table in each part, ascending. `notes`: what a report must say of how they were made."""

    train: Rows
    val: Rows
    test: Rows
    notes: list[str] = field(default_factory=list)
