"""Who died and who was only followed: reading the labels of survival, and refusing those that cannot be.

Letters: N rows, P patients.

Inverted censorship labels give plausible figures (one published C-index rests on them), and nothing later would notice.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.table import SHOWN, Table

YES, NO = frozenset({"1", "true", "yes"}), frozenset({"0", "false", "no"})
_DIED = re.compile(r"\b(dead|deceased|died|death|event|progress\w*|recur\w*|relapse\w*|uncensored|observed)\b")
_ALIVE = re.compile(r"\b(alive|living|censored|disease ?free|unobserved)\b")
# Column names that say what a 1 in them means
_NAMED_CENSORED = re.compile(r"(?<!un)cens")
_NAMED_EVENT = re.compile(r"event|death|dead|died|deceas|recur|progress|relapse|uncens|^(os|pfi|dss|dfi|pfs|dfs)\b")

# Where a study ends, those still alive are censored there: the longest times end in censoring. With exchanged labels
# nearly all of the longest fifth are deaths, and deaths come far later than censorings.
TAIL, TAIL_EVENTS, TAIL_P, TAIL_RATIO = 0.2, 0.8, 1e-4, 3
LATER, LATER_P = 0.7, 1e-4
DOUBT_P = 0.01
# So many patients with one and the same longest time are the end of a study, which nobody dies of; unless times are
# rounded, when any time is shared by nearly as many.
END_PATIENTS, END_RATIO = 5, 3


class FollowUp(NamedTuple):
    """Time and event (observed, not censored) of every row, and what a report must say of them."""

    time: NDArray[np.float64]
    event: NDArray[np.bool_]
    notes: list[str]


class Doubt(NamedTuple):
    """What speaks against labels ("" nothing), and whether it is enough to refuse them."""

    sure: bool
    text: str


def read_follow_up(
    table: Table, time: str, event: str | None, censorship: str | None, observed: Sequence[str] | None
) -> FollowUp:
    """Times and events of the rows, checked.

    Args:
        time, event, censorship: columns of `table.extra`; one of `event` (1 observed) and `censorship` (1 censored).
        observed: the values that mean that the event was observed, where they do not say so themselves.
    Returns:
        (N,) each; all rows of a patient agree.
    Raises:
        ConfigError: not one of event and censorship.
        CohortError: labels that cannot be, or that look exchanged.
    """
    if (event is None) == (censorship is None):
        raise ConfigError("survival: give one of event (1 = observed) and censorship (1 = censored), and not both")
    column = event or censorship or ""
    missing = [name for name in (time, column) if name not in table.extra]
    if missing:
        raise CohortError(
            f"table {table.name} has no column {' and no column '.join(missing)} (further columns: "
            f"{', '.join(sorted(table.extra)) or 'none'}); name the ones that hold time and event"
        )
    times = _times(table, time)
    died = _events(table, column, event is not None, observed)
    units, first, code = np.unique(table.units, return_index=True, return_inverse=True)
    torn = np.unique(code[(times != times[first][code]) | (died != died[first][code])])
    if torn.size:
        raise CohortError(
            f"table {table.name}: slides of one patient state different {time} or {column} for {torn.size} patients "
            f"({_shown(units[torn])}); give each patient one"
        )
    texts = {_plain(value): bool(is_event) for value, is_event in zip(table.extra[column].tolist(), died, strict=True)}
    stated = ""
    if observed is not None:
        stated = "the user states that it is right"
    elif all(_says(value) is not None for value in texts):
        stated = "its values say themselves which are events"
    means = [value for value, is_event in texts.items() if is_event]
    return FollowUp(times, died, check_censorship(times[first], died[first], column, stated, means))


def check_censorship(
    time: NDArray[np.float64],
    event: NDArray[np.bool_],
    column: str,
    stated: str = "",
    means: Sequence[str] = (),
) -> list[str]:
    """The event rate in words, and a doubt where there is one.

    Args:
        time, event: (P,) of every patient.
        column: for messages.
        stated: who says which values are events, where that is no mere 1 and 0: what is only likely is then a note.
        means: values of the column that were read as events, for the message that tells how to confirm them.
    Raises:
        CohortError: nobody died, nobody is censored, or (unless `stated`) the labels look exchanged.
    """
    died, count = int(event.sum()), len(event)
    if not died:
        raise CohortError(f"column {column}: all {count} patients are censored; no survival can be learned from them")
    rate = f"{died} of {count} patients ({died / count:.0%}) have an observed event"
    if died == count:
        notes, doubt = [rate], Doubt(True, f"all {count} patients have an observed event, nobody is censored")
    else:
        medians = f"median time {np.median(time[event]):.4g}, of the censored {np.median(time[~event]):.4g}"
        notes, doubt = [f"{rate}; {medians}"], exchanged(time, event)
    if doubt.sure and not stated:
        values = f": {list(means)}" if means else " (the values that mean an observed event)"
        raise CohortError(
            f"column {column}: {doubt.text}; exchange event and censorship, or, if the labels are right (many lost "
            f"early and all others followed until their event look the same), confirm them by observed{values}"
        )
    return [*notes, f"column {column}: {doubt.text}; {stated or 'check it'}"] if doubt.text else notes


def exchanged(time: NDArray[np.float64], event: NDArray[np.bool_]) -> Doubt:
    """Whether events and censorings look exchanged. Times alone cannot prove that they are, nor that they are not.

    Sure enough to refuse are: all patients at the end of the study (several with the longest time, three times as many
    as share the median time value, which rounded times do not reach) died at it; or at least 80 % of the longest fifth
    of the times are deaths, and either three times fewer are censored among them than among the others (hypergeometric,
    p < .0001) or a death comes after a censoring in 70 % of all pairs (Mann-Whitney, p < .0001). The latter is right,
    and must be confirmed, where many were lost early and all others followed until they died. A doubt only: deaths come
    later than censorings (p < .01), which is right where most patients were followed for a short time.

    Args:
        time, event: (P,), both kinds present.
    """
    from scipy.stats import hypergeom, mannwhitneyu

    count, died = len(time), int(event.sum())
    last = time == time.max()
    usual = float(np.median(np.unique(time, return_counts=True)[1]))
    if last.sum() >= max(END_PATIENTS, 0.02 * count, END_RATIO * usual) and event[last].all():
        return Doubt(
            True, f"{last.sum()} patients share the longest time ({time.max():.4g}) and all have an event at it"
        )
    tail = time >= np.quantile(time, 1 - TAIL)
    late, size = int(event[tail].sum()), int(tail.sum())
    rank = mannwhitneyu(time[event], time[~event], alternative="greater")
    later = float(rank.statistic) / (died * (count - died))
    p = float(hypergeom.sf(late - 1, count, died, size))
    fewer = (size - late) * (count - size) * TAIL_RATIO <= (count - died - size + late) * size
    if late >= TAIL_EVENTS * size and ((p < TAIL_P and fewer) or (later >= LATER and rank.pvalue < LATER_P)):
        rest = f"{died - late} of the {count - size} shorter ones"
        return Doubt(
            True,
            f"{late} of the {size} longest times end in an event and {rest}, and an event comes after a censoring in "
            f"{later:.0%} of all pairs, as if the two were exchanged",
        )
    if rank.pvalue < DOUBT_P:
        return Doubt(
            False, f"an event comes after a censoring in {later:.0%} of all pairs, as if the two were exchanged"
        )
    return Doubt(False, "")


def _times(table: Table, name: str) -> NDArray[np.float64]:
    try:
        times = np.asarray(table.extra[name]).astype(np.float64)
    except ValueError as error:
        raise CohortError(f"table {table.name}: column {name} holds text ({error}); give times as numbers") from error
    for what, bad in (("no time", ~np.isfinite(times)), ("a negative time", times < 0)):
        if bad.any():
            raise CohortError(
                f"table {table.name}: column {name} gives {what} for {bad.sum()} rows ({_shown(table.ids[bad])}); "
                "correct it, or leave them out"
            )
    return times


def _events(table: Table, name: str, means_event: bool, observed: Sequence[str] | None) -> NDArray[np.bool_]:
    """(N,) whether the event was observed, from what the values say or the user states."""
    texts = np.array([_plain(value) for value in table.extra[name].tolist()])
    empty = np.isin(texts, ("", "nan", "none"))
    if empty.any():
        raise CohortError(
            f"table {table.name}: column {name} is empty for {empty.sum()} rows ({_shown(table.ids[empty])}); fill it, "
            "or leave them out"
        )
    values = np.unique(texts).tolist()
    said = {value: _says(value) for value in values}
    if observed is not None:
        stated = {_plain(value) for value in observed}
        against = [v for v in values if said[v] is not None and said[v] != (v in stated)]
        if against:
            raise CohortError(
                f"column {name}: observed states {', '.join(map(str, observed))}, but {against[0]!r} says the "
                "opposite; correct observed"
            )
        return np.isin(texts, sorted(stated))
    if len(values) > 2:
        raise CohortError(
            f"table {table.name}: column {name} holds {len(values)} values ({_shown(np.array(values))}) and cannot be "
            "censorship; name another column, or state observed (the values that mean an observed event)"
        )
    bare = YES | NO
    unclear = [value for value in values if said[value] is None and value not in bare]
    if unclear:
        raise CohortError(
            f"table {table.name}: column {name} does not say what {', '.join(map(repr, unclear))} means; state "
            "observed (the values that mean an observed event)"
        )
    contrary = (_NAMED_CENSORED if means_event else _NAMED_EVENT).search(name.lower())
    if contrary and any(value in bare for value in values):
        setting, other = ("event", "censorship") if means_event else ("censorship", "event")
        raise CohortError(
            f"column {name} is given as {setting} (1 = {'observed' if means_event else 'censored'}), but its name says "
            f"the opposite; give it as {other}, or state observed (the values that mean an observed event)"
        )
    meaning = {value: said[value] if said[value] is not None else (value in YES) == means_event for value in values}
    return np.array([meaning[value] for value in texts.tolist()], np.bool_)


def _plain(value: object) -> str:
    """1.0, True and " 1 " are one value."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().lower()
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def _says(value: str) -> bool | None:
    """Whether a value itself says that the event was observed: "1:DECEASED" (cBioPortal), "dead"; None: it does not."""
    if value[:2] in ("0:", "1:"):
        return value[0] == "1"
    died, alive = _DIED.search(value), _ALIVE.search(value)
    if died and re.match(r"(no|not|never)\b", value):
        return False
    return None if bool(died) == bool(alive) else bool(died)


def _shown(values: NDArray) -> str:
    more = f" and {len(values) - SHOWN} more" if len(values) > SHOWN else ""
    return ", ".join(map(str, values[:SHOWN].tolist())) + more
