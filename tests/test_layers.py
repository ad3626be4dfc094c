"""Who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "g2l"

# What each folder may import of ours. Nothing imports cli.
ALLOWED = {
    "slides": {"errors", "slides"},
    "data": {"errors", "slides", "data"},
    "encoders": {"errors", "sums", "encoders"},
    "objectives": {"objectives"},
    # One formula in one place: the CKA that chooses the checkpoint is the one that is reported.
    "training": {"errors", "data", "encoders", "objectives", "training", "evaluation.measures.similarity"},
    "evaluation": {"errors", "slides", "data", "encoders", "training", "evaluation"},
    # Patches to compare formats on are drawn or read as the data module reads them.
    "deploy": {"errors", "sums", "slides", "data", "encoders", "training", "deploy"},
    # What a hospital runs: no torch, and of ours nothing that has it.
    "deploy/runtime": {"errors", "sums", "slides", "deploy.runtime", "g2l"},
    "deploy/heatmap": {"errors", "sums", "slides", "deploy.runtime", "deploy.heatmap", "g2l"},
}


def imports(path: Path) -> set[str]:
    """Every module named by an import statement of a file, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_what_stands_before_it(folder: str) -> None:
    for path in (PACKAGE / folder).rglob("*.py"):
        for name in imports(path):
            if name.startswith("g2l."):
                module = name.removeprefix("g2l.")
                parts = module.split(".")
                allowed = {".".join(parts[:count]) for count in range(1, len(parts) + 1)} & ALLOWED[folder]
                assert allowed, f"{path.name} imports {name}"


def test_slides_and_the_runtime_import_no_torch_and_objectives_nothing_but_torch() -> None:
    for folder in ("slides", "deploy/runtime", "deploy/heatmap"):
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not {name for name in imports(path) if name.split(".")[0] in ("torch", "lightning", "timm")}, path
    allowed = {"torch", "g2l", "math", "typing", "collections"}
    for path in (PACKAGE / "objectives").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path
