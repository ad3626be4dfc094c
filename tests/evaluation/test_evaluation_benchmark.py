"""The benchmark of the patch tasks runs, and its table is complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/evaluation.py"


@pytest.mark.slow
def test_every_case_has_a_row_with_time_memory_and_metrics():
    cases = ["knn", "linear", "retrieval", "robustness", "similarity"]
    command = [sys.executable, str(SCRIPT), "--rows", "900", "--width", "16", "--cases", *cases]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [cells[0].strip() for cells in lines] == cases
    for _, seconds, cores, peak, figures in lines:
        assert 0 <= float(seconds) < 300 and 0 <= float(cores) < 300
        assert 0 < float(peak) < 4
        assert 0 < float(figures.split(",")[0].split()[-1]) <= 1
