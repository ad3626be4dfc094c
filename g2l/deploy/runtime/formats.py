"""The formats of a bundle: which file, read by which library, in which arithmetic. One table, fastest first."""

from dataclasses import dataclass
from typing import Literal

from g2l.errors import ConfigError

Kind = Literal["fp32", "16bit", "int8"]


@dataclass(frozen=True)
class Format:
    """One way to run the student.

    Attributes:
        name: what users write after --format.
        file: inside the bundle, as a posix path.
        engine: the library that reads it.
        precision: the arithmetic it is asked for; of int8 that of what is not quantised, and f32 where the processor
            has no bf16.
        kind: which gates it must pass (gates.py).
        needs: a capability of OpenVINO's CPU plugin, or "".
    """

    name: str
    file: str
    engine: Literal["openvino", "onnxruntime"]
    precision: Literal["f32", "bf16"]
    kind: Kind
    needs: Literal["BF16", "INT8", ""] = ""

    @property
    def files(self) -> tuple[str, ...]:
        """`file`, and the one beside it with the weights: an IR always has one, an ONNX only above 1.8 GB."""
        return (self.file, f"{self.file.removesuffix('.xml')}.bin" if self.is_ir else f"{self.file}.data")

    @property
    def is_ir(self) -> bool:
        """Whether it is in OpenVINO's own format."""
        return self.file.endswith(".xml")


FORMATS = (
    Format("openvino-int8", "openvino/int8.xml", "openvino", "bf16", "int8", "INT8"),
    Format("openvino-bf16", "openvino/model.xml", "openvino", "bf16", "16bit", "BF16"),
    Format("openvino-fp16", "openvino/model.xml", "openvino", "f32", "16bit"),
    Format("openvino-fp32", "model.onnx", "openvino", "f32", "fp32"),
    Format("onnx-fp32", "model.onnx", "onnxruntime", "f32", "fp32"),
)
NAMES = tuple(format.name for format in FORMATS)


def get_format(name: str) -> Format:
    """The format of this name.

    Raises:
        ConfigError: there is none.
    """
    for format in FORMATS:
        if format.name == name:
            return format
    raise ConfigError(f"no format is called {name}; known are {', '.join(NAMES)}")
