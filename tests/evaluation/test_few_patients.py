"""A class of few patients through `g2l evaluate`: refused in one line that says what helps, and what helps works."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from g2l.__main__ import main
from g2l.evaluation.results import read_results

PARTS = ["train", "train", "train", "val", "test", "test", "train", "train", "test"]  # the last three are rare


@pytest.mark.slow
def test_fewer_patients_than_folds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, lines = np.random.default_rng(0), ["path,label,patient,split"]
    for number in range(4 * len(PARTS)):
        patient = number // 4
        waves = np.sin(np.arange(64) * rng.uniform(0.6, 0.9) + rng.uniform(0, 6))
        stripes = waves[None] if patient >= 6 else waves[:, None]
        blotches = np.kron(rng.uniform(-50, 50, (8, 8, 3)), np.ones((8, 8, 1)))  # no two images are alike
        pixels = 140 + 60 * stripes[..., None] * rng.uniform(0.5, 1, 3) + blotches
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number:02d}.png")
        kind = "rare" if patient >= 6 else "often"
        lines.append(f"{number:02d}.png,{kind},p{patient},{PARTS[patient]}")
    (tmp_path / "patches.csv").write_text("\n".join(lines) + "\n")
    data = {"class_path": "Listing", "init_args": {"listing": str(tmp_path / "patches.csv")}}
    task = {"class_path": "PatchClassification", "init_args": {"data": data, "heads": ["linear"]}}
    content = {"encoders": {"giga": "demo-giga"}, "tasks": {"kinds": task}, "out": str(tmp_path / "results")}
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(content))

    assert main(["evaluate", "--config", str(tmp_path / "tasks.yaml")]) != 0
    said = capsys.readouterr()
    assert (
        "task kinds: table patches: val holds no rare, and to choose on 3 folds by patient needs 3 patients of "
        "every class, but train and val hold 2 of rare; add patients, set folds to 2, leave these classes out, or ask "
        "for no head that chooses (heads: [knn])"
    ) in said.out + said.err

    assert main(["evaluate", "--config", str(tmp_path / "tasks.yaml"), "--tasks.kinds.folds", "2"]) == 0
    (result,) = read_results([tmp_path / "results"])
    assert "val holds no rare: C was chosen on 2 folds by patient of train and val (24 rows)" in result.outcome.notes
