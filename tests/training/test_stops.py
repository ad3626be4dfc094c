"""What ends a run early: the paper's rule, and a collapse, in real runs."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small import SIZE, Networks, batches, loader
from torch import Tensor

from g2l.data.multicrop import MultiCrop
from g2l.encoders.encoder import create_encoder
from g2l.errors import ConfigError, TrainingError
from g2l.training.collapse import spread
from g2l.training.distiller import Distiller
from g2l.training.selfdistil import Dino
from g2l.training.stops import CollapseStop, PaperStop


def test_paper_stop_consecutive_and_cumulative() -> None:
    # Ten steps at 1, then alternately above and below the mean, then always above.
    losses = [1.0] * 10 + [2.0, 0.1] * 6 + [3.0, 4.0, 5.0, 6.0, 7.0]
    first = {}
    for count in ("consecutive", "cumulative"):
        rule = PaperStop(window=10, patience=3, count=count)
        first[count] = next(step for step, loss in enumerate(losses) if rule.exceeded(loss))
    assert first == {"consecutive": 25, "cumulative": 16}
    with pytest.raises(ConfigError, match="at least 1"):
        PaperStop(window=0)


def test_paper_stop_resumes_where_it_was() -> None:
    losses = [1.0] * 10 + [2.0] * 3
    whole, half = PaperStop(10, 3), PaperStop(10, 3)
    for loss in losses:
        assert whole.exceeded(loss) == half.exceeded(loss)
    rest = PaperStop(10, 3)
    rest.load_state_dict(half.state_dict())
    assert whole.exceeded(9.0) and rest.exceeded(9.0)


class Collapsing(LightningModule):
    """Logs what a Distiller logs: at validation k that the embedding is as spread as `spreads[k]`."""

    def __init__(self, spreads: list[float], information: float = 1.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.spreads, self.information = spreads, information
        self.register_buffer("validated", torch.tensor(0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("train/dino_information", self.information)
        return self.layer(torch.ones(1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = torch.ones(16) + self.spreads[int(self.validated)] * torch.randn(64, 16, generator=generator)
        self.log_dict({f"val/{name}": value for name, value in spread(rows).items()})
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def trainer(folder: Path, *callbacks: Any, steps: int, every: int = 1) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        default_root_dir=folder,
        callbacks=list(callbacks),
        **quiet,
    )


def run(folder: Path, module: LightningModule, *callbacks: Any, ckpt_path: Path | None = None) -> Trainer:
    fit = trainer(folder, *callbacks, steps=6)
    fit.fit(module, loader(batches(6)), loader(batches(1)), ckpt_path=ckpt_path, weights_only=True)
    return fit


def test_an_embedding_that_stays_collapsed_ends_the_run_and_is_saved(tmp_path: Path) -> None:
    module = Collapsing([1, 1, 0.001, 0.001, 0.001, 0.001])
    with pytest.raises(TrainingError, match=r"3 validations in a row.*step 5: val/embedding_std 0.00\d+ below 0.02\)"):
        run(tmp_path, module, CollapseStop())
    saved = torch.load(tmp_path / "collapsed.ckpt", weights_only=True)
    assert saved["global_step"] == 5
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, Collapsing([0.001]), CollapseStop(patience=1))
    assert "\n" not in str(caught.value) and str(tmp_path / "collapsed.ckpt") in str(caught.value)


def test_one_that_recovers_goes_on(tmp_path: Path) -> None:
    assert run(tmp_path, Collapsing([0.001, 0.001, 1, 0.001, 0.001, 1]), CollapseStop()).global_step == 6


def test_targets_that_tell_nothing_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 2: train/dino_information 0.001 below 0.01\)"):
        run(tmp_path, Collapsing([1, 1, 1], information=0.001), CollapseStop(patience=2))
    assert run(tmp_path, Collapsing([1] * 6, 0.001), CollapseStop(2, min_information=0)).global_step == 6


def test_a_resumed_run_stops_at_the_same_validation(tmp_path: Path) -> None:
    spreads = [1, 0.001, 0.001, 0.001, 1, 1]
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)  # after every validation
    with pytest.raises(TrainingError, match="step 4"):
        run(tmp_path, Collapsing(spreads), CollapseStop(), keep)
    with pytest.raises(TrainingError, match="step 4"):
        run(tmp_path, Collapsing(spreads), CollapseStop(), ckpt_path=tmp_path / "step=3.ckpt")


def test_validating_a_collapsed_student_is_allowed(tmp_path: Path) -> None:
    trainer(tmp_path, CollapseStop(patience=1), steps=1).validate(
        Collapsing([0.001]), loader(batches(1)), verbose=False
    )


def test_limits_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="patience of at least 1"):
        CollapseStop(patience=0)
    with pytest.raises(ConfigError, match="no limit below 0"):
        CollapseStop(min_std=-1)


def test_a_fresh_student_is_no_collapse(networks: Networks) -> None:
    torch.manual_seed(0)
    fresh = create_encoder(networks.student, init="random").eval()
    images = torch.cat([batch["images"] for batch in batches(4)]).permute(0, 3, 1, 2)[..., :SIZE, :SIZE] / 255
    with torch.no_grad():
        found = spread(fresh(images).cls)
    assert CollapseStop().signs({f"val/{name}": torch.tensor(value) for name, value in found.items()}) == []


@pytest.mark.parametrize(("lr", "collapses"), [(1e-4, False), (3.0, True)])
def test_a_run_of_dino_that_collapses_is_told_from_one_that_does_not(
    networks: Networks, tmp_path: Path, lr: float, collapses: bool
) -> None:
    torch.manual_seed(0)
    dino = Dino(hidden=64, bottleneck=16, prototypes=24, teacher_warmup_steps=4)
    views = MultiCrop(size=SIZE, local_size=16, locals=1, blur_kernel=5)
    model = Distiller(networks.student, {"dino": dino}, networks.weights, views=views, lr=lr)
    fit = trainer(tmp_path, CollapseStop(), steps=40, every=10)
    try:
        fit.fit(model, loader(batches(40)), loader(batches(2, seed=9)))
    except TrainingError as error:
        assert collapses and re.search(r"step 30: train/dino_information \S+ below 0.01", str(error))
    else:
        assert not collapses
