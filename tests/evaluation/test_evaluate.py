"""`g2l evaluate`: one command from images to results, told in one line where it cannot be."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from g2l.__main__ import main
from g2l.deploy.bundle import write_bundle
from g2l.encoders.encoder import create_encoder
from g2l.evaluation.results import read_results

PATIENTS, EACH = 15, 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches of two classes (stripes across and down) of fifteen patients from three centres, listed in a CSV."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    lines = ["path,label,patient,slide,centre,split"]
    for number in range(PATIENTS * EACH):
        patient = number // EACH
        waves = np.sin(np.arange(64) * rng.uniform(0.6, 0.9) + rng.uniform(0, 6))
        stripes = waves[None] if number % 2 else waves[:, None]
        blotches = np.kron(rng.uniform(-50, 50, (8, 8, 3)), np.ones((8, 8, 1)))  # no two images are alike
        pixels = 140 + 60 * stripes[..., None] * rng.uniform(0.5, 1, 3) + blotches
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03d}.png")
        part = ("train", "train", "val", "test", "test")[patient % 5]
        kind = ("across", "down")[number % 2]
        lines.append(f"{number:03d}.png,{kind},p{patient:02d},s{patient:02d},c{patient % 3},{part}")
    (folder / "patches.csv").write_text("\n".join(lines) + "\n")
    return folder


def config(images: Path, out: Path, **changes: object) -> Path:
    """A YAML with three tasks over the images and two encoders."""
    data = {"class_path": "Listing", "init_args": {"listing": str(images / "patches.csv")}}
    content = {
        "encoders": {"giga": "demo-giga", "untrained": {"model": "demo-giga", "init": "random"}},
        "tasks": {
            "stripes": {"class_path": "PatchClassification", "init_args": {"data": data}},
            "similar": {"class_path": "Retrieval", "init_args": {"data": data}},
            "centres": {"class_path": "Robustness", "init_args": {"data": data}},
        },
        "out": str(out / "results"),
    } | changes
    path = out / "tasks.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_results_are_written_and_the_second_run_finds_them(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(images, tmp_path)
    assert main(["evaluate", "--config", str(path)]) == 0
    assert capsys.readouterr().out.count("done") == 6
    results = read_results([tmp_path / "results"])
    methods = {(result.task, result.encoder, result.method) for result in results}
    assert {("stripes", name, head) for name in ("giga", "untrained") for head in ("linear", "knn")} <= methods
    giga = next(result for result in results if (result.task, result.encoder) == ("stripes", "giga"))
    assert giga.outcome.measure(giga.outcome.predictions) == pytest.approx(giga.metrics)  # as read from disk
    assert giga.metrics["accuracy"] > 0.75
    assert giga.about["data"]["parts"]["test"] == {"rows": 48, "patients": 6}
    assert giga.about["encoder"]["parameters"] > 3e6 and giga.about["run"]["versions"]["torch"]
    rows = json.loads((tmp_path / "results/metrics.json").read_text())
    assert {(row["task"], row["encoder"]) for row in rows["metrics"]} == {(task, name) for task, name, _ in methods}
    assert (tmp_path / "results/metrics.csv").read_text().count("\n") == 1 + len(rows["metrics"])

    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "results").rglob("outcome.json")}
    assert main(["evaluate", "--config", str(path)]) == 0
    assert capsys.readouterr().out.count("skipped") == 6
    assert written == {file: file.stat().st_mtime_ns for file in (tmp_path / "results").rglob("outcome.json")}

    assert main(["evaluate", "--config", str(path), "--tasks.stripes.heads", "[knn]"]) == 0
    assert capsys.readouterr().out.count("skipped") == 4
    assert {r.method for r in read_results([tmp_path / "results/stripes"])} == {"knn"}  # none of the former run


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(images: Path, tmp_path: Path) -> None:
    path = config(images, tmp_path)
    command = [sys.executable, "-m", "g2l", "evaluate", "--config", str(path)]
    first = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 120
    while not list((tmp_path / "results").rglob("outcome.json")) and time.monotonic() < limit:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    finished = {
        file: file.stat().st_mtime_ns
        for file in (tmp_path / "results").rglob("outcome.json")
        if {"linear", "knn"} <= {other.name for other in file.parent.parent.iterdir()}
    }
    shards = {file: file.stat().st_mtime_ns for file in (tmp_path / "results/embeddings").rglob("*.h5")}
    assert shards
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.count("done") + done.stdout.count("skipped") >= 6
    assert all(file.stat().st_mtime_ns == when for file, when in (finished | shards).items())


@pytest.mark.slow
def test_only_results_of_one_protocol_stand_side_by_side_and_old_ones_fail_no_evaluation(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"class_path": "Listing", "init_args": {"listing": str(images / "patches.csv")}}
    moved = shutil.copytree(images, tmp_path / "moved")
    elsewhere = {"class_path": "Listing", "init_args": {"listing": str(moved / "patches.csv")}}

    def run(name: str, encoder: str, k: int, source: dict[str, Any] = data, **more: object) -> str:
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        tasks = {
            "centres": {"class_path": "Robustness", "init_args": {"data": source, "k": k, "clustering": False}},
            "stripes": {"class_path": "PatchClassification", "init_args": {"data": source, "heads": ["knn"]}},
        }
        encoders = {encoder: {"model": "demo-giga", "init": "weights" if encoder == "giga" else "random"}}
        assert main(["evaluate", "--config", str(config(images, out, tasks=tasks, encoders=encoders, **more))]) == 0
        return capsys.readouterr().out

    def report(*names: str) -> tuple[int, str]:
        code = main(["report", *(str(tmp_path / name) for name in names), "--out", str(tmp_path / "report")])
        return code, capsys.readouterr().err

    run("one", "giga", 3)
    run("other", "untrained", 15)
    code, said = report("one", "other")
    assert code == 2 and "task centres was run with different settings (k 15 and 3)" in said
    assert "stripes" not in said  # which was run with the same
    # elsewhere, in another cache, with other threads: the same protocol
    run("same", "untrained", 3, elsewhere, cache=str(tmp_path / "cache"), embedding={"threads": 1, "batch_size": 7})
    assert report("one", "same")[0] == 0
    # what was run before in the same folder, with another k
    said = run("one", "untrained", 15)
    left = [line for line in said.splitlines() if line.startswith("left out of")]
    assert len(left) == 1 and "task centres was run with different settings (k 3 and 15)" in left[0]
    assert f"{tmp_path / 'one/results/centres/giga'} and" in left[0] and "remove its folder" in left[0]
    content = json.loads((tmp_path / "one/results/metrics.json").read_text())
    kept = {(row["task"], row["encoder"]) for row in content["metrics"]}
    assert kept == {("centres", "untrained"), ("stripes", "untrained"), ("stripes", "giga")}
    assert len(content["left_out"]) == 1
    assert "left out" not in run("one", "giga", 15)  # as the message says: evaluated again


@pytest.mark.slow
def test_images_of_nobody_are_not_told_as_patients(images: Path, tmp_path: Path) -> None:
    files = sorted(images.glob("*.png"))
    for folder, some in (("NCT-CRC-HE-100K", files[:60]), ("CRC-VAL-HE-7K", files[60:90])):
        for number, file in enumerate(some):
            place = tmp_path / folder / ("ADI", "TUM")[number % 2] / f"{file.stem}.tif"
            place.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(file) as image:
                image.save(place)
    data = {"class_path": "NctCrc", "init_args": {"root": str(tmp_path)}}
    tasks = {"tissue": {"class_path": "PatchClassification", "init_args": {"data": data}}}
    assert main(["evaluate", "--config", str(config(images, tmp_path, tasks=tasks))]) == 0
    results = read_results([tmp_path / "results"])
    assert {str(r.about["data"]["parts"]["test"]) for r in results} == {"{'rows': 30}"}
    rows = json.loads((tmp_path / "results/metrics.json").read_text())["metrics"]
    assert {(row["patients"], row["resampled"]) for row in rows} == {(None, "patch")}
    assert {row["difference_low"] for row in rows} == {None} and any(row["difference"] for row in rows)
    assert main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert "30 patches, patients unknown" in page and "] by patch" in page and "30 patients" not in page
    assert "In tissue nobody says whose an image is" in page


def test_all_mistakes_are_told_at_once_and_before_anything_is_read_by_an_encoder(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"class_path": "Listing", "init_args": {"listing": str(images / "patches.csv")}}
    gone = {"class_path": "Listing", "init_args": {"listing": str(images / "nowhere.csv")}}
    tasks = {
        "a": {"class_path": "PatchClassification", "init_args": {"data": gone}},
        "b": {"class_path": "Similarity", "init_args": {"data": data, "teacher": "nobody"}},
        "c d": {"class_path": "Retrieval", "init_args": {"data": data}},
        "c/d": {"class_path": "Retrieval", "init_args": {"data": data}},
        "report": {"class_path": "Retrieval", "init_args": {"data": data}},
    }
    assert main(["evaluate", "--config", str(config(images, tmp_path, tasks=tasks))]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert all(text in said for text in ("task a:", "nowhere.csv", "'nobody'", "'c/d' and 'c d'", "task 'report'"))
    assert not list((tmp_path / "results").rglob("*.h5"))


def test_a_leaking_split_is_refused_with_the_patients(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (images / "patches.csv").read_text().splitlines()
    rng = np.random.default_rng(0)
    random = [f"{images}/{line.rpartition(',')[0]},{rng.choice(['train', 'val', 'test'])}" for line in lines[1:]]
    (tmp_path / "random.csv").write_text("\n".join([lines[0], *random]) + "\n")
    data = {"class_path": "Listing", "init_args": {"listing": str(tmp_path / "random.csv")}}
    tasks = {"stripes": {"class_path": "PatchClassification", "init_args": {"data": data}}}
    assert main(["evaluate", "--config", str(config(images, tmp_path, tasks=tasks))]) == 2
    said = capsys.readouterr().err
    assert "15 patients are in more than one part of the split (p00, p01" in said


def test_only_must_name_tasks(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--config", str(config(images, tmp_path)), "--only", "[stripe]"]) == 2
    assert "stripe; there are centres, similar, stripes" in capsys.readouterr().err


def test_missing_encoders_are_all_told_first_and_a_folder_of_weights_is_for_names_alone(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(create_encoder("vit_tiny_patch16_224", init="random", img_size=32), [], bundle)
    encoders = {"kept": str(bundle), "gone": "runs/none.ckpt", "gated": "uni", "shipped": "demo-giga"}
    path = config(images, tmp_path, encoders=encoders, weights=str(tmp_path))
    assert main(["evaluate", "--config", str(path)]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and "kept" not in said and "shipped" not in said
    assert "encoder gone: checkpoint runs/none.ckpt does not exist" in said
    assert f"encoder gated: weights of uni are missing: {tmp_path / 'uni.safetensors'}" in said
    assert main(["evaluate", "--out", str(tmp_path / "other")]) == 2
    assert "no encoders are named" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_what_fails_costs_its_own_tasks_and_no_old_number_stands_for_it(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(images, tmp_path / "images")
    data = {"class_path": "Listing", "init_args": {"listing": str(images / "patches.csv")}}
    other = {"class_path": "Listing", "init_args": {"listing": str(copied / "patches.csv"), "name": "other"}}
    tasks = {
        "stripes": {"class_path": "PatchClassification", "init_args": {"data": data, "heads": ["knn"]}},
        "centres": {"class_path": "Robustness", "init_args": {"data": other}},
    }
    path = config(images, tmp_path, tasks=tasks, encoders={"giga": "demo-giga"})
    assert main(["evaluate", "--config", str(path)]) == 0
    both = json.loads((tmp_path / "results/metrics.json").read_text())["metrics"]
    assert {row["task"] for row in both} == {"stripes", "centres"}
    embedded = {file: file.stat().st_mtime_ns for file in (tmp_path / "results").rglob("*.h5")}

    # one task alone finds its embeddings, and its result
    capsys.readouterr()
    assert main(["evaluate", "--config", str(path), "--only", "[stripes]"]) == 0
    assert "skipped" in capsys.readouterr().out
    # an image of the other task's data is damaged, and the first is asked for what it cannot do
    tested = next(line for line in (copied / "patches.csv").read_text().splitlines() if line.endswith("test"))
    (copied / tested.partition(",")[0]).write_bytes(b"no image")
    assert main(["evaluate", "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "1 of 2 evaluations failed" in said and tested.partition(",")[0] in said
    left = json.loads((tmp_path / "results/metrics.json").read_text())
    assert {row["task"] for row in left["metrics"]} == {"stripes"}
    assert any("centres" in each for each in left["left_out"])
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "results").rglob("*.h5")} == embedded
    # a damaged result is made again, from the same embeddings
    (tmp_path / "results/stripes/giga/knn/predictions.parquet").write_bytes(b"PAR1")
    assert main(["evaluate", "--config", str(path), "--only", "[stripes]"]) == 0
    assert "done: balanced accuracy" in capsys.readouterr().out
