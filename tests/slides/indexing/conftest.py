"""A folder as users have them."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """slides/a.svs, slides/deep/b.tif, slides/ü.ndpi, and things that are no slides."""
    root = tmp_path / "slides"
    (root / "deep" / ".cache").mkdir(parents=True)
    for name in ("a.svs", "deep/b.TIF", "ü.ndpi", "notes.txt", "._a.svs", "deep/.cache/c.svs", "a.png"):
        (root / name).write_bytes(b"")
    return root
