"""The shipped YAMLs of slide tasks build their task and its data by short names, and settings reach them."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from g2l.evaluation.tables.slides_camelyon16 import Camelyon16
from g2l.evaluation.tables.slides_panda import Panda
from g2l.evaluation.tables.slides_tcga import TcgaSubtyping, TcgaSurvival
from g2l.evaluation.tasks.slides import SlideClassification
from g2l.evaluation.tasks.survival import Survival
from g2l.evaluation.tasks.task import Task

CONFIGS = Path(__file__).parents[3] / "configs" / "evaluation"


def built(text: str) -> dict[str, Task]:
    parser = ArgumentParser(parser_mode="omegaconf+")
    parser.add_argument("--tasks", type=dict[str, Task])
    return parser.instantiate(parser.parse_string(text)).tasks


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("camelyon16", SlideClassification, Camelyon16),
        ("panda", SlideClassification, Panda),
        ("tcga_subtyping", SlideClassification, TcgaSubtyping),
        ("tcga_survival", Survival, TcgaSurvival),
    ],
)
def test_a_shipped_config_builds_its_task(name: str, kind: type, data: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2L_DATASETS", "/somewhere")
    (task,) = built((CONFIGS / f"{name}.yaml").read_text()).values()
    assert type(task) is kind and type(task.data) is data
    assert vars(task.data)["root"] == f"/somewhere/{name}"


def test_settings_of_the_tasks_are_read_and_wrong_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = """
tasks:
  a:
    class_path: Survival
    init_args:
      censorship: cens
      observed: [0, alive]
      methods: [abmil]
      data: {class_path: TcgaSurvival, init_args: {root: x}}
"""
    task = built(text)["a"]
    assert isinstance(task, Survival) and task.methods == ["abmil"] and task.observed == ["0", "alive"]
    assert task.censorship == "cens" and task.event is None
    with pytest.raises(SystemExit):
        built(text.replace("[abmil]", "[forest]"))
    assert "forest" in capsys.readouterr().err
