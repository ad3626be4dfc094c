"""What all tissue painters share: scattering cells over a class, nuclei, rings of cells, lumina.

Lengths are um, stains in canvas units (100 = one unit of optical density).
"""

import numpy as np

from g2l.data.drawing.canvas import Canvas, blobs
from g2l.data.drawing.layout import Layout

Rng = np.random.Generator


def scatter(
    rng: Rng, layout: Layout, spacing: float, names: set[str], jitter: float = 0.3, thin: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Points of a jittered hexagonal lattice that fall in the named classes.

    Returns: centres (n, 2) um, and the region number (n,) of each.
    """
    width, height = layout.size_um
    rows = np.arange(0, height, spacing * 0.866)
    cols = np.arange(0, width, spacing)
    x = cols[None, :] + (np.arange(len(rows)) % 2 * spacing / 2)[:, None]
    centres = np.stack([x, np.broadcast_to(rows[:, None], x.shape)], -1).reshape(-1, 2)
    centres = centres + rng.normal(0, jitter * spacing, centres.shape).clip(-0.6 * spacing, 0.6 * spacing)
    region = layout.at(centres[:, 0], centres[:, 1])
    wanted = (region >= 0) & (layout.spread(dict.fromkeys(names, 1.0)) > 0)[region.clip(0)]
    if thin:
        wanted &= rng.random(len(region)) < layout.traits["keep"][region.clip(0)]
    return centres[wanted], region[wanted]


def nuclei(
    rng: Rng,
    layout: Layout,
    canvas: Canvas,
    centres: np.ndarray,
    region: np.ndarray,
    half: tuple[float, float],
    angle: np.ndarray | None = None,
    spread: float = 0.1,
    dark: float = 1.0,
    vesicular: bool = False,
) -> None:
    """Draw nuclei: half axes `half` (major, minor) um, sizes scattered by `spread` (a share), `dark` scales the dye.

    Vesicular nuclei have a rim, a pale inside and a nucleolus.
    """
    count = len(centres)
    if not count:
        return
    canvas.nuclei.append(centres)
    scale = layout.traits["size"][region] * rng.lognormal(0, spread, count)
    major, minor = half[0] * scale, half[1] * scale * rng.lognormal(0, spread / 2, count)
    angle = rng.uniform(0, np.pi, count) if angle is None else angle
    shapes = blobs(rng, centres, major, minor, angle, wobble=0.05 + 0.3 * spread)
    dye = 105 * dark * layout.traits["dark"][region] * rng.lognormal(0, 0.12, count)
    counter = 18 * layout.traits["eosin"][region]
    canvas.fill(shapes, dye, counter)
    if vesicular:
        inside = centres[:, None] + (shapes - centres[:, None]) * 0.7
        canvas.fill(inside, dye * rng.uniform(0.5, 0.75, count), counter)
        offset = rng.normal(0, 0.9, (count, 2))
        round_ = np.full(count, 1.0) * scale
        canvas.fill(blobs(rng, centres + offset, round_, round_, angle, 0, 6), dye * 1.25, counter)


def ring(
    rng: Rng, centres: np.ndarray, radius: np.ndarray, pitch: float, shapes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places along the outlines of `shapes` (n, points, 2), `pitch` um apart.

    Returns: owner (m,) index into centres, and the outline's offset (m, 2) from its centre.
    """
    counts = np.maximum(np.round(2 * np.pi * radius / pitch), 5).astype(int)
    owner = np.repeat(np.arange(len(centres)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    turn = (within + rng.normal(0, 0.14, len(owner))) / counts[owner] % 1.0
    points = shapes.shape[1]
    low = np.floor(turn * points).astype(int) % points
    part = (turn * points - np.floor(turn * points))[:, None]
    edge = shapes[owner, low] * (1 - part) + shapes[owner, (low + 1) % points] * part
    return owner, edge - centres[owner]


def lumina(layout: Layout, canvas: Canvas, region: np.ndarray, shapes: np.ndarray) -> None:
    """Empty or secretion-filled holes (n, points, 2)."""
    wet = layout.traits["wet"][region]
    canvas.fill(shapes, wet * layout.traits["basophil"][region], 4 + wet * 38 * layout.traits["eosin"][region])
