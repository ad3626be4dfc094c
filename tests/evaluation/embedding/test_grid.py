"""The grid over a slide's tissue against a direct count of mask cells, and what a bag of it holds."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from g2l.encoders.encoder import Encoder
from g2l.errors import CohortError
from g2l.evaluation.embedding.embed import embed_table
from g2l.evaluation.embedding.grid import tissue_grid
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.tables.table import Table
from g2l.slides.cohort import Cohort

SETTINGS = Embedding(batch_size=16, accelerator="cpu", devices=1, mpp=2.0)


def tissue_share(mask: NDArray[np.bool_], cell: float, x: float, y: float, side: float) -> float:
    """By one weight for each row and column of the mask."""

    def overlap(start: float, count: int) -> NDArray[np.float64]:
        low = np.arange(count) * cell
        return np.clip(np.minimum(low + cell, start + side) - np.maximum(low, start), 0, None)

    return float(overlap(y, mask.shape[0]) @ mask @ overlap(x, mask.shape[1])) / side**2


@pytest.mark.parametrize(("size", "mpp", "least"), [(32, 2.0, 0.5), (100, 0.7, 0.0), (33, 1.3, 1.0)])
def test_the_grid_is_every_place_with_enough_tissue_and_no_other(
    size: int, mpp: float, least: float, demo_cohort: Path
) -> None:
    cohort = Cohort.open(demo_cohort)
    for slide in (0, 7):
        grid, level0 = tissue_grid(cohort, slide, size, mpp, least), cohort[slide].mpp
        width, height = cohort.geometry.size_um[slide].tolist()
        mask, cell, side = cohort.mask(slide), cohort.mask_mpp(slide), size * mpp
        wanted = []
        for row in range(1000):
            for column in range(1000):
                x, y = round(column * side / level0) * level0, round(row * side / level0) * level0
                if x + side > width + 1e-6:
                    break
                share = tissue_share(mask, cell, x, y, side) if y + side <= height + 1e-6 else -1
                if share >= least - 1e-3:
                    wanted.append((x, y, share))
            if round(row * side / level0) * level0 > height:
                break
        sure = {(round(x, 6), round(y, 6)) for x, y, share in wanted if share >= least + 1e-3 or share == 1}
        found = [(round(x, 6), round(y, 6)) for x, y in grid.um.tolist()]
        assert sure <= set(found) <= {(round(x, 6), round(y, 6)) for x, y, _ in wanted} and len(set(found)) == len(
            found
        )
        assert found == sorted(found, key=lambda place: place[::-1]) and len(found) > 3
        assert grid.coords.dtype == np.int64 and np.allclose(grid.coords * level0, grid.um)


def test_a_draw_of_the_grid_is_always_the_same_and_of_the_slide_alone(demo_cohort: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    whole = tissue_grid(cohort, 3, 32, 2.0, 0.5)
    some, again = (tissue_grid(cohort, 3, 32, 2.0, 0.5, 5, "a1") for _ in range(2))
    assert len(some.coords) == 5 and np.array_equal(some.coords, again.coords)
    assert not np.array_equal(some.coords, tissue_grid(cohort, 3, 32, 2.0, 0.5, 5, "a2").coords)
    assert {tuple(place) for place in some.coords.tolist()} < {tuple(place) for place in whole.coords.tolist()}
    assert len(tissue_grid(cohort, 3, 32, 2.0, 0.5, max_patches=10**6).coords) == len(whole.coords)


def slides_table(cohort: Cohort, count: int = 3, own: bool = False) -> Table:
    """Of the first slides; `own`: their cohort is not named."""
    records = [cohort[i] for i in range(count)]
    extra = {} if own else {"cohort": np.array([str(cohort.folder)] * count)}
    return Table.build("slides", [one.path for one in records], records[0].path.parent, extra=extra)


def test_a_bag_holds_what_the_encoder_makes_of_the_patches(encoder: Encoder, demo_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    table = slides_table(cohort)
    found = embed_table(encoder, table, np.arange(3), "bag", tmp_path, SETTINGS)
    assert found.embedded == found.count == sum(len(tissue_grid(cohort, i, 32, 2.0, 0.5).coords) for i in range(3))
    for row in (2, 0):
        bag, grid = found.bag(row), tissue_grid(cohort, row, 32, 2.0, 0.5)
        assert bag.size_um == 64 and bag.embeddings.dtype == np.float32
        assert np.array_equal(np.stack([bag.x, bag.y], axis=1), grid.um)
        k = len(bag.x) // 2
        with cohort.open_slide(row) as slide:
            pixels = slide.read_patch(float(bag.x[k]), float(bag.y[k]), 32, 2.0)
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255).cls[0].numpy()
        np.testing.assert_allclose(bag.embeddings[k], expected, atol=2e-5)
    again = embed_table(encoder, table, np.array([1]), "bag", tmp_path, SETTINGS)
    assert again.embedded == 0 and np.array_equal(again.bag(1).embeddings, found.bag(1).embeddings)
    other = embed_table(
        encoder, table, np.array([1]), "bag", tmp_path, Embedding(mpp=1.0, accelerator="cpu", devices=1)
    )
    assert other.embedded == other.count > again.count


def test_the_files_are_laid_out_as_trident_and_clam_expect(encoder: Encoder, demo_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    embed_table(encoder, slides_table(cohort, 1), np.arange(1), "bag", tmp_path, SETTINGS)
    (file,) = (tmp_path).rglob("*.h5")
    record = cohort[0]
    with h5py.File(file) as opened:
        content: Any = opened
        features, coords = content["features"][:], content["coords"][:]
        about = dict(content["coords"].attrs)
        assert features.shape == (len(coords), encoder.embed_dim) and coords.shape == (len(coords), 2)
    assert about["patch_size"] == 32 and about["patch_size_level0"] == round(64 / record.mpp)
    assert (about["level0_width"], about["level0_height"]) == (record.width, record.height)
    assert about["mpp"] == 2.0 and about["level0_mpp"] == record.mpp and about["overlap"] == 0
    assert (coords + about["patch_size_level0"] <= (record.width + 1, record.height + 1)).all()


def test_slides_of_no_cohort_are_indexed_and_give_the_same(encoder: Encoder, demo_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    known, own = slides_table(cohort, 2), slides_table(cohort, 2, own=True)
    one = embed_table(encoder, known, np.arange(2), "bag", tmp_path, SETTINGS)
    other = embed_table(encoder, own, np.arange(2), "bag", tmp_path, SETTINGS)
    assert other.embedded == 0 and other.key == one.key
    assert np.array_equal(one.bag(1).embeddings, other.bag(1).embeddings)


def test_rejected_and_empty_slides_are_listed_in_one_line(encoder: Encoder, demo_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    table = slides_table(cohort, 2, own=True)
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no slide")
    mixed = Table.build("mixed", [*map(Path, table.paths.tolist()), tmp_path / "broken.tif"], tmp_path)
    with pytest.raises(CohortError, match=r"1 of 3 slides were rejected .*broken\.tif.*rejected\.csv") as caught:
        embed_table(encoder, mixed, np.arange(3), "bag", tmp_path / "out", SETTINGS)
    assert "\n" not in str(caught.value)
    coarse = Embedding(mpp=20.0, min_tissue=1.0, accelerator="cpu", devices=1)
    with pytest.raises(CohortError, match=r"2 slides have no patch of 32 px at 20 um/px with 100% tissue"):
        embed_table(encoder, slides_table(cohort, 2), np.arange(2), "bag", tmp_path / "out", coarse)
    unknown = Table.build("else", [tmp_path / "x.tif"], tmp_path, extra={"cohort": np.array([str(demo_cohort)])})
    with pytest.raises(CohortError, match="in no cohort"):
        embed_table(encoder, unknown, np.arange(1), "bag", tmp_path / "out", SETTINGS)


@pytest.mark.real_data
def test_real_slides_with_and_without_a_resolution(encoder: Encoder, real_data: Path, tmp_path: Path) -> None:
    paths = [real_data / "slides" / name for name in ("cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs")]
    table = Table.build("real", paths, real_data, extra={"mpp": np.array(["", "0.25"])})
    found = embed_table(
        encoder, table, np.arange(2), "bag", tmp_path, Embedding(batch_size=4, accelerator="cpu", max_patches=20)
    )
    for row in range(2):
        bag = found.bag(row)
        assert 0 < len(bag.x) <= 20 and np.isfinite(bag.embeddings).all() and bag.embeddings.std(axis=0).mean() > 0
    assert json.loads(next(tmp_path.rglob("speed.json")).read_text())["images_per_second"] > 0
