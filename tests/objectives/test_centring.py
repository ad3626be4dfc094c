"""The centre: moves once a step, by every row once, and never by nothing."""

import copy

import numpy as np
import pytest
import torch
from test_dino import softmax

from g2l.objectives.centring import Centring


def test_targets_and_centre_equal_the_reference_over_steps_of_several_batches() -> None:
    rng = np.random.default_rng(0)
    centring, centre = Centring(6, momentum=0.9), np.zeros(6)
    for _ in range(4):
        batches = [rng.normal(1, 2, (rows, 6)) for rows in (5, 1, 8)]  # of unequal size: rows count, not batches
        for batch in batches:
            targets = centring.targets(torch.tensor(batch), temperature=0.07)
            assert np.allclose(targets.numpy(), softmax((batch - centre) / 0.07), atol=1e-5)
        centring.step()
        centre = 0.9 * centre + 0.1 * np.concatenate(batches).mean(0)
        assert np.allclose(centring.centre.numpy(), centre, atol=1e-6)


def test_targets_are_float32_probabilities_of_any_leading_shape_without_gradient() -> None:
    centring = Centring(4)
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    targets = centring.targets(logits.bfloat16(), 0.04)
    assert targets.shape == (2, 3, 4) and targets.dtype == torch.float32 and not targets.requires_grad
    assert torch.allclose(targets.sum(-1), torch.ones(2, 3))
    assert torch.equal(targets, Centring(4).targets(logits.bfloat16().float(), 0.04))
    centring.step()
    assert torch.allclose(centring.centre, 0.1 * logits.detach().mean((0, 1)), atol=1e-3)
    many = Centring(1)
    many.targets(torch.full((301, 1), 3, dtype=torch.bfloat16), 0.04)  # a sum that bfloat16 cannot hold
    many.step()
    assert many.centre.item() == pytest.approx(0.3, rel=1e-6) and many.centre.dtype == torch.float32


def test_a_step_without_rows_moves_nothing() -> None:
    centring = Centring(3)
    centring.targets(torch.ones(2, 3), 0.1)
    centring.step()
    before = centring.centre.clone()
    centring.step()
    assert centring.targets(torch.zeros(0, 3), 0.1).shape == (0, 3)
    centring.step()
    assert torch.equal(centring.centre, before) and before.isfinite().all()


def test_a_checkpoint_between_steps_continues_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(2)
    first, second = torch.randn(2, 9, 5, generator=generator)
    whole = Centring(5)
    whole.targets(first, 0.1)
    whole.step()
    resumed = Centring(5)
    assert list(whole.state_dict()) == ["centre"]
    resumed.load_state_dict(whole.state_dict())
    for centring in (whole, resumed, copy.deepcopy(whole)):
        centring.targets(second, 0.1)
        centring.step()
    assert torch.equal(whole.centre, resumed.centre)


def test_logits_of_inference_mode_are_taken() -> None:
    centring = Centring(3)
    with torch.inference_mode():
        logits = torch.ones(2, 3)
        centring.targets(logits, 0.1)
    targets = centring.targets(logits, 0.1)
    centring.step()
    assert torch.allclose(centring.centre, torch.full((3,), 0.1))
    student = torch.zeros(2, 3, requires_grad=True)
    (student * targets).sum().backward()  # autograd saves no inference tensor


def test_large_logits_give_one_hot_targets_and_a_momentum_of_one_is_refused() -> None:
    targets = Centring(3).targets(torch.tensor([[1e6, 0.0, -1e6]]), 0.04)
    assert torch.equal(targets, torch.tensor([[1.0, 0.0, 0.0]]))
    with pytest.raises(ValueError, match="below 1"):
        Centring(3, momentum=1.0)
