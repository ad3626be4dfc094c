"""One simulated study and its report for all tests of this folder."""

import pytest
from simulated_study import ENCODERS, Reported, write_study

from g2l.evaluation.report.make import make_report


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Three encoders on nine tasks, 100 resamples."""
    folder = tmp_path_factory.mktemp("study")
    results = write_study(folder, (ENCODERS[0], *ENCODERS[2:4]))
    return Reported(folder / "report", results, make_report(results, folder / "report", resamples=100))
