"""Decoders: their loss against numpy, their sizes, what they learn, and that the same numbers give the same decoder."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from g2l.evaluation.tasks.decoders import (
    HEADS,
    Decoder,
    Training,
    convolutional_head,
    fit_decoder,
    linear_head,
    overlap_loss,
    predict,
)

CPU = torch.device("cpu")


def plain_loss(logits, truth):
    """Cross-entropy over judged pixels + 1 - mean soft Dice of the classes there, in numpy."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True)
    seen = truth != 255
    entropy = -np.mean([np.log(p[b, truth[b, i, j], i, j]) for b, i, j in np.argwhere(seen)])
    dices = []
    for code in range(1, logits.shape[1]):
        y = (truth == code)[seen]
        if y.any():
            q = p[:, code][seen]
            dices.append((2 * (q * y).sum() + 1) / (q.sum() + y.sum() + 1))
    return entropy + 1 - np.mean(dices)


@pytest.mark.parametrize("seed", range(4))
def test_loss_agrees_with_numpy(seed):
    rng = np.random.default_rng(seed)
    logits, truth = rng.normal(size=(2, 4, 5, 5)), rng.choice([0, 1, 3, 255], (2, 5, 5)).astype(np.uint8)
    value = overlap_loss(torch.from_numpy(logits), torch.from_numpy(truth))
    assert float(value) == pytest.approx(plain_loss(logits, truth))


def test_loss_gradient_by_finite_differences_and_ignored_pixels_have_none():
    logits = torch.randn(
        2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    truth = torch.tensor(np.random.default_rng(0).choice([0, 1, 2, 255], (2, 4, 4)).astype(np.uint8))
    assert torch.autograd.gradcheck(lambda x: overlap_loss(x, truth), (logits,))
    overlap_loss(logits, truth).backward()
    assert logits.grad is not None
    alone = (truth == 255)[:, None].expand_as(logits)
    assert not logits.grad[alone].any() and logits.grad[~alone].any()


def test_loss_of_perfect_of_empty_and_of_unjudged_masks():
    truth = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.uint8)
    perfect = 60.0 * F.one_hot(truth.long(), 2).movedim(-1, 1)
    assert float(overlap_loss(perfect, truth)) == pytest.approx(0, abs=1e-6)
    nothing = torch.zeros(1, 2, 2, 2, requires_grad=True)
    value = overlap_loss(nothing, torch.full((1, 2, 2), 255, dtype=torch.uint8))
    assert value.item() == 0
    value.backward()
    assert nothing.grad is not None and not nothing.grad.any()
    empty = overlap_loss(-perfect, torch.zeros(1, 2, 2, dtype=torch.uint8))
    assert torch.isfinite(empty) and float(empty) > 0


def test_pixels_are_bilinear_between_the_logits_of_tokens():
    decoder = Decoder(linear_head(5, 3), torch.zeros(5), torch.ones(5))
    tokens = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(decoder.head(tokens.permute(0, 3, 1, 2)), (20, 20), mode="bilinear")
    assert torch.allclose(decoder(tokens, 20), expected, atol=1e-5)


@pytest.mark.parametrize("width", [192, 1024, 1536])
def test_the_convolutional_decoder_is_small(width):
    head = convolutional_head(width, 9)
    assert sum(parameter.numel() for parameter in head.parameters()) < 700_000
    assert head(torch.zeros(1, width, 4, 4)).shape == (1, 9, 32, 32)


def scene(images: int = 24, grid: int = 4, width: int = 6, side: int = 32):
    """Masks of two classes on a grid of tokens that say, with noise, which class is there; one feature is constant."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (images, grid, grid))
    tokens = 50 + rng.normal(size=(images, grid, grid, width)) * 0.3
    tokens[..., :3] += np.eye(3)[classes]
    tokens[..., 3] = 7
    masks = classes.repeat(side // grid, 1).repeat(side // grid, 2).astype(np.uint8)
    return tokens.astype(np.float32), masks


def fitted(name, seed=0, patience=5, epochs=25, score=None, asked=None):
    tokens, masks = scene()

    def read(rows):
        if asked is not None:
            asked.append(len(rows))
        return tokens[rows]

    def accuracy(decoder):
        return float((predict(decoder, tokens[18:], 32, CPU) == masks[18:]).mean())

    training = Training(epochs, patience, 4, 2e-2, 1e-4)
    score = score or accuracy
    rows = np.arange(18)
    return fit_decoder(HEADS[name], 3, rows, read, lambda r: masks[r], score, training, seed, CPU, lambda text: None)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(HEADS))
def test_learns_what_tokens_say_and_is_the_same_again(name):
    before = torch.random.get_rng_state()
    first, again, other = (fitted(name, seed=seed, epochs=8) for seed in (0, 0, 1))
    assert max(first.dice) > 0.75
    assert first.dice[first.epoch - 1] == max(first.dice)
    states = [result.decoder.state_dict() for result in (first, again, other)]
    weight = "head.weight" if name == "linear" else "head.0.weight"
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert not torch.equal(states[0][weight], states[2][weight])
    assert torch.equal(before, torch.random.get_rng_state())


def test_ends_after_epochs_without_a_better_score_and_keeps_the_best():
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.2])
    states = []

    def score(decoder):
        states.append({key: value.clone() for key, value in decoder.state_dict().items()})
        return next(scores)

    result = fitted("linear", patience=3, score=score)
    assert result.epoch == 2 and len(result.dice) == 5
    assert all(torch.equal(value, states[1][key]) for key, value in result.decoder.state_dict().items())


def test_tokens_are_read_in_batches():
    asked: list[int] = []
    fitted("linear", epochs=2, asked=asked)
    assert max(asked) == 4 and sum(asked) == 18 * 3


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(HEADS))
def test_is_the_same_again_on_a_gpu(name):
    tokens, masks = scene()
    training = Training(3, 3, 4, 2e-2, 1e-4)
    device = torch.device("cuda")
    states = [
        fit_decoder(
            HEADS[name], 3, np.arange(18), lambda r: tokens[r], lambda r: masks[r], lambda d: 0.0, training, 0, device,
            lambda text: None,
        ).decoder.state_dict()
        for _ in range(2)
    ]  # fmt: skip
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
