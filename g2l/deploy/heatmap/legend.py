"""What a heatmap's picture says about itself: a white strip below it with title, scale bar, and colours."""

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from g2l.deploy.heatmap.shades import Shades, numbers

LEAST_WIDTH = 640  # px, that the words fit in
BLACK, LINE = (20, 20, 20), (120, 120, 120)
STEPS = (1, 2, 5)
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


def with_legend(picture: NDArray[np.uint8], mpp: float, shades: Shades, lines: Sequence[str]) -> Image.Image:
    """The picture, its pixels where they were, and the legend below it; white to the right where it is narrow.

    Args:
        picture: (H, W, 3) RGB at `mpp` um/px. lines: what is said below the title.
    """
    height, width = picture.shape[:2]
    whole = max(width, LEAST_WIDTH)
    size = min(40, max(16, whole // 60))
    strip = _strip(whole, size, mpp, width, shades, lines)
    made = Image.new("RGB", (whole, height + strip.height), "white")
    made.paste(Image.fromarray(picture), (0, 0))
    made.paste(strip, (0, height))
    return made


def bar_length_um(most_um: float) -> float:
    """The largest 1, 2 or 5 times a power of ten up to `most_um`."""
    power = 10.0 ** math.floor(math.log10(most_um))
    return max(step * power for step in STEPS if step * power <= most_um * (1 + 1e-9))


def _strip(width: int, size: int, mpp: float, picture_width: int, shades: Shades, lines: Sequence[str]) -> Image.Image:
    title_font, font = ImageFont.load_default(size * 1.15), ImageFont.load_default(size * 0.85)
    made = Image.new("RGB", (width, 60 * size), "white")
    draw = ImageDraw.Draw(made)
    gap = size
    scale_um = bar_length_um(max(picture_width / 4, 40) * mpp)
    bar = scale_um / mpp
    label = f"{scale_um / 1000:g} mm" if scale_um >= 1000 else f"{scale_um:g} um"
    left = width - gap - max(bar, draw.textlength(label, font))
    draw.rectangle((left, gap, left + bar, gap + size * 0.3), fill=BLACK)
    draw.text((left, gap + size * 0.5), label, fill=BLACK, font=font)
    y = gap * 0.8
    room = left - 2 * gap
    for text, face, step in [(shades.title, title_font, 1.55), *((line, font, 1.15) for line in lines)]:
        for part in _wrapped(draw, text, face, room):
            draw.text((gap, y), part, fill=BLACK, font=face)
            y += step * size
    y = max(y, gap + 1.9 * size) + 0.4 * size
    below = (
        _colour_bar(made, draw, font, y, gap, shades) if shades.bar else _swatches(draw, font, y, gap, width, shades)
    )
    return made.crop((0, 0, width, math.ceil(below + 0.6 * gap)))


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: Font, room: float) -> list[str]:
    """Lines that fit; a word that does not is cut. The font has no letters beyond ASCII: they lose their accents, or
    become question marks.
    """
    lines = [""]
    bare = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    for word in bare.encode("ascii", "replace").decode().split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= room:
            lines[-1] = longer
            continue
        if draw.textlength(word, font) > room:
            while word and draw.textlength(f"{word}...", font) > room:
                word = word[:-1]
            word += "..."
        lines.append(word)
    return [line for line in lines if line]


def _colour_bar(
    made: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: Font,
    y: float,
    gap: int,
    shades: Shades,
) -> float:
    """Draws the bar with numbers at the levels' borders; gives where it ends."""
    low, high = shades.bar or (0.0, 1.0)
    texts = numbers(low, high, len(shades.regions))
    left, right, top, thick = 2 * gap, made.width - 2 * gap, round(y), gap
    values = np.linspace(low, high, right - left, dtype=np.float32)[:, None]
    row = shades.paint(values)
    made.paste(Image.fromarray(np.repeat(row[None], thick, axis=0)), (left, top))
    draw.rectangle((left, top, right, top + thick), outline=LINE)
    count = len(shades.regions)
    for k in range(count + 1):
        x = left + (right - left) * k / count
        draw.line((x, top + thick, x, top + thick + gap * 0.3), fill=LINE)
        text = texts[k]
        start = min(max(x - draw.textlength(text, font) / 2, 2), made.width - 2 - draw.textlength(text, font))
        draw.text((start, top + thick + gap * 0.4), text, fill=BLACK, font=font)
    return top + thick + 1.7 * gap


def _swatches(
    draw: ImageDraw.ImageDraw,
    font: Font,
    y: float,
    gap: int,
    width: int,
    shades: Shades,
) -> float:
    """Draws a square and a name for each region; gives where they end."""
    x = float(gap)
    for name, colour in shades.regions:
        first, *more = _wrapped(draw, name, font, width - 5 * gap) or ["?"]
        name = f"{first}..." if more else first
        wide = 1.5 * gap + draw.textlength(name, font)
        if x > gap and x + wide > width - gap:
            x, y = float(gap), y + 1.5 * gap
        draw.rectangle((x, y, x + gap, y + gap), fill=colour, outline=LINE)
        draw.text((x + 1.4 * gap, y), name, fill=BLACK, font=font)
        x += wide + gap
    return y + 1.5 * gap
