"""A slide's patches and their embeddings, read from HDF5 in parts. Letters: N patches, D width."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from g2l.errors import ConfigError

CHUNK_BYTES = 1 << 25  # read in one go
SAME_MPP = 0.02  # relative: scanners state their own resolution no better
EDGE = 2  # px of level 0 by which rounding may push a patch beyond the slide
ENCODER = "encoder_hash"


class About(NamedTuple):
    """What a file says of its patches, None where it does not: sides of a patch and of level 0, um per px, encoder."""

    size_um: float | None
    patch_size_level0: float | None
    level0_mpp: float | None
    dimensions: tuple[int, int] | None
    encoder: str


class Features:
    """The HDF5 file of one slide: as `g2l embed` writes it, or TRIDENT or CLAM. Use it as a context manager.

    Attributes:
        path: the file.
        coords: (N, 2) float64, top-left corners x, y of the patches in px of level 0.
        width: D.
        about: what the file says of its patches.
    """

    def __init__(self, path: Path) -> None:
        """Raises ConfigError: no such file, no HDF5, or one without embeddings of patches and their places."""
        import h5py

        if not path.is_file():
            raise ConfigError(f"features {path} do not exist; give the .h5 file that g2l embed wrote for the slide")
        self.path = path
        try:
            self._file = h5py.File(path, "r", locking=False)
        except OSError as error:
            raise ConfigError(f"features {path} are no readable HDF5 file ({error}); embed the slide again") from error
        try:
            self._rows, self.coords = self._checked()
        except BaseException:
            self._file.close()
            raise
        self.width = int(self._rows.shape[-1])
        self.about = _about({**self._file.attrs, **self._file["coords"].attrs, **self._rows.attrs})

    def _checked(self) -> tuple[Any, NDArray[np.float64]]:
        missing = [name for name in ("features", "coords") if name not in self._file]
        if missing:
            raise ConfigError(f"features {self.path} hold no dataset {' and no '.join(missing)}; embed the slide again")
        rows: Any = self._file["features"]
        corners: Any = self._file["coords"]
        shape = rows.shape[1:] if rows.ndim == 3 and rows.shape[0] == 1 else rows.shape
        if len(shape) != 2 or corners.ndim != 2 or corners.shape != (shape[0], 2) or 0 in shape:
            raise ConfigError(
                f"features {self.path} hold arrays of {rows.shape} and {corners.shape}, not N embeddings of patches "
                "and N places (x, y); give a file of patches, not of whole slides"
            )
        try:
            return rows, np.asarray(corners[:], np.float64)
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def __len__(self) -> int:
        """N."""
        return len(self.coords)

    def __enter__(self) -> "Features":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Which rows, and their (n, D) embeddings; a row that is not finite comes as nan throughout.

        Raises:
            ConfigError: the file is damaged.
        """
        step = max(1, CHUNK_BYTES // (8 * self.width))
        for start in range(0, len(self), step):
            place = slice(start, min(start + step, len(self)))
            try:
                found = self._rows[0, place] if self._rows.ndim == 3 else self._rows[place]
            except OSError as error:
                raise self._damaged(error) from error
            part = np.asarray(found, np.float64)
            part[~np.isfinite(part).all(axis=1)] = np.nan
            yield place, part

    def extent(self, mpp_xy: tuple[float, float], given: int | None) -> NDArray[np.float64]:
        """(2,) sides of a patch along x and y in px of level 0. Args: given: by the user, for a file that says nothing.

        Raises:
            ConfigError: neither the file nor the user says it.
        """
        if given is not None:
            if given < 1:
                raise ConfigError(f"patch_size is {given}; give the side of a patch in px of level 0")
            return np.full(2, float(given))
        if self.about.size_um:
            return self.about.size_um / np.asarray(mpp_xy)
        if self.about.patch_size_level0:
            return np.full(2, self.about.patch_size_level0)
        raise ConfigError(f"features {self.path} do not say how large a patch is; give --patch_size in px of level 0")

    def check(self, name: object, dimensions: tuple[int, int], mpp: float, extent: NDArray[np.float64]) -> None:
        """ConfigError when these are no patches of this slide. Args: dimensions: of level 0; mpp: its um per px."""
        stated, own = self.about.dimensions, self.about.level0_mpp
        if stated and stated != dimensions:
            raise ConfigError(
                f"features {self.path} are of a slide of {stated[0]} x {stated[1]} px, and {name} has "
                f"{dimensions[0]} x {dimensions[1]}; give the slide that they were made of"
            )
        if own and abs(mpp / own - 1) > SAME_MPP:
            raise ConfigError(
                f"features {self.path} were made at {own:.4g} um/px of level 0, and {name} has {mpp:.4g}; "
                f"give --slide_mpp {own:.6g}, or embed the slide again"
            )
        outside = ((self.coords < -EDGE) | (self.coords + extent > np.asarray(dimensions) + EDGE)).any(axis=1)
        if outside.any():
            x, y = self.coords[np.flatnonzero(outside)[0]]
            raise ConfigError(
                f"features {self.path} hold {outside.sum()} patches outside {name} (the first at {x:.0f}, {y:.0f}); "
                "give the slide that they were made of"
            )

    def _damaged(self, error: Exception) -> ConfigError:
        return ConfigError(f"features {self.path} are damaged ({' '.join(str(error).split())}); embed the slide again")


def _about(attributes: dict[str, Any]) -> About:
    def number(name: str) -> float | None:
        try:
            value = float(attributes[name])
        except (KeyError, TypeError, ValueError):
            return None
        return value if np.isfinite(value) and value > 0 else None

    width, height = number("level0_width"), number("level0_height")
    return About(
        number("size_um"),
        number("patch_size_level0"),
        number("level0_mpp"),
        (int(width), int(height)) if width and height else None,
        str(attributes.get(ENCODER, "")),
    )
