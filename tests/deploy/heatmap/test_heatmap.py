"""`g2l heatmap` end to end: what is dark on the slide is so coloured in the picture and outlined in the GeoJSON."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import shape

from g2l.__main__ import main
from g2l.deploy.heatmap import overlay
from g2l.deploy.heatmap.head import save_head
from g2l.deploy.heatmap.shades import PALETTE
from g2l.deploy.heatmap.verb import heatmap
from g2l.errors import ConfigError, SlideError
from g2l.slides.slide import Slide


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """dark below a mean brightness of .5."""
    weight = np.zeros((2, 6))
    weight[0, :3] = -100
    save_head(tmp_path / "head.h5", weight, [150.0, 0.0], ["dark", "pale"])
    return tmp_path / "head.h5"


def picture(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def contents(file: Path) -> tuple[dict[str, Any], NDArray[np.float32], NDArray[np.int64]]:
    """Attributes, features and coords."""
    with h5py.File(file) as opened:
        features: Any = opened["features"]
        coords: Any = opened["coords"]
        return dict(opened.attrs), features[:], coords[:]


def collection(file: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON, each found to be a valid, closed polygon of the keys that QuPath reads."""
    document = json.loads(file.read_text(encoding="utf-8"))
    assert set(document) == {"type", "features"} and document["type"] == "FeatureCollection"
    for feature in document["features"]:
        assert set(feature) == {"type", "geometry", "properties"} and feature["type"] == "Feature"
        assert set(feature["properties"]) == {"objectType", "classification", "measurements"}
        assert set(feature["properties"]["classification"]) == {"name", "color"}
        assert all(isinstance(value, float) for value in feature["properties"]["measurements"].values())
        polygon = shape(feature["geometry"])
        assert isinstance(polygon, shapely.Polygon) and polygon.is_valid and polygon.exterior.is_ccw
    return document["features"]


def of_class(features: list[dict[str, Any]], name: str) -> Any:
    """The union of all regions of a class."""
    found = [shape(one["geometry"]) for one in features if one["properties"]["classification"]["name"] == name]
    return shapely.union_all(found)


@pytest.mark.parametrize("mpp", [1.0, 2.0, 3.7])
def test_a_head_colours_just_the_dark_square(drawn: Any, head: Path, tmp_path: Path, mpp: float) -> None:
    heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), head=str(head), alpha=1.0, mpp=mpp)
    shown = picture(tmp_path / "slide_classes.png").astype(np.float64)
    left, top, right, bottom = (round((side + drawn.corner[k % 2]) * 0.5 / mpp) for k, side in enumerate(drawn.dark))
    # a colour of the palette, darkened by the tissue: its direction is the palette's
    hue = shown / np.maximum(np.linalg.norm(shown, axis=2, keepdims=True), 1)
    wanted = np.array(PALETTE[0]) / np.linalg.norm(PALETTE[0])
    dark = (hue @ wanted) > 0.999
    extra = 1 if mpp == 3.7 else 0  # a seam belongs to both of its patches there
    rows, columns = (round(side * 0.5 / mpp) for side in drawn.corner[::-1])
    left, top, right, bottom = left - columns, top - rows, right - columns, bottom - rows
    slide_rows = dark[: round(1280 * 0.5 / mpp)]
    rows, columns = np.nonzero(slide_rows)
    assert (rows.min(), columns.min()) == (top, left)
    assert bottom - 1 <= rows.max() <= bottom - 1 + extra and right - 1 <= columns.max() <= right - 1 + extra
    assert dark[top:bottom, left:right].all()


def test_the_geojson_outlines_just_the_dark_square(drawn: Any, head: Path, tmp_path: Path) -> None:
    """In QuPath's frame: on a slide with bounds its coordinates are not those of the features."""
    done = heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), head=str(head), tiles=True)
    regions = collection(tmp_path / "slide_classes.geojson")
    assert done.regions == len(regions) == 2 and done.patches == 120
    assert {one["properties"]["objectType"] for one in regions} == {"annotation"}
    assert of_class(regions, "dark").equals(shapely.box(*drawn.dark))
    whole = shapely.box(0, 0, 1536, 1280)
    assert of_class(regions, "pale").equals(whole - shapely.box(*drawn.dark))
    (dark,) = [one["properties"] for one in regions if one["properties"]["classification"]["name"] == "dark"]
    assert dark["classification"]["color"] == list(PALETTE[0])
    assert dark["measurements"]["mean probability dark"] > 0.99
    assert dark["measurements"]["area mm2"] == pytest.approx(4 * 3 * 0.064**2)
    tiles = collection(tmp_path / "slide_classes_tiles.geojson")
    assert len(tiles) == 120 and {one["properties"]["objectType"] for one in tiles} == {"detection"}
    assert of_class(tiles, "dark").equals(shapely.box(*drawn.dark))
    assert all(shape(one["geometry"]).area == 128 * 128 for one in tiles)


def test_similarity_to_a_place_in_the_square(drawn: Any, tmp_path: Path) -> None:
    """Given by its px, and as QuPath exports an annotation there: the same."""
    left, top, right, bottom = drawn.dark
    x, y = left + 200 + drawn.corner[0], top + 100 + drawn.corner[1]
    heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path / "a"), like=f"{x},{y}", levels=4)
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    annotation = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    (tmp_path / "like.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [annotation]}))
    heatmap(
        str(drawn.features), str(drawn.slide), out=str(tmp_path / "b"), like=str(tmp_path / "like.geojson"), levels=4
    )
    for folder in ("a", "b"):
        regions = collection(tmp_path / folder / "slide_similarity.geojson")
        best = max(regions, key=lambda one: one["properties"]["measurements"]["mean cosine"])["properties"]
        assert best["measurements"]["mean cosine"] > 0.99
        assert of_class(regions, best["classification"]["name"]).equals(shapely.box(*drawn.dark))


def test_pca_tells_the_square_apart(drawn: Any, tmp_path: Path) -> None:
    heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), levels=2)
    regions = collection(tmp_path / "slide_pca.geojson")
    names = {one["properties"]["classification"]["name"] for one in regions}
    assert names == {"group 1", "group 2"}
    dark = min((of_class(regions, name) for name in names), key=lambda one: one.area)
    assert dark.area >= shapely.box(*drawn.dark).area * 0.99


def test_the_tissue_stays_visible_and_the_rest_as_it_was(drawn: Any, head: Path, tmp_path: Path) -> None:
    about, features, coords = contents(drawn.features)
    lower = coords[:, 1] >= drawn.corner[1] + 640
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file["features"], file["coords"] = features[lower], coords[lower]
        file.attrs.update(about)
    heatmap(str(tmp_path / "slide.h5"), str(drawn.slide), out=str(tmp_path), head=str(head), mpp=1.0)
    with Slide.open(drawn.slide) as slide:
        before = slide.thumbnail(1.0)[drawn.corner[1] // 2 :, drawn.corner[0] // 2 :][: 1280 // 2, : 1536 // 2]
    after = picture(tmp_path / "slide_classes.png")[: 1280 // 2, : 1536 // 2]
    edge = 640 // 2
    np.testing.assert_array_equal(after[:edge], before[:edge])
    x, y = 8, edge + 8
    assert after[y : y + 200, x : x + 200].std(axis=(0, 1)).min() > 0.5  # the grain of the tissue
    assert (after[y : y + 200, x : x + 200] != before[y : y + 200, x : x + 200]).any(axis=2).all()


def test_one_class_of_a_head_with_a_bar_of_its_own(drawn: Any, head: Path, tmp_path: Path) -> None:
    done = heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), head=str(head), of="dark", levels=2)
    assert [file.name for file in done.files] == ["slide_probability-dark.png", "slide_probability-dark.geojson"]
    regions = collection(done.files[1])
    assert of_class(regions, "probability dark 0.50 to 1.00").equals(shapely.box(*drawn.dark))


def test_a_narrow_slide_gets_a_legend_that_fits(drawn: Any, head: Path, tmp_path: Path) -> None:
    heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), head=str(head), mpp=16.0)
    shown = picture(tmp_path / "slide_classes.png")
    assert shown.shape[1] == 640 and shown.shape[0] > 100
    for colour in PALETTE[:2]:  # a swatch of each class
        assert (shown == np.array(colour)).all(axis=2).sum() > 100


def test_what_is_said(drawn: Any, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["heatmap", str(drawn.features), str(drawn.slide), "--out", str(tmp_path), "--head", str(head)]
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "120 patches in 2 regions"
    assert said[1:] == [str(tmp_path / f"slide_classes.{kind}") for kind in ("png", "geojson")]
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".tmp")]


def test_patches_without_a_finite_embedding_are_left_out(drawn: Any, head: Path, tmp_path: Path) -> None:
    about, features, coords = contents(drawn.features)
    features[[3, 7], 2] = np.nan, np.inf
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file["features"], file["coords"] = features, coords
        file.attrs.update(about)
    kinds: list[dict[str, Any]] = [{"head": str(head)}, {"like": f"{coords[0][0] + 5},{coords[0][1] + 5}"}, {}]
    for kind in kinds:
        done = heatmap(str(tmp_path / "slide.h5"), str(drawn.slide), out=str(tmp_path / "out"), **kind, tiles=True)
        assert done.without == 2 and "(2 without a finite embedding are left out)" in str(done)
        assert len(collection(done.files[2])) == 118


@pytest.mark.parametrize("kind", ["one patch", "all equal"])
def test_nothing_to_compare(drawn: Any, head: Path, tmp_path: Path, kind: str) -> None:
    about, features, coords = contents(drawn.features)
    count = 1 if kind == "one patch" else len(coords)
    with h5py.File(tmp_path / "slide.h5", "w") as file:
        file["features"], file["coords"] = np.repeat(features[:1], count, axis=0), coords[:count]
        file.attrs.update(about)
    place = f"{coords[0][0]},{coords[0][1]}"
    kinds: list[dict[str, Any]] = [{"head": str(head)}, {"like": place}, {}]
    for chosen in kinds:
        done = heatmap(str(tmp_path / "slide.h5"), str(drawn.slide), out=str(tmp_path / "out"), **chosen)
        (region,) = collection(done.files[1])
        assert shape(region["geometry"]).area == count * 128 * 128


class TestBadInput:
    """Each is one line, and what was there before is there still."""

    def refused(self, drawn: Any, match: str, out: Path, features: Path | None = None, **settings: Any) -> None:
        out.mkdir(exist_ok=True)
        (out / "slide_pca.png").write_bytes(b"before")
        with pytest.raises((ConfigError, SlideError), match=match) as raised:
            heatmap(str(features or drawn.features), str(drawn.slide), out=str(out), **settings)
        assert "\n" not in str(raised.value)
        assert [(file.name, file.read_bytes()) for file in out.iterdir()] == [("slide_pca.png", b"before")]

    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"like": "1,2", "head": "h.h5"}, "two kinds of heatmap"),
            ({"of": "dark"}, "give the --head too"),
            ({"alpha": 1.5}, "alpha is 1.5"),
            ({"levels": 0}, "levels 0"),
            ({"mpp": 0.0}, "mpp is 0"),
            ({"mpp": float("nan")}, "mpp is nan"),
            ({"like": "here"}, "neither a GeoJSON file nor places"),
            ({"like": "99999,99999"}, "no patch holds the place 99999, 99999"),
            ({"like": "missing.geojson"}, "missing.geojson cannot be read"),
            ({"head": "missing.h5"}, "head missing.h5 does not exist"),
            ({"low": 1.0, "high": 0.5, "like": "{place}"}, "--low below --high"),
            ({"patch_size": 0}, "patch_size is 0"),
        ],
    )
    def test_settings(self, drawn: Any, tmp_path: Path, settings: dict[str, Any], match: str) -> None:
        if settings.get("like") == "{place}":
            settings = settings | {"like": f"{drawn.corner[0] + 9},{drawn.corner[1] + 9}"}
        self.refused(drawn, match, tmp_path / "out", **settings)

    def test_a_picture_that_would_be_too_large(
        self, drawn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overlay, "MOST_PIXELS", 10_000)
        self.refused(drawn, r"megapixels, and 0 are allowed; give --mpp [\d.]+ or more", tmp_path / "out", mpp=1.0)

    def test_the_resolution_advised_is_allowed(
        self, drawn: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(overlay, "MOST_PIXELS", 40_000)
        with pytest.raises(ConfigError) as raised:
            heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path))
            heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), mpp=0.5)
        advised = float(str(raised.value).split("--mpp ")[1].split()[0])
        heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path), mpp=advised)
        assert (tmp_path / "slide_pca.png").is_file()

    def test_features_of_another_slide(self, drawn: Any, tmp_path: Path) -> None:
        about, features, coords = contents(drawn.features)
        for changed, match in (
            ({"level0_width": 999}, r"are of a slide of 999 x \d+ px, and .* has"),
            ({"level0_mpp": 0.25}, r"made at 0.25 um/px of level 0, .* give --slide_mpp 0.25"),
        ):
            with h5py.File(tmp_path / "other.h5", "w") as file:
                file["features"], file["coords"] = features, coords
                file.attrs.update(about | changed)
            self.refused(drawn, match, tmp_path / "out", tmp_path / "other.h5")
        with h5py.File(tmp_path / "clam.h5", "w") as file:
            file["features"], file["coords"] = features, coords + 4000
        self.refused(drawn, "do not say how large a patch is", tmp_path / "out", tmp_path / "clam.h5")
        self.refused(drawn, "120 patches outside", tmp_path / "out", tmp_path / "clam.h5", patch_size=128)

    def test_a_head_of_other_embeddings(self, drawn: Any, tmp_path: Path) -> None:
        save_head(tmp_path / "wide.h5", np.zeros((2, 7)), [0, 0], ["a", "b"])
        self.refused(drawn, "takes embeddings of 7 numbers", tmp_path / "out", head=str(tmp_path / "wide.h5"))
        save_head(tmp_path / "other.h5", np.zeros((2, 6)), [0, 0], ["a", "b"], encoder="f" * 64)
        self.refused(drawn, "fitted on another encoder", tmp_path / "out", head=str(tmp_path / "other.h5"))
        save_head(tmp_path / "same.h5", np.zeros((2, 6)), [0, 0], ["a", "b"], encoder="e" * 64)
        heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path / "fine"), head=str(tmp_path / "same.h5"))
        self.refused(drawn, "--of c is no class of head", tmp_path / "out", head=str(tmp_path / "same.h5"), of="c")

    def test_an_output_that_cannot_be_written(self, drawn: Any, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(ConfigError, match=r"file.* cannot be written \(.*\); choose another --out"):
            heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path / "file" / "out"))
        (tmp_path / "taken" / "slide_pca.geojson").mkdir(parents=True)
        with pytest.raises(ConfigError, match="cannot be written"):
            heatmap(str(drawn.features), str(drawn.slide), out=str(tmp_path / "taken"))
        assert not list((tmp_path / "taken").glob(".*"))

    def test_a_full_disk(self, drawn: Any, tmp_path: Path) -> None:
        """A real one, of 64 KiB: the former picture stays, and nothing half-written."""
        small = tmp_path / "small"
        small.mkdir()
        mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True)
        if mount.returncode:
            pytest.skip("mounting a small tmpfs needs the right to")
        try:
            (small / "slide_pca.png").write_bytes(b"before")
            with pytest.raises(ConfigError, match="No space left"):
                heatmap(str(drawn.features), str(drawn.slide), out=str(small), mpp=0.5)
            assert [(file.name, file.read_bytes()) for file in small.iterdir()] == [("slide_pca.png", b"before")]
        finally:
            subprocess.run(["umount", str(small)], check=True)


def test_it_needs_no_torch(drawn: Any, tmp_path: Path) -> None:
    """In a process where importing any of what a hospital does not have fails."""
    program = (
        "import sys\n"
        "for name in 'torch lightning timm pyarrow pandas tiatoolbox scipy sklearn matplotlib jsonargparse'.split():\n"
        "    sys.modules[name] = None\n"
        "from g2l.deploy.heatmap.verb import heatmap\n"
        f"heatmap({str(drawn.features)!r}, {str(drawn.slide)!r}, out={str(tmp_path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert (tmp_path / "slide_pca.png").is_file()
