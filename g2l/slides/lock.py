"""A folder for one run at a time."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from g2l.errors import G2LError


@contextmanager
def alone(lock: Path, folder: Path, command: str, kind: type[G2LError]) -> Iterator[None]:
    """No other run of `command` may enter with the same `lock`. Where a disk knows no locks, a warning must do.

    The lock is the kernel's (flock): it ends with the process that holds it, however that ends. NFS passes it on to its
    server, so that it holds between machines too, and frees it some 90 s after a machine has died.

    Args:
        lock: a file in a folder that can be written. folder: that messages name.
    Raises:
        kind: another run has it.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise kind(
            f"another {command} is working in {folder}; wait until it has ended, or choose another --out"
        ) from error
    except (OSError, NotImplementedError) as error:
        warnings.warn(f"{folder} cannot be locked ({error}): run only one {command} there at a time", stacklevel=4)
    try:
        yield
    finally:
        held.release()
