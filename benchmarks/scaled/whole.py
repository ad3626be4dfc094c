"""The study as a whole: one folder, its seeds, their jobs, and what comes of them."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from g2l.deploy.runtime.processor import cores
from g2l.errors import ConfigError
from g2l.evaluation.report.make import report
from scaled import slide_runs
from scaled.arms import DEFAULT, EXPERT, FAITHFUL, LABELS, TEACHER, Arm, arms, frozen
from scaled.centres import make_centres, sheet
from scaled.drawing import draw
from scaled.files import read_rows, write_json, write_rows, write_text, write_yaml
from scaled.jobs import Job, run
from scaled.parts import TEST, first, prepare, read_parts, read_patches, write_manifests, write_parts
from scaled.plan import STUDENT, Budget, write_networks
from scaled.pooling import pool
from scaled.recipe import COPIES, judging, leaking, slug, training
from scaled.record import leak_of, leak_text, record
from scaled.slide_results import table as slide_table
from scaled.slide_runs import Networks
from scaled.slides import run_slides
from scaled.telling import tables
from scaled.verdicts import judge

# Held against each other in the control: what a random split makes of each.
LEAKED = [TEACHER, LABELS, FAITHFUL, DEFAULT]


class Study:
    """Everything below OUT; see the top of study.py."""

    def __init__(
        self,
        data: Path,
        out: Path,
        seeds: int,
        budget: Budget,
        name: str,
        at_once: int = 0,
        only: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            data: folder of patches. seeds: how many. name: of the budget. at_once: trainings; 0: as many as fit.
            only: names of arms, when not all; the reference is always among them.
        Raises:
            CohortError: the patches are not as they must be. ConfigError: OUT holds another study, no such arm.
        """
        self.table = read_patches(data)
        self.out, self.seeds, self.budget, self.name = out, seeds, budget, name
        self.at_once = at_once or (1 if budget.threads == 0 else cores())
        self.classes = np.unique(self.table.labels).tolist()
        self.real_centres = len(np.unique(self.table.centres)) > 1
        self.networks = write_networks(budget, out / "networks")
        paths = {name: str(path) for name, path in self.networks.items()}
        self.arms = _only(arms(budget, paths, self.classes), only)
        self.seconds: dict[str, float] = {}
        self.digest = ""
        self._settle(data)

    def _settle(self, data: Path) -> None:
        now = {"budget": self.name, "data": data.resolve().name, "patches": len(self.table), "classes": self.classes}
        file = self.out / "study.json"
        if file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))
            if before != now:
                apart = ", ".join(
                    f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]
                )
                raise ConfigError(f"{self.out} holds another study ({apart}); choose another --out")
        write_json(file, now)

    def folder(self, seed: int) -> Path:
        """Of a seed."""
        return self.out / f"seed-{seed}"

    def train_and_judge(self) -> None:
        """All trainings and evaluations that are missing."""
        self.digest = prepare(self.table, self.out / "patches", self.budget.size)
        write_text(self.out / "patches.sha256", f"{self.digest}\n")
        jobs: dict[str, Job] = {}
        for seed in range(self.seeds):
            self._split(seed)
            jobs |= {job.name: job for job in self._jobs(seed)}
        self.seconds = run(jobs, self.at_once, self.budget.threads)

    def _split(self, seed: int) -> None:
        folder = self.folder(seed)
        write_parts(self.table, seed, folder)
        rows = read_parts(folder)
        write_manifests(rows, seed, folder)
        if not self.real_centres:
            tested = first([row for row in rows if row["part"] == TEST], COPIES)
            make_centres(tested, self.out / "patches", folder / "centres", folder / "centres.csv", seed)
            if seed == 0:
                sheet(tested, folder / "centres", self.out / "centres.png")
        if seed == 0:
            self._leak(folder)

    def _leak(self, folder: Path) -> None:
        rows = read_rows(folder / "test.csv")
        last = np.random.default_rng(0).permutation(len(rows)) < sum(row["split"] == "test" for row in rows)
        leaked = [row | {"split": "test" if each else "train"} for row, each in zip(rows, last, strict=True)]
        write_rows(folder / "leak.csv", leaked, ("path", "label", "split"))

    def _jobs(self, seed: int) -> Iterator[Job]:
        folder = self.folder(seed)
        networks = frozen(self.budget, self.classes)
        steps = {TEACHER: self.budget.teacher_steps, EXPERT: self.budget.expert_steps}
        trained = {**networks, **self.arms}
        for name, arm in trained.items():
            yield self._training(name, arm, seed, steps.get(name, self.budget.steps))
        names = [name for name in trained if name != EXPERT]
        config = judging(names, self.networks[STUDENT], self.out, seed, folder, self.real_centres)
        lists = [folder / "test.csv", *([] if self.real_centres else [folder / "centres.csv"])]
        yield self._judging("evaluation", config, seed, names, lists)
        if seed == 0:
            leaked = [name for name in LEAKED if name in names]
            config = leaking(leaked, self.networks[STUDENT], self.out, seed, folder)
            yield self._judging("leak", config, seed, leaked, [folder / "leak.csv"], ["seed-0 evaluation"])

    def _training(self, name: str, arm: Arm, seed: int, steps: int) -> Job:
        folder, kind = self.folder(seed), name if name in self.networks else STUDENT
        config = folder / "configs" / f"{slug(name)}.yaml"
        patches = self.out / "patches"
        write_yaml(config, training(name, arm, self.budget, self.networks[kind], patches, seed, folder, steps))
        weights = {need: folder / "networks" / f"{need}.safetensors" for need in arm.needs}
        inputs = [config, self.networks[kind], folder / arm.manifest, self.out / "patches.sha256", *weights.values()]
        made = folder / "runs" / slug(name)

        def keep() -> None:
            target = folder / "networks" / f"{name}.safetensors"
            target.parent.mkdir(exist_ok=True)
            partial = target.with_suffix(".partial")
            shutil.copyfile(made / "student" / "model.safetensors", partial)
            partial.replace(target)

        return Job(
            f"seed-{seed} {name}",
            made,
            ["fit", "--config", str(config)],
            inputs,
            [f"seed-{seed} {need}" for need in arm.needs],
            "checkpoints/last.ckpt",
            keep if name in (TEACHER, EXPERT) else lambda: None,
        )

    def _judging(
        self, what: str, config: dict[str, Any], seed: int, names: list[str], lists: list[Path], after: Any = ()
    ) -> Job:
        folder = self.folder(seed)
        file = folder / "configs" / f"{what}.yaml"
        write_yaml(file, config)
        students = [folder / "runs" / slug(name) / "student" / "model.safetensors" for name in names]
        needs = [*(f"seed-{seed} {name}" for name in names), *after]
        arguments = ["evaluate", "--config", str(file)]
        return Job(f"seed-{seed} {what}", folder / "runs" / what, arguments, [file, *lists, *students], needs)

    def finish(self, slides: Path | None, started: datetime) -> str:
        """Pool the seeds, do the same on slides beside it, and write what there is to say; gives the tables.

        Args:
            slides: folder of the four breast sections; None: without them.
        """
        seeds = {f"seed-{seed}": self.folder(seed) / "results" for seed in range(self.seeds)}
        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(self._on_slides, slides) if slides else None
            pool(seeds, self.out / "pooled")
            said = report([str(self.out / "pooled")], str(self.out / "report"), FAITHFUL)
            found = judge(self.out / "pooled", FAITHFUL, self.budget.resamples)
            paths = waiting.result() if waiting else None
        leak = leak_of(self.folder(0))
        minutes = (datetime.now(UTC) - started).total_seconds() / 60
        write_json(self.out / "results.json", found | record(self, leak, paths, minutes))
        parts = [tables(found), leak_text(leak), *([slide_table(paths)] if paths else [])]
        text = "\n\n".join(parts)
        write_text(self.out / "table.md", text + "\n")
        draw(found, self.out)
        return f"{text}\n\n{said}"

    def _on_slides(self, slides: Path) -> dict[str, Any]:
        """With teacher and untrained student of seed 0."""
        own, weights = self.budget, self.folder(0) / "networks"
        networks = Networks(str(self.networks[TEACHER]), str(self.networks[STUDENT]), str(weights))
        budget = slide_runs.Budget(
            size=own.size,
            read=own.size * 9 // 8,
            steps=own.slide_steps,
            batch=own.batch,
            observe=min(own.observe, own.slide_steps * own.batch),
            judged=own.slide_judged,
            lr=own.rate,
            precision=own.precision,
            accelerator=own.accelerator,
        )
        return run_slides(slides, self.out / "slides", networks, budget, at_once=self.at_once, threads=own.threads)


def _only(arms: Mapping[str, Arm], names: Sequence[str] | None) -> dict[str, Arm]:
    unknown = [name for name in names or () if name not in arms]
    if unknown:
        raise ConfigError(f"no arm is called {', '.join(unknown)}; there are {', '.join(arms)}")
    return {name: arm for name, arm in arms.items() if names is None or name in (*names, FAITHFUL)}
