"""How fast a training step is, what of the device it uses, where its time goes, and what the framework costs.

    python benchmarks/step.py [--case g2l|gpfm|unified|all]

Shipped configs with random weights: of real size on a GPU, of small size on a CPU. Steps of the Trainer, of a bare loop
of the same operations and large matrix products take turns in one process; the tables (Markdown) state medians.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from blocks import BARE, LIGHTNING, MATMUL, Measured, measure, ratios
from cases import CASES, Setting, Synthetic, build, read_setting
from clock import PARTS, VIEWS
from lightning import LightningDataModule

from g2l.data.module import SlideDataModule
from g2l.errors import G2LError

INTERRUPTED = 130  # exit code
SUMMARY = ("case", "batch", "images/s", "GFLOP/image", "TFLOP/s", "of the matmul", "framework", "views", "peak GiB")
SPLIT = ("part", "ms", "share", "TFLOP/s")
NOTES = """
TFLOP/s: of the matrix products, attention and convolutions that are run, counted without torch.compile. Of the matmul:
share of the rate at which two large matrices are multiplied in the run's precision, in turns with the steps. Framework:
what Lightning, its logger and progress bar, and the Distiller's logging and checks add to a bare loop of the same
operations: the median of the rounds' ratios, less one, and the least and largest; on a CPU of processor time, then of
time. Views: share of augmentation and masks. In the split a part's time is without that of parts inside it; on a GPU it
is that of its queue."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print as it is measured. Returns the exit code."""
    parser = argparse.ArgumentParser(description="a training step, taken apart")
    parser.add_argument("--case", choices=(*CASES, "all"), default="all", help="which config")
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if gpu else "cpu")
    parser.add_argument("--small", action=argparse.BooleanOptionalAction, default=None, help="default: on a CPU")
    parser.add_argument("--batch", type=int, help="images of a step")
    parser.add_argument("--steps", type=int, help="of a block (default: 20 on a GPU, 2 on a CPU)")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of each kind")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), help="default: the config's; 32 on a CPU")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="default: on a GPU")
    parser.add_argument("--cohort", help="patches from a cohort instead of memory")
    parser.add_argument("--mpp", type=float, help="um/px of its patches (default: the config's)")
    parser.add_argument("--workers", type=int, default=0, help="processes that read the cohort")
    parser.add_argument("--profile", type=Path, help="folder for a trace of a few steps of each case")
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    options = parser.parse_args(arguments)
    if min(options.batch or 2, 2 * (options.steps or 1), 2 * options.rounds) < 2:
        parser.error("--batch must be 2 or more, --steps and --rounds 1 or more")
    if options.device == "cuda" and not gpu:
        parser.error("--device is cuda, but no CUDA device is visible; check the driver with nvidia-smi")
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    result: dict[str, Any] = {"machine": machine(device), "cases": []}
    say(*(f"- {key}: {value}" for key, value in result["machine"].items()), "")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            for name in CASES if options.case == "all" else [options.case]:
                result["cases"].append(run(name, options, device, Path(scratch)))
    except KeyboardInterrupt:
        say("", "interrupted: the tables end where the measurement did")
        return INTERRUPTED
    except torch.OutOfMemoryError as error:
        print(f"error: {str(error).splitlines()[0]}; give a smaller --batch", file=sys.stderr)
        return 1
    except G2LError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        say(NOTES)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1))
    return 0


def run(name: str, options: argparse.Namespace, device: torch.device, scratch: Path) -> dict[str, Any]:
    """Measure one case and print its tables; returns their figures."""
    case, gpu = CASES[name], device.type == "cuda"
    small = not gpu if options.small is None else options.small
    setting = read_setting(case, small, scratch)
    batch = options.batch or (case.small_batch if small else case.batch)
    precision = options.precision or (setting.precision if gpu else "32-true")
    compiles = gpu if options.compile is None else options.compile
    steps = options.steps or (20 if gpu else 2)
    model = build(setting, scratch, device, batch, compiles)
    data = patches(options, setting, batch)
    profile = options.profile / name if options.profile else None
    measured = measure(model, data, device, precision, setting.clip, steps, options.rounds, scratch, profile)
    figures = summary(measured, batch)
    size = "small" if small else "real size"
    say(f"{case.title}: {case.config}, {size}, {precision}{', compiled' if compiles else ''}", "")
    say(*head(SUMMARY), line([name, str(batch), *cells(figures, gpu)]), "", *head(SPLIT))
    for row in figures["split"]:
        rate = "" if row["tflops"] is None else f"{row['tflops']:.3g}"
        say(line([row["part"], f"{row['ms']:.2f}", f"{row['share']:.1%}", rate]))
    say("")
    return {"case": name, "config": case.config, "small": small, "precision": precision, "compiled": compiles} | figures


def patches(options: argparse.Namespace, setting: Setting, batch: int) -> LightningDataModule:
    """In memory, or of the cohort that was named."""
    if not options.cohort:
        return Synthetic(batch, setting.patch)
    mpp = options.mpp or setting.mpp
    return SlideDataModule(
        options.cohort, batch_size=batch, patch_size=setting.patch, mpp=mpp, num_workers=options.workers
    )


def summary(measured: Measured, batch: int) -> dict[str, Any]:
    """The figures of a case: seconds, operations per second, ratios."""
    blocks, steps = measured.blocks, measured.steps
    flops = sum(measured.flops.values())
    step = statistics.median(spent.wall for spent in blocks[LIGHTNING]) / steps
    to_matmul = [flops * steps / measured.product / ratio for ratio in ratios(blocks[LIGHTNING], blocks[MATMUL])]
    total = sum(measured.parts.values())
    split = [
        {
            "part": part,
            "ms": 1000 * seconds,
            "share": seconds / total,
            "tflops": measured.flops.get(part, 0) / seconds / 1e12 if measured.flops.get(part) else None,
        }
        for part in PARTS
        if (seconds := measured.parts.get(part)) is not None
    ]
    return {
        "batch": batch,
        "images_per_second": batch / step,
        "gflop_per_image": flops / batch / 1e9,
        "tflops": flops / step / 1e12,
        "of_matmul": statistics.median(to_matmul),
        "framework": spread(ratios(blocks[LIGHTNING], blocks[BARE])),
        "framework_processor": spread(ratios(blocks[LIGHTNING], blocks[BARE], lambda spent: spent.processor)),
        "views": next((row["share"] for row in split if row["part"] == VIEWS), 0.0),
        "peak_gib": measured.peak,
        "split": split,
        "blocks": {name: [spent._asdict() for spent in each] for name, each in blocks.items()},
    }


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and largest of ratios, each less one."""
    return statistics.median(values) - 1, min(values) - 1, max(values) - 1


def cells(figures: dict[str, Any], gpu: bool) -> list[str]:
    """A row of the first table, from its third column on."""
    kinds = ["framework"] if gpu else ["framework_processor", "framework"]
    framework = ["{:+.1%} ({:+.1%} to {:+.1%})".format(*figures[kind]) for kind in kinds]
    peak = figures["peak_gib"]
    return [
        f"{figures['images_per_second']:,.1f}",
        f"{figures['gflop_per_image']:,.1f}",
        f"{figures['tflops']:.3g}",
        f"{figures['of_matmul']:.0%}",
        ", ".join(framework),
        f"{figures['views']:.1%}",
        "" if peak is None else f"{peak:.1f}",
    ]


def machine(device: torch.device) -> dict[str, str]:
    """What the figures depend on."""
    model = platform.processor() or platform.machine()
    if (cpus := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"machine": f"{model}, {cores} cores, {torch.get_num_threads()} threads of torch, {platform.system()}"}
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    return found | {"versions": versions}


def head(names: Sequence[str]) -> list[str]:
    """The head of a Markdown table, the first column to the left and the others to the right."""
    return [line(names), line(["---", *["---:"] * (len(names) - 1)])]


def line(texts: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def say(*lines: str) -> None:
    """Print at once, so that an interrupted run leaves what it has."""
    for text in lines:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
