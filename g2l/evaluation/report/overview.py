"""What the report says over all tasks: encoders, primary metrics, differences."""

import math
from typing import Any

from g2l.evaluation.report.alike import sha_of
from g2l.evaluation.report.measured import Measured
from g2l.evaluation.report.overview_figures import differences
from g2l.evaluation.report.study import Study, TaskResults, by_unit
from g2l.evaluation.report.words import MINUS, number, p_value, spread

ALPHA = 0.05  # of tests across tasks


def encoder_rows(study: Study) -> list[dict[str, str]]:
    """The table of what was compared."""
    rows = []
    for name, about in study.encoders.items():
        source = about.get("source") or {}
        speed, parameters = about.get("images_per_second"), about.get("parameters")
        rows.append(
            {
                "name": name,
                "parameters": f"{parameters / 1e6:,.1f} M" if parameters else "–",
                "width": str(about.get("embed_dim") or "–"),
                "speed": f"{speed:,.1f}" if speed else "–",
                "device": str(about.get("device") or "–"),
                "licence": str(source.get("licence") or "–"),
                "from": str(source.get("hub") or source.get("file") or source.get("name") or "–"),
                "sha256": sha_of(about) or "unknown",
            }
        )
    return rows


def primary_rows(measured: Measured) -> list[dict[str, Any]]:
    """Task by encoder; a row per method, because another protocol is another score."""
    rows = []
    for task in measured.study.tasks:
        for method, results in task.methods.items():
            primary = next(iter(results.values())).outcome.primary
            if primary is None:
                continue
            best = measured.best(task, method, primary)
            cells = []
            for encoder in measured.study.encoders:
                result = results.get(encoder)
                found = measured.interval(result, primary) if result else None
                cells.append(
                    {
                        "value": number(found.value) if found else "",
                        "spread": spread(found, unit=by_unit(result)) if found and result else "",
                        "best": encoder == best,
                    }
                )
            main = method == task.main
            rows.append({"task": task.name, "method": method, "metric": primary, "cells": cells, "main": main})
    return rows


def why_no_intervals(measured: Measured) -> list[str]:
    """One sentence per reason for which primary metrics have no interval."""
    reasons: dict[str, list[str]] = {}
    for task in measured.study.tasks:
        for result in task:
            if result.outcome.primary is not None:
                why = measured.interval(result, result.outcome.primary).why
                if why and task.name not in reasons.setdefault(why, []):
                    reasons[why].append(task.name)
    return [f"{', '.join(tasks)}: {why}" for why, tasks in reasons.items()]


def difference_figure(measured: Measured) -> str | None:
    """Difference to the reference on every task that has a primary metric; None for a single encoder."""
    study = measured.study
    tasks = [task for task in study.tasks if task.primary is not None]
    others = {name: n for n, name in enumerate(study.encoders) if name != study.reference}
    if not tasks or not others:
        return None
    panels = {name: (n, [_apart(measured, task, name) for task in tasks]) for name, n in others.items()}
    return differences([task.name for task in tasks], panels, study.reference)


def _apart(measured: Measured, task: TaskResults, encoder: str) -> Any:
    results = task.methods[task.main]
    if encoder not in results or measured.study.reference not in results:
        return None
    return measured.difference(results[encoder], results[measured.study.reference], task.primary or "")


def findings(measured: Measured, ranking: dict[str, Any]) -> list[str]:
    """What the intervals support, in sentences, and no more than that."""
    study = measured.study
    tasks = [task for task in study.tasks if task.primary is not None]
    sentences = [_order(ranking)] if ranking["rows"] else []
    for encoder in study.encoders:
        if encoder == study.reference:
            continue
        found = [each for each in (_apart(measured, task, encoder) for task in tasks) if each is not None]
        known = [each for each in found if math.isfinite(each.low)]
        if known:
            better, worse = sum(each.low > 0 for each in known), sum(each.high < 0 for each in known)
            sentences.append(
                f"{encoder} {MINUS} {study.reference}: better on {better}, worse on {worse}, undecided on "
                f"{len(known) - better - worse} of {len(known)} task{'s' * (len(known) != 1)} with an interval."
            )
        elif found:
            sentences.append(f"{encoder} {MINUS} {study.reference}: no task has an interval of the difference.")
    return sentences


def _order(ranking: dict[str, Any]) -> str:
    """What the test across tasks says of the order of the encoders; without one, the ranks are those of these tasks."""
    values, rows = ranking["values"], ranking["rows"]
    name, p = next(((name, values[name]) for name in ("friedman", "wilcoxon") if name in values), ("", math.nan))
    if not p < ALPHA:
        said = f"{name.capitalize()} test, {p_value(p)}" if name else "too few tasks, or none to compare"
        return f"No test across tasks supports an order of the encoders ({said})."
    best = [row["name"] for row in rows if row["rank"] == rows[0]["rank"]]
    pairs = values.get("nemenyi", {})
    near = [row["name"] for row in rows if row["name"] not in best and pairs and pairs[best[0]][row["name"]] >= ALPHA]
    told = f"; not told apart from {', '.join(near)} by Nemenyi's test" if near else ""
    return (
        f"Best average rank: {', '.join(best)} ({rows[0]['rank']} of {len(rows)} over {len(ranking['tasks'])} tasks, "
        f"{name.capitalize()} test {p_value(p)}{told})."
    )
