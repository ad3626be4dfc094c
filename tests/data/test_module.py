"""The DataModule: what is held out, what its settings do, and patches already cut in the place of slides."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.cli import LightningArgumentParser
from PIL import Image

from g2l.data.module import SlideDataModule
from g2l.data.stream import read_patches
from g2l.data.streaming.screen import stained
from g2l.errors import CohortError, ConfigError
from g2l.slides.regions import read_regions


def ready(cohort: Path, **settings: Any) -> SlideDataModule:
    data = SlideDataModule(str(cohort), **{"batch_size": 4, "patch_size": 32, "mpp": 2.0} | settings)
    data.setup()
    return data


def test_held_out_patients_never_train(demo_cohort: Path) -> None:
    data = ready(demo_cohort, val_patches=10)
    cohort = data.cohort
    patients = {part: {cohort[slide].patient for slide in slides} for part, slides in data.split.items()}
    assert not patients["train"] & patients["val"] and not patients["train"] & patients["test"]
    held_out = {name for batch in data.val_dataloader() for name in batch["slides"]}
    assert {cohort[i].patient for i in range(len(cohort)) if cohort[i].name in held_out} <= patients["val"]
    assert len(list(data.val_dataloader())) == 3
    again = [batch["images"] for batch in data.val_dataloader()]
    assert all(torch.equal(one["images"], two) for one, two in zip(data.val_dataloader(), again, strict=True))
    training = iter(data.train_dataloader())
    assert next(training)["index"].tolist() == [0, 1, 2, 3]


def test_held_out_patches_are_placed_as_those_of_training_but_each_on_its_own(demo_cohort: Path) -> None:
    settings: dict[str, Any] = {"mpp": [1.0, 2.0], "mpp_weights": [1, 3], "placing": "random", "patches_per_visit": 4}
    data = ready(demo_cohort, val_patches=200, batch_size=50, shuffle_visits=50, **settings)
    held_out = torch.cat([batch["place"] for batch in data.val_dataloader()])
    assert held_out[:, 2].unique().tolist() == [1.0, 2.0] and 0.6 < (held_out[:, 2] == 2).float().mean() < 0.9
    numbers = np.arange(200)
    (held,) = islice(data.val_dataloader(), 1)
    assert held["place"][:, 0].tolist() == data.sampler("val").draw(numbers[:50]).x.tolist()
    train = data.sampler("train", patches_per_visit=4).draw(numbers)
    assert np.unique(train.visit).size < 60
    (batch,) = islice(data.train_dataloader(), 1)
    assert batch["place"][:, 0].tolist() == train.x[:50].tolist()


def test_settings_reach_the_stream(demo_cohort: Path) -> None:
    data = ready(demo_cohort, balance="centre", quality="hsv", min_tissue=0.1, batch_size=30, prefetch=1, timeout=5.0)
    loader = data.train_dataloader()
    assert (loader.dataset.prefetch, loader.dataset.timeout) == (1, 5.0)  # type: ignore[attr-defined]
    batches = list(islice(loader, 10))
    of = dict(zip(data.cohort.column("name"), data.cohort.column("centre"), strict=True))
    centres = [of[name] for batch in batches for name in batch["slides"]]
    assert all(70 <= centres.count(centre) <= 130 for centre in set(centres)) and len(set(centres)) == 3
    images = torch.cat([batch["images"] for batch in batches]).numpy()
    attempts = torch.cat([batch["attempt"] for batch in batches])
    assert all(stained(image, 2.0) for image, attempt in zip(images, attempts, strict=True) if attempt < 15)
    assert attempts.any()


def test_labelled_patches_lie_in_their_region(demo_cohort: Path) -> None:
    data = ready(demo_cohort)
    labelled = data.labelled("test", 60)
    assert labelled.images.shape == (60, 32, 32, 3)
    assert len(set(labelled.labels)) >= 4 and len(set(labelled.centres)) == 3
    assert set(labelled.patients) == {data.cohort[slide].patient for slide in data.split["test"]}
    # the first of the stream that have a class
    drawn = data.sampler("test").draw(np.arange(400))
    regions = [read_regions(data.cohort[slide].regions or Path()) for slide in drawn.slide.tolist()]
    patches = [drawn.patch(k) for k in range(400)]
    names = [of.label(patch.x, patch.y, 64.0) for of, patch in zip(regions, patches, strict=True)]
    classed = [(patch, name) for patch, name in zip(patches, names, strict=True) if name is not None][:60]
    assert labelled.labels.tolist() == [name for _, name in classed]
    assert np.array_equal(labelled.images, read_patches(data.cohort, [patch for patch, _ in classed]))


def test_patches_already_cut_come_through_the_same_stream(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for slide in range(5):
        (tmp_path / "cut" / f"s{slide}").mkdir(parents=True)
        for k in range(6):
            pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "cut" / f"s{slide}" / f"{k}.png")
    manifest = tmp_path / "patients.csv"
    rows = [f"s{slide},P{slide},{'benign' if slide % 2 else 'tumour'},north\n" for slide in range(5)]
    manifest.write_text("slide,patient,label,centre\n" + "".join(rows))
    data = ready(tmp_path / "cut", manifest=str(manifest), patch_size=16, val_patches=6, held_out_fraction=0.4)
    (epoch,) = [list(islice(data.train_dataloader(), 9))]
    assert len({name for batch in epoch for name in batch["slides"]}) == 3
    assert all(batch["images"].shape == (4, 16, 16, 3) and not batch["faults"] for batch in epoch)
    # two epochs of 18 patches, each once in both
    images = torch.cat([batch["images"] for batch in epoch]).numpy()
    names = [name for batch in epoch for name in batch["slides"]]
    assert all(names[:18].count(name) == 6 == names[18:].count(name) for name in set(names))
    files = {path: np.asarray(Image.open(path)) for path in (tmp_path / "cut").rglob("*.png")}
    found = [next(path for path, whole in files.items() if _inside(image, whole)) for image in images]
    assert len(set(found[:18])) == 18 and set(found[:18]) == set(found[18:])
    assert not {path.parent.name for path in found} & {n for batch in data.val_dataloader() for n in batch["slides"]}
    labelled = data.labelled("train", 7)
    assert set(labelled.labels) <= {"benign", "tumour"} and labelled.images.shape == (7, 16, 16, 3)
    with pytest.raises(ConfigError, match="holds patches, not slides"):
        data.cohort  # noqa: B018


def _inside(image: np.ndarray, whole: np.ndarray) -> bool:
    """Whether a crop is somewhere in an image."""
    windows = np.lib.stride_tricks.sliding_window_view(whole, image.shape)
    return bool((windows == image).all(axis=(-1, -2, -3)).any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1"),
        ({"mpp": 0}, "mpp is 0"),
        ({"mpp": []}, "mpp is"),
        ({"mpp": [0.5, 1.0], "mpp_weights": [1.0]}, "mpp_weights"),
        ({"mpp_weights": [0.0]}, "mpp_weights"),
        ({"seed": -1}, "seed"),
        ({"prefetch": 0}, "prefetch is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"num_workers": -1}, "num_workers"),
        ({"val_patches": 1}, "val_patches"),
        ({"patches_per_visit": 0}, "patches_per_visit"),
        ({"timeout": 0}, "timeout"),
        ({"quality": "sharp", "mpp": 2.0}, "sharp"),
    ],
)
def test_mistakes_of_the_config(demo_cohort: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlideDataModule(str(demo_cohort), **settings)


def test_mistakes_are_told_all_at_once(demo_cohort: Path) -> None:
    with pytest.raises(ConfigError, match=r"threads is 0.*batch_size is 1.*timeout"):
        SlideDataModule(str(demo_cohort), batch_size=1, threads=0, timeout=-1)


def test_mistakes_that_only_the_data_show(demo_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="colour"):
        SlideDataModule(str(demo_cohort), hold_out="colour").setup()
    with pytest.raises(ConfigError, match="give the manifest to g2l index"):
        SlideDataModule(str(demo_cohort), manifest="a.csv").setup()
    with pytest.raises(CohortError, match="g2l index"):
        SlideDataModule(str(tmp_path / "none")).setup()
    with pytest.raises(CohortError):
        SlideDataModule(str(tmp_path)).setup()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "mpp"),
    [
        (["--data.mpp=0.5"], 0.5),
        (["--data.mpp=1"], 1.0),
        (["--data.mpp=[0.25, 0.5]"], [0.25, 0.5]),
        (["--data.mpp=[1,2]", "--data.mpp_weights=[1,3]"], [1.0, 2.0]),
    ],
)
def test_the_command_line_takes_one_resolution_or_several(arguments: list[str], mpp: float | list[float]) -> None:
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(SlideDataModule, "data")
    data: SlideDataModule = parser.instantiate_classes(parser.parse_args(["--data.cohort=demo", *arguments]))["data"]
    assert data.mpps == (mpp if isinstance(mpp, list) else [mpp])
    assert data.mpp == (None if isinstance(mpp, list) else mpp)


def test_visits_that_several_processes_would_read_are_refused(demo_cohort: Path) -> None:
    data = SlideDataModule(
        str(demo_cohort), batch_size=6, patch_size=32, mpp=2.0, patches_per_visit=2, shuffle_visits=8, num_workers=2
    )
    data.setup()
    with pytest.raises(ConfigError, match=r"shuffle_visits is 8, no multiple of 12 .* give 12"):
        data.train_dataloader()
    with pytest.raises(ConfigError, match="quality is blur, give none, hsv, sharp"):
        SlideDataModule(str(demo_cohort), quality="blur")  # type: ignore[arg-type]
