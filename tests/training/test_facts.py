"""A checkpoint counts what it was trained on, names no slide, and says where its data lay and how far it came."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small import write_networks

from g2l.data.module import SlideDataModule
from g2l.encoders.opening import open_checkpoint
from g2l.slides.cohort import Cohort
from g2l.training.facts import data_facts, step_facts
from g2l.training.losses import Cosine


def module(place: Path, **settings: Any) -> SlideDataModule:
    data = SlideDataModule(str(place), batch_size=4, patch_size=36, mpp=1.0, **settings)
    data.setup()
    return data


def test_counts_are_those_of_the_training_part(demo_cohort: Path) -> None:
    train = [slide for slide in Cohort.open(demo_cohort) if slide.split == "train"]
    found = data_facts(module(demo_cohort))
    assert (found["kind"], found["slides"], found["patches"]) == ("slides", len(train), None)
    assert found["patients"] == len({slide.patient for slide in train}) == 6
    assert found["centres"] == len({slide.centre for slide in train}) == 3
    assert found["mpp"] == [1.0] and found["data"]["cohort"] == str(demo_cohort.resolve())
    told = json.dumps({key: value for key, value in found.items() if key != "data"})
    assert not any(slide.name in told or str(slide.patient) in told for slide in Cohort.open(demo_cohort))
    assert data_facts(object()) == {}


def test_patches_already_cut_are_counted_with_their_groups(tmp_path: Path) -> None:
    from layouts import write_images

    names = sorted(write_images(tmp_path / "patches"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "group"), *((name, name.split("/")[1]) for name in names)])
    data = module(tmp_path / "patches", manifest=str(tmp_path / "manifest.csv"), hold_out="group")
    found, rows = data_facts(data), data.split["train"]
    assert found["kind"] == "patches" and found["patches"] == len(rows) > 0
    assert found["slides"] == len({data.data.column("slide")[row] for row in rows})
    assert found["patients"] is None and found["data"]["manifest"] == str((tmp_path / "manifest.csv").resolve())


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (4, 2)])
def test_patches_seen_are_steps_of_all_processes(world: int, accumulate: int) -> None:
    trainer: Any = SimpleNamespace(global_step=10, accumulate_grad_batches=accumulate, world_size=world)
    found = step_facts({"batch_size": 32}, trainer, {"a": 1.0})
    assert found == {"batch_size": 32, "steps": 10, "patches_seen": 320 * world * accumulate, "losses": {"a": 1.0}}
    assert "patches_seen" not in step_facts({}, trainer, {})


def test_a_fit_writes_them_into_its_checkpoint(demo_cohort: Path, tmp_path: Path) -> None:
    networks = write_networks(tmp_path)
    data = module(demo_cohort)
    keep = ModelCheckpoint(tmp_path, filename="best", every_n_train_steps=2)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, limit_val_batches=0, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[keep], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(networks.distiller({"cosine": Cosine(networks.teacher)}), datamodule=data)
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)["g2l"]["training"]
    assert content == data_facts(data) | {"steps": 2, "patches_seen": 8, "losses": {"cosine": 1.0}}
    assert open_checkpoint(tmp_path / "best.ckpt").training == content
