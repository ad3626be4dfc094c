"""How every figure of the report looks, and how it gets into the page. No pyplot: nothing outlives a figure."""

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by nearly everyone, without the yellow that vanishes on white; markers say it
# again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3A3A3A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
INK, SOFT, LINE = "#1c2733", "#5b6670", "#d5dae0"
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",
    # the same figure is the same file
    "svg.hashsalt": "g2l",
}


def colour(number: int) -> str:
    """Of the number-th encoder, in every figure."""
    return COLOURS[number % len(COLOURS)]


def marker(number: int) -> str:
    """Of the number-th encoder, in every figure."""
    return MARKERS[number % len(MARKERS)]


def svg(width: float, height: float, draw: Any) -> str:
    """A figure of width x height inches, drawn by draw(figure), as the address of an image that holds itself.

    As an image and not as part of the page, its names cannot clash with those of another figure, and what it holds is
    never run.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return address(buffer.getvalue(), "image/svg+xml")


def address(content: bytes, kind: str) -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def jpeg(image: NDArray[np.uint8], side: int, quality: int = 85) -> str:
    """An (H, W, 3) picture, its longer side brought to at most `side` px, as a data URI."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return address(buffer.getvalue(), "image/jpeg")


def plain(text: str, most: int = 28) -> str:
    """A name as matplotlib shows it: dollar signs start no formula, an underscore in front does not hide it from the
    legend, and long names are cut in the middle.
    """
    if len(text) > most:
        half = (most - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def grid(figure: "Figure", panels: int, columns: int) -> "list[Axes]":
    """Axes of `panels` panels in rows of at most `columns`; what is left of the last row stays empty."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[panels:]:
        spare.axis("off")
    return list(axes[:panels])
