"""The small parts of the report: counts, words, tables of facts, figures as images that hold themselves."""

import base64
import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from g2l.evaluation.report.drawing import jpeg, plain
from g2l.evaluation.report.overview_figures import against_score, critical_difference_diagram
from g2l.evaluation.report.task_figures import Curve, _at_risk, confusion, confusion_matrices, survival_curves
from g2l.evaluation.report.words import counted, cross_table, number, p_value, spread, value_of
from g2l.evaluation.statistics.bootstrap import Interval


def drawn(source: str) -> ElementTree.Element:
    kind, _, content = source.partition(";base64,")
    assert kind == "data:image/svg+xml"
    return ElementTree.fromstring(base64.b64decode(content))


def test_confusion_agrees_with_sklearn() -> None:
    from sklearn.metrics import confusion_matrix

    rng = np.random.default_rng(0)
    names = np.array(["a", "b", "c", "d"])
    truth, predicted = names[rng.integers(0, 4, 200)], names[rng.integers(0, 3, 200)]
    assert (confusion(truth, predicted, names.tolist()) == confusion_matrix(truth, predicted, labels=names)).all()


@pytest.mark.parametrize(("classes", "encoders"), [(2, 7), (6, 4), (10, 3), (25, 2)])
def test_confusion_matrices_fit_the_page(classes: int, encoders: int) -> None:
    names = [f"class {number}" for number in range(classes)]
    picture = drawn(confusion_matrices({f"e{n}": np.eye(classes, dtype=np.int64) for n in range(encoders)}, names))
    # the page is 68 rem of 15 px less its margins, 972 px, that is 729 points; a figure is shrunk to it if wider
    assert float(picture.attrib["width"].removesuffix("pt")) < 780


def test_patients_at_risk_are_those_observed_until_then() -> None:
    curve = Curve("low", [0.0, 2.0, 5.0], [1.0, 0.5, 0.25], [4, 4, 2])
    assert [_at_risk(curve, time) for time in (0, 1, 2, 3, 5, 6)] == [4, 4, 4, 2, 2, 0]


def test_figures_take_names_that_mean_something_to_matplotlib_or_xml() -> None:
    names = ["$x_{1}", "<b>&", "_hidden", "ü \\frac"]
    found = [Interval(0.1 * n, 0.1 * n - 0.05, 0.1 * n + 0.05, 0.0, "") for n in range(4)]
    drawn(critical_difference_diagram(names, [1.0, 2.0, 3.5, 3.5], 1.2))
    drawn(against_score(names, [1.0, None, 30.0, 400.0], found, "millions", "score"))
    curves = [Curve(name, [0.0, 1.0], [1.0, 0.4], [5, 5]) for name in names[:2]]
    drawn(survival_curves(dict.fromkeys(names, (curves, None))))
    assert plain("$a$") == r"\$a\$" and plain("_a") == " _a" and len(plain("x" * 100)) == 27


def test_a_thumbnail_keeps_its_shape() -> None:
    from io import BytesIO

    from PIL import Image

    content = base64.b64decode(jpeg(np.zeros((300, 100, 3), np.uint8), 60).partition(",")[2])
    assert Image.open(BytesIO(content)).size == (20, 60)


def test_numbers_in_words() -> None:
    assert (number(-0.1234, True), number(0.5), number(None), number(math.nan)) == ("−0.123", "0.500", "–", "–")
    assert spread(Interval(0.1, -0.05, 0.25, 0, ""), True) == "[−0.050, +0.250]"
    assert spread(Interval(0.1, math.nan, math.nan, 1, "few")) == ""
    assert (p_value(0.0004), p_value(0.049)) == ("p < 0.001", "p = 0.049")
    assert (counted(1, "patch"), counted(2960, "patch"), counted(2, "row")) == ("1 patch", "2,960 patches", "2 rows")
    assert value_of({"C": 0.01, "on": ["a", True, None]}) == "C 0.01, on a, yes, –"
    assert value_of({"val": {"9.999999999999999e-06": 0.8241, "1": 0.5}}) == "val (1e-05: 0.8241, 1: 0.5)"


def test_facts_become_tables_where_they_are_some() -> None:
    assert cross_table({"a": {"x": 1, "y": 2}, "b": {"y": 3}}) == (["x", "y"], [("a", ["1", "2"]), ("b", ["–", "3"])])
    assert cross_table([{"time": 1.5, "AUC": 0.75}]) == (["time", "AUC"], [("1", ["1.5", "0.75"])])
    balance = {"biology": ["t", "n"], "centres": ["x", "y"], "counts": [[1, 2], [3, 4]]}
    assert cross_table(balance) == (["x", "y"], [("t", ["1", "2"]), ("n", ["3", "4"])])
    for other in ({"a": 1}, [], [1, 2], "text", {"a": {"b": [1]}}, {"a": {}}, None):
        assert cross_table(other) is None
