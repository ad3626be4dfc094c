"""Sums over all processes that gradients flow through."""

import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce


def world_size() -> int:
    """Number of processes of the running group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_sum(x: Tensor) -> Tensor:
    """Sum of `x` over all processes; every process receives it. Without a group: `x` itself.

    Its backward pass sums the gradients of all processes. When every process computes the same loss from the sum, a
    local gradient is therefore `world_size` times its share of the true one, and the averaging of
    DistributedDataParallel turns the sum of the shares into exactly the gradient of one process with the whole batch.
    """
    # A copy, because the collective works in place on what it is given.
    return all_reduce(x.clone()) if world_size() > 1 else x
