"""The gates measure what they say, by an independent reference, and stop what they should."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

from g2l.deploy.runtime.formats import FORMATS, Kind
from g2l.deploy.runtime.gates import CLUSTERS, GATES, _clusters, _votes, compare, knn_agreement
from g2l.errors import ConfigError

KINDS: list[Kind] = ["fp32", "16bit", "int8"]


def drawn(count: int = 256, width: int = 48, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings in eight loose groups, as tissue classes make them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(8, width)) * 2
    return (centres[np.arange(count) % 8] + rng.normal(size=(count, width))).astype(np.float32)


def noisy(rows: NDArray[np.float32], scale: float, seed: int = 1) -> NDArray[np.float32]:
    return rows + (np.random.default_rng(seed).normal(size=rows.shape) * scale).astype(np.float32)


def one_by_one(reference: NDArray[np.float32], found: NDArray[np.float32]) -> list[float]:
    pairs = zip(reference.astype(np.float64), found.astype(np.float64), strict=True)
    return [float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))) for a, b in pairs]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.1, 1.0])
def test_figures_equal_a_reference_computed_one_by_one(scale: float) -> None:
    reference = drawn()
    found = noisy(reference, scale)
    measured = compare(reference, found, "16bit")
    cosines = one_by_one(reference, found)
    assert measured.count == 256
    assert measured.min_cosine == pytest.approx(min(cosines), abs=1e-12)
    assert measured.mean_cosine == pytest.approx(sum(cosines) / 256, abs=1e-12)
    assert measured.p1_cosine == pytest.approx(float(np.quantile(cosines, 0.01)), abs=1e-12)
    assert measured.max_difference == pytest.approx(max(abs(float(d)) for d in (reference - found).ravel()), rel=1e-6)


def test_votes_equal_those_of_scikit_learn_where_no_two_labels_tie() -> None:
    reference, labels = drawn(), np.arange(256) % 3
    found = noisy(reference, 1.0)
    similar = cosine_similarity(found)
    expected, clear = [], []
    for row in range(256):
        others = np.delete(np.arange(256), row)
        voter = KNeighborsClassifier(5, metric="precomputed").fit(np.zeros((255, 255)), labels[others])
        shares = voter.predict_proba(1 - similar[row, others][None])[0]
        expected.append(voter.classes_[shares.argmax()])
        clear.append((shares == shares.max()).sum() == 1)
    assert 128 < sum(clear) < 256  # some tie: those are below
    assert (np.array(expected) == _votes(found, labels))[np.array(clear)].all()


def test_a_tie_goes_to_the_nearer_neighbours() -> None:
    angles = np.deg2rad([0, 10, 11, -14, -15, 60, 200, 201, 202])  # the five nearest of the first: 10 11 14 15 60
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert _votes(rows, np.array([0, 1, 1, 2, 2, 3, 4, 4, 4]))[0] == 1
    assert _votes(rows, np.array([0, 2, 2, 1, 1, 3, 4, 4, 4]))[0] == 2


def test_agreement_is_the_share_of_equal_votes_and_falls_with_noise() -> None:
    reference = drawn()
    labels = _clusters(reference)
    found = noisy(reference, 2.0)
    expected = sum(a == b for a, b in zip(_votes(reference, labels), _votes(found, labels), strict=True)) / 256
    assert knn_agreement(reference, found) == expected
    shares = [knn_agreement(reference, noisy(reference, scale)) for scale in (0, 1e-3, 1, 4, 100)]
    assert shares[0] == shares[1] == 1 and shares == sorted(shares, reverse=True) and shares[-1] < 0.5


def test_clusters_find_the_groups_and_are_always_the_same() -> None:
    reference = drawn()
    labels = _clusters(reference)
    for group in range(8):
        assert len(set(labels[group::8])) == 1
    assert set(labels) == set(range(CLUSTERS))
    assert all((_clusters(reference) == labels).all() for _ in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_embeddings_pass_and_those_of_other_patches_do_not(kind: Kind) -> None:
    reference = drawn()
    same = compare(reference, reference.copy(), kind)
    assert same.passed and not same.why and same.min_cosine == pytest.approx(1) and same.max_difference == 0
    swapped = reference.copy()
    swapped[:16] = reference[:16][::-1]
    measured = compare(reference, swapped, kind)
    assert not measured.passed and "cosine" in measured.why


def test_noise_that_a_kind_may_have_passes_and_ten_times_more_does_not() -> None:
    reference = drawn()
    for kind, scale in zip(KINDS, (1e-5, 0.03, 0.1), strict=True):
        assert compare(reference, noisy(reference, scale), kind).passed, kind
        assert not compare(reference, noisy(reference, 20 * scale), kind).passed, kind


def test_each_gate_stops_what_the_others_let_through() -> None:
    reference = drawn()
    far = reference * np.float32(1.001)  # the direction is kept
    assert "largest difference" in compare(reference, far, "fp32").why and compare(reference, far, "16bit").passed
    one = reference.copy()
    one[0] = -one[0]  # a single patch of 256: int8 allows 1 % of patches what no other format may have
    assert "smallest cosine -1.00000 is below 0.999" in compare(reference, one, "16bit").why
    assert compare(reference, one, "int8").passed
    # The same direction but for one that all share: neighbours change while cosines stay high.
    wide = drawn(256) * np.float32(0.02)
    wide[:, 0] += 10
    apart = noisy(wide, 0.05)
    measured = compare(wide, apart, "16bit")
    assert measured.min_cosine >= 0.999 and measured.why.startswith("kNN agreement")


def test_votes_are_judged_from_256_patches_on() -> None:
    from g2l.deploy.runtime.gates import Measured, _broken

    def judged(count: int, changed: int, kind: Kind = "16bit") -> str:
        measured = Measured(count, 1, 1, 1, 0, 1 - changed / count, passed=True)
        return _broken(measured, "knn_agreement", GATES[kind]["knn_agreement"])

    assert not judged(64, 2) and not judged(255, 9)
    assert not judged(256, 2) and judged(256, 3)
    assert not judged(256, 5, "int8") and judged(256, 6, "int8")


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_none_fail_and_are_counted(kind: Kind) -> None:
    reference = drawn(32)
    for value in (np.nan, np.inf):
        found = reference.copy()
        found[3, 5] = found[9, 0] = value
        measured = compare(reference, found, kind)
        assert not measured.passed and measured.why == "2 of 32 found embeddings hold NaN or infinity"
        # JSON knows no NaN
        assert json.loads(json.dumps(measured.to_dict(), allow_nan=False))["min_cosine"] is None
        assert not compare(found, reference, kind).passed


def test_zeros_have_no_direction_and_fail() -> None:
    reference = drawn(32)
    assert not compare(reference, np.zeros_like(reference), "int8").passed
    assert compare(reference, np.zeros_like(reference), "int8").mean_cosine == 0


@pytest.mark.parametrize("count", [1, 2, 5, 6, 8])
def test_few_patches_are_compared_all_the_same(count: int) -> None:
    reference = drawn(count)
    for kind in KINDS:
        assert compare(reference, noisy(reference, 1e-7), kind).passed
        assert not compare(reference, -reference, kind).passed


def test_other_shapes_and_no_patches_fail() -> None:
    reference = drawn(16)
    assert compare(reference, reference[:, :-1], "fp32").why == "embeddings are 16 x 47 where the reference is 16 x 48"
    assert not compare(reference, reference[:-1], "fp32").passed
    assert not compare(reference[:0], reference[:0], "fp32").passed


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind 4bit"):
        compare(drawn(8), drawn(8), "4bit")  # pyright: ignore[reportArgumentType]


def test_gates_are_those_of_the_specification() -> None:
    assert {format.name: GATES[format.kind] for format in FORMATS} == {
        "openvino-int8": {"p1_cosine": 0.99, "knn_agreement": 0.98},
        "openvino-bf16": {"min_cosine": 0.999, "knn_agreement": 0.99},
        "openvino-fp16": {"min_cosine": 0.999, "knn_agreement": 0.99},
        "openvino-fp32": {"max_difference": 1e-4, "min_cosine": 0.9999},
        "onnx-fp32": {"max_difference": 1e-4, "min_cosine": 0.9999},
    }
