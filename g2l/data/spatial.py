"""Resized crops, the symmetries of the square, and blur: batched on a device, and one image at a time on a CPU.

Letters: B images, n crops of them (crop-major: all images' crop 0, then all images' crop 1), H and W sides of the
images, size side of a crop (px).
"""

from math import ceil

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def cut(image: Tensor, box: tuple[int, int, int, int], symmetry: int, size: int) -> NDArray[np.uint8]:
    """Cut a box out of one image on the CPU, resize it, turn or mirror it.

    PyTorch's kernel for bytes serves, Pillow's arithmetic at three times its speed; OpenCV has no antialiased bicubic.

    Args:
        image: (H, W, 3) uint8.
        box: first row, first column, height, width.
        symmetry: as `boxes.symmetries` numbers them.
    Returns:
        (size, size, 3), of the image's own memory where nothing changes it. A box of size x size is not resampled.
    """
    y, x, height, width = box
    part = image[y : y + height, x : x + width]
    if (height, width) != (size, size):
        # made contiguous first, it is seen as channels_last and stays so
        planes = part.contiguous().unsqueeze(0).permute(0, 3, 1, 2)
        planes = F.interpolate(planes, size=(size, size), mode="bicubic", antialias=True)
        part = planes.permute(0, 2, 3, 1).squeeze(0)
    pixels = part.contiguous().numpy()
    if symmetry & 6:
        pixels = cv2.flip(pixels, {2: 0, 4: 1, 6: -1}[symmetry & 6])
    if symmetry & 1:
        pixels = cv2.transpose(pixels)
    return np.asarray(pixels, np.uint8)  # OpenCV's annotations do not know the type; no copy


def resized_crops(images: Tensor, boxes: Tensor, symmetry: Tensor, size: int) -> Tensor:
    """`cut` for whole batches, as two batched matrix products, without the rounding to bytes.

    Args:
        images: (B, H, W, 3) uint8.
        boxes: (n, 4) float on the same device: first row, first column, height, width of each crop.
        symmetry: (n,) float or int on the same device.
    Returns:
        (n, 3, size, size) float32 in [0, 1]. Bytes are exact in TF32: a box of size x size stays exact there too.
    """
    b, height, width, _ = images.shape
    crops = len(boxes) // b
    columns = (*boxes.unbind(1), symmetry)
    # image-major, so that the rows of all crops of an image are one product
    y, x, high, wide, turn = (column.view(crops, b).T.reshape(-1) for column in columns)
    turn = turn.to(torch.uint8)
    down = resampling(y, high, turn & 2 > 0, size, height)  # (n, size, H)
    across = resampling(x, wide, turn & 4 > 0, size, width)  # (n, size, W)
    lines = images.permute(0, 1, 3, 2).float().reshape(b, height, 3 * width)
    lines = torch.bmm(down.reshape(b, crops * size, height), lines).view(-1, size * 3, width)
    result = torch.bmm(lines, across.transpose(1, 2)).div_(255).clamp_(0, 1)
    result = result.view(b, crops, size, 3, size).permute(1, 0, 3, 2, 4).reshape(-1, 3, size, size)
    turned = (symmetry.to(torch.uint8) & 1 > 0).view(-1, 1, 1, 1)
    return torch.where(turned, result.transpose(2, 3), result).contiguous()


def resampling(first: Tensor, length: Tensor, mirrored: Tensor, size: int, side: int) -> Tensor:
    """Matrices that resize part of a line of `side` px to `size` px: antialiased bicubic.

    Args:
        first, length: (n,) float, the part's first px and number of px. mirrored: (n,) bool, of the result.
    Returns:
        (n, size, side), rows of sum 1; nothing outside the part counts.
    Source: Keys 1981, eq. 15, stretched when reducing as Pillow and torchvision (antialias=True) do.
    """
    first, length, mirrored = first.view(-1, 1, 1), length.view(-1, 1, 1), mirrored.view(-1, 1, 1)
    step = torch.arange(size, device=first.device, dtype=first.dtype).view(1, size, 1)
    step = torch.where(mirrored, size - 1 - step, step)
    scale = length / size
    stretch = scale.clamp(min=1)
    centre = first + (step + 0.5) * scale  # (n, size, 1)
    start = (centre - 2 * stretch).floor()
    # at most so many px of a line of `side` px count for one result; the weights of all others would be zeros
    taps = ceil(4 * max(side / size, 1)) + 1
    pixel = start + torch.arange(taps, device=first.device, dtype=first.dtype)  # (n, size, taps)
    distance = (pixel + 0.5 - centre).div_(stretch).abs_()
    near = (1.5 * distance - 2.5).mul_(distance).mul_(distance).add_(1)
    far = (2.5 - 0.5 * distance).mul_(distance).sub_(4).mul_(distance).add_(2)
    weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    weight = torch.where((pixel >= first) & (pixel < first + length), weight, 0)
    weight = weight / weight.sum(2, keepdim=True)
    # a margin on both sides takes the taps beyond the line, so that no two of a row fall on the same place
    matrix = torch.zeros(len(first), size, side + 2 * taps, device=first.device, dtype=first.dtype)
    return matrix.scatter_(2, pixel.long() + taps, weight).narrow(2, taps, side)


def gaussian_taps(sigma: Tensor, kernel: int) -> Tensor:
    """Samples of a Gaussian, normalised to sum 1: (n,) standard deviations in px -> (n, kernel), kernel odd."""
    offset = torch.arange(-(kernel // 2), kernel // 2 + 1, device=sigma.device, dtype=sigma.dtype)
    return torch.softmax(-0.5 * (offset / sigma[:, None]).square(), dim=1)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur as torchvision's: `kernel` taps (odd) normalised to sum 1, borders reflected.

    As two products with banded matrices: on a GPU, where products cost nothing, two passes over the images.

    Args:
        images: (n, 3, size, size) float, size above kernel / 2.
        sigma: (n,) standard deviations in px, above 0; 0.01 and less change nothing, exactly.
    """
    size, half = images.shape[-1], kernel // 2
    pixel = torch.arange(size, device=images.device)
    # (kernel, size, size): one where tap k of output i falls on input j, mirrored back at the borders
    source = pixel + torch.arange(-half, half + 1, device=images.device)[:, None]
    source = (size - 1) - ((size - 1) - source.abs()).abs()
    places = (source.unsqueeze(-1) == pixel).to(images.dtype)
    matrix = (gaussian_taps(sigma, kernel) @ places.view(kernel, -1)).view(-1, 1, size, size)
    rows = torch.bmm(images.reshape(len(images), 3 * size, size), matrix.squeeze(1).transpose(1, 2))
    return matrix @ rows.view_as(images)
