"""The benchmarks run, their tables are complete, and all readers in them see the same pixels."""

import importlib
import itertools
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from scipy import ndimage, stats

from g2l.slides.cohort import Cohort
from g2l.slides.coverage import pack
from g2l.slides.indexing.scan import Scan
from g2l.slides.indexing.store import write_cohort
from g2l.slides.slide import Slide

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MASK_MPP = 16.0


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def _pixels(seed: int) -> NDArray[np.uint8]:
    """Smooth, no two places alike, and mean 4 grey levels from themselves shifted by one px."""
    rough = np.random.default_rng(seed).normal(size=(1300, 1500, 3))
    smooth = ndimage.gaussian_filter(rough, (5, 5, 0))
    return (128 + 40 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)


def _scan(path: Path) -> Scan:
    """The row of a slide that is tissue all over."""
    with Slide.open(path) as slide:
        rows, columns = (round(side // MASK_MPP) for side in reversed(slide.size_um))
        row = {
            "name": path.stem, "path": str(path), "mpp": slide.mpp, "mpp_source": "file", "backend": slide.backend,
            "width": slide.dimensions[0], "height": slide.dimensions[1], "width_um": slide.size_um[0],
            "height_um": slide.size_um[1], "tissue_mm2": 1.0, "room_um": min(rows, columns) * MASK_MPP, "pen": False,
            "sharpness": 1.0, "blur": False, "fingerprint": path.stem, "mask_mpp": MASK_MPP, "mask_h": rows,
            "mask_w": columns, "box_x0": 0, "box_y0": 0, "box_x1": columns, "box_y1": rows, "backend_reason": "",
            "levels": [value for one in slide.levels for value in (*one[:2], one.tile_w, one.tile_h)],
            "tile_map": slide.tile_map,
        }  # fmt: skip
    return Scan(row, pack(np.ones((rows, columns), bool)), b"", 1.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Two slides with JPEG tiles and one that OpenSlide alone reads, of one level each, .5 um/px."""
    folder = tmp_path_factory.mktemp("benchmarks")
    scans = []
    for number, compression in enumerate(("jpeg", "jpeg", "deflate")):
        path = folder / f"slide {number}.tif"
        with tifffile.TiffWriter(path) as tiff:
            tiff.write(
                _pixels(number), photometric="rgb", tile=(256, 256), compression=compression, metadata=None,
                resolution=(2e4, 2e4), resolutionunit="CENTIMETER",
            )  # fmt: skip
        scans.append(_scan(path))
    (folder / "cohort").mkdir()
    write_cohort(folder / "cohort", ((scan, {}) for scan in scans))
    return Cohort.open(folder / "cohort")


def test_every_reader_has_its_row_and_those_that_are_there_see_the_same_pixels(cohort: Cohort) -> None:
    peers, race = importlib.import_module("peers"), importlib.import_module("race")
    lines: list[str] = []
    tiles, plain = race.races(cohort, range(3), lines.append)
    assert (tiles.backend, plain.backend, lines) == ("tiles", "openslide", [])
    for one, placing in ((tiles, "tile"), (tiles, "random"), (plain, "random")):
        rows = {row.reader: row for row in one.run(224, placing, 1, 0.02, 2)}
        assert list(rows) == [peer.name for peer in peers.PEERS]
        for peer in peers.PEERS:
            row = rows[peer.name]
            if peer.version is None:
                assert (row.note, row.rate) == ("not installed", None)
            elif peer is peers.LIMIT:
                assert row.difference is None
                assert (row.rate is None) == (one is plain)
            elif row.note:
                assert peer not in (peers.OPENSLIDE, peers.OURS), row.note
            else:
                assert row.rate > 0
                # fastslide does not interpolate the colours between pixels
                assert row.difference < (4 if row.reader == "fastslide" else 2)
                assert (row.of_limit is None) == (one is plain)
        assert rows["OpenSlide"].to_openslide == 1
        assert rows["OpenSlide"].difference == 0


def test_half_the_resolution_is_compared_with_a_resized_patch(cohort: Cohort) -> None:
    peers, race = importlib.import_module("peers"), importlib.import_module("race")
    tiles, plain = race.races(cohort, range(3), print)
    assert (tiles.half, plain.half) == (True, False)
    rows = {row.reader: row for row in tiles.run(128, "random", 2, 0.02, 2)}
    assert list(rows) == [peer.name for peer in peers.PEERS if peer.shrinks]
    assert 0 < rows["g2l"].difference < 2


def test_a_slide_that_is_gone_or_too_small_is_left_out_with_a_line(cohort: Cohort, tmp_path: Path) -> None:
    memory, race = importlib.import_module("memory"), importlib.import_module("race")
    linked = memory.linked(cohort, 2, tmp_path)
    linked[0].path.unlink()
    lines: list[str] = []
    (left,) = race.races(linked, range(2), lines.append)
    assert len(left.slides) == 1
    assert left.run(4000, "tile", 1, 0.02, 2) == []
    assert ["00000.tif" in lines[0], "no place for patches of 4000 px" in lines[1]] == [True, True]


@pytest.mark.slow
def test_the_script_prints_what_it_writes(cohort: Cohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loading, peers = importlib.import_module("loading"), importlib.import_module("peers")
    file = tmp_path / "figures.json"
    options = ["--part", "readers", "--size", "64", "--seconds", ".01", "--rounds", "1", "--json", str(file)]
    assert loading.main([str(cohort.folder), *options]) == 0
    shown = capsys.readouterr().out
    result = json.loads(file.read_text())
    # tile and random: all readers on the JPEG slides, those that halve once more, and all on the other slide
    halving = sum(peer.shrinks for peer in peers.PEERS)
    assert len(result["readers"]) == 2 * (2 * len(peers.PEERS) + halving)
    for row in result["readers"]:
        figure = row["note"] or f"{row['rate']:,.0f}"
        assert f"| {row['reader']} | {figure} |" in shown
    assert result["machine"]["versions"] in shown


@pytest.mark.slow
def test_what_is_no_cohort_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loading = importlib.import_module("loading")
    assert loading.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_loader_that_is_there_delivers(cohort: Cohort) -> None:
    loaders = importlib.import_module("loaders")
    job = loaders.Job(cohort.folder, [0, 1], 64, 0.5)
    for name, one in {loader.name: loader for loader in loaders.LOADERS if "wsistream" not in loader.name}.items():
        batches = one.make(job, 0, 2)
        assert [next(batches) for _ in range(3)] == [loaders.BATCH] * 3, name
        batches.close()


def test_the_slope_of_memory_and_its_uncertainty() -> None:
    memory = importlib.import_module("memory")
    minutes = np.linspace(2, 10, 240)
    mib = 800 + 0.5 * minutes + np.random.default_rng(0).normal(size=240)
    means = [values.reshape(12, 20).mean(axis=1) for values in (minutes, mib)]
    reference: Any = stats.linregress(means[0], means[1])
    half = stats.t.interval(0.95, 10)[1] * reference.stderr
    np.testing.assert_allclose(memory.slope(minutes, mib), (reference.slope, half), rtol=1e-9)


def test_memory_is_watched_over_links_to_few_slides(cohort: Cohort, tmp_path: Path) -> None:
    memory = importlib.import_module("memory")
    linked = memory.linked(cohort, 7, tmp_path)
    assert len(linked) == len({record.path for record in linked}) == 7
    np.testing.assert_array_equal(linked.mask(5), cohort.mask(2))
    samples = list(memory.watch(linked, 0.5, 0, 1))
    assert len(samples) >= 2
    assert all(later.patches > earlier.patches for earlier, later in itertools.pairwise(samples))
    assert samples[-1].mib > 10


def test_ratios_are_of_rounds_that_both_loaders_have(cohort: Cohort) -> None:
    loaders, trial = importlib.import_module("loaders"), importlib.import_module("trial")
    chosen = [loaders.WSISTREAM, loaders.BARE, loaders.BARE._replace(threads=1)]
    one = trial.Trial(loaders.Job(cohort.folder, [0], 64, 0.5), chosen)
    one._found[chosen[0]] += [trial.Figures(rate, rate, 1.0) for rate in (10, 20)]
    one._found[chosen[1]] += [trial.Figures(rate, rate, 1.0) for rate in (30, 20, 70)]
    wsistream, bare, missing = one.rows()
    assert (wsistream.rate, bare.rate) == (15, 30)
    assert (bare.to_wsistream, wsistream.of_bare) == (2, (1 / 3 + 1) / 2)
    assert missing.note == "not measured"


@pytest.mark.slow
def test_loaders_are_measured_in_processes_of_their_own(cohort: Cohort) -> None:
    loaders, trial = importlib.import_module("loaders"), importlib.import_module("trial")
    chosen = [*(one for one in loaders.LOADERS if one.workers < 2 and one.threads == 1), loaders.BARE]
    measured = trial.Trial(loaders.Job(cohort.folder, [0, 1], 64, 0.5), chosen)
    measured.run(0.1, 1)
    for row in measured.rows():
        if "wsistream" in row.loader and row.rate is None:
            assert row.note == "not installed"
        else:
            assert row.note == ""
            assert min(row.rate, row.per_core, row.mib, row.of_bare) > 0


@pytest.mark.slow
def test_an_interrupted_run_leaves_what_it_has(cohort: Cohort, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-u", str(BENCHMARKS / "loading.py"), str(cohort.folder), "--size", "64"]
    # A shell without job control starts what is in its background with SIGINT ignored, and children inherit that.
    heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    started = subprocess.Popen([*command, "--json", str(file)], stdout=subprocess.PIPE, text=True, preexec_fn=heed)
    with started as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("| g2l |"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert "interrupted" in rest
    assert process.returncode == 130
    assert json.loads(file.read_text())["readers"][-1]["size"] == 64
