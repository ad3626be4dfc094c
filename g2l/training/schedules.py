"""Learning rate and weight decay as pure functions of the step, so that resuming needs no scheduler state."""

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
