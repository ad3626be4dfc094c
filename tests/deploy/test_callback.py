"""Export at the end of a training equals `g2l export` of its best checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from small import batches, loader, write_networks

from g2l.deploy.callback import Export
from g2l.deploy.export import export
from g2l.errors import EncoderError
from g2l.training.losses import Cosine


def run(tmp_path: Path, overrides: str = "") -> Trainer:
    networks = write_networks(tmp_path)
    if overrides:
        path = Path(networks.student)
        path.write_text(path.read_text() + overrides)
    model = networks.distiller({"cosine": Cosine(networks.teacher)}, lr=1e-2)
    keep = ModelCheckpoint(tmp_path, monitor="val/cka", mode="max", filename="best", every_n_train_steps=2)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=8,
        max_epochs=-1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep, Export("student")],
        default_root_dir=tmp_path,
    )
    trainer.fit(model, loader(batches(8)), loader(batches(2, seed=9)))
    return trainer


@pytest.mark.slow
def test_callback_and_verb_export_the_best_checkpoint(tmp_path: Path) -> None:
    run(tmp_path)
    bundle = export(str(tmp_path / "best.ckpt"), str(tmp_path / "again"), formats=[])
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("student", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(state[f"student.backbone.{key}"], value) for key, value in one.items())
    licences = json.loads((tmp_path / "student" / "licences.json").read_text())
    assert {network["role"] for network in licences["networks"]} == {"student", "teacher"}
    assert str(bundle).splitlines()[-1].startswith("this student ")


def test_a_student_that_timm_cannot_describe_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="norm_eps"):
        run(tmp_path, "norm_eps: 1.0e-12\n")
    assert not (tmp_path / "best.ckpt").exists()
