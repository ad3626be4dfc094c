"""Made centres: known changes of stain and scanner, which show one tissue as several hospitals would.

Where the table of patches has a column `centre` of its own, nothing is to be made: list the test rows as they are, with
that column as centre, and set `rescanned` of the task Robustness only if slides were scanned in several centres.

Letter: S side of a patch in px.
"""

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from g2l.data import pixels
from g2l.data.colour import HED_FROM_RGB, RGB_FROM_HED
from g2l.deploy.runtime.folder import replace_bytes, replace_text
from g2l.errors import CohortError

Bytes = NDArray[np.uint8]
Three = tuple[float, float, float]

# in the folder of the centres: what they were made with
RECORD = "made.json"


def _three(values: NDArray[np.float64]) -> Three:
    a, b, c = values.tolist()
    return a, b, c


HAEMATOXYLIN, EOSIN, REST = (_three(row) for row in RGB_FROM_HED)


@dataclass(frozen=True)
class Centre:
    """What one laboratory and its scanner do to every patch, in the order of the fields.

    The tissue is taken apart into haematoxylin, eosin and a rest (Ruifrok and Johnston 2001, whose vectors are the
    defaults) and stained anew with the centre's dyes; then come its lens, its pixels, its screen curve, its lamp and
    its JPEG. The defaults change nothing.

    Attributes:
        haematoxylin, eosin: colours of the dyes, optical density in R, G, B.
        strength: factors of the amounts of haematoxylin, eosin and the rest. Tellez et al. 2019 jitter by up to .2; the
            centres below go somewhat further.
        blur: sigma of the focus in shares of the side; .006 is 2/3 px of 112.
        pixels: pixels that the scanner takes per side, in shares of the patch's.
        gamma: of the screen curve; above 1 the middle is darker.
        white: factors of R, G, B: lamp and white balance.
        quality: of the JPEG in the slide, with chroma at half the resolution; 0 = without loss.
    """

    name: str
    haematoxylin: Three = HAEMATOXYLIN
    eosin: Three = EOSIN
    strength: Three = (1.0, 1.0, 1.0)
    blur: float = 0.0
    pixels: float = 1.0
    gamma: float = 1.0
    white: Three = (1.0, 1.0, 1.0)
    quality: int = 0

    def vary(self, rng: np.random.Generator) -> "Centre":
        """This centre on another day: a little beside the ways in which centres differ."""
        return replace(
            self,
            haematoxylin=_tilt(rng, self.haematoxylin),
            eosin=_tilt(rng, self.eosin),
            strength=_three(np.array(self.strength) * rng.lognormal(0, 0.05, 3)),
            blur=self.blur * float(rng.uniform(0.8, 1.2)),
            gamma=self.gamma * float(rng.lognormal(0, 0.02)),
            white=_three((np.array(self.white) + rng.normal(0, 0.008, 3)).clip(0, 1)),
            quality=self.quality and self.quality + int(rng.integers(-4, 5)),
        )


def _tilt(rng: np.random.Generator, stain: Three) -> Three:
    moved = (np.array(stain) + rng.normal(0, 0.015, 3)).clip(0.02, None)
    return _three(moved / np.linalg.norm(moved))


# As it came, and three that go into directions of their own. They were chosen by eye on lung patches, as strong as a
# pathologist would still accept, and are fitted to no real centre:
#   rosy  redder, much less blue: much eosin, a purplish haematoxylin, a warm lamp
#   pale  lighter, with less contrast and detail: short staining, a bright screen curve, few pixels, a coarse JPEG
#   dark  darker, most in red: thick sections, a bluish haematoxylin, a dim lamp, slightly out of focus
ORIGINAL = Centre("original")
CENTRES = (
    ORIGINAL,
    Centre(
        "rosy", haematoxylin=(0.53, 0.75, 0.40), eosin=(0.05, 0.93, 0.36), strength=(0.85, 1.3, 0.9),
        white=(1.0, 0.97, 0.91), quality=80,
    ),
    Centre("pale", strength=(0.75, 0.7, 0.8), pixels=0.6, gamma=0.9, white=(0.97, 1.0, 0.97), quality=55),
    Centre(
        "dark", haematoxylin=(0.70, 0.66, 0.28), eosin=(0.12, 0.97, 0.22), strength=(1.25, 1.1, 1.2), blur=0.006,
        gamma=1.08, white=(0.90, 0.93, 0.91), quality=85,
    ),
)  # fmt: skip


def render(image: Bytes, centre: Centre, seed: int, name: str) -> Bytes:
    """A patch as the centre would show it; the original as it is.

    Args:
        image: (S, S, 3) RGB.
        seed, name: with the centre's name these alone decide how the patch varies inside it.
    Returns:
        (S, S, 3), a new array.
    """
    if centre == ORIGINAL:
        return image.copy()
    key = hashlib.sha256(f"{seed}/{centre.name}/{name}".encode()).digest()
    return develop(image, centre.vary(np.random.default_rng(int.from_bytes(key, "little"))))


def develop(image: Bytes, centre: Centre) -> Bytes:
    """(S, S, 3) RGB with exactly the centre's changes, a new array."""
    dyes = np.diag(centre.strength) @ np.array([centre.haematoxylin, centre.eosin, REST])
    # rows of density @ HED_FROM_RGB @ dyes, written for columns of ln(RGB), and no constant
    stained = np.concatenate([(HED_FROM_RGB @ dyes).T, np.zeros((3, 1))], axis=1).astype(np.float32)
    seen: cv2.typing.MatLike = pixels.jitter_stain(image, stained)
    side = len(image)
    if centre.blur:
        seen = cv2.GaussianBlur(seen, (0, 0), centre.blur * side)
    if centre.pixels < 1:
        few = max(1, round(centre.pixels * side))
        seen = cv2.resize(cv2.resize(seen, (few, few), interpolation=cv2.INTER_AREA), (side, side))
    shown = np.array(centre.white) * seen**centre.gamma
    stored = (255 * shown).round().clip(0, 255).astype(np.uint8)
    return _decoded(_coded(stored, ".jpg", cv2.IMWRITE_JPEG_QUALITY, centre.quality)) if centre.quality else stored


def make_centres(rows: Sequence[Mapping[str, str]], source: Path, out: Path, table: Path, seed: int) -> None:
    """Every patch in every centre, and the table of them.

    A patch that is there and no older than its source is not made again. What was made with another seed or other
    settings of a centre is removed first.

    Args:
        rows: path, label and group of each patch.
        source: folder that the paths are below.
        out: gets <centre>/<path with .png>, without loss; it lies below the folder of `table`.
        table: CSV to write: path (below its folder), label, group, slide (the group: one name in all centres), centre.
        seed: of how patches vary inside their centre.
    Raises:
        CohortError: a patch cannot be read, or two differ in their suffix alone.
    """
    names = {row["path"]: Path(row["path"]).with_suffix(".png") for row in rows}
    twice = [str(name) for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        raise CohortError(f"{len(twice)} patches of {source} differ in their suffix alone ({twice[0]}); rename them")
    made_with = json.dumps({"seed": seed, "centres": [asdict(centre) for centre in CENTRES]}, indent=1)
    record = out / RECORD
    if not record.is_file() or record.read_text(encoding="utf-8") != made_with:
        for centre in CENTRES:
            shutil.rmtree(out / centre.name, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        replace_text(record, made_with)
    for path, name in names.items():
        _make(source / path, {out / centre.name / name: centre for centre in CENTRES}, seed, path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "label", "group", "slide", "centre"))
    for centre in CENTRES:
        for row in rows:
            place = (out / centre.name / names[row["path"]]).relative_to(table.parent)
            writer.writerow((place.as_posix(), row["label"], row["group"], row["group"], centre.name))
    replace_text(table, text.getvalue())


def sheet(rows: Sequence[Mapping[str, str]], out: Path, file: Path, count: int = 8) -> None:
    """A picture (PNG) of what `make_centres` made: a row for each centre, a column for each of some patches.

    Args:
        rows, out: as of `make_centres`.
        count: patches, of as many groups where there are so many, from all labels.
    """
    first = {(row["label"], row["group"]): row["path"] for row in reversed(rows)}
    paths = [first[key] for key in sorted(first)]
    shown = [paths[number] for number in np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)]
    lines = []
    for centre in CENTRES:
        images = [_read(out / centre.name / Path(path).with_suffix(".png")) for path in shown]
        side, gap = len(images[0]), 4
        line = [cv2.copyMakeBorder(one, gap, 0, 0, gap, cv2.BORDER_CONSTANT, value=(255,) * 3) for one in images]
        caption = np.full((side + gap, 76, 3), 255, np.uint8)
        cv2.putText(caption, centre.name, (6, side // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        lines.append(np.hstack([caption, *line]))
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(file, _coded(np.vstack(lines), ".png"))


def _make(source: Path, places: Mapping[Path, Centre], seed: int, name: str) -> None:
    """What of one patch is missing."""
    changed = source.stat().st_mtime_ns if source.is_file() else 0
    missing = [place for place in places if not place.is_file() or place.stat().st_mtime_ns < changed]
    if missing or not changed:
        image = _read(source)
        for place in missing:
            place.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(place, _coded(render(image, places[place], seed, name), ".png"))


def _read(file: Path) -> Bytes:
    try:
        return _decoded(file.read_bytes())
    except (OSError, cv2.error, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no image that OpenCV knows"
        raise CohortError(f"patch {file} cannot be read ({why}); correct the table, or put the file there") from error


def _coded(image: Bytes, suffix: str, *settings: int) -> bytes:
    return cv2.imencode(suffix, image[:, :, ::-1], settings)[1].tobytes()


def _decoded(content: bytes) -> Bytes:
    """RGB. Raises cv2.error or ValueError where it is no image."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("no image")
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)
