"""Views: the same for every batch composition, the same geometry for both, every amount within its range."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed

from g2l.data import views as module
from g2l.data.multicrop import MultiCrop
from g2l.data.rendering import on_device
from g2l.data.views import Views
from g2l.errors import ConfigError

QUIET: dict[str, Any] = {"stain": 0.0, "jitter": 0.0, "blur": 0.0}
STILL: dict[str, Any] = {"flip": 0.0, "quarter_turns": False}


def only(**steps: Any) -> dict[str, Any]:
    """Settings with these steps alone, and without turns and flips."""
    return STILL | QUIET | steps


def patches(count: int = 12, side: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randint(40, 230, (count, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))


def same_patch(count: int, patch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(patch).expand(count, *patch.shape), torch.arange(count)


@pytest.mark.parametrize("views", [Views(16), Views(16, stain=1, jitter=1, blur=1), Views.published(16)])
def test_a_sample_does_not_depend_on_its_batch(views):
    """Bitwise on a CPU: one by one, in other company, in another order."""
    images, index = patches(), torch.arange(100, 112)
    whole = views(images, index, 3, True)
    order = torch.tensor([7, 2, 11, 0, 5])
    for name, expected in whole.items():
        assert torch.equal(views(images[order], index[order], 3, True)[name], expected[order])
        alone = [views(images[i : i + 1], index[i : i + 1], 3, True)[name] for i in range(12)]
        assert torch.equal(torch.cat(alone), expected)


@pytest.mark.parametrize("views", [Views(224, stain=1, jitter=1, blur=1), MultiCrop(stain=1, jitter=1, locals=0)])
def test_a_sample_does_not_depend_on_the_number_of_threads(views):
    images, index = patches(3, side=256), torch.arange(3)
    threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            cv2.setNumThreads(count)
            results.append(views(images, index, 0, True)["student"])
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(cv2_threads)
    assert torch.equal(*results)


def test_seed_and_index_both_matter():
    images, index = same_patch(1, patches(1)[0].numpy())
    views = Views(16)
    results = [views(images, index + i, seed, True)["clean"] for i in range(3) for seed in range(3)]
    assert len({result.numpy().tobytes() for result in results}) == 9


def test_student_and_clean_share_the_geometry():
    images, index = patches(), torch.arange(12)
    quiet = Views(16, **QUIET)(images, index, 0, True)
    loud = Views(16, stain=1, jitter=1, blur=1)(images, index, 0, True)
    assert torch.equal(quiet["student"], quiet["clean"])
    assert torch.equal(loud["clean"], quiet["clean"])
    assert (loud["student"] != loud["clean"]).flatten(1).any(1).all()
    for name in ("student", "clean"):
        alone = Views(16, stain=1, jitter=1, blur=1)(images, index, 0, True, names=[name])
        assert list(alone) == [name]
        assert torch.equal(alone[name], loud[name])


def symmetries(views: Views, count: int) -> np.ndarray:
    """How often each of the eight symmetries of a patch without any symmetry of its own occurs."""
    patch = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    rotations = [np.rot90(patch, k) for k in range(4)]
    known = {np.ascontiguousarray(p).tobytes(): i for i, p in enumerate(rotations + [p[:, ::-1] for p in rotations])}
    seen = views(*same_patch(count, patch), seed=0, training=True)["student"]
    seen = (seen * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.bincount([known[view.tobytes()] for view in seen], minlength=8)


def test_all_eight_symmetries_are_equally_likely():
    counts = symmetries(Views(3, **QUIET), 4000)
    assert np.abs(counts - 500).max() < 100  # 4.8 standard deviations


def test_published_views_mirror_and_never_turn():
    published = Views.published(16)
    photometry = published.photometry
    assert (published.quarter_turns, photometry.stain, photometry.jitter, photometry.blur) == (False, 0, 0.5, (0.1,))
    counts = symmetries(Views(3, quarter_turns=False, **QUIET), 2000)
    assert set(np.flatnonzero(counts)) == {0, 2, 4, 6}  # identity, half turn, left-right, up-down
    assert np.abs(counts[[0, 2, 4, 6]] - 500).max() < 95


def test_quarter_turns_without_flips_are_rotations():
    counts = symmetries(Views(3, flip=0, **QUIET), 2000)
    assert set(np.flatnonzero(counts)) == {0, 1, 2, 3}
    assert np.abs(counts[:4] - 500).max() < 95


def test_crops_reach_every_place_equally_often():
    y, x = np.mgrid[:12, :12].astype(np.uint8)
    corner = Views(8, **STILL, **QUIET)(*same_patch(2500, np.stack([y, x, x], -1)), 0, True)["clean"][:, :2, 0, 0]
    places, counts = np.unique((corner * 255).round(), axis=0, return_counts=True)
    assert len(places) == 25
    assert np.abs(counts - 100).max() < 50


def test_without_training_everything_is_the_centre_crop():
    images, index = patches(), torch.arange(12)
    views = Views(16)(images, index, 0, False)
    expected = images[:, 4:20, 4:20].permute(0, 3, 1, 2).float() / 255
    assert torch.equal(views["student"], expected)
    assert torch.equal(views["clean"], expected)
    assert views["student"].is_contiguous()


def test_steps_occur_as_often_as_asked():
    images, index = same_patch(800, patches(1, side=8)[0].numpy())
    for step, p in (("stain", 0.5), ("jitter", 0.5), ("blur", 0.1)):
        result = Views(8, **only(**{step: p}), blur_kernel=3)(images, index, 0, True)
        share = (result["student"] != result["clean"]).flatten(1).any(1).double().mean()
        assert share == pytest.approx(p, abs=4.5 * (p * (1 - p) / 800) ** 0.5), step


def test_steps_occur_independently_of_each_other_and_of_the_geometry():
    images, index = same_patch(800, patches(1, side=8)[0].numpy())
    hits = []
    for step in ("stain", "jitter", "blur"):
        result = Views(8, **only(**{step: 0.5}), blur_kernel=3)(images, index, 0, True)
        hits.append((result["student"] != result["clean"]).flatten(1).any(1))
    turned = Views(8, quarter_turns=False, **QUIET)(images, index, 0, True)["clean"] != result["clean"]
    hits.append(turned.flatten(1).any(1))
    correlation = np.corrcoef(torch.stack(hits).double())
    assert np.abs(correlation - np.eye(4)).max() < 0.16  # 4.5 standard deviations


def test_brightness_is_one_factor_per_sample_uniform_in_its_range():
    images, index = same_patch(500, patches(1, side=8)[0].numpy() // 2)
    views = Views(8, **only(jitter=1), brightness=0.15, contrast=0, saturation=0, hue=0)
    result = views(images, index, 0, True)
    ratio = (result["student"] / result["clean"]).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-4, atol=0)
    factor = ratio[:, 0].sort().values
    torch.testing.assert_close(factor, torch.linspace(0.85, 1.15, 500), rtol=0, atol=0.03)


def test_stain_jitter_is_one_scale_and_bias_per_sample_and_stain():
    """Measured with scikit-image on pixels that are made of stains, in its unit of ln(1e6)."""
    amounts = np.random.default_rng(0).uniform(0.02, 0.07, (8, 8, 3))
    patch = (hed2rgb(amounts) * 255).round().astype(np.uint8)
    views = Views(8, **only(stain=1), stain_strength=0.2)
    result = views(*same_patch(40, patch), 0, True)["student"].permute(0, 2, 3, 1)
    before, fits = rgb2hed(patch).reshape(-1, 3), []
    for view in result.double().numpy():
        after = rgb2hed(view).reshape(-1, 3)
        fits.append([np.polyfit(before[:, s], after[:, s], 1) for s in range(3)])
    scale, bias = np.array(fits).transpose(2, 0, 1)  # each (views, stains)
    for values, centre, reach in ((scale, 1, 0.2), (bias * np.log(1e6), 0, 0.2)):
        assert np.abs(values - centre).max() <= reach + 1e-4
        assert (values.max(0) - values.min(0) > 1.4 * reach).all()
    assert np.abs(np.corrcoef(np.concatenate([scale, bias], 1).T) - np.eye(6)).max() < 0.6


def test_values_stay_in_range_on_black_white_and_grey():
    flat = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 12, 12, 3).repeat(20, 1, 1, 1)
    views = Views(12, stain=1, stain_strength=1, jitter=1, brightness=1, contrast=1, saturation=1, hue=0.5, blur=1)
    student = views(flat, torch.arange(60), 0, True)["student"]
    assert student.dtype == torch.float32
    assert student.isfinite().all()
    assert 0 <= student.min() <= student.max() <= 1 + 1e-6


def test_views_are_built_from_yaml():
    from jsonargparse import auto_cli

    def built(views: Views) -> Views:
        return views

    text = "{class_path: g2l.data.views.Views, init_args: {size: 128, stain: 0.0, blur_sigma: [0.1, 1.0]}}"
    views = auto_cli(built, args=[f"--views={text}"], as_positional=False)
    assert (views.size, views.photometry.stain, views.photometry.blur_sigma) == (128, 0.0, (0.1, 1.0))


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(ConfigError) as raised:
        Views(size=0, flip=2, hue=0.7, blur_kernel=4, blur_sigma=(0.0, 2.0), brightness=-1)
    message = str(raised.value)
    assert "\n" not in message
    for name in ("size", "flip", "hue", "blur_kernel", "blur_sigma", "brightness"):
        assert name in message


@pytest.mark.parametrize(
    ("images", "names", "message"),
    [
        (patches(2, side=15), ["student"], "16 px does not fit into patches of 15 px"),
        (patches(2).float(), ["student"], "must be torch.uint8"),
        (patches(3), ["student"], "index \\(2,\\)"),
        (patches(2), ["teacher"], "unknown teacher"),
        (patches(2), ["local"], "unknown local"),
    ],
)
def test_bad_batches_are_refused(images, names, message):
    with pytest.raises(ConfigError, match=message):
        Views(16)(images, torch.arange(2), 0, True, names=names)


def test_a_batch_in_one_piece_as_on_a_gpu_gives_what_one_by_one_gives(monkeypatch):
    """Under autocast too, as inside a training step."""
    images, index = patches(24), torch.arange(24)
    views = Views(16, blur=0.5)
    expected = views(images, index, 0, True)
    monkeypatch.setattr(module, "on_cpu", on_device)
    with torch.autocast("cpu", torch.bfloat16):
        whole = views(images, index, 0, True)
    for name, view in expected.items():
        torch.testing.assert_close(whole[name], view, rtol=0, atol=4e-5)


@pytest.mark.gpu
def test_a_gpu_sees_what_a_cpu_sees_and_nothing_waits_for_it():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    images, index = patches(32, side=64), torch.arange(32)
    views = Views(48)
    on_cpu, given = views(images, index, 0, True), images.cuda()
    views(given, index, 0, True)  # libraries may wait when they are first used
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_gpu = views(given, index, 0, True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for name, expected in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].cpu(), expected, rtol=0, atol=4e-5)
