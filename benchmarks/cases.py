"""The trainings that benchmarks/step.py measures: shipped configs with random weights, of real size or of small."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from clock import Timed
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor

from g2l import cli  # noqa: F401  short class names in YAML resolve to what is imported there
from g2l.data.module import SlideDataModule
from g2l.encoders.build import build_backbone
from g2l.encoders.catalog import get_spec
from g2l.training.batch import Batch

ROOT = Path(__file__).parents[1]
STEPS = 100_000  # of the run that a measurement is taken from, for its schedules


class Case(NamedTuple):
    """One training. batch, small_batch: images of a step, of real size and of small."""

    config: str
    title: str
    batch: int
    small_batch: int


CASES = {
    "g2l": Case("breast.yaml", "G2L, g/14 -> L/14", 128, 32),
    "gpfm": Case("gpfm_faithful.yaml", "GPFM, three experts", 64, 8),
    "unified": Case("unified.yaml", "unified, giga teacher and expert", 64, 8),
}

_COMMON: dict[str, Any] = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
_VIT = {**_COMMON, "architecture": "vit_tiny_patch16_224"}
_STUDENT = {
    **_VIT, "size": 128,
    "args": {"img_size": 128, "embed_dim": 128, "depth": 4, "num_heads": 2, "mlp_ratio": 3.0, "global_pool": "token"},
}  # fmt: skip
_GIGA = {
    **_VIT, "size": 128,
    "args": {"img_size": 128, "embed_dim": 192, "depth": 7, "num_heads": 3, "global_pool": "token"},
}  # fmt: skip
_EXPERT = {**_VIT, "size": 112, "args": {"img_size": 112, "embed_dim": 128, "depth": 4, "num_heads": 2}}
_CONCH = {
    **_COMMON, "architecture": "conch-visual", "size": 112, "pooling": "native",
    "args": {"img_size": 112, "embed_dim": 96, "depth": 3, "num_heads": 2, "width": 64, "pool_heads": 2},
}  # fmt: skip
# What stands in for a network where sizes are small: as the demo's, and like the real ones in grid, pooling and order.
SMALL: dict[str, dict[str, Any]] = {
    "hibou-l": _STUDENT,
    "configs/encoders/dinov2_l.yaml": _STUDENT,
    "h-optimus-0": _GIGA,
    "midnight-12k": {**_GIGA, "pooling": "cls+mean"},
    "uni": _EXPERT,
    "phikon": {**_EXPERT, "args": {**_EXPERT["args"], "embed_dim": 96, "depth": 3}},
    "configs/encoders/conch_in_gpfm.yaml": _CONCH,
}
SMALL_VIEWS = {"size": 128, "local_size": 48}
SMALL_PATCH = 144
SMALL_HEAD = {"hidden": 256, "bottleneck": 64, "prototypes": 4096}


class Setting(NamedTuple):
    """What a config says of a training.

    model: arguments of the Distiller. patch: side of the patches in px. mpp: um per px. precision, clip: the trainer's.
    """

    model: dict[str, Any]
    patch: int
    mpp: float
    precision: str
    clip: float


def read_setting(case: Case, small: bool, folder: Path) -> Setting:
    """A shipped config; `small`: with stand-ins for its networks, whose descriptions go into `folder`."""
    config: Any = OmegaConf.load(ROOT / "configs" / case.config)
    config.model.weights = None
    model: Any = OmegaConf.to_container(config.model, resolve=True)
    patch = SMALL_PATCH if small else config.data.patch_size

    def named(network: str) -> str:
        if small:
            path = folder / f"small-{Path(network).stem}.yaml"
            path.write_text(yaml.safe_dump(SMALL[network]))
            return str(path)
        return str(ROOT / network) if network.endswith(".yaml") else network

    model["student"] = named(model["student"])
    for term in model["terms"].values():
        arguments = term["init_args"]
        arguments |= {key: named(arguments[key]) for key in ("teacher", "expert") if key in arguments}
        if small and term["class_path"] in ("Dino", "Ibot"):
            arguments |= SMALL_HEAD
    if small:
        views = model["views"]["init_args"]
        views |= {key: side for key, side in SMALL_VIEWS.items() if key in views}
    return Setting(
        model, patch, config.data.mpp, config.trainer.precision, float(config.trainer.get("gradient_clip_val", 1.0))
    )


def frozen_in(model: dict[str, Any]) -> list[str]:
    """Names of the frozen networks that the terms of a model name."""
    arguments = [term["init_args"] for term in model["terms"].values()]
    return sorted({one[key] for one in arguments for key in ("teacher", "expert") if key in one})


def write_random_weights(names: Iterable[str], folder: Path, device: torch.device) -> None:
    """Random weights of frozen networks as files, in bfloat16: the Distiller then loads them as it loads any others.

    Not zeros: a GPU multiplies those with less power and so faster. Drawn on `device`: a billion take a CPU a minute.
    """
    for spec in map(get_spec, names):
        file = folder / f"{spec.name}.safetensors"
        if not file.exists():
            with torch.device(device):
                state = build_backbone(spec).state_dict()
            save_file({key: value.bfloat16().contiguous() for key, value in state.items()}, file)


def build(setting: Setting, folder: Path, device: torch.device, batch: int, compiles: bool) -> Timed:
    """The Distiller of a setting with random weights, as the command line would build it."""
    write_random_weights(frozen_in(setting.model), folder, device)
    torch.manual_seed(0)  # here, since files that are there already are not drawn again
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Timed, "model")
    own = {"weights": str(folder), "student_init": "random", "observe_patches": batch, "compile": compiles}
    return parser.instantiate(parser.parse_object({"model": setting.model | own}))["model"]


class Synthetic(LightningDataModule):
    """Smooth random patches without end, in memory: loading costs nothing, numbers never come again."""

    def __init__(self, batch: int, patch: int, kinds: int = 4) -> None:
        """Args: batch: images of a step; patch: their side in px; kinds: different batches, in turns."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self._images: list[Tensor] = []
        for _ in range(kinds):
            coarse = torch.rand(batch, 3, 9, 9, generator=generator)
            fine = torch.nn.functional.interpolate(coarse, patch, mode="bilinear").mul_(255).byte()
            images = fine.permute(0, 2, 3, 1).contiguous()
            self._images.append(images.pin_memory() if torch.cuda.is_available() else images)

    def train_dataloader(self) -> Any:
        """An iterable of batches."""
        return _Endless(self._images)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """As for real patches."""
        return SlideDataModule.transfer_batch_to_device(self, batch, device, dataloader_idx)  # type: ignore[arg-type]


class _Endless:
    def __init__(self, images: list[Tensor]) -> None:
        self._images = images

    def __iter__(self) -> Any:
        step = 0
        while True:
            images = self._images[step % len(self._images)]
            index = torch.arange(step * len(images), (step + 1) * len(images))
            batch: Batch = {"images": images, "index": index, "slides": ["synthetic"] * len(images)}
            yield batch
            step += 1
