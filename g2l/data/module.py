"""The DataModule: a cohort of slides as training and held-out streams of patches.

Letters: `B` images of one process, `S` pixels of a patch.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from g2l.data.labelled import LabelledPatches, labelled_patches
from g2l.data.stream import PatchStream
from g2l.errors import ConfigError
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler

DEMO = "demo"
DEMO_FOLDER = Path("cohorts/demo")
# Held-out patches must not be drawn from the numbers of the training stream.
HELD_OUT_SEED = 2**32


def _belongs(folder: Path, manifest: Path) -> bool:
    """Whether the cohort in `folder` was indexed from this very manifest, where its slides are now."""
    table = folder / "cohort.parquet"
    if not table.exists() or table.stat().st_mtime < manifest.stat().st_mtime:
        return False
    return Cohort.open(folder)[0].path.is_relative_to(manifest.parent.resolve())


class SlideDataModule(LightningDataModule):
    """Draws patches on the fly from an indexed cohort; whole patients are held out."""

    def __init__(
        self,
        cohort: str,
        batch_size: int = 128,
        patch_size: int = 256,
        mpp: float = 0.5,
        hold_out: str = "patient",
        held_out_fraction: float = 0.2,
        val_patches: int = 2048,
        weighting: Literal["uniform", "area"] = "uniform",
        min_tissue: float = 0.5,
        num_workers: int = 0,
        threads: int = 2,
        seed: int = 0,
    ) -> None:
        """Args:
        cohort: folder written by `g2l index`, or `demo`: the embedded cohort, drawn into cohorts/demo when absent.
        batch_size: images per process and step.
        patch_size: pixels read per patch; the views crop from it (256 read for 224 seen, as published).
        mpp: resolution of the patches, um per px.
        hold_out: column whose values are kept whole when slides are held out (the cohort's own `split` column, where
            it has one, is used and checked).
        held_out_fraction: share of these values that is held out.
        val_patches: held-out patches per validation (rounded up to whole batches of all processes).
        weighting: slides drawn equally often, or in proportion to their tissue.
        min_tissue: share of a patch that must be tissue.
        num_workers: processes that read; 0 reads in the training process. threads: readers in each.
        seed: of the stream; patch i is a pure function of (seed, i).
        """
        super().__init__()
        if batch_size < 2:
            raise ConfigError(
                f"data.batch_size is {batch_size}; the losses compare images of a batch, so give 2 or more"
            )
        if not 0 <= seed < HELD_OUT_SEED:
            raise ConfigError(f"the seed is {seed}; give a whole number from 0 to {HELD_OUT_SEED - 1}")
        if patch_size < 1 or mpp <= 0 or val_patches < 2:
            raise ConfigError(
                f"data.patch_size {patch_size}, data.mpp {mpp} and data.val_patches {val_patches} must be at least 1, "
                "above 0 and at least 2"
            )
        self.cohort_path, self.batch_size, self.patch_size, self.mpp = cohort, batch_size, patch_size, mpp
        self.hold_out, self.held_out_fraction, self.val_patches = hold_out, held_out_fraction, val_patches
        self.weighting: Literal["uniform", "area"] = weighting
        self.min_tissue, self.num_workers, self.threads, self.seed = min_tissue, num_workers, threads, seed
        self._cohort: Cohort | None = None

    def prepare_data(self) -> None:
        """Draw and index the embedded cohort when it is asked for and not there yet (on one process only)."""
        if self.cohort_path == DEMO:
            from g2l.data.demo import draw_cohort
            from g2l.slides.index import index

            manifest = draw_cohort(DEMO_FOLDER / "drawn")
            if not _belongs(DEMO_FOLDER, manifest):
                index(str(manifest.parent), str(DEMO_FOLDER), manifest=str(manifest))

    @property
    def cohort(self) -> Cohort:
        """The cohort, opened on first use."""
        if self._cohort is None:
            self._cohort = Cohort.open(DEMO_FOLDER if self.cohort_path == DEMO else Path(self.cohort_path))
        return self._cohort

    def setup(self, stage: str | None = None) -> None:
        """Open the cohort and hold out whole patients (or values of another column)."""
        self.split = self.cohort.split(self.hold_out, self.held_out_fraction, self.seed)
        self.cohort.require_files()

    def sampler(self, part: Literal["train", "val", "test"]) -> Sampler:
        """The pure sampler of one part of the cohort."""
        seed = self.seed if part == "train" else self.seed + HELD_OUT_SEED
        slides = self.split[part]
        if not slides:
            raise ConfigError(
                f"cohort {self.cohort_path} has no {part} slides; name them in the manifest's split column"
            )
        return Sampler(
            self.cohort, slides, seed, self.patch_size, self.mpp, weighting=self.weighting, min_tissue=self.min_tissue
        )

    def _loader(self, part: Literal["train", "val"], start: int, steps: int | None) -> DataLoader[dict[str, Any]]:
        trainer = self.trainer
        stream = PatchStream(
            self.sampler(part),
            self.cohort,
            self.batch_size,
            start=start,
            steps=steps,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            threads=self.threads,
        )
        workers = self.num_workers if part == "train" else min(self.num_workers, 2)
        return DataLoader(
            stream, batch_size=None, num_workers=workers, pin_memory=torch.cuda.is_available(), prefetch_factor=None
        )

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The endless training stream, beginning at the trainer's step (a resumed run reads nothing twice)."""
        trainer = self.trainer
        if trainer and trainer.limit_train_batches != 1.0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ConfigError(
                "trainer.limit_train_batches would train on the same first patches again and again; the stream has no "
                "end, so set trainer.max_steps instead"
            )
        start = trainer.global_step * trainer.accumulate_grad_batches if trainer else 0
        return self._loader("train", start, None)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """The same held-out patches at every validation."""
        world = self.trainer.world_size if self.trainer else 1
        return self._loader("val", 0, -(-self.val_patches // (self.batch_size * world)))

    def labelled(self, part: Literal["train", "test"], count: int) -> LabelledPatches:
        """Up to `count` patches with classes from the slides' region maps, or from the `label` column without them."""
        return labelled_patches(self.cohort, self.sampler(part), count, self.threads)
