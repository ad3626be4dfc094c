"""Small files in the layouts of the publishers are read: labels, parts, and who is a patient."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from g2l.errors import CohortError
from g2l.evaluation.embedding.images import read_image
from g2l.evaluation.tables.images_breast import STAGES, Bach, BreakHis
from g2l.evaluation.tables.images_colon import Mhist, NctCrc
from g2l.evaluation.tables.images_lymph import PCam
from g2l.evaluation.tables.images_pathorob import PathoRob
from g2l.evaluation.tables.images_prostate import GleasonArvaniti
from g2l.evaluation.tables.splits import make_split
from g2l.evaluation.tables.table import Source

CONFIGS = Path(__file__).parents[3] / "configs" / "evaluation"
SOURCES: list[type[Source]] = [NctCrc, Mhist, BreakHis, Bach, PCam, GleasonArvaniti, PathoRob]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize("source", SOURCES)
def test_absent_data_are_one_line_with_where_to_get_them(source: Any, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"https://\S+ \(licence: .+\)") as error:
        source(str(tmp_path)).read()
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_nct_crc_fits_on_one_archive_and_tests_on_the_other(tmp_path: Path) -> None:
    for tissue in ("ADI", "TUM"):
        touch(tmp_path, *(f"NCT-CRC-HE-100K/{tissue}/{tissue}-{k}.tif" for k in range(10)))
        touch(tmp_path, *(f"CRC-VAL-HE-7K/{tissue}/{tissue}-TCGA-{k}.tif" for k in range(4)))
    table = NctCrc(str(tmp_path)).read()
    assert Counter(zip(table.labels.tolist(), table.splits.tolist(), strict=True)) == {
        ("ADI", "train"): 10, ("TUM", "train"): 10, ("ADI", "test"): 4, ("TUM", "test"): 4,
    }  # fmt: skip
    split = make_split(table)
    assert Counter(table.labels[split.val].tolist()) == {"ADI": 2, "TUM": 2} and len(split.test) == 8
    assert "50 patients" in split.notes[0] and "optimistic" in split.notes[-1]
    with pytest.raises(CohortError, match="NCT-CRC-HE-100K-NONORM missing"):
        NctCrc(str(tmp_path), train="NCT-CRC-HE-100K-NONORM").read()


def test_mhist_keeps_its_parts_and_votes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"images/MHIST_a{k}.png" for k in range(12)))
    lines = ["Image Name,Majority Vote Label,Number of Annotators who Selected SSA (Out of 7),Partition"]
    lines += [f"MHIST_a{k}.png,{'SSA' if k % 2 else 'HP'},{k % 8},{'train' if k < 8 else 'test'}" for k in range(12)]
    (tmp_path / "annotations.csv").write_text("\n".join(lines))
    table = Mhist(str(tmp_path)).read()
    assert Counter(table.splits.tolist()) == {"train": 8, "test": 4} and set(table.labels) == {"HP", "SSA"}
    assert table.extra["ssa_votes"].tolist() == [k % 8 for k in range(12)]
    assert "328 slides are not named" in make_split(table).notes[0]
    (tmp_path / "images" / "MHIST_a3.png").unlink()
    with pytest.raises(CohortError, match="MHIST: 1 of 12 files are missing"):
        Mhist(str(tmp_path)).read()


def breakhis(root: Path, *names: str) -> None:
    for name in names:
        slide = "-".join(name.split("-")[:3]).replace("-", "_", 1)
        size = name.split("-")[3]
        touch(root, f"BreaKHis_v1/histology_slides/breast/benign/SOB/any/{slide}/{size}X/{name}.png")


def test_breakhis_patients_are_cases_and_letters_are_slides(tmp_path: Path) -> None:
    breakhis(
        tmp_path, "SOB_B_A-14-22549AB-40-001", "SOB_B_A-14-22549CD-40-002", "SOB_M_DC-14-2523-40-010",
        "SOB_M_DC-14-2523-100-010", "SOB_B_TA-14-3411F-40-001",
    )  # fmt: skip
    table = BreakHis(str(tmp_path)).read()
    rows = sorted(zip(table.labels.tolist(), table.patients.tolist(), table.slides.tolist(), strict=True))
    assert rows == [
        ("A", "22549", "14-22549AB"), ("A", "22549", "14-22549CD"), ("DC", "2523", "14-2523"),
        ("TA", "3411", "14-3411F"),
    ]  # fmt: skip
    assert len(BreakHis(str(tmp_path), magnification=100).read()) == 1
    kept = BreakHis(str(tmp_path), label="malignant", classes=["DC", "TA"]).read()
    assert sorted(kept.labels.tolist()) == ["benign", "malignant"]
    with pytest.raises(CohortError, match="no images of the classes XX"):
        BreakHis(str(tmp_path), classes=["XX"]).read()
    breakhis(tmp_path, "SOB_B_A-14-x-40-001")
    with pytest.raises(CohortError, match="1 file names of another form"):
        BreakHis(str(tmp_path)).read()


def bach(root: Path) -> None:
    for stage, short in zip(STAGES, ("b", "is", "iv", "n"), strict=True):
        touch(root, *(f"ICIAR2018_BACH_Challenge/Photos/{stage}/{short}{k:03d}.tif" for k in range(1, 101)))


def test_bach_has_the_parts_of_eva_without_a_list_of_patients(tmp_path: Path) -> None:
    bach(tmp_path)
    table = Bach(str(tmp_path)).read()
    # eva's ranges over all 400 files in the order of their classes, 0-based and half open
    held = [(41, 59), (60, 90), (139, 169), (240, 258), (260, 273), (345, 368)]
    expected = np.zeros(400, bool)
    for start, stop in held:
        expected[start:stop] = True
    assert np.array_equal(table.splits == "test", expected) and expected.sum() == 132
    assert Counter(table.labels.tolist()) == dict.fromkeys(STAGES, 100)
    split = make_split(table)
    assert "no patient is in both" in split.notes[0] and set(table.labels[split.val]) == set(STAGES)


def test_bach_is_drawn_by_the_patients_of_a_list(tmp_path: Path) -> None:
    bach(tmp_path)
    names = sorted(path.name for path in tmp_path.rglob("*.tif"))
    listed = ["image,patient", *(f"{name},{k // 10}" for k, name in enumerate(names))]
    (tmp_path / "patients.csv").write_text("\n".join(listed))
    table = Bach(str(tmp_path), patients=str(tmp_path / "patients.csv")).read()
    split = make_split(table)
    assert len(set(table.patients)) == 40 and not set(table.patients[split.train]) & set(table.patients[split.test])
    (tmp_path / "patients.csv").write_text("\n".join(listed[:-1]))
    with pytest.raises(CohortError, match="1 of 400 rows have no patient"):
        make_split(Bach(str(tmp_path), patients=str(tmp_path / "patients.csv")).read())


def pcam(root: Path, count: int = 8, meta: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = {}
    for part in ("train", "valid", "test"):
        stem = f"camelyonpatch_level_2_split_{part}"
        images[part] = rng.integers(0, 256, (count, 96, 96, 3), np.uint8)
        with h5py.File(root / f"{stem}_x.h5", "w") as file:
            file["x"] = images[part]
        with h5py.File(root / f"{stem}_y.h5", "w") as file:
            file["y"] = (np.arange(count) % 2).astype(np.uint8).reshape(-1, 1, 1, 1)
        if meta:
            lines = [",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
            lines += [f"{k},1,2,True,{k % 2 == 1},camelyon16_{part}_{k % 4:03d}" for k in range(count)]
            (root / f"{stem}_meta.csv").write_text("\n".join(lines))
    return images


def test_pcam_is_read_from_its_files(tmp_path: Path) -> None:
    images = pcam(tmp_path)
    table = PCam(str(tmp_path)).read()
    assert len(table) == 24 and Counter(table.splits.tolist()) == {"train": 8, "val": 8, "test": 8}
    assert table.labels.tolist() == ["normal", "tumor"] * 12
    assert table.ids[9] == "camelyonpatch_level_2_split_valid_x.h5#1" and table.slides[9] == "camelyon16_valid_001"
    assert np.array_equal(read_image(table.paths[9], int(table.rows[9])), images["valid"][1])
    assert make_split(table).notes == ["patients are not known for all rows: a slide counts as one"]


def test_pcam_without_slides_says_who_vouches_for_its_parts(tmp_path: Path) -> None:
    pcam(tmp_path, meta=False)
    assert "no slide is in two parts" in make_split(PCam(str(tmp_path)).read()).notes[0]


def test_pcam_files_that_do_not_fit_are_said(tmp_path: Path) -> None:
    pcam(tmp_path)
    (tmp_path / "camelyonpatch_level_2_split_test_y.h5").write_bytes(b"not unpacked")
    with pytest.raises(CohortError, match=r"test_y.h5 or its images cannot be read .* unpack the .gz"):
        PCam(str(tmp_path)).read()
    pcam(tmp_path)
    with h5py.File(tmp_path / "camelyonpatch_level_2_split_valid_y.h5", "w") as file:
        file["y"] = np.zeros((3, 1, 1, 1))
    with pytest.raises(CohortError, match="valid has 8 images and 3 labels"):
        PCam(str(tmp_path)).read()


def test_gleason_parts_are_arrays_and_patients_are_cores(tmp_path: Path) -> None:
    def core(folder: str, name: str, grade: int) -> None:
        touch(tmp_path, *(f"{folder}/{name}/{name}_patch_{k}_class_{grade}.jpg" for k in range(3)))

    core("train_validation_patches_750", "ZT111_4_A_1_1", 0)
    core("train_validation_patches_750", "ZT199_1_B_2_3", 3)
    core("train_validation_patches_750", "ZT76_39_A_1_1", 1)
    core("test_patches_750/patho_1", "ZT80_38_A_1_1", 2)
    core("test_patches_750/patho_2", "ZT80_38_A_1_1", 3)
    table = GleasonArvaniti(str(tmp_path)).read()
    parts = sorted(set(zip(table.patients.tolist(), table.splits.tolist(), table.labels.tolist(), strict=True)))
    assert parts == [
        ("ZT111_4_A_1_1", "train", "benign"), ("ZT199_1_B_2_3", "train", "Gleason 5"),
        ("ZT76_39_A_1_1", "val", "Gleason 3"), ("ZT80_38_A_1_1", "test", "Gleason 4"),
    ]  # fmt: skip
    assert len(table) == 12 and make_split(table).notes == []
    other = GleasonArvaniti(str(tmp_path), pathologist=2).read()
    assert set(other.labels[other.splits == "test"]) == {"Gleason 5"}


def pathorob(root: Path, name: str, slides: list[str], /, **more: list[str]) -> np.ndarray:
    """Two files as Hugging Face writes them, with a struct of bytes and path for each image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(slides), 16, 16, 3), np.uint8)
    encoded = [{"bytes": cv2.imencode(".png", p[..., ::-1])[1].tobytes(), "path": None} for p in pixels]
    columns = {
        "image": encoded, "slide_id": slides, "patch_id": [str(k) for k in range(len(slides))],
        "biological_class": ["normal", "tumor"] * (len(slides) // 2),
        "medical_center": ["RUMC", "UMCU"] * (len(slides) // 2), **more,
    }  # fmt: skip
    folder = root / f"PathoROB-{name}" / "data"
    folder.mkdir(parents=True)
    half = len(slides) // 2
    for k, part in enumerate((slice(0, half), slice(half, None))):
        pq.write_table(
            pa.table({name: v[part] for name, v in columns.items()}), folder / f"train-0000{k}-of-00002.parquet"
        )
    return pixels


def test_pathorob_camelyon_has_patients_where_slides_name_them(tmp_path: Path) -> None:
    slides = ["test_035", "normal_027", "patient_012_node_3", "patient_012_node_1"]
    pixels = pathorob(tmp_path, "camelyon", slides)
    table = PathoRob(str(tmp_path), "camelyon").read()
    assert table.patients.tolist() == ["", "", "patient_012", "patient_012"] and table.slides.tolist() == slides
    assert table.centres.tolist() == ["RUMC", "UMCU"] * 2 and table.labels.tolist() == ["normal", "tumor"] * 2
    assert table.ids[3] == "data/train-00001-of-00002.parquet#1" and (table.splits == "").all()
    assert all(np.array_equal(read_image(table.paths[k], int(table.rows[k])), pixels[k]) for k in range(4))
    split = make_split(table, needs=("test",))
    assert len(split.test) == 4


def test_pathorob_tcga_patients_are_barcodes_and_cases_are_patients(tmp_path: Path) -> None:
    pathorob(tmp_path, "tcga", ["TCGA-E9-A1R5-01Z-00-DX1", "TCGA-E9-A2JS-01Z-00-DX1"])
    assert PathoRob(str(tmp_path), "tcga").read().patients.tolist() == ["TCGA-E9-A1R5", "TCGA-E9-A2JS"]
    pathorob(tmp_path, "tolkach_esca", ["case_030", "case_024"])
    assert PathoRob(str(tmp_path), "tolkach_esca").read().patients.tolist() == ["case_030", "case_024"]


def test_pathorob_takes_no_other_subset_for_the_one_asked(tmp_path: Path) -> None:
    pathorob(tmp_path, "camelyon", ["test_035", "normal_027"])
    with pytest.raises(CohortError, match=r"PathoROB-tcga: no images \S+/PathoROB-tcga/"):
        PathoRob(str(tmp_path), "tcga").read()
    assert len(PathoRob(str(tmp_path / "PathoROB-camelyon"), "camelyon").read()) == 2


def test_pathorob_can_be_narrowed_to_a_list(tmp_path: Path) -> None:
    slides = ["test_035", "normal_027", "test_001", "test_002"]
    pathorob(tmp_path, "camelyon", slides, subset=["ID", "ID", "OOD", "ID"])
    assert len(PathoRob(str(tmp_path), "camelyon").read()) == 3
    assert len(PathoRob(str(tmp_path), "camelyon", out_of_domain=True).read()) == 4
    listed = tmp_path / "reduced.csv"
    listed.write_text("subset,slide_id,patch_id\nID,normal_027,1\nID,test_002,3\n")
    table = PathoRob(str(tmp_path), "camelyon", only=str(listed)).read()
    assert table.slides.tolist() == ["normal_027", "test_002"] and table.rows.tolist() == [1, 1]
    listed.write_text("slide_id,patch_id\nnormal_027,99\n")
    with pytest.raises(CohortError, match=r"1 patches are not below .* \(normal_027-99\)"):
        PathoRob(str(tmp_path), "camelyon", only=str(listed)).read()


@pytest.mark.parametrize("name", ["nct_crc", "mhist", "pcam", "breakhis", "bach", "gleason_arvaniti", "pathorob"])
def test_ready_configs_name_sources_and_their_settings(name: str) -> None:
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    classes = {source.__name__: source for source in SOURCES}
    for task in content["tasks"].values():
        data = task["init_args"]["data"]
        settings = data["init_args"]
        assert re.fullmatch(r"\$\{oc\.env:G2L_DATASETS,datasets\}/[a-z-]+", settings["root"])
        with pytest.raises(CohortError, match="https://"):
            classes[data["class_path"]](**(settings | {"root": "datasets-that-are-not-there"})).read()
