"""What `verdicts.judge` found, in words and as tables in Markdown. Every number comes from it."""

from collections.abc import Callable, Sequence
from typing import Any

from g2l.evaluation.report.words import counted, number
from scaled.scores import CONTEXT

Plain = dict[str, Any]
# around a difference whose interval excludes 0: widened for all comparisons together, or by itself
BEYOND, ALONE = "**", "*"


def sentence(arm: str, found: Plain) -> str:
    """How an arm compares with the reference: better or worse where the interval by group excludes 0, else not told
    apart. Of a ranked score without such an interval, how many seeds it won.
    """
    reference = found["reference"]
    if arm == reference:
        return f"{arm}: what the others are compared with."
    said: dict[str, list[str]] = {"better": [], "worse": [], "not told apart": []}
    rest = []
    for name, score in found["arms"][arm]["scores"].items():
        apart = score["difference"]
        if apart["low"] is not None:
            verdict = "better" if apart["low"] > 0 else "worse" if apart["high"] < 0 else "not told apart"
            said[verdict].append(name if verdict == "not told apart" else f"{name} ({_difference(apart)})")
        elif found["scores"][name]["ranked"] and apart["mean"] is not None:
            won = f"{number(apart['mean'], True)}, higher in {apart['won']} of {counted(len(apart['seeds']), 'seed')}"
            rest.append(f"{name} {won}")
    parts = [f"{verdict} in {', '.join(names)}" for verdict, names in said.items() if names]
    told = f"against {reference} {'; '.join(parts)}" if parts else f"no interval against {reference}"
    return f"{arm}: {told}." + (f" Without an interval: {'; '.join(rest)}." if rest else "")


def counted_out(found: Plain) -> str:
    """How many comparisons there are, and how many of them chance alone would call different."""
    made = found["comparisons"]["made"]
    if not made:
        return "No difference has an interval."
    compared = found["comparisons"]
    factor, wide = compared["factor"], compared["together"]
    together = (
        ""
        if factor is None
        else (f" Widened so that all hold together (to {factor:.1f} standard errors), {wide} exclude 0.")
    )
    return (
        f"{counted(made, 'difference')} to {found['reference']} have an interval by group (arms other than "
        f"{', '.join(CONTEXT)}): {compared['apart']} of them exclude 0, where {compared['by_chance']:.1f} would by "
        f"chance if no arm differed. {compared['over_seeds']} of these lie on the same side by Student's t over the "
        f"seeds too.{together}"
    )


def tables(found: Plain) -> str:
    """Three tables: pooled scores with their intervals, the seeds, and differences to the reference; then sentences."""
    level, seeds = f"{found['level']:.0%}".replace("%", " %"), found["seeds"]
    groups = " or ".join(map(str, sorted(set(found["groups"].values()))))
    arms = [name for name in ordered(found) if name != found["reference"]]
    ranked = [name for name, score in found["scores"].items() if score["ranked"]]
    parts = [
        f"{counted(len(seeds), 'seed')} together, in brackets the {level} interval over {groups} groups; CKA is "
        f"the mean over seeds. The mean rank is over {', '.join(ranked)}, without {', '.join(CONTEXT)}; in brackets "
        "the seeds' least and most.",
        score_table(found),
        "Mean over the seeds (least to most):",
        seed_table(found),
        f"Difference to {found['reference']}, its {level} interval over groups, and seeds won : lost. "
        f"{ALONE}Italic{ALONE}: the interval excludes 0; {BEYOND}bold{BEYOND}: also when all comparisons are taken "
        f"together, which are those of arms other than {', '.join(CONTEXT)}:",
        difference_table(found),
        found["comparisons"]["text"],
        "\n".join(f"* {found['arms'][name]['verdict']}" for name in arms),
    ]
    return "\n\n".join(parts) + "\n"


def ordered(found: Plain) -> list[str]:
    """Arms as tables show them: the context, then by mean rank."""
    context = [name for name in CONTEXT if name in found["arms"]]
    others = [name for name, row in found["arms"].items() if not row["context"]]
    return context + sorted(others, key=lambda name: found["arms"][name]["rank"]["mean"])


def score_table(found: Plain, scores: Sequence[str] | None = None) -> str:
    """Pooled values with their intervals, parameters, time and mean ranks. Args: scores: columns; default: all."""

    def cell(score: Plain) -> str:
        return f"{number(score['value'])}{_brackets(score)}"

    return _table(found, ["parameters", "ms per image", "mean rank"], cell, scores)


def seed_table(found: Plain, scores: Sequence[str] | None = None) -> str:
    """Mean, least and most over seeds."""

    def cell(score: Plain) -> str:
        return number(score["mean"]) + ("" if score["min"] is None else f" ({_range(score)})")

    return _table(found, [], cell, scores)


def difference_table(found: Plain, scores: Sequence[str] | None = None) -> str:
    """Differences to the reference, marked, with seeds won and lost."""

    def cell(score: Plain) -> str:
        apart = score["difference"]
        if apart is None or apart["value"] is None:
            return "–"
        mark = BEYOND if _apart(apart, "wide_") else ALONE if _apart(apart, "") else ""
        return f"{mark}{_difference(apart)}{mark} {apart['won']}:{apart['lost']}"

    return _table(found, [], cell, scores)


def _table(found: Plain, more: list[str], cell: Callable[[Plain], str], scores: Sequence[str] | None) -> str:
    names = list(scores or found["scores"])
    lines = ["| | " + " | ".join([*more, *(found["scores"][name]["short"] for name in names)]) + " |"]
    lines.append("|---" * (len(names) + len(more) + 1) + "|")
    for arm in ordered(found):
        row = found["arms"][arm]
        cells = [_fact(row, name) for name in more] + [cell(row["scores"][name]) for name in names]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _fact(row: Plain, name: str) -> str:
    if name == "parameters":
        return "–" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"
    if name == "ms per image":
        return "–" if row["ms"] is None else f"{row['ms']:.2f}"
    rank = row["rank"]
    return "–" if rank is None else f"{rank['mean']:.1f} ({rank['min']:.1f}–{rank['max']:.1f})"


def _difference(apart: Plain) -> str:
    return f"{number(apart['value'], True)}{_brackets(apart, True)}"


def _brackets(one: Plain, signed: bool = False) -> str:
    return "" if one["low"] is None else f" [{number(one['low'], signed)}, {number(one['high'], signed)}]"


def _range(one: Plain) -> str:
    return f"{number(one['min'])}–{number(one['max'])}"


def _apart(one: Plain, kind: str) -> bool:
    low, high = one[f"{kind}low"], one[f"{kind}high"]
    return low is not None and (low > 0 or high < 0)
