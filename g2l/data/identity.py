"""What determines the training patches of a data module, to be written down beside what was computed from them."""

import hashlib
import json
from typing import Any

import numpy as np

from g2l.data.module import SlideDataModule
from g2l.slides.cohort import Cohort

SETTINGS = (
    "seed",
    "repeat",
    "patch_size",
    "mpps",
    "mpp_weights",
    "placing",
    "weighting",
    "balance",
    "min_tissue",
    "patches_per_visit",
    "shuffle_visits",
    "quality",
)
# Columns of a cohort that say which slides these are and where patches can lie; not where the files are now.
COLUMNS = ("name", "fingerprint", "mpp", "levels", "width_um", "height_um", "tissue_mm2", "room_um", "mask_mpp")
COLUMNS += ("mask_h", "mask_w", "box_x0", "box_y0", "box_x1", "box_y1")
PROBES = 4096  # patches whose places are looked up


def identify_patches(data: SlideDataModule) -> dict[str, Any]:
    """Settings of the training stream under their names in a config, and three SHA-256, all as plain JSON.

    `cohort`: which slides there are, and their masks (of patches already cut: their paths). `training part`: which
    of them are not held out. `places`: where 4,096 of the patches lie, so that another release of g2l that drew
    other ones would be noticed. Pixels of patches already cut are not looked at.

    Args:
        data: set up (`setup`), with `repeat` above 0.
    """
    settings = {f"data.{'mpp' if name == 'mpps' else name}": getattr(data, name) for name in SETTINGS}
    digests = {"cohort": _content(data), "training part": _hash(data.split["train"]), "places": _places(data)}
    return json.loads(json.dumps(settings)) | {f"{name} (SHA-256)": digest for name, digest in digests.items()}


def _content(data: SlideDataModule) -> str:
    if not isinstance(data.data, Cohort):
        return _hash([data.data.column(name) for name in ("path", "slide")])
    columns = [*COLUMNS, *([data.balance] if data.balance else [])]
    digest = hashlib.sha256(json.dumps({name: data.data.column(name) for name in columns}).encode())
    digest.update(np.ascontiguousarray(data.data.mask_bytes).data)
    return digest.hexdigest()


def _places(data: SlideDataModule) -> str:
    source = data.source("train")
    numbers = np.unique(np.linspace(0, data.repeat - 1, min(data.repeat, PROBES)).astype(np.int64))
    drawn = source.draw(numbers)
    places = [column.tolist() for column in (drawn.x, drawn.y, drawn.mpp)]
    return _hash([[source.name(slide) for slide in drawn.slide.tolist()], places])


def _hash(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
