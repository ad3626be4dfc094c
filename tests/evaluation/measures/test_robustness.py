"""The robustness index against hand-computed counts, an algebraic identity, and an independent package."""

import math

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.measures.robustness import KINDS, Robustness, measure_robustness, neighbour_kinds, robustness

# angle in degrees, biology, centre, slide; the radii must not matter
CIRCLE = """0 A x A-x-1; 7 A x A-x-1; 16 A x A-x-2; 27 B x B-x-1; 40 A y A-y-1; 51 A y A-y-2; 65 B x B-x-2;
78 B y B-y-1; 94 B y B-y-1; 109 A x A-x-3; 127 B y B-y-2; 146 A y A-y-3"""
RADII = (1, 2, 1, 3, 1, 2, 1, 1, 4, 1, 1, 2)


def circle():
    angles, biology, centre, slide = zip(*(point.split() for point in CIRCLE.split(";")), strict=True)
    angle = np.radians(np.array(angles, dtype=float))
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1) * np.array(RADII)[:, None]
    return x, biology, centre, slide


@pytest.mark.parametrize(
    ("k", "counts", "index", "ratio"),
    [
        (1, (5, 2, 2, 3), 1 / 2, 1),
        (2, (5, 4, 7, 8), 4 / 11, 3 / 4),
        (3, (8, 7, 9, 12), 7 / 16, 15 / 17),
        (5, (11, 16, 18, 15), 8 / 17, 27 / 29),
    ],
)
def test_twelve_points_on_a_circle(k, counts, index, ratio):
    x, biology, centre, slide = circle()
    result = robustness(x, biology, centre, slide, k)
    assert (result.ss, result.so, result.os, result.oo) == counts
    assert result.index == index
    assert result.ratio == ratio
    assert result.k == k


def random_cohort(seed: int, n: int = 240, centres: int = 3):
    rng = np.random.default_rng(seed)
    biology, centre = rng.integers(0, 4, n), rng.integers(0, centres, n)
    slide = np.array([f"{c}-{s}" for c, s in zip(centre, rng.integers(0, 5, n), strict=True)])
    x = rng.normal(size=(n, 12)) + rng.normal(size=(4, 12))[biology] + rng.normal(size=(centres, 12))[centre]
    return x, biology, centre, slide


def by_hand(x, biology, centre, slide, k):
    """Straight from the definition, one pair after the other."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    counts, heard = {"ss": 0, "so": 0, "os": 0, "oo": 0}, 0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if slide[j] != slide[i]]
        near = sorted(others, key=lambda j: np.linalg.norm(x[i] - x[j]))[:k]
        kinds = ["so"[int(biology[j] != biology[i])] + "so"[int(centre[j] != centre[i])] for j in near]
        heard += bool({"so", "os"} & set(kinds))
        for kind in kinds:
            counts[kind] += 1
    return counts, heard / len(x)


@pytest.mark.parametrize("k", [1, 7, 20])
def test_agrees_with_the_definition_spelt_out(k):
    data = random_cohort(1)
    result = robustness(*data, k)
    counts, support = by_hand(*data, k)
    assert {name: getattr(result, name) for name in counts} == counts
    assert result.support == support
    assert result.ss + result.so + result.os + result.oo == k * result.queries


@pytest.mark.parametrize("seed", [2, 3])
def test_agrees_with_the_package_croma(seed):
    import pandas as pd
    from croma import RI

    x, biology, centre, slide = random_cohort(seed)
    names = [f"p{i}" for i in range(len(x))]
    manifest = pd.DataFrame(
        {"sample_id": names, "image_path": names, "label": biology.astype(str), "group_id": slide, "hospital": centre}
    )
    ks = [1, 5, 10, 20]
    curve = RI.compute_curve(x, manifest, confounder_column="hospital", k_values=ks)
    for k in ks:
        assert robustness(x, biology, centre, slide, k).index == pytest.approx(curve[k], abs=1e-12)


def test_algebraic_identity_of_the_four_shares():
    """SS, SO, OS, OO as shares follow from in-centre precision, out-of-centre precision and their odds."""
    r = robustness(*random_cohort(4), k=10)
    odds = (r.so + r.oo) / (r.ss + r.os)
    inside, outside = r.ss / (r.ss + r.os), r.so / (r.so + r.oo)
    total = r.k * r.queries
    expected = [inside, (1 - inside), outside * odds, (1 - outside) * odds]
    for count, share in zip((r.ss, r.os, r.so, r.oo), expected, strict=True):
        assert count / total == pytest.approx(share / (1 + odds), abs=1e-12)
    assert r.index == pytest.approx(outside * odds / (outside * odds + 1 - inside))
    assert r.ratio == pytest.approx(inside + outside * odds)


def test_order_of_rows_and_scale_of_rows_do_not_matter():
    x, biology, centre, slide = random_cohort(5)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))
    scaled = x * rng.uniform(0.1, 9, (len(x), 1))
    assert robustness(scaled[order], biology[order], centre[order], slide[order]) == robustness(
        x, biology, centre, slide
    )


def test_undefined_is_nan_and_support_is_zero_when_only_ss_and_oo_occur():
    x = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    result = robustness(x, list("aabb"), list("xxyy"), list("1234"), k=1)
    assert (result.ss, result.so, result.os, result.oo) == (4, 0, 0, 0)
    assert math.isnan(result.index)
    assert result.support == 0
    assert result.ratio == 1


def test_ratio_is_infinite_without_neighbours_of_the_same_centre_and_nan_without_any():
    assert Robustness(0, 3, 0, 1, 1, 4, 1.0).ratio == math.inf
    assert math.isnan(Robustness(0, 0, 0, 4, 1, 4, 0.0).ratio)


def test_lists_are_as_long_as_the_shortest():
    x, biology, centre, _ = random_cohort(6, n=30)
    slide = np.array([f"{c}-big" if i < 20 else f"{c}-{i}" for i, c in enumerate(centre)])
    largest = max(np.unique(slide, return_counts=True)[1])
    assert robustness(x, biology, centre, slide, k=100).k == 30 - largest


def test_a_single_slide_is_undefined():
    x, biology, _, _ = random_cohort(7, n=10)
    result = robustness(x, biology, ["x"] * 10, ["s"] * 10)
    assert (result.k, result.support) == (0, 0)
    assert math.isnan(result.index)


def test_a_slide_in_two_centres_is_refused():
    with pytest.raises(G2LError, match="two centres"):
        robustness(np.eye(4), list("aabb"), list("xyxy"), list("1122"), k=1)


def test_embeddings_that_are_not_finite_are_refused():
    with pytest.raises(G2LError, match="1 of 4 rows"):
        robustness(np.diag([1, 1, 1, np.nan]), list("aabb"), list("xyxy"), list("1234"), k=1)


def test_columns_by_query_measure_what_the_whole_measures():
    data = random_cohort(8)
    counts = neighbour_kinds(*data, k=9)
    assert (counts.sum(axis=1) == 9).all()
    whole = robustness(*data, k=9)
    found = measure_robustness({kind: counts[:, number] for number, kind in enumerate(KINDS)})
    assert found == {"robustness index": whole.index, "support": whole.support, "ratio": whole.ratio}
    drawn = np.random.default_rng(0).integers(0, 240, 240)
    again = measure_robustness({kind: counts[drawn, number] for number, kind in enumerate(KINDS)})
    assert again["robustness index"] == counts[drawn, 1].sum() / counts[drawn, 1:3].sum()
