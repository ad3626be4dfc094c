"""Train the demo's teacher, g2l/encoders/demo-giga.safetensors, on slides drawn with other seeds than the demo's.

    python benchmarks/train_demo_giga.py --out g2l/encoders/demo-giga.safetensors

The teacher is a vision transformer of 3.3 M parameters, supervised by what the drawing knows: the share of every tissue
class in the patch (class token), and the class and number of nuclei under every 16 um patch token. Its slides come
from centres that are drawn at random, so the demo's three centres, patients and slides are all new to it.
"""

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, cast

import cv2
import numpy as np
import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from g2l.data.demo import REGION_MPP, SIZE_UM, Order, cohort_orders, draw_slide
from g2l.data.drawing.layout import CLASSES, MAP_MPP
from g2l.data.drawing.scanner import Centre, map_at
from g2l.evaluation.measures.knn import knn_accuracy
from g2l.slides.regions import Regions

PATCH, TOKEN = 128, 16  # px at 1 um/px
GRID = PATCH // TOKEN
# Of the drawn tissue; encoders/catalog.yaml states the same. With .5 and .5 learning is far slower.
MEAN, STD = (0.72, 0.57, 0.77), (0.17, 0.18, 0.13)
DEMO_SEEDS = 1000  # the demo's cohorts use seeds below; the teacher's slides use seeds from here on
SLIDE_UM = 2400.0


class Drawn(NamedTuple):
    """One slide at 1 um/px: RGB uint8 (H, W, 3); class map uint8 at MAP_MPP; at the same
    pixels the number of nuclei in a square of 16 um around, float32.
    """

    rgb: np.ndarray
    classes: np.ndarray
    nuclei: np.ndarray


class Batch(NamedTuple):
    """B patches: images (B, 3, 128, 128) in [0, 1]; share (B, K + 1); token_class (B, 64); token_nuclei (B, 64)."""

    images: Tensor
    share: Tensor
    token_class: Tensor
    token_nuclei: Tensor


def random_centre(rng: np.random.Generator) -> Centre:
    """A centre nobody has seen: stains, strengths, glass, optics and compression all at random."""
    tint = rng.integers(0, 14, 3)
    return Centre(
        "unseen",
        (rng.uniform(0.5, 0.78), rng.uniform(0.58, 0.8), rng.uniform(0.18, 0.42)),
        (rng.uniform(0.03, 0.25), rng.uniform(0.85, 1.0), rng.uniform(0.08, 0.5)),
        (rng.uniform(0.7, 1.4), rng.uniform(0.65, 1.35)),
        (244 - int(tint[0]), 244 - int(tint[1]), 246 - int(tint[2])),
        blur_um=rng.uniform(0.2, 0.7),
        noise=rng.uniform(1, 3.5),
        quality=int(rng.integers(65, 95)),
    )


def draw(seed: int) -> Drawn:
    """Draw a slide of a random centre and bring it to 1 um/px through that centre's JPEG."""
    cv2.setNumThreads(1)
    centre = random_centre(np.random.default_rng([seed, 3]))
    rgb, layout, canvas, stain = draw_slide(seed, Order(0, 0, centre, "train", seed % 6 == 0, False), SLIDE_UM)
    rgb = cv2.resize(rgb, None, fx=stain.mpp, fy=stain.mpp, interpolation=cv2.INTER_AREA)
    # Colours swap places on the way in and out alike, which spares the conversion to OpenCV's BGR.
    _, coded = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, stain.quality])
    x, y = np.concatenate(canvas.nuclei).T
    edges = [np.arange(n + 1) * MAP_MPP for n in layout.region.shape]
    counts = cv2.boxFilter(np.histogram2d(y, x, edges)[0], -1, (4, 4), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return Drawn(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)), layout.class_map(), counts.astype(np.float32))


def sample(slides: list[Drawn], size: int, rng: np.random.Generator) -> Batch:
    """A batch of `size` tissue patches, all seen at one random magnification of .8 to 1.25 um/px."""
    extent = int(PATCH * math.exp(rng.uniform(math.log(0.8), math.log(1.25))))
    cells = (np.arange(GRID) + 0.5) * extent / GRID / MAP_MPP
    images, classes, nuclei = [], [], []
    while len(images) < size:
        slide = slides[rng.integers(len(slides))]
        top, left = (int(rng.integers(0, n - extent)) for n in slide.rgb.shape[:2])
        rows, cols = (top / MAP_MPP + cells).astype(int), (left / MAP_MPP + cells).astype(int)
        token_class = slide.classes[np.ix_(rows, cols)]
        if (token_class > 0).mean() < 0.6:
            continue
        pixels = slide.rgb[top : top + extent, left : left + extent]
        images.append(cv2.resize(pixels, (PATCH, PATCH), interpolation=cv2.INTER_LINEAR))
        classes.append(token_class)
        nuclei.append(slide.nuclei[np.ix_(rows, cols)])
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    stacked = []
    for array in (np.stack(images), np.stack(classes), np.stack(nuclei)):
        array = np.rot90(array, turns, (1, 2))
        stacked.append(torch.from_numpy(np.ascontiguousarray(array[:, ::-1] if flip else array)))
    token_class = stacked[1].flatten(1).long()
    share = F.one_hot(token_class, len(CLASSES) + 1).float().mean(1)
    return Batch(stacked[0].permute(0, 3, 1, 2).float() / 255, share, token_class, stacked[2].flatten(1))


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Other stains, light, focus and noise: (B, 3, H, W) in [0, 1] -> the same shape. Works in optical density."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    count = len(images)
    density = -images.clamp(min=1 / 255).log()
    mixing = torch.eye(3) + 0.10 * normal(count, 3, 3)
    strength = (0.22 * normal(count, 1, 1)).exp()
    density = torch.einsum("bij,bjhw->bihw", mixing * strength, density)
    light = (0.05 * normal(count, 3, 1, 1)).clamp(-0.15, 0.08)
    images = ((-density).exp() * (1 + light)).clamp(0, 1)
    for chosen in torch.randperm(count, generator=generator).split(count // 4)[:2]:
        sigma = 0.4 + 0.7 * float(torch.rand((), generator=generator))
        weights = torch.exp(-((torch.arange(-3, 4) / sigma) ** 2) / 2)
        weights = (weights / weights.sum()).repeat(3, 1)
        blurred = F.conv2d(images[chosen], weights[:, None, :, None], padding=(3, 0), groups=3)
        images[chosen] = F.conv2d(blurred, weights[:, None, None, :], padding=(0, 3), groups=3)
    return (images + 0.02 * torch.rand(count, 1, 1, 1, generator=generator) * normal(*images.shape)).clamp(0, 1)


class Teacher(nn.Module):
    """The backbone that is shipped, and the three heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        backbone = timm.create_model(
            "vit_tiny_patch16_224", img_size=PATCH, patch_size=TOKEN, embed_dim=192, depth=7, num_heads=3,
            num_classes=0, global_pool="token", drop_path_rate=0.05,
        )  # fmt: skip
        self.backbone = cast(VisionTransformer, backbone)
        self.share = nn.Linear(192, len(CLASSES) + 1)
        self.token_class = nn.Linear(192, len(CLASSES) + 1)
        self.token_nuclei = nn.Linear(192, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss, and accuracy of the leading class."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        tokens = self.backbone.forward_features((batch.images - mean) / std).float()  # [B, 1 + 64, 192]
        share, dense = self.share(tokens[:, 0]), self.token_class(tokens[:, 1:])
        count = self.token_nuclei(tokens[:, 1:])[..., 0]
        loss = (
            F.cross_entropy(share, batch.share)
            + F.cross_entropy(dense.flatten(0, 1), batch.token_class.flatten())
            + 0.5 * F.smooth_l1_loss(count, batch.token_nuclei.log1p())
        )
        return loss, (share.argmax(1) == batch.share.argmax(1)).float().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description="train the demo's teacher")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--slides", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.time()

    first = DEMO_SEEDS + 10_000 * options.seed
    with ProcessPoolExecutor(options.threads, mp_context=get_context("spawn")) as pool:
        slides = list(pool.map(draw, range(first, first + options.slides)))
    print(f"drew {len(slides)} slides in {time.time() - started:.0f} s", flush=True)

    teacher = Teacher()
    decayed = [p for p in teacher.parameters() if p.ndim > 1]
    others = [p for p in teacher.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    warm = min(150, options.steps // 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda i: min((i + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(i / options.steps, 1))))
    )
    rng, generator = np.random.default_rng(options.seed), torch.Generator().manual_seed(options.seed)
    running = {"loss": 0.0, "accuracy": 0.0}
    for step in range(1, options.steps + 1):
        batch = sample(slides, options.batch_size, rng)
        batch = batch._replace(images=augment(batch.images, generator))
        with torch.autocast("cpu", torch.bfloat16):
            loss, accuracy = teacher(batch)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        for key, value in (("loss", loss), ("accuracy", accuracy)):
            running[key] += (value.item() - running[key]) / min(step, 50)
        if step % 50 == 0:
            line = ", ".join(f"{key} {value:.3f}" for key, value in running.items())
            print(f"step {step}: {line}, {time.time() - started:.0f} s", flush=True)
    save(teacher.backbone, options, time.time() - started)
    print(f"kNN accuracy on the demo's test patients: {demo_score(teacher.backbone):.3f}", flush=True)


@torch.inference_mode()
def demo_score(backbone: VisionTransformer, per_slide: int = 100) -> float:
    """kNN accuracy (k = 20) on the demo cohort's test patients, with its training patients as neighbours."""
    rng = np.random.default_rng(0)
    backbone = backbone.float().eval()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    embedded: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    names: dict[str, list[str]] = {"train": [], "test": []}
    for order in cohort_orders():
        if order.split not in embedded:
            continue
        rgb, layout, _, stain = draw_slide(0, order)
        regions = Regions(map_at(layout, REGION_MPP), REGION_MPP, CLASSES)
        extent, patches = round(PATCH / stain.mpp), []
        while len(patches) < per_slide:
            x, y = rng.uniform(0, SIZE_UM - PATCH - 1, 2)
            if (name := regions.label(x, y, PATCH)) is not None:
                row, col = int(y / stain.mpp), int(x / stain.mpp)
                pixels = rgb[row : row + extent, col : col + extent]
                patches.append(cv2.resize(pixels, (PATCH, PATCH), interpolation=cv2.INTER_AREA))
                names[order.split].append(name)
        images = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() / 255
        embedded[order.split].append(backbone((images - mean) / std).numpy())
    train, test = (np.concatenate(embedded[part]) for part in ("train", "test"))
    return knn_accuracy(train, names["train"], test, names["test"]).accuracy


def save(backbone: nn.Module, options: argparse.Namespace, seconds: float) -> None:
    """Half precision, timm's keys, and how it was made; written to a temporary name first."""
    from safetensors.torch import save_file

    state = {key: value.detach().half().contiguous() for key, value in backbone.state_dict().items()}
    made = {key: str(value) for key, value in vars(options).items() if key != "out"}
    made |= {"script": "benchmarks/train_demo_giga.py", "first_slide_seed": str(DEMO_SEEDS + 10_000 * options.seed)}
    made |= {"seconds": f"{seconds:.0f}", "classes": json.dumps(CLASSES), "licence": "Apache-2.0"}
    temporary = options.out.with_name(options.out.name + ".part")
    save_file(state, temporary, metadata=made)
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    temporary.replace(options.out)
    print(f"wrote {options.out}: {options.out.stat().st_size / 1e6:.1f} MB after {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
