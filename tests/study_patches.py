"""A small data set as the study takes it: classes differ in the direction of lines, groups in a pattern."""

import csv
from pathlib import Path

import cv2
import numpy as np

SIDE = 64


def write_patches(folder: Path, groups: int = 13, each: int = 4, seed: int = 0) -> Path:
    """Three classes of `groups` groups of `each` patches, and the CSV."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    rows = []
    for name, along in (("a", x), ("b", y), ("c", x + y)):
        for group in range(groups):
            pattern = cv2.resize(rng.uniform(0, 255, (5, 5, 3)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            for number in range(each):
                lines = 60 + 60 * np.sin(along / 3 + rng.uniform(0, 6))
                image = lines[..., None] + 0.8 * pattern + rng.uniform(0, 30, (SIDE, SIDE, 3))
                rows.append((f"{name}/{group}_{number}.png", name, f"{name}-{group}"))
                (folder / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / rows[-1][0]), image.clip(0, 255).astype(np.uint8))
    with (folder / "patches.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "group"), *rows])
    return folder
