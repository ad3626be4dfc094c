"""Killed, stopped, or out of disk: what is finished stays, and the same command ends as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from feature_files import count, states

from g2l.data.demo import cohort_orders, draw_slide
from g2l.data.drawing.scanner import write_pyramid
from g2l.deploy.runtime.embed import embed
from g2l.errors import ConfigError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of Unix")

# g2l embed, which says when it has computed so many batches, and then waits.
PROGRAM = """
import sys, time
from g2l.__main__ import main
from g2l.deploy.runtime.run import Run
real, done = Run._batch, []
def batch(*arguments):
    real(*arguments)
    done.append(1)
    if len(done) == {batches}:
        print("there", flush=True)
        # in short naps: a signal that arrives just before a long one would wait for its end
        for _ in range(3000):
            time.sleep(0.02)
Run._batch = batch
sys.exit(main(["embed", {bundle!r}, {slides!r}, "--out", {out!r}, "--threads", "1"]))
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four slides of .3 mm."""
    folder = tmp_path_factory.mktemp("slides")
    for number in range(4):
        rgb, _, _, stain = draw_slide(5, cohort_orders()[number], 300.0)
        write_pyramid(folder / f"s{number}.tif", rgb, stain.mpp, 90)
    return folder


@pytest.fixture(scope="module")
def whole(bundle: Path, slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes of them."""
    out = tmp_path_factory.mktemp("whole")
    assert embed(str(bundle), str(slides), out=str(out), threads=1).exit_code == 0
    return out


def assert_whole(out: Path, whole: Path) -> None:
    """The very bytes of an undisturbed run, and nothing half-written beside them."""
    made, wanted = states(out), states(whole)
    assert {name: content for name, (_, content) in made.items()} == {
        name: content for name, (_, content) in wanted.items()
    }
    for folder in ("tissue", "pictures"):
        for file in (whole / folder).iterdir():
            assert (out / folder / file.name).read_bytes() == file.read_bytes()
        assert len(list((out / folder).iterdir())) == len(wanted)
    left = {file.name for file in (out / ".partial").iterdir()}
    assert left <= {"lock"}


def interrupted(bundle: Path, slides: Path, out: Path, batches: int, number: signal.Signals) -> tuple[int, str]:
    """Ends a run after so many batches. Returns its exit code and what it said."""
    program = PROGRAM.format(batches=batches, bundle=str(bundle), slides=str(slides), out=str(out))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == "there\n", running.stderr.read()
        running.send_signal(number)
        return running.wait(30), running.stderr.read()


def batches_of(whole: Path, name: str) -> int:
    return -(-count(whole / name) // 8)


def test_killed_amid_a_slide_it_goes_on_within_it(bundle: Path, slides: Path, whole: Path, tmp_path: Path) -> None:
    done = batches_of(whole, "s0.h5") + batches_of(whole, "s1.h5")
    interrupted(bundle, slides, tmp_path, done + 3, signal.SIGKILL)
    kept = states(tmp_path)
    assert sorted(kept) == ["s0.h5", "s1.h5"]
    (rows,) = (tmp_path / ".partial").glob("*.rows")
    assert rows.stat().st_size == 3 * (8 * 48 * 4 + 4)
    rows.write_bytes(rows.read_bytes()[:-100])  # as if it had died while it wrote the third batch
    result = embed(str(bundle), str(slides), out=str(tmp_path), threads=1)
    assert {name: tmp_path.joinpath(name).stat().st_mtime_ns for name in kept} == {k: v[0] for k, v in kept.items()}
    left = count(whole / "s2.h5") - 16 + count(whole / "s3.h5")
    assert (result.count("skipped"), result.count("done"), result.patches) == (2, 2, left)
    assert_whole(tmp_path, whole)
    runs = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert [run["slides"]["done"] for run in runs] == [2] and runs[0]["patches"] == left


@pytest.mark.slow
def test_killed_before_the_file_of_a_slide_is_written_nothing_is_computed_again(
    bundle: Path, slides: Path, whole: Path, tmp_path: Path
) -> None:
    interrupted(bundle, slides, tmp_path, batches_of(whole, "s0.h5"), signal.SIGKILL)
    assert not states(tmp_path)
    result = embed(str(bundle), str(slides / "s0.tif"), out=str(tmp_path), threads=1)
    assert result.count("done") == 1 and result.patches == 0
    assert (tmp_path / "s0.h5").read_bytes() == (whole / "s0.h5").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_it_ends_in_one_line_and_can_go_on(
    bundle: Path, slides: Path, whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    done = batches_of(whole, "s0.h5") + 2
    found, said = interrupted(bundle, slides, tmp_path, done, number)
    assert found == code and said.splitlines()[-1].startswith("g2l: interrupted; the same command")
    assert "Traceback" not in said and sorted(states(tmp_path)) == ["s0.h5"]
    run = json.loads((tmp_path / "run.json").read_text())["runs"][-1]
    assert (
        run["ended"].startswith("by ")
        and run["slides"]["done"] == 1
        and run["patches"] == 8 * 2 + count(whole / "s0.h5")
    )
    result = embed(str(bundle), str(slides), out=str(tmp_path), threads=1)
    assert result.patches == sum(count(whole / f"s{k}.h5") for k in (1, 2, 3)) - 16
    assert_whole(tmp_path, whole)


@pytest.mark.slow
def test_other_settings_do_not_go_on_from_a_partial_result(
    bundle: Path, slides: Path, whole: Path, tmp_path: Path
) -> None:
    interrupted(bundle, slides, tmp_path, 3, signal.SIGKILL)
    result = embed(str(bundle), str(slides), out=str(tmp_path), threads=1, batch_size=4)
    assert result.patches == sum(count(whole / f"s{k}.h5") for k in range(4))
    assert not list((tmp_path / ".partial").glob("*.rows"))
    for file in whole.glob("*.h5"):
        with h5py.File(file) as a, h5py.File(tmp_path / file.name) as b:
            one, other = a["features"][:], b["features"][:]  # type: ignore[index]
        scale = np.abs(one).max()  # type: ignore[arg-type]
        np.testing.assert_allclose(other, one, atol=0.02 * scale)  # type: ignore[arg-type]


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a given size: `resize` it by mounting again."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip(f"this process may not mount a tmpfs: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def resize(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)


@pytest.mark.slow
def test_on_a_full_disk_finished_slides_stay_and_it_goes_on_when_there_is_room(
    bundle: Path, slides: Path, whole: Path, small_disk: Path
) -> None:
    """At every size of the disk something else is the first that does not fit."""
    out, wanted, failures = small_disk / "out", states(whole), []
    used = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file()) // 1024
    before: dict[str, tuple[int, bytes]] = {}
    for size in range(64, used + 200, 36):
        resize(small_disk, size)
        try:
            result = embed(str(bundle), str(slides), out=str(out), threads=1)
        except ConfigError as error:
            failures.append(str(error))
            assert "\n" not in str(error) and f"{out} cannot be written (No space left on device)" in str(error)
            after = states(out)
            assert {name: after[name] for name in before} == before
            assert all(content == wanted[name][1] for name, (_, content) in after.items())
            assert not list((out / ".partial").glob("*.h5")) and not list(out.glob(".*.tmp"))
            before = after
            continue
        assert result.exit_code == 0
        break
    assert len(failures) > 5 and before, failures
    assert_whole(out, whole)


def test_a_folder_that_may_not_be_written_is_told(bundle: Path, slides: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs", str(tmp_path)], capture_output=True
        )
        if made.returncode:
            pytest.skip("root may write anywhere, and no read-only file system can be mounted")
    else:
        tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match=r"cannot be written .*; choose another --out"):
            embed(str(bundle), str(slides), out=str(tmp_path / "out"))
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", str(tmp_path)], check=True)
        else:
            tmp_path.chmod(0o700)


# --- memory -----------------------------------------------------------------------------------------------------------

MEASURED = """
import sys
from pathlib import Path
from g2l.deploy.runtime.embed import embed
from g2l.deploy.runtime.run import Run
from g2l.slides import reader
reader.CACHE_BYTES = 4 << 20  # of 64 MB it fills over all these slides, and would hide what else grows
def resident():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmRSS")).split()[1])
real = Run._finish
def finish(*arguments):
    real(*arguments)
    print(resident(), flush=True)
Run._finish = finish
sys.exit(embed({bundle!r}, {slides!r}, out={out!r}, threads=1).exit_code)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_slides(bundle: Path, slides: Path, tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    for number in range(40):
        shutil.copy(slides / f"s{number % 4}.tif", tmp_path / "slides" / f"c{number:02d}.tif")
    program = MEASURED.format(bundle=str(bundle), slides=str(tmp_path / "slides"), out=str(tmp_path / "out"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    kilobytes = [int(line) for line in done.stdout.split()]
    assert done.returncode == 0 and len(kilobytes) == 40, done.stderr
    # A slide's own pixels are 1 MB, its plan less: what stayed of each would show.
    assert max(kilobytes[30:]) - max(kilobytes[5:10]) < 20_000, kilobytes
