"""Slides as bags of made-up embeddings, whose class or risk a few of the patches carry. Letter: N slides."""

from pathlib import Path

import numpy as np
from evaluation.made import MadeFeatures
from numpy.typing import NDArray

from g2l.evaluation.embedding.features import Bag
from g2l.evaluation.tables.table import Table

ROOT = Path("/made")
WIDTH, SIZE_UM = 16, 112.0
PARTS = ("train", "train", "train", "val", "test", "test")


def bag_of(rng: np.random.Generator, strength: float, patches: int = 40, share: float = 0.15) -> Bag:
    """Noise of width 16 in which a share of the patches is shifted by `strength` in the first four columns."""
    rows = rng.normal(size=(patches, WIDTH)).astype(np.float32)
    touched = rng.permutation(patches)[: max(1, int(share * patches))]
    rows[touched, :4] += strength
    return Bag(
        rows, np.arange(patches) * np.float64(SIZE_UM), SIZE_UM * rng.integers(0, 9, patches).astype(float), SIZE_UM
    )


def slides_table(count: int, each: int = 1, **columns: NDArray) -> Table:
    """N slides, `each` per patient, parts by patient."""
    patient = np.arange(count) // each
    return Table.build(
        "made",
        [ROOT / f"s{k:03d}.svs" for k in range(count)],
        ROOT,
        labels=columns.pop("labels", None),
        patients=np.array([f"p{k:03d}" for k in patient]),
        slides=np.array([f"s{k:03d}" for k in range(count)]),
        splits=np.array([PARTS[k % 6] for k in patient]),
        extra=columns,
    )


def classed(seed: int, count: int = 90, strength: float = 3.0) -> tuple[Table, MadeFeatures]:
    """Slides of two classes; of "tumor" a few patches are shifted by `strength` (0: nothing to find)."""
    rng = np.random.default_rng(seed)
    tumor = rng.permutation(count) % 2 == 0
    bags = {k: bag_of(rng, strength * tumor[k]) for k in range(count)}
    return slides_table(count, labels=np.where(tumor, "tumor", "normal")), MadeFeatures(bags=bags)


def followed(
    seed: int, patients: int = 120, each: int = 2, strength: float = 2.0, hazard: float = 1.5
) -> tuple[Table, MadeFeatures]:
    """Patients with `each` slides and a risk: a share of their patches that rises with it is shifted by `strength`.

    The share is the sigmoid of twice the risk. Entry is staggered over 3 years.

    The hazard is .4 exp(hazard x risk) per year; strength 0: slides say nothing of it.
    """
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=patients)
    died, left = rng.exponential(2.5 * np.exp(-hazard * risk)), rng.uniform(0.3, 3, patients)
    time, event = np.minimum(died, left), died <= left
    shares = 1 / (1 + np.exp(-2 * np.repeat(risk, each)))
    bags = {k: bag_of(rng, strength, 30, share) for k, share in enumerate(shares.tolist())}
    columns = {"time": np.repeat(time, each), "event": np.repeat(event, each).astype(float)}
    return slides_table(patients * each, each, **columns), MadeFeatures(bags=bags)
