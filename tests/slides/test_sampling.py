"""Patch i = f(seed, i): pure, uniform over the qualifying places, and never outside slide or tissue."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides import sampling
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Patch, Sampler, generator

MakeCohort = Callable[..., Cohort]
SIZE, MPP = 224, 0.5  # 112 um: 7 cells of 16 um


def disc(height: int, width: int, row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    holed = disc(120, 90, 60, 40, 38) & ~disc(120, 90, 60, 40, 15)
    return make_cohort([disc(100, 160, 40, 100, 30), holed, disc(60, 60, 10, 10, 12)])


class TestGenerator:
    def test_is_a_pure_function_of_its_arguments(self) -> None:
        for arguments in [(0, 0, 0), (7, 3, 1), (2**63, 2**40, 5)]:
            np.testing.assert_array_equal(generator(*arguments).random(9), generator(*arguments).random(9))

    def test_any_argument_changes_every_number(self) -> None:
        base = generator(1, 2, 3).integers(0, 2**63, 100)
        for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1), (2, 1, 3)]:
            assert not np.intersect1d(base, generator(*other).integers(0, 2**63, 100)).size

    def test_blocks_of_neighbouring_indices_do_not_overlap(self) -> None:
        """The index is a counter word of its own: what index 0 draws late is not what index 1 draws early."""
        drawn = [generator(0, index, stream).bytes(4 * 10_000) for stream in (0, 1) for index in range(4)]
        numbers = [np.frombuffer(one, np.uint64) for one in drawn]
        assert len(np.unique(np.concatenate(numbers))) == sum(map(len, numbers))

    def test_the_index_lies_in_the_second_counter_word(self) -> None:
        state = generator(5, 11, 2).bit_generator.state["state"]
        assert state["counter"].tolist() == [0, 11, 0, 0]
        assert state["key"].tolist() == [5, 2]

    def test_first_numbers_over_indices_are_uniform_and_uncorrelated(self) -> None:
        first = np.array([generator(3, index).random() for index in range(20_000)])
        counts = np.histogram(first, bins=50, range=(0, 1))[0]
        assert ((counts - 400) ** 2 / 400).sum() < 85  # chi-square, 49 degrees of freedom: 0.1 % beyond
        assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.025


def test_patches_do_not_depend_on_the_order_or_the_sampler(cohort: Cohort) -> None:
    first = Sampler(cohort, [0, 1], 0, SIZE, MPP)
    second = Sampler(Cohort.open(cohort.folder), [0, 1], 0, SIZE, MPP)
    forwards = [first.patch(i) for i in range(200)]
    assert [second.patch(i) for i in reversed(range(200))] == forwards[::-1]
    assert [second.patch(i) for i in range(1, 200, 2)] == forwards[1::2]
    assert forwards != [Sampler(cohort, [0, 1], 1, SIZE, MPP).patch(i) for i in range(200)]
    assert isinstance(forwards[0], Patch) and forwards[5].index == 5


@pytest.mark.parametrize("least", [0.0, 0.5, 0.9, 1.0])
def test_every_patch_lies_inside_and_on_tissue(cohort: Cohort, least: float) -> None:
    sampler = Sampler(cohort, range(3), 4, SIZE, MPP, min_tissue=least)
    for i in range(400):
        patch = sampler.patch(i)
        mask, cell, extent = cohort.mask(patch.slide), cohort.mask_mpp(patch.slide), patch.size * patch.mpp
        width, height = cohort.geometry.size_um[patch.slide]
        assert patch.x >= 0 and patch.y >= 0
        assert patch.x + extent <= width + 1e-9 and patch.y + extent <= height + 1e-9
        fine = np.repeat(np.repeat(mask, 16, axis=0), 16, axis=1)  # 1 um points
        x, y = patch.x * 16 / cell, patch.y * 16 / cell
        share = fine[round(y) : round(y + extent), round(x) : round(x + extent)].mean()
        assert share >= least - 0.02


def test_places_are_uniform_over_all_that_qualify(make_cohort: MakeCohort) -> None:
    """Chi-square of 12,000 patches over blocks of qualifying corners, against an exhaustive map of these."""
    mask = disc(64, 64, 30, 30, 24) & ~disc(64, 64, 26, 34, 8)
    cohort = make_cohort([mask])
    sampler = Sampler(cohort, [0], 0, SIZE, MPP, min_tissue=0.6)
    step, extent = 0.25, 7  # corners on a fine grid of mask cells; 7-cell windows by an integral image of 4 x 4 points
    fine = np.repeat(np.repeat(mask, 4, axis=0), 4, axis=1).astype(float)
    total = np.pad(fine.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    k = extent * 4
    qualifies = (total[k:, k:] - total[:-k, k:] - total[k:, :-k] + total[:-k, :-k]) / k**2 >= 0.6
    rows, columns = np.nonzero(qualifies)
    block = (rows * step // 8).astype(int) * 10 + (columns * step // 8).astype(int)
    drawn = np.array([(p.y / 16 // 8) * 10 + p.x / 16 // 8 for p in map(sampler.patch, range(12_000))]).astype(int)
    names, sizes = np.unique(block, return_counts=True)
    large = sizes > 300  # blocks cut by the border of what qualifies are dominated by the grid's error
    want = 12_000 * sizes / sizes.sum()
    got = np.array([(drawn == name).sum() for name in names])
    statistic = ((got - want)[large] ** 2 / want[large]).sum()
    freedom = int(large.sum())
    assert freedom >= 20
    assert statistic < freedom + 4 * np.sqrt(2 * freedom), (statistic, freedom)


def test_slides_are_drawn_evenly_or_by_area(cohort: Cohort) -> None:
    count = 6000
    for weighting in ("uniform", "area"):
        sampler = Sampler(cohort, [2, 0, 1], 0, SIZE, MPP, weighting=weighting)
        drawn = np.bincount([sampler.patch(i).slide for i in range(count)], minlength=3) / count
        area = cohort.geometry.tissue_mm2 / cohort.geometry.tissue_mm2.sum()
        want = np.full(3, 1 / 3) if weighting == "uniform" else area
        assert np.abs(drawn - want).max() < 4 * np.sqrt(0.25 / count)


def test_tissue_that_chance_hardly_hits_is_still_sampled(
    make_cohort: MakeCohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    thin = np.zeros((900, 900), np.bool_)
    thin[2:9, 3:10] = thin[890:897, 880:887] = True  # two squares of exactly one patch, corners apart
    monkeypatch.setattr(sampling, "MAX_ROUNDS", 2)
    sampler = Sampler(make_cohort([thin]), [0], 0, SIZE, MPP, min_tissue=1.0)
    found = {(patch.x, patch.y) for patch in map(sampler.patch, range(40))}
    assert found == {(3 * 16, 2 * 16), (880 * 16, 890 * 16)}


def test_a_patch_as_large_as_the_slide_has_one_place(make_cohort: MakeCohort) -> None:
    sampler = Sampler(make_cohort([np.ones((7, 7), np.bool_)]), [0], 0, SIZE, MPP, min_tissue=1.0)
    assert sampler.patch(0)[2:4] == (0.0, 0.0)


class TestErrors:
    def test_slides_without_a_place_are_all_named(self, cohort: Cohort) -> None:
        with pytest.raises(CohortError, match=r"224 px at 4 um/px with 97% tissue on s0, s1, s2; leave"):
            Sampler(cohort, range(3), 0, SIZE, 4.0, min_tissue=0.97)
        with pytest.raises(CohortError, match=r"with 50% tissue on s2; leave"):
            Sampler(cohort, range(3), 0, SIZE, 4.0)

    def test_no_slides(self, cohort: Cohort) -> None:
        with pytest.raises(CohortError, match="no slides to draw patches from; check the split"):
            Sampler(cohort, [], 0, SIZE, MPP)

    @pytest.mark.parametrize("wrong", [{"size": 0}, {"mpp": -1.0}, {"min_tissue": 1.5}, {"weighting": "tumour"}])
    def test_settings_that_cannot_work(self, cohort: Cohort, wrong: dict[str, object]) -> None:
        settings: dict[str, object] = {"size": SIZE, "mpp": MPP, **wrong}
        with pytest.raises(CohortError, match=r"; use|must be"):
            Sampler(cohort, [0], 0, **settings)  # pyright: ignore[reportArgumentType]
