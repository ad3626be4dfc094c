"""A heatmap of a real section, whose patches are 186.5 px of level 0 wide: every px of tissue that a patch covers, and
no other, is coloured; the GeoJSON says the same.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from shapely.geometry import shape

from g2l.deploy.heatmap.verb import heatmap
from g2l.slides.coverage import pack
from g2l.slides.grid import tissue_grid
from g2l.slides.overview import MASK_MPP, look
from g2l.slides.slide import Slide

pytestmark = pytest.mark.real_data
SIZE_UM = 128.0


@pytest.mark.parametrize(("name", "mpp"), [("her2st_B4.tif", 8.0), ("cmu-1-small-region.svs", 2.0)])
def test_a_real_section(real_data: Path, tmp_path: Path, write_h5: Any, name: str, mpp: float) -> None:
    path = real_data / "slides" / name
    with Slide.open(path) as slide:
        mask = look(slide).mask
        grid = tissue_grid(slide.size_um, slide.mpp_xy, pack(mask), MASK_MPP, 32, SIZE_UM / 32, 0.5)
        colours = [slide.read_patch(x, y, 32, SIZE_UM / 32).mean(axis=(0, 1)) for x, y in grid.um.tolist()]
        before, level0, (width, height) = slide.thumbnail(mpp), slide.mpp, slide.dimensions
    about = {"size_um": SIZE_UM, "level0_mpp": level0, "level0_width": width, "level0_height": height}
    features = write_h5(tmp_path / "s.h5", np.array(colours, np.float32), grid.coords, about)
    x, y = (grid.coords[len(grid.coords) // 2] + 40).tolist()
    done = heatmap(str(features), str(path), out=str(tmp_path), like=f"{x},{y}", mpp=mpp, alpha=1.0)
    with Image.open(done.files[0]) as image:
        after = np.asarray(image)[: before.shape[0], : before.shape[1]]
    patches = shapely.union_all([shapely.box(*um, *(um + SIZE_UM)) for um in grid.um])
    rows, columns = (np.indices(before.shape[:2]) + 0.5) * mpp
    inside = shapely.contains_xy(patches, columns, rows)
    changed = (after != before).any(axis=2)
    near_an_edge = shapely.contains_xy(patches.boundary.buffer(mpp), columns, rows)
    assert ((changed == inside) | near_an_edge).mean() > 0.9999
    tissue = np.kron(mask, np.ones((2, 2), np.bool_)) if mpp == 8.0 else None
    if tissue is not None:  # most of what is coloured is tissue, and most tissue is coloured
        over = tissue[: inside.shape[0], : inside.shape[1]]
        assert (over & changed).sum() > 0.85 * max(over.sum(), changed.sum())
    found = shapely.union_all([shape(one["geometry"]) for one in json.loads(done.files[1].read_text())["features"]])
    scaled = shapely.transform(patches, lambda corners: corners / level0)
    assert found.symmetric_difference(scaled).area < 0.01 * scaled.area
