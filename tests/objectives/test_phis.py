"""PHI-S and its Hadamard matrices, the loss that uses them, and moments that remember being ready."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from g2l.objectives.hadamard import hadamard
from g2l.objectives.mse import MSELoss, mse
from g2l.objectives.normalise import CohortMoments
from g2l.objectives.phis import PhiS

# Widths of encoders: the catalogue's and timm's, CLS tokens joined with a mean of patches included.
WIDTHS = [
    1,
    2,
    64,
    96,
    160,
    192,
    320,
    384,
    512,
    640,
    768,
    896,
    1024,
    1152,
    1280,
    1408,
    1536,
    1664,
    1792,
    2048,
    2560,
    3072,
]


def features(rows: int = 500, width: int = 12, seed: int = 0) -> Tensor:
    """Correlated features with an offset, some directions a thousand times weaker than others."""
    rng = np.random.default_rng(seed)
    spread = np.logspace(0, -3, width)
    return torch.tensor(rng.normal(size=(rows, width)) * spread @ rng.normal(size=(width, width)) + 5)


def gathered(x: Tensor, chunk: int = 70) -> PhiS:
    target = PhiS(x.shape[1])
    for part in x.split(chunk):
        target.update(part)
    return target


@pytest.mark.parametrize("order", [*WIDTHS[:16], 4, 12, 20, 28, 36, 44])
def test_hadamard_rows_are_orthogonal_signs(order: int) -> None:
    matrix = hadamard(order)
    assert torch.equal(matrix.abs(), torch.ones(order, order, dtype=torch.float64))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order, dtype=torch.float64))


@pytest.mark.parametrize("order", [0, 3, 6, 7, 30])
def test_orders_without_hadamard_matrix_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order {order}"):
        hadamard(order)


def test_every_output_has_variance_one_and_distances_keep_their_ratios() -> None:
    x = features()
    y = gathered(x)(x).double()
    assert y.dtype == torch.float64 and torch.allclose(y.mean(0), torch.zeros(12, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(y.var(0, unbiased=False), torch.ones(12, dtype=torch.float64), atol=1e-4)
    ratio = torch.pdist(y[:20]) / torch.pdist(x[:20])
    assert torch.allclose(ratio, ratio[0].expand(190), rtol=1e-4)


def test_equals_the_formula_of_the_paper() -> None:
    """H U^T (x - mean) / phi with numpy's covariance and a Hadamard matrix of 4, up to the signs of eigenvectors."""
    x = features(width=4)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    h = np.array([[1, 1, 1, 1], [-1, 1, -1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1]]) / 2  # as Paley writes it
    target = gathered(x)
    ours = target(x).double().numpy() @ hadamard(4).numpy() / 2  # the principal coordinates
    wanted = (x.numpy() - x.numpy().mean(0)) @ vectors / np.sqrt(values.mean())
    assert np.allclose(h @ h.T, np.eye(4))
    assert np.allclose(np.abs(ours), np.abs(wanted), atol=1e-4)


def test_the_transform_travels_with_the_checkpoint() -> None:
    """Another machine's eigenvectors may point the other way; the head has learnt those of the first."""
    x = features()
    first = gathered(x)
    before = first(x)
    second = PhiS(12)
    state = first.state_dict()
    state["transform"] = -state["transform"]
    second.load_state_dict(state)
    assert second.ready and torch.equal(second(x), -before)
    assert torch.equal(copy.deepcopy(first)(x), before)


def test_moments_saved_before_the_first_use_give_the_transform_after_loading() -> None:
    x = features()
    first, second = gathered(x), gathered(x[:50])
    second(x)  # it has a transform of its own, which must go
    second.load_state_dict(first.state_dict())
    assert torch.allclose(second(x).abs(), first(x).abs(), atol=1e-5)


def test_more_rows_find_the_transform_anew() -> None:
    x = features()
    target = gathered(x[:100])
    target(x)
    target.update(x[100:])
    assert torch.allclose(target(x).var(0, unbiased=False), torch.ones(12), atol=1e-4)


def test_fewer_rows_than_dimensions_and_no_spread_stay_finite() -> None:
    x = features(rows=5)
    y = gathered(x)(x)
    assert torch.allclose(y.var(0, unbiased=False), torch.ones(12), atol=1e-3)
    still = torch.ones(4, 12)
    assert torch.equal(gathered(still)(still), torch.zeros(4, 12))


def test_moments_of_the_covariance_are_the_cohorts() -> None:
    x = features()
    moments, plain = gathered(x).moments(), CohortMoments(12)
    plain.update(x)
    assert torch.allclose(moments.mean, plain.moments().mean) and torch.allclose(moments.var, plain.moments().var)


def test_once_found_the_transform_alone_is_read() -> None:
    """The covariance is 19 MB for 1536 dimensions: no step may pass over it."""
    x = features()
    target = gathered(x)
    before = target(x)
    target.m2.fill_(torch.nan)
    assert torch.equal(target(x), before)
    with pytest.raises(RuntimeError, match="before any feature"):
        PhiS(12)(x)


def test_mse_equals_the_reference_and_is_one_for_a_silent_student() -> None:
    rng = np.random.default_rng(4)
    zs, zt = rng.normal(size=(2, 9, 12))
    assert mse(torch.tensor(zs), torch.tensor(zt)).item() == pytest.approx(((zs - zt) ** 2).mean(), rel=1e-5)
    x = features()
    loss = MSELoss(12)
    with pytest.raises(RuntimeError, match="before any feature"):
        loss(x, x)
    assert loss.target is not None
    loss.target.update(x)
    assert loss(torch.zeros(500, 12), x).item() == pytest.approx(1, abs=1e-4)
    assert loss(loss.target(x), x).item() == 0
    assert MSELoss(7, standardised=False)(torch.ones(3, 7), torch.zeros(3, 7)).item() == 1


def test_mse_in_bfloat16_and_its_gradient() -> None:
    x = features()
    loss = MSELoss(12)
    assert loss.target is not None
    loss.target.update(x)
    zs = torch.randn(6, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    exact = loss(zs, x[:6]).item()
    assert loss(zs.bfloat16(), x[:6].bfloat16()).item() == pytest.approx(exact, rel=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(zs, x[:6]).item() == pytest.approx(exact, rel=1e-6)
    assert torch.autograd.gradcheck(lambda z: loss(z, x[:6]), (zs,), eps=1e-2, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("kind", [CohortMoments, PhiS])
def test_readiness_is_remembered_and_asked_again_after_loading(kind: type[CohortMoments]) -> None:
    moments, empty = kind(4), kind(4).state_dict()
    assert not moments.ready
    moments.update(torch.zeros(0, 4))
    assert not moments.ready and moments.mean.isfinite().all()
    moments.update(torch.ones(3, 4))
    full = copy.deepcopy(moments.state_dict())
    assert moments.ready
    moments.rows.zero_()  # no longer looked at
    assert moments.ready
    moments.load_state_dict(empty)
    assert not moments.ready
    moments.load_state_dict(full)
    assert moments.ready
