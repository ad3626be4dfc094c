"""What no bundle may hold: files nobody listed, links, pickles, archives, names that lead elsewhere."""

import io
import os
import pickletools
import stat
import warnings
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from g2l.errors import ConfigError
from g2l.sums import SUMS, outside

PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz", ".dill", ".mar")
# Everything a bundle is made of: a closed list, since a list of what is bad is never whole.
KNOWN = (
    "model.safetensors", "model.onnx", "model.onnx.data", "openvino/*.xml", "openvino/*.bin", "test_vector.h5",
    "embed.pyz", "*.json", "*.md", "*.txt", "*.png", "*.jpg", "LICENSE*", "NOTICE*",
)  # fmt: skip
_ENOUGH = 64  # operations in a row are no coincidence
_MEMBERS, _LARGEST = 10_000, 1 << 20  # files in embed.pyz, which has some forty, and bytes of one
AGAIN = "do not use this bundle, ask its maker for another"


def check_tree(folder: Path, listed: dict[str, str]) -> None:
    """ConfigError, naming the file, unless a bundle's folder holds exactly the plain files that are listed."""
    found: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_raise, followlinks=False):
        for name in [*folders, *files]:
            path = Path(root, name)
            inside = _plain(path.relative_to(folder).as_posix())
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                raise ConfigError(f"bundle {folder}: {inside} is a link; copy the bundle with the files themselves")
            if not stat.S_ISDIR(mode):
                if not stat.S_ISREG(mode):
                    raise ConfigError(f"bundle {folder}: {inside} is no plain file; {AGAIN}")
                found.add(inside)
    strange = sorted(found - {*listed, SUMS})
    if strange:
        raise ConfigError(f"bundle {folder}: {_several(strange)} not listed in {SUMS}; move it out of the bundle")
    missing = sorted(set(listed) - found)
    if missing:
        raise ConfigError(f"bundle {folder} is incomplete: {_several(missing)} missing; copy the bundle again")


def check_kind(folder: Path, name: str) -> None:
    """ConfigError unless a file is of a kind that a bundle is made of, by its name and by its content."""
    path = PurePosixPath(name)
    if path.suffix.lower() in PICKLES:
        raise ConfigError(f"bundle {folder}: {name} is a pickle by its name, which can run code; {AGAIN}")
    if not any(fnmatchcase(name, known) for known in KNOWN):
        raise ConfigError(f"bundle {folder}: {name} is nothing that a bundle is made of; {AGAIN}")
    file = folder / name
    with file.open("rb") as stream:
        pickled = is_pickle(stream, file.stat().st_size)
    if pickled:
        raise ConfigError(f"bundle {folder}: {name} holds a pickle, which can run code; {AGAIN}")
    if zipfile.is_zipfile(file):
        _check_archive(file, f"bundle {folder}: {name}", allowed=name == "embed.pyz")


def is_pickle(stream: IO[bytes], size: int) -> bool:
    """Whether a file of `size` bytes begins as a pickle of any protocol does. Nothing in it is executed.

    Weights may happen to begin so: six operations that end are taken for a pickle, or fewer that end with the file;
    the shortest that could call anything has six.
    """
    count = 0
    try:
        with warnings.catch_warnings():
            # pickletools decodes what it takes for a string with Python's own escapes, and those may be odd
            warnings.simplefilter("ignore", DeprecationWarning)
            for count, (opcode, _, position) in enumerate(pickletools.genops(stream), 1):
                if opcode.name == "STOP":
                    return count >= 6 or (count > 1 and position == size - 1)
                if count >= _ENOUGH:
                    break
    except (ValueError, IndexError, OverflowError):  # UnicodeDecodeError is a ValueError
        return False
    return count >= _ENOUGH


def _check_archive(file: Path, where: str, allowed: bool) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MEMBERS:
                raise ConfigError(f"{where} holds {len(members)} files; {AGAIN}")
            for member in members:
                reason = _wrong(archive, member)
                if reason:
                    raise ConfigError(f"{where} holds {member.filename!r}, {reason}; {AGAIN}")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        if allowed:
            raise ConfigError(f"{where} is damaged ({error}); copy the bundle again") from error
        return  # weights may end in bytes that look like an archive's
    if not allowed:
        raise ConfigError(f"{where} is an archive, and only embed.pyz may be one; {AGAIN}")


def _wrong(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> str:
    # ZipFile turns backslashes into slashes and cuts names at a zero byte; orig_filename is what stands in the file.
    for name in (member.orig_filename, member.filename):
        if outside(name.removesuffix("/")):
            return "a path that leads out of it"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if PurePosixPath(member.filename).suffix.lower() in PICKLES:
        return "a pickle by its name, which can run code"
    if member.is_dir():
        return ""
    if member.file_size > _LARGEST:
        return "which is larger than any of its modules"
    with archive.open(member) as stream:
        content = io.BytesIO(stream.read(_LARGEST))
    if is_pickle(content, member.file_size):
        return "a pickle, which can run code"
    return "another archive" if zipfile.is_zipfile(content) else ""


def _plain(name: str) -> str:
    """A name that can be told in one line, whatever bytes it has; one that changes so is none that could be listed."""
    return name if name.isprintable() else ascii(name)


def _raise(error: OSError) -> None:
    raise error


def _several(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} {'is' if len(names) == 1 else 'are'}"
