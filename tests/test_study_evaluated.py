"""From `g2l evaluate` on two seeds to the verdicts, as study.py does it."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from g2l.__main__ import main

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TASKS = ("tissue", "retrieval", "robustness", "like the teacher")


def draw_patches(folder: Path) -> None:
    """160 patches of 20 groups and two classes (stripes across and down), each scanned in two centres; for either seed
    test{seed}.csv and centres{seed}.csv, whose test parts share groups.
    """
    rng = np.random.default_rng(0)
    lines: dict[int, list[str]] = {0: [], 1: []}
    scans: dict[int, list[str]] = {0: [], 1: []}
    for number in range(20 * 8):
        group = number // 8
        waves = np.sin(np.arange(64) * rng.uniform(0.6, 0.9) + rng.uniform(0, 6))
        blotches = np.kron(rng.uniform(-60, 60, (8, 8, 3)), np.ones((8, 8, 1)))  # no two images are alike
        pixels = 140 + 60 * (waves[None] if group % 2 else waves[:, None])[..., None] + blotches
        about = f"{number:03d}.png,{('across', 'down')[group % 2]},g{group}"
        for centre, gain in (("one", 1.0), ("two", 0.85)):
            file = folder / f"{centre}-{number:03d}.png"
            Image.fromarray((gain * pixels).clip(0, 255).astype(np.uint8)).save(file)
        for seed in range(2):
            part = ("test", "test", "train", "train", "val")[(group // 2 + 3 * seed) % 5]
            lines[seed].append(f"one-{about},{part}")
            if part == "test":
                scans[seed] += [f"{centre}-{about},g{group},{centre}" for centre in ("one", "two")]
    for seed in range(2):
        (folder / f"test{seed}.csv").write_text("\n".join(["path,label,patient,split", *lines[seed]]))
        (folder / f"centres{seed}.csv").write_text("\n".join(["path,label,patient,slide,centre", *scans[seed]]))


def evaluate(folder: Path, seed: int) -> Path:
    """Three networks, two of random weights. Returns the folder of the results."""
    patches, centres = (
        {"class_path": "Listing", "init_args": {"listing": str(folder / f"{name}{seed}.csv"), "name": name}}
        for name in ("test", "centres")
    )
    tasks = {
        "tissue": ("PatchClassification", {"data": patches, "k": 5}),
        "retrieval": ("Retrieval", {"data": patches}),
        "robustness": ("Robustness", {"data": centres, "k": 5, "clustering": False}),
        "like the teacher": ("Similarity", {"data": patches, "teacher": "teacher", "k": 5}),
    }
    config = {
        "encoders": {
            "teacher": "demo-giga",
            "none": {"model": "demo-giga", "init": "random"},
            "log-sum faithful": {"model": "demo-student", "init": "random"},
        },
        "tasks": {name: {"class_path": kind, "init_args": given} for name, (kind, given) in tasks.items()},
        "out": str(folder / f"results{seed}"),
        "seed": seed,
    }
    (folder / "tasks.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "--config", str(folder / "tasks.yaml")]) == 0
    return folder / f"results{seed}"


@pytest.mark.slow
def test_results_of_the_evaluation_itself_are_pooled_reported_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_patches(tmp_path)
    folders = {f"seed-{seed}": evaluate(tmp_path, seed) for seed in range(2)}
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("pooling", "verdicts", "telling", "drawing")
    pooling, verdicts, telling, drawing = (importlib.import_module(f"scaled.{name}") for name in names)
    pooling.pool(folders, tmp_path / "pooled")
    command = ["report", str(tmp_path / "pooled"), "--out", str(tmp_path / "report"), "--reference", "log-sum faithful"]
    assert main(command) == 0
    found = verdicts.judge(tmp_path / "pooled")
    assert found["groups"] == dict.fromkeys(TASKS, 16)
    rows = json.loads((tmp_path / "report/metrics.json").read_text())["metrics"]
    reported = {(row["task"], row["method"], row["metric"]): row for row in rows if row["encoder"] == "none"}
    compared = 0
    for name, score in found["scores"].items():
        row = reported.get((score["task"], score["method"], score["key"]))
        if row is not None:  # the report draws the same groups
            told = found["arms"]["none"]["scores"][name]
            assert [told[key] for key in ("value", "low", "high")] == [row[key] for key in ("value", "low", "high")]
            assert told["difference"]["low"] == row["difference_low"]
            compared += 1
    assert compared == 7  # all but CKA and its unbiased estimate
    assert found["arms"]["teacher"]["parameters"] > 3e6 and found["arms"]["none"]["ms"] > 0
    assert "| teacher | 3.27 M |" in telling.tables(found)
    assert all(file.is_file() for file in drawing.draw(found, tmp_path / "report"))
