"""`g2l cache`: the fixed patches of a training through its frozen networks, once.

Letters: `B` images of a batch, `N` patch tokens, `D` width, `n` patches.
"""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning import Trainer
from lightning_utilities.core.rank_zero import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from g2l import __version__
from g2l.data.module import SlideDataModule
from g2l.encoders.encoder import Encoder, Tokens
from g2l.errors import ConfigError, TrainingError
from g2l.training.cache.plan import Entry, make_plan
from g2l.training.cache.reading import open_table
from g2l.training.cache.table import Column, Table
from g2l.training.distiller import Distiller
from g2l.training.terms import Need

DType = Literal["float16", "float32"]
SYNC_SECONDS = 2.0  # what an interruption costs at most


def write_cache(trainer: Trainer, model: Distiller, data: SlideDataModule, out: Path, dtype: DType) -> str:
    """Embed the `data.repeat` training patches with every frozen network of a config, each into a file of its own.

    A network whose file is there already is left out. After an interruption the same call goes on; a file has its
    final name only when it is complete.

    Args:
        trainer: gives device and precision; one device is used.
        out: the folder. dtype: of the embeddings on disk.
    Returns:
        What was done, in one line.
    Raises:
        ConfigError: the teacher would not see the same pixels again, `out` holds something else, or the disk is too
            small.
        TrainingError: an embedding is not finite in `dtype`.
    """
    data.trainer = model.trainer = trainer
    data.prepare_data()
    data.setup()
    model.to(trainer.strategy.root_device)
    model.prepare_networks()
    plan = make_plan(model, data)
    data.ledger.file = out / "faults.csv"
    with _alone(out), ExitStack() as closing:
        missing = {name: entry for name, entry in plan.items() if not _finished(out / entry.file, entry)}
        _announce(missing, model.frozen, data.repeat, dtype, out)
        tables = {}
        for name, entry in missing.items():
            tables[name] = _begun(out, entry, model.frozen[name], data.repeat, dtype)
            closing.callback(tables[name].close)
        if tables:
            _fill(tables, missing, model, data)
        for name, table in tables.items():
            table.close()
            table.file.replace(out / missing[name].file)
    done = f"{len(tables)} of {len(plan)} networks embedded now" if tables else "all was there"
    return f"teacher embeddings of {data.repeat} patches are in {out} ({done}); train with --model.cache={out}"


def _fill(tables: Mapping[str, Table], plan: Mapping[str, Entry], model: Distiller, data: SlideDataModule) -> None:
    """Embed what no table holds yet."""
    starts = {name: int(np.argmax(np.append(table.columns["attempt"], -1) < 0)) for name, table in tables.items()}
    first = min(starts.values()) // data.batch_size
    attempts = np.full(data.repeat, -1, np.int16)
    marked = row = first * data.batch_size
    views = sorted({entry.view for entry in plan.values()})
    synced = time.monotonic()
    with tqdm(total=data.repeat, initial=marked, unit="patch", desc="embedding") as bar:
        for raw in data.each_once(first) if marked < data.repeat else ():
            batch = data.transfer_batch_to_device(data.on_before_batch_transfer(raw, 0), model.device, 0)
            kept = min(len(batch["index"]), data.repeat - row)  # the rest of the last batch are the first patches again
            pictures = _pictures(model, batch, views, check=row == first * data.batch_size)
            for name, table in tables.items():
                _write(table, row, kept, embed(model, name, plan[name], pictures))
            attempts[row : row + kept] = batch["attempt"][:kept].numpy()
            row += kept
            bar.update(kept)
            if time.monotonic() - synced >= SYNC_SECONDS or row == data.repeat:
                _mark(tables, marked, attempts[marked:row])
                marked, synced = row, time.monotonic()


def embed(model: Distiller, name: str, entry: Entry, pictures: Mapping[str, Tensor]) -> Tokens:
    """What the training itself would compute."""
    plugin = model.trainer.precision_plugin
    with torch.no_grad(), plugin.forward_context():
        return model.tokens(Need(name, entry.view), pictures[entry.view])


def _pictures(model: Distiller, batch: dict[str, Any], views: list[str], check: bool) -> dict[str, Tensor]:
    """The views of a batch, as in training. `check`: make sure that they are the same under other numbers."""
    images, index = batch["images"], batch["index"]
    pictures = model.views(images, index, seed=model.seed, training=True, names=views)
    if check:
        again = model.views(images, index + 1_000_003, seed=model.seed, training=True, names=views)
        other = [name for name in views if not torch.equal(pictures[name], again[name])]
        if other:
            raise ConfigError(
                f"model.views shows the teacher other pixels of a patch the next time (view {', '.join(other)}); "
                "switch all of its augmentation off, or run without a cache"
            )
    return pictures


def _write(table: Table, row: int, kept: int, tokens: Tokens) -> None:
    for name in table.columns.keys() & {"cls", "patches"}:
        values = getattr(tokens, name)[:kept].float().cpu().numpy()
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = values.astype(table.columns[name].dtype)
        if not np.isfinite(stored).all():
            raise TrainingError(
                f"an embedding of patches {row} to {row + kept - 1} is not finite in {stored.dtype} (largest value "
                f"{np.abs(values).max():g}); use --dtype float32, or look at these patches"
            )
        table.write(name, row, stored)


def _mark(tables: Mapping[str, Table], row: int, attempts: NDArray[np.int16]) -> None:
    """Note that rows are complete, when they are on the disk and not before."""
    for table in tables.values():
        table.sync()
        table.write("attempt", row, attempts)
        table.sync()


def _finished(file: Path, entry: Entry) -> bool:
    """Whether the file is there; ConfigError when it is of something else."""
    return file.exists() and bool(open_table(file, entry))


def _begun(out: Path, entry: Entry, network: Encoder, rows: int, dtype: DType) -> Table:
    """The unfinished table, from before or new."""
    file = out / f"{entry.file}.part"
    columns = _columns(entry, network, dtype)
    if file.exists():
        table = open_table(file, entry)
        if {name: table.columns[name].dtype for name in table.columns} == {
            name: np.dtype(column.dtype) for name, column in columns.items()
        }:
            return table
        raise ConfigError(f"{file} was begun with another --dtype or other tokens; delete it, or give another --out")
    grid = [*network.grid, network.token_dim]
    about = {"identity": json.dumps(entry.identity), "sha256": entry.digest, "grid": json.dumps(grid)}
    about |= {"made by": f"g2l {__version__}, torch {torch.__version__}", "source": json.dumps(network.source)}
    return Table.create(file, rows, columns, about)


def _columns(entry: Entry, network: Encoder, dtype: DType) -> dict[str, Column]:
    columns = {"cls": Column((network.embed_dim,), dtype)}
    if entry.patches:
        height, width = network.grid
        columns["patches"] = Column((height * width, network.token_dim), dtype)
    # after the others, so that these begin at whole words
    return columns | {"attempt": Column((), np.int16, -1)}


def _announce(plan: Mapping[str, Entry], frozen: Mapping[str, Encoder], rows: int, dtype: DType, out: Path) -> None:
    """Say how large the files become, before the first is begun. ConfigError: too large for the disk."""
    total = 0
    for name, entry in plan.items():
        columns = _columns(entry, frozen[name], dtype)
        sizes = ", ".join(
            f"{one} {rows * column.bytes / 1e9:.3g} GB" for one, column in columns.items() if column.shape
        )
        rank_zero_info(f"{out / entry.file}: {rows} patches in {dtype}: {sizes}")
        part = out / f"{entry.file}.part"
        there = part.stat().st_blocks * 512 if part.exists() else 0
        total += rows * sum(column.bytes for column in columns.values()) - there
    free = shutil.disk_usage(out).free
    if total > free:
        raise ConfigError(
            f"the embeddings need {total / 1e9:.3g} GB and the disk of {out} has {free / 1e9:.3g} GB left; lower "
            "data.repeat, leave the patch tokens out (patch: 0 in the terms), or give another --out"
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """The folder, made, for this process alone."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"another g2l cache is writing to {out}; wait for it, or give another --out") from error
    except OSError as error:
        raise ConfigError(f"cannot write to {out} ({error.strerror or error}); give another --out") from error
    try:
        yield
    finally:
        lock.release()
