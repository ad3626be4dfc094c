"""Folders of images and masks: pairs, patients, tiles, and every mistake in one line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.embedding.images import read_image
from g2l.evaluation.tables.segmentation import MaskFolder
from g2l.evaluation.tables.splits import make_split


def drawn(root: Path, count: int = 4, height: int = 40, width: int = 70):
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / f"{number:02}.png")
        mask = rng.integers(0, 3, (height, width)).astype(np.uint16) * 300
        Image.fromarray(mask).save(root / f"{number:02}_instances.png")
    return root


def source(root: Path, **settings) -> MaskFolder:
    return MaskFolder(str(root), **{"tile": 32, "independent": True, "cache": str(root.parent / "tiles"), **settings})


def test_pairs_become_tiles_with_codes(tmp_path):
    root = drawn(tmp_path / "data")
    table = source(root).read()
    assert len(table) == 4 * 2 * 3 and table.ids[:7].tolist() == [f"00.png#{n}" for n in range(6)] + ["01.png#0"]
    assert set(table.slides) == set(table.extra["image"]) == {f"{number:02}.png" for number in range(4)}
    for row in (0, 8, 23):
        number, tile = divmod(row, 6)
        top, left = tile // 3 * 32, tile % 3 * 32
        image = np.asarray(Image.open(root / f"{number:02}.png"))[top : top + 32, left : left + 32]
        mask = np.asarray(Image.open(root / f"{number:02}_instances.png"))[top : top + 32, left : left + 32] > 0
        shown = read_image(table.paths[row], int(table.rows[row]))
        codes = np.load(table.extra["target"][row])[table.extra["target_row"][row]]
        assert (shown[: len(image), : image.shape[1]] == image).all()
        assert (codes[: len(mask), : mask.shape[1]] == mask).all()
        assert (codes == 255).sum() == 32 * 32 - mask.size


def test_tiles_of_an_image_stay_in_one_part(tmp_path):
    table = source(drawn(tmp_path / "data", 12)).read()
    split = make_split(table)
    parts = [set(table.extra["image"][rows]) for rows in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == 12 and all(parts)


def test_masks_of_classes_in_folders_of_their_own_with_a_listing(tmp_path):
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (32, 32)).save(root / "images" / f"{name}.jpg")
        Image.fromarray(np.array([[0, 2, 7, 9]] * 4, np.uint8).repeat(8, 0).repeat(8, 1)).save(
            root / "masks" / f"{name}.png"
        )
    (root / "list.csv").write_text("image,patient,split,centre\na,p1,train,x\nb,p2,test,y\n")
    table = source(
        root, images="images/*.jpg", masks="masks/*.png", classes={"gland": 7, "nucleus": 2}, ignore=[9],
        listing="list.csv", independent=False,
    ).read()  # fmt: skip
    assert table.patients.tolist() == ["p1", "p2"] and table.splits.tolist() == ["train", "test"]
    assert table.centres.tolist() == ["x", "y"]
    assert np.load(table.extra["target"][0])[0, 0, ::8].tolist() == [0, 2, 1, 255]


def test_images_of_one_field_are_of_one_patient(tmp_path):
    from scipy.ndimage import gaussian_filter

    root = tmp_path / "data"
    root.mkdir()
    for field in range(3):
        noise = gaussian_filter(np.random.default_rng(field).normal(size=(64, 128, 3)), (2, 2, 0))
        whole = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
        for half in (0, 1):
            Image.fromarray(whole[:, 64 * half : 64 * half + 64]).save(root / f"{half}{field}.png")
            Image.new("L", (64, 64)).save(root / f"{half}{field}_instances.png")
    table = source(root, seams=True, independent=False, tile=64).read()
    of = dict(zip(table.extra["image"].tolist(), table.patients.tolist(), strict=True))
    assert all(of[f"0{field}.png"] == of[f"1{field}.png"] for field in range(3)) and len(set(of.values())) == 3
    rows = [f"{half}{field},{'me' * (half + field == 1)}" for half in (0, 1) for field in (0, 1, 2)]
    (root / "list.csv").write_text("\n".join(["image,patient", *rows]))
    listed = source(root, seams=True, listing="list.csv", independent=False, tile=64).read()
    assert set(listed.patients[listed.extra["image"] == "00.png"]) == {"me"}


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"independent": False}, None, "4 of 4 images of masks have no patient; give a listing"),
        ({}, lambda root: (root / "01_instances.png").unlink(), r"1 of 4 images below .* have no mask .*01\.png"),
        ({}, lambda root: (root / "01.png").unlink(), r"1 of 4 masks below .* have no image .*01_instances\.png"),
        ({"images": "*.jpg"}, None, r"no images \*\.jpg below"),
        ({"classes": {"a": 300}}, None, r"00_instances\.png holds the values 600, which are no class \(a = 300\)"),
        ({}, lambda root: Image.new("L", (9, 9)).save(root / "02_instances.png"), "9 x 9 px, its image 02.png 70 x 40"),
        ({}, lambda root: (root / "03.png").write_bytes(b"x"), r"image .*03\.png cannot be read"),
        ({"listing": "no.csv"}, None, r"listing .*no\.csv cannot be read"),
        ({"listing": "l.csv"}, lambda root: (root / "l.csv").write_text("image\n00\n"), r"lacks 3 of 4 images \(01"),
        (
            {"listing": "l.csv"},
            lambda root: (root / "l.csv").write_text("image,split\n00,a\n01,a\n02,train\n03,\n"),
            "has the splits a; write train, val or test",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_one_line(tmp_path, settings, change, message):
    root = drawn(tmp_path / "data")
    if change:
        change(root)
    with pytest.raises(CohortError, match=message) as caught:
        source(root, **settings).read()
    assert "\n" not in str(caught.value)


def test_missing_folders_and_patterns_that_leave_them(tmp_path):
    with pytest.raises(CohortError, match="is not there; give the root"):
        source(tmp_path / "none").read()
    for pattern in ("../*.png", "/etc/*", "a.png", "*/*.png"):
        with pytest.raises(ConfigError, match="must hold one"):
            source(tmp_path, images=pattern)


@pytest.mark.real_data
def test_the_nuclei_of_the_data_science_bowl(real_data, tmp_path):
    made = MaskFolder(str(real_data / "nuclei"), tile=128, seams=True, name="nuclei", cache=str(tmp_path))
    table = made.read()
    assert len(table) == 64 * 6 and len(np.unique(table.patients)) == 29
    codes = np.load(table.extra["target"][0])
    assert (codes != 255).sum() == 64 * 256 * 320
    numbers = np.asarray(Image.open(real_data / "nuclei" / "000_instances.png"))
    assert (codes[:6] == 1).sum() == (numbers > 0).sum()
