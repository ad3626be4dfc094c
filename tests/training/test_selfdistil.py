"""Self-distillation beside distillation from frozen networks: which passes run, and when averages and centres move."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import WORLD, on_two_processes
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small import SIZE, Networks, batches, loader
from torch import Tensor, nn

from g2l.data.multicrop import MultiCrop
from g2l.data.views import Views
from g2l.encoders.checkpoint import student_state
from g2l.errors import ConfigError
from g2l.training.distiller import Distiller
from g2l.training.losses import Cosine, Expert, LogSum
from g2l.training.optim import parameter_groups
from g2l.training.selfdistil import KDE, Dino, Ibot, KoLeo
from g2l.training.terms import EMA, STUDENT, Need, Term

HEAD: Any = {"hidden": 16, "bottleneck": 8, "prototypes": 24, "teacher_warmup_steps": 4}
VIEWS: dict[str, Any] = {"size": SIZE, "local_size": 16, "locals": 3, "blur_kernel": 5}


def self_terms(**arguments: Any) -> dict[str, Term]:
    return {"dino": Dino(**HEAD | arguments), "ibot": Ibot(**HEAD | arguments)}


def all_terms(networks: Networks) -> dict[str, Term]:
    return {
        **self_terms(),
        "koleo": KoLeo(),
        "kde": KDE(),
        "expert": Expert(networks.teacher, patch=0.25),
        "logsum": LogSum(networks.teacher, view="clean", masked=True),
    }


def distiller(networks: Networks, terms: Mapping[str, Term], **arguments: Any) -> Distiller:
    torch.manual_seed(0)
    views = MultiCrop(**VIEWS)
    settings = {"weights": networks.weights, "views": views, "observe_patches": 16, "lr": 1e-3} | arguments
    return Distiller(networks.student, dict(terms), **settings)


def trainer(folder: Path, steps: int = 6, **arguments: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = quiet | {"num_sanity_val_steps": 0, "enable_checkpointing": False, "log_every_n_steps": 1} | arguments
    return Trainer(accelerator="cpu", max_steps=steps, max_epochs=-1, default_root_dir=folder, **settings)


def observed(model: Distiller, batch: Any) -> Distiller:
    """The model with moments of the cohort from one batch."""
    passes = model.run(batch, model.needs)
    for name in model.terms:
        model.term(name).observe(passes)
    return model


def test_every_network_runs_once_per_view_and_the_head_once(networks: Networks) -> None:
    model = distiller(networks, all_terms(networks))
    teacher = networks.teacher
    assert set(model.needs) == {
        Need(STUDENT, "student", True),
        Need(STUDENT, "local"),
        Need(EMA, "student"),
        Need(teacher, "student"),
        Need(teacher, "clean"),
    }
    batch = batches(1)[0]
    observed(model, batch)
    calls: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, *_: calls.append((name, tuple(inputs[0].shape)))

    assert model.ema is not None
    model.student.register_forward_hook(note("student"))
    model.ema[STUDENT].register_forward_hook(note("ema"))
    model.frozen[teacher].register_forward_hook(note("teacher"))
    model.heads["prototypes"].head.register_forward_hook(note("head"))  # type: ignore[union-attr]
    model.ema["head_prototypes"].register_forward_hook(note("ema head"))
    values, passes = model.forward_terms(batch)
    assert all(torch.isfinite(value) for value in values.values())
    assert passes.masked is not None
    masked = int(passes.masked.tokens.sum())
    whole, local = (16, 3, SIZE, SIZE), (24, 3, 16, 16)
    assert sorted(calls) == sorted(
        [
            ("student", whole),
            ("student", local),
            ("ema", whole),
            ("teacher", whole),
            ("teacher", whole),
            ("head", (16 + 24 + masked, 16)),
            ("ema head", (16 + masked, 16)),
        ]
    )


def test_the_same_pass_of_two_terms_runs_once(networks: Networks) -> None:
    pair = {"expert": Expert(networks.teacher), "cosine": Cosine(networks.teacher, masked=True)}
    model = distiller(networks, pair)
    assert model.needs == sorted({Need(STUDENT, "student", True), Need(networks.teacher, "student")})


def test_a_term_of_weight_zero_costs_nothing(networks: Networks) -> None:
    terms: dict[str, Term] = {
        "logsum": LogSum(networks.teacher),
        "dino": Dino(weight=0, **HEAD),
        "ibot": Ibot(weight=0, **HEAD),
        "kde": KDE(weight=0),
        "expert": Expert("uni", weight=0),
    }
    model = distiller(networks, terms)
    plain = networks.distiller({"logsum": LogSum(networks.teacher)})
    assert model.ema is None and not model.heads and not model.masking and list(model.frozen) == [networks.teacher]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert model.needs == plain.needs
    later = distiller(networks, {"logsum": LogSum(networks.teacher), "dino": Dino(weight=0, weight_final=1, **HEAD)})
    assert later.ema is not None


@pytest.mark.parametrize("name", ["prototypes", "student", "masking"])
def test_no_name_hides_parameters_from_the_optimiser(name: str, networks: Networks) -> None:
    terms: dict[str, Term] = {name: Expert(networks.teacher), "ibot": Ibot(**HEAD, head=name)}
    model = distiller(networks, terms, result="ema")
    (groups,) = [model.configure_optimizers().param_groups]
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert all(id(p) in grouped for p in model.parameters() if p.requires_grad)
    assert model.ema is not None and model.ema[STUDENT].spec == model.student.spec


def test_self_distillation_alone_needs_no_teacher(networks: Networks, tmp_path: Path) -> None:
    model = distiller(networks, self_terms(), student_init="random", weights=None, result="ema")
    fit = trainer(tmp_path, 2)
    fit.fit(model, loader(batches(2)), loader(batches(1, seed=9)))
    assert "val/loss" not in fit.callback_metrics and "val/cka" not in fit.callback_metrics
    assert fit.callback_metrics["val/embedding_rank"] > 1


def test_ema_and_centres_move_once_per_optimiser_step(networks: Networks, tmp_path: Path) -> None:
    """Followed by hand through three steps of two batches each."""
    model = distiller(networks, self_terms(), ema_momentum=0.8, ema_momentum_final=0.8)
    assert model.ema is not None
    average = {key: value.clone() for key, value in model.student.state_dict().items()}
    assert all(torch.equal(value, model.ema[STUDENT].state_dict()[key]) for key, value in average.items())
    seen: list[Tensor] = []

    class Follows(Distiller):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            for key, value in self.student.state_dict().items():
                average[key] = 0.8 * average[key] + 0.2 * value
            seen.append(self.term("dino").centre.centre.clone())  # type: ignore[union-attr]

    model.__class__ = Follows
    model.train()
    assert not model.ema[STUDENT].training and model.student.training
    trainer(tmp_path, 3, accumulate_grad_batches=2).fit(model, loader(batches(6)))
    assert len(seen) == 3 and not torch.equal(seen[0], seen[1])
    for key, value in model.ema[STUDENT].state_dict().items():
        torch.testing.assert_close(value, average[key], msg=key)
    assert not any(parameter.requires_grad for parameter in model.ema.parameters())


def _together(pairs: list[Any]) -> Any:
    joined = {name: torch.cat([batch[name] for batch in pairs]) for name in ("images", "index")}
    return joined | {"slides": [slide for batch in pairs for slide in batch["slides"]]}


class Descends(Distiller):
    """By plain gradient descent: AdamW magnifies the rounding of gradients that are exactly zero (biases of keys)."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameter_groups(self._trained), lr=0.1)


def test_accumulation_is_exact(networks: Networks, tmp_path: Path) -> None:
    terms = lambda: self_terms() | {"expert": Expert(networks.teacher, patch=0.25)}  # noqa: E731
    made = batches(6, size=4)
    twice, once = (distiller(networks, terms(), lr=0.1) for _ in range(2))
    for model in (twice, once):
        observed(model, _together(made))
        model.__class__ = Descends
    trainer(tmp_path, 3, accumulate_grad_batches=2).fit(twice, loader(made))
    joined = [_together(made[i : i + 2]) for i in (0, 2, 4)]
    trainer(tmp_path, 3).fit(once, loader(joined))
    for key, value in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[key], value, atol=2e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["koleo", "kde", "logsum"])
def test_what_compares_the_images_of_a_batch_does_not_accumulate(name: str, networks: Networks, tmp_path: Path) -> None:
    model = distiller(networks, {name: all_terms(networks)[name]})
    with pytest.raises(ConfigError, match=rf"accumulate_grad_batches is above 1, but {name} compare"):
        trainer(tmp_path, accumulate_grad_batches=2).fit(model, loader(batches(2)))


class _Step(nn.Module):
    """What DistributedDataParallel wraps: the loss of a batch."""

    def __init__(self, model: Distiller) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> Tensor:
        return self.model.total(self.model.forward_terms(batch)[0])


def ten_steps(rank: int, networks: Networks, world: int) -> tuple[list[float], dict[str, Tensor]]:
    """Ten steps of SGD on this process' share of every batch; losses and all tensors."""
    terms = all_terms(networks)
    terms.pop("koleo")  # its neighbours are those of one process
    model = distiller(networks, terms, seed=3)
    made = batches(10)
    own = [{key: value[rank::world] for key, value in batch.items()} for batch in made]  # type: ignore[index]
    observed(model, own[0])
    step: nn.Module = _Step(model)
    if world > 1:
        step = nn.parallel.DistributedDataParallel(step, broadcast_buffers=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for number, batch in enumerate(own):
        for name in model.terms:
            model.term(name).start_step(number, 10)
        optimizer.zero_grad()
        loss = step(batch)
        loss.backward()
        optimizer.step()
        for name in model.terms:
            model.term(name).end_step()
        assert model.ema is not None
        model.ema.update(model.averaged(), 0.9)
        losses.append(loss.item())
    return losses, {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.slow
def test_two_processes_equal_one(networks: Networks) -> None:
    """Every term but KoLeo; weights, moving averages and centres after ten steps."""
    losses, one = ten_steps(0, networks, 1)
    halves = on_two_processes(ten_steps, networks, WORLD)
    # log-sum and its like return the value of the whole batch, the others of their own half
    means = [sum(pair) / 2 for pair in zip(*(half[0] for half in halves), strict=True)]
    assert means == pytest.approx(losses, rel=1e-4)
    for _, state in halves:
        for key, value in one.items():
            torch.testing.assert_close(state[key], value, atol=2e-5, rtol=2e-3, msg=key)


def test_resume_is_bit_identical_with_averages_centres_and_schedules(networks: Networks, tmp_path: Path) -> None:
    made = batches(8)
    recipe = {"ema_momentum": 0.9, "drop_path": 0.2, "layer_decay": 0.9, "freeze_last_layer": 5, "clip": "module"}
    clipped: dict[str, Any] = {"gradient_clip_val": 1.0}
    whole = distiller(networks, all_terms(networks), **recipe)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    trainer(tmp_path, 8, callbacks=[keep], enable_checkpointing=True, **clipped).fit(whole, loader(made))
    rest = distiller(networks, all_terms(networks), **recipe)
    fit = trainer(tmp_path, 8, **clipped)
    fit.fit(rest, loader(made[4:]), ckpt_path=tmp_path / "step=4.ckpt", weights_only=True)
    assert fit.global_step == 8
    for key, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[key]), key
    dino = whole.term("dino")
    assert isinstance(dino, Dino) and dino.teacher_temperature == 0.07


def test_the_last_layer_waits_and_the_schedules_are_logged(networks: Networks, tmp_path: Path) -> None:
    model = distiller(networks, self_terms(weight_final=0.5), freeze_last_layer=2, weight_decay_final=0.4)
    directions = [model.heads["prototypes"].head.prototypes.weight.detach().clone()]  # type: ignore[union-attr]
    logged: list[dict[str, float]] = []

    class Follows(Distiller):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            directions.append(self.heads["prototypes"].head.prototypes.weight.detach().clone())  # type: ignore[union-attr]
            names = ("train/lr", "train/weight_decay", "train/ema_momentum", "train/dino_entropy", "train/dino_weight")
            logged.append({name: float(self.trainer.callback_metrics[name]) for name in names})

    model.__class__ = Follows
    trainer(tmp_path, 4).fit(model, loader(batches(4)))
    moved = [not torch.equal(directions[k], directions[k + 1]) for k in range(4)]
    assert moved == [False, False, True, True]
    assert [row["train/weight_decay"] for row in logged] == sorted(row["train/weight_decay"] for row in logged)
    assert logged[0]["train/dino_weight"] == 1 and 0.5 < logged[3]["train/dino_weight"] < 0.7
    assert all(0 < row["train/dino_entropy"] <= torch.log(torch.tensor(24.0)) + 1e-4 for row in logged)


def test_each_module_is_clipped_by_itself(networks: Networks, tmp_path: Path) -> None:
    norms: list[dict[str, float]] = []

    class Follows(Distiller):
        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(*args, **kwargs)
            student = nn.ModuleList([self.student, self.masking])
            parts = {"student": student, "head": self.heads["prototypes"], "expert": self.terms["expert"]}
            grads = {name: [p.grad for p in part.parameters() if p.grad is not None] for name, part in parts.items()}
            norms.append({name: float(torch.nn.utils.get_total_norm(rows)) for name, rows in grads.items()})

    model = distiller(networks, self_terms() | {"expert": Expert(networks.teacher)}, clip="module")
    model.__class__ = Follows
    trainer(tmp_path, 2, gradient_clip_val=1e-3).fit(model, loader(batches(2)))
    assert all(value == pytest.approx(1e-3, rel=1e-2) for row in norms for value in row.values())


def test_held_out_patches_are_judged_by_the_result(networks: Networks, tmp_path: Path) -> None:
    """The moving average, far behind the student here, is what is validated and kept."""
    model = distiller(networks, all_terms(networks), result="ema", ema_momentum=1.0, lr=1e-2)
    fit = trainer(tmp_path, 3)
    fit.fit(model, loader(batches(3)), loader(batches(2, seed=9)))
    assert {"val/loss", "val/expert", "val/logsum", "val/cka"} <= fit.callback_metrics.keys()
    assert "val/dino" not in fit.callback_metrics
    fresh = distiller(networks, all_terms(networks)).student.state_dict()
    best = model.best_student().state_dict()
    assert all(torch.equal(value, best[key]) for key, value in fresh.items())
    assert any(not torch.equal(value, fresh[key]) for key, value in model.student.state_dict().items())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    kept = student_state(torch.load(tmp_path / "last.ckpt", weights_only=True))
    assert kept.keys() == fresh.keys() and all(torch.equal(value, fresh[key]) for key, value in kept.items())


def test_configs_that_cannot_work_are_refused(networks: Networks) -> None:
    with pytest.raises(ConfigError, match="two global crops of an image, but Views makes one"):
        distiller(networks, self_terms(), views=Views(size=SIZE))
    with pytest.raises(ConfigError, match="two terms share the head prototypes but give different sizes"):
        distiller(networks, {"dino": Dino(**HEAD), "ibot": Ibot(**HEAD | {"prototypes": 8})})
    for name in ("loss", "cka_a", "keys", "a.b"):
        with pytest.raises(ConfigError, match="cannot be a term's name"):
            distiller(networks, {name: LogSum(networks.teacher)})
    with pytest.raises(ConfigError, match="ema_momentum"):
        distiller(networks, self_terms(), ema_momentum=1.5)
    other = {"dino": Dino(**HEAD), "ibot": Ibot(**HEAD | {"prototypes": 8, "head": "own"})}
    assert set(distiller(networks, other).heads) == {"prototypes", "own"}


def test_bfloat16_agrees_with_float32(networks: Networks) -> None:
    """Within 5 % of the value: the networks run in bfloat16, the losses in float32."""
    model = distiller(networks, all_terms(networks))
    batch = batches(1)[0]
    observed(model, batch)
    exact, _ = model.forward_terms(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = model.forward_terms(batch)
    for name, value in exact.items():
        assert rough[name].dtype == torch.float32, name
        assert rough[name].item() == pytest.approx(value.item(), rel=0.05, abs=0.05), name
