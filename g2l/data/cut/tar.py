"""The files within a tar, and where each begins; nothing is extracted."""

import os
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 512
# what begins a compressed file: gzip, bzip2, xz, zstd, lz4
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")


class Member(NamedTuple):
    """A file within a tar: `size` bytes from byte `offset`."""

    name: str
    offset: int
    size: int


def members(fd: int) -> Iterator[Member]:
    """The regular files of a tar (ustar, GNU and pax), in order.

    Python's tarfile needs 15 us per header, this 3: a million patches open in seconds.

    Raises:
        ValueError: no tar, compressed, damaged, or cut off.
    """
    end, offset = os.fstat(fd).st_size, 0
    renamed, resized = None, None
    while offset < end:
        header = os.pread(fd, BLOCK, offset)
        if not header.strip(b"\0"):
            return
        if offset == 0 and header.startswith(COMPRESSED):
            raise ValueError("a compressed tar cannot be read at random; unpack it to a plain .tar (gunzip, unxz, ...)")
        if header[257:262] != b"ustar":  # so POSIX's and GNU's alike
            raise ValueError(f"no tar header at byte {offset}; the file is damaged, replace or remove it")
        kind, size = header[156:157], _number(header[124:136]) if resized is None else resized
        body = offset + BLOCK
        offset = body + (0 if kind in b"123456" else -(-size // BLOCK) * BLOCK)
        if body + size > end:
            raise ValueError(f"cut off at byte {end}, within a file of {size} bytes; replace or remove it")
        if kind == b"L":
            renamed = _text(read_at(fd, body, size))
        elif kind == b"x":
            stated = _pax(read_at(fd, body, size))
            renamed = stated.get("path", renamed)
            resized = int(stated["size"]) if "size" in stated else None
        elif kind not in (b"K", b"g"):
            if kind in (b"0", b"\0", b"7"):
                yield Member(renamed or _name(header), body, size)
            renamed, resized = None, None


def read_at(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes of an open file from byte `offset`; ValueError where there are fewer."""
    data = os.pread(fd, size, offset)
    if len(data) < size:  # a signal, or a file of more than 2 GiB
        raise ValueError(f"{len(data)} bytes at byte {offset} instead of {size}")
    return data


def _number(field: bytes) -> int:
    """Octal digits, or for large files a big-endian number behind the byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip() or b"0"
    if not digits.isdigit():
        raise ValueError(f"a tar header states the size {digits!r}; the file is damaged, replace or remove it")
    return int(digits, 8)


def _name(header: bytes) -> str:
    name = _text(header[:100])
    # in POSIX's layout the beginning of a long name lies apart; in GNU's other things lie there
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "replace")


def _pax(data: bytes) -> dict[str, str]:
    """The records "LENGTH KEY=VALUE\\n" of a pax header."""
    found: dict[str, str] = {}
    while data[:1].isdigit():
        length = int(data.partition(b" ")[0])
        if not 0 < length <= len(data):
            raise ValueError(f"a pax record of {length} bytes; the file is damaged, replace or remove it")
        key, _, value = data[:length].partition(b" ")[2].partition(b"=")
        found[_text(key)] = _text(value[:-1])
        data = data[length:]
    return found
