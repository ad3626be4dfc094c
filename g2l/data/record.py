"""What a student was trained on, as it may leave the house: hashes of names, no names."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

FORMAT = 1
# More images than this are not all written down: a checkpoint must stay small. Those kept are the smallest hashes,
# which is a random sample, so the share of a table that is found in it still says something.
CAP = 50_000
# A barcode of TCGA names the patient in its first three parts, and a file of the GDC ends in a UUID.
TCGA = re.compile(r"(tcga-\w\w-\w{4})(-.*)?")
UUID = re.compile(r"\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
SUFFIX = re.compile(r"\.(svs|tiff?|ndpi|mrxs|scn|vms|vmu|bif|svslide|czi|dcm|jpe?g|png|h5|hdf5|tar)$")

Record = dict[str, Any]


def record_of(data: object) -> Record | None:
    """The slides and patients of the training part of a data module, as plain JSON; None of any other data.

    Keys: `slides`, `patients`: SHA-256 of names (`name_hash`); `fingerprints`: of the slides' files, as the cohort has
    them; `images`, `images_counted`: SHA-256 of the paths of patches already cut, the `CAP` smallest, and how many
    there were. The hashes keep a name from being read, not from being confirmed by who knows it.

    Args:
        data: a SlideDataModule that was set up.
    """
    from g2l.data.folders import PatchFiles
    from g2l.data.module import SlideDataModule

    if not isinstance(data, SlideDataModule):
        return None
    rows, whole = data.split["train"], data.data

    def values(name: str) -> list[str]:
        if name not in whole.columns:
            return []
        column = whole.column(name)
        return [str(column[row]) for row in rows if column[row] is not None]

    slides = values("slide" if isinstance(whole, PatchFiles) else "name")
    images = values("path") if isinstance(whole, PatchFiles) else []
    fingerprints = [] if isinstance(whole, PatchFiles) else values("fingerprint")
    barcodes = [found[1] for name in slides if (found := TCGA.fullmatch(plain_name(name)))]
    patients = [*values("patient"), *values("group"), *barcodes]
    return {
        "format": FORMAT,
        "slides": _hashes(slides),
        "patients": _hashes(patients),
        "fingerprints": sorted(set(fingerprints)),
        "images": sorted({text_hash(path) for path in images})[:CAP],
        "images_counted": len(images),
    }


def joined(one: Record | None, other: Record | None) -> Record | None:
    """What two trainings have seen."""
    if one is None or other is None:
        return one or other
    lists = {key: sorted({*one[key], *other[key]}) for key in ("slides", "patients", "fingerprints", "images")}
    counted = max(one["images_counted"], other["images_counted"], len(lists["images"]))
    return {"format": FORMAT, **lists, "images": lists["images"][:CAP], "images_counted": counted}


def plain_name(name: str) -> str:
    """A slide's or patient's name without folders, suffix, GDC's UUID, and capitals: one name in all lists."""
    lower = PurePosixPath(name.strip().replace("\\", "/").lower()).name
    return UUID.sub("", SUFFIX.sub("", lower))


def name_hash(name: str) -> str:
    """SHA-256 of `plain_name`, in hexadecimal digits."""
    return text_hash(plain_name(name))


def text_hash(text: str) -> str:
    """SHA-256 of a text as it is, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _hashes(names: Iterable[str]) -> list[str]:
    return sorted({name_hash(name) for name in names})
