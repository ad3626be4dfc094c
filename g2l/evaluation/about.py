"""What stands behind a number: command, versions, hashes."""

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from g2l import __version__

PACKAGES = ("torch", "lightning", "timm", "numpy", "scikit-learn", "scipy", "torchmetrics", "scikit-survival")


def about_run(seed: int) -> dict[str, Any]:
    """The command as it was given, versions, and when."""
    name = Path(sys.argv[0]).name
    start = "python -m g2l" if name in ("__main__.py", "g2l") else name
    return {
        "command": f"{start} {shlex.join(sys.argv[1:])}".strip(),
        "seed": seed,
        "versions": {"g2l": __version__, "python": platform.python_version()} | _versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
