"""The same bundle in the tools that hospitals and their researchers use: embeddings equal within the gates."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnxruntime
import openslide
import pytest
import timm
import torch
from numpy.typing import NDArray

from g2l.data.demo import cohort_orders, draw_slide
from g2l.data.drawing.scanner import write_pyramid
from g2l.deploy.runtime.embed import embed
from g2l.deploy.runtime.gates import compare
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.silent import import_openvino

pytestmark = pytest.mark.slow

Pixels = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


@pytest.fixture(scope="module")
def vector(bundle: Path) -> tuple[Pixels, Embeddings]:
    """(patches, PyTorch's embeddings) of the test vector, read with h5py alone."""
    with h5py.File(bundle / "test_vector.h5") as content:
        found: Any = content
        return found["patches"][:], found["embedding"][:]


@pytest.fixture(scope="module")
def embedded(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(features, slide) of a drawn slide whose level 0 is twice as fine as the bundle asks for."""
    folder = tmp_path_factory.mktemp("embedded")
    rgb, _, _, _ = draw_slide(0, cohort_orders()[0], 500)
    mpp = json.loads((bundle / "preprocess.json").read_text())["mpp"]
    slide = folder / "drawn.tif"
    write_pyramid(slide, rgb, mpp / 2, 90)
    result = embed(str(bundle), str(slide), out=str(folder / "features"), format="onnx-fp32")
    assert result.exit_code == 0, str(result)
    return folder / "features/drawn.h5", slide


def as_timm(bundle: Path, patches: Pixels) -> Embeddings:
    """What timm computes from the folder, prepared as its own config says."""
    model = timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)  # pyright: ignore[reportAttributeAccessIssue]
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    images = torch.from_numpy(patches).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return model((images - mean) / std).numpy()


def as_onnxruntime(bundle: Path, patches: Pixels) -> Embeddings:
    """What ONNX Runtime computes: patches as they are, all at once."""
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["embedding"], {"patches": patches})[0])


def as_openvino(file: Path, patches: Pixels, precision: str) -> Embeddings:
    """What OpenVINO computes with no settings but the arithmetic."""
    core = import_openvino().Core()
    model = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": precision})
    return np.asarray(model({"patches": patches})["embedding"])


def as_tiatoolbox(bundle: Path, patches: Pixels, swapped: bool = False) -> Embeddings:
    """What tiatoolbox's feature extractor computes with the folder's network inside."""
    from tiatoolbox import rcParam
    from tiatoolbox.models import DeepFeatureExtractor, IOPatchPredictorConfig
    from tiatoolbox.models.models_abc import ModelABC

    prepared = json.loads((bundle / "preprocess.json").read_text())

    class Student(ModelABC):
        def __init__(self) -> None:
            super().__init__()
            self.network = timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()
            self.mean, self.std = (torch.tensor(prepared[name]).view(3, 1, 1) for name in ("mean", "std"))

        def forward(self, images: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            images = images.flip(1) if swapped else images
            return self.network((images / 255 - self.mean) / self.std)

        @staticmethod
        def infer_batch(model: Any, batch_data: Any, *, device: str) -> Any:
            with torch.inference_mode():
                return model(batch_data.permute(0, 3, 1, 2).float().to(device)).cpu().numpy()

    size = prepared["size"]
    settings = IOPatchPredictorConfig(
        patch_input_shape=(size, size), input_resolutions=[{"units": "mpp", "resolution": prepared["mpp"]}]
    )
    before, rcParam["torch_compile_mode"] = rcParam["torch_compile_mode"], "disable"  # else minutes of compiling
    try:
        extractor = DeepFeatureExtractor(Student(), batch_size=8, verbose=False)
        found: Any = extractor.run(patches, patch_mode=True, ioconfig=settings, output_type="dict")
    finally:
        rcParam["torch_compile_mode"] = before
    return np.asarray(found["features"])


@pytest.mark.parametrize("tool", [as_timm, as_onnxruntime, as_tiatoolbox])
def test_float32_tools_give_the_embeddings_of_the_test_vector(
    tool: Any, bundle: Path, vector: tuple[Pixels, Embeddings]
) -> None:
    patches, expected = vector
    measured = compare(expected, tool(bundle, patches), "fp32")
    assert measured.passed, measured.why
    assert measured.count == len(patches) >= 16


def test_openvino_gives_them_in_every_arithmetic_the_bundle_was_passed_for(
    bundle: Path, vector: tuple[Pixels, Embeddings]
) -> None:
    patches, expected = vector
    able = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    formats = [one for one in open_bundle(bundle).formats if one.engine == "openvino"]
    tried = [one for one in formats if not one.needs or one.needs in able]
    assert {one.file for one in tried} >= {"model.onnx", "openvino/model.xml"}
    for one in tried:
        measured = compare(expected, as_openvino(bundle / one.file, patches, one.precision), one.kind)
        assert measured.passed, f"{one.name}: {measured.why}"


def test_colours_in_another_order_do_not_pass(bundle: Path, vector: tuple[Pixels, Embeddings]) -> None:
    patches, expected = vector
    assert not compare(expected, as_tiatoolbox(bundle, patches, swapped=True), "int8").passed
    assert not compare(expected, as_onnxruntime(bundle, np.ascontiguousarray(patches[..., ::-1])), "int8").passed


def test_features_are_read_as_clam_reads_them(embedded: tuple[Path, Path]) -> None:
    with h5py.File(embedded[0], "r") as file:
        content: Any = file
        features, coords = content["features"][:], content["coords"][:]
    bag = torch.from_numpy(features)
    assert bag.dtype == torch.float32 and bag.ndim == 2 and len(bag) > 8
    assert coords.shape == (len(bag), 2) and np.issubdtype(coords.dtype, np.integer)


def test_patches_cut_as_trident_cuts_them_have_the_features_of_the_file(
    bundle: Path, embedded: tuple[Path, Path]
) -> None:
    file, slide = embedded
    with h5py.File(file, "r") as opened:
        content: Any = opened
        about, coords, features = dict(content["coords"].attrs), content["coords"][:], content["features"][:]
    with openslide.OpenSlide(slide) as scan:
        assert (about["level0_width"], about["level0_height"]) == scan.dimensions
        assert np.all(coords >= 0) and np.all(coords + about["patch_size_level0"] <= scan.dimensions)
        ratio = about["level0_magnification"] / about["target_magnification"]
        assert ratio == pytest.approx(2) and about["patch_size_level0"] == round(about["patch_size"] * ratio)
        assert about["overlap"] == 0 and about["name"] == "drawn"
        level = scan.get_best_level_for_downsample(ratio + 0.1)
        side = round(about["patch_size_level0"] / scan.level_downsamples[level])
        cut = [scan.read_region((int(x), int(y)), level, (side, side)).convert("RGB") for x, y in coords]
    patches = np.stack([np.asarray(one) for one in cut])
    assert patches.shape[1] == about["patch_size"]  # a level of that resolution is there: nothing is resampled
    measured = compare(features, as_onnxruntime(bundle, patches), "fp32")
    assert measured.passed, measured.why
