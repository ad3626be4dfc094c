"""Patch classification: what it finds, what it must not look at, and what it refuses."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from evaluation.made import MadeFeatures, context, parts
from evaluation.tasks.blind import assert_blind_to_test_labels

from g2l.errors import CohortError, ConfigError, G2LError
from g2l.evaluation.measures.knn import knn_predict
from g2l.evaluation.tables.splits import folds, make_split
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.classification import PatchClassification

HEADS: list[Literal["linear", "knn", "sgd"]] = ["linear", "knn", "sgd"]
NAMES = np.array(["fat", "gland", "stroma"])


def made(seed: int = 0, n: int = 360, gap: float = 1.2, width: int = 6):
    """A table of 24 patients in three parts, and embeddings in which the classes lie `gap` apart."""
    rng = np.random.default_rng(seed)
    patient = np.arange(n) % 24
    y = rng.integers(0, 3, n)
    x = (rng.normal(size=(n, width)) + gap * rng.normal(size=(3, width))[y]).astype(np.float32)
    table = Table.build(
        "made", [Path(f"/data/{row}.png") for row in range(n)], Path("/data"), labels=NAMES[y],
        patients=np.char.mod("p%d", patient), splits=np.select([patient < 12, patient < 16], ["train", "val"], "test"),
    )  # fmt: skip
    return table, x


def changed(table: Table, **columns) -> Table:
    from dataclasses import replace

    return replace(table, **columns)


def test_every_head_finds_the_classes_and_gives_what_the_report_needs():
    table, x = made(gap=2.0)
    said: list[str] = []
    task = PatchClassification(Source(), HEADS)
    task.check(table)
    outcomes = task.run(context(table, MadeFeatures(x), report=said.append))
    assert list(outcomes) == HEADS
    test = table.splits == "test"
    for head, outcome in outcomes.items():
        columns = outcome.predictions
        assert columns["id"].tolist() == table.ids[test].tolist()
        assert columns["patient"].tolist() == table.patients[test].tolist()
        assert columns["truth"].tolist() == table.labels[test].tolist()
        shares = np.stack([columns[f"p_{name}"] for name in NAMES], axis=1)
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        metrics = outcome.measure(columns)
        # 100 steps of 5e-4, all that GPFM's head takes on so few images, do not carry it far
        assert metrics["balanced accuracy"] > (0.6 if head == "sgd" else 0.9)
        assert metrics["AUC"] > (0.8 if head == "sgd" else 0.95)
        assert outcome.primary in metrics
        assert outcome.unit == "patch"
    assert outcomes["linear"].chosen["C"] in outcomes["linear"].chosen["val"]
    assert any("C 3 of 7" in text for text in said)
    assert any("epoch" in text for text in said) and any("kNN" in text for text in said)


def test_the_strength_is_chosen_on_val_and_the_fit_repeated_on_train_and_val():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, x = made(1)
    train, val, test = (table.splits == part for part in ("train", "val", "test"))
    scores = {}
    for c in np.logspace(-5, 1, 7):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)).fit(
            x[train], table.labels[train]
        )
        scores[float(c)] = balanced_accuracy_score(table.labels[val], model.predict(x[val]))
    for refit, rows in ((True, train | val), (False, train)):
        outcome = PatchClassification(Source(), ["linear"], refit=refit).run(context(table, MadeFeatures(x)))["linear"]
        assert outcome.chosen["val"] == pytest.approx(scores, abs=0.03)
        c = outcome.chosen["C"]
        assert c == max(outcome.chosen["val"], key=lambda one: (outcome.chosen["val"][one], -one))
        y = table.labels[rows]
        # a class counts as in train, of which C was chosen
        share = {name: (table.labels[train] == name).mean() / (y == name).mean() for name in np.unique(y)}
        weights = np.array([share[name] for name in y])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000))
        model.fit(x[rows], y, logisticregression__sample_weight=weights)
        np.testing.assert_allclose(outcome.predictions["p_fat"], model.predict_proba(x[test])[:, 0], atol=2e-3)


def test_the_vote_is_that_of_train_and_val():
    table, x = made(2)
    outcome = PatchClassification(Source(), ["knn"], k=7).run(context(table, MadeFeatures(x)))["knn"]
    test = table.splits == "test"
    expected = knn_predict(x[~test], table.labels[~test], x[test], k=7)
    assert set(outcome.predictions["predicted"] == expected) == {True}


def test_what_is_fitted_and_predicted_does_not_depend_on_labels_of_the_test_part():
    table, x = made(3)
    assert_blind_to_test_labels(PatchClassification(Source(), HEADS), context(table, MadeFeatures(x)))


def test_random_labels_score_chance():
    """Twenty data sets without signal: the mean AUC and accuracy lie at chance within three standard errors."""
    aucs, accuracies = [], []
    for seed in range(20):
        table, x = made(100 + seed, gap=0.0)
        for outcome in PatchClassification(Source()).run(context(table, MadeFeatures(x))).values():
            metrics = outcome.measure(outcome.predictions)
            aucs.append(metrics["AUC"])
            accuracies.append(metrics["balanced accuracy"])
    for values, chance in ((aucs, 1 / 2), (accuracies, 1 / 3)):
        error = np.std(values) / np.sqrt(20)  # the two heads of a data set are not independent
        assert abs(np.mean(values) - chance) < 3 * error
        assert error < 0.02


def test_a_class_that_test_lacks_is_noted():
    table, x = made(4)
    keep = (table.splits != "test") | (table.labels != "fat")
    labels = np.where(keep, table.labels, "gland")
    outcome = PatchClassification(Source(), ["knn"]).run(context(changed(table, labels=labels), MadeFeatures(x)))["knn"]
    assert any("test holds no fat" in note for note in outcome.notes)
    assert np.isfinite(list(outcome.measure(outcome.predictions).values())).all()


def rare(seed: int, places: list[str], width: int = 64) -> tuple[Table, np.ndarray]:
    """Twelve patients of the class often and one of the class rare in each of the parts given; 20 images each."""
    rng = np.random.default_rng(seed)
    often = [f"o{k:02d}" for k in range(12)]
    people = often + [f"r{k}" for k in range(len(places))]
    labels = np.repeat(["often"] * 12 + ["rare"] * len(places), 20)
    x = rng.normal(size=(len(labels), width)).astype(np.float32)
    x[:, 0] += 2 * (labels == "rare")
    stated = ["train", "train", "train", "train", "val", "test"] * 2 + places
    table = Table.build(
        "made", [Path(f"/data/{row}.png") for row in range(len(labels))], Path("/data"), labels=labels,
        patients=np.repeat(people, 20), splits=np.repeat(stated, 20) if any(places) else None,
    )  # fmt: skip
    return table, x


def test_a_val_that_lacks_a_class_does_not_choose_the_strength() -> None:
    """Val knows "often" alone, and would call best the least C, with which everything is "often"."""
    from g2l.evaluation.measures.probe import STRENGTHS, choose_by_folds, choose_strength

    better = 0
    for seed in range(10):
        table, x = rare(seed, ["train", "train", "train", "test"])
        train, val, test = (np.flatnonzero(table.splits == part) for part in ("train", "val", "test"))
        wrong, _ = choose_strength(x[train], table.labels[train], x[val], table.labels[val])
        assert wrong == min(STRENGTHS)
        outcome = PatchClassification(Source(), ["linear"]).run(context(table, MadeFeatures(x)))["linear"]
        assert outcome.chosen["chosen on"].startswith("balanced accuracy on 3 folds by patient of train and val (260")
        assert outcome.notes[0].startswith("val holds no rare: C was chosen on 3 folds by patient of train and val")
        rows = np.concatenate([train, val])
        fold = folds(table, parts(table), 3, 0)
        assert (outcome.chosen["C"], outcome.chosen["val"]) == choose_by_folds(x[rows], table.labels[rows], fold)
        better += outcome.chosen["C"] > wrong and outcome.measure(outcome.predictions)["balanced accuracy"] > 0.55
        assert outcome.predictions["id"].tolist() == table.ids[test].tolist()
    assert better >= 9


def test_the_strength_may_be_chosen_on_folds_of_train_and_val() -> None:
    """By scikit-learn alone, but for who is in which fold; the smallest C within a standard error of the best."""
    from scipy.stats import sem
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    table, x = made(3, gap=0.5)
    rows = np.concatenate([np.flatnonzero(table.splits == part) for part in ("train", "val")])
    test, fold = np.flatnonzero(table.splits == "test"), folds(table, parts(table), 4, 0)

    def fitted(c: float, some: np.ndarray):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000))
        return model.fit(x[some].astype(float), table.labels[some])

    scores, errors = {}, {}
    for c in np.logspace(-5, 1, 7):
        said = np.empty(len(rows), table.labels.dtype)
        for number in range(4):
            said[fold == number] = fitted(c, rows[fold != number]).predict(x[rows[fold == number]].astype(float))
        scores[float(c)] = balanced_accuracy_score(table.labels[rows], said)
        errors[float(c)] = sem([np.mean((said == table.labels[rows])[fold == number]) for number in range(4)])
    task = PatchClassification(Source(), ["linear"], folds=4, choice="folds")
    outcome = task.run(context(table, MadeFeatures(x)))["linear"]
    assert outcome.chosen["val"] == pytest.approx(scores)
    best = max(scores, key=lambda c: (round(scores[c], 9), -c))
    within = [c for c in scores if scores[c] >= scores[best] - errors[best]]
    assert outcome.chosen["C"] == min(within) < best
    assert outcome.chosen["chosen on"] == f"balanced accuracy on 4 folds by patient of train and val ({len(rows)} rows)"
    again = fitted(outcome.chosen["C"], rows).predict(x[test].astype(float))
    assert outcome.predictions["predicted"].tolist() == again.tolist()
    assert not any("val holds no" in note for note in outcome.notes)
    few = changed(table, patients=np.where(table.splits == "test", table.patients, table.splits))
    with pytest.raises(
        CohortError, match="table made: to choose on 4 folds by patient needs 4 patients of every class"
    ):
        PatchClassification(Source(), ["linear"], folds=4, choice="folds").run(context(few, MadeFeatures(x)))


def test_two_patients_of_a_class_choose_on_as_many_folds() -> None:
    table, x = rare(0, ["train", "train", "test"])
    with pytest.raises(
        CohortError, match="needs 3 patients of every class, but train and val hold 2 of rare; add pati"
    ):
        PatchClassification(Source(), ["linear"]).run(context(table, MadeFeatures(x)))
    outcome = PatchClassification(Source(), ["linear"], folds=2).run(context(table, MadeFeatures(x)))["linear"]
    assert "2 folds" in outcome.chosen["chosen on"] and outcome.chosen["C"] > 1.1e-5


def test_a_drawn_split_of_two_patients_of_a_class_is_refused_and_of_three_is_not() -> None:
    for seed in range(5):
        table, x = rare(seed, ["", ""])
        with pytest.raises(CohortError, match=r"made: val holds no rare, .* 3 folds .* hold 1 of rare; add patients"):
            PatchClassification(Source()).run(context(table, MadeFeatures(x), split=make_split(table, seed=seed)))
        # a vote chooses nothing
        PatchClassification(Source(), ["knn"]).run(context(table, MadeFeatures(x), split=make_split(table, seed=seed)))
        table, x = rare(seed, ["", "", ""])
        split = make_split(table, seed=seed)
        outcome = PatchClassification(Source(), ["linear"]).run(context(table, MadeFeatures(x), split=split))["linear"]
        assert "on val" in outcome.chosen["chosen on"] and not any("holds no" in note for note in outcome.notes)


def test_the_head_that_stops_on_val_needs_two_classes_there_and_notes_the_lost() -> None:
    table, x = rare(0, ["train", "test"])
    with pytest.raises(CohortError, match="val holds the class often alone, but the head sgd stops by the AUC"):
        PatchClassification(Source(), ["sgd"]).run(context(table, MadeFeatures(x)))
    table, x = made(4)
    labels = np.where((table.splits == "val") & (table.labels == "fat"), "gland", table.labels)
    outcome = PatchClassification(Source(), ["sgd"]).run(context(changed(table, labels=labels), MadeFeatures(x)))["sgd"]
    assert outcome.notes == ["val holds no fat: the epoch was chosen without"]


def test_two_classes_work():
    table, x = made(5)
    labels = np.where(table.labels == "fat", "fat", "other")
    for outcome in (
        PatchClassification(Source(), HEADS).run(context(changed(table, labels=labels), MadeFeatures(x))).values()
    ):
        assert outcome.measure(outcome.predictions)["AUC"] > 0.8


def test_embeddings_that_are_not_finite_are_named():
    table, x = made(6)
    x[[40, 41], 2] = np.nan
    with pytest.raises(
        G2LError, match=r"made on made: 2 of 120 embeddings hold nan or inf \(40.png, 41.png\)"
    ) as raised:
        PatchClassification(Source()).run(context(table, MadeFeatures(x)))
    assert "\n" not in str(raised.value)


def test_large_finite_embeddings_are_no_error():
    table, x = made(7)
    x[0] = 3e38
    PatchClassification(Source(), ["knn"]).run(context(table, MadeFeatures(x)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda old: np.full(len(old), ""), "360 of 360 rows have no label"),
        (lambda old: np.where(np.arange(len(old)) == 7, "", old), r"1 of 360 rows have no label \(7.png\)"),
        (lambda old: np.full(len(old), "fat"), "every row has the label 'fat'"),
    ],
)
def test_labels_that_cannot_serve_are_refused_before_anything_is_embedded(labels, message):
    table, _ = made(8)
    with pytest.raises(CohortError, match=message) as raised:
        PatchClassification(Source()).check(changed(table, labels=labels(table.labels).astype(np.str_)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "labels", "message"),
    [
        ("train", "fat", r"train has one class only \(fat\)"),
        ("test", "bone", "test holds bone, which train has not"),
        ("val", "bone", "val holds bone, which train has not"),
    ],
)
def test_parts_that_cannot_serve_are_refused(part, labels, message):
    table, x = made(9)
    moved = np.where(table.splits == part, labels, table.labels)
    with pytest.raises(CohortError, match=message):
        PatchClassification(Source()).run(context(changed(table, labels=moved), MadeFeatures(x)))


def test_more_neighbours_than_rows_are_refused():
    table, x = made(10)
    with pytest.raises(CohortError, match="k is 500 but there are 240 images to vote"):
        PatchClassification(Source(), ["knn"], k=500).run(context(table, MadeFeatures(x)))


@pytest.mark.parametrize("settings", [{"heads": []}, {"heads": ["svm"]}, {"k": 0}, {"folds": 1}, {"choice": "test"}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        PatchClassification(Source(), **settings)
