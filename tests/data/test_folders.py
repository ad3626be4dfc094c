"""Patches that were cut already: every layout gives its pixels, its groups stay whole, and mistakes end in one line."""

import os
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from layouts import EACH, LAYOUTS, SLIDES, Pixels, drawn, encode, pil, write_hdf5, write_images, write_shards, write_tar

from g2l.data.folders import PatchFiles, open_patches
from g2l.errors import CohortError


def pixels(patches: PatchFiles) -> dict[str, Pixels]:
    """Every whole image, by name."""
    source = patches.source(range(len(patches)), seed=0, size=8)
    return {source.file(row): source.image(row) for row in range(len(source))}


def refused(path: Path, manifest: Path | None = None) -> str:
    """The one line that says why."""
    with pytest.raises(CohortError) as caught:
        open_patches(path, manifest)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_its_pixels_and_slides(tmp_path: Path, layout: str) -> None:
    made = LAYOUTS[layout](tmp_path / "cut")
    patches = open_patches(tmp_path / "cut")
    found = pixels(patches)
    assert found.keys() == made.keys() == set(patches.column("path"))
    assert all(np.array_equal(found[name], made[name]) for name in made)
    assert sorted(patches.names) == sorted(SLIDES)
    for row, name in enumerate(patches.column("path")):
        slide = str(patches.column("slide")[row])
        assert slide in str(name) and patches.column("slide").count(slide) == EACH
    assert all(patches.path(k).exists() for k in range(len(SLIDES)))


@pytest.mark.parametrize(("layout", "file"), [("hdf5", "part/s1.h5"), ("tar", "0.tar"), ("png", "a/s1/0.PNG")])
def test_one_file_is_enough(tmp_path: Path, layout: str, file: str) -> None:
    made = LAYOUTS[layout](tmp_path)
    found = pixels(open_patches(tmp_path / file))
    base = Path(file).parent
    here = {str(Path(name).relative_to(base)): one for name, one in made.items() if name.startswith(file)}
    assert found.keys() == here.keys() and all(np.array_equal(found[name], here[name]) for name in here)


def test_slides_are_held_out_whole_without_a_manifest(tmp_path: Path) -> None:
    write_hdf5(tmp_path, "plain")
    patches = open_patches(tmp_path)
    parts = patches.split("slide", 0.3, seed=1)
    slides = patches.column("slide")
    assert len(parts["val"]) == EACH and len(parts["train"]) == 2 * EACH
    assert not {slides[row] for row in parts["val"]} & {slides[row] for row in parts["train"]}
    with pytest.raises(CohortError, match=r"no column 'patient'; they have path, slide: .* manifest"):
        patches.split()


def test_notes_within_tars_are_columns(tmp_path: Path) -> None:
    images = {f"{k}.{kind}": encode(drawn(k)) for k, kind in enumerate(["png", "left.png", "png", "png", "png"])}
    notes = {
        "0.json": b'{"slide": "A", "label": 3, "mpp": 0.5, "other": [1]}',
        "1.json": b'{"patient": "P"}',
        "2.cls": b"7\n",
        "3.json": b'{"slide": null, "patient": ""}',
        "._4.json": b"of another system",
    }
    write_tar(tmp_path / "more" / "shard-1.tar", images | notes)
    patches = open_patches(tmp_path)
    assert patches.column("slide") == ["A", "P", "shard-1", "shard-1", "shard-1"]
    assert patches.column("patient") == [None, "P", None, None, None]
    assert patches.column("label") == ["3", None, "7", None, None]
    assert patches.source(range(5), 0, 8).draw(np.arange(5)).mpp.tolist().count(0.5) == 1
    with pytest.raises(CohortError, match=r"4 patches have no patient \(more/shard-1.tar/0.png, "):
        patches.split()


def test_no_part_divides_a_patient_or_a_group(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "m.csv").write_text("slide,group\ns1,A\ns 2,A\nsüß,B\n")
    patches = open_patches(tmp_path, tmp_path / "m.csv")
    groups = patches.column("group")
    parts = patches.split("group", 0.5)
    assert {groups[row] for row in parts["train"]} != {groups[row] for row in parts["val"]}
    with pytest.raises(CohortError, match="holding out by path puts groups into two parts"):
        patches.split("path", 0.5)
    (tmp_path / "m.csv").write_text("slide,patient,split\ns1,A,train\ns 2,B,val\nsüß,C,test\n")
    parts = open_patches(tmp_path, tmp_path / "m.csv").split()
    assert [len(parts[part]) for part in ("train", "val", "test")] == [EACH] * 3
    (tmp_path / "m.csv").write_text("slide,patient,split\ns1,A,train\ns 2,A,val\nsüß,C,test\n")
    with pytest.raises(CohortError, match=r"patient in more than one part of the split: A \(train and val\)"):
        open_patches(tmp_path, tmp_path / "m.csv").split()


def test_labelled_patches_come_once_and_with_what_is_known(tmp_path: Path) -> None:
    made = write_images(tmp_path, "PNG")
    lines = [f"{name},{name[0]},G{name.split('/')[1]},c" for name in made]
    (tmp_path / "m.csv").write_text("\n".join(["path,label,group,centre", *lines[:-1]]))
    patches = open_patches(tmp_path, tmp_path / "m.csv")
    (tmp_path / next(iter(made))).write_bytes(b"broken")
    with pytest.warns(UserWarning, match="left out of the scores: patch .* cannot be read"):
        labelled = patches.labelled(range(len(patches)), 100, 40)
    assert labelled.images.shape == (len(made) - 2, 40, 40, 3)
    assert set(labelled.labels) == {"a", "b"} and set(labelled.centres) == {"c"}
    assert [f"G{slide}" for slide in labelled.slides] == labelled.patients.tolist()
    # the crops of two images of 40 x 48 px share rows 0-39 at some column
    whole = {image.tobytes() for one in made.values() for x in range(9) for image in [one[:, x : x + 40]]}
    assert len({image.tobytes() for image in labelled.images}) == len(made) - 2
    assert {image.tobytes() for image in labelled.images} <= whole
    few = patches.labelled(range(len(patches)), 3, 40)
    assert len(few.images) == len(few.labels) == 3


def test_scoring_needs_labels_and_people(tmp_path: Path) -> None:
    write_images(tmp_path)
    with pytest.raises(CohortError, match=r"no column 'label'; .* manifest"):
        open_patches(tmp_path).labelled(range(3), 3, 40)
    (tmp_path / "m.csv").write_text("slide,label,patient\ns1,x,\nsüß,,P\n")
    patches = open_patches(tmp_path, tmp_path / "m.csv")
    with pytest.raises(CohortError, match="of no patient cannot be scored"):
        patches.labelled(range(len(patches)), 3, 40)
    unlabelled = [row for row, slide in enumerate(patches.column("slide")) if slide != "s1"]
    with pytest.raises(CohortError, match="of no label cannot be scored"):
        patches.labelled(unlabelled, 3, 40)


def test_folders_without_patches(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    assert "no patches found" in refused(tmp_path)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["imgs"] = np.empty((0, 8, 8, 3), np.uint8)
    assert "none holds a patch" in refused(tmp_path)


def test_kinds_are_not_mixed(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_shards(tmp_path)
    assert "12 images and 2 tar shards; name a folder that holds one kind" in refused(tmp_path)


def test_everything_wrong_with_hdf5_files_is_said_at_once(tmp_path: Path) -> None:
    write_hdf5(tmp_path, "plain")
    with h5py.File(tmp_path / "coords.h5", "w") as file:
        file["coords"] = np.zeros((5, 2), np.int64)
    with h5py.File(tmp_path / "float.h5", "w") as file:
        file["imgs"] = np.zeros((5, 3, 8, 8), np.float32)
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["features"] = np.zeros((5, 8))
    (tmp_path / "text.h5").write_text("text")
    said = refused(tmp_path)
    assert "coords.h5: holds coordinates only, no pixels; index the slides" in said and "g2l index" in said
    assert "float.h5: imgs is float32 (5, 3, 8, 8); it must be uint8 (N, height, width, 3)" in said
    assert "features.h5: has none of the datasets imgs, images, patches, img (it has: features)" in said
    assert "text.h5: " in said


def test_everything_wrong_with_tars_is_said_at_once(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    write_tar(tmp_path / "notes.tar", {"a.jpg": b"", "a.json": b"{", "b.json": b"[]"})
    write_tar(tmp_path / "mpp.tar", {"a.jpg": b"", "a.json": b'{"mpp": 250}'})
    said = refused(tmp_path)
    assert "packed.tar: a compressed tar cannot be read at random; unpack it" in said
    assert "notes.tar: a.json is no JSON" in said and "mpp '250' is no number of um/px in 0.1-4" in said
    for name in ("a.tar.gz", "b.tgz"):
        (tmp_path / "zipped").mkdir(exist_ok=True)
        (tmp_path / "zipped" / name).write_bytes(b"")
    said = refused(tmp_path / "zipped")
    assert "a.tar.gz" in said and "b.tgz" in said and "unpack" in said


def test_links_are_followed_once(tmp_path: Path) -> None:
    made = write_images(tmp_path / "cut")
    (tmp_path / "cut" / "a" / "loop").symlink_to(tmp_path / "cut")
    (tmp_path / "cut" / "0 twin").symlink_to(tmp_path / "cut" / "b")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "new.png").write_bytes(encode(drawn(99)))
    (tmp_path / "cut" / "more").symlink_to(tmp_path / "beside")
    assert set(open_patches(tmp_path / "cut").column("path")) == {*made, "more/new.png"}
    (tmp_path / "link").symlink_to(tmp_path / "cut")
    assert len(open_patches(tmp_path / "link")) == len(made) + 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / "a").chmod(0)
    try:
        assert "a cannot be read (Permission denied)" in refused(tmp_path)
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_name_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    write_images(tmp_path)
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert r"caf\udce9.jpg' is no name in UTF-8" in refused(tmp_path)


def test_sizes_are_checked_before_a_run(tmp_path: Path) -> None:
    write_images(tmp_path)
    patches = open_patches(tmp_path)
    with pytest.raises(CohortError, match=r"8 of 8 looked at are smaller than 41 px \(a/s 2/0.jpg 48 x 40, "):
        patches.source(range(len(patches)), 0, 41)
    with pytest.raises(CohortError, match="0 patches of 40 px"):
        patches.source([], 0, 40)
    for name in patches.column("path"):
        (tmp_path / str(name)).write_bytes(b"")
    with pytest.raises(CohortError, match=r"none of 3 looked at can be read, first: patch a/.* cannot be read"):
        patches.source([4, 5, 6], 0, 40)


@pytest.mark.real_data
def test_real_patches_are_split_by_group(real_data: Path) -> None:
    folder = real_data / "patches"
    patches = open_patches(folder, folder / "patches.csv")
    assert len(patches) == 2960 and set(patches.names) == {"lung_aca", "lung_n", "lung_scc"}
    groups, parts = patches.column("group"), patches.split("group", 0.2, seed=3)
    assert sorted(parts["train"] + parts["val"]) == list(range(2960))
    held = {groups[row] for row in parts["val"]}
    assert not held & {groups[row] for row in parts["train"]}
    assert len(held) == round(0.2 * len(set(groups)))
    source = patches.source(parts["val"], 0, 224)
    for row in range(0, len(source), 25):
        assert np.array_equal(source.image(row), pil((folder / source.file(row)).read_bytes()))
    labelled = patches.labelled(parts["val"], 64, 224)
    assert labelled.images.shape == (64, 224, 224, 3) and set(labelled.patients) <= held
    assert all(patient.startswith(label) for patient, label in zip(labelled.patients, labelled.labels, strict=True))
