"""Similarity, components and heads against plain numpy and scikit-learn; in memory bounded by a part of the file."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from g2l.deploy.heatmap import features as module
from g2l.deploy.heatmap.features import Features
from g2l.deploy.heatmap.head import load_head, save_head
from g2l.deploy.heatmap.scores import principal, probabilities, similarity
from g2l.errors import ConfigError

WriteFeatures = Callable[..., Path]
COUNT, WIDTH = 500, 24


@pytest.fixture(params=[1 << 25, 4000])
def embedded(
    request: pytest.FixtureRequest, tmp_path: Path, write_h5: WriteFeatures, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, np.ndarray]:
    """A file read in one go and in 25 parts."""
    monkeypatch.setattr(module, "CHUNK_BYTES", request.param)
    random = np.random.default_rng(0)
    rows = (random.normal(size=(COUNT, WIDTH)) @ random.normal(size=(WIDTH, WIDTH)) + 3).astype(np.float32)
    return write_h5(tmp_path / "a.h5", rows, np.zeros((COUNT, 2))), rows


def test_similarity_is_the_mean_cosine(embedded: tuple[Path, np.ndarray]) -> None:
    path, rows = embedded
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    chosen = np.array([3, 77, 412])
    with Features(path) as features:
        found = similarity(features, chosen)
        alone = similarity(features, chosen[:1])
    np.testing.assert_allclose(found[:, 0], (units @ units[chosen].T).mean(axis=1), atol=1e-6)
    assert alone[3, 0] == pytest.approx(1.0) and np.abs(found).max() <= 1


def test_components_are_scikit_learns(embedded: tuple[Path, np.ndarray]) -> None:
    path, rows = embedded
    reference = PCA(3, svd_solver="full").fit(rows.astype(np.float64))
    axes = np.asarray(reference.components_)
    axes *= np.sign(axes[np.arange(3), np.abs(axes).argmax(axis=1)])[:, None]
    with Features(path) as features:
        found = principal(features)
    np.testing.assert_allclose(found.values, (rows - reference.mean_) @ axes.T, atol=1e-4)
    np.testing.assert_allclose(found.share, reference.explained_variance_ratio_, rtol=1e-6)


def test_fewer_components_than_three(tmp_path: Path, write_h5: WriteFeatures) -> None:
    line = np.outer(np.arange(9.0), [1, 2, 3, 4]).astype(np.float32)
    with Features(write_h5(tmp_path / "line.h5", line, np.zeros((9, 2)))) as features:
        found = principal(features)
    assert found.share == pytest.approx([1, 0, 0], abs=1e-9) and not found.values[:, 1:].any()
    same = np.full((9, 4), 0.1, np.float32)
    with Features(write_h5(tmp_path / "same.h5", same, np.zeros((9, 2)))) as features:
        found = principal(features)
    assert not found.share.any() and not found.values.any()


def test_rows_that_are_not_finite_or_zero_take_no_part(tmp_path: Path, write_h5: WriteFeatures) -> None:
    rows = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    spoilt = rows.copy()
    spoilt[4, 2], spoilt[9, 0], spoilt[11] = np.nan, np.inf, 0.0
    kept = np.delete(np.arange(30), [4, 9])
    with Features(write_h5(tmp_path / "s.h5", spoilt, np.zeros((30, 2)))) as features:
        found, alike = principal(features), similarity(features, np.array([0, 4, 11, 12]))
    plain = spoilt[kept]
    with Features(write_h5(tmp_path / "p.h5", plain, np.zeros((28, 2)))) as features:
        np.testing.assert_allclose(found.values[kept], principal(features).values, atol=1e-6)
    assert np.isnan(found.values[[4, 9]]).all() and np.isfinite(found.values[11]).all()
    assert np.isnan(alike[[4, 9, 11]]).all() and np.isfinite(np.delete(alike, [4, 9, 11])).all()
    with Features(tmp_path / "s.h5") as features, pytest.raises(ConfigError, match="no chosen patch has an embedding"):
        similarity(features, np.array([4, 11]))


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_of_scikit_learn_as_a_head(embedded: tuple[Path, np.ndarray], tmp_path: Path, classes: int) -> None:
    path, rows = embedded
    labels = np.array(["fat", "stroma", "tumour", "necrosis"])[np.digitize(rows[:, 0], [1, 3, 5]) % classes]
    scaler = StandardScaler().fit(rows)
    probe = LogisticRegression(max_iter=1000).fit(scaler.transform(rows), labels)
    save_head(tmp_path / "head.h5", probe.coef_, probe.intercept_, probe.classes_, scaler.mean_, scaler.scale_, "abc")
    head = load_head(tmp_path / "head.h5")
    assert head.classes == tuple(probe.classes_) and head.encoder == "abc"
    with Features(path) as features:
        found = probabilities(features, head, classes)
    np.testing.assert_allclose(found, probe.predict_proba(scaler.transform(rows)), atol=1e-5)


@pytest.mark.parametrize(
    ("weight", "bias", "names", "more"),
    [
        (np.zeros((3, 4)), [0, 0], "abc", {}),
        (np.zeros((3, 4)), [0, 0, 0], "ab", {}),
        (np.zeros((2, 4)), [0, 0], "aa", {}),
        (np.zeros((1, 4)), [0], "a", {}),
        (np.zeros((2, 4)), [0, 0], "ab", {"mean": np.zeros(3)}),
        (np.zeros((2, 4)), [0, np.nan], "ab", {}),
        (np.zeros((2, 4)), [0, 0], "ab", {"std": np.array([1, 0, 1, 1.0])}),
    ],
)
def test_what_is_no_head_is_not_written(
    tmp_path: Path, weight: np.ndarray, bias: list[float], names: str, more: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="head"):
        save_head(tmp_path / "head.h5", weight, bias, list(names), **more)
    assert not list(tmp_path.iterdir())


def test_what_is_no_head_is_not_read(tmp_path: Path, write_h5: WriteFeatures) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    write_h5(tmp_path / "features.h5", np.zeros((2, 3)), np.zeros((2, 2)))
    for name in ("text.h5", "features.h5"):
        with pytest.raises(ConfigError, match=r"is none \(.*save_head") as raised:
            load_head(tmp_path / name)
        assert "\n" not in str(raised.value)


class TestFiles:
    def test_layouts_of_others(self, tmp_path: Path, write_h5: WriteFeatures) -> None:
        """TRIDENT: attributes on coords. Older files: one dimension more. CLAM: none, the user says the size."""
        rows, coords = np.ones((6, 4), np.float32), np.arange(12).reshape(6, 2) * 100
        about = {"patch_size": 256, "patch_size_level0": 512, "level0_width": 9000, "level0_height": 8000, "overlap": 0}
        with Features(write_h5(tmp_path / "trident.h5", rows, coords, about, on_coords=True)) as features:
            assert features.extent((0.25, 0.25), None).tolist() == [512, 512]
            assert features.about.dimensions == (9000, 8000) and len(features) == 6 and features.width == 4
            features.check("it", (9000, 8000), 0.25, np.full(2, 512.0))
            with pytest.raises(ConfigError, match="of a slide of 9000 x 8000 px, and it has 8000 x 9000"):
                features.check("it", (8000, 9000), 0.25, np.full(2, 512.0))
        with Features(write_h5(tmp_path / "older.h5", rows[None], coords)) as features:
            assert len(features) == 6 and [part.shape for _, part in features.chunks()] == [(6, 4)]
            assert features.extent((0.25, 0.25), 300).tolist() == [300, 300]
            with pytest.raises(ConfigError, match="give --patch_size in px of level 0"):
                features.extent((0.25, 0.25), None)

    def test_a_patch_of_ours_is_as_large_as_it_was_read(self, tmp_path: Path, write_h5: WriteFeatures) -> None:
        path = write_h5(
            tmp_path / "a.h5", np.ones((1, 4)), np.zeros((1, 2)), {"size_um": 112.0, "patch_size_level0": 163}
        )
        with Features(path) as features:
            np.testing.assert_allclose(features.extent((0.6863, 0.5), None), [112 / 0.6863, 224])

    @pytest.mark.parametrize(
        ("features", "coords"),
        [
            (np.ones(768), np.zeros((1, 2))),  # of a whole slide
            (np.ones((3, 4)), np.zeros((2, 2))),
            (np.ones((3, 4)), np.zeros((3, 4))),
            (np.ones((0, 4)), np.zeros((0, 2))),
        ],
    )
    def test_arrays_that_do_not_fit(
        self, tmp_path: Path, write_h5: WriteFeatures, features: np.ndarray, coords: np.ndarray
    ) -> None:
        with pytest.raises(ConfigError, match="give a file of patches"):
            Features(write_h5(tmp_path / "a.h5", features, coords))

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="do not exist"):
            Features(tmp_path / "a.h5")
        (tmp_path / "a.h5").write_text("text")
        with pytest.raises(ConfigError, match="no readable HDF5"):
            Features(tmp_path / "a.h5")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["features"] = np.ones((3, 4))
        with pytest.raises(ConfigError, match="hold no dataset coords"):
            Features(tmp_path / "b.h5")

    def test_a_damaged_file(self, tmp_path: Path) -> None:
        """The checksum of a part is found out when it is read, in one line."""
        rows = np.random.default_rng(0).normal(size=(400, 64)).astype(np.float32)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("features", data=rows, chunks=(100, 64), fletcher32=True)
            file["coords"] = np.zeros((400, 2))
        data = bytearray((tmp_path / "a.h5").read_bytes())
        at = data.find(rows[150].tobytes())
        assert at > 0
        data[at] ^= 1
        (tmp_path / "a.h5").write_bytes(data)
        with Features(tmp_path / "a.h5") as features, pytest.raises(ConfigError, match="are damaged") as raised:
            principal(features)
        assert "\n" not in str(raised.value)


def test_memory_does_not_grow_with_the_slide(
    tmp_path: Path, write_h5: WriteFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30,000 patches of 256 numbers are 61 MB as read; 2 MB of them are held at a time."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 1 << 21)
    rows = np.random.default_rng(0).normal(size=(30_000, 256)).astype(np.float32)
    path = write_h5(tmp_path / "a.h5", rows, np.zeros((30_000, 2)))
    del rows
    tracemalloc.start()
    try:
        with Features(path) as features:
            similarity(features, np.array([0, 29_999]))
            principal(features)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 2e6 < peak < 20e6
