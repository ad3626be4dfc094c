"""Collapse is seen in embeddings and in targets, and told from training that goes well."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from g2l.training import collapse
from g2l.training.collapse import spread, target_use


def test_spread_tells_collapse_from_use() -> None:
    generator = torch.Generator().manual_seed(0)
    even = spread(torch.randn(500, 16, generator=generator))
    assert even["embedding_std"] == pytest.approx(1, abs=0.05)
    assert even["embedding_rank"] > 15
    line = spread(torch.randn(500, 1, generator=generator) * torch.randn(1, 16, generator=generator))
    assert line["embedding_rank"] == pytest.approx(1, abs=1e-3)
    point = spread(torch.ones(50, 16))
    assert point["embedding_std"] == pytest.approx(0, abs=1e-6)


def reference(targets: NDArray[np.float64]) -> dict[str, float]:
    """From the definitions; information as the mean divergence of the rows from their mean."""
    rows, prototypes = targets.shape
    mean = targets.mean(0)
    entropy = -(targets * np.log(targets)).sum() / rows
    return {
        "entropy": entropy,
        "entropy_share": entropy / math.log(prototypes),
        "usage": np.prod(mean**-mean),
        "prototypes": sum(share > 0.1 / prototypes for share in mean),
        "information": (targets / rows * np.log(targets / mean)).sum(),
    }


def test_use_of_prototypes_equals_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "AT_ONCE", 5)
    logits = np.random.default_rng(0).normal(0, 4, (12, 30))
    targets = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        found = target_use(torch.tensor(targets).to(dtype))
        assert {name: float(value) for name, value in found.items()} == pytest.approx(reference(targets), rel=tolerance)
        assert all(value.dtype == torch.float32 for value in found.values())


def test_both_collapses_of_targets_tell_nothing_of_their_rows() -> None:
    uniform = target_use(torch.full((16, 8), 1 / 8))
    assert uniform["entropy_share"] == pytest.approx(1) and uniform["usage"] == pytest.approx(8)
    one = target_use(torch.eye(8)[torch.zeros(16, dtype=torch.long)])
    assert one["entropy"] == 0 and one["usage"] == 1 and one["prototypes"] == 1
    for collapsed in (uniform, one):
        assert collapsed["information"] == pytest.approx(0, abs=1e-6)
    each = target_use(torch.eye(8))
    assert each["information"] == pytest.approx(math.log(8)) and each["prototypes"] == 8


def test_use_of_one_row_and_of_one_prototype_is_finite() -> None:
    for targets in (torch.tensor([[0.25, 0.75]]), torch.ones(4, 1)):
        use = target_use(targets)
        assert use["information"] == 0 and all(torch.isfinite(value) for value in use.values())
