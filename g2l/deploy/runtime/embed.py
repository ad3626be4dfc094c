"""`g2l embed`, and the same of `embed.pyz`: a bundle and slides -> one HDF5 file of features for each slide."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from g2l import __version__
from g2l.deploy.runtime.engines import choose, open_engine
from g2l.deploy.runtime.folder import claimed, runs_before, stoppable, writing
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.plan import Settings
from g2l.deploy.runtime.processor import cores, processor
from g2l.deploy.runtime.run import Run
from g2l.deploy.runtime.summary import EmbedResult, SlideRow, counted, write_records
from g2l.errors import ConfigError
from g2l.slides.indexing.manifest import entries
from g2l.slides.resolution import PLAUSIBLE_MPP, plausible

MIN_TISSUE = 0.5
LIBRARIES = ("numpy", "h5py", "openslide-python", "openslide-bin", "simplejpeg", "openvino", "onnxruntime")


def embed(
    bundle: str,
    slides: str,
    /,
    out: str,
    manifest: str | None = None,
    mpp: float | None = None,
    format: str | None = None,
    batch_size: int = 8,
    threads: int | None = None,
    min_tissue: float = MIN_TISSUE,
) -> EmbedResult:
    """Features of all patches of the tissue of slides, on the processor, one HDF5 file for each slide.

    A slide that cannot be embedded is told at the end and stops no other. After an interruption the same command goes
    on where it stopped, within a slide too, and the result is the same to the last bit; slides that are done are left
    as they are. Next to the features lie the outline of the tissue (tissue/, GeoJSON for QuPath), a picture of it to
    look at (pictures/), slides.csv and run.json.

    Args:
        bundle: the folder that g2l export wrote.
        slides: a folder (searched recursively), one slide, or a CSV with a column slide and perhaps mpp and tissue.
        out: folder of the results; made when it does not exist.
        manifest: CSV with a column slide and perhaps mpp (um/px of level 0) and tissue (an outline as GeoJSON).
        mpp: um per px of level 0 of those slides that neither state a plausible one nor have one in the manifest.
        format: of the bundle; by default the fastest that passed its gates and that this processor can run.
        batch_size: patches computed at a time.
        threads: that compute; by default one for each core.
        min_tissue: share of a patch that must be tissue.
    Raises:
        ConfigError: a bundle, a setting or an output folder that cannot be used, or a full disk.
        CohortError: no slides, or a faulty manifest.
    """
    _refuse_settings(mpp, batch_size, threads, min_tissue)
    opened, folder = open_bundle(Path(bundle)), Path(out)
    if folder.resolve().is_relative_to(opened.folder.resolve()):
        raise ConfigError(f"--out {folder} lies in the bundle, which holds its own files alone; choose another --out")
    chosen, prepared = choose(opened, format), opened.prepared
    todo, absent = entries(Path(slides), Path(manifest) if manifest else None, ())
    settings = Settings(
        opened.digest, chosen.name, prepared.size, prepared.mpp, prepared.embed_dim, min_tissue, mpp, batch_size,
        threads or cores(),
    )  # fmt: skip
    shared = {
        "student": opened.student,
        "bundle": opened.digest,
        "format": chosen.name,
        "size": prepared.size,
        "mpp": prepared.mpp,
        "min_tissue": min_tissue,
    }
    with stoppable(), claimed(folder) as partial_folder:
        before, this = runs_before(folder, shared), _about(settings, slides)
        of_files = {"encoder": opened.student, "encoder_hash": opened.digest, "format": chosen.name}
        run = Run(settings, folder, partial_folder, of_files | {"min_tissue": min_tissue, "g2l_version": __version__})
        run.rows += [SlideRow(Path(one.file).stem, "failed", reason=f"{one.reason}; {one.remedy}") for one in absent]

        def record(ended: str) -> EmbedResult:
            rows = tuple(sorted(run.rows, key=lambda row: row.slide))
            result = EmbedResult(folder, chosen.name, rows, run.patches, run.seconds)
            times = {"opening_seconds": round(run.opening_seconds, 3), "engine_seconds": round(run.engine_seconds, 3)}
            write_records(result, shared, [*before, this | {"ended": ended} | counted(result) | times])
            return result

        with writing(folder):
            record("not yet")
        try:
            waiting = run.skip_done(todo)
            if waiting:
                open_it = partial(open_engine, opened, chosen.name, batch_size, settings.threads)
                run.embed(waiting, open_it, max(2, cores() // 4))
            for file in partial_folder.glob("*.rows"):
                file.unlink()  # of slides that failed, or have changed since
        except BaseException as error:
            with suppress(OSError):  # of a full disk: the error that is on its way says so
                record(f"by {type(error).__name__}")
            raise
        with writing(folder):
            return record(_now())


def _refuse_settings(mpp: float | None, batch_size: int, threads: int | None, min_tissue: float) -> None:
    problems = []
    if mpp is not None and not plausible(mpp):
        low, high = PLAUSIBLE_MPP
        problems.append(f"--mpp {mpp:g} is outside {low:g}-{high:g} um/px; give the level-0 resolution")
    if batch_size < 1 or (threads is not None and threads < 1):
        problems.append(f"--batch_size {batch_size} and --threads {threads} must be at least 1; raise them")
    if not 0 <= min_tissue <= 1:
        problems.append(f"--min_tissue is {min_tissue}; give a share within 0-1")
    if problems:
        raise ConfigError("; ".join(problems))


def _about(settings: Settings, slides: str) -> dict[str, Any]:
    """What run.json says of a run before it begins."""
    return {
        "started": _now(),
        "slides_from": str(Path(slides).resolve()),
        "level0_mpp": settings.level0_mpp,
        "batch_size": settings.batch_size,
        "threads": settings.threads,
        "processor": processor(),
        "versions": {"python": sys.version.split()[0], "g2l": __version__, **_versions()},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
