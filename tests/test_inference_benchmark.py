"""The benchmark of inference runs on a small network, and its table is complete."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from g2l.deploy.runtime.processor import usable_formats

SCRIPT = Path(__file__).parents[1] / "benchmarks/inference.py"
SMALL = """\
architecture: vit_tiny_patch16_224
args: {img_size: 64, embed_dim: 64, depth: 2, num_heads: 2, global_pool: token}
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
size: 64
licence: Apache-2.0
"""


@pytest.mark.slow
def test_every_contender_has_a_row_with_its_speed_and_its_cosine(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    cases = ["torch-fp32", "torch-bf16", "onnx-int8-dynamic", *reversed(usable_formats())]
    arguments = ["--model", str(tmp_path / "small.yaml"), "--batch_size", "4", "--rounds", "3", "--threads", "1"]
    command = [sys.executable, str(SCRIPT), *arguments, "--count", "8", "--calibration", "8", "--cases", *cases]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    lines = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [cells[0].strip() for cells in lines] == cases
    for name, rate, ratio, cosine, share, core in ([cell.strip() for cell in cells] for cells in lines):
        middle, lowest, highest = (
            float(part) for part in ratio.replace("(", "").replace(")", "").replace("-", " ").split()
        )
        assert 0 < lowest <= middle <= highest < 1000
        assert (middle == 1) or name != "torch-fp32"
        assert float(rate) > 0 and float(share) > 0 and 0 < float(core) < 10
        assert float(cosine) > (0.9 if "int8" in name else 0.999)
    assert "operations a patch, batch 4, threads 1, rounds 3" in done.stdout
    assert "f32" in done.stdout.splitlines()[-1]


def test_a_slide_needs_a_bundle_that_embeds_it() -> None:
    command = [sys.executable, str(SCRIPT), "--slide", "one.svs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2 and "--slide needs a BUNDLE" in done.stderr.splitlines()[-1]
