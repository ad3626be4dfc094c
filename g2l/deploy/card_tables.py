"""Tables of the card, as Markdown. Names come from other people's files: what would be read as markup is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "not recorded"
SHOWN = (("knn", "kNN accuracy"), ("linear", "linear probe accuracy"), ("cka", "CKA with the teacher"))
INDEX = ("robustness_index", "robustness index")
FIGURES = (
    ("min_cosine", "Least cosine", ".6f"),
    ("p1_cosine", "1st percentile of cosine", ".6f"),
    ("max_difference", "Largest difference", ".1e"),
    ("knn_agreement", "kNN agreement", ".1%"),
)
ROWS = (("teacher", "teacher"), ("student_before", "student before"), ("student_after", "this student"))


def text(value: Any) -> str:
    """One line that no Markdown reader takes for markup or for the end of a cell."""
    plain = " ".join(str(value).split())
    for sign in ("\\", "|", "<", "`", "*", "["):
        plain = plain.replace(sign, f"\\{sign}")
    return plain


def number(value: float | None) -> str:
    """A count with thousands apart."""
    return UNKNOWN if value is None else f"{value:,}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; cells are taken as they are."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def networks_table(networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the network was made from, with licences and hashes of the weights."""
    rows = [
        (
            text(network.get("role", "")),
            text(network.get("name", "")),
            text(network.get("hub") or "-"),
            text(network.get("licence") or "unknown"),
            "yes" if network.get("redistribute") else "**no**",
            f"`{network['sha256']}`" if network.get("sha256") else "-",
        )
        for network in networks
    ]
    return table(("Role", "Network", "Hub", "Licence", "May be passed on", "SHA-256 of its weights"), rows)


def formats_table(parity: Mapping[str, Any]) -> list[str]:
    """Every format with what was measured on real patches and the verdict."""
    rows = []
    for name, entry in parity["formats"].items():
        real = entry.get("real", {})
        figures = [_figure(real.get(key), shape) for key, _, shape in FIGURES]
        rows.append((name, *figures, "passed" if entry["passed"] else f"no: {text(entry['why'])}"))
    return table(("Format", *(label for _, label, _ in FIGURES), "Gate"), rows)


def gates_in_words(gates: Mapping[str, Mapping[str, float]]) -> str:
    """What a format must reach, by kind."""
    labels = {key: label.lower() for key, label, _ in FIGURES}

    def words(kind: str) -> str:
        limits = (
            f"{labels[key]} {'at most' if key == 'max_difference' else 'at least'} {value:g}"
            for key, value in gates[kind].items()
        )
        return f"{kind}: {' and '.join(limits)}"

    return "; ".join(map(words, gates))


def scores_tables(facts: Mapping[str, Any]) -> list[str]:
    """Scores of g2l evaluate with their intervals, then those of the training run."""
    scores, summary = facts.get("scores") or {}, facts.get("summary")
    lines = ["## Scores"]
    rows = [row for row in scores.get("rows", []) if row["kind"] != "robustness"]
    if rows:
        lines += [f"Intervals of {scores['level']:.0%}, by drawing patients (or slides) again.", ""]
        others = sorted({row["encoder"] for row in scores["others"]})
        head = ("Task", "Metric", "This network", "On", *map(text, others))
        lines += table(head, [_score(row, scores["others"], others) for row in rows])
    if summary:
        lines += [""] * bool(rows) + ["Test patients of the training cohort, without intervals:", ""]
        known = [(key, name) for key, name in ROWS if key in summary]
        cells = [(name, *(_plain(summary[key].get(metric)) for metric, _ in SHOWN)) for key, name in known]
        lines += table(("", *(name for _, name in SHOWN)), cells)
    return lines if len(lines) > 1 else [*lines, "None were given at the export (`--results`)."]


def robustness_table(facts: Mapping[str, Any]) -> list[str]:
    """How far embeddings tell tissue rather than the centre."""
    scores, summary = facts.get("scores") or {}, facts.get("summary")
    rows = [row for row in scores.get("rows", []) if row["kind"] == "robustness"]
    lines = ["## Robustness"]
    if rows:
        others = sorted({row["encoder"] for row in scores["others"]})
        head = ("Task", "Metric", "This network", "On", *map(text, others))
        lines += table(head, [_score(row, scores["others"], others) for row in rows])
    elif summary:
        metric, name = INDEX
        cells = [(label, _plain(summary[key].get(metric))) for key, label in ROWS if key in summary]
        lines += ["Test patients of the training cohort, without intervals:", "", *table(("", name), cells)]
    return lines if len(lines) > 1 else [*lines, "Not measured."]


def _score(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], others: Sequence[str]) -> tuple[str, ...]:
    same = {
        other["encoder"]: other for other in rows if all(other[key] == row[key] for key in ("task", "method", "metric"))
    }
    metric = f"{row['metric']} ({row['method']})"
    on = f"{number(row['units'])} {row['unit']}s" + (f", {number(row['patients'])} patients" if row["patients"] else "")
    beside = (_interval(same[name]) if name in same else "-" for name in others)
    return text(row["task"]), text(metric), f"**{_interval(row)}**", text(on), *beside


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] is None or row["high"] is None:
        return f"{_plain(row['value'])} (no interval: {text(row['no_interval_because'] or 'not stated')})"
    return f"{_plain(row['value'])} ({row['low']:.3f} to {row['high']:.3f})"


def _plain(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _figure(value: float | None, shape: str) -> str:
    return "-" if value is None else format(value, shape)
