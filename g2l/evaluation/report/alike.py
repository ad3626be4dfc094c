"""Which results may stand side by side: one data set, one protocol, one truth for a task; one encoder for a name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from g2l.errors import G2LError
from g2l.evaluation.results import Result

# Columns of predictions that are no encoder's, but the data's.
TRUTH = ("patient", "truth", "time", "event", "biology", "centre")
# A metric measured again may differ from what outcome.json says by the order of a sum, not by more.
SAME = 1e-6
MOST_SHOWN = 5


class Clash(NamedTuple):
    """Why the result in `folder` must not stand beside that in `other`, which was there before."""

    what: str
    remedy: str
    folder: Path
    other: Path


def agreeing(results: list[Result]) -> tuple[list[Result], list[str]]:
    """The results that may stand beside all before them, and a sentence on every group of others: which they are, in
    what they differ, and what to do. A damaged result stands beside none.
    """
    kept: list[Result] = []
    faults: list[str] = []
    clashes: list[Clash] = []
    firsts: dict[tuple[str, ...], Result] = {}
    for result in results:
        fault = _fault(result)
        if fault:
            faults.append(f"result {result.folder} is damaged: {fault}; evaluate again")
            continue
        clash = _clash(result, firsts)
        if clash:
            clashes.append(clash)
            continue
        kept.append(result)
        for key in _keys(result):
            firsts.setdefault(key, result)
    return kept, faults + _sentences(clashes)


def sha_of(about: Mapping[str, Any]) -> str:
    """SHA-256 of an encoder or of a data set as results keep it; "" where unknown."""
    return str(about.get("sha256") or about.get("source", {}).get("sha256") or "")


def _keys(result: Result) -> list[tuple[str, ...]]:
    task, method, encoder = result.task, result.method, result.encoder
    return [(task, method, encoder), ("task", task), ("method", task, method), ("encoder", encoder)]


def _sentences(clashes: list[Clash]) -> list[str]:
    groups: dict[tuple[str, str, Path], list[Path]] = {}
    for clash in clashes:
        folders = groups.setdefault((clash.what, clash.remedy, clash.other), [])
        if clash.folder not in folders:
            folders.append(clash.folder)
    return [
        f"{what}: {_listed(list(map(str, folders)))} and {other}; {remedy}"
        for (what, remedy, other), folders in groups.items()
    ]


def _clash(result: Result, firsts: Mapping[tuple[str, ...], Result]) -> Clash | None:
    """Between a result and those kept. Folders are those of an encoder, which hold one for each method."""
    twin, task, method, encoder = (firsts.get(key) for key in _keys(result))
    name = f"task {result.task}"

    def clash(other: Result, what: str, remedy: str) -> Clash:
        return Clash(what, remedy, result.folder.parent, other.folder.parent)

    if twin is not None:
        what = f"{name}, method {result.method}, encoder {result.encoder} occurs twice"
        return Clash(what, "report one of them", result.folder, twin.folder)
    if task is not None:
        if task.kind != result.kind:
            return clash(task, f"{name} is {result.kind} and {task.kind}", "give them different names")
        one, two = (each.about.get("data", {}) for each in (result, task))
        if sha_of(one) != sha_of(two):
            apart = _differing(one.get("content") or {}, two.get("content") or {})
            detail = _listed(apart) if apart else f"{sha_of(one)[:12] or 'unknown'} and {sha_of(two)[:12] or 'unknown'}"
            what = f"{name} was run on different data ({detail}), so that their scores are not comparable"
            return clash(task, what, "evaluate both on one data set, or leave one out (remove its folder)")
    if method is not None:
        settings = (_flat(each.about.get("protocol") or {}) for each in (result, method))
        apart = _settings(*settings)
        if apart:
            what = f"{name} was run with different settings ({_listed(apart)}), so that their scores are not comparable"
            return clash(method, what, "evaluate both with one set of settings, or leave one out (remove its folder)")
        column = _other_truth(method, result)
        if column:
            what = f"{name}, {result.method}: predictions differ in {column}, which is no encoder's"
            return clash(method, what, "evaluate both again")
    if encoder is not None:
        one, two = (_weights(each.about.get("encoder", {})) for each in (result, encoder))
        if one != two:
            what = f"encoder {result.encoder} has different weights ({one[:12] or 'unknown'}, {two[:12] or 'unknown'})"
            return clash(encoder, what, "give them different names, or evaluate all its tasks again")
    return None


def _weights(about: Mapping[str, Any]) -> str:
    """Random weights have no hash; those of one architecture and seed are the same."""
    return sha_of(about) or " ".join(str(about[key]) for key in ("init", "model") if about.get(key))


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    return [name for name in {**one, **two} if one.get(name) != two.get(name)]


def _settings(one: Mapping[str, str], two: Mapping[str, str]) -> list[str]:
    """As in "k 3 and 15"."""
    return [f"{name} {one.get(name, 'unknown')} and {two.get(name, 'unknown')}" for name in _differing(one, two)]


def _flat(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Settings of task and embedding under their own names."""
    found: dict[str, str] = {}
    for name, value in protocol.items():
        found |= {key: str(item) for key, item in value.items()} if isinstance(value, dict) else {name: str(value)}
    return found


def _other_truth(one: Result, two: Result) -> str:
    """The first column that differs though it should not; "" where none does, or the units are not the same."""
    a, b = one.outcome.predictions, two.outcome.predictions
    names = [{name.rstrip("0123456789") for name in each} for each in (a, b)]  # as many neighbours as an encoder has
    if names[0] != names[1]:
        return f"columns {_listed(sorted(names[0] ^ names[1]))}"
    first, second = (np.argsort(np.asarray(each["id"]).astype(str), kind="stable") for each in (a, b))
    if not np.array_equal(np.asarray(a["id"])[first], np.asarray(b["id"])[second]):
        return ""  # told, with their names, where the difference is taken
    shared = [name for name in TRUTH if name in a and name in b]
    told = {
        name: [np.asarray(each[name])[order].astype(str) for each, order in ((a, first), (b, second))]
        for name in shared
    }
    return next((f"column {name}" for name, (x, y) in told.items() if not np.array_equal(x, y)), "")


def _fault(result: Result) -> str:
    """What is wrong with a result by itself."""
    primary, measure = result.outcome.primary, result.outcome.measure
    if not sha_of(result.about.get("data", {})) or "protocol" not in result.about:
        return "it does not say on which data or with which settings it was made"
    if primary is not None and primary not in result.metrics:
        return f"{primary} is none of its metrics ({', '.join(result.metrics)})"
    try:
        values = measure(result.outcome.predictions)
    except (G2LError, KeyError, ValueError, IndexError, TypeError) as error:
        return f"it cannot be measured again ({error})"
    for metric, value in values.items():
        said = result.metrics.get(metric, np.nan)
        value = value if np.isfinite(value) else np.nan
        if not np.isclose(value, said, rtol=0, atol=SAME, equal_nan=True):
            return f"{metric} is {said:.6g} in it, but its predictions give {value:.6g}"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more
