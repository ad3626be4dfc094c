"""KoLeo and KDE: references, gradients, and that descent spreads what it is given."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from g2l.objectives.kde import kde
from g2l.objectives.koleo import koleo

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"koleo": koleo, "kde": kde}


def units(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def koleo_reference(x: np.ndarray) -> float:
    rows = units(x)
    nearest = [min(np.linalg.norm(a - b) for j, b in enumerate(rows) if j != i) for i, a in enumerate(rows)]
    return float(-np.mean(np.log(np.array(nearest) + 1e-8)))


def kde_reference(x: np.ndarray, kappa: float) -> float:
    rows = units(x)
    densities = [np.mean([np.exp(kappa * a @ b) for j, b in enumerate(rows) if j != i]) for i, a in enumerate(rows)]
    return float(np.mean(np.log(densities)))


def mean_cosine(x: Tensor) -> float:
    rows = torch.nn.functional.normalize(x.detach(), dim=-1)
    cosines = rows @ rows.T
    return ((cosines.sum() - cosines.trace()) / (len(x) * (len(x) - 1))).item()


def cloud(rows: int = 12, width: int = 5, offset: float = 0.7) -> Tensor:
    """Embeddings with a common direction, as encoders have them."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(3)) + offset


def test_koleo_equals_the_reference() -> None:
    x = cloud()
    assert koleo(x).item() == pytest.approx(koleo_reference(x.double().numpy()), rel=1e-5)


@pytest.mark.parametrize("kappa", [0.5, 5.0, 40.0])
def test_kde_equals_the_reference(kappa: float) -> None:
    x = cloud()
    assert kde(x, kappa).item() == pytest.approx(kde_reference(x.double().numpy(), kappa), rel=1e-5)


def test_descent_on_kde_lowers_the_mean_cosine() -> None:
    """The sign: a public replication has it inverted, and gathers the embeddings at one point."""
    x = cloud().requires_grad_()
    cosines = [mean_cosine(x)]
    for _ in range(20):
        (gradient,) = torch.autograd.grad(kde(x), x)
        x = (x - 0.5 * gradient).detach().requires_grad_()
        cosines.append(mean_cosine(x))
    assert all(after < before for before, after in pairwise(cosines))
    assert cosines[0] > 0.3 and cosines[-1] < 0.05


def test_descent_on_koleo_drives_the_nearest_neighbour_away() -> None:
    x = cloud().requires_grad_()
    before = koleo_reference(x.detach().double().numpy())
    for _ in range(40):
        (gradient,) = torch.autograd.grad(koleo(x), x)
        x = (x - 0.2 * gradient).detach().requires_grad_()
    assert koleo_reference(x.detach().double().numpy()) < before - 0.3


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    x = cloud(6, 4).double().requires_grad_()
    # float32 inside: steps and tolerance to match.
    assert torch.autograd.gradcheck(LOSSES[name], (x,), eps=3e-3, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_scale_and_order_of_the_rows_change_nothing(name: str) -> None:
    x = cloud()
    assert torch.allclose(LOSSES[name](x), LOSSES[name](1e6 * x.flip(0)), atol=1e-5)


@pytest.mark.parametrize(("name", "same"), [("koleo", 8 * np.log(10)), ("kde", 5.0)])
def test_identical_rows_are_finite(name: str, same: float) -> None:
    x = torch.ones(4, 8).requires_grad_()
    value = LOSSES[name](x)
    value.backward()
    assert value.item() == pytest.approx(same, rel=1e-5)
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", LOSSES)
def test_a_single_row_costs_nothing_and_has_a_graph(name: str) -> None:
    x = torch.ones(1, 8).requires_grad_()
    value = LOSSES[name](x)
    value.backward()
    assert value.item() == 0 and x.grad is not None and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_within_a_tenth_and_autocast_within_nothing(name: str) -> None:
    """Autocast would take the cosines in bfloat16, where near rows are all equally near."""
    x = cloud(16, 64, offset=3.0)
    exact = LOSSES[name](x)
    assert LOSSES[name](x.bfloat16()).item() == pytest.approx(exact.item(), abs=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(LOSSES[name](x), exact)


def test_near_duplicates_shake_koleo_and_not_kde() -> None:
    x = cloud()
    x[1] = x[0] + 1e-5
    norms = {}
    for name, loss in LOSSES.items():
        leaf = x.clone().requires_grad_()
        loss(leaf).backward()
        assert leaf.grad is not None
        norms[name] = leaf.grad.norm().item()
    assert norms["kde"] < 5 < 100 < norms["koleo"]


def test_a_kernel_without_concentration_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        kde(cloud(), kappa=0)
