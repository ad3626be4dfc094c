"""`python -m g2l cache` as a user runs it: killed, begun again, then trained from."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small import write_networks

from g2l.__main__ import main
from g2l.training.cache.table import Table

pytestmark = pytest.mark.slow

REPEAT = 12_000
CONFIG = """\
model:
  student: {student}
  weights: {weights}
  terms:
    logsum: {{class_path: LogSum, init_args: {{teacher: {teacher}, patch: 0.5, view: clean}}}}
  views: {{class_path: Views, init_args: {{size: 32, flip: 0.0, quarter_turns: false}}}}
  observe_patches: 32
data: {{cohort: {cohort}, batch_size: 8, patch_size: 32, mpp: 2.0, val_patches: 16, repeat: {repeat}}}
trainer:
  max_steps: 8
  accelerator: cpu
  val_check_interval: 4
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: {folder}/run
  logger: false
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {{dirpath: "${{trainer.default_root_dir}}/checkpoints", every_n_train_steps: 4, save_last: true}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, demo_cohort: Path) -> Path:
    """A config over small networks and a small cohort."""
    folder = tmp_path_factory.mktemp("project")
    networks = write_networks(folder)
    names = {"student": networks.student, "teacher": networks.teacher, "weights": networks.weights}
    (folder / "config.yaml").write_text(CONFIG.format(**names, cohort=demo_cohort, repeat=REPEAT, folder=folder))
    return folder / "config.yaml"


def g2l(verb: str, config: Path, *arguments: str) -> int:
    """Run a verb; its exit code."""
    return main([verb, "--config", str(config), *arguments])


@pytest.fixture(scope="module")
def kept(config: Path) -> Path:
    """A cache whose making was killed once some of it was there."""
    out = config.parent / "kept"
    arguments = ["cache", "--config", str(config), f"--out={out}", "--dtype=float32"]
    with subprocess.Popen(
        [sys.executable, "-m", "g2l", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            part, marked, deadline = out / "teacher.safetensors.part", 0, time.monotonic() + 120
            while not marked:
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
                time.sleep(0.05)
                marked = int((Table(part).columns["attempt"] >= 0).sum()) if part.exists() else 0
        finally:
            process.send_signal(signal.SIGKILL)
    assert 0 < marked < REPEAT, "was killed too late to test anything"
    assert not (out / "teacher.safetensors").exists()
    assert main(arguments) == 0
    return out


def test_a_killed_cache_goes_on_and_is_that_of_an_uninterrupted_one(
    config: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert g2l("cache", config, f"--out={tmp_path}", "--dtype=float32", "--data.num_workers=2") == 0
    assert f"teacher embeddings of {REPEAT} patches are in {tmp_path}" in capsys.readouterr().out
    one, other = (Table(folder / "teacher.safetensors") for folder in (kept, tmp_path))
    assert (one.columns["attempt"] == 0).all() and "patches" in one.columns
    for name, column in one.columns.items():
        assert np.array_equal(column, other.columns[name]), name


def test_training_from_it_is_training_without(
    config: Path, kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {}
    for name, arguments in {"live": [], "cached": [f"--model.cache={kept}"]}.items():
        assert g2l("fit", config, f"--trainer.default_root_dir={tmp_path / name}", *arguments) == 0
        state[name] = torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert (f"teacher embeddings from cache {kept}" in caplog.text) == bool(arguments)
    for key, value in state["live"].items():
        assert torch.equal(value, state["cached"][key]), key


def test_mistakes_are_one_line(config: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mistake(verb: str, *arguments: str) -> str:
        capsys.readouterr()
        assert g2l(verb, config, *arguments) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("g2l: error: ")]
        return line

    out = f"--out={tmp_path / 'out'}"
    assert "seed 0 -> 1" in mistake("fit", f"--model.cache={kept}", "--seed_everything=1")
    assert "model.views.flip=0 (is 0.5)" in mistake("cache", out, "--model.views.init_args.flip=0.5")
    assert "data.repeat" in mistake("cache", out, "--data.repeat=0")
    assert "another --out" in mistake("cache", f"--out={kept / 'teacher.safetensors'}")
    assert "out" in mistake("cache")
