"""What the report says of one task."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from g2l.evaluation.measures.published import PUBLISHED
from g2l.evaluation.report.alike import sha_of
from g2l.evaluation.report.drawing import jpeg
from g2l.evaluation.report.measured import Measured
from g2l.evaluation.report.study import TaskResults, by_unit, drawn_units
from g2l.evaluation.report.task_figures import (
    MOST_CLASSES,
    Curve,
    confusion,
    confusion_matrices,
    roc_curves,
    survival_curves,
)
from g2l.evaluation.report.thumbnails import examples
from g2l.evaluation.report.words import MOST_SHOWN, counted, cross_table, number, spread, value_of
from g2l.evaluation.results import Result
from g2l.evaluation.statistics.bootstrap import MOST_UNDEFINED

PICTURE_PX = 900  # longer side of an overlay in the page; the whole one lies beside the result
MOST_METRICS = 6  # in the first table; further ones get a row each in a second
PATHOROB = "Koemen et al. 2025."
DRAWN_FACTS = ("examples", "kaplan_meier", "published", "published k")


def task_section(measured: Measured, task: TaskResults) -> dict[str, Any]:
    """Data, and each method's metrics, figures, notes and choices."""
    data = task.first.about.get("data", {})
    return {
        "name": task.name,
        "kind": task.kind,
        "data": _data(data),
        "sha256": sha_of(data) or "unknown",
        "methods": [_method(measured, task, method) for method in task.methods],
    }


def _data(data: dict[str, Any]) -> list[tuple[str, str]]:
    origin = data.get("origin") or {}
    parts = [f"{part} {_part(each)}" for part, each in (data.get("parts") or {}).items()]
    found = [("data set", str(data.get("name", "–"))), ("parts", "; ".join(parts))]
    return [(name, text) for name, text in [*found, *((str(k), str(v)) for k, v in origin.items())] if text]


def _part(part: dict[str, int]) -> str:
    rows = counted(int(part.get("rows", 0)), "row")
    if "patients" in part:
        return f"{rows} of {counted(int(part['patients']), 'patient')}"
    return (
        f"{rows} of {counted(int(part['slides']), 'slide')}, patients unknown"
        if "slides" in part
        else (f"{rows}, patients unknown")
    )


def _method(measured: Measured, task: TaskResults, method: str) -> dict[str, Any]:
    results = task.methods[method]
    notes, own_notes = _shared(results)
    return {
        "name": method,
        "main": method == task.main,
        "primary": next(iter(results.values())).outcome.primary,
        "tested": _tested(measured, results),
        "metrics": _metrics(measured, task, method),
        "why": _why(measured, results),
        "confusion": _confusion(results) if method == task.main else None,
        "roc": _roc(measured, results),
        "survival": _survival(results),
        "examples": [(name, *examples(r)) for name, r in results.items() if r.outcome.facts.get("examples")],
        "pictures": [
            (name, title, jpeg(picture, PICTURE_PX))
            for name, result in results.items()
            for title, picture in result.outcome.pictures.items()
        ],
        "notes": notes,
        "own_notes": own_notes,
        "chosen": _chosen(results),
        "chosen_on_val": all("val" in r.about["data"].get("parts", {}) for r in results.values()),
        "facts": _facts(results, {} if method == task.main else task.methods[task.main]),
        "published": _published(measured, task, method),
    }


def _tested(measured: Measured, results: dict[str, Result]) -> str:
    result = next(iter(results.values()))
    sample = measured.samples[result.task, result.method, result.encoder]
    units, drawn = counted(len(sample.ids), result.outcome.unit), drawn_units(result)
    if by_unit(result):
        return f"{units}, patients unknown"
    of = "" if result.outcome.unit == drawn else f" of {counted(sample.count, drawn)}"
    return f"{units}{of}{', patients unknown' if drawn == 'slide' else ''}"


def _metrics(measured: Measured, task: TaskResults, method: str) -> dict[str, Any]:
    """Encoders by metrics; the primary one first, and its difference to the reference last."""
    results = task.methods[method]
    names = list(dict.fromkeys(metric for result in results.values() for metric in result.metrics))
    primary = next(iter(results.values())).outcome.primary
    names.sort(key=lambda name: name != primary)
    best = measured.best(task, method, primary) if primary in names else None
    reference = results.get(measured.study.reference)
    names, more = names[:MOST_METRICS], names[MOST_METRICS:]
    rows = []
    for encoder, result in results.items():
        found = {name: measured.interval(result, name) for name in names if name in result.metrics}
        apart = None
        if reference is not None and result is not reference and primary is not None:
            apart = measured.difference(result, reference, primary)
        unit = by_unit(result)
        cells = [
            (number(found[name].value), spread(found[name], unit=unit)) if name in found else ("", "") for name in names
        ]
        rows.append(
            {
                "encoder": encoder,
                "cells": cells,
                "best": encoder == best,
                "reference": result is reference,
                "difference": (number(apart.value, True), spread(apart, True)) if apart else None,
                "decided": bool(apart and apart.excludes_zero),
            }
        )
    further = [(name, [_cell(measured, result, name) for result in results.values()]) for name in more]
    return {
        "names": names,
        "rows": rows,
        "differences": bool(reference is not None and primary and len(results) > 1),
        "encoders": list(results),
        "further": further,
    }


def _cell(measured: Measured, result: Result, metric: str) -> str:
    if metric not in result.metrics:
        return ""
    found = measured.interval(result, metric)
    return f"{number(found.value)} {spread(found, unit=by_unit(result))}".strip()


def _why(measured: Measured, results: dict[str, Result]) -> list[str]:
    """Why a metric has no interval, or one over fewer resamples."""
    found: dict[str, set[str]] = {}
    for result in results.values():
        for metric in result.metrics:
            each = measured.interval(result, metric)
            if each.why:
                found.setdefault(f"No interval for {{}}: {each.why}.", set()).add(metric)
            elif each.undefined:
                text = f"{{}}: up to {MOST_UNDEFINED:.0%} of the resamples had no value (a class was missing)."
                found.setdefault(text, set()).add(metric)
    said = [text.format(", ".join(sorted(metrics))) for text, metrics in found.items()]
    unit = by_unit(next(iter(results.values())))
    if unit:
        said.append(
            f"Nobody says which patient a {unit} is of. Intervals by {unit} are too short, as those of one patient "
            "resemble each other; no difference is judged by them."
        )
    return said


def _chosen(results: dict[str, Result]) -> list[tuple[str, str]]:
    found = [(name, value_of(r.outcome.chosen)) for name, r in results.items() if r.outcome.chosen]
    same = len(found) == len(results) > 1 and len({text for _, text in found}) == 1
    return [("all encoders", found[0][1])] if same else found


def _shared(results: dict[str, Result]) -> tuple[list[str], list[tuple[str, str]]]:
    """Notes of all encoders once, then each encoder's own."""
    notes = [result.outcome.notes for result in results.values()]
    common = [note for note in dict.fromkeys(notes[0]) if all(note in each for each in notes)]
    own = [(name, note) for name, r in results.items() for note in r.outcome.notes if note not in common]
    return common, own


def _classes(result: Result) -> list[str]:
    columns = result.outcome.predictions
    if "truth" not in columns or "predicted" not in columns:
        return []
    return sorted({str(name) for column in ("truth", "predicted") for name in columns[column]})


def _confusion(results: dict[str, Result]) -> str | None:
    classes = sorted({name for result in results.values() for name in _classes(result)})
    if not 2 <= len(classes) <= MOST_CLASSES:
        return None
    columns = {name: result.outcome.predictions for name, result in results.items()}
    matrices = {name: confusion(each["truth"], each["predicted"], classes) for name, each in columns.items()}
    return confusion_matrices(matrices, classes)


def _roc(measured: Measured, results: dict[str, Result]) -> str | None:
    """For two classes; the second by name is the positive one."""
    order = list(measured.study.encoders)
    curves = {}
    positive = ""
    for name, result in results.items():
        columns = result.outcome.predictions
        scored = sorted(column.removeprefix("p_") for column in columns if column.startswith("p_"))
        if len(scored) != 2 or len(np.unique(columns["truth"])) != 2:
            return None
        positive = scored[1]
        probability = np.asarray(columns[f"p_{positive}"], dtype=np.float64)
        if not np.isfinite(probability).all():
            return None
        curves[name] = (order.index(name), np.asarray(columns["truth"]), probability)
    return roc_curves(curves, positive)


def _survival(results: dict[str, Result]) -> str | None:
    panels = {}
    for name, result in results.items():
        fact = result.outcome.facts.get("kaplan_meier")
        if fact:
            groups = [
                Curve(f"{each['name']} ({each['patients']})", each["times"], each["survival"], each["at_risk"])
                for each in fact["groups"]
            ]
            panels[name] = (groups, fact["logrank_p"])
    return survival_curves(panels) if panels else None


def _facts(results: dict[str, Result], told: dict[str, Result]) -> list[dict[str, Any]]:
    """Further facts: numbers in one table with a column per encoder, cross tables each on their own.

    Args:
        told: results of the method whose facts stand in the report already, and are not repeated.
    """
    names = list(results)
    before = {name: told[name].outcome.facts if name in told else {} for name in names}
    facts = {
        name: {k: v for k, v in r.outcome.facts.items() if k not in DRAWN_FACTS and before[name].get(k, ...) != v}
        for name, r in results.items()
    }
    keys = list(dict.fromkeys(key for each in facts.values() for key in each))
    found: list[dict[str, Any]] = []
    plain: list[tuple[str, list[str]]] = []
    for key in keys:
        values = [each.get(key) for each in facts.values()]
        tables = [cross_table(value) for value in values]
        if any(tables):
            same = all(value == values[0] for value in values)
            for name, table in list(zip(names, tables, strict=True))[: 1 if same else None]:
                if table:
                    found.append({"title": key if same else f"{key}, {name}", "columns": table[0], "rows": table[1]})
        elif all(map(_short, values)):
            plain.append((key, [value_of(value) for value in values]))
    same = [(key, values[:1]) for key, values in plain if len(names) > 1 and len(set(values)) == 1]
    own = [(key, values) for key, values in plain if (key, values[:1]) not in same]
    tables = ((["all encoders"], same), (names, own))
    return [{"title": "", "columns": columns, "rows": rows} for columns, rows in tables if rows] + found


def _short(value: Any) -> bool:
    """Fits into a cell."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return len(value) <= MOST_SHOWN and not any(isinstance(item, dict | list) for item in value)
    return True


def _published(measured: Measured, task: TaskResults, method: str) -> list[dict[str, Any]]:
    """What others published of such a task: of its own facts, or once in the report for its kind."""
    found = []
    for result in task.methods[method].values():
        values, k = result.outcome.facts.get("published"), result.outcome.facts.get("published k") or {}
        if values:
            columns, rows = _table(values)
            columns = [f"{name} (k = {k[name]})" if name in k else name for name in columns]
            found.append(
                {"title": "robustness index on PathoROB", "source": PATHOROB, "columns": columns, "rows": rows}
            )
            break
    first = next(each for each in measured.study.tasks if each.kind == task.kind)
    if task is first and method == ("gpfm" if "gpfm" in task.methods else task.main):
        for each in PUBLISHED.get(task.kind, []):
            columns, rows = _table(each.values)
            found.append({"title": each.title, "source": each.source, "columns": columns, "rows": rows})
    return found


def _table(values: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    return columns, [(str(model), [number(row.get(name)) for name in columns]) for model, row in values.items()]
