"""A student in parts on two processes trains, is kept and is resumed like a whole one on one process."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from gloo import WORLD, on_two_processes
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from safetensors.torch import load_file
from small import SIZE, Networks, batches, loader
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from g2l.data.multicrop import MultiCrop
from g2l.deploy.callback import Export
from g2l.deploy.export import export
from g2l.encoders.encoder import Encoder
from g2l.errors import ConfigError
from g2l.training.distiller import Distiller
from g2l.training.losses import Expert, LogSum
from g2l.training.optim import parameter_groups
from g2l.training.selfdistil import KDE, Dino, Ibot
from g2l.training.sharding import Sharded, check_strategy, compile_network, copy_whole, gather, shard

pytestmark = pytest.mark.slow  # two processes that import all there is

STEPS = 6
HEAD: dict[str, Any] = {"hidden": 16, "bottleneck": 8, "prototypes": 24, "teacher_warmup_steps": 4}


class Steady(Distiller):
    """With a larger eps: AdamW magnifies the rounding of gradients that are exactly zero (biases of keys)."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameter_groups(self._trained, 0.9), eps=1e-2)


def distiller(networks: Networks) -> Steady:
    """Every kind of head, a mask token, an average, centres and moments of the cohort."""
    torch.manual_seed(0)
    return Steady(
        networks.student,
        {
            "dino": Dino(**HEAD),
            "ibot": Ibot(**HEAD),
            "kde": KDE(),
            "expert": Expert(networks.teacher, patch=0.25),
            "mlp": Expert(networks.teacher, head="mlp"),
            "logsum": LogSum(networks.teacher, view="clean", masked=True),
        },
        weights=networks.weights,
        views=MultiCrop(size=SIZE, local_size=16, locals=3, blur_kernel=5),
        observe_patches=16,
        lr=1e-2,
        ema_momentum=0.8,
        clip="module",
        checkpointing=True,
    )


class Run(NamedTuple):
    """What a fit ended with. state: whole tensors; share: of the parameters' elements that this process held."""

    losses: list[float]
    state: dict[str, Tensor]
    share: float
    cka: float


class Losses(Callback):
    """Every step's loss."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(outputs["loss"].item())


def share_held(model: nn.Module) -> float:
    held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in model.parameters())
    return held / sum(p.numel() for p in model.parameters())


def fit(
    rank: int,
    networks: Networks,
    folder: Path,
    world: int,
    ckpt: str = "",
    accelerator: str = "cpu",
    sharded: bool = False,
) -> Run:
    """Six steps on this process' share of every batch, or what is left of them; kept every three."""
    os.environ["LOCAL_RANK"] = str(rank)  # tells Lightning that the processes are there
    try:
        model = distiller(networks)
        own, held_out = (
            [{key: value[rank::world] for key, value in batch.items()} for batch in made]  # type: ignore[index]
            for made in (batches(STEPS)[3 if ckpt else 0 :], batches(2, seed=9))
        )
        losses = Losses()
        trainer = Trainer(
            accelerator=accelerator,
            devices=world,
            strategy=Sharded() if sharded or world > 1 else "auto",
            max_steps=STEPS,
            max_epochs=-1,
            gradient_clip_val=0.5,
            default_root_dir=folder,
            callbacks=[losses, ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1), Export()],
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=False,
            enable_progress_bar=False,
        )
        trainer.fit(model, loader(own), loader(held_out), ckpt_path=ckpt or None, weights_only=True)  # type: ignore
        state = {key: gather(value).clone() for key, value in model.state_dict().items()}
        return Run(losses.seen, state, share_held(model), float(trainer.callback_metrics["val/cka"]))
    finally:
        del os.environ["LOCAL_RANK"]


class Story(NamedTuple):
    """What two processes did one after the other. refusals: the messages of what cannot be sharded or loaded."""

    fitted: Run
    resumed: Run
    resumed_from_one: Run
    first_student: dict[str, Tensor]
    refusals: dict[str, str]


def in_parts(model: Distiller) -> Distiller:
    """Sharded without a Trainer."""
    strategy = Sharded()
    strategy._device_mesh = init_device_mesh("cpu", (WORLD, 1), mesh_dim_names=("data_parallel", "tensor_parallel"))
    strategy.parallel_devices = [torch.device("cpu")] * WORLD
    shard(model, strategy)
    shard(model, strategy)  # a second time nothing happens
    return model


class Offset(KDE):
    """A term with a parameter outside of any head."""

    def build(self, networks: Any) -> None:
        """The parameter."""
        self.offset = nn.Parameter(torch.zeros(1))


def compiled_tokens(student: Encoder, images: Tensor) -> bool:
    """Whether the blocks, compiled, still compute and learn the same, without a graph that breaks off."""
    expected = student(images).cls
    expected.square().sum().backward()
    gradients = [parameter.grad.full_tensor() for parameter in student.parameters()]  # type: ignore[union-attr]
    student.zero_grad()
    counters.clear()
    compile_network(student, backend="eager")
    found = student(images).cls
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), gradient)  # type: ignore[union-attr]
    return counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def story(rank: int, networks: Networks, folder: Path) -> Story:
    """All that needs two processes. In one call, because torch caches by mesh what a process of one rank computed, and
    the pool gives the ranks anew in every call.
    """
    fitted = fit(rank, networks, folder / "parts", WORLD)
    resumed = fit(rank, networks, folder / "resumed", WORLD, str(folder / "parts/step=3.ckpt"))
    from_one = fit(rank, networks, folder / "from-one", WORLD, str(folder / "whole/step=3.ckpt"))
    with pytest.raises(RuntimeError) as other:
        fit(rank, networks, folder / "refused", WORLD, str(folder / "other.ckpt"))
    odd = distiller(networks)
    odd.terms["kde"] = Offset()
    odd.term("kde").build(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as outside:
        in_parts(odd)
    differing = distiller(networks)
    with torch.no_grad():
        for parameter in differing.parameters():
            parameter += rank
    student = in_parts(differing).student
    copied = copy_whole(student)
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(copied(images).cls, student(images).cls)
    assert not any(isinstance(part, FSDPModule) for part in copied.modules())
    assert compiled_tokens(student, images)
    first = {key: value.clone() for key, value in copied.state_dict().items()}
    return Story(fitted, resumed, from_one, first, {"load": str(other.value), "shard": str(outside.value)})


class Pair(NamedTuple):
    """The same training on one process and in parts on two, and the folder of both's checkpoints."""

    one: Run
    two: list[Story]
    folder: Path


@pytest.fixture(scope="module")
def pair(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    one = fit(0, networks, folder / "whole", 1)
    content = torch.load(folder / "whole/step=3.ckpt", weights_only=True)
    content["state_dict"]["student.more"] = torch.zeros(2)
    torch.save(content, folder / "other.ckpt")
    return Pair(one, on_two_processes(story, networks, folder), folder)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], exactly: bool = False) -> None:
    assert found.keys() == expected.keys()
    atol, rtol = (0.0, 0.0) if exactly else (2e-6, 1e-4)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=atol, rtol=rtol, msg=lambda text, key=key: f"{key}: {text}")


def test_two_processes_with_parts_equal_one(pair: Pair) -> None:
    """Losses, the student, all heads, the mask token, the average, centres and the cohort's moments."""
    means = [sum(losses) / WORLD for losses in zip(*(each.fitted.losses for each in pair.two), strict=True)]
    assert means == pytest.approx(pair.one.losses, rel=1e-5)
    for each in pair.two:
        assert_equal(each.fitted.state, pair.one.state)
        assert each.fitted.cka == pytest.approx(pair.one.cka, rel=1e-5)
    assert {key.split(".")[0] for key in pair.one.state} == {"student", "masking", "heads", "terms", "ema"}


def test_each_process_holds_about_half(pair: Pair) -> None:
    shares = [each.fitted.share for each in pair.two]
    assert sum(shares) == pytest.approx(1) and max(shares) < 0.52
    assert pair.one.share == 1


def test_the_checkpoint_is_one_file_as_of_one_process(pair: Pair) -> None:
    whole, parts = (torch.load(pair.folder / f"{name}/step=6.ckpt", weights_only=True) for name in ("whole", "parts"))
    assert parts.keys() == whole.keys()
    assert_equal(parts["state_dict"], whole["state_dict"])
    moments, expected = parts["optimizer_states"][0], whole["optimizer_states"][0]
    assert moments["param_groups"] == expected["param_groups"]
    assert moments["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert_equal(moments["state"][number], state)


def test_the_checkpoint_is_exported(pair: Pair, tmp_path: Path) -> None:
    """By the command, and at the end of the run by its first process."""
    export(str(pair.folder / "parts/step=6.ckpt"), str(tmp_path / "student"), formats=[])
    for folder in (tmp_path, pair.folder / "parts"):
        exported = load_file(folder / "student" / "model.safetensors")
        assert exported
        for key, value in exported.items():
            torch.testing.assert_close(value, pair.two[0].fitted.state[f"student.backbone.{key}"], atol=0, rtol=0)


def test_a_run_goes_on_with_as_many_processes_bit_for_bit(pair: Pair) -> None:
    for each in pair.two:
        assert each.resumed.losses == each.fitted.losses[3:]
        assert_equal(each.resumed.state, each.fitted.state, exactly=True)


def test_a_run_goes_on_with_another_number_of_processes(pair: Pair, networks: Networks, tmp_path: Path) -> None:
    alone = fit(0, networks, tmp_path, 1, str(pair.folder / "parts/step=3.ckpt"))
    for run in (alone, *(each.resumed_from_one for each in pair.two)):
        assert len(run.losses) == 3
        assert_equal(run.state, pair.one.state)


def test_the_weights_are_those_of_the_first_process(pair: Pair, networks: Networks) -> None:
    expected = distiller(networks).student.state_dict()
    for each in pair.two:
        assert_equal(each.first_student, expected, exactly=True)


def test_what_cannot_be_sharded_or_loaded_is_refused(pair: Pair) -> None:
    for each in pair.two:
        assert "loading state_dict" in each.refusals["load"] and "student.more" in each.refusals["load"]
        assert "terms.kde.offset cannot be sharded" in each.refusals["shard"]


@pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy()])
def test_other_ways_to_shard_are_refused(strategy: Strategy) -> None:
    with pytest.raises(ConfigError, match=r"set --trainer\.strategy=sharded"):
        check_strategy(strategy)


@pytest.mark.gpu
def test_a_gpu_agrees_with_itself(networks: Networks, tmp_path: Path) -> None:
    """NCCL with one process: the calls, the fused optimiser and compiled blocks, sharded and not."""
    whole = fit(0, networks, tmp_path / "whole", 1, accelerator="gpu")
    try:
        parts = fit(0, networks, tmp_path / "parts", 1, accelerator="gpu", sharded=True)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert parts.losses == pytest.approx(whole.losses, rel=1e-3)
    assert parts.cka == pytest.approx(whole.cka, rel=1e-3)
