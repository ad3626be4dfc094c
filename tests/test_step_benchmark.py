"""The step's benchmark measures what is trained: its bare loop, its operations, its parts and its tables."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CPU = torch.device("cpu")
BATCH = 2


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices, and little before it counts."""
    blocks = importlib.import_module("blocks")
    monkeypatch.setattr(blocks, "SIDE", {"cpu": 64, "cuda": 64})
    monkeypatch.setattr(blocks, "WARM", 1)


def built(name: str, folder: Path, **arguments: Any) -> tuple[Any, Any]:
    """A small case's Distiller, and its setting."""
    cases = importlib.import_module("cases")
    setting = cases.read_setting(cases.CASES[name], True, folder)
    setting.model.update(arguments)
    return cases.build(setting, folder, CPU, BATCH, False), setting


@pytest.mark.parametrize("name", [pytest.param("g2l", marks=pytest.mark.slow), "gpfm", "unified"])
def test_the_bare_loop_trains_the_same_weights_bit_for_bit(name: str, folder: Path, tmp_path: Path) -> None:
    bare, cases, clock = (importlib.import_module(module) for module in ("bare", "cases", "clock"))
    steps = 2
    # The bare loop does not seed drop path; a warm-up of thousands of steps would move no weight in the first.
    arguments = {"drop_path": 0.0, "warmup_steps": 0, "freeze_last_layer": 1}
    fitted, setting = built(name, folder, **arguments)
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, max_epochs=-1, gradient_clip_val=setting.clip, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(fitted, datamodule=clock.Watched(cases.Synthetic(BATCH, setting.patch), fitted.clock))

    model, _ = built(name, folder, **arguments)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    first = next(iter(cases.Synthetic(BATCH, setting.patch).train_dataloader()))
    with torch.no_grad():
        passes = model.run(first, model.needs)
        for term in model.terms.values():
            if term.observes:
                term.observe(passes)
    batches = iter(cases.Synthetic(BATCH, setting.patch).train_dataloader())
    loop = bare.Bare(model, model.configure_optimizers(), batches, CPU, False, setting.clip, steps)
    for _ in range(steps):
        loop.step()

    trained = model.state_dict()
    for key, value in fitted.state_dict().items():
        assert torch.equal(value, trained[key]), key
    for value, start in zip(model.parameters(), before, strict=True):
        assert not (value.requires_grad and torch.equal(value, start))


def vit(tokens: int, width: int, depth: int, ratio: float) -> tuple[int, int, int]:
    """Operations of a vision transformer (patches of 16 px, a class token) on one image: embedding, linear layers and
    attention products, two for each multiplication.
    """
    linear = 2 * (tokens + 1) * (4 + 2 * ratio) * width**2 * depth
    return 2 * tokens * 3 * 16**2 * width, int(linear), 4 * (tokens + 1) ** 2 * width * depth


def test_operations_are_those_of_the_networks(folder: Path, tmp_path: Path, quick: None) -> None:
    blocks, cases, clock = (importlib.import_module(module) for module in ("blocks", "cases", "clock"))
    model, setting = built("g2l", folder)
    data = cases.Synthetic(BATCH, setting.patch)
    found = blocks.measure(model, data, CPU, "32-true", 1.0, 1, 1, tmp_path)
    embedding, linear, attention = vit(64, 128, 4, 3.0)
    head = 2 * 128 * 192
    assert found.flops[clock.FROZEN] == BATCH * sum(vit(64, 192, 7, 4.0))
    assert found.flops[clock.FORWARD] == BATCH * (embedding + linear + attention)
    assert found.flops[clock.HEADS] == BATCH * head
    # Two products for each of a layer's (images need no gradient, so one for the embedding's); attention has four, and
    # computes its scores once more.
    assert found.flops[clock.BACKWARD] == BATCH * (embedding + 2 * linear + 2.5 * attention + 2 * head)
    assert found.product == 2 * 64**3 * blocks.PRODUCTS["cpu"]
    assert {name: len(spent) for name, spent in found.blocks.items()} == dict.fromkeys(blocks.TURNS[0], 1)


def test_a_part_has_its_own_time_alone() -> None:
    clock = importlib.import_module("clock")
    now = 0.0
    one = clock.Clock(CPU)

    def spend(seconds: float) -> None:
        nonlocal now
        now += seconds

    with one.part("unseen"):
        spend(100)
    one.start(lambda: now)
    spend(1)
    for _ in range(2):
        with one.part("outer"):
            spend(2)
            with one.part("inner"):
                spend(4)
            spend(8)
    with pytest.raises(KeyError), one.part("inner"):
        spend(16)
        raise KeyError
    assert one.stop() == {clock.REST: 1, "outer": 20, "inner": 24}
    spend(100)
    one.start(lambda: now)
    assert one.stop() == {clock.REST: 0}


def test_real_cases_name_what_the_catalogue_has(tmp_path: Path) -> None:
    from g2l.encoders.catalog import get_spec

    cases = importlib.import_module("cases")
    named = {}
    for name, case in cases.CASES.items():
        real, small = (cases.read_setting(case, small, tmp_path) for small in (False, True))
        named[name] = [get_spec(network).name for network in cases.frozen_in(real.model)]
        assert len(cases.frozen_in(small.model)) == len(named[name])
        assert get_spec(real.model["student"]).size == real.model["views"]["init_args"]["size"] < real.patch
        assert real.model["terms"].keys() == small.model["terms"].keys()
    assert named == {
        "g2l": ["h-optimus-0"],
        "gpfm": ["conch", "phikon", "uni"],
        "unified": ["h-optimus-0", "midnight-12k"],
    }


@pytest.mark.usefixtures("quick")
def test_the_script_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step, clock = importlib.import_module("step"), importlib.import_module("clock")
    file = tmp_path / "figures.json"
    options = ["--batch", str(BATCH), "--steps", "1", "--rounds", "2", "--json", str(file)]
    assert step.main(["--case", "g2l", "--device", "cpu", *options]) == 0
    shown = capsys.readouterr().out
    result = json.loads(file.read_text())
    (figures,) = result["cases"]
    assert f"| g2l | {BATCH} | {figures['images_per_second']:,.1f} |" in shown
    assert [row["part"] for row in figures["split"]] == [part for part in clock.PARTS if part != clock.AVERAGE]
    assert sum(row["share"] for row in figures["split"]) == pytest.approx(1)
    for row in figures["split"]:
        assert f"| {row['part']} | {row['ms']:.2f} | {row['share']:.1%} |" in shown
        assert (row["tflops"] is not None) == (row["part"] not in (clock.DATA, clock.VIEWS, clock.UPDATE, clock.REST))
    middle, least, most = figures["framework"]
    ratios = [
        lightning["wall"] / bare["wall"] - 1
        for lightning, bare in zip(figures["blocks"]["lightning"], figures["blocks"]["bare"], strict=True)
    ]
    assert (least, most) == (min(ratios), max(ratios))
    assert middle == pytest.approx(sum(ratios) / 2)
    assert result["machine"]["versions"] in shown


@pytest.mark.parametrize(
    "options", [["--batch", "1"], ["--rounds", "0"], ["--steps", "-1"], ["--case", "other"]], ids=" ".join
)
def test_settings_that_measure_nothing_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    step = importlib.import_module("step")
    with pytest.raises(SystemExit) as ended:
        step.main(options)
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_cohort_that_is_not_there_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step = importlib.import_module("step")
    options = ["--case", "g2l", "--device", "cpu", "--batch", "2", "--cohort", str(tmp_path / "nothing")]
    assert step.main(options) == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_all_cases_run_and_leave_traces(tmp_path: Path) -> None:
    step, clock = importlib.import_module("step"), importlib.import_module("clock")
    file = tmp_path / "figures.json"
    options = ["--batch", str(BATCH), "--steps", "1", "--rounds", "1", "--json", str(file), "--profile", str(tmp_path)]
    assert step.main(["--device", "cpu", *options]) == 0
    g2l, *others = json.loads(file.read_text())["cases"]
    assert [g2l["case"], *(one["case"] for one in others)] == ["g2l", "gpfm", "unified"]
    for one in others:
        assert [row["part"] for row in one["split"]] == list(clock.PARTS)
        assert (tmp_path / f"{one['case']}.json.gz").stat().st_size > 1000
        assert clock.AVERAGE in (tmp_path / f"{one['case']}.txt").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_cohort_is_read_and_compiled_networks_are_counted_alike(
    demo_cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = importlib.import_module("step")
    found = []
    for more in (["--compile"], ["--cohort", str(demo_cohort), "--mpp", "1"]):
        file = tmp_path / "figures.json"
        options = ["--batch", str(BATCH), "--steps", "1", "--rounds", "1", "--json", str(file)]
        assert step.main(["--case", "g2l", "--device", "cpu", *options, *more]) == 0
        found.append(json.loads(file.read_text())["cases"][0])
    assert [one["compiled"] for one in found] == [True, False]
    assert found[0]["gflop_per_image"] == found[1]["gflop_per_image"] > 0


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("name", ["g2l", "gpfm", "unified"])
def test_small_cases_run_on_a_gpu(name: str, tmp_path: Path) -> None:
    step = importlib.import_module("step")
    file = tmp_path / "figures.json"
    options = ["--small", "--device", "cuda", "--steps", "2", "--rounds", "2", "--json", str(file)]
    assert step.main(["--case", name, *options, "--profile", str(tmp_path)]) == 0
    (figures,) = json.loads(file.read_text())["cases"]
    assert figures["precision"] == "bf16-mixed"
    assert figures["compiled"] is True
    assert figures["peak_gib"] > 0
    assert 0 < figures["of_matmul"] < 1
