"""From a bundle to QuPath on a slide with bounds: coords count from the canvas, all GeoJSON from the scanned part."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import shapely
from leica import write_leica
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from g2l.data.demo import cohort_orders, draw_slide
from g2l.deploy.heatmap.verb import heatmap
from g2l.deploy.runtime.embed import embed

CORNER, CANVAS = (1111, 777), (4000, 3600)


def union(file: Path) -> BaseGeometry:
    features = json.loads(file.read_text(encoding="utf-8"))["features"]
    return shapely.union_all([shape(feature["geometry"]) for feature in features])


@pytest.mark.slow  # it exports a bundle
def test_embed_and_heatmap_of_a_slide_with_bounds(bundle: Path, tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(draw_slide(12, cohort_orders()[0], 900.0)[0][:1536, :1664])
    slide = write_leica(tmp_path / "leica.scn", pixels, CORNER, CANVAS)
    assert embed(str(bundle), str(slide), out=str(tmp_path / "features")).exit_code == 0
    with h5py.File(tmp_path / "features" / "leica.h5") as file:
        coords = np.asarray(file["coords"])
        assert file.attrs["encoder_hash"] and file.attrs["level0_width"] == CANVAS[0]
    assert len(coords) > 30 and (coords >= np.array(CORNER) - 64).all()
    height, width = pixels.shape[:2]
    scanned = shapely.box(0, 0, width, height)
    patches = shapely.union_all([shapely.box(x, y, x + 64, y + 64) for x, y in coords - np.array(CORNER)])
    tissue = union(tmp_path / "features" / "tissue" / "leica.geojson")
    # half of a patch is tissue, and the mask's cells of 32 px stand over the scanned part's edge
    assert scanned.buffer(64).contains(tissue) and tissue.intersection(patches).area > 0.8 * patches.area
    x, y = (coords[0] + 5).tolist()
    done = heatmap(str(tmp_path / "features" / "leica.h5"), str(slide), out=str(tmp_path / "maps"), like=f"{x},{y}")
    assert done.patches == len(coords) and union(done.files[1]).symmetric_difference(patches).area == pytest.approx(0)
