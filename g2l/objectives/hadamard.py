"""Hadamard matrices: orthogonal, every entry of the same size."""

import torch
from torch import Tensor


def hadamard(order: int) -> Tensor:
    """A Hadamard matrix (order, order), float64, of entries 1 and -1: H @ H.T = order * identity.

    Orders are (q + 1) * 2^k with a prime q = 3 mod 4, 2 (q + 1) * 2^k with a prime q = 1 mod 4, and 2^k: among them
    the width of every common encoder (1536 = 12 * 2^7, 1280 = 20 * 2^6, 1408 = 44 * 2^5). None exists for an order
    that is neither 1, 2, nor a multiple of 4.

    Raises:
        ValueError: no such order.
    Source: Sylvester 1867 for the doubling, Paley 1933 for the rest.
    """
    core, doublings = order, 0
    while core > 0:
        matrix = _core(core)
        if matrix is not None:
            sylvester = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
            for _ in range(doublings):
                matrix = torch.kron(sylvester, matrix)
            return matrix
        if core % 2:
            break
        core, doublings = core // 2, doublings + 1
    raise ValueError(f"no Hadamard matrix of order {order} is known here; PHI-S needs one as wide as the features")


def _core(n: int) -> Tensor | None:
    """A matrix of order n by Paley's first or second construction, or of order 1; None where neither applies."""
    if n == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if n % 4:
        return None
    if _is_prime(n - 1):  # = 3 mod 4
        return torch.eye(n, dtype=torch.float64) + _conference(n - 1)
    q = n // 2 - 1
    if q % 4 == 1 and _is_prime(q):
        signs = torch.tensor([[[1.0, 1.0], [1.0, -1.0]], [[1.0, -1.0], [-1.0, -1.0]]], dtype=torch.float64)
        return torch.kron(_conference(q), signs[0]) + torch.kron(torch.eye(q + 1, dtype=torch.float64), signs[1])
    return None


def _conference(q: int) -> Tensor:
    """(q + 1, q + 1): 0 on the diagonal, else 1 or -1, rows orthogonal; skew for q = 3 mod 4, else symmetric."""
    number = torch.arange(q)
    character = -torch.ones(q, dtype=torch.float64)  # 1 for squares mod q, -1 for the others, 0 for 0
    character[number * number % q] = 1
    character[0] = 0
    matrix = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    matrix[0, 1:] = 1
    matrix[1:, 0] = -1 if q % 4 == 3 else 1
    matrix[1:, 1:] = character[(number[:, None] - number) % q]
    return matrix


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
