"""What stands behind the numbers: versions, hashes, splits, wall time; and what the control with a leak shows."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2l.deploy.runtime.processor import processor
from g2l.evaluation.about import about_run
from g2l.evaluation.results import read_results
from g2l.sums import sha256
from scaled.parts import BLOCKS, read_parts

if TYPE_CHECKING:
    from scaled.whole import Study

Plain = dict[str, Any]
SHOWN = {"linear": "linear probe", "knn": "kNN"}
METRIC = "balanced accuracy"


def record(study: "Study", leak: Plain, slides: Plain | None, minutes: float) -> Plain:
    """For results.json.

    Args:
        leak: see `leak_of`. slides: see scaled/slides.py. minutes: that this call took, without trainings that former
            ones have done.
    """
    run = about_run(0)
    seeds = [study.folder(seed) for seed in range(study.seeds)]
    return {
        "run": {key: run[key] for key in ("versions", "finished")} | {"command": " ".join(["study.py", *sys.argv[1:]])},
        "budget": study.name,
        "processor": processor(),
        "at_once": study.at_once,
        "minutes": round(minutes, 1),
        "job_minutes": {name: round(seconds / 60, 2) for name, seconds in study.seconds.items()},
        "patches_sha256": study.digest,
        "splits": {folder.name: split_of(folder) for folder in seeds},
        "weights": {folder.name: weights_of(folder) for folder in seeds},
        "leak": leak,
        "slides": slides,
    }


def split_of(folder: Path) -> Plain:
    """The groups and patches of each part of a seed, and the hash of its parts.csv, which names them all."""
    rows = read_parts(folder)
    patches = Counter(row["part"] for row in rows)
    groups = Counter(part for _, part in {(row["group"], row["part"]) for row in rows})
    parts = {part: {"groups": groups[part], "patches": patches[part]} for part in BLOCKS}
    return parts | {"sha256": sha256(folder / "parts.csv")}


def weights_of(folder: Path) -> dict[str, str]:
    """Arm -> SHA-256 of its weights."""
    files = sorted(folder.glob("runs/*/student/model.safetensors"))
    return {file.parents[1].name: sha256(file) for file in files}


def leak_of(folder: Path) -> Plain:
    """Of the encoders of the control, the scores with whole groups held out and with single patches held out.

    Args: folder: of the seed that has it.
    Returns:
        encoder -> score -> {groups, patches, inflated}.
    """
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for name, results in (("groups", folder / "results" / "tissue"), ("patches", folder / "leak")):
        found = read_results([results])
        scores[name] = {(each.encoder, each.method): each.metrics[METRIC] for each in found}
    leak: Plain = {}
    for (encoder, method), value in scores["patches"].items():
        honest = scores["groups"][encoder, method]
        row = {"groups": honest, "patches": value, "inflated": value - honest}
        leak.setdefault(encoder, {})[f"{SHOWN[method]}, {METRIC}"] = row
    return leak


def leak_text(leak: Plain) -> str:
    """The control in Markdown, with one sentence on what it shows."""
    names = list(next(iter(leak.values())))
    lines = [f"| control: a split that leaks | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for encoder, row in leak.items():
        cells = [f"{row[name]['groups']:.3f} -> {row[name]['patches']:.3f}" for name in names]
        lines.append(f"| {encoder} | {' | '.join(cells)} |")
    grown = [row[name]["inflated"] for row in leak.values() for name in names]
    return "\n".join(
        [
            *lines,
            "",
            f"Split by patch instead of by group, {sum(each > 0 for each in grown)} of {len(grown)} scores are higher, "
            f"by {sum(grown) / len(grown):.3f} in the mean: copies of one field stand on both sides.",
        ]
    )
