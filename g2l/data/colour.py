"""Colour changes of image batches, each sample by its own amount, on the device the batch lies on.

Every function takes images (B, 3, H, W), float, RGB in [0, 1], and one amount per sample, and returns new images in
[0, 1]; the input stays as it is. Brightness, contrast, saturation and hue mean what torchvision's functions mean.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Unit optical densities of haematoxylin, eosin and DAB (rows) in R, G, B: Ruifrok and Johnston 2001, as in scikit-image
RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
HED_FROM_RGB = np.linalg.inv(RGB_FROM_HED)

# log of black is taken half a grey level above 0, the darkest value that 8 bits can tell from their first step
DARKEST = 0.5 / 255

# ITU-R 601, with the digits that torchvision uses
GREY = (0.2989, 0.587, 0.114)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Images times factor (B,), 1 = unchanged, clipped."""
    return images.mul(_per_sample(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Each image moved away from its own mean grey level by factor (B,): 0 = flat grey, 1 = unchanged, clipped."""
    # two steps, so that each sum stays within one thread and does not depend on how many there are
    mean = _grey(images).mean(-1).mean(-1)
    factor = _per_sample(factor)
    return images.mul(factor).add_(_per_sample(mean) * (1 - factor)).clamp_(0, 1)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Each pixel moved away from its own grey level by factor (B,): 0 = grey, 1 = unchanged (exactly), clipped."""
    factor = _per_sample(factor)
    return images.mul(factor).add_(_grey(images).unsqueeze_(1).mul_(1 - factor)).clamp_(0, 1)


def adjust_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hue of HSV turned by turn (B,), in whole turns, -0.5 to 0.5; saturation and value stay.

    Written without branches: with r, g, b scaled to minimum 0 and maximum 1, the distance from red in sixths of a turn
    is 1 - r + g + b, to the side of green or of blue; and a colour at signed distance h has r, g, b below the maximum
    by the chroma times clip(|h| - 1), clip(2 - |h + 1|) and clip(2 - |h - 1|).
    """
    red, green, blue = images.unbind(1)  # each (B, H, W)
    low = torch.minimum(torch.minimum(red, green), blue)
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - low
    distance = (green + blue).sub_(red).sub_(low).div_(chroma.clamp_min(1e-12)).add_(1)
    hue = distance.copysign_(green - blue).add_(6 * turn.view(-1, 1, 1))
    hue.sub_(hue.div(6).round_().mul_(6))  # back to -3..3
    below = (hue.abs().sub_(1), hue.add(1).abs_().neg_().add_(2), hue.sub(1).abs_().neg_().add_(2))
    return torch.stack([torch.addcmul(high, share.clamp_(0, 1), chroma, value=-1) for share in below], dim=1)


def stain_maps(scale: NDArray[np.float64], bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """What `jitter_stain` does to ln(RGB), as affine maps.

    Beer-Lambert: -ln(RGB) is linear in the stains, so that the whole change is one affine map of ln(RGB). Unlike
    scikit-image's rgb2hed, negative amounts are kept, so that scale 1 and bias 0 change nothing, and amounts are not
    divided by ln(1e6): a bias of 0.05 there means 0.69 here.

    Args:
        scale: (n, 3) factors of the amounts of haematoxylin, eosin and DAB.
        bias: (n, 3) added to them, in natural absorbance.
    Returns:
        (n, 3, 4): rows R, G, B of the result, columns R, G, B and the constant.
    Source: Tellez et al. 2018, doi:10.1109/TMI.2018.2820199.
    """
    # absorbance' = (absorbance @ HED_FROM_RGB * scale + bias) @ RGB_FROM_HED, written for columns of pixels
    linear = np.einsum("ij,bj,jk->bki", HED_FROM_RGB, scale, RGB_FROM_HED)
    return np.concatenate([linear, -(bias @ RGB_FROM_HED)[:, :, None]], axis=2)


def jitter_stain(images: Tensor, maps: Tensor) -> Tensor:
    """Amounts of the stains changed by the affine maps (B, 3, 4) of `stain_maps`."""
    b, _, h, w = images.shape
    logs = images.clamp(min=DARKEST).log_().view(b, 3, h * w)
    return torch.baddbmm(maps[:, :, 3:], maps[:, :, :3], logs).exp_().clamp_(0, 1).view(b, 3, h, w)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Values from the threshold (B,) upwards inverted; above 1 it changes nothing."""
    return torch.where(images >= _per_sample(threshold), 1 - images, images)


def _per_sample(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    """Luma (B, H, W)."""
    red, green, blue = images.unbind(1)
    return red.mul(GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
