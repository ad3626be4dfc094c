"""Tiles: every pixel once, written once, whole or not at all."""

import numpy as np
import pytest

from g2l.errors import CohortError
from g2l.evaluation.tables.tiles import Field, cut, write_tiles


def picture(height: int, width: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 5, (height, width), np.uint8)


@pytest.mark.parametrize(("height", "width", "tile"), [(32, 32, 32), (40, 70, 32), (5, 9, 32), (64, 33, 16)])
def test_every_pixel_is_in_one_tile_and_what_is_filled_up_is_ignored(height, width, tile):
    image, codes = picture(height, width)
    images, masks = cut(image, codes, tile)
    down, right = -(-height // tile), -(-width // tile)
    assert images.shape == (down * right, tile, tile, 3) and masks.shape == images.shape[:3]
    assert (masks != 255).sum() == height * width
    for number, (tiled, marked) in enumerate(zip(images, masks, strict=True)):
        top, left = number // right * tile, number % right * tile
        there = codes[top : top + tile, left : left + tile]
        assert (marked[: len(there), : there.shape[1]] == there).all()
        assert (tiled[: len(there), : there.shape[1]] == image[top : top + tile, left : left + tile]).all()


def fields(folder, count: int):
    made = []
    for number in range(count):
        for kind in ("image", "mask"):
            (folder / f"{number}.{kind}").write_text("x")
        made.append(Field(f"{number}.png", folder / f"{number}.image", folder / f"{number}.mask"))
    return made


def test_are_written_once_until_a_file_or_a_setting_changes(tmp_path):
    made, read = fields(tmp_path, 3), []

    def load(field):
        read.append(field.id)
        return picture(40, 20 + 20 * int(field.id[0]), int(field.id[0]))

    first = write_tiles(tmp_path / "cache", "set", made, load, 32, ["a"])
    assert first.fields.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2] and len(read) == 3
    images, masks = np.load(first.images), np.load(first.masks)
    expected = [cut(*picture(40, 20 + 20 * number, number), 32) for number in range(3)]
    assert (images == np.concatenate([one[0] for one in expected])).all()
    assert (masks == np.concatenate([one[1] for one in expected])).all()
    again = write_tiles(tmp_path / "cache", "set", made, load, 32, ["a"])
    assert again.images == first.images and (again.fields == first.fields).all() and len(read) == 3
    assert write_tiles(tmp_path / "cache", "set", made, load, 32, ["b"]).images != first.images
    made[1].mask.write_text("changed")
    assert write_tiles(tmp_path / "cache", "set", made, load, 32, ["a"]).images != first.images
    assert len(read) == 9


def test_an_interruption_leaves_nothing_that_counts_as_whole(tmp_path):
    made, cache = fields(tmp_path, 2), tmp_path / "cache"

    def load(field):
        if field.id == "1.png":
            raise KeyboardInterrupt
        return picture(32, 32)

    with pytest.raises(KeyboardInterrupt):
        write_tiles(cache, "set", made, load, 32, None)
    assert list(cache.iterdir()) == []
    assert len(write_tiles(cache, "set", made, lambda field: picture(32, 32), 32, None).fields) == 2


def test_all_masks_of_another_size_are_named_in_one_line(tmp_path):
    made = fields(tmp_path, 5)

    def load(field):
        image, codes = picture(32, 32)
        return image, codes if field.id == "0.png" else codes[:-1]

    with pytest.raises(CohortError, match=r"1\.mask has 32 x 31 px, its image 1\.png 32 x 32;.*and 1 more") as caught:
        write_tiles(tmp_path / "cache", "set", made, load, 32, None)
    assert "\n" not in str(caught.value) and list((tmp_path / "cache").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CohortError, match=r"cannot be written to .*give another cache"):
        write_tiles(tmp_path / "cache", "set", fields(tmp_path, 1), lambda field: picture(32, 32), 32, None)
    with pytest.raises(CohortError, match="tiles of 8 px"):
        write_tiles(tmp_path / "c", "set", fields(tmp_path, 1), lambda field: picture(32, 32), 8, None)
