"""Small encoders with weight files, and batches in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, IterableDataset

from g2l.data.views import Views
from g2l.encoders.encoder import create_encoder
from g2l.training.distiller import Batch, Distiller
from g2l.training.terms import Term

SIZE = 32

ENCODER = """\
architecture: vit_tiny_patch16_224
args: {{img_size: 32, patch_size: 8, embed_dim: {width}, depth: {depth}, num_heads: 2, global_pool: token}}
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
size: 32
licence: Apache-2.0
"""


@dataclass(frozen=True)
class Networks:
    """Paths of a small student's and a small teacher's YAML, and the folder of their weights."""

    student: str
    teacher: str
    weights: str

    def distiller(self, terms: dict[str, Term], **arguments: Any) -> Distiller:
        """A Distiller over them."""
        torch.manual_seed(0)
        return Distiller(
            self.student, terms, weights=self.weights, views=Views(size=SIZE), observe_patches=16, **arguments
        )


def write_networks(folder: Path) -> Networks:
    """Write both YAMLs and their weights into `folder`."""
    for name, width, depth in (("student", 16, 1), ("teacher", 24, 2)):
        path = folder / f"{name}.yaml"
        path.write_text(ENCODER.format(width=width, depth=depth))
        torch.manual_seed(width)
        backbone = create_encoder(str(path), init="random").backbone
        # Trained networks have spread-out features; a fresh ViT's hardly differ between images.
        state = {key: value * 3 if value.ndim > 1 else value for key, value in backbone.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
    return Networks(str(folder / "student.yaml"), str(folder / "teacher.yaml"), str(folder))


def batches(count: int, size: int = 8, seed: int = 0) -> list[Batch]:
    """Batches as the stream delivers them, of smooth random images."""
    generator = torch.Generator().manual_seed(seed)
    made: list[Batch] = []
    for step in range(count):
        coarse = torch.rand(size, 3, 5, 5, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, SIZE + 4, mode="bicubic").clamp(0, 1)
        made.append(
            {
                "images": (fine * 255).byte().permute(0, 2, 3, 1).contiguous(),
                "index": torch.arange(step * size, (step + 1) * size),
                "slides": [f"slide-{row % 3}" for row in range(size)],
            }
        )
    return made


class Stream(IterableDataset[Batch]):
    """Batches without a length, like the stream of a cohort."""

    def __init__(self, made: list[Batch]) -> None:
        """Args: made: what to deliver."""
        self.made = made

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        yield from self.made


def loader(made: list[Batch]) -> DataLoader[Any]:
    """A loader over whole batches."""
    return DataLoader(Stream(made), batch_size=None)
