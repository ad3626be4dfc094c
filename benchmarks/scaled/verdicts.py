"""What pooled results say of every arm: plain JSON for results.json, of which tables and figures are made.

Letters: S seeds, B resamples, C comparisons.

Two sources of luck stand side by side, since no single interval holds both honestly with a handful of seeds:

* groups: the 95 % percentile interval over B draws of groups, the seeds as they are; differences are paired, as all
  arms see the same draws. Only this one decides what an arm is called.
* seeds: mean, least and most over S splits and trainings, how many of them an arm won, and Student's t interval of the
  mean difference. Seeds share groups to train on, so this too is rough.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from g2l.evaluation.report.measured import Measured, measure_all
from g2l.evaluation.report.study import make_study
from g2l.evaluation.results import read_results
from g2l.evaluation.statistics.bootstrap import LEVEL, RESAMPLES, Interval
from g2l.evaluation.statistics.ranks import DECIMALS, average_ranks
from scaled.scores import CONTEXT, REFERENCE, SCORES, Score, by_seed, results_of
from scaled.telling import counted_out, sentence

Plain = dict[str, Any]


def judge(pooled: Path, reference: str = REFERENCE, resamples: int = RESAMPLES) -> Plain:
    """Every arm by every score, against the reference, and in words.

    Args:
        pooled: folder that `pool` has written.
    Returns:
        plain JSON, None where undefined:
        * reference, seeds (names), level, resamples, groups: how many were drawn from.
        * scores: name -> short, task, method, key, ranked, interval (whether there is one by group).
        * arms: name -> parameters, ms (per image), device, context (`scores.CONTEXT`), rank (mean, min, max, by seed),
          verdict (a sentence), scores: name -> value (pooled; the mean over seeds where nothing is pooled), low, high,
          mean, min, max, seeds (by seed), difference: None for the reference, else value, low, high, wide_low,
          wide_high (`together`), mean, min, max, t_low, t_high, seeds, won, lost.
        * comparisons: made (differences with an interval, of arms that are no context), apart (it excludes 0),
          by_chance (as many would if no arm differed), over_seeds (apart, and t on the same side), together (widened by
          `factor` standard errors), text.
    Raises:
        G2LError: results that do not belong together, or lack a score. ConfigError: no such reference.
    """
    study = make_study(read_results([pooled]), reference)
    measured = measure_all(study, resamples)
    first = study.tasks[0].first
    found: Plain = {
        "reference": reference,
        "seeds": list(first.about["seeds"]),
        "level": LEVEL,
        "resamples": resamples,
        "groups": {task.name: measured.samples[task.name, task.main, reference].count for task in study.tasks},
        "scores": {},
        "arms": {name: _arm(name, about) for name, about in study.encoders.items()},
    }
    draws: dict[tuple[str, str], tuple[float, NDArray[np.float64]]] = {}
    for score in SCORES:
        results = results_of(study, score)
        seeds = {arm: by_seed(result, score) for arm, result in results.items()}
        for arm, row in found["arms"].items():
            row["scores"][score.name] = _value(measured, results[arm], score, seeds[arm])
            if arm != reference:
                apart, drawn = _difference(measured, results[arm], results[reference], score)
                over = _over_seeds(_minus(seeds[arm], seeds[reference]))
                if score.key not in results[arm].metrics:
                    apart["value"] = over["mean"]
                row["scores"][score.name]["difference"] = apart | over
                if apart["low"] is not None and arm not in CONTEXT:
                    draws[arm, score.name] = apart["value"], drawn
        interval = any(row["scores"][score.name]["low"] is not None for row in found["arms"].values())
        found["scores"][score.name] = score._asdict() | {"interval": interval}
    found["comparisons"] = _together(found["arms"], draws)
    _rank(found)
    found["comparisons"]["text"] = counted_out(found)
    for arm, row in found["arms"].items():
        row["verdict"] = sentence(arm, found)
    return found


def together(values: Sequence[float], drawn: Sequence[NDArray[np.float64]], level: float = LEVEL) -> float:
    """How many standard errors wide C intervals must be to hold all at once in `level` of the draws.

    The largest |drawn - value| / standard error of the C differences, draw by draw; its quantile at `level`. What moves
    together (arms share their reference, scores their patches) needs less than Bonferroni's C separate intervals.

    Args:
        values: C differences. drawn: of each, (B,) on the same draws, nan where undefined.
    Returns:
        the factor; nan where no difference varies.
    Source: Romano and Wolf 2005, studentised, in a single step.
    """
    apart = [
        np.abs(one - value) / one[~np.isnan(one)].std(ddof=1)
        for value, one in zip(values, drawn, strict=True)
        if np.nanstd(one) > 10.0**-DECIMALS
    ]
    return float(np.quantile(np.nan_to_num(apart, nan=0.0).max(axis=0), level)) if apart else math.nan


def _arm(name: str, about: Mapping[str, Any]) -> Plain:
    speed = about.get("images_per_second")
    return {
        "parameters": about.get("parameters"),
        "ms": 1000 / speed if speed else None,
        "device": about.get("device") or None,
        "context": name in CONTEXT,
        "rank": None,
        "verdict": "",
        "scores": {},
    }


def _value(measured: Measured, result: Any, score: Score, seeds: Mapping[str, float | None]) -> Plain:
    """The pooled value with its interval, and the seeds'. A fact is no metric of rows: its value is the seeds' mean."""
    spread = _spread(seeds)
    if score.key in result.metrics:
        one = measured.interval(result, score.key)
    else:
        one = Interval(_number(spread["mean"]), math.nan, math.nan, 1.0, "")
    return {**_plain(one), **spread, "seeds": dict(seeds), "difference": None}


def _difference(measured: Measured, a: Any, b: Any, score: Score) -> tuple[Plain, NDArray[np.float64]]:
    """Of the pooled values with its interval, and its draws; without a value for facts (`_over_seeds` has it)."""
    none = {"wide_low": None, "wide_high": None}
    one = measured.difference(a, b, score.key)
    if one is None:
        return _plain(Interval(math.nan, math.nan, math.nan, 1.0, "")) | none, np.empty(0)
    samples = [measured.samples[result.task, result.method, result.encoder] for result in (a, b)]
    return _plain(one) | none, samples[0].drawn[score.key] - samples[1].drawn[score.key]


def _minus(a: Mapping[str, float | None], b: Mapping[str, float | None]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, value in a.items():
        other = b[name]
        found[name] = None if value is None or other is None else _known(value - other)
    return found


def _over_seeds(apart: Mapping[str, float | None]) -> Plain:
    """The seeds' differences: mean, least, most, Student's t interval of the mean, seeds won and lost."""
    from scipy.stats import t

    spread, values = _spread(apart), [value for value in apart.values() if value is not None]
    low = high = None
    if len(values) > 1 and len(values) == len(apart):
        half = float(t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
        low, high = mean(values) - half, mean(values) + half
    signs = np.sign(np.round(values, DECIMALS))
    won, lost = int((signs > 0).sum()), int((signs < 0).sum())
    return {**spread, "t_low": low, "t_high": high, "seeds": dict(apart), "won": won, "lost": lost}


def _together(arms: dict[str, Plain], draws: Mapping[tuple[str, str], tuple[float, NDArray[np.float64]]]) -> Plain:
    """Widen every interval of a difference; count those of arms that are no context."""
    factor = together([value for value, _ in draws.values()], [drawn for _, drawn in draws.values()])
    alone = widened = steady = 0
    for (arm, score), (value, drawn) in draws.items():
        apart = arms[arm]["scores"][score]["difference"]
        error = float(np.nanstd(drawn, ddof=1))
        wide = Interval(value, value - factor * error, value + factor * error, 0.0, "")
        apart |= {"wide_low": _known(wide.low), "wide_high": _known(wide.high)}
        sides = [_side(apart[f"{kind}low"], apart[f"{kind}high"]) for kind in ("", "t_")]
        alone += sides[0] != 0
        steady += sides[0] == sides[1] != 0
        widened += wide.excludes_zero
    return {
        "made": len(draws),
        "apart": alone,
        "by_chance": (1 - LEVEL) * len(draws),
        "over_seeds": steady,
        "together": widened,
        "factor": _known(factor),
    }


def _side(low: float | None, high: float | None) -> int:
    """On which side of 0 an interval lies; 0 where it holds 0, or there is none."""
    return 0 if low is None or high is None else (low > 0) - (high < 0)


def _rank(found: Plain) -> None:
    """Each seed's mean rank over the ranked scores among the arms that are no context, 1 the best, ties shared."""
    arms = [name for name, row in found["arms"].items() if not row["context"]]
    scores = [name for name, score in found["scores"].items() if score["ranked"]]
    rows = {arm: found["arms"][arm]["scores"] for arm in arms}
    ranks: dict[str, dict[str, float]] = {arm: {} for arm in arms}
    for seed in found["seeds"]:
        table = [[_number(rows[arm][score]["seeds"][seed]) for arm in arms] for score in scores]
        for arm, rank in zip(arms, average_ranks(table).tolist(), strict=True):
            ranks[arm][seed] = rank
    for arm, seeds in ranks.items():
        found["arms"][arm]["rank"] = {**_spread(seeds), "seeds": seeds}


def _spread(seeds: Mapping[str, float | None]) -> Plain:
    """Mean, least and most; all undefined where one of them is."""
    values = [value for value in seeds.values() if value is not None]
    if not values or len(values) < len(seeds):
        return {"mean": None, "min": None, "max": None}
    return {"mean": mean(values), "min": min(values), "max": max(values)}


def _plain(one: Interval) -> Plain:
    return {name: _known(getattr(one, name)) for name in ("value", "low", "high")}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
