"""Whose word on micrometres per pixel is taken."""

import pytest

from g2l.errors import SlideError
from g2l.slides.resolution import resolve, stated


def test_the_readers_value_comes_first() -> None:
    properties = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26", "tiff.XResolution": "20000",
                  "tiff.ResolutionUnit": "centimeter"}  # fmt: skip
    assert stated(properties) == (0.25, 0.26)
    assert stated({"openslide.mpp-x": "0.25"}) == (0.25, 0.25)


@pytest.mark.parametrize(("unit", "value"), [("centimeter", "20000"), ("inch", "50800")])
def test_tiff_tags_are_believed_when_plausible(unit: str, value: str) -> None:
    assert stated({"tiff.XResolution": value, "tiff.ResolutionUnit": unit}) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"},
        {"tiff.XResolution": "96", "tiff.YResolution": "96", "tiff.ResolutionUnit": "inch"},
        {"tiff.XResolution": "20000", "tiff.ResolutionUnit": "none"},
        {"tiff.XResolution": "20000"},
        {"openslide.mpp-x": "nan"},
        {"openslide.mpp-x": "0"},
        {"openslide.mpp-x": "unknown"},
    ],
)
def test_print_defaults_and_nonsense_are_no_resolution(properties: dict[str, str]) -> None:
    assert stated(properties) is None
    with pytest.raises(SlideError, match="states no resolution"):
        resolve("a.svs", properties, None)
    assert resolve("a.svs", properties, 0.5) == (0.5, 0.5, "given")


def test_one_implausible_axis_is_enough_to_refuse() -> None:
    with pytest.raises(SlideError, match=r"outside 0\.1-4"):
        resolve("a.svs", {"openslide.mpp-x": "0.5", "openslide.mpp-y": "500"}, None)
