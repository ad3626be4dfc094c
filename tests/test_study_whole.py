"""benchmarks/study.py as a user runs it, in its smallest size: whole, killed and resumed, again, and with mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from study_patches import write_patches

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks/study.py"
FEW = ["--arms", "log-sum", "unified"]
SCORES = ("linear probe", "kNN", "retrieval", "CKA", "robustness index", "robustness ratio", "support")


def command(data: Path, out: Path, *more: str) -> list[str]:
    """The study in its smallest size, without slides."""
    start = [sys.executable, str(SCRIPT), "--data", str(data), "--out", str(out), "--budget", "tiny", "--slides="]
    return [*start, "--jobs", "2", *more]


def finished(data: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What a study that ended left."""
    return subprocess.run(command(data, out, *more), capture_output=True, text=True, timeout=500)


def results(out: Path) -> dict[str, Any]:
    """results.json."""
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches that are no tissue: another data set of the same layout."""
    return write_patches(tmp_path_factory.mktemp("patches"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of all arms, one seed."""
    out = tmp_path_factory.mktemp("study") / "whole"
    done = finished(data, out, "--seeds", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| teacher |" in done.stdout and "report.html" in done.stdout
    return out


def test_every_arm_has_every_score_and_all_that_stands_behind_it(whole: Path) -> None:
    found = results(whole)
    assert len(found["arms"]) == 17 and found["reference"] == "log-sum faithful"
    for name, arm in found["arms"].items():
        assert arm["parameters"] and set(SCORES) <= set(arm["scores"])
        assert all(0 <= arm["scores"][score]["value"] <= 1 for score in SCORES if score != "robustness ratio"), name
    assert found["arms"]["teacher"]["scores"]["CKA"]["value"] == pytest.approx(1)
    split = found["splits"]["seed-0"]
    assert sum(split[part]["groups"] for part in ("teacher", "distil", "probe", "test")) == 39
    assert len(split["sha256"]) == 64 and len(found["weights"]["seed-0"]) == 17
    assert {"g2l", "torch", "lightning", "timm", "python"} <= set(found["run"]["versions"])
    assert len(found["patches_sha256"]) == 64
    assert found["minutes"] > 0 and len(found["job_minutes"]) == 19 and min(found["job_minutes"].values()) >= 0
    assert set(found["leak"]) == {"teacher", "labels", "log-sum faithful", "log-sum", "none"}
    assert (whole / "report/report.html").stat().st_size > 100_000
    assert (whole / "centres.png").is_file() and (whole / "figure.svg").is_file() and (whole / "figure.png").is_file()
    assert (whole / "table.md").read_text().count("| unified |") >= 2


def test_what_is_done_is_not_done_again(data: Path, whole: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in whole.glob("seed-0/runs/*/done.json")}
    first = results(whole)
    done = finished(data, whole, "--seeds", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(before) == 19 and before == {file: file.stat().st_mtime_ns for file in before}
    assert results(whole)["arms"] == first["arms"]


def test_killed_and_resumed_it_comes_to_the_same_numbers(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    with subprocess.Popen(command(data, out, "--seeds", "1", *FEW), start_new_session=True) as running:
        until = time.monotonic() + 200
        while not (out / "seed-0/runs/teacher/done.json").is_file() and time.monotonic() < until:
            time.sleep(0.1)
        os.kill(running.pid, signal.SIGKILL)
    left = {file.parent.name for file in out.glob("seed-0/runs/*/done.json")}
    assert "teacher" in left and "unified" not in left
    done = finished(data, out, "--seeds", "1", *FEW)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = results(whole), results(out)
    assert set(other["arms"]) == {"teacher", "none", "log-sum faithful", "log-sum", "unified"}
    for name, arm in other["arms"].items():
        for score in SCORES:
            assert arm["scores"][score]["value"] == one["arms"][name]["scores"][score]["value"], (name, score)
    for name, digest in other["weights"]["seed-0"].items():
        assert digest == one["weights"]["seed-0"][name], name


def test_mistakes_are_told_in_one_line_and_nothing_is_lost(data: Path, whole: Path, tmp_path: Path) -> None:
    for arguments, said in (
        ((tmp_path, tmp_path / "out"), "must hold one CSV"),
        ((data, whole, "--budget", "small"), "holds another study (budget tiny -> small); choose another --out"),
        ((data, tmp_path / "out", "--arms", "best"), "no arm is called best; there are labels, log-sum faithful"),
    ):
        done = finished(*arguments)  # type: ignore[arg-type]
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    parts = whole / "seed-0/parts.csv"
    before = parts.read_text()
    parts.write_text(before.replace(",test\n", ",teacher\n", 1))
    done = finished(data, whole, "--seeds", "1")
    assert done.returncode == 1 and "groups are in more than one part" in done.stderr
    parts.write_text(before)
    assert len(list(whole.glob("seed-0/runs/*/done.json"))) == 19
