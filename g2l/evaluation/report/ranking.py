"""Ranks across tasks, and size and speed against the mean score."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.errors import G2LError
from g2l.evaluation.report.measured import Measured, ranked_tasks, score_table
from g2l.evaluation.report.overview_figures import against_score, critical_difference_diagram
from g2l.evaluation.report.words import number, p_value, spread
from g2l.evaluation.statistics.ranks import DECIMALS, average_ranks, compare, wilcoxon


def ranks(measured: Measured) -> dict[str, Any]:
    """Average ranks, tests across tasks and their diagram, or the sentence that says why there are none."""
    study = measured.study
    names, tasks = list(study.encoders), ranked_tasks(study)
    left_out = [task.name for task in study.tasks if task not in tasks]
    found: dict[str, Any] = {"tasks": [task.name for task in tasks], "left_out": left_out, "rows": [], "notes": []}
    if len(names) < 2:
        return found | {"why_not": "There is one encoder: nothing to rank it against."}
    if not tasks:
        return found | {"why_not": "No task has a primary metric of every encoder: there is nothing to rank."}
    scores = score_table(study, tasks)
    average = average_ranks(scores)
    first = np.isclose(scores, scores.max(axis=1, keepdims=True), rtol=0, atol=10.0**-DECIMALS).sum(axis=0)
    means = [measured.mean_score(tasks, name) for name in names]
    for i in np.argsort(average, kind="stable"):
        row = {"name": names[i], "rank": f"{average[i]:.2f}", "firsts": int(first[i])}
        found["rows"].append(row | {"mean": number(means[i].value), "spread": spread(means[i])})
    found |= {"names": names, "values": {"average": dict(zip(names, average.tolist(), strict=True))}}
    try:
        _two(found, scores) if len(names) == 2 else _several(found, scores)
    except G2LError as error:
        found["notes"].append(f"No test across tasks: {error}. The ranks describe these tasks and no others.")
    return found


def _two(found: dict[str, Any], scores: NDArray[np.float64]) -> None:
    one, other = found["names"]
    p = wilcoxon(scores[:, 0], scores[:, 1])
    found["values"]["wilcoxon"] = p
    found["notes"].append(f"Wilcoxon signed-rank test of {one} and {other} across tasks: {p_value(p)}.")


def _several(found: dict[str, Any], scores: NDArray[np.float64]) -> None:
    names, result = found["names"], compare(scores)
    pairs = {a: dict(zip(names, row, strict=True)) for a, row in zip(names, result.pairs.tolist(), strict=True)}
    found["values"] |= {"friedman": result.friedman, "critical_difference": result.critical, "nemenyi": pairs}
    found["diagram"] = critical_difference_diagram(names, result.ranks.tolist(), result.critical)
    found["notes"].append(_friedman_note(result.friedman, result.critical, result.tasks, len(names)))
    found["nemenyi"] = [
        (a, ["" if a == b else p_value(p).removeprefix("p ").removeprefix("= ") for b, p in row.items()])
        for a, row in pairs.items()
    ]


def _friedman_note(p: float, critical: float, n: int, k: int) -> str:
    verdict = (
        f"Encoders whose average ranks differ by less than {critical:.2f} are not told apart (Nemenyi)."
        if p < 0.05
        else "The ranks give no ground to call any two encoders different; the diagram is shown for its ranks alone."
    )
    rough = " With so few tasks the chi-squared approximation is rough and the test finds little." if n < 10 else ""
    return f"Friedman test across {n} tasks and {k} encoders: {p_value(p)}. {verdict}{rough}"


def size_and_speed(measured: Measured) -> dict[str, Any]:
    """Parameters and time per image against the mean score over the ranked tasks."""
    study, tasks = measured.study, ranked_tasks(measured.study)
    if not tasks:
        return {"why_not": "No task has a primary metric of every encoder: there is no mean score to draw."}
    names = list(study.encoders)
    scores = [measured.mean_score(tasks, name) for name in names]
    parameters = [about.get("parameters") for about in study.encoders.values()]
    speeds = [about.get("images_per_second") for about in study.encoders.values()]
    devices = {
        str(about.get("device") or "unknown") for about in study.encoders.values() if about.get("images_per_second")
    }
    label = f"mean primary metric, {len(tasks)} task{'s' * (len(tasks) != 1)}"
    found: dict[str, Any] = {"tasks": [task.name for task in tasks], "notes": []}
    if any(parameters):
        millions = [value / 1e6 if value else None for value in parameters]
        found["size"] = against_score(names, millions, scores, "parameters (millions)", label)
    if len(devices) == 1:
        times = [1000 / speed if speed else None for speed in speeds]
        found["speed"] = against_score(names, times, scores, f"ms per image ({devices.pop()})", label)
    else:
        found["notes"].append(
            f"Speed was measured on different devices ({', '.join(sorted(devices))}): times are not drawn."
            if devices
            else "No speed was measured; there is no figure of time against score."
        )
    found["interval"] = all(math.isfinite(score.low) for score in scores)
    if not found["interval"]:
        found["notes"].append(f"The mean has no interval: {next(score.why for score in scores if score.why)}.")
    return found
