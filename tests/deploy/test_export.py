"""A bundle reloads through timm to identical embeddings, says what it was made from, replaces only a bundle."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data.config import resolve_model_data_config

from g2l.deploy import bundle
from g2l.deploy.export import export, write_bundle
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.errors import ConfigError, EncoderError

TINY: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SMALL: dict[str, Any] = {"img_size": 28, **TINY}
NETWORKS: list[dict[str, Any]] = [
    {"role": "student", "name": "student", "licence": "none (random initial weights)", "redistribute": True},
    {
        "role": "teacher",
        "name": "h-optimus-0",
        "hub": "bioptimus/H-optimus-0",
        "licence": "Apache-2.0",
        "redistribute": True,
    },
]
BOUND = {
    "name": "uni",
    "licence": "CC-BY-NC-ND-4.0",
    "redistribute": False,
    "redistribute_reason": "its terms cover it",
}


def student(name: str = "demo-student", **args: Any) -> Encoder:
    torch.manual_seed(0)
    encoder = create_encoder(name, init="random", **args)
    for parameter in encoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.2  # layer scales start at 1e-5 and would hide the blocks
    return encoder


def checkpoint(encoder: Encoder, file: Path, **made: Any) -> Path:
    state = {f"student.{key}": value for key, value in encoder.state_dict().items()}
    state["terms.logsum.projector.weight"] = torch.zeros(4, 4)
    entry = {"version": "0", "student": encoder.spec.to_dict(), "networks": NETWORKS, **made}
    torch.save(
        {"state_dict": state, "epoch": 3, "optimizer_states": [{"state": {0: torch.zeros(2)}}], "g2l": entry}, file
    )
    return file


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("demo-student", TINY),
        ("hibou-l", SMALL),
        ("dinov2-l-reg4", SMALL),
        ("h0-mini", SMALL),
        ("uni2-h", SMALL),
        ("h-optimus-0", SMALL),
        ("vit_tiny_patch16_224", {"img_size": 32, **TINY}),
        ("vit_base_patch16_siglip_224", {"img_size": 32, **TINY}),
        ("resnet10t", {}),
    ],
)
@torch.no_grad()
def test_timm_reloads_the_folder_to_identical_embeddings(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    encoder = student(name, **args).eval()
    export(str(checkpoint(encoder, tmp_path / "best.ckpt")), str(tmp_path / "bundle"), formats=[])
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'bundle'}", pretrained=True).eval()
    config = resolve_model_data_config(model)
    assert list(config["input_size"]) == [3, encoder.size, encoder.size]
    assert (tuple(config["mean"]), tuple(config["std"])) == (encoder.spec.mean, encoder.spec.std)
    assert (config["crop_pct"], config["interpolation"]) == (1.0, encoder.spec.interpolation)
    images = torch.rand(2, 3, encoder.size, encoder.size)
    prepared = (images - torch.tensor(config["mean"]).view(3, 1, 1)) / torch.tensor(config["std"]).view(3, 1, 1)
    assert torch.equal(model(prepared), encoder(images).cls)
    assert model.pretrained_cfg.get("tag") is None


@torch.no_grad()
def test_pooled_students_reload_to_the_same_tokens(tmp_path: Path) -> None:
    encoder = student("virchow2", **SMALL).eval()
    write_bundle(encoder, NETWORKS, tmp_path / "bundle")
    model: Any = timm.create_model(f"local-dir:{tmp_path / 'bundle'}", pretrained=True).eval()
    images = torch.rand(2, 3, 28, 28)
    features = model.forward_features((images - encoder.mean) / encoder.std)
    assert torch.equal(features[:, 5:], encoder(images).patches)
    assert json.loads((tmp_path / "bundle" / "preprocess.json").read_text())["pooling"] == "cls+mean"


def test_the_folder_also_loads_by_architecture_and_file(tmp_path: Path) -> None:
    encoder = student(**TINY)
    write_bundle(encoder, NETWORKS, tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    args = config["model_args"]
    model = timm.create_model(config["architecture"], checkpoint_path=tmp_path / "b" / "model.safetensors", **args)
    assert all(torch.equal(v, encoder.backbone.state_dict()[k]) for k, v in model.state_dict().items())
    assert {"img_size", "init_values", "reg_tokens", "global_pool", "num_classes"} <= set(args)


def test_a_bundle_goes_back_in_as_weights(tmp_path: Path) -> None:
    encoder = student("hibou-l", **SMALL).eval()
    write_bundle(encoder, NETWORKS, tmp_path / "b")
    again = create_encoder("hibou-l", tmp_path / "b" / "model.safetensors", **SMALL)
    images = torch.rand(1, 3, 28, 28)
    assert torch.equal(again(images).cls, encoder(images).cls)


def test_every_file_is_hashed_and_none_is_a_pickle(tmp_path: Path) -> None:
    write_bundle(student(**TINY), NETWORKS, tmp_path / "b")
    lines = (tmp_path / "b" / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {file.name for file in (tmp_path / "b").iterdir()} - {"SHA256SUMS"}
    assert set(sums) == files == {"model.safetensors", "config.json", "preprocess.json", "licences.json"}
    for name, digest in sums.items():
        assert hashlib.sha256((tmp_path / "b" / name).read_bytes()).hexdigest() == digest


def test_two_exports_of_one_student_are_the_same_bytes(tmp_path: Path) -> None:
    file = checkpoint(student(**TINY), tmp_path / "best.ckpt")
    for name in ("a", "b"):
        export(str(file), str(tmp_path / name), formats=[])
    assert (tmp_path / "a" / "SHA256SUMS").read_bytes() == (tmp_path / "b" / "SHA256SUMS").read_bytes()


def test_the_licence_chain_is_written_and_told_in_the_last_line(tmp_path: Path) -> None:
    free = write_bundle(student(**TINY), NETWORKS, tmp_path / "free")
    assert str(free).splitlines()[-1] == "this student may be redistributed"
    bound = write_bundle(student(**TINY), [*NETWORKS, BOUND], tmp_path / "bound")
    assert str(bound).splitlines()[-1].startswith("this student must NOT be redistributed: uni (CC-BY-NC-ND-4.0)")
    licences = json.loads((tmp_path / "bound" / "licences.json").read_text())
    assert licences["redistribute"] is False and licences["networks"][1]["hub"] == "bioptimus/H-optimus-0"


def test_a_former_bundle_is_replaced_and_anything_else_is_left_alone(tmp_path: Path) -> None:
    write_bundle(student(**TINY), NETWORKS, tmp_path / "b")
    (tmp_path / "b" / "stale.txt").write_text("old")
    write_bundle(student(**TINY), NETWORKS, tmp_path / "b")
    assert not (tmp_path / "b" / "stale.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(ConfigError, match="holds files but no SHA256SUMS"):
        write_bundle(student(**TINY), NETWORKS, tmp_path / "mine")
    with pytest.raises(ConfigError, match="is a file"):
        write_bundle(student(**TINY), NETWORKS, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "do not lose"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "mine"]


def test_a_failure_leaves_the_former_bundle_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(student(**TINY), NETWORKS, tmp_path / "b")
    before = (tmp_path / "b" / "SHA256SUMS").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "write_json", full)
    with pytest.raises(ConfigError, match=r"cannot be written: No space left on device"):
        write_bundle(student(**TINY), [], tmp_path / "b")
    assert (tmp_path / "b" / "SHA256SUMS").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_folder_that_reloads_to_something_else_is_not_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from g2l.deploy import timm_folder

    honest = timm_folder.timm_config

    def wrong(encoder: Encoder) -> dict[str, Any]:
        config = honest(encoder)
        config["pretrained_cfg"]["mean"] = [0.485, 0.456, 0.406]
        return config

    monkeypatch.setattr(timm_folder, "timm_config", wrong)
    with pytest.raises(EncoderError, match="reloads to other embeddings"):
        write_bundle(student(**TINY), NETWORKS, tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("name", "args", "reason"),
    [
        ("conch", {"img_size": 32, "embed_dim": 24, "depth": 1, "num_heads": 2}, r"\(conch-visual\) is not timm's"),
        ("phikon", {"img_size": 32, **TINY}, "norm_eps 1e-12"),
        ("demo-student", {"mlp_layer": "SwiGLUPacked", **TINY}, "cannot name an mlp_layer"),
    ],
)
def test_students_timm_cannot_state_are_refused(name: str, args: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=reason):
        write_bundle(student(name, **args), [], tmp_path / "b")


def test_what_is_no_checkpoint_of_ours_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"absent\.ckpt does not exist"):
        export(str(tmp_path / "absent.ckpt"), str(tmp_path / "b"))
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(EncoderError, match=r"foreign\.ckpt is no checkpoint of `g2l fit`"):
        export(str(tmp_path / "foreign.ckpt"), str(tmp_path / "b"))
    (tmp_path / "cut.ckpt").write_bytes(checkpoint(student(**TINY), tmp_path / "whole.ckpt").read_bytes()[:2000])
    with pytest.raises(EncoderError, match=r"cut\.ckpt cannot be read"):
        export(str(tmp_path / "cut.ckpt"), str(tmp_path / "b"))


@pytest.mark.slow
def test_the_command_and_its_help_work_without_importing_torch_for_the_latter(tmp_path: Path) -> None:
    code = """
import sys
from g2l.__main__ import run
try:
    run("export", ["--help"])
except SystemExit:
    sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60).returncode == 0
    checkpoint(student(**TINY), tmp_path / "best.ckpt")
    command = [sys.executable, "-m", "g2l", "export", str(tmp_path / "best.ckpt"), "--out", str(tmp_path / "b")]
    command += ["--formats", "[]"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "this student may be redistributed"
