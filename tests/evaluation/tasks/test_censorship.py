"""Labels of survival: what is read, what is refused, and how often exchanged ones are noticed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sksurv import datasets

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.table import Table
from g2l.evaluation.tasks.censorship import check_censorship, exchanged, read_follow_up

Cohort = tuple[np.ndarray, np.ndarray]


def table(time: list, status: list, name: str = "event", patients: list[str] | None = None) -> Table:
    paths = [Path(f"/made/s{k:03d}.svs") for k in range(len(time))]
    people = patients or [f"p{k}" for k in range(len(time))]
    extra = {"time": np.array(time), name: np.array(status)}
    return Table.build("made", paths, Path("/made"), extra=extra, patients=np.array(people))


@pytest.mark.parametrize(
    ("name", "role", "status"),
    [
        ("event", "event", [1.0, 0.0, 1.0, 0.0]),
        ("event", "event", ["1", "0", "1", "0"]),
        ("died", "event", [True, False, True, False]),
        ("OS_STATUS", "event", ["1:DECEASED", "0:LIVING", "1:DECEASED", "0:LIVING"]),
        ("DSS_STATUS", "event", ["1:DEAD WITH TUMOR", "0:ALIVE OR DEAD TUMOR FREE"] * 2),
        ("vital", "event", ["Dead", "Alive", "dead", " alive"]),
        ("progression", "event", ["event", "no event", "event", "no event"]),
        ("censorship", "censorship", [0.0, 1.0, 0.0, 1.0]),
        ("state", "censorship", ["uncensored", "censored", "uncensored", "censored"]),
    ],
)
def test_who_died_is_read_from_what_the_values_say(name: str, role: str, status: list) -> None:
    given = {"event": None, "censorship": None, role: name}
    made = read_follow_up(table([1, 2, 3, 4], status, name), "time", observed=None, **given)
    assert made.event.tolist() == [True, False, True, False] and made.time.tolist() == [1, 2, 3, 4]
    assert made.notes[0].startswith("2 of 4 patients (50%) have an observed event")


def test_the_user_may_state_which_values_are_events() -> None:
    made = read_follow_up(table([1, 2, 3, 4], ["x", "y", "z", "y"], "state"), "time", "state", None, ["x", "z"])
    assert made.event.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (["1", "2", "3", "1"], r"column event holds 3 values \(1, 2, 3\) and cannot be censorship"),
        (["a", "b", "a", "b"], r"column event does not say what 'a', 'b' means; state observed"),
        ([0, 0, 0, 0], r"column event: all 4 patients are censored"),
        ([1, 1, 1, 1], r"all 4 patients have an observed event, nobody is censored; exchange .* observed: \['1'\]"),
        (["1", "", "0", "1"], r"column event is empty for 1 rows \(s001.svs\)"),
        ([1.0, np.nan, 0.0, 1.0], r"column event is empty for 1 rows \(s001.svs\)"),
    ],
)
def test_a_column_that_cannot_be_censorship_is_refused(status: list, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read_follow_up(table([1, 2, 3, 4], status), "time", "event", None, None)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ([1, np.nan, 3, np.inf], r"column time gives no time for 2 rows \(s001.svs, s003.svs\)"),
        ([1, -2, 3, 4], r"column time gives a negative time for 1 rows \(s001.svs\)"),
        (["1", "2", "3", "later"], r"column time holds text"),
    ],
)
def test_times_that_cannot_be_are_refused(time: list, message: str) -> None:
    with pytest.raises(CohortError, match=message):
        read_follow_up(table(time, [1, 0, 1, 0]), "time", "event", None, None)


def test_what_is_missing_or_said_twice() -> None:
    made = table([1, 2, 3, 4], [1, 0, 1, 0])
    with pytest.raises(CohortError, match=r"has no column months and no column dead \(further columns: event, time\)"):
        read_follow_up(made, "months", "dead", None, None)
    for event, censorship in ((None, None), ("event", "censorship")):
        with pytest.raises(ConfigError, match="one of event"):
            read_follow_up(made, "time", event, censorship, None)


def test_a_name_that_says_the_opposite_of_the_setting_is_refused_unless_stated() -> None:
    for name, role in (("censorship", "event"), ("OS", "censorship"), ("dead_at_end", "censorship")):
        made, given = table([1, 2, 3, 4], [1, 0, 1, 0], name), {"event": None, "censorship": None, role: name}
        with pytest.raises(CohortError, match=rf"column {name} is given as {role} .* its name says the opposite"):
            read_follow_up(made, "time", observed=None, **given)
        assert read_follow_up(made, "time", observed=["1"], **given).event.tolist() == [True, False, True, False]


def test_values_that_contradict_the_user_are_refused() -> None:
    made = table([1, 2, 3, 4], ["1:DECEASED", "0:LIVING"] * 2)
    with pytest.raises(CohortError, match=r"observed states 0:LIVING, but '0:living' says the opposite"):
        read_follow_up(made, "time", "event", None, ["0:LIVING"])


def test_slides_of_one_patient_must_agree_and_count_once() -> None:
    people = ["a", "a", "b", "c"]
    made = read_follow_up(table([1, 1, 3, 4], [1, 1, 1, 0], patients=people), "time", "event", None, None)
    assert made.notes[0].startswith("2 of 3 patients (67%)")
    with pytest.raises(CohortError, match=r"different time or event for 1 patients \(a\)"):
        read_follow_up(table([1, 2, 3, 4], [1, 1, 1, 0], patients=people), "time", "event", None, None)


def staggered(rng: np.random.Generator, count: int, hazard: float) -> Cohort:
    """Entry over five years, then the end of the study."""
    return _ended(rng.exponential(1 / hazard, count), rng.uniform(0, 5, count))


def fixed(rng: np.random.Generator, count: int, hazard: float) -> Cohort:
    """Five years each, a few lost before."""
    return _ended(rng.exponential(1 / hazard, count), np.minimum(5, rng.exponential(20, count)))


def random_loss(rng: np.random.Generator, count: int, hazard: float) -> Cohort:
    """Patients are lost at a constant rate, and there is no end."""
    return _ended(rng.exponential(1 / hazard, count), rng.exponential(2, count))


def rising(rng: np.random.Generator, count: int, hazard: float) -> Cohort:
    """A hazard that rises, entry over five years."""
    return _ended(rng.weibull(1.5, count) / hazard, rng.uniform(0, 5, count))


def _ended(died: np.ndarray, left: np.ndarray) -> Cohort:
    return np.minimum(died, left), died <= left


def rates(make: Callable[..., Cohort], count: int, hazard: float, cohorts: int = 200) -> dict[str, float]:
    """Shares of the cohorts that are refused and doubted, as they are and exchanged."""
    found = {"refused": 0, "doubted": 0, "refused when exchanged": 0, "doubted when exchanged": 0}
    for seed in range(cohorts):
        time, event = make(np.random.default_rng(seed), count, hazard)
        for when, labels in (("", event), (" when exchanged", ~event)):
            doubt = exchanged(time, labels)
            found[f"refused{when}"] += doubt.sure
            found[f"doubted{when}"] += bool(doubt.text)
    return {name: hits / cohorts for name, hits in found.items()}


@pytest.mark.parametrize("make", [staggered, fixed, random_loss, rising])
@pytest.mark.parametrize("hazard", [0.15, 0.6])
def test_honest_cohorts_pass(make: Callable[..., Cohort], hazard: float) -> None:
    """200 cohorts of 200 and 500 patients, 22 to 71 % of them dead."""
    for count in (200, 500):
        found = rates(make, count, hazard)
        assert found["refused"] <= 0.01
        # a rising hazard of many deaths is doubted in words, and may be: deaths do come late
        assert found["doubted"] <= (0.03 if make is not rising else 0.6)


@pytest.mark.slow
def test_exchanged_labels_are_noticed_where_a_study_has_an_end() -> None:
    assert rates(fixed, 200, 0.15)["refused when exchanged"] == 1
    assert rates(fixed, 200, 0.3)["refused when exchanged"] == 1
    # where 88 % died there are at times fewer than five left at the end
    assert rates(fixed, 200, 0.6)["refused when exchanged"] >= 0.9
    for hazard in (0.15, 0.3):
        assert rates(staggered, 200, hazard)["doubted when exchanged"] >= 0.7
        assert rates(staggered, 500, hazard)["doubted when exchanged"] >= 0.98
    # nothing in the times tells constant losses from constant deaths: no test can do better than this
    assert rates(random_loss, 500, 0.5)["doubted when exchanged"] < 0.05


def real(name: str) -> Cohort:
    load, _, endpoint = name.partition("-")
    y = getattr(datasets, f"load_{load}")(**({"endpoint": endpoint} if endpoint else {}))[1]
    event, time = y.dtype.names[:2]
    return y[time].astype(float), y[event].astype(bool)


@pytest.mark.parametrize("name", ["gbsg2", "whas500", "flchain", "breast_cancer", "aids-aids", "aids-death"])
def test_published_cohorts_pass_and_are_refused_when_exchanged(name: str) -> None:
    """Cohorts that scikit-survival ships: breast cancer, infarction, blood, HIV."""
    time, event = real(name)
    assert exchanged(time, event).text == ""
    assert len(check_censorship(time, event, "event")) == 1
    with pytest.raises(CohortError, match="exchange event and censorship"):
        check_censorship(time, ~event, "event")
    assert check_censorship(time, ~event, "event", "the user states that it is right")[1].endswith("it is right")


def test_where_hardly_anybody_is_censored_nothing_can_be_told() -> None:
    """Veterans' lung cancer: 128 of 137 died. Neither way is refused; the event rate in the notes must be looked at."""
    time, event = real("veterans_lung_cancer")
    assert not exchanged(time, event).text and not exchanged(time, ~event).text


def test_everybody_dead_at_the_end_of_the_study_is_refused() -> None:
    time = np.r_[np.linspace(0.1, 4, 50), np.full(10, 5.0)]
    event = np.r_[np.arange(50) % 2 == 0, np.ones(10, bool)]
    with pytest.raises(CohortError, match=r"10 patients share the longest time \(5\) and all have an event at it"):
        check_censorship(time, event, "event")
    event[50:] = False
    assert len(check_censorship(time, event, "event")) == 1


def lost_early(count: int) -> Cohort:
    """Half are lost in the first year, all others followed until they died: what exchanged labels look like as well."""
    rng = np.random.default_rng(0)
    return _ended(60 * rng.weibull(1.5, count), np.where(rng.random(count) < 0.5, rng.uniform(0, 12, count), np.inf))


@pytest.mark.parametrize(("died", "alive"), [("1:DECEASED", "0:LIVING"), ("dead", "alive"), ("event", "no event")])
def test_values_that_say_what_they_mean_are_believed_with_a_note(died: str, alive: str) -> None:
    time, event = lost_early(200)
    made = read_follow_up(table(time.tolist(), np.where(event, died, alive).tolist()), "time", "event", None, None)
    assert made.event.tolist() == event.tolist()
    assert "as if the two were exchanged; its values say themselves which are events" in made.notes[1]
    everybody = read_follow_up(table(time.tolist(), [died] * 200), "time", "event", None, None)
    assert "nobody is censored; its values say themselves" in everybody.notes[1]


def test_a_bare_one_must_be_confirmed_and_the_message_says_how() -> None:
    time, event = lost_early(200)
    made = table(time.tolist(), event.astype(float).tolist())
    with pytest.raises(CohortError, match=r"many lost early .* confirm them by observed: \['1'\]$") as raised:
        read_follow_up(made, "time", "event", None, None)
    assert "\n" not in str(raised.value)
    assert read_follow_up(made, "time", "event", None, ["1"]).notes[1].endswith("the user states that it is right")
    turned = table(time.tolist(), (~event).tolist(), "censorship")
    with pytest.raises(CohortError, match=r"confirm them by observed: \['false'\]$"):
        read_follow_up(turned, "time", None, "censorship", None)
    assert read_follow_up(turned, "time", None, "censorship", ["false"]).event.tolist() == event.tolist()


def test_rounded_times_are_no_end_of_a_study() -> None:
    """Deaths within four years in whole years, a tenth lost before: the last year is one of four."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        died = np.minimum(np.ceil(rng.exponential(0.9, 400)), 4)
        left = np.where(rng.random(400) < 0.1, np.ceil(rng.uniform(0, 3, 400)), np.inf)
        assert not exchanged(*_ended(died, left)).sure


def test_the_end_of_a_study_is_noticed_in_whole_years() -> None:
    """Five years of follow-up in completed years: whoever reached the end is alive, and half did."""
    for seed in range(50):
        time, event = fixed(np.random.default_rng(seed), 200, 0.15)
        assert exchanged(np.floor(time), ~event).sure and not exchanged(np.floor(time), event).sure
