"""Every shipped objective runs on the embedded cohort: own terms, weights, views and schedule, but small networks."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from small import ENCODER

from g2l.__main__ import main
from g2l.encoders.checkpoint import student_state
from g2l.encoders.encoder import create_encoder

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[1] / "configs"
STEPS = 4


def small_network(folder: Path, name: str, width: int, patch: int = 8) -> str:
    """An encoder of 32 px with weights in the place of the published one called `name`."""
    path = folder / f"{Path(name).stem}-small.yaml"
    entry = ENCODER.format(width=width, depth=2).replace("patch_size: 8", f"patch_size: {patch}")
    path.write_text(entry + f"redistribute: {str(name != 'uni').lower()}\n")
    torch.manual_seed(width)
    save_file(create_encoder(str(path), init="random").backbone.state_dict(), path.with_suffix(".safetensors"))
    return str(path)


def shrink(config: dict[str, Any], folder: Path, cohort: Path) -> dict[str, Any]:
    """The config with small networks, heads and crops, and few steps; all else as shipped."""
    model, data, trainer = config["model"], config["data"], config["trainer"]
    model["student"] = small_network(folder, model["student"], 16)
    width = 20
    for term in model["terms"].values():
        given = term["init_args"]
        for role in ("teacher", "expert"):
            if role in given:
                # an expert of patches of 16 px has another grid than the student
                given[role] = small_network(folder, given[role], width, 16 if role == "expert" else 8)
                width += 4
        if "prototypes" in given or term["class_path"] in ("Dino", "Ibot"):
            given |= {"hidden": 16, "bottleneck": 8, "prototypes": 32}
    model["warmup_steps"], model["lr"] = 0, 1e-3  # in four steps of the shipped warm-up nothing would move
    views = model["views"]["init_args"]
    views |= {"size": 32, "blur_kernel": 5}
    if model["views"]["class_path"] == "MultiCrop":
        views["local_size"] = 16
    model |= {"weights": str(folder), "observe_patches": 32}
    data |= {"cohort": str(cohort), "batch_size": 6, "patch_size": 40, "mpp": 2.0, "val_patches": 24, "num_workers": 0}
    trainer |= {"max_steps": STEPS, "devices": 1, "accelerator": "cpu", "val_check_interval": 2}
    trainer |= {"default_root_dir": str(folder / "run"), "enable_progress_bar": False, "log_every_n_steps": 1}
    trainer.pop("num_nodes", None)
    return config


@pytest.mark.parametrize("name", ["gpfm_faithful", "gpfm", "unified", "g2l_faithful"])
def test_shipped_objective_runs_and_exports(name: str, demo_cohort: Path, tmp_path: Path) -> None:
    shipped = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"), resolve=False)
    assert isinstance(shipped, dict)
    config = shrink(shipped, tmp_path, demo_cohort)  # type: ignore[arg-type]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(path)]) == 0
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == STEPS
    assert state["g2l"]["result"] == config["model"].get("result", "student")
    exported = load_file(tmp_path / "run/student/model.safetensors")
    published = load_file(Path(config["model"]["student"]).with_suffix(".safetensors"))
    assert exported.keys() == published.keys()
    assert any(not torch.equal(value, published[key]) for key, value in exported.items())
    trained = student_state({"state_dict": state["state_dict"]})
    assert any((trained[f"backbone.{key}"] - value).abs().max() > 1e-4 for key, value in published.items())
    assert all(torch.isfinite(value).all() for value in state["state_dict"].values())
