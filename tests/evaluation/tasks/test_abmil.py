"""Attention over patches: the network, the loop, and what bags of any size cost."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from evaluation.bags_made import WIDTH, bag_of, classed, slides_table
from evaluation.made import MadeFeatures, parts
from torch import Tensor
from torch.nn.functional import cross_entropy

from g2l.errors import CohortError, G2LError, TrainingError
from g2l.evaluation.embedding.features import Bag
from g2l.evaluation.tasks import bags as bags_module
from g2l.evaluation.tasks.abmil import ABMIL, Fitted, balanced, fit, predict
from g2l.evaluation.tasks.bags import Bags, shown_units


def made(seed: int = 0) -> tuple[Bags, np.ndarray, list[list[int]]]:
    """Bags of two classes, the code of their classes, and the numbers of train, val and test."""
    table, features = classed(seed)
    split = parts(table)
    bags = Bags(features, table, [np.array([k]) for k in range(len(table))])
    return bags, (table.labels == "tumor").astype(int), [split.train.tolist(), split.val.tolist(), split.test.tolist()]


def trained(seed: int = 0, epochs: int = 6, patience: int = 10) -> tuple[Fitted, Bags, list[list[int]]]:
    bags, code, (train, val, test) = made()

    def loss(logits: Tensor, unit: int) -> Tensor:
        return cross_entropy(logits, torch.tensor(code[unit]))

    fitted = fit(bags, 2, loss, train, val, draw=balanced(code[train]), epochs=epochs, patience=patience, seed=seed)
    return fitted, bags, [train, val, test]


def test_the_network_is_that_of_the_protocol() -> None:
    shapes = {name: tuple(value.shape) for name, value in ABMIL(1024, 3).named_parameters()}
    assert shapes == {
        "project.0.weight": (512, 1024), "project.0.bias": (512,),
        "attend.0.weight": (128, 512), "attend.0.bias": (128,), "attend.2.weight": (1, 128), "attend.2.bias": (1,),
        "read.weight": (3, 512), "read.bias": (3,),
    }  # fmt: skip
    assert [layer.p for layer in ABMIL(8, 2).modules() if isinstance(layer, torch.nn.Dropout)] == [0.25]


def test_forward_is_the_formula_written_out() -> None:
    torch.manual_seed(0)
    model = ABMIL(8, 3).double().eval()
    bag = torch.randn(5, 8, dtype=torch.float64)
    w = {name: value.detach().numpy() for name, value in model.named_parameters()}
    hidden = np.maximum(bag.numpy() @ w["project.0.weight"].T + w["project.0.bias"], 0)
    score = np.tanh(hidden @ w["attend.0.weight"].T + w["attend.0.bias"]) @ w["attend.2.weight"][0] + w["attend.2.bias"]
    attention = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
    pooled = sum(a * row for a, row in zip(attention, hidden, strict=True))
    logits, weights = model(bag)
    np.testing.assert_allclose(logits.detach().numpy(), w["read.weight"] @ pooled + w["read.bias"], rtol=1e-10)
    np.testing.assert_allclose(weights.detach().numpy(), attention, rtol=1e-10)


def test_the_order_of_patches_does_not_matter_and_doubled_bags_are_the_same() -> None:
    torch.manual_seed(0)
    model, bag = ABMIL(8, 2).double().eval(), torch.randn(7, 8, dtype=torch.float64)
    logits = model(bag)[0]
    torch.testing.assert_close(model(bag.flip(0))[0], logits)
    torch.testing.assert_close(model(torch.cat([bag, bag]))[0], logits)


@pytest.mark.slow
def test_a_seed_gives_one_model_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one = trained(epochs=2)[0].model.state_dict()
    assert torch.equal(torch.rand(1), expected)
    again, other = trained(epochs=2)[0].model.state_dict(), trained(seed=1, epochs=2)[0].model.state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_the_best_epoch_are_kept_and_it_ends_after_patience() -> None:
    """Against the labels of train turned round on val: the loss there only rises."""
    bags, code, (train, val, _) = made()
    losses: list[float] = []

    def loss(logits: Tensor, unit: int) -> Tensor:
        return cross_entropy(logits, torch.tensor(1 - code[unit] if unit in val else code[unit]))

    def say(text: str) -> None:
        losses.append(float(text.split("validation loss ")[1].split(" ")[0]))

    fitted = fit(bags, 2, loss, train, val, epochs=40, patience=3, say=say)
    best = int(np.argmin(losses)) + 1
    assert fitted.chosen["epoch"] == best and fitted.chosen["epochs run"] == best + 3 == len(losses) < 40
    assert not fitted.notes
    with torch.inference_mode():
        again = np.mean([float(loss(fitted.model(torch.from_numpy(bags[k]))[0], k)) for k in val])
    assert again == pytest.approx(fitted.chosen["least validation loss"], abs=1e-6)


def test_a_training_that_had_not_settled_says_so() -> None:
    fitted, _, _ = trained(epochs=2)
    assert fitted.chosen["epochs run"] == 2 and "before the validation loss had settled" in fitted.notes[0]


def test_classes_are_drawn_alike() -> None:
    weights = balanced(np.array([0] * 90 + [1] * 9 + [2]))
    drawn = torch.multinomial(torch.from_numpy(weights), 30_000, replacement=True).numpy()
    shares = np.array([(drawn < 90).mean(), ((drawn >= 90) & (drawn < 99)).mean(), (drawn == 99).mean()])
    np.testing.assert_allclose(shares, 1 / 3, atol=0.015)


def test_attention_falls_on_the_patches_that_carry_the_class() -> None:
    fitted, bags, (_, _, test) = trained(epochs=12)
    logits, attention = predict(fitted.model, bags, test)
    assert logits.shape == (len(test), 2)
    tumor = [k for k, unit in enumerate(test) if (bags[unit][:, :4].mean(axis=1) > 2).sum() >= 5]
    assert len(tumor) > 5
    for k in tumor:
        assert attention[k].sum() == pytest.approx(1, abs=1e-5)
        top = bags.top(test[k], attention[k])
        assert [patch["weight"] for patch in top] == sorted(attention[k], reverse=True)[: len(top)]
        rows = [int(float(str(patch["x"])) / 112.0) for patch in top]
        assert np.mean(bags[test[k]][rows, :4]) > 1.5 and top[0]["slide"] == f"s{test[k]:03d}.svs"


def test_a_loss_that_is_not_finite_is_one_clear_error() -> None:
    bags, _, (train, val, _) = made()
    with pytest.raises(TrainingError, match=r"validation loss is nan in epoch 1; look at"):
        fit(bags, 2, lambda logits, unit: logits.sum() * math.nan, train, val, epochs=2)


def one_bag(embeddings: np.ndarray) -> Bags:
    table = slides_table(1)
    where = np.zeros(len(embeddings))
    return Bags(MadeFeatures(bags={0: Bag(embeddings, where, where, 112.0)}), table, [np.array([0])])


def test_bags_that_cannot_be_are_refused() -> None:
    with pytest.raises(CohortError, match=r"slide s000.svs has no patches"):
        one_bag(np.empty((0, 4), np.float32))[0]
    with pytest.raises(G2LError, match=r"slide s000.svs: embeddings hold nan"):
        one_bag(np.full((3, 4), np.nan, np.float32))[0]


def test_a_patient_is_all_of_its_slides_and_only_so_much_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table, features = slides_table(4, each=2), MadeFeatures(bags={k: bag_of(rng, 0, 10 + k) for k in range(4)})
    monkeypatch.setattr(bags_module, "KEPT_BYTES", 21 * WIDTH * 4)
    bags = Bags(features, table, [np.array([0, 1]), np.array([2, 3])])
    assert [bags[0].shape, bags[1].shape] == [(21, WIDTH), (25, WIDTH)]
    np.testing.assert_array_equal(bags[0], np.concatenate([features.bag(0).embeddings, features.bag(1).embeddings]))
    np.testing.assert_allclose(bags.means()[1], bags[1].astype(np.float64).mean(axis=0), rtol=1e-6)
    features.asked.clear()
    assert len(bags[0]) + len(bags[1]) == 46
    assert features.asked == [("bag", [2]), ("bag", [3])]  # the first is kept, the second no longer fits
    slides = [patch["slide"] for patch in bags.top(0, np.eye(21)[15] + np.eye(21)[2] / 2)]
    assert slides[:2] == ["s001.svs", "s000.svs"]


def test_a_report_shows_some_slides() -> None:
    assert shown_units(3, seed=0) == [0, 1, 2]
    assert len(shown_units(500, seed=0)) == 20 and shown_units(500, seed=0) == shown_units(500, seed=0)


MEASURED = """
import resource, sys, numpy as np, torch
from torch.nn.functional import cross_entropy
from g2l.evaluation.embedding.features import Bag
from g2l.evaluation.tables.table import Table
from g2l.evaluation.tasks.abmil import fit, predict
from g2l.evaluation.tasks.bags import Bags
from pathlib import Path
rng = np.random.default_rng(0)
count = int(sys.argv[1])
zero = np.zeros(count)
made = {k: Bag(rng.normal(size=(count, 1024)).astype(np.float32), zero, zero, 112.0) for k in (0, 1)}
class Made:
    key = "made"
    def bag(self, row): return made[row]
table = Table.build("made", [Path("/made/a.svs"), Path("/made/b.svs")], Path("/made"))
bags = Bags(Made(), table, [np.array([0]), np.array([1])])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss = lambda logits, unit: cross_entropy(logits, torch.tensor(unit))
fitted = fit(bags, 2, loss, [0, 1], [0, 1], epochs=1)
logits, attention = predict(fitted.model, bags, [0, 1])
assert bool(logits.isfinite().all()) and len(attention[0]) == count
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 20_000])
def test_bags_of_one_and_of_twenty_thousand_patches(count: int) -> None:
    """Memory beyond the embeddings (80 MB a bag of 20,000 x 1,024): below 400 MB for a step."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(count)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 400
