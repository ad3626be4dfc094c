"""Small slides, and what `embed` makes of them."""

from pathlib import Path

import pytest

from g2l.data.demo import cohort_orders, draw_slide
from g2l.data.drawing.scanner import write_pyramid
from g2l.deploy.runtime.embed import embed


@pytest.fixture(scope="session")
def small_slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three slides of .3 mm that state their resolution. Copy what is to be changed."""
    folder = tmp_path_factory.mktemp("slides")
    for number in (0, 4, 9):
        rgb, _, _, stain = draw_slide(3, cohort_orders()[number], 300.0)
        write_pyramid(folder / f"s{number}.tif", rgb, stain.mpp, 90)
    return folder


@pytest.fixture(scope="session")
def small_features(bundle: Path, small_slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run makes of them."""
    out = tmp_path_factory.mktemp("features")
    result = embed(str(bundle), str(small_slides), out=str(out), threads=1)
    assert result.exit_code == 0 and result.count("done") == 3
    return out
