"""The study on slides: patches cut beforehand are those of the stream, and both ways lead to one student."""

import csv
import importlib
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from safetensors.torch import load_file
from small import SIZE, write_networks

from g2l.__main__ import main
from g2l.data.module import SlideDataModule
from g2l.data.record import name_hash
from g2l.encoders.encoder import create_encoder
from g2l.errors import CohortError, ConfigError, TrainingError
from g2l.evaluation.tables.distilled import read_record
from g2l.evaluation.tables.listing import Listing
from g2l.slides.cohort import Cohort

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
STREAM: dict[str, Any] = {"batch_size": 8, "patch_size": 32, "mpp": 2.0, "val_patches": 12, "threads": 1}
STEPS = 5


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def batches(data: SlideDataModule) -> list[tuple[list[int], list[str], np.ndarray]]:
    """Numbers, slides and pixels of the first training steps and of a validation."""
    data.setup()
    loaders = (itertools.islice(data.train_dataloader(), STEPS), data.val_dataloader())
    return [
        (batch["index"].tolist(), batch["slides"], batch["images"].numpy().copy())
        for batch in itertools.chain(*loaders)
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    """Whether two lists of batches are equal in everything."""
    return len(one) == len(other) and all(
        a[:2] == b[:2] and np.array_equal(a[2], b[2]) for a, b in zip(one, other, strict=True)
    )


def test_a_folder_that_was_cut_streams_what_the_slides_do(demo_cohort: Path, tmp_path: Path) -> None:
    patches = importlib.import_module("scaled.slide_patches")
    out = tmp_path / "cut"
    (tmp_path / "cut.partial").mkdir()
    (tmp_path / "cut.partial" / "left by a killed run.png").touch()
    patches.cut_stream(SlideDataModule(str(demo_cohort), seed=3, **STREAM), STEPS, out)
    assert sorted(file.name for file in out.iterdir()) == ["patches.csv", "train", "val"]
    assert len(list(out.glob("train/*.png"))) == STEPS * 8
    assert len(list(out.glob("val/*.png"))) == 16  # 12 asked, in whole batches

    streamed = batches(SlideDataModule(str(demo_cohort), seed=3, **STREAM))
    cut, listed = str(out), str(out / patches.LIST)
    assert len(streamed) == STEPS + 2
    assert same(streamed, batches(SlideDataModule(cut, listed, seed=3, **STREAM)))
    # the order is the seed's: with another one the same folder is another stream
    assert not same(streamed, batches(SlideDataModule(cut, listed, seed=4, **STREAM)))
    assert not same(streamed, batches(SlideDataModule(str(demo_cohort), seed=4, **STREAM)))

    cohort = Cohort.open(demo_cohort)
    told = {record.name: (record.patient, record.split) for record in cohort}
    with (out / patches.LIST).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len({row["path"] for row in rows}) == len(rows) == STEPS * 8 + 16
    assert all(told[row["slide"]] == (row["patient"], row["split"]) for row in rows)


def test_patches_that_judge_lie_side_by_side_and_are_the_slides(demo_cohort: Path, tmp_path: Path) -> None:
    patches = importlib.import_module("scaled.slide_patches")
    cohort, size, mpp = Cohort.open(demo_cohort), 32, 2.0
    held = cohort.split()["val"][:3]
    patches.cut_grid(cohort, held, size, mpp, 20, tmp_path / "judged")
    table = Listing(str(tmp_path / "judged" / patches.LIST), label=False, mpp=mpp).read()
    names = [cohort[row].name for row in held]
    assert [table.slides.tolist().count(name) for name in names] == [7, 7, 6]
    assert set(table.splits) == {"test"}
    assert set(table.patients) == {cohort[row].patient for row in held}
    for row, name in zip(held, names, strict=True):
        files = sorted((tmp_path / "judged" / name).iterdir())
        corners = np.array([[float(part) for part in file.stem.split("_")] for file in files])
        apart = np.abs(corners[:, None] - corners[None]).max(axis=2) + 1e9 * np.eye(len(corners))
        assert apart.min() >= size * mpp - 1.0  # names are rounded to whole um
        mask, cell = cohort.mask(row), cohort.mask_mpp(row)
        for x, y in corners:
            place = mask[
                int(y / cell) : int((y + size * mpp) / cell) + 1, int(x / cell) : int((x + size * mpp) / cell) + 1
            ]
            assert place.mean() > 0.3
        with cohort.open_slide(row) as slide:
            step = cohort[row].mpp
            x, y = np.rint(corners[0] / step) * step  # the grid's corners are whole px of level 0
            pixels = slide.read_patch(float(x), float(y), size, mpp)
        decoded = importlib.import_module("cv2").imread(str(files[0]))[..., ::-1]
        np.testing.assert_array_equal(decoded, pixels)
    with pytest.raises(CohortError, match=r"has .* patches of 32 px at 2 um/px side by side, 33333 are asked; judge"):
        patches.cut_grid(cohort, held, size, mpp, 99_999, tmp_path / "more")
    assert not (tmp_path / "more").exists()


def two_runs(folder: Path, weights: list[np.ndarray], losses: list[list[float]]) -> dict[str, Path]:
    """Two runs as `fit` leaves them."""
    settings = importlib.import_module("scaled.slide_runs")
    runs = {name: folder / name for name in (settings.STREAMED, settings.CUT)}
    for place, values, log in zip(runs.values(), weights, losses, strict=True):
        (place / "student").mkdir(parents=True)
        save_file({"w": values}, place / "student" / "model.safetensors")
        version = place / "losses" / "version_0"
        version.mkdir(parents=True)
        lines = [f"0,{step},{value}," for step, value in enumerate(log)]
        (version / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/cka", *lines, "0,9,,.5"]) + "\n")
    return runs


def test_how_far_two_students_are_apart_is_measured(tmp_path: Path) -> None:
    results = importlib.import_module("scaled.slide_results")
    one = np.array([1.0, -2.0, 0.0], np.float32)
    other = one + np.array([0, 0.25, 0], np.float32)
    assert results.agreement(two_runs(tmp_path / "differ", [one, other], [[2.0, 1.0], [2.0, 1.5]])) == {
        "same_weights": False, "largest_difference_of_a_weight": 0.25,
        "same_losses": False, "largest_difference_of_a_loss": 0.5, "losses_compared": 2,
    }  # fmt: skip
    found = results.agreement(two_runs(tmp_path / "agree", [one, one.copy()], [[2.0, 1.0], [2.0, 1.0]]))
    assert found["same_weights"] and found["same_losses"]
    # bit for bit: equal numbers are not enough
    minus = one * np.array([1, 1, -1], np.float32)
    found = results.agreement(two_runs(tmp_path / "zero", [one, minus], [[1.0], [1.0]]))
    assert (found["same_weights"], found["largest_difference_of_a_weight"]) == (False, 0)


def test_losses_of_a_run_that_went_on_are_put_together(tmp_path: Path) -> None:
    results = importlib.import_module("scaled.slide_results")
    for version, rows in (("version_0", "0,8\n1,7\n2,99\n"), ("version_1", "2,6\n3,5\n"), ("version_10", "3,4\n")):
        (tmp_path / "losses" / version).mkdir(parents=True)
        (tmp_path / "losses" / version / "metrics.csv").write_text("step,train/loss\n" + rows)
    assert results.losses(tmp_path) == {"train/loss": {0: 8, 1: 7, 2: 6, 3: 4}}


def test_mistakes_end_in_one_line(tmp_path: Path) -> None:
    slides, settings = importlib.import_module("scaled.slides"), importlib.import_module("scaled.slide_runs")
    demo = settings.Networks("demo-giga", "demo-student")
    with pytest.raises(ConfigError, match="are of one patient; add"):
        slides.run_slides(tmp_path, tmp_path / "a", demo, sections={"a.tif": "A", "b.tif": "A"})
    two = {"a.tif": "A", "b.tif": "B"}
    for name in two:
        (tmp_path / name).write_text("no slide")
    lacking = settings.Networks("demo-giga", "demo-student", str(tmp_path))
    with pytest.raises(ConfigError, match=r"missing: \S*c\.tif, \S*demo-giga\.safetensors; correct"):
        slides.run_slides(tmp_path, tmp_path / "a", lacking, sections=two | {"c.tif": "B"})
    with pytest.raises(TrainingError, match=r"held-out-A index ended with 2; see the end of \S*log\.txt, and run"):
        slides.run_slides(tmp_path, tmp_path / "a", demo, sections=two)
    log = (tmp_path / "a" / "held-out-A" / "index" / "log.txt").read_text()
    assert "a.tif" in log and "Traceback" not in log


def test_whatever_changes_what_is_cut_or_trained_makes_all_of_it_anew(tmp_path: Path) -> None:
    slides, settings = importlib.import_module("scaled.slides"), importlib.import_module("scaled.slide_runs")
    given = write_networks(tmp_path)
    sections = {"a.tif": "A", "b.tif": "B"}
    for name in sections:
        (tmp_path / name).write_bytes(b"pixels")

    def identities(term: dict[str, Any] | None = None, **budget: Any) -> list[str]:
        networks = settings.Networks(given.teacher, given.student, given.weights)
        one = slides.HeldOut(tmp_path / "out", "A", tmp_path, sections, networks, settings.Budget(**budget))
        jobs = one.jobs(term or {"class_path": "LogSum"})
        assert [job.name.removeprefix("held-out-A ") for job in jobs] == [
            "index",
            "slide path",
            "patch path",
            "evaluation",
        ]
        return [job.identity() for job in jobs[:3]]  # the last one's inputs are made by those before it

    first = identities()
    assert identities() == first
    changes: list[dict[str, Any]] = [
        {"steps": 3}, {"judged": 70}, {"seed": 1}, {"read": 130}, {"term": {"class_path": "Cosine"}},
    ]  # fmt: skip
    found = [first, *(identities(**change) for change in changes)]
    (tmp_path / "teacher.safetensors").write_bytes(b"other weights")
    found.append(identities())
    (tmp_path / "a.tif").write_bytes(b"other pixels")
    found.append(identities())
    for kind in zip(*found, strict=True):
        assert len(set(kind)) == len(found)


@pytest.mark.slow
def test_the_untrained_student_is_the_one_before_the_first_step(demo_cohort: Path, tmp_path: Path) -> None:
    settings = importlib.import_module("scaled.slide_runs")
    given = write_networks(tmp_path)
    networks = settings.Networks(given.teacher, given.student, given.weights)
    budget = settings.Budget(size=SIZE, read=40, steps=1, batch=8, observe=16, held_out=16, seed=5, lr=0.0)
    run, term = tmp_path / "run", {"class_path": "LogSum"}
    config = settings.distilling({"cohort": str(demo_cohort)}, networks, budget, term, run)
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "fit.yaml")]) == 0
    torch.manual_seed(5)  # as an evaluation draws random weights
    drawn = create_encoder(given.student, init="random").backbone.state_dict()
    trained = load_file(run / "student" / "model.safetensors")
    assert trained.keys() == drawn.keys()
    assert all(torch.equal(trained[name], drawn[name]) for name in trained)


@pytest.mark.slow
@pytest.mark.real_data
def test_both_ways_lead_to_one_student_on_real_sections(real_data: Path, tmp_path: Path) -> None:
    slides, settings = importlib.import_module("scaled.slides"), importlib.import_module("scaled.slide_runs")
    results = importlib.import_module("scaled.slide_results")
    given = write_networks(tmp_path)
    networks = settings.Networks(given.teacher, given.student, given.weights)
    budget = settings.Budget(size=SIZE, read=40, mpp=2.0, steps=4, batch=8, observe=16, held_out=16, judged=61, k=5)
    out = tmp_path / "out"
    found = slides.run_slides(real_data / "slides", out, networks, budget)
    assert found["patients"].keys() == {"B", "C"}
    assert found["patients"]["B"]["slides"] == {"her2st_B4": 61}
    assert found["patients"]["C"]["slides"] == {"her2st_C2": 21, "her2st_C3": 20, "her2st_C4": 20}
    for patient, one in found["patients"].items():
        assert one["agreement"]["same_weights"] and one["agreement"]["same_losses"]
        assert one["agreement"]["losses_compared"] == 4
        scores = one["scores"]
        assert scores[settings.STREAMED] == scores[settings.CUT] != scores[settings.NONE]
        assert scores[settings.TEACHER]["neighbour_overlap"] == 1
        assert one["chance"] == 5 / 60
        by_slide = scores[settings.CUT]["by_slide"]
        mean = sum(by_slide[name] * count for name, count in one["slides"].items()) / 61
        assert mean == pytest.approx(scores[settings.CUT]["neighbour_overlap"])
        assert f"| {patient} | none | {scores['none']['cka']:.3f} |" in results.table(found)
        # it was trained on the other patient alone
        for run in ("slide-path", "patch-path"):
            record = read_record(str(out / f"held-out-{patient}" / run / "checkpoints" / "last.ckpt"))
            assert record is not None
            assert record["patients"] == [name_hash("C" if patient == "B" else "B")]
        assert not list((out / f"held-out-{patient}" / "index" / "cut").rglob("*.png"))

    # What is done is not repeated; what is not goes on where it was, to the same result.
    logs = {file: file.read_bytes() for file in out.rglob("log.txt")}
    assert len(logs) == 8
    assert slides.run_slides(real_data / "slides", out, networks, budget) == found
    assert logs == {file: file.read_bytes() for file in out.rglob("log.txt")}
    shutil.rmtree(out / "held-out-B" / "patch-path")
    again = slides.run_slides(real_data / "slides", out, networks, budget)["patients"]
    for what in ("scores", "agreement", "slides"):
        assert again["B"][what] == found["patients"]["B"][what]
    assert again["C"] == found["patients"]["C"]
    assert logs[out / "held-out-B/slide-path/log.txt"] == (out / "held-out-B/slide-path/log.txt").read_bytes()
