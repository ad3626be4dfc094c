"""Whole slides through `g2l evaluate`: bags of tissue patches, a class per slide, a risk per patient."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from g2l.__main__ import main
from g2l.evaluation.results import read_results
from g2l.slides.cohort import Cohort


@pytest.mark.slow
def test_slides_get_a_class_and_patients_a_risk(
    demo_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort, rng = Cohort.open(demo_cohort), np.random.default_rng(0)
    times = {record.patient: rng.uniform(1, 60) for record in cohort}
    with (tmp_path / "slides.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient", "slide", "centre", "split", "time", "event"])
        for record in cohort:
            assert record.patient is not None
            known = (record.centre, record.patient, record.name, record.centre, record.split)  # the class: its scanner
            patient = int(record.patient[1:])
            table.writerow([record.path, *known, times[record.patient], int(patient % 3 > 0)])
    data = {"class_path": "Listing", "init_args": {"listing": str(tmp_path / "slides.csv")}}
    config = {
        "encoders": {"giga": "demo-giga"},
        "tasks": {
            "scanner": {"class_path": "SlideClassification", "init_args": {"data": data, "epochs": 30}},
            "outcome": {"class_path": "Survival", "init_args": {"data": data, "epochs": 5}},
        },
        "embedding": {"mpp": 1.0, "max_patches": 24},
        "out": str(tmp_path / "results"),
    }
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(config))
    assert main(["evaluate", "--config", str(tmp_path / "tasks.yaml")]) == 0
    results = {(result.task, result.method): result for result in read_results([tmp_path / "results"])}
    assert set(results) == {("scanner", "abmil"), ("scanner", "mean"), ("outcome", "abmil"), ("outcome", "cox")}
    slides = [record for record in cohort if record.split == "test"]
    assert len(results["scanner", "mean"].outcome.predictions["id"]) == len(slides)
    assert results["scanner", "mean"].metrics["AUC"] > 0.5  # this encoder hardly sees the scanner
    risks = results["outcome", "abmil"].outcome.predictions
    assert set(risks["id"].tolist()) == {record.patient for record in slides}
    assert len(list((tmp_path / "results/embeddings").rglob("*.h5"))) == len(cohort)  # both tasks read the same bags
    assert main(["report", str(tmp_path / "results"), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report/report.html").read_text()
    assert "Kaplan" in page
    capsys.readouterr()


def test_a_slide_under_two_names_and_two_patients_in_two_parts_is_refused(
    demo_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = list(Cohort.open(demo_cohort))
    test = next(record for record in records if record.split == "test")
    copied = shutil.copy(test.path, tmp_path / "other.tif")
    rows = [[record.path, record.centre, record.patient, record.name, record.split] for record in records]
    rows.append([copied, test.centre, "somebody", "other", "train"])
    data = {"class_path": "Listing", "init_args": {"listing": str(tmp_path / "slides.csv")}}
    config = {
        "encoders": {"giga": "demo-giga"},
        "tasks": {"scanner": {"class_path": "SlideClassification", "init_args": {"data": data}}},
        "out": str(tmp_path / "results"),
    }
    (tmp_path / "tasks.yaml").write_text(yaml.safe_dump(config))
    for stated in (True, False):
        with (tmp_path / "slides.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "label", "patient", "slide", *(["split"] if stated else [])])
            table.writerows(rows if stated else [row[:4] for row in rows])
        code = main(["evaluate", "--config", str(tmp_path / "tasks.yaml")])
        error = capsys.readouterr().err.splitlines()[-1]
        assert (code, "the same image is in more than one part" in error) == (2, True), error
        assert not list((tmp_path / "results").rglob("*.h5"))  # before anything is embedded
