"""Which patches lie below a folder, and of which kind they are."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from g2l.data.cut import encoded, hdf5
from g2l.data.cut.shards import list_shards
from g2l.data.cut.stores import Listing, list_images
from g2l.data.cut.text import shown
from g2l.errors import CohortError


class _Kind(NamedTuple):
    name: str
    suffixes: frozenset[str]
    find: Callable[[Path, Sequence[str]], Listing]


KINDS = (
    _Kind("images", encoded.SUFFIXES, list_images),
    _Kind("HDF5 files", hdf5.SUFFIXES, hdf5.list_hdf5),
    _Kind("tar shards", frozenset({".tar"}), list_shards),
)
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


def list_patches(path: Path) -> tuple[Path, Listing]:
    """The folder (of the file) and the patches in it, sorted by path, hidden files left out.

    Raises:
        CohortError: nothing is there, or files of more than one kind.
    """
    if not path.exists():
        raise CohortError(f"no patches: {path} does not exist; name a folder of images, HDF5 files or tar shards")
    root = path.resolve()
    files, problems = _below(root) if root.is_dir() else ([root.name], [])
    root = root if root.is_dir() else root.parent
    of_kind = [[file for file in files if file[file.rfind(".") :].lower() in kind.suffixes] for kind in KINDS]
    found = [(kind, paths) for kind, paths in zip(KINDS, of_kind, strict=True) if paths]
    packed = [file for file in files if file.lower().endswith(PACKED)]
    if packed and not any(of_kind[:2]):
        problems += [
            f"{file}: compressed archives cannot be read at random; unpack it (to a plain .tar)" for file in packed
        ]
    if problems:
        raise CohortError(f"patches {path}: {shown(problems)}")
    if not found:
        looked_for = ", ".join(suffix for kind in KINDS for suffix in sorted(kind.suffixes))
        raise CohortError(f"no patches found in {path} (looked for {looked_for}); check the folder")
    if len(found) > 1:
        mixed = " and ".join(f"{len(paths)} {kind.name}" for kind, paths in found)
        raise CohortError(f"patches {path}: there are {mixed}; name a folder that holds one kind")
    kind, paths = found[0]
    return root, kind.find(root, sorted(paths))


def _below(root: Path) -> tuple[list[str], list[str]]:
    """All files below a folder, relative and with "/", and what is wrong.

    Links to folders are followed after all that lies in place, each folder once: a loop of links ends.
    """
    files: list[str] = []
    problems: list[str] = []
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read ({error.strerror}); make it readable")

    starts = [str(root)]
    while starts:
        links: list[str] = []
        for start in starts:
            for folder, inside, names in os.walk(start, onerror=refuse):
                status = Path(folder).stat()
                if (status.st_dev, status.st_ino) in seen:
                    inside.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                inside[:] = [name for name in inside if not name.startswith(".")]
                links += [str(link) for name in inside if (link := Path(folder, name)).is_symlink()]
                prefix = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
                files += [prefix + name for name in names if not name.startswith(".")]
        starts = sorted(links)
    odd = [file for file in files if not file.isascii() and "\\ud" in ascii(file)]
    return files, problems + [f"{file!a} is no name in UTF-8; rename it" for file in odd]
