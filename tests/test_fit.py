"""`python -m g2l fit` as a user runs it: to the end, killed and resumed, on two processes; then validate."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from small import write_networks

pytestmark = pytest.mark.slow

CONFIG = """\
model:
  student: {student}
  weights: {weights}
  terms:
    logsum: {{class_path: LogSum, init_args: {{teacher: {teacher}, patch: 0.5, view: clean}}}}
  lr: 1.0e-3
  observe_patches: 32
data: {{cohort: {cohort}, batch_size: 8, patch_size: 36, mpp: 2.0, val_patches: 16}}
trainer:
  max_steps: {steps}
  accelerator: cpu
  val_check_interval: 4
  log_every_n_steps: 2
  enable_progress_bar: false
  enable_model_summary: false
  default_root_dir: runs/default
  logger: {{class_path: TensorBoardLogger, init_args: {{save_dir: "${{trainer.default_root_dir}}", name: tensorboard}}}}
  callbacks:
    - class_path: ModelCheckpoint
      init_args:
        dirpath: ${{trainer.default_root_dir}}/checkpoints
        monitor: val/cka
        mode: max
        every_n_train_steps: 4
        filename: "{{step}}"
        save_top_k: -1
    - class_path: KeepLast
      init_args: {{every_n_train_steps: 4}}
    - class_path: Throughput
      init_args: {{every: 4}}
    - class_path: Pictures
      init_args: {{images: 4}}
"""


@dataclass(frozen=True)
class Project:
    """A folder with a small cohort, small networks and a config."""

    folder: Path

    def command(self, run: str, *overrides: str) -> list[str]:
        """`python -m g2l fit` into runs/`run`."""
        config = str(self.folder / "config.yaml")
        return [
            sys.executable,
            "-m",
            "g2l",
            "fit",
            "--config",
            config,
            f"--trainer.default_root_dir=runs/{run}",
            *overrides,
        ]

    def fit(self, run: str, *overrides: str) -> dict[str, torch.Tensor]:
        """Run to the end; the last checkpoint's tensors."""
        done = self.finished(self.command(run, *overrides))
        assert done.returncode == 0, done.stderr[-3000:]
        return self.last(run)

    def finished(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """What a command that ended left."""
        return subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=300
        )

    def stopped(self, run: str, checkpoint: str, by: signal.Signals, *overrides: str) -> tuple[int, str]:
        """Begin a run and send its whole group a signal once a checkpoint of that name is there; exit code and what it
        printed.
        """
        with subprocess.Popen(
            self.command(run, *overrides),
            start_new_session=True,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                deadline = time.monotonic() + 120
                while not list(self.checkpoints(run).glob(checkpoint)):
                    assert process.poll() is None and time.monotonic() < deadline, "ended before it could be stopped"
                    time.sleep(0.01)
                os.killpg(process.pid, by)
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        return process.returncode, errors

    def last(self, run: str) -> dict[str, torch.Tensor]:
        """The last checkpoint's tensors."""
        return torch.load(self.checkpoints(run) / "last.ckpt", weights_only=True)["state_dict"]

    def checkpoints(self, run: str) -> Path:
        """Where checkpoints of a run are."""
        return self.folder / "runs" / run / "checkpoints"

    @staticmethod
    def environment() -> dict[str, str]:
        """One thread: bit-identity is promised for the same number of threads."""
        return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, demo_cohort: Path) -> Project:
    folder = tmp_path_factory.mktemp("project")
    networks = write_networks(folder)
    (folder / "config.yaml").write_text(
        CONFIG.format(
            student=networks.student,
            teacher=networks.teacher,
            weights=networks.weights,
            cohort=demo_cohort,
            steps=24,
        )
    )
    return Project(folder)


@pytest.fixture(scope="module")
def whole(project: Project) -> dict[str, torch.Tensor]:
    """An uninterrupted run."""
    return project.fit("whole")


def test_a_run_leaves_checkpoints_events_and_its_config(project: Project, whole: dict[str, torch.Tensor]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert {key.split(".")[0] for key in whole} == {"student", "terms"}
    (events,) = (project.folder / "runs/whole/tensorboard").rglob("events.out*")
    assert (events.parent / "config.yaml").exists()
    log = EventAccumulator(str(events))
    log.Reload()
    scalars = set(log.Tags()["scalars"])
    assert {"train/loss", "train/logsum", "train/lr", "val/loss", "val/cka", "val/embedding_rank"} <= scalars
    assert {"train/images_per_second", "train/data_wait", "val/embedding_std"} <= scalars
    assert set(log.Tags()["images"]) == {"seen/training", "tokens/pca"}


def test_killed_and_resumed_equals_uninterrupted(project: Project, whole: dict[str, torch.Tensor]) -> None:
    project.stopped("killed", "step=8*.ckpt", signal.SIGKILL)
    assert not list(project.checkpoints("killed").glob("step=24*.ckpt")), "was killed too late to test anything"
    resumed = project.fit("killed", "--ckpt_path=last", "--data.num_workers=2")
    assert resumed.keys() == whole.keys()
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_two_processes_equal_one(project: Project, whole: dict[str, torch.Tensor]) -> None:
    both = project.fit("both", "--data.batch_size=4", "--trainer.devices=2", "--trainer.strategy=ddp")
    start = project.fit("start", "--trainer.max_steps=1", "--trainer.val_check_interval=1", "--model.lr=0")
    # These biases cancel (in the softmax, or in the standardisation): their gradients are zero but for rounding, which
    # AdamW magnifies into steps that mean nothing.
    cancels = ("attn.qkv.bias", "backbone.norm.bias", "heads.cls.bias", "heads.patch.bias")
    compared = [key for key in whole if not key.endswith(cancels)]
    assert len(compared) == len(whole) - 4
    for key in compared:
        moved = (whole[key] - start[key]).norm()
        assert (whole[key] - both[key]).norm() <= 1e-4 * moved + 1e-6 * whole[key].norm(), key


def test_validate_prints_what_the_checkpoint_reached(project: Project, whole: dict[str, torch.Tensor]) -> None:
    command = project.command("whole", f"--ckpt_path={project.checkpoints('whole') / 'last.ckpt'}")
    command[command.index("fit")] = "validate"
    done = project.finished(command)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val/cka" in done.stdout


def test_a_preempted_run_says_so_and_loses_nothing(project: Project, whole: dict[str, torch.Tensor]) -> None:
    code, errors = project.stopped("preempted", "step=4*.ckpt", signal.SIGTERM, "--data.num_workers=2")
    assert code == 143, errors[-3000:]
    assert "--ckpt_path last goes on" in errors and "Traceback" not in errors
    stopped = torch.load(project.checkpoints("preempted") / "last.ckpt", weights_only=True)
    assert 4 <= stopped["global_step"] < 24
    resumed = project.fit("preempted", "--ckpt_path=last")
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
