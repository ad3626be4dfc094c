"""Two processes with half of the images each are one with all: DINO with its centre, iBOT, KDE, MSE."""

import numpy as np
import pytest
import torch
from gloo import on_two_processes
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from g2l.objectives.centring import Centring
from g2l.objectives.collective import all_rows, all_sum, from_first, rank, world_size
from g2l.objectives.dino import dino
from g2l.objectives.ibot import ibot
from g2l.objectives.kde import kde
from g2l.objectives.mse import MSELoss

IMAGES, STEPS, WIDTH, PROTOTYPES, LEARNING_RATE = 8, 10, 6, 5, 0.05
MASKED = (
    0,
    3,
    1,
    0,
    7,
    2,
    0,
    5,
)  # tokens of each image, so that the processes have different numbers, one of them none


class Student(nn.Module):
    """A head, and in it the centres of the two losses, as buffers that DistributedDataParallel broadcasts."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, PROTOTYPES)
        self.cls_centre, self.patch_centre = Centring(PROTOTYPES), Centring(PROTOTYPES)

    def forward(self, crops: Tensor, patches: Tensor, counts: list[int]) -> Tensor:
        """Loss of crops (4, B, D), the first two the teacher's, and of masked tokens (M, D), `counts` of each image."""
        logits, tokens = self.head(crops), self.head(patches)
        targets = self.cls_centre.targets(logits[:2] + 1, 0.07)
        weights = torch.cat([torch.full((n,), 1 / n) for n in counts if n] or [torch.zeros(0)])
        hidden = ibot(tokens, self.patch_centre.targets(tokens - 2, 0.07), weights, crops=2 * len(counts))
        return dino(logits, targets) + hidden


def images(seed: int) -> tuple[Tensor, list[Tensor]]:
    """Crops (4, IMAGES, WIDTH) and the masked tokens of each image."""
    generator = torch.Generator().manual_seed(seed)
    crops = torch.randn(4, IMAGES, WIDTH, generator=generator)
    return crops, [torch.randn(n, WIDTH, generator=generator) for n in MASKED]


def train(chosen: list[int], distributed: bool) -> tuple[list[float], Tensor, Tensor]:
    """Losses of ten steps, then the head's weights, and the two centres."""
    torch.manual_seed(0)
    student = Student()
    wrapped = DistributedDataParallel(student) if distributed else student
    optimiser = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE)
    losses = []
    for step in range(STEPS):
        crops, tokens = images(step)
        loss = wrapped(crops[:, chosen], torch.cat([tokens[i] for i in chosen]), [MASKED[i] for i in chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        student.cls_centre.step()
        student.patch_centre.step()
        losses.append(loss.item())
    weights = torch.cat([parameter.detach().flatten() for parameter in student.parameters()])
    return losses, weights, torch.stack([student.cls_centre.centre, student.patch_centre.centre])


def train_half(rank: int, halves: list[list[int]]) -> tuple[list[float], Tensor, Tensor]:
    return train(halves[rank], distributed=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "halves", [[[0, 2, 4, 6], [1, 3, 5, 7]], [[1, 2, 4, 5], [0, 3, 6, 7]], [[0, 3, 6, 6], [1, 4, 7, 7]]]
)
def test_ten_steps_of_dino_and_ibot_end_at_the_same_weights_and_centres(halves: list[list[int]]) -> None:
    losses, weights, centres = train([*halves[0], *halves[1]], distributed=False)
    results = on_two_processes(train_half, halves)
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][2], results[1][2])
    assert torch.allclose(results[0][1], weights, rtol=1e-5, atol=1e-5)
    assert torch.allclose(results[0][2], centres, rtol=1e-5, atol=1e-6)
    assert np.allclose(np.mean([result[0] for result in results], 0), losses, atol=1e-5)
    assert centres.abs().max() > 0.1  # after ten steps there is something to agree on


def one_step(
    name: str, features: Tensor, targets: Tensor, distributed: bool, across: bool = True
) -> tuple[float, Tensor]:
    """One loss and the gradient of a linear student."""
    torch.manual_seed(0)
    student: nn.Module = nn.Linear(4, 12)
    if distributed:
        student = DistributedDataParallel(student)
    if name == "mse":
        loss = MSELoss(12)
        assert loss.target is not None
        loss.target.update(targets)
        value = loss(student(features), targets)
    else:
        value = kde(student(features), across_ranks=across)
    value.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in student.parameters() if parameter.grad is not None])
    return value.item(), gradient


def half_step(rank: int, name: str, features: Tensor, targets: Tensor, across: bool) -> tuple[float, Tensor]:
    return one_step(name, features[rank::2], targets[rank::2], distributed=True, across=across)


@pytest.mark.parametrize(("name", "across"), [("kde", True), ("kde", False), ("mse", True)])
def test_value_and_gradient_of_two_processes_are_those_of_one(name: str, across: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    features = normalize(torch.randn(16, 4, generator=generator) + 1)
    targets = torch.randn(16, 12, generator=generator) @ torch.randn(12, 12, generator=generator) + 20
    one, gradient = one_step(name, features, targets, distributed=False)
    values, gradients = zip(*on_two_processes(half_step, name, features, targets, across), strict=True)
    assert torch.equal(gradients[0], gradients[1])
    agrees = torch.allclose(gradients[0], gradient, rtol=1e-4, atol=1e-5)
    assert agrees == across  # rows compared within one process alone are another objective
    if across:
        assert np.mean(values) == pytest.approx(one, abs=1e-5)


def collectives(member: int) -> tuple[list[Tensor], Tensor]:
    """Sum, rows and first of a tensor that holds the rank; the gradient of a loss that differs between the ranks."""
    x = torch.full((2, 3), float(member), requires_grad=True)
    rows = all_rows(x)
    (rows.sum(1) @ torch.tensor([1.0, 2.0, 3.0, 4.0]) * (1 + 9 * member)).backward()
    assert x.grad is not None and rank() == member and world_size() == 2
    return [all_sum(x).detach(), rows.detach(), from_first(x)], x.grad


def test_processes_share_sums_rows_and_the_firsts_tensor() -> None:
    for member, (shared, gradient) in enumerate(on_two_processes(collectives)):
        total, rows, first = shared
        assert torch.equal(total, torch.ones(2, 3)) and torch.equal(first, torch.zeros(2, 3))
        assert torch.equal(rows, torch.tensor([0.0, 0, 1, 1])[:, None].expand(4, 3))
        # the rows' factors in both processes' losses, 1 and 10 times
        own = torch.tensor([[1.0, 2.0], [3.0, 4.0]][member])
        assert torch.equal(gradient, 11 * own[:, None].expand(2, 3))
