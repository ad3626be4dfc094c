"""Patches that are not worth training on are replaced by the next attempt of their number."""

import colorsys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from g2l.data.source import CohortSource
from g2l.data.stream import PatchStream
from g2l.data.streaming.reading import MOST_REJECTED
from g2l.data.streaming.screen import in_focus, stained
from g2l.slides.cohort import Cohort
from g2l.slides.sampling import Sampler


def stained_share(pixels: NDArray[np.uint8]) -> float:
    """The publication's rule pixel by pixel, with the standard library's HSV on OpenCV's scale."""
    inside = 0
    for r, g, b in pixels.reshape(-1, 3).tolist():
        h, s, v = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
        inside += 90 <= h * 180 <= 180 and s * 255 >= 8 and v * 255 >= 103
    return inside / pixels[..., 0].size


def test_colours_of_stained_tissue_pass(demo_cohort: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    sampler = Sampler(cohort, range(len(cohort)), seed=1, size=24, mpp=1.0, min_tissue=0.0)
    stream = PatchStream(CohortSource(sampler), 60, steps=1)
    rng = np.random.default_rng(0)
    images = [*next(iter(stream))["images"].numpy()]
    images += [rng.integers(low, 256, (24, 24, 3)).astype(np.uint8) for low in (0, 90, 180)]
    verdicts = [(stained(image, 1.0), stained_share(image)) for image in images]
    assert {verdict for verdict, _ in verdicts} == {True, False}
    for verdict, share in verdicts:
        # colours on the very edge round to either side
        assert verdict == (share >= 0.6) or abs(share - 0.6) < 0.05


def test_the_share_is_sixty_percent() -> None:
    patch = np.full((10, 10, 3), 255, np.uint8)  # white: no saturation
    patch[:6] = (150, 60, 150)  # hue 150, saturation 153, value 150
    assert stained(patch, 0.5)
    patch[5, 9] = 255
    assert not stained(patch, 0.5)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_a_patch_out_of_focus_fails_at_any_resolution(demo_cohort: Path, mpp: float) -> None:
    cohort = Cohort.open(demo_cohort)
    sampler = Sampler(cohort, range(len(cohort)), seed=1, size=round(128 / mpp), mpp=mpp)
    images = next(iter(PatchStream(CohortSource(sampler), 24, steps=1)))["images"].numpy()
    assert all(in_focus(image, mpp) for image in images)
    blurred = [np.asarray(cv2.GaussianBlur(image, (0, 0), 4 / mpp), np.uint8) for image in images]  # sigma 4 um
    # where next to nothing is left to see, the grey levels' rounding looks sharp
    assert sum(in_focus(image, mpp) for image in blurred) <= 8


def test_what_cannot_be_judged_passes() -> None:
    assert in_focus(np.full((64, 64, 3), 200, np.uint8), 0.5)
    ramp = np.tile(np.arange(64, dtype=np.uint8)[:, None, None], (1, 64, 3))
    assert in_focus(ramp, 2.0) and not in_focus(ramp, 1.0)


def test_a_rejected_patch_moves_on_to_the_next_attempt(demo_cohort: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    sampler = Sampler(cohort, range(len(cohort)), seed=1, size=24, mpp=1.0, min_tissue=0.05)
    source, pixels = CohortSource(sampler), np.empty((24, 24, 3), np.uint8)
    batches = list(PatchStream(source, 20, steps=3, quality="hsv"))
    # the rule applied by hand, one number after the other
    for batch in batches:
        for slot, number in enumerate(batch["index"].tolist()):
            attempt = -1
            while attempt < MOST_REJECTED:
                attempt += 1
                source.read(sampler.patch(number, attempt), pixels)
                if stained(pixels, 1.0):
                    break
            assert batch["attempt"][slot] == attempt
            assert np.array_equal(batch["images"][slot].numpy(), pixels)
    attempts = torch.cat([batch["attempt"] for batch in batches])
    assert attempts.any() and not attempts.all()


def test_when_nothing_passes_the_sixteenth_is_taken(demo_cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = Cohort.open(demo_cohort)
    sampler = Sampler(cohort, range(len(cohort)), seed=1, size=16, mpp=2.0)
    monkeypatch.setattr("g2l.data.stream.SCREENS", {"hsv": lambda pixels, mpp: False})
    (batch,) = PatchStream(CohortSource(sampler), 4, steps=1, quality="hsv")
    assert batch["attempt"].tolist() == [15] * 4 and batch["faults"] == []
