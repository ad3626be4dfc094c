"""Published data sets of nuclei and tissue with masks, in the layout in which they are unpacked."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.tables.annotations import IGNORED, Codes, Legend, read_mask, read_mat, read_polygons
from g2l.evaluation.tables.segmentation import CACHE, MaskSource
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tables.tiles import Field


def missing(name: str, expected: Iterable[Path], origin: Mapping[str, str]) -> CohortError:
    """What is not there, where to get it, and under which licence."""
    places = ", ".join(str(path) for path in expected)
    return CohortError(f"{name} lacks {places}; get it from {origin['homepage']} (licence {origin['licence']})")


def tcga_patient(name: str) -> str:
    """TCGA-XX-XXXX of a name that begins with a TCGA barcode."""
    parts = name.split("-")
    if len(parts) < 4 or parts[0] != "TCGA":
        raise CohortError(f"{name} does not begin with a TCGA barcode, which names the patient; restore its name")
    return "-".join(parts[:3])


class CoNSeP(MaskSource):
    """Nuclei of 41 images of 1000 px from 16 patients, colorectal cancer; classes merged to four as in the paper.

    The publisher does not say which images are of one patient: nothing can tell whether its train and test share one.
    """

    name = "CoNSeP"
    classes = ("miscellaneous", "inflammatory", "epithelial", "spindle-shaped")
    mpp = 0.25
    origin = {  # noqa: RUF012
        "homepage": "https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet/",
        "licence": "Apache-2.0, as its README states",
        "citation": "Graham et al., Medical Image Analysis 2019",
        "patients": "the publisher does not say which images are of one patient; its split was taken as it is",
    }

    def __init__(self, root: str, tile: int = 250, cache: str = CACHE) -> None:
        """Args:
        root: the folder that holds Train and Test.
        tile: px of the squares that images are cut into.
        cache: the folder where tiles are written once.
        """
        super().__init__(root, tile, cache)
        self._legend = Legend(dict(zip(self.classes, (1, 2, (3, 4), (5, 6, 7)), strict=True)))

    def fields(self, root: Path) -> list[Field]:
        """Train/Images/*.png with Train/Labels/*.mat, and Test alike."""
        pairs = [
            (path, root / part / "Labels" / f"{path.stem}.mat", part.lower())
            for part in ("Train", "Test")
            for path in sorted((root / part / "Images").glob("*.png"))
        ]
        _complete("CoNSeP", root, pairs, ("Train/Images", "Train/Labels", "Test/Images", "Test/Labels"), self.origin)
        return [Field(path.relative_to(root).as_posix(), path, mask, part) for path, mask, part in pairs]

    def codes(self, field: Field, height: int, width: int) -> Codes:
        """From `type_map`."""
        return self._legend.codes(read_mat(field.mask), str(field.mask))


class MoNuSAC(MaskSource):
    """Nuclei of four cell types in four organs from TCGA; what annotators called ambiguous is not judged."""

    name = "MoNuSAC"
    classes = ("epithelial", "lymphocyte", "macrophage", "neutrophil")
    mpp = 0.25
    origin = {  # noqa: RUF012
        "homepage": "https://monusac-2020.grand-challenge.org/Data/",
        "licence": "CC BY-NC-SA 4.0",
        "citation": "Verma et al., IEEE Transactions on Medical Imaging 2021",
    }
    folders = {"train": "MoNuSAC_images_and_annotations", "test": "MoNuSAC Testing Data and Annotations"}  # noqa: RUF012

    def __init__(self, root: str, tile: int = 256, cache: str = CACHE) -> None:
        """Args:
        root: the folder that holds both unpacked archives.
        tile: px of the squares that images are cut into.
        cache: the folder where tiles are written once.
        """
        super().__init__(root, tile, cache)

    def fields(self, root: Path) -> list[Field]:
        """<slide>/<slide>_N.tif with <slide>_N.xml; slides are named by TCGA barcodes."""
        pairs = [
            (path, path.with_suffix(".xml"), part)
            for part, folder in self.folders.items()
            for path in sorted((root / folder).glob("*/*.tif"))
        ]
        _complete("MoNuSAC", root, pairs, tuple(self.folders.values()), self.origin)
        return [
            Field(
                path.relative_to(root).as_posix(), path, mask, part, tcga_patient(path.name), path.parent.name,
                path.name.split("-")[1],
            )
            for path, mask, part in pairs
        ]  # fmt: skip

    def codes(self, field: Field, height: int, width: int) -> Codes:
        """From polygons."""
        names = {name: code for code, name in enumerate(self.classes, start=1)} | {"ambiguous": IGNORED}
        return read_polygons(field.mask, height, width, names)


class Tiger(MaskSource):
    """Tissue compartments in 151 regions of breast cancer from TCGA (tissue-bcss of WSIROIS). No published split."""

    name = "TIGER tissue"
    classes = (
        "invasive tumour", "tumour-associated stroma", "in-situ tumour", "healthy glands", "necrosis",
        "inflamed stroma", "rest",
    )  # fmt: skip
    mpp = 0.5
    origin = {  # noqa: RUF012
        "homepage": "https://tiger.grand-challenge.org/Data/",
        "licence": "CC BY-NC 4.0",
        "citation": "TIGER challenge 2022; regions of Amgad et al., Bioinformatics 2019",
    }
    folder = "wsirois/roi-level-annotations/tissue-bcss"

    def __init__(self, root: str, tile: int = 448, cache: str = CACHE) -> None:
        """Args:
        root: the folder that holds wsirois.
        tile: px of the squares that images are cut into.
        cache: the folder where tiles are written once.
        """
        super().__init__(root, tile, cache)
        # 0 is what nobody annotated
        self._legend = Legend({name: value for value, name in enumerate(self.classes, start=1)}, ignore=(0,))

    def fields(self, root: Path) -> list[Field]:
        """images/*.png with masks of the same names, which begin with the slide's TCGA barcode."""
        folder = root / self.folder
        pairs = [(path, folder / "masks" / path.name, "") for path in sorted((folder / "images").glob("*.png"))]
        _complete("TIGER", root, pairs, (f"{self.folder}/images", f"{self.folder}/masks"), self.origin)
        return [
            Field(
                path.relative_to(root).as_posix(), path, mask, part, tcga_patient(path.name), path.name.split("_[")[0],
                path.name.split("-")[1],
            )
            for path, mask, part in pairs
        ]  # fmt: skip

    def codes(self, field: Field, height: int, width: int) -> Codes:
        """From the mask's values, 1 to 7."""
        return self._legend.codes(read_mask(field.mask), str(field.mask))


class PanNuke(Source):
    """Nuclei of 19 tissues: three published folds of 256 px images, of which one trains, one chooses, one tests.

    Patients are not published. Images stay in their stacks; of the masks, codes are written once.
    """

    classes = ("neoplastic", "inflammatory", "connective", "dead", "epithelial")
    origin = {  # noqa: RUF012
        "homepage": "https://warwick.ac.uk/fac/cross_fac/tia/data/pannuke",
        "licence": "CC BY-NC-SA 4.0",
        "citation": "Gamper et al., arXiv 2003.10778",
        "patients": "the publisher names no patients: its folds were taken as they are, and may share some",
    }

    def __init__(self, root: str, train: int = 1, val: int = 2, test: int = 3, cache: str = CACHE) -> None:
        """Args:
        root: the folder that holds "Fold 1", "Fold 2" and "Fold 3".
        train: the fold to fit on.
        val: the fold to choose on.
        test: the fold to judge.
        cache: the folder where codes of masks are written once.
        """
        if sorted((train, val, test)) != [1, 2, 3]:
            raise ConfigError(f"PanNuke's folds {train}, {val}, {test} must be 1, 2 and 3 in any order")
        self.root, self.cache = root, cache
        self.train, self.val, self.test = train, val, test

    def read(self) -> Table:
        """The table, fold by fold.

        Raises:
            CohortError: a file is missing or damaged.
        """
        from g2l.evaluation.tables.pannuke import class_stack

        root = Path(self.root).resolve()
        folds = {number: root / f"Fold {number}" for number in (1, 2, 3)}
        files = {
            number: (
                folder / "images" / f"fold{number}" / "images.npy",
                folder / "images" / f"fold{number}" / "types.npy",
                folder / "masks" / f"fold{number}" / "masks.npy",
            )
            for number, folder in folds.items()
        }
        lacking = [path for paths in files.values() for path in paths if not path.is_file()]
        if lacking:
            raise missing("PanNuke", lacking, self.origin)
        parts = {self.train: "train", self.val: "val", self.test: "test"}
        columns: dict[str, list[str]] = {name: [] for name in ("paths", "labels", "splits", "target")}
        counts = []
        for number, (images, types, masks) in files.items():
            target, count, tissues = class_stack(images, types, masks, Path(self.cache).resolve())
            counts.append(count)
            columns["paths"] += [str(images)] * count
            columns["labels"] += tissues
            columns["splits"] += [parts[number]] * count
            columns["target"] += [str(target)] * count
        rows = np.concatenate([np.arange(count) for count in counts])
        places = [Path(path).relative_to(root).as_posix() for path in columns["paths"]]
        ids = np.array([f"{place}#{row}" for place, row in zip(places, rows.tolist(), strict=True)])
        blank = np.full(len(ids), "")
        return Table(
            name="PanNuke",
            ids=ids,
            paths=np.array(columns["paths"]),
            rows=rows,
            labels=np.array(columns["labels"]),
            patients=blank,
            slides=blank,
            centres=blank,
            splits=np.array(columns["splits"]),
            mpp=0.25,
            extra={"target": np.array(columns["target"]), "target_row": rows},
            origin=self.origin,
        )


def _complete(
    name: str, root: Path, pairs: list[tuple[Path, Path, str]], folders: tuple[str, ...], origin: Mapping[str, str]
) -> None:
    """CohortError unless each folder is there, with images, each with its annotation."""
    lacking = [root / folder for folder in folders if not (root / folder).is_dir()]
    if lacking or not pairs:
        raise missing(name, lacking or [root / folders[0]], origin)
    alone = [mask for _, mask, _ in pairs if not mask.is_file()]
    if alone:
        raise CohortError(
            f"{name}: {len(alone)} of {len(pairs)} images have no annotation, such as {alone[0]}; unpack it again"
        )
