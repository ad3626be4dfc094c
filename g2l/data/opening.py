"""What the setting `data.cohort` names: slides that were indexed, the embedded cohort, or patches already cut."""

from pathlib import Path

from g2l.data.folders import PatchFiles, open_patches
from g2l.errors import CohortError, ConfigError
from g2l.slides.cohort import MASKS, TABLE, Cohort

DEMO = "demo"
DEMO_FOLDER = Path("cohorts/demo")


def open_data(cohort: str, manifest: str | None = None) -> Cohort | PatchFiles:
    """Open it.

    Args:
        cohort: a folder written by `g2l index`, `demo`, or where patches lie.
        manifest: CSV of what is known of patches already cut.
    Raises:
        ConfigError: a manifest for slides.
        CohortError: nothing of the kind is there, or it is damaged.
    """
    folder = DEMO_FOLDER if cohort == DEMO else Path(cohort)
    if cohort != DEMO and folder.exists() and not any((folder / name).exists() for name in (TABLE, MASKS)):
        return open_patches(folder, manifest)
    if manifest is not None:
        raise ConfigError(
            f"data.manifest is {manifest}, but {folder} is a cohort of slides; give the manifest to g2l index"
        )
    return Cohort.open(folder)


def prepare_demo() -> None:
    """Draw and index the embedded cohort where it is not there yet."""
    from g2l.data.demo import draw_cohort
    from g2l.slides.index import index

    manifest = draw_cohort(DEMO_FOLDER / "drawn")
    if not _belongs(DEMO_FOLDER, manifest):
        index(str(manifest.parent), str(DEMO_FOLDER), manifest=str(manifest))


def _belongs(folder: Path, manifest: Path) -> bool:
    """Whether the cohort in `folder` was indexed from this very manifest, where its slides are now."""
    table = folder / TABLE
    if not table.exists() or table.stat().st_mtime < manifest.stat().st_mtime:
        return False
    try:
        return Cohort.open(folder)[0].path.is_relative_to(manifest.parent.resolve())
    except CohortError:
        return False  # damaged, or of another g2l
