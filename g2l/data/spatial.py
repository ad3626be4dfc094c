"""Crops, the symmetries of the square, and blur of image batches, each sample by its own amount."""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(images: Tensor, y: Tensor, x: Tensor, symmetry: Tensor, size: int) -> Tensor:
    """Cut a square out of every image and turn or mirror it.

    Args:
        images: (B, H, W, 3) uint8.
        y, x: (B,) int64 on the CPU, the square's first row and column.
        symmetry: (B,) int64 on the CPU, 0 to 7: bit 0 transposes the result, bit 1 mirrors the source's rows (up-down),
            bit 2 its columns (left-right). The eight values are the eight symmetries of the square, 0 the identity.
        size: side of the square in px.
    Returns:
        (B, 3, size, size) float32 in [0, 1].
    """
    cut = crop_by_slices if images.device.type == "cpu" else crop_by_gather
    return cut(images, y, x, symmetry, size)


def crop_by_slices(images: Tensor, y: Tensor, x: Tensor, symmetry: Tensor, size: int) -> Tensor:
    """`crop`, one image after the other: on a CPU several times as fast as the gather."""
    squares = torch.empty(len(images), 3, size, size)
    for image, square, top, left, turn in zip(images, squares, y.tolist(), x.tolist(), symmetry.tolist(), strict=True):
        source = image[top : top + size, left : left + size]
        mirrored = [axis for axis, bit in enumerate((2, 4)) if turn & bit]
        if mirrored:
            source = source.flip(mirrored)
        square.copy_(source.permute((2, 1, 0) if turn & 1 else (2, 0, 1)))
    return squares.div_(255)


def crop_by_gather(images: Tensor, y: Tensor, x: Tensor, symmetry: Tensor, size: int) -> Tensor:
    """`crop` in a handful of kernels for the whole batch."""
    b, height, width, _ = images.shape
    device = images.device
    y, x, symmetry = torch.stack([y, x, symmetry]).to(device)[:, :, None]  # each (B, 1)
    step = torch.arange(size, device=device)
    rows = torch.where(symmetry & 2 > 0, size - 1 - step, step) + y  # (B, size)
    columns = torch.where(symmetry & 4 > 0, size - 1 - step, step) + x
    rows = (rows + height * torch.arange(b, device=device)[:, None]) * width
    down = torch.where(symmetry & 1 > 0, columns, rows)
    across = torch.where(symmetry & 1 > 0, rows, columns)
    pixel = (down[:, :, None] + across[:, None, :]).view(-1)
    square = images.reshape(-1, 3).index_select(0, pixel).view(b, size, size, 3)
    return square.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Gaussian blur as torchvision's: `kernel` taps (odd) normalised to sum 1, borders reflected.

    Args:
        images: (B, 3, H, W) float, H and W above kernel / 2.
        sigma: (B,) standard deviations in px, above 0.
    """
    half = kernel // 2
    offset = torch.arange(-half, half + 1, device=images.device, dtype=images.dtype)
    taps = torch.softmax(-0.5 * (offset / sigma[:, None]).square(), dim=1)  # (B, kernel)
    # 2 x kernel shifted sums: on a CPU twice as fast as a grouped convolution, and the same for every batch size
    for dim, padding in ((3, (half, half, 0, 0)), (2, (0, 0, half, half))):
        length, padded = images.shape[dim], F.pad(images, padding, mode="reflect")
        images = padded.narrow(dim, 0, length) * taps[:, 0].view(-1, 1, 1, 1)
        for i in range(1, kernel):
            images.addcmul_(padded.narrow(dim, i, length), taps[:, i].view(-1, 1, 1, 1))
    return images
