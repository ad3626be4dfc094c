"""Patches with classes, for scoring embeddings. Letters: `M` patches, `S` pixels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from g2l.data.stream import read_patches
from g2l.errors import CohortError
from g2l.slides.cohort import Cohort
from g2l.slides.placing.patches import Patch
from g2l.slides.regions import Regions, read_regions
from g2l.slides.sampling import Sampler

# Of a hundred draws, at least one must fall inside a labelled region; else the search is given up.
DRAWS_PER_PATCH = 100
AT_ONCE = 256


@dataclass(frozen=True)
class LabelledPatches:
    """Pixels and what is known of them; every array has M rows."""

    images: NDArray[np.uint8]  # (M, S, S, 3)
    labels: NDArray[np.str_]
    patients: NDArray[np.str_]
    centres: NDArray[np.str_]
    slides: NDArray[np.str_]


def labelled_patches(cohort: Cohort, sampler: Sampler, count: int, threads: int = 2) -> LabelledPatches:
    """The first `count` patches of the sampler's stream that have a class.

    A slide with a region map gives a patch the class that fills at least nine tenths of it; a slide without gives
    its own label (then a weak one: the class of the slide, not of the patch). CohortError when labels are too rare.
    """
    maps: dict[int, Regions | None] = {}

    def label(patch: Patch) -> str | None:
        record = cohort[patch.slide]
        if patch.slide not in maps:
            maps[patch.slide] = read_regions(record.regions) if record.regions else None
        regions = maps[patch.slide]
        return regions.label(patch.x, patch.y, patch.size * patch.mpp) if regions else record.label

    drawn = _drawn(sampler, count * DRAWS_PER_PATCH)
    labelled = list(islice(((patch, name) for patch in drawn if (name := label(patch)) is not None), count))
    if len(labelled) < count:
        raise CohortError(
            f"cohort {cohort.folder} gave {len(labelled)} labelled patches of {count} wanted; give the manifest a "
            "regions or label column, or ask for fewer"
        )
    patches = [patch for patch, _ in labelled]
    records = [cohort[patch.slide] for patch in patches]
    unknown = sorted({record.name for record in records if record.patient is None})
    if unknown:
        raise CohortError(
            f"cohort {cohort.folder}: slides without a patient cannot be scored ({', '.join(unknown[:5])}); give the "
            "manifest a patient column"
        )
    return LabelledPatches(
        images=read_patches(cohort, patches, threads),
        labels=np.array([name for _, name in labelled]),
        patients=np.array([record.patient for record in records]),
        centres=np.array([record.centre or "" for record in records]),
        slides=np.array([record.name for record in records]),
    )


def _drawn(sampler: Sampler, count: int) -> Iterator[Patch]:
    for first in range(0, count, AT_ONCE):
        patches = sampler.draw(np.arange(first, min(first + AT_ONCE, count)))
        yield from map(patches.patch, range(len(patches)))
