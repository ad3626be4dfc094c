"""What the two paths of scaled/slides.py came to with one patient held out."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from g2l.evaluation.report.words import number
from g2l.evaluation.results import read_results
from scaled.files import read_rows
from scaled.slide_patches import LIST
from scaled.slide_runs import CUT, NONE, STREAMED, Budget

Losses = dict[str, dict[int, float]]


def summary(
    runs: Mapping[str, Path],
    judged: Path,
    results: Path,
    patient: str,
    budget: Budget,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """All of one held-out patient, from the files that the verbs left.

    Args:
        runs: path -> folder of its training. judged: folder of the patches that judge. results: of the evaluation.
        seconds: wall time of each verb, by what it did.
    Returns:
        held_out, chance (share of neighbours that unrelated embeddings share), k; slides: name -> patches judged;
        scores: encoder -> cka, cka_unbiased, neighbour_overlap, by_slide (the overlap), parameters; training: path ->
        patches, losses (step -> value), val_loss, val_cka, seconds; agreement: of the two paths; seconds: of all.
    """
    slide_of = {row["path"]: row["slide"] for row in read_rows(judged / LIST)}
    scores: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    for result in read_results([results]):
        facts, overlap = result.outcome.facts, result.outcome.predictions["overlap"]
        of = np.array([slide_of[str(name)] for name in result.outcome.predictions["id"]])
        scores[result.encoder] = {
            "cka": facts["linear CKA"],
            "cka_unbiased": facts["linear CKA, unbiased"],
            "neighbour_overlap": result.metrics["neighbour overlap"],
            "by_slide": {str(name): float(overlap[of == name].mean()) for name in np.unique(of)},
            "parameters": result.about["encoder"]["parameters"],
        }
    logged = {name: losses(run) for name, run in runs.items()}
    training = {
        name: {
            "patches": budget.steps * budget.batch,
            "losses": log["train/loss"],
            "val_loss": _last(log["val/loss"]),
            "val_cka": _last(log["val/cka"]),
            "seconds": seconds[name],
        }
        for name, log in logged.items()
    }
    names = sorted(set(slide_of.values()))
    return {
        "held_out": patient,
        "slides": {name: list(slide_of.values()).count(name) for name in names},
        "k": facts["k"],
        "chance": facts["overlap by chance"],
        "scores": scores,
        "training": training,
        "agreement": agreement(runs),
        "seconds": sum(seconds.values()),
        "interval": "none: one patient is held out, and intervals are of patients",
    }


def agreement(runs: Mapping[str, Path]) -> dict[str, Any]:
    """How far the two students and their logged losses are from each other; 0 where they are equal bit for bit."""
    one, other = (load_file(runs[name] / "student" / "model.safetensors") for name in (STREAMED, CUT))
    same = one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    apart = [np.abs(one[name].astype(np.float64) - other[name]).max() for name in one.keys() & other.keys()]
    first, second = (losses(runs[name])["train/loss"] for name in (STREAMED, CUT))
    steps = first.keys() & second.keys()
    return {
        "same_weights": same,
        "largest_difference_of_a_weight": float(max(apart)),
        "same_losses": first == second,
        "largest_difference_of_a_loss": max(abs(first[step] - second[step]) for step in steps),
        "losses_compared": len(steps),
    }


def table(result: dict[str, Any]) -> str:
    """Markdown of what `run_slides` returns: each patient and encoder, then how far the paths are apart."""
    lines = [
        "| held out | | CKA with the teacher | unbiased | shared neighbours (by chance) |",
        "|---|---|---|---|---|",
    ]
    said: list[str] = []
    for patient, found in result["patients"].items():
        for name in (NONE, STREAMED, CUT):
            score = found["scores"][name]
            figures = " | ".join(number(score[what]) for what in ("cka", "cka_unbiased", "neighbour_overlap"))
            lines.append(f"| {patient} | {name} | {figures} ({number(found['chance'])}) |")
        apart = found["agreement"]
        weights, loss = apart["largest_difference_of_a_weight"], apart["largest_difference_of_a_loss"]
        said.append(
            f"Patient {patient} held out: the weights of the two students are "
            + ("the same, bit for bit" if apart["same_weights"] else f"{weights:.2g} apart at most")
            + f"; {apart['losses_compared']} logged losses are "
            + ("the same." if apart["same_losses"] else f"{loss:.2g} apart at most.")
        )
    return "\n".join([*lines, "", *said])


def losses(run: Path) -> Losses:
    """What the run logged: name -> step -> value. A run that was killed has several files; the later ones count."""
    found: Losses = defaultdict(dict)
    files = sorted((run / "losses").glob("version_*/metrics.csv"), key=lambda file: int(file.parent.name[8:]))
    for file in files:
        for row in read_rows(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    found[name][int(row["step"])] = float(value)
    return dict(found)


def _same(one: NDArray, other: NDArray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _last(values: dict[int, float]) -> float:
    return values[max(values)]
