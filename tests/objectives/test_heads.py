"""Heads: pinned sizes, rank, unit prototypes, copies and checkpoints."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from g2l.objectives.heads import ExpertHead, MLPHead, PrototypeHead

HEADS: dict[str, Callable[[], nn.Module]] = {
    "prototypes": lambda: PrototypeHead(6, 8, 4, 5),
    "expert": lambda: ExpertHead(6, 5, 4),
    "mlp": lambda: MLPHead(6, 5, 8),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def tokens(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("expert", "target", "size"), [("UNI", 1024, 525_568), ("Phikon", 768, 459_776), ("CONCH", 512, 393_984)]
)
def test_expert_heads_have_the_published_size(expert: str, target: int, size: int) -> None:
    assert count(ExpertHead(1024, target)) == size, expert


def test_the_prototype_head_has_the_published_layers() -> None:
    head = PrototypeHead(1024, prototypes=512)
    layers = (1024 + 1) * 2048 + (2048 + 1) * 2048 + (2048 + 1) * 256
    assert count(head) == layers + 512 * 256 + 512
    assert count(MLPHead(1024, 768, 2048)) == 1025 * 2048 + 2049 * 768


def test_the_expert_heads_output_has_at_most_rank_256() -> None:
    torch.manual_seed(0)
    head = ExpertHead(1024, 512)
    values = torch.linalg.svdvals(head(tokens(400, 1024)).double())
    assert (values > 1e-5 * values[0]).sum() == 256
    wide = torch.linalg.svdvals(nn.Linear(1024, 512)(tokens(400, 1024)).double())
    assert (wide > 1e-5 * wide[0]).sum() == 400


def test_logits_are_cosines_with_the_prototypes_and_stay_so_while_training() -> None:
    torch.manual_seed(0)
    head = PrototypeHead(6, hidden=8, bottleneck=4, prototypes=5)
    optimiser = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=10.0)
    for _ in range(3):
        logits = head(tokens(7, 6))
        optimiser.zero_grad()
        logits[:, 0].sum().backward()
        optimiser.step()
    weight = head.prototypes.weight
    assert torch.allclose(weight.norm(dim=1), torch.ones(5), atol=1e-6)
    x = head.mlp(tokens(7, 6))
    expected = (x / x.norm(dim=1, keepdim=True)) @ weight.T
    assert torch.allclose(head(tokens(7, 6)), expected, atol=1e-6)


def test_lengths_learn_only_where_asked() -> None:
    def trained(head: PrototypeHead) -> int:
        return sum(p.numel() for p in head.prototypes.parameters() if p.requires_grad)

    assert trained(PrototypeHead(6, 8, 4, 5)) == 20
    assert trained(PrototypeHead(6, 8, 4, 5, trained_lengths=True)) == 25


@pytest.mark.parametrize("name", HEADS)
def test_a_copy_is_independent_and_a_checkpoint_loads_strictly(name: str) -> None:
    """An EMA teacher begins as a deep copy of the student's heads."""
    torch.manual_seed(0)
    head, x = HEADS[name](), tokens(7, 6)
    twin = copy.deepcopy(head)
    assert torch.equal(twin(x), head(x))
    before = parameters_to_vector(head.parameters()).clone()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.5).add_(0.1)
    assert torch.equal(parameters_to_vector(head.parameters()), before)
    assert not torch.allclose(twin(x), head(x))
    head.load_state_dict(twin.state_dict())
    assert torch.equal(twin(x), head(x))


@pytest.mark.parametrize(("build", "last"), [(HEADS["prototypes"], "prototypes"), (HEADS["expert"], "last")])
def test_under_autocast_rows_are_normalised_in_float32(build: Callable[[], nn.Module], last: str) -> None:
    """In bfloat16 their lengths would be off by some thousandths."""
    torch.manual_seed(0)
    head, seen = build(), []
    head.get_submodule(last).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = tokens(64, 6)
    exact = head(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = head(x)
    assert coarse.dtype == torch.bfloat16 and (coarse.float() - exact).abs().max() < 0.05
    assert seen[1].dtype == torch.float32
    assert torch.allclose(seen[1].norm(dim=1), torch.ones(64), atol=1e-6)


def test_layers_before_the_last_start_at_two_hundredths_without_offset() -> None:
    torch.manual_seed(0)
    linear = [layer for layer in PrototypeHead(64, 256, 32, 8).mlp if isinstance(layer, nn.Linear)]
    assert len(linear) == 3
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not layer.bias.any()


def test_no_token_gives_no_row() -> None:
    assert PrototypeHead(6, 8, 4, 5)(torch.zeros(0, 6)).shape == (0, 5)
