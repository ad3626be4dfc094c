"""The folder of a run: writable, of one run at a time, of one bundle; and one line where that fails."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from g2l.errors import ConfigError
from g2l.slides.lock import alone

PARTIAL, RUN, TISSUE, PICTURES = ".partial", "run.json", "tissue", "pictures"


@contextmanager
def claimed(out: Path) -> Iterator[Path]:
    """The folder `out` and those inside it: made, writable, and for this run alone. Gives that of partial results.

    Raises:
        ConfigError: it cannot be written, or another run has it.
    """
    partial = out / PARTIAL
    with writing(out, "choose another --out"):
        for folder in (partial, out / TISSUE, out / PICTURES):
            folder.mkdir(parents=True, exist_ok=True)
        probe = partial / f".{os.getpid()}.tmp"
        probe.write_bytes(b"0")
        probe.unlink()
    with alone(partial / "lock", out, "g2l embed", ConfigError):
        yield partial


@contextmanager
def writing(out: Path, remedy: str = "free the disk, and run the same again: finished slides stay") -> Iterator[None]:
    """What fails in here is the disk's fault, told in one line: ConfigError."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); {remedy}") from error


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM ends what runs in here as Ctrl-C does, through its `finally` clauses; the exit code is 143."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def runs_before(out: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What run.json says of the runs before that embedded something.

    Raises:
        ConfigError: they made features otherwise; those of one folder can be compared with each other.
    """
    try:
        content = json.loads((out / RUN).read_text(encoding="utf-8"))
        before = {name: content["settings"][name] for name in settings}
        runs = [run for run in content["runs"] if run["patches"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # absent, or none of ours
    differ = [name for name, value in settings.items() if before[name] != value]
    if differ:
        what = ", ".join(f"{name} {before[name]} instead of {settings[name]}" for name in differ)
        raise ConfigError(f"{out} holds features of another run ({what}); give the same, or choose another --out")
    return runs


def replace_text(file: Path, text: str) -> None:
    """Writes a file under another name, then renames it. Raises OSError; a former file then stays."""
    replace_bytes(file, text.encode())


def replace_bytes(file: Path, content: bytes) -> None:
    """The same of bytes."""
    temporary = file.with_name(f".{os.getpid()}.tmp")  # a short name: that of the slide may be as long as can be
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
