"""Fixtures that several folders of tests share."""

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
