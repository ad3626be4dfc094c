"""Embeddings of a table's rows by one encoder, computed once: what is on disk is not computed again."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.embedding.digests import digest_of, encoder_digest, file_digests
from g2l.evaluation.embedding.embedded import Embedded, Speed
from g2l.evaluation.embedding.images import read_image
from g2l.evaluation.embedding.parts import Part, part_key
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.embedding.store import VERSION, Store
from g2l.evaluation.results import folder_name
from g2l.evaluation.tables.table import Table

if TYPE_CHECKING:
    from g2l.encoders.encoder import Encoder

Kind = Literal["cls", "tokens", "bag"]
TOKEN_BYTES = 1 << 27  # of patch tokens in one file: they are held in memory until it is written
SHOWN = 5


def embed_table(
    encoder: "Encoder", table: Table, rows: NDArray[np.int64], kind: Kind, folder: Path, settings: Embedding
) -> Embedded:
    """What an encoder makes of some rows of a table, embedded now where `folder` does not hold it yet.

    Images go to the encoder as the data set has them: the central square (`images.seen`), which `Encoder.forward`
    resizes with antialiasing. Slides are read at `settings.mpp` on a regular grid over their tissue. Everything counts
    by content: bytes of the files, tensors of the encoder. After an interruption the same call goes on; at most one
    file for each process is lost.

    Args:
        rows: numbers of rows, in any order.
        kind: cls: an embedding for each image; tokens: its patch tokens; bag: those of a slide's patches.
        folder: of all encoders and tables of an evaluation.
    Raises:
        CohortError: images or slides that cannot be read, by name.
        G2LError: embeddings that are not finite, by name.
    """
    from filelock import FileLock

    rows = np.unique(np.asarray(rows, np.int64))
    if not len(rows):
        raise CohortError(f"table {table.name}: no rows to embed; check its split")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cache {folder} cannot be made ({error.strerror}); choose another --cache") from error
    digest = encoder_digest(encoder)
    store = _store(encoder, digest, kind, folder, settings)
    transform = {"format": VERSION, "kind": kind, "precision": settings.precision, "dtype": str(store.dtype)}
    with FileLock(folder / ".lock"):  # another evaluation may want the same, and then finds it
        if kind == "bag":
            from g2l.evaluation.embedding.slides import slide_parts

            parts = slide_parts(table, rows, encoder.size, folder / "cohorts", settings, digest, transform)
            places = {row: (number, 0) for number, row in enumerate(rows.tolist())}
            contents = dict(zip(rows.tolist(), (part.key for part in parts), strict=True))
        else:
            store.folder.mkdir(parents=True, exist_ok=True)
            parts, places, contents = _image_parts(table, rows, store, folder, settings, digest, transform)
        embedded = fill(encoder, kind, parts, store, settings, f"{encoder.spec.name} on {table.name}")
    made = part_key(digest, transform)
    return Embedded(store.folder, kind, made, contents, parts, places, speed_of(store.folder), embedded)


def _store(encoder: "Encoder", digest: str, kind: Kind, folder: Path, settings: Embedding) -> Store:
    dtype = settings.dtype if settings.dtype != "auto" else "float16" if kind == "tokens" else "float32"
    shape = (*encoder.grid, encoder.token_dim) if kind == "tokens" else (encoder.embed_dim,)
    return Store(folder / f"{folder_name(encoder.spec.name)}-{digest[:12]}-{kind}", shape, dtype)


def _image_parts(
    table: Table,
    rows: NDArray[np.int64],
    store: Store,
    folder: Path,
    settings: Embedding,
    encoder: str,
    transform: dict[str, Any],
) -> tuple[list[Part], dict[int, tuple[int, int]], dict[int, str]]:
    """Parts, the place of each row in them, and the digest of each row's image.

    An image that lies in any file of this encoder is taken from there; the others make new parts of up to
    `shard_rows`. So another task over the same images, or a table that has some of them, embeds what is new alone.
    """
    digests = file_digests(table.paths[rows].tolist(), folder, settings.threads)
    columns = (rows, table.paths[rows], table.rows[rows])
    contents = {
        row: digest_of(digests[path], str(number))
        for row, path, number in zip(*(column.tolist() for column in columns), strict=True)
    }
    lying: dict[str, tuple[int, int]] = {}
    parts: list[Part] = []
    wanted = set(contents.values())
    for part in store.kept(partial(_key, encoder, transform)):
        here = {content: (len(parts), k) for k, content in enumerate(part.contents) if content in wanted}
        if here.keys() - lying.keys():
            parts.append(part)
            lying = here | lying
    places = {row: lying[content] for row, content in contents.items() if content in lying}
    new = np.array([row for row in rows.tolist() if row not in places], np.int64)
    row_bytes = store.dtype.itemsize * int(np.prod(store.shape))
    length = max(1, min(settings.shard_rows, TOKEN_BYTES // row_bytes))
    for start in range(0, len(new), length):
        some = new[start : start + length]
        files, numbers, ids = (column[some].tolist() for column in (table.paths, table.rows, table.ids))
        mine = [contents[row] for row in some.tolist()]
        key = _key(encoder, transform, mine)
        places |= {row: (len(parts), k) for k, row in enumerate(some.tolist())}
        name = f"{folder_name(table.name)}-{some[0]:08d}-{key[:16]}.h5"
        parts.append(Part(name, key, ids, partial(_read, files, numbers), len(some), contents=mine))
    return parts, places, contents


def _key(encoder: str, transform: dict[str, Any], contents: Sequence[str]) -> str:
    return part_key(encoder, transform, *contents)


def _read(paths: Sequence[str], numbers: Sequence[int], k: int) -> NDArray[np.uint8]:
    return read_image(paths[k], numbers[k])


def fill(encoder: "Encoder", kind: Kind, parts: Sequence[Part], store: Store, settings: Embedding, title: str) -> int:
    """Embed those parts that the store does not hold. Returns how many images that were.

    Args: title: of the progress bar.
    Raises:
        CohortError: what could not be embedded, in one line; all other parts are then there.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    store.tidy()
    missing = store.missing(parts)
    if not missing:
        return 0
    from g2l.evaluation.embedding.network import Network, Writer, take_problems

    take_problems(store.folder)
    network = Network(encoder, kind, parts, store, settings.batch_size, settings.threads)
    with _quiet():
        trainer = _trainer(settings, len(missing), Writer(title))
        trainer.predict(network, return_predictions=False)
    refuse_problems(take_problems(store.folder))
    return sum(parts[number].count for number in missing)


def refuse_problems(problems: Sequence[str]) -> None:
    """CohortError with the first few of them."""
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise CohortError(f"{len(problems)} not embedded: {'; '.join(problems[:SHOWN])}{more}")


def _trainer(settings: Embedding, parts: int, writer: Any) -> Any:
    """One process, or several that Lightning starts and ends within this call."""
    import torch
    from lightning import Trainer
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    on_gpu = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    wanted = (torch.cuda.device_count() if on_gpu else 1) if settings.devices == "auto" else settings.devices
    devices = max(1, min(wanted, parts))
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=devices,
            # Not `ddp`, which starts the whole command again in every process.
            strategy="ddp_spawn" if devices > 1 else "auto",
            precision=settings.precision,  # type: ignore[arg-type]
            callbacks=[writer],
            logger=False,
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
    except (ValueError, MisconfigurationException) as error:
        given = {name: value for name, value in asdict(settings).items() if name in ("accelerator", "precision")}
        raise ConfigError(f"embedding {given}, devices {devices}: {' '.join(str(error).split())}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines on which devices there are, for every table and encoder."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def speed_of(folder: Path) -> Speed:
    """What was measured when the embeddings of a folder were made."""
    from g2l.evaluation.embedding.network import SPEED

    try:
        content = json.loads((folder / SPEED).read_text(encoding="utf-8"))
        return Speed(float(content["images_per_second"]), str(content["device"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Speed()
