"""Readers of slide data sets, on small files of the published layouts."""

from pathlib import Path

import pytest

from g2l.errors import CohortError
from g2l.evaluation.tables.slides_camelyon16 import Camelyon16
from g2l.evaluation.tables.slides_panda import Panda
from g2l.evaluation.tables.slides_tcga import TcgaSubtyping, TcgaSurvival
from g2l.evaluation.tables.splits import make_split
from g2l.evaluation.tasks.slides import SlideClassification
from g2l.evaluation.tasks.survival import Survival


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def camelyon(tmp_path: Path) -> Path:
    root = tmp_path / "camelyon16"
    train = root / "training"
    touch(*(train / "normal" / f"normal_{k:03d}.tif" for k in range(1, 5)))
    touch(*(train / "tumor" / f"tumor_{k:03d}.tif" for k in range(1, 4)))
    touch(*(root / "testing" / "images" / f"test_{k:03d}.tif" for k in (1, 2, 3, 49)))
    lines = ["test_001,Tumor,IDC,Macro", "test_002,Tumor,IDC,Macro", "test_003,Normal,None,None", "test_049,Tumor,,"]
    (root / "testing" / "reference.csv").write_text("\n".join(lines) + "\n")
    return root


def test_camelyon16_has_the_published_parts_and_leaves_the_copy_out(camelyon: Path) -> None:
    table = Camelyon16(str(camelyon)).read()
    assert len(table) == 10 and "test_049" not in table.slides
    assert table.ids[0] == "training/normal/normal_001.tif" and Path(table.paths[0]).is_file()
    assert dict(zip(table.slides, table.labels, strict=True))["test_003"] == "normal"
    assert [int((table.splits == part).sum()) for part in ("train", "val", "test")] == [7, 0, 3]
    assert (table.labels[table.splits == "train"] == "tumor").sum() == 3
    assert table.origin["licence"] == "CC0-1.0" and (table.patients == "").all()
    assert table.units.tolist() == table.slides.tolist()
    SlideClassification(Camelyon16(str(camelyon))).check(table)


def test_camelyon16_reads_a_reference_with_column_names(camelyon: Path) -> None:
    path = camelyon / "testing" / "reference.csv"
    path.write_text("image,label\n" + path.read_text().replace("test_001", "test_001.tif"))
    assert len(Camelyon16(str(camelyon)).read()) == 10


def test_camelyon16_says_what_is_missing(camelyon: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"no slides .* below .*; get CAMELYON16 \(CC0\) from https://camelyon17"):
        Camelyon16(str(tmp_path / "nowhere")).read()
    touch(camelyon / "testing" / "images" / "test_004.tif")
    with pytest.raises(CohortError, match=r"does not name 1 slides \(test_004.tif\)"):
        Camelyon16(str(camelyon)).read()
    (camelyon / "testing" / "reference.csv").write_text("a,b\n")
    with pytest.raises(CohortError, match="gives no slide a class"):
        Camelyon16(str(camelyon)).read()
    (camelyon / "testing" / "reference.csv").unlink()
    with pytest.raises(CohortError, match=r"reference.csv cannot be read .*testing/images, testing/reference.csv"):
        Camelyon16(str(camelyon)).read()


@pytest.fixture
def panda(tmp_path: Path) -> Path:
    rows = ["image_id,data_provider,isup_grade,gleason_score"]
    for k in range(24):
        provider = ("karolinska", "radboud")[k % 2]
        grade, score = ((0, "0+0" if k % 2 == 0 else "negative"), (1, "3+3"), (4, "4+4"))[k % 3]
        rows.append(f"{k:032x},{provider},{grade},{score}")
        touch(tmp_path / "train_images" / f"{k:032x}.tiff")
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_panda_has_grades_and_centres_and_gets_its_parts_by_seed(panda: Path) -> None:
    table = Panda(str(panda)).read()
    assert len(table) == 24 and set(table.labels) == {"0", "1", "4"} and set(table.centres) == {"karolinska", "radboud"}
    assert set(table.extra["gleason_score"]) == {"0+0", "3+3", "4+4"} and (table.splits == "").all()
    split = make_split(table, seed=0)
    assert len(split.train) and len(split.val) and len(split.test)
    assert split.notes[0] == (
        "patients are not known for all rows: a slide counts as one (the publisher names no patients, so biopsies of "
        "one patient may lie in different parts)"
    )
    assert set(Panda(str(panda), label="gleason_score").read().labels) == {"0+0", "3+3", "4+4"}


def test_panda_says_what_is_missing(panda: Path) -> None:
    (panda / "train_images" / f"{3:032x}.tiff").unlink()
    with pytest.raises(CohortError, match=r"PANDA: 1 of 24 slides are missing .*kaggle.*train_images/\*.tiff"):
        Panda(str(panda)).read()
    (panda / "train.csv").write_text("image_id,isup_grade\nx,1\n")
    with pytest.raises(CohortError, match=r"no column for the data_provider .*it has image_id, isup_grade"):
        Panda(str(panda)).read()
    (panda / "train.csv").unlink()
    with pytest.raises(CohortError, match=r"train.csv does not exist; get PANDA \(CC BY-SA-NC 4.0\)"):
        Panda(str(panda)).read()


CASES = ("TCGA-A1-A0SB", "TCGA-A1-A0SD", "TCGA-B6-A0RE", "TCGA-B6-A0RG", "TCGA-E2-A1B0", "TCGA-E2-A1B1")


@pytest.fixture
def tcga(tmp_path: Path) -> Path:
    """Six patients in folders named by UUID, as the GDC client writes them; the first has two slides; one is frozen."""
    for k, case in enumerate(CASES):
        touch(tmp_path / f"{k:08x}-uuid" / f"{case}-01Z-00-DX1.{k:04X}AA.svs")
    touch(tmp_path / "more" / f"{CASES[0]}-01Z-00-DX2.FFFF.svs", tmp_path / "more" / f"{CASES[1]}-01A-01-TSA.AAAA.svs")
    return tmp_path


def test_tcga_subtypes_by_a_gdc_sample_sheet(tcga: Path) -> None:
    lines = ["File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type"]
    for k, path in enumerate(sorted(tcga.rglob("*.svs"))):
        project = ("TCGA-LUAD", "TCGA-LUSC")[k % 2]
        lines.append(f"u{k}\t{path.name}\tBiospecimen\tSlide Image\t{project}\t{path.name[:12]}\tS\tPrimary Tumor")
    (tcga / "sheet.tsv").write_text("\n".join(lines) + "\n")
    table = TcgaSubtyping(str(tcga), "sheet.tsv").read()
    assert len(table) == 7 and set(table.labels) == {"TCGA-LUAD", "TCGA-LUSC"}
    assert set(table.patients) == set(CASES) and set(table.centres) == {"A1", "B6", "E2"}
    stated = {row.split("\t")[1]: row.split("\t")[4] for row in lines[1:]}
    assert [stated[Path(path).name] for path in table.paths] == table.labels.tolist()
    assert len(TcgaSubtyping(str(tcga), "sheet.tsv", diagnostic=False).read()) == 8


def test_tcga_subtypes_by_case_leave_the_unnamed_out_and_say_so(tcga: Path) -> None:
    (tcga / "labels.csv").write_text("case,oncotree_code\n" + "".join(f"{case},IDC\n" for case in CASES[:3]))
    table = TcgaSubtyping(str(tcga)).read()
    assert len(table) == 4 and table.origin["left out"] == "3 of 7 slides (no class)"
    (tcga / "labels.csv").write_text(f"case,mine\n{CASES[0]},a\n{CASES[0]}-01,b\n")
    with pytest.raises(CohortError, match=r"column mine differs for one case \(TCGA-A1-A0SB: a and b\)"):
        TcgaSubtyping(str(tcga), label="mine").read()
    with pytest.raises(CohortError, match=r"no column for the class \(looked for label, subtype"):
        TcgaSubtyping(str(tcga)).read()


CBIOPORTAL = """#Patient Identifier\tOverall Survival Status\tOverall Survival (Months)
#Identifier\tStatus\tMonths
#STRING\tSTRING\tNUMBER
#1\t1\t1
PATIENT_ID\tOS_STATUS\tOS_MONTHS
TCGA-A1-A0SB\t1:DECEASED\t12.5
TCGA-A1-A0SD\t0:LIVING\t40
TCGA-B6-A0RE\t0:LIVING\t31.2
TCGA-B6-A0RG\t\t
TCGA-E2-A1B0\t1:DECEASED\t3
TCGA-ZZ-0000\t1:DECEASED\t99
"""
CDR = """,bcr_patient_barcode,type,OS,OS.time,PFI,PFI.time
1,TCGA-A1-A0SB,BRCA,1,380,1,100
2,TCGA-A1-A0SD,BRCA,0,1200,0,1200
3,TCGA-B6-A0RE,BRCA,0,950,1,200
4,TCGA-B6-A0RG,BRCA,#N/A,#N/A,0,500
5,TCGA-E2-A1B0,OV,1,90,1,60
"""


def test_tcga_survival_from_cbioportal(tcga: Path) -> None:
    (tcga / "clinical.tsv").write_text(CBIOPORTAL)
    source = TcgaSurvival(str(tcga))
    table = source.read()
    assert len(table) == 5 and table.origin["unit of time"] == "months"
    assert table.origin["left out"] == "2 of 7 slides (no OS_STATUS or OS_MONTHS)"
    first = table.patients == "TCGA-A1-A0SB"
    assert first.sum() == 2 and set(table.extra["time"][first]) == {12.5}
    assert set(table.extra["event"][first]) == {"1:DECEASED"}
    assert Survival(source)._follow_up(table).event[first].all()
    Survival(source).check(table)


def test_tcga_survival_from_tcga_cdr(tcga: Path) -> None:
    (tcga / "cdr.csv").write_text(CDR)
    table = TcgaSurvival(str(tcga), "cdr.csv").read()
    assert dict(zip(table.patients, table.extra["time"], strict=True)) == {
        "TCGA-A1-A0SB": 380, "TCGA-A1-A0SD": 1200, "TCGA-B6-A0RE": 950, "TCGA-E2-A1B0": 90,
    }  # fmt: skip
    assert table.origin["unit of time"] == "days" and set(table.extra["event"]) == {"0", "1"}
    brca = TcgaSurvival(str(tcga), "cdr.csv", endpoint="PFI", project="BRCA").read()
    assert set(brca.patients) == set(CASES[:4])
    follow_up = Survival(TcgaSurvival(str(tcga)))._follow_up(brca)
    assert follow_up.event[brca.patients == "TCGA-B6-A0RE"].all()
    assert not follow_up.event[brca.patients == "TCGA-A1-A0SD"].any()


def test_tcga_says_what_is_missing(tcga: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(
        CohortError, match=r"clinical.tsv does not exist; get slides \(open access\) from https://portal"
    ):
        TcgaSurvival(str(tcga)).read()
    (tcga / "clinical.tsv").write_text("PATIENT_ID\tOS_STATUS\nTCGA-A1-A0SB\t1:DECEASED\n")
    with pytest.raises(CohortError, match=r"no column for the time \(looked for OS.time, OS_MONTHS; it has PATIENT_ID"):
        TcgaSurvival(str(tcga)).read()
    (tcga / "clinical.tsv").write_text("PATIENT_ID\tOS_STATUS\tOS_MONTHS\nTCGA-A1-A0SB\t1:DECEASED\tlong\n")
    with pytest.raises(CohortError, match="column OS_MONTHS holds text"):
        TcgaSurvival(str(tcga)).read()
    (tcga / "clinical.tsv").write_text("PATIENT_ID\tOS_STATUS\tOS_MONTHS\nTCGA-XX-0000\t1:DECEASED\t2\n")
    with pytest.raises(CohortError, match="no patient of the 7 slides"):
        TcgaSurvival(str(tcga)).read()
    (tcga / "clinical.tsv").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(CohortError, match="cannot be read"):
        TcgaSurvival(str(tcga)).read()
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(CohortError, match=r"no slides \(.svs\) below"):
        TcgaSubtyping(str(empty)).read()
    touch(empty / "slide.svs")
    with pytest.raises(CohortError, match=r"1 slides bear no TCGA barcode \(slide.svs\)"):
        TcgaSubtyping(str(empty)).read()
    (empty / "slide.svs").unlink()
    touch(empty / f"{CASES[0]}-01A-01-TSA.x.svs")
    with pytest.raises(CohortError, match="none of 1 slides is diagnostic"):
        TcgaSubtyping(str(empty)).read()
