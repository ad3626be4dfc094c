"""A student too large for one GPU: weights, gradients, AdamW's moments and the average in parts on all processes.

PyTorch's FSDP2: each block is gathered for as long as it computes. Frozen networks stay outside, whole.
Source: Zhao et al. 2023 (FSDP); Rajbhandari et al. 2020 (ZeRO, stage 3).
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch._dynamo import config as dynamo
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from g2l.encoders.encoder import Encoder
from g2l.errors import ConfigError
from g2l.objectives.collective import from_first
from g2l.objectives.heads import ExpertHead, MLPHead, PrototypeHead


class Masking(nn.ParameterDict):
    """The mask token of the student (`mask_token`, (1, P)); empty where nothing is masked."""

    __call__ = nn.Module.__call__  # which ParameterDict forbids

    def forward(self, mask: Tensor) -> Tensor:
        """The token, for a mask (C B, N). A call, because a sharded parameter is whole only inside one; with an
        argument, because on a GPU FSDP2 cannot call a module without any.
        """
        return self["mask_token"].clone()  # the gathered tensor itself is freed at the call's end


# What is called with tensors alone; of other modules (a term, the average) the parts are looked at.
_UNITS = (Encoder, Masking, nn.Linear, ExpertHead, MLPHead, PrototypeHead)


class Sharded(ModelParallelStrategy):
    """`trainer.strategy: sharded`. A checkpoint is the one file of a run of one process: in it the weights are whole,
    and AdamW's moments in the order of its groups; so a run may go on with any number of processes, or unsharded.

    Lightning's own strategy orders the moments by the model's parameters, which mixes them up in an optimiser with
    groups of its own, and passes over tensors of a checkpoint that the model does not have.
    """

    def __init__(self, process_group_backend: str | None = None, timeout: timedelta = timedelta(minutes=30)) -> None:
        """Args: process_group_backend: None: NCCL for GPUs, gloo for CPUs; timeout: of one collective."""
        super().__init__("auto", 1, False, process_group_backend, timeout)

    def setup_environment(self) -> None:
        """All processes share one set of weights."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """No inference mode: what is gathered first in it could not be trained afterwards."""
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop):
            loop.inference_mode = False
        super().setup(trainer)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Yes, by `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole state on the first process, nothing on the others."""
        assert self.lightning_module is not None
        return self._gathered(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The same of an optimiser, as it would be without sharding."""
        inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        state = inner.state_dict()
        return state | {"state": {number: self._gathered(one) for number, one in state["state"].items()}}

    def _gathered(self, state: Mapping[str, Any]) -> dict[str, Any]:
        # One tensor at a time: a GPU never holds all of them whole.
        found = {}
        for name, value in state.items():
            value = gather(value)
            if self.is_global_zero:
                found[name] = value
        return found

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """The content of a file; of its tensors what this process reads, not all that all processes have."""
        path = self.broadcast(checkpoint_path)
        return torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its part; keys and shapes must be the model's."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        state = {key: part_like(value, own.get(key)) for key, value in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part of the moments."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            parts = {
                number: {name: part_like(value, parameter) for name, value in state["state"][number].items()}
                for number, parameter in zip(numbers, own, strict=True)
                if number in state["state"]
            }
            optimizer.load_state_dict(state | {"state": parts})


def check_strategy(strategy: Strategy) -> None:
    """ConfigError for other ways to shard, which this model was not prepared for."""
    if isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy)) and type(strategy) is not Sharded:
        raise ConfigError(
            f"trainer.strategy is {type(strategy).__name__}, whose checkpoints cannot be exported or resumed "
            "elsewhere; set --trainer.strategy=sharded (or ddp, where the student fits on one GPU)"
        )


def shard(module: nn.Module, strategy: Strategy) -> None:
    """Shard all networks and heads inside `module` over the processes of a `Sharded` strategy, once; under any other
    strategy do nothing.

    Weights are those of the first process. Every later call of a network must happen on all processes.

    Raises:
        ConfigError: for other sharding strategies; for trained parameters outside of networks and heads.
    """
    check_strategy(strategy)
    if not isinstance(strategy, Sharded) or any(isinstance(part, FSDPModule) for part in module.modules()):
        return
    mesh = strategy.device_mesh["data_parallel"]
    for unit in _units(module):
        if isinstance(unit, Encoder):
            # For `copy_whole`; past nn.Module's own setting of attributes, lest it be a part of the encoder.
            unit.__dict__["_skeleton"] = _skeleton(unit)
            for block in getattr(unit.backbone, "blocks", ()):
                _shard(block, mesh, strategy.root_device)
        _shard(unit, mesh, strategy.root_device)
    whole = [name for name, parameter in module.named_parameters() if not isinstance(parameter, DTensor)]
    if whole:
        raise ConfigError(
            f"{', '.join(whole[:3])} cannot be sharded: parameters must belong to a network or a head; "
            "use --trainer.strategy=ddp"
        )


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that are called with tensors alone."""
    if not isinstance(module, _UNITS):
        for child in module.children():
            yield from _units(child)
    elif next(module.parameters(), None) is not None:
        yield module


def _shard(unit: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
    for parameter in unit.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = from_first(parameter.data.to(device))
    # The outermost module too, whose parameters would else stay gathered until a backward pass, which the average of
    # the student never has: they could not be updated.
    fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def _skeleton(encoder: Encoder) -> Encoder:
    """A copy without memory."""
    tensors: Iterable[Tensor] = encoder.parameters()
    empty = {id(x): nn.Parameter(x.detach().to("meta"), x.requires_grad) for x in tensors}
    return copy.deepcopy(encoder, empty)


def compile_network(encoder: Encoder, backend: str = "inductor") -> None:
    """`Encoder.compile_fixed`; of a sharded encoder each block by itself, so that what gathers its weights before and
    frees them after stays outside of the graphs.
    """
    if not isinstance(encoder, FSDPModule):
        encoder.compile_fixed(backend)
        return
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)  # see compile_fixed
    for block in getattr(encoder.backbone, "blocks", ()):
        block.forward = torch.compile(block.forward, dynamic=False, backend=backend)


def copy_whole(encoder: Encoder) -> Encoder:
    """A copy that one process can use alone. Of a sharded encoder: on the CPU, and to be called on all processes."""
    if not isinstance(encoder, FSDPModule):
        return copy.deepcopy(encoder)
    found = copy.deepcopy(encoder.__dict__["_skeleton"])
    found.load_state_dict({key: gather(value) for key, value in encoder.state_dict().items()}, assign=True)
    found.spec = encoder.spec
    return found.train(encoder.training)


def gather(value: Any) -> Any:
    """A tensor's whole content on the CPU, from the parts on all processes; anything else as it is."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach().cpu()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def part_like(value: Any, own: Any) -> Any:
    """This process' part of a whole tensor that is to take the place of `own`; a value without parts as it is."""
    if not isinstance(own, DTensor) or not isinstance(value, Tensor) or value.shape != own.shape:
        return value
    # Without a source each process cuts its part out of the copy it has, and nothing is sent.
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
