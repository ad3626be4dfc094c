"""The same on slides: a student distilled on patches streamed from slides, and on the same patches cut beforehand.

One patient is held out, then the other; all is done by `g2l index`, `fit` and `evaluate`. With two patients none is
left to choose a checkpoint by: the last step's student is taken, and the held-out patient only measures it.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from g2l.data.module import SlideDataModule
from g2l.errors import ConfigError
from g2l.slides.cohort import Cohort
from g2l.sums import sha256
from scaled.files import write_json, write_rows, write_yaml
from scaled.jobs import DONE, Job, run
from scaled.slide_patches import LIST, cut_grid, cut_stream
from scaled.slide_results import summary
from scaled.slide_runs import CUT, STREAMED, Budget, Networks, distilling, judging, stream

# The breast sections (Andersson et al. 2021) and whose they are.
SECTIONS = {"her2st_B4.tif": "B", "her2st_C2.tif": "C", "her2st_C3.tif": "C", "her2st_C4.tif": "C"}
LOG_SUM: Mapping[str, Any] = {"class_path": "LogSum"}


def run_slides(
    slides: Path,
    out: Path,
    networks: Networks,
    budget: Budget = Budget(),  # noqa: B008  frozen
    sections: Mapping[str, str] = SECTIONS,
    term: Mapping[str, Any] = LOG_SUM,
    at_once: int = 1,
    threads: int = 1,
) -> dict[str, Any]:
    """Distil and judge with each patient held out in turn; what is done already is not repeated.

    Args:
        slides: folder of the sections.
        out: folder of everything; results.json in it is what is returned.
        sections: file -> patient, two patients or more.
        term: class and settings of the objective's one term, without its teacher.
        at_once: processes. threads: of each; 0: as many as it likes.
    Returns:
        {settings, patients: {held out: see `scaled.slide_results.summary`}}; `table` there shows it.
    Raises:
        ConfigError: one patient only, or files that are not there.
        TrainingError: a verb failed; the message names its log.
    """
    patients = sorted(set(sections.values()))
    if len(patients) < 2:
        raise ConfigError(f"the sections of {slides} are of one patient; add some of another, who can be held out")
    files = [slides / name for name in sections]
    lost = [str(file) for file in (*files, *networks.files()) if not file.is_file()]
    if lost:
        raise ConfigError(f"files for the part on slides are missing: {', '.join(lost)}; correct the paths")
    held = [HeldOut(out.absolute(), patient, slides.absolute(), sections, networks, budget) for patient in patients]
    jobs = {job.name: job for one in held for job in one.jobs(term)}
    seconds = run(jobs, at_once, threads)
    found: dict[str, Any] = {}
    for one in held:
        mine = {what: seconds[one.name(what)] for what in ("index", STREAMED, CUT, "evaluation")}
        found[one.patient] = summary(one.runs, one.judged, one.results, one.patient, budget, mine)
        for part in ("train", "val"):  # .3 GB in the small budget; the index is made again where they are needed
            shutil.rmtree(one.cut / part, ignore_errors=True)
    settings = {
        "networks": {"teacher": Path(networks.teacher).stem, "student": Path(networks.student).stem},
        "sha256": {file.name: sha256(file) for file in networks.files()},
        "budget": asdict(budget),
        "sections": dict(sections),
        "term": dict(term),
    }
    result = {"settings": settings, "patients": found}
    write_json(out / "results.json", result)
    return result


class HeldOut:
    """One patient held out: the folders, and the jobs that fill them."""

    def __init__(
        self,
        out: Path,
        patient: str,
        slides: Path,
        sections: Mapping[str, str],
        networks: Networks,
        budget: Budget,
    ) -> None:
        """Args: as `run_slides`; paths absolute."""
        self.patient, self.networks, self.budget = patient, networks, budget
        self.part_of = {slides / name: "val" if of == patient else "train" for name, of in sections.items()}
        self.patient_of = {slides / name: of for name, of in sections.items()}
        self.folder = out / f"held-out-{patient}"
        self.indexed = self.folder / "index"
        self.cohort, self.cut, self.judged = (self.indexed / name for name in ("cohort", "cut", "judged"))
        self.results = self.folder / "evaluation" / "results"
        self.runs = {name: self.folder / name.replace(" ", "-") for name in (STREAMED, CUT)}

    def name(self, what: str) -> str:
        """Of a job."""
        return f"held-out-{self.patient} {what}"

    def jobs(self, term: Mapping[str, Any]) -> list[Job]:
        """Index and cut, train both ways, evaluate."""
        listed = self.folder / "slides.csv"
        # `fit` asks for a held-out part under the name val; nothing is chosen on it
        rows = [
            {"slide": str(file), "patient": self.patient_of[file], "split": part} for file, part in self.part_of.items()
        ]
        write_rows(listed, rows, ("slide", "patient", "split"))
        sources = {STREAMED: {"cohort": str(self.cohort)}}
        sources[CUT] = {"cohort": str(self.cut), "manifest": str(self.cut / LIST)}
        configs = {name: self.folder / f"{folder.name}.yaml" for name, folder in self.runs.items()}
        for name, data in sources.items():
            write_yaml(configs[name], distilling(data, self.networks, self.budget, term, self.runs[name]))
        students = {name: str(folder / "student") for name, folder in self.runs.items()}
        judges = self.folder / "evaluation.yaml"
        listing = self.judged / LIST
        write_yaml(judges, judging(students, listing, self.networks, self.budget, self.results))

        # All has all inputs: what is cut is removed at the end, so that no training may be made again without it.
        settings = self.folder / "budget.json"
        write_json(settings, asdict(self.budget))
        inputs = [listed, settings, judges, *configs.values(), *self.part_of, *self.networks.files()]
        arguments = ["index", str(listed), "--out", str(self.cohort), "--workers", "0", "--strict"]
        jobs = [Job(self.name("index"), self.indexed, arguments, inputs, then=self.cut_patches)]
        for name, folder in self.runs.items():
            arguments, last = ["fit", "--config", str(configs[name])], "checkpoints/last.ckpt"
            jobs.append(Job(self.name(name), folder, arguments, inputs, [self.name("index")], last))
        if not jobs[-1].lies_there(DONE) and not (self.cut / "val").is_dir():
            (self.indexed / DONE).unlink(missing_ok=True)
        inputs = [*inputs, listing, *(folder / "student" / "model.safetensors" for folder in self.runs.values())]
        arguments = ["evaluate", "--config", str(judges)]
        needs = [self.name(name) for name in self.runs]
        jobs.append(Job(self.name("evaluation"), self.results.parent, arguments, inputs, needs))
        return jobs

    def cut_patches(self) -> None:
        """Write the patches of training, and those that judge."""
        budget, cohort = self.budget, Cohort.open(self.cohort)
        held = [row for row, part in enumerate(cohort.column("split")) if part == "val"]
        cut_grid(cohort, held, budget.size, budget.mpp, budget.judged, self.judged)
        cut_stream(SlideDataModule(str(self.cohort), seed=budget.seed, **stream(budget)), budget.steps, self.cut)
