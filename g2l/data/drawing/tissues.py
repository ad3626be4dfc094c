"""How each tissue class is built: eight painters that place nuclei, lumina, fibres and gaps on a canvas.

The classes differ in arrangement, size and shape. Their amounts of stain are drawn from the same ranges for all of
them (`Layout.traits`), and each class comes with and without white gaps, so that colour alone says little.
Lengths are um, stains in canvas units (100 = one unit of optical density).
"""

import cv2
import numpy as np

from g2l.data.drawing.canvas import Canvas, blobs
from g2l.data.drawing.cells import lumina, nuclei, ring, scatter
from g2l.data.drawing.layout import MAP_MPP, Layout, smooth_noise

Rng = np.random.Generator

# Per class: eosin of the ground, and how coarse-grained it is as a share of that
GROUND = {
    "glands": (34, 0.06), "acini": (42, 0.06), "solid": (40, 0.10), "lymphocytes": (30, 0.08),
    "stroma": (40, 0.07), "fat": (42, 0.06), "necrosis": (44, 0.30), "mucin": (20, 0.08),
}  # fmt: skip
EOSIN = {name: float(eosin) for name, (eosin, _) in GROUND.items()}


def paint(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Draw the whole slide: ground, fibres, then every class, then the gaps that all classes share."""
    direction = 1.6 * smooth_noise(rng, layout.region.shape, 70) + 0.5 * smooth_noise(rng, layout.region.shape, 18)
    _ground(rng, layout, canvas)
    _fibres(rng, layout, canvas, direction)
    _fat(rng, layout, canvas)
    _mucin(rng, layout, canvas)
    _necrosis(rng, layout, canvas)
    _stroma(rng, layout, canvas, direction)
    _solid(rng, layout, canvas)
    _lymphocytes(rng, layout, canvas)
    _acini(rng, layout, canvas)
    _glands(rng, layout, canvas)
    _gaps(rng, layout, canvas)


def _ground(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Fill the tissue with its regions' ground tone, soft at their borders, and with grain."""
    shape = (canvas.shape[1], canvas.shape[0])
    inside = layout.region >= 0

    def raise_map(per_region: np.ndarray) -> np.ndarray:
        # Bytes, since a byte map is enlarged several times faster than one of floats.
        coarse = np.where(inside, per_region[layout.region.clip(0)], 0).round().clip(0, 255).astype(np.uint8)
        return cv2.resize(cv2.GaussianBlur(coarse, (0, 0), 1.2), shape, interpolation=cv2.INTER_LINEAR)

    tile = cv2.GaussianBlur(rng.standard_normal((1024, 1024), dtype=np.float32), (0, 0), 1.6) * 4
    tile += cv2.GaussianBlur(rng.standard_normal((1024, 1024), dtype=np.float32), (0, 0), 5) * 10
    eosin = raise_map(layout.spread(EOSIN) * layout.traits["eosin"])
    grain = raise_map(layout.spread({name: 500 * grain for name, (_, grain) in GROUND.items()}))
    tint = raise_map(layout.traits["basophil"])
    for top in range(0, canvas.shape[0], 1024):
        rows = slice(top, min(top + 1024, canvas.shape[0]))
        noise = np.tile(np.roll(tile, rng.integers(0, 1024), 1), (1, shape[0] // 1024 + 1))
        rough = 1 + grain[rows] / np.float32(500) * noise[: rows.stop - top, : shape[0]]
        canvas.e[rows] = (eosin[rows] * rough).clip(0, 255)
        canvas.h[rows] = (tint[rows] * rough).clip(0, 255)


def _fibres(rng: Rng, layout: Layout, canvas: Canvas, direction: np.ndarray) -> None:
    """Wavy collagen along the direction field: dense in stroma, loose between glands and acini, a trace in solid."""
    starts, region = scatter(rng, layout, 7.0, {"stroma", "glands", "acini", "solid", "lymphocytes"}, 0.5, thin=False)
    chance = layout.spread({"stroma": 1.0, "glands": 0.5, "acini": 0.5, "solid": 0.06, "lymphocytes": 0.06})
    chosen = rng.random(len(region)) < chance[region]
    position, region = starts[chosen], region[chosen]
    phase = rng.uniform(0, 2 * np.pi, len(position))
    path = [position]
    for step in range(9):
        rows, cols = (position[:, 1] / MAP_MPP).astype(int), (position[:, 0] / MAP_MPP).astype(int)
        angle = direction[rows.clip(0, direction.shape[0] - 1), cols.clip(0, direction.shape[1] - 1)]
        angle = angle + 0.35 * np.sin(phase + 0.9 * step)
        position = position + 7.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
        path.append(position)
    tone = EOSIN["stroma"] * layout.traits["eosin"][region] * rng.choice([0.35, 0.7, 1.5, 1.9], len(region))
    canvas.lines(np.stack(path, 1), rng.uniform(0.7, 2.6, len(region)), tone)


def _stroma(rng: Rng, layout: Layout, canvas: Canvas, direction: np.ndarray) -> None:
    """Thin spindle nuclei along the fibres."""
    centres, region = scatter(rng, layout, 17, {"stroma"}, 0.4)
    rows, cols = (centres / MAP_MPP).astype(int).T[::-1]
    angle = direction[rows.clip(0, direction.shape[0] - 1), cols.clip(0, direction.shape[1] - 1)]
    nuclei(rng, layout, canvas, centres, region, (8.0, 1.7), angle + rng.normal(0, 0.15, len(region)), 0.2, 1.1)


def _lymphocytes(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Small round dark nuclei, packed."""
    centres, region = scatter(rng, layout, 7.6, {"lymphocytes"}, 0.16)
    nuclei(rng, layout, canvas, centres, region, (3.1, 2.9), None, 0.08, 1.1)
    # Lymphocytes also stray singly into every other cellular class.
    centres, region = scatter(rng, layout, 45, {"stroma", "glands", "acini", "solid", "mucin", "necrosis"}, 0.5)
    nuclei(rng, layout, canvas, centres, region, (3.1, 2.9), None, 0.08, 1.1)


def _solid(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Sheets of large, vesicular, unequal nuclei without lumina; pale seams between the cells."""
    centres, region = scatter(rng, layout, 14.5, {"solid"}, 0.2, thin=False)
    cell = np.full(len(region), 7.0) * layout.traits["size"][region]
    tone = 1.25 * EOSIN["solid"] * layout.traits["eosin"][region] * rng.lognormal(0, 0.1, len(region))
    shapes = blobs(rng, centres, cell, cell * 0.9, rng.uniform(0, np.pi, len(region)), 0.08)
    canvas.fill(shapes, layout.traits["basophil"][region], tone)
    kept = rng.random(len(region)) < 0.5 + 0.5 * layout.traits["keep"][region]
    nuclei(rng, layout, canvas, centres[kept], region[kept], (5.4, 4.3), None, 0.22, 1.0, vesicular=True)


def _acini(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Small round acini in clusters: one row of small, equal, basal nuclei around a narrow lumen."""
    centres, region = scatter(rng, layout, 41, {"acini"}, 0.1)
    radius = rng.normal(17.5, 1.5, len(region)).clip(13, 21) * layout.traits["size"][region] ** 0.5
    angle = rng.uniform(0, np.pi, len(region))
    shapes = blobs(rng, centres, radius, radius * 0.9, angle, 0.03, 24)
    tone = 1.15 * EOSIN["acini"] * layout.traits["eosin"][region]
    canvas.fill(shapes, layout.traits["basophil"][region], tone)
    lumina(layout, canvas, region, centres[:, None] + (shapes - centres[:, None]) * 0.3)
    owner, offset = ring(rng, centres, radius, 7.8, shapes)
    nuclei(rng, layout, canvas, centres[owner] + 0.76 * offset, region[owner], (2.9, 2.7), None, 0.06)


def _glands(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Tumour glands: large, irregular, back to back; crowded long nuclei stand radially in two or three rows."""
    centres, region = scatter(rng, layout, 72, {"glands"}, 0.12, thin=False)
    radius = rng.normal(36, 5, len(region)).clip(24, 48)
    angle = rng.uniform(0, np.pi, len(region))
    shapes = blobs(rng, centres, radius * 1.15, radius * 0.85, angle, 0.12, 36)
    tone = 1.2 * EOSIN["glands"] * layout.traits["eosin"][region]
    canvas.fill(shapes, layout.traits["basophil"][region], tone)
    hollow = (0.42 * layout.traits["open"][region])[:, None, None]
    lumina(layout, canvas, region, centres[:, None] + (shapes - centres[:, None]) * hollow)
    for depth, pitch in ((0.9, 5.2), (0.72, 6.0)):
        owner, offset = ring(rng, centres, radius * depth, pitch, shapes)
        offset = offset * (depth + rng.normal(0, 0.05, len(owner)))[:, None]
        radial = np.arctan2(offset[:, 1], offset[:, 0]) + rng.normal(0, 0.15, len(owner))
        nuclei(rng, layout, canvas, centres[owner] + offset, region[owner], (5.6, 2.4), radial, 0.16)


def _fat(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Round empty cells between thin walls, a flat nucleus here and there."""
    from scipy.spatial import Voronoi

    every, _ = scatter(rng, layout, 62, set(EOSIN), 0.17, thin=False)
    if len(every) < 4:
        return
    cells = Voronoi(every)
    region = layout.at(every[:, 0], every[:, 1])
    is_fat = layout.spread({"fat": 1.0})[region] > 0
    flat_at, flat_region, flat_angle = [], [], []
    for number in np.flatnonzero(is_fat):
        corners = cells.regions[cells.point_region[number]]
        if -1 in corners or len(corners) < 3:
            continue
        polygon = cells.vertices[corners]
        middle = polygon.mean(0)
        if np.abs(polygon - middle).max() > 75:
            continue
        for _ in range(3):  # Chaikin's corner cutting rounds the cell
            following = np.roll(polygon, -1, 0)
            polygon = np.stack([0.75 * polygon + 0.25 * following, 0.25 * polygon + 0.75 * following], 1).reshape(-1, 2)
        polygon = middle + (polygon - middle) * (1 - rng.uniform(1.2, 3.5) / 30)
        haze = layout.traits["wet"][region[number]] * rng.uniform(0.1, 0.5) * layout.traits["eosin"][region[number]]
        canvas.fill(polygon[None], np.array([3.0]), np.array([4 + haze * EOSIN["fat"]]))
        corner = polygon[rng.integers(len(polygon))] - middle
        flat_at.append(middle + corner * 0.97)
        flat_region.append(region[number])
        flat_angle.append(np.arctan2(corner[1], corner[0]) + np.pi / 2)
    if flat_at:
        nuclei(rng, layout, canvas, np.array(flat_at), np.array(flat_region), (4.5, 1.5), np.array(flat_angle), 0.15)


def _necrosis(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Granular debris: dark crumbs of all sizes, clumps, and ghosts of cells."""
    centres, region = scatter(rng, layout, 15, {"necrosis"}, 0.4)
    ghost = layout.traits["basophil"][region] + rng.uniform(4, 26, len(region))
    size = rng.lognormal(1.5, 0.25, len(region))
    shapes = blobs(rng, centres, size, size * 0.8, rng.uniform(0, np.pi, len(region)), 0.2)
    tone = EOSIN["necrosis"] * layout.traits["eosin"][region] * rng.uniform(0.6, 1.5, len(region))
    canvas.fill(shapes, ghost, tone)
    centres, region = scatter(rng, layout, 6.0, {"necrosis"}, 0.6)
    clumped = smooth_noise(rng, layout.region.shape, 8)
    rows, cols = (centres / MAP_MPP).astype(int).T[::-1]
    dense = clumped[rows.clip(0, clumped.shape[0] - 1), cols.clip(0, clumped.shape[1] - 1)] > 0.1
    centres, region = centres[dense], region[dense]
    crumb = rng.lognormal(0.15, 0.5, len(region)).clip(0.5, 4.2)
    shapes = blobs(rng, centres, crumb, crumb * 0.7, rng.uniform(0, np.pi, len(region)), 0.3, 8)
    dye = 125 * layout.traits["dark"][region] * rng.uniform(0.5, 1.2, len(region))
    canvas.fill(shapes, dye, 20 * layout.traits["eosin"][region])


def _mucin(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Pale pools with wispy strands, and small clusters of cells afloat."""
    starts, region = scatter(rng, layout, 16, {"mucin"}, 0.5)
    heading = rng.uniform(0, np.pi, len(region))
    position, path = starts, [starts]
    for _ in range(8):
        heading = heading + rng.normal(0, 0.45, len(region))
        position = position + 6 * np.stack([np.cos(heading), np.sin(heading)], 1)
        path.append(position)
    wisp = layout.traits["basophil"][region] * rng.uniform(0.2, 2.2, len(region))
    tone = EOSIN["mucin"] * layout.traits["eosin"][region] * rng.uniform(0.2, 1.8, len(region))
    canvas.lines(np.stack(path, 1), rng.uniform(0.6, 3.5, len(region)), tone, wisp)
    rafts, region = scatter(rng, layout, 66, {"mucin"}, 0.3)
    number = rng.integers(6, 18, len(region))
    owner = np.repeat(np.arange(len(region)), number)
    cells = rafts[owner] + rng.normal(0, 1, (len(owner), 2)) * (2.6 * np.sqrt(number[owner]))[:, None]
    body = np.full(len(owner), 6.0)
    shapes = blobs(rng, cells, body, body, np.zeros(len(owner)), 0.08)
    canvas.fill(shapes, layout.traits["basophil"][region[owner]], 48 * layout.traits["eosin"][region[owner]])
    nuclei(rng, layout, canvas, cells, region[owner], (3.9, 3.3), None, 0.15)


def _gaps(rng: Rng, layout: Layout, canvas: Canvas) -> None:
    """Vessels, clefts and tears in every class, more in some regions than in others."""
    centres, region = scatter(rng, layout, 58, set(EOSIN) - {"fat"}, 0.5, thin=False)
    chosen = rng.random(len(region)) < 0.75 * (layout.traits["open"][region] - 0.6)
    centres, region = centres[chosen], region[chosen]
    major = rng.lognormal(2.3, 0.45, len(region)).clip(4, 36)
    angle = rng.uniform(0, np.pi, len(region))
    shapes = blobs(rng, centres, major, major * rng.uniform(0.2, 0.8, len(region)), angle, 0.15, 20)
    canvas.fill(shapes, np.full(len(region), 2.0), np.full(len(region), 4.0))
