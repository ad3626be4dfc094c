"""The table of formats is in order, and every file of it stands in the bundle where it says."""

import pytest

from g2l.deploy.runtime.formats import FORMATS, NAMES, get_format
from g2l.deploy.runtime.gates import GATES
from g2l.errors import ConfigError


def test_names_are_unique_and_every_kind_has_gates() -> None:
    assert len(set(NAMES)) == len(FORMATS) == 5
    assert {format.kind for format in FORMATS} == set(GATES)
    # the more exact stand behind: whoever takes the first that may be used takes the fastest
    kinds = [format.kind for format in FORMATS]
    assert kinds == sorted(kinds, key=["int8", "16bit", "fp32"].index)


def test_files_of_a_format_are_its_graph_and_its_weights() -> None:
    assert get_format("openvino-bf16").files == ("openvino/model.xml", "openvino/model.bin")
    assert get_format("onnx-fp32").files == ("model.onnx", "model.onnx.data")
    assert [format.name for format in FORMATS if format.is_ir] == ["openvino-int8", "openvino-bf16", "openvino-fp16"]


def test_an_unknown_format_is_told_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no format is called tensorrt; known are openvino-int8, .*onnx-fp32"):
        get_format("tensorrt")
