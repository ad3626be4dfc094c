"""`g2l export`: a checkpoint of a training, or any encoder, becomes a bundle.

Torch and timm are imported inside the function, and no annotation needs them: the command's help answers at once.
"""

from pathlib import Path
from typing import Literal

from g2l.deploy.bundle import Bundle, building, refuse_foreign, write_bundle, write_network
from g2l.errors import ConfigError

__all__ = ["Bundle", "export", "write_bundle"]


def export(
    ckpt: str,
    out: str,
    patches: str | None = None,
    mpp: float | None = None,
    count: int = 256,
    vector: Literal["drawn", "real"] = "drawn",
    tokens: bool = False,
    formats: list[str] | None = None,
    results: str | None = None,
    cancer: str | None = None,
    weights: str | None = None,
) -> Bundle:
    """Turn a checkpoint of `g2l fit`, or any encoder, into a bundle: one folder that proves itself and runs offline.

    Args:
        ckpt: a checkpoint, a catalogue or timm name, the path of a YAML, or a folder that timm or g2l export wrote.
        out: the folder to write; a former bundle there is replaced.
        patches: what formats are compared on: a cohort of g2l index, slides, or a folder of images at the um/px that
            the network sees. Default: the held-out patients of the cohort that a checkpoint was trained on.
        mpp: um per px that the network sees, where it does not state it.
        count: how many patches to compare on.
        vector: patches of the test vector: drawn ones, or real ones of `patches`, whose pixels then leave the house.
        tokens: the graphs also give patch tokens.
        formats: of onnx, openvino and int8; default: all. []: the folder for timm alone, quick and without patches.
        results: folder of g2l evaluate or g2l report, whose scores the card shows.
        cancer: what the cohort of the training is, in words, for the card.
        weights: of a catalogue or timm name.
    """
    from g2l.deploy.opening import open_exported
    from g2l.deploy.parity import WHATS, What
    from g2l.deploy.timm_folder import check_exportable
    from g2l.deploy.whole import Wanted, write_whole

    wanted: tuple[What, ...] = tuple(what for what in WHATS if formats is None or formats.count(what))
    unknown = sorted({*(formats or [])} - {*WHATS})
    if unknown:
        raise ConfigError(f"--formats {', '.join(unknown)} is unknown; give some of {', '.join(WHATS)}, or []")
    refuse_foreign(Path(out))
    opened = open_exported(ckpt, weights, mpp)
    check_exportable(opened.encoder.spec)
    if wanted:
        return write_whole(opened, Path(out), Wanted(wanted, patches, count, vector, tokens, results, cancer))
    with building(Path(out)) as folder:
        return write_network(opened.encoder, opened.networks, folder, Path(out), opened.distilled_on, opened.what)
