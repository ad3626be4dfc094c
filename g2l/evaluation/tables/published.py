"""What the readers of published data sets share."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from g2l.errors import CohortError


class Origin(NamedTuple):
    """Where a data set comes from, for messages and reports."""

    name: str
    homepage: str
    licence: str
    citation: str

    def about(self, **more: str) -> dict[str, str]:
        """`Table.origin`, with further entries."""
        return {"homepage": self.homepage, "licence": self.licence, "citation": self.citation, **more}

    def require(self, paths: Iterable[Path]) -> None:
        """CohortError when files or folders are missing: which, where to get them, and under which licence."""
        missing = [str(path) for path in paths if not path.exists()]
        if missing:
            raise CohortError(
                f"{self.name}: {', '.join(missing)} missing; get it from {self.homepage} (licence: {self.licence}) and "
                "unpack it there, or set another root"
            )

    def images(self, folder: Path, pattern: str) -> list[Path]:
        """The files of a pattern below a folder, sorted by path.

        Raises:
            CohortError: there are none.
        """
        found = sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
        if not found:
            raise CohortError(
                f"{self.name}: no images {folder}/{pattern}; get them from {self.homepage} (licence: {self.licence}) "
                "and unpack them there, or set another root"
            )
        return found


def first_folder(root: Path, *names: str, holds: str) -> Path:
    """The first of some folders below `root` that is there; root itself where it `holds` (a pattern) what they would,
    since a user may name the inner folder; else the first, for a message.
    """
    found = next((root / name for name in names if (root / name).is_dir()), None)
    return found or (root if any(root.glob(holds)) else root / names[0])
