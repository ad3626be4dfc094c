"""`g2l export`: a checkpoint of a training becomes a bundle.

Torch and timm are imported inside the function, and no annotation needs them: the command's help answers at once.
"""

from pathlib import Path

from g2l.deploy.bundle import Bundle, refuse_foreign, write_bundle
from g2l.errors import ConfigError, EncoderError

__all__ = ["Bundle", "export", "write_bundle"]


def export(ckpt: str, out: str) -> Bundle:
    """Turn a checkpoint of `g2l fit` into a folder that timm loads, with its licences and hashes.

    Args:
        ckpt: the checkpoint file.
        out: the folder to write; a former bundle there is replaced.
    """
    from g2l.deploy.timm_folder import check_exportable
    from g2l.encoders.build import build_empty
    from g2l.encoders.catalog import EncoderSpec
    from g2l.encoders.checkpoint import student_state
    from g2l.encoders.encoder import Encoder
    from g2l.encoders.weights import load_content, read_file

    file = Path(ckpt)
    if not file.is_file():
        raise ConfigError(f"checkpoint {file} does not exist; give the .ckpt file of a training")
    refuse_foreign(Path(out))
    content = read_file(file)
    made = content.get("g2l") if isinstance(content, dict) else None
    if not isinstance(made, dict) or not isinstance(made.get("student"), dict) or "state_dict" not in content:
        raise EncoderError(f"{file} is no checkpoint of `g2l fit`: it does not say what its student is")
    spec = EncoderSpec.from_dict(made["student"], f"the student in {file}")
    check_exportable(spec)
    backbone = build_empty(spec)
    state = {f"student.{key}": value for key, value in student_state(content).items()}
    load_content(backbone, {"state_dict": state}, str(file), "lightning")
    return write_bundle(Encoder(spec, backbone), made.get("networks", []), Path(out))
