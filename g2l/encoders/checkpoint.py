"""The student inside a checkpoint of `g2l fit`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

STUDENT, AVERAGE = "student.", "ema.averaged.student."


def student_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of the run's result (the student, or its moving average where the run says so), without the prefix
    that they have in the checkpoint.
    """
    prefix = AVERAGE if checkpoint.get("g2l", {}).get("result") == "ema" else STUDENT
    state: dict[str, Tensor] = checkpoint["state_dict"]
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
