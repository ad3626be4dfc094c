"""Slides whose scanned part lies somewhere on a canvas: GeoJSON counts from there, as QuPath does, coords do not."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import shapely
from leica import write_leica
from numpy.typing import NDArray
from shapely.geometry import Polygon, shape

from g2l.slides.bounds import Bounds, stated_bounds
from g2l.slides.cohort import Cohort
from g2l.slides.index import index
from g2l.slides.overview import MASK_MPP, look
from g2l.slides.slide import Slide
from g2l.slides.tissue import from_geojson, to_geojson

WriteSlide = Callable[..., Path]
CORNER, CANVAS = (1510, 1014), (5000, 4200)
SIZE = (1536, 1280)  # of the scanned part, width and height
TISSUE = (256, 320, 1216, 960)  # left, top, right, bottom of the tissue within the scanned part


def scanned() -> NDArray[np.uint8]:
    """Glass with a grainy pink rectangle."""
    random = np.random.default_rng(0)
    pixels = random.normal(240, 2, (SIZE[1], SIZE[0], 3))
    left, top, right, bottom = TISSUE
    pixels[top:bottom, left:right] = random.normal((200, 120, 170), 12, (bottom - top, right - left, 3))
    return pixels.round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def leica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_leica(tmp_path_factory.mktemp("leica") / "a.scn", scanned(), CORNER, CANVAS)


def test_bounds_are_what_openslide_states(leica: Path) -> None:
    with Slide.open(leica) as slide, openslide.OpenSlide(str(leica)) as reference:
        assert slide.dimensions == CANVAS and slide.bounds == Bounds(*CORNER, *SIZE)
        theirs = reference.read_region(CORNER, 0, SIZE).convert("RGB")
        np.testing.assert_array_equal(np.asarray(theirs), scanned())


def test_most_slides_have_none(tmp_path: Path, write_slide: WriteSlide, noise: NDArray[np.uint8]) -> None:
    with Slide.open(write_slide(tmp_path / "a.tif", noise)) as slide:
        assert slide.bounds is None


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"x": "7", "y": "0", "width": "30", "height": "40"}, Bounds(7, 0, 30, 40)),
        ({"x": "7", "y": "0", "width": "30"}, None),  # QuPath crops only to all four
        ({"x": "7.5", "y": "0", "width": "30", "height": "40"}, None),  # and only to whole numbers
        ({}, None),
    ],
)
def test_what_qupath_would_crop_to(properties: Mapping[str, str], expected: Bounds | None) -> None:
    assert stated_bounds({f"openslide.bounds-{key}": value for key, value in properties.items()}) == expected


def tissue_of(slide: Slide) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    mask = look(slide).mask
    return json.loads(json.dumps(to_geojson(mask, MASK_MPP, slide.mpp_xy, slide.bounds))), mask


def test_polygons_cover_the_tissue_in_qupaths_picture(leica: Path) -> None:
    """Compared on the crop that QuPath shows, pixel by pixel: the mask is 32 px coarse and grown by about that."""
    with Slide.open(leica) as slide:
        document, mask = tissue_of(slide)
    found = shapely.union_all([shape(feature["geometry"]) for feature in document["features"]])
    tissue = shapely.box(*TISSUE)
    assert found.intersection(tissue).area > 0.98 * tissue.area
    assert tissue.buffer(64).contains(found) and found.area < 1.25 * tissue.area
    # what the crop shows below the polygon is pink, what it shows outside is glass
    rows, columns = np.mgrid[: SIZE[1] : 8, : SIZE[0] : 8]
    pink = scanned()[::8, ::8, 1] < 190
    inside = shapely.contains_xy(found, columns, rows)
    assert (inside | ~pink).mean() > 0.99 and (inside & pink).sum() / inside.sum() > 0.8
    # the area is the mask's
    assert found.area == pytest.approx(mask.sum() * (MASK_MPP / 0.5) ** 2)


def test_geojson_is_valid(leica: Path) -> None:
    """RFC 7946: closed rings, outlines counterclockwise and holes clockwise as the numbers stand, polygons simple; and
    what QuPath needs to take a feature for an annotation with a class.
    """
    with Slide.open(leica) as slide:
        bounds, mpp = slide.bounds, slide.mpp_xy
    mask = np.random.default_rng(1).random((40, 50)) < 0.6
    document = json.loads(json.dumps(to_geojson(mask, 16.0, mpp, bounds)))
    assert document["type"] == "FeatureCollection" and len(document["features"]) > 1
    holes = 0
    for feature in document["features"]:
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
        rings = feature["geometry"]["coordinates"]
        assert all(len(ring) >= 4 and ring[0] == ring[-1] for ring in rings)
        polygon = shape(feature["geometry"])
        assert isinstance(polygon, Polygon) and polygon.is_valid
        assert polygon.exterior.is_ccw and not any(hole.is_ccw for hole in polygon.interiors)
        assert feature["properties"]["objectType"] == "annotation"
        colour = feature["properties"]["classification"]["color"]
        assert feature["properties"]["classification"]["name"] == "Tissue" and len(colour) == 3
        assert all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
        holes += len(rings) - 1
    assert holes > 0


@pytest.mark.parametrize("bounds", [None, Bounds(*CORNER, *SIZE), Bounds(0, 33, 10, 10)])
def test_there_and_back(bounds: Bounds | None) -> None:
    mask = np.random.default_rng(2).random((60, 70)) < 0.5
    document = json.loads(json.dumps(to_geojson(mask, 16.0, (0.5, 0.25), bounds)))
    np.testing.assert_array_equal(from_geojson(document, mask.shape, 16.0, (0.5, 0.25), bounds), mask)
    moved = from_geojson(document, mask.shape, 16.0, (0.5, 0.25), None if bounds else Bounds(640, 640, 9, 9))
    assert (moved != mask).any()


def test_an_outline_drawn_in_qupath_lands_on_its_tissue(leica: Path, tmp_path: Path) -> None:
    left, top, right, bottom = TISSUE
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    (tmp_path / "outline.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    with (tmp_path / "slides.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["slide", "tissue"], [str(leica), "outline.geojson"]])
    index(str(tmp_path / "slides.csv"), str(tmp_path / "out"), workers=0)
    cohort = Cohort.open(tmp_path / "out")
    expected = np.zeros_like(cohort.mask(0))
    cell = round(MASK_MPP / 0.5)
    x, y = CORNER
    rows, columns = (np.array([y + top, y + bottom]) / cell, np.array([x + left, x + right]) / cell)
    expected[slice(*np.rint(rows).astype(int)), slice(*np.rint(columns).astype(int))] = True
    np.testing.assert_array_equal(cohort.mask(0), expected)
