"""Verbs as processes: each after what it needs, once, resumed where it was killed, begun anew where it changed."""

import re
from pathlib import Path

import pytest

from g2l.errors import TrainingError

pytestmark = pytest.mark.slow  # a process that imports g2l

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_jobs_are_done_in_order_and_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scaled.jobs import Job, run

    config = tmp_path / "input.txt"
    config.write_text("one")
    ended: list[str] = []

    def job(name: str, *needs: str, arguments: tuple[str, ...] = ("--help",)) -> Job:
        folder = tmp_path / name
        return Job(name, folder, arguments, [config], needs, "checkpoint", lambda: ended.append(name))

    # given in the wrong order
    jobs = {each.name: each for each in (job("last", "first", "second"), job("first"), job("second", "first"))}
    took = run(jobs, 2, 1)
    assert ended == ["first", "second", "last"] and set(took) == set(jobs) and min(took.values()) > 0
    # in a log, a line for each that has ended
    assert re.findall(r"^(\w+): \d+ s, (\d) of 3$", capsys.readouterr().err, re.M) == [
        ("first", "1"), ("second", "2"), ("last", "3")
    ]  # fmt: skip
    assert "usage: python -m g2l" in (tmp_path / "first/log.txt").read_text()
    (tmp_path / "last/made").write_text("kept")
    run(jobs, 2, 1)
    assert len(ended) == 3 and (tmp_path / "last/made").is_file()

    config.write_text("two")  # all are of other input now: nothing of before may be taken up
    run(jobs, 2, 1)
    assert len(ended) == 6 and not (tmp_path / "last/made").exists()


def test_a_killed_job_goes_on_with_its_checkpoint_and_a_failure_is_told(tmp_path: Path) -> None:
    from scaled.jobs import Job, run

    config = tmp_path / "input.txt"
    config.write_text("")
    job = Job("fit", tmp_path / "fit", ["fit", "--config", str(config)], [config], (), "last.ckpt")
    for _ in range(2):  # an empty config is a mistake each time
        with pytest.raises(TrainingError, match=r"fit ended with 2; see the end of .*fit/log.txt, and run again"):
            run({"fit": job}, 1, 1)
        assert not (tmp_path / "fit/done.json").exists()
        (tmp_path / "fit/last.ckpt").write_text("no checkpoint")  # so that it is given from the second time on
    said = (tmp_path / "fit/log.txt").read_text()
    assert said.count("g2l: error") == 2

    told = Job("told", tmp_path / "told", ["--help"], [config], (), "last.ckpt")
    run({"told": told}, 1, 1)
    (tmp_path / "told/done.json").unlink()
    (tmp_path / "told/last.ckpt").write_text("")
    assert told.command()[-1] == "--ckpt_path=last"
    config.write_text("changed")
    assert "--ckpt_path=last" not in told.command()
