"""One format of a bundle, ready to run: patches in, embeddings out.

Letters: b patches, S their side in px, D embedding width.
"""

from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.runtime.formats import Format, get_format
from g2l.deploy.runtime.gates import GATES, cosine
from g2l.deploy.runtime.opened import VECTOR, OpenBundle
from g2l.deploy.runtime.processor import capabilities, cores, usable, usable_formats
from g2l.deploy.runtime.silent import import_onnxruntime, import_openvino
from g2l.deploy.runtime.vector import read_vector
from g2l.errors import ConfigError

__all__ = ["Engine", "candidates", "choose", "open_engine", "open_file_engine", "usable", "usable_formats"]


class Network(Protocol):
    """What a library makes of the file: one batch of exactly the size it was compiled for."""

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]: ...


class Engine:
    """A network on the processor, for one thread to call. Threads that read go on while it computes: both libraries
    release Python's lock.

    Attributes:
        format: what it runs.
        batch_size: b is at most this; fewer are filled up with black patches, so that every batch is computed alike.
        left_out: faster formats that were not taken, and why.
    """

    def __init__(self, network: Network, format: Format, batch_size: int) -> None:
        self.format, self.batch_size = format, batch_size
        self.left_out: tuple[str, ...] = ()
        self._network: Network | None = network

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(b, D) embeddings of (b, S, S, 3) RGB patches, the same bits whenever batch size and threads are the same.

        Raises:
            ConfigError: the library fails, for want of memory or because the graph is for other patches.
        """
        if self._network is None:
            raise ValueError("the engine is closed")
        count = len(patches)
        if not 0 < count <= self.batch_size:
            raise ValueError(f"{count} patches for an engine of batches of {self.batch_size}")
        if count < self.batch_size:
            filled = np.zeros((self.batch_size, *patches.shape[1:]), np.uint8)
            filled[:count] = patches
            patches = filled
        try:
            return self._network(np.ascontiguousarray(patches))[:count].copy()
        except Exception as error:  # what the libraries raise shares no base: no memory, a graph for another size
            what = " x ".join(map(str, patches.shape))
            raise ConfigError(
                f"format {self.format.name} fails on {what} bytes of patches: {_line(error)}; run: g2l verify BUNDLE"
            ) from error

    def all(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, D) embeddings of any number n of patches."""
        starts = range(0, len(patches), self.batch_size)
        return np.concatenate([self(patches[start : start + self.batch_size]) for start in starts])

    def close(self) -> None:
        """Gives the memory back."""
        self._network = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_engine(
    bundle: OpenBundle, format: str | None = None, batch_size: int = 8, threads: int | None = None
) -> Engine:
    """The engine of one format of a bundle, its files' hashes checked, and proven on one batch of the test vector: a
    format that passed on the maker's processor may compute something else on this one.

    Args:
        format: its name; None: the fastest that passed at export, and that this computer can run and computes right.
        threads: that compute; None: as many as this process may use.
    Raises:
        ConfigError: an unknown format, one that did not pass, cannot run here or fails here, or a damaged file.
    """
    left_out: list[str] = []
    for candidate in candidates(bundle, format):
        bundle.check_format(candidate)
        engine = open_file_engine(bundle.folder / candidate.file, candidate, batch_size, threads)
        reason = _disproof(engine, bundle)
        if not reason:
            engine.left_out = tuple(left_out)
            return engine
        engine.close()
        left_out.append(f"{candidate.name}: {reason}")
    others = f"take another of its formats ({', '.join(one.name for one in bundle.formats)}), or " if format else ""
    raise ConfigError(
        f"bundle {bundle.folder} cannot be used here: {'; '.join(left_out)}; {others}run: g2l verify {bundle.folder}"
    )


def candidates(bundle: OpenBundle, format: str | None = None) -> list[Format]:
    """The formats that `open_engine` would try, in this order; of a named one it alone.

    Raises:
        ConfigError: an unknown format, one that did not pass at export, or none that can run here.
    """
    reasons = {one.name: usable(one) for one in bundle.formats}
    able = [one for one in bundle.formats if not reasons[one.name]]
    if format is None:
        if not able:
            told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            raise ConfigError(f"bundle {bundle.folder}: no format can run here: {told}")
        return able
    wanted = get_format(format)
    reason = bundle.why_not(wanted) or reasons[format]
    if reason:
        remedy = f"those that can be used here: {', '.join(one.name for one in able) or 'none'}"
        raise ConfigError(f"bundle {bundle.folder}: format {format} cannot be used: {reason}; {remedy}")
    return [wanted]


def choose(bundle: OpenBundle, format: str | None = None) -> Format:
    """The format that `open_engine` tries first; it raises as `candidates` does."""
    return candidates(bundle, format)[0]


def _disproof(engine: Engine, bundle: OpenBundle) -> str:
    """How one batch of the test vector differs from PyTorch's embeddings, or "". The mean, as of int8 single patches
    may lie below the gate of the 1st percentile.
    """
    bundle.check(VECTOR)
    vector = read_vector(bundle.folder / VECTOR, bundle.prepared.size, bundle.prepared.embed_dim)
    try:
        found = engine(vector.patches[: engine.batch_size])
    except ConfigError as error:
        return str(error)
    if found.shape[1:] != vector.embedding.shape[1:]:
        return f"its embeddings have {found.shape[1]} numbers instead of {vector.embedding.shape[1]}"
    mean = float(cosine(vector.embedding[: len(found)], found).mean())
    gate = next(gate for name, gate in GATES[engine.format.kind].items() if name.endswith("cosine"))
    # Written so that NaN does not pass either.
    return "" if mean >= gate else f"on this processor its cosine to the test vector is {mean:.4f}, below {gate:g}"


def open_file_engine(file: Path, format: Format, batch_size: int = 8, threads: int | None = None) -> Engine:
    """The engine of a file, of which nothing is checked: at export there is no bundle yet.

    Raises:
        ConfigError: a setting that cannot be, a library that is not installed, or a file that it cannot read.
    """
    if batch_size < 1 or (threads is not None and threads < 1):
        raise ConfigError(f"batch_size {batch_size} and threads {threads} must be at least 1; raise them")
    reason = usable(format)
    if reason:
        raise ConfigError(f"format {format.name} cannot run here: {reason}; can run: {', '.join(usable_formats())}")
    make = _openvino if format.engine == "openvino" else _onnxruntime
    try:
        network = make(file, format, batch_size, threads or cores())
    except Exception as error:  # onnxruntime's errors share no other base; all mean a file it cannot run
        raise ConfigError(f"{file} cannot be read by {format.engine}: {_line(error)}; export it again") from error
    return Engine(network, format, batch_size)


def _openvino(file: Path, format: Format, batch_size: int, threads: int) -> Network:
    core = import_openvino().Core()
    model = core.read_model(file)
    shape = model.inputs[0].get_partial_shape()
    shape[0] = batch_size
    model.reshape({model.inputs[0]: shape})  # a fixed shape lets the plugin plan its memory and choose its kernels
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": format.precision if "BF16" in capabilities() else "f32",
        "CACHE_DIR": "",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def network(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        # shared memory: neither the patches nor the embeddings are copied; Engine copies what it hands out
        return request.infer([patches], share_inputs=True, share_outputs=True)[0]

    return network


def _onnxruntime(file: Path, format: Format, batch_size: int, threads: int) -> Network:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    given, asked = session.get_inputs()[0].name, session.get_outputs()[0].name

    def network(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(session.run([asked], {given: patches})[0])

    return network


def _line(error: Exception) -> str:
    """What a library says, in one line of bearable length."""
    return " ".join(str(error).split())[:300] or type(error).__name__
