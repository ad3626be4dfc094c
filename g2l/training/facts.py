"""What a checkpoint says of its training: counts for the card of an export, and where the data lay."""

from pathlib import Path
from typing import Any

from lightning import Trainer

from g2l.data.folders import PatchFiles
from g2l.data.module import SlideDataModule
from g2l.data.opening import DEMO, DEMO_FOLDER

Facts = dict[str, Any]


def data_facts(data: object) -> Facts:
    """Of the training part of a SlideDataModule that was set up; empty of any other data. Counts, and no names but the
    place on this machine (`data`), which an export reads patches from and never passes on.

    Keys: kind (slides, or patches already cut), slides, patches, patients, centres (None: not known), mpp, patch_size,
    batch_size (of one process), data (cohort, manifest, hold_out, fraction, seed).
    """
    if not isinstance(data, SlideDataModule):
        return {}
    rows, whole = data.split["train"], data.data

    def count(name: str) -> int | None:
        if name not in whole.columns:
            return None
        column = whole.column(name)
        known = {column[row] for row in rows} - {None, ""}
        return len(known) or None

    cut = isinstance(whole, PatchFiles)
    place = DEMO_FOLDER if data.cohort_path == DEMO else Path(data.cohort_path)
    return {
        "kind": "patches" if cut else "slides",
        "slides": count("slide") if cut else len(rows),
        "patches": len(rows) if cut else None,
        "patients": count("patient"),
        "centres": count("centre"),
        "mpp": list(data.mpps),
        "patch_size": data.patch_size,
        "batch_size": data.batch_size,
        "data": {
            "cohort": str(place.resolve()),
            "manifest": str(Path(data.manifest).resolve()) if data.manifest else None,
            "hold_out": data.hold_out,
            "fraction": data.held_out_fraction,
            "seed": data.seed,
        },
    }


def step_facts(facts: Facts, trainer: Trainer, losses: dict[str, float]) -> Facts:
    """The same with how far the training has come, and the weights of its losses by name."""
    seen: Facts = {"steps": trainer.global_step, "losses": losses}
    if "batch_size" in facts:
        batches = trainer.accumulate_grad_batches * trainer.world_size
        seen["patches_seen"] = trainer.global_step * batches * facts["batch_size"]
    return facts | seen
