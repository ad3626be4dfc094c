"""Tables of small images, and what an encoder should make of them."""

from pathlib import Path

import numpy as np
import torch
from layouts import drawn, encode

from g2l.encoders.encoder import Encoder
from g2l.evaluation.tables.table import Table


def write_table(folder: Path, count: int = 20) -> Table:
    """Images of three sizes, one of them not square, as PNG files; every image is another."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = ((32, 32), (40, 48), (64, 64))
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(drawn(number, *sizes[number % 3])))
    return Table.build("small", paths, folder, labels=["a", "b"] * (count // 2))


def expected(encoder: Encoder, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """(n, D) and (n, h, w, P), one image at a time, cropped and resized by the independent way of PIL's reading."""
    from PIL import Image
    from torch.nn import functional

    cls, tokens = [], []
    for path in table.paths.tolist():
        pixels = np.asarray(Image.open(path).convert("RGB"))
        height, width = pixels.shape[:2]
        side = min(height, width)
        y, x = (height - side) // 2, (width - side) // 2
        image = torch.from_numpy(pixels[y : y + side, x : x + side].copy()).permute(2, 0, 1)[None].double() / 255
        if side != 32:
            image = functional.interpolate(image, (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.inference_mode():
            found = encoder(image.float())
        cls.append(found.cls[0].numpy())
        tokens.append(found.patches[0].reshape(4, 4, -1).numpy())
    return np.stack(cls), np.stack(tokens)
