"""Which encoder an evaluation means, as it stands in YAML."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Choice:
    """An encoder of the evaluation.

    Args:
        model: a name of the catalogue or of timm, a YAML of one's own, a checkpoint of `g2l fit`, a folder written by
            `g2l export`.
        weights: its weight file, or a folder that holds `<name>.safetensors`; by default the evaluation's `weights`.
        init: `random` takes random weights instead: the baseline that every trained encoder must beat.
        img_size: takes images of this size instead of its own.
    """

    model: str
    weights: str | None = None
    init: Literal["weights", "random"] = "weights"
    img_size: int | None = None
