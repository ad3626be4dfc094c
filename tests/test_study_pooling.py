"""Several seeds as one result: every pooled score against its own computation, and what must not be pooled."""

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from study_seeds import ARMS, CENTRES, embed, tables, write_seed, write_seeds

from g2l.__main__ import main
from g2l.errors import G2LError
from g2l.evaluation.results import Result, read_result, read_results
from g2l.evaluation.statistics.bootstrap import interval

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
Key = tuple[str, str, str]


class Pooled(NamedTuple):
    """Three seeds, the results of each by task, method and arm, and those of all."""

    folders: dict[str, Path]
    out: Path
    seeds: dict[str, dict[Key, Result]]
    whole: dict[Key, Result]


@pytest.fixture(scope="module")
def scaled() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        names = ("merging", "pooling")
        yield SimpleNamespace(**{name: importlib.import_module(f"scaled.{name}") for name in names})


def keyed(folder: Path) -> dict[Key, Result]:
    return {(result.task, result.method, result.encoder): result for result in read_results([folder])}


@pytest.fixture(scope="module")
def study(scaled: Any, tmp_path_factory: pytest.TempPathFactory) -> Pooled:
    folder = tmp_path_factory.mktemp("seeds")
    folders = write_seeds(folder, 3)
    scaled.pooling.pool(folders, folder / "pooled")
    return Pooled(folders, folder / "pooled", {k: keyed(v) for k, v in folders.items()}, keyed(folder / "pooled"))


def stacked(study: Pooled, key: Key, column: str) -> np.ndarray:
    return np.concatenate([seed[key].outcome.predictions[column] for seed in study.seeds.values()])


@pytest.mark.parametrize("arm", ARMS)
def test_a_pooled_score_is_that_of_all_rows(study: Pooled, arm: str) -> None:
    for method in ("linear", "knn"):
        key = ("tissue", method, arm)
        truth, predicted = stacked(study, key, "truth"), stacked(study, key, "predicted")
        assert study.whole[key].metrics["balanced accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert study.whole[key].metrics["accuracy"] == pytest.approx((truth == predicted).mean())
    key = ("retrieval", "cosine", arm)
    assert study.whole[key].metrics["mAP"] == pytest.approx(stacked(study, key, "average_precision").mean())
    key = ("like the teacher", "to teacher", arm)
    assert study.whole[key].metrics["neighbour overlap"] == pytest.approx(stacked(study, key, "overlap").mean())


@pytest.mark.parametrize("arm", ["none", "log-sum faithful"])
def test_pooled_robustness_counts_the_pairs_inside_every_seed(study: Pooled, arm: str) -> None:
    """From the embeddings themselves: each row's nearest rows of other slides, of its own seed alone."""
    counts, supported, rows = np.zeros((2, 2), int), 0, 0
    for seed in range(len(study.seeds)):
        _, table = tables(seed, 37, 6)
        x = embed(table, arm, seed).astype(np.float64)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        slides = np.char.add(table.centres, table.slides)
        for row in range(len(table)):
            distance = np.linalg.norm(x - x[row], axis=1)
            distance[slides == slides[row]] = np.inf
            near = np.argsort(distance)[:7]
            same = table.labels[near] == table.labels[row], table.centres[near] == table.centres[row]
            np.add.at(counts, tuple(each.astype(int) for each in same), 1)
            supported += int((same[0] != same[1]).any())
            rows += 1
    found = study.whole["robustness", "neighbours", arm]
    so, os, ss = counts[1, 0], counts[0, 1], counts[1, 1]
    assert len(found.outcome.predictions["id"]) == rows == 3 * len(CENTRES) * 12 * 6
    assert found.metrics["robustness index"] == pytest.approx(so / (so + os))
    assert found.metrics["ratio"] == pytest.approx((ss + so) / (ss + os))
    assert found.metrics["support"] == pytest.approx(supported / rows)


@pytest.mark.parametrize("arm", ["none", "cosine"])
def test_the_interval_of_the_pooled_index_is_that_of_pairs_drawn_seed_by_seed(study: Pooled, arm: str) -> None:
    """Pairs lie inside seeds: drawn as queries x drawn as neighbours / all, seed by seed, and then summed."""
    key = ("robustness", "neighbours", arm)
    seeds = [seed[key].outcome.predictions for seed in study.seeds.values()]
    groups = sorted({patient for one in seeds for patient in one["patient"]})
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(1000):
        times = np.bincount(rng.integers(len(groups), size=len(groups)), minlength=len(groups))
        pairs = dict.fromkeys(("so", "os"), 0.0)
        for one in seeds:
            weight = times[[groups.index(patient) for patient in one["patient"]]]
            for kind in pairs:
                whole = one[kind].sum()
                pairs[kind] += (weight * one[kind]).sum() * (weight * one[f"of_{kind}"]).sum() / whole if whole else 0.0
        drawn.append(pairs["so"] / (pairs["so"] + pairs["os"]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    outcome = study.whole[key].outcome
    found = interval(outcome.measure, outcome.predictions)["robustness index"]
    assert found.low == pytest.approx(low, abs=0.12 * (high - low))
    assert found.high == pytest.approx(high, abs=0.12 * (high - low))


def test_a_group_that_two_seeds_tested_is_one_patient(study: Pooled) -> None:
    key = ("tissue", "knn", "labels")
    tested = [set(seed[key].outcome.predictions["patient"]) for seed in study.seeds.values()]
    assert tested[0] & tested[1] and not tested[0] & tested[2]
    found = study.whole[key]
    assert set(found.outcome.predictions["patient"]) == set.union(*tested)
    assert found.about["data"]["parts"]["test"] == {"rows": 3 * 12 * 6, "patients": len(set.union(*tested))}
    ids = found.outcome.predictions["id"]
    assert len(set(ids)) == len(ids)
    first = study.seeds["seed-0"][key].outcome.predictions["id"]
    assert ids[: len(first)].tolist() == [f"seed-0/{name}" for name in first]


def test_what_is_said_of_seeds_is_theirs(study: Pooled, scaled: Any) -> None:
    found = study.whole["like the teacher", "to teacher", "cosine"]
    each = {name: seed[found.task, found.method, "cosine"] for name, seed in study.seeds.items()}
    cka = {name: result.outcome.facts["linear CKA"] for name, result in each.items()}
    assert found.outcome.facts["linear CKA"] == pytest.approx(np.mean(list(cka.values())))
    assert found.outcome.facts["linear CKA, by seed"] == cka and len(set(cka.values())) == 3
    assert found.outcome.facts["k"] == 7 and "k, by seed" not in found.outcome.facts
    assert found.about["seeds"] == {name: result.metrics for name, result in each.items()}
    speeds = [result.about["encoder"]["images_per_second"] for result in each.values()]
    assert found.about["encoder"]["images_per_second"] == np.median(speeds) and len(set(speeds)) == 3
    assert found.about["encoder"]["parameters"] == 1_300_000
    assert found.about["run"]["command"].count("g2l evaluate") == 3
    assert found.about["run"]["finished"] == "2020-01-03T00:00:00+00:00"
    note = found.outcome.notes[-1]
    assert note.startswith("3 seeds together (seed-0, seed-1, seed-2)")
    assert len(found.outcome.notes) == len(set(found.outcome.notes))
    assert study.whole["like the teacher", "to teacher", "none"].about["encoder"]["source"]["sha256"] is None

    hashes = [result.about["data"]["sha256"] for result in each.values()]
    assert found.about["data"]["sha256"] == scaled.merging.combined(hashes[::-1])  # in any order
    assert scaled.merging.combined([*hashes[:2], "another"]) != scaled.merging.combined(hashes)
    others = {result.about["data"]["sha256"] for key, result in study.whole.items() if key[0] == "tissue"}
    assert len(others) == 1  # arms stand side by side


def test_tables_are_added_up_and_examples_keep_their_pictures(study: Pooled) -> None:
    key = ("robustness", "neighbours", "none")
    counts = [np.array(seed[key].outcome.facts["cross table"]["counts"]) for seed in study.seeds.values()]
    assert (np.array(study.whole[key].outcome.facts["cross table"]["counts"]) == np.sum(counts, axis=0)).all()
    key = ("tissue", "knn", "none")
    names, rows = np.unique(stacked(study, key, "truth"), return_counts=True)
    assert study.whole[key].outcome.facts["test rows"] == dict(zip(names.tolist(), rows.tolist(), strict=True))
    key = ("retrieval", "cosine", "none")
    examples = study.whole[key].outcome.facts["examples"]
    assert [name[:7] for name in (examples[0]["id"], examples[-1]["neighbours"][0]["id"])] == ["seed-0/", "seed-2/"]
    assert set(study.whole[key].about["data"]["paths"]) == {
        f"{name}/{place}" for name, seed in study.seeds.items() for place in seed[key].about["data"]["paths"]
    }


def test_the_report_reads_it_and_draws_groups(study: Pooled, tmp_path: Path) -> None:
    command = ["report", str(study.out), "--out", str(tmp_path), "--reference", "log-sum faithful"]
    assert main(command) == 0
    rows = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    groups = len(set(stacked(study, ("tissue", "knn", "none"), "patient")))
    assert {(row["resampled"], row["patients"]) for row in rows} == {("patient", groups)}
    decided = {row["encoder"] for row in rows if row["metric"] == "mAP" and (row["difference_high"] or 0) < 0}
    assert {"none", "cosine"} <= decided
    assert "3 seeds together" in (tmp_path / "report.html").read_text()


def test_pooling_again_leaves_nothing_of_before(study: Pooled, scaled: Any, tmp_path: Path) -> None:
    for name, arms in (("one", ARMS), ("two", ["teacher", "none"])):
        write_seed(tmp_path / name, 0, arms=dict.fromkeys(arms, ()))
        (tmp_path / "pooled.partial/stale").mkdir(parents=True)  # of a run that was killed
        scaled.pooling.pool({"seed-0": tmp_path / name}, tmp_path / "pooled")
        assert {result.encoder for result in read_results([tmp_path / "pooled"])} == set(arms)
    assert not (tmp_path / "pooled/stale").exists() and not (tmp_path / "pooled.partial").exists()


def edited(folder: Path, **changes: Any) -> None:
    """Change entries of an outcome.json: dots lead to inner ones."""
    file = folder / "outcome.json"
    content = json.loads(file.read_text())
    for path, value in changes.items():
        *inner, last = path.split("__")
        place = content
        for name in inner:
            place = place[name]
        place[last] = value
    file.write_text(json.dumps(content))


KNN = "tissue/cosine/knn"
OTHERS: dict[str, tuple[str, dict[str, Any] | None, str]] = {
    "gone": ("tissue/cosine", None, "seed-1 lacks task tissue, knn, of cosine, seed-1 lacks task tissue, linear, of"),
    "settings": (KNN, {"about__protocol__task": {"k": 5}}, "different settings in seed-0 and seed-1 (task)"),
    "network": (KNN, {"about__encoder__size": 5}, "cosine is not one network in all seeds (size: seed-0 112, seed-1 5"),
    "primary": (KNN, {"primary": "accuracy"}, "seed-1 differs from seed-0 in kind, unit, measure or primary metric"),
    "measure": (KNN, {"measure": "g2l.evaluation.measures.retrieval:measure_retrieval"}, "in kind, unit, measure"),
}


@pytest.mark.parametrize(("task", "changes", "said"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_second_seed_is_refused_in_one_line(
    study: Pooled, scaled: Any, tmp_path: Path, task: str, changes: dict[str, Any] | None, said: str
) -> None:
    folders = {name: shutil.copytree(folder, tmp_path / name) for name, folder in study.folders.items()}
    if changes is None:
        shutil.rmtree(folders["seed-1"] / task)
    else:
        edited(folders["seed-1"] / task, **changes)
    with pytest.raises(G2LError) as error:
        scaled.pooling.pool(folders, tmp_path / "pooled")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "pooled").exists()


def test_numbers_of_clusters_are_no_rows_to_stack(study: Pooled, scaled: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(
        study.folders["seed-0"] / "robustness/none/neighbours", tmp_path / "seed-0/robustness/none/clusters"
    )
    edited(folder, method="clusters", measure="g2l.evaluation.measures.clustering:measure_clustering")
    assert read_result(folder).outcome.measure.__name__ == "measure_clustering"
    with pytest.raises(G2LError, match="measure_clustering of several seeds is not that of their rows together"):
        scaled.pooling.pool({"seed-0": tmp_path / "seed-0"}, tmp_path / "pooled")
