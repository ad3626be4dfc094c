"""What processes share: sums and rows that gradients flow through, and a tensor that all take from the first."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes of the running group; 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in the running group; 0 without a group."""
    return dist.get_rank() if world_size() > 1 else 0


def all_sum(x: Tensor) -> Tensor:
    """Sum of `x` over all processes; every process receives it. Without a group: `x` itself.

    Its backward pass sums the gradients of all processes. When every process computes the same loss from the sum, a
    local gradient is therefore `world_size` times its share of the true one, and the averaging of
    DistributedDataParallel turns the sum of the shares into exactly the gradient of one process with the whole batch.
    """
    return _AllSum.apply(x) if world_size() > 1 else x


class _AllSum(torch.autograd.Function):
    """Sum over processes, forwards and backwards. torch.distributed.nn has the same, deprecated since 2.12."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        # A copy, because the collective works in place on what it is given.
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _AllSum.apply(gradients[0])


def all_rows(x: Tensor) -> Tensor:
    """The rows of all processes (N, D) in the order of their ranks, from (B, D) of each, B the same everywhere.

    Its backward pass gives each process the gradients of all processes with respect to its own rows. A loss that is
    a mean over the local rows, each compared with all rows, is thereby averaged to the right one by
    DistributedDataParallel.
    """
    if world_size() == 1:
        return x
    rows = x.new_zeros(world_size(), *x.shape)
    rows[rank()] = x
    return all_sum(rows).flatten(0, 1)


@torch.no_grad()
def from_first(x: Tensor) -> Tensor:
    """The first process's `x`, on all of them; no gradient. Without a group: `x` itself."""
    if world_size() > 1:
        x = x.clone()
        dist.broadcast(x, 0)
    return x
