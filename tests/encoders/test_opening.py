"""Every way to name an encoder, and what is said of names that are none."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small import write_networks

from g2l.deploy.bundle import write_bundle
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.encoders.opening import open_encoder, require_encoder
from g2l.errors import EncoderError
from g2l.sums import write_sums

FREE = [{"role": "student", "name": "s", "licence": "Apache-2.0", "redistribute": True, "redistribute_reason": "may"}]
BOUND = [*FREE, {"name": "t", "licence": "CC-BY-NC-4.0", "redistribute": False, "redistribute_reason": "no"}]


def made(folder: Path, **arguments: Any) -> Encoder:
    """A small student with random weights that has been told apart from others."""
    networks = write_networks(folder)
    return create_encoder(networks.student, networks.weights, **arguments)


def checkpoint(encoder: Encoder, file: Path, result: str = "student") -> Path:
    """A file as `g2l fit` writes it, the average's tensors being twice the student's."""
    state = {f"student.{key}": value for key, value in encoder.state_dict().items()}
    state |= {f"ema.averaged.{key}": value * 2 for key, value in state.items()}
    about = {"student": encoder.spec.to_dict(), "result": result, "networks": BOUND}
    torch.save({"state_dict": state, "g2l": about}, file)
    return file


def same(one: Encoder, other: Encoder, size: int = 32) -> bool:
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.equal(one(images).cls, other(images).cls) and torch.equal(
            one(images).patches, other(images).patches
        )


def test_names_and_yaml_open_as_create_encoder_does(tmp_path: Path) -> None:
    networks = write_networks(tmp_path)
    assert same(open_encoder("demo-giga"), create_encoder("demo-giga"), 128)
    assert same(open_encoder(networks.teacher, networks.weights), create_encoder(networks.teacher, networks.weights))
    torch.manual_seed(3)
    one = open_encoder("vit_tiny_patch16_224", init="random", img_size=64)
    torch.manual_seed(3)
    assert one.size == 64 and same(one, create_encoder("vit_tiny_patch16_224", init="random", img_size=64), 64)


def test_a_checkpoint_opens_to_its_student_or_to_the_average(tmp_path: Path) -> None:
    encoder = made(tmp_path)
    found = open_encoder(str(checkpoint(encoder, tmp_path / "a.ckpt")))
    assert same(found, encoder) and not found.training
    assert not found.spec.redistribute and "CC-BY-NC" in found.spec.redistribute_reason
    average = open_encoder(str(checkpoint(encoder, tmp_path / "b.ckpt", "ema")))
    for key, value in encoder.state_dict().items():
        assert torch.equal(average.state_dict()[key], value * 2), key


def test_a_bundle_opens_to_the_same_embeddings(tmp_path: Path) -> None:
    encoder = made(tmp_path, pooling="cls+mean")
    write_bundle(encoder, FREE, tmp_path / "bundle")
    found = open_encoder(str(tmp_path / "bundle"))
    assert same(found, encoder) and found.embed_dim == encoder.embed_dim == 2 * encoder.token_dim
    assert (found.spec.licence, found.spec.redistribute) == ("Apache-2.0", True)
    assert found.source["sha256"] and found.spec.name == "student"
    # without preprocess.json: as timm itself pools
    for name in ("preprocess.json", "SHA256SUMS", "licences.json"):
        (tmp_path / "bundle" / name).unlink()
    plain = open_encoder(str(tmp_path / "bundle"))
    assert plain.spec.pooling == "native" and plain.embed_dim == encoder.token_dim and plain.spec.name == "bundle"


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_another_size_resamples_positions_as_it_does_for_names(kind: str, tmp_path: Path) -> None:
    encoder = made(tmp_path)
    write_bundle(encoder, FREE, tmp_path / "bundle")
    place = checkpoint(encoder, tmp_path / "a.ckpt") if kind == "checkpoint" else tmp_path / "bundle"
    wide = open_encoder(str(place), img_size=48)
    assert wide.grid == (6, 6) and same(wide, made(tmp_path, img_size=48), 48)


@pytest.mark.parametrize("kind", ["checkpoint", "bundle"])
def test_random_weights_are_drawn_for_the_same_architecture(kind: str, tmp_path: Path) -> None:
    encoder = made(tmp_path)
    write_bundle(encoder, FREE, tmp_path / "bundle")
    place = checkpoint(encoder, tmp_path / "a.ckpt") if kind == "checkpoint" else tmp_path / "bundle"
    fresh = open_encoder(str(place), init="random")
    assert fresh.state_dict().keys() == encoder.state_dict().keys() and not same(fresh, encoder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "preprocess.json", "licences.json"])
def test_a_changed_or_lost_file_of_a_bundle_is_named(name: str, tmp_path: Path) -> None:
    write_bundle(made(tmp_path), FREE, tmp_path / "bundle")
    file = tmp_path / "bundle" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(EncoderError, match=rf"{name} not as SHA256SUMS states"):
        open_encoder(str(tmp_path / "bundle"))
    file.unlink()
    with pytest.raises(EncoderError, match=name):
        open_encoder(str(tmp_path / "bundle"))


def test_sums_that_name_files_elsewhere_or_leave_out_the_tensors_are_refused(tmp_path: Path) -> None:
    write_bundle(made(tmp_path), FREE, tmp_path / "bundle")
    sums = tmp_path / "bundle" / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    sums.write_text("\n".join(line for line in lines if "safetensors" not in line))
    with pytest.raises(EncoderError, match=r"model\.safetensors not as"):
        open_encoder(str(tmp_path / "bundle"))
    for name in ("../student.safetensors", str(tmp_path / "student.safetensors"), "a/../../b", "a\\b", "C:/b", "a//b"):
        sums.write_text("\n".join([*lines, f"{'0' * 64}  {name}"]))
        with pytest.raises(EncoderError, match=re.escape(f"{name!r} is no path inside the folder")):
            open_encoder(str(tmp_path / "bundle"))
    (tmp_path / "bundle" / "elsewhere").symlink_to(tmp_path)
    sums.write_text("\n".join([*lines, f"{'0' * 64}  elsewhere/student.safetensors"]))
    with pytest.raises(EncoderError, match=r"'elsewhere/student\.safetensors' is a link, or lies behind one"):
        open_encoder(str(tmp_path / "bundle"))


def test_sums_reach_into_subfolders(tmp_path: Path) -> None:
    write_bundle(made(tmp_path), FREE, tmp_path / "bundle")
    (tmp_path / "bundle" / "openvino").mkdir()
    (tmp_path / "bundle" / "openvino" / "model.xml").write_text("<net/>")
    write_sums(tmp_path / "bundle")
    assert "  openvino/model.xml\n" in (tmp_path / "bundle" / "SHA256SUMS").read_text()
    open_encoder(str(tmp_path / "bundle"))
    (tmp_path / "bundle" / "openvino" / "model.xml").write_text("<net />")
    with pytest.raises(EncoderError, match=r"openvino/model\.xml not as SHA256SUMS states"):
        open_encoder(str(tmp_path / "bundle"))


def test_what_is_no_encoder_is_told_what_it_could_be(tmp_path: Path) -> None:
    made(tmp_path)
    tensors = tmp_path / "student.safetensors"
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.safetensors").write_bytes(tensors.read_bytes())
    (tmp_path / "foreign" / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "model.safetensors").write_bytes(tensors.read_bytes())
    (tmp_path / "list" / "config.json").write_text("[1]")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    faults = {
        "nothing-like-it": "no encoder is called .* or give a catalogue name",
        str(tensors): "holds tensors alone",
        str(tmp_path / "absent.ckpt"): "does not exist; give the .ckpt",
        str(tmp_path / "foreign.ckpt"): "is no checkpoint of `g2l fit`",
        str(tmp_path / "absent"): "and does not exist; give a catalogue name",
        str(tmp_path / "empty"): r"config\.json and model\.safetensors missing",
        str(tmp_path / "foreign"): "states no architecture and pretrained_cfg",
        str(tmp_path / "list"): "holds no mapping",
        str(tmp_path / "absent.yaml"): "does not exist",
    }
    for name, text in faults.items():
        with pytest.raises(EncoderError, match=text) as caught:
            open_encoder(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(EncoderError, match="holds its own weights"):
        open_encoder(str(checkpoint(made(tmp_path), tmp_path / "a.ckpt")), str(tensors))


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": {}, "g2l": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(EncoderError, match="would run code"):
        open_encoder(str(tmp_path / "trap.ckpt"))
    assert not (tmp_path / "ran").exists()


def test_what_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    encoder = made(tmp_path)
    write_bundle(encoder, FREE, tmp_path / "bundle")
    file = checkpoint(encoder, tmp_path / "a.ckpt")
    for model in ("demo-giga", str(file), str(tmp_path / "bundle")):
        require_encoder(model)
    require_encoder("uni", init="random")
    for model, said in (
        (str(tmp_path / "b.ckpt"), "does not exist"),
        (str(tmp_path), "config.json and model.safetensors missing"),
        (str(tmp_path / "no/bundle"), "is no encoder and does not exist"),
        ("uni", "weights of uni are missing"),
        ("viit_tiny", "no encoder is called"),
    ):
        with pytest.raises(EncoderError, match=said):
            require_encoder(model)
