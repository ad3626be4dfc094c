"""The table at the end of a run."""

import numpy as np
import pytest

from g2l.data.labelled import LabelledPatches
from g2l.errors import ConfigError
from g2l.evaluation.score import COLUMNS, embed, score, table


def labelled(seed: int, patients: str, count: int = 120) -> LabelledPatches:
    rng = np.random.default_rng(seed)
    owner = rng.choice(list(patients), count)
    return LabelledPatches(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        labels=rng.choice(["fat", "gland", "stroma"], count),
        patients=owner,
        centres=np.where(np.isin(owner, list("acegik")), "north", "south"),
        slides=owner,
    )


def features(patches: LabelledPatches, noise: float) -> np.ndarray:
    axes = {"fat": (1, 0, 0), "gland": (0, 1, 0), "stroma": (0, 0, 1)}
    rng = np.random.default_rng(9)
    return np.array([axes[label] for label in patches.labels]) + noise * rng.normal(size=(len(patches.labels), 3))


def test_separable_embeddings_score_one_and_noise_scores_chance() -> None:
    train, test = labelled(0, "abcdef"), labelled(1, "ghijkl")
    good = score(features(train, 0.02), features(test, 0.02), features(test, 0.02), train, test, k=5)
    assert good["knn"] == good["linear"] == 1
    assert good["cka"] == pytest.approx(1)
    assert good["robustness_index"] == 1
    noise = np.random.default_rng(3).normal(size=(2, 120, 3))
    bad = score(noise[0], noise[1], features(test, 0.02), train, test, k=5)
    assert bad["knn"] is not None and bad["knn"] < 0.5
    assert bad["cka"] is not None and bad["cka"] < 0.2


def test_a_collapsed_embedding_is_undefined_not_zero() -> None:
    train, test = labelled(0, "abcdef"), labelled(1, "ghijkl")
    row = score(np.ones((120, 3)), np.ones((120, 3)), features(test, 0.1), train, test, k=5)
    assert row["cka"] is None
    assert "undefined" in table({"student": row | {"parameters": 7}})


def test_shared_patients_are_refused() -> None:
    train, test = labelled(0, "abc"), labelled(1, "cde")
    with pytest.raises(ConfigError, match="patients c "):
        score(features(train, 0.1), features(test, 0.1), features(test, 0.1), train, test)


def test_table_has_every_column() -> None:
    lines = table({"teacher": dict.fromkeys(COLUMNS, 0.5) | {"parameters": 3_274_752}}).splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["teacher", "0.500", "0.500", "0.500", "0.500", "0.500", "3.27", "M"]


def test_embed_crops_the_centre_and_keeps_the_mode() -> None:
    import torch

    from g2l.encoders.encoder import create_encoder

    torch.manual_seed(0)
    encoder = create_encoder("demo-student", init="random").train()
    images = np.random.default_rng(0).integers(0, 255, (3, 140, 140, 3), np.uint8)
    rows = embed(encoder, images, torch.device("cpu"), batch_size=2)
    assert encoder.training
    centre = torch.from_numpy(images[:, 6:134, 6:134]).permute(0, 3, 1, 2) / 255
    assert np.allclose(rows, encoder.eval()(centre).cls.detach().numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match="100 px"):
        embed(encoder, images[:, :100, :100], torch.device("cpu"))
