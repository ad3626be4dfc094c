"""Rates, momentum and temperature as pure functions of the step, so that resuming needs no scheduler state."""

import math


def cosine(step: int, total: int, start: float, end: float, warmup: int = 0) -> float:
    """Linear from 0 to `start` over `warmup` steps, then half a cosine from `start` to `end` at step `total`.

    Step `warmup` gives exactly `start`, steps from `total` on exactly `end`; step 0 of a warm-up gives
    start / warmup (a first step of rate 0 would be lost).
    """
    if step < warmup:
        return start * (step + 1) / warmup if step + 1 < warmup else start
    if step >= total:
        return end
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def linear(step: int, start: float, end: float, steps: int) -> float:
    """From `start` at step 0 in a straight line to `end` at step `steps`, and `end` from there on.

    The teacher's temperature rises so in DINO (.04 to .07 over 37,500 steps); its code arrives one step earlier.
    """
    return end if step >= steps else start + (end - start) * step / steps


def scaled_lr(base: float, batch: int) -> float:
    """The learning rate for a batch (images of all processes): `base` holds for 1024, and the root of the size scales.

    Source: DINOv2's square-root rule, with GPFM's base of 4e-4; 1536 images give 4.90e-4.
    """
    return base * math.sqrt(batch / 1024)
