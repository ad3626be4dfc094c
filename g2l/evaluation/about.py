"""What stands behind a number: command, versions, encoder, data and settings, in plain JSON."""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l import __version__
from g2l.encoders.encoder import Encoder
from g2l.errors import CohortError
from g2l.evaluation.choice import Choice
from g2l.evaluation.embedding.digests import file_digests
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.jobs import Job, describe, digest, parts_of

PACKAGES = ("torch", "lightning", "timm", "numpy", "scikit-learn", "scipy", "torchmetrics", "scikit-survival")
# Settings of tasks that say which methods run or what is drawn: the scores of a method do not depend on them.
SHOWN = ("heads", "methods", "decoders", "clustering", "faithful", "examples", "overlays")
# Settings that change embeddings, of images and of slides; all others are a matter of speed.
READ, READ_SLIDES = ("precision", "dtype"), ("mpp", "min_tissue", "max_patches")


def about_run(seed: int) -> dict[str, Any]:
    """The command as it was given, versions, and when."""
    name = Path(sys.argv[0]).name
    start = "python -m g2l" if name in ("__main__.py", "g2l") else name
    return {
        "command": f"{start} {shlex.join(sys.argv[1:])}".strip(),
        "seed": seed,
        "versions": {"g2l": __version__, "python": platform.python_version()} | _versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def about_encoder(encoder: Encoder, choice: Choice) -> dict[str, Any]:
    """What a report says of an encoder."""
    return {
        "model": choice.model,
        "init": choice.init,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "embed_dim": encoder.embed_dim,
        "size": encoder.size,
        "source": encoder.source,
    }


def about_data(job: Job, content: Mapping[str, str], examples: Any) -> dict[str, Any]:
    """Name, origin, hashes (`content_of`), parts, and the files of images that are among the `examples`."""
    table, shown = job.table, _texts(examples)
    files = {
        name: path if row < 0 else f"{path}#{row}"
        for name, path, row in zip(table.ids.tolist(), table.paths.tolist(), table.rows.tolist(), strict=True)
        if name in shown
    }
    return {
        "name": table.name,
        "origin": dict(table.origin),
        "sha256": digest(content),
        "content": dict(content),
        "parts": parts_of(job),
        "paths": files,
    }


def content_of(job: Job, folder: Path, threads: int) -> dict[str, str]:
    """SHA-256 of what a task reads of its data, by name: files, labels, patients, ..., parts.

    It is the same wherever the data set lies, and in whatever order it is listed. Images count by their bytes, slides
    by their fingerprint; a further column that names files (masks) by their bytes, one that names folders not at all.

    Args:
        folder: that remembers the digests of files. threads: that read files.
    Raises:
        CohortError: files that cannot be read, by name.
    """
    from filelock import FileLock

    table = job.table
    rows = job.rows[np.argsort(table.ids[job.rows])]
    ids, paths = (column[rows].tolist() for column in (table.ids, table.paths))
    with FileLock(folder / ".lock"):  # as embedding does: both remember digests in one file
        if job.task.needs == "bag":
            files = [table.mpp, *_fingerprints(paths)]
        else:
            known = file_digests(paths, folder, threads)
            files = [known[path] for path in paths]
        columns = {
            f"column {name}": _told(column[rows], paths, folder, threads) for name, column in table.extra.items()
        }
    columns |= {name: getattr(table, name)[rows].tolist() for name in ("labels", "patients", "slides", "centres")}
    parts = [sorted(table.ids[getattr(job.split, part)].tolist()) for part in job.task.parts]
    content = {"files": [ids, files], **{name: [ids, column] for name, column in columns.items()}, "parts": parts}
    return {name: digest(each) for name, each in content.items()}


def protocol_of(job: Job, embedding: Embedding, seed: int, teachers: Mapping[str, Any]) -> dict[str, Any]:
    """The settings under which scores of a task are comparable: of the task, of the embeddings, the seed. Places and
    what is a matter of speed are left out.

    Args: teachers: name -> what tells their weights apart.
    """
    task = {name: value for name, value in describe(job.task).items() if name not in ("data", *SHOWN)}
    read = (*READ, *READ_SLIDES) if job.task.needs == "bag" else READ
    return {
        "task": task,
        "embedding": {name: getattr(embedding, name) for name in read},
        "seed": seed,
        "teachers": dict(teachers),
    }


def _fingerprints(paths: Sequence[str]) -> list[str]:
    from g2l.slides.indexing.scan import fingerprint

    try:
        return [fingerprint(Path(path)) for path in paths]
    except OSError as error:
        raise CohortError(
            f"slide {error.filename} cannot be read ({error.strerror or error}); bring it back"
        ) from error


def _told(column: NDArray[Any], beside: Sequence[str], folder: Path, threads: int) -> list[Any]:
    """A further column as it may be compared with that of another place. Its first text says whether it names files."""
    values = column.tolist()
    places = [Path(path).parent / str(value) for path, value in zip(beside, values, strict=True)]
    first = next((k for k, value in enumerate(values) if isinstance(value, str) and value.strip()), None)
    if first is None:
        return values
    with suppress(OSError):  # a text too long for a path is none
        if places[first].is_dir():
            return []
        if places[first].is_file():
            known = file_digests([str(path) for path in set(places) if path.is_file()], folder, threads)
            return [known.get(str(path), value) for path, value in zip(places, values, strict=True)]
    return values


def _texts(value: Any) -> set[str]:
    """Every text inside examples: ids of images that the report shows are among them."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        value = list(value.values())
    return set().union(*map(_texts, value)) if isinstance(value, list | tuple) else set()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
