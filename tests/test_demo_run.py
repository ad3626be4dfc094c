"""configs/demo.yaml from end to end on a smaller cohort and few steps: table, summary.json, exported student."""

import json
from pathlib import Path

import pytest
import timm
import torch

from g2l.__main__ import main
from g2l.evaluation.score import COLUMNS

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
FEWER = """\
data: {{cohort: {cohort}, val_patches: 64, batch_size: 16}}
model: {{observe_patches: 64, warmup_steps: 4}}
trainer:
  val_check_interval: 4
  default_root_dir: {root}
  enable_progress_bar: false
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {{dirpath: "{root}/checkpoints", monitor: val/cka, mode: max, save_last: true, filename: best}}
    - class_path: Score
      init_args: {{patches: 120}}
    - class_path: Export
"""


def test_demo_scores_and_exports_and_a_resumed_run_keeps_what_was_before(
    demo_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = tmp_path / "fewer.yaml"
    fewer.write_text(FEWER.format(cohort=demo_cohort, root=tmp_path / "run"))
    command = ["fit", "--config", str(DEMO), "--config", str(fewer)]
    assert main([*command, "--trainer.max_steps=8"]) == 0
    printed = capsys.readouterr().out.strip().splitlines()[-4:]
    assert printed[0].split() == list(COLUMNS)
    assert [line.split()[0] for line in printed[1:]] == ["teacher", "student_before", "student_after"]
    first = json.loads((tmp_path / "run/summary.json").read_text())
    assert all(set(row) == set(COLUMNS) for row in first.values())
    assert first["teacher"]["cka"] == pytest.approx(1)
    assert first["teacher"]["knn"] > first["student_before"]["knn"] + 0.2
    assert first["student_after"]["parameters"] <= 0.27 * first["teacher"]["parameters"]

    assert main([*command, "--trainer.max_steps=12", "--ckpt_path=last"]) == 0
    second = json.loads((tmp_path / "run/summary.json").read_text())
    assert second["student_before"] == first["student_before"]

    folder = tmp_path / "run/student"
    student = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(best[f"student.backbone.{key}"], value) for key, value in student.state_dict().items())
    assert json.loads((folder / "preprocess.json").read_text())["mpp"] == 1.0
