"""The step and its invariants, on small networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small import Networks, batches, loader
from torch import Tensor

from g2l.errors import ConfigError, TrainingError
from g2l.training.distiller import Distiller
from g2l.training.losses import Cosine, LogSum


def trainer(folder: Path, steps: int = 6, **arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **arguments,
    )


def terms(networks: Networks) -> dict[str, Any]:
    return {
        "logsum": LogSum(networks.teacher, cls=1.0, patch=0.5, view="clean"),
        "cosine": Cosine(networks.teacher, weight=0.5),
    }


@pytest.fixture
def fitted(networks: Networks, tmp_path: Path) -> tuple[Distiller, dict[str, Tensor], Path]:
    """A Distiller after six steps, the teacher's tensors before, and the checkpoint."""
    model = networks.distiller(terms(networks), lr=1e-3)
    before = {key: value.clone() for key, value in model.frozen[networks.teacher].state_dict().items()}
    fit = trainer(tmp_path, enable_checkpointing=False)
    fit.fit(model, loader(batches(6)), loader(batches(2, seed=9)))
    fit.save_checkpoint(tmp_path / "last.ckpt")
    return model, before, tmp_path / "last.ckpt"


def test_frozen_networks_stay_frozen(fitted: tuple[Distiller, dict[str, Tensor], Path]) -> None:
    model, before, _ = fitted
    (teacher,) = model.frozen.values()
    assert not teacher.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    model.train()
    assert not teacher.training


def test_the_student_trains_in_train_mode_and_changes(
    networks: Networks, fitted: tuple[Distiller, dict[str, Tensor], Path]
) -> None:
    fresh = networks.distiller(terms(networks)).student.state_dict()
    model = fitted[0]
    assert model.student.training
    assert any(not torch.equal(fresh[key], value) for key, value in model.student.state_dict().items())


def test_checkpoint_holds_student_heads_and_optimiser_alone(
    fitted: tuple[Distiller, dict[str, Tensor], Path],
) -> None:
    model, before, path = fitted
    checkpoint = torch.load(path, weights_only=True)
    state = checkpoint["state_dict"]
    assert {key.split(".")[0] for key in state} == {"student", "terms"}
    teacher_shapes = {tuple(value.shape) for value in before.values() if value.ndim > 1}
    assert not {tuple(v.shape) for k, v in state.items() if k.startswith("terms") and v.ndim == 4} & teacher_shapes
    own = sum(parameter.numel() for parameter in model.parameters())
    # Weights and AdamW's two moments in float32, and at most 100 kB of everything else.
    assert path.stat().st_size < 3 * 4 * own + 100_000
    assert checkpoint["g2l"]["student"]["name"] == "student"
    assert {network["role"] for network in checkpoint["g2l"]["networks"]} == {"student", "teacher"}


def test_the_logged_total_is_the_weighted_sum(networks: Networks) -> None:
    model = networks.distiller(terms(networks))
    batch = batches(1)[0]
    views = model.make_views(batch)
    tokens = {need: model.tokens(need, views[need.view]) for need in model.needs}
    for term in model.terms.values():
        term.observe(tokens)  # type: ignore[operator]
    values, _ = model.forward_terms(batch)
    assert model.total(values).item() == pytest.approx((values["logsum"] + 0.5 * values["cosine"]).item())


def test_a_term_of_weight_zero_builds_nothing_and_runs_no_network(networks: Networks) -> None:
    model = networks.distiller({"on": Cosine(networks.teacher), "off": LogSum("h-optimus-0", weight=0)})
    assert list(model.terms) == ["on"]
    assert list(model.frozen) == [networks.teacher]
    with pytest.raises(ConfigError, match="nothing would be trained"):
        networks.distiller({"off": LogSum(networks.teacher, weight=0)})


def test_every_network_runs_once_per_view(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"a": LogSum(networks.teacher, faithful=True), "b": Cosine(networks.teacher, standardised=False)}
    model = networks.distiller(both)
    calls: list[str] = []
    for name, network in [("student", model.student), ("teacher", model.frozen[networks.teacher])]:
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    model.forward_terms(batches(1)[0])
    assert sorted(calls) == ["student", "teacher"]


def test_a_clean_teacher_view_has_the_geometry_of_the_students(networks: Networks) -> None:
    model = networks.distiller({"logsum": LogSum(networks.teacher, view="clean")})
    views = model.make_views(batches(1)[0])
    assert set(views) == {"clean", "student"}
    assert not torch.equal(views["clean"], views["student"])
    flat = [view.mean(1).flatten(1) for view in (views["clean"], views["student"])]
    correlation = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*flat, strict=True)])
    assert correlation.min() > 0.8


def test_resume_is_bit_identical(networks: Networks, tmp_path: Path) -> None:
    made = batches(8)
    whole = networks.distiller(terms(networks), lr=1e-3, warmup_steps=2)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    trainer(tmp_path, 8, callbacks=[keep]).fit(whole, loader(made))
    rest = networks.distiller(terms(networks), lr=1e-3, warmup_steps=2)
    fit = trainer(tmp_path, 8, enable_checkpointing=False)
    fit.fit(rest, loader(made[4:]), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert fit.global_step == 8
    for key, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[key]), key


def test_a_non_finite_loss_stops_with_step_term_and_slides(networks: Networks, tmp_path: Path) -> None:
    model = networks.distiller({"logsum": LogSum(networks.teacher)})
    fit = trainer(tmp_path, enable_checkpointing=False)

    class Breaks(Distiller):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(batch, batch_idx)
            if batch_idx == 2:
                next(self.student.parameters()).data.fill_(float("nan"))

    model.__class__ = Breaks
    with pytest.raises(TrainingError, match=r"step 2 \(term logsum; slides slide-0, slide-1, slide-2\)"):
        fit.fit(model, loader(batches(6)))
    assert (tmp_path / "nonfinite.ckpt").exists()


def test_what_only_the_trainer_knows_is_checked(networks: Networks, tmp_path: Path) -> None:
    model = networks.distiller({"logsum": LogSum(networks.teacher)})
    with pytest.raises(ConfigError, match="max_steps"):
        trainer(tmp_path, steps=-1, enable_checkpointing=False).fit(model, loader(batches(1)))
    with pytest.raises(ConfigError, match="accumulate_grad_batches"):
        trainer(tmp_path, accumulate_grad_batches=2, enable_checkpointing=False).fit(model, loader(batches(2)))


def test_bfloat16_agrees_with_float32(networks: Networks) -> None:
    """Within 5 % of the value: the networks run in bfloat16, the losses in float32."""
    model = networks.distiller(
        {"logsum": LogSum(networks.teacher, faithful=True), "cosine": Cosine(networks.teacher, standardised=False)}
    )
    batch = batches(1)[0]
    exact, _ = model.forward_terms(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = model.forward_terms(batch)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.05), name


def test_a_bfloat16_run_trains_with_float32_weights_and_losses(networks: Networks, tmp_path: Path) -> None:
    model = networks.distiller(terms(networks), lr=1e-3)
    fit = trainer(tmp_path, enable_checkpointing=False, precision="bf16-mixed")
    fit.fit(model, loader(batches(6)), loader(batches(2, seed=9)))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert fit.callback_metrics["train/loss"].dtype == torch.float32
    assert torch.isfinite(fit.callback_metrics["train/loss"]) and torch.isfinite(fit.callback_metrics["val/cka"])
