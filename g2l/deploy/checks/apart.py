"""A trial in a process of its own, which may be broken, end, or hang without harm to who asks."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

PATIENCE = 120.0  # seconds that a trial may take; on an idle machine the slowest takes five, on a crowded one forty


@dataclass(frozen=True)
class Outcome:
    """What a trial saw, or in `error` why it saw nothing."""

    seen: dict[str, Any]
    error: str = ""


class Trial:
    """A trial that has been started; several run at once."""

    def __init__(self, name: str) -> None:
        """Args: name: of trials.TRIALS."""
        # What this process finds, the other must find too; -P because a file of the current folder must not stand in
        # the way of a library.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "g2l.deploy.checks.trials", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    def outcome(self, patience: float = PATIENCE) -> Outcome:
        """Wait for the trial, at most `patience` seconds from its start."""
        try:
            out, err = self._process.communicate(timeout=max(0.0, self._started + patience - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.stop()
            return Outcome({}, f"no answer within {patience:.0f} s")
        if self._process.returncode < 0:
            return Outcome({}, f"the process was ended by {signal.Signals(-self._process.returncode).name}")
        if self._process.returncode:
            return Outcome({}, _last(err) or f"the process ended with {self._process.returncode}")
        try:
            return Outcome(json.loads(_last(out)))
        except ValueError:
            return Outcome({}, f"no answer but {_last(out)!r}")

    def stop(self) -> None:
        """End the process if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


def _last(text: str) -> str:
    """The last line that says something: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""
