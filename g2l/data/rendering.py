"""Crops of a batch made on its device: one after the other by OpenCV on a CPU, all together on a GPU.

Letters: B images, n crops of them (crop-major: all images' crop 0, then all images' crop 1).
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from g2l.data.photometry import Photometry
from g2l.data.pixels import from_bytes
from g2l.data.spatial import cut, resized_crops


class Crops(NamedTuple):
    """What n crops are to be.

    boxes: (n, 4) first row, first column, height, width. symmetry: (n,) of 0 to 7. amounts: (n, 20) of `Photometry`.
    size: side of the results in px.
    """

    boxes: NDArray[np.int64]
    symmetry: NDArray[np.int64]
    amounts: NDArray[np.float32]
    size: int


def on_cpu(images: Tensor, crops: Crops, photometry: Photometry, names: Mapping[str, bool]) -> dict[str, Tensor]:
    """One crop after the other, since its 600 kB stay in the cache from step to step.

    Args:
        images: (B, H, W, 3) uint8.
        names: name of a result -> is it perturbed?
    Returns:
        name -> (n, 3, size, size) float32 in [0, 1].
    """
    shape = (len(crops.boxes), 3, crops.size, crops.size)
    results = {name: np.empty(shape, np.float32) for name in names}
    rows = zip(crops.boxes.tolist(), crops.symmetry.tolist(), crops.amounts, strict=True)
    for row, (box, turn, amounts) in enumerate(rows):
        pixels = cut(images[row % len(images)], box, turn, crops.size)
        for name, perturbed in names.items():
            made = photometry.on_cpu(pixels, amounts) if perturbed else from_bytes(pixels)
            cv2.split(made, list(results[name][row]))  # written in place: to planes, at twice the speed of a copy
    return {name: torch.from_numpy(result) for name, result in results.items()}


def on_device(images: Tensor, crops: Crops, photometry: Photometry, names: Mapping[str, bool]) -> dict[str, Tensor]:
    """The same in a fixed sequence of kernels. Nothing waits for the device: what crops are to be is sent once.

    Where the run allows TF32, crops are off by up to a quarter of a grey level; autocast is kept out.
    """
    table = torch.from_numpy(np.column_stack([crops.boxes, crops.symmetry, crops.amounts]).astype(np.float32))
    if images.device.type == "cuda":
        table = table.pin_memory()  # a copy from ordinary memory would wait for the device
    table = table.to(images.device, non_blocking=True)
    with torch.autocast(images.device.type, enabled=False):
        plain = resized_crops(images, table[:, :4], table[:, 4], crops.size)
        return {n: photometry.on_device(plain, table[:, 5:]) if perturbed else plain for n, perturbed in names.items()}
