"""Weights beside an ONNX file are found wherever a tensor may hide, and those outside the bundle are refused."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from g2l.deploy.runtime.external import external_files
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.silent import import_onnxruntime, import_openvino
from g2l.errors import ConfigError
from g2l.sums import write_sums


def tensor(name: str, location: str | None) -> TensorProto:
    made = numpy_helper.from_array(np.arange(6, dtype=np.float32), name)
    if location is not None:
        set_external_data(made, location)
        made.ClearField("raw_data")
    return made


def saved(file: Path, initializer: str | None = None, constant: str | None = None, branch: str | None = None) -> Path:
    """A graph with a tensor as initializer, as a node's attribute, and inside a branch of an If."""
    shape = [6]
    yes = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["a"])],
        "yes",
        [],
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, shape)],
        [tensor("inner", branch)],
    )
    no = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=tensor("value", constant))],
        "no",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, shape)],
    )
    nodes = [
        helper.make_node("If", ["which"], ["chosen"], then_branch=yes, else_branch=no),
        helper.make_node("Add", ["chosen", "outer"], ["sum"]),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("which", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, shape)],
        [tensor("outer", initializer)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    file.write_bytes(model.SerializeToString())
    return file


def test_every_place_of_a_tensor_is_looked_at(tmp_path: Path) -> None:
    assert external_files(saved(tmp_path / "none.onnx")) == set()
    assert external_files(saved(tmp_path / "a.onnx", initializer="weights.data")) == {"weights.data"}
    assert external_files(saved(tmp_path / "b.onnx", constant="../up")) == {"../up"}
    assert external_files(saved(tmp_path / "c.onnx", branch="/etc/passwd")) == {"/etc/passwd"}
    assert external_files(saved(tmp_path / "d.onnx", "x", "y", "z")) == {"x", "y", "z"}


def test_functions_and_sparse_tensors_are_looked_at_too(tmp_path: Path) -> None:
    model = onnx.load(saved(tmp_path / "a.onnx"))
    node = helper.make_node("Constant", [], ["out"], value=tensor("inside", "of/a/function"))
    model.functions.append(helper.make_function("own", "F", [], ["out"], [node], [helper.make_opsetid("", 18)]))
    indices = helper.make_tensor("indices", TensorProto.INT64, [6], list(range(6)))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor("values", "sparse"), indices, [9]))
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "b.onnx") == {"of/a/function", "sparse"}


def test_a_written_model_is_read_as_the_onnx_package_reads_it(bundle: Path, tmp_path: Path) -> None:
    assert external_files(bundle / "model.onnx") == set()
    model = onnx.load(bundle / "model.onnx")
    file = tmp_path / "model.onnx"
    onnx.save(model, file, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    assert (tmp_path / "model.onnx.data").stat().st_size > 10_000 and external_files(file) == {"model.onnx.data"}


def test_what_is_no_protobuf_is_refused(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    whole = (bundle / "model.onnx").read_bytes()
    for content in (b"", b"text that is none", b"\xff" * 100, whole[: len(whole) // 2], b"\x3a" * 1000):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"x\.onnx is no ONNX file"):
            external_files(file)


@pytest.mark.parametrize(
    "location", ["../weights", "/etc/passwd", "a/../../w", "parity.json", "model.onnx.data", "openvino/model.bin", ""]
)
def test_a_bundle_whose_weights_lie_elsewhere_is_refused(location: str, bundle: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    saved(copied / "model.onnx", initializer=location)
    write_sums(copied)
    with pytest.raises(ConfigError, match=r"model\.onnx asks for weights in ") as caught:
        open_bundle(copied)
    assert repr(location) in str(caught.value)


def test_weights_beside_the_graph_are_taken_when_listed(bundle: Path, tmp_path: Path) -> None:
    from g2l.deploy.runtime.engines import open_engine

    copied = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    model = onnx.load(copied / "model.onnx")
    onnx.save(model, copied / "model.onnx", save_as_external_data=True, location="model.onnx.data")
    write_sums(copied)
    patches = np.random.default_rng(0).integers(0, 256, (3, *[open_bundle(bundle).prepared.size] * 2, 3), np.uint8)
    for name in ("onnx-fp32", "openvino-fp32"):
        with (
            open_engine(open_bundle(bundle), name, threads=1) as one,
            open_engine(open_bundle(copied), name, threads=1) as two,
        ):
            assert (one(patches) == two(patches)).all()
    data = copied / "model.onnx.data"
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"model\.onnx\.data is not what SHA256SUMS states"):
        open_bundle(copied)


def test_the_libraries_too_refuse_weights_outside_the_folder(tmp_path: Path) -> None:
    """A second wall, not ours: should it fall, this test tells."""
    (tmp_path / "in").mkdir()
    np.arange(6, dtype=np.float32).tofile(tmp_path / "weights")
    for location in ("../weights", str(tmp_path / "weights")):
        file = saved(tmp_path / "in" / "model.onnx", initializer=location)
        with pytest.raises(Exception, match=r"external|outside|path|escape"):
            import_onnxruntime().InferenceSession(str(file), providers=["CPUExecutionProvider"])
        with pytest.raises(RuntimeError):
            import_openvino().Core().read_model(file)
