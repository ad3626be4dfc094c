"""An arm as the config of one `g2l fit`, and the encoders of a seed as that of one `g2l evaluate`."""

from collections import Counter
from pathlib import Path
from typing import Any

from scaled.arms import NONE, TEACHER, Arm
from scaled.files import read_rows
from scaled.plan import Budget
from scaled.trainer import trainer

Plain = dict[str, Any]
# Of a group in the made centres; more copies of one field say little more. Fewer neighbours could all be such copies.
COPIES = 8
NEIGHBOURS = 3 * COPIES
FOLDS = 5  # on which a probe's penalty is chosen


def training(
    name: str, arm: Arm, budget: Budget, student: Path, patches: Path, seed: int, folder: Path, steps: int
) -> Plain:
    """The config of one training.

    Args:
        student: YAML of the network that is trained. patches: folder of all. folder: of the seed.
    """
    return {
        "seed_everything": seed,
        "model": {
            "student": str(student),
            "student_init": "random",
            "weights": str(folder / "networks"),
            "lr": budget.rate,
            "warmup_steps": steps // 8,
            "observe_patches": budget.observe,
            **arm.model,
        },
        "data": {
            "cohort": str(patches),
            "manifest": str(folder / arm.manifest),
            "hold_out": "group",
            "batch_size": budget.batch // 2 if arm.crops else budget.batch,
            "patch_size": budget.size,
            "val_patches": 4 * budget.batch,
            "threads": budget.threads or 4,
        },
        "trainer": trainer(folder / "runs" / slug(name), steps, budget.accelerator, budget.precision),
    }


def judging(encoders: list[str], student: Path, out: Path, seed: int, folder: Path, real: bool) -> Plain:
    """The config of the evaluation of one seed.

    Args:
        encoders: trainings. student: YAML of the untrained student. out: folder of the study, of the patches.
        real: the patches have centres of their own; else those that were made.
    """
    patches = {"listing": str(folder / "test.csv"), "root": str(out / "patches"), "name": "patches"}
    tissue = {"class_path": "Listing", "init_args": patches | {"columns": {"patient": "group"}}}
    made = {"listing": str(folder / "centres.csv"), "name": "made centres", "columns": {"patient": "group"}}
    centres = tissue if real else {"class_path": "Listing", "init_args": made}
    tasks = {
        "tissue": ("PatchClassification", {"data": tissue, **by_folds(folder / "test.csv")}),
        "retrieval": ("Retrieval", {"data": tissue}),
        "robustness": ("Robustness", {"data": centres, "k": NEIGHBOURS, "clustering": False, "rescanned": not real}),
        "like the teacher": ("Similarity", {"data": tissue, "teacher": TEACHER}),
    }
    return {
        "encoders": chosen(encoders, student, folder),
        "tasks": {name: {"class_path": kind, "init_args": given} for name, (kind, given) in tasks.items()},
        "out": str(folder / "results"),
        "cache": str(folder / "embeddings"),
        "seed": seed,
    }


def leaking(encoders: list[str], student: Path, out: Path, seed: int, folder: Path) -> Plain:
    """The control: the same patches and encoders, split at random, so that copies of one field are on both sides."""
    listing = {"listing": str(folder / "leak.csv"), "root": str(out / "patches"), "name": "leak", "independent": True}
    data = {"class_path": "Listing", "init_args": listing}
    return {
        "encoders": chosen(encoders, student, folder),
        "tasks": {
            "tissue": {
                "class_path": "PatchClassification",
                "init_args": {"data": data, **by_folds(folder / "leak.csv")},
            }
        },
        "out": str(folder / "leak"),
        "cache": str(folder / "embeddings"),
        "seed": seed,
        "allow_leak": True,  # without it `g2l evaluate` finds the copies, and refuses
    }


def by_folds(tested: Path) -> Plain:
    """The probe's penalty is chosen on folds, by a rule for few groups; luck on a part of them would choose otherwise.

    Args:
        tested: manifest, in which a patch without a group is one; there are as many folds as the class of fewest groups
            has of them to fit on, at most `FOLDS`.
    """
    fitted = [row for row in read_rows(tested) if row["split"] == "train"]
    groups = Counter(label for label, _ in {(row["label"], row.get("group", row["path"])) for row in fitted})
    return {"choice": "folds", "folds": max(2, min(FOLDS, *groups.values()))}


def chosen(encoders: list[str], student: Path, folder: Path) -> dict[str, Any]:
    """The encoders as `g2l evaluate` takes them: exported folders, and the student before training."""
    found: dict[str, Any] = {name: str(folder / "runs" / slug(name) / "student") for name in encoders}
    return found | {NONE: {"model": str(student), "init": "random"}}


def slug(name: str) -> str:
    """A name as a folder."""
    return name.replace(" ", "_")
