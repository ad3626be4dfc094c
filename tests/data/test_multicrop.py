"""Multi-crop: shapes and order, shared geometry, independence of the batch, the published setting from YAML."""

from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import auto_cli
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from g2l.data import views as module
from g2l.data.boxes import Numbers, random_boxes
from g2l.data.multicrop import MultiCrop
from g2l.data.rendering import on_device
from g2l.data.views import Views
from g2l.errors import ConfigError

ALL = ("student", "clean", "local")
STILL: dict[str, Any] = {"flip": 0.0, "vertical_flip": 0.0, "quarter_turns": False}
QUIET: dict[str, Any] = {"stain": 0.0, "jitter": 0.0, "blur": (0.0, 0.0, 0.0)}


def patches(count: int = 6, side: int = 40) -> torch.Tensor:
    """Blurred noise: as smooth as tissue, so that few values overshoot."""
    noise = torch.randint(0, 256, (count, 3, side, side), generator=torch.manual_seed(0)).float()
    return F.gaussian_blur(noise, [9, 9], [2.0, 2.0]).permute(0, 2, 3, 1).round().to(torch.uint8)


def small(**settings: Any) -> MultiCrop:
    return MultiCrop(24, 14, 4, **settings)


def test_shapes_and_attributes():
    views = small()(patches(), torch.arange(6), 0, True, ALL)
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "student": (12, 3, 24, 24),
        "clean": (12, 3, 24, 24),
        "local": (24, 3, 14, 14),
    }
    assert all(view.dtype == torch.float32 and 0 <= view.min() <= view.max() <= 1 for view in views.values())
    default, single = MultiCrop(), Views()
    assert (default.size, default.crops, default.locals, default.local_size) == (224, 2, 8, 98)
    assert (single.crops, single.locals, single.local_size) == (1, 0, 0)


def test_every_crop_is_the_box_of_its_number_resized_as_torchvision_does():
    """Crop-major: sample i's global crop c is row c B + i, its local crop l row l B + i of the others."""
    images, index, views = patches(), torch.arange(20, 26), small(**STILL, **QUIET)
    result = views(images, index, 3, True, ALL)
    for name, crops, scale, size in (("clean", range(2), (0.32, 1), 24), ("local", range(2, 6), (0.05, 0.32), 14)):
        for place, crop in enumerate(crops):
            boxes = random_boxes(Numbers.of(3, index.numpy(), range(crop, crop + 1)), (40, 40), scale, (3 / 4, 4 / 3))
            for i, (y, x, height, width) in enumerate(np.stack(boxes, 1).tolist()):
                part = images[i, y : y + height, x : x + width].permute(2, 0, 1).float() / 255
                part = F.resize(part, [size, size], interpolation=InterpolationMode.BICUBIC, antialias=True)
                torch.testing.assert_close(result[name][6 * place + i], part.clamp(0, 1), rtol=0, atol=1.1 / 255)


def test_a_sample_does_not_depend_on_its_batch():
    """Bitwise on a CPU: one by one, and in another order and company."""
    images, index = patches(), torch.arange(100, 106)
    for views in (small(stain=1), small(grayscale=0.5, solarize=(0.5, 0.5, 0.5))):
        whole = views(images, index, 3, True, ALL)
        order = torch.tensor([4, 1, 3])
        part = views(images[order], index[order], 3, True, ALL)
        for name, view in whole.items():
            expected = view.unflatten(0, (-1, 6))
            assert torch.equal(part[name].unflatten(0, (-1, 3)), expected[:, order])
            alone = [views(images[i : i + 1], index[i : i + 1], 3, True, [name])[name] for i in range(6)]
            assert torch.equal(torch.stack(alone, 1), expected)


def test_student_and_clean_share_the_geometry_of_both_crops():
    images, index = patches(), torch.arange(6)
    quiet = small(**QUIET)(images, index, 0, True)
    assert torch.equal(quiet["student"], quiet["clean"])
    loud = small(stain=1, jitter=1, blur=(1, 1, 1))(images, index, 0, True)
    assert torch.equal(loud["clean"], quiet["clean"])
    assert (loud["student"] != loud["clean"]).flatten(1).any(1).all()


def test_crops_of_an_image_differ_in_box_symmetry_and_colour():
    image = patches(1).expand(1, -1, -1, -1)
    first, second = small()(image, torch.zeros(1, dtype=torch.int64), 0, True, ["clean"])["clean"]
    assert not torch.equal(first, second)
    whole = small(scale=(1.0, 1.0), aspect=(1.0, 1.0), **QUIET)  # the same box always
    views = whole(patches(1).expand(200, -1, -1, -1), torch.arange(200), 0, True, ["clean"])["clean"]
    same = (views[:200] == views[200:]).flatten(1).all(1).double().mean()
    assert same == pytest.approx(1 / 8, abs=0.1)  # eight symmetries, independent in both crops


def test_published_blur_is_that_of_the_code_and_not_of_the_paper():
    """Global 0 never, global 1 nine times in ten, local half of the time: seen in pixels."""
    published = MultiCrop.published(24, 14)
    assert published.photometry.blur == (0.0, 0.9, 0.5)
    assert published.photometry.solarize == (0.0, 0.2, 0.0)
    photometry = published.photometry
    assert (published.flips, published.quarter_turns, photometry.stain) == ((0.0, 0.5), False, 0.0)
    assert (photometry.jitter, photometry.grayscale) == (0.8, 0.2)
    assert [photometry.brightness, photometry.contrast, photometry.saturation, photometry.hue] == [0.4, 0.4, 0.2, 0.1]
    images, index = patches(1).expand(300, -1, -1, -1), torch.arange(300)
    blur = published.photometry.blur
    views = small(stain=0, jitter=0, blur=blur, blur_sigma=(1.0, 2.0))(images, index, 0, True, ("student", "clean"))
    blurred = (views["student"] != views["clean"]).flatten(1).any(1).view(2, 300).double().mean(1)
    assert blurred[0] == 0
    assert blurred[1] == pytest.approx(0.9, abs=0.078)  # 4.5 standard deviations


def test_a_batch_in_one_piece_as_on_a_gpu_gives_what_one_by_one_gives(monkeypatch):
    """Within the byte that a resized crop is rounded to on a CPU, which contrast and stain then stretch."""
    images, index, views = patches(24), torch.arange(24), small(stain=0.5)
    single = views(images, index, 0, True, ALL)
    monkeypatch.setattr(module, "on_cpu", on_device)
    with torch.autocast("cpu", torch.bfloat16):
        batch = views(images, index, 0, True, ALL)
    torch.testing.assert_close(batch["clean"], single["clean"], rtol=0, atol=1.1 / 255)
    for name in ("student", "local"):
        difference = 255 * (batch[name] - single[name]).abs()
        assert difference.max() < 4
        assert difference.mean() < 0.4


def test_outside_training_everything_is_the_centre_crop_and_there_are_no_local_crops():
    images, index = patches(), torch.arange(6)
    views = small()(images, index, 0, False)
    expected = images[:, 8:32, 8:32].permute(0, 3, 1, 2).float() / 255
    assert torch.equal(views["student"], expected)
    assert torch.equal(views["clean"], expected)
    with pytest.raises(ConfigError, match="unknown local; there are student and clean outside training"):
        small()(images, index, 0, False, ["local"])
    with pytest.raises(ConfigError, match="unknown local"):
        MultiCrop(24, 14, 0)(images, index, 0, True, ["local"])


def test_the_published_setting_can_be_said_in_yaml():
    def built(views: Views | None = None) -> Views | None:
        return views

    text = """{class_path: g2l.data.multicrop.MultiCrop, init_args: {size: 24, local_size: 14, vertical_flip: 0,
        quarter_turns: false, stain: 0, jitter: 0.8, brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1,
        grayscale: 0.2, blur: [0, 0.9, 0.5], solarize: [0, 0.2, 0], scale: [0.32, 1], locals: 4}}"""
    views = auto_cli(built, args=[f"--views={' '.join(text.split())}"], as_positional=False)
    assert isinstance(views, MultiCrop)
    published = MultiCrop.published(24, 14)
    published.locals = 4
    assert vars(views) == vars(published)


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(ConfigError) as raised:
        MultiCrop(size=0, scale=(0.5, 2), local_scale=(0, 0.1), aspect=(2, 1), flip=3, locals=-1, blur=(0, 2, 0))
    message = str(raised.value)
    assert "\n" not in message
    for name in ("size", "scale", "local_scale", "aspect", "flip", "locals", "blur"):
        assert f"{name} is" in message


@pytest.mark.gpu
def test_a_gpu_sees_what_a_cpu_sees_and_nothing_waits_for_it():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, index, views = patches(24), torch.arange(24), small()
    single, given = views(images, index, 0, True, ALL), images.cuda()
    views(given, index, 0, True, ALL)  # libraries may wait when they are first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = views(given, index, 0, True, ALL)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(batch["clean"].cpu(), single["clean"], rtol=0, atol=1.1 / 255)
    for name in ("student", "local"):
        assert (255 * (batch[name].cpu() - single[name]).abs()).mean() < 0.4
