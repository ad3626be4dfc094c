"""The notebooks as a reader runs them, on small slides and with few steps, and as they are stored."""

import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from study_patches import write_patches

from g2l.data.demo import draw_cohort
from g2l.deploy.bundle import write_bundle
from g2l.deploy.runtime.opened import open_bundle
from g2l.encoders.encoder import create_encoder
from g2l.evaluation.results import read_results
from g2l.slides.index import index

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SLIDE_UM = 900.0  # smaller slides do not have every class


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded cohort, drawn small into slides/ and indexed into cohort/."""
    folder = tmp_path_factory.mktemp("drawn")
    manifest = draw_cohort(folder / "slides", workers=1, size_um=SLIDE_UM)
    index(str(manifest.parent), str(folder / "cohort"), manifest=str(manifest), workers=0)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder outside the repository, and an environment in which a kernel draws and does not hog the machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    return tmp_path


def execute(name: str, workplace: Path) -> list[str]:
    """Run a notebook in `workplace`, to its end or to the first error (which is raised); the figures' cell ids."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(workplace)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.id for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]


@pytest.mark.slow
def test_the_quickstart_trains_and_exports(drawn: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2L_NOTEBOOK_COHORT", str(drawn / "cohort"))
    monkeypatch.setenv("G2L_NOTEBOOK_STEPS", "12")
    monkeypatch.setenv("G2L_NOTEBOOK_PATCHES", "120")
    assert len(execute("01_quickstart.ipynb", workplace)) == 6
    assert (workplace / "runs/quickstart/student/model.safetensors").is_file()
    assert {path.name for path in workplace.iterdir()} == {"runs"}


@pytest.mark.slow
def test_the_cohort_is_shown_from_slides_to_patches(
    drawn: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the index found is there already: the notebook's own call only puts it together again.
    shutil.copytree(drawn / "cohort", workplace / "cohorts/notebook")
    monkeypatch.setenv("G2L_NOTEBOOK_SLIDES", str(drawn / "slides"))
    monkeypatch.setenv("G2L_NOTEBOOK_MANIFEST", str(drawn / "slides/manifest.csv"))
    assert len(execute("02_cohort.ipynb", workplace)) == 7
    assert len((workplace / "cohorts/rejected/rejected.csv").read_text().splitlines()) == 1 + 3
    assert {path.name for path in workplace.iterdir()} == {"cohorts"}


@pytest.mark.slow
def test_the_objective_is_drawn_and_trained(drawn: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2L_NOTEBOOK_COHORT", str(drawn / "cohort"))
    monkeypatch.setenv("G2L_NOTEBOOK_STEPS", "8")
    monkeypatch.setenv("G2L_NOTEBOOK_PATCHES", "160")
    assert len(execute("03_distill.ipynb", workplace)) == 11
    with (workplace / "runs/distill/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [row["train/loss"] for row in rows if row["train/loss"]]
    assert len(losses) == 8 and all(math.isfinite(float(loss)) for loss in losses)
    assert {"train/logsum", "train/dino", "train/ibot", "train/kde", "val/cka"} <= rows[0].keys()
    assert {path.name for path in workplace.iterdir()} == {"runs"}


@pytest.mark.slow
def test_encoders_are_judged_and_the_report_is_made(
    drawn: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(create_encoder("demo-student", init="random"), [], workplace / "student")
    monkeypatch.setenv("G2L_NOTEBOOK_COHORT", str(drawn / "cohort"))
    monkeypatch.setenv("G2L_NOTEBOOK_STUDENT", str(workplace / "student"))
    monkeypatch.setenv("G2L_NOTEBOOK_PATCHES", "240")
    assert len(execute("04_evaluate.ipynb", workplace)) == 4
    judged = read_results([workplace / "results/notebook"])
    assert {result.encoder for result in judged} == {"teacher", "student", "untrained"}
    assert {result.task for result in judged} == {"tissue", "similar tissue", "robustness", "like the teacher"}
    assert "data:image/" in (workplace / "results/notebook/report/report.html").read_text()
    assert {path.name for path in workplace.iterdir()} == {"results", "student"}


@pytest.mark.slow
def test_a_bundle_is_made_verified_used_and_loaded_by_other_tools(
    drawn: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("G2L_NOTEBOOK_COHORT", str(drawn / "cohort"))
    assert len(execute("05_deploy.ipynb", workplace)) == 2
    out = workplace / "results/deploy"
    assert {"onnx-fp32", "openvino-fp16"} <= {format.name for format in open_bundle(out / "bundle").formats}
    assert len(list((out / "features").glob("*.h5"))) == 3 and len(list((out / "features_pyz").glob("*.h5"))) == 1
    assert len(list((out / "heatmaps").glob("*.png"))) == len(list((out / "heatmaps").glob("*.geojson"))) == 3
    assert {path.name for path in workplace.iterdir()} == {"results"} and not (out / "damaged").exists()


@pytest.mark.slow
def test_a_study_is_shown(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, study = write_patches(workplace / "patches"), workplace / "study"
    # the lines of the seeds need two of them
    command = [sys.executable, str(NOTEBOOKS.parent / "benchmarks/study.py"), "--data", str(data), "--out", str(study)]
    command += ["--budget", "tiny", "--seeds", "2", "--arms", "log-sum", "labels", "--slides="]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setenv("G2L_NOTEBOOK_STUDY", str(study))
    assert len(execute("06_study.ipynb", workplace)) == 3
    assert {path.name for path in workplace.iterdir()} == {"patches", "study"}


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_without_output(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, cell.id
            assert not cell.metadata, cell.id


def test_all_notebooks_are_there() -> None:
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} >= {
        "01_quickstart", "02_cohort", "03_distill", "04_evaluate", "05_deploy", "06_study",
    }  # fmt: skip
