"""`g2l predict`: features of a run's student for all slides of its cohort, or for all patches already cut."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from filelock import FileLock
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray

from g2l.data.cut.epochs import EpochSource
from g2l.data.folders import PatchFiles
from g2l.data.module import SlideDataModule
from g2l.data.source import OpenSlides
from g2l.encoders.opening import open_checkpoint
from g2l.errors import ConfigError
from g2l.evaluation.embedding.digests import digest_of, encoder_digest, file_digests
from g2l.evaluation.embedding.embed import refuse_problems
from g2l.evaluation.embedding.network import Network, Writer, take_problems
from g2l.evaluation.embedding.parts import Part, part_key
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.embedding.slides import refuse_changed, slide_part
from g2l.evaluation.embedding.store import VERSION, Store
from g2l.evaluation.results import folder_name
from g2l.slides.cohort import Cohort

FOLDER = "features"
DTYPE = "float32"
SHOWN = 5


def write_features(trainer: lightning.Trainer, data: SlideDataModule, out: Path | None, checkpoint: str) -> str:
    """Embed every slide of a cohort on the grid over its tissue, or all patches, into one HDF5 file for each slide.

    What is there already, of this student and these pixels, stays. Slides are shared among the trainer's processes.

    Args:
        trainer: gives devices and precision.
        data: gives the slides, mpp (the first of several), min_tissue, batch_size and threads.
        out: folder of the files; None: `features` in the run's folder.
        checkpoint: file, or "last".
    Returns:
        What was done, in a line or two.
    Raises:
        ConfigError: no such checkpoint. CohortError: slides or patches that could not be embedded, in one line.
    """
    folder = out or Path(trainer.default_root_dir) / FOLDER
    encoder = open_checkpoint(_last(trainer) if checkpoint == "last" else Path(checkpoint)).encoder
    settings = Embedding(data.batch_size, data.threads, mpp=data.mpps[0], min_tissue=data.min_tissue)
    transform = {"format": VERSION, "kind": "predict", "precision": str(trainer.precision), "dtype": DTYPE}
    first = trainer.is_global_zero
    if first:
        data.prepare_data()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be made ({error.strerror}); choose another --out") from error
    with FileLock(folder / ".lock") if first else nullcontext():
        digest = encoder_digest(encoder)
        if isinstance(data.data, PatchFiles):
            parts, unit = _patch_parts(data.data, folder, data.threads, digest, transform), "groups of patches"
        else:
            parts, unit = _cohort_parts(data.data, encoder.size, settings, digest, transform), "slides"
        filled = [part for part in parts if part.count]
        store = Store(folder, (encoder.embed_dim,), DTYPE)
        if first:
            store.tidy()
            take_problems(folder)
        todo = sum(filled[number].count for number in store.missing(filled)) if first else 0
        network = Network(encoder, "cls", filled, store, settings.batch_size, settings.threads)
        trainer.callbacks = [Writer("predict")]  # type: ignore[attr-defined]  # those of the config watch trainings
        lightning.Trainer.predict(trainer, network, return_predictions=False)
        if not first:
            return ""
        refuse_problems(take_problems(folder))
    return _summary(filled, [part for part in parts if not part.count], todo, unit, folder)


def _summary(filled: Sequence[Part], empty: Sequence[Part], todo: int, unit: str, folder: Path) -> str:
    lines: list[str] = []
    if empty:
        names = ", ".join(part.ids[0] for part in empty[:SHOWN])
        lines.append(f"{len(empty)} {unit} have no patch with enough tissue and no file: {names}")
    count = sum(part.count for part in filled)
    lines.append(f"features of {count} patches of {len(filled)} {unit} are in {folder} ({todo} patches embedded now)")
    return "\n".join(lines)


def _last(trainer: lightning.Trainer) -> Path:
    """The newest of what the run's callbacks call their last checkpoint."""
    savers = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    found = {Path(file) for saver in savers for file in saver._find_last_checkpoints(trainer)}
    if not found:
        raise ConfigError(f"--ckpt_path last: {trainer.default_root_dir} holds no last checkpoint; give a .ckpt file")
    return max(found, key=lambda file: file.stat().st_mtime)


def _files(names: Sequence[str]) -> list[str]:
    """A file for each slide's name; where two would be called alike, the key tells them apart."""
    plain = [folder_name(name) for name in names]
    often = Counter(plain)
    return [f"{name}-{{key}}.h5" if often[name] > 1 else f"{name}.h5" for name in plain]


def _cohort_parts(
    cohort: Cohort, size: int, settings: Embedding, encoder: str, transform: dict[str, Any]
) -> list[Part]:
    refuse_changed([(cohort, slide) for slide in range(len(cohort))])
    opened = OpenSlides(cohort)
    names, prints = ([str(value) for value in cohort.column(column)] for column in ("name", "fingerprint"))
    return [
        slide_part(cohort, slide, opened, size, settings, encoder, transform, name, fingerprint, file)
        for slide, (name, fingerprint, file) in enumerate(zip(names, prints, _files(names), strict=True))
    ]


def _patch_parts(
    patches: PatchFiles, folder: Path, threads: int, encoder: str, transform: dict[str, Any]
) -> list[Part]:
    source = patches.source(np.arange(len(patches)), 0, 1)  # whole images: of any size
    slides, names = np.asarray(patches.column("slide")), [str(name) for name in patches.column("path")]
    places = [_place(patches.root / name) for name in names]
    digests = file_digests(places, folder, threads)
    groups = sorted(set(slides.tolist()))
    parts: list[Part] = []
    for group, file in zip(groups, _files(groups), strict=True):
        rows = np.flatnonzero(slides == group)
        ids = [names[row] for row in rows.tolist()]
        content = [digest_of(digests[places[row]], names[row]) for row in rows.tolist()]
        key = part_key(encoder, transform, *content)
        parts.append(Part(file.format(key=key[:16]), key, ids, partial(_image, source, rows), len(rows)))
    return parts


def _place(path: Path) -> str:
    """The file that holds a patch, whose path goes on inside it (file.h5/12)."""
    while not path.is_file() and path != path.parent:
        path = path.parent
    return str(path)


def _image(source: EpochSource, rows: NDArray[np.int64], k: int) -> NDArray[np.uint8]:
    return source.image(int(rows[k]))
