"""`g2l export`: a checkpoint of a training becomes a bundle.

Torch and timm are imported inside the function, and no annotation needs them: the command's help answers at once.
"""

from pathlib import Path

from g2l.deploy.bundle import Bundle, refuse_foreign, write_bundle
from g2l.errors import ConfigError

__all__ = ["Bundle", "export", "write_bundle"]


def export(ckpt: str, out: str) -> Bundle:
    """Turn a checkpoint of `g2l fit` into a folder that timm loads, with its licences and hashes.

    Args:
        ckpt: the checkpoint file.
        out: the folder to write; a former bundle there is replaced.
    """
    from g2l.deploy.timm_folder import check_exportable
    from g2l.encoders.opening import open_checkpoint

    file = Path(ckpt)
    if not file.is_file():
        raise ConfigError(f"checkpoint {file} does not exist; give the .ckpt file of a training")
    refuse_foreign(Path(out))
    student = open_checkpoint(file)
    check_exportable(student.encoder.spec)
    return write_bundle(student.encoder, student.networks, Path(out), student.distilled_on)
