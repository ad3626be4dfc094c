"""One line of the report: how it stands, what was looked at, what was found, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap
from typing import Literal

Mark = Literal["ok", "note", "warn", "problem"]
WORST_FIRST: tuple[Mark, ...] = ("problem", "warn", "note", "ok")
WIDTH, MARKED, NAMED = 100, 9, 18  # columns: of a line, of its mark, of what was looked at


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        mark: ok; note: nothing is wrong, but good to know; warn: works, with a loss; problem: something will fail.
        what: what was looked at.
        detail: what was found.
        remedy: what to do; every warn and problem has one.
    """

    mark: Mark
    what: str
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        head = f"  {self.mark:<{MARKED - 2}}{self.what:<{NAMED}} "
        indent = " " * (MARKED + NAMED + 1)
        lines = _wrapped(self.detail, head, indent)
        return "\n".join(lines + (_wrapped(self.remedy, f"{indent}-> ", f"{indent}   ") if self.remedy else []))


def worst(findings: Iterable[Finding]) -> Mark:
    """The worst mark of all; ok where there are none."""
    marks = {finding.mark for finding in findings}
    for mark in WORST_FIRST:
        if mark in marks:
            return mark
    return "ok"


def sized(count: float) -> str:
    """Bytes as text: 1536 -> 1.5 KiB."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    unit = units[0]
    return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    return wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    ) or [first.rstrip()]
