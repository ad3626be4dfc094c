"""Merged patches against shapely's union of their squares; colours of the picture; patches that a user means."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from shapely.geometry import Polygon

from g2l.deploy.heatmap import overlay
from g2l.deploy.heatmap.chosen import chosen_patches
from g2l.deploy.heatmap.geojson import patch_features, write_features
from g2l.deploy.heatmap.legend import bar_length_um, with_legend
from g2l.deploy.heatmap.overlay import pixel_boxes
from g2l.deploy.heatmap.regions import merged
from g2l.deploy.heatmap.shades import Classes, Components, Scale, numbers
from g2l.errors import ConfigError
from g2l.slides.bounds import Bounds

TWO = Classes("two", ["a", "b"])


def two(share: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 2) probabilities: of the second class where `share`."""
    return np.stack([~share, share], axis=1).astype(np.float32)


def grid(columns: int, rows: int, extent: float) -> NDArray[np.float64]:
    """Corners of a full grid of patches, at the nearest whole px: as tissue_grid places them."""
    x, y = np.meshgrid(np.rint(np.arange(columns) * extent), np.rint(np.arange(rows) * extent))
    return np.stack([x, y], axis=-1).reshape(-1, 2)


@pytest.mark.parametrize("extent", [128.0, 163.2, 326.38, 448.9])
@pytest.mark.parametrize("seed", range(3))
def test_regions_are_the_union_of_their_patches(extent: float, seed: int) -> None:
    """Sides that are no whole px leave neither gaps nor overlaps, and a region's edge is off by a px at most."""
    random = np.random.default_rng(seed)
    coords = grid(14, 11, extent)[random.random(14 * 11) < 0.8]
    second = random.random(len(coords)) < 0.4
    found = list(merged(coords, np.full(2, extent), two(second), TWO))
    polygons = {number: [] for number in (0, 1)}
    for region in found:
        polygon = Polygon(region.rings[0], region.rings[1:])
        assert polygon.is_valid and polygon.area == pytest.approx(region.px)
        assert region.values[region.number] == pytest.approx(1) and region.values.sum() == pytest.approx(1)
        polygons[region.number].append(polygon)
    for number, squares in ((0, coords[~second]), (1, coords[second])):
        wanted = shapely.union_all([shapely.box(x, y, x + extent, y + extent) for x, y in squares])
        union = shapely.union_all(polygons[number])
        assert union.area == pytest.approx(sum(one.area for one in polygons[number]))
        assert union.buffer(1.5).contains(wanted) and wanted.buffer(1.5).contains(union)
    assert shapely.union_all(polygons[0]).intersection(shapely.union_all(polygons[1])).area == pytest.approx(0)


def test_a_full_grid_of_one_class_is_one_rectangle() -> None:
    (region,) = merged(grid(40, 30, 163.2), np.full(2, 163.2), two(np.zeros(1200, np.bool_)), TWO)
    assert len(region.rings) == 1 and len(region.rings[0]) == 4


def test_where_patches_overlap_their_mean_decides() -> None:
    coords = np.array([[0.0, 0.0], [50.0, 0.0]])
    values = np.array([[0.9, 0.1], [0.3, 0.7]], np.float32)  # both: .6 and .4
    found = {tuple(region.rings[0].min(axis=0)): region for region in merged(coords, np.full(2, 100.0), values, TWO)}
    assert {corner: region.number for corner, region in found.items()} == {(0.0, 0.0): 0, (100.0, 0.0): 1}
    assert found[0.0, 0.0].px == 100 * 100 and found[0.0, 0.0].values == pytest.approx([0.75, 0.25])


def test_patches_on_no_common_lattice() -> None:
    """As CLAM cuts them, each contour with an origin of its own: within an eighth of a patch."""
    random = np.random.default_rng(0)
    origins = random.integers(0, 3000, (60, 2)) + np.array([[0, 0]])
    coords = np.unique(np.concatenate([origins + np.array([k, 0]) for k in range(0, 400, 3)]), axis=0).astype(float)
    found = list(merged(coords, np.full(2, 256.0), two(np.zeros(len(coords), np.bool_)), TWO))
    union = shapely.union_all([Polygon(region.rings[0], region.rings[1:]) for region in found])
    wanted = shapely.union_all([shapely.box(x, y, x + 256, y + 256) for x, y in coords])
    assert union.symmetric_difference(wanted).area < 0.08 * wanted.area
    assert union.buffer(24).contains(wanted) and wanted.buffer(24).contains(union)


def test_no_patch_no_region() -> None:
    nothing = np.full((3, 2), np.nan, np.float32)
    assert not list(merged(grid(3, 1, 10.0), np.full(2, 10.0), nothing, TWO))


@pytest.mark.parametrize("extent", [163.2, 186.5, 448.9])
@pytest.mark.parametrize("mpp", [0.5, 3.0, 8.0, 17.3])
def test_neighbours_leave_no_seam_in_the_picture(extent: float, mpp: float) -> None:
    coords = grid(20, 2, extent)
    shape = round(2 * extent * 0.5 / mpp), round(20 * extent * 0.5 / mpp)
    boxes = pixel_boxes(coords, np.full(2, extent), (0.5, 0.5), mpp, shape)
    count = np.zeros(shape, int)
    for left, top, right, bottom in boxes.tolist():
        count[top:bottom, left:right] += 1
    assert count.min() == 1 and (count > 1).mean() < 0.25
    true = np.concatenate([coords, coords + extent], axis=1) * 0.5 / mpp
    assert np.abs(boxes - true).max() <= 1.0


def test_strips_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    boxes = random.integers(0, 90, (200, 2))
    boxes = np.concatenate([boxes, boxes + random.integers(1, 9, (200, 2))], axis=1).clip(0, 95)
    values = random.random((200, 2)).astype(np.float32)

    def shown() -> NDArray[np.float32]:
        out = np.full((95, 95, 2), np.nan, np.float32)
        for rows, mean, there in overlay._strips(boxes, values, (95, 95)):
            out[rows][there] = mean
        return out

    whole = shown()
    monkeypatch.setattr(overlay, "STRIP_NUMBERS", 900)
    np.testing.assert_allclose(shown(), whole, atol=1e-6)
    for y, x in ((10, 10), (44, 71), (90, 3)):
        over = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
        expected = values[over].mean(axis=0) if over.any() else np.full(2, np.nan)
        np.testing.assert_allclose(whole[y, x], expected, atol=1e-6)


class TestShades:
    def test_a_scale_sorts_into_equal_levels_and_names_them(self) -> None:
        scale = Scale("t", "cosine", -1.0, 1.0, 4)
        assert [entry.name for entry in scale.regions][:2] == ["cosine -1.00 to -0.50", "cosine -0.50 to 0.00"]
        values = np.array([[-2.0], [-1.0], [-0.4], [0.0], [0.99], [1.0], [7.0]], np.float32)
        assert scale.sort(values).tolist() == [0, 0, 1, 2, 3, 3, 3]
        grey = scale.paint(np.linspace(-1, 1, 50, dtype=np.float32)[:, None]) @ np.array([0.3, 0.6, 0.1])
        assert (np.diff(grey) > 0).all()  # lighter and lighter, for those who see no colour

    def test_classes_have_colours_of_their_own(self) -> None:
        many = Classes("t", [f"c{k}" for k in range(25)])
        assert len({entry.colour for entry in many.regions}) == 25
        assert many.sort(np.eye(25, dtype=np.float32)).tolist() == list(range(25))
        assert [tuple(one) for one in many.paint(np.eye(25, dtype=np.float32)).tolist()] == [
            entry.colour for entry in many.regions
        ]

    def test_components_in_as_many_groups_as_there_are(self) -> None:
        centres = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 9]], np.float32)
        which = np.repeat([0, 1, 2], [50, 30, 20])
        values = centres[which] + np.random.default_rng(0).normal(0, 0.01, (100, 3)).astype(np.float32)
        shades = Components(values, 3)
        assert shades.sort(values).tolist() == which.tolist()  # numbered by their size
        assert len(Components(centres[which], 12).regions) == 3
        np.testing.assert_array_equal(shades.paint(values), Components(values, 3).paint(values))

    def test_numbers_have_digits_enough(self) -> None:
        assert numbers(0, 1, 2) == ["0.00", "0.50", "1.00"]
        assert len(set(numbers(0.99991, 0.99999, 5))) == 6


class TestChosen:
    coords, extent = grid(6, 5, 100.0), np.full(2, 100.0)

    def test_places(self) -> None:
        assert chosen_patches("50,50; 550,450.5;", self.coords, self.extent, None).tolist() == [0, 29]
        assert chosen_patches("100,0", self.coords, self.extent, None).tolist() == [1]  # the left edge is a patch's own

    @pytest.mark.parametrize("text", ["", ";", "5", "1,2,3", "a,b", "nan,1"])
    def test_what_is_no_place(self, text: str) -> None:
        with pytest.raises(ConfigError, match="neither a GeoJSON file nor places"):
            chosen_patches(text, self.coords, self.extent, None)

    def test_a_place_without_a_patch_says_how_far_the_next_is(self) -> None:
        with pytest.raises(ConfigError, match=r"no patch holds the place 700, 50 \(the next one's centre is 150 px"):
            chosen_patches("700,50", self.coords, self.extent, None)

    @pytest.mark.parametrize("seed", range(10))
    def test_an_annotation_means_the_patches_whose_centre_lies_in_it(self, seed: int, tmp_path: Path) -> None:
        random = np.random.default_rng(seed)
        outer = np.array([[20, 30], [580, 60], [540, 470], [40, 440]]) + random.integers(-20, 20, (4, 2))
        inner = outer.mean(axis=0) + (outer - outer.mean(axis=0)) * 0.5
        bounds = Bounds(37, 11, 1, 1) if seed % 2 else None
        rings = [(np.concatenate([r, r[:1]]) - (bounds or (0, 0))[:2]).tolist() for r in (outer, inner)]
        self.write(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": rings})
        found = chosen_patches(str(tmp_path / "a.geojson"), self.coords, self.extent, bounds)
        centres = self.coords + 50
        inside = shapely.contains_xy(Polygon(outer, [inner]), centres[:, 0], centres[:, 1])
        assert found.tolist() == np.flatnonzero(inside).tolist() and 0 < inside.sum() < 30

    def test_points_and_small_annotations(self, tmp_path: Path) -> None:
        small = [[105, 105], [120, 105], [120, 120], [105, 120], [105, 105]]
        self.write(
            tmp_path / "a.json",
            {"type": "MultiPoint", "coordinates": [[250, 250], [255, 260]]},
            {"type": "Point", "coordinates": [10, 450]},
            {"type": "Polygon", "coordinates": [small]},
        )
        assert chosen_patches(str(tmp_path / "a.json"), self.coords, self.extent, None).tolist() == [7, 14, 24]

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("{", "cannot be read as GeoJSON"),
            ("{}", "no polygon and no point"),
            ('{"type": "LineString", "coordinates": [[1, 2], [3, 4]]}', "no polygon and no point"),
            ('{"type": "Polygon", "coordinates": [[1, 2]]}', r"no list of \[x, y\]"),
            ('{"type": "Point", "coordinates": ["a", 2]}', r"no list of \[x, y\]"),
            ('{"type": "Point", "coordinates": [NaN, 2]}', "not finite"),
        ],
    )
    def test_files_that_mean_nothing(self, tmp_path: Path, content: str, match: str) -> None:
        (tmp_path / "a.geojson").write_text(content)
        with pytest.raises(ConfigError, match=match) as raised:
            chosen_patches(str(tmp_path / "a.geojson"), self.coords, self.extent, None)
        assert "\n" not in str(raised.value)

    def write(self, file: Path, *geometries: dict[str, Any]) -> None:
        features = [{"type": "Feature", "geometry": one, "properties": {}} for one in geometries]
        file.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def test_many_patches_are_written_one_by_one(tmp_path: Path) -> None:
    coords = grid(200, 100, 100.0)
    features = patch_features(coords, np.full(2, 100.0), two(coords[:, 0] > 5000), TWO, np.zeros(2))
    assert write_features(tmp_path / "a.geojson", features) == 20_000
    document = json.loads((tmp_path / "a.geojson").read_text())
    assert len(document["features"]) == 20_000
    assert document["features"][-1]["geometry"]["coordinates"][0][0] == [19900.0, 9900.0]
    assert write_features(tmp_path / "empty.geojson", []) == 0
    assert json.loads((tmp_path / "empty.geojson").read_text())["features"] == []


@pytest.mark.parametrize(("most", "length"), [(1000, 1000), (999, 500), (499, 200), (2100, 2000), (0.7, 0.5)])
def test_scale_bars_are_round(most: float, length: float) -> None:
    assert bar_length_um(most) == pytest.approx(length)


def test_a_legend_of_many_long_and_foreign_names_keeps_to_its_width() -> None:
    """Every name is there in some form, and the picture's pixels are where they were."""
    names = ["Müller", "血管", "a name " * 40, *(f"class {k}" for k in range(30)), "w" * 300]
    picture = np.random.default_rng(0).integers(0, 255, (50, 300, 3)).astype(np.uint8)
    made = np.asarray(with_legend(picture, 8.0, Classes("t" * 400, names), ["x " * 300]))
    np.testing.assert_array_equal(made[:50, :300], picture)
    assert made.shape[1] == 640
    for entry in Classes("", names).regions:
        assert (made[50:] == np.array(entry.colour)).all(axis=2).sum() > 100
    assert (made[50:, -3:] == 255).all() and (made[-3:] == 255).all()  # nothing is cut off


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    made = np.asarray(with_legend(np.full((10, 900, 3), 255, np.uint8), 2.0, TWO, []))
    dark = np.asarray((made[10:] < 40).all(axis=2), np.uint8)
    longest = max(len(run) for row in dark for run in row.tobytes().split(b"\0"))
    assert longest == pytest.approx(200 / 2.0, abs=1)  # 200 um: the largest round length of a quarter of the width
