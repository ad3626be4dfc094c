"""Parts share no patient, slide or file, whatever the table says; a draw follows classes, seed and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.evaluation.tables.groups import carve, deal, groups_of
from g2l.evaluation.tables.splits import PATIENTS, Split, check_labels, folds, make_split
from g2l.evaluation.tables.table import Table

ROOT = Path("images")


def table(count: int = 60, people: int = 20, classes: int = 3, seed: int = 0, **columns: Any) -> Table:
    """`count` images of so many people, each of one class; columns replace what is made here."""
    owner = np.random.default_rng(seed).integers(0, people, count)
    owner[:people] = np.arange(people)
    made: dict[str, Any] = {"labels": [f"c{k % classes}" for k in owner], "patients": [f"p{k}" for k in owner]}
    return Table.build("made", [ROOT / f"{k:03d}.png" for k in range(count)], ROOT, **(made | columns))


def disjoint(split: Split, column: np.ndarray) -> bool:
    parts = [set(column[rows].tolist()) - {""} for rows in (split.train, split.val, split.test)]
    return not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def by_patient(made: Table, parts: list[str]) -> list[str]:
    """The part of each row, patients dealt to the parts in turn."""
    return [parts[int(patient[1:]) % len(parts)] for patient in made.patients]


@pytest.mark.parametrize("seed", range(20))
def test_a_table_without_parts_is_drawn_by_patient_and_class(seed: int) -> None:
    made = table(300, 40, seed=seed)
    split = make_split(made, seed=seed)
    assert disjoint(split, made.patients)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val, split.test])), np.arange(300))
    for name in np.unique(made.labels):
        total = (made.labels == name).sum()
        for rows in (split.val, split.test):
            # patients are whole: within two patients (7.5 rows each) of a fifth
            assert abs((made.labels[rows] == name).sum() - 0.2 * total) <= 15
    check_labels(made, split)
    assert "drawn by patient with seed" in split.notes[0]


def test_the_draw_follows_the_seed_and_not_the_order_of_the_rows() -> None:
    made = table(120, 30)
    first, again, other = make_split(made), make_split(made), make_split(made, seed=1)
    assert np.array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)
    turn = np.random.default_rng(1).permutation(120)
    columns = {name: getattr(made, name)[turn] for name in ("labels", "patients")}
    shuffled = Table.build("made", [Path(str(made.paths[k])) for k in turn], ROOT, **columns)
    assert set(shuffled.ids[make_split(shuffled).test]) == set(made.ids[first.test])


def test_a_shared_slide_ties_two_patients_together() -> None:
    made = Table.build(
        "made", [ROOT / f"{k}.png" for k in range(5)], ROOT,
        patients=["a", "a", "b", "c", ""], slides=["s1", "s2", "s2", "s3", ""],
    )  # fmt: skip
    groups = groups_of(made)
    assert groups[0] == groups[1] == groups[2]
    assert len({groups[0], groups[3], groups[4]}) == 3


@pytest.mark.parametrize("what", ["patients", "slides"])
def test_stated_parts_that_share_one_are_refused_with_its_name(what: str) -> None:
    made = table(40, 10)
    columns = {"patients": made.patients, "slides": [f"s{p}" for p in made.patients]}
    columns[what] = np.array(["both" if k in (3, 7) else v for k, v in enumerate(columns[what])])
    if what == "slides":
        columns["patients"] = np.array([""] * 40)
    splits = by_patient(made, ["train", "val", "test"])
    splits[3], splits[7] = "train", "test"
    torn = Table.build("made", [Path(p) for p in made.paths], ROOT, labels=made.labels, splits=splits, **columns)
    with pytest.raises(CohortError, match=rf"made: 1 {what} are in more than one part of the split \(both\)"):
        make_split(torn)


def test_many_shared_patients_are_counted_and_five_are_named() -> None:
    made = table(60, patients=[f"p{k // 6}" for k in range(60)], splits=["train", "test"] * 30)
    with pytest.raises(CohortError, match="made: 10 patients") as error:
        make_split(made)
    named = str(error.value).partition("(")[2].partition(")")[0]
    assert named == "p0, p1, p2, p3, p4, ..." and "\n" not in str(error.value)


def test_one_file_or_one_content_in_two_parts_is_refused() -> None:
    made = table(12, 12)
    splits = by_patient(made, ["train", "test"])
    stated = Table.build("made", [Path(p) for p in made.paths], ROOT, patients=made.patients, splits=splits)
    twins = {name: "same" if k in (4, 9) else name for k, name in enumerate(stated.ids.tolist())}
    with pytest.raises(CohortError, match=r"same image .* 1 times \(004.png \(train\) = 009.png \(test\)\)"):
        make_split(stated, digests=twins)
    assert len(make_split(stated, digests={name: name for name in stated.ids.tolist()}).test) == 6
    paths = stated.paths.copy()
    paths[4] = paths[9]
    doubled = Table(**{**vars(stated), "paths": paths})
    with pytest.raises(CohortError, match="1 files are in more than one part"):
        make_split(doubled)


def test_rows_of_nobody_are_refused_unless_declared_independent() -> None:
    bare = np.where(np.arange(60) < 7, "", table(60, 60).patients)
    with pytest.raises(CohortError, match=r"7 of 60 rows have no patient and no slide \(000.png, .*independent: true"):
        make_split(table(60, 60, patients=bare))
    split = make_split(table(60, 60, patients=bare, independent=True))
    assert "as declared" in split.notes[0]


def test_stated_parts_of_unnamed_patients_need_a_statement_which_is_noted() -> None:
    splits = ["train"] * 40 + ["test"] * 20
    said = {PATIENTS: "the publisher states that parts share none"}
    made = table(60, patients=None, splits=splits, origin=said)
    split = make_split(made)
    assert np.array_equal(split.test, np.arange(40, 60))
    assert "the publisher states" in split.notes[0] and "optimistic" in split.notes[-1]
    drawn = Table(**{**vars(made), "splits": np.full(60, "")})
    with pytest.raises(CohortError, match="no patient and no slide"):
        make_split(drawn)  # a statement about parts is none about images


def test_validation_is_carved_from_train_and_never_from_test() -> None:
    made = table(200, 30, 2)
    splits = by_patient(made, ["train", "train", "test"])
    stated = table(200, 30, 2, splits=splits)
    split = make_split(stated)
    assert np.array_equal(split.test, np.flatnonzero(np.array(splits) == "test"))
    assert disjoint(split, stated.patients)
    assert set(stated.labels[split.train]) == set(stated.labels) and len(split.val)
    assert any("validation carved from train with seed 0" in note for note in split.notes)
    without = make_split(stated, needs=("train", "test"))
    assert not len(without.val) and len(without.train) == splits.count("train")


def test_labels_of_test_do_not_move_a_carved_validation() -> None:
    made = table(200, 30, 2)
    splits = by_patient(made, ["train", "train", "test"])
    stated = table(200, 30, 2, splits=splits)
    blank = Table(**{**vars(stated), "labels": np.where(stated.splits == "test", "", stated.labels)})
    assert np.array_equal(make_split(stated).val, make_split(blank).val)


def test_the_last_patient_of_a_class_stays_in_train() -> None:
    labels = ["rare"] * 5 + ["often"] * 95
    patients = ["one"] * 5 + [f"p{k % 19}" for k in range(95)]
    made = table(100, labels=labels, patients=patients)
    for seed in range(10):
        split = make_split(made, seed=seed)
        assert set(range(5)) <= set(split.train.tolist())


def test_a_class_of_several_patients_is_in_every_part() -> None:
    labels = ["rare"] * 3 + ["often"] * 97
    patients = ["r0", "r1", "r2"] + [f"p{k % 20}" for k in range(97)]
    made = table(100, labels=labels, patients=patients)
    for seed in range(10):
        split = make_split(made, seed=seed)
        assert all("rare" in made.labels[rows] for rows in (split.train, split.val, split.test))


def test_too_few_patients_are_said() -> None:
    with pytest.raises(CohortError, match="need 3 patients, but there are 2; add patients"):
        make_split(table(20, 2))
    with pytest.raises(CohortError, match="val and train need 2 patients, but there are 1"):
        made = table(20, 2)
        make_split(table(20, 2, splits=by_patient(made, ["train", "test"])))


def test_missing_and_unknown_parts_are_said() -> None:
    with pytest.raises(CohortError, match="puts no rows into test"):
        make_split(table(20, 20, splits=["train", "val"] * 10))
    with pytest.raises(CohortError, match="split holdout is none of train, val, test"):
        make_split(table(20, 20, splits=["train", "holdout"] * 10))
    with pytest.raises(CohortError, match=r"share is 0.6; give one between 0 and 0.5"):
        make_split(table(), share=0.6)


def test_rows_of_no_part_are_left_out_and_counted() -> None:
    made = table(60, 20)
    splits = by_patient(made, ["train", "val", "test", ""])
    split = make_split(table(60, 20, splits=splits))
    assert len(split.train) + len(split.val) + len(split.test) == 60 - splits.count("")
    assert f"{splits.count('')} of 60 rows are in no part" in split.notes[0]


def test_a_task_that_fits_nothing_judges_all_rows() -> None:
    split = make_split(table(), needs=("test",))
    assert len(split.test) == 60 and not len(split.train)


def mixed(seed: int, people: int) -> Table:
    """Patients of one to four classes each, of which the last is rare."""
    rng = np.random.default_rng(seed)
    owner, labels = [], []
    for person in range(people):
        has = rng.random(4) < (0.9, 0.5, 0.3, 0.2)
        has[0] |= not has.any()
        for name in np.flatnonzero(has).tolist():
            count = int(rng.integers(1, 30))
            owner += [f"p{person}"] * count
            labels += [f"c{name}"] * count
    return table(len(labels), 1, labels=labels, patients=owner)


def patients_of(made: Table, rows: np.ndarray | slice = slice(None)) -> dict[str, int]:
    labels, patients = made.labels[rows], made.patients[rows]
    return {str(name): len(set(patients[labels == name])) for name in np.unique(labels)}


@pytest.mark.parametrize("k", [2, 3, 5])
def test_folds_hold_whole_patients_and_every_class_is_in_several(k: int) -> None:
    seen = 0
    for seed in range(40):
        made = mixed(seed, 20)
        split = make_split(made, seed=seed)
        rows = np.concatenate([split.train, split.val])
        if min(patients_of(made, rows).values()) < k:
            continue
        seen += 1
        fold = folds(made, split, k, seed)
        assert set(fold.tolist()) == set(range(k)) and fold.shape == rows.shape
        for name in np.unique(made.patients[rows]):
            assert len(set(fold[made.patients[rows] == name])) == 1
        for name in np.unique(made.labels[rows]):
            assert len(set(fold[made.labels[rows] == name])) >= 2
        assert np.array_equal(fold, folds(made, split, k, seed))
    assert seen >= 5


def few(rare: int, splits: list[str]) -> Table:
    """Eight patients of the class often, and some of the class rare, in the parts given."""
    people = [f"o{k}" for k in range(8)] + [f"r{k}" for k in range(rare)]
    return table(
        2 * len(people), labels=np.repeat(["often"] * 8 + ["rare"] * rare, 2), patients=np.repeat(people, 2),
        splits=np.repeat((["train", "train", "val", "test"] * 2) + splits, 2),
    )  # fmt: skip


def test_fewer_patients_than_folds_are_refused_with_class_patients_folds_and_what_to_do() -> None:
    made = few(4, ["train", "train", "train", "test"])
    assert len(set(folds(made, make_split(made), 3).tolist())) == 3
    made = few(3, ["train", "train", "test"])
    with pytest.raises(
        CohortError,
        match=r"val holds no rare, and to choose on 3 folds by patient needs 3 patients of every class, but "
        r"train and val hold 2 of rare; add patients, set folds to 2, leave these classes out, or ask for no head",
    ):
        folds(made, make_split(made), 3)
    assert len(set(folds(made, make_split(made), 2).tolist())) == 2
    made = few(2, ["train", "test"])
    with pytest.raises(CohortError, match="hold 1 of rare; add patients, leave these classes out, or"):
        folds(made, make_split(made), 2)


def test_a_class_whose_patients_all_come_into_one_fold_is_refused() -> None:
    # two folds of three patients, each of whom lacks another class: the fold of two has all that one class has
    made = table(6, 1, labels=list("xyyzzx"), patients=list("aabbcc"))
    with pytest.raises(
        CohortError, match=r"all patients of z in train and val fall into one of the 2 folds .*; add others"
    ):
        folds(made, Split(np.arange(6), np.arange(0), np.arange(0)), 2)


def test_a_class_keeps_a_patient_for_validation_where_patients_have_several_classes() -> None:
    """Of 100 cohorts of ten patients, two lack a class in val that three patients have; seven, were none kept for it.
    Where every patient has one class none does.
    """
    lost = 0
    for seed in range(100):
        made = mixed(seed, 10)
        split = make_split(made, seed=seed)
        assert disjoint(split, made.patients)
        able = {name for name, count in patients_of(made).items() if count >= 3}
        assert able <= set(made.labels[split.train]) and able <= set(made.labels[split.test])
        lost += not able <= set(made.labels[split.val])
    assert lost <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["event", "censorship"])
@pytest.mark.parametrize("stated", [False, True])
def test_every_part_of_a_survival_study_holds_events(name: str, stated: bool) -> None:
    cohorts = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        died = rng.random(40) < 0.15
        owner = np.repeat(np.arange(40), rng.integers(1, 4, 40))
        tested = rng.permutation(40) < 10
        splits = np.where(tested[owner], "test", "train") if stated else None
        if died[~tested].sum() < 2 if stated else died.sum() < 3:
            continue
        cohorts += 1
        given = died if name == "event" else ~died
        made = table(
            len(owner), labels=None, patients=[f"p{k}" for k in owner], splits=splits,
            extra={"time": owner.astype(float), name: given[owner].astype(float)},
        )  # fmt: skip
        split = make_split(made, seed=seed)
        assert disjoint(split, made.patients)
        assert all(died[owner[rows]].any() for rows in (split.train, split.val, *(() if stated else (split.test,))))
        assert np.array_equal(split.val, make_split(made, seed=seed).val)
    assert cohorts > 100


def test_a_column_of_many_values_is_none_of_events() -> None:
    made = table(60, 20)
    numbered = table(60, 20, extra={"event": np.arange(60)})
    assert np.array_equal(make_split(made).test, make_split(numbered).test)


def test_labels_that_cannot_serve_are_said() -> None:
    made = table(60, 20)
    split = make_split(made)

    def labelled(labels: np.ndarray) -> Table:
        return Table(**{**vars(made), "labels": labels})

    with pytest.raises(CohortError, match="60 of 60 rows have no label"):
        check_labels(labelled(np.full(60, "")), split)
    with pytest.raises(CohortError, match=r"train has one class only \(x\)"):
        check_labels(labelled(np.full(60, "x")), split)
    new = made.labels.astype("<U9")
    new[split.test[0]] = "new"
    with pytest.raises(CohortError, match="test holds new, which train has not"):
        check_labels(labelled(new), split)


def test_carve_holds_the_share_of_single_images_nearly_exactly() -> None:
    labels = np.array(["a"] * 900 + ["b"] * 100)
    held = carve(np.arange(1000), labels, 0.2, seed=3)
    assert held[:900].sum() == pytest.approx(180, abs=1) and held[900:].sum() == pytest.approx(20, abs=1)


def test_carve_takes_one_when_every_group_is_the_last_of_a_class() -> None:
    held = carve(np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"]), 0.2, seed=0)
    assert held.sum() == 2


def test_deal_leaves_no_fold_empty() -> None:
    groups = np.array([0] * 50 + [1, 2, 3])
    assert set(deal(groups, np.array(["a"] * 53), 4, seed=0).tolist()) == {0, 1, 2, 3}


def test_carve_leaves_the_only_group_of_a_class_even_where_it_would_suit_all_others() -> None:
    # group 0 holds a fifth of each of 30 classes, and all of one more
    labels = [f"c{k}" for k in range(30)] * 5 + ["rare"]
    groups = np.append(np.repeat([0, 1, 2, 3, 4], 30), 0)
    for seed in range(40):
        held = carve(groups, np.array(labels), 0.2, seed)
        assert held.any() and not held[groups == 0].any()
