"""An encoder that embeds small images in milliseconds."""

import pytest
from small import write_networks

from g2l.encoders.encoder import Encoder, create_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """32 px, D 24, a grid of 4 x 4 tokens."""
    networks = write_networks(tmp_path_factory.mktemp("networks"))
    return create_encoder(networks.teacher, networks.weights)
