"""Places found: uniform over all that qualify, and one wherever there is any."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.slides.cohort import Cohort
from g2l.slides.placing import search
from g2l.slides.placing.philox import Streams
from g2l.slides.placing.search import Ground, Search, first_that

MakeCohort = Callable[..., Cohort]


def drawn(cohort: Cohort, size: int, mpp: float, least: float, tiles: bool, count: int) -> NDArray[np.float64]:
    """Corners of patches on slide 0, in um."""
    streams = Streams(3, np.arange(count), np.zeros(count, np.int64))
    found = Search(Ground(cohort, size, least), tiles)
    return found.places(np.zeros(count, np.int64), np.full(count, mpp), streams, np.linspace(0, 0.999, count))


def even(counts: NDArray[np.int64], sizes: NDArray[np.int64]) -> bool:
    """Chi-square of counts against shares as `sizes` says, within four standard deviations."""
    want = counts.sum() * sizes / sizes.sum()
    freedom = len(sizes) - 1
    assert want.min() > 5 and freedom > 5
    return bool(((counts - want) ** 2 / want).sum() < freedom + 4 * np.sqrt(2 * freedom))


def holed() -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:34, :30]
    return ((rows - 15) ** 2 + (columns - 16) ** 2 < 150) & ((rows - 13) ** 2 + (columns - 12) ** 2 > 16)


def tissue_share(mask: NDArray[np.bool_], size: int) -> NDArray[np.float64]:
    """Of each whole-px corner (row, column) the share of a patch of `size` px that is tissue; a cell is 32 px."""
    fine = np.repeat(np.repeat(mask, 32, axis=0), 32, axis=1).astype(np.int64)
    total = np.pad(fine.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return (total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]) / size**2


class TestUniform:
    """Against the list of all places, found by an integral image of the mask blown up to pixels."""

    def test_inside_a_tile_every_tile_and_offset_is_equally_likely(self, make_cohort: MakeCohort) -> None:
        mask, size, tile, count = holed(), 48, 64, 30_000
        corners = drawn(make_cohort([mask], levels=(0.5, 0.5, tile, tile)), size, 0.5, 0.6, True, count) / 0.5
        px = corners.round().astype(int)
        np.testing.assert_array_equal(px, corners)
        y, x = np.nonzero(tissue_share(mask, size) >= 0.6)
        in_tile = (x % tile <= tile - size) & (y % tile <= tile - size)
        x, y = x[in_tile], y[in_tile]
        assert set(map(tuple, px.tolist())) <= set(zip(x.tolist(), y.tolist(), strict=True))
        for of_all, of_drawn in [
            (y // tile * 100 + x // tile, px[:, 1] // tile * 100 + px[:, 0] // tile),
            (y % tile * 100 + x % tile, px[:, 1] % tile * 100 + px[:, 0] % tile),
        ]:
            names, sizes = np.unique(of_all, return_counts=True)
            counts = np.array([(of_drawn == name).sum() for name in names])
            large = sizes > 20
            assert even(counts[large], sizes[large])

    def test_at_random_every_whole_pixel_is_equally_likely(self, make_cohort: MakeCohort) -> None:
        mask, size = holed(), 48
        for levels, tiles in [((0.5, 0.5, 64, 64), False), ((0.5, 0.5, 0, 0), True)]:
            px = drawn(make_cohort([mask], levels=levels), size, 0.5, 0.6, tiles, 20_000) / 0.5
            y, x = np.nonzero(tissue_share(mask, size) >= 0.6)
            names, sizes = np.unique(y // 32 * 100 + x // 32, return_counts=True)
            block = (px // 32).astype(int) @ [1, 100]
            counts = np.array([(block == name).sum() for name in names])
            assert counts.sum() == 20_000
            large = sizes > 200
            assert even(counts[large], sizes[large])


class TestFallback:
    def test_tissue_too_thin_for_the_tiles_is_placed_on_at_random(self, make_cohort: MakeCohort) -> None:
        mask = np.zeros((40, 40), np.bool_)
        mask[:, 7:9] = True  # px 224 to 288 of tiles that end at 256: no tile holds a patch that is all tissue
        cohort = make_cohort([mask], levels=(0.5, 0.5, 256, 256))
        corners = drawn(cohort, 50, 0.5, 1.0, True, 50) / 0.5
        # By numbers of their own: those that found nothing on the tiles are not used again.
        assert (corners != drawn(cohort, 50, 0.5, 1.0, False, 50) / 0.5).any(axis=1).mean() > 0.9
        assert (corners[:, 0] >= 224).all() and (corners[:, 0] <= 238).all()
        assert len(np.unique(corners[:, 0])) > 5
        np.testing.assert_array_equal(corners, corners.round())

    @pytest.mark.parametrize("tiles", [True, False])
    def test_tissue_that_chance_misses_is_found_by_listing(self, make_cohort: MakeCohort, tiles: bool) -> None:
        thin = np.zeros((900, 900), np.bool_)
        thin[2:9, 3:10] = thin[890:897, 880:887] = True  # two squares of exactly one patch, corners apart
        corners = drawn(make_cohort([thin], levels=(0.5, 0.5, 256, 256)), 224, 0.5, 1.0, tiles, 12)
        assert {tuple(corner) for corner in corners.tolist()} == {(3 * 16.0, 2 * 16.0), (880 * 16.0, 890 * 16.0)}

    def test_slides_with_and_without_such_places_together(self, make_cohort: MakeCohort) -> None:
        easy, thin, hidden = np.ones((40, 40), np.bool_), np.zeros((40, 40), np.bool_), np.zeros((600, 600), np.bool_)
        thin[:, 7:9] = hidden[500:502, 300:302] = hidden[3:5, 9:11] = True
        cohort = make_cohort([easy, thin, hidden], levels=(0.5, 0.5, 256, 256))
        slides, count = np.tile([0, 1, 2, 2, 1], 8), 40
        streams, mpp, spare = (
            Streams(3, np.arange(count), np.zeros(count, int)),
            np.full(count, 0.5),
            np.full(count, 0.9),
        )
        found = Search(Ground(cohort, 50, 1.0), True)
        together = found.places(slides, mpp, streams, spare)
        for k in range(count):
            row = np.array([k])
            alone = found.places(slides[row], mpp[row], streams.rows(row), spare[row])
            assert together[k].tolist() == alone[0].tolist()
        assert found.ground.qualify(slides, mpp, together[:, None]).all()

    def test_a_slide_that_is_as_large_as_a_patch_has_one_place(self, make_cohort: MakeCohort) -> None:
        for levels in [(0.5, 0.5, 0, 0), (0.5, 0.5, 64, 64), (0.25, 0.25, 64, 64)]:
            cohort = make_cohort([np.ones((7, 7), np.bool_)], levels=levels)
            assert drawn(cohort, 224, 0.5, 1.0, True, 3).tolist() == [[0.0, 0.0]] * 3

    def test_the_lists_that_are_kept_are_few(self, make_cohort: MakeCohort) -> None:
        cohort = make_cohort([np.ones((7, 7), np.bool_)] * 9, levels=(0.25, 0.25, 64, 64))
        found = Search(Ground(cohort, 224, 1.0), True)
        for slide in range(9):
            assert found._all(slide, 0.5).tolist() == [[0.0, 0.0]]
        assert len(found._listed) <= search.REMEMBERED


class TestExist:
    def test_is_what_a_look_at_every_place_says(self, make_cohort: MakeCohort) -> None:
        """Masks of a few cells and a patch of 2.5: against the best share of all corners at a quarter of a cell."""
        random = np.random.default_rng(2)
        masks = [np.kron(random.random((3, 4)) < 0.4, np.ones((2, 2))).astype(np.bool_) for _ in range(60)]
        masks = [mask for mask in masks if mask.any()]
        cohort = make_cohort(masks)
        best = []
        for mask in masks:
            fine = np.repeat(np.repeat(mask, 4, axis=0), 4, axis=1).astype(np.int64)
            total = np.pad(fine.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
            best.append((total[10:, 10:] - total[:-10, 10:] - total[10:, :-10] + total[:-10, :-10]).max() / 100)
        for least in (0.3, 0.64, 0.8, 1.0):
            got = Search(Ground(cohort, 80, least), True).exist(np.arange(len(masks)), 0.5)
            want = np.array(best) >= least - 1e-9
            np.testing.assert_array_equal(got, want)
        assert want.any() and not want.all()

    def test_a_slide_smaller_than_a_patch_has_none(self, make_cohort: MakeCohort) -> None:
        cohort = make_cohort([np.ones((7, 9), np.bool_), np.ones((9, 6), np.bool_), np.ones((7, 7), np.bool_)])
        assert Search(Ground(cohort, 224, 0.5), True).exist(np.arange(3), 0.5).tolist() == [True, False, True]

    def test_a_patch_as_large_as_the_slide_but_for_rounding(self, make_cohort: MakeCohort) -> None:
        assert 21 * 1.1 > 7 * 3.3  # by a rounding error
        cohort = make_cohort([np.ones((7, 7), np.bool_)], mask_mpp=3.3)
        assert Search(Ground(cohort, 21, 1.0), True).exist(np.arange(1), 1.1).all()
        assert drawn(cohort, 21, 1.1, 1.0, True, 2).tolist() == [[0.0, 0.0]] * 2

    def test_a_level_that_is_a_little_coarser_must_fit_too(self, make_cohort: MakeCohort) -> None:
        """224 px at .5 are 112 um, but 112.9 of the level that is read for it."""
        cohort = make_cohort([np.ones((7, 7), np.bool_)], levels=(0.504, 0.504, 64, 64))
        assert not Search(Ground(cohort, 224, 0.5), True).exist(np.arange(1), 0.5).any()

    def test_a_known_square_of_tissue_is_proof_enough(
        self, make_cohort: MakeCohort, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cohort = make_cohort([np.ones((30, 30), np.bool_)] * 2)
        cohort.geometry = cohort.geometry._replace(room_um=np.array([480.0, 0.0]))
        looked_at: list[int] = []
        qualify = Ground.qualify

        def counted(
            self: Ground, slides: NDArray[np.int64], mpp: NDArray[np.float64], corners: NDArray[np.float64]
        ) -> NDArray[np.bool_]:
            looked_at.extend(slides.tolist())
            return qualify(self, slides, mpp, corners)

        monkeypatch.setattr(Ground, "qualify", counted)
        assert Search(Ground(cohort, 224, 0.5), True).exist(np.arange(2), 0.5).all()
        assert set(looked_at) == {1}

    def test_a_square_smaller_than_a_patch_is_no_proof(self, make_cohort: MakeCohort) -> None:
        ring = np.ones((12, 12), np.bool_)
        ring[2:10, 2:10] = False
        cohort = make_cohort([ring])
        cohort.geometry = cohort.geometry._replace(room_um=np.array([100.0]))
        found = Search(Ground(cohort, 224, 0.7), True)
        assert cohort.geometry.tissue_mm2[0] * 1e6 > 0.7 * 112**2
        assert not found.exist(np.arange(1), 0.5).any()


def test_the_first_candidate_wins_whatever_is_looked_at_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = Streams(1, np.arange(40), np.zeros(40, np.int64))
    random = streams.uniforms(np.arange(5, 5 + 30))  # [40, 30, 4]
    good = random[..., 0] < 0.05

    def propose(rows: NDArray[np.int64], numbers: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        return numbers[..., 1:3], numbers[..., 0] < 0.05

    for at_once in (1, 7, 40, 1000):
        monkeypatch.setattr(search, "AT_ONCE", at_once)
        found, left = first_that(streams, 5, 30, propose)
        assert left.tolist() == np.flatnonzero(~good.any(axis=1)).tolist() != []
        assert np.isnan(found[left]).all()
        for row in np.flatnonzero(good.any(axis=1)).tolist():
            assert found[row].tolist() == random[row, good[row].argmax(), 1:3].tolist()
