"""Patch i = f(seed, i): pure, never outside slide or tissue, and drawn as often as asked."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides import sampling
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Patch, Patches, Sampler, generator

MakeCohort = Callable[..., Cohort]
SIZE, MPP = 224, 0.5  # 112 um: 7 cells of 16 um
TILED = (0.25, 0.25, 256, 256, 0.5, 0.5, 256, 256, 2.0, 2.0, 256, 256)


def disc(height: int, width: int, row: float, column: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:height, :width]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    holed = disc(120, 90, 60, 40, 38) & ~disc(120, 90, 60, 40, 15)
    masks = [disc(100, 160, 40, 100, 30), holed, disc(60, 60, 10, 10, 12)]
    return make_cohort(masks, levels=TILED, centre=["A", "A", "B"])


def rows(patches: Patches) -> list[Patch]:
    return [patches.patch(k) for k in range(len(patches))]


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


class TestPure:
    def test_patches_do_not_depend_on_what_is_drawn_with_them(
        self, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sampler = Sampler(cohort, [0, 1], 7, SIZE, (0.25, 0.5, 1.0))
        numbers = np.random.default_rng(0).permutation(500)
        together = rows(sampler.draw(numbers))
        assert rows(sampler.draw(numbers[::-1])) == together[::-1]
        assert rows(sampler.draw(numbers[3::7])) == together[3::7]
        assert [sampler.patch(int(number)) for number in numbers[:40]] == together[:40]
        monkeypatch.setattr(sampling, "AT_ONCE", 64)
        assert rows(sampler.draw(numbers)) == together
        assert [patch.index for patch in together] == numbers.tolist()
        assert len(sampler.draw(np.empty(0, np.int64))) == 0

    def test_patches_belong_to_seed_number_and_attempt(self, cohort: Cohort) -> None:
        numbers = np.arange(200)
        first = rows(Sampler(cohort, [0, 1], 0, SIZE, MPP).draw(numbers))
        again = Sampler(Cohort.open(cohort.folder), [0, 1], 0, SIZE, MPP)
        sent = pickle.loads(pickle.dumps(again))  # noqa: S301  # as a worker process receives it
        assert rows(again.draw(numbers)) == rows(sent.draw(numbers)) == first
        another = rows(Sampler(cohort, [0, 1], 1, SIZE, MPP).draw(numbers))
        second = rows(again.draw(numbers, 1))
        for drawn in (another, second):
            assert not any(one[1:4] == other[1:4] for one, other in zip(drawn, first, strict=True))
        assert {patch.attempt for patch in second} == {1} and {patch.visit for patch in second} == {-1}
        mixed = again.draw(numbers, numbers % 2)
        assert rows(mixed) == [(first, second)[k % 2][k] for k in range(200)]
        assert again.patch(5, 1) == second[5] and isinstance(first[5], Patch)

    def test_columns_have_the_types_they_state(self, cohort: Cohort) -> None:
        drawn = Sampler(cohort, [0], 0, SIZE, MPP).draw(np.arange(3))
        for column in (drawn.index, drawn.attempt, drawn.slide, drawn.visit):
            assert column.dtype == np.int64 and column.shape == (3,)
        for column in (drawn.x, drawn.y, drawn.mpp):
            assert column.dtype == np.float64 and column.shape == (3,)
        assert list(map(type, drawn.patch(0))) == [int, int, float, float, float, int, int, int]


@pytest.mark.parametrize("placing", ["tile", "random"])
@pytest.mark.parametrize("least", [0.0, 0.5, 0.9, 1.0])
def test_every_patch_lies_inside_and_on_tissue(cohort: Cohort, least: float, placing: str) -> None:
    sampler = Sampler(cohort, range(3), 4, SIZE, MPP, min_tissue=least, placing=placing)  # pyright: ignore
    fine = [np.repeat(np.repeat(cohort.mask(k), 32, axis=0), 32, axis=1) for k in range(3)]  # px of .5 um
    for patch in rows(sampler.draw(np.arange(400))):
        x, y = patch.x / MPP, patch.y / MPP
        assert x == int(x) >= 0 and y == int(y) >= 0
        inside = fine[patch.slide][int(y) : int(y) + SIZE, int(x) : int(x) + SIZE]
        assert inside.shape == (SIZE, SIZE) and inside.mean() >= least - 1e-9
        if placing == "tile":
            assert x % 256 <= 32 and y % 256 <= 32


def test_tiles_are_those_of_the_level_that_is_read(cohort: Cohort) -> None:
    sampler = Sampler(cohort, [0, 1], 0, 100, (0.25, 0.4, 0.5, 2.0), min_tissue=0.2)
    drawn = sampler.draw(np.arange(2000))
    for mpp, read, need, before in [(0.25, 0.25, 100, 0), (0.4, 0.25, 170, 5), (0.5, 0.5, 100, 0), (2.0, 2.0, 100, 0)]:
        at = drawn.mpp == mpp
        for corner in (drawn.x[at], drawn.y[at]):
            start = corner / read - before
            np.testing.assert_allclose(start, start.round(), atol=1e-9)
            assert (start.round() % 256 + need <= 256).all() and len(np.unique(start.round() % 256)) > 20


class TestShares:
    count = 6000

    def slides(self, sampler: Sampler) -> NDArray[np.float64]:
        return np.bincount(sampler.draw(np.arange(self.count)).slide, minlength=3) / self.count

    def near(self, got: NDArray[np.float64], want: NDArray[np.float64] | list[float]) -> bool:
        return bool(np.abs(got - want).max() < 4 * np.sqrt(0.25 / self.count))

    def test_slides_are_drawn_evenly_or_by_area(self, cohort: Cohort) -> None:
        area = cohort.geometry.tissue_mm2 / cohort.geometry.tissue_mm2.sum()
        assert self.near(self.slides(Sampler(cohort, [2, 0, 1], 0, SIZE, MPP)), [1 / 3, 1 / 3, 1 / 3])
        assert self.near(self.slides(Sampler(cohort, [2, 0, 1], 0, SIZE, MPP, weighting="area")), area)

    def test_values_of_a_column_are_drawn_evenly(self, cohort: Cohort) -> None:
        sampler = Sampler(cohort, range(3), 0, SIZE, MPP, balance="centre")
        assert self.near(self.slides(sampler), [1 / 4, 1 / 4, 1 / 2])

    def test_resolutions_are_drawn_as_weighted_and_apart_from_slides(self, cohort: Cohort) -> None:
        """At 4 um/px the third slide is smaller than a patch; the others take its place there."""
        with pytest.warns(UserWarning, match=r"50% tissue at 4 um/px on 1 slide \(s2\), left out there"):
            sampler = Sampler(cohort, range(3), 0, SIZE, [0.5, 4.0], mpp_weights=[3, 1], min_tissue=0.5)
        assert sampler.left_out == {2: (4.0,)} and sampler.mpps == (0.5, 4.0)
        drawn = sampler.draw(np.arange(self.count))
        got = np.array(
            [((drawn.mpp == mpp) & (drawn.slide == slide)).mean() for mpp in sampler.mpps for slide in (0, 1, 2)]
        )
        assert self.near(got, [1 / 4, 1 / 4, 1 / 4, 1 / 8, 1 / 8, 0])

    def test_resolutions_are_drawn_evenly_by_default(self, cohort: Cohort) -> None:
        drawn = Sampler(cohort, [0, 1], 0, 64, np.array([0.25, 0.5, 1.0])).draw(np.arange(self.count))  # pyright: ignore
        assert self.near(np.array([(drawn.mpp == mpp).mean() for mpp in (0.25, 0.5, 1.0)]), [1 / 3] * 3)


class TestErrors:
    def test_slides_without_a_place_are_left_out_with_one_warning(self, cohort: Cohort) -> None:
        with pytest.warns(UserWarning, match=r"no place for patches of 224 px with 50% tissue at 4 um/px") as caught:
            sampler = Sampler(cohort, range(3), 0, SIZE, 4.0)
        assert len(caught) == 1 and caught[0].filename == __file__
        assert sampler.left_out == {2: (4.0,)}
        assert set(sampler.draw(np.arange(100)).slide.tolist()) == {0, 1}

    def test_nothing_is_left(self, cohort: Cohort) -> None:
        with pytest.raises(CohortError, match=r"97% tissue at 4 um/px on 3 slides \(s0, s1, s2\), and nothing is left"):
            Sampler(cohort, range(3), 0, SIZE, 4.0, min_tissue=0.97)
        with pytest.raises(CohortError, match=r"at 4 um/px on 1 slide \(s2\), and nothing is left; lower size, mpp or"):
            Sampler(cohort, [2], 0, SIZE, (0.5, 4.0))

    def test_no_slides(self, cohort: Cohort) -> None:
        with pytest.raises(CohortError, match="no slides to draw patches from; check the split"):
            Sampler(cohort, [], 0, SIZE, MPP)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"size": 0}, {"mpp": -1.0}, {"mpp": ()}, {"mpp": (0.5, 0.0)}, {"mpp": (0.5, float("nan"))},
            {"min_tissue": 1.5}, {"weighting": "tumour"}, {"placing": "tiles"}, {"mpp_weights": [1, 2]},
            {"mpp_weights": [0.0]}, {"mpp_weights": [float("nan")]},
            {"patches_per_visit": 0}, {"shuffle_visits": 0},
        ],
    )  # fmt: skip
    def test_settings_that_cannot_work(self, cohort: Cohort, wrong: dict[str, object]) -> None:
        settings: dict[str, object] = {"size": SIZE, "mpp": MPP, **wrong}
        with pytest.raises(CohortError, match=r"; use|must be|; give"):
            Sampler(cohort, [0], 0, **settings)  # pyright: ignore[reportArgumentType]
