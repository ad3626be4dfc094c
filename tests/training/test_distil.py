"""Patch tokens on another grid, against the cubic kernel as Keys wrote it, and terms whose two grids differ."""

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from small import ENCODER
from torch import Tensor, nn

from g2l.encoders.encoder import Encoder, Tokens, create_encoder
from g2l.training.distil import Distil, resize_grid
from g2l.training.losses import Expert
from g2l.training.terms import STUDENT, Need, Networks, Passes

GRIDS = [((14, 14), (16, 16)), ((16, 16), (14, 14)), ((2, 2), (4, 4)), ((4, 4), (2, 2)), ((3, 5), (4, 2))]


def kernel(t: float, a: float = -0.75) -> float:
    """Keys 1981, eq. 4, with the slope a that image libraries take; his own choice is -.5."""
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def weights(old: int, new: int) -> np.ndarray:
    """(new, old): pixel i of the new row has its centre at (i + 1/2) old / new - 1/2; edges are repeated outwards."""
    found = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            found[i, min(max(j, 0), old - 1)] += kernel(centre - j)
    return found


def reference(patches: np.ndarray, grid: tuple[int, int], to: tuple[int, int]) -> np.ndarray:
    """(B, N, D) -> (B, N', D), float64."""
    plane = patches.reshape(len(patches), *grid, -1)
    resized = np.einsum("ih,jw,bhwd->bijd", weights(grid[0], to[0]), weights(grid[1], to[1]), plane)
    return resized.reshape(len(patches), to[0] * to[1], -1)


def resized(plane: np.ndarray, to: tuple[int, int]) -> np.ndarray:
    """One plane (h, w) through `resize_grid`."""
    tokens = torch.tensor(np.ascontiguousarray(plane)).reshape(1, -1, 1)
    return resize_grid(tokens, (plane.shape[0], plane.shape[1]), to).reshape(to).double().numpy()


@pytest.mark.parametrize(("grid", "to"), GRIDS)
def test_resized_tokens_equal_the_cubic_kernel_at_half_pixel_centres(
    grid: tuple[int, int], to: tuple[int, int]
) -> None:
    patches = np.random.default_rng(0).normal(size=(2, grid[0] * grid[1], 3))
    found = resize_grid(torch.tensor(patches), grid, to)
    assert found.shape == (2, to[0] * to[1], 3) and found.dtype == torch.float32
    assert np.allclose(found.numpy(), reference(patches, grid, to), atol=1e-5)


@pytest.mark.parametrize(("grid", "to"), GRIDS)
def test_resized_tokens_equal_opencvs(grid: tuple[int, int], to: tuple[int, int]) -> None:
    plane = np.random.default_rng(1).normal(size=grid)
    expected = cv2.resize(plane, (to[1], to[0]), interpolation=cv2.INTER_CUBIC)
    assert np.allclose(resized(plane, to), expected, atol=1e-5)


def test_fourteen_become_sixteen_without_a_shift() -> None:
    """A grid anchored at its first token would lie a sixteenth of a token off in the middle."""
    assert np.allclose(resized(np.full((14, 14), 7.0), (16, 16)), 7, atol=1e-5)
    ramp = np.tile(np.arange(14.0), (14, 1))
    where = (np.arange(16) + 0.5) * 14 / 16 - 0.5
    for plane, axis in ((ramp, 1), (ramp.T, 0)):
        found = resized(plane, (16, 16))
        along = found.mean(1 - axis)
        assert np.allclose(found, np.expand_dims(along, 1 - axis), atol=1e-5)
        assert np.allclose(along, where, atol=0.07)  # a slope of -.75 bends straight lines by so much
        assert np.allclose(along + along[::-1], 13, atol=1e-5) and (np.diff(along) > 0).all()


def test_flips_commute_with_resizing() -> None:
    plane = np.random.default_rng(2).normal(size=(14, 14))
    found = resized(plane, (16, 16))
    for turned, expected in ((plane[::-1], found[::-1]), (plane[:, ::-1], found[:, ::-1]), (plane.T, found.T)):
        assert np.allclose(resized(turned, (16, 16)), expected, atol=1e-5)


def test_an_equal_grid_is_left_alone_and_bfloat16_is_raised() -> None:
    patches = torch.randn(2, 196, 3, generator=torch.Generator().manual_seed(3)).bfloat16()
    assert resize_grid(patches, (14, 14), (14, 14)) is patches
    found = resize_grid(patches, (14, 14), (16, 16))
    assert found.dtype == torch.float32
    assert torch.equal(found, resize_grid(patches.float(), (14, 14), (16, 16)))


def test_gradients_go_back_by_the_transposed_weights() -> None:
    patches = torch.zeros(1, 6, 1, requires_grad=True)
    given = np.random.default_rng(4).normal(size=(1, 20, 1))
    (resize_grid(patches, (2, 3), (4, 5)) * torch.tensor(given).float()).sum().backward()
    expected = np.einsum("ih,jw,ij->hw", weights(2, 4), weights(3, 5), given.reshape(4, 5))
    assert patches.grad is not None
    assert np.allclose(patches.grad.numpy().reshape(2, 3), expected, atol=1e-5)


# --- terms whose two grids differ -----------------------------------------------------------------------------------

GRID = {"student": (4, 4), "teacher": (2, 2)}
WIDTH = {"student": 16, "teacher": 24}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    """A student with patches of 8 px, a teacher with patches of 16 px, of images of 32 px."""
    folder, found = tmp_path_factory.mktemp("grids"), {}
    for name, patch_size in (("student", 8), ("teacher", 16)):
        path: Path = folder / f"{name}.yaml"
        entry = ENCODER.format(width=WIDTH[name], depth=1)
        path.write_text(entry.replace("patch_size: 8", f"patch_size: {patch_size}"))
        torch.manual_seed(0)
        found[name] = create_encoder(str(path), init="random")
        assert found[name].grid == GRID[name]
    return found


def built(encoders: dict[str, Encoder], resize: Literal["teacher", "student"], **arguments: Any) -> Distil:
    torch.manual_seed(1)
    term = Expert("teacher", cls=0, patch=0.5, masked=False, head="linear", resize=resize, **arguments)
    term.build(Networks(encoders["student"], {"teacher": encoders["teacher"]}, nn.ModuleDict()))
    return term


@pytest.fixture(scope="module")
def passes(encoders: dict[str, Encoder]) -> Passes:
    """What both make of three images."""
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        tokens = {name: encoder(images) for name, encoder in encoders.items()}
    return Passes({Need(STUDENT, "student"): tokens["student"], Need("teacher", "student"): tokens["teacher"]})


def expected_value(head: nn.Linear, student: np.ndarray, teacher: np.ndarray) -> float:
    """GPFM's patch loss of tokens on one grid, (B, N, D), in float64: .9 (1 - cosine) + .1 smooth L1, beta 1."""
    made = student @ head.weight.detach().double().numpy().T + head.bias.detach().double().numpy()
    d = np.abs(made - teacher)
    cosines = (made * teacher).sum(-1) / np.linalg.norm(made, axis=-1) / np.linalg.norm(teacher, axis=-1)
    return 0.9 * (1 - cosines.mean()) + 0.1 * np.where(d < 1, d**2 / 2, d - 0.5).mean()


def value_of(term: Distil, passes: Passes) -> tuple[float, Tensor]:
    """The term's value, and its gradient with respect to the student's patch tokens."""
    need = Need(STUDENT, "student")
    patches = passes[need].patches.clone().requires_grad_()
    value = term(Passes(dict(passes) | {need: Tokens(passes[need].cls, patches, passes[need].grid)}))
    value.backward()
    assert patches.grad is not None
    return value.item(), patches.grad


@pytest.mark.parametrize("resize", ["teacher", "student"])
def test_patch_tokens_meet_on_the_grid_that_is_not_resized(
    encoders: dict[str, Encoder], passes: Passes, resize: Literal["teacher", "student"]
) -> None:
    term = built(encoders, resize, standardised=False)
    student = passes[Need(STUDENT, "student")].patches.double().numpy()
    teacher = passes[Need("teacher", "student")].patches.double().numpy()
    if resize == "student":
        student = reference(student, GRID["student"], GRID["teacher"])
    else:
        teacher = reference(teacher, GRID["teacher"], GRID["student"])
    head = term.heads["patch"]
    assert isinstance(head, nn.Linear)
    value, gradient = value_of(term, passes)
    assert value == pytest.approx(0.5 * expected_value(head, student, teacher), rel=1e-5)
    assert gradient.isfinite().all() and (gradient.abs().amax(-1) > 0).all()  # every token of the student is taught


def test_which_grid_is_resized_changes_the_value(encoders: dict[str, Encoder], passes: Passes) -> None:
    on_students, _ = value_of(built(encoders, "teacher", standardised=False), passes)
    on_teachers, _ = value_of(built(encoders, "student", standardised=False), passes)
    assert abs(on_students - on_teachers) > 1e-3


@pytest.mark.parametrize("resize", ["teacher", "student"])
def test_moments_are_those_of_the_teachers_own_grid(
    encoders: dict[str, Encoder], passes: Passes, resize: Literal["teacher", "student"]
) -> None:
    term = built(encoders, resize)
    assert term.observes
    term.observe(passes)
    assert not term.observes
    teacher = passes[Need("teacher", "student")].patches.double().numpy().reshape(-1, WIDTH["teacher"])
    target: Any = term.losses["patch"].target
    assert target.rows.item() == 3 * 4
    assert np.allclose(target.mean.numpy(), teacher.mean(0), atol=1e-6)
    assert np.allclose(target.moments().var.numpy(), teacher.var(0), rtol=1e-5)
    assert np.isfinite(value_of(term, passes)[0])
