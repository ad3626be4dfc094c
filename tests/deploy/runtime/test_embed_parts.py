"""The parts of `embed` alone: keys, reading ahead, the bar, the table, the folder."""

from collections.abc import Callable
from pathlib import Path
from threading import Event, current_thread, main_thread
from time import sleep
from typing import Any

import numpy as np
import pytest

from g2l.deploy.runtime import folder as folder_module
from g2l.deploy.runtime.folder import claimed, replace_text, runs_before, stoppable
from g2l.deploy.runtime.plan import Plan, Settings, keys, make_plan
from g2l.deploy.runtime.progress import Progress
from g2l.deploy.runtime.reading import AHEAD, Batch, Begun, Complete, Failed, Reading
from g2l.deploy.runtime.summary import SHOWN, EmbedResult, SlideRow, printable
from g2l.errors import ConfigError
from g2l.slides.indexing.manifest import Entry
from g2l.slides.slide import Slide

# --- reading ahead ----------------------------------------------------------------------------------------------------


@pytest.fixture
def settings() -> Settings:
    return Settings("b", "f", 64, 0.5, 5, 0.5, None, 8, 1)


@pytest.fixture
def planner(settings: Settings, tmp_path: Path) -> Callable[[Entry], Plan]:
    return lambda entry: make_plan(entry, settings, tmp_path)


def test_batches_come_in_the_order_of_the_grid_and_hold_its_pixels(
    small_slides: Path, planner: Callable[[Entry], Plan]
) -> None:
    todo = [
        Entry("s0", small_slides / "s0.tif"),
        Entry("no", small_slides / "no.tif"),
        Entry("s9", small_slides / "s9.tif"),
    ]
    with Reading(todo, planner, 64, 0.5, 8, 3) as reading:
        items = list(reading)
    kinds = [type(item) for item in items]
    assert kinds.count(Begun) == kinds.count(Complete) == 2 and kinds.count(Failed) == 1
    assert kinds.index(Failed) == kinds.index(Complete) + 1 and kinds[-1] is Complete
    for item in items:
        if isinstance(item, Begun):
            batches = [one.patches for one in items if isinstance(one, Batch) and one.plan is item.plan]
            assert [len(one) for one in batches[:-1]] == [8] * (len(batches) - 1)
            found, um = np.concatenate(batches), item.plan.grid.um.tolist()
            with Slide.open(item.plan.entry.path) as slide:
                assert np.array_equal(found, np.stack([slide.read_patch(x, y, 64, 0.5) for x, y in um]))


def test_what_is_done_is_not_read(small_slides: Path, planner: Callable[[Entry], Plan]) -> None:
    entry = Entry("s0", small_slides / "s0.tif")
    plan = planner(entry)
    count = plan.done.count
    for start in (0, 8):
        plan.done.append(np.full((8, 5), start, np.float32))
    plan.done.close()
    with Reading([entry], planner, 64, 0.5, 8, 2) as reading:
        patches = sum(len(item.patches) for item in reading if isinstance(item, Batch))
    assert patches == count - 16
    plan.slide.close()


def test_no_more_is_read_than_a_few_batches_ahead(
    small_slides: Path, planner: Callable[[Entry], Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, read = Slide.read_patch, []

    def counted(self: Slide, *arguments: Any) -> Any:
        assert current_thread() is not main_thread()
        read.append(1)
        return right(self, *arguments)

    monkeypatch.setattr(Slide, "read_patch", counted)
    with Reading([Entry("s0", small_slides / "s0.tif")], planner, 64, 0.5, 4, 2) as reading:
        items = iter(reading)
        assert isinstance(next(items), Begun)
        next(items)
        last = -1
        while len(read) != last:  # until it stands still
            last = len(read)
            sleep(0.3)
        # one taken, those in the queue, the one that waits to be put there, and two under way
        assert 4 * 2 <= last <= 4 * (1 + AHEAD + 1 + 2)
    assert len(read) <= last + 2 * 4  # leaving ends it


def test_a_fault_in_the_thread_is_raised_where_batches_are_wanted(small_slides: Path) -> None:
    def broken(entry: Entry) -> Plan:
        raise ZeroDivisionError("a fault of ours")

    with (
        pytest.raises(ZeroDivisionError, match="a fault of ours"),
        Reading([Entry("s0", small_slides / "s0.tif")], broken, 64, 0.5, 8, 2) as reading,
    ):
        list(reading)


def test_a_key_is_for_one_slide_one_bundle_and_one_resolution(settings: Settings, small_slides: Path) -> None:
    from dataclasses import replace

    one, other = Entry("s0", small_slides / "s0.tif"), Entry("s9", small_slides / "s9.tif")
    plain = keys(one, settings)
    assert len(plain) == 1 and keys(replace(one, name="renamed"), settings) == plain
    changed = [replace(settings, bundle="c"), replace(settings, format="g"), replace(settings, min_tissue=0.4)]
    assert len({*plain, *keys(other, settings), *(keys(one, some)[0] for some in changed)}) == 5
    assert keys(one, replace(settings, batch_size=4, threads=7)) == plain
    both = keys(one, replace(settings, level0_mpp=0.25))
    assert both[0] == plain[0] and both[1] == keys(replace(one, mpp=0.25), settings)[0] != plain[0]


# --- the bar, the table, the folder -----------------------------------------------------------------------------------


def test_the_total_is_what_is_known_and_the_mean_of_it_for_what_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(4)
    assert progress.total() == 0
    progress.opened(100, 100)
    assert progress.total() == 400
    progress.opened(300, 200)  # a third of it was there already
    assert progress.total() == 100 + 200 + 2 * 200
    progress.never_opened()
    assert progress.total() == 300 + 200
    progress.embedded(150)
    progress.ended(failed=True, left=50)
    assert progress.total() == 250 + 200
    progress.opened(50, 50)
    assert progress.total() == 300
    progress.close()
    shown = capsys.readouterr().err
    assert "150/300" in shown and "slide 4 of 4, 2 failed" in shown
    assert "total estimated" not in shown.splitlines()[-1].split("\r")[-1]


def test_a_long_table_is_cut_but_every_failure_is_told(tmp_path: Path) -> None:
    rows = [SlideRow(f"s{k:03d}", "skipped" if k % 2 else "done", 10, 1.0) for k in range(90)]
    rows += [SlideRow(f"x{k:03d}", "failed", reason=f"reason {k}\nof two lines; remedy") for k in range(40)]
    rows += [SlideRow("n" * 200, "done", 3, 1.0)]
    result = EmbedResult(tmp_path, "f", tuple(rows), 0, 0.0)
    lines = str(result).splitlines()
    assert len(lines) == 1 + SHOWN + 2 * 40 + 3 and lines[-1] == "46 done, 45 skipped, 40 failed"
    assert result.exit_code == 1 and result.rate == 0 and all(len(line) < 120 for line in lines)
    assert f"and {91 - SHOWN} more, see {tmp_path / 'slides.csv'}" in lines
    assert printable("a\x1b[31m\n") == "a?[31m?"


def test_a_folder_is_of_one_run_at_a_time_and_free_again_after_a_fault(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with claimed(out) as partial:
        assert partial.is_dir() and (out / "tissue").is_dir() and (out / "pictures").is_dir()
        with pytest.raises(ConfigError, match="another g2l embed is working in"), claimed(out):
            pass
    with pytest.raises(ZeroDivisionError), claimed(out):
        raise ZeroDivisionError
    with claimed(out):
        pass


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    replace_text(file, "one")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError):
        replace_text(file, "two")
    assert file.read_text() == "one" and [one.name for one in tmp_path.iterdir()] == ["run.json"]


def test_a_record_that_is_none_of_ours_is_no_obstacle(tmp_path: Path) -> None:
    for text in ("", "[]", '{"settings": 3}', '{"settings": {"a": 1}}'):
        (tmp_path / folder_module.RUN).write_text(text)
        assert runs_before(tmp_path, {"a": 2}) == []
    (tmp_path / folder_module.RUN).write_text('{"settings": {"a": 1}, "runs": [{"patches": 0}, {"patches": 7}]}')
    assert runs_before(tmp_path, {"a": 1}) == [{"patches": 7}]
    with pytest.raises(ConfigError, match="a 1 instead of 2"):
        runs_before(tmp_path, {"a": 2})


def test_signals_are_left_as_they_were() -> None:
    import signal
    from threading import Thread

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, stoppable():
        signal.raise_signal(signal.SIGTERM)
        sleep(5)
    assert caught.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    passed = Event()

    def elsewhere() -> None:
        with stoppable():
            passed.set()

    thread = Thread(target=elsewhere)
    thread.start()
    thread.join(5)
    assert passed.is_set()
