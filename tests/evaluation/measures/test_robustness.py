"""The robustness index against hand-computed counts, an algebraic identity, and an independent package."""

import math
import time

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.measures.robustness import KINDS, Robustness, columns, measure_robustness, pairs_of, robustness
from g2l.evaluation.statistics.bootstrap import difference_of, interval_of, resample

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


def measured(result: Robustness) -> dict[str, float]:
    return {"robustness index": result.index, "support": result.support, "ratio": result.ratio}


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_columns_measure_what_the_whole_measures(k):
    x, biology, centre, slide = circle()
    assert measure_robustness(columns(pairs_of(x, biology, centre, slide, k))) == measured(
        robustness(x, biology, centre, slide, k)
    )
    data = random_cohort(8)
    assert measure_robustness(columns(pairs_of(*data, 9 * k))) == measured(robustness(*data, 9 * k))


def test_undefined_and_infinite_columns_are_those_of_the_whole():
    x = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    found = measure_robustness(columns(pairs_of(x, list("aabb"), list("xxyy"), list("1234"), 1)))
    assert math.isnan(found["robustness index"]) and found["support"] == 0 and found["ratio"] == 1
    found = measure_robustness(columns(pairs_of(x, list("aabb"), list("xyxy"), list("1234"), 1)))
    assert found == {"robustness index": 1, "support": 1, "ratio": math.inf}
    single = measure_robustness(columns(pairs_of(x, list("abab"), list("xxxx"), list("1111"), 1)))
    assert math.isnan(single["robustness index"]) and math.isnan(single["ratio"]) and single["support"] == 0


def pair_list(x, biology, centre, slide, k):
    """(query, neighbour, kind) of every pair, from the definition."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.linalg.norm(x[:, None] - x, axis=2)
    distance[slide[:, None] == slide] = np.inf
    near = np.argsort(distance, axis=1, kind="stable")[:, :k].ravel()
    query = np.repeat(np.arange(len(x)), k)
    kind = 2 * (biology[query] != biology[near]) + (centre[query] != centre[near])
    return query, near, kind


def test_each_row_knows_whose_neighbour_it_is():
    data = random_cohort(9, n=90)
    found = pairs_of(*data, k=6)
    query, near, kind = pair_list(*data, 6)
    for number in range(4):
        assert (found.queries[:, number] == np.bincount(query[kind == number], minlength=90)).all()
        assert (found.neighbours[:, number] == np.bincount(near[kind == number], minlength=90)).all()


def test_the_drawn_count_as_queries_and_as_neighbours():
    data = random_cohort(10)
    query, near, kind = pair_list(*data, 9)
    whole = columns(pairs_of(*data, k=9))
    rng = np.random.default_rng(0)
    for _ in range(5):
        rows = rng.integers(0, 240, 240)
        times = np.bincount(rows, minlength=240)

        def pairs(*kinds, times=times):
            of = np.isin(kind, kinds)
            return times[query[of]].sum() * times[near[of]].sum() / of.sum()

        found = measure_robustness({name: column[rows] for name, column in whole.items()})
        assert found["robustness index"] == pytest.approx(pairs(1) / (pairs(1) + pairs(2)), abs=1e-12)
        assert found["ratio"] == pytest.approx(pairs(0, 1) / pairs(0, 2), abs=1e-12)
        assert math.isnan(found["support"])
    twice = measure_robustness({name: np.repeat(column, 2) for name, column in whole.items()})
    once = measure_robustness(whole)
    assert twice["robustness index"] == pytest.approx(once["robustness index"], abs=1e-12)
    assert twice["ratio"] == pytest.approx(once["ratio"], abs=1e-12)


def study(seed: int, encoder: int, patients: int = 40, each: int = 5):
    """Two encoders of one seed see the same patients, and are equally good: each adds its own noise to them."""
    rng, own = np.random.default_rng(seed), np.random.default_rng((seed, encoder))
    owner = np.repeat(np.arange(patients), each)
    biology, centre = owner % 2, owner // 2 % 2
    base = 0.57 * (rng.normal(size=(patients, 16)) + own.normal(size=(patients, 16))) + 1.25
    x = base[owner] + 0.6 * own.normal(size=(patients * each, 16))
    x[:, 0] += 2 * biology - 1
    x[:, 1] += 2 * centre - 1
    names = {"id": np.char.mod("%05d", np.arange(len(x))), "patient": np.char.mod("p%03d", owner)}
    return names | columns(pairs_of(x.astype(np.float32), biology, centre, owner, 10))


@pytest.mark.slow
def test_encoders_that_are_equally_good_seldom_differ_and_intervals_cover():
    """Neighbours are drawn too: with queries alone redrawn, 9 of these 40 pairs differ, and 8 intervals miss."""
    true = np.mean([measure_robustness(study(1000 + seed, 0))["robustness index"] for seed in range(60)])
    differ, missed = 0, 0
    for seed in range(40):
        one, two = (resample(measure_robustness, study(seed, encoder), 100) for encoder in (1, 2))
        differ += difference_of(one, two, "robustness index").excludes_zero
        found = interval_of(one, "robustness index")
        missed += not found.low <= true <= found.high
        assert "give no value" in interval_of(one, "support").why
    # 5 % of 40 are 2; more than 5 have a chance of 1 %
    assert differ <= 5 and missed <= 5


def test_drawn_rows_of_a_large_cohort_are_measured_quickly():
    rng = np.random.default_rng(0)
    counts = rng.multinomial(20, [0.25] * 4, 100_000)
    made = {"row": np.arange(100_000)}
    for number, kind in enumerate(KINDS):
        made |= {kind: counts[:, number], f"of_{kind}": counts[:, number]}
        made[f"all_{kind}"] = np.full(100_000, counts[:, number].sum())
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        measure_robustness(made)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
