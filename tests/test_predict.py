"""`python -m g2l predict` and `test` as a user runs them: on slides and on patches, on two processes, interrupted."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from layouts import write_hdf5, write_images
from numpy.typing import NDArray
from small import write_networks

from g2l.__main__ import main
from g2l.encoders.opening import open_encoder
from g2l.evaluation.embedding.grid import tissue_grid
from g2l.slides.cohort import Cohort

CONFIG = """\
model:
  student: {student}
  weights: {weights}
  terms:
    logsum: {{class_path: LogSum, init_args: {{teacher: {teacher}, view: clean}}}}
  lr: 1.0e-3
  observe_patches: 16
data: {{cohort: {cohort}, batch_size: 8, patch_size: 36, mpp: 2.0, val_patches: 16}}
trainer:
  max_steps: 2
  accelerator: cpu
  val_check_interval: 2
  enable_progress_bar: false
  enable_model_summary: false
  logger: false
  default_root_dir: run
  callbacks: [{{class_path: KeepLast}}]
"""


@dataclass(frozen=True)
class Run:
    """A folder with a config, a cohort elsewhere, and a checkpoint."""

    folder: Path
    cohort: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run" / "checkpoints" / "last.ckpt"

    def command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "g2l", verb, "--config", "config.yaml", *arguments]

    def call(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(verb, *arguments),
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def predict(self, *arguments: str) -> str:
        done = self.call("predict", *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip().splitlines()[-1]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def features(folder: Path) -> dict[str, NDArray[np.float32]]:
    found = {}
    for file in sorted(folder.glob("*.h5")):
        with h5py.File(file) as opened:
            content: Any = opened
            found[file.name] = content["features"][:]
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, demo_cohort: Path) -> Run:
    folder = tmp_path_factory.mktemp("run")
    networks = write_networks(folder)
    config = CONFIG.format(
        student=networks.student, teacher=networks.teacher, weights=networks.weights, cohort=demo_cohort
    )
    (folder / "config.yaml").write_text(config)
    made = Run(folder, demo_cohort)
    done = made.call("fit")
    assert done.returncode == 0, done.stderr[-3000:]
    return made


@pytest.mark.slow
def test_predict_writes_the_students_features_of_every_slide(run: Run) -> None:
    before = sorted(path.name for path in (run.folder / "run").iterdir())
    said = run.predict("--ckpt_path", "last")
    found, cohort, student = features(run.folder / "run" / "features"), Cohort.open(run.cohort), open_encoder(
        str(run.checkpoint)
    )  # fmt: skip
    counts = [len(tissue_grid(cohort, slide, 32, 2.0, 0.5).coords) for slide in range(len(cohort))]
    assert [len(rows) for rows in found.values()] == counts and len(found) == 18
    assert said.startswith(f"features of {sum(counts)} patches of 18 slides are in run/features ({sum(counts)} patches")
    grid = tissue_grid(cohort, 4, 32, 2.0, 0.5)
    with cohort.open_slide(4) as slide, torch.inference_mode():
        x, y = grid.um[3].tolist()
        pixels = slide.read_patch(x, y, 32, 2.0)
        expected = student(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255).cls[0].numpy()
    np.testing.assert_allclose(found[f"{cohort[4].name}.h5"][3], expected, atol=2e-5)
    # nothing else of the run is touched, and nothing is embedded again
    assert sorted(path.name for path in (run.folder / "run").iterdir()) == sorted([*before, "features"])
    assert "(0 patches embedded now)" in run.predict("--ckpt_path", str(run.checkpoint))


@pytest.mark.slow
def test_two_processes_write_the_same_files(run: Run) -> None:
    one = run.predict("--ckpt_path", "last", "--out", "one")
    two = run.predict("--ckpt_path", "last", "--out", "two", "--trainer.devices=2", "--trainer.strategy=ddp")
    assert one.replace("one", "two") == two
    first, second = features(run.folder / "one"), features(run.folder / "two")
    assert first.keys() == second.keys() and len(first) == 18
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_killed_it_goes_on_and_other_mpp_is_embedded_anew(run: Run) -> None:
    arguments = ("--ckpt_path", "last", "--out", "killed", "--data.mpp=0.5", "--data.batch_size=2")
    out = run.folder / "killed"
    with subprocess.Popen(
        run.command("predict", *arguments), cwd=run.folder, env=environment(), stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("*.h5")):
            assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    there = features(out)
    assert 0 < len(there) < 18, "was killed too late to test anything"
    said = run.predict(*arguments)
    whole = features(out)
    done = sum(map(len, there.values()))
    assert len(whole) == 18 and f"({sum(map(len, whole.values())) - done} patches embedded now)" in said
    assert all(np.array_equal(whole[name], rows) for name, rows in there.items())
    assert not list(out.glob(".*partial"))
    coarse = run.predict("--ckpt_path", "last", "--out", "killed", "--data.mpp=2.0")
    assert "(0 patches" not in coarse and sum(map(len, features(out).values())) < sum(map(len, whole.values()))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["images", "hdf5"])
def test_patches_already_cut_are_all_embedded(layout: str, run: Run) -> None:
    root = run.folder / layout
    made = write_images(root) if layout == "images" else write_hdf5(root, "plain")
    said = run.predict("--ckpt_path", "last", "--out", f"of {layout}", f"--data.cohort={root}", "--data.hold_out=slide")
    assert said.startswith("features of 12 patches of")
    student, seen = open_encoder(str(run.checkpoint)), 0
    for file in sorted((run.folder / f"of {layout}").glob("*.h5")):
        with h5py.File(file) as opened:
            content: Any = opened
            names, rows = content["ids"].asstr()[:].tolist(), content["features"][:]
        for name, row in zip(names, rows, strict=True):
            pixels = made[name]
            left = (pixels.shape[1] - pixels.shape[0]) // 2
            square = torch.from_numpy(pixels[:, left : left + pixels.shape[0]].copy())
            with torch.inference_mode():
                expected = student(square.permute(2, 0, 1)[None].float() / 255).cls[0].numpy()
            np.testing.assert_allclose(row, expected, atol=2e-5)
            seen += 1
    assert seen == 12


@pytest.mark.slow
def test_a_slide_that_fails_is_told_and_the_others_are_there(run: Run, tmp_path: Path) -> None:
    import shutil

    from g2l.slides.index import index

    slides = tmp_path / "slides"
    slides.mkdir()
    for record in list(Cohort.open(run.cohort))[:3]:
        shutil.copy(record.path, slides / record.path.name)
    index(str(slides), str(tmp_path / "cohort"), workers=0)
    broken = sorted(slides.iterdir())[1]
    data = bytearray(broken.read_bytes())
    middle = slice(1 << 16, len(data) - (1 << 16))  # what is between is in no fingerprint
    arguments = (
        "--ckpt_path",
        "last",
        "--out",
        "failing",
        f"--data.cohort={tmp_path / 'cohort'}",
        "--data.hold_out=name",
    )
    broken.write_bytes(bytes(data[: middle.start]) + b"\xff" * len(data[middle]) + bytes(data[middle.stop :]))
    done = run.call("predict", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "not embedded: " in done.stderr and broken.name in done.stderr
    assert len(features(run.folder / "failing")) == 2
    broken.write_bytes(bytes(data[:-100]))
    done = run.call("predict", *arguments)
    assert done.returncode == 2 and "1 of 3 slides are gone or have changed" in done.stderr


@pytest.mark.slow
def test_test_prints_the_figures_of_the_test_part(run: Run) -> None:
    done = run.call("test", "--ckpt_path", str(run.checkpoint))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "test/cka" in done.stdout and "test/loss" in done.stdout and "val/" not in done.stdout


@pytest.mark.parametrize("verb", ["predict", "test"])
def test_without_a_checkpoint_they_say_so(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[1] / "configs" / "demo.yaml"
    assert main([verb, "--config", str(config)]) == 2
    assert f"{verb} needs a checkpoint; give --ckpt_path FILE" in capsys.readouterr().err
