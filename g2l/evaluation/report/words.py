"""Numbers and facts as a reader sees them."""

import math
from typing import Any

from g2l.evaluation.statistics.bootstrap import Interval

MINUS = "−"
MOST_SHOWN = 12  # entries of a fact that the page spells out
MOST_ROWS = 40  # of a cross table


def number(value: float | None, signed: bool = False) -> str:
    """Three decimals; a dash where there is nothing to say."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-", MINUS)


def spread(found: Interval, signed: bool = False, unit: str = "") -> str:
    """[low, high], or nothing where there is no interval.

    Args: unit: what was drawn for it, where those are no patients.
    """
    if not math.isfinite(found.low):
        return ""
    text = f"[{number(found.low, signed)}, {number(found.high, signed)}]"
    return f"{text} by {unit}" if unit else text


def p_value(p: float) -> str:
    """As in "p = 0.012"; a tiny one is bounded, not spelt out."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def counted(count: int, thing: str, things: str = "") -> str:
    """As in "1 patient", "2,960 patches"."""
    if count == 1:
        return f"1 {thing}"
    many = things or (f"{thing}es" if thing.endswith(("ch", "s", "x")) else f"{thing}s")
    return f"{count:,} {many}"


def value_of(value: Any) -> str:
    """A plain JSON value in one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", MINUS)
    if isinstance(value, dict):
        return ", ".join(_entry(key, item) for key, item in list(value.items())[:MOST_SHOWN])
    if isinstance(value, list):
        more = f" and {len(value) - MOST_SHOWN} more" if len(value) > MOST_SHOWN else ""
        return ", ".join(value_of(item) for item in value[:MOST_SHOWN]) + more
    return str(value)


def _entry(key: Any, item: Any) -> str:
    if isinstance(item, dict):
        inner = ", ".join(f"{_short(name)}: {value_of(each)}" for name, each in list(item.items())[:MOST_SHOWN])
        return f"{key} ({inner})"
    return f"{_short(key)} {value_of(item)}"


def _short(key: Any) -> str:
    """A key that JSON made a text of, as 9.999999999999999e-06."""
    try:
        return f"{float(key):.4g}"
    except ValueError:
        return str(key)


def cross_table(value: Any) -> tuple[list[str], list[tuple[str, list[str]]]] | None:
    """A fact as (columns, rows); None for facts of other shapes.

    Args:
        value: row name -> column name -> number; a list of such rows; or {.: row names, .: column names, counts: rows}.
    """
    if isinstance(value, dict) and len(value) == 3 and "counts" in value:
        rows, columns = (names for key, names in value.items() if key != "counts")
        value = {
            str(row): dict(zip(map(str, columns), counts, strict=False))
            for row, counts in zip(rows, value["counts"], strict=False)
        }
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        value = {str(place + 1): row for place, row in enumerate(value)}
    if not isinstance(value, dict) or not value or not all(isinstance(row, dict) and row for row in value.values()):
        return None
    columns = list(dict.fromkeys(name for row in value.values() for name in row))
    cells = [cell for row in value.values() for cell in row.values()]
    if len(columns) > MOST_SHOWN or len(value) > MOST_ROWS or any(isinstance(cell, dict | list) for cell in cells):
        return None
    return columns, [(str(name), [value_of(row.get(column)) for column in columns]) for name, row in value.items()]
