"""Tiles decoded straight from the file show OpenSlide's pixels, wherever one looks, or are not used."""

import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray

from g2l.errors import SlideError
from g2l.slides.backends import choose
from g2l.slides.cohort import Cohort
from g2l.slides.index import index
from g2l.slides.probes import difference
from g2l.slides.reader import OpenSlideReader
from g2l.slides.slide import Slide
from g2l.slides.tiff import TiffTiles, TileMap, UnsuitableError, map_tiles
from g2l.slides.tiles import TiledReader, decode, decode_top

WriteSlide = Callable[..., Path]
Pixels = NDArray[np.uint8]
REAL = ["cmu-1-small-region.svs", "her2st_B4.tif", "her2st_C2.tif", "her2st_C3.tif", "her2st_C4.tif"]


def tissue(height: int = 771, width: int = 1023, seed: int = 0) -> Pixels:
    """Smooth coloured blobs: structured, and little changed by JPEG."""
    rough = np.random.default_rng(seed).integers(30, 226, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def write(path: Path, pixels: Pixels, levels: int = 1, tile: tuple[int, int] = (128, 128), **options: Any) -> Path:
    """A JPEG pyramid at 0.5 um/px."""
    scale = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER", "metadata": None}
    kind: dict[str, Any] = {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2), "tile": tile}
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as tiff:
        for level in range(levels):
            tiff.write(pixels[:: 2**level, :: 2**level], subfiletype=int(level > 0), **(kind | scale | options))
    return path


def segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of every segment before the scan, then the scan's."""
    at = 2
    while jpeg[at + 1] != 0xDA:
        length = struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
        yield jpeg[at + 1], jpeg[at : at + 2 + length]
        at += 2 + length
    yield 0xDA, jpeg[at:]


def write_rgb(path: Path, pixels: Pixels, missing: tuple[int, ...] = ()) -> Path:
    """Tiles as the Aperio scanner's: RGB without conversion, no JFIF or Adobe marker, tables shared by all tiles."""
    height, width = pixels.shape[:2]
    side = 128
    tables, tiles = b"", []
    for top in range(0, height, side):
        for left in range(0, width, side):
            block = np.full((side, side, 3), 90, np.uint8)
            part = pixels[top : top + side, left : left + side]
            block[: part.shape[0], : part.shape[1]] = part
            jpeg = imagecodecs.jpeg8_encode(block, 92, colorspace="RGB", outcolorspace="RGB", subsampling="444")
            found = list(segments(bytes(jpeg)))
            tables = b"".join(data for marker, data in found if marker in (0xDB, 0xC4))
            tiles.append(b"\xff\xd8" + b"".join(data for marker, data in found if marker in (0xC0, 0xDA)))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            (b"" if number in missing else tile for number, tile in enumerate(tiles)),
            shape=pixels.shape, dtype=np.uint8, tile=(side, side), compression="jpeg", photometric="rgb",
            jpegtables=b"\xff\xd8" + tables + b"\xff\xd9", metadata=None,
            resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
        )  # fmt: skip
    return path


def direct(path: Path) -> TiledReader:
    plain = OpenSlideReader(path)
    return TiledReader(path, TiffTiles(path, map_tiles(path, [plane[:2] for plane in plain.planes])))


def read(reader: TiledReader | OpenSlideReader, x: int, y: int, width: int, height: int, plane: int = 0) -> Pixels:
    out = np.empty((height, width, 3), np.uint8)
    reader.read(plane, x, y, width, height, 1, out)
    return out


LAYOUTS: dict[str, Callable[[Path, Pixels], Path]] = {
    "420": lambda path, pixels: write(path, pixels),
    "422": lambda path, pixels: write(path, pixels, subsampling=(2, 1)),
    "444": lambda path, pixels: write(path, pixels, subsampling=(1, 1)),
    "big": lambda path, pixels: write(path, pixels, bigtiff=True),
    "oblong": lambda path, pixels: write(path, pixels, tile=(64, 160)),
    "one tile": lambda path, pixels: write(path, pixels[:100, :90]),
    "rgb": lambda path, pixels: write_rgb(path, pixels),
    "sparse": lambda path, pixels: write_rgb(path, pixels, missing=(9, 10, 17)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_are_openslides_everywhere(tmp_path: Path, layout: str) -> None:
    path = LAYOUTS[layout](tmp_path / "a.tif", tissue())
    ours, theirs = direct(path), OpenSlideReader(path)
    width, height = ours.planes[0][:2]
    random = np.random.default_rng(1)
    for _ in range(60):
        w, h = random.integers(1, 300, 2).tolist()
        x, y = int(random.integers(-w, width + 5)), int(random.integers(-h, height + 5))
        np.testing.assert_array_equal(read(ours, x, y, w, h), read(theirs, x, y, w, h), f"{x} {y} {w} {h}")
    tile_w, tile_h = ours.planes[0][2:]
    np.testing.assert_array_equal(read(ours, 0, 0, tile_w, tile_h), read(theirs, 0, 0, tile_w, tile_h))
    assert choose(path).reader.name == "tiles"


def test_pixels_are_openslides_on_every_level(tmp_path: Path) -> None:
    """Sizes that halve evenly: then OpenSlide reads whole pixels on every level."""
    path = write(tmp_path / "a.tif", tissue(776, 1032), levels=4)
    ours, theirs = direct(path), OpenSlideReader(path)
    assert theirs.downsamples == [1, 2, 4, 8]
    random = np.random.default_rng(4)
    for _ in range(80):
        plane = int(random.integers(4))
        width, height = theirs.planes[plane][:2]
        w, h = random.integers(1, 260, 2).tolist()
        x, y = int(random.integers(-w, width + 5)), int(random.integers(-h, height + 5))
        np.testing.assert_array_equal(read(ours, x, y, w, h, plane), read(theirs, x, y, w, h, plane))


@pytest.mark.parametrize(("make", "wrong"), [(write, 2), (write_rgb, 6)])
def test_a_wrong_photometric_tag_gives_what_openslide_gives(
    tmp_path: Path, make: Callable[..., Path], wrong: int
) -> None:
    """The colours are wrong for every reader, and neither the check nor the slide stops anything."""
    path = make(tmp_path / "a.tif", tissue())
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(wrong)
    with Slide.open(path) as ours, Slide.open(path, backend="openslide") as theirs:
        for x, y in ((0, 0), (70, 50), (300, 200)):
            difference_ = ours.read_patch(x, y, 200, 0.5).astype(float) - theirs.read_patch(x, y, 200, 0.5)
            assert np.abs(difference_).mean() < 2


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_pixels_are_openslides_on_real_slides(real_data: Path, name: str) -> None:
    path = real_data / "slides" / name
    chosen = choose(path)
    assert chosen.reader.name == "tiles" and "grey levels from OpenSlide's" in chosen.reason
    theirs = OpenSlideReader(path)
    assert isinstance(chosen.reader, TiledReader)
    width, height = theirs.planes[0][:2]
    random = np.random.default_rng(2)
    for _ in range(25):  # level 0: the same pixels, to the last
        x, y = int(random.integers(-100, width)), int(random.integers(-100, height))
        np.testing.assert_array_equal(read(chosen.reader, x, y, 224, 224), read(theirs, x, y, 224, 224))
    found = [difference(chosen.reader, theirs, plane) for plane in range(len(theirs.planes))]
    assert all(one is not None and one < 2 for one in found), found  # others: OpenSlide interpolates


@pytest.mark.real_data
def test_every_real_slide_is_read_like_openslide(real_data: Path) -> None:
    """Whatever backend is chosen (at the finest level: elsewhere OpenSlide interpolates, see the test above)."""
    given = {"tcga-cr-7395-01a-01-ts1.svs": 0.5, "camelyon_level.dcm": 4.0}
    backends = {}
    for path in sorted((real_data / "slides").iterdir()):
        if path.name == "broken.svs":
            continue
        mpp = given.get(path.name)
        with Slide.open(path, mpp) as ours, Slide.open(path, mpp, "openslide") as theirs:
            backends[path.name] = ours.backend
            for share in (0.1, 0.4, 0.7):
                x, y = ours.size_um[0] * share, ours.size_um[1] * share
                patches = [slide.read_patch(x, y, 224, slide.mpp).astype(float) for slide in (ours, theirs)]
                assert np.abs(patches[0] - patches[1]).mean() < 2, path.name
    assert backends.pop("tcga-cr-7395-01a-01-ts1.svs") == "openslide"  # JPEG 2000
    assert {name for name, backend in backends.items() if backend == "tiles"} == set(REAL)


class TestHalfAndQuarter:
    def test_they_are_offered_where_no_level_is_stored(self, tmp_path: Path) -> None:
        with Slide.open(write(tmp_path / "a.tif", tissue())) as slide:
            assert [(level.mpp_x, level.shrink) for level in slide.levels] == [(0.5, 1), (1.0, 2), (2.0, 4)]
            assert [level[2:6] for level in slide.levels[1:]] == [(512, 386, 64, 64), (256, 193, 32, 32)]
        with Slide.open(write(tmp_path / "b.tif", tissue(), levels=2)) as slide:
            steps = [(level.mpp_x, level.source, level.shrink) for level in slide.levels]
            assert steps == [(0.5, 0, 1), (1.0, 1, 1), (2.0, 1, 2), (4.0, 1, 4)]

    @pytest.mark.parametrize("shrink", [2, 4])
    @pytest.mark.parametrize("make", [write, write_rgb])
    def test_they_are_means_of_blocks(self, tmp_path: Path, shrink: int, make: Callable[..., Path]) -> None:
        with Slide.open(make(tmp_path / "a.tif", tissue())) as slide:
            whole = slide.read_patch(0, 0, 768, 0.5).astype(float)
            means = whole.reshape(768 // shrink, shrink, 768 // shrink, shrink, 3).mean(axis=(1, 3))
            random = np.random.default_rng(3)
            for _ in range(20):
                x, y = random.integers(0, 768 // shrink - 60, 2).tolist()
                got = slide.read_patch(x * shrink * 0.5, y * shrink * 0.5, 60, 0.5 * shrink)
                wanted = means[y : y + 60, x : x + 60]
                psnr = 10 * math.log10(255**2 / ((got - wanted) ** 2).mean())
                assert psnr > 38, psnr

    def test_an_odd_last_pixel_is_not_padded(self, tmp_path: Path) -> None:
        """1023 px halve to 512, the last of them half: a patch that ends with the slide shows no white column."""
        with Slide.open(write(tmp_path / "a.tif", tissue())) as slide:
            for mpp in (1.0, 2.0, 1.2):  # the tiles are padded with black: no dark line either
                corner = slide.read_patch(slide.size_um[0] - 60 * mpp, slide.size_um[1] - 60 * mpp, 60, mpp).astype(int)
                for line, before in ((corner[:, -1], corner[:, -2]), (corner[-1], corner[-2])):
                    assert np.abs(line - before).mean() < 15, mpp
            patch = slide.read_patch(slide.size_um[0] - 60, slide.size_um[1] - 60, 60, 1.0)
            assert patch.min(axis=2).max() < 255
            outside = slide.read_patch(slide.size_um[0] - 60 + 2, 0, 60, 1.0)
            assert (outside[:, -1] == 255).all()

    @pytest.mark.real_data
    def test_half_size_of_a_real_slide(self, real_data: Path) -> None:
        with Slide.open(real_data / "slides" / REAL[0]) as slide:
            half = slide.levels[1]
            assert half.shrink == 2
            got = slide.read_patch(100 * half.mpp_x, 100 * half.mpp_x, 500, half.mpp_x).astype(float)
            fine = slide.read_patch(100 * half.mpp_x, 100 * half.mpp_x, 1000, slide.mpp).astype(float)
        wanted = fine.reshape(500, 2, 500, 2, 3).mean(axis=(1, 3))
        assert 10 * math.log10(255**2 / ((got - wanted) ** 2).mean()) > 38


class TestNotUsed:
    """Files whose tiles are left to OpenSlide, each with its reason."""

    def reason(self, path: Path) -> str:
        chosen = choose(path)
        assert chosen.reader.name == "openslide" and chosen.tile_map is None
        return chosen.reason

    def test_other_compressions(self, tmp_path: Path, write_slide: WriteSlide) -> None:
        assert "DEFLATE, not JPEG" in self.reason(write_slide(tmp_path / "a.tif", tissue()))

    def test_nothing_to_compare(self, tmp_path: Path) -> None:
        assert "nowhere enough structure" in self.reason(
            write(tmp_path / "a.tif", np.full((512, 512, 3), 240, np.uint8))
        )

    def test_striped(self, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "a.tif", tissue(), compression="jpeg", photometric="ycbcr", rowsperstrip=64)
        with pytest.raises(UnsuitableError, match="striped"):
            map_tiles(tmp_path / "a.tif", [(1023, 771)])

    def test_levels_that_no_tiled_image_has(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.tif", tissue())
        with pytest.raises(UnsuitableError, match="0 tiled images of 900 x 771 px"):
            map_tiles(path, [(900, 771)])

    def test_tiles_missing_in_an_aperio_file(self, tmp_path: Path) -> None:
        path = write_rgb(tmp_path / "a.tif", tissue(), missing=(3,))
        with pytest.raises(UnsuitableError, match="fills from other levels"):
            map_tiles(path, [(1023, 771)], "aperio")
        assert map_tiles(path, [(1023, 771)], "generic-tiff")

    def test_pixels_that_disagree(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Taking RGB tiles for YCbCr, the mistake that decoders make by themselves, is noticed."""
        path = write_rgb(tmp_path / "a.tif", tissue())
        assert choose(path).reader.name == "tiles"
        monkeypatch.setattr("g2l.slides.tiff.colour_marker", lambda ycbcr: b"")
        assert "differ from OpenSlide's by" in self.reason(path)

    def test_pixels_that_are_shifted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "a.tif", tissue())
        plain = TiledReader.read
        monkeypatch.setattr(TiledReader, "read", lambda self, plane, x, *rest: plain(self, plane, x + 1, *rest))
        assert "differ from OpenSlide's by inf" in self.reason(path)

    def test_asking_for_tiles_names_the_reason(self, tmp_path: Path, write_slide: WriteSlide) -> None:
        with pytest.raises(SlideError, match=r"not fit for backend tiles .*; use auto"):
            Slide.open(write_slide(tmp_path / "a.tif", tissue()), backend="tiles")


class TestDamage:
    """Every one is a SlideError at reading: the patch is lost, not the run."""

    @pytest.fixture
    def slide(self, tmp_path: Path) -> Iterator[tuple[Slide, Path]]:
        path = write(tmp_path / "a.tif", tissue())
        with Slide.open(path) as slide:
            yield slide, path

    def tile(self, path: Path, number: int) -> tuple[int, int]:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            return page.dataoffsets[number], page.databytecounts[number]

    def test_garbage_in_a_tile(self, slide: tuple[Slide, Path]) -> None:
        opened, path = slide
        offset, length = self.tile(path, 9)
        content = bytearray(path.read_bytes())
        for start, stop in ((0, length), (length // 2, length)):
            broken = content.copy()
            broken[offset + start : offset + stop] = np.random.default_rng(0).bytes(stop - start)
            path.write_bytes(bytes(broken))
            with pytest.raises(SlideError, match=r"a\.tif is damaged at pixel \(128, 128\) of level 0 .*; replace"):
                opened.read_patch(64, 64, 128, 0.5)
            assert opened.read_patch(128, 128, 128, 0.5).std() > 0  # its neighbour
        path.write_bytes(bytes(content))

    def test_garbage_is_noticed_where_only_the_top_of_a_tile_is_decoded(self, slide: tuple[Slide, Path]) -> None:
        opened, path = slide
        offset, length = self.tile(path, 9)
        content = bytearray(path.read_bytes())
        content[offset + length // 10 : offset + length] = np.random.default_rng(0).bytes(length - length // 10)
        assert opened.read_patch(64, 40, 110, 0.5).std() > 0  # rows 80 to 190 of tiles of 128
        path.write_bytes(bytes(content))
        with pytest.raises(SlideError, match=r"damaged at pixel \(128, 128\)"):
            opened.read_patch(64, 40, 110, 0.5)

    def test_cut_off_during_the_run(self, slide: tuple[Slide, Path]) -> None:
        opened, path = slide
        os.truncate(path, self.tile(path, 20)[0] + 10)
        assert opened.read_patch(0, 0, 128, 0.5).std() > 0
        with pytest.raises(SlideError, match="cut off"):
            opened.read_patch(4 * 64, 2 * 64, 128, 0.5)

    def test_a_tile_of_another_size(self, slide: tuple[Slide, Path]) -> None:
        opened, path = slide
        offset, length = self.tile(path, 0)
        other = imagecodecs.jpeg8_encode(np.zeros((64, 64, 3), np.uint8), 80)
        assert len(other) <= length
        content = bytearray(path.read_bytes())
        content[offset : offset + len(other)] = other
        path.write_bytes(bytes(content))
        with pytest.raises(SlideError, match="damaged"):
            opened.read_patch(0, 0, 128, 0.5)

    def test_openslide_goes_on_after_a_damaged_tile(self, slide: tuple[Slide, Path]) -> None:
        _, path = slide
        offset, length = self.tile(path, 9)
        content = bytearray(path.read_bytes())
        content[offset : offset + length] = bytes(length)
        path.write_bytes(bytes(content))
        with Slide.open(path, backend="openslide") as opened:
            with pytest.raises(SlideError, match="damaged"):
                opened.read_patch(64, 64, 128, 0.5)
            assert opened.read_patch(128, 128, 128, 0.5).std() > 0

    def test_changed_since_the_map_was_made(self, slide: tuple[Slide, Path]) -> None:
        opened, path = slide
        assert opened.tile_map
        tile_map = TileMap.from_json(opened.tile_map)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(SlideError, match="has changed since it was indexed; run g2l index again"):
            TiffTiles(path, tile_map)


def test_a_tile_map_survives_its_text(tmp_path: Path) -> None:
    path = write_rgb(tmp_path / "a.tif", tissue())
    made = map_tiles(path, [(1023, 771)])
    assert TileMap.from_json(made.to_json()) == made
    assert len(made.to_json()) < 2000


def test_the_top_of_a_tile_is_decoded_exactly() -> None:
    """Whatever number of rows is asked for, colours at half resolution included."""
    tile = tissue(240, 240, seed=5)
    for subsampling in ("420", "444"):
        jpeg = bytes(imagecodecs.jpeg8_encode(tile, 90, subsampling=subsampling))
        for shrink in (1, 2, 4):
            side = 240 // shrink
            whole = decode(jpeg, shrink, np.empty((side, side, 3), np.uint8)).copy()
            for rows in range(1, side + 1, 7):
                top = decode_top(jpeg, shrink, np.zeros((side, side, 3), np.uint8), rows)
                np.testing.assert_array_equal(top[:rows], whole[:rows])
                if rows * shrink < 200:
                    assert not top[-1].any()  # the rest was left out


def test_threads_do_not_mix_up_tiles(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = write(tmp_path / "a.tif", tissue(), tile=(64, 64))
    with Slide.open(path) as slide:
        places = np.random.default_rng(0).integers(0, 300, (200, 2)).tolist()
        alone = [slide.read_patch(x, y, 100, 0.5) for x, y in places]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda place: slide.read_patch(place[0], place[1], 100, 0.5), places))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_closing_frees_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", tissue())
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.is_dir() else 0
    for _ in range(20):
        slide = Slide.open(path)
        del slide  # dropping is closing
    with Slide.open(path) as slide:
        slide.close()
        with pytest.raises(SlideError):
            slide.read_patch(0, 0, 64, 0.5)
    if before:
        assert len(list(handles.iterdir())) <= before + 1
    assert openslide.OpenSlide(str(path)).dimensions == (1023, 771)


def test_a_cohort_opens_slides_as_they_were_indexed(
    tmp_path: Path, outline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "direct.tif", tissue(), levels=2)
    write(tmp_path / "other.tif", tissue(), compression="deflate", photometric="rgb", subsampling=None)
    listing = tmp_path / "slides.csv"
    listing.write_text(f"slide,tissue\ndirect.tif,{outline.name}\nother.tif,{outline.name}\n")
    index(str(listing), str(tmp_path / "out"), workers=0)
    cohort = Cohort.open(tmp_path / "out")
    assert cohort.column("backend") == ["tiles", "openslide"]
    assert [reason.split(",")[0] for reason in cohort.column("backend_reason")] == ["JPEG tiles", "tiles are DEFLATE"]
    with Slide.open(tmp_path / "direct.tif") as slide:
        levels, patch = slide.levels, slide.read_patch(30, 40, 200, 0.5)
    monkeypatch.setattr(openslide, "OpenSlide", None)  # nothing but the recorded map may be needed
    with cohort.open_slide(0) as slide:
        assert slide.backend == "tiles" and slide.levels == levels
        np.testing.assert_array_equal(slide.read_patch(30, 40, 200, 0.5), patch)
