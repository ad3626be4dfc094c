"""Supervision: cross-entropy written out by hand, patches without a class, two processes, and what data say."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from gloo import on_two_processes
from torch import Tensor, nn

from g2l.data.folders import open_patches
from g2l.data.module import SlideDataModule
from g2l.data.stream import PatchStream
from g2l.encoders.encoder import Tokens
from g2l.errors import ConfigError, TrainingError
from g2l.training.checks import check_labels
from g2l.training.labels import Labels
from g2l.training.terms import STUDENT, Need, Passes

NAMES = ["tumour", "", "stroma", "tumour", "", "stroma", "stroma", "tumour"]
WIDTH = 5


def term(smoothing: float = 0.0) -> Labels:
    """Over two classes, with a head whose weights are the same in every process."""
    made = Labels(["stroma", "tumour"], smoothing=smoothing)
    torch.manual_seed(3)
    made.head = nn.Linear(WIDTH, 2)
    return made


def passes(rows: Tensor, labels: list[str], crops: int = 1) -> Passes:
    """What a step hands the term."""
    return Passes({Need(STUDENT, "student"): Tokens(rows, rows[:, None], (1, 1))}, crops=crops, labels=labels)


def rows(count: int = len(NAMES)) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(0))


def by_hand(logits: np.ndarray, codes: list[int], smoothing: float = 0.0) -> float:
    """Mean of -sum of target x log softmax, over what has a class."""
    values = []
    for row, code in zip(logits.astype(np.float64), codes, strict=True):
        if code >= 0:
            log_p = row - np.log(np.exp(row).sum())
            target = np.full(len(row), smoothing / len(row))
            target[code] += 1 - smoothing
            values.append(-(target * log_p).sum())
    return float(np.mean(values))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_is_the_cross_entropy_of_those_with_a_class(smoothing: float) -> None:
    made, x = term(smoothing), rows()
    codes = [{"stroma": 0, "tumour": 1, "": -1}[name] for name in NAMES]
    value = made(passes(x, NAMES)).item()
    assert value == pytest.approx(by_hand(made.head(x).detach().numpy(), codes, smoothing), abs=1e-6)


def test_every_crop_has_the_class_of_its_image_and_watching_tells_the_accuracy() -> None:
    made, x = term(), rows(2 * len(NAMES))
    made.watching = True
    codes = [{"stroma": 0, "tumour": 1, "": -1}[name] for name in NAMES] * 2
    logits = made.head(x).detach().numpy()
    assert made(passes(x, NAMES, crops=2)).item() == pytest.approx(by_hand(logits, codes), abs=1e-6)
    right = [row.argmax() == code for row, code in zip(logits, codes, strict=True) if code >= 0]
    assert made.seen["accuracy"].item() == pytest.approx(np.mean(right))


def test_no_class_at_all_is_0_and_has_a_gradient_of_0() -> None:
    made, x = term(), rows().requires_grad_()
    value = made(passes(x, [""] * len(NAMES)))
    value.backward()
    assert value.item() == 0 and x.grad is not None and not x.grad.any()


def half(rank: int) -> tuple[float, Tensor, Tensor]:
    """Value and gradients of one of two processes, which has half the patches; its share of classes is another's."""
    made = term()
    x = rows()[rank * 4 : rank * 4 + 4].requires_grad_()
    value = made(passes(x, NAMES[rank * 4 : rank * 4 + 4]))
    value.backward()
    assert x.grad is not None and isinstance(made.head.weight, Tensor) and made.head.weight.grad is not None
    return value.item(), x.grad, made.head.weight.grad


def test_two_processes_are_one_with_all_patches() -> None:
    made, x = term(), rows().requires_grad_()
    value = made(passes(x, NAMES))
    value.backward()
    halves = on_two_processes(half)
    assert np.mean([each[0] for each in halves]) == pytest.approx(value.item(), abs=1e-6)
    assert x.grad is not None and isinstance(made.head.weight, Tensor) and made.head.weight.grad is not None
    assert torch.allclose(torch.cat([each[1] for each in halves]) / 2, x.grad, atol=1e-6)  # DDP takes the mean
    assert torch.allclose(torch.stack([each[2] for each in halves]).mean(0), made.head.weight.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"classes": ["a"]}, "two classes or more"),
        ({"classes": ["a", "b", "a"]}, "each once"),
        ({"classes": ["a", ""]}, "classes a, "),
        ({"classes": ["a", "b"], "smoothing": 1.0}, "smoothing 1.0"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Labels(**given)


def test_classes_that_the_term_does_not_name_and_data_without_any() -> None:
    with pytest.raises(TrainingError, match="the classes fat, but the term Labels names stroma, tumour"):
        term()(passes(rows(1), ["fat"]))
    with pytest.raises(TrainingError, match="say nothing of classes"):
        term()(passes(rows(1), []))


def test_a_stream_says_the_class_of_each_patch(tmp_path: Path) -> None:
    colours = {"dark": 40, "light": 200, "": 120}
    lines = ["path,label"]
    for number in range(9):
        name = list(colours)[number % 3]
        cv2.imwrite(str(tmp_path / f"p{number}.png"), np.full((16, 16, 3), colours[name], np.uint8))
        lines.append(f"p{number}.png,{name}")
    (tmp_path / "said.csv").write_text("\n".join(lines))
    patches = open_patches(tmp_path, tmp_path / "said.csv")
    for batch in PatchStream(patches.source(range(9), 0, 16), 6, steps=4):
        assert [colours[name] for name in batch["labels"]] == batch["images"][:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        ("patient,split", ConfigError, "model.terms.kind learns classes, but .* states none in its training part"),
        ("patient,split,label", TrainingError, "the classes fat, but the term Labels names stroma, tumour"),
        ("patient,split,known", None, ""),
    ],
)
def test_classes_that_data_do_not_state_are_told_before_the_first_step(
    tmp_path: Path, columns: str, error: type[Exception] | None, said: str
) -> None:
    lines = [f"path,{columns.replace('known', 'label')}"]
    for number, name in enumerate(("tumour", "fat", "stroma", "")):
        cv2.imwrite(str(tmp_path / f"p{number}.png"), np.full((16, 16, 3), 50 * number, np.uint8))
        # what is held out may be of other classes
        part = "val" if number == 1 and "known" in columns else "train" if number < 3 else "val"
        lines.append(",".join([f"p{number}.png", f"patient{number}", part, name][: 2 + columns.count(",")]))
    (tmp_path / "said.csv").write_text("\n".join(lines))
    data = SlideDataModule(str(tmp_path), str(tmp_path / "said.csv"), batch_size=2, patch_size=16)
    data.setup()
    if error is None:
        check_labels({"kind": term()}, data)
    else:
        with pytest.raises(error, match=said):
            check_labels({"kind": term()}, data)
