"""Images with masks as a table of tiles: the base of every such source, and folders of pairs of one's own."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.annotations import Codes, Legend, read_mask
from g2l.evaluation.tables.table import SHOWN, Source, Table
from g2l.evaluation.tables.tiles import Field, write_tiles

CACHE = "runs/tiles"
PARTS = ("", "train", "val", "test")


class MaskSource(Source):
    """Images with masks, cut into tiles that are rows of the table.

    Columns in `extra`: `target` (file of the masks, with codes 1 to C of `classes`, 0 for background, 255 for what is
    not judged), `target_row` (which of its masks), `image` (the image that a tile is of).

    Attributes:
        classes: their names, in the order of codes.
        name, mpp, origin, independent: of the table.
    """

    name: str
    classes: tuple[str, ...]
    mpp: float | None = None
    origin: Mapping[str, str] = {}
    independent: bool = False

    def __init__(self, root: str, tile: int, cache: str = CACHE) -> None:
        """Args: root: the folder of the data set. tile: px; cache: the folder where tiles are written once."""
        self.root, self.tile, self.cache = root, tile, cache

    def fields(self, root: Path) -> list[Field]:
        """Every image with its annotation; CohortError where there are none."""
        raise NotImplementedError

    def codes(self, field: Field, height: int, width: int) -> Codes:
        """(height, width) codes of an image of that size."""
        raise NotImplementedError

    def settings(self) -> object:
        """What `codes` depends on besides the files, plain JSON."""
        return list(self.classes)

    def read(self) -> Table:
        """The table; tiles are written when they are not there.

        Raises:
            CohortError: what is missing or wrong.
        """
        from g2l.evaluation.embedding.images import read_image

        def pixels(field: Field) -> tuple[NDArray[np.uint8], Codes]:
            image = read_image(field.image)
            return image, self.codes(field, *image.shape[:2])

        fields = self.fields(Path(self.root).resolve())
        tiles = write_tiles(Path(self.cache).resolve(), self.name, fields, pixels, self.tile, self.settings())
        of = [fields[number] for number in tiles.fields.tolist()]
        count = len(of)
        first = np.searchsorted(tiles.fields, tiles.fields)
        rows = np.arange(count)
        return Table(
            name=self.name,
            ids=np.array([f"{one.id}#{number}" for one, number in zip(of, (rows - first).tolist(), strict=True)]),
            paths=np.full(count, str(tiles.images)),
            rows=rows,
            labels=np.full(count, ""),
            patients=np.array([one.patient for one in of]),
            # tiles of one image stay together, also where neither patient nor slide is known
            slides=np.array([one.slide or one.id for one in of]),
            centres=np.array([one.centre for one in of]),
            splits=np.array([one.split for one in of]),
            mpp=self.mpp,
            extra={
                "target": np.full(count, str(tiles.masks)),
                "target_row": rows,
                "image": np.array([one.id for one in of]),
            },
            origin=self.origin,
            independent=self.independent,
        )


class MaskFolder(MaskSource):
    """Pairs of an image and a mask with names alike, such as `012.png` and `012_instances.png`."""

    def __init__(
        self,
        root: str,
        images: str = "*.png",
        masks: str = "*_instances.png",
        classes: dict[str, int] | None = None,
        ignore: list[int] | None = None,
        tile: int = 256,
        listing: str | None = None,
        seams: bool = False,
        independent: bool = False,
        mpp: float | None = None,
        name: str = "masks",
        origin: dict[str, str] | None = None,
        cache: str = CACHE,
    ) -> None:
        """Args:
        root: the folder of images and masks.
        images: where images lie below it; the `*` is the name of the pair.
        masks: where masks lie below it; images of one channel (PNG, TIFF), 8 or 16 bits.
        classes: name -> value in the masks, where masks hold classes; by default they number objects, and every
            value above 0 is a nucleus.
        ignore: values of pixels that are neither trained on nor judged.
        tile: px of the squares that images are cut into.
        listing: CSV below the root with a column `image` (name of the pair) and any of `patient`, `slide`, `centre`,
            `split`.
        seams: images that continue one another at an edge count as one patient.
        independent: every image without a patient is of a patient of its own: only the publisher can know that.
        mpp: um per px, where known.
        name: of the data set in reports.
        origin: `homepage`, `licence`, `citation` for the report.
        cache: the folder where tiles are written once.
        """
        super().__init__(root, tile, cache)
        for pattern in (images, masks):
            if pattern.count("*") != 1 or ".." in Path(pattern).parts or Path(pattern).is_absolute():
                raise ConfigError(f"{pattern!r} must hold one * for the name of the pair, and stay below the root")
        self.images, self.masks, self.listing, self.seams = images, masks, listing, seams
        self.values, self.ignore = classes, ignore or []
        self.classes = tuple(classes or ("nucleus",))
        self.independent, self.mpp, self.name, self.origin = independent, mpp, name, origin or {}
        self._legend = Legend(classes or {"nucleus": 1}, self.ignore, instances=classes is None)

    def settings(self) -> object:
        """Values of classes, and which are ignored."""
        return [self.values, self.ignore]

    def fields(self, root: Path) -> list[Field]:
        """Pairs by name."""
        if not root.is_dir():
            raise CohortError(f"folder {root} of {self.name} is not there; give the root of images and masks")
        masks = _named(root, self.masks)
        images = {name: path for name, path in _named(root, self.images).items() if path not in masks.values()}
        if not images:
            raise CohortError(f"no images {self.images} below {root}; correct the root or the pattern")
        for some, others, kind, lacking in (
            (images, masks, "images", f"mask ({self.masks})"),
            (masks, images, "masks", f"image ({self.images})"),
        ):
            alone = sorted(some.keys() - others.keys())
            if alone:
                shown = ", ".join(some[name].name for name in alone[:SHOWN])
                raise CohortError(
                    f"{len(alone)} of {len(some)} {kind} below {root} have no {lacking}: {shown}; add or remove them"
                )
        known = self._listed(root, set(images))
        patients = self._patients(images, known)
        return [
            Field(
                path.relative_to(root).as_posix(),
                path,
                masks[name],
                known.get(name, {}).get("split", ""),
                patients[name],
                known.get(name, {}).get("slide", ""),
                known.get(name, {}).get("centre", ""),
            )
            for name, path in sorted(images.items())
        ]

    def codes(self, field: Field, height: int, width: int) -> Codes:
        """From the mask's values."""
        return self._legend.codes(read_mask(field.mask), str(field.mask))

    def _listed(self, root: Path, names: set[str]) -> dict[str, dict[str, str]]:
        if self.listing is None:
            return {}
        path = root / self.listing
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                read = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise CohortError(f"listing {path} cannot be read ({error}); give a CSV with a column image") from error
        rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in read]
        listed = {row.get("image", ""): row for row in rows}
        lacking = sorted(names - listed.keys())
        if lacking:
            raise CohortError(
                f"listing {path} lacks {len(lacking)} of {len(names)} images ({', '.join(lacking[:SHOWN])}); add "
                "them in its column image"
            )
        parts = sorted({row.get("split", "") for row in rows} - set(PARTS))
        if parts:
            raise CohortError(f"listing {path} has the splits {', '.join(parts)}; write train, val or test")
        return listed

    def _patients(self, images: Mapping[str, Path], known: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Who each image is of; with `seams`, images of one field are of the patient of any of them."""
        patients = {name: known.get(name, {}).get("patient", "") for name in images}
        if self.seams:
            from g2l.evaluation.embedding.images import read_image
            from g2l.evaluation.tables.seams import joined

            names = sorted(images)
            field: dict[int, str] = {}
            numbers = joined([read_image(images[name]) for name in names]).tolist()
            for name, number in zip(names, numbers, strict=True):
                field[number] = field.get(number) or patients[name]
            patients = {
                name: patients[name] or field[number] or f"field {number}"
                for name, number in zip(names, numbers, strict=True)
            }
        unknown = [name for name, patient in patients.items() if not patient]
        if unknown and not self.independent:
            raise CohortError(
                f"{len(unknown)} of {len(images)} images of {self.name} have no patient; give a listing with a column "
                "patient, or, where every image is of another patient, declare independent: true"
            )
        return patients


def _named(root: Path, pattern: str) -> dict[str, Path]:
    """Files of a pattern by what its `*` stands for."""
    before, _, after = Path(pattern).name.partition("*")
    folder = Path(pattern).parent
    if "*" in folder.as_posix():
        raise ConfigError(f"{pattern!r} must have its * in the name of the file")
    return {
        path.name[len(before) : len(path.name) - len(after)]: path
        for path in sorted((root / folder).glob(Path(pattern).name))
        if path.is_file()
    }
