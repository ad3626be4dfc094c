"""Region maps: what a footprint is called, and what a map file must hold."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from g2l.errors import SlideError
from g2l.slides.regions import Regions, read_regions, write_regions

CLASSES = ("glands", "fat")


@pytest.fixture
def halves() -> Regions:
    """Left half glands, right half fat, 10 um per pixel, 100 x 100 um; the last row is unlabelled."""
    array = np.ones((10, 10), np.uint8)
    array[:, 5:] = 2
    array[9] = 0
    return Regions(array, 10.0, CLASSES)


def test_a_map_survives_the_file_and_shows_as_an_indexed_image(tmp_path: Path, halves: Regions) -> None:
    write_regions(tmp_path / "a.png", halves.array, halves.mpp, halves.classes)
    again = read_regions(tmp_path / "a.png")
    assert np.array_equal(again.array, halves.array)
    assert (again.mpp, again.classes) == (10.0, CLASSES)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("x", "y", "extent", "purity", "expected"),
    [
        (0, 0, 50, 0.9, "glands"),
        (50, 20, 50, 0.9, "fat"),
        (5, 5, 50, 0.9, "glands"),  # 45 of 50 um lie left: exactly nine tenths
        (6, 5, 50, 0.9, None),
        (25, 0, 50, 0.5, "glands"),  # a tie: the first class
        (26, 0, 50, 0.5, "fat"),
        (0, 60, 40, 0.75, "glands"),  # the unlabelled row takes a quarter
        (0, 60, 40, 0.76, None),
        (-25, 0, 50, 0.5, "glands"),  # half of it lies off the map
        (-26, 0, 50, 0.5, None),
        (500, 500, 50, 0.1, None),
        (12.5, 33.3, 0.5, 1.0, "glands"),  # smaller than a map pixel
    ],
)
def test_a_footprint_is_called_by_the_class_that_fills_it(
    halves: Regions, x: float, y: float, extent: float, purity: float, expected: str | None
) -> None:
    assert halves.label(x, y, extent, purity) == expected


def test_label_agrees_with_counting_points(halves: Regions) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y, extent = rng.uniform(-10, 80), rng.uniform(-10, 80), rng.uniform(5, 60)
        points = x + (np.arange(400) + 0.5) / 400 * extent, y + (np.arange(400) + 0.5) / 400 * extent
        u, v = np.meshgrid(*points)
        inside = (u >= 0) & (v >= 0) & (u < 100) & (v < 100)
        at = halves.array[(v // 10).astype(int).clip(0, 9), (u // 10).astype(int).clip(0, 9)]
        shares = [float((inside & (at == k)).mean()) for k in (1, 2)]
        if abs(max(shares) - 0.6) < 0.01:
            continue
        expected = CLASSES[int(np.argmax(shares))] if max(shares) >= 0.6 else None
        assert halves.label(x, y, extent, 0.6) == expected


def test_a_file_that_is_no_region_map_ends_in_one_line(tmp_path: Path) -> None:
    plain, text = tmp_path / "plain.png", tmp_path / "text.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(plain)
    text.write_text("no image")
    for path, words in ((plain, "mpp and classes"), (text, "cannot be read"), (tmp_path / "gone.png", "is absent")):
        with pytest.raises(SlideError, match=words) as caught:
            read_regions(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_values_beyond_the_named_classes_are_refused(tmp_path: Path) -> None:
    write_regions(tmp_path / "a.png", np.full((2, 2), 3, np.uint8), 16.0, CLASSES)
    with pytest.raises(SlideError, match=r"values 0\.\.2"):
        read_regions(tmp_path / "a.png")
