"""Fixtures that several folders of tests share."""

import faulthandler
import os
from pathlib import Path

import pytest
import torch

# More threads than cores are free spin: with two on a busy machine the suite takes twice as long.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real slides and patches; the test is skipped where G2L_DATA does not name it."""
    folder = os.environ.get("G2L_DATA")
    if not folder:
        pytest.skip("G2L_DATA is not set: it names the folder of real slides and patches")
    path = Path(folder).resolve()
    if not (path / "slides").is_dir():
        pytest.fail(f"G2L_DATA={folder} holds no folder slides/")
    return path


@pytest.fixture(scope="session")
def demo_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded cohort on slides of .9 mm, indexed: 18 slides, 15 patients, 3 centres, with region maps."""
    from g2l.data.demo import draw_cohort
    from g2l.slides.index import index

    folder = tmp_path_factory.mktemp("demo")
    manifest = draw_cohort(folder / "drawn", workers=1, size_um=900)
    index(str(manifest.parent), str(folder / "cohort"), manifest=str(manifest), workers=0)
    return folder / "cohort"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked gpu are skipped where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def pytest_unconfigure() -> None:
    """A run that is over must end too: after two minutes what still waits is printed and given up."""
    faulthandler.dump_traceback_later(120, exit=True, file=2)
