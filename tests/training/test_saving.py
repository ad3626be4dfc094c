"""How runs end and go on: what is kept upon an interruption and an error, on one process and on two."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from small import Networks, batches, loader, write_networks
from torch import Tensor

from g2l.data.multicrop import MultiCrop
from g2l.errors import ConfigError, TrainingError
from g2l.training.distiller import Distiller
from g2l.training.losses import Expert
from g2l.training.saving import KeepLast, back_to_step
from g2l.training.selfdistil import Dino
from g2l.training.stops import CollapseStop

STEPS = 6


def distiller(networks: Networks, clip: Any = "whole") -> Distiller:
    """With a moving average and centres, and terms that accumulate."""
    torch.manual_seed(0)
    return Distiller(
        networks.student,
        {
            "dino": Dino(hidden=16, bottleneck=8, prototypes=24, teacher_warmup_steps=4),
            "expert": Expert(networks.teacher),
        },
        weights=networks.weights,
        views=MultiCrop(size=32, local_size=16, locals=2, blur_kernel=5),
        observe_patches=8,
        lr=1e-3,
        clip=clip,
    )


def trainer(folder: Path, *callbacks: Callback, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {"max_steps": STEPS, "check_val_every_n_epoch": None, "logger": False}
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Trainer(
        accelerator="cpu",
        max_epochs=-1,
        log_every_n_steps=1,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **quiet | settings | arguments,
    )


class Sends(Callback):
    """A signal to this process at the beginning of one batch, `times` over."""

    def __init__(self, number: int, at: int, times: int = 1, rank: int = 0) -> None:
        self.number, self.at, self.times, self.rank = number, at, times, rank

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.at and trainer.global_rank == self.rank:
            for _ in range(self.times):
                signal.raise_signal(self.number)


class Validations(Callback):
    """The steps at which a run validated."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.steps.append(trainer.global_step)


def kept(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_the_last_state_is_kept_after_every_validation_and_found_again(networks: Networks, tmp_path: Path) -> None:
    keep = KeepLast()
    logger = CSVLogger(tmp_path / "elsewhere")  # Lightning's own default is a folder of the logger
    fit = trainer(tmp_path, keep, val_check_interval=2, max_steps=4, logger=logger)
    fit.fit(distiller(networks), loader(batches(4)), loader(batches(1, seed=9)))
    assert kept(tmp_path)["global_step"] == 4
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    seen = Validations()
    again = trainer(tmp_path, KeepLast(), seen, val_check_interval=2, logger=logger)
    again.fit(
        distiller(networks), loader(batches(6)[4:]), loader(batches(1, seed=9)), ckpt_path="last", weights_only=True
    )
    assert seen.steps == [6] and kept(tmp_path)["global_step"] == 6


def test_steps_between_validations_are_kept_on_demand(networks: Networks, tmp_path: Path) -> None:
    class Looks(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            path = tmp_path / "checkpoints/last.ckpt"
            steps.append(torch.load(path, weights_only=True)["global_step"] if path.exists() else 0)

    steps: list[int] = []
    fit = trainer(tmp_path, KeepLast(every_n_train_steps=2), Looks(), val_check_interval=3)
    fit.fit(distiller(networks), loader(batches(6)), loader(batches(1, seed=9)))
    assert steps == [0, 0, 2, 3, 4, 4] and kept(tmp_path)["global_step"] == 6
    with pytest.raises(ConfigError, match="every_n_train_steps -1"):
        KeepLast(every_n_train_steps=-1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("batch", [6, 7])
def test_an_interrupted_accumulated_run_goes_on_to_the_same_weights(
    number: signal.Signals, batch: int, networks: Networks, tmp_path: Path
) -> None:
    """Asked within a step or at its end: it stops at the end of that step."""
    made, held_out = batches(12, size=4), batches(1, seed=9)
    accumulated: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 4, "gradient_clip_val": 1.0}
    whole, part, rest = (distiller(networks) for _ in range(3))
    trainer(tmp_path / "whole", **accumulated, enable_checkpointing=False).fit(whole, loader(made), loader(held_out))
    with pytest.raises(SystemExit) as end:
        fit = trainer(tmp_path, Sends(number, batch), KeepLast(), **accumulated)
        fit.fit(part, loader(made), loader(held_out))
    interrupted = isinstance(end.value.__context__, KeyboardInterrupt)
    assert interrupted == (number == signal.SIGINT) and isinstance(end.value, SIGTERMException) != interrupted
    assert kept(tmp_path)["global_step"] == 4
    seen = Validations()
    fit = trainer(tmp_path, KeepLast(), seen, **accumulated)
    fit.fit(rest, loader(made[8:]), loader(held_out), ckpt_path="last", weights_only=True)
    assert seen.steps == [6]
    assert_equal(rest.state_dict(), whole.state_dict())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("at", [4, 5])
def test_a_checkpoint_from_within_a_step_goes_on_at_its_beginning(at: int, networks: Networks, tmp_path: Path) -> None:
    class Saves(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == at:
                trainer.save_checkpoint(tmp_path / "within.ckpt")

    made, held_out = batches(12, size=4), batches(1, seed=9)
    accumulated: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 4, "enable_checkpointing": False}
    whole, rest = distiller(networks), distiller(networks)
    trainer(tmp_path, Saves(), **accumulated).fit(whole, loader(made), loader(held_out))
    assert torch.load(tmp_path / "within.ckpt", weights_only=True)["global_step"] == 2
    seen = Validations()
    fit = trainer(tmp_path, seen, **accumulated)
    fit.fit(rest, loader(made[4:]), loader(held_out), ckpt_path=tmp_path / "within.ckpt", weights_only=True)
    assert fit.global_step == STEPS and seen.steps == [4, 6]
    assert_equal(rest.state_dict(), whole.state_dict())


def test_a_checkpoint_between_steps_or_without_loops_stays_as_it_is() -> None:
    counts = {"ready": 4, "started": 4, "processed": 4, "completed": 3}
    loops = {"fit_loop": {"epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts)}}}
    back_to_step({"global_step": 2, "loops": loops}, 2)
    assert loops["fit_loop"]["epoch_loop.batch_progress"] == {"total": counts, "current": counts}
    back_to_step({"global_step": 2}, 2)


def test_a_second_interrupt_ends_at_once_and_saves_nothing(networks: Networks, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        trainer(tmp_path, Sends(signal.SIGINT, 2, times=2), KeepLast()).fit(distiller(networks), loader(batches(6)))
    assert not (tmp_path / "checkpoints").exists()
    with pytest.raises(KeyboardInterrupt):  # and Ctrl-C is again what it was
        signal.raise_signal(signal.SIGINT)


def test_a_signal_in_the_last_validation_stops_before_what_follows_it(networks: Networks, tmp_path: Path) -> None:
    class Asks(Callback):
        ended = False

        def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
            signal.raise_signal(signal.SIGTERM)

        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            self.ended = True

    asks = Asks()
    with pytest.raises(SIGTERMException):
        trainer(tmp_path, asks, KeepLast(), val_check_interval=STEPS).fit(
            distiller(networks), loader(batches(6)), loader(batches(1, seed=9))
        )
    assert not asks.ended and kept(tmp_path)["global_step"] == STEPS


def test_an_error_leaves_the_last_sound_state(networks: Networks, tmp_path: Path) -> None:
    model = distiller(networks)
    with pytest.raises(TrainingError, match="collapsed"):
        trainer(tmp_path, CollapseStop(patience=2, min_std=9.0), KeepLast(), val_check_interval=2).fit(
            model, loader(batches(6)), loader(batches(1, seed=9))
        )
    assert kept(tmp_path)["global_step"] == 2


@pytest.mark.parametrize(("clip", "value"), [("whole", 1.0), ("module", 1.0), ("whole", None)])
def test_no_step_is_made_on_a_gradient_that_is_not_finite(
    clip: str, value: float | None, networks: Networks, tmp_path: Path
) -> None:
    class Breaks(Distiller):
        def on_after_backward(self) -> None:
            if self.global_step == 3:
                gradient = next(self.term("expert").parameters()).grad
                assert gradient is not None
                gradient.view(-1)[0] = float("nan")

    model = distiller(networks, clip)
    model.__class__ = Breaks
    fit = trainer(tmp_path, KeepLast(every_n_train_steps=1), gradient_clip_val=value)
    with pytest.raises(TrainingError, match=r"gradient is not finite at step 3 \(of term expert; slides slide-0"):
        fit.fit(model, loader(batches(6)))
    broken = torch.load(tmp_path / "nonfinite.ckpt", weights_only=True)["state_dict"]
    assert_equal(broken, kept(tmp_path)["state_dict"])
    assert all(torch.isfinite(tensor).all() for tensor in broken.values())


def test_validation_within_a_step_is_refused(networks: Networks, tmp_path: Path) -> None:
    def fit(interval: int, steps: int = 3) -> None:
        settings: dict[str, Any] = {"accumulate_grad_batches": 2, "enable_checkpointing": False, "max_steps": steps}
        run = trainer(tmp_path, val_check_interval=interval, **settings)
        run.fit(distiller(networks), loader(batches(6, size=4)), loader(batches(1, seed=9)))

    with pytest.raises(ConfigError, match=r"val_check_interval 3 counts batches .* give 4"):
        fit(3)
    with pytest.raises(ConfigError, match=r"max_steps 3 times trainer.accumulate_grad_batches 2 is no multiple"):
        fit(4)
    fit(2)


# --- two processes, as Lightning starts them --------------------------------------------------------------------


class Fails(Callback):
    """On the second process alone."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2 and trainer.global_rank == 1:
            raise RuntimeError("a slide of this process is bad")


class Waits(Callback):
    """So many steps that the run must be stopped; says when it is under way."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        (Path(trainer.default_root_dir) / f"step-{trainer.global_rank}").write_text(str(trainer.global_step))


def main(folder: str, strategy: str, how: str) -> None:
    """A run on two processes."""
    from lightning.pytorch.strategies import StrategyRegistry

    from g2l.training.sharding import Sharded

    torch.set_num_threads(1)
    StrategyRegistry.register("sharded", Sharded, "", override=True)
    path = Path(folder)
    networks = Networks(str(path / "student.yaml"), str(path / "teacher.yaml"), str(path))
    made = batches(6) if how == "fails" else batches(8) * 500
    special = {"fails": Fails(), "one": Sends(signal.SIGTERM, 40, rank=1)}.get(how, Waits())
    fit = trainer(path, special, KeepLast(), devices=2, strategy=strategy, max_steps=len(made))
    fit.fit(distiller(networks), loader(made))


@pytest.fixture
def running(networks: Networks, tmp_path: Path) -> Any:
    started: list[subprocess.Popen[str]] = []
    write_networks(tmp_path)

    def start(strategy: str, how: str) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, str(tmp_path), strategy, how]
        path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # of this test alone: it has a session of its own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "to"), [("ddp", "first"), ("sharded", "first"), ("sharded", "all"), ("ddp", "one")]
)
def test_two_processes_stop_together_when_asked_to(strategy: str, to: str, running: Any, tmp_path: Path) -> None:
    """A signal to the first process, to both, and to the second alone."""
    process = running(strategy, to)
    if to != "one":
        deadline = time.monotonic() + 90
        while not (tmp_path / "step-1").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGTERM) if to == "all" else process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=90)
    assert "stopped at step" in errors and "Traceback" not in errors, errors[-2000:]
    content = kept(tmp_path)
    assert 1 <= content["global_step"] < 4000
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


@pytest.mark.slow
def test_an_error_on_one_process_ends_both_soon_and_saves_nothing(running: Any, tmp_path: Path) -> None:
    process = running("ddp", "fails")
    _, errors = process.communicate(timeout=90)
    assert process.returncode != 0 and "a slide of this process is bad" in errors
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
