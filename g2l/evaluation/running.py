"""The two passes of an evaluation: every encoder embeds what its tasks need; then every task judges every encoder."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from g2l.encoders.opening import open_encoder
from g2l.errors import CohortError, EncoderError, G2LError
from g2l.evaluation.about import about_data, about_encoder, about_run, content_of, protocol_of
from g2l.evaluation.choice import Choice
from g2l.evaluation.embedding.embed import embed_table
from g2l.evaluation.embedding.features import Features
from g2l.evaluation.embedding.settings import Embedding
from g2l.evaluation.jobs import Job, describe, digest
from g2l.evaluation.report.make import JSON, write_metrics
from g2l.evaluation.results import Result, clear, finished, folder_name, place, read_results, write_result
from g2l.evaluation.tables.distilled import read_record, seen_in_distillation
from g2l.evaluation.tasks.task import Context


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
        self._features: dict[tuple[str, str, str], Features | G2LError] = {}  # or why there are none
        self._about: dict[str, dict[str, Any]] = {}
        self._content: dict[str, dict[str, str]] = {}  # of each job's data
        self._records: dict[str, dict[str, Any] | None] = {}  # what each was distilled on; {}: on nothing

    def run(self) -> str:
        """Embed, judge, write.

        Raises:
            G2LError: some runs failed; the others are written, and the table in the message says which.
        """
        from filelock import FileLock

        for encoder in self.choices:
            self._embed(encoder)
        with FileLock(self.out / ".lock"):  # another evaluation may write into the same folder
            return self._judge_all()

    def _judge_all(self) -> str:
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
        made = [pair for pair, end in ends.items() if not end.startswith("FAILED")]
        text = _table(ends)
        if made:
            left_out = write_metrics(self.out, made, [pair for pair in ends if pair not in made])
            text = "\n".join([text, *(f"left out of {self.out / JSON}: {each}" for each in left_out)])
        failed = sum(end.startswith("FAILED") for end in ends.values())
        if failed:
            raise G2LError(f"{failed} of {len(ends)} evaluations failed; the others are in {self.out}\n{text}")
        return text

    def _embed(self, name: str) -> None:
        """Everything that the tasks read of one encoder, which is in memory only here.

        What cannot be embedded costs the tasks that need it, and no others.
        """
        choice = self.choices[name]
        try:
            # random weights are those of the seed: the same ones in every run
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                encoder = open_encoder(choice.model, choice.weights, choice.init, choice.img_size)
            self._records[name] = read_record(choice.model) if choice.init == "weights" else {}
        except EncoderError as error:
            self._features |= {(name, job.data, job.task.needs): error for job in self.jobs}
            return
        speed: dict[str, Any] = {"images_per_second": None, "device": ""}
        for job in self.jobs:
            key = (name, job.data, job.task.needs)
            if key in self._features:
                continue
            alike = [other for other in self.jobs if (other.data, other.task.needs) == key[1:]]
            rows = np.unique(np.concatenate([other.rows for other in alike]))
            try:
                made = embed_table(encoder, job.table, rows, job.task.needs, self.cache, self.embedding)
            except (CohortError, EncoderError) as error:
                self._features[key] = error
                continue
            self._features[key] = made
            if made.images_per_second:
                speed = {"images_per_second": made.images_per_second, "device": made.device}
        self._about[name] = about_encoder(encoder, choice) | speed

    def _judge(self, job: Job, encoder: str, say: Any) -> str:
        """Run one task on one encoder, unless the very same was run before."""
        own = self._features_of(encoder, job)
        teachers = {name: self._features_of(name, job).key_of(job.rows) for name in job.task.teachers()}
        content = self._content_of(job)
        protocol = protocol_of(
            job, self.embedding, self.seed, {name: _weights(self._about[name]) for name in job.task.teachers()}
        )
        identity = digest(
            {
                "task": describe(job.task),
                "protocol": protocol,
                "embeddings": own.key_of(job.rows),
                "weights": _weights(self._about[encoder]),
                "teachers": teachers,
                "data": content,
                "g2l": about_run(self.seed)["versions"]["g2l"],
            }
        )
        folder = place(self.out, job.name, encoder)
        if finished(folder, identity):
            return f"skipped, done before{_score(folder)}"
        clear(folder)  # what lies there is of other data or settings, whatever becomes of this run
        context = Context(
            table=job.table,
            split=job.split,
            encoder=encoder,
            features=own,
            features_of=lambda name: self._features_of(name, job),
            seed=self.seed,
            report=say,
        )
        outcomes = job.task.run(context)
        notes = [*job.notes, *self._seen(job, encoder)]
        for method, outcome in outcomes.items():
            noted = replace(outcome, notes=[*outcome.notes, *notes])
            about = {
                "encoder": self._about[encoder],
                "data": about_data(job, content, outcome.facts.get("examples", [])),
                "protocol": protocol,
                "run": about_run(self.seed) | {"identity": identity, "methods": list(outcomes)},
            }
            values = {name: float(value) for name, value in outcome.measure(outcome.predictions).items()}
            place_of = folder / folder_name(method)
            write_result(Result(job.name, job.task.kind, method, encoder, noted, values, about, place_of))
        return f"done{_score(folder)}"

    def _features_of(self, encoder: str, job: Job) -> Features:
        found = self._features[encoder, job.data, job.task.needs]
        if isinstance(found, G2LError):
            raise found
        return found

    def _content_of(self, job: Job) -> dict[str, str]:
        if job.name not in self._content:
            self._content[job.name] = content_of(job, self.cache, self.embedding.threads)
        return self._content[job.name]

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


def _weights(about: Mapping[str, Any]) -> str:
    """What tells the weights of an encoder apart; random ones are those of the seed."""
    return about["source"]["sha256"] or f"{about['model']}, {about['init']}"


def _table(ends: Mapping[tuple[str, str], str]) -> str:
    wide = [max(len(key[column]) for key in ends) for column in (0, 1)]
    return "\n".join(f"{task:<{wide[0]}}  {encoder:<{wide[1]}}  {end}" for (task, encoder), end in ends.items())
