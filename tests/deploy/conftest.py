"""A small complete bundle, and slides to make one on."""

from pathlib import Path

import pytest
import tifffile
import torch
from safetensors.torch import save_file

from g2l.data.demo import cohort_orders, draw_slide
from g2l.data.drawing.scanner import write_pyramid
from g2l.deploy.export import export
from g2l.encoders.encoder import create_encoder

TINY = """\
architecture: vit_tiny_patch16_224
args: {img_size: 64, patch_size: 16, embed_dim: 48, depth: 2, num_heads: 3, global_pool: token}
mean: [0.72, 0.57, 0.77]
std: [0.17, 0.18, 0.13]
size: 64
mpp: 0.5
licence: Apache-2.0
redistribute: true
redistribute_reason: made for these tests
weights: tiny.safetensors
"""


@pytest.fixture(scope="session")
def drawn_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn slide of .9 x .9 mm that states .5 um/px."""
    file = tmp_path_factory.mktemp("drawn") / "drawn.tif"
    rgb, _, _, stain = draw_slide(11, cohort_orders()[0], 900.0)
    write_pyramid(file, rgb, stain.mpp, 90)
    with tifffile.TiffFile(file) as tiff:
        assert len(tiff.pages) > 1
    return file


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a small vision transformer of 64 px at .5 um/px, its weights beside it; it can be exported."""
    folder = tmp_path_factory.mktemp("encoder")
    file = folder / "tiny.yaml"
    file.write_text(TINY)
    torch.manual_seed(0)
    backbone = create_encoder(str(file), init="random").backbone
    # Trained networks have spread-out features; a fresh ViT's hardly differ between images.
    state = {key: value * 3 if value.ndim > 1 else value for key, value in backbone.state_dict().items()}
    save_file(state, folder / "tiny.safetensors")
    return file


@pytest.fixture(scope="session")
def bundle(tiny_encoder: Path, drawn_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle of `tiny_encoder`. It belongs to all tests: copy it before changing anything."""
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    export(str(tiny_encoder), str(out), patches=str(drawn_slide))
    return out


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a whole bundle is slow: making one takes longer than most of the tests that use it."""
    for item in items:
        if "bundle" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
