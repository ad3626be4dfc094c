"""Annotations of publishers: values, instances, polygons, MATLAB files, and what is refused."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from g2l.errors import CohortError
from g2l.evaluation.tables.annotations import Legend, read_mask, read_mat, read_polygons


def test_values_become_codes_in_the_order_of_classes():
    legend = Legend({"b": 7, "a": (2, 3)}, ignore=(9,))
    mask = np.array([[0, 7, 2], [3, 9, 0]], np.int32)
    assert legend.codes(mask, "m").tolist() == [[0, 1, 2], [2, 255, 0]]
    assert Legend({"a": 1}, ignore=(0,)).codes(np.array([[0, 1]]), "m").tolist() == [[255, 1]]


def test_every_instance_is_of_the_one_class(tmp_path):
    numbers = np.array([[0, 1], [300, 65535]], np.uint16)
    Image.fromarray(numbers).save(tmp_path / "m.png")
    legend = Legend({"nucleus": 1}, instances=True)
    assert legend.codes(read_mask(tmp_path / "m.png"), "m").tolist() == [[0, 1], [1, 1]]


def test_palettes_and_single_bits_give_their_numbers(tmp_path):
    image = Image.fromarray(np.array([[0, 2], [1, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    assert read_mask(tmp_path / "p.png").tolist() == [[0, 2], [1, 1]]
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "b.png")
    assert Legend({"nucleus": 1}).codes(read_mask(tmp_path / "b.png"), "m").tolist() == [[1, 0]]


def test_a_row_of_a_stack(tmp_path):
    np.save(tmp_path / "m.npy", np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
    assert read_mask(tmp_path / "m.npy", 1).tolist() == [[4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: Image.new("RGB", (4, 4)).save(path), "3 colour channels"),
        (lambda path: path.write_bytes(b"no image"), "cannot be read"),
        (lambda path: None, "cannot be read"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path, make, message):
    make(tmp_path / "m.png")
    with pytest.raises(CohortError, match=message) as caught:
        read_mask(tmp_path / "m.png")
    assert "\n" not in str(caught.value)


def test_stacks_of_objects_are_refused_and_not_unpickled(tmp_path):
    np.save(tmp_path / "m.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(CohortError, match="cannot be read"):
        read_mask(tmp_path / "m.npy", 0)


def test_unknown_values_are_named():
    with pytest.raises(CohortError, match=r"mask m\.png holds the values 4, 9, which are no class \(tumour = 1\)"):
        Legend({"tumour": 1}).codes(np.array([[0, 1, 4, 9]]), "m.png")


def test_type_map_of_matlab_files(tmp_path):
    savemat(tmp_path / "a.mat", {"type_map": np.array([[0.0, 3.0]]), "inst_map": np.array([[0.0, 1.0]])})
    assert read_mat(tmp_path / "a.mat").tolist() == [[0, 3]]
    savemat(tmp_path / "b.mat", {"inst_map": np.array([[0.0, 1.0]])})
    for name in ("b.mat", "c.mat"):
        with pytest.raises(CohortError, match="holds no type_map"):
            read_mat(tmp_path / name)


XML = """<?xml version="1.0"?><Annotations MicronsPerPixel="0.25"><Annotation Id="1"><Attributes>
<Attribute Name="{name}" Id="0" Value=""/></Attributes><Regions><RegionAttributeHeaders/>
<Region Id="1"><Attributes/><Vertices><Vertex X="2" Y="1" Z="0"/><Vertex X="6.2" Y="1" Z="0"/>
<Vertex X="6" Y="4" Z="0"/><Vertex X="2" Y="4" Z="0"/></Vertices></Region></Regions></Annotation></Annotations>"""


def test_polygons_are_filled_with_x_to_the_right(tmp_path):
    (tmp_path / "a.xml").write_text(XML.format(name="Epithelial"))
    filled = read_polygons(tmp_path / "a.xml", 8, 10, {"epithelial": 3})
    expected = np.zeros((8, 10), np.uint8)
    expected[1:5, 2:7] = 3
    assert (filled == expected).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (XML.format(name="Plasma"), "class 'Plasma'; known are epithelial"),
        ("<Annotations>", "cannot be read"),
        (XML.format(name="Epithelial").replace('X="2"', ""), "vertex without X and Y"),
    ],
)
def test_annotations_that_are_not_understood_are_refused(tmp_path, text, message):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_polygons(tmp_path / "a.xml", 8, 10, {"epithelial": 3})
