"""Colour changes of image batches, each sample by its own amount, on the device the batch lies on.

Every function takes images (B, 3, H, W), float, RGB in [0, 1], and one amount per sample, and returns new images in
[0, 1]; the input stays as it is. Brightness, contrast, saturation and hue mean what torchvision's functions mean.
"""

import numpy as np
import torch
from torch import Tensor

# Unit optical densities of haematoxylin, eosin and DAB (rows) in R, G, B: Ruifrok and Johnston 2001, as in scikit-image
RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
HED_FROM_RGB = np.linalg.inv(RGB_FROM_HED)

# log of black is taken half a grey level above 0, the darkest value that 8 bits can tell from their first step
_DARKEST = 0.5 / 255

# ITU-R 601, with the digits that torchvision uses
_GREY = (0.2989, 0.587, 0.114)


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
    """Each pixel moved away from its own grey level by factor (B,): 0 = grey, 1 = unchanged, clipped."""
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
    turned = torch.empty_like(images)
    below = (hue.abs().sub_(1), hue.add(1).abs_().neg_().add_(2), hue.sub(1).abs_().neg_().add_(2))
    for channel, share in enumerate(below):
        torch.addcmul(high, share.clamp_(0, 1), chroma, value=-1, out=turned[:, channel])
    return turned


def jitter_stain(images: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Amounts of haematoxylin, eosin and DAB times scale (B, 3) plus bias (B, 3), the bias in natural absorbance.

    Beer-Lambert: -ln(RGB) is linear in the stains, so that the whole change is one affine map of -ln(RGB). Unlike
    scikit-image's rgb2hed, negative amounts are kept, so that scale 1 and bias 0 change nothing, and amounts are not
    divided by ln(1e6): a bias of 0.05 there means 0.69 here.
    Source: Tellez et al. 2018, doi:10.1109/TMI.2018.2820199.
    """
    b, _, h, w = images.shape
    from_hed = torch.from_numpy(RGB_FROM_HED).to(images.device)
    to_hed = torch.from_numpy(HED_FROM_RGB).to(images.device)
    # absorbance' = (absorbance @ to_hed * scale + bias) @ from_hed, written for columns of pixels
    matrix = torch.einsum("ij,bj,jk->bki", to_hed, scale.double(), from_hed).to(images.dtype)
    shift = (bias.double() @ from_hed).to(images.dtype).unsqueeze(-1)
    logs = images.clamp(min=_DARKEST).log_().view(b, 3, h * w)
    return torch.baddbmm(shift, matrix, logs, beta=-1).exp_().clamp_(0, 1).view(b, 3, h, w)


def _per_sample(amount: Tensor) -> Tensor:
    return amount.view(-1, 1, 1, 1)


def _grey(images: Tensor) -> Tensor:
    """Luma (B, H, W)."""
    red, green, blue = images.unbind(1)
    return red.mul(_GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
