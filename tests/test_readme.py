"""The README says what is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_readme_has_a_line_for_every_module() -> None:
    modules = {str(path.relative_to(ROOT / "g2l")) for path in (ROOT / "g2l").rglob("*.py")}
    named = set(re.findall(r"`([\w/]+\.py)`", README))
    # Packages are named by their folder.
    missing = {name for name in modules - named if not name.endswith("__init__.py")}
    assert not missing
    assert {name for name in named if not (ROOT / "g2l" / name).exists() and not (ROOT / name).exists()} == set()


def test_readme_names_only_files_and_configs_that_exist() -> None:
    for name in re.findall(r"configs/\w+\.yaml", README):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
