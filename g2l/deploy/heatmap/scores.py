"""Numbers for each patch from its embedding, in a few passes over the file. Letters: N patches, D width, C numbers.

A patch whose embedding is not finite gets nan.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.heatmap.features import Features
from g2l.errors import ConfigError

COMPONENTS = 3
ROUNDING = 3e-7  # relative: what embeddings in float32 differ by without differing


class Principal(NamedTuple):
    """values: (N, 3) along the first components, centred; share: (3,) of the variance that each holds."""

    values: NDArray[np.float32]
    share: NDArray[np.float64]


def similarity(features: Features, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, 1) mean cosine to the chosen patches. ConfigError: none of these has an embedding."""
    total, count = np.zeros(features.width), 0
    wanted = np.zeros(len(features), np.bool_)
    wanted[chosen] = True
    for place, part in features.chunks():
        units = _units(part[wanted[place]])
        units = units[np.isfinite(units).all(axis=1)]
        total, count = total + units.sum(axis=0), count + len(units)
    if not count:
        raise ConfigError(f"features {features.path}: no chosen patch has an embedding that is finite and not zero")
    return _mapped(features, lambda part: _units(part) @ (total / count)[:, None], 1)


def probabilities(
    features: Features, head: Callable[[NDArray[np.float64]], NDArray[np.float64]], classes: int
) -> NDArray[np.float32]:
    """(N, C) by a head."""
    return _mapped(features, head, classes)


def principal(features: Features) -> Principal:
    """The first three principal components of a slide's patches, exactly (float64, the mean taken off first).

    Each points to the side where its largest loading is positive. Where there are fewer, the rest is 0.
    """
    total, count = np.zeros(features.width), 0
    for _, part in features.chunks():
        part = part[np.isfinite(part).all(axis=1)]
        total, count = total + part.sum(axis=0), count + len(part)
    if not count:
        raise ConfigError(f"features {features.path}: no embedding is finite; embed the slide again")
    mean = total / count
    scatter = np.zeros((features.width, features.width))
    for _, part in features.chunks():
        centred = part[np.isfinite(part).all(axis=1)] - mean
        scatter += centred.T @ centred
    variances, vectors = np.linalg.eigh(scatter)
    axes = np.zeros((features.width, COMPONENTS))
    share = np.zeros(COMPONENTS)
    whole = float(np.trace(scatter))
    least = max(1e-12 * whole, count * ROUNDING**2 * float(mean @ mean))
    for k in range(min(COMPONENTS, features.width)):
        if variances[-1 - k] > least:
            axis = vectors[:, -1 - k]
            axes[:, k] = axis * np.sign(axis[np.abs(axis).argmax()])
            share[k] = variances[-1 - k] / whole
    return Principal(_mapped(features, lambda part: (part - mean) @ axes, COMPONENTS), share)


def _mapped(
    features: Features, function: Callable[[NDArray[np.float64]], NDArray[np.float64]], width: int
) -> NDArray[np.float32]:
    values = np.empty((len(features), width), np.float32)
    for place, part in features.chunks():
        values[place] = function(part)
    return values


def _units(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; nan where the length is 0."""
    lengths = np.linalg.norm(part, axis=1, keepdims=True)
    return part / np.where(lengths > 0, lengths, np.nan)
