"""metadata.json: what the network is, its training and its scores, as machines read them.

The keys are those of MONAI's bundles. Ours is none of them: those hold a pickle, and no file of ours may.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from g2l import __version__
from g2l.deploy.bundle import write_json
from g2l.encoders.encoder import Encoder
from g2l.errors import ConfigError

METADATA = "metadata.json"
NOT_A_DEVICE = (
    "For research. It is not a medical device and must not be used for diagnosis or for choosing a treatment."
)


def write_metadata(file: Path, encoder: Encoder, facts: dict[str, Any], licence: str, tokens: bool) -> None:
    """Writes metadata.json.

    Args:
        facts: `training` (training.facts without the place of the data, `cancer` in words), `scores` and `summary`
            (scores.py); a later export of this bundle takes them over.
        licence: under which it may be passed on, in words.
        tokens: the graphs give patch tokens too.
    """
    size, spec = encoder.size, encoder.spec
    outputs = {"embedding": _output([encoder.embed_dim], encoder.embed_dim)}
    if tokens:
        count = encoder.grid[0] * encoder.grid[1]
        outputs["tokens"] = _output([count, encoder.token_dim], encoder.token_dim)
    content = {
        "version": __version__,
        "changelog": {__version__: "exported by g2l"},
        "monai_version": "not used",
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "optional_packages_version": {name: version(name) for name in ("timm", "onnxruntime", "openvino")},
        "name": spec.name,
        "task": "embedding of histology patches",
        "description": f"{spec.name}: patches of {size} px at {spec.mpp:g} um/px to vectors of {encoder.embed_dim}",
        "intended_use": NOT_A_DEVICE,
        "data_type": "whole slide images",
        "authors": "not stated",
        "copyright": licence,
        "network_data_format": {
            "inputs": {
                "patches": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "histology",
                    "num_channels": 3,
                    "spatial_shape": [size, size],
                    "layout": "batch, row, column, channel",
                    "dtype": "uint8",
                    "value_range": [0, 255],
                    "is_patch_data": True,
                    "mpp": spec.mpp,
                    "channel_def": {"0": "red", "1": "green", "2": "blue"},
                }
            },
            "outputs": outputs,
        },
        "g2l": facts,
    }
    write_json(file, content)


def read_facts(folder: Path) -> dict[str, Any]:
    """What the metadata.json of a former bundle says of training and scores; {} where there is none.

    Raises:
        ConfigError: it is damaged.
    """
    file = folder / METADATA
    if not file.is_file():
        return {}
    try:
        facts = json.loads(file.read_text(encoding="utf-8")).get("g2l", {})
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); export the student again from its checkpoint") from error
    return facts if isinstance(facts, dict) else {}


def _output(shape: list[int], channels: int) -> dict[str, Any]:
    return {
        "type": "tuples",
        "format": "latent",
        "num_channels": channels,
        "spatial_shape": shape[:-1],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {},
    }
