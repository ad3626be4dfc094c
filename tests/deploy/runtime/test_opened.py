"""A whole bundle opens; whatever is wrong with one is refused in one line that names the file."""

import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from g2l.deploy.runtime import opened
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.refusals import is_pickle
from g2l.deploy.runtime.vector import read_vector
from g2l.errors import ConfigError
from g2l.sums import outside, read_sums, write_sums


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    """A bundle of one's own, to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        open_bundle(folder, **options)
    text = str(caught.value)
    assert "\n" not in text and str(folder) in text and ("; " in text or ": " in text)
    return text


def rewrite(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file and, as a forger would, the sums."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    write_sums(file.parent)


def test_a_whole_bundle_opens(bundle: Path) -> None:
    found = open_bundle(bundle, every_hash=True)
    assert found.digest == hashlib.sha256((bundle / "SHA256SUMS").read_bytes()).hexdigest()
    prepared = json.loads((bundle / "preprocess.json").read_text())
    assert (found.prepared.size, found.prepared.mpp) == (prepared["size"], prepared["mpp"])
    assert (list(found.prepared.mean), list(found.prepared.std)) == (prepared["mean"], prepared["std"])
    assert found.prepared.embed_dim == prepared["embed_dim"]
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {*found.files, "SHA256SUMS"} == files
    entries = json.loads((bundle / "parity.json").read_text())["formats"]
    passed = {name for name, entry in entries.items() if entry["written"] and entry["passed"]}
    assert {format.name for format in found.formats} == passed and found.formats[-1].name == "onnx-fp32"
    for format in found.formats:
        assert found.why_not(format) == ""
        found.check_format(format)


def test_a_link_to_a_bundle_opens(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle, target_is_directory=True)
    assert open_bundle(tmp_path / "link").digest == open_bundle(bundle).digest


# --- the list of files ------------------------------------------------------------------------------------------------


def test_what_is_no_bundle_is_told(tmp_path: Path, copied: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent")
    assert "is a file; give its folder" in refusal(copied / "model.onnx")
    (tmp_path / "empty").mkdir()
    assert "SHA256SUMS is missing" in refusal(tmp_path / "empty")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("not a hash  model.onnx", "line 1 is no hash and path"),
        ("0" * 63 + "  model.onnx", "line 1 is no hash and path"),
        ("0" * 64 + "  ../model.onnx", "'../model.onnx' is no path inside"),
        ("0" * 64 + "  openvino/../../x.json", "is no path inside"),
        ("0" * 64 + "  /etc/passwd", "'/etc/passwd' is no path inside"),
        ("0" * 64 + "  openvino\\model.xml", "is no path inside"),
        ("0" * 64 + "  C:/model.onnx", "is no path inside"),
        ("0" * 64 + "  C:model.onnx", "is no path inside"),
        ("0" * 64 + "  ./model.onnx", "is no path inside"),
        ("0" * 64 + "  openvino//model.xml", "is no path inside"),
        ("0" * 64 + "  a\x00b.json", "is no path inside"),
        ("", "is empty"),
        ("\xff\xfe", "line 1 is no hash and path"),
    ],
)
def test_a_list_that_leads_astray_is_refused(line: str, text: str, copied: Path) -> None:
    (copied / "SHA256SUMS").write_text(line + "\n")
    assert text in refusal(copied)


def test_a_list_in_no_encoding_or_that_names_a_file_twice_is_refused(copied: Path) -> None:
    sums = copied / "SHA256SUMS"
    lines = sums.read_text()
    sums.write_text(lines + lines.splitlines()[0] + "\n")
    assert "is listed twice" in refusal(copied)
    sums.write_bytes(b"\xff\xfe" + lines.encode("utf-16-le"))
    assert "SHA256SUMS cannot be read" in refusal(copied)


def test_sums_are_those_of_sha256sum(copied: Path) -> None:
    import subprocess

    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=copied, check=True, capture_output=True)
    listed = read_sums(copied)
    assert listed == {name: hashlib.sha256((copied / name).read_bytes()).hexdigest() for name in listed}
    assert "openvino/model.xml" in listed


@pytest.mark.parametrize("name", ["a/b.json", "openvino/model.xml", "a b.txt", "ü.md", "..a/b..", "a..b"])
def test_plain_paths_are_inside(name: str) -> None:
    assert not outside(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "/a", "a/..", "a/../b", "a/", "a//b", "a\\b", "c:", "a\nb", "./a"]
)
def test_paths_that_could_lead_elsewhere_are_outside(name: str) -> None:
    assert outside(name)


@pytest.mark.parametrize("name", ["model.onnx", "openvino/model.bin", "parity.json", "test_vector.h5", "CARD.md"])
def test_a_lost_file_is_named(name: str, copied: Path) -> None:
    (copied / name).unlink(missing_ok=True)
    if name not in read_sums(copied):
        pytest.skip(f"this bundle has no {name}")
    assert refusal(copied).endswith(f"is incomplete: {name} is missing; copy the bundle again")


def test_several_lost_files_are_named_together(copied: Path) -> None:
    shutil.rmtree(copied / "openvino")
    assert "openvino/model.bin, openvino/model.xml are missing" in refusal(copied)


@pytest.mark.parametrize("name", ["notes.txt", "openvino/extra.xml", "new/file.json", ".hidden"])
def test_a_file_that_nobody_listed_is_named(name: str, copied: Path) -> None:
    (copied / name).parent.mkdir(exist_ok=True)
    (copied / name).write_text("{}")
    assert f"{name} is not listed in SHA256SUMS; move it out" in refusal(copied)


def test_every_file_is_named_when_one_byte_of_it_changes(copied: Path) -> None:
    for name in read_sums(copied):
        file = copied / name
        whole = file.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            text = refusal(copied)
            assert name in text, (name, at, text)
        file.write_bytes(whole)
    open_bundle(copied)


def test_large_files_are_hashed_when_they_are_used(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "LARGE", 10_000)
    file = copied / "openvino" / "model.bin"
    whole = file.read_bytes()
    assert len(whole) > 10_000
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "openvino/model.bin is not what SHA256SUMS states" in refusal(copied, every_hash=True)
    found = open_bundle(copied)
    with pytest.raises(ConfigError, match=r"openvino/model\.bin is not what SHA256SUMS states"):
        found.check_format(found.formats[0])
    found.check_format(found.formats[-1])
    with pytest.raises(ConfigError, match=r"absent\.bin is not listed"):
        found.check("absent.bin")


# --- links, pickles, archives -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.onnx", "openvino", "parity.json", "SHA256SUMS"])
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_links_are_refused_wherever_they_point(name: str, where: str, copied: Path, tmp_path: Path) -> None:
    target = (tmp_path if where == "outside" else copied) / ("kept.json" if "." in name else "kept")
    (copied / name).rename(target)
    (copied / name).symlink_to(target)
    text = refusal(copied)
    assert name in text and "link" in text


def test_an_unlisted_link_and_what_is_no_file_are_refused(copied: Path, tmp_path: Path) -> None:
    (copied / "loop").symlink_to(copied, target_is_directory=True)
    assert "loop is a link" in refusal(copied)
    (copied / "loop").unlink()
    (copied / "dead.json").symlink_to(tmp_path / "absent")
    assert "dead.json is a link" in refusal(copied)
    (copied / "dead.json").unlink()
    os.mkfifo(copied / "pipe.json")  # opening one would wait for ever
    assert "pipe.json is no plain file" in refusal(copied)


def test_names_that_no_screen_can_show_are_told_all_the_same(copied: Path) -> None:
    (copied / "two\nlines.json").write_text("{}")
    assert r"two\nlines.json" in refusal(copied)
    (copied / "two\nlines.json").unlink()
    Path(os.fsdecode(os.fsencode(copied) + b"/\xff\xfe.json")).write_text("{}")
    refusal(copied).encode()


def test_a_file_that_may_not_be_read_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def closed(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.name == "model.bin":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", closed)  # whoever runs as root may read all
    assert "openvino/model.bin cannot be read (Permission denied); check its permissions" in refusal(copied)


class Runs:
    """What a pickle can do."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 1",)


def torch_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, stream)
    return stream.getvalue()


def numpy_bytes() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Runs()]), allow_pickle=True)
    return stream.getvalue()


def pickled(content: bytes) -> bool:
    return is_pickle(io.BytesIO(content), len(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [Runs(), {"a": [1, 2.5, "x"]}, list(range(10_000)), b"x" * 3_000_000, 5],
    ids=["call", "dict", "list", "bytes", "int"],
)
def test_pickles_are_known_by_their_content(protocol: int, value: Any) -> None:
    assert pickled(pickle.dumps(value, protocol))


def test_what_a_bundle_is_made_of_is_no_pickle(bundle: Path) -> None:
    for name in read_sums(bundle):
        assert not pickled((bundle / name).read_bytes()), name
    for text in (
        b"",
        b".",
        b"e.g. this",
        b"# Card\n",
        b"I am a card.",
        b"(c) 2026.",
        b"h5py==3.12\nnumpy==2\n",
        b"}",
        b"[]",
    ):
        assert not pickled(text), text
    rng = np.random.default_rng(0)
    # One file of 16,000 with half-precision weights begins as a pickle does; of those again few could go on as one.
    heads = [b"\x80" + bytes([2 + k % 4]) + rng.normal(size=500).astype(np.float16).tobytes() for k in range(20_000)]
    assert sum(map(pickled, heads)) <= 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("weights.pkl", b"{}"),
        ("weights.PTH", b"{}"),
        ("best.ckpt", torch_bytes()),
        ("openvino/w.pt", torch_bytes()),
        ("x.npy", numpy_bytes()),
        ("x.joblib", b"{}"),
        ("notes.json", pickle.dumps(Runs())),
        ("notes.txt", pickle.dumps(Runs(), 0)),
        ("openvino/int8.bin", pickle.dumps({"a": [1, 2]})),
    ],
)
def test_listed_pickles_are_refused_by_name_and_by_content(name: str, content: bytes, copied: Path) -> None:
    (copied / name).write_bytes(content)
    write_sums(copied)
    text = refusal(copied)
    assert name in text and "pickle" in text


@pytest.mark.parametrize(
    "name", ["run.sh", "lib.so", "setup.exe", "other.safetensors", "second.onnx", "weights.bin", "a.yaml"]
)
def test_what_no_bundle_is_made_of_is_refused(name: str, copied: Path) -> None:
    (copied / name).write_bytes(b"\0\1\2")
    write_sums(copied)
    assert f"{name} is nothing that a bundle is made of" in refusal(copied)


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        for name, data in members.items():
            content.writestr(zipfile.ZipInfo(name), data)
    return stream.getvalue()


def linked_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as content:
        link = zipfile.ZipInfo("module.py")
        link.external_attr = 0o120777 << 16
        content.writestr(link, "/etc/passwd")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (archive({"../evil.py": b""}), "a path that leads out of it"),
        (archive({"/evil.py": b""}), "a path that leads out of it"),
        (archive({"a/../../evil.py": b""}), "a path that leads out of it"),
        (archive({"C:/evil.py": b""}), "a path that leads out of it"),
        (archive({"a/data.pkl": b"{}"}), "'a/data.pkl', a pickle by its name"),
        (archive({"a/data.json": pickle.dumps(Runs())}), "'a/data.json', a pickle, which can run code"),
        (archive({"large.py": b" " * ((1 << 20) + 1)}), "'large.py', which is larger than any of its modules"),
        (archive({"inner.txt": archive({"x.pkl": b""})}), "'inner.txt', another archive"),
        (linked_archive(), "'module.py', a link"),
        (archive({"ok.py": b"x = 1\n"})[:-30], ""),
    ],
)
def test_a_program_archive_that_hides_something_is_refused(content: bytes, text: str, copied: Path) -> None:
    before = (copied / "embed.pyz").read_bytes() if (copied / "embed.pyz").exists() else b""
    (copied / "embed.pyz").write_bytes(b"#!/usr/bin/env python3\n" + content)
    if text:
        write_sums(copied)
        assert "embed.pyz" in (found := refusal(copied)) and text in found
    else:  # a cut archive is one no more: its hash tells
        if not before:
            write_sums(copied)
            (copied / "embed.pyz").write_bytes(content + b"x")
        assert "embed.pyz is not what SHA256SUMS states" in refusal(copied)


def test_backslashes_in_an_archive_are_seen_before_python_turns_them(copied: Path) -> None:
    data = archive({"a..xevil.py": b""}).replace(b"a..xevil.py", b"..\\..\\ev.py")
    (copied / "embed.pyz").write_bytes(data)
    write_sums(copied)
    assert "a path that leads out of it" in refusal(copied)


def test_an_archive_under_another_name_is_refused_and_a_program_archive_is_not(copied: Path) -> None:
    (copied / "embed.pyz").write_bytes(
        b"#!/usr/bin/env python3\n" + archive({"__main__.py": b"", "g2l/__init__.py": b""})
    )
    write_sums(copied)
    open_bundle(copied)
    (copied / "notes.md").write_bytes(archive({"a.txt": b""}))
    write_sums(copied)
    assert "notes.md is an archive, and only embed.pyz may be one" in refusal(copied)


# --- what the files say -----------------------------------------------------------------------------------------------


def test_a_folder_for_timm_alone_is_told_how_to_become_a_bundle(copied: Path) -> None:
    for name in ("model.onnx", "parity.json", "test_vector.h5"):
        (copied / name).unlink()
    shutil.rmtree(copied / "openvino")
    write_sums(copied)
    assert refusal(copied).endswith(f"run: g2l export {copied} --out BUNDLE --patches COHORT")


@pytest.mark.parametrize("name", ["preprocess.json", "parity.json", "licences.json", "test_vector.h5"])
def test_a_bundle_without_a_file_it_needs_is_refused(name: str, copied: Path) -> None:
    (copied / name).unlink()
    write_sums(copied)
    assert f"{name} not listed in SHA256SUMS; export it again" in refusal(copied)


@pytest.mark.parametrize("name", ["preprocess.json", "parity.json", "licences.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe\x00", b"[" * 100_000])
def test_json_that_is_none_is_refused(name: str, content: bytes, copied: Path) -> None:
    (copied / name).write_bytes(content)
    write_sums(copied)
    assert name in refusal(copied)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", 0), ("size", "224"), ("size", 1.5), ("size", True), ("size", 1 << 40), ("size", None),
        ("mpp", None), ("mpp", 0), ("mpp", -1), ("mpp", "x"), ("mpp", float("nan")), ("mpp", float("inf")),
        ("mean", [0.5, 0.5]), ("mean", 0.5), ("mean", [0.5, 0.5, "a"]), ("std", [0.5, 0.0, 0.5]), ("embed_dim", 0),
        ("colour_order", "BGR"),
    ],
)  # fmt: skip
def test_a_preparation_that_cannot_be_is_refused(key: str, value: Any, copied: Path) -> None:
    rewrite(copied / "preprocess.json", lambda content: content.update({key: value}))
    assert f"preprocess.json: {key} is {value!r}, not " in refusal(copied)


def test_parity_that_does_not_fit_the_files_is_refused(copied: Path) -> None:
    whole = (copied / "parity.json").read_text()

    def changed(change: Callable[[dict[str, Any]], Any]) -> str:
        (copied / "parity.json").write_text(whole)
        rewrite(copied / "parity.json", change)
        return refusal(copied)

    assert "does not say which formats passed" in changed(lambda content: content.update(formats=[]))
    assert "does not say which formats passed" in changed(lambda content: content["formats"].update({"onnx-fp32": 1}))
    assert "does not say that onnx-fp32 passed" in changed(lambda content: content.update(formats={}))
    failed = {"written": True, "passed": False, "why": "x"}
    assert "onnx-fp32" in changed(lambda content: content["formats"].update({"onnx-fp32": failed}))
    (copied / "openvino" / "model.bin").unlink()
    assert "openvino/model.bin is not there; export" in changed(lambda content: None)


def test_a_format_that_did_not_pass_is_left_out_with_its_reason(copied: Path) -> None:
    failed = {"file": "openvino/int8.xml", "written": False, "passed": False, "why": "kNN agreement .9 is below .98"}
    rewrite(copied / "parity.json", lambda content: content["formats"].update({"openvino-int8": failed}))
    found = open_bundle(copied)
    int8 = opened.FORMATS[0]
    assert int8 not in found.formats and found.why_not(int8) == "kNN agreement .9 is below .98"


# --- the test vector --------------------------------------------------------------------------------------------------


def test_the_test_vector_is_read(bundle: Path) -> None:
    found = open_bundle(bundle)
    vector = read_vector(bundle / "test_vector.h5", found.prepared.size, found.prepared.embed_dim)
    with h5py.File(bundle / "test_vector.h5") as content:
        assert (np.asarray(content["patches"]) == vector.patches).all()
        assert (np.asarray(content["embedding"]) == vector.embedding).all()
        assert content.attrs["source"] == vector.source
    assert vector.patches.dtype == np.uint8 and vector.embedding.dtype == np.float32 and len(vector.patches) >= 1


def write_vector(file: Path, **datasets: Any) -> Path:
    with h5py.File(file, "w") as content:
        for name, value in datasets.items():
            content[name] = value
    return file


def test_a_test_vector_that_points_elsewhere_or_has_another_shape_is_refused(tmp_path: Path) -> None:
    patches, embedding = np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 5), np.float32)
    other = write_vector(tmp_path / "other.h5", patches=patches, embedding=embedding)
    (tmp_path / "raw").write_bytes(bytes(patches.size))
    write_vector(tmp_path / "external.h5", patches=h5py.ExternalLink(str(other), "/patches"), embedding=embedding)
    write_vector(tmp_path / "soft.h5", patches=h5py.SoftLink("/embedding"), embedding=embedding)
    with h5py.File(write_vector(tmp_path / "raw.h5", embedding=embedding), "a") as content:
        content.create_dataset("patches", patches.shape, np.uint8, external=[(str(tmp_path / "raw"), 0, patches.size)])
    with h5py.File(write_vector(tmp_path / "virtual.h5", embedding=embedding), "a") as content:
        layout = h5py.VirtualLayout(patches.shape, np.uint8)
        layout[:] = h5py.VirtualSource(str(other), "patches", patches.shape)
        content.create_virtual_dataset("patches", layout)
    for name in ("external", "soft", "raw", "virtual"):
        with pytest.raises(ConfigError, match=r"patches is no plain dataset of this file"):
            read_vector(tmp_path / f"{name}.h5", 8, 5)
    for one, two in ((patches[:3], embedding), (patches.astype(np.int16), embedding), (patches[:0], embedding[:0]),
                     (patches, embedding.astype(np.float64)), (patches[0], embedding)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"not n x 8 x 8 x 3 bytes"):
            read_vector(write_vector(tmp_path / "odd.h5", patches=one, embedding=two), 8, 5)
    with pytest.raises(ConfigError, match="embedding is no plain dataset"):
        read_vector(write_vector(tmp_path / "less.h5", patches=patches), 8, 5)
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ConfigError, match=r"text\.h5 cannot be read as HDF5"):
        read_vector(tmp_path / "text.h5", 8, 5)
