"""Figures over all tasks: ranks, size and time against score, differences to the reference."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from g2l.evaluation.report.drawing import INK, LINE, SOFT, colour, grid, marker, plain, svg
from g2l.evaluation.statistics.bootstrap import Interval
from g2l.evaluation.statistics.ranks import cliques

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def critical_difference_diagram(names: Sequence[str], ranks: Sequence[float], critical: float) -> str:
    """Average ranks on one line, best at the left; a thick bar joins encoders that Nemenyi's test does not tell apart.

    Source: Demsar 2006, figure 1.
    """
    order = [int(place) for place in np.argsort(ranks, kind="stable")]
    k = len(names)
    left = -(-k // 2)  # the better half is labelled at the left
    bars = cliques(ranks, critical)
    depth = 0.42 * max(left, k - left) + 0.22 * len(bars)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.axis("off")
        margin = 0.09 * (k - 1) + 0.1
        low, high = 1.0, float(k)
        axes.set_xlim(low - 3.2 * margin, high + 3.2 * margin)
        axes.set_ylim(-depth - 0.25, 0.95)
        axes.plot([low, high], [0, 0], color=INK, lw=1.2)
        for tick in range(1, k + 1):
            axes.plot([tick, tick], [0, 0.1], color=INK, lw=1.2)
            axes.text(tick, 0.16, str(tick), ha="center", va="bottom")
        for number, (first, last) in enumerate(bars):
            y = -0.16 - 0.22 * number
            ends = ranks[order[first]] - 0.02 * margin, ranks[order[last]] + 0.02 * margin
            axes.plot(ends, [y, y], color=INK, lw=4, solid_capstyle="round")
        for place, index in enumerate(order):
            at_left = place < left
            row = place if at_left else k - 1 - place
            y = -0.22 * len(bars) - 0.2 - 0.42 * row
            x, edge = ranks[index], (low - 0.5 * margin if at_left else high + 0.5 * margin)
            axes.plot([x, x, edge], [0, y, y], color=colour(index), lw=1.4)
            axes.plot([x], [0], marker=marker(index), color=colour(index), ms=6, clip_on=False)
            text = f"{plain(names[index])}  {x:.2f}" if at_left else f"{x:.2f}  {plain(names[index])}"
            axes.text(edge, y, f" {text} ", ha="right" if at_left else "left", va="center")
        axes.plot([low, low + critical], [0.68, 0.68], color=SOFT, lw=1.4, marker="|", ms=7)
        axes.text(low + critical, 0.68, f"   critical difference {critical:.2f}", ha="left", va="center", color=SOFT)

    return svg(7.4, 0.62 * (depth + 1.3), draw)


def against_score(
    names: Sequence[str], across: Sequence[float | None], scores: Sequence[Interval], label: str, ylabel: str
) -> str:
    """Mean score of every encoder over its size or time (log scale); encoders without either are left out."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        known = [n for n, x in enumerate(across) if x and x > 0 and np.isfinite(scores[n].value)]
        for n in known:
            score, x = scores[n], across[n]
            if np.isfinite(score.low):
                axes.plot([x, x], [score.low, score.high], color=colour(n), lw=1.2, alpha=0.7)  # type: ignore[list-item]
            axes.plot([x], [score.value], marker=marker(n), color=colour(n), ms=7, ls="", label=plain(names[n]))  # type: ignore[list-item]
        positions = np.array([across[n] for n in known], dtype=float)
        if len(positions):
            axes.set_xlim(positions.min() / 1.6, positions.max() * 1.6)
        axes.set_xlabel(label)
        axes.set_ylabel(ylabel)
        axes.grid(color=LINE, lw=0.6)
        axes.set_axisbelow(True)
        _decimal_ticks(axes)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), handletextpad=0.3)

    return svg(5.2, 3.0, draw)


def _decimal_ticks(axes: "Axes") -> None:
    """Plain numbers on a logarithmic axis, enough of them within less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    wide = high / low > 50
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def differences(
    tasks: Sequence[str], encoders: Mapping[str, tuple[int, Sequence[Interval | None]]], reference: str
) -> str:
    """A panel per encoder: the difference of the primary metric to the reference on every task, with its interval.

    Filled markers where the interval excludes 0.

    Args:
        encoders: name -> its number (colour) and one difference per task, None where there is none.
    """
    columns = min(4, len(encoders)) if len(encoders) not in (5, 6) else 3
    rows = -(-len(encoders) // max(columns, 1))

    def draw(figure: "Figure") -> None:
        for panel, (axes, (name, (number, found))) in enumerate(
            zip(grid(figure, len(encoders), columns), encoders.items(), strict=True)
        ):
            axes.axvline(0, color=SOFT, lw=0.8)
            for row, each in enumerate(found):
                if each is None or not np.isfinite(each.value):
                    continue
                if np.isfinite(each.low):
                    axes.plot([each.low, each.high], [row, row], color=colour(number), lw=1.4)
                face = colour(number) if each.excludes_zero else "white"
                axes.plot([each.value], [row], marker=marker(number), mfc=face, mec=colour(number), ms=5.5)
            axes.set_title(plain(name, 24))
            axes.set_ylim(len(tasks) - 0.4, -0.6)
            axes.set_yticks(range(len(tasks)), [plain(task, 24) for task in tasks] if panel % columns == 0 else [])
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color=LINE, lw=0.6)
            axes.set_axisbelow(True)
            axes.locator_params(axis="x", nbins=4)
        figure.supxlabel(f"difference to {plain(reference)}, with 95 % interval", fontsize=9)

    return svg(1.6 + 2.15 * columns, rows * (0.26 * len(tasks) + 0.55) + 0.35, draw)
