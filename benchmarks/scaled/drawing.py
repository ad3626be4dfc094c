"""The study in one figure: scores over size and time, and what each arm gains or loses against the reference."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2l.evaluation.report.drawing import COLOURS, LINE, SOFT, plain, svg
from scaled.telling import ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

Plain = dict[str, Any]
WIDTH = 9.0  # inches: 900 px of a page at 100 px each
DPI = 200  # of the PNG
AGAINST = ("kNN", "robustness index")  # drawn over size and time
OVER = {"parameters": 1e6, "ms": 1.0}  # and the unit it is drawn in
FOREST = ("linear probe", "kNN", "retrieval", "robustness index")
GREY = "#9aa4ad"
SHIFT = 0.022  # of an axis, between arms of the same size
FAR = 1.5  # a row of the context further out than so many times what is compared is told by an arrow


def draw(found: Plain, folder: Path, name: str = "figure") -> list[Path]:
    """Write `name`.svg and `name`.png; the same verdicts give the same files.

    Args:
        found: as `verdicts.judge` returns.
    Returns:
        the two files.
    """
    rows = len(found["arms"]) - 1
    png = io.BytesIO()

    def both(figure: "Figure") -> None:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[4.2, 0.9 + 0.24 * rows])[:, 0]
        _against(above, found)
        _forest(below, found)
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})

    image = svg(WIDTH, 5.1 + 0.24 * rows, both)
    content = {f"{name}.svg": base64.b64decode(image.partition(",")[2]), f"{name}.png": png.getvalue()}
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in content.items():
        partial = folder / f"{file}.partial"
        partial.write_bytes(data)
        partial.replace(folder / file)
    return [folder / file for file in content]


def _against(figure: "SubFigure", found: Plain) -> None:
    """A row for each score of AGAINST, over parameters and over time: the arms that need a name have a colour."""
    axes = figure.subplots(len(AGAINST), len(OVER), sharex="col", sharey="row", squeeze=False)
    named = _named(found)
    aside = _aside({name: found["arms"][name]["parameters"] for name in named})
    for column, (key, unit) in enumerate(OVER.items()):
        places = {name: arm[key] / unit for name, arm in found["arms"].items() if arm[key]}
        end = 1.12 * max(places.values(), default=1.0)
        for panel, score in zip(axes[:, column], AGAINST, strict=True):
            for name, x in places.items():
                shift = aside.get(name, 0.0) * end if key == "parameters" else 0.0
                _point(panel, x + shift, found["arms"][name]["scores"][score], named.get(name))
            panel.set_xlim(0, end)
            panel.grid(color=LINE, lw=0.6)
            panel.set_axisbelow(True)
    for row, score in enumerate(AGAINST):
        axes[row][0].set_ylabel(score)
    axes[-1][0].set_xlabel("parameters (millions; equal ones stand side by side)")
    axes[-1][1].set_xlabel(f"ms per image ({_device(found)})")
    handles, labels = _legend(found, named)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), columnspacing=1.4, handletextpad=0.3)


def _named(found: Plain) -> dict[str, tuple[str, str]]:
    """Arm -> colour and marker: the context, the reference, and the arm of the best mean rank where it is another."""
    names = [name for name, arm in found["arms"].items() if arm["context"]]
    wanted = dict.fromkeys([*names, found["reference"], _best(found)])
    return dict(zip(wanted, zip(COLOURS, ("*", "X", "D", "o", "^"), strict=False), strict=False))


def _best(found: Plain) -> str:
    return next(name for name in ordered(found) if not found["arms"][name]["context"])


def _aside(at: Mapping[str, float | None]) -> dict[str, float]:
    """How far each arm is moved to the side, as a share of the axis, so that those at one place can be told apart."""
    found = {}
    for name, x in at.items():
        same = [other for other, y in at.items() if y == x]
        found[name] = SHIFT * (same.index(name) - (len(same) - 1) / 2)
    return found


def _point(panel: "Axes", x: float, score: Plain, look: tuple[str, str] | None) -> None:
    """Arms without a look of their own are small, behind the others, and have no interval."""
    if score["value"] is None:
        return
    colour, marker = look or (GREY, ".")
    if score["low"] is not None and look:
        panel.plot([x, x], [score["low"], score["high"]], color=colour, lw=1.2, alpha=0.8)
    size, order = (7, 3) if look else (6, 2)
    panel.plot([x], [score["value"]], color=colour, marker=marker, ms=size, ls="", zorder=order)


def _legend(found: Plain, named: Mapping[str, tuple[str, str]]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    best = " (best mean rank)" if _best(found) != found["reference"] else ""
    looks = {plain(name) + best * (name == _best(found)): look for name, look in named.items()}
    if len(found["arms"]) > len(named):
        looks["other arms"] = (GREY, ".")
    return [Line2D([], [], color=colour, marker=marker, ls="", ms=7) for colour, marker in looks.values()], list(looks)


def _forest(figure: "SubFigure", found: Plain) -> None:
    """A panel for each score of FOREST: differences to the reference, arm below arm."""
    arms = [name for name in ordered(found) if name != found["reference"]]
    panels = figure.subplots(1, len(FOREST), sharey=True, squeeze=False)[0]
    for panel, score in zip(panels, FOREST, strict=True):
        apart = [found["arms"][name]["scores"][score]["difference"] for name in arms]
        low, high = _span(apart, [not found["arms"][name]["context"] for name in arms])
        panel.axvline(0, color=SOFT, lw=0.8)
        for row, (name, one) in enumerate(zip(arms, apart, strict=True)):
            _row(panel, row, one, SOFT if found["arms"][name]["context"] else COLOURS[0], (low, high))
        panel.set_xlim(low, high)
        panel.set_title(score)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=LINE, lw=0.6)
        panel.set_axisbelow(True)
        panel.locator_params(axis="x", nbins=4)
    panels[0].set_ylim(len(arms) - 0.4, -0.6)
    panels[0].set_yticks(range(len(arms)), [plain(name) for name in arms])
    groups = " or ".join(map(str, sorted(set(found["groups"].values()))))
    figure.supxlabel(
        f"difference to {plain(found['reference'])}: {found['level']:.0%} interval over {groups} groups (thick), all "
        "comparisons together (thin), seeds (dots); filled: the thick one excludes 0",
        fontsize=8,
    )


def _row(panel: "Axes", row: int, one: Plain, colour: str, limits: tuple[float, float]) -> None:
    value, (low, high) = one["value"], limits
    if value is None:
        return
    if not low <= value <= high:  # far away: said in words, so that it costs the others no room
        side, edge = ("left", low) if value < low else ("right", high)
        text = f"◂ {value:+.2f}" if side == "left" else f"{value:+.2f} ▸"
        panel.text(edge, row, f" {text} ".replace("-", "−"), ha=side, va="center", color=colour, fontsize=8)
        return
    seeds = [each for each in one["seeds"].values() if each is not None]
    panel.plot(seeds, [row + 0.28] * len(seeds), ".", color=GREY, ms=3, zorder=1)
    if one["wide_low"] is not None:
        panel.plot([one["wide_low"], one["wide_high"]], [row, row], color=colour, lw=0.8, alpha=0.6)
    decided = False
    if one["low"] is not None:
        panel.plot([one["low"], one["high"]], [row, row], color=colour, lw=2.2, solid_capstyle="butt")
        decided = one["low"] > 0 or one["high"] < 0
    panel.plot([value], [row], "o", mec=colour, mfc=colour if decided else "white", ms=5)


def _span(apart: Sequence[Plain], compared: Sequence[bool]) -> tuple[float, float]:
    """What a panel shows: 0, all of the arms that are compared, and of the others those that are not far away."""
    inner = [end for one, mine in zip(apart, compared, strict=True) if mine for end in _ends(one)]
    reach = FAR * max(map(abs, inner), default=1.0)
    near = [one for one, mine in zip(apart, compared, strict=True) if not mine and max(map(abs, _ends(one))) <= reach]
    known = [0.0, *inner, *(end for one in near for end in _ends(one))]
    margin = 0.06 * (max(known) - min(known)) or 0.01
    return min(known) - margin, max(known) + margin


def _ends(one: Plain) -> list[float]:
    """Everything that a row draws, 0 where it draws nothing."""
    every = [one[key] for key in ("value", "low", "high", "wide_low", "wide_high")] + list(one["seeds"].values())
    return [end for end in every if end is not None] or [0.0]


def _device(found: Plain) -> str:
    devices = {arm["device"] for arm in found["arms"].values() if arm["device"]}
    return devices.pop() if len(devices) == 1 else "measured on different devices" if devices else "not measured"
