"""`g2l heatmap`: what a slide's embeddings say, as a picture to look at and as annotations for QuPath."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.deploy.heatmap.chosen import chosen_patches
from g2l.deploy.heatmap.features import Features
from g2l.deploy.heatmap.geojson import patch_features, region_features, write_features
from g2l.deploy.heatmap.head import load_head
from g2l.deploy.heatmap.legend import with_legend
from g2l.deploy.heatmap.overlay import paint, refuse_large
from g2l.deploy.heatmap.regions import merged
from g2l.deploy.heatmap.scores import principal, probabilities, similarity
from g2l.deploy.heatmap.shades import Classes, Components, Scale, Shades
from g2l.errors import ConfigError
from g2l.slides.overview import open_slide
from g2l.slides.slide import Slide

MOST_LEVELS = 20


@dataclass(frozen=True)
class Heatmap:
    """What was written. files: the picture, the regions, and the patches where asked for."""

    files: tuple[Path, ...]
    patches: int
    without: int
    regions: int

    def __str__(self) -> str:
        left_out = f" ({self.without} without a finite embedding are left out)" if self.without else ""
        said = (
            f"{_counted(self.patches, 'patch', 'patches')}{left_out} in {_counted(self.regions, 'region', 'regions')}"
        )
        return "\n".join([said, *map(str, self.files)])


def heatmap(
    features: str,
    slide: str,
    /,
    out: str,
    like: str | None = None,
    head: str | None = None,
    of: str | None = None,
    mpp: float = 8.0,
    slide_mpp: float | None = None,
    levels: int = 5,
    low: float | None = None,
    high: float | None = None,
    alpha: float = 0.6,
    patch_size: int | None = None,
    tiles: bool = False,
) -> Heatmap:
    """Show on a slide what its embeddings say: likeness to chosen patches, a head's classes, or what varies most (PCA).

    Writes OUT/NAME_KIND.png, and OUT/NAME_KIND.geojson with regions for QuPath.

    Args:
        features: the slide's HDF5 file that g2l embed wrote (TRIDENT's and CLAM's will do).
        slide: the slide it was made of.
        out: folder of the files.
        like: show the mean cosine to these patches: "x,y;x,y" in px of level 0 as the features' coords count them, or a
            GeoJSON of annotations from QuPath (which counts from the slide's bounds, and so is the picture).
        head: show a linear head's most probable class (file of g2l.deploy.heatmap.head.save_head).
        of: of the head, the probability of this class alone.
        mpp: um per px of the picture.
        slide_mpp: um per px of level 0, for a slide that does not state it.
        levels: into how many regions the numbers, or the components' colours, are sorted.
        low: start of the colours; default: the lowest number (0 for a probability).
        high: end of the colours; default: the highest number (1 for a probability).
        alpha: share of the colours over the tissue, 0 to 1.
        patch_size: px of level 0 of a patch, for a file that does not state it (CLAM's).
        tiles: also write every patch, with its numbers, to OUT/NAME_KIND_tiles.geojson.
    """
    if like and head:
        raise ConfigError("--like and --head are two kinds of heatmap; give one")
    if of and not head:
        raise ConfigError("--of names a class of a head; give the --head too")
    if not 0 <= alpha <= 1 or not 1 <= levels <= MOST_LEVELS:
        raise ConfigError(f"alpha is {alpha:g} and levels {levels}; give 0 to 1, and 1 to {MOST_LEVELS}")
    with Features(Path(features)) as found, open_slide(Path(slide), slide_mpp, found.about.level0_mpp) as opened:
        refuse_large(opened, mpp)
        extent = found.extent(opened.mpp_xy, patch_size)
        found.check(opened.path, opened.dimensions, opened.mpp, extent)
        if like:
            shown = _likeness(found, extent, like, opened, levels, low, high)
        elif head:
            shown = _classified(found, Path(head), of, levels, low, high)
        else:
            shown = _components(found, levels)
        if not np.isfinite(shown.values).all(axis=1).any():
            raise ConfigError(f"features {features}: no patch has a finite number to show; embed the slide again")
        return _write(Path(out), found, opened, extent, shown, mpp, alpha, tiles)


class _Shown(NamedTuple):
    """kind: in the files' names. values: (N, C) of the patches. lines: for the legend. marked: patches with a frame."""

    kind: str
    shades: Shades
    values: NDArray[np.float32]
    lines: tuple[str, ...] = ()
    marked: NDArray[np.int64] | None = None


def _likeness(
    features: Features,
    extent: NDArray[np.float64],
    like: str,
    slide: Slide,
    levels: int,
    low: float | None,
    high: float | None,
) -> _Shown:
    chosen = chosen_patches(like, features.coords, extent, slide.bounds)
    values = similarity(features, chosen)
    least, most = _ends(values, low, high)
    title = f"Mean cosine to {_counted(len(chosen), 'chosen patch', 'chosen patches')} (framed)"
    return _Shown("similarity", Scale(title, "cosine", least, most, levels), values, marked=chosen)


def _classified(
    features: Features, file: Path, of: str | None, levels: int, low: float | None, high: float | None
) -> _Shown:
    head = load_head(file)
    if head.weight.shape[1] != features.width:
        raise ConfigError(
            f"head {file} takes embeddings of {head.weight.shape[1]} numbers, and {features.path} holds "
            f"{features.width}; fit it on features of the same student"
        )
    if head.encoder and features.about.encoder and head.encoder != features.about.encoder:
        raise ConfigError(
            f"head {file} was fitted on another encoder ({head.encoder[:12]}) than {features.path} is of "
            f"({features.about.encoder[:12]}); fit it on features of the same bundle"
        )
    if of is not None and of not in head.classes:
        raise ConfigError(f"--of {of} is no class of head {file}; it has {', '.join(head.classes)}")
    values = probabilities(features, head, len(head.classes))
    if of is None:
        return _Shown("classes", Classes("Most probable class", head.classes), values)
    values = values[:, [head.classes.index(of)]]
    least, most = _ends(values, 0.0 if low is None else low, 1.0 if high is None else high)
    kept = "".join(letter if letter.isalnum() else "-" for letter in of)
    return _Shown(
        f"probability-{kept}", Scale(f"Probability of {of}", f"probability {of}", least, most, levels), values
    )


def _components(features: Features, groups: int) -> _Shown:
    found = principal(features)
    line = ", ".join(f"{share:.0%} {hue}" for share, hue in zip(found.share, ("red", "green", "blue"), strict=True))
    shown = found.values[np.isfinite(found.values).all(axis=1)]
    return _Shown("pca", Components(shown, groups), found.values, (f"share of the variance: {line}",))


def _ends(values: NDArray[np.float32], low: float | None, high: float | None) -> tuple[float, float]:
    """Of the colours. Numbers that are all equal lie in the middle of a short bar."""
    finite = values[np.isfinite(values)]
    least = float(finite.min()) if low is None else low
    most = float(finite.max()) if high is None else high
    if low is None and high is None and most - least < 1e-6:
        least, most = least - 0.05, most + 0.05
    if not least < most:
        raise ConfigError(f"the colours would go from {least:g} to {most:g}; give --low below --high")
    return least, most


def _write(
    out: Path,
    features: Features,
    slide: Slide,
    extent: NDArray[np.float64],
    shown: _Shown,
    mpp: float,
    alpha: float,
    tiles: bool,
) -> Heatmap:
    """Every file under another name first: what was there stays until all are whole."""
    kind, shades, values = shown[:3]
    corner = np.asarray(slide.bounds or (0, 0), np.float64)[:2]
    coords, name = features.coords, features.path.stem
    without = int((~np.isfinite(values).all(axis=1)).sum())
    side = extent[0] * slide.mpp_xy[0]
    patches_of = _counted(len(coords) - without, "patch", "patches")
    lines = [*shown.lines, f"{name}: {patches_of} of {side:.0f} um, {mpp:g} um per pixel"]
    counts: list[int] = []

    def picture(file: Path) -> None:
        painted = paint(slide, mpp, coords, extent, values, shades, alpha, shown.marked)
        with_legend(painted, mpp, shades, lines).save(file, format="PNG")

    def regions(file: Path) -> None:
        px_mm2 = slide.mpp_xy[0] * slide.mpp_xy[1] / 1e6
        found = merged(coords, extent, values, shades)
        counts.append(write_features(file, region_features(found, shades, corner, px_mm2)))

    def patches(file: Path) -> None:
        write_features(file, patch_features(coords, extent, values, shades, corner))

    todo: dict[str, Callable[[Path], None]] = {f"{name}_{kind}.png": picture, f"{name}_{kind}.geojson": regions}
    if tiles:
        todo[f"{name}_{kind}_tiles.geojson"] = patches
    partial = {out / file: out / f".{file}.{os.getpid()}.tmp" for file in todo}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for temporary, write in zip(partial.values(), todo.values(), strict=True):
            write(temporary)
        for file, temporary in partial.items():
            temporary.replace(file)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror or error}); choose another --out") from error
    finally:
        for temporary in partial.values():
            if temporary.exists():
                temporary.unlink()
    return Heatmap(tuple(partial), len(coords), without, counts[0])


def _counted(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
