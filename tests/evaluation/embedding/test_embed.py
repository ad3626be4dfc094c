"""Embeddings of images: right, computed once, made again where they are damaged, and the same on two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from embedding_tables import expected, write_table
from layouts import drawn, encode
from torch import nn

from g2l.encoders.encoder import Encoder
from g2l.errors import CohortError, ConfigError
from g2l.evaluation.embedding.embed import embed_table
from g2l.evaluation.embedding.embedded import Embedded
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.tables.table import Table

SETTINGS = Embedding(batch_size=4, accelerator="cpu", devices=1, shard_rows=8)


def embed(encoder: Encoder, table: Table, folder: Path, kind: str = "cls", **changes: object) -> Embedded:
    settings = Embedding(**{**SETTINGS.__dict__, **changes})  # type: ignore[arg-type]
    return embed_table(encoder, table, np.arange(len(table)), kind, folder, settings)  # type: ignore[arg-type]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("small-*.h5"))


def test_images_of_all_sizes_give_what_the_encoder_gives_one_by_one(encoder: Encoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    cls, tokens = expected(encoder, table)
    found = embed(encoder, table, tmp_path / "out")
    np.testing.assert_allclose(found.cls(np.arange(20)), cls, atol=2e-5)
    order = np.array([19, 3, 3, 0, 11])
    assert np.array_equal(found.cls(order), found.cls(np.arange(20))[order])
    assert (found.count, found.embedded) == (20, 20) and len(found.key) == 64
    assert found.images_per_second is not None and found.images_per_second > 0 and found.device
    patches = embed(encoder, table, tmp_path / "out", "tokens")
    assert patches.tokens(order).dtype == np.float32 and patches.key != found.key
    np.testing.assert_allclose(patches.tokens(order), tokens[order], atol=5e-3)  # float16 on disk
    whole = embed(encoder, table, tmp_path / "out", "tokens", dtype="float32")
    np.testing.assert_allclose(whole.tokens(order), tokens[order], atol=2e-5)


def test_nothing_is_embedded_twice_and_only_what_changed_again(encoder: Encoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    first = embed(encoder, table, tmp_path / "out")
    times = {file: file.stat().st_mtime_ns for file in files(tmp_path / "out")}
    again = embed(encoder, table, tmp_path / "out")
    assert (first.embedded, again.embedded, again.key) == (20, 0, first.key)
    assert {file: file.stat().st_mtime_ns for file in files(tmp_path / "out")} == times and len(times) == 3
    assert np.array_equal(first.cls(np.arange(20)), again.cls(np.arange(20)))
    # another place and another encoder's name are nothing new; another image or weight is
    Path(table.paths[9]).write_bytes(encode(drawn(50)))
    changed = embed(encoder, table, tmp_path / "out")
    assert changed.embedded == 1 and changed.key != first.key
    same = np.array([k for k in range(20) if k != 9])
    assert np.array_equal(changed.cls(same), first.cls(same))
    assert not np.allclose(changed.cls(np.array([9])), first.cls(np.array([9])), atol=1e-3)


def test_the_key_is_of_content_alone(encoder: Encoder, tmp_path: Path) -> None:
    one, other = (embed(encoder, write_table(tmp_path / name), tmp_path / f"out {name}") for name in ("a", "b"))
    assert one.key == other.key
    import copy

    tuned = copy.deepcopy(encoder)
    with torch.no_grad():
        next(tuned.backbone.parameters()).flatten()[0] += 1e-3
    assert embed(tuned, write_table(tmp_path / "a"), tmp_path / "out a").key != one.key
    assert embed(encoder, write_table(tmp_path / "a"), tmp_path / "out a", precision="bf16-mixed").key != one.key
    assert embed(encoder, write_table(tmp_path / "a"), tmp_path / "out a", batch_size=3, threads=1).key == one.key


def test_rows_asked_for_later_join_those_that_are_there(encoder: Encoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    part = embed_table(encoder, table, np.array([17, 2, 3]), "cls", tmp_path / "out", SETTINGS)
    assert part.count == part.embedded == 3
    whole = embed(encoder, table, tmp_path / "out")
    assert (whole.count, whole.embedded) == (20, 17)
    np.testing.assert_allclose(whole.cls(np.arange(20)), expected(encoder, table)[0], atol=2e-5)
    # fewer rows, in files of other sizes, or another table that shares some of the images: nothing new
    some = np.array([2, 17])
    fewer = embed_table(encoder, table, some, "cls", tmp_path / "out", replace(SETTINGS, shard_rows=3))
    other = Table.build("small too", [Path(path) for path in table.paths[[5, 17, 2]]], tmp_path)
    shared = embed(encoder, other, tmp_path / "out")
    assert fewer.embedded == shared.embedded == 0
    assert np.array_equal(shared.cls(np.arange(3)), whole.cls(np.array([5, 17, 2])))
    # what stands behind a task is the same whatever else was embedded with it
    assert fewer.key_of(some) == whole.key_of(some) == part.key_of(some) != whole.key_of(np.array([2, 16]))
    np.testing.assert_allclose(part.cls(np.array([17, 2])), whole.cls(np.array([17, 2])), atol=1e-6)
    with pytest.raises(IndexError, match="row 4 was not embedded"):
        part.cls(np.array([4]))
    with pytest.raises(TypeError, match="are cls, not tokens"):
        part.tokens(np.array([2]))
    with pytest.raises(CohortError, match="no rows to embed"):
        embed_table(encoder, table, np.array([], np.int64), "cls", tmp_path / "out", SETTINGS)


def _truncate(file: Path, other: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])


def _swap(file: Path, other: Path) -> None:
    file.write_bytes(other.read_bytes())


def _rename_contents(file: Path, other: Path) -> None:
    with h5py.File(file, "a") as opened, h5py.File(other, "r") as second:
        content, foreign = opened, second
        content["contents"][0] = foreign["contents"][0]  # type: ignore[index]


def _empty(file: Path, other: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("harm", [_truncate, _swap, _rename_contents, _empty])
def test_a_damaged_or_foreign_file_is_made_again(
    harm: Callable[[Path, Path], None], encoder: Encoder, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "images")
    before = embed(encoder, table, tmp_path / "out").cls(np.arange(20))
    harm(*files(tmp_path / "out")[:2])
    after = embed(encoder, table, tmp_path / "out")
    assert after.embedded == 8 and np.array_equal(after.cls(np.arange(20)), before)


def test_flipped_bits_are_an_error_and_never_other_numbers(encoder: Encoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    found = embed(encoder, table, tmp_path / "out")
    file = files(tmp_path / "out")[0]
    value = found.cls(np.array([3]))[0].tobytes()
    data = file.read_bytes()
    assert data.count(value) == 1
    file.write_bytes(data.replace(value, value[:8] + b"\x01" + value[9:]))
    from g2l.errors import G2LError

    with pytest.raises(G2LError, match=r"was damaged .* is removed; run again"):
        embed(encoder, table, tmp_path / "out").cls(np.array([3]))
    again = embed(encoder, table, tmp_path / "out")
    assert again.embedded == 8 and again.cls(np.array([3]))[0].tobytes() == value


def test_unchanged_files_are_not_read_again_to_be_hashed(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "images")
    embed(encoder, table, tmp_path / "out")
    import hashlib

    hashed: list[str] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or real(file, name))
    embed(encoder, table, tmp_path / "out")
    assert hashed == []
    Path(table.paths[4]).write_bytes(encode(drawn(60)))
    embed(encoder, table, tmp_path / "out")
    assert hashed == [table.paths[4]]
    (tmp_path / "out" / "files.parquet").write_bytes(b"damaged")
    embed(encoder, table, tmp_path / "out")
    assert len(hashed) == 21


def test_images_that_cannot_be_read_are_named_and_the_others_are_kept(encoder: Encoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    for row in (1, 18):
        Path(table.paths[row]).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(CohortError, match=r"2 not embedded: image .*001\.png .*; image .*018\.png") as caught:
        embed(encoder, table, tmp_path / "out")
    assert "\n" not in str(caught.value) and len(files(tmp_path / "out")) == 1
    assert not list((tmp_path / "out").rglob(".problems*"))
    write_table(tmp_path / "images")
    assert embed(encoder, table, tmp_path / "out").embedded == 12
    Path(table.paths[0]).unlink()
    with pytest.raises(CohortError, match=r"1 of 20 files cannot be read: .*000\.png"):
        embed(encoder, table, tmp_path / "out")


class Broken(nn.Module):
    """Gives nan for images whose first pixel is black, and large tokens for all."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.num_prefix_tokens, self.patch_embed, self.embed_dim = 1, inner.patch_embed, inner.embed_dim

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        features = self.inner.forward_features(images) * 1e6  # type: ignore[operator]
        return torch.where((images[:, :, 0, 0] == -1).all(1)[:, None, None], torch.nan, features)


def test_embeddings_that_are_not_finite_are_refused_by_name(encoder: Encoder, tmp_path: Path) -> None:
    import copy

    table = write_table(tmp_path / "images")
    black = drawn(3, 32, 32)
    black[0, 0] = 0
    Path(table.paths[3]).write_bytes(encode(black))
    spoilt = copy.deepcopy(encoder)
    spoilt.backbone = Broken(spoilt.backbone)
    with pytest.raises(CohortError, match=r"embeddings of 1 images are not finite \(003\.png\); look at"):
        embed(spoilt, table, tmp_path / "out")
    Path(table.paths[3]).write_bytes(encode(drawn(3, 32, 32)))
    with pytest.raises(CohortError, match=r"float16 cannot hold them: set embedding\.dtype to float32"):
        embed(spoilt, table, tmp_path / "out", "tokens")


def test_stacks_are_embedded_by_row(encoder: Encoder, tmp_path: Path) -> None:
    stack = np.stack([drawn(number, 32, 32) for number in range(12)])
    np.save(tmp_path / "a.npy", stack)
    table = Table.build("small", [tmp_path / "a.npy"] * 12, tmp_path, rows=np.arange(12))
    for number in range(12):
        (tmp_path / f"{number:02d}.png").write_bytes(encode(stack[number]))
    single = Table.build("small", [tmp_path / f"{number:02d}.png" for number in range(12)], tmp_path)
    one, other = embed(encoder, table, tmp_path / "out"), embed(encoder, single, tmp_path / "out")
    assert np.array_equal(one.cls(np.arange(12)), other.cls(np.arange(12))) and one.key != other.key


def test_speed_is_kept_beside_the_files_and_says_where(encoder: Encoder, tmp_path: Path) -> None:
    embed(encoder, write_table(tmp_path / "images"), tmp_path / "out")
    (file,) = (tmp_path / "out").rglob("speed.json")
    kept = json.loads(file.read_text())
    assert kept["batch_size"] <= 4 and kept["batches"] >= 1 and kept["precision"] == "32-true" and kept["device"]


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"mpp": 0}, {"min_tissue": 1.5}, {"max_patches": 0}, {"devices": 0}]
)
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Embedding(**wrong)  # type: ignore[arg-type]


def test_an_unknown_precision_is_told_in_one_line(encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision"):
        embed(encoder, write_table(tmp_path / "images"), tmp_path / "out", precision="8-bit")


SCRIPT = """\
import sys
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from embedding_tables import write_table
from g2l.encoders.encoder import create_encoder
from g2l.evaluation.embedding.embed import embed_table
from g2l.evaluation.embedding.settings import Embedding

def main():
    images, out, student, weights, count = sys.argv[1:]
    table = write_table(Path(images), int(count))
    encoder = create_encoder(student, weights)
    settings = Embedding(batch_size=4, accelerator="cpu", devices=1, shard_rows=16, threads=1)
    found = embed_table(encoder, table, np.arange(len(table)), "cls", Path(out), settings)
    print(found.embedded, found.key)

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path: Path) -> None:
    from small import write_networks

    count = 3200
    networks = write_networks(tmp_path)
    (tmp_path / "run.py").write_text(SCRIPT)
    tests = Path(__file__).parents[2]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tests}{os.pathsep}{Path(__file__).parent}"}
    write_table(tmp_path / "images", count)

    def command(out: str) -> list[str]:
        given = [str(tmp_path / "images"), str(tmp_path / out), networks.teacher, networks.weights, str(count)]
        return [sys.executable, str(tmp_path / "run.py"), *given]

    with subprocess.Popen(command("killed"), env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "killed").rglob("small-*.h5")):
            assert process.poll() is None and time.monotonic() < deadline, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    there = len(files(tmp_path / "killed"))
    assert 0 < there < count // 16, "was killed too late to test anything"
    done = subprocess.run(command("killed"), env=environment, capture_output=True, text=True, timeout=300)
    whole = subprocess.run(command("whole"), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == whole.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [str(count - 16 * there), whole.stdout.split()[1]]
    assert not list((tmp_path / "killed").rglob(".*partial"))
    for one, other in zip(files(tmp_path / "killed"), files(tmp_path / "whole"), strict=True):
        with h5py.File(one) as a, h5py.File(other) as b:
            assert one.name == other.name and np.array_equal(a["features"][:], b["features"][:])  # type: ignore[index]


@pytest.mark.slow
def test_two_processes_give_the_same_numbers_and_the_same_complaints(encoder: Encoder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "images")
    one = embed(encoder, table, tmp_path / "one")
    two = embed(encoder, table, tmp_path / "two", devices=2)
    assert (two.key, two.embedded) == (one.key, 20)
    assert np.array_equal(one.cls(np.arange(20)), two.cls(np.arange(20)))
    for row in (0, 19):
        Path(table.paths[row]).write_bytes(b"\xff\xd8\xff")
    with pytest.raises(CohortError, match=r"2 not embedded: .*000\.png .*019\.png"):
        embed(encoder, table, tmp_path / "two", devices=2)
