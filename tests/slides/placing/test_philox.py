"""Random numbers of many counters at once, against numpy's generator and the published test vectors."""

import numpy as np
import pytest

from g2l.slides.placing.philox import Streams, philox, uniforms

TOP = 2**64 - 1


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        (
            [0, 0, 0, 0],
            [0, 0],
            [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
        ),
        (
            [TOP] * 4,
            [TOP] * 2,
            [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
        ),
        (
            [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
            [0x452821E638D01377, 0xBE5466CF34E90C6C],
            [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
        ),
    ],
)  # the known answers that come with the authors' library
def test_known_answers(counter: list[int], key: list[int], want: list[int]) -> None:
    words = np.array(counter, np.uint64)[:, None]
    assert philox(words, np.array(key, np.uint64)[:, None])[:, 0].tolist() == want


def test_numbers_are_those_of_numpys_generator() -> None:
    random = np.random.default_rng(0)
    seeds = [0, 1, 2**32, 2**63 + 5, TOP]
    for seed, stream in zip(seeds, [0, 7, TOP, 1, 2], strict=True):
        index, attempt, use = random.integers(0, 2**63, 6), random.integers(0, 5, 6), random.integers(0, 4, 6)
        got = uniforms(seed, stream, np.arange(3), index[:, None], attempt[:, None], use[:, None])
        assert got.shape == (6, 3, 4)
        for row, words in zip(got, zip(index, attempt, use, strict=True), strict=True):
            counter = np.array([0, *words], np.uint64)
            numpys = np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed, stream], np.uint64)))
            assert row.ravel().tolist() == numpys.random(12).tolist()


def test_one_number_or_none() -> None:
    numpys = np.random.Generator(np.random.Philox(counter=np.array([0, 3, 0, 0], np.uint64), key=[5, 0]))
    assert uniforms(5, 0, 0, 3).tolist() == numpys.random(4).tolist()
    assert uniforms(5, 0, np.arange(2), np.empty((0, 1), np.int64)).shape == (0, 2, 4)


def test_streams_are_told_apart_by_index_attempt_and_use() -> None:
    index, attempt = np.array([4, 5, 4]), np.array([0, 0, 1])
    streams = Streams(9, index, attempt, use=2)
    blocks = np.array([0, 3])
    random = streams.uniforms(blocks)
    assert len(np.unique(random)) == random.size == 24
    np.testing.assert_array_equal(streams.rows(np.array([2, 0])).uniforms(blocks), random[[2, 0]])
    np.testing.assert_array_equal(random[2, 1], uniforms(9, 0, 3, 4, 1, 2))
    assert not np.intersect1d(random, streams._replace(use=0).uniforms(blocks)).size
