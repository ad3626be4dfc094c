"""Scores are shown only of the very weights that are exported."""

import json
from pathlib import Path
from typing import Any

import pytest

from g2l.deploy.scores import read_scores, read_summary
from g2l.errors import ConfigError

ROW = {
    "task": "crc", "kind": "classification", "method": "linear", "encoder": "mine", "metric": "accuracy",
    "primary": True, "value": 0.9, "low": 0.8, "high": 0.95, "units": 9, "unit": "image", "patients": 3,
    "undefined_resamples": 0.0, "no_interval_because": "", "reference": None, "difference": None,
    "difference_low": None, "difference_high": None,
}  # fmt: skip


def results(folder: Path, **changes: Any) -> Path:
    content = {
        "format": 1,
        "level": 0.95,
        "encoders": {"mine": {"source": {"sha256": "aa"}}, "other": {"source": {"sha256": "bb"}}, "bare": {}},
        "metrics": [
            ROW,
            ROW | {"metric": "f1", "primary": False},
            ROW | {"kind": "robustness", "metric": "ratio", "primary": False},
            ROW | {"encoder": "other", "value": 0.7},
        ],
    } | changes
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def test_primary_scores_and_all_of_robustness_of_these_weights(tmp_path: Path) -> None:
    found = read_scores(results(tmp_path), {"aa", "cc"})
    assert [(row["metric"], row["value"]) for row in found["rows"]] == [("accuracy", 0.9), ("ratio", 0.9)]
    assert [(row["encoder"], row["value"]) for row in found["others"]] == [("other", 0.7)]
    assert found == read_scores(tmp_path / "metrics.json", {"aa"}) and found["level"] == 0.95


def test_a_name_is_no_proof(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no scores of these weights \(it has mine, other, bare\)"):
        read_scores(results(tmp_path), {"cc"})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 9}, "has format 9"),
        ({"metrics": [{}]}, "is damaged"),
        ({"metrics": [{"primary": True, "kind": "x", "encoder": "mine"}]}, "is damaged"),
        ({"encoders": []}, "is damaged"),
        ({"level": "high"}, "is damaged"),
    ],
)
def test_damaged_results_are_told_in_one_line(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        read_scores(results(tmp_path, **changes), {"aa"})
    assert "\n" not in str(caught.value)


def test_no_results_and_no_json_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_scores(tmp_path, {"aa"})
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no mapping"):
        read_scores(tmp_path, {"aa"})


def test_the_summary_of_a_run_speaks_of_its_best_checkpoint_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    best, last = (tmp_path / "checkpoints" / name for name in ("best-400.ckpt", "last.ckpt"))
    assert read_summary(best) is None
    (tmp_path / "summary.json").write_text('{"student_after": {"knn": 0.5, "cka": null}}')
    assert read_summary(best) == {"student_after": {"knn": 0.5, "cka": None}} and read_summary(last) is None
    (tmp_path / "summary.json").write_text('{"teacher": {"knn": 0.5}}')  # the run has not ended yet
    assert read_summary(best) is None
