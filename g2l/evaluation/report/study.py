"""Results by task, method and encoder, and the refusal of those that must not stand side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from g2l.errors import ConfigError, G2LError
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


def sha_of(about: dict[str, Any]) -> str:
    """SHA-256 of an encoder or of a data set as results keep it; "" where unknown."""
    return str(about.get("sha256") or about.get("source", {}).get("sha256") or "")


def make_study(results: list[Result], reference: str | None = None) -> Study:
    """Arrange the results.

    Raises:
        G2LError: the same task, method and encoder twice; one task on different data; one name for different encoders.
        ConfigError: there is no encoder called `reference`.
    """
    if not results:
        raise G2LError("no results to report; make them with g2l evaluate")
    _check_unique(results)
    _check_primary(results)
    _check_alike(results)
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


def _check_unique(results: list[Result]) -> None:
    seen: dict[tuple[str, str, str], Result] = {}
    for result in results:
        key = (result.task, result.method, result.encoder)
        if key in seen:
            where = f"{seen[key].folder} and {result.folder}"
            raise G2LError(
                f"task {key[0]}, method {key[1]}, encoder {key[2]} occurs twice: {where}; report one of them"
            )
        seen[key] = result


def _check_primary(results: list[Result]) -> None:
    for result in results:
        primary = result.outcome.primary
        if primary is not None and primary not in result.metrics:
            known = ", ".join(result.metrics)
            raise G2LError(
                f"result {result.folder} is damaged: {primary} is none of its metrics ({known}); evaluate again"
            )


def _check_alike(results: list[Result]) -> None:
    tasks: dict[str, Result] = {}
    encoders: dict[str, Result] = {}
    for result in results:
        other = tasks.setdefault(result.task, result)
        both = f"{other.folder} and {result.folder}"
        if other.kind != result.kind:
            raise G2LError(f"task {result.task} is {other.kind} and {result.kind}: {both}; give them different names")
        one, two = (sha_of(each.about.get("data", {})) for each in (other, result))
        if one != two:
            raise G2LError(
                f"task {result.task} was run on different data ({one[:12] or 'unknown'} and {two[:12] or 'unknown'}): "
                f"{both}; their scores are not comparable: evaluate both on one"
            )
        other = encoders.setdefault(result.encoder, result)
        one, two = (sha_of(each.about.get("encoder", {})) for each in (other, result))
        if one != two:
            raise G2LError(
                f"encoder {result.encoder} has different weights ({one[:12] or 'unknown'}, {two[:12] or 'unknown'}): "
                f"{other.folder} and {result.folder}; give them different names"
            )
