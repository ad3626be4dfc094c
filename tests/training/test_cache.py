"""Teacher embeddings kept on disk: what may be kept, what is refused, and that training is the same with them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from safetensors import safe_open
from small import SIZE, Networks
from torch import Tensor

from g2l.data.module import SlideDataModule
from g2l.data.views import Views
from g2l.errors import ConfigError, TrainingError
from g2l.training.cache import writing
from g2l.training.cache.plan import make_plan
from g2l.training.cache.reading import TeacherCache
from g2l.training.cache.table import Column, Table
from g2l.training.cache.writing import write_cache
from g2l.training.distiller import Distiller
from g2l.training.losses import Cosine, LogSum
from g2l.training.terms import STUDENT

FIXED: dict[str, Any] = {"flip": 0.0, "quarter_turns": False}
REPEAT = 11


@dataclass(frozen=True)
class Setup:
    """Networks, and a folder of patches already cut."""

    networks: Networks
    patches: Path

    def model(self, cache: Path | None = None, views: dict[str, Any] = FIXED, **term: Any) -> Distiller:
        torch.manual_seed(0)
        terms: dict[str, Any] = {"logsum": LogSum(self.networks.teacher, **{"patch": 0.5, "view": "clean"} | term)}
        return Distiller(
            self.networks.student,
            terms,
            weights=self.networks.weights,
            views=Views(size=SIZE, **views),
            lr=1e-3,
            observe_patches=8,
            cache=str(cache) if cache else None,
        )

    def data(self, **settings: Any) -> SlideDataModule:
        own = {"batch_size": 4, "patch_size": SIZE, "repeat": REPEAT, "val_patches": 4, "hold_out": "slide"}
        return SlideDataModule(str(self.patches), **own | settings)

    def cache(self, out: Path, dtype: Literal["float16", "float32"] = "float32", **term: Any) -> Path:
        write_cache(trainer(out), self.model(**term), self.data(), out, dtype)
        return out


def trainer(folder: Path, **arguments: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_steps=7,
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **arguments,
    )


@pytest.fixture(scope="module")
def setup(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    for slide in range(4):
        (folder / f"s{slide}").mkdir()
        for k in range(4):
            coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3)).astype(np.uint8))
            coarse.resize((SIZE + 4, SIZE + 4), Image.Resampling.BICUBIC).save(folder / f"s{slide}" / f"{k}.png")
    return Setup(networks, folder)


@pytest.fixture(scope="module")
def exact(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in float32."""
    return setup.cache(tmp_path_factory.mktemp("exact"))


def trained(setup: Setup, folder: Path, cache: Path | None = None, precision: Any = "32-true") -> tuple[Distiller, int]:
    """A model after seven steps, and how often the teacher ran in training."""
    model, calls = setup.model(cache), []
    (teacher,) = model.frozen.values()
    teacher.register_forward_hook(lambda *_: calls.append(model.training))
    trainer(folder, precision=precision).fit(model, setup.data())
    return model, sum(calls)


def test_training_with_the_cache_is_training_without(setup: Setup, exact: Path, tmp_path: Path) -> None:
    live, runs = trained(setup, tmp_path)
    cached, none = trained(setup, tmp_path, exact)
    assert runs >= 7 and none == 0
    for key, value in live.state_dict().items():
        assert torch.equal(value, cached.state_dict()[key]), key


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_in_bfloat16_too(setup: Setup, tmp_path: Path, dtype: Literal["float16", "float32"]) -> None:
    """What bfloat16 can tell, float16 can tell as well, outside of its extremes."""
    write_cache(trainer(tmp_path, precision="bf16-mixed"), setup.model(), setup.data(), tmp_path, dtype)
    live, _ = trained(setup, tmp_path, precision="bf16-mixed")
    cached, none = trained(setup, tmp_path, tmp_path, precision="bf16-mixed")
    assert none == 0
    for key, value in live.state_dict().items():
        assert torch.equal(value, cached.state_dict()[key]), key


def test_losses_with_the_cache_are_those_without(setup: Setup, exact: Path, tmp_path: Path) -> None:
    losses: dict[str, list[Tensor]] = {}
    for name, folder in {"live": None, "exact": exact, "half": setup.cache(tmp_path, "float16")}.items():
        model, data = setup.model(folder), setup.data()
        data.setup()
        model.trainer = trainer(tmp_path)
        model.cache = TeacherCache(folder, make_plan(model, data)) if folder else None
        for batch in data.each_once(0):
            model.terms["logsum"].observe(model.run(batch, model.needs))  # type: ignore[operator]
        losses[name] = [model.forward_terms(batch)[0]["logsum"] for batch in data.each_once(0)]  # type: ignore[arg-type]
    for live, same, near in zip(*losses.values(), strict=True):
        assert torch.equal(live, same)
        assert near.item() == pytest.approx(live.item(), abs=1e-3)


def test_files_are_safetensors_that_the_library_reads(setup: Setup, exact: Path) -> None:
    model, data = setup.model(), setup.data()
    data.setup()
    (batch,) = [next(iter(data.each_once(0)))]
    with safe_open(exact / "teacher.safetensors", "pt") as file:
        assert set(file.keys()) == {"attempt", "cls", "patches"}
        cls, patches, attempt = (file.get_tensor(name) for name in ("cls", "patches", "attempt"))
        about = file.metadata()
    assert cls.shape == (REPEAT, 24) and patches.shape == (REPEAT, 16, 24) and not attempt.any()
    tokens = model.frozen[setup.networks.teacher](batch["images"].permute(0, 3, 1, 2).float() / 255)
    torch.testing.assert_close(cls[:4], tokens.cls)
    torch.testing.assert_close(patches[:4], tokens.patches)
    assert json.loads(about["identity"])["data.repeat"] == REPEAT
    assert not list(exact.glob("*.part"))


def test_patch_tokens_are_kept_only_where_a_term_reads_them(setup: Setup, tmp_path: Path) -> None:
    out = setup.cache(tmp_path, patch=0.0)
    assert set(Table(out / "teacher.safetensors").columns) == {"attempt", "cls"}
    with pytest.raises(ConfigError, match="holds no patch tokens, but a term reads them"):
        trainer(tmp_path).fit(setup.model(out), setup.data())


def test_every_setting_to_change_is_named_in_one_line(setup: Setup, tmp_path: Path) -> None:
    model = setup.model(views={"blur": 0.2})
    with pytest.raises(ConfigError) as caught:
        write_cache(trainer(tmp_path), model, setup.data(patch_size=34, repeat=0), tmp_path / "out", "float16")
    message = str(caught.value)
    assert "\n" not in message and "blur" not in message, "a clean view is not blurred"
    for part in ("model.views.flip=0 (is 0.5)", "quarter_turns=false (is true)", "data.patch_size=32 (is 34)"):
        assert part in message
    assert "data.repeat to the number of patches (is 0" in message
    augmented = setup.model(view="student")
    with pytest.raises(ConfigError, match=r"stain=0 \(is 0.5\), .*jitter=0.*blur=0.*view: clean in the terms"):
        write_cache(trainer(tmp_path), augmented, setup.data(), tmp_path / "out", "float16")
    assert not (tmp_path / "out").exists()


def test_the_students_view_can_be_kept_when_nothing_changes_it(setup: Setup, exact: Path, tmp_path: Path) -> None:
    plain = FIXED | {"stain": 0.0, "jitter": 0.0, "blur": 0.0}
    write_cache(trainer(tmp_path), setup.model(views=plain, view="student"), setup.data(), tmp_path, "float32")
    mine, other = (Table(folder / "teacher.safetensors").columns for folder in (tmp_path, exact))
    assert np.array_equal(mine["patches"], other["patches"])


def test_augmentation_that_no_setting_names_is_noticed(setup: Setup, tmp_path: Path) -> None:
    class Shifted(Views):
        """Under another class's name: what a future setting may do."""

        def __call__(self, images: Tensor, index: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
            return {
                name: view + index[0] % 2 for name, view in super().__call__(images, index, *args, **kwargs).items()
            }

    Shifted.__name__ = "Views"
    model = setup.model()
    model.views = Shifted(size=SIZE, **FIXED)
    with pytest.raises(ConfigError, match="other pixels of a patch the next time"):
        write_cache(trainer(tmp_path), model, setup.data(), tmp_path, "float16")


@pytest.mark.parametrize(
    ("settings", "views", "message"),
    [
        ({"seed": 1}, {}, "data.seed 0 -> 1"),
        ({"repeat": 12}, {}, "data.repeat 11 -> 12"),
        ({"quality": "hsv"}, {}, 'data.quality "none" -> "hsv"'),
        ({"held_out_fraction": 0.5}, {}, "training part"),
        ({}, {"flip": 0.5}, "model.views.flip=0"),
    ],
    ids=lambda value: str(value),
)
def test_a_cache_of_other_settings_is_refused_and_says_which(
    setup: Setup, exact: Path, tmp_path: Path, settings: dict[str, Any], views: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path).fit(setup.model(exact, FIXED | views), setup.data(**settings))


def test_a_cache_of_other_weights_precision_or_none_is_refused(setup: Setup, exact: Path, tmp_path: Path) -> None:
    model = setup.model(exact)
    model.frozen[setup.networks.teacher].source["sha256"] = "0" * 64
    with pytest.raises(ConfigError, match=r"made for something else: weights \(SHA-256\)"):
        trainer(tmp_path).fit(model, setup.data())
    with pytest.raises(ConfigError, match="precision"):
        trainer(tmp_path, precision="bf16-mixed").fit(setup.model(exact), setup.data())
    with pytest.raises(ConfigError, match="missing or unfinished"):
        trainer(tmp_path).fit(setup.model(tmp_path / "none"), setup.data())


def test_batches_with_patches_replaced_in_another_way_run_through_the_teacher(
    setup: Setup, exact: Path, tmp_path: Path
) -> None:
    live, _ = trained(setup, tmp_path)
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "teacher.safetensors").write_bytes((exact / "teacher.safetensors").read_bytes())
    table = Table(changed / "teacher.safetensors")
    # as if patch 5 could not be read when the cache was made: its embedding is of another patch
    table.write("attempt", 5, np.array([1], np.int16))
    table.write("cls", 5, np.zeros((1, 24), np.float32))
    table.close()
    with pytest.warns(UserWarning, match="patch 5 is another one"):
        cached, runs = trained(setup, tmp_path, changed)
    # 7 steps of 4 see it as numbers 5, 16 and 27; the pass for the moments sees number 5 too
    assert runs == 4
    for key, value in live.state_dict().items():
        assert torch.equal(value, cached.state_dict()[key]), key


def test_interrupted_and_begun_again_is_the_same(
    setup: Setup, exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SYNC_SECONDS", 0.0)
    rows: list[int] = []
    whole = writing._write

    def fails(table: Table, row: int, kept: int, tokens: Any) -> None:
        if row == 8 and 8 not in rows:
            rows.append(row)
            raise KeyboardInterrupt
        rows.append(row)
        whole(table, row, kept, tokens)

    monkeypatch.setattr(writing, "_write", fails)
    with pytest.raises(KeyboardInterrupt):
        setup.cache(tmp_path)
    assert [path.name for path in tmp_path.glob("teacher*")] == ["teacher.safetensors.part"]
    with pytest.raises(ConfigError, match="missing or unfinished"):
        trainer(tmp_path).fit(setup.model(tmp_path), setup.data())
    with pytest.raises(ConfigError, match=r"teacher.safetensors.part was made for something else: data.seed 0 -> 1"):
        write_cache(trainer(tmp_path), setup.model(), setup.data(seed=1), tmp_path, "float32")
    with pytest.raises(ConfigError, match="another --dtype"):
        write_cache(trainer(tmp_path), setup.model(), setup.data(), tmp_path, "float16")
    setup.cache(tmp_path)
    assert rows == [0, 4, 8, 8]
    assert (tmp_path / "teacher.safetensors").read_bytes() == (exact / "teacher.safetensors").read_bytes()
    assert "all was there" in write_cache(trainer(tmp_path), setup.model(), setup.data(), tmp_path, "float32")


def test_what_does_not_fit_is_refused_before_it_is_begun(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the embeddings need .* GB and the disk"):
        write_cache(trainer(tmp_path), setup.model(), setup.data(repeat=10**12), tmp_path, "float16")
    assert not list(tmp_path.glob("*.part"))
    model = setup.model()
    backbone = model.frozen[setup.networks.teacher].backbone
    backbone.norm.weight.data.mul_(1e6)
    with pytest.raises(TrainingError, match=r"not finite in float16.*--dtype float32"):
        write_cache(trainer(tmp_path), model, setup.data(), tmp_path, "float16")


def test_a_run_from_a_cache_says_so(
    setup: Setup, exact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, fit = setup.model(exact), trainer(tmp_path)
    with caplog.at_level("INFO"):
        fit.fit(model, setup.data())
    assert f"teacher embeddings from cache {exact}: {REPEAT} patches of" in caplog.text
    fit.save_checkpoint(tmp_path / "a.ckpt")
    _, teacher = torch.load(tmp_path / "a.ckpt", weights_only=True)["g2l"]["networks"]
    assert teacher["cache"] == Table(exact / "teacher.safetensors").about["sha256"]


def test_two_networks_with_a_file_each(setup: Setup, exact: Path, tmp_path: Path) -> None:
    (tmp_path / "teacher.safetensors").write_bytes((exact / "teacher.safetensors").read_bytes())
    model = setup.model()
    torch.manual_seed(0)
    both = {
        "logsum": LogSum(setup.networks.teacher, patch=0.5, view="clean"),
        "cosine": Cosine(setup.networks.student, view="clean"),
    }
    model = Distiller(
        setup.networks.student, both, weights=setup.networks.weights, views=Views(size=SIZE, **FIXED), observe_patches=8
    )
    assert "1 of 2 networks embedded" in write_cache(trainer(tmp_path), model, setup.data(), tmp_path, "float32")
    columns = Table(tmp_path / "student.safetensors").columns
    assert set(columns) == {"attempt", "cls"} and columns["cls"].shape == (REPEAT, 16)
    assert STUDENT not in model.frozen


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    Table.create(file, 3, {"x": Column((2,), "float32"), "attempt": Column((), np.int16, -1)}, {})
    assert Table(file).columns["attempt"].tolist() == [-1, -1, -1]
    content = file.read_bytes()
    for broken in (content[:-1], content[:20], b"", b"\xff" * 64, content + b"0"):
        file.write_bytes(broken)
        with pytest.raises(ConfigError, match=r"a\.safetensors"):
            Table(file)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="do not fit"):
        Table(file).write("x", 2, np.zeros((2, 2), np.float32))
