"""Several patches of one visit: their numbers, their block, and their places in it."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from g2l.slides.cohort import Cohort
from g2l.slides.placing import visits as module
from g2l.slides.placing.search import CHECK
from g2l.slides.placing.visits import Visits
from g2l.slides.sampling import MEMBER, OWN, VISIT, Sampler
from g2l.slides.slide import Slide

MakeCohort = Callable[..., Cohort]
TILED = (0.5, 0.5, 64, 64, 1.0, 1.0, 64, 64)


@pytest.fixture
def cohort(make_cohort: MakeCohort) -> Cohort:
    rows, columns = np.mgrid[:40, :50]
    return make_cohort([(rows - 15) ** 2 + (columns - 20) ** 2 < 14**2, rows + columns > 40], levels=TILED)


def sampler(cohort: Cohort, size: int = 48, mpp: float = 0.5, **settings: object) -> Sampler:
    settings = {"patches_per_visit": 4, "shuffle_visits": 16, **settings}
    return Sampler(cohort, range(len(cohort)), 5, size, mpp, **settings)  # pyright: ignore[reportArgumentType]


class TestNumbers:
    @pytest.mark.parametrize(("members", "window"), [(1, 1), (1, 8), (3, 1), (4, 16), (5, 6)])
    def test_every_visit_has_its_members_a_window_apart(self, members: int, window: int) -> None:
        numbers = np.arange(7 * members * window)
        visits = Visits(members, window).of(numbers)
        assert Counter(visits.tolist()) == dict.fromkeys(range(7 * window), members)
        for visit in range(7 * window):
            assert np.diff(numbers[visits == visit]).tolist() == [window] * (members - 1)

    def test_a_visit_stays_on_one_rank_where_ranks_divide_the_window(self) -> None:
        numbers = np.arange(4 * 4 * 24)
        visits = Visits(4, 24).of(numbers)
        for ranks in (2, 3, 8):
            assert all(len(set(numbers[visits == visit] % ranks)) == 1 for visit in range(4 * 24))


def test_members_lie_at_whole_pixels_of_their_block(cohort: Cohort) -> None:
    for mpp, placing in [(0.5, "tile"), (0.5, "random"), (0.83, "tile"), (1.0, "tile")]:
        one = sampler(cohort, mpp=mpp, placing=placing)
        drawn = one.draw(np.arange(96))
        assert (drawn.visit >= 0).mean() > 0.9
        for k in np.flatnonzero(drawn.visit >= 0).tolist():
            patch, block = drawn.patch(k), one.block(int(drawn.visit[k]))
            assert (patch.slide, patch.mpp) == (block.slide, block.mpp)
            column, row = round((patch.x - block.x) / mpp), round((patch.y - block.y) / mpp)
            assert patch.x == block.x + column * mpp and patch.y == block.y + row * mpp
            assert 0 <= column <= block.size - patch.size and 0 <= row <= block.size - patch.size


def test_members_lie_on_tissue_inside_the_slide(cohort: Cohort) -> None:
    drawn = sampler(cohort, min_tissue=0.7).draw(np.arange(256))
    for patch in map(drawn.patch, range(256)):
        fine = np.repeat(np.repeat(cohort.mask(patch.slide), 32, axis=0), 32, axis=1)
        x, y = round(patch.x / 0.5), round(patch.y / 0.5)
        inside = fine[y : y + 48, x : x + 48]
        assert inside.shape == (48, 48) and inside.mean() >= 0.7


def test_places_of_a_visit_differ_and_cover_their_block(make_cohort: MakeCohort) -> None:
    full = make_cohort([np.ones((8, 8), np.bool_)], levels=(0.5, 0.5, 128, 128))  # 256 px: one block of 2 x 2 tiles
    drawn = sampler(full, size=100, patches_per_visit=8).draw(np.arange(8192))
    assert (drawn.visit >= 0).all()
    for along in (drawn.x / 0.5, drawn.y / 0.5):
        counts = np.bincount(along.astype(int), minlength=157)
        assert len(counts) == 157 and counts.all()
        assert ((counts - 8192 / 157) ** 2 / (8192 / 157)).sum() < 156 + 4 * np.sqrt(2 * 156)  # uniform on 0..156


def test_a_block_is_two_by_two_tiles_inside_the_slide(cohort: Cohort) -> None:
    one = sampler(cohort)
    corners = set()
    for visit in range(150):
        block = one.block(visit)
        column, row = block.x / 0.5 / 64, block.y / 0.5 / 64
        assert column == int(column) and row == int(row) and block.size == 128
        assert 0 <= block.x <= 800 - 64 and 0 <= block.y <= 640 - 64
        corners.add((block.slide, column, row))
    assert len(corners) > 50


def test_a_patch_is_anywhere_in_its_block(make_cohort: MakeCohort) -> None:
    """Tissue in one tile alone, the third across and the fourth down: each of the four blocks that hold it is drawn."""
    mask = np.zeros((20, 25), np.bool_)
    mask[6:8, 4:6] = True
    one = sampler(make_cohort([mask], levels=TILED), size=40)
    blocks = Counter((one.block(visit).x / 32, one.block(visit).y / 32) for visit in range(200))
    assert set(blocks) == {(1.0, 2.0), (2.0, 2.0), (1.0, 3.0), (2.0, 3.0)}
    assert min(blocks.values()) > 25


def test_visits_members_and_single_patches_use_numbers_of_their_own(cohort: Cohort) -> None:
    assert len({OWN, VISIT, MEMBER, CHECK}) == 4
    one, alone = sampler(cohort), sampler(cohort, patches_per_visit=1)
    slides = np.array([one.block(visit).slide for visit in range(200)])
    assert 60 < (slides == alone.draw(np.arange(200)).slide).sum() < 140


def test_a_block_of_a_resampled_level_needs_no_further_tile(cohort: Cohort) -> None:
    """48 px at .8 need 77 + 10 of the level at .5, so 2 tiles; twice that 3 tiles, and the rest is margin."""
    one = sampler(cohort, mpp=0.8)
    block = one.block(0)
    assert block.size == int((3 * 64 - 2 * 5) / 1.6)
    for start in (block.x, block.y):
        assert (start / 0.5 - 5) % 64 == pytest.approx(0)


def test_without_tiles_a_block_is_twice_as_wide_as_a_patch(cohort: Cohort) -> None:
    one = sampler(cohort, placing="random", mpp=0.7)
    for visit in range(50):
        block = one.block(visit)
        assert block.size == 96
        assert block.x / 0.7 == pytest.approx(round(block.x / 0.7))
        assert 0 <= block.x <= 800 - 96 * 0.7 + 1e-6 and 0 <= block.y <= 640 - 96 * 0.7 + 1e-6


def test_a_slide_smaller_than_a_block_begins_it(make_cohort: MakeCohort) -> None:
    small = make_cohort([np.ones((3, 5), np.bool_)], levels=TILED)  # 160 x 96 px
    one = sampler(small)
    for k in range(64):
        block, patch = one.block(k), one.patch(k)
        assert block.y == 0.0 and block.x in (0.0, 16.0 - 16.0) and block.size == 128
        assert patch.visit >= 0 and patch.y + 24 <= 48


def test_a_member_that_finds_no_place_in_its_block_is_drawn_alone(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMBER_TRIES", 1)
    one = sampler(cohort, min_tissue=1.0)
    alone = sampler(cohort, min_tissue=1.0, patches_per_visit=1).draw(np.arange(256))
    drawn = one.draw(np.arange(256))
    lost = drawn.visit < 0
    assert 0 < lost.sum() < 256 and (alone.visit == -1).all()
    np.testing.assert_array_equal(drawn.x[lost], alone.x[lost])
    np.testing.assert_array_equal(drawn.slide[lost], alone.slide[lost])
    assert (drawn.x[~lost] != alone.x[~lost]).any()


def test_a_replacement_is_drawn_alone(cohort: Cohort) -> None:
    one, plain = sampler(cohort), sampler(cohort, patches_per_visit=1)
    numbers = np.arange(40)
    drawn = one.draw(numbers, numbers % 3)
    assert ((drawn.visit >= 0) <= (drawn.attempt == 0)).all() and (drawn.visit >= 0).any()
    for k in np.flatnonzero(drawn.attempt > 0).tolist():
        assert drawn.patch(k) == plain.patch(k, k % 3)


def test_patches_do_not_depend_on_what_is_drawn_with_them(cohort: Cohort) -> None:
    one = sampler(cohort)
    together = one.draw(np.arange(150))
    rows = np.random.default_rng(0).permutation(150)
    shuffled = one.draw(rows)
    for k in range(150):
        assert together.patch(int(rows[k])) == shuffled.patch(k)
    assert [one.patch(k) for k in range(0, 150, 7)] == [together.patch(k) for k in range(0, 150, 7)]


def test_a_part_of_the_block_has_the_pixels_of_the_patch(make_cohort: MakeCohort, tmp_path: Path) -> None:
    """On a real file: cutting from the block gives what reading the patch alone gives."""
    pixels = np.random.default_rng(0).integers(0, 256, (640, 800, 3)).astype(np.uint8)
    centimetre = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(
        tmp_path / "noise.tif", pixels, tile=(64, 64), photometric="rgb", compression="deflate", **centimetre
    )
    with Slide.open(tmp_path / "noise.tif") as slide:
        levels = [number for level in slide.levels for number in (*level[:2], level.tile_w, level.tile_h)]
        cohort = make_cohort([np.ones((20, 25), np.bool_)], levels=levels)
        for mpp, tolerance in [(0.5, 0), (1.0, 1)]:
            one = sampler(cohort, mpp=mpp)
            for k in range(12):
                patch = one.patch(k)
                block = one.block(patch.visit)
                whole = slide.read_patch(block.x, block.y, block.size, mpp)
                column, row = round((patch.x - block.x) / mpp), round((patch.y - block.y) / mpp)
                cut = whole[row : row + patch.size, column : column + patch.size].astype(int)
                assert np.abs(cut - slide.read_patch(patch.x, patch.y, patch.size, mpp)).max() <= tolerance
                if mpp == 0.5:
                    x, y = round(patch.x / 0.5), round(patch.y / 0.5)
                    np.testing.assert_array_equal(cut, pixels[y : y + 48, x : x + 48])
