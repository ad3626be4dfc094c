"""OpenVINO and ONNX Runtime without their telemetry: nothing leaves a hospital because it computed an embedding.

Whatever imports one of the two here goes through this module. A process that had imported them before has had its say.
"""

import os
import sys
from typing import Any


def import_openvino() -> Any:
    """The module `openvino`, sending nothing.

    `import openvino` reports itself to its makers over the network (openvino/tools/ovc/__init__.py) unless the package
    openvino_telemetry cannot be imported, for which it carries a stand-in that does nothing. None in sys.modules is
    Python's way of saying so, and holds for this process alone.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    import openvino

    return openvino


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, sending nothing and leaving no identifier in the user's home.

    From 1.29 its official builds do both from the import on, unless this variable stands (its Privacy.md). The call
    covers older builds for Windows.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
