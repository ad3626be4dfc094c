"""How far a format's embeddings may be from PyTorch's in float32, and whether they are.

Letters: n patches, D embedding width, k neighbours.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.runtime.formats import Kind
from g2l.errors import ConfigError

# By kind of format. max_difference is the most that is allowed, the others are the least.
GATES: dict[str, dict[str, float]] = {
    "fp32": {"max_difference": 1e-4, "min_cosine": 0.9999},
    "16bit": {"min_cosine": 0.999, "knn_agreement": 0.99},
    "int8": {"p1_cosine": 0.99, "knn_agreement": 0.98},
}
CLUSTERS, NEIGHBOURS = 8, 5
SETTLED = 256  # patches from which on the kNN agreement is judged; of fewer it is only told
_WORDS = {
    "max_difference": "largest difference",
    "min_cosine": "smallest cosine",
    "p1_cosine": "1st percentile of cosine",
    "knn_agreement": "kNN agreement",
}


@dataclass(frozen=True)
class Measured:
    """How embeddings compare with the reference; the figures are NaN where they could not be computed.

    Attributes:
        count: n.
        min_cosine, mean_cosine, p1_cosine: of each patch's embedding with its reference; p1: the 1st percentile.
        max_difference: the largest |difference| of any number.
        knn_agreement: share of patches that their neighbours give the same label in both.
        passed, why: the verdict of the gates, and the reason where it is no.
    """

    count: int
    min_cosine: float
    mean_cosine: float
    p1_cosine: float
    max_difference: float
    knn_agreement: float
    passed: bool
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which knows no NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def compare(reference: NDArray[np.float32], found: NDArray[np.float32], kind: Kind) -> Measured:
    """Measures embeddings against those of PyTorch in float32 and applies the gates of their kind.

    Args:
        reference: (n, D).
        found: (n, D), of the same patches in the same order.
        kind: of the format.
    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in GATES:
        raise ConfigError(f"no gates are known for formats of kind {kind}; known are {', '.join(GATES)}")
    count = len(reference)
    unknown = Measured(count, *[float("nan")] * 5, passed=False)
    if reference.ndim != 2 or found.shape != reference.shape or not count:
        return _failed(unknown, f"embeddings are {_shape(found)} where the reference is {_shape(reference)}")
    for name, values in (("reference", reference), ("found", found)):
        odd = int((~np.isfinite(values)).any(axis=1).sum())
        if odd:
            return _failed(unknown, f"{odd} of {count} {name} embeddings hold NaN or infinity")
    cosines = cosine(reference, found)
    measured = Measured(
        count,
        float(cosines.min()),
        float(cosines.mean()),
        float(np.percentile(cosines, 1)),
        float(np.abs(reference.astype(np.float64) - found).max()),
        knn_agreement(reference, found),
        passed=True,
    )
    broken = [text for name, gate in GATES[kind].items() if (text := _broken(measured, name, gate))]
    return _failed(measured, "; ".join(broken)) if broken else measured


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) cosine of each row with its partner, in float64; 0 where a row is zero."""
    return (_unit(one) * _unit(other)).sum(axis=1)


def knn_agreement(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Share of patches whose nearest neighbours among the others give them the same label in both sets.

    Labels are 8 k-means clusters of the reference, so no annotation is needed. The 5 nearest by cosine vote; a tie goes
    to the label whose voters are nearer. With fewer than 6 patches all others vote; one alone agrees with itself.
    """
    labels = _clusters(reference)
    return float((_votes(reference, labels) == _votes(found, labels)).mean())


def _clusters(embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
    """(n,) numbers of the k-means cluster of each, always the same for the same embeddings."""
    import cv2

    cv2.setRNGSeed(0)
    count = min(CLUSTERS, len(embeddings))
    until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-6)
    start = np.zeros((len(embeddings), 1), np.int32)
    points = _unit(embeddings).astype(np.float32)
    _, labels, _ = cv2.kmeans(points, count, start, until, 5, cv2.KMEANS_PP_CENTERS)
    return labels[:, 0].astype(np.int64)


def _votes(embeddings: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the label that the neighbours of each give it."""
    unit, count = _unit(embeddings), len(embeddings)
    near = min(NEIGHBOURS, count - 1)
    votes = np.zeros((count, CLUSTERS))
    for row in range(count):  # row by row: a whole (n, n) table of many patches would not fit
        similar = unit @ unit[row]
        similar[row] = -np.inf
        others = np.argsort(-similar, kind="stable")[:near]
        # One vote outweighs any sum of cosines, which only decides between labels with as many votes.
        np.add.at(votes[row], labels[others], 2 * NEIGHBOURS + similar[others])
    return votes.argmax(axis=1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)


def _broken(measured: Measured, name: str, gate: float) -> str:
    value = getattr(measured, name)
    if name == "max_difference":
        return f"{_WORDS[name]} {value:.2g} is above {gate:g}" if value > gate else ""
    # One of 64 patches that changes is more than the gate's share: a share of so few says nothing yet.
    spare = name == "knn_agreement" and measured.count < SETTLED
    return f"{_WORDS[name]} {value:.5f} is below {gate:g}" if value < gate and not spare else ""


def _failed(measured: Measured, why: str) -> Measured:
    return Measured(**(asdict(measured) | {"passed": False, "why": why}))


def _shape(array: NDArray[np.float32]) -> str:
    return " x ".join(map(str, array.shape))
