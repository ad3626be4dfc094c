"""embed.pyz and requirements.txt: the runtime as one file that Python runs as it is, and what it needs installed."""

import ast
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from g2l.errors import ConfigError

PYZ, REQUIREMENTS = "embed.pyz", "requirements.txt"
ROOT = "g2l.deploy.runtime.main"
PACKAGE = Path(__file__).parents[1]

# What is imported -> what is installed. OpenCV without windows: servers lack the libraries that draw them.
DISTRIBUTIONS = {
    "PIL": ("pillow",),
    "cv2": ("opencv-python-headless",),
    "filelock": ("filelock",),
    "h5py": ("h5py",),
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime",),
    "openslide": ("openslide-python", "openslide-bin"),
    "openvino": ("openvino",),
    "pydicom": ("pydicom",),
    "simplejpeg": ("simplejpeg",),
    "tifffile": ("tifffile",),
    "tqdm": ("tqdm",),
    "wsidicom": ("wsidicom",),
}
# Only for files that OpenSlide does not open; it brings torch, and without it they are refused in one line.
WITHOUT = frozenset({"tiatoolbox"})
SAME = {"opencv-python-headless": "opencv-python"}  # two builds of one release, of which one is installed

# Old enough in its language to say what is wrong to any Python 3.
MAIN = """\
import pathlib
import sys

if sys.version_info < (3, 11):
    sys.exit("embed.pyz: error: Python %d.%d is too old; use 3.11 or newer" % sys.version_info[:2])

from g2l.deploy.runtime.main import main

sys.exit(main(folder=pathlib.Path(__file__).resolve().parent.parent))
"""
HEAD = """\
# What embed.pyz needs, in the versions it was tested with. Python 3.11 or newer on 64-bit Linux, Windows or macOS.
# python -m pip install -r requirements.txt
# For a computer without a network, on one of the same system that has one:
# python -m pip download -r requirements.txt -d wheels
# and then there: python -m pip install --no-index --find-links wheels -r requirements.txt
"""


def write_pyz(file: Path) -> None:
    """Writes the runtime and all modules of ours that it may import as a zip that `python embed.pyz` runs.

    The same sources give the same bytes: names in order, one date, nothing compressed.

    Raises:
        ConfigError: a module imports something that requirements.txt would not name.
    """
    sources = closure()
    distributions(sources)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(({"__main__.py": MAIN.encode()} | _files(sources)).items()):
            about = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            about.create_system, about.external_attr = 3, 0o644 << 16  # as on Unix, wherever this runs
            archive.writestr(about, content)


def write_requirements(file: Path) -> None:
    """Writes requirements.txt: the exact versions installed here of what the runtime imports.

    Raises:
        ConfigError: one of them is not installed here.
    """
    lines = [f"{name}=={_version(name)}\n" for name in distributions(closure())]
    file.write_text(HEAD + "".join(lines), encoding="utf-8", newline="\n")


def closure(root: str = ROOT) -> dict[str, Path]:
    """Every module of ours that `root` may import, at whatever depth of its code, and where its source lies."""
    found: dict[str, Path] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        place = _place(name)
        if name in found or place is None:
            continue
        found[name] = place
        waiting += [name.rpartition(".")[0]] if "." in name else []  # importing a module runs its packages' first
        waiting += [one for one in imports(place) if one.split(".")[0] == "g2l"]
    return found


def distributions(sources: dict[str, Path]) -> list[str]:
    """The names of what is to be installed for these modules, sorted.

    Raises:
        ConfigError: an import that DISTRIBUTIONS does not know.
    """
    needed: set[str] = set()
    for name, place in sources.items():
        for top in {one.split(".")[0] for one in imports(place)} - sys.stdlib_module_names - WITHOUT - {"g2l"}:
            if top not in DISTRIBUTIONS:
                raise ConfigError(f"{name} imports {top}, which no bundle brings; leave it out of the runtime")
            needed.update(DISTRIBUTIONS[top])
    return sorted(needed)


def imports(file: Path) -> Iterator[str]:
    """The modules that a source imports when it runs: not those that are for type checkers alone."""
    waiting: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)  # which may be a module too
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _place(name: str) -> Path | None:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return next((one for one in (path / "__init__.py", path.with_suffix(".py")) if one.is_file()), None)


def _files(sources: dict[str, Path]) -> dict[str, bytes]:
    return {place.relative_to(PACKAGE.parent).as_posix(): place.read_bytes() for place in sources.values()}


def _version(name: str) -> str:
    for one in (name, SAME.get(name, name)):
        try:
            return version(one)
        except PackageNotFoundError:
            continue
    raise ConfigError(f"{name} is not installed here, but a bundle needs its version; pip install {name}")
