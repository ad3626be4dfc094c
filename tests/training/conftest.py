"""Small networks for the tests of this folder."""

import pytest
from small import Networks, write_networks


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    """A small student and a small teacher, with their weight files."""
    return write_networks(tmp_path_factory.mktemp("encoders"))
