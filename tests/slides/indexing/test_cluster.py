"""The index on a Dask cluster: the same cohort as without one, whatever happens to workers and scheduler."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cluster import cluster
from tasks import Task, idle, work

from g2l.errors import CohortError
from g2l.slides import index as index_module
from g2l.slides.index import index
from g2l.slides.indexing import cluster as module
from g2l.slides.indexing.cluster import AHEAD, run_on_cluster

WriteSlide = Callable[..., Path]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a cluster of two workers."""
    pytest.importorskip("distributed")
    with cluster(2) as (address, _):
        yield address


@pytest.fixture
def slides(tmp_path: Path, write_slide: WriteSlide) -> Path:
    """Six slides, one of them without a resolution, and one that is none."""
    root = tmp_path / "slides"
    root.mkdir()
    for k in range(6):
        pixels = np.random.default_rng(k).normal(240, 3, (400, 500, 3))
        pixels[10 + k : 310 + k, 50:450] -= (35, 100, 60)
        write_slide(root / f"s{k}.tif", pixels.round().astype(np.uint8), 0.5 if k else None)
    (root / "broken.svs").write_bytes(b"nothing")
    return root


@pytest.mark.slow
class TestCluster:
    def test_the_cohort_is_that_of_a_local_run(
        self, slides: Path, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        there = index(str(slides), "there", scheduler=scheduler)
        here = index(str(slides), "here", workers=0)
        assert str(there).splitlines()[-1] == "indexed 5, rejected 2" and there.rejected == here.rejected
        for name in ("cohort.parquet", "masks.npy", "rejected.csv"):
            assert Path("there", name).read_bytes() == Path("here", name).read_bytes()
        (slides / "broken.svs").unlink()
        (slides / "s0.tif").unlink()
        assert index(str(slides), "there", scheduler="tcp://127.0.0.1:1").indexed == 5  # nothing left to scan

    def test_a_dying_worker_costs_only_its_own_job(self, scheduler: str) -> None:
        kinds = {0: "fails", 3: "dies", 10: "fails"}
        tasks = [Task(kinds.get(k, "works"), k) for k in range(24)]
        results = dict(run_on_cluster(tasks, work, scheduler))
        assert set(results) == set(tasks)
        assert {task.number: str(error).split()[0] for task, error in results.items() if error} == {
            0: "slide",
            3: "reading",
            10: "slide",
        }

    def test_few_jobs_are_given_out_at_a_time(self, scheduler: str) -> None:
        taken: list[int] = []
        tasks = (taken.append(k) or Task("works", k) for k in range(30))
        for done, _ in enumerate(run_on_cluster(tasks, work, scheduler)):
            assert len(taken) - done <= 2 * AHEAD
        assert len(taken) == 30

    def test_a_bug_ends_the_run(self, scheduler: str) -> None:
        with pytest.raises(KeyError):
            list(run_on_cluster([Task("bug", 0), Task("works", 1)], work, scheduler))

    def test_nothing_to_do(self, scheduler: str) -> None:
        assert list(run_on_cluster([], work, scheduler)) == []

    def test_workers_that_write_elsewhere(
        self, slides: Path, tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(index_module, "scan", idle)  # as on a machine that does not share the folder
        monkeypatch.setattr(index_module, "SHARED_S", 1)
        with pytest.raises(CohortError, match=r"results do not arrive in .*; give an --out that .* share$"):
            index(str(slides), str(tmp_path / "out"), scheduler=scheduler)

    def test_a_result_that_shows_late(self, tmp_path: Path) -> None:
        from threading import Timer

        from g2l.slides.indexing.work import arrives

        late = tmp_path / "late.npz"
        timer = Timer(0.7, late.touch)
        timer.start()
        assert arrives(late, 30)
        assert not arrives(tmp_path / "never.npz", 0.6)

    @pytest.mark.parametrize("pause_s", [0, 1.5])
    def test_a_scheduler_that_is_killed(self, pause_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """Noticed while waiting for it, or after what has come was worked on until Dask's client had given up."""
        monkeypatch.setattr(module, "CONNECT_S", 1)
        with cluster(1) as (address, group):
            results = run_on_cluster((Task("works", k) for k in range(1000)), work, address)
            next(results)
            os.killpg(group, signal.SIGKILL)
            time.sleep(pause_s)
            with pytest.raises(CohortError, match=rf"scheduler at {address} was lost; what was done is kept"):
                list(results)

    def test_a_scheduler_that_hangs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "CONNECT_S", 1)
        monkeypatch.setattr(module, "LOOK_S", 0.2)
        monkeypatch.setattr(module, "ANSWER_S", 1)
        with cluster(1) as (address, group):
            results = run_on_cluster((Task("works", k) for k in range(1000)), work, address)
            next(results)
            os.killpg(group, signal.SIGSTOP)
            with pytest.raises(CohortError, match=rf"scheduler at {address} was lost; what was done is kept"):
                list(results)

    def test_a_cluster_without_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "IDLE_S", 1)
        with cluster(0) as (address, _), pytest.raises(CohortError, match="no worker for 1 s; start some with dask"):
            list(run_on_cluster([Task("works", 0)], work, address))


class TestNoCluster:
    @pytest.mark.parametrize(
        ("address", "why"),
        [("tcp://127.0.0.1:9", "Timed out"), ("nonsense", "missing port"), ("x://y:1", "unknown address scheme")],
    )
    def test_no_scheduler_answers(self, address: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("distributed")
        monkeypatch.setattr(module, "CONNECT_S", 0.3)
        with pytest.raises(
            CohortError, match=rf"no Dask scheduler answers at {address} \({why}.*; start one"
        ) as caught:
            list(run_on_cluster([Task("works", 0)], work, address))
        assert "\n" not in str(caught.value)

    def test_distributed_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(CohortError, match=r"needs distributed; install it with pip install 'g2l\[cluster\]'"):
            list(run_on_cluster([Task("works", 0)], work, "tcp://127.0.0.1:9"))
