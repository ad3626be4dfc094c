"""`g2l doctor`: is everything here that g2l needs, does it work, and what to do where it does not.

Nothing heavy is imported here: what may be broken is tried in processes of their own.
"""

import os
from dataclasses import dataclass

from g2l import __version__
from g2l.deploy.checks.apart import Trial
from g2l.deploy.checks.finding import Finding, worst

# The slowest first, so that none is waited for alone at the end.
TRIALS = ("tiatoolbox", "torchvision", "torch", "slides", "openvino", "onnxruntime")


@dataclass(frozen=True)
class Report:
    """What was found, by section. `exit_code` is 1 where something will fail, and 0 for mere warnings."""

    sections: tuple[tuple[str, tuple[Finding, ...]], ...]

    @property
    def exit_code(self) -> int:
        """1 if there is a problem."""
        return int(worst(finding for _, findings in self.sections for finding in findings) == "problem")

    def __str__(self) -> str:
        parts = [f"g2l {__version__}"]
        for title, findings in self.sections:
            parts += ["", title, *map(str, findings)]
        marks = [finding.mark for _, findings in self.sections for finding in findings]
        told = [f"{count} {name}{'s' * (count != 1)}" for name, count in _counted(marks) if count]
        return "\n".join([*parts, "", f"{len(marks)} checks: {', '.join(told) or 'all is well'}"])


def doctor() -> Report:
    """Look whether this machine has what g2l needs, and try it: packages, readers, networks, memory, disk, settings."""
    trials: dict[str, Trial] = {}
    try:
        for name in TRIALS:
            trials[name] = Trial(name)
        return Report(_sections(trials))
    finally:
        for trial in trials.values():
            trial.stop()


def _sections(trials: dict[str, Trial]) -> tuple[tuple[str, tuple[Finding, ...]], ...]:
    from g2l.deploy.checks import working
    from g2l.deploy.checks.machine import check_machine, usable_cores
    from g2l.deploy.checks.surroundings import check_surroundings

    packages, machine = _packages(), check_machine()
    seen = {name: trial.outcome() for name, trial in trials.items()}
    readers = working.judge_slides(seen["slides"]) + working.judge_tiatoolbox(seen["tiatoolbox"])
    training = working.judge_torch(seen["torch"], usable_cores()) + working.judge_torchvision(seen["torchvision"])
    runtimes = working.judge_openvino(seen["openvino"]) + working.judge_onnxruntime(seen["onnxruntime"])
    sections = {
        "packages": packages,
        "slides, tried on one drawn for it": readers,
        "networks, tried on a few numbers": training + runtimes,
        "this machine": machine,
        "settings": check_surroundings(os.environ, seen["torch"].seen),
    }
    return tuple((title, tuple(findings)) for title, findings in sections.items())


def _packages() -> list[Finding]:
    try:
        from g2l.deploy.checks.packages import check_packages
    except ModuleNotFoundError as error:  # what compares versions is itself a package
        return [Finding("problem", "requirements", f"not looked at: {error}", "pip install packaging")]
    return check_packages()


def _counted(marks: list[str]) -> list[tuple[str, int]]:
    return [("problem", marks.count("problem")), ("warning", marks.count("warn"))]
