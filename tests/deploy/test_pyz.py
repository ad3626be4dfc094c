"""embed.pyz and requirements.txt: what goes in, what must not, and the same command line as `g2l embed`."""

import ast
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from g2l.__main__ import main as g2l_main
from g2l.deploy import pyz
from g2l.deploy.pyz import MAIN, WITHOUT, closure, distributions, imports, write_pyz, write_requirements
from g2l.deploy.runtime.embed import embed
from g2l.deploy.runtime.main import main, parser_of
from g2l.deploy.runtime.verify import verify
from g2l.errors import ConfigError
from g2l.verbs import parser_of as g2l_parser_of

HEAVY = {
    "torch", "torchvision", "lightning", "timm", "pyarrow", "pandas", "tiatoolbox", "scipy", "sklearn", "matplotlib",
    "jsonargparse", "safetensors", "onnx", "nncf",
}  # fmt: skip


# --- what goes in -----------------------------------------------------------------------------------------------------


def test_the_closure_is_all_that_python_imports_and_nothing_heavy() -> None:
    found = closure()
    tops = {name.split(".")[0] for place in found.values() for name in imports(place)}
    assert not tops & (HEAVY - WITHOUT) and len(found) > 30
    program = (
        "import sys, g2l.deploy.runtime.embed, g2l.deploy.runtime.verify, g2l.deploy.runtime.main\n"
        "print(*sorted(name for name in sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in loaded if name.split(".")[0] == "g2l"}
    assert ours and ours <= set(found)
    assert not {name.split(".")[0] for name in loaded} & HEAVY


def test_imports_are_read_at_any_depth_but_not_those_for_type_checkers(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import a.b, c\nfrom d import e\nif TYPE_CHECKING:\n    import hidden\nelse:\n    import shown\n"
        "def f():\n    class G:\n        try:\n            from h import i as j\n        except ImportError:\n"
        "            import k\n"
    )
    assert sorted(imports(file)) == ["a.b", "c", "d", "d.e", "h", "h.i", "k", "shown"]


def test_what_no_bundle_brings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "more.py"
    file.write_text("def f():\n    import pandas\n")
    with pytest.raises(ConfigError, match=r"g2l\.more imports pandas, which no bundle brings"):
        distributions({"g2l.more": file})
    monkeypatch.setattr(pyz, "closure", lambda: {"g2l.more": file})
    with pytest.raises(ConfigError):
        write_pyz(tmp_path / "embed.pyz")
    assert not (tmp_path / "embed.pyz").exists()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.pyz", tmp_path / "other.pyz"
    write_pyz(one)
    program = f"from pathlib import Path; from g2l.deploy.pyz import write_pyz; write_pyz(Path({str(other)!r}))"
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"})
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()
    with zipfile.ZipFile(one) as archive:
        names = archive.namelist()
        assert names == sorted(names) and "__main__.py" in names and archive.testzip() is None
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        for name, place in closure().items():
            assert archive.read(place.relative_to(pyz.PACKAGE.parent).as_posix()) == place.read_bytes(), name


def test_an_old_python_can_read_the_start() -> None:
    tree = ast.parse(MAIN, feature_version=(3, 7))
    first = next(node for node in tree.body if isinstance(node, ast.If))
    assert "too old" in ast.unparse(first) and tree.body.index(first) == 2


def test_the_requirements_are_exact_and_cover_every_import(tmp_path: Path) -> None:
    write_requirements(tmp_path / "requirements.txt")
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if not line.startswith("#")]
    assert [one.name for one in wanted] == sorted(one.name for one in wanted) and len(wanted) == 14
    for one in wanted:
        (pin,) = one.specifier
        installed = "opencv-python" if one.name == "opencv-python-headless" else one.name
        assert pin.operator == "==" and pin.version == version(installed)
    names = {one.name for one in wanted}
    assert {"openslide-bin", "openslide-python", "numpy", "h5py", "onnxruntime", "openvino", "simplejpeg"} <= names
    assert not names & HEAVY


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "verb"), [(embed, "embed"), (verify, "verify")])
def test_the_options_are_those_of_g2l(function: Callable[..., Any], verb: str) -> None:
    ours, theirs = parser_of(function, Path("bundle"), "python embed.pyz"), g2l_parser_of(function, verb)

    def options(parser: Any) -> dict[str, tuple[Any, bool]]:
        skipped = {"help", "config", "print_config", "bundle"}
        return {one.dest: (one.default, bool(one.required)) for one in parser._actions if one.dest not in skipped}

    assert options(ours) == options(theirs) and len(options(ours)) > 5
    texts = {one.dest: one.help for one in ours._actions if one.dest not in ("help",)}
    assert all(texts.values()), texts


def test_values_arrive_as_the_function_wants_them() -> None:
    parser = parser_of(embed, Path("somewhere"), "python embed.pyz")
    line = ["a.svs", "--out", "o", "--mpp", "0.25", "--batch_size", "4", "--threads", "2", "--min_tissue", "0.1"]
    found = vars(parser.parse_args(line))
    assert found == {
        "bundle": "somewhere", "slides": "a.svs", "out": "o", "manifest": None, "mpp": 0.25, "format": None,
        "batch_size": 4, "threads": 2, "min_tissue": 0.1,
    }  # fmt: skip
    assert vars(parser.parse_args(["a", "--out", "o", "--bundle", "other"]))["bundle"] == "other"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (["a.svs"], "--out"),
        (["a.svs", "--out", "o", "--batch_size", "many"], "--batch_size"),
        (["a.svs", "--out", "o", "--nonsense", "1"], "--nonsense"),
        (["a.svs", "--out", "o", "--batch", "2"], "--batch"),
        (["--verify", "--patches", "few"], "--patches"),
        (["absent.svs", "--out", "o"], "absent.svs"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    line: list[str], what: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(line, bundle) == 2
    said = capsys.readouterr().err
    assert said.startswith("embed.pyz: error: ") and said.count("\n") == 1 and what in said
    assert not (tmp_path / "o").exists()


def test_the_same_errors_and_exit_codes_as_g2l(
    bundle: Path, drawn_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    for line in (
        [str(tmp_path / "broken.svs"), "--out", str(tmp_path / "out")],
        [str(tmp_path / "absent"), "--out", str(tmp_path / "out")],
        [str(drawn_slide), "--out", str(bundle / "out")],
        [str(drawn_slide), "--out", str(tmp_path / "out"), "--mpp", "99"],
    ):
        mine, said = main(line, bundle), capsys.readouterr()
        theirs, told = g2l_main(["embed", str(bundle), *line]), capsys.readouterr()
        assert mine == theirs != 0
        assert re.sub(r"\d+\.\d", "", said.out) == re.sub(r"\d+\.\d", "", told.out)  # the table, but for seconds
        if mine == 2:
            assert said.err.removeprefix("embed.pyz") == told.err.removeprefix("g2l")


def test_a_library_that_is_not_installed_is_named(
    bundle: Path, drawn_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert main([str(drawn_slide), "--out", str(tmp_path / "out")], bundle) == 2
    said = capsys.readouterr().err
    assert "h5py is not installed; run: pip install -r requirements.txt" in said


def test_without_a_bundle_around_it_one_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a.svs", "--out", "o"]) == 2
    assert "--bundle" in capsys.readouterr().err
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "--verify" in shown and "usage: python embed.pyz" in shown
