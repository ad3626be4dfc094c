"""Whole groups are held out, or the manifest's split is taken at its word, and refused where it tears a group."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.slides.cohort import Cohort
from g2l.slides.split import split_groups

MakeCohort = Callable[..., Cohort]
MASK = np.ones((8, 8), np.bool_)


def test_groups_stay_whole_and_every_row_is_somewhere() -> None:
    groups = [f"p{k % 7}" for k in range(40)]
    parts = split_groups("c", "patient", groups, 0.3, seed=1)
    assert sorted(parts["train"] + parts["val"]) == list(range(40)) and parts["test"] == []
    assert not {groups[i] for i in parts["train"]} & {groups[i] for i in parts["val"]}
    assert len({groups[i] for i in parts["val"]}) == 2


def test_the_same_groups_are_held_out_whatever_the_order_of_the_rows() -> None:
    groups = [f"p{k}" for k in range(20)]
    held = {groups[i] for i in split_groups("c", "patient", groups, 0.2, seed=3)["val"]}
    turned = groups[::-1]
    assert {turned[i] for i in split_groups("c", "patient", turned, 0.2, seed=3)["val"]} == held
    assert {groups[i] for i in split_groups("c", "patient", groups, 0.2, seed=4)["val"]} != held


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_each_part_has_at_least_one_group(fraction: float) -> None:
    parts = split_groups("c", "patient", ["a", "b", "b"], fraction, seed=0)
    assert parts["train"] and parts["val"]


def test_one_group_cannot_be_held_out(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([MASK] * 2, patient=["A", "A"])
    with pytest.raises(CohortError, match=r"all 2 slides have one patient \(A\)"):
        cohort.split()
    with pytest.raises(CohortError, match="between 0 and 1"):
        cohort.split(fraction=1.5)


def test_the_manifests_split_is_used(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([MASK] * 4, patient=["A", "B", "C", "A"], split=["train", "val", "test", "train"])
    assert cohort.split() == {"train": [0, 3], "val": [1], "test": [2]}


def test_a_patient_in_two_parts_is_refused_with_all_names(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([MASK] * 5, patient=list("ABABC"), split=["train", "val", "val", "test", "train"])
    with pytest.raises(CohortError, match=r"patient in more than one part .*: A \(train and val\), B \(test and val\)"):
        cohort.split()
    with pytest.raises(CohortError, match=r"holding out by name puts patients into two parts: A \(train and val\)"):
        cohort.split(hold_out="name")


def test_holding_out_slides_or_centres_keeps_patients_whole_or_is_refused(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([MASK] * 6, patient=list("AABBCC"), centre=list("xxyyzz"))
    assert sum(map(len, cohort.split(hold_out="centre").values())) == 6
    with pytest.raises(CohortError, match="hold out by patient"):
        cohort.split(hold_out="name", fraction=0.5)
    nameless = make_cohort([MASK] * 6)
    assert len(nameless.split(hold_out="name", fraction=0.5)["val"]) == 3


def test_incomplete_splits_are_refused(make_cohort: MakeCohort) -> None:
    with pytest.raises(CohortError, match="s1: None"):
        make_cohort([MASK] * 2, patient=["A", "B"], split=["train", None]).split()
    with pytest.raises(CohortError, match="no slides into val"):
        make_cohort([MASK] * 2, patient=["A", "B"], split=["train", "train"]).split()


def test_unknown_and_empty_columns(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([MASK] * 2, patient=["A", None])
    with pytest.raises(CohortError, match="no column 'hospital'; it has name, path, "):
        cohort.split(hold_out="hospital")
    with pytest.raises(CohortError, match=r"1 slides have no patient \(s1\); give it in the manifest"):
        cohort.split()


def test_another_process_opens_the_cohort_itself(make_cohort: MakeCohort) -> None:
    cohort = make_cohort([np.ones((400, 400), np.bool_)] * 3)
    sent = pickle.dumps(cohort)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).mask(2), cohort.mask(2))  # noqa: S301  our own, of a line ago


def test_slides_that_are_gone_are_counted_and_named(make_cohort: MakeCohort) -> None:
    with pytest.raises(CohortError, match=r"3 of 3 slides looked at are gone, first /nowhere/s0.tif; .*g2l index"):
        make_cohort([MASK] * 3).require_files()
    with pytest.raises(CohortError, match="2 of 2 slides"):
        make_cohort([MASK] * 5).require_files(probes=2)
