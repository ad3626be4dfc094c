"""How fast an encoder runs on this processor, library by library, and what it costs in accuracy.

    python benchmarks/inference.py [BUNDLE] [--model vit_large_patch16_224] [--batch_size 8] [--rounds 5] [--slide FILE]

Without a BUNDLE: the model with random weights, exported to a temporary folder; int8 is then calibrated on drawn
tissue. Every round runs each contender once, forwards and backwards in turn, and the products of large matrices that
the processor is capable of: whatever else the machine does falls on all. Ratios are those of a round, as median and
range; cosine to PyTorch in float32 is the smallest. `of the products` is the share of the rate of OpenVINO's matrix
products in the same arithmetic, in which an encoder of nothing else would reach 1. On a busy machine look at the core
seconds. All contenders of a ViT-L take 13 GB of memory together; --cases chooses some. --slide also runs `g2l embed` on
a slide, in turns with the bare engine on as many patches.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from contenders import BASE, FLOPS, NAMES, Contender, contenders, flops, product
from numpy.typing import NDArray
from timm.layers.layer_scale import LayerScale
from tqdm import tqdm

from g2l.deploy.graph import write_onnx
from g2l.deploy.openvino_ir import write_int8, write_openvino
from g2l.deploy.runtime.embed import embed
from g2l.deploy.runtime.engines import open_engine
from g2l.deploy.runtime.folder import RUN
from g2l.deploy.runtime.gates import cosine
from g2l.deploy.runtime.opened import open_bundle
from g2l.deploy.runtime.processor import cores, processor
from g2l.deploy.vector import draw_patches
from g2l.encoders.encoder import Encoder, create_encoder
from g2l.encoders.opening import open_folder

MPP = 0.5  # um per px of drawn patches where the encoder states none


class Spent(NamedTuple):
    """Seconds of one turn: by the clock on the wall, and of this process' threads together."""

    wall: float
    processor: float


def timed(work: Callable[[], object]) -> Spent:
    """One turn."""
    wall, busy = time.perf_counter(), time.process_time()
    work()
    return Spent(time.perf_counter() - wall, time.process_time() - busy)


def random_encoder(model: str) -> Encoder:
    """With weights as they are before a training, but for layer scales, whose 1e-5 would hide all blocks."""
    torch.manual_seed(0)
    encoder = create_encoder(model, init="random")
    for module in encoder.modules():
        if isinstance(module, LayerScale):
            torch.nn.init.normal_(module.gamma, 0.5, 0.2)
    return encoder


def export(encoder: Encoder, folder: Path, calibration: int) -> None:
    """The files of a bundle that are run."""
    write_onnx(encoder, folder / "model.onnx")
    write_openvino(folder / "model.onnx", folder / "openvino")
    if calibration:
        drawn = draw_patches(encoder.size, encoder.spec.mpp or MPP, calibration, seed=1)
        write_int8(folder / "model.onnx", folder / "openvino", drawn)


def race(
    running: list[Contender], products: dict[str, Callable[[], object]], patches: NDArray[np.uint8], rounds: int
) -> dict[str, list[Spent]]:
    """Name, or arithmetic of a product -> a turn for each round. patches: one batch."""
    turns: dict[str, Callable[[], object]] = {one.name: lambda run=one.run: run(patches) for one in running}
    turns |= products
    for work in turns.values():
        work()
    spent: dict[str, list[Spent]] = defaultdict(list)
    for number in tqdm(range(rounds), desc="rounds", disable=None):
        for name in list(turns) if number % 2 == 0 else reversed(turns):
            spent[name].append(timed(turns[name]))
    return spent


def table(
    running: list[Contender], spent: dict[str, list[Spent]], worst: dict[str, float], batch_size: int, work: float
) -> str:
    """Markdown. work: operations of an image."""
    lines = [
        "| | patches/s | to PyTorch fp32 (range) | cosine, least | of the products | core seconds a patch |",
        "|---|---|---|---|---|---|",
    ]
    for one in running:
        seconds = [turn.wall / batch_size for turn in spent[one.name]]
        ratios = [base.wall / turn.wall for base, turn in zip(spent[BASE], spent[one.name], strict=True)]
        rates = zip(spent[one.name], spent[one.product], strict=True)
        shares = [work * batch_size / turn.wall / (FLOPS / peak.wall) for turn, peak in rates]
        busy = statistics.median(turn.processor / batch_size for turn in spent[one.name])
        lines.append(
            f"| {one.name} | {1 / statistics.median(seconds):.3g} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {worst[one.name]:.5f} | "
            f"{statistics.median(shares):.2f} | {busy:.3g} |"
        )
    return "\n".join(lines)


def rates(spent: dict[str, list[Spent]], kinds: list[str]) -> str:
    """What the processor is capable of."""
    found = [
        f"{kind} {FLOPS / statistics.median(turn.wall for turn in spent[kind]) / 1e9:.0f} (a core alone, by its own "
        f"time: {FLOPS / statistics.median(turn.processor for turn in spent[kind]) / 1e9:.0f})"
        for kind in kinds
    ]
    return f"products in 10^9 operations/s: {', '.join(found)}"


def end_to_end(bundle: Path, slide: Path, batch_size: int, threads: int, rounds: int, mpp: float | None) -> str:
    """`g2l embed` on one slide in turns with the bare engine on as many patches."""
    opened = open_bundle(bundle)
    whole, steady, count = [], [], 0
    with open_engine(opened, None, batch_size, threads) as engine, tempfile.TemporaryDirectory() as folder:
        patches = draw_patches(opened.prepared.size, opened.prepared.mpp, batch_size)
        engine(patches)
        for number in range(rounds):
            out = Path(folder) / str(number)
            done = embed(str(bundle), str(slide), str(out), mpp=mpp, batch_size=batch_size, threads=threads)
            if not done.patches:
                raise SystemExit(str(done))
            count = done.patches
            batches = -(-count // batch_size)
            alone = timed(lambda times=batches: [engine(patches) for _ in range(times)]).wall / batches / batch_size
            opening = json.loads((out / RUN).read_text())["runs"][-1]["opening_seconds"]
            whole.append(count / done.seconds * alone)
            steady.append(count / (done.seconds - opening) * alone)
    of = [f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})" for found in (whole, steady)]
    return (
        f"g2l embed of {slide.name}, {count} patches, {engine.format.name}: {of[0]} of the bare engine's rate, "
        f"{of[1]} once the engine is open"
    )


def main() -> None:
    """Measure, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--model", default="vit_large_patch16_224", help="without a bundle: what `g2l embed` takes too")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=32, help="drawn patches on which cosines are taken")
    parser.add_argument("--calibration", type=int, default=32, help="drawn patches for int8; 0: without it")
    parser.add_argument("--cases", nargs="+", choices=NAMES, help="names of the table's first column")
    parser.add_argument("--slide", type=Path, help="with a bundle: a slide to embed")
    parser.add_argument("--mpp", type=float, help="of the slide's level 0 (um/px), where its file does not state it")
    given = parser.parse_args()
    if given.slide and not given.bundle:
        parser.error("--slide needs a BUNDLE; write one with g2l export")
    torch.set_num_threads(given.threads)
    encoder = open_folder(given.bundle) if given.bundle else random_encoder(given.model)
    with tempfile.TemporaryDirectory() as name:
        files = given.bundle or Path(name)
        if not given.bundle:
            export(encoder, files, given.calibration)
        running = list(contenders(encoder, files, Path(name), given.batch_size, given.threads, given.cases))
        patches = draw_patches(encoder.size, encoder.spec.mpp or MPP, max(given.count, given.batch_size))
        batches = [patches[at : at + given.batch_size] for at in range(0, len(patches), given.batch_size)]
        batches = [batch for batch in batches if len(batch) == given.batch_size]
        found = {one.name: np.concatenate([one.run(batch) for batch in batches]) for one in running}
        worst = {name: float(cosine(found[BASE], made).min()) for name, made in found.items()}
        kinds = list(dict.fromkeys(one.product for one in running))
        products = {kind: product(kind, given.threads) for kind in kinds}
        spent = race(running, products, patches[: given.batch_size], given.rounds)
    work = flops(encoder)
    print(
        f"{encoder.spec.name}, {encoder.size} px, {work / 1e9:.3g} x 10^9 operations a patch, "
        f"batch {given.batch_size}, threads {given.threads}, rounds {given.rounds}; {processor()}\n"
    )
    print(table(running, spent, worst, given.batch_size, work))
    print(f"\n{rates(spent, kinds)}")
    absent = [name for name in given.cases or NAMES if name not in found]
    if absent:
        print(f"not in the bundle, or not for this processor: {', '.join(absent)}")
    if given.slide:
        running.clear()  # their memory
        print(end_to_end(given.bundle, given.slide, given.batch_size, given.threads, given.rounds, given.mpp))


if __name__ == "__main__":
    main()
