"""Are the packages that g2l asks for here, and of a version that it was tried with?"""

import platform
from collections.abc import Iterator
from importlib import metadata
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from g2l.deploy.checks.finding import Finding, Mark

SHOWN = ("torch", "torchvision", "timm", "lightning", "numpy", "openslide-bin", "tiatoolbox", "onnxruntime", "openvino")
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


class Unmet(NamedTuple):
    """A package that is missing (`found` empty) or outside the range that `asked_by` states."""

    package: str
    found: str
    wanted: str
    asked_by: str

    def __str__(self) -> str:
        have = f"{self.package} {self.found} is installed" if self.found else f"{self.package} is missing"
        return f"{have}, {self.asked_by} asks for {self.wanted or 'any version'}"


def check_packages(package: str = "g2l") -> list[Finding]:
    """Python, every requirement of `package` and of what it requires, its extras, and OpenCV installed twice."""
    try:
        about = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return [
            Finding(
                "warn",
                package,
                "runs from a folder and is not installed, so what it requires is not known",
                "pip install -e . in its folder",
            )
        ]
    findings = [_python(str(about.metadata["Requires-Python"] or ""), platform.python_version())]
    unmet = list(unmet_of(package))
    wanted = sum(1 for _ in _requirements(package, ()))
    direct = [one for one in unmet if one.asked_by == package]
    findings += [_unmet("problem", one) for one in direct]
    # What a package asks of another is often narrower than needed: whether it works is tried below.
    findings += [_unmet("warn", one) for one in unmet if one.asked_by != package]
    if not direct:
        versions = ", ".join(f"{name} {found}" for name in SHOWN if (found := version_of(name)))
        findings.append(
            Finding(
                "ok",
                "requirements",
                f"{wanted} of {wanted} inside their ranges" + (f": {versions}" if versions else ""),
            )
        )
    findings += [_extra(package, extra) for extra in about.metadata.get_all("Provides-Extra") or ()]
    return findings + _opencv()


def unmet_of(package: str) -> Iterator[Unmet]:
    """Every requirement of an installed package, and of what it requires in turn, that is not met; each once."""
    waiting: list[tuple[str, tuple[str, ...]]] = [(package, ())]
    seen, told = set(waiting), set[Unmet]()
    while waiting:
        asking, extras = waiting.pop(0)
        for wanted in _requirements(asking, extras):
            one = _compared(wanted, asking)
            if one is not None and one not in told:
                told.add(one)
                yield one
            following = canonicalize_name(wanted.name), tuple(sorted(wanted.extras))
            if version_of(wanted.name) and following not in seen:
                seen.add(following)
                waiting.append(following)


def version_of(package: str) -> str:
    """The installed version; empty where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _requirements(package: str, extras: tuple[str, ...]) -> Iterator[Requirement]:
    """What a package asks for on this system, with these extras."""
    for text in metadata.requires(package) or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def _compared(wanted: Requirement, asked_by: str) -> Unmet | None:
    found = version_of(wanted.name)
    if found and wanted.specifier.contains(found, prereleases=True):
        return None
    return Unmet(wanted.name, found, str(wanted.specifier), asked_by)


def _unmet(mark: Mark, one: Unmet) -> Finding:
    return Finding(mark, one.package, str(one), f"pip install '{one.package}{one.wanted}'")


def _python(wanted: str, version: str) -> Finding:
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("ok", "python", f"{version} on {platform.system()} {platform.machine()}")
    return Finding(
        "problem", "python", f"{version}, g2l asks for {wanted}", "make a virtual environment with python 3.11"
    )


def _extra(package: str, extra: str) -> Finding:
    base = {str(one) for one in _requirements(package, ())}
    own = [one for one in _requirements(package, (extra,)) if str(one) not in base]
    unmet = [found for one in own if (found := _compared(one, f"extra {extra}")) is not None]
    install = f"pip install '{package}[{extra}]'"
    old = [one for one in unmet if one.found]
    if old:
        return Finding("warn", f"extra {extra}", "; ".join(map(str, old)), install)
    if unmet:
        names = ", ".join(one.package for one in unmet)
        return Finding("note", f"extra {extra}", f"not installed (optional): {names}")
    return Finding("ok", f"extra {extra}", "installed")


def _opencv() -> list[Finding]:
    """Builds of OpenCV share one folder: the one installed last has overwritten parts of the other."""
    found = {name: version for name in OPENCV if (version := version_of(name))}
    if len(set(found.values())) < 2:
        return []
    builds = " and ".join(f"{name} {version}" for name, version in found.items())
    remedy = f"pip uninstall {' '.join(found)}; then install one of them"
    return [Finding("warn", "opencv", f"{builds} overwrite each other's files", remedy)]
