"""The report of a simulated study: what it says, what it refuses, and what it never lets through."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from simulated_study import ENCODERS, Reported, write_study

from g2l.errors import ConfigError, G2LError
from g2l.evaluation.measures.published import GPFM_RETRIEVAL, KAIKO_PROBE, PATHOROB_INDEX, PUBLISHED
from g2l.evaluation.report.make import make_report, report, write_metrics
from g2l.evaluation.report.measured import measure_all, ranked_tasks, score_table
from g2l.evaluation.report.study import make_study
from g2l.evaluation.results import OUTCOME, Result
from g2l.evaluation.statistics.bootstrap import difference, interval

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Tags, targets and text of a page; raises on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.append(tag)
        self.ids += [known["id"]] if known.get("id") else []  # type: ignore[list-item]
        self.links += [known["href"]] if tag == "a" else []  # type: ignore[list-item]
        self.sources += [known["src"]] if "src" in known else []  # type: ignore[list-item]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def few(tmp_path: Path, tasks: tuple[str, ...] = ("breast subtypes",), count: int = 2) -> list[Result]:
    return write_study(tmp_path, ENCODERS[:count], tasks)


def test_the_page_is_whole_and_holds_itself(reported: Reported) -> None:
    page = page_of(reported.folder)
    assert reported.said.endswith("report.html: 3 encoders, 9 tasks, 30 results")
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert all(source.startswith("data:image/") for source in page.sources)
    html = (reported.folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|src=\"(?!data:)|url\(", re.sub(r"base64,[^\"]*", "", html))
    assert sorted(file.name for file in reported.folder.iterdir()) == ["metrics.csv", "metrics.json", "report.html"]


@pytest.mark.parametrize(
    "said",
    [
        "Scores of different protocols are not comparable.",
        "Friedman test across 8 tasks and 3 encoders",
        "of 3 over 8 tasks, Friedman test p < 0.001",
        "Splits are by patient where patients are known. In nuclei nobody says whose an image is",
        "tested on 48 images, patients unknown",
        "test 48 rows, patients unknown",
        "Intervals by image are too short",
        "No interval for small cohort: 6 patients are too few to resample; 10 are needed.",
        "validation carved from train: 30 of 150 patients",
        "2 slides also occur in the distillation of simulated-student",
        "Not ranked (no primary metric, an encoder missing, or undefined): teacher.",
        "better on 0, worse on",
        "Published for context",
        "python -m g2l evaluate --config simulated.yaml",
        "scikit-learn 1.8.0",
        "C 0.01, on balanced accuracy of the validation part",
        "Kaplan-Meier curves of the test patients by risk group",
        "truth (left), prediction (right)",
    ],
)
def test_it_says(reported: Reported, said: str) -> None:
    assert said in page_of(reported.folder).text


def test_pictures_of_every_kind_of_task_are_there(reported: Reported) -> None:
    html = (reported.folder / "report.html").read_text(encoding="utf-8")
    for alt in (
        "Critical-difference diagram",
        "Parameters against mean score",
        "Time per image against mean score",
        "Confusion matrices of colon tissue, linear",
        "ROC curves of breast biopsies, linear",
        "Kaplan-Meier curves of overall survival, abmil",
    ):
        assert html.count(f'alt="{alt}"') == 1, alt
    # 4 queries with 5 neighbours each of 3 encoders
    assert len(re.findall(r'<div class="(?:query|right|wrong)"><img', html)) == 3 * 4 * 6
    assert 'class="gone"' not in html


def test_csv_and_json_hold_the_same_and_it_is_what_the_statistics_give(reported: Reported) -> None:
    content = json.loads((reported.folder / "metrics.json").read_text())
    with (reported.folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(content["metrics"]) == sum(len(result.metrics) for result in reported.results)
    assert content["reference"] == "simulated-giant" and content["resamples"] == 100
    for row, same in zip(rows, content["metrics"], strict=True):
        assert {k: "" if v is None else str(v) for k, v in same.items()} == row
    by_key = {(r["task"], r["method"], r["encoder"], r["metric"]): r for r in content["metrics"]}
    results = {(r.task, r.method, r.encoder): r for r in reported.results}
    key = ("breast subtypes", "abmil", "simulated-student")
    result, reference = results[key], results[key[0], key[1], "simulated-giant"]
    measure, columns = result.outcome.measure, result.outcome.predictions
    for metric, expected in interval(measure, columns, 100).items():
        row = by_key[*key, metric]
        assert (row["value"], row["low"], row["high"]) == expected[:3]
        assert (row["units"], row["patients"]) == (60, 60)
    for metric, expected in difference(measure, columns, reference.outcome.predictions, 100).items():
        row = by_key[*key, metric]
        assert (row["difference"], row["difference_low"], row["difference_high"]) == expected[:3]
    small = by_key["small cohort", "linear", "simulated-student", "AUC"]
    assert small["low"] is None and "6 patients are too few" in small["no_interval_because"]


def test_best_is_marked_only_where_every_difference_excludes_zero(reported: Reported) -> None:
    study = make_study(reported.results)
    measured = measure_all(study, 100)
    marked = {task.name: measured.best(task, task.main, task.primary) for task in study.tasks if task.primary}
    assert set(marked.values()) > {None}, "the study holds tasks with and without a winner"
    for task in study.tasks:
        if task.primary is None:
            continue
        found = task.methods[task.main]
        winners = [
            name
            for name, result in found.items()
            if all(
                (each := measured.difference(result, other, task.primary)) is not None and each.low > 0
                for other in found.values()
                if other is not result
            )
        ]
        assert winners == ([marked[task.name]] if marked[task.name] else [])
    page = (reported.folder / "report.html").read_text(encoding="utf-8")
    overview = page[page.index('id="overview"') : page.index('id="ranks"')]
    assert overview.count('class="mark"') == sum(
        measured.best(task, method, next(iter(results.values())).outcome.primary or "") is not None
        for task in study.tasks
        for method, results in task.methods.items()
        if next(iter(results.values())).outcome.primary
    )


def test_ranks_take_one_method_a_task_and_only_complete_tasks(reported: Reported) -> None:
    study = make_study(reported.results)
    tasks = ranked_tasks(study)
    assert "teacher" not in {task.name for task in tasks} and len(tasks) == 8
    assert next(task for task in tasks if task.name == "colon tissue").main == "linear"
    assert score_table(study, tasks).shape == (8, 3)
    without = [r for r in reported.results if (r.task, r.encoder) != ("nuclei", "simulated-small")]
    assert "nuclei" not in {task.name for task in ranked_tasks(make_study(without))}


def test_a_reference_of_ones_own(reported: Reported, tmp_path: Path) -> None:
    some = [result for result in reported.results if result.task == "breast subtypes"]
    make_report(some, tmp_path / "r", "simulated-small", resamples=50)
    content = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert {row["reference"] for row in content["metrics"]} == {"simulated-small", None}
    assert "too few tasks: 1 with a score of every encoder" in page_of(tmp_path / "r").text
    with pytest.raises(ConfigError, match="reference uni is none of the encoders: simulated-giant, simulated-student"):
        make_report(some, tmp_path / "r", "uni")


def test_one_encoder_is_reported_without_ranks(tmp_path: Path) -> None:
    said = make_report(few(tmp_path, ("breast subtypes", "nuclei"), 1), tmp_path / "r", resamples=50)
    text = page_of(tmp_path / "r").text
    assert "There is one encoder: nothing to rank it against." in text
    assert "Nothing is compared: there is one encoder" in text
    assert said.endswith("1 encoder, 2 tasks, 2 results")


@pytest.mark.slow
def test_two_encoders_on_enough_tasks_get_the_signed_rank_test(reported: Reported, tmp_path: Path) -> None:
    names = ("simulated-giant", "simulated-small")
    make_report([r for r in reported.results if r.encoder in names], tmp_path / "r", resamples=50)
    text = page_of(tmp_path / "r").text
    # 8 wins of 8: 2 / 2^8
    assert "Wilcoxon signed-rank test of simulated-giant and simulated-small across tasks: p = 0.008" in text
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["ranks"]["wilcoxon"] == 2 / 2**8


@pytest.mark.slow
def test_nothing_from_a_users_file_becomes_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    found = []
    for result in few(tmp_path, ("breast subtypes", "colon retrieval", "nuclei", "centres")):
        outcome = result.outcome
        columns = dict(outcome.predictions)
        facts = {**outcome.facts, evil: evil}
        if facts.get("examples"):
            facts["examples"] = [
                {"id": f'"><img src=x onerror=alert(1)>{evil}', "label": evil, "neighbours": example["neighbours"]}
                for example in facts["examples"]
            ]
        if "truth" in columns:
            columns = {name.replace("her2", evil): column for name, column in columns.items()}
            for name in ("truth", "predicted"):
                columns[name] = np.array([evil if value == "her2" else value for value in columns[name]])
        pictures = {f"{name}{evil}": picture for name, picture in outcome.pictures.items()}
        changed = replace(
            outcome, predictions=columns, facts=facts, pictures=pictures, notes=[evil], chosen={evil: [evil, 1]}
        )
        about = json.loads(json.dumps(result.about).replace("simulated", evil.replace('"', "")))
        known = {"outcome": changed, "task": result.task + evil, "encoder": f"{evil} $x_{{1}}$ {result.encoder}"}
        found.append(replace(result, about=about, **known))
    make_report(found, tmp_path / "r", resamples=20)
    html = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags and "<script" not in html and "<img src=x" not in html
    assert evil in page.text
    assert "default-src 'none'" in html


@pytest.mark.slow
def test_images_that_are_gone_are_a_sentence_and_not_a_failure(tmp_path: Path) -> None:
    results = few(tmp_path, ("colon retrieval",))
    images = sorted((tmp_path / "images").glob("*.png"))
    images[3].unlink()  # the first query
    images[57].write_bytes(b"no picture")
    make_report(results, tmp_path / "some", resamples=20)
    assert re.search(r"[23] of 24 images are no longer where they were", page_of(tmp_path / "some").text)
    for image in images:
        image.unlink(missing_ok=True)
    make_report(results, tmp_path / "none", resamples=20)
    assert "so that none is shown" in page_of(tmp_path / "none").text


def test_speeds_of_different_devices_are_not_drawn(tmp_path: Path) -> None:
    results = few(tmp_path)
    other = {**results[1].about, "encoder": {**results[1].about["encoder"], "device": "another"}}
    make_report([results[0], replace(results[1], about=other)], tmp_path / "r", resamples=20)
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "Speed was measured on different devices (another, cpu, 2 threads)" in page
    assert "Parameters against mean score" in page and "Time per image against mean score" not in page


def with_about(result: Result, part: str, **changes: object) -> Result:
    return replace(result, about={**result.about, part: {**result.about[part], **changes}})


def test_what_must_not_stand_side_by_side_is_refused(tmp_path: Path) -> None:
    one, two = few(tmp_path)
    with pytest.raises(G2LError, match=r"run on different data .* their scores are not comparable"):
        make_study([one, with_about(two, "data", sha256="f" * 64)])
    with pytest.raises(G2LError, match=r"simulated-giant occurs twice: .* and .*; report one of them"):
        make_study([one, one])
    with pytest.raises(G2LError, match="breast subtypes is survival and slides"):
        make_study([one, replace(two, kind="survival")])
    renamed = with_about(replace(one, task="another"), "encoder", source={"sha256": "0" * 64})
    with pytest.raises(G2LError, match="encoder simulated-giant has different weights"):
        make_study([one, renamed])
    with pytest.raises(G2LError, match="no results to report"):
        make_study([])
    columns = {name: column[:-1] for name, column in two.outcome.predictions.items()}
    fewer = replace(two, outcome=replace(two.outcome, predictions=columns))
    fewer = replace(fewer, metrics=fewer.outcome.measure(columns))
    with pytest.raises(G2LError, match=r"task breast subtypes, abmil, .*both models on the same units; only one has"):
        make_report([one, fewer], tmp_path / "r", resamples=5)
    assert not (tmp_path / "r" / "report.html").exists()


def test_results_of_different_settings_are_refused_with_the_settings(tmp_path: Path) -> None:
    one, two = few(tmp_path)
    protocol = one.about["protocol"]
    again = {"task": {**protocol["task"], "k": 61}, "embedding": {"precision": "bf16-mixed"}}
    other = replace(two, about={**two.about, "protocol": {**protocol, **again}})
    match = r"breast subtypes was run with different settings \(k 61 and 20, precision bf16-mixed and 32-true\)"
    with pytest.raises(G2LError, match=match) as refused:
        make_study([one, other])
    assert f"{two.folder.parent} and {one.folder.parent}; evaluate both with one set" in str(refused.value)
    with pytest.raises(G2LError, match=r"different settings \(seed 1 and 0\)"):
        make_study([one, replace(two, about={**two.about, "protocol": {**protocol, "seed": 1}})])
    silent = {name: part for name, part in two.about.items() if name != "protocol"}
    with pytest.raises(G2LError, match="does not say on which data or with which settings it was made"):
        make_study([replace(one, about=silent), replace(two, about=silent)])
    # another method may be run with other settings
    methods = [one, replace(one, method="mean", about={**one.about, "protocol": other.about["protocol"]})]
    assert len(list(make_study(methods))) == 2
    named = [
        with_about(each, "data", sha256=str(k), content={"files": "", "event": str(k)})
        for k, each in enumerate((one, two))
    ]
    with pytest.raises(G2LError, match=r"run on different data \(event\)"):
        make_study(named)


@pytest.mark.parametrize(
    ("task", "column"), [("overall survival", "event"), ("overall survival", "time"), ("breast subtypes", "truth")]
)
def test_predictions_of_another_truth_are_refused(tmp_path: Path, task: str, column: str) -> None:
    one, two = few(tmp_path, (task,))
    columns = dict(two.outcome.predictions)
    columns[column] = {"event": lambda x: 1 - x, "time": lambda x: x + 1, "truth": np.flip}[column](columns[column])
    outcome = replace(two.outcome, predictions=columns)
    two = replace(two, outcome=outcome, metrics=outcome.measure(columns))
    with pytest.raises(G2LError, match=f"predictions differ in column {column}, which is no encoder's"):
        make_study([one, two])


def rewrite(result: Result, **changes: object) -> None:
    file = result.folder / OUTCOME
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "about": {**content["about"], **changes}}))


@pytest.mark.slow
def test_what_former_evaluations_left_behind_is_told_and_no_failure(tmp_path: Path) -> None:
    results = write_study(tmp_path, ENCODERS[:4], ("colon tissue", "breast subtypes"))
    folder = tmp_path / "results"
    giga, large, student, small = ([r for r in results if r.encoder == each.name] for each in ENCODERS[:4])
    for result in giga:  # run with another k before
        rewrite(result, protocol={**result.about["protocol"], "task": {"class": "Simulated", "k": 61}})
    broken = next(result for result in student if result.task == "breast subtypes")
    (broken.folder / OUTCOME).write_text("{")
    (folder / "elsewhere").mkdir()
    shutil.copytree(
        folder / "breast_subtypes", folder / "elsewhere/results/breast_subtypes"
    )  # no result of this folder
    said = write_metrics(folder, [(result.task, result.encoder) for result in small])
    content = json.loads((folder / "metrics.json").read_text())
    assert content["left_out"] == said and len(said) == 3
    assert sum("k 61 and 20" in each and "simulated-giant" in each for each in said) == 2
    assert sum(str(broken.folder) in each and "evaluate again" in each for each in said) == 1
    kept = {(row["task"], row["encoder"]) for row in content["metrics"]}
    assert kept == {(r.task, r.encoder) for r in [*large, *student, *small]} - {
        ("breast subtypes", "simulated-student")
    }
    # whichever is new stays, and the others go
    said = write_metrics(folder, [(result.task, result.encoder) for result in giga])
    rows = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert {row["encoder"] for row in rows} == {"simulated-giant"} and sum("k 20 and 61" in each for each in said) == 2


def test_intervals_of_images_of_nobody_judge_nothing(reported: Reported, tmp_path: Path) -> None:
    results = [with_parts(r, {"test": {"rows": 48}}) for r in reported.results if r.task == "nuclei"]
    study = make_study(results)
    measured = measure_all(study, 50)
    (task,) = study.tasks
    giant, small = task.methods["linear"]["simulated-giant"], task.methods["linear"]["simulated-small"]
    assert math.isfinite(measured.interval(small, "Dice").low)
    apart = measured.difference(giant, small, "Dice")
    assert apart is not None and apart.value > 0 and math.isnan(apart.low) and "whose" in apart.why
    assert measured.best(task, "linear", "Dice") is None
    assert "by image" in measured.mean_score([task], "simulated-giant").why
    row = next(row for row in measured.rows() if row["metric"] == "Dice")
    assert (row["patients"], row["resampled"], row["resampled_units"]) == (None, "image", 48)
    make_report(results, tmp_path / "r", resamples=50)
    text = page_of(tmp_path / "r").text
    assert "] by image" in text and "no task has an interval of the difference" in text and "better on 1" not in text
    # of known patients the very same numbers decide
    known = make_study([with_parts(r, {"test": {"rows": 48, "patients": 48}}) for r in results])
    assert measure_all(known, 50).best(known.tasks[0], "linear", "Dice") == "simulated-giant"
    make_report([with_parts(r, {"test": {"rows": 48, "slides": 48}}) for r in results], tmp_path / "s", resamples=50)
    text = page_of(tmp_path / "s").text
    assert "tested on 48 images of 48 slides, patients unknown" in text and "a slide counts as one" in text
    assert "better on" in text and "by image" not in text


def with_parts(result: Result, parts: dict[str, dict[str, int]]) -> Result:
    return with_about(result, "data", parts=parts)


def test_a_mean_over_tasks_that_share_some_patients_has_no_interval(tmp_path: Path) -> None:
    results = few(tmp_path, ("breast biopsies",))
    assert len(results) == 2

    def second(keep: int, rename: str = "") -> list[Result]:
        made = []
        for each in results:
            inside = np.array([int(name[5:]) < keep for name in each.outcome.predictions["patient"]])
            columns = {name: column[inside] for name, column in each.outcome.predictions.items()}
            columns["patient"] = np.char.add(rename, columns["patient"])
            outcome = replace(each.outcome, predictions=columns)
            made.append(replace(each, task="second", outcome=outcome, metrics=outcome.measure(columns)))
        return made

    found = {}
    for name, others in {"same": second(24), "all but one": second(23), "others": second(23, "x")}.items():
        study = make_study([*results, *others])
        found[name] = measure_all(study, 200).mean_score(study.tasks, "simulated-giant")
    assert math.isnan(found["all but one"].low)
    assert found["all but one"].why.startswith(
        "breast biopsies and second share 23 of their patients (by name), not all"
    )
    width = {name: each.high - each.low for name, each in found.items()}
    assert width["same"] > 1.2 * width["others"] > 0  # one draw for both, two independent ones
    make_report([*results, *second(23)], tmp_path / "r", resamples=50)
    assert "The mean has no interval: breast biopsies and second share 23" in page_of(tmp_path / "r").text


@pytest.mark.slow
def test_no_order_is_claimed_without_a_test_that_supports_it(reported: Reported, tmp_path: Path) -> None:
    equal = [encoder._replace(skill=1.0) for encoder in ENCODERS[:3]]
    alike = write_study(tmp_path, tuple(equal), ("colon tissue", "breast biopsies", "breast subtypes"))
    make_report(alike, tmp_path / "few", resamples=50)
    text = page_of(tmp_path / "few").text
    assert "No test across tasks supports an order of the encoders (too few tasks" in text
    assert "Best average rank" not in text
    text = page_of(reported.folder).text  # eight tasks
    values = json.loads((reported.folder / "metrics.json").read_text())["ranks"]
    assert values["friedman"] < 0.05 and "Best average rank: simulated-giant" in text
    near = values["nemenyi"]["simulated-giant"]["simulated-student"] >= 0.05
    assert ("not told apart from simulated-student by Nemenyi's test" in text) == near
    # the same tasks, the names of the encoders exchanged at random: nothing is left to order
    rng = np.random.default_rng(0)
    names = sorted({result.encoder for result in reported.results})
    mixed = []
    for task in sorted({result.task for result in reported.results}):
        other = dict(zip(names, rng.permutation(names).tolist(), strict=True))
        of = [result for result in reported.results if result.task == task]
        about = {result.encoder: result.about["encoder"] for result in of}
        mixed += [with_about(replace(r, encoder=other[r.encoder]), "encoder", **about[other[r.encoder]]) for r in of]
    make_report(mixed, tmp_path / "mixed", resamples=20)
    text = page_of(tmp_path / "mixed").text
    assert json.loads((tmp_path / "mixed/metrics.json").read_text())["ranks"]["friedman"] > 0.05
    assert "No test across tasks supports an order of the encoders (Friedman test, p = 0." in text


def test_published_values_stand_once_in_their_kind_of_task_with_source(reported: Reported) -> None:
    html = (reported.folder / "report.html").read_text(encoding="utf-8")
    blocks = re.findall(r'<div class="published">.*?</p></div>', html, re.DOTALL)
    assert len(blocks) == 1 + sum(len(PUBLISHED[kind]) for kind in ("classification", "slides", "retrieval")) == 5
    assert all("not comparable with the rows above" in block for block in blocks)
    for values, title, source in (
        (KAIKO_PROBE, "balanced accuracy of a linear probe", "eva 0.0.1"),
        ({"GPFM": GPFM_RETRIEVAL}, "retrieval of GPFM", "Ma et al. 2024"),
        (PATHOROB_INDEX, "robustness index on PathoROB", "Koemen et al. 2025"),
    ):
        (block,) = [each for each in blocks if f"Published for context: {title}" in each]
        assert source in block
        for model, row in values.items():
            assert re.search(rf"<th>{model}</th>" + "".join(f'<td class="n">{v:.3f}</td>' for v in row.values()), block)
    first = html[html.index('id="task-1"') : html.index('id="task-2"')]
    assert ">breast biopsies <" in first and "balanced accuracy of a linear probe" in first  # the first of its kind


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    one, two = few(tmp_path)
    with pytest.raises(G2LError, match=r"is damaged: AUC is 0.999 in it, but its predictions give 0\."):
        make_report([replace(one, metrics={**one.metrics, "AUC": 0.999}), two], tmp_path / "r", resamples=5)
    with pytest.raises(G2LError, match="is damaged: F2 is none of its metrics"):
        make_study([replace(one, outcome=replace(one.outcome, primary="F2"))])
    columns = {name: column for name, column in one.outcome.predictions.items() if name != "predicted"}
    with pytest.raises(G2LError, match="cannot be measured again"):
        make_report([replace(one, outcome=replace(one.outcome, predictions=columns))], tmp_path / "r", resamples=5)
    (two.folder / OUTCOME).write_text("{")
    with pytest.raises(G2LError, match="is damaged"):
        report([str(tmp_path / "results")], str(tmp_path / "r"))
    with pytest.raises(G2LError, match="no results below"):
        report([str(tmp_path / "nowhere")], str(tmp_path / "r"))
    assert not (tmp_path / "r").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(G2LError, match=r"cannot be written .*; give another with --out"):
        make_report(few(tmp_path), tmp_path / "file" / "r", resamples=5)


def test_undefined_metrics_are_dashes_and_null(tmp_path: Path) -> None:
    one, two = few(tmp_path)
    truth = np.full(60, "basal")
    columns = {**one.outcome.predictions, "truth": truth}
    changed = []
    for each in (one, two):
        outcome = replace(each.outcome, predictions={**each.outcome.predictions, "truth": truth})
        changed.append(replace(each, outcome=outcome, metrics=outcome.measure(outcome.predictions)))
    assert math.isnan(one.outcome.measure(columns)["AUC"])
    make_report(changed, tmp_path / "r", resamples=20)
    text = (tmp_path / "r" / "metrics.json").read_text()
    assert "NaN" not in text and json.loads(text)["metrics"][0]["value"] is None
    assert "the metric is undefined on these units" in page_of(tmp_path / "r").text


@pytest.mark.slow
def test_the_same_results_give_the_same_report(tmp_path: Path) -> None:
    results = few(tmp_path, ("breast subtypes", "colon tissue"))
    pages = []
    for name in ("a", "b"):
        make_report(results, tmp_path / name, resamples=30)
        html = (tmp_path / name / "report.html").read_text(encoding="utf-8")
        pages.append(re.sub(r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", html))
    assert pages[0] == pages[1]
    assert (tmp_path / "a" / "metrics.csv").read_bytes() == (tmp_path / "b" / "metrics.csv").read_bytes()
