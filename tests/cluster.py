"""A Dask cluster in processes of its own, which a test can kill and whose end nothing waits for.

`python tests/cluster.py WORKERS` prints the scheduler's address and ends when its standard input does.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

START_S = 90


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, int]]:
    """A scheduler and its workers: (its address, their process group)."""
    command = [sys.executable, __file__, str(workers)]
    # A session of their own: one signal reaches the scheduler, the nannies and the workers.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            ready, _, _ = select.select([process.stdout], [], [], START_S)
            address = process.stdout.readline().strip() if ready else ""
            assert address, f"the cluster did not start within {START_S} s"
            yield address, process.pid
        finally:
            # Never `LocalCluster.close()`: it waits for workers that may not answer.
            os.killpg(process.pid, signal.SIGKILL)


def _main(workers: int) -> None:
    from distributed import LocalCluster

    held = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=50
    )
    print(held.scheduler_address, flush=True)  # noqa: T201
    sys.stdin.read()
    os.killpg(os.getpid(), signal.SIGKILL)  # the test run is gone


if __name__ == "__main__":
    _main(int(sys.argv[1]))
