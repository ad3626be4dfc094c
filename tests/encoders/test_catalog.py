"""Every architecture is built on the meta device and held to the figures of the models' cards."""

import json
from typing import Any

import pytest
import timm
import torch
from timm.layers.mlp import SwiGLUPacked

from g2l.encoders.build import build_backbone
from g2l.encoders.catalog import EncoderSpec, get_spec, load_catalog
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.encoders.entries import KEY_MAPS as KEY_MAP_NAMES
from g2l.encoders.keymaps import KEY_MAPS
from g2l.errors import EncoderError

# Parameters in millions as published or measured, to the digits given there, embedding width, grid.
# Given less exactly: midnight-12k as about 1134.8, phikon as about 86, phikon-v2 as 303.4.
# dinov2-l-reg4: its file has 304.37; at 224 px 256 of the 1369 positions of width 1024 remain, which makes 303.23.
# conch: 86.25 for a ViT-B/16 at 448 px (785 positions), 1.32 for the attention pool and its norms.
PINNED = {
    "h-optimus-0": (1134.77, 1536, (16, 16)),
    "h-optimus-1": (1134.77, 1536, (16, 16)),
    "prov-gigapath": (1134.95, 1536, (14, 14)),
    "virchow": (631.23, 2560, (16, 16)),
    "virchow2": (631.24, 2560, (16, 16)),
    "uni": (303.35, 1024, (14, 14)),
    "uni2-h": (681.39, 1536, (16, 16)),
    "midnight-12k": (1134.77, 3072, (16, 16)),
    "phikon": (85.80, 768, (14, 14)),
    "phikon-v2": (303.35, 1024, (14, 14)),
    "conch": (87.57, 512, (28, 28)),
    "gpfm": (303.23, 1024, (16, 16)),
    "h0-mini": (85.74, 768, (16, 16)),
    "hibou-l": (303.23, 1024, (16, 16)),
    "dinov2-l-reg4": (303.23, 1024, (16, 16)),
    "demo-giga": (None, 192, (8, 8)),
    "demo-student": (None, 128, (8, 8)),
}


def millions(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def on_meta(name: str, **overrides: Any) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name, init="random", **overrides)


def test_the_catalogue_holds_exactly_the_pinned_encoders() -> None:
    assert set(load_catalog()) == set(PINNED)


@pytest.mark.parametrize("name", PINNED)
def test_architecture_has_the_published_parameters_width_and_grid(name: str) -> None:
    encoder = on_meta(name)
    parameters, width, grid = PINNED[name]
    assert (encoder.embed_dim, encoder.grid) == (width, grid)
    assert encoder.spec.parameters == pytest.approx(millions(encoder), abs=0.005)
    if parameters is not None:
        assert round(millions(encoder), 2) == parameters
    tokens = encoder(torch.zeros(2, 3, encoder.size, encoder.size, device="meta"))
    assert tokens.cls.shape == (2, width)
    assert tokens.patches.shape == (2, grid[0] * grid[1], encoder.token_dim)
    assert tokens.grid == grid


@pytest.mark.parametrize(
    ("name", "architecture", "args"),
    [
        ("virchow", "vit_huge_patch14_224", {"img_size": 224, "mlp_ratio": 5.3375}),
        ("virchow2", "vit_huge_patch14_224", {"img_size": 224, "mlp_ratio": 5.3375, "reg_tokens": 4}),
        (
            "uni2-h",
            "vit_giant_patch14_224",
            {
                "depth": 24,
                "num_heads": 24,
                "embed_dim": 1536,
                "mlp_ratio": 2.66667 * 2,
                "reg_tokens": 8,
                "no_embed_class": True,
            },
        ),
        ("h0-mini", "vit_base_patch14_reg4_dinov2", {"img_size": 224, "mlp_ratio": 2.66667 * 2}),
    ],
)
def test_swiglu_entries_are_the_published_models_under_another_architecture_name(
    name: str, architecture: str, args: dict
) -> None:
    with torch.device("meta"):
        published: Any = timm.create_model(
            architecture, num_classes=0, init_values=1e-5, mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, **args
        )
    ours = on_meta(name).backbone
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in published.state_dict().items()}
    for attribute in ("num_prefix_tokens", "no_embed_class", "num_reg_tokens"):
        assert getattr(ours, attribute) == getattr(published, attribute)
    assert str(ours.blocks[0]) == str(published.blocks[0])
    assert ours.blocks[0].attn.num_heads == published.blocks[0].attn.num_heads


def test_demo_student_is_at_most_27_percent_of_its_teacher() -> None:
    assert millions(on_meta("demo-student")) <= 0.27 * millions(on_meta("demo-giga"))


def test_h0_mini_has_both_published_embeddings() -> None:
    assert on_meta("h0-mini", pooling="cls+mean").embed_dim == 1536


@pytest.mark.parametrize("name", PINNED)
def test_a_description_survives_json_and_stays_plain(name: str) -> None:
    spec = get_spec(name)
    plain = spec.to_dict()
    assert EncoderSpec.from_dict(json.loads(json.dumps(plain))) == spec


@pytest.mark.parametrize("name", PINNED)
def test_every_network_states_its_licence_and_whether_its_students_may_be_passed_on(name: str) -> None:
    spec = get_spec(name)
    assert spec.licence != "unknown" and spec.redistribute_reason
    assert not (spec.redistribute and ("NC" in spec.licence or "non-commercial" in spec.licence))


def test_the_default_pair_may_be_redistributed() -> None:
    assert all(get_spec(name).redistribute for name in ("h-optimus-0", "hibou-l", "dinov2-l-reg4"))


def test_key_map_names_are_the_key_maps() -> None:
    assert tuple(KEY_MAPS) == KEY_MAP_NAMES


def test_an_unknown_name_is_answered_with_the_closest() -> None:
    with pytest.raises(EncoderError, match=r"no encoder is called 'h-optimus0'; did you mean h-optimus-0") as error:
        get_spec("h-optimus0")
    assert "\n" not in str(error.value)


def test_arguments_an_architecture_does_not_take_are_named() -> None:
    with pytest.raises(EncoderError, match=r"demo-giga: vit_tiny_patch16_224 cannot be built with .*'depht': 3"):
        on_meta("demo-giga", depht=3)


def test_overrides_reach_the_architecture_and_free_its_pinned_facts() -> None:
    encoder = on_meta("demo-student", depth=2, embed_dim=64, mpp=0.5)
    assert (encoder.embed_dim, encoder.spec.mpp, encoder.spec.parameters) == (64, 0.5, None)
    assert len(encoder.backbone.blocks) == 2


def test_an_entry_is_held_to_the_facts_it_states() -> None:
    spec = get_spec("demo-giga")
    plain = spec.to_dict() | {"embed_dim": 200}
    with torch.device("meta"), pytest.raises(EncoderError, match="states embed_dim 200, the model has 192"):
        Encoder(EncoderSpec.from_dict(plain), build_backbone(spec))
