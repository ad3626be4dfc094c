"""Which slides are drawn at which resolution, and how often."""

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides.cohort import Cohort

Weighting = Literal["uniform", "area"]
NAMED = 10  # slides that a message names


def slide_weights(
    cohort: Cohort, slides: NDArray[np.int64], weighting: Weighting, balance: str | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of each slide (n,) its weight within its group, and the number of its group.

    Args:
        weighting: every slide as often as any other, or as its tissue area says.
        balance: column of the cohort whose values are the groups; without it all slides are one.
    Raises:
        CohortError: unknown column, or slides without a value in it.
    """
    weights = cohort.geometry.tissue_mm2[slides] if weighting == "area" else np.ones(len(slides))
    if balance is None:
        return weights, np.zeros(len(slides), np.int64)
    column = cohort.column(balance)
    values = [column[slide] for slide in slides.tolist()]
    lacking = [slide for slide, value in zip(slides.tolist(), values, strict=True) if value is None]
    if lacking:
        raise CohortError(
            f"cohort {cohort.folder}: {_some(cohort, lacking)} without a {balance} to balance by; give it in the "
            "manifest, or leave these slides out"
        )
    return weights, np.unique([str(value) for value in values], return_inverse=True)[1]


def edges(
    weights: NDArray[np.float64], groups: NDArray[np.int64], kept: NDArray[np.bool_], mixture: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Upper edges of the shares of [0, 1) that belong to the pairs (resolution, slide), resolution by resolution.

    Args:
        weights, groups: (n,) from `slide_weights`. Groups that have a slide are drawn equally often.
        kept: (M, n) which slides are drawn at which resolution; of each resolution at least one.
        mixture: (M,) weights of the resolutions.
    Returns:
        (M * n,) rising to 1; pairs that are not kept have no share.
    """
    drawn = weights * kept  # [M, n]
    totals = np.stack([np.bincount(groups, row) for row in drawn])  # [M, groups]
    present = (totals > 0).sum(axis=1)
    per_group = (mixture / mixture.sum() / present)[:, None] / np.where(totals > 0, totals, 1.0)
    rising = np.cumsum(drawn * per_group[:, groups])
    return rising / rising[-1]


def leave_out(
    cohort: Cohort, slides: NDArray[np.int64], mpps: Sequence[float], kept: NDArray[np.bool_], wanted: str
) -> dict[int, tuple[float, ...]]:
    """The slides that are not kept (M, n) at every resolution, and at which they are not; warns once about them.

    Args:
        wanted: what they have no place for, in words.
    Raises:
        CohortError: at some resolution none is kept.
    """
    empty = [mpp for mpp, row in zip(mpps, kept, strict=True) if not row.any()]
    lost = np.flatnonzero(~kept.all(axis=0))
    left_out = {
        int(slides[k]): tuple(mpp for mpp, good in zip(mpps, kept[:, k].tolist(), strict=True) if not good)
        for k in lost.tolist()
    }
    at = empty or sorted({mpp for missing in left_out.values() for mpp in missing})
    what = (
        f"cohort {cohort.folder}: no place for {wanted} at {', '.join(f'{mpp:g}' for mpp in at)} um/px on "
        f"{_some(cohort, list(left_out))}"
    )
    if empty:
        raise CohortError(f"{what}, and nothing is left; lower size, mpp or min_tissue")
    if left_out:
        warnings.warn(f"{what}, left out there; lower size, mpp or min_tissue to use them", stacklevel=3)
    return left_out


def _some(cohort: Cohort, slides: list[int]) -> str:
    names = ", ".join(cohort[slide].name for slide in slides[:NAMED]) + (", ..." if slides[NAMED:] else "")
    return f"{len(slides)} slide{'s' if len(slides) > 1 else ''} ({names})"
