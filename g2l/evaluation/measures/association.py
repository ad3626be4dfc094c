"""Whether tissue and hospital go together in a cohort. Letters: N rows, S slides, B classes, C centres."""

import math

import numpy as np
from numpy.typing import NDArray

SHUFFLES = 200


def cross_table(biology: NDArray, centre: NDArray) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """The classes (B,), the centres (C,), and the rows of each pair of them (B, C)."""
    classes, of_class = np.unique(biology, return_inverse=True)
    centres, of_centre = np.unique(centre, return_inverse=True)
    counts = np.bincount(of_class * len(centres) + of_centre, minlength=len(classes) * len(centres))
    return classes, centres, counts.reshape(len(classes), len(centres))


def cramers_v(biology: NDArray, centre: NDArray, slide: NDArray, shuffles: int = SHUFFLES) -> float:
    """Cramer's V of class and centre over what chance alone gives: 0 as by chance or less, 1 where one says the other.

    Few slides go with centres by luck, however many rows they hold. So the phi squared to be expected by luck, the mean
    after slides were dealt to the centres anew with all their rows, is taken off what is found and off the most there
    can be.

    Args:
        biology, centre, slide: (N,); a slide lies in one centre.
        shuffles: times that slides are dealt, always the same way.
    Returns:
        nan with one class or one centre, and where the slides are too few to tell (one of each centre).
    Source: Cramer 1946; adjusted as Bergsma 2013, whose formula this is for B = C and one row per slide.
    """
    of_class = np.unique(biology, return_inverse=True)[1]
    _, firsts, of_slide = np.unique(slide, return_index=True, return_inverse=True)
    centres, of_centre = np.unique(centre[firsts], return_inverse=True)
    most = min(of_class.max() + 1, len(centres)) - 1
    if most < 1:
        return math.nan
    held = np.zeros((len(firsts), of_class.max() + 1))
    np.add.at(held, (of_slide, of_class), 1)
    rng = np.random.default_rng(0)
    luck = float(np.mean([_phi_squared(held, rng.permutation(of_centre)) for _ in range(shuffles)]))
    # what rounding leaves of 0 / 0
    if most - luck < 1e-9:
        return math.nan
    return math.sqrt(max(0.0, _phi_squared(held, of_centre) - luck) / (most - luck))


def _phi_squared(held: NDArray[np.float64], of_centre: NDArray[np.int64]) -> float:
    """Chi-squared by row of the table that slides with `held` rows of each class (S, B) make in their centres."""
    table = np.stack([np.bincount(of_centre, held[:, number]) for number in range(held.shape[1])])
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return float(((table - expected) ** 2 / expected).sum() / table.sum())
