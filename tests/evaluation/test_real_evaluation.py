"""The whole of `g2l evaluate` and `g2l report` on real images: lung patches by field, and stained nuclei."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from g2l.__main__ import main
from g2l.evaluation.results import read_results

CONFIGS = Path(__file__).parents[2] / "configs/evaluation"


def joined(folder: Path, *names: str) -> Path:
    """The tasks of several shipped configs in one file, for one small encoder."""
    tasks: dict[str, object] = {}
    for name in names:
        tasks |= yaml.safe_load((CONFIGS / name).read_text())["tasks"]
    content = {"encoders": {"small giga": "demo-giga"}, "tasks": tasks, "out": str(folder / "results")}
    (folder / "tasks.yaml").write_text(yaml.safe_dump(content))
    return folder / "tasks.yaml"


@pytest.mark.slow
@pytest.mark.real_data
def test_patches_and_nuclei_from_images_to_the_report(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("G2L_DATA", str(real_data))
    command = [
        sys.executable,
        "-m",
        "g2l",
        "evaluate",
        "--config",
        str(joined(tmp_path, "lc25000.yaml", "nuclei.yaml")),
    ]
    first = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 200
    while not list((tmp_path / "results").rglob("*.h5")) and time.monotonic() < limit:
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "results").rglob("*.h5")}
    assert kept
    assert main(command[3:]) == 0
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())  # nothing was embedded twice
    results = {(result.task, result.method): result for result in read_results([tmp_path / "results"])}
    lung = results["lung", "linear"]
    assert lung.metrics["balanced accuracy"] > 0.6  # of three classes
    assert any("copies" in note for note in lung.outcome.notes)
    nuclei = [result for (task, _), result in results.items() if task == "nuclei"]
    assert len(nuclei) == 2 and all(result.outcome.pictures for result in nuclei)

    assert main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert "lung" in page and "data:image/" in page
    rows = json.loads((tmp_path / "report/metrics.json").read_text())["metrics"]
    shown = next(row for row in rows if (row["task"], row["method"], row["metric"]) == ("lung", "linear", "AUC"))
    assert shown["value"] == pytest.approx(lung.metrics["AUC"])
    assert shown["low"] < shown["value"] < shown["high"]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("group", [True, False])
def test_a_random_split_is_flagged_as_leaking_with_and_without_groups(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], group: bool
) -> None:
    rng = np.random.default_rng(0)
    with (real_data / "patches/patches.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != "lung_n"]
    with (tmp_path / "random.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient", "split"] if group else ["path", "label", "split"])
        for row in rows:
            part = rng.choice(["train", "val", "test"], p=[0.7, 0.1, 0.2])
            middle = [row["label"], row["group"]] if group else [row["label"]]
            table.writerow([real_data / "patches" / row["path"], *middle, part])
    data = {"class_path": "Listing", "init_args": {"listing": str(tmp_path / "random.csv"), "independent": not group}}
    config = {
        "encoders": {"small giga": "demo-giga"},
        "tasks": {"lung": {"class_path": "PatchClassification", "init_args": {"data": data}}},
        "out": str(tmp_path / "results"),
    }
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "--config", str(tmp_path / "tasks.yaml")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert ("patients" if group else "copies of images across the parts") in said
    assert not list((tmp_path / "results").rglob("*.h5"))
