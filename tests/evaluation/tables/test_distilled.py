"""What a student was trained on goes with its checkpoint and bundle, as hashes, and is found in what judges it."""

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from small import write_networks

from g2l.data.module import SlideDataModule
from g2l.data.record import CAP, joined, name_hash, plain_name, record_of, text_hash
from g2l.deploy.callback import Export
from g2l.deploy.export import export
from g2l.errors import EncoderError
from g2l.evaluation.tables.distilled import read_record, seen_in_distillation
from g2l.evaluation.tables.splits import Split
from g2l.evaluation.tables.table import Table
from g2l.slides.cohort import Cohort
from g2l.training.losses import Cosine


def module(cohort: Path, **settings: Any) -> SlideDataModule:
    data = SlideDataModule(str(cohort), batch_size=4, patch_size=36, mpp=2.0, val_patches=8, **settings)
    data.setup("fit")
    return data


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record(**lists: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"slides": [], "patients": [], "fingerprints": [], "images": [], "images_counted": 0}
    return {"format": 1, **made, **lists}


def table(paths: list[str], test: int, root: Path = Path("there"), **columns: Any) -> tuple[Table, Split]:
    """A table whose last `test` rows are the test part."""
    made = Table.build("made", [root / path for path in paths], root, **columns)
    rows = np.arange(len(paths))
    return made, Split(rows[:-test], np.array([], np.int64), rows[-test:])


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("S1.svs", "s1"),
        ("batch 2/S1.SVS", "s1"),
        ("c:\\slides\\S1.tiff", "s1"),
        ("TCGA-E9-A1R5-01Z-00-DX1.0A1B2C3D-1111-2222-3333-0123456789ab.svs", "tcga-e9-a1r5-01z-00-dx1"),
        ("1.2.840.113619.5", "1.2.840.113619.5"),
        ("slide.v2", "slide.v2"),
    ],
)
def test_one_slide_has_one_name_in_all_lists(name: str, plain: str) -> None:
    assert plain_name(name) == plain and name_hash(name) == sha(plain)


def test_a_cohort_is_recorded_by_its_training_part_alone(demo_cohort: Path) -> None:
    found = record_of(module(demo_cohort))
    assert found is not None
    slides = list(Cohort.open(demo_cohort))
    marks = Cohort.open(demo_cohort).column("fingerprint")
    train = [k for k, slide in enumerate(slides) if slide.split == "train"]
    assert found["slides"] == sorted(sha(slides[k].name) for k in train) and len(train) == 9
    assert found["patients"] == sorted({sha(str(slides[k].patient)) for k in train})
    assert found["fingerprints"] == sorted(marks[k] for k in train)
    assert found["images"] == [] and found["images_counted"] == 0
    text = json.dumps(found)
    assert not any(slide.name in text for slide in slides) and str(demo_cohort) not in text
    assert record_of(object()) is None


def test_patches_already_cut_are_recorded_by_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from layouts import write_images

    names = sorted(write_images(tmp_path / "patches"))
    with (tmp_path / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "group"), *((name, name.split("/")[1]) for name in names)])
    settings = {"manifest": str(tmp_path / "manifest.csv"), "hold_out": "group"}
    data = module(tmp_path / "patches", **settings)
    found = record_of(data)
    assert found is not None
    train = [str(data.data.column("path")[row]) for row in data.split["train"]]
    assert found["images"] == sorted(sha(name) for name in train) and found["images_counted"] == len(train) > 0
    assert set(found["patients"]) == {name_hash(name.split("/")[1]) for name in train}
    monkeypatch.setattr("g2l.data.record.CAP", 3)
    capped = record_of(data)
    assert capped is not None
    assert capped["images"] == found["images"][:3] and capped["images_counted"] == len(train)


def test_a_run_that_goes_on_with_other_data_has_seen_both() -> None:
    one, other = record(slides=["a", "b"], images=["x"], images_counted=1), record(slides=["b", "c"])
    assert joined(one, other) == record(slides=["a", "b", "c"], images=["x"], images_counted=1)
    assert joined(None, one) == one and joined(one, None) == one and joined(None, None) is None


def test_fit_and_export_carry_the_record_into_the_bundle(demo_cohort: Path, tmp_path: Path) -> None:
    networks = write_networks(tmp_path)
    data = module(demo_cohort)
    keep = ModelCheckpoint(tmp_path, filename="best", every_n_train_steps=2)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, limit_val_batches=0, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[keep, Export("student")], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(networks.distiller({"cosine": Cosine(networks.teacher)}), datamodule=data)
    expected = record_of(data)
    assert expected is not None and expected["slides"]
    content = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert content["g2l"]["distilled_on"] == expected
    export(str(tmp_path / "best.ckpt"), str(tmp_path / "bundle"), formats=[])
    public = {"format": 1, "fingerprints": expected["fingerprints"], "names_left_out": True}
    for folder in (tmp_path / "student", tmp_path / "bundle"):
        assert json.loads((folder / "slides.json").read_text()) == public  # no name leaves the house, hashed or not
        assert re.search(r"[0-9a-f]{64}  slides\.json\n", (folder / "SHA256SUMS").read_text())
    assert read_record(str(tmp_path / "best.ckpt")) == expected
    slides = list(Cohort.open(demo_cohort))
    judged, split = table(
        [slide.path.name for slide in slides], 6, slides[0].path.parent, slides=[slide.name for slide in slides],
        patients=[str(slide.patient) for slide in slides],
    )  # fmt: skip
    trained = {slide.path.name for slide in slides if slide.split == "train"}
    for model in ("bundle", "best.ckpt"):
        seen = seen_in_distillation(judged, split, read_record(str(tmp_path / model)))
        assert set(seen.test) == trained & set(judged.ids[split.test].tolist())
        assert set(seen.test + seen.train) == trained
        assert ("slide files alone" in seen.text) == (model == "bundle")


def test_rows_are_found_by_slide_patient_and_image() -> None:
    judged, split = table(
        ["a/1.png", "a/2.png", "a/3.png", "a/4.png", "a/5.png"], 4,
        slides=["S1.svs", "s2", "", "s4", ""], patients=["p1", "p2", "P3", "p4", ""],
    )  # fmt: skip
    made = record(slides=[sha("s1"), sha("s2")], patients=[sha("p3")], images=[text_hash("a/5.png")], images_counted=1)
    seen = seen_in_distillation(judged, split, made)
    assert seen.test == ["a/2.png", "a/3.png", "a/5.png"] and seen.train == ["a/1.png"]
    assert seen.text == (
        "distilled on 3 of 4 test rows and 1 of 1 others, by slide, patient or image: a/2.png, a/3.png, a/5.png"
    )


def test_a_patient_of_tcga_is_found_by_any_slide_of_theirs() -> None:
    judged, split = table(["TCGA-E9-A1R5-01Z-00-DX2.svs", "TCGA-E9-A2JS-01Z-00-DX1.svs", "x.svs"], 3)
    seen = seen_in_distillation(judged, split, record(patients=[sha("tcga-e9-a1r5")]))
    assert seen.test == ["TCGA-E9-A1R5-01Z-00-DX2.svs"]


def test_a_renamed_slide_is_found_by_its_file(demo_cohort: Path, tmp_path: Path) -> None:
    cohort = Cohort.open(demo_cohort)
    (tmp_path / "other name.tif").write_bytes(cohort[0].path.read_bytes())
    (tmp_path / "unknown.tif").write_bytes(cohort[1].path.read_bytes())
    judged, split = table(["other name.tif", "unknown.tif"], 1, tmp_path)
    made = record(fingerprints=[cohort.column("fingerprint")[0]])
    seen = seen_in_distillation(judged, split, made)
    assert (seen.train, seen.test) == (["other name.tif"], [])


def test_nothing_seen_nothing_known_and_a_capped_list_are_said() -> None:
    judged, split = table(["1.png", "2.png"], 1, patients=["p1", "p2"])
    assert (
        seen_in_distillation(judged, split, record()).text == "no slide, patient or image of it was in the distillation"
    )
    assert "not known" in seen_in_distillation(judged, split, None).text
    nothing = record() | {"names_left_out": True}  # a student of patches already cut, exported
    assert "not known" in seen_in_distillation(judged, split, nothing).text
    many = seen_in_distillation(judged, split, record() | {"images_counted": CAP + 1})
    assert many.text.endswith(f"(of {CAP + 1} images it was distilled on, {CAP} are known)")


def test_other_encoders_say_nothing_and_damaged_lists_are_refused(tmp_path: Path) -> None:
    assert read_record("uni") is None and read_record(str(tmp_path)) is None
    torch.save({"g2l": {"student": {}}}, tmp_path / "old.ckpt")
    assert read_record(str(tmp_path / "old.ckpt")) is None
    torch.save({"g2l": {"distilled_on": {"slides": 3}}}, tmp_path / "odd.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "slides.json").write_text("{")
    for model in ("odd.ckpt", "bad.ckpt", "."):
        with pytest.raises(EncoderError) as error:
            read_record(str(tmp_path / model))
        assert "\n" not in str(error.value)
