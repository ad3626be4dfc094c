"""`g2l doctor`: each check fails when it should, and here all is well."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from g2l.deploy import doctor as verb
from g2l.deploy.checks import machine, trials, working
from g2l.deploy.checks.apart import Outcome, Trial
from g2l.deploy.checks.finding import WIDTH, Finding, sized, worst
from g2l.deploy.checks.packages import check_packages, unmet_of
from g2l.deploy.checks.surroundings import check_surroundings
from g2l.deploy.doctor import Report, doctor

GIB = 1 << 30


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """installed(name, version, requires=(), **fields): a package that is found before all others."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, version: str, *requires: str, extras: tuple[str, ...] = (), python: str = ">=3.9") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Requires-Python: {python}"]
        lines += [f"Requires-Dist: {text}" for text in requires] + [f"Provides-Extra: {extra}" for extra in extras]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")

    return write


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """broken(name, code): a package of this name that runs `code` when it is imported, in trials too."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)

    return write


def marks(findings: list[Finding]) -> dict[str, str]:
    return {finding.what: finding.mark for finding in findings}


def test_a_finding_is_aligned_wrapped_and_names_its_remedy() -> None:
    text = str(Finding("warn", "shared memory", "word " * 40, "docker run --shm-size=8g"))
    first, *middle, last = text.splitlines()
    assert first.startswith("  warn   shared memory      word")
    assert all(line[:28] == " " * 28 and line[28] == "w" for line in middle) and middle
    assert last == " " * 28 + "-> docker run --shm-size=8g"
    assert max(map(len, text.splitlines())) <= WIDTH
    assert [sized(n) for n in (0, 1023, 1536, 3 << 30, 200 << 30, 5 << 40)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "3.0 GiB", "200 GiB", "5.0 TiB",
    ]  # fmt: skip


def test_the_exit_code_is_that_of_the_worst_finding() -> None:
    fine, warned, bad = Finding("ok", "a", "b"), Finding("warn", "a", "b", "c"), Finding("problem", "a", "b", "c")
    assert [worst(given) for given in ([], [fine], [bad, warned], [warned, fine])] == ["ok", "ok", "problem", "warn"]
    assert Report((("s", (fine, warned)),)).exit_code == 0
    assert Report((("s", (fine,)), ("t", (warned, bad)))).exit_code == 1
    assert str(Report((("s", (bad, warned, warned)),))).endswith("3 checks: 1 problem, 2 warnings")


def test_packages_outside_their_range_and_missing_ones_are_named(installed: Any) -> None:
    installed("middle", "1.0", "deep>=2", "absent-for-extra; extra == 'more'")
    installed("deep", "1.5")
    installed("fine", "3.2rc1")
    requires = (
        "middle[more]<2", "fine>=3", "old<1", "gone>=7", "elsewhere; sys_platform == 'plan9'",
        "extra-one; extra == 'x'",
    )  # fmt: skip
    installed("old", "1.0.1")
    installed("our-package", "0.1", *requires, extras=("x",))
    assert {str(one) for one in unmet_of("our-package")} == {
        "old 1.0.1 is installed, our-package asks for <1",
        "gone is missing, our-package asks for >=7",
        "deep 1.5 is installed, middle asks for >=2",
        "absent-for-extra is missing, middle asks for any version",
    }
    findings = check_packages("our-package")
    found = marks(findings)
    assert (found["old"], found["gone"], found["deep"]) == ("problem", "problem", "warn")
    assert found["extra x"] == "note" and "requirements" not in found
    assert next(one.remedy for one in findings if one.what == "gone") == "pip install 'gone>=7'"


def test_extras_that_are_too_old_are_told(installed: Any) -> None:
    installed("helper", "1.0")
    installed(
        "our-package", "0.1", "helper>=1", "helper>=2; extra == 'x'", "helper>=1; extra == 'y'", extras=("x", "y")
    )
    found = marks(check_packages("our-package"))
    assert (found["extra x"], found["extra y"], found["requirements"]) == ("warn", "ok", "ok")


def test_python_out_of_range_and_a_package_that_is_not_installed(installed: Any) -> None:
    installed("our-package", "0.1", python=">=3.99")
    assert marks(check_packages("our-package"))["python"] == "problem"
    assert marks(check_packages("no-such-package")) == {"no-such-package": "warn"}


def test_two_builds_of_opencv_are_warned_of(installed: Any) -> None:
    installed("our-package", "0.1")
    assert "opencv" not in marks(check_packages("our-package"))
    installed("opencv-contrib-python-headless", "4.1.0")
    assert marks(check_packages("our-package"))["opencv"] == "warn"


def test_without_what_compares_versions_the_packages_are_told_not_to_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "g2l.deploy.checks.packages")
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    (finding,) = verb._packages()
    assert finding.mark == "problem" and finding.remedy == "pip install packaging"


def test_the_requirements_of_g2l_are_met_here() -> None:
    found = marks(check_packages())
    assert found["python"] == found["requirements"] == found["extra dev"] == "ok"


@pytest.mark.parametrize(
    ("code", "error", "remedy"),
    [
        ("raise OSError('libcudart.so.13: cannot open shared object file')", "libcudart", "CUDA libraries"),
        ("import os; os.abort()", "ended by SIGABRT", "--force-reinstall torch"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "ended by SIGILL", "processor lacks"),
        ("import os; os._exit(3)", "ended with 3", "--force-reinstall torch"),
        ("import os; print('hello', flush=True); os._exit(0)", "no answer but 'hello'", "--force-reinstall torch"),
        ("import not_there_at_all", "not_there_at_all", "pip install not_there_at_all"),
    ],
)
def test_a_broken_torch_breaks_its_trial_alone(code: str, error: str, remedy: str, broken: Any) -> None:
    broken("torch", code)
    outcome = Trial("torch").outcome()
    assert outcome.seen == {} and error in outcome.error
    (finding,) = working.judge_torch(outcome, 2)
    assert finding.mark == "problem" and remedy in finding.remedy and error in finding.detail


def test_a_library_that_hangs_is_not_waited_for(broken: Any) -> None:
    broken("openvino", "import time; time.sleep(60)")
    start = time.monotonic()
    outcome = Trial("openvino").outcome(patience=1.0)
    assert time.monotonic() - start < 5 and outcome.error == "no answer within 1 s"
    assert "hanging" in working.judge_openvino(outcome)[0].remedy


def test_a_file_of_the_current_folder_does_not_stand_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('the wrong file')")
    monkeypatch.chdir(tmp_path)
    assert Trial("onnxruntime").outcome().error == ""


def test_a_missing_system_library_is_told_with_its_package(broken: Any) -> None:
    broken("cv2", "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')")
    (finding,) = working.judge_slides(Trial("slides").outcome())
    assert finding.mark == "problem" and "libgl1" in finding.remedy


def test_the_graph_is_three_nodes_as_onnx_builds_them() -> None:
    tensors = [
        helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, -1.0, 2.0, 0.0]),
        helper.make_tensor("b", TensorProto.FLOAT, [2], [-1.0, 3.0]),
    ]
    nodes = [("MatMul", ["x", "w"], ["m"]), ("Add", ["m", "b"], ["a"]), ("Relu", ["a"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "g2l", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    assert onnx.load_model_from_string(trials.GRAPH) == model


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_runtime_that_computes_something_else_is_a_problem(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = getattr(working, f"judge_{name}")
    assert marks(judge(Outcome(trials.TRIALS[name]())))[name] == "ok"
    model = onnx.load_model_from_string(trials.GRAPH)
    model.graph.node[2].op_type = "Neg"
    monkeypatch.setattr(trials, "GRAPH", model.SerializeToString())
    (finding,) = judge(Outcome(trials.TRIALS[name]()))
    assert finding.mark == "problem" and "[-4.0" in finding.detail


def test_what_a_processor_lacks_is_noted() -> None:
    seen = {"version": "1", "processor": "any ", "capabilities": ["FP32"], "result": trials.DUE}
    assert marks(working.judge_openvino(Outcome(seen))) == {
        "openvino": "ok", "openvino bf16": "note", "openvino int8": "note",
    }  # fmt: skip
    for wrong in ([[4.0, 2.0]], [[4.0, 2.0], [10.0, float("nan")]]):
        assert marks(working.judge_openvino(Outcome(seen | {"result": wrong}))) == {"openvino": "problem"}


def test_slides_are_read_and_faults_of_the_readers_told() -> None:
    seen = trials.try_slides()
    assert marks(working.judge_slides(Outcome(seen))) == {"openslide": "ok", "tiles": "ok", "libjpeg-turbo": "ok"}
    assert marks(working.judge_slides(Outcome(seen | {"openslide": "3.4.1"})))["openslide"] == "warn"
    assert marks(working.judge_slides(Outcome(seen | {"difference": 50.0})))["tiles"] == "problem"
    assert marks(working.judge_slides(Outcome(seen | {"spread": 0.0})))["tiles"] == "problem"
    assert marks(working.judge_slides(Outcome(seen | {"megapixels_per_second": 12.0})))["libjpeg-turbo"] == "warn"


def test_gpus_and_their_drivers() -> None:
    card = {"name": "H", "memory": 80 * GIB, "free": 79 * GIB, "sum": working.ONES, "error": ""}
    seen = {
        "version": "2.12",
        "cuda": "13.0",
        "threads": 2,
        "driver": "NVRM version 535",
        "warnings": [],
        "devices": [],
    }
    seen |= {"sum": working.ONES}

    def judged(**changes: Any) -> dict[str, str]:
        return marks(working.judge_torch(Outcome(seen | changes), cores=2.0))

    assert judged(devices=[card]) == {"torch": "ok", "gpu 0": "ok"}
    assert judged(devices=[card, card | {"error": "no kernel image is available"}])["gpu 1"] == "problem"
    assert judged(devices=[card | {"sum": 0.0}])["gpu 0"] == "problem"
    assert judged(warnings=["The NVIDIA driver on your system is too old"])["gpu"] == "problem"
    assert judged(cuda="")["gpu"] == "warn" and judged(driver="")["gpu"] == "note"
    assert judged(threads=64)["torch"] == "warn" and judged(sum=1.0) == {"torch": "problem"}
    old = Outcome(seen | {"warnings": ["The NVIDIA driver on your system is too old"]})
    assert "too old" in working.judge_torch(old, 2.0)[1].detail
    apart = Outcome({}, "RuntimeError: operator torchvision::nms does not exist")
    assert "torchvision that belongs to this torch" in working.judge_torchvision(apart)[0].remedy
    assert marks(working.judge_torchvision(Outcome({"version": "1", "kept": [0, 1, 2]}))) == {"torchvision": "problem"}


def container(root: Path, **files: str) -> Path:
    """A root folder with these files; __ in a name stands for / and _dot_ for a dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


MEMINFO = "MemTotal:       67108864 kB\nMemFree: 1 kB\nMemAvailable:   33554432 kB"


def test_limits_of_a_container_of_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    root = container(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="0::/pod/inner")
    assert machine.usable_cores(root) == 16 and machine.free_memory(root) == (32 * GIB, 64 * GIB)
    container(
        root, sys__fs__cgroup__pod__inner__cpu_dot_max="max 100000", sys__fs__cgroup__pod__cpu_dot_max="150000 100000"
    )
    assert machine.usable_cores(root) == 1.5
    container(
        root, sys__fs__cgroup__pod__memory_dot_max=str(4 * GIB), sys__fs__cgroup__pod__memory_dot_current=str(3 * GIB)
    )
    assert machine.free_memory(root) == (GIB, 4 * GIB)
    assert machine.check_memory(root).mark == "warn" and machine.check_cores(root).mark == "ok"
    container(root, sys__fs__cgroup__pod__inner__cpu_dot_max="50000 100000")
    assert machine.check_cores(root).mark == "warn"


def test_limits_of_a_container_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    lines = "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n2:pids:/"
    root = container(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup=lines)
    container(
        root, sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="400000", sys__fs__cgroup__cpu__cpu_dot_cfs_period_us="100000"
    )
    container(root, sys__fs__cgroup__memory__docker__1__memory_dot_limit_in_bytes=str(20 * GIB))
    container(root, sys__fs__cgroup__memory__docker__1__memory_dot_usage_in_bytes=str(GIB))
    container(root, sys__fs__cgroup__memory__memory_dot_limit_in_bytes=str((1 << 63) - 4096))
    assert machine.usable_cores(root) == 4 and machine.free_memory(root) == (19 * GIB, 20 * GIB)
    container(root, sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="-1")
    assert machine.usable_cores(root) == 16
    assert machine.check_memory(tmp_path / "nothing").mark == "note"


def test_disk_shared_memory_and_handles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = machine.shutil.disk_usage(tmp_path)
    for free, mark in ((20 * GIB, "ok"), (4 * GIB, "warn"), (GIB // 2, "problem")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        assert machine.check_disk("disk", tmp_path).mark == mark
    for total, mark in ((2 * GIB, "ok"), (64 << 20, "warn")):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, total=total: usage._replace(total=total))
        assert machine.check_shm(tmp_path).mark == mark
    monkeypatch.undo()
    assert machine.check_shm(tmp_path / "none").mark == "note"
    assert machine.check_disk("temporary", tmp_path / "none").mark == "problem"
    assert machine.check_handles(least=1).mark == "ok" and machine.check_handles(least=1 << 40).mark in ("warn", "ok")


def test_handles_are_warned_of_below_a_thousand() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        finding = machine.check_handles()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert finding.mark == "warn" and "512" in finding.detail


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))

    def settings(saw: dict[str, Any], **environ: str) -> dict[str, str]:
        return marks(check_surroundings(environ, saw))

    saw = {"weights": []}
    assert set(settings(saw).values()) == {"note", "ok"}
    bad = settings(saw, G2L_DATA=str(tmp_path / "none"), G2L_WEIGHTS=str(tmp_path / "none"))
    assert (bad["G2L_DATA"], bad["G2L_WEIGHTS"]) == ("warn", "warn")
    good = settings({"weights": ["uni"]}, G2L_DATA=str(tmp_path), G2L_WEIGHTS=str(tmp_path), HF_HUB_OFFLINE="1")
    assert (good["G2L_DATA"], good["G2L_WEIGHTS"], good["model hub"]) == ("ok", "ok", "ok")
    assert settings(saw, G2L_WEIGHTS=str(tmp_path))["G2L_WEIGHTS"] == "warn"
    assert settings({}, G2L_WEIGHTS=str(tmp_path))["G2L_WEIGHTS"] == "note"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    assert settings(saw)["encoding"] == "warn"


def test_weight_files_are_found_by_the_names_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("uni.safetensors", "hibou-l.pth", "unknown.bin", "virchow.txt"):
        (tmp_path / name).touch()
    monkeypatch.setenv("G2L_WEIGHTS", str(tmp_path))
    seen = trials.try_torch()
    assert sorted(seen["weights"]) == ["hibou-l", "uni"]
    assert marks(working.judge_torch(Outcome(seen | {"devices": []}), cores=64.0))["torch"] == "ok"


def test_asking_imports_nothing_heavy() -> None:
    code = (
        "import sys, g2l.deploy.doctor, g2l.deploy.checks.packages, g2l.deploy.checks.working, "
        "g2l.deploy.checks.machine, g2l.deploy.checks.surroundings; "
        "sys.stdout.write(', '.join({'torch', 'numpy', 'cv2', 'openslide', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.slow
def test_here_all_is_well() -> None:
    report = doctor()
    findings = [finding for _, section in report.sections for finding in section]
    assert report.exit_code == 0, str(report)
    assert {"python", "requirements", "openslide", "tiles", "libjpeg-turbo", "tiatoolbox", "torch", "torchvision",
            "openvino", "onnxruntime", "cores", "memory", "disk", "temporary", "shared memory", "file handles",
            "encoding"} <= {finding.what for finding in findings}  # fmt: skip
    assert all(finding.remedy for finding in findings if finding.mark in ("warn", "problem"))
    assert max(map(len, str(report).splitlines())) <= WIDTH


@pytest.mark.slow
def test_a_broken_library_ends_in_a_problem_and_the_rest_is_still_looked_at(broken: Any) -> None:
    broken("openvino", "raise ImportError('libtbb.so.12: cannot open shared object file')")
    report = doctor()
    found = marks([finding for _, section in report.sections for finding in section])
    assert report.exit_code == 1 and found["openvino"] == "problem"
    assert found["onnxruntime"] == found["openslide"] == found["torch"] == "ok"
