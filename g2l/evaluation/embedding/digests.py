"""What embeddings depend on, as SHA-256: the encoder, how images reach it, and the bytes of every file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from g2l.errors import CohortError

if TYPE_CHECKING:
    from g2l.encoders.encoder import Encoder

# What of an encoder's entry changes its embeddings. Its name, licence and resolution do not.
COMPUTES = ("architecture", "args", "pooling", "size", "mean", "std", "interpolation", "resize", "norm_eps")
FILES = "files.parquet"
SEEN = ("path", "size", "mtime_ns", "sha256")


def digest_of(*parts: str) -> str:
    """SHA-256 of texts, which are told apart wherever they are divided."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode()
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()


def plain(content: Mapping[str, Any]) -> str:
    """A mapping as text, the same in whatever order it was made."""
    return json.dumps(content, sort_keys=True, default=list)


def encoder_digest(encoder: "Encoder") -> str:
    """SHA-256 of all tensors and of what the entry says of their use."""
    spec = encoder.spec.to_dict()
    whole = hashlib.sha256(plain({key: spec[key] for key in COMPUTES} | {"halved": encoder.halved}).encode())
    for key, tensor in sorted(encoder.state_dict().items()):
        whole.update(f"{key} {tensor.dtype} {list(tensor.shape)} ".encode())
        # As bytes: numpy knows no bfloat16.
        import torch

        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def file_digests(paths: Sequence[str], folder: Path, threads: int) -> dict[str, str]:
    """SHA-256 of the bytes of files, by path. Those of `folder`/files.parquet count while size and time of the file
    are as they were, so that nothing is read twice.

    Raises:
        CohortError: files that cannot be read, by name.
    """
    known = _known(folder / FILES)
    faults: list[str] = []

    def one(path: str) -> tuple[int, int, str] | None:
        try:
            about = Path(path).stat()
            before = known.get(path)
            if before is not None and before[:2] == (about.st_size, about.st_mtime_ns):
                return before
            with Path(path).open("rb") as stream:
                return about.st_size, about.st_mtime_ns, hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            faults.append(f"{path} ({error.strerror or error})")
            return None

    wanted = sorted(set(paths))
    with ThreadPoolExecutor(threads) as pool:
        found = {path: value for path, value in zip(wanted, pool.map(one, wanted), strict=True) if value is not None}
    if any(known.get(path) != value for path, value in found.items()):
        _remember(folder / FILES, known | found)
    if faults:
        shown = ", ".join(sorted(faults)[:5])
        raise CohortError(f"{len(faults)} of {len(wanted)} files cannot be read: {shown}; bring them back")
    return {path: value[2] for path, value in found.items()}


def _known(file: Path) -> dict[str, tuple[int, int, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, columns=list(SEEN))
        columns = [table.column(name).to_pylist() for name in SEEN]
    except (OSError, KeyError, pa.ArrowException):
        return {}  # absent or damaged: the files are read again
    return {path: (size, time, digest) for path, size, time, digest in zip(*columns, strict=True)}


def _remember(file: Path, known: Mapping[str, tuple[int, int, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(path, *value) for path, value in sorted(known.items())]
    table = pa.table({name: [row[k] for row in rows] for k, name in enumerate(SEEN)})
    partial = file.with_name(f".{file.name}.partial")
    pq.write_table(table, partial)
    partial.replace(file)
