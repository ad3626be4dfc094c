"""SHA256SUMS: the list of a folder's files with their hashes, as sha256sum writes it, and its checks."""

import hashlib
import re
from pathlib import Path, PurePosixPath

from g2l.errors import ConfigError, G2LError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Writes SHA256SUMS of every other file in a folder, subfolders included, sorted by path."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if name != SUMS]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def read_sums(folder: Path, kind: type[G2LError] = ConfigError) -> dict[str, str]:
    """The hash of each file that a folder's SHA256SUMS lists, by its path inside the folder. Nothing is hashed.

    Raises:
        kind: it cannot be read, a line is no hash and path, or a path leads out of the folder or through a link.
    """
    file = folder / SUMS
    if file.is_symlink():
        raise kind(f"{file} is a link; copy the folder with the files themselves")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise kind(f"{file} cannot be read ({error}); copy the folder again") from error
    listed: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line)
        if not found:
            raise kind(f"{file}: line {number} is no hash and path; copy the folder again")
        digest, name = found[1].lower(), found[2]
        reason = "is listed twice" if name in listed else _astray(folder, name)
        if reason:
            raise kind(f"{file}: {name!r} {reason}; do not use this folder, ask its maker for another")
        listed[name] = digest
    if not listed:
        raise kind(f"{file} is empty; copy the folder again")
    return listed


def outside(name: str) -> bool:
    """Whether a posix path does not plainly lie below the folder it is relative to, on any system."""
    # A pure path swallows `a//b`, `./a` and `a/`: what it gives back must be what it was given.
    odd = "\\" in name or ":" in name or not name.isprintable() or PurePosixPath(name).as_posix() != name
    return odd or name.startswith("/") or ".." in name.split("/") or name in ("", ".")


def _astray(folder: Path, name: str) -> str:
    if outside(name):
        return "is no path inside the folder"
    parts = PurePosixPath(name).parts
    linked = any(folder.joinpath(*parts[: depth + 1]).is_symlink() for depth in range(len(parts)))
    return "is a link, or lies behind one" if linked else ""
