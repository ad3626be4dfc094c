"""The task: what it learns and counts, that test masks influence nothing, and what is refused before and in a run."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from evaluation.made import MadeFeatures, context
from evaluation.tasks.blind import assert_blind_to_test_labels
from PIL import Image

from g2l.errors import CohortError, ConfigError
from g2l.evaluation.measures.segmentation import measure_segmentation
from g2l.evaluation.results import Result, read_result, write_result
from g2l.evaluation.tables.table import Source, Table
from g2l.evaluation.tasks.segmentation import Segmentation
from g2l.evaluation.tasks.truth import Truth

SIDE, GRID = 32, 4
CLASSES = {"gland": 1, "nucleus": 2}


def written(folder, images: int = 30, wide: int = 0, noise: float = 0.3):
    """Images and masks as files, and tokens that tell the class of each token's square. `wide`: px that images are
    wider than high, so that an encoder sees their middle alone.
    """
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, (images, GRID, GRID))
    tokens = rng.normal(size=(images, GRID, GRID, 6)) * noise
    tokens[..., :3] += np.eye(3)[classes]
    masks = np.zeros((images, SIDE, SIDE + wide), np.uint8)
    middle = slice(wide // 2, wide // 2 + SIDE)
    masks[:, :, middle] = classes.repeat(SIDE // GRID, 1).repeat(SIDE // GRID, 2)
    masks[:, :, : wide // 2] = 2
    folder.mkdir(parents=True, exist_ok=True)
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        Image.fromarray(np.stack([80 * mask] * 3, -1)).save(folder / f"{number}.png")
    table = Table.build(
        "made",
        [folder / f"{number}.png" for number in range(images)],
        folder,
        patients=[f"p{number // 2}" for number in range(images)],
        splits=["train"] * 16 + ["val"] * 6 + ["test"] * (images - 22),
        extra={"target": np.array([f"{number}_mask.png" for number in range(images)])},
    )
    return table, tokens.astype(np.float32), masks


def task(**settings):
    return Segmentation(Source(), **{"classes": CLASSES, "epochs": 15, "lr": 2e-2, "batch_size": 4, **settings})


@pytest.mark.slow
def test_learns_and_counts_what_a_plain_count_finds(tmp_path):
    table, tokens, masks = written(tmp_path)
    made, features = task(overlays=3), MadeFeatures(tokens=tokens)
    made.check(table)
    outcomes = made.run(context(table, features))
    assert list(outcomes) == ["linear", "convolutional"]
    for outcome in outcomes.values():
        found = outcome.predictions
        assert found["id"].tolist() == sorted(table.ids[22:]) and outcome.primary == "Dice"
        assert set(found["patient"]) == {f"p{number}" for number in range(11, 15)}
        for image, name in enumerate(found["id"]):
            mask = masks[int(name.removesuffix(".png"))]
            for name, value in CLASSES.items():
                assert found[f"tp_{name}"][image] + found[f"fn_{name}"][image] == (mask == value).sum()
                assert found[f"tp_{name}"][image] + found[f"fp_{name}"][image] == found[f"px_{name}"][image]
        assert set(found["classes"]) == {len(CLASSES)}
        assert outcome.measure(found)["Dice"] > 0.7
        assert outcome.facts["Dice if all pixels were of one class"]["gland"] < 0.6
        assert len(outcome.pictures) == 3
        assert max(len(rows) for _, rows in features.asked) == 4


def test_features_without_signal_are_no_better_than_an_answer_that_knows_nothing(tmp_path):
    table, tokens, _ = written(tmp_path)
    noise = np.random.default_rng(1).normal(size=tokens.shape).astype(np.float32)
    outcome = task(decoders=["linear"]).run(context(table, MadeFeatures(tokens=noise)))["linear"]
    assert outcome.measure(outcome.predictions)["Dice"] < 0.45


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "convolutional"])
def test_masks_of_the_test_part_influence_nothing(tmp_path, name):
    table, tokens, _ = written(tmp_path)
    run = context(table, MadeFeatures(tokens=tokens))
    made = task(decoders=[name], epochs=4)
    assert_blind_to_test_labels(made, run, ("target",), ("tp_", "fp_", "fn_"))
    first = made.run(run)[name]
    for number in range(22, 30):
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / f"{number}_mask.png")
    blank = made.run(run)[name]
    assert blank.chosen == first.chosen
    assert all((blank.predictions[f"px_{name}"] == first.predictions[f"px_{name}"]).all() for name in CLASSES)
    assert blank.measure(blank.predictions)["Dice"] == 0


def test_the_seed_decides_and_nothing_else(tmp_path):
    table, tokens, _ = written(tmp_path)
    made = task(decoders=["linear"], epochs=3)
    runs = [made.run(context(table, MadeFeatures(tokens=tokens), seed=seed))["linear"] for seed in (0, 0, 1)]
    assert runs[0].chosen == runs[1].chosen and runs[0].facts == runs[1].facts
    assert runs[0].chosen["Dice on val"] != runs[2].chosen["Dice on val"]


def test_only_what_the_encoder_saw_of_a_wide_image_is_judged(tmp_path):
    table, tokens, masks = written(tmp_path, wide=9)
    truth = Truth(table, task()._legend)
    assert (truth.codes(3) == masks[3][:, 4:36]).all()
    assert truth.batch(np.array([3]), 16).tolist() == [masks[3][1::2, 5:36:2].tolist()]
    outcome = task(decoders=["linear"]).run(context(table, MadeFeatures(tokens=tokens)))["linear"]
    assert outcome.measure(outcome.predictions)["Dice"] > 0.7


def test_masks_are_resized_to_the_nearest_pixel_and_predicted_at_their_own_size(tmp_path):
    table, tokens, masks = written(tmp_path)
    large = masks[25].repeat(3, 0).repeat(3, 1)
    Image.fromarray(large).save(tmp_path / "25_mask.png")
    Image.fromarray(np.stack([large] * 3, -1)).save(tmp_path / "25.png")
    truth = Truth(table, task()._legend)
    assert (truth.batch(np.array([24, 25]), SIDE) == masks[24:26]).all()
    found = task(decoders=["linear"]).run(context(table, MadeFeatures(tokens=tokens)))["linear"].predictions
    row = found["id"].tolist().index("25.png")
    assert found["tp_gland"][row] + found["fn_gland"][row] == 9 * (masks[25] == 1).sum()


def test_ignored_pixels_are_neither_fitted_nor_judged(tmp_path):
    table, tokens, masks = written(tmp_path)
    for number in range(30):
        mask = masks[number].copy()
        mask[:, :8] = 9
        Image.fromarray(mask).save(tmp_path / f"{number}_mask.png")
    with pytest.raises(CohortError, match="values 9, which are no class"):
        task().check(table)
    made = task(decoders=["linear"], ignore=[9])
    made.check(table)
    found = made.run(context(table, MadeFeatures(tokens=tokens)))["linear"].predictions
    for row, name in enumerate(found["id"]):
        mask = masks[int(name.removesuffix(".png"))][:, 8:]
        assert found["tp_nucleus"][row] + found["fn_nucleus"][row] == (mask == 2).sum()
        assert found["tp_nucleus"][row] + found["fp_nucleus"][row] <= found["px_nucleus"][row]


def test_tiles_of_one_image_are_judged_together(tmp_path):
    table, tokens, _ = written(tmp_path)
    image = np.array([f"image {number // 2}" for number in range(30)])
    tiled = replace(table, extra={**table.extra, "image": image})
    made = task(decoders=["linear"], epochs=3)
    apart = made.run(context(table, MadeFeatures(tokens=tokens)))["linear"].predictions
    whole = made.run(context(tiled, MadeFeatures(tokens=tokens)))["linear"].predictions
    assert whole["id"].tolist() == [f"image {number}" for number in range(11, 15)]
    assert whole["tp_gland"].sum() + whole["fn_gland"].sum() == apart["tp_gland"].sum() + apart["fn_gland"].sum()


def test_an_outcome_is_written_and_read_again(tmp_path):
    table, tokens, _ = written(tmp_path / "data")
    outcome = task(decoders=["linear"], epochs=2).run(context(table, MadeFeatures(tokens=tokens)))["linear"]
    values = outcome.measure(outcome.predictions)
    write_result(Result("t", "segmentation", "linear", "made", outcome, values, {}, tmp_path / "out"))
    back = read_result(tmp_path / "out").outcome
    assert back.measure is measure_segmentation and back.measure(back.predictions) == values
    assert back.chosen == outcome.chosen and back.pictures.keys() == outcome.pictures.keys()


def test_mistakes_in_masks_are_named_before_anything_is_embedded(tmp_path):
    table, _, masks = written(tmp_path)
    made = task()
    Image.fromarray(masks[0][:-1]).save(tmp_path / "0_mask.png")
    Image.fromarray(masks[1] + 5).save(tmp_path / "1_mask.png")
    (tmp_path / "2_mask.png").unlink()
    with pytest.raises(CohortError) as caught:
        made.check(table)
    text = str(caught.value)
    assert "0_mask.png has 32 x 31 px, its image 0.png 32 x 32" in text
    assert "1_mask.png holds the values 5, 6, 7, which are no class (gland = 1, nucleus = 2)" in text
    assert "2_mask.png cannot be read" in text and "\n" not in text


def test_images_without_a_mask_are_named(tmp_path):
    table, _, _ = written(tmp_path)
    target = table.extra["target"].copy()
    target[3] = ""
    with pytest.raises(CohortError, match=r"1 of 30 images have no mask \(3\.png\)"):
        task().check(replace(table, extra={"target": target}))
    with pytest.raises(CohortError, match="no column target"):
        task().check(replace(table, extra={}))


@pytest.mark.parametrize(("part", "rows"), [("train", range(16)), ("val", range(16, 22))])
def test_a_part_without_any_class_is_refused(tmp_path, part, rows):
    table, tokens, _ = written(tmp_path)
    for number in rows:
        Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(tmp_path / f"{number}_mask.png")
    with pytest.raises(CohortError, match=f"masks of {part} have no pixel of gland, nucleus"):
        task().run(context(table, MadeFeatures(tokens=tokens)))


def test_a_class_that_train_lacks_is_said(tmp_path):
    table, tokens, masks = written(tmp_path)
    for number in range(16):
        Image.fromarray(np.where(masks[number] == 2, 0, masks[number])).save(tmp_path / f"{number}_mask.png")
    outcome = task(decoders=["linear"], epochs=2).run(context(table, MadeFeatures(tokens=tokens)))["linear"]
    assert any("train has no pixel of nucleus" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": None}, "nothing names them"),
        ({"target": "instances"}, "have one class, not gland, nucleus"),
        ({"epochs": 0, "patience": 0}, "epochs is 0, give 1 or more; patience is 0"),
        ({"decoders": []}, "decoders is empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        task(**settings)


@pytest.mark.slow
@pytest.mark.real_data
def test_nuclei_of_the_data_science_bowl_with_the_demo_teacher(real_data, tmp_path):
    """The whole way: tiles, tokens on disk, both decoders. A trained encoder must beat random weights."""
    from g2l.encoders.encoder import create_encoder
    from g2l.evaluation.embedding.embed import embed_table
    from g2l.evaluation.embedding.settings import Embedding
    from g2l.evaluation.tables.segmentation import MaskFolder
    from g2l.evaluation.tables.splits import make_split

    data = MaskFolder(str(real_data / "nuclei"), tile=128, seams=True, name="nuclei", cache=str(tmp_path / "tiles"))
    table = data.read()
    split, dice, knows_nothing = make_split(table), {}, 1.0
    runs: list[tuple[Literal["weights", "random"], list[Literal["linear", "convolutional"]]]] = [
        ("weights", ["linear", "convolutional"]),
        ("random", ["linear"]),
    ]
    for init, decoders in runs:
        made = Segmentation(data, decoders, epochs=6)
        made.check(table)
        torch.manual_seed(0)
        encoder = create_encoder("demo-giga", init=init)
        features = embed_table(encoder, table, np.arange(len(table)), "tokens", tmp_path / init, Embedding())
        outcomes = made.run(context(table, features, split=split))
        dice |= {(init, name): outcome.measure(outcome.predictions)["Dice"] for name, outcome in outcomes.items()}
        knows_nothing = outcomes["linear"].facts["Dice if all pixels were of one class"]["nucleus"]
    assert dice["weights", "convolutional"] > dice["weights", "linear"] > dice["random", "linear"] > knows_nothing
    assert dice["weights", "linear"] > 0.6 and dice["weights", "convolutional"] > 0.7
