"""The test vector: drawn, diverse, the same every time, and read back as it was written."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from g2l.data.demo import Order
from g2l.data.drawing.layout import CLASSES
from g2l.deploy import vector
from g2l.deploy.runtime.vector import read_vector
from g2l.deploy.vector import COUNT, draw_patches, write_vector


@pytest.mark.parametrize(("size", "mpp"), [(224, 0.5), (64, 0.5), (32, 0.25), (112, 2.0)])
def test_patches_are_tissue_that_differs(size: int, mpp: float) -> None:
    patches = draw_patches(size, mpp)
    assert patches.shape == (COUNT, size, size, 3) and patches.dtype == np.uint8
    assert len(np.unique(patches.reshape(COUNT, -1), axis=0)) == COUNT
    assert patches.mean() < 235 and np.mean(patches.mean(axis=(1, 2, 3)) > 238) < 0.1  # hardly any that is glass alone
    assert patches.mean(axis=(1, 2)).std(axis=0).min() > 10  # stains and classes


def test_patches_are_of_every_class_and_of_three_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[set[int]] = []
    centres: list[str] = []
    places, slide = vector._places, vector._slide

    def noted_places(*arguments: Any) -> list[tuple[float, float, int]]:
        found = places(*arguments)
        kinds.append({kind for _, _, kind in found})
        return found

    def noted_slide(seed: int, order: Order, wide: float) -> Any:
        centres.append(order.centre.name)
        return slide(seed, order, wide)

    monkeypatch.setattr(vector, "_places", noted_places)
    monkeypatch.setattr(vector, "_slide", noted_slide)
    draw_patches(64, 0.5)
    assert len(set(centres)) == len(centres) == 3
    # Each centre may lack one to a fold or a pen stroke; the 64 first patches go round all that there are.
    assert set.union(*kinds) == set(range(len(CLASSES))) and min(map(len, kinds)) >= len(CLASSES) - 1


def test_the_same_arguments_give_the_same_patches_and_others_do_not() -> None:
    one = draw_patches(48, 0.5, 20)
    assert np.array_equal(one, draw_patches(48, 0.5, 20)) and np.array_equal(one[:5], draw_patches(48, 0.5, 5))
    assert not np.array_equal(one, draw_patches(48, 0.5, 20, seed=7))


@pytest.mark.slow
def test_more_patches_than_three_slides_hold_come_from_further_slides() -> None:
    patches = draw_patches(250, 1.0, 80)
    assert len(np.unique(patches.reshape(80, -1), axis=0)) == 80


def test_what_is_written_is_what_the_runtime_reads(tmp_path: Path) -> None:
    patches = draw_patches(32, 0.5, 6)
    embeddings = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    for name in ("a.h5", "b.h5"):
        write_vector(tmp_path / name, patches, embeddings, "drawn")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    found = read_vector(tmp_path / "a.h5", 32, 5)
    assert np.array_equal(found.patches, patches) and np.array_equal(found.embedding, embeddings)
    assert found.source == "drawn"
    with h5py.File(tmp_path / "a.h5") as file:
        assert {name: file[name].dtype for name in file} == {"patches": np.uint8, "embedding": np.float32}  # type: ignore[union-attr]
