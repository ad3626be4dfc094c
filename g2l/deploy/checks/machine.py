"""Memory, cores, disk, shared memory and file handles: what this process may use, which in a container is less than
what the machine has. Sizes in bytes. `root` is / but in tests.
"""

import os
import shutil
import tempfile
from pathlib import Path

from g2l.deploy.checks.finding import Finding, sized

GIB = 1 << 30
MEMORY, SHM, HANDLES = 8 * GIB, GIB, 1024  # below: a warning
DISK, DISK_WARN = GIB, 8 * GIB  # free: below is a problem; a warning. The bundle of a ViT-L takes 4 GiB.
UNLIMITED = 1 << 60  # version 1 of cgroups says "no limit" as a number near 2**63


def check_machine(root: Path = Path("/")) -> list[Finding]:
    """Everything of this file."""
    places = {"disk": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    disks = [check_disk(what, place) for what, place in places.items()]
    return [check_cores(root), check_memory(root), *disks, check_shm(root / "dev/shm"), check_handles()]


def usable_cores(root: Path = Path("/")) -> float:
    """Cores that this process may use: its affinity, and the share of time its container is given."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _groups(root, "cpu"):
        share = _text(folder / "cpu.max").split()
        if len(share) != 2:
            share = [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
        if share[0].isdigit() and share[1].isdigit() and int(share[1]):
            cores = min(cores, int(share[0]) / int(share[1]))
    return cores


def free_memory(root: Path = Path("/")) -> tuple[int, int] | None:
    """(free, all) that this process may use; None where the system does not tell."""
    lines = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    told = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) > 1}
    if "MemTotal" not in told:
        return None
    whole = told["MemTotal"]
    free = told.get("MemAvailable", whole)
    for folder in _groups(root, "memory"):
        names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
        for most, used in names:
            limit = _text(folder / most)
            if limit.isdigit() and int(limit) < UNLIMITED:
                in_use = _text(folder / used)
                whole = min(whole, int(limit))
                free = min(free, max(0, int(limit) - (int(in_use) if in_use.isdigit() else 0)))
    return free, whole


def check_cores(root: Path = Path("/")) -> Finding:
    """Cores; a container may have fewer than its programs believe."""
    cores, machine = usable_cores(root), os.cpu_count() or 1
    of = f" of the machine's {machine}" if cores < machine else ""
    if cores < 1:
        return Finding("warn", "cores", f"{cores:.2g}{of}: less than one", "give the container more CPU time")
    return Finding("ok", "cores", f"{cores:g}{of}")


def check_memory(root: Path = Path("/")) -> Finding:
    """Memory that is free."""
    told = free_memory(root)
    if told is None:
        return Finding("note", "memory", "this system does not tell")
    detail = f"{sized(told[0])} free of {sized(told[1])}"
    if told[0] < MEMORY:
        remedy = "export and training of a ViT-L need 8 GiB: end other programs, or raise the container's limit"
        return Finding("warn", "memory", detail, remedy)
    return Finding("ok", "memory", detail)


def check_disk(what: str, folder: Path) -> Finding:
    """Free room in a folder, and whether it can be written."""
    try:
        free = shutil.disk_usage(folder).free
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return Finding("problem", what, f"{folder}: {error.strerror or error}", _another(what))
    detail = f"{sized(free)} free in {folder}"
    if free < DISK_WARN:
        remedy = f"a bundle of a ViT-L takes 4 GiB: make room, or {_another(what)}"
        return Finding("problem" if free < DISK else "warn", what, detail, remedy)
    return Finding("ok", what, detail)


def check_shm(folder: Path = Path("/dev/shm")) -> Finding:
    """Worker processes hand over batches in it; containers get 64 MiB unless told otherwise."""
    try:
        size = shutil.disk_usage(folder).total
    except OSError:
        return Finding(
            "note", "shared memory", f"no {folder}: batches of worker processes go through the temporary folder"
        )
    if size < SHM:
        detail = f"{sized(size)} in {folder}: batches of worker processes go through the temporary folder"
        return Finding("warn", "shared memory", detail, "docker run --shm-size=8g, or num_workers: 0")
    return Finding("ok", "shared memory", f"{sized(size)} in {folder}")


def check_handles(least: int = HANDLES) -> Finding:
    """How many files may be open at once: every slide of a training is one."""
    try:
        import resource
    except ImportError:
        return Finding("note", "file handles", "this system does not tell")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return Finding("ok", "file handles", "without limit")
    if most < least:
        return Finding("warn", "file handles", f"{most} files may be open at once", "ulimit -n 65536")
    return Finding("ok", "file handles", f"{most} files may be open at once")


def _another(what: str) -> str:
    return "set TMPDIR to another folder" if what == "temporary" else "change to another folder"


def _groups(root: Path, controller: str) -> list[Path]:
    """The folders of this process's control groups that may limit it: its own, and those around it."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, place = rest.partition(":")
        if names and controller not in names.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controller if names else "")
        inner = base / place.strip("/")
        found += [inner, *(folder for folder in inner.parents if folder.is_relative_to(base))]
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
