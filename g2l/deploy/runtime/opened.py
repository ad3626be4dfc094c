"""A bundle that was looked through before anything in it is used."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from g2l.deploy.runtime.external import external_files
from g2l.deploy.runtime.formats import FORMATS, Format
from g2l.deploy.runtime.refusals import AGAIN, check_kind, check_tree
from g2l.errors import ConfigError
from g2l.sums import SUMS, read_sums, sha256

PREPARED, PARITY, LICENCES, VECTOR, ONNX = (
    "preprocess.json", "parity.json", "licences.json", "test_vector.h5", "model.onnx",
)  # fmt: skip
LARGE = 64 << 20  # bytes; a file above this is hashed before its use instead of at opening


@dataclass(frozen=True)
class Prepared:
    """preprocess.json: size: side of a patch in px; mpp: um per px; mean, std: by which the graph itself normalises;
    embed_dim: D; pooling: what makes an embedding of the tokens.
    """

    size: int
    mpp: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    embed_dim: int
    pooling: str
    interpolation: str


@dataclass(frozen=True)
class OpenBundle:
    """What `open_bundle` found.

    Attributes:
        folder: where it lies.
        digest: SHA-256 of its SHA256SUMS: one number for everything in it ("the encoder hash").
        student: the name of its network.
        prepared, parity, licences: the JSON files of these names.
        formats: those that are there and passed their gates at export, fastest first.
    """

    folder: Path
    digest: str
    student: str
    prepared: Prepared
    parity: dict[str, Any]
    licences: dict[str, Any]
    formats: tuple[Format, ...]
    _sums: dict[str, str]
    _checked: set[str] = field(default_factory=set)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths inside the bundle of all that SHA256SUMS lists."""
        return tuple(self._sums)

    def check(self, name: str) -> None:
        """Hashes a file, once, before it is used.

        Args:
            name: its path inside the bundle.
        Raises:
            ConfigError: it is not what SHA256SUMS states.
        """
        if name in self._checked:
            return
        if name not in self._sums:
            raise ConfigError(f"bundle {self.folder}: {name} is not listed in {SUMS}; export the bundle again")
        try:
            found = sha256(self.folder / name)
        except OSError as error:
            raise ConfigError(
                f"bundle {self.folder}: {name} cannot be read ({error.strerror}); copy the bundle again"
            ) from error
        if found != self._sums[name]:
            raise ConfigError(
                f"bundle {self.folder}: {name} is not what {SUMS} states, so it is damaged or was changed; "
                "copy the bundle again"
            )
        self._checked.add(name)

    def check_format(self, format: Format) -> None:
        """The same for every file of a format."""
        for name in format.files:
            if name in self._sums:
                self.check(name)

    def why_not(self, format: Format) -> str:
        """Why a format cannot be had from this bundle: it failed its gate, or was not asked for; "" where it can."""
        if format in self.formats:
            return ""
        return str(self.parity["formats"].get(format.name, {}).get("why") or "it was not exported")


def open_bundle(folder: Path, every_hash: bool = False) -> OpenBundle:
    """Looks through a bundle: its list of files, what kind they are, their hashes, what the JSON files say.

    Args:
        every_hash: True: files above 64 MB are hashed now too, not when they are used.
    Raises:
        ConfigError: whatever is wrong, with the file's name.
    """
    try:
        return _opened(folder, every_hash)
    except OSError as error:
        raise ConfigError(
            f"bundle {folder}: {error.filename or 'a file'} cannot be read ({error.strerror or error}); check its "
            "permissions, or copy the bundle again"
        ) from error


def _opened(folder: Path, every_hash: bool) -> OpenBundle:
    if not folder.is_dir():
        raise ConfigError(f"bundle {folder} {'is a file' if folder.exists() else 'does not exist'}; give its folder")
    if not (folder / SUMS).exists():
        raise ConfigError(f"{folder} is no bundle, or incomplete: {SUMS} is missing; give a folder of g2l export")
    sums = read_sums(folder)
    check_tree(folder, sums)
    for name in sums:
        check_kind(folder, name)
    _require(folder, sums)
    digest = hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()
    parity, licences = (_json(folder / name) for name in (PARITY, LICENCES))
    formats = _formats(folder, parity, sums)
    student = str(licences.get("student") or "student")
    bundle = OpenBundle(folder, digest, student, _prepared(folder / PREPARED), parity, licences, formats, sums)
    for name in sums:
        if every_hash or (folder / name).stat().st_size <= LARGE:
            bundle.check(name)
    _check_external(folder, sums)
    return bundle


def _require(folder: Path, sums: dict[str, str]) -> None:
    needed = (PREPARED, LICENCES, PARITY, ONNX, VECTOR)
    lacking = [name for name in needed if name not in sums]
    if not lacking:
        return
    if "model.safetensors" in sums and ONNX in lacking:
        raise ConfigError(
            f"{folder} holds the network for timm alone, with no {ONNX} and no {PARITY}; "
            f"run: g2l export {folder} --out BUNDLE --patches COHORT"
        )
    raise ConfigError(f"bundle {folder}: {' and '.join(lacking)} not listed in {SUMS}; export it again")


def _formats(folder: Path, parity: dict[str, Any], sums: dict[str, str]) -> tuple[Format, ...]:
    entries = parity.get("formats")
    known = {format.name for format in FORMATS}
    if not isinstance(entries, dict) or not all(isinstance(entries.get(name, {}), dict) for name in known):
        raise ConfigError(f"{folder / PARITY} does not say which formats passed; export the bundle again")
    passed = tuple(
        format
        for format in FORMATS
        if entries.get(format.name, {}).get("written") is True and entries[format.name].get("passed") is True
    )
    for format in passed:
        needed = format.files if format.is_ir else (format.file,)
        lacking = [name for name in needed if name not in sums]
        if lacking:
            raise ConfigError(
                f"bundle {folder}: {PARITY} says {format.name} passed, but {' and '.join(lacking)} is not there; "
                "export the bundle again"
            )
    if not any(format.name == "onnx-fp32" for format in passed):
        raise ConfigError(f"{folder / PARITY} does not say that onnx-fp32 passed; export the bundle again")
    return passed


def _check_external(folder: Path, sums: dict[str, str]) -> None:
    for location in external_files(folder / ONNX):
        if location != f"{ONNX}.data" or location not in sums:
            raise ConfigError(f"bundle {folder}: {ONNX} asks for weights in {location!r}; {AGAIN}")


def _prepared(file: Path) -> Prepared:
    content = _json(file)

    def need(key: str, right: Callable[[Any], bool], what: str) -> Any:
        if not right(content.get(key)):
            raise ConfigError(f"{file}: {key} is {content.get(key)!r}, not {what}; export the bundle again")
        return content[key]

    if content.get("colour_order", "RGB") != "RGB":
        raise ConfigError(f"{file}: colour_order is {content['colour_order']!r}, not RGB; export the bundle again")
    return Prepared(
        need("size", lambda value: _whole(value) and value <= 8192, "a number of px"),
        float(need("mpp", _above_zero, "um per px above 0")),
        tuple(need("mean", lambda value: _three(value, _number), "three numbers")),
        tuple(need("std", lambda value: _three(value, _above_zero), "three numbers above 0")),
        need("embed_dim", _whole, "a width above 0"),
        str(content.get("pooling", "native")),
        str(content.get("interpolation", "bicubic")),
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _above_zero(value: Any) -> bool:
    return _number(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _three(value: Any, right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(right, value))


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON ({error}); copy the bundle again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no mapping; export the bundle again")
    return content
