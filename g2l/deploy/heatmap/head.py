"""A linear head in a file: what a probe on a student's embeddings says about a patch.

Letters: C classes, D width of the embedding, n patches.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2l.errors import ConfigError


@dataclass(frozen=True)
class Head:
    """Probabilities of classes: softmax of ((x - mean) / std) @ weight.T + bias.

    Attributes:
        classes: their C names. weight: (C, D). bias: (C,). mean, std: (D,).
        encoder: hash of the encoder that it was fitted on, or "".
    """

    classes: tuple[str, ...]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    encoder: str = ""

    def __call__(self, embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, D) -> (n, C) probabilities; nan stays nan."""
        logits = (embeddings - self.mean) / self.std @ self.weight.T + self.bias
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def save_head(
    file: str | Path,
    weight: ArrayLike,
    bias: ArrayLike,
    classes: Sequence[object],
    mean: ArrayLike | None = None,
    std: ArrayLike | None = None,
    encoder: str = "",
) -> None:
    """Write a head as HDF5. scikit-learn's LogisticRegression: `save_head(file, it.coef_, it.intercept_, it.classes_)`.

    Args:
        weight: (C, D); of two classes one row (1, D) will do, which speaks for the second.
        bias: (C,). classes: C names. mean, std: (D,), of a scaler before it.
        encoder: the attribute encoder_hash of the features it was fitted on; heatmaps of others are then refused.
    Raises:
        ConfigError: shapes that do not fit, numbers that are not finite, or a file that cannot be written.
    """
    import h5py

    rows, offset = np.atleast_2d(np.asarray(weight, np.float64)), np.atleast_1d(np.asarray(bias, np.float64))
    if len(rows) == 1 and len(classes) == 2:
        rows, offset = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros(1), offset])
    width = rows.shape[1]
    head = Head(
        tuple(map(str, classes)),
        rows,
        offset,
        np.zeros(width) if mean is None else np.asarray(mean, np.float64),
        np.ones(width) if std is None else np.asarray(std, np.float64),
        encoder,
    )
    _check(Path(file), head)
    temporary = Path(f"{file}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w") as content:
            for name in ("weight", "bias", "mean", "std"):
                content[name] = getattr(head, name)
            content.create_dataset("classes", data=list(head.classes), dtype=h5py.string_dtype())
            content.attrs["encoder_hash"] = encoder
        temporary.replace(file)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"head {file} cannot be written ({error}); choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_head(file: Path) -> Head:
    """Read what `save_head` wrote. ConfigError: no such file, or no head."""
    import h5py

    if not file.is_file():
        raise ConfigError(f"head {file} does not exist; write one with g2l.deploy.heatmap.head.save_head")
    try:
        with h5py.File(file, "r", locking=False) as content:
            found: Any = {name: np.asarray(content[name], np.float64) for name in ("weight", "bias", "mean", "std")}
            names: Any = content["classes"]
            head = Head(tuple(names.asstr()[:].tolist()), **found, encoder=str(content.attrs.get("encoder_hash", "")))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"head {file} is none ({' '.join(str(error).split())}); write it with g2l.deploy.heatmap.head.save_head"
        ) from error
    _check(file, head)
    return head


def _check(file: Path, head: Head) -> None:
    count = len(head.classes)
    width = head.weight.shape[-1]
    shapes = [head.weight.shape, head.bias.shape, head.mean.shape, head.std.shape]
    if count < 2 or len(set(head.classes)) < count or shapes != [(count, width), (count,), (width,), (width,)]:
        raise ConfigError(
            f"head {file}: {count} classes, and weight, bias, mean, std of {', '.join(map(str, shapes))}; needed are "
            "two or more classes of different names, (C, D), (C,), (D,), (D,)"
        )
    if (
        not all(np.isfinite(part).all() for part in (head.weight, head.bias, head.mean, head.std))
        or (head.std <= 0).any()
    ):
        raise ConfigError(f"head {file} holds numbers that are not finite, or a std that is not positive; fit it again")
