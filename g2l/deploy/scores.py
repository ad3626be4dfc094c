"""Scores for the card: of the run that trained the student, and of `g2l evaluate` and `g2l report`."""

import json
import math
from pathlib import Path
from typing import Any

from g2l.errors import ConfigError

METRICS, SUMMARY = "metrics.json", "summary.json"
FORMAT = 1  # of metrics.json
ROBUSTNESS = "robustness"
KEPT = ("task", "kind", "method", "metric", "value", "low", "high", "units", "unit", "patients", "no_interval_because")


def read_scores(place: Path, hashes: set[str]) -> dict[str, Any]:
    """The scores of one network in a results folder.

    Args:
        place: a folder of `g2l evaluate` or `g2l report`, or its metrics.json.
        hashes: SHA-256 of the files that hold this network's weights: names can be given to anything.
    Returns:
        level (of the intervals), rows (KEPT of each primary metric, and all of robustness), others: names of the
        encoders that were measured beside it, with their rows of the same metrics.
    Raises:
        ConfigError: no such file, damaged, or without this network.
    """
    file = place / METRICS if place.is_dir() else place
    content = _json(file, "make it with g2l evaluate, or leave --results out")
    try:
        if content["format"] != FORMAT:
            raise ConfigError(f"{file} has format {content['format']}, this g2l reads {FORMAT}; evaluate again")
        sources = {name: about.get("source", {}).get("sha256") for name, about in content["encoders"].items()}
        mine = [name for name, digest in sources.items() if digest in hashes]
        if not mine:
            raise ConfigError(
                f"{file} holds no scores of these weights (it has {', '.join(sources)}); evaluate this very checkpoint "
                "or bundle, or leave --results out"
            )
        wanted = [row for row in content["metrics"] if row["primary"] or row["kind"] == ROBUSTNESS]
        rows = [{key: row[key] for key in KEPT} for row in wanted if row["encoder"] == mine[0]]
        others = [{key: row[key] for key in ("encoder", *KEPT)} for row in wanted if row["encoder"] not in mine]
        return {"level": float(content["level"]), "rows": rows, "others": others}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{file} is damaged ({error!r}); evaluate again") from error


def read_summary(checkpoint: Path) -> dict[str, dict[str, float | None]] | None:
    """What the run's Score callback measured: teacher, student before and after; None where there is none.

    It speaks of the best student by held-out patients, so only for a checkpoint called best*.

    Raises:
        ConfigError: it is damaged.
    """
    if not checkpoint.name.startswith("best"):
        return None
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        if (folder / SUMMARY).is_file():
            content = _json(folder / SUMMARY, "move it away, and export again")
            if "student_after" not in content:
                return None
            return {name: {key: _number(value) for key, value in row.items()} for name, row in content.items()}
    return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _json(file: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no mapping; {remedy}")
    return content
