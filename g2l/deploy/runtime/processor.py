"""What this computer can run: cores that may be used, libraries that are there, arithmetic the processor knows."""

import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from g2l.deploy.runtime.formats import FORMATS, Format
from g2l.deploy.runtime.silent import import_openvino

_QUOTA, _TOPOLOGY = Path("/sys/fs/cgroup/cpu.max"), Path("/sys/devices/system/cpu")
_BITS = {"BF16": "16-bit (bfloat16)", "INT8": "8-bit"}


def usable(format: Format) -> str:
    """Why this computer cannot run a format, or "" where it can."""
    if find_spec(format.engine) is None:
        return f"{format.engine} is not installed (pip install {format.engine})"
    if format.needs and format.needs not in capabilities():
        return f"this processor has no {_BITS[format.needs]} arithmetic that OpenVINO could use"
    return ""


def usable_formats() -> list[str]:
    """The names of those that this computer can run, fastest first."""
    return [format.name for format in FORMATS if not usable(format)]


@cache
def capabilities() -> frozenset[str]:
    """What OpenVINO's CPU plugin says of this processor, such as BF16 and INT8."""
    return frozenset(import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@cache
def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if named:
        return named[0]
    import platform

    return platform.processor() or platform.machine()


def cores() -> int:
    """How many threads should compute at once: the cores this process may use, fewer where a container's quota says so.

    A core that runs two threads counts once: both would wait for the same arithmetic units.
    """
    may = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    count = len({_core(number) for number in may})
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


def _core(number: int) -> str:
    """What tells the core that a logical processor belongs to from others."""
    try:
        return (_TOPOLOGY / f"cpu{number}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        return str(number)
