"""Files that are written whole or not at all."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from g2l.deploy.runtime.folder import replace_text

Row = Mapping[str, str]


def write_text(path: Path, text: str) -> None:
    """Text in UTF-8; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def write_json(path: Path, content: Any) -> None:
    """JSON."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: Path, content: Any) -> None:
    """YAML."""
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def write_rows(path: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """A CSV of these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
