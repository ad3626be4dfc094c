"""Masks on pictures whose tissue is known, and contours that lead back to the mask they came from."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.slides import tissue as module
from g2l.slides.slide import Slide
from g2l.slides.tissue import area_mm2, contours, from_geojson, largest_square, tissue_mask, to_geojson

MPP = 16.0
GLASS, PINK = (241, 238, 242), (205, 140, 180)


def picture(height: int = 200, width: int = 240) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A stained ellipse on glass, both noisy, and where it is."""
    rows, columns = np.mgrid[:height, :width]
    inside = ((rows - 100) / 60) ** 2 + ((columns - 120) / 80) ** 2 <= 1
    image = np.where(inside[..., None], PINK, GLASS) + np.random.default_rng(0).normal(0, 3, (height, width, 3))
    return image.round().clip(0, 255).astype(np.uint8), inside


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


class TestMask:
    def test_finds_the_tissue(self) -> None:
        image, inside = picture()
        assert overlap(tissue_mask(image, MPP), inside) > 0.95

    def test_ignores_dots_and_grey_dust(self) -> None:
        image, inside = picture()
        image[10:190:20, 4:240:40] = 120  # a printed grid
        image[8:22, 8:22] = 150  # 0.05 mm2 of grey dust
        assert overlap(tissue_mask(image, MPP), inside) > 0.94

    def test_keeps_a_coloured_fragment_of_the_same_size(self) -> None:
        image, inside = picture()
        image[8:22, 8:22] = PINK
        mask = tissue_mask(image, MPP)
        assert mask[8:22, 8:22].all() and not mask[30:34].any()
        assert overlap(mask, inside) > 0.9

    def test_fat_and_lumina_belong_to_the_tissue_but_large_gaps_do_not(self) -> None:
        image, _ = picture()
        image[95:105, 90:100] = GLASS  # 0.026 mm2
        image[80:120, 110:150] = GLASS  # 0.41 mm2
        mask = tissue_mask(image, MPP)
        assert mask[95:105, 90:100].all()
        assert not mask[86:114, 116:144].any()

    def test_a_lobule_of_fat_is_tissue(self) -> None:
        """0.41 mm2 of bright cells with pale pink membranes: brighter than Otsu's threshold, yet not glass."""
        image, _ = picture()
        image[80:120, 110:150] = (236, 225, 234)
        image[80:120:3, 110:150] = image[80:120, 110:150:3] = (228, 205, 221)
        assert tissue_mask(image, MPP)[80:120, 110:150].all()

    def test_black_padding_is_never_tissue(self) -> None:
        image, inside = picture()
        image[:, :30] = 0
        image[190:] = 0
        mask = tissue_mask(image, MPP)
        assert not mask[:, :30].any() and not mask[190:].any()
        assert overlap(mask, inside) > 0.93

    def test_blank_glass_has_none(self) -> None:
        noise = np.random.default_rng(0).normal(0, 2, (100, 120, 3))
        assert not tissue_mask((np.array(GLASS) + noise).astype(np.uint8), MPP).any()
        assert not tissue_mask(np.full((100, 120, 3), 255, np.uint8), MPP).any()

    def test_a_crop_from_inside_a_section_is_all_tissue(self) -> None:
        image, _ = picture()
        crop = image[70:130, 80:160].copy()
        crop[::3, ::4] = (110, 70, 140)  # nuclei: Otsu would split these from the stroma
        assert tissue_mask(crop, MPP).all()

    def test_a_picture_of_one_colour_has_none(self) -> None:
        assert not tissue_mask(np.full((60, 70, 3), PINK, np.uint8), MPP).any()

    @pytest.mark.slow  # tiatoolbox takes seconds to import
    @pytest.mark.parametrize("mpp", [4.0, 16.0, 24.0, 40.0])
    def test_the_dark_class_is_that_of_tiatoolbox(self, mpp: float, monkeypatch: pytest.MonkeyPatch) -> None:
        from tiatoolbox.tools.tissuemask import MorphologicalMasker

        grown: list[NDArray[np.bool_]] = []
        monkeypatch.setattr(module, "_tidy", lambda mask, _: grown.append(mask) or mask)
        image, _ = picture()
        rng = np.random.default_rng(5)
        image[:, :120] -= rng.integers(0, 60, (200, 120, 1)).astype(np.uint8)  # specks of all sizes
        tissue_mask(image, mpp)
        masker = MorphologicalMasker(mpp=mpp)
        masker.fit(image[None])
        masker.threshold = int(masker.threshold or 0) + 1  # Otsu's dark class includes the threshold
        assert (grown[0] == masker.transform(image[None])[0]).all()
        assert 0.2 < grown[0].mean() < 0.8

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        ("name", "least", "most"), [("B4", 10.5, 12.5), ("C2", 7.0, 8.0), ("C3", 7.0, 8.0), ("C4", 7.0, 8.0)]
    )
    def test_breast_sections_without_halo_and_dots(self, real_data: Path, name: str, least: float, most: float) -> None:
        """The areas are those inside outlines that were checked by eye on the contact sheet."""
        with Slide.open(real_data / "slides" / f"her2st_{name}.tif") as slide:
            mask = tissue_mask(slide.thumbnail(MPP), MPP)
        assert least < area_mm2(mask, MPP) < most
        assert len(contours(mask)) == 1  # one section; no dots, no dust


class TestGeometry:
    def test_area(self) -> None:
        mask = np.zeros((50, 40), np.bool_)
        mask[:25] = True
        assert area_mm2(mask, 100.0) == pytest.approx(10.0)

    @pytest.mark.parametrize("seed", range(5))
    def test_largest_square(self, seed: int) -> None:
        mask = np.random.default_rng(seed).random((40, 60)) < 0.9
        want = max(
            k for k in range(1, 41, 2) for r in range(41 - k) for c in range(61 - k) if mask[r : r + k, c : c + k].all()
        )
        assert largest_square(mask) == want
        assert largest_square(np.zeros((9, 9), np.bool_)) == 0
        assert largest_square(np.ones((9, 11), np.bool_)) == 9

    def test_contours_run_along_the_edges_of_cells(self) -> None:
        mask = np.zeros((10, 12), np.bool_)
        mask[2:5, 3:9] = True
        mask[3, 5] = False
        (outline, hole), *rest = contours(mask)
        assert not rest
        # within a quarter of a cell of the true edges x 3..9, y 2..5
        assert outline.min(axis=0) == pytest.approx([3, 2], abs=0.26)
        assert outline.max(axis=0) == pytest.approx([9, 5], abs=0.26)
        assert hole.mean(axis=0) == pytest.approx([5.5, 3.5], abs=0.26)
        assert not contours(np.zeros((4, 4), np.bool_))


class TestGeoJson:
    @pytest.mark.parametrize("mpp", [(0.5, 0.5), (0.25, 0.3)])
    def test_there_and_back(self, mpp: tuple[float, float]) -> None:
        noise = cv2.GaussianBlur(np.random.default_rng(3).random((90, 120)), (0, 0), 5)
        mask = noise > 0.5
        document = json.loads(json.dumps(to_geojson(mask, MPP, mpp)))
        back = from_geojson(document, mask.shape, MPP, mpp)
        assert (back ^ mask).mean() < 0.01
        assert overlap(back, mask) > 0.98

    def test_coordinates_are_level_0_pixels(self) -> None:
        mask = np.zeros((10, 12), np.bool_)
        mask[2:5, 3:9] = True
        (feature,) = to_geojson(mask, 16.0, (0.5, 0.25))["features"]
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert (ring[0] == ring[-1]).all()
        assert ring.min(axis=0) == pytest.approx([3 * 32, 2 * 64], abs=17)
        assert ring.max(axis=0) == pytest.approx([9 * 32, 5 * 64], abs=17)

    @pytest.mark.parametrize("wrap", ["geometry", "feature", "collection", "multi", "list", "geometries"])
    def test_every_shape_of_document_is_read(self, wrap: str) -> None:
        ring = [[32, 32], [96, 32], [96, 160], [32, 160], [32, 32]]
        polygon = {"type": "Polygon", "coordinates": [ring]}
        feature = {"type": "Feature", "properties": {}, "geometry": polygon}
        document = {
            "geometry": polygon,
            "feature": feature,
            "collection": {"type": "FeatureCollection", "features": [feature]},
            "multi": {"type": "MultiPolygon", "coordinates": [[ring]]},
            "list": [feature],
            "geometries": {"type": "GeometryCollection", "geometries": [polygon]},
        }[wrap]
        mask = from_geojson(document, (12, 10), 16.0, (1.0, 1.0))
        assert mask[3:9, 3:5].all() and mask.sum() <= 5 * 9

    def test_holes_and_overlaps(self) -> None:
        def square(a: int, b: int) -> list[list[int]]:
            return [[a, a], [b, a], [b, b], [a, b], [a, a]]

        holed = {"type": "Polygon", "coordinates": [square(16, 320), square(112, 224)]}
        over = {"type": "Polygon", "coordinates": [square(16, 80)]}
        mask = from_geojson([holed, over], (22, 22), 16.0, (1.0, 1.0))
        assert not mask[8:13, 8:13].any() and mask[2:4, 2:4].all() and mask[15:19, 2:19].all()

    def test_nothing_to_draw_is_an_error(self) -> None:
        with pytest.raises(CohortError, match="holds no Polygon"):
            from_geojson({"type": "Point", "coordinates": [1, 2]}, (4, 4), 16.0, (1.0, 1.0))

    @pytest.mark.parametrize("ring", [[], [1, 2], [[1], [2]], [["a", "b"]], [[1, 2], [3]], None, {"x": 1}])
    def test_what_is_no_ring_is_an_error(self, ring: object) -> None:
        with pytest.raises(CohortError, match=r"no list of \[x, y\]"):
            from_geojson({"type": "Polygon", "coordinates": [ring]}, (4, 4), 16.0, (1.0, 1.0))
