"""The linear probe: what it learns, what it must not look at."""

import warnings

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.evaluation.measures.probe import STRENGTHS, choose_by_folds, fit_path, linear_probe, weights_like


def cohort(seed: int, n: int = 600, width: int = 20, classes: int = 3, gap: float = 0.6, patients: int = 12):
    rng = np.random.default_rng(seed)
    y, patient = rng.integers(0, classes, n), rng.integers(0, patients, n)
    x = rng.normal(size=(n, width)) + gap * rng.normal(size=(classes, width))[y]
    x = x + 0.5 * rng.normal(size=(patients, width))[patient]
    train = patient < 2 * patients // 3
    return x[train], y[train], patient[train], x[~train], y[~train]


def test_agrees_with_a_plain_scikit_learn_pipeline_at_the_chosen_strength():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train_x, train_y, patients, test_x, test_y = cohort(0)
    result = linear_probe(train_x, train_y, patients, test_x, test_y)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=result.c, max_iter=5000)).fit(train_x, train_y)
    assert result.accuracy == pytest.approx(reference.score(test_x, test_y), abs=2 / len(test_y))
    expected = balanced_accuracy_score(test_y, reference.predict(test_x))
    assert result.balanced == pytest.approx(expected, abs=6 / len(test_y))
    assert result.accuracy > 0.6


def test_affine_changes_of_single_features_do_not_matter():
    train_x, train_y, patients, test_x, test_y = cohort(1)
    rng = np.random.default_rng(0)
    scale, shift = np.exp(3 * rng.normal(size=20)), 10 * rng.normal(size=20)
    plain = linear_probe(train_x, train_y, patients, test_x, test_y)
    changed = linear_probe(train_x * scale + shift, train_y, patients, test_x * scale + shift, test_y)
    assert changed.c == plain.c
    assert changed.accuracy == pytest.approx(plain.accuracy, abs=2 / len(test_y))


def test_strength_is_chosen_without_the_test_rows():
    train_x, train_y, patients, test_x, test_y = cohort(2)
    shuffled = np.random.default_rng(0).permutation(test_y)
    result = linear_probe(train_x, train_y, patients, test_x, shuffled)
    assert result.c == linear_probe(train_x, train_y, patients, test_x, test_y).c
    assert result.accuracy < 0.5


def test_strength_is_chosen_on_other_patients():
    """Features name the patient and nothing else: only rows of a patient in both parts would reward a weak penalty."""
    patient = np.repeat(np.arange(12), 20)
    x, y = np.eye(12)[patient], (patient % 4 == 0).astype(int)
    assert linear_probe(x, y, patient, x, y).c == min(STRENGTHS)
    assert linear_probe(x, y, np.arange(240), x, y).c > min(STRENGTHS)


def test_nothing_depends_on_chance_or_on_the_kind_of_labels():
    train_x, train_y, patients, test_x, test_y = cohort(4)
    names, people = np.array(["fat", "gland", "stroma"]), np.array([f"p{i}" for i in range(12)])
    first = linear_probe(train_x, train_y, patients, test_x, test_y)
    assert linear_probe(train_x, names[train_y], people[patients], test_x, names[test_y]) == first


def test_a_constant_feature_is_harmless():
    train_x, train_y, patients, test_x, test_y = cohort(5)
    plain = linear_probe(train_x, train_y, patients, test_x, test_y)
    more = [np.hstack([x, np.full((len(x), 1), value)]) for x, value in ((train_x, 7.1), (test_x, -50.0))]
    assert linear_probe(more[0], train_y, patients, more[1], test_y) == plain


def test_converges_at_the_size_of_the_demo_and_on_separable_classes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = linear_probe(*cohort(6, n=4000, width=200, classes=6, gap=1.0))
        linear_probe(*cohort(7, n=12, width=4, gap=5.0, classes=2, patients=6))
    assert result.accuracy > 0.95


def test_the_choice_by_folds_is_that_of_predictions_of_all_folds_together():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, patient, _, _ = cohort(8, n=300)
    fold, said = patient % 3, []
    c, scores = choose_by_folds(x, y, fold, report=said.append)
    for strength, score in scores.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
        expected = balanced_accuracy_score(y, cross_val_predict(model, x, y, cv=PredefinedSplit(fold)))
        assert score == pytest.approx(expected, abs=0.02)
    assert list(scores) == sorted(STRENGTHS) and scores[c] == max(scores.values())
    assert len(said) == 21 and said[0] == "linear probe: C 1 of 7, fold 1 of 3"


def test_folds_that_hold_one_class_each_still_hear_both():
    """Patients of one class each: judged by itself a fold would reward who always says its class."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], 20)
    x = rng.normal(size=(200, 30)) + np.eye(30)[0] * 4 * y[:, None]
    c, scores = choose_by_folds(x, y, np.repeat(np.arange(10), 20))
    assert scores[min(STRENGTHS)] == 0.5 and c > min(STRENGTHS) and scores[c] > 0.8


@pytest.mark.parametrize(
    ("labels", "patients", "message"),
    [
        ([0, 1, 0, 1], [0, 0, 0, 0], "1 patients and 2 classes"),
        ([1, 1, 1, 1], [0, 0, 1, 1], "2 patients and 1 classes"),
        ([0, 0, 1, 1], [0, 0, 1, 1], "patients of mixed classes"),
    ],
)
def test_a_cohort_that_cannot_be_split_is_refused(labels, patients, message):
    with pytest.raises(CohortError, match=message):
        linear_probe(np.eye(4), labels, patients, np.eye(4), labels)


def test_a_refit_to_other_shares_of_the_classes_does_not_predict_the_commonest_alone():
    x, y, _, test_x, test_y = cohort(5, n=900)
    even = np.concatenate([np.flatnonzero(y == c)[:100] for c in range(3)])
    kept = np.concatenate([even, np.flatnonzero(y == 1)[100:110]])  # ten rows more of one class
    (plain,) = fit_path(x[kept], y[kept], test_x, (1e-5,))
    weights = weights_like(y[even], y[kept])
    assert np.allclose([weights[y[kept] == c].sum() for c in range(3)], len(kept) / 3)
    (weighed,) = fit_path(x[kept], y[kept], test_x, (1e-5,), weights=weights)
    assert set(plain.predicted) == {1}
    assert set(weighed.predicted) == {0, 1, 2} and (weighed.predicted == test_y).mean() > 0.6
    assert np.allclose(weights_like(y, y), 1)
