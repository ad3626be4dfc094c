"""The card says at its top whether a bundle may be passed on and why, and shows what is known, and nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from markup import read_tables
from test_scores_for_card import results

from g2l.deploy.bundle import Bundle, verdict
from g2l.deploy.card import Known, write_card
from g2l.deploy.card_tables import table, text
from g2l.deploy.export import export
from g2l.encoders.catalog import get_spec
from g2l.encoders.opening import open_encoder
from g2l.sums import sha256

TRAINING = {
    "kind": "slides",
    "slides": 1234,
    "patches": None,
    "patients": 987,
    "centres": 7,
    "mpp": [0.5],
    "patch_size": 256,
    "batch_size": 128,
    "steps": 12000,
    "patches_seen": 1536000,
    "losses": {"hopt": 1.0, "hibou": 0.5},
    "data": {"cohort": "/secret/place", "manifest": None, "hold_out": "patient", "fraction": 0.2, "seed": 0},
}


def source(name: str, role: str = "teacher") -> dict[str, Any]:
    """As a checkpoint names a network of the catalogue."""
    spec = get_spec(name)
    keys = ("name", "hub", "licence", "redistribute", "redistribute_reason", "gated")
    return {"role": role} | {key: getattr(spec, key) for key in keys} | {"sha256": "ab" * 32}


STUDENT = {
    "role": "student", "name": "vit-l", "hub": None, "licence": "none (random initial weights)", "redistribute": True,
    "redistribute_reason": "nothing was taken over but the architecture", "sha256": None,
}  # fmt: skip
PAIR = [STUDENT, source("h-optimus-0"), source("hibou-l")]
BOUND = [*PAIR, source("uni2-h")]


def checkpoint(tiny_encoder: Path, networks: list[dict[str, Any]], file: Path, **made: Any) -> Path:
    encoder = open_encoder(str(tiny_encoder))
    state = {f"student.{key}": value for key, value in encoder.state_dict().items()}
    entry = {"version": "0", "student": encoder.spec.to_dict(), "networks": networks, **made}
    torch.save({"state_dict": state, "g2l": entry}, file)
    return file


def card(
    bundle: Path, folder: Path, networks: list[dict[str, Any]], facts: dict[str, Any] | None = None, **changes: Any
) -> str:
    """The card of the session's bundle, as if it were of these networks and facts."""
    shutil.copytree(bundle, folder, dirs_exist_ok=True)
    encoder = open_encoder(str(bundle))
    made = Bundle(folder, "tiny", *verdict(networks))
    known = Known(encoder, made, networks, facts or {}, json.loads((bundle / "parity.json").read_text()), "drawn")
    write_card(folder, replace(known, **changes))
    return (folder / "CARD.md").read_text()


def test_the_default_pair_may_be_redistributed_and_the_top_says_why(bundle: Path, tmp_path: Path) -> None:
    lines = card(bundle, tmp_path / "b", PAIR).splitlines()
    assert lines[2].startswith("> **This student may be redistributed.**")
    assert "> - h-optimus-0 (Apache-2.0): Apache-2.0 permits derivatives; keep its notice" in lines[:8]
    assert any(line.startswith("> - hibou-l (Apache-2.0): ") for line in lines[:8])
    assert str(Bundle(tmp_path, "tiny", *verdict(PAIR))).splitlines()[-1] == "this student may be redistributed"


def test_a_non_commercial_expert_is_named_in_the_first_lines_and_in_the_last_one(bundle: Path, tmp_path: Path) -> None:
    lines = card(bundle, tmp_path / "b", BOUND).splitlines()
    spec = get_spec("uni2-h")
    assert "NC-ND" in spec.licence
    assert lines[2].startswith(
        "> **This student must NOT be redistributed.** **Non-commercial use only.** **Its licences"
    )
    assert lines[3] == f"> - uni2-h ({spec.licence}): {text(spec.redistribute_reason)}"
    assert not any("may be redistributed" in line for line in lines)
    last = str(Bundle(tmp_path, "tiny", *verdict(BOUND))).splitlines()[-1]
    assert last.startswith(f"this student must NOT be redistributed: uni2-h ({spec.licence}): ")


@pytest.mark.parametrize("name", ["h-optimus-1", "uni2-h", "conch", "h0-mini", "virchow2"])
def test_every_bound_network_of_the_catalogue_binds_the_card(name: str, bundle: Path, tmp_path: Path) -> None:
    assert not get_spec(name).redistribute
    top = card(bundle, tmp_path / "b", [STUDENT, source(name)]).splitlines()[2]
    assert "must NOT be redistributed" in top and ("Non-commercial" in top) == ("nc" in get_spec(name).licence.lower())


def test_unknown_origin_is_not_taken_for_freedom(bundle: Path, tmp_path: Path) -> None:
    lines = card(bundle, tmp_path / "b", []).splitlines()
    assert "must NOT" in lines[2] and lines[3] == "> - it does not say what it was made from"


def test_training_is_counts_and_no_names(bundle: Path, tmp_path: Path) -> None:
    training = {key: value for key, value in TRAINING.items() if key != "data"} | {"cancer": "breast carcinoma"}
    rows = dict(read_tables(card(bundle, tmp_path / "b", PAIR, {"training": training}))["Training"][1:])
    assert rows == {
        "Cancer and tissue": "breast carcinoma",
        "Slides": "1,234",
        "Patients": "987",
        "Centres": "7",
        "Resolution, um/px": "0.5",
        "Patches seen": "1,536,000",
        "Steps": "12,000",
        "Losses and their weights": "hopt 1, hibou 0.5",
    }
    bare = card(bundle, tmp_path / "c", PAIR, {"training": {"steps": 5, "losses": {}}})
    assert dict(read_tables(bare)["Training"][1:])["Patients"] == "not recorded"


def test_scores_stand_with_intervals_and_those_of_the_run_without(bundle: Path, tmp_path: Path) -> None:
    row = {
        "task": "crc", "kind": "classification", "method": "linear", "metric": "balanced accuracy", "value": 0.91234,
        "low": 0.88, "high": 0.94, "units": 500, "unit": "image", "patients": 40, "no_interval_because": "",
    }  # fmt: skip
    robust = row | {"task": "shift|<b>", "kind": "robustness", "metric": "index", "value": None, "low": None,
                    "high": None, "no_interval_because": "too few patients"}  # fmt: skip
    other = row | {"encoder": "h-optimus-0", "value": 0.95, "low": 0.93, "high": 0.97}
    facts = {
        "scores": {"level": 0.95, "rows": [row, robust], "others": [other]},
        "summary": {"teacher": {"knn": 0.99, "linear": 0.98, "cka": 1.0, "robustness_index": 0.9},
                    "student_after": {"knn": 0.9, "linear": None, "cka": 0.8, "robustness_index": 0.7}},
    }  # fmt: skip
    tables = read_tables(card(bundle, tmp_path / "b", PAIR, facts))
    first, second = tables["Scores"][:2], tables["Scores"][2:]
    assert first[0] == ["Task", "Metric", "This network", "On", "h-optimus-0"]
    assert first[1] == [
        "crc", "balanced accuracy (linear)", "**0.912 (0.880 to 0.940)**", "500 images, 40 patients",
        "0.950 (0.930 to 0.970)",
    ]  # fmt: skip
    assert second[2] == ["this student", "0.900", "undefined", "0.800"]
    assert tables["Robustness"][1][2] == "**undefined (no interval: too few patients)**"
    assert tables["Robustness"][1][0] == "shift\\|\\<b>"


def test_parity_table_and_limits_are_those_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    parity = json.loads((bundle / "parity.json").read_text())
    words = (bundle / "CARD.md").read_text()
    rows = {row[0]: row[1:] for row in read_tables(words)["Formats"][1:]}
    assert rows.keys() == parity["formats"].keys()
    for name, entry in parity["formats"].items():
        assert (rows[name][-1] == "passed") == entry["passed"]
        if "real" in entry:
            assert float(rows[name][0]) == pytest.approx(entry["real"]["min_cosine"], abs=1e-6)
    assert "least cosine at least 0.999 and knn agreement at least 0.99" in words
    assert "no pixel of a patient" in words and "not known here" in words
    assert "pixels of real slides" in card(bundle, tmp_path / "b", PAIR, vector="real")


def test_names_from_elsewhere_are_no_markup(bundle: Path, tmp_path: Path) -> None:
    evil = source("uni2-h") | {"name": "x\n# Approved | <script>", "redistribute_reason": "a`b*c"}
    words = card(bundle, tmp_path / "b", [evil])
    assert "\n# Approved" not in words and "<script>" not in words.replace("\\<", "")
    assert [len(row) for row in read_tables(words)["Networks and licences"]] == [6, 6]
    assert table(("a",), [("b",)]) == ["| a |", "|---|", "| b |"]


def test_a_checkpoint_becomes_a_bundle_by_the_cohort_it_names_and_the_place_stays_at_home(
    tiny_encoder: Path, demo_cohort: Path, tmp_path: Path
) -> None:
    data = TRAINING["data"] | {"cohort": str(demo_cohort)}  # type: ignore[operator]
    made = {"training": TRAINING | {"data": data}}
    best = checkpoint(tiny_encoder, PAIR, tmp_path / "best.ckpt", **made)
    (tmp_path / "summary.json").write_text(json.dumps({"student_after": {"knn": 0.5, "robustness_index": 0.25}}))
    metrics = results(tmp_path, encoders={"mine": {"source": {"sha256": sha256(best)}}})
    result = export(str(best), str(tmp_path / "b"), formats=["onnx"], cancer="drawn tissue", results=str(metrics))
    assert str(result).splitlines()[-1] == "this student may be redistributed"
    words = (tmp_path / "b" / "CARD.md").read_text()
    assert "| Patients | 987 |" in words and "drawn tissue" in words and "0.900 (0.800 to 0.950)" in words
    assert json.loads((tmp_path / "b" / "metadata.json").read_text())["g2l"]["summary"]["student_after"]["knn"] == 0.5
    parity = json.loads((tmp_path / "b" / "parity.json").read_text())
    assert parity["patches"]["source"] == "cohort of slides, patients held out of the training"
    metadata = json.loads((tmp_path / "b" / "metadata.json").read_text())
    assert metadata["g2l"]["training"]["slides"] == 1234 and "data" not in metadata["g2l"]["training"]
    for file in (tmp_path / "b").rglob("*"):
        assert not file.is_file() or str(demo_cohort).encode() not in file.read_bytes(), file
    inputs, outputs = (metadata["network_data_format"][key] for key in ("inputs", "outputs"))
    assert inputs["patches"]["spatial_shape"] == [64, 64] and outputs["embedding"]["num_channels"] == 48
