"""Results by task, method and encoder."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from g2l.errors import ConfigError, G2LError
from g2l.evaluation.report.alike import agreeing
from g2l.evaluation.results import Result

# The method that stands for a task in overviews and ranks, of those that have a primary metric; further ones by name:
# fixed beforehand, never the one that came out best.
MAIN = ("linear", "abmil", "cosine")


@dataclass(frozen=True)
class TaskResults:
    """Of one task: its kind, its methods (the main one first), and method -> encoder -> result."""

    name: str
    kind: str
    methods: dict[str, dict[str, Result]]

    @property
    def main(self) -> str:
        """The method that stands for the task."""
        return next(iter(self.methods))

    @property
    def primary(self) -> str | None:
        """The metric that stands for the task; None where it takes no part in ranks."""
        return next(iter(self.methods[self.main].values())).outcome.primary

    @property
    def first(self) -> Result:
        """Any result: for what all share (data, split)."""
        return next(iter(self.methods[self.main].values()))

    def __iter__(self) -> Iterator[Result]:
        return (result for encoders in self.methods.values() for result in encoders.values())


@dataclass(frozen=True)
class Study:
    """All that a report compares.

    Attributes:
        encoders: name -> what is known of it (`about["encoder"]`), the largest first.
        tasks: by name.
        reference: the encoder that differences are taken to.
        chosen: whether the user named it; else it is the largest, which needs no look at a score.
    """

    encoders: dict[str, dict[str, Any]]
    tasks: list[TaskResults]
    reference: str
    chosen: bool

    def __iter__(self) -> Iterator[Result]:
        return (result for task in self.tasks for result in task)


def drawn_units(result: Result) -> str:
    """What a resample draws: "patient", "slide" where patients are unknown, and where both are, the unit itself."""
    part = result.about.get("data", {}).get("parts", {}).get("test", {})
    return "patient" if "patients" in part else "slide" if "slides" in part else result.outcome.unit


def by_unit(result: Result) -> str:
    """The unit ("patch") where nobody says whose it is, so that an interval is too short to judge by; else ""."""
    drawn = drawn_units(result)
    return "" if drawn in ("patient", "slide") else drawn


def make_study(results: list[Result], reference: str | None = None) -> Study:
    """Arrange the results.

    Raises:
        G2LError: results that must not stand side by side (see `agreeing`): which, in what they differ, what to do.
        ConfigError: there is no encoder called `reference`.
    """
    if not results:
        raise G2LError("no results to report; make them with g2l evaluate")
    _, problems = agreeing(results)
    if problems:
        raise G2LError("; and ".join(problems))
    encoders: dict[str, dict[str, Any]] = {}
    for result in results:
        encoders.setdefault(result.encoder, result.about.get("encoder", {}))
    ordered = sorted(encoders, key=lambda name: (-(encoders[name].get("parameters") or 0), name))
    if reference is not None and reference not in encoders:
        raise ConfigError(f"reference {reference} is none of the encoders: {', '.join(ordered)}")
    tasks = [_task(name, [r for r in results if r.task == name], ordered) for name in sorted({r.task for r in results})]
    return Study({name: encoders[name] for name in ordered}, tasks, reference or ordered[0], reference is not None)


def _task(name: str, results: list[Result], encoders: list[str]) -> TaskResults:
    names = {result.method: result.outcome.primary is None for result in results}
    places = {name: place for place, name in enumerate(MAIN)}
    methods = sorted(names, key=lambda name: (names[name], places.get(name, len(MAIN)), name))
    ordered = sorted(results, key=lambda result: encoders.index(result.encoder))
    arranged = {method: {r.encoder: r for r in ordered if r.method == method} for method in methods}
    return TaskResults(name, results[0].kind, arranged)
