"""Environment variables that g2l and its libraries read, and how texts are encoded."""

import locale
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from g2l.deploy.checks.finding import Finding

TRUE = ("1", "true", "yes", "on")
FOLDERS = {
    "G2L_DATA": "real slides and patches, for tests",
    "G2L_DATASETS": "published data sets, for g2l evaluate",
}


def check_surroundings(environ: Mapping[str, str], torch_saw: Mapping[str, Any]) -> list[Finding]:
    """Args:
    environ: the environment's variables.
    torch_saw: what trials.try_torch saw; empty where it failed.
    """
    folders = [_folder(name, use, environ) for name, use in FOLDERS.items()]
    return [*folders, _weights(environ, torch_saw), _hub(environ), _encoding()]


def _folder(name: str, use: str, environ: Mapping[str, str]) -> Finding:
    place = environ.get(name, "")
    if not place:
        return Finding("note", name, f"not set ({use})")
    if not os.access(place, os.R_OK | os.X_OK) or not Path(place).is_dir():
        return Finding("warn", name, f"{place} is no folder that can be read ({use})", f"export {name}=FOLDER")
    return Finding("ok", name, f"{place} ({use})")


def _weights(environ: Mapping[str, str], torch_saw: Mapping[str, Any]) -> Finding:
    place = environ.get("G2L_WEIGHTS", "")
    found = torch_saw.get("weights", [])
    if place and not Path(place).is_dir():
        return Finding("warn", "G2L_WEIGHTS", f"{place} is no folder", "export G2L_WEIGHTS=FOLDER of the weight files")
    where = place or "weights/"
    if found:
        return Finding("ok", "G2L_WEIGHTS", f"{where} holds {', '.join(found)}")
    if place and torch_saw:
        remedy = "name each file after its encoder: uni.safetensors; README lists the names"
        return Finding("warn", "G2L_WEIGHTS", f"{place} holds no weights of a catalogue encoder", remedy)
    if not torch_saw:
        return Finding("note", "G2L_WEIGHTS", f"{where} was not looked at, since torch does not work")
    return Finding("note", "G2L_WEIGHTS", "not set, and no weights/ here; demo-giga comes with g2l")


def _hub(environ: Mapping[str, str]) -> Finding:
    offline = [name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if environ.get(name, "").lower() in TRUE]
    if offline:
        return Finding("ok", "model hub", f"never asked ({offline[0]} is set)")
    return Finding("note", "model hub", "asked only for weights: hub; HF_HUB_OFFLINE=1 forbids it altogether")


def _encoding() -> Finding:
    used = {sys.getfilesystemencoding(), locale.getpreferredencoding(False), sys.stdout.encoding or "utf-8"}
    others = sorted({name for name in used if name.lower().replace("-", "") != "utf8"})
    if others:
        detail = f"{', '.join(others)}: names of slides with other letters are damaged"
        return Finding("warn", "encoding", detail, "export PYTHONUTF8=1 LC_ALL=C.UTF-8")
    return Finding("ok", "encoding", "utf-8")
