"""read_patch and thumbnail: right pixels at the right place, and errors that help."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.slides import slide as module
from g2l.slides.slide import Slide

WriteSlide = Callable[..., Path]
PERIOD_UM = (61.0, 83.0)


def waves(x_um: NDArray[np.floating], y_um: NDArray[np.floating]) -> NDArray[np.float64]:
    """A smooth picture defined in micrometres: channel 0 varies along x, channel 1 along y, channel 2 is flat."""
    along = 127.5 + 100 * np.sin(2 * np.pi * x_um / PERIOD_UM[0])[None, :] + 0 * y_um[:, None]
    down = 127.5 + 100 * np.sin(2 * np.pi * y_um / PERIOD_UM[1])[:, None] + 0 * x_um[None, :]
    return np.stack([along, down, np.full_like(along, 200.0)], axis=-1)


def drawn(width: int, height: int, mpp_x: float, mpp_y: float) -> NDArray[np.uint8]:
    return waves((np.arange(width) + 0.5) * mpp_x, (np.arange(height) + 0.5) * mpp_y).round().astype(np.uint8)


def expected(x: float, y: float, size: int, mpp: float) -> NDArray[np.float64]:
    centres = (np.arange(size) + 0.5) * mpp
    return waves(x + centres, y + centres)


def shift_px(got: NDArray[np.uint8], x: float, y: float, mpp: float) -> tuple[float, float]:
    """Displacement of the waves against where they belong, in px of the result (least squares on the phase)."""
    centres = (np.arange(got.shape[0]) + 0.5) * mpp
    found = []
    for start, period, signal in (
        (x, PERIOD_UM[0], got[..., 0].mean(axis=0)),
        (y, PERIOD_UM[1], got[..., 1].mean(axis=1)),
    ):
        angle = 2 * np.pi * (start + centres) / period
        design = np.stack([np.sin(angle), np.cos(angle), np.ones_like(angle)], axis=1)
        sine, cosine, _ = np.linalg.lstsq(design, signal.astype(np.float64), rcond=None)[0]
        found.append(float(np.arctan2(cosine, sine)) * period / (2 * np.pi) / mpp)
    return found[0], found[1]


def test_native_read_returns_the_files_pixels(
    tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]
) -> None:
    with Slide.open(write_slide(tmp_path / "a.tif", noise, 0.5)) as slide:
        assert slide.dimensions == (1023, 771)
        assert slide.size_um == pytest.approx((511.5, 385.5))
        assert slide.mpp == pytest.approx(0.5) and slide.mpp_source == "file" and slide.backend == "openslide"
        patch = slide.read_patch(100 * 0.5, 37 * 0.5, 224, 0.5)
        assert patch.dtype == np.uint8 and patch.flags.writeable and patch.flags.c_contiguous
        np.testing.assert_array_equal(patch, noise[37 : 37 + 224, 100 : 100 + 224])


def test_native_read_of_a_jpeg_level_is_openslides(
    tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]
) -> None:
    path = write_slide(tmp_path / "a.tif", noise[:768, :1024], 0.5, compression="jpeg")
    with Slide.open(path) as slide, openslide.OpenSlide(str(path)) as reference:
        theirs = np.asarray(reference.read_region((64, 300), 0, (256, 256)).convert("RGB"))
        np.testing.assert_array_equal(slide.read_patch(32, 150, 256, 0.5), theirs)


@pytest.mark.parametrize("mpp", [0.35, 0.5, 0.687, 1.0, 1.31, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("place", [(40.0, 60.0), (41.37, 63.11), (380.2, 260.7)])
def test_no_shift_at_any_resolution(
    tmp_path: Path, write_slide: WriteSlide, mpp: float, levels: int, place: tuple[float, float]
) -> None:
    x, y = place
    size = int(120 / mpp)
    with Slide.open(write_slide(tmp_path / "a.tif", drawn(1023, 771, 0.5, 0.5), 0.5, levels)) as slide:
        patch = slide.read_patch(x, y, size, mpp)
    shifts = np.abs(shift_px(patch, x, y, mpp))
    # where a level is taken as it is, the nearest whole pixel of it is meant
    native = mpp in (0.5, 1.0, 2.0, 4.0) and (levels > 1 or mpp == 0.5)
    assert shifts.max() < (0.52 if native else 0.06), shifts
    if not native:
        margin = 2  # the pyramid is blurred by its own means; the picture is not
        difference = patch.astype(np.float64) - expected(x, y, size, mpp)
        assert np.abs(difference[margin:-margin, margin:-margin]).mean() < 6


def test_different_resolutions_along_x_and_y_are_honoured(tmp_path: Path, write_slide: WriteSlide) -> None:
    path = write_slide(tmp_path / "a.tif", drawn(900, 900, 0.5, 0.6), (0.5, 0.6))
    with Slide.open(path) as slide:
        assert slide.mpp_xy == pytest.approx((0.5, 0.6))
        assert slide.mpp == pytest.approx(0.55)
        assert slide.size_um == pytest.approx((450, 540))
        assert slide.thumbnail(3.0).shape == (180, 150, 3)
        for mpp in (0.5, 0.6, 1.2):
            assert np.abs(shift_px(slide.read_patch(31.3, 77.7, 150, mpp), 31.3, 77.7, mpp)).max() < 0.06


def test_far_corner_of_an_odd_pyramid_is_in_place(tmp_path: Path, write_slide: WriteSlide) -> None:
    """1023 -> 511 -> 255 -> 127: OpenSlide calls the last level 8.05, so its far corner lies 5 px of level 0 off."""
    path = write_slide(tmp_path / "a.tif", drawn(1023, 1023, 0.5, 0.5), 0.5, levels=4)
    with openslide.OpenSlide(str(path)) as reference:
        assert reference.level_downsamples[3] > 8.03
    with Slide.open(path) as slide:
        assert np.abs(shift_px(slide.read_patch(330.0, 330.0, 42, 4.2), 330.0, 330.0, 4.2)).max() < 0.06


def test_downsampling_averages_instead_of_skipping(tmp_path: Path, write_slide: WriteSlide) -> None:
    board = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    with Slide.open(write_slide(tmp_path / "a.tif", np.stack([board] * 3, axis=-1), 0.5)) as slide:
        for mpp in (1.0, 1.7, 2.0):
            patch = slide.read_patch(20, 20, 64, mpp).astype(float)
            assert abs(patch.mean() - 127.5) < 2 and patch.std() < 24


def test_neighbouring_patches_fit_without_a_seam(
    tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]
) -> None:
    with Slide.open(write_slide(tmp_path / "a.tif", noise, 0.5)) as slide:
        whole = slide.read_patch(50, 50, 100, 1.3).astype(int)
        half = 50 * 1.3
        parts = [[slide.read_patch(50 + i * half, 50 + j * half, 50, 1.3) for i in (0, 1)] for j in (0, 1)]
    joined = np.concatenate([np.concatenate(row, axis=1) for row in parts], axis=0).astype(int)
    assert np.abs(joined - whole).max() <= 1


def test_large_reads_in_parts_equal_one_read(
    tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Slide.open(write_slide(tmp_path / "a.tif", noise, 0.5)) as slide:
        whole = slide.thumbnail(3.1).astype(int)
        monkeypatch.setattr(module, "MAX_READ_PIXELS", 50_000)
        assert np.abs(slide.thumbnail(3.1).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("mpp", [0.3, 0.5, 1.4])
def test_outside_the_slide_is_white(tmp_path: Path, write_slide: WriteSlide, mpp: float) -> None:
    grey = np.full((256, 256, 3), 90, np.uint8)
    with Slide.open(write_slide(tmp_path / "a.tif", grey, 0.5)) as slide:
        assert (slide.read_patch(500, 500, 40, mpp) == 255).all()
        assert (slide.read_patch(-500, 10, 40, mpp) == 255).all()
        corner = slide.read_patch(-20 * mpp, -20 * mpp, 40, mpp)
        assert (corner[:18] == 255).all() and (corner[:, :18] == 255).all()
        assert (corner[22:, 22:] == 90).all()
        # a patch that ends at the border holds no trace of what lies beyond
        assert (slide.read_patch(128 - 40 * mpp, 128 - 40 * mpp, 40, mpp) == 90).all()


def test_thumbnail_shows_the_whole_slide(tmp_path: Path, write_slide: WriteSlide) -> None:
    pixels = np.full((800, 1200, 3), 255, np.uint8)
    pixels[400:, 600:] = 0
    with Slide.open(write_slide(tmp_path / "a.tif", pixels, 0.5, levels=3)) as slide:
        small = slide.thumbnail(10.0)
    assert small.shape == (40, 60, 3)
    assert (small[:19] == 255).all() and (small[:, :29] == 255).all() and (small[21:, 31:] == 0).all()


def test_given_resolution_wins(tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
    with Slide.open(write_slide(tmp_path / "a.tif", noise, 0.5), mpp=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "given")
        np.testing.assert_array_equal(slide.read_patch(25, 25, 64, 0.25), noise[100:164, 100:164])


def test_unicode_names_and_plain_strings_open(
    tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]
) -> None:
    path = write_slide(tmp_path / "Präparat 7 μm 組織.tif", noise)
    with Slide.open(str(path)) as slide:
        assert slide.path == path and "Präparat" in repr(slide)


def test_slides_do_not_share_state(tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
    """All handles share one tile cache: the same place of two files must not be mixed up."""
    first = Slide.open(write_slide(tmp_path / "a.tif", noise))
    second = Slide.open(write_slide(tmp_path / "b.tif", 255 - noise))
    for _ in range(2):
        one, two = first.read_patch(0, 0, 128, 0.5), second.read_patch(0, 0, 128, 0.5)
        np.testing.assert_array_equal(one, 255 - two)
    first.close()
    first.close()
    second.close()


class TestErrors:
    """Every one is a single line that names the file and the remedy."""

    def message(self, path: Path, mpp: float | None = None) -> str:
        with pytest.raises(SlideError) as caught:
            Slide.open(path, mpp)
        text = str(caught.value)
        assert "\n" not in text and path.name in text and "; " in text
        return text

    def test_absent(self, tmp_path: Path) -> None:
        assert "does not exist" in self.message(tmp_path / "absent.svs")
        assert "not a file" in self.message(tmp_path)

    def test_unreadable(self, tmp_path: Path) -> None:
        (tmp_path / "broken.svs").write_bytes(b"II*\x00 this is no slide" * 40)
        assert "cannot be read" in self.message(tmp_path / "broken.svs")
        (tmp_path / "leer.svs").write_bytes(b"")
        assert "cannot be read" in self.message(tmp_path / "leer.svs")

    def test_cut_off(self, tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
        whole = write_slide(tmp_path / "whole.tif", noise).read_bytes()
        (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 3])
        with pytest.raises(SlideError, match="cut"), Slide.open(tmp_path / "cut.tif") as slide:
            slide.read_patch(300, 300, 200, 0.5)

    def test_damaged_tile(self, tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
        path = write_slide(tmp_path / "damaged.tif", noise, compression="jpeg")
        content = bytearray(path.read_bytes())
        start = len(content) // 2
        content[start : start + 40_000] = bytes(40_000)
        path.write_bytes(bytes(content))
        with Slide.open(path) as slide, pytest.raises(SlideError, match=r"damaged at pixel .* of level 0"):
            slide.thumbnail(4)

    def test_no_resolution(self, tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
        text = self.message(write_slide(tmp_path / "a.tif", noise, mpp=None))
        assert text.endswith(
            "a.tif states no resolution (openslide.mpp-x is missing); give it with --mpp or the manifest's mpp column"
        )

    @pytest.mark.parametrize("dpi", [72, 96, 300])
    def test_print_resolution(
        self, tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8], dpi: float
    ) -> None:
        path = write_slide(tmp_path / "a.tif", noise, mpp=None, dpi=dpi)
        assert f"{25400 / dpi:.4g} um/px, outside 0.1-4" in self.message(path)
        with Slide.open(path, mpp=0.5) as slide:
            assert slide.mpp == 0.5

    @pytest.mark.parametrize("mpp", [0.0, -1.0, 0.02, 250.0, float("nan")])
    def test_implausible_gift(
        self, tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8], mpp: float
    ) -> None:
        assert "outside 0.1-4" in self.message(write_slide(tmp_path / "a.tif", noise), mpp)


@pytest.mark.real_data
class TestRealSlides:
    def test_breast_section_has_the_resolution_of_its_tiff_tags(self, real_data: Path) -> None:
        with Slide.open(real_data / "slides" / "her2st_B4.tif") as slide:
            assert slide.mpp == pytest.approx(0.6863, abs=1e-4)

    @pytest.mark.parametrize("mpp", [2.9, 5.8, 11.6, 23.2])
    def test_levels_of_a_real_pyramid_agree(self, real_data: Path, mpp: float) -> None:
        """The same place from a coarse level and, block-averaged by numpy, from level 0: best match without shift."""
        x, y, size = 4500.0, 5200.0, 40
        with Slide.open(real_data / "slides" / "her2st_C2.tif") as slide:
            fine_mpp = mpp / 8
            fine = slide.read_patch(x - 2 * mpp, y - 2 * mpp, (size + 4) * 8, fine_mpp).astype(np.float64)
            coarse = slide.read_patch(x, y, size, mpp).astype(np.float64)
        means = fine.reshape(size + 4, 8, size + 4, 8, 3).mean(axis=(1, 3))
        errors = {
            (i, j): np.abs(means[2 + j : 2 + j + size, 2 + i : 2 + i + size] - coarse).mean()
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
        }
        assert min(errors, key=lambda key: errors[key]) == (0, 0)

    @pytest.mark.parametrize("name", ["cmu-1-small-region.svs", "her2st_C4.tif"])
    def test_native_read_is_openslides(self, real_data: Path, name: str) -> None:
        path = real_data / "slides" / name
        with Slide.open(path) as slide, openslide.OpenSlide(str(path)) as reference:
            theirs = np.asarray(reference.read_region((700, 900), 0, (224, 224)).convert("RGB"))
            mpp_x, mpp_y = slide.mpp_xy
            np.testing.assert_array_equal(slide.read_patch(700 * mpp_x, 900 * mpp_y, 224, slide.mpp), theirs)
