"""Intervals by patient: against scipy, by coverage of a known difference in simulated data, and at the edges."""

import math

import numpy as np
import pytest

from g2l.errors import G2LError
from g2l.evaluation.statistics.bootstrap import (
    FEWEST_PATIENTS,
    difference,
    difference_of,
    interval,
    interval_of,
    resample,
)


def share(columns) -> dict[str, float]:
    return {"share": float(np.mean(columns["right"]))}


def recall_of_both(columns) -> dict[str, float]:
    """Undefined as soon as one class is missing, as the AUC is."""
    truth = columns["truth"]
    classes = [columns["right"][truth == name] for name in ("a", "b")]
    return {"recall": float(np.mean([c.mean() for c in classes])) if all(map(len, classes)) else math.nan}


def predictions(right: np.ndarray, patients: np.ndarray, **columns):
    ids = np.array([f"{number:05d}" for number in range(len(right))])
    return {"id": ids, "patient": np.asarray(patients).astype(str), "right": right} | columns


def test_one_unit_a_patient_is_the_textbook_bootstrap() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).exponential(size=60)
    ours = interval(share, predictions(values, np.arange(60)), resamples=8000)["share"]
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=8000, rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_whole_patients_are_drawn_with_all_their_units() -> None:
    seen = []

    def watch(columns) -> dict[str, float]:
        seen.append(columns["patient"])
        return {"n": float(len(columns["right"]))}

    patients = np.repeat(np.arange(12), np.arange(1, 13))
    resample(watch, predictions(np.ones(78), patients), resamples=50)
    sizes = dict(zip(*np.unique(patients.astype(str), return_counts=True), strict=True))
    for drawn in seen[1:]:
        names, counts = np.unique(drawn, return_counts=True)
        times = [count / sizes[name] for name, count in zip(names, counts, strict=True)]
        assert sum(times) == 12 and all(number.is_integer() for number in times)
    assert len({len(drawn) for drawn in seen[1:]}) > 5


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    rng = np.random.default_rng(2)
    rows = predictions(rng.random(90), np.repeat(np.arange(30), 3))
    shuffle = rng.permutation(90)
    mixed = {name: column[shuffle] for name, column in rows.items()}
    first = interval(share, rows, resamples=200)["share"]
    assert first[:4] == pytest.approx(interval(share, mixed, resamples=200)["share"][:4], abs=1e-12)
    assert first != interval(share, rows, resamples=200, seed=1)["share"]


def coverage(
    patients: int, each: int, spread: float, by_patient: bool, studies: int = 500, resamples: int = 600
) -> float:
    """Share of simulated studies whose 95 % interval of the difference of two models holds the true one, .05.

    A unit's score is the patient's effect on the model plus noise. All studies are measured in one go: they are columns
    of a matrix, and the metric of each is the mean of its column.
    """
    rng = np.random.default_rng(7)
    units = patients * each
    owner = np.repeat(np.arange(patients), each)

    def model(mean: float) -> np.ndarray:
        return mean + spread * rng.normal(size=(patients, studies))[owner] + rng.normal(size=(units, studies))

    better, worse = model(0.05), model(0.0)

    def measure_of(matrix: np.ndarray):
        def measure(columns) -> dict[str, float]:
            means = np.bincount(columns["row"], minlength=units) @ matrix / len(columns["row"])
            return dict(enumerate(means.tolist()))  # type: ignore[return-value]

        return measure

    rows = predictions(np.ones(units), owner if by_patient else np.arange(units), row=np.arange(units))
    one, other = (resample(measure_of(matrix), rows, resamples) for matrix in (better, worse))
    found = [difference_of(one, other, study) for study in range(studies)]  # type: ignore[arg-type]
    return float(np.mean([each.low <= 0.05 <= each.high for each in found]))


def test_it_covers_a_known_difference_as_often_as_it_says() -> None:
    # 500 studies: a true .95 shows as .95 +- .02 (two standard errors); 60 patients cost the percentile interval 1 %
    assert coverage(patients=60, each=8, spread=0.7, by_patient=True) == pytest.approx(0.945, abs=0.025)


def test_drawing_units_instead_would_cover_far_less() -> None:
    # the variance of the mean is 1 + 8 x .49 = 4.9 times what units that know nothing of each other would have
    assert coverage(patients=60, each=8, spread=0.7, by_patient=False) < 0.75


@pytest.mark.parametrize(("patients", "expected"), [(10, 0.90), (20, 0.93)])
def test_few_patients_cover_less_and_the_module_says_how_much(patients: int, expected: float) -> None:
    assert coverage(patients, each=1, spread=0.0, by_patient=True) == pytest.approx(expected, abs=0.03)


def test_pairing_shortens_the_interval_of_the_difference() -> None:
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(40), 5)
    hard = rng.normal(size=40)[owner]
    a = predictions(hard + 0.1 * rng.normal(size=200) + 0.1, owner)
    b = predictions(hard + 0.1 * rng.normal(size=200), owner)
    alone = interval(share, a)["share"]
    paired = difference(share, a, b)["share"]
    assert paired.excludes_zero and paired.low < 0.1 < paired.high
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    mirrored = difference(share, b, a)["share"]
    assert (mirrored.low, mirrored.high) == pytest.approx((-paired.high, -paired.low))


def test_a_model_does_not_differ_from_itself() -> None:
    rows = predictions(np.random.default_rng(4).random(50), np.arange(50))
    assert difference(share, rows, rows)["share"][:3] == (0, 0, 0)
    assert not difference(share, rows, rows)["share"].excludes_zero


def test_resamples_of_one_class_are_left_out_and_counted() -> None:
    truth = np.array(["a"] * 37 + ["b"] * 3)
    rows = predictions(np.random.default_rng(5).random(40), np.arange(40), truth=truth)
    found = interval(recall_of_both, rows, resamples=4000)["recall"]
    assert found.undefined == pytest.approx((37 / 40) ** 40, abs=0.012)  # no b drawn: 4.4 %
    assert found.low < found.value < found.high and not found.why


def test_no_interval_where_it_would_be_a_selection() -> None:
    rows = predictions(np.ones(40), np.arange(40), truth=np.array(["a"] * 39 + ["b"]))
    found = interval(recall_of_both, rows)["recall"]
    assert found.value == 1 and math.isnan(found.low) and "of the resamples give no value" in found.why
    assert found.undefined == pytest.approx(math.exp(-1), abs=0.05)
    one_class = interval(recall_of_both, rows | {"truth": np.full(40, "a")})["recall"]
    assert math.isnan(one_class.value) and "undefined" in one_class.why


def test_few_patients_get_no_interval_however_many_patches_they_have() -> None:
    rows = predictions(np.random.default_rng(6).random(900), np.repeat(np.arange(9), 100))
    found = interval(share, rows)["share"]
    assert math.isnan(found.low) and not found.excludes_zero
    assert found.why == f"9 patients are too few to resample; {FEWEST_PATIENTS} are needed"


def test_other_units_are_refused_by_name() -> None:
    rows = predictions(np.ones(20), np.arange(20), truth=np.array(["a", "b"] * 10))
    fewer = {name: column[:-2] for name, column in rows.items()}
    with pytest.raises(G2LError, match="only one has 00018, 00019"):
        difference(share, rows, fewer)
    with pytest.raises(G2LError, match=r"same patients; they differ for 00000, .* and 15 more"):
        difference(share, rows, rows | {"patient": rows["patient"][::-1]})
    with pytest.raises(G2LError, match="same labels"):
        difference(share, rows, rows | {"truth": rows["truth"][::-1]})
    with pytest.raises(G2LError, match="one seed and number"):
        difference_of(resample(share, rows, 10), resample(share, rows, 20), "share")


def test_bad_predictions_are_one_clear_line() -> None:
    rows = predictions(np.ones(3), np.arange(3))
    with pytest.raises(G2LError, match="an id occurs twice: 00000"):
        interval(share, rows | {"id": np.array(["00000", "00000", "1"])})
    with pytest.raises(G2LError, match="units without a patient: 00001"):
        interval(share, rows | {"patient": np.array(["p", "", "q"])})
    with pytest.raises(G2LError, match="no predictions"):
        interval(share, {name: column[:0] for name, column in rows.items()})


def test_progress_wraps_the_resamples() -> None:
    counted = []

    def progress(numbers):
        for number in numbers:
            counted.append(number)
            yield number

    sample = resample(share, predictions(np.ones(12), np.arange(12)), 30, progress=progress)
    assert counted == list(range(30)) and interval_of(sample, "share").value == 1
