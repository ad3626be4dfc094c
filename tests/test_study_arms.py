"""The study's arms: every config is one that `g2l fit` takes, students have a quarter, and arms differ as they say."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from g2l import LogSum
from g2l.__main__ import main
from g2l.data.views import Views
from g2l.encoders.encoder import create_encoder

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def configs(budget: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The config of every training of a budget."""
    from scaled.arms import arms, frozen
    from scaled.plan import BUDGETS, STUDENT, write_networks
    from scaled.recipe import training

    plan = BUDGETS[budget]
    networks = write_networks(plan, folder)
    names = {name: str(path) for name, path in networks.items()}
    found = {}
    for name, arm in {**frozen(plan, ["a", "b"]), **arms(plan, names, ["a", "b"])}.items():
        student = networks.get(name, networks[STUDENT])
        found[name] = training(name, arm, plan, student, folder / "patches", 3, folder, plan.steps)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("budget", ["small", "large"])
def test_fit_takes_every_config(budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, config in configs(budget, tmp_path).items():
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        assert main(["fit", "--config", str(file), "--print_config"]) == 0, name
        printed = yaml.safe_load(capsys.readouterr().out)
        assert set(printed["model"]["terms"]) == set(config["model"]["terms"]) and printed["seed_everything"] == 3


@pytest.mark.parametrize("budget", ["tiny", "small", "large"])
def test_a_student_has_about_a_quarter_of_its_teacher(budget: str, tmp_path: Path) -> None:
    from scaled.plan import BUDGETS, STUDENT, TEACHER, write_networks

    networks = write_networks(BUDGETS[budget], tmp_path)
    sizes = {
        name: sum(parameter.numel() for parameter in create_encoder(str(path), init="random").parameters())
        for name, path in networks.items()
    }
    # of the tiny ones the patch embedding is most
    assert 0.2 < sizes[STUDENT] / sizes[TEACHER] < (0.3 if budget != "tiny" else 0.6)
    assert BUDGETS[budget].local % 16 == 0 and BUDGETS[budget].batch % 2 == 0


def test_arms_differ_in_what_their_name_says_and_in_nothing_else(tmp_path: Path) -> None:
    found = configs("small", tmp_path)
    faithful = found["log-sum faithful"]

    def apart(name: str) -> set[str]:
        """Paths of the settings that differ from the published log-sum."""
        one, other = (_flat(config) for config in (found[name], faithful))
        paths = {key for key in {*one, *other} if one.get(key) != other.get(key)}
        return {path for path in paths if str(tmp_path) not in str(one.get(path))}

    settings = "model.terms.logsum.init_args."
    assert apart("log-sum") == {f"{settings}faithful"}
    assert apart("alpha 2") == {f"{settings}faithful", f"{settings}alpha"}
    assert apart("patch tokens") == {f"{settings}faithful", f"{settings}patch"}
    stain = {"model.views.init_args.stain", "model.views.init_args.stain_strength"}
    assert apart("strong stain") == {f"{settings}faithful", *stain}
    assert apart("clean teacher") == {f"{settings}faithful", f"{settings}view", *stain}
    assert apart("ema") == {f"{settings}faithful", "model.result", "model.ema_momentum"}
    assert {path.split(".")[1] for path in apart("cosine") if path.startswith("model.")} == {"terms"}
    for name, config in found.items():
        same = ("lr", "warmup_steps") if name not in ("teacher", "expert") else ()
        assert all(config["model"][key] == faithful["model"][key] for key in same), name
        crops = 2 if config["model"]["views"]["class_path"] == "MultiCrop" else 1
        assert config["data"]["batch_size"] * crops == faithful["data"]["batch_size"], name
        assert config["trainer"]["max_steps"] == faithful["trainer"]["max_steps"], name


@pytest.mark.parametrize("name", ["breast", "prostate", "open_student"])
def test_the_shipped_recipe_is_an_arm_of_the_study(name: str, tmp_path: Path) -> None:
    shipped = yaml.safe_load((BENCHMARKS.parent / f"configs/{name}.yaml").read_text())["model"]
    arm = configs("small", tmp_path)["clean teacher"]["model"]
    defaults = {
        name: each.default for kind in (LogSum, Views) for name, each in signature(kind.__init__).parameters.items()
    }
    found = [defaults | _settings(model["terms"]["logsum"]) | _settings(model["views"]) for model in (shipped, arm)]
    assert found[0] == found[1] and found[0]["view"] == "clean" and list(shipped["terms"]) == ["logsum"]


def _settings(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section["init_args"].items() if key not in ("teacher", "size")}


def _flat(content: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {path: content}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= _flat(value, f"{path}.{key}" if path else key)
    return found
