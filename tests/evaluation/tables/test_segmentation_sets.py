"""Published data sets of masks: read in their layout, and missing in one line that says where to get them."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.embedding.images import read_image
from g2l.evaluation.tables.segmentation_sets import CoNSeP, MoNuSAC, PanNuke, Tiger
from g2l.evaluation.tables.splits import make_split
from g2l.evaluation.tasks.segmentation import Segmentation
from g2l.evaluation.tasks.truth import Truth

RNG = np.random.default_rng(0)


def pixels(height: int, width: int):
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def pannuke(root, counts=(3, 2, 4)):
    masks = []
    for number, count in enumerate(counts, start=1):
        images, marked = root / f"Fold {number}/images/fold{number}", root / f"Fold {number}/masks/fold{number}"
        images.mkdir(parents=True)
        marked.mkdir(parents=True)
        np.save(images / "images.npy", RNG.integers(0, 256, (count, 256, 256, 3)).astype(np.float64))
        np.save(images / "types.npy", np.array(["Breast", "Colon", "Bile-duct", "Lung"][:count]))
        six = np.zeros((count, 256, 256, 6))
        six[:, 10:20, 10:20, 0], six[:, 15:30, 15:30, 3], six[:, 200:, :, 4] = 5, 6, 7
        six[..., 5] = six[..., :5].max(-1) == 0
        np.save(marked / "masks.npy", six)
        masks.append(six)
    return masks


def test_pannuke_folds_and_classes(tmp_path):
    masks = pannuke(tmp_path / "data")
    table = PanNuke(str(tmp_path / "data"), train=2, val=3, test=1, cache=str(tmp_path / "cache")).read()
    assert table.splits.tolist() == ["test"] * 3 + ["train"] * 2 + ["val"] * 4
    assert table.ids[4] == "Fold 2/images/fold2/images.npy#1" and table.labels[:3].tolist() == [
        "Breast",
        "Colon",
        "Bile-duct",
    ]
    row = 4
    codes = np.load(table.extra["target"][row])[table.extra["target_row"][row]]
    six = masks[1][1]
    assert ((codes == 0) == (six[..., 5] == 1)).all()
    assert (codes[10:20, 10:20] == 1).all() and codes[25, 25] == 4 and (codes[200:] == 5).all()
    stack = np.load(tmp_path / "data/Fold 2/images/fold2/images.npy")
    assert (read_image(table.paths[row], int(table.rows[row])) == stack[1]).all()
    split = make_split(table)
    assert len(split.test) == 3 and any("names no patients" in note for note in split.notes)
    task = Segmentation(PanNuke(str(tmp_path)))
    task.check(table)
    truth = Truth(table, task._legend)
    assert truth.names == ["neoplastic", "inflammatory", "connective", "dead", "epithelial"]
    assert (truth.codes(row) == codes).all()


def test_pannuke_that_is_incomplete_or_torn_is_refused(tmp_path):
    pannuke(tmp_path)
    np.save(tmp_path / "Fold 2/masks/fold2/masks.npy", np.zeros((1, 256, 256, 6)))
    with pytest.raises(CohortError, match=r"Fold 2 has images \(2, 256.*not of one fold"):
        PanNuke(str(tmp_path), cache=str(tmp_path / "cache")).read()
    np.save(tmp_path / "Fold 1/images/fold1/types.npy", np.array(["a", "b", "c"], dtype=object))
    with pytest.raises(CohortError, match="Fold 1 cannot be read"):
        PanNuke(str(tmp_path), cache=str(tmp_path / "cache")).read()
    (tmp_path / "Fold 3/masks/fold3/masks.npy").unlink()
    with pytest.raises(CohortError, match=r"lacks .*Fold 3/masks/fold3/masks\.npy; get it from .*warwick.*BY-NC-SA"):
        PanNuke(str(tmp_path), cache=str(tmp_path / "cache")).read()
    with pytest.raises(ConfigError, match="in any order"):
        PanNuke(str(tmp_path), train=1, val=1, test=3)


def consep(root):
    for part in ("Train", "Test"):
        for folder in ("Images", "Labels", "Overlay"):
            (root / part / folder).mkdir(parents=True)
        for number in (1, 2, 3):
            name = f"{part.lower()}_{number}"
            Image.fromarray(pixels(100, 100)).convert("RGBA").save(root / part / "Images" / f"{name}.png")
            types = np.arange(8.0).repeat(13)[:100][None].repeat(100, 0)
            savemat(root / part / "Labels" / f"{name}.mat", {"type_map": types, "inst_map": types > 0})


def test_consep_merges_classes_as_the_paper_does(tmp_path):
    consep(tmp_path / "data")
    table = CoNSeP(str(tmp_path / "data"), tile=50, cache=str(tmp_path / "cache")).read()
    assert len(table) == 6 * 4 and table.mpp == 0.25
    assert set(table.splits[table.extra["image"] == "Test/Images/test_2.png"]) == {"test"}
    codes = np.load(table.extra["target"][0])
    line = np.concatenate([codes[0, 0], codes[1, 0]])
    assert line[::13].tolist() == [0, 1, 2, 3, 3, 4, 4, 4]
    task = Segmentation(CoNSeP("x"))
    assert task._legend.classes == {"miscellaneous": 1, "inflammatory": 2, "epithelial": 3, "spindle-shaped": 4}
    split = make_split(table)
    whole = [set(table.slides[rows]) for rows in (split.train, split.val, split.test)]
    assert all(whole) and not whole[0] & whole[1]


def test_monusac_patients_classes_and_ambiguous_nuclei(tmp_path):
    region = "<Region><Attributes/><Vertices>{}</Vertices></Region>"
    square = region.format("".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in ((5, 2), (14, 2), (14, 9), (5, 9))))
    annotation = '<Annotation><Attributes><Attribute Name="{}"/></Attributes><Regions>{}</Regions></Annotation>'
    for folder, slide, name in (
        ("MoNuSAC_images_and_annotations", "TCGA-5P-A9K0-01Z-00-DX1", "Macrophage"),
        ("MoNuSAC_images_and_annotations", "TCGA-69-7760-01Z-00-DX1", "Epithelial"),
        ("MoNuSAC Testing Data and Annotations", "TCGA-2Z-A9JG-01Z-00-DX1", "Ambiguous"),
    ):
        place = tmp_path / "data" / folder / slide
        place.mkdir(parents=True)
        Image.fromarray(pixels(33, 47)).save(place / f"{slide}_1.tif")
        (place / f"{slide}_1.svs").write_bytes(b"")
        (place / f"{slide}_1.xml").write_text(f"<Annotations>{annotation.format(name, square)}</Annotations>")
    table = MoNuSAC(str(tmp_path / "data"), tile=64, cache=str(tmp_path / "cache")).read()
    assert table.patients.tolist() == ["TCGA-5P-A9K0", "TCGA-69-7760", "TCGA-2Z-A9JG"]
    assert table.splits.tolist() == ["train", "train", "test"] and table.centres.tolist() == ["5P", "69", "2Z"]
    codes = np.load(table.extra["target"][0])
    for row, code in enumerate((3, 1, 255)):
        expected = np.zeros((33, 47), np.uint8)
        expected[2:10, 5:15] = code
        assert (codes[row, :33, :47] == expected).all()


def test_tiger_patients_and_what_nobody_annotated(tmp_path):
    folder = tmp_path / "data/wsirois/roi-level-annotations/tissue-bcss"
    names = [f"TCGA-A{n}-A0SK-01Z-00-DX1.A44D70FA_[{n}, 12530, 24892, 13993].png" for n in (1, 2, 3)]
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for name in names:
        Image.fromarray(pixels(64, 64)).save(folder / "images" / name)
        Image.fromarray(np.arange(8, dtype=np.uint8).repeat(8)[None].repeat(64, 0)).save(folder / "masks" / name)
    table = Tiger(str(tmp_path / "data"), tile=64, cache=str(tmp_path / "cache")).read()
    assert table.patients.tolist() == ["TCGA-A1-A0SK", "TCGA-A2-A0SK", "TCGA-A3-A0SK"] and set(table.splits) == {""}
    assert table.slides[0] == "TCGA-A1-A0SK-01Z-00-DX1.A44D70FA" and table.centres[0] == "A1"
    assert np.load(table.extra["target"][0])[0, 0, ::8].tolist() == [255, 1, 2, 3, 4, 5, 6, 7]
    (folder / "images" / names[0]).rename(folder / "images" / "100B_[1, 2, 3, 4].png")
    (folder / "masks" / names[0]).rename(folder / "masks" / "100B_[1, 2, 3, 4].png")
    with pytest.raises(CohortError, match="does not begin with a TCGA barcode"):
        Tiger(str(tmp_path / "data"), cache=str(tmp_path / "cache")).read()


@pytest.mark.parametrize(
    ("source", "folder", "place"),
    [
        (CoNSeP, "Train/Images", "hovernet.*Apache"),
        (MoNuSAC, "MoNuSAC_images_and_annotations", "monusac-2020.*BY-NC-SA"),
        (Tiger, "wsirois/roi-level-annotations/tissue-bcss/images", "tiger.*BY-NC 4"),
        (PanNuke, "Fold 1/images/fold1/images.npy", "warwick.*BY-NC-SA"),
    ],
)
def test_missing_data_is_said_with_folder_place_and_licence(tmp_path, source, folder, place):
    with pytest.raises(CohortError, match=f"lacks .*{folder}.*; get it from .*{place}") as caught:
        source(str(tmp_path), cache=str(tmp_path / "cache")).read()
    assert "\n" not in str(caught.value) and not (tmp_path / "cache").exists()


def test_an_image_without_its_annotation_is_named(tmp_path):
    consep(tmp_path)
    (tmp_path / "Train/Labels/train_2.mat").unlink()
    with pytest.raises(CohortError, match=r"1 of 6 images have no annotation, such as .*train_2\.mat"):
        CoNSeP(str(tmp_path), cache=str(tmp_path / "cache")).read()
