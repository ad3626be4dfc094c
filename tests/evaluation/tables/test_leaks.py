"""Copies across parts are found although they were turned, mirrored and recompressed; other images are not flagged."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from g2l.errors import CohortError
from g2l.evaluation.tables import hashes, leaks
from g2l.evaluation.tables.hashes import BITS, Prints, print_image, print_images
from g2l.evaluation.tables.leaks import DISTANCE, flag_copies, require_no_copies
from g2l.evaluation.tables.listing import Listing
from g2l.evaluation.tables.splits import Split, make_split
from g2l.evaluation.tables.table import Table


def tissue(seed: int, side: int = 96) -> NDArray[np.uint8]:
    """Coloured clouds, as different from each other as tissue is."""
    rng = np.random.default_rng(seed)
    cloud = cv2.resize(rng.random((7, 7, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    base = rng.uniform(0.4, 0.9, 3)
    return np.clip((base + 0.35 * (cloud - 0.5)) * 255 + rng.normal(0, 3, (side, side, 3)), 0, 255).astype(np.uint8)


def save(path: Path, pixels: NDArray[np.uint8], quality: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])


def folder(root: Path, copies: int, count: int = 60) -> tuple[Table, Split]:
    """`count` images in train, as many in test, of which the first `copies` are changed copies of train's."""
    for k in range(count):
        save(root / "train" / f"{k:03d}.jpg", tissue(k))
        made = tissue(1000 + k) if k >= copies else tissue(k)
        if k < copies:
            made = np.rot90(made if k % 2 else made[:, ::-1], k % 4)[3:-3, 3:-3]
        save(root / "test" / f"{k:03d}.jpg", np.ascontiguousarray(made), 60)
    paths = sorted(root.rglob("*.jpg"))
    parts = [path.parent.name for path in paths]
    table = Table.build("made", paths, root, labels=["a", "b"] * count, splits=parts, independent=True)
    return table, make_split(table, needs=("train", "test"))


def test_changed_copies_are_flagged_and_other_images_are_not(tmp_path: Path) -> None:
    table, split = folder(tmp_path, copies=12)
    leak = flag_copies(table, split)
    assert leak.pairs == [(f"test/{k:03d}.jpg", f"train/{k:03d}.jpg") for k in range(12)]
    assert (leak.affected, leak.share, leak.flat) == (12, 0.2, 0)
    with pytest.raises(CohortError, match=r"made: 12 copies .* 12 test images \(20.0 %\) .*allow_leak") as error:
        require_no_copies(leak)
    assert "\n" not in str(error.value)
    assert require_no_copies(leak, allow_leak=True)[0].startswith("LEAK, scores are inflated: 12 copies")


def test_without_copies_the_report_says_so(tmp_path: Path) -> None:
    table, split = folder(tmp_path, copies=0)
    assert require_no_copies(flag_copies(table, split)) == ["no copies of images were found across the parts"]


def test_copies_in_validation_count_as_pairs_and_not_as_test_images(tmp_path: Path) -> None:
    table, split = folder(tmp_path, copies=3, count=10)
    turned = Split(split.train, split.test, np.array([], np.int64))
    leak = flag_copies(table, turned)
    assert len(leak.pairs) == 3 and leak.affected == 0 and leak.share == 0


def test_plain_images_are_counted_and_not_judged(tmp_path: Path) -> None:
    table, split = folder(tmp_path, copies=0, count=10)
    for part in ("train", "test"):
        save(tmp_path / part / "000.jpg", np.full((96, 96, 3), 243, np.uint8))
    leak = flag_copies(table, split)
    assert leak.flat == 2 and not leak.pairs and "2 images are too plain" in leak.text


def test_prints_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, split = folder(tmp_path / "images", copies=2, count=6)
    cache = tmp_path / "cache" / "prints.npz"
    first = flag_copies(table, split, cache)
    calls: list[int] = []
    original = hashes.print_image
    monkeypatch.setattr(hashes, "print_image", lambda pixels: (calls.append(1), original(pixels))[1])
    compared: list[int] = []
    matches = leaks._matches
    monkeypatch.setattr(leaks, "_matches", lambda *given: (compared.append(1), matches(*given))[1])
    assert flag_copies(table, split, cache) == first and first.pairs and not calls and not compared
    for found in cache.parent.glob("*.json"):
        found.write_text("[[1, 2")
    assert flag_copies(table, split, cache) == first and not calls and compared
    save(tmp_path / "images" / "test" / "000.jpg", tissue(77))
    assert len(flag_copies(table, split, cache).pairs) == 1 and len(calls) == 1
    cache.write_bytes(b"broken")
    assert len(flag_copies(table, split, cache).pairs) == 1 and len(calls) == 13


def test_unreadable_images_are_all_named_and_the_prints_of_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, split = folder(tmp_path / "images", copies=0, count=6)
    for row in (1, 4):
        Path(table.paths[row]).write_bytes(b"no image")
    with pytest.raises(CohortError) as caught:
        flag_copies(table, split, tmp_path / "cache" / "prints.npz")
    assert all(Path(table.paths[row]).name in str(caught.value) for row in (1, 4))
    for row in (1, 4):
        save(Path(table.paths[row]), tissue(90 + row))
    calls: list[int] = []
    original = hashes.print_image
    monkeypatch.setattr(hashes, "print_image", lambda pixels: (calls.append(1), original(pixels))[1])
    flag_copies(table, split, tmp_path / "cache" / "prints.npz")
    assert len(calls) == 2
    with pytest.raises(CohortError, match=r"cannot be written .*choose another --cache"):
        flag_copies(table, split, tmp_path / "images" / "test" / "000.jpg" / "prints.npz")


def test_eight_prints_are_those_of_the_turned_images() -> None:
    image = tissue(5, 90)
    bits = print_image(image)[0]
    for k in range(4):
        for number, side in enumerate((image, image[:, ::-1])):
            turned = print_image(np.ascontiguousarray(np.rot90(side, k)))[0][0]
            assert np.unpackbits(turned ^ bits[4 * number + k]).sum() <= 4  # rounding of the resize


def test_distances_equal_counted_bits() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 256, (40, 8, BITS // 8), dtype=np.uint8)
    for k in range(20):  # some near ones
        bits[20 + k] = bits[k]
        flips = rng.choice(BITS, k * 3, replace=False)
        turned = np.unpackbits(bits[20 + k, k % 8])
        turned[flips] ^= 1
        bits[20 + k, k % 8] = np.packbits(turned)
    colours = np.full((40, 256), 1 / 16, np.float16)
    made = Prints(bits, colours, np.zeros(40, bool))
    found = leaks._matches(made, np.arange(20, 40), np.arange(20), lambda text: None)
    counted = {
        (a, b)
        for a in range(20, 40)
        for b in range(20)
        if min(int(np.bitwise_count(bits[a, s] ^ bits[b, 0]).sum()) for s in range(8)) <= DISTANCE
    }
    assert set(found) == counted and len(counted) >= 10


def test_other_colours_are_no_copy() -> None:
    image = tissue(3)
    other = np.ascontiguousarray(image[..., ::-1])
    bits, colours, _ = print_image(image)
    pair = Prints(np.stack([bits, bits]), np.stack([colours, print_image(other)[1]]), np.zeros(2, bool))
    assert not leaks._matches(pair, np.array([1]), np.array([0]), lambda text: None)


def real(root: Path, **settings: object) -> Table:
    return Listing(str(root / "patches" / "patches.csv"), columns={"patient": "group"}, **settings).read()  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.real_data
def test_real_augmented_copies_are_flagged_and_groups_are_not(real_data: Path, tmp_path: Path) -> None:
    """LC25000: the calibration of the thresholds. 2,960 images of 150 fields, augmented by turning up to 25 degrees."""
    known = real(real_data)
    groups = known.patients
    cache = tmp_path / "prints.npz"
    by_group = make_split(known)
    assert flag_copies(known, by_group, cache).pairs == []
    bare = Table(**{**vars(known), "patients": np.full(len(known), ""), "independent": True})
    split = make_split(bare)
    leak = flag_copies(bare, split, cache)
    row = {name: k for k, name in enumerate(bare.ids.tolist())}
    assert all(groups[row[a]] == groups[row[b]] for a, b in leak.pairs)  # precision 1
    earlier = np.isin(groups[split.test], groups[np.concatenate([split.train, split.val])])
    assert leak.affected / earlier.sum() > 0.85  # recall of images
    with pytest.raises(CohortError, match="allow_leak"):
        require_no_copies(leak)
    prints = print_images(known, np.arange(len(known)), cache)
    half = np.arange(len(known))
    pairs = leaks._matches(prints, half, half, lambda text: None)
    others = [(a, b) for a, b in pairs if a != b]
    assert len(others) > 8000 and all(groups[a] == groups[b] for a, b in others)
    assert len({a for a, _ in others}) / len(known) > 0.9


@pytest.mark.real_data
def test_a_random_split_against_the_groups_is_refused(real_data: Path, tmp_path: Path) -> None:
    with (real_data / "patches" / "patches.csv").open() as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(0)
    listing = tmp_path / "random.csv"
    with listing.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "group", "split"])
        for row in rows:
            out.writerow([row["path"], row["label"], row["group"], rng.choice(["train", "val", "test"])])
    table = Listing(str(listing), root=str(real_data / "patches"), columns={"patient": "group"}).read()
    with pytest.raises(CohortError, match="patients are in more than one part"):
        make_split(table)


@pytest.mark.slow
@pytest.mark.real_data
def test_patches_of_real_slides_are_no_copies_of_each_other(real_data: Path, tmp_path: Path) -> None:
    """Breast sections of two patients: tissue and glass, none a copy. What is too plain to judge is glass."""
    from g2l.slides.slide import Slide

    paths, slides, coloured = [], [], []
    for name in ("her2st_B4", "her2st_C2", "her2st_C3"):
        slide = Slide.open(real_data / "slides" / f"{name}.tif")
        width, height = slide.size_um
        for x in range(600, int(width) - 800, 400):
            for y in range(600, int(height) - 800, 400):
                path = tmp_path / name / f"{x}_{y}.png"
                path.parent.mkdir(exist_ok=True)
                pixels = slide.read_patch(x, y, 224, 1.0)
                cv2.imwrite(str(path), pixels[..., ::-1])
                coloured.append(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)[..., 1].mean() > 35)
                paths.append(path)
                slides.append(name)
    table = Table.build(
        "her2st", paths, tmp_path, slides=slides, splits=["test" if s.endswith("C3") else "train" for s in slides]
    )
    leak = flag_copies(table, make_split(table, needs=("train", "test")))
    assert leak.pairs == []
    flat = print_images(table, np.arange(len(table))).flat
    assert leak.flat == flat.sum() and flat[np.array(coloured)].mean() < 0.15 < 0.9 < flat[~np.array(coloured)].mean()
