"""Which slides train and which are held out: whole groups (patients, centres), never parts of one."""

from collections.abc import Sequence

import numpy as np

from g2l.errors import CohortError

PARTS = ("train", "val", "test")


def split_groups(where: str, column: str, groups: Sequence[str], fraction: float, seed: int) -> dict[str, list[int]]:
    """Hold out a share of the groups, drawn with `seed` and independent of the order of the rows.

    Args:
        where, column: for messages. groups: of every row.
        fraction: of the groups; at least one is held out and at least one is left.
    """
    if not 0 < fraction < 1:
        raise CohortError(f"cohort {where}: the share to hold out is {fraction}; give a number between 0 and 1")
    names = sorted(set(groups))
    if len(names) < 2:
        raise CohortError(
            f"cohort {where}: all {len(groups)} slides have one {column} ({', '.join(names)}), nothing can be held "
            "out; add slides, give a split column in the manifest, or hold out by another column"
        )
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    held = {names[k] for k in np.random.default_rng(seed).permutation(len(names))[:count]}
    return {
        "train": [i for i, group in enumerate(groups) if group not in held],
        "val": [i for i, group in enumerate(groups) if group in held],
        "test": [],
    }


def split_stated(
    where: str, column: str, groups: Sequence[str], parts: Sequence[str | None], names: Sequence[str]
) -> dict[str, list[int]]:
    """The split a manifest states, refused where it is incomplete or divides a group."""
    wrong = [f"{name}: {part}" for name, part in zip(names, parts, strict=True) if part not in PARTS]
    if wrong:
        raise CohortError(
            f"cohort {where}: split must be {', '.join(PARTS)} for every slide, but: {'; '.join(wrong[:5])}"
        )
    torn = divided(groups, parts)
    if torn:
        raise CohortError(
            f"cohort {where}: {column} in more than one part of the split: {', '.join(torn)}; put each into one part"
        )
    found = {part: [i for i, value in enumerate(parts) if value == part] for part in PARTS}
    for part in ("train", "val"):
        if not found[part]:
            raise CohortError(f"cohort {where}: the split column puts no slide into {part}; name at least one")
    return found


def divided(groups: Sequence[str | None], parts: Sequence[str | None]) -> list[str]:
    """The groups that occur in more than one part, sorted, each with its parts."""
    seen: dict[str, set[str]] = {}
    for group, part in zip(groups, parts, strict=True):
        if group is not None and part is not None:
            seen.setdefault(group, set()).add(part)
    return [f"{group} ({' and '.join(sorted(of))})" for group, of in sorted(seen.items()) if len(of) > 1]
