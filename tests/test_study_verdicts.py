"""What the study says of its arms: numbers against their own computation, sentences against the intervals."""

import copy
import importlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from study_seeds import ARMS, write_seeds

from g2l.errors import ConfigError, G2LError
from g2l.evaluation.results import place, read_result
from g2l.evaluation.statistics.bootstrap import difference

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
REFERENCE, RESAMPLES = "log-sum faithful", 300
METRICS = {  # score -> where it comes from
    "linear probe": ("tissue", "linear", "balanced accuracy"),
    "kNN": ("tissue", "knn", "balanced accuracy"),
    "retrieval": ("retrieval", "cosine", "mAP"),
    "neighbour overlap": ("like the teacher", "to_teacher", "neighbour overlap"),
    "robustness index": ("robustness", "neighbours", "robustness index"),
    "CKA": ("like the teacher", "to_teacher", "linear CKA"),
}
RANKED = ("linear probe", "kNN", "retrieval", "CKA", "robustness index")


@pytest.fixture(scope="module")
def scaled() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("pooling", "scores", "verdicts", "telling", "drawing")
        yield SimpleNamespace(**{name: importlib.import_module(f"scaled.{name}") for name in names})


@pytest.fixture(scope="module")
def folder(scaled: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verdicts")
    scaled.pooling.pool(write_seeds(place, 3), place / "pooled")
    return place


@pytest.fixture(scope="module")
def found(scaled: Any, folder: Path) -> dict[str, Any]:
    return scaled.verdicts.judge(folder / "pooled", resamples=RESAMPLES)


def of_seed(folder: Path, seed: str, arm: str, score: str) -> float:
    task, method, metric = METRICS[score]
    result = read_result(place(folder / seed / "results", task, arm) / method)
    return result.outcome.facts[metric] if score == "CKA" else result.metrics[metric]


@pytest.mark.parametrize("score", RANKED)
@pytest.mark.parametrize("arm", ["none", "alpha 2"])
def test_what_seeds_say_is_computed_from_their_results(
    found: dict[str, Any], folder: Path, arm: str, score: str
) -> None:
    mine, other = (
        [of_seed(folder, f"seed-{n}", name, score) for n in range(3)] for name in (arm, REFERENCE)
    )  # fmt: skip
    row = found["arms"][arm]["scores"][score]
    assert (row["mean"], row["min"], row["max"]) == pytest.approx((np.mean(mine), min(mine), max(mine)))
    apart, told = np.subtract(mine, other), row["difference"]
    assert (told["won"], told["lost"]) == ((apart > 1e-9).sum(), (apart < -1e-9).sum())
    assert (told["min"], told["max"]) == pytest.approx((min(apart), max(apart)))
    interval = stats.ttest_rel(mine, other).confidence_interval(0.95)  # type: ignore[attr-defined]
    assert (told["t_low"], told["t_high"]) == pytest.approx(tuple(interval))


@pytest.mark.parametrize("score", [score for score in METRICS if score != "CKA"])
def test_differences_are_drawn_by_group_over_all_seeds(found: dict[str, Any], folder: Path, score: str) -> None:
    task, method, metric = METRICS[score]
    results = [read_result(place(folder / "pooled", task, arm) / method) for arm in ("cosine", REFERENCE)]
    a, b = (result.outcome.predictions for result in results)
    expected = difference(results[0].outcome.measure, a, b, RESAMPLES)[metric]
    told = found["arms"]["cosine"]["scores"][score]["difference"]
    assert (told["value"], told["low"], told["high"]) == pytest.approx(expected[:3])
    assert told["wide_low"] < told["low"] < told["high"] < told["wide_high"]
    assert found["groups"] == dict.fromkeys(("tissue", "retrieval", "robustness", "like the teacher"), 24)


def test_cka_has_seeds_and_no_interval(found: dict[str, Any]) -> None:
    row = found["arms"]["cosine"]["scores"]["CKA"]
    assert row["value"] == row["mean"] and row["low"] is None and row["difference"]["low"] is None
    assert row["difference"]["value"] == pytest.approx(row["mean"] - found["arms"][REFERENCE]["scores"]["CKA"]["mean"])
    assert found["arms"]["teacher"]["scores"]["CKA"]["value"] == pytest.approx(1)


def test_ranks_are_those_of_recipes_alone_and_shared_by_equals(
    found: dict[str, Any], folder: Path, scaled: Any
) -> None:
    arms = [name for name in found["arms"] if name not in ("teacher", "none", "labels")]
    assert set(arms) == {REFERENCE, "alpha 2", "cosine"}
    for n in range(3):
        table = [[-of_seed(folder, f"seed-{n}", arm, score) for arm in arms] for score in RANKED]
        expected = stats.rankdata(np.round(table, 10), axis=1).mean(axis=0)
        assert [found["arms"][arm]["rank"]["seeds"][f"seed-{n}"] for arm in arms] == pytest.approx(expected)
    ranks = [found["arms"][arm]["rank"] for arm in arms]
    assert [rank["mean"] for rank in ranks] == pytest.approx([np.mean(list(rank["seeds"].values())) for rank in ranks])
    assert all(found["arms"][name]["rank"] is None for name in ("teacher", "none", "labels"))


def test_a_twin_is_not_told_apart(scaled: Any, folder: Path, tmp_path: Path) -> None:
    pooled = shutil.copytree(folder / "pooled", tmp_path / "pooled")
    for task in pooled.iterdir():
        shutil.rmtree(task / "alpha_2")
        shutil.copytree(task / REFERENCE.replace(" ", "_"), task / "alpha_2")
    for file in pooled.glob("*/alpha_2/*/outcome.json"):
        file.write_text(file.read_text().replace(f'"encoder": "{REFERENCE}"', '"encoder": "alpha 2"'))
    told = scaled.verdicts.judge(pooled, resamples=50)
    row = told["arms"]["alpha 2"]
    assert all(score["difference"]["value"] == 0 for score in row["scores"].values())
    assert all((score["difference"]["won"], score["difference"]["lost"]) == (0, 0) for score in row["scores"].values())
    assert row["rank"] == told["arms"][REFERENCE]["rank"]
    assert "better" not in row["verdict"] and "worse" not in row["verdict"]


@pytest.mark.parametrize(("count", "alike"), [(1, False), (12, False), (12, True)])
def test_taken_together_intervals_are_as_wide_as_the_largest_of_normals(scaled: Any, count: int, alike: bool) -> None:
    """Of C independent normals all lie within z with probability (2 Phi(z) - 1)^C; C copies of one are one."""
    rng = np.random.default_rng(0)
    values, scales = rng.normal(size=count), rng.uniform(0.1, 3, count)
    luck = np.repeat(rng.normal(size=(1, 40_000)), count, axis=0) if alike else rng.normal(size=(count, 40_000))
    drawn = values[:, None] + scales[:, None] * luck
    factor = scaled.verdicts.together(values.tolist(), list(drawn))
    expected = stats.norm.ppf((1 + 0.95 ** (1 if alike else 1 / count)) / 2)
    assert factor == pytest.approx(expected, rel=0.02)
    held = (np.abs(drawn - values[:, None]) <= factor * scales[:, None]).all(axis=0).mean()
    assert held == pytest.approx(0.95, abs=0.005)
    drawn[0, :4000] = np.nan  # undefined in a tenth of the draws: those judge by the others
    assert 0 <= factor - scaled.verdicts.together(values.tolist(), list(drawn)) < 0.1
    drawn[0] = values[0]  # what does not vary holds anyway
    assert np.isfinite(scaled.verdicts.together(values.tolist(), list(drawn))) == (count > 1)


def test_without_any_difference_there_is_nothing_to_widen(found: dict[str, Any], scaled: Any) -> None:
    made = copy.deepcopy(found)
    made["comparisons"] |= {"factor": None, "apart": 0, "together": 0}
    assert "Widened" not in scaled.telling.counted_out(made)
    made["comparisons"]["made"] = 0
    assert scaled.telling.counted_out(made) == "No difference has an interval."


def test_comparisons_are_counted(found: dict[str, Any]) -> None:
    counted = found["comparisons"]
    apart = [
        score["difference"]
        for arm in ("alpha 2", "cosine")
        for score in found["arms"][arm]["scores"].values()
        if score["difference"]["low"] is not None
    ]
    assert counted["made"] == len(apart) == 2 * 6  # of nine scores CKA twice and support have no interval
    assert counted["apart"] == sum(one["low"] > 0 or one["high"] < 0 for one in apart)
    assert counted["together"] == sum(one["wide_low"] > 0 or one["wide_high"] < 0 for one in apart)
    steady = [one for one in apart if (one["low"] > 0 and one["t_low"] > 0) or (one["high"] < 0 and one["t_high"] < 0)]
    assert counted["over_seeds"] == len(steady) > 0
    assert 0 < counted["together"] <= counted["apart"] and counted["by_chance"] == pytest.approx(0.6)
    assert f"{counted['apart']} of them exclude 0, where 0.6 would by chance" in counted["text"]
    json.dumps(found, allow_nan=False)


def test_a_sentence_says_what_its_intervals_say(found: dict[str, Any], scaled: Any) -> None:
    made = copy.deepcopy(found)
    for low, high, said in (
        (0.01, 0.2, r"better in kNN \(\+0\.105 \[\+0\.010, \+0\.200\]\);"),
        (-0.2, -0.01, r"worse in [^;]*kNN \(−0\.105 \[−0\.200, −0\.010\]\)"),
    ):
        made["arms"]["cosine"]["scores"]["kNN"]["difference"] |= {"value": (low + high) / 2, "low": low, "high": high}
        assert re.search(said, scaled.telling.sentence("cosine", made))
    made["arms"]["cosine"]["scores"]["kNN"]["difference"] |= {"low": -0.2, "high": 0.01}
    told = scaled.telling.sentence("cosine", made)
    assert re.search(r"not told apart in [^;]*kNN", told) and "worse in linear probe" in told
    assert "Without an interval: CKA −" in told and "higher in 0 of 3 seeds" in told and "support" not in told
    assert found["arms"][REFERENCE]["verdict"] == f"{REFERENCE}: what the others are compared with."


def test_tables_hold_every_arm_and_its_numbers(found: dict[str, Any], scaled: Any) -> None:
    text = scaled.telling.tables(found)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows[1:7]] == ["teacher", "none", "labels", *_by_rank(found)]
    assert len({len(row) for row in rows[:7]}) == 1
    value = found["arms"]["teacher"]["scores"]["kNN"]
    cell = f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    assert cell in text and "| teacher | 6.50 M | " in text
    wide, alone = found["arms"]["cosine"]["scores"]["kNN"]["difference"], found["arms"]["none"]["scores"]["kNN"]
    assert wide["wide_high"] < 0 and f"| **−{-wide['value']:.3f} [" in text
    assert f"| *−{-alone['difference']['value']:.3f} [" in text  # of the context, no comparison that is counted
    assert all(f"* {row['verdict']}" in text for name, row in found["arms"].items() if name != REFERENCE)
    assert "nan" not in text and "None" not in text
    few = scaled.telling.score_table(found, ["kNN"])
    assert few.splitlines()[0] == "| | parameters | ms per image | mean rank | kNN |"


def _by_rank(found: dict[str, Any]) -> list[str]:
    ranks = {name: row["rank"]["mean"] for name, row in found["arms"].items() if row["rank"]}
    return sorted(ranks, key=lambda name: ranks[name])


def test_the_figure_is_the_same_twice_and_holds_what_is_undefined(
    found: dict[str, Any], scaled: Any, tmp_path: Path
) -> None:
    files = scaled.drawing.draw(found, tmp_path / "one")
    assert [file.name for file in files] == ["figure.svg", "figure.png"]
    again = scaled.drawing.draw(json.loads(json.dumps(found)), tmp_path / "two")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    with Image.open(files[1]) as image:
        assert image.width == 1800  # two for each of the page
        assert np.asarray(image.convert("L")).std() > 10
    made = copy.deepcopy(found)
    for row in made["arms"].values():
        row["ms"] = None
        score = row["scores"]["robustness index"]
        score |= {"value": None, "low": None, "high": None}
        if score["difference"]:
            score["difference"] |= dict.fromkeys(("value", "low", "high", "wide_low", "wide_high"))
            score["difference"]["seeds"] = dict.fromkeys(score["difference"]["seeds"])
    assert scaled.drawing.draw(made, tmp_path / "three")[0].stat().st_size > 10_000


def test_what_is_missing_is_told_in_one_line(scaled: Any, folder: Path, tmp_path: Path) -> None:
    pooled = shutil.copytree(folder / "pooled", tmp_path / "pooled")
    with pytest.raises(ConfigError, match="reference nobody is none of the encoders"):
        scaled.verdicts.judge(pooled, "nobody", 20)
    shutil.rmtree(pooled / "robustness")
    with pytest.raises(G2LError, match="hold no neighbours of task robustness, which the score robustness index"):
        scaled.verdicts.judge(pooled, resamples=20)
    assert set(ARMS) == {"teacher", "none", "labels", REFERENCE, "alpha 2", "cosine"}
