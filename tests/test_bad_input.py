"""A user's mistakes end in one line that says what, where and the remedy, and in an exit code that is not 0."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from g2l.__main__ import main
from g2l.errors import SlideError
from g2l.slides.slide import Slide

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
# Over demo.yaml: what is wrongly accepted must not train for minutes.
PLAIN = """\
model: {observe_patches: 8}
data: {batch_size: 4, val_patches: 8}
trainer: {max_steps: 4, val_check_interval: 4, callbacks: null, logger: false, enable_progress_bar: false}
"""


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a command that must fail."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    assert code != 0
    # Progress bars and Lightning's remarks may stand above; the error is the last line and the only one of ours.
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("g2l: error: ")]
    assert len(lines) == 1
    return lines[0]


def fit_mistake(capsys: pytest.CaptureFixture[str], folder: Path, *overrides: str) -> str:
    """The one line of a `g2l fit` that must fail."""
    return mistake(capsys, "fit", "--config", DEMO, f"--trainer.default_root_dir={folder / 'run'}", *overrides)


def test_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "known are fit" in mistake(capsys, "distill")


def test_no_slides_found(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = mistake(capsys, "index", tmp_path, "--out", tmp_path / "out")
    assert str(tmp_path) in error and "slide" in error


def test_folder_that_does_not_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere" in mistake(capsys, "index", tmp_path / "nowhere", "--out", tmp_path / "out")


def test_all_slides_rejected_leaves_the_reasons(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"no slide")
    error = mistake(capsys, "index", tmp_path, "--out", tmp_path / "out")
    assert "a.svs" in error and "rejected.csv" in error
    assert "a.svs" in (tmp_path / "out" / "rejected.csv").read_text()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01broken", b"", b"nothing,like,it\n1,2,3\n"])
def test_unreadable_manifest(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.svs").write_bytes(b"no slide")
    (tmp_path / "list.csv").write_bytes(content)
    error = mistake(capsys, "index", tmp_path, "--out", tmp_path / "out", "--manifest", tmp_path / "list.csv")
    assert "list.csv" in error


def test_output_folder_not_writable(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"no slide")
    (tmp_path / "file").write_text("in the way")
    assert "file" in mistake(capsys, "index", tmp_path / "a.svs", "--out", tmp_path / "file" / "out")
    error = mistake(capsys, "fit", "--config", DEMO, f"--trainer.default_root_dir={tmp_path / 'file' / 'run'}")
    assert "trainer.default_root_dir" in error


def test_unknown_encoder_names_the_closest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "hibou-l" in fit_mistake(capsys, tmp_path, "--model.student=hibou-1", "--model.student_init=weights")


def test_missing_gated_weights_name_file_hub_and_licence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    breast = DEMO.with_name("breast.yaml")
    settings = [f"--model.weights={tmp_path}", f"--trainer.default_root_dir={tmp_path}", "--data.cohort=demo"]
    error = mistake(capsys, "fit", "--config", breast, *settings)
    assert "hibou-l.safetensors" in error and "histai/hibou-L" in error
    assert "Apache-2.0" in error and "gated" in error
    assert "h-optimus-0.safetensors" in error, "all that is missing is said at once"


def test_weights_that_match_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_file({"something.else": torch.zeros(3)}, tmp_path / "demo-giga.safetensors")
    error = fit_mistake(capsys, tmp_path, f"--model.weights={tmp_path}")
    assert "demo-giga.safetensors" in error and "something.else" in error and "cls_token" in error


def test_batch_of_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "data.batch_size is 1" in fit_mistake(capsys, tmp_path, "--data.batch_size=1")


def test_gpu_asked_for_and_absent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "accelerator=cpu" in fit_mistake(capsys, tmp_path, "--trainer.accelerator=gpu")


def test_cohort_that_was_never_indexed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = fit_mistake(capsys, tmp_path, f"--data.cohort={tmp_path / 'none'}")
    assert "none" in error and "g2l index" in error


def test_export_of_what_is_no_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"no checkpoint")
    assert "a.ckpt" in mistake(capsys, "export", tmp_path / "a.ckpt", "--out", tmp_path / "bundle")
    assert "b.ckpt" in mistake(capsys, "export", tmp_path / "b.ckpt", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("--trainer.limit_train_batches=4", "trainer.max_steps"),
        ("--trainer.max_steps=6", "no multiple of trainer.val_check_interval"),
        ("--trainer.precision=bf16-true", "bf16-mixed"),
        ("--trainer.strategy=nonsense", "nonsense"),
        ("--trainer.max_steps=-1", "trainer.max_steps is not set"),
        ("--data.seed=3", "seed"),
        ("--seed_everything=true", "whole number"),
        ("--seed_everything=-1", "seed"),
        ("--ckpt_path=none.ckpt", "none.ckpt"),
        ("--data.hold_out=colour", "colour"),
    ],
)
def test_settings_that_cannot_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, demo_cohort: Path, override: str, expected: str
) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(PLAIN)
    error = fit_mistake(capsys, tmp_path, "--config", str(plain), f"--data.cohort={demo_cohort}", override)
    assert expected in error


def test_validate_without_a_checkpoint(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = mistake(capsys, "validate", "--config", DEMO, f"--trainer.default_root_dir={tmp_path}")
    assert "--ckpt_path" in error


def test_checkpoint_of_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, demo_cohort: Path) -> None:
    content = {"state_dict": {"a": torch.zeros(1)}, "pytorch-lightning_version": "2.6.6", "loops": {}, "epoch": 0}
    torch.save(content | {"global_step": 0}, tmp_path / "other.ckpt")
    command = [f"--data.cohort={demo_cohort}", f"--ckpt_path={tmp_path / 'other.ckpt'}"]
    assert "another model" in fit_mistake(capsys, tmp_path, *command)


def test_a_slide_that_breaks_during_training_is_one_line_also_from_a_worker(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, demo_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SlideError("slide a.svs cannot be read at (1, 2) um; replace or remove the file")

    monkeypatch.setattr(Slide, "read_patch", broken)
    plain = tmp_path / "plain.yaml"
    plain.write_text(PLAIN)
    for workers in (0, 2):
        error = fit_mistake(
            capsys,
            tmp_path,
            "--config",
            str(plain),
            f"--data.cohort={demo_cohort}",
            f"--data.num_workers={workers}",
        )
        assert error == (
            "g2l: error: 16 patches in a row could not be read, the last: slide a.svs cannot be read at (1, 2) um; "
            "replace or remove the file"
        )


@pytest.mark.slow
def test_slides_that_moved_since_the_index(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, demo_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: path.suffix != ".tif")
    error = fit_mistake(capsys, tmp_path, f"--data.cohort={demo_cohort}")
    assert "18 of 18 slides" in error and "g2l index" in error
