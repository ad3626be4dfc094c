"""No objective waits for the GPU: the processor would stand still until all that is queued has been computed."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from g2l.objectives.centring import Centring
from g2l.objectives.cosine import CosineLoss
from g2l.objectives.dino import dino
from g2l.objectives.ibot import ibot
from g2l.objectives.kde import kde
from g2l.objectives.koleo import koleo
from g2l.objectives.logsum import LogSumLoss
from g2l.objectives.mse import MSELoss

ROWS, WIDTH = 16, 12


def regression(loss: nn.Module) -> Callable[[Tensor], Tensor]:
    """The loss against fixed features, its moments gathered."""
    loss.cuda()
    teacher = torch.randn(ROWS, WIDTH, device="cuda")
    if getattr(loss, "target", None) is not None:
        loss.target.update(teacher)  # type: ignore[union-attr,operator]
    return lambda x: loss(x, teacher)


def self_distillation() -> Callable[[Tensor], Tensor]:
    """DINO and iBOT with their centre, and the step that moves it."""
    centring, weights = Centring(WIDTH).cuda(), torch.full((ROWS,), 1 / ROWS, device="cuda")

    def loss(x: Tensor) -> Tensor:
        targets = centring.targets(x, 0.07)
        value = dino(x.unflatten(0, (4, -1)), targets.unflatten(0, (4, -1))[:2]) + ibot(x, targets, weights, crops=2)
        centring.step()
        return value

    return loss


LOSSES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    "logsum": lambda: regression(LogSumLoss(WIDTH)),
    "logsum_faithful": lambda: regression(LogSumLoss(WIDTH, faithful=True)),
    "cosine": lambda: regression(CosineLoss(WIDTH)),
    "mse": lambda: regression(MSELoss(WIDTH)),
    "kde": lambda: kde,
    "koleo": lambda: koleo,
    "dino_and_ibot": self_distillation,
}


@pytest.fixture
def no_waiting() -> Iterator[Callable[[], None]]:
    """What turns every wait for the GPU into an error, until the test's end."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_queued_without_waiting(name: str, no_waiting: Callable[[], None]) -> None:
    loss = LOSSES[name]()
    x = torch.randn(ROWS, WIDTH, device="cuda", requires_grad=True)
    loss(x).backward()  # the first step may wait: libraries start, and the moments are asked whether they are ready
    no_waiting()
    loss(x).backward()
