"""`g2l verify`: a bundle proves itself on the computer that will use it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.runtime.engines import Engine, open_file_engine
from g2l.deploy.runtime.formats import FORMATS, Format, get_format
from g2l.deploy.runtime.gates import Measured, compare
from g2l.deploy.runtime.opened import VECTOR, OpenBundle, open_bundle
from g2l.deploy.runtime.picked import pick_patches
from g2l.deploy.runtime.processor import usable
from g2l.deploy.runtime.vector import Vector, read_vector
from g2l.deploy.runtime.verified import Row, Verified
from g2l.errors import ConfigError

# What the receiver's patches are compared with, for there is no PyTorch: the first that can run here.
REFERENCES = ("onnx-fp32", "openvino-fp32")


def verify(
    bundle: str,
    /,
    slides: str | None = None,
    patches: int = 64,
    format: str | None = None,
    mpp: float | None = None,
    batch_size: int = 8,
    threads: int | None = None,
) -> Verified:
    """Check a bundle on this computer: every file's hash, every format on the test vector, and how fast each is.

    Args:
        bundle: the folder that g2l export wrote.
        slides: a slide or a folder of slides, of your own, on which all formats must agree too.
        patches: how many patches of those slides.
        format: the only one to try; all that passed at export otherwise.
        mpp: um per px of level 0 of slides that do not state it.
        batch_size: patches computed at once.
        threads: that compute; as many as this process may use otherwise.
    """
    if patches < 1:
        raise ConfigError(f"patches {patches} must be at least 1; raise it")
    wanted = FORMATS if format is None else (get_format(format),)
    opened = open_bundle(Path(bundle), every_hash=True)
    prepared = opened.prepared
    if format and (reason := opened.why_not(wanted[0]) or usable(wanted[0])):
        raise ConfigError(f"bundle {bundle}: format {format} cannot be used: {reason}; leave it out")
    vector = read_vector(opened.folder / VECTOR, prepared.size, prepared.embed_dim)
    picked = pick_patches(Path(slides), patches, prepared.size, prepared.mpp, mpp) if slides else None
    work = _Work(opened, vector, picked.patches if picked else None, batch_size, threads)
    rows = work.rows(wanted)
    what = f"{len(vector.patches)} {vector.source} patches"
    return Verified(opened, rows, len(opened.files), what, picked, work.reference)


class _Work:
    """Runs formats. Args: own: the receiver's patches (n, S, S, 3)."""

    def __init__(
        self, bundle: OpenBundle, vector: Vector, own: NDArray[np.uint8] | None, batch_size: int, threads: int | None
    ) -> None:
        self._bundle, self._vector, self._own = bundle, vector, own
        self._batch_size, self._threads = batch_size, threads
        self.reference = ""

    def rows(self, wanted: tuple[Format, ...]) -> tuple[Row, ...]:
        """One for each format, run where it can be."""
        from tqdm import tqdm

        listed = [self._listed(format) for format in wanted]
        runs = sum(not row.why for row in listed) + (self._own is not None)
        each = len(self._vector.patches) + (0 if self._own is None else len(self._own))
        with tqdm(total=runs * each, unit="patch", desc="verify", leave=False) as bar:
            expected = self._expected(bar)
            return tuple(row if row.why else self._ran(row, expected, bar) for row in listed)

    def _listed(self, format: Format) -> Row:
        entry: dict[str, Any] = self._bundle.parity["formats"].get(format.name, {})
        measured = entry.get("vector")
        exported = measured.get("min_cosine") if isinstance(measured, dict) else None
        exported = exported if isinstance(exported, float | int) else None
        why = self._bundle.why_not(format)
        if why:
            return Row(format, exported, why=f"not in this bundle: {why}")
        lacking = usable(format)
        return Row(format, exported, why=f"cannot run here: {lacking}" if lacking else "")

    def _expected(self, bar: Any) -> NDArray[np.float32] | None:
        """Embeddings of the receiver's patches that all formats are compared with."""
        if self._own is None:
            return None
        able = [one for one in map(get_format, REFERENCES) if not self._bundle.why_not(one) and not usable(one)]
        if not able:
            raise ConfigError(
                f"slides need a reference, and none of {', '.join(REFERENCES)} can run here; leave them out"
            )
        self.reference = able[0].name
        with self._engine(able[0]) as engine:
            return _timed(engine, self._own, bar)[0]

    def _ran(self, row: Row, expected: NDArray[np.float32] | None, bar: Any) -> Row:
        bar.set_postfix_str(row.format.name)
        kind, mine = row.format.kind, None
        try:
            with self._engine(row.format) as engine:
                found, rate = _timed(engine, self._vector.patches, bar)
                if self._own is not None and expected is not None:
                    mine = compare(expected, _timed(engine, self._own, bar)[0], kind)
        except ConfigError as error:
            return Row(row.format, row.exported, why=str(error), ran=True)
        vector = compare(self._vector.embedding, found, kind)
        why = "; ".join(filter(None, [_told("test vector", vector), _told("your slides", mine)]))
        return Row(row.format, row.exported, vector, mine, rate, why, ran=True)

    def _engine(self, format: Format) -> Engine:
        return open_file_engine(self._bundle.folder / format.file, format, self._batch_size, self._threads)


def _told(what: str, measured: Measured | None) -> str:
    return f"{what}: {measured.why}" if measured and not measured.passed else ""


def _timed(engine: Engine, patches: NDArray[np.uint8], bar: Any) -> tuple[NDArray[np.float32], float]:
    """(embeddings, patches per second); the first batch is computed once before the clock starts."""
    engine(patches[: engine.batch_size])
    parts, started = [], time.perf_counter()
    for start in range(0, len(patches), engine.batch_size):
        parts.append(engine(patches[start : start + engine.batch_size]))
        bar.update(len(parts[-1]))
    return np.concatenate(parts), len(patches) / (time.perf_counter() - started)
