"""Members of tars are found where Python's tarfile finds them."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from layouts import write_tar

from g2l.data.cut.tar import Member, members

NAMES = [
    "a.jpg",
    "deep/er/b.jpg",
    "ü ö.png",
    "l" * 99,
    "l" * 100,
    f"{'d' * 90}/{'e' * 60}.jpg",
    "x" * 300,
    "empty",
    "z",
]


def found(path: Path) -> list[Member]:
    with path.open("rb") as file:
        return list(members(file.fileno()))


def expected(path: Path) -> list[Member]:
    with tarfile.open(path, "r:") as tar:
        return [Member(about.name, about.offset_data, about.size) for about in tar if about.isreg()]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_and_name(tmp_path: Path, kind: int) -> None:
    files = {name: os.urandom(7 * k * k + 500) for k, name in enumerate(NAMES)} | {"empty": b""}
    if kind == tarfile.USTAR_FORMAT:
        files = {name: data for name, data in files.items() if len(name) <= 256 and name.isascii()}
    write_tar(tmp_path / "a.tar", files, kind)
    assert found(tmp_path / "a.tar") == expected(tmp_path / "a.tar")
    whole = (tmp_path / "a.tar").read_bytes()
    assert {m.name: whole[m.offset : m.offset + m.size] for m in found(tmp_path / "a.tar")} == files


def test_folders_links_and_global_headers_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", pax_headers={"comment": "all"}) as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("s", tarfile.SYMTYPE), ("h", tarfile.LNKTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname, about.size = kind, "k" * 120, 5  # a stated size of a link means nothing
            tar.addfile(about)
        about = tarfile.TarInfo("file")
        about.size = 3
        tar.addfile(about, io.BytesIO(b"abc"))
    assert found(tmp_path / "a.tar") == expected(tmp_path / "a.tar")
    assert [member.name for member in found(tmp_path / "a.tar")] == ["file"]


@pytest.mark.parametrize("kind", ["gnu", "pax"])
def test_a_member_of_more_than_8_gib(tmp_path: Path, kind: str) -> None:
    size = (8 << 30) + 5  # beyond eleven octal digits; the file is sparse
    about = tarfile.TarInfo("large")
    about.size = size
    header = about.tobuf(tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT)
    with (tmp_path / "a.tar").open("wb") as file:
        begin = file.write(header)
        file.truncate(begin + -(-size // 512) * 512 + 1024)
    assert found(tmp_path / "a.tar") == [Member("large", begin, size)]


def test_a_tar_needs_no_end_mark(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a": b"x" * 512})
    whole = expected(tmp_path / "a.tar")
    os.truncate(tmp_path / "a.tar", whole[-1].offset + 512)
    assert found(tmp_path / "a.tar") == whole


def test_a_cut_off_tar_is_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a": b"x" * 700, "b": b"y" * 700})
    last = expected(tmp_path / "a.tar")[-1]
    for end in (last.offset + 699, last.offset - 1, last.offset - 500):
        os.truncate(tmp_path / "a.tar", end)
        with pytest.raises(ValueError, match=r"cut off|no tar header"):
            found(tmp_path / "a.tar")


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_compressed_tars_are_told_apart(tmp_path: Path, packer: ModuleType) -> None:
    write_tar(tmp_path / "a.tar", {"a": b"x"})
    (tmp_path / "a.tar").write_bytes(packer.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ValueError, match=r"compressed .* unpack it"):
        found(tmp_path / "a.tar")


def test_garbage_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(ValueError, match="no tar header at byte 0"):
        found(tmp_path / "a.tar")
    about = tarfile.TarInfo("a")
    header = bytearray(about.tobuf())
    header[124:136] = b"not a number"
    (tmp_path / "a.tar").write_bytes(bytes(header))
    with pytest.raises(ValueError, match="states the size b'not a number'"):
        found(tmp_path / "a.tar")
    pax = tarfile.TarInfo("p")
    pax.type, pax.size = tarfile.XHDTYPE, 10
    (tmp_path / "a.tar").write_bytes(pax.tobuf() + b"0 path=abc".ljust(512, b"\0"))
    with pytest.raises(ValueError, match="pax"):
        found(tmp_path / "a.tar")
