"""The clustering score against scikit-learn and against data whose clusters are known."""

import numpy as np
import pytest

from g2l.evaluation.measures.clustering import adjusted_rand, clusters, mean_rand, measure_clustering
from g2l.evaluation.statistics.bootstrap import interval


def two_by_two(seed: int, biology_gap: float, centre_gap: float, n: int = 160):
    rng = np.random.default_rng(seed)
    biology, centre = rng.integers(0, 2, n), rng.integers(0, 2, n)
    x = 0.2 * rng.normal(size=(n, 6))
    x[:, 0] += biology_gap * (2 * biology - 1)
    x[:, 1] += centre_gap * (2 * centre - 1)
    return x.astype(np.float32), np.array(["fat", "gland"])[biology], np.array(["north", "south"])[centre]


def score(x, biology, centre):
    found = clusters(x, repeats=3)
    runs = {f"cluster_{run}": found.labels[:, run] for run in range(3)}
    return measure_clustering({"biology": biology, "centre": centre} | runs), found


def test_clusters_of_tissue_score_one_and_clusters_of_hospitals_minus_one():
    tissue, found = score(*two_by_two(0, 1.0, 0.0))
    assert found.number == 2
    assert tissue["clustering score"] > 0.9
    hospital, _ = score(*two_by_two(1, 0.0, 1.0))
    assert hospital["clustering score"] < -0.9


def test_the_count_is_the_one_with_the_largest_silhouette_by_scikit_learn():
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    x, _, _ = two_by_two(2, 1.0, 1.0, n=60)
    _, found = score(x, np.zeros(60), np.zeros(60))
    assert found.number == max(found.silhouettes, key=lambda count: found.silhouettes[count]) == 4
    assert sorted(found.silhouettes) == list(range(2, 31))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    labels = KMeans(4, random_state=9).set_params(n_init=10).fit_predict(unit)
    assert found.silhouettes[4] == pytest.approx(silhouette_score(unit, labels, metric="cosine"), abs=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 5, 40])
def test_adjusted_rand_agrees_with_scikit_learn(classes):
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(3)
    first, second = rng.integers(0, classes, 40), rng.integers(0, 4, 40)
    for pair in ((first, second), (first, first), (np.arange(40), np.arange(40)), (first, np.arange(40))):
        assert adjusted_rand(*pair) == pytest.approx(adjusted_rand_score(*pair), abs=1e-12)


def test_rows_that_are_all_the_same_have_a_score_of_nothing():
    result, found = score(np.ones((12, 3), np.float32), np.array(list("ab") * 6), np.array(list("xxyy") * 3))
    assert found.silhouettes == {}
    assert result["clustering score"] == pytest.approx(0, abs=1e-12)


def test_the_score_has_an_interval_about_its_value_and_the_two_indices_have_none():
    """Clusters that follow the patient: each ARI rises with the copies of a draw, and their difference does not."""
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(20), 10)
    biology, centre = owner % 2, rng.permutation(np.arange(20) // 2 % 2)[owner]
    columns = {"id": np.char.mod("%03d", np.arange(200)), "patient": owner, "biology": biology, "centre": centre}
    columns |= {"cluster_0": owner // 2, "cluster_1": owner}
    found = interval(measure_clustering, columns, 300)
    assert list(found) == ["clustering score"]
    score = found["clustering score"]
    assert score.low < score.value < score.high
    assert score.value == mean_rand(columns, "biology") - mean_rand(columns, "centre")
    runs = [adjusted_rand(biology, columns[name]) for name in ("cluster_0", "cluster_1")]
    assert mean_rand(columns, "biology") == pytest.approx(np.mean(runs))
    alone = interval(lambda drawn: {"ARI": mean_rand(drawn, "biology")}, columns, 300)["ARI"]
    assert alone.low > alone.value
