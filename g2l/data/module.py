"""The DataModule: a cohort of slides, or patches already cut, as training and held-out streams.

Letters: `B` images of one process, `S` pixels of a patch.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule

from g2l.data.folders import PatchFiles
from g2l.data.labelled import LabelledPatches, labelled_patches
from g2l.data.opening import DEMO, open_data, prepare_demo
from g2l.data.source import CohortSource, OpenSlides, Repeated, Source
from g2l.data.stream import PatchStream
from g2l.data.streaming.faults import Ledger
from g2l.data.streaming.loader import PatchLoader
from g2l.data.streaming.screen import SCREENS, Quality
from g2l.errors import ConfigError
from g2l.slides.cohort import Cohort
from g2l.slides.quality import SHARPNESS_MPP
from g2l.slides.sampling import Sampler

# Held-out patches must not be drawn from the numbers of the training stream.
HELD_OUT_SEED = 2**32

Part = Literal["train", "val", "test"]


class SlideDataModule(LightningDataModule):
    """Draws patches on the fly from an indexed cohort, or takes those of a folder; whole patients are held out.

    A patch that cannot be read is replaced by another and recorded in faults.csv in the run's folder (of process r > 0
    of several: faults.r.csv); above 1 % the run ends.
    """

    def __init__(
        self,
        cohort: str,
        manifest: str | None = None,
        batch_size: int = 128,
        patch_size: int = 256,
        mpp: float | list[float] = 0.5,
        mpp_weights: list[float] | None = None,
        placing: Literal["tile", "random"] = "tile",
        weighting: Literal["uniform", "area"] = "uniform",
        balance: str | None = None,
        min_tissue: float = 0.5,
        patches_per_visit: int = 1,
        shuffle_visits: int = 256,
        quality: Quality = "none",
        repeat: int = 0,
        hold_out: str = "patient",
        held_out_fraction: float = 0.2,
        val_patches: int = 2048,
        num_workers: int = 0,
        threads: int = 2,
        prefetch: int = 2,
        timeout: float = 120.0,
        seed: int = 0,
    ) -> None:
        """Args:
        cohort: folder written by `g2l index`; or `demo`: the embedded cohort, drawn into cohorts/demo when absent; or
            a folder of patches already cut: images, HDF5 files, tar shards.
        manifest: CSV of what is known of patches already cut (patient, centre, split and more).
        batch_size: images per process and step.
        patch_size: pixels read per patch; the views crop from it (256 read for 224 seen, as published).
        mpp: resolution of the patches, um per px; or several, drawn as mpp_weights says, equally often without.
        mpp_weights: of each resolution.
        placing: tile: patches keep to the tiles that the slides are stored in, at a random offset, which is several
            times faster to read; random: anywhere.
        weighting: slides drawn equally often, or in proportion to their tissue.
        balance: a column of the cohort whose values are drawn equally often (centre, label, ...).
        min_tissue: share of a patch that must be tissue.
        patches_per_visit: so many training patches are cut from one block that is read once; faster, less varied.
        shuffle_visits: so many visits are mixed, and their blocks (four tiles or more each) kept in memory; a
            multiple of batch_size x processes x num_workers, or a block would be read by several of them.
        quality: what a patch should pass (after 15 rejections of one number the next is taken): nothing; hsv: 60 % of
            it has colours of H&E (Karasikov et al. 2025); sharp: it is not out of focus.
        repeat: after so many training patches the same come again, in other views; 0: patches without end. Teacher
            embeddings of patches that repeat can be kept (`g2l cache`).
        hold_out: column whose values are kept whole when slides are held out (the cohort's own `split` column, where
            it has one, is used and checked).
        held_out_fraction: share of these values that is held out.
        val_patches: held-out patches per validation, or test (rounded up to whole batches of all processes).
        num_workers: processes that read; 0 reads in the training process. threads: readers in each.
        prefetch: batches that each of them fills while one is in use.
        timeout: seconds that reading one patch may take, before the run ends with the name of the file.
        seed: of the stream; patch i is a pure function of (seed, i).
        """
        super().__init__()
        mpps = [float(one) for one in (mpp if isinstance(mpp, list) else [mpp])]
        least = {"patch_size": (patch_size, 1), "val_patches": (val_patches, 2), "threads": (threads, 1)}
        least |= {"prefetch": (prefetch, 1), "num_workers": (num_workers, 0)}
        least |= {"patches_per_visit": (patches_per_visit, 1), "shuffle_visits": (shuffle_visits, 1)}
        problems = [
            f"data.{name} is {value}, give {low} or more" for name, (value, low) in least.items() if value < low
        ]
        if batch_size < 2:
            problems.append(f"data.batch_size is {batch_size}; the losses compare images of a batch, so give 2 or more")
        if repeat and repeat < batch_size:
            problems.append(f"data.repeat is {repeat}, less than a batch; give 0 (patches without end) or many more")
        if not mpps or min(mpps) <= 0:
            problems.append(f"data.mpp is {mpp}, give um per px above 0")
        if mpp_weights is not None and (len(mpp_weights) != len(mpps) or min(mpp_weights) <= 0):
            problems.append(f"data.mpp_weights is {mpp_weights}, give a weight above 0 for each of {len(mpps)} mpp")
        if timeout <= 0:
            problems.append(f"data.timeout is {timeout}, give seconds above 0")
        if quality not in SCREENS:
            problems.append(f"data.quality is {quality}, give {', '.join(SCREENS)}")
        if quality == "sharp" and mpps and min(mpps) > SHARPNESS_MPP:
            problems.append(f"data.quality sharp cannot judge patches coarser than {SHARPNESS_MPP:g} um/px")
        if not 0 <= seed < HELD_OUT_SEED:
            problems.append(f"the seed is {seed}; give a whole number from 0 to {HELD_OUT_SEED - 1}")
        if problems:
            raise ConfigError("; ".join(problems))
        self.cohort_path, self.manifest, self.batch_size, self.patch_size = cohort, manifest, batch_size, patch_size
        self.mpps, self.mpp_weights = mpps, mpp_weights
        self.placing: Literal["tile", "random"] = placing
        self.weighting: Literal["uniform", "area"] = weighting
        self.balance, self.min_tissue = balance, min_tissue
        self.patches_per_visit, self.shuffle_visits = patches_per_visit, shuffle_visits
        self.quality: Quality = quality
        self.repeat = repeat
        self.hold_out, self.held_out_fraction, self.val_patches = hold_out, held_out_fraction, val_patches
        self.num_workers, self.threads, self.prefetch, self.timeout = num_workers, threads, prefetch, timeout
        self.seed = seed
        self.ledger = Ledger()
        self._data: Cohort | PatchFiles | None = None
        self._open: OpenSlides | None = None
        self._before = (0, 0)  # steps and patches of the run that this one goes on with

    @property
    def mpp(self) -> float | None:
        """The one resolution of all patches; None when there are several."""
        return self.mpps[0] if len(self.mpps) == 1 else None

    def prepare_data(self) -> None:
        """Draw and index the embedded cohort when it is asked for and not there yet (on one process only)."""
        if self.cohort_path == DEMO:
            prepare_demo()

    @property
    def data(self) -> Cohort | PatchFiles:
        """The cohort or the patches, opened on first use."""
        if self._data is None:
            self._data = open_data(self.cohort_path, self.manifest)
        return self._data

    @property
    def cohort(self) -> Cohort:
        """The cohort. ConfigError where patches already cut were given instead."""
        if isinstance(self.data, Cohort):
            return self.data
        raise ConfigError(f"data.cohort {self.cohort_path} holds patches, not slides; give a cohort made by g2l index")

    def setup(self, stage: str | None = None) -> None:
        """Open the cohort and hold out whole patients (or values of another column)."""
        self.split = self.data.split(self.hold_out, self.held_out_fraction, self.seed)
        self.ledger.dropping = isinstance(self.data, Cohort)
        if isinstance(self.data, Cohort):
            self.data.require_files()
        if self.trainer:
            rank = self.trainer.global_rank
            name = f"faults.{rank}.csv" if rank else "faults.csv"
            self.ledger.file = Path(self.trainer.default_root_dir) / name

    def source(self, part: Part) -> Source:
        """Where the patches of one part come from; those of training repeat where `repeat` says so."""
        source = self._endless(part)
        return Repeated(source, self.repeat) if self.repeat and part == "train" else source

    def _endless(self, part: Part) -> Source:
        if isinstance(self.data, PatchFiles):
            return self.data.source(self._rows(part), self._seed(part), self.patch_size)
        if self._open is None:
            self._open = OpenSlides(self.data)
        # Held-out patches are each from a place of their own: they say more for their number.
        visits = self.patches_per_visit if part == "train" else 1
        return CohortSource(self.sampler(part, visits), self._open, self.shuffle_visits)

    def sampler(self, part: Part, patches_per_visit: int = 1) -> Sampler:
        """The pure sampler of one part of the cohort."""
        return Sampler(
            self.cohort,
            self._rows(part),
            self._seed(part),
            self.patch_size,
            self.mpps,
            mpp_weights=self.mpp_weights,
            placing=self.placing,
            weighting=self.weighting,
            balance=self.balance,
            min_tissue=self.min_tissue,
            patches_per_visit=patches_per_visit,
            shuffle_visits=self.shuffle_visits,
        )

    def _rows(self, part: Part) -> list[int]:
        rows = self.split[part]
        if not rows:
            raise ConfigError(f"{self.cohort_path} has nothing in {part}; name some in the manifest's split column")
        return rows

    def _seed(self, part: Part) -> int:
        return self.seed if part == "train" else self.seed + HELD_OUT_SEED

    def _loader(self, part: Part, start: int, steps: int | None, first: int = 0) -> PatchLoader:
        trainer = self.trainer
        stream = PatchStream(
            self.source(part),
            self.batch_size,
            start=start,
            steps=steps,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            threads=self.threads,
            prefetch=self.prefetch,
            timeout=self.timeout,
            quality=self.quality,
            drop_slides=self.ledger.dropping,
            first=first,
        )
        workers = self.num_workers if part == "train" else min(self.num_workers, 2)
        on_gpu = trainer.strategy.root_device.type == "cuda" if trainer else False
        return PatchLoader(stream, workers, pin_memory=on_gpu)

    def train_dataloader(self) -> PatchLoader:
        """The endless training stream, beginning at the trainer's step (a resumed run reads nothing twice)."""
        trainer = self.trainer
        if trainer and trainer.limit_train_batches != 1.0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise ConfigError(
                "trainer.limit_train_batches would train on the same first patches again and again; the stream has no "
                "end, so set trainer.max_steps instead"
            )
        self._check_visits(trainer.world_size if trainer else 1)
        steps, patches = self._taken()
        start = steps * self._accumulated
        return self._loader("train", start, None, patches - start * self._together)

    @property
    def _together(self) -> int:
        """Patches of one batch of all processes."""
        return self.batch_size * (self.trainer.world_size if self.trainer else 1)

    def _taken(self) -> tuple[int, int]:
        """How many steps were made and patches taken so far, also by a run of other sizes before this one."""
        trainer = self.trainer
        steps, patches = self._before
        now = trainer.global_step if trainer else 0
        return now, patches + (now - steps) * self._accumulated * self._together

    @property
    def _accumulated(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def each_once(self, start: int) -> PatchLoader:
        """The `repeat` training patches from batch `start` on; the last batch is filled up with the first patches."""
        return self._loader("train", start, -(-self.repeat // self.batch_size) - start)

    def _check_visits(self, processes: int) -> None:
        together = self.batch_size * processes * max(1, self.num_workers)
        if self.patches_per_visit > 1 and self.shuffle_visits % together:
            good = -(-self.shuffle_visits // together) * together
            raise ConfigError(
                f"data.shuffle_visits is {self.shuffle_visits}, no multiple of {together} (batch_size x processes x "
                f"num_workers): patches of one visit would be read by several processes; give {good}"
            )
        if self.patches_per_visit > 1 and self.repeat % self.shuffle_visits:
            raise ConfigError(
                f"data.repeat is {self.repeat}, no multiple of data.shuffle_visits {self.shuffle_visits}: from the "
                "second time on, patches of one visit would be read by several processes; give "
                f"{-(-self.repeat // self.shuffle_visits) * self.shuffle_visits}"
            )

    def val_dataloader(self) -> PatchLoader:
        """The same held-out patches at every validation."""
        return self._held_out("val")

    def test_dataloader(self) -> PatchLoader:
        """As many patches of the test part of the split. ConfigError where it has none."""
        return self._held_out("test")

    def _held_out(self, part: Literal["val", "test"]) -> PatchLoader:
        world = self.trainer.world_size if self.trainer else 1
        there = len(self._rows(part)) if isinstance(self.data, PatchFiles) else self.val_patches
        return self._loader(part, 0, -(-min(self.val_patches, there) // (self.batch_size * world)))

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Take the faults out of a batch and enter them. SlideError: too many."""
        self.ledger.add(batch.get("faults", ()), len(batch["index"]))
        return {name: value for name, value in batch.items() if name != "faults"}

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """The images alone: numbers are used on the CPU, and fetching them back would wait for the GPU.

        Only memory for CUDA is pinned; from other memory a copy that does not block would race with its next use.
        """
        return batch | {"images": batch["images"].to(device, non_blocking=device.type == "cuda")}

    def state_dict(self) -> dict[str, Any]:
        """What was found so far goes into the checkpoint, and how many patches were taken."""
        steps, patches = self._taken()
        return self.ledger.state_dict() | {"steps": steps, "patches": patches, "accumulated": self._accumulated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the checkpoint was."""
        self.ledger.load_state_dict(state_dict)
        if state_dict["accumulated"] != self._accumulated:
            raise ConfigError(  # Lightning would end a step where the other number of batches ended one
                f"trainer.accumulate_grad_batches is {self._accumulated}, but the checkpoint's run had "
                f"{state_dict['accumulated']}; go on with that, and change data.batch_size instead"
            )
        self._before = (state_dict["steps"], state_dict["patches"])

    def labelled(self, part: Literal["train", "test"], count: int) -> LabelledPatches:
        """Up to `count` patches with classes from the slides' region maps, or from the `label` column without them."""
        if isinstance(self.data, PatchFiles):
            return self.data.labelled(self._rows(part), count, self.patch_size)
        return labelled_patches(self.cohort, self.sampler(part), count, self.threads)
