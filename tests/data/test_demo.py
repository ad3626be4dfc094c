"""The embedded cohort: same seed, same bytes; readable slides; a truthful region map; colour is not enough."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest

from g2l.data import demo
from g2l.data.demo import CENTRES, REGION_MPP, Order, cohort_orders, draw_cohort, draw_slide
from g2l.data.drawing.layout import CLASSES, MAP_MPP
from g2l.data.drawing.scanner import map_at
from g2l.slides.regions import Regions, read_regions

SMALL_UM = 512.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Four small slides of the cohort, of all centres, with a fold and a pen stroke among them."""
    folder = tmp_path_factory.mktemp("demo")
    few = [cohort_orders()[number] for number in (0, 1, 6, 12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "cohort_orders", lambda: few)
        draw_cohort(folder, seed=3, workers=1, size_um=SMALL_UM)
        yield folder


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_whatever_the_processes(small: Path, tmp_path: Path) -> None:
    draw_cohort(tmp_path, seed=3, workers=2, size_um=SMALL_UM)
    files = sorted(p.relative_to(small) for p in small.rglob("*") if p.is_file())
    assert len(files) == 2 * len(rows(small)) + 2
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for file in files:
        assert (small / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_another_seed_gives_other_slides() -> None:
    order = cohort_orders()[0]
    assert not np.array_equal(draw_slide(3, order, 400.0)[0], draw_slide(4, order, 400.0)[0])


@pytest.mark.slow
def test_a_finished_cohort_is_left_alone_and_an_unfinished_one_is_mended(small: Path) -> None:
    slide = small / rows(small)[0]["slide"]
    untouched = small / rows(small)[1]["slide"]
    before, bytes_before = untouched.stat().st_mtime_ns, slide.read_bytes()
    assert draw_cohort(small, seed=3, size_um=SMALL_UM) == small / "manifest.csv"
    assert untouched.stat().st_mtime_ns == before
    slide.unlink()
    draw_cohort(small, seed=3, workers=1, size_um=SMALL_UM)
    assert slide.read_bytes() == bytes_before


def test_openslide_finds_levels_and_resolution(small: Path) -> None:
    seen = {}
    for row in rows(small):
        with openslide.OpenSlide(small / row["slide"]) as slide:
            seen[row["centre"]] = float(slide.properties[openslide.PROPERTY_NAME_MPP_X])
            assert slide.level_downsamples[:2] == pytest.approx([1, 2], rel=1e-3)
            assert slide.level_count >= 2
            assert max(slide.level_dimensions[-1]) <= 600
            mpp = seen[row["centre"]]
            assert slide.dimensions[0] * mpp == pytest.approx(SMALL_UM, abs=mpp)
            corner = np.asarray(slide.read_region((0, 0), 0, (20, 20)).convert("RGB"))
            assert corner.min() > 190
    assert seen == pytest.approx({centre.name: centre.mpp for centre in CENTRES}, rel=1e-4)


def test_the_split_is_by_patient_and_every_part_has_every_centre() -> None:
    orders = cohort_orders()
    part_of: dict[int, str] = {}
    for order in orders:
        assert part_of.setdefault(order.patient, order.split) == order.split
    for part in ("train", "val", "test"):
        assert {order.centre for order in orders if order.split == part} == set(CENTRES)
    for centre in CENTRES:
        # The robustness index needs neighbours of the same centre outside a patch's own slide.
        assert sum(order.split == "test" and order.centre == centre for order in orders) >= 2


def test_the_manifest_names_files_that_are_there(small: Path) -> None:
    for row in rows(small):
        assert set(row) == {"slide", "patient", "centre", "split", "regions"}
        assert (small / row["slide"]).is_file()
        assert (small / row["regions"]).is_file()


def test_the_region_map_agrees_with_the_drawing(small: Path) -> None:
    row = rows(small)[0]
    regions = read_regions(small / row["regions"])
    assert (regions.classes, regions.mpp) == (CLASSES, REGION_MPP)
    order = cohort_orders()[0]
    _, layout, _, _ = draw_slide(3, order, SMALL_UM)
    fine, step = layout.class_map(), int(REGION_MPP / MAP_MPP)
    assert np.array_equal(regions.array, map_at(layout, REGION_MPP))
    height, width = regions.array.shape
    blocks = fine[: height * step, : width * step].reshape(height, step, width, step)
    assert (blocks == regions.array[:, None, :, None]).mean() > 0.9
    # Background is bright in the pixels and none in the map.
    with openslide.OpenSlide(small / row["slide"]) as slide:
        thumbnail = np.asarray(slide.get_thumbnail((width, height)).resize((width, height)).convert("L"))
    assert thumbnail[regions.array == 0].mean() > thumbnail[regions.array > 0].mean() + 25


def test_every_class_occurs_on_a_slide_of_full_size() -> None:
    _, layout, canvas, _ = draw_slide(0, Order(0, 0, CENTRES[0], "train"), 1800.0)
    present, area = np.unique(layout.class_map(), return_counts=True)
    assert set(present) == set(range(len(CLASSES) + 1))
    assert area.min() * MAP_MPP**2 > 4 * 128**2  # um2: room for patches of each
    # Lymphocytes stand closest, then solid tumour; fat has the fewest nuclei.
    x, y = np.concatenate(canvas.nuclei).T
    at = layout.class_map()[(y / MAP_MPP).astype(int).clip(0, 449), (x / MAP_MPP).astype(int).clip(0, 449)]
    density = {name: np.sum(at == k) / area[k] for k, name in enumerate(CLASSES, 1)}
    assert density["lymphocytes"] == max(density.values())
    assert density["fat"] == min(density.values())
    assert density["solid"] > density["stroma"]


def test_folds_and_pen_belong_to_no_class() -> None:
    plain = draw_slide(0, Order(0, 0, CENTRES[0], "train"), 900.0)[1].class_map()
    marred = draw_slide(0, Order(0, 0, CENTRES[0], "train", fold=True, pen=True), 900.0)[1].class_map()
    assert (marred[plain == 0] == 0).all()
    assert (marred > 0).sum() < (plain > 0).sum()


def colour_statistics(patch: np.ndarray) -> np.ndarray:
    """Means, deviations, correlations and 16-bin histograms of R, G, B."""
    pixels = patch.reshape(-1, 3).astype(float)
    histograms = [np.histogram(pixels[:, c], 16, (0, 256))[0] / len(pixels) for c in range(3)]
    correlations = np.corrcoef(pixels.T)[np.triu_indices(3, 1)]
    return np.r_[pixels.mean(0) / 255, pixels.std(0) / 255, correlations, np.concatenate(histograms)]


@pytest.mark.slow
def test_colour_statistics_do_not_tell_the_classes() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    features: dict[bool, list[np.ndarray]] = {True: [], False: []}
    names: dict[bool, list[str]] = {True: [], False: []}
    for order in cohort_orders()[::2]:
        rgb, layout, _, stain = draw_slide(0, order, 1800.0)
        regions = Regions(map_at(layout, REGION_MPP), REGION_MPP, CLASSES)
        size, trained = round(128 / stain.mpp), order.split == "train"
        for x, y in rng.uniform(0, 1800 - 129, (700, 2)):
            if (name := regions.label(x, y, 128)) is not None:
                row, col = int(y / stain.mpp), int(x / stain.mpp)
                features[trained].append(colour_statistics(rgb[row : row + size : 2, col : col + size : 2]))
                names[trained].append(name)
    for model in (KNeighborsClassifier(20), LogisticRegression(max_iter=2000)):
        fitted = make_pipeline(StandardScaler(), model).fit(features[True], names[True])
        assert 1 / len(CLASSES) < fitted.score(features[False], names[False]) < 0.65
