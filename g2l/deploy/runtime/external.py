"""Which files beside itself an ONNX file asks for, read without the onnx package: the runtime does not carry it.

An ONNX file is a protobuf: fields of a number, a wire type and a value, some of them messages again. Only the fields
on the way to a tensor's `external_data` are followed; the gigabyte of weights beside them is stepped over.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

from g2l.errors import ConfigError

# Message -> field number -> the message in that field (onnx.proto, IR version 13).
_FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_DEEPEST = 60  # messages in messages; a real graph has some ten


def external_files(file: Path) -> set[str]:
    """The locations of external data that any tensor of an ONNX file states, as written there.

    Raises:
        ConfigError: the file is no protobuf.
    """
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return set(_locations(data, 0, len(data), "model", 0))
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no ONNX file ({error}); copy the bundle again") from error


def _locations(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("messages nested too deep")
    for number, first, last in _fields(data, start, end):
        inner = _FIELDS[message].get(number)
        if inner == "entry":
            entry = {key: data[a:b].decode() for key, a, b in _fields(data, first, last)}
            if entry.get(1) == "location":
                yield entry.get(2, "")
        elif inner:
            yield from _locations(data, first, last, inner, depth + 1)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each field that holds bytes; numbers are stepped over."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            _, at = _varint(data, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, at, at + length
            at += length
        else:
            raise ValueError(f"wire type {wire} is not used")
    if at != end:
        raise ValueError("a field is longer than what holds it")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """(value, where the next field starts)."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number is too long")
