"""Every shipped YAML through --print_config; interpolation and overrides from the shell."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from g2l.__main__ import main

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = sorted(path for path in (CONFIGS / "evaluation").glob("*.yaml") if path.stem != "demo")  # its data is drawn


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The resolved config that `g2l fit ... --print_config` prints."""
    assert main(["fit", *arguments, "--print_config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_config_is_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    under = ["--config", str(CONFIGS / "demo.yaml")] if path.stem.startswith("demo_") else []  # variants of the demo
    config = printed(capsys, *under, "--config", str(path))
    assert all(term["class_path"].startswith("g2l.") for term in config["model"]["terms"].values())
    assert config["trainer"]["max_steps"] > 0


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_shipped_tasks_are_valid_and_missing_data_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("G2L_DATA", "G2L_DATASETS"):
        monkeypatch.delenv(name, raising=False)
    command = ["evaluate", "--config", str(path), "--encoders.other", "demo-giga"]
    assert main([*command, "--print_config"]) == 0
    tasks = yaml.safe_load(capsys.readouterr().out)["tasks"]
    assert all(task["class_path"].startswith("g2l.evaluation.tasks.") for task in tasks.values())
    assert main([*command, "--out", "results"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(name in error for name in tasks) and "datasets/" in error  # the folder that is expected
    assert not list(tmp_path.rglob("*.h5"))


def test_shell_overrides_reach_a_term_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    demo = str(CONFIGS / "demo.yaml")
    config = printed(capsys, "--config", demo, "--model.terms.logsum.alpha=2", "--model.terms.logsum.weight=0.5")
    assert config["model"]["terms"]["logsum"]["init_args"]["alpha"] == 2
    assert config["model"]["terms"]["logsum"]["init_args"]["weight"] == 0.5
    assert config["model"]["terms"]["logsum"]["init_args"]["teacher"] == "demo-giga"


def test_interpolation_follows_a_shell_override(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "--config", str(CONFIGS / "demo.yaml"), "--trainer.default_root_dir=elsewhere")
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "elsewhere"


def test_a_second_config_replaces_what_it_names(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("model: {terms: {angle: {class_path: Cosine, init_args: {teacher: demo-giga}}}}\n")
    config = printed(capsys, "--config", str(CONFIGS / "demo.yaml"), "--config", str(other))
    assert list(config["model"]["terms"]) == ["angle"]
    assert config["data"]["cohort"] == "demo"


def test_an_unknown_setting_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(CONFIGS / "demo.yaml"), "--model.alhpa=2"]) == 2
    error = capsys.readouterr().err.strip()
    assert "alhpa" in error and "\n" not in error
