"""Figures of one task: confusion matrices, ROC and Kaplan-Meier curves. Letters: U units, C classes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.report.drawing import COLOURS, INK, LINE, colour, grid, plain, svg
from g2l.evaluation.report.words import p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 25  # in a confusion matrix that can still be read
WRITTEN = 10  # classes up to which the cells hold numbers
# up to so many classes: inches of a panel, and panels in a row of the page's width
_SIDES = ((3, 1.7, 5), (6, 2.3, 4), (10, 3.0, 3), (MOST_CLASSES, 4.6, 2))


class Curve(NamedTuple):
    """Survival of one risk group: (T,) times from 0 on, survival in [0, 1], patients at risk before each time."""

    name: str
    times: list[float]
    survival: list[float]
    at_risk: list[float]


def confusion(truth: NDArray, predicted: NDArray, classes: Sequence[str]) -> NDArray[np.int64]:
    """(C, C) counts, rows the truth, columns what was predicted."""
    number = {name: place for place, name in enumerate(classes)}
    rows, columns = ([number[str(name)] for name in names] for names in (truth, predicted))
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts


def confusion_matrices(matrices: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> str:
    """A panel per encoder: each row is a true class and adds up to 100 %."""
    side, most = next((side, most) for up_to, side, most in _SIDES if len(classes) <= up_to)
    columns = min(most, len(matrices))
    rows = -(-len(matrices) // columns)

    def draw(figure: "Figure") -> None:
        for panel, (axes, (name, counts)) in enumerate(
            zip(grid(figure, len(matrices), columns), matrices.items(), strict=True)
        ):
            share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
            if len(classes) <= WRITTEN:
                for (i, j), value in np.ndenumerate(share):
                    ink = "white" if value > 0.55 else INK if value >= 0.005 else "#9aa4ad"
                    axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=8)
            labels = [plain(each, 14) for each in classes]
            axes.set_title(plain(name))
            axes.set_xticks(range(len(classes)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=7.5)
            axes.set_yticks(range(len(classes)), labels if panel % columns == 0 else [], fontsize=7.5)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        figure.supxlabel("predicted", fontsize=9)
        figure.supylabel("truth", fontsize=9)

    letters = min(14, max(map(len, classes)))
    return svg(side * columns + 0.065 * letters + 0.4, (side + 0.45 + 0.05 * letters) * rows + 0.2, draw)


def roc_curves(curves: Mapping[str, tuple[int, NDArray, NDArray]], positive: str) -> str:
    """One curve per encoder: sensitivity over 1 - specificity for the class `positive`.

    Args:
        curves: encoder -> its number (colour), truth (U,) and probability of the positive class (U,).
    """
    from sklearn.metrics import roc_curve

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=LINE, lw=1)
        for name, (number, truth, probability) in curves.items():
            x, y, _ = roc_curve(truth.astype(str) == positive, probability)
            axes.plot(
                x, y, color=colour(number), ls=("-", "--", "-.", ":")[number // len(COLOURS) % 4], label=plain(name)
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("1 − specificity")
        axes.set_ylabel("sensitivity")
        axes.set_title(f"positive: {plain(positive)}")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))

    return svg(5.0, 3.2, draw)


def survival_curves(panels: Mapping[str, tuple[list[Curve], float | None]]) -> str:
    """A panel per encoder: survival of its risk groups with the patients at risk below, and the log-rank p-value."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    most = max(len(curves) for curves, _ in panels.values())

    def draw(figure: "Figure") -> None:
        for axes, (name, (curves, p)) in zip(grid(figure, len(panels), columns), panels.items(), strict=True):
            _survival(axes, curves)
            axes.set_title(plain(name) + ("" if p is None else f"  (log-rank {p_value(p)})"), fontsize=9)
            axes.set_xlabel("time", labelpad=4 + 11 * most)

    return svg(3.75 * columns, (2.5 + 0.18 * most) * rows, draw)


def _survival(axes: "Axes", curves: list[Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    end = max(max(curve.times, default=1.0) for curve in curves)
    ticks = [tick for tick in MaxNLocator(5).tick_values(0, end) if 0 <= tick <= end]
    for number, curve in enumerate(curves):
        shade, style = COLOURS[number], ("-", "--", "-.")[number % 3]
        axes.step(curve.times, curve.survival, where="post", color=shade, ls=style, label=plain(curve.name))
        for tick in ticks:
            axes.annotate(
                f"{_at_risk(curve, tick):.0f}", (tick, 0), xytext=(0, -20 - 11 * number), textcoords="offset points",
                xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=7.5, color=shade,
                annotation_clip=False,
            )  # fmt: skip
    axes.set(xlim=(0, end * 1.02), ylim=(0, 1.03))
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_ylabel("survival")
    axes.grid(axis="y", color=LINE, lw=0.6)
    axes.legend(loc="lower left", fontsize=8)


def _at_risk(curve: Curve, time: float) -> float:
    """Patients still under observation just before `time`."""
    later = [number for at, number in zip(curve.times, curve.at_risk, strict=True) if at >= time]
    return later[0] if later else 0.0
