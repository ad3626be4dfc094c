"""The two passes of an evaluation: every encoder embeds what its tasks need; then every task judges every encoder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from g2l.encoders.encoder import Encoder
from g2l.encoders.opening import open_encoder
from g2l.errors import EncoderError, G2LError
from g2l.evaluation.about import about_run
from g2l.evaluation.choice import Choice
from g2l.evaluation.embedding.embed import embed_table
from g2l.evaluation.embedding.features import Features
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.jobs import Job, describe, digest, parts_of
from g2l.evaluation.report.make import write_metrics
from g2l.evaluation.results import Result, clear, finished, folder_name, place, read_results, write_result
from g2l.evaluation.tables.distilled import read_record, seen_in_distillation
from g2l.evaluation.tasks.task import Context, Outcome


class Evaluation:
    """Encoders x jobs, in the folder `out`. `run` returns the table of what was done."""

    def __init__(
        self,
        jobs: list[Job],
        choices: Mapping[str, Choice],
        out: Path,
        cache: Path,
        embedding: Embedding,
        seed: int,
    ) -> None:
        self.jobs, self.choices, self.out, self.cache = jobs, choices, out, cache
        self.embedding, self.seed = embedding, seed
        self._features: dict[tuple[str, str, str], Features] = {}
        self._about: dict[str, dict[str, Any]] = {}
        self._records: dict[str, dict[str, Any] | None] = {}  # what each was distilled on; {}: on nothing

    def run(self) -> str:
        """Embed, judge, write.

        Raises:
            G2LError: some runs failed; the others are written, and the table in the message says which.
        """
        for encoder in self.choices:
            self._embed(encoder)
        ends: dict[tuple[str, str], str] = {}
        pairs = [(job, encoder) for job in self.jobs for encoder in self.choices]
        with tqdm(pairs, desc="judged", unit="task", disable=None) as bar:
            for job, encoder in bar:
                name = f"{job.name}, {encoder}"
                bar.set_postfix_str(name)

                def say(text: str, name: str = name, bar: Any = bar) -> None:
                    bar.set_postfix_str(f"{name}: {text}")

                try:
                    ends[job.name, encoder] = self._judge(job, encoder, say)
                except G2LError as error:
                    ends[job.name, encoder] = f"FAILED: {error}"
        if any(not end.startswith("FAILED") for end in ends.values()):
            write_metrics(self.out)
        text = _table(ends)
        failed = sum(end.startswith("FAILED") for end in ends.values())
        if failed:
            raise G2LError(f"{failed} of {len(ends)} evaluations failed; the others are in {self.out}\n{text}")
        return text

    def _embed(self, name: str) -> None:
        """Everything that the tasks read of one encoder, which is in memory only here."""
        choice = self.choices[name]
        try:
            # random weights are those of the seed: the same ones in every run
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                encoder = open_encoder(choice.model, choice.weights, choice.init, choice.img_size)
            self._records[name] = read_record(choice.model) if choice.init == "weights" else {}
        except EncoderError as error:
            raise EncoderError(f"encoder {name}: {error}") from error
        speed: dict[str, Any] = {"images_per_second": None, "device": ""}
        for job in self.jobs:
            key = (name, job.data, job.task.needs)
            if key in self._features:
                continue
            alike = [other for other in self.jobs if (other.data, other.task.needs) == key[1:]]
            rows = np.unique(np.concatenate([other.rows for other in alike]))
            made = embed_table(encoder, job.table, rows, job.task.needs, self.cache, self.embedding)
            self._features[key] = made
            if made.images_per_second:
                speed = {"images_per_second": made.images_per_second, "device": made.device}
        self._about[name] = _about_encoder(encoder, choice) | speed

    def _judge(self, job: Job, encoder: str, say: Any) -> str:
        """Run one task on one encoder, unless the very same was run before."""
        needs = job.task.needs
        own = self._features[encoder, job.data, needs]
        teachers = {name: self._features[name, job.data, needs].key for name in job.task.teachers()}
        labels = [job.table.labels, job.table.patients, job.table.slides, job.table.centres, *job.table.extra.values()]
        identity = digest(
            {
                "task": describe(job.task),
                "embeddings": own.key,
                "teachers": teachers,
                "rows": [column[job.rows].tolist() for column in (job.table.ids, *labels)],
                "targets": _dates(job),
                "parts": [getattr(job.split, part).tolist() for part in job.task.parts],
                "seed": self.seed,
                "g2l": about_run(self.seed)["versions"]["g2l"],
            }
        )
        folder = place(self.out, job.name, encoder)
        if finished(folder, identity):
            return f"skipped, done before{_score(folder)}"
        context = Context(
            table=job.table,
            split=job.split,
            encoder=encoder,
            features=own,
            features_of=lambda name: self._features[name, job.data, needs],
            seed=self.seed,
            report=say,
        )
        outcomes = job.task.run(context)
        clear(folder)
        notes = [*job.notes, *self._seen(job, encoder)]
        for method, outcome in outcomes.items():
            noted = replace(outcome, notes=[*outcome.notes, *notes])
            about = {
                "encoder": self._about[encoder],
                "data": _about_data(job, outcome),
                "run": about_run(self.seed) | {"identity": identity, "methods": list(outcomes)},
            }
            values = {name: float(value) for name, value in outcome.measure(outcome.predictions).items()}
            place_of = folder / folder_name(method)
            write_result(Result(job.name, job.task.kind, method, encoder, noted, values, about, place_of))
        return f"done{_score(folder)}"

    def _seen(self, job: Job, encoder: str) -> list[str]:
        """What the report must say of slides that the encoder was distilled on."""
        record = self._records[encoder]
        return [] if record == {} else [seen_in_distillation(job.table, job.split, record).text]


def _score(folder: Path) -> str:
    """The primary metric of a task's first method, as a line of the table says it."""
    results = {result.method: result for result in read_results([folder])}
    methods = next(iter(results.values())).about["run"]["methods"]
    primary = results[methods[0]].outcome.primary
    return f": {primary} {results[methods[0]].metrics[primary]:.3f} ({methods[0]})" if primary else ""


def _dates(job: Job) -> list[tuple[int, int]]:
    """Size and time of the files that hold the truth of images: another mask is another task."""
    targets = job.table.extra.get("target")
    if targets is None:
        return []
    beside = (Path(path).parent / target for path, target in zip(job.table.paths, targets, strict=True))
    found = [file.stat() for file in beside if file.is_file()]
    return [(status.st_size, status.st_mtime_ns) for status in found]


def _about_encoder(encoder: Encoder, choice: Choice) -> dict[str, Any]:
    return {
        "model": choice.model,
        "init": choice.init,
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "embed_dim": encoder.embed_dim,
        "size": encoder.size,
        "source": encoder.source,
    }


def _about_data(job: Job, outcome: Outcome) -> dict[str, Any]:
    table = job.table
    shown = _texts(outcome.facts.get("examples", []))
    files = {
        name: path if row < 0 else f"{path}#{row}"
        for name, path, row in zip(table.ids.tolist(), table.paths.tolist(), table.rows.tolist(), strict=True)
        if name in shown
    }
    rows = [column[job.rows].tolist() for column in (table.ids, table.labels, table.patients)]
    return {
        "name": table.name,
        "origin": dict(table.origin),
        "sha256": digest([rows, [getattr(job.split, part).tolist() for part in job.task.parts]]),
        "parts": parts_of(job),
        "paths": files,
    }


def _texts(value: Any) -> set[str]:
    """Every text inside examples: ids of images that the report shows are among them."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, Mapping):
        value = list(value.values())
    return set().union(*map(_texts, value)) if isinstance(value, list | tuple) else set()


def _table(ends: Mapping[tuple[str, str], str]) -> str:
    wide = [max(len(key[column]) for key in ends) for column in (0, 1)]
    return "\n".join(f"{task:<{wide[0]}}  {encoder:<{wide[1]}}  {end}" for (task, encoder), end in ends.items())
