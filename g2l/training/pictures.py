"""Pictures of a run: what its networks see, and their patch tokens as colours.

Letters: `B` images, `H` pixels of a view, `N` patch tokens on a grid of (h, w), `D` width.
"""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn.functional import interpolate, pad

from g2l.data.masks import draw_masks
from g2l.encoders.encoder import Tokens
from g2l.training.batch import Batch
from g2l.training.distiller import Distiller
from g2l.training.terms import STUDENT

GREY = 0.5  # of masked patches


def token_pca(tokens: Tokens, like: Tokens | None = None) -> Tensor:
    """Patch tokens as colours: the first three principal components over all B images, each scaled to [0, 1] between
    its 2nd and 98th percentile.

    Args:
        tokens: of one network.
        like: of another network on the same images, whose width and grid may differ. The three components are then
            turned (`aligned`) towards its own, so that equal colours mean equal things.
    Returns:
        (B, 3, h, w).
    """
    scores = _scores(tokens)
    if like is not None:
        scores = aligned(scores, _scores(like))
    low, high = torch.quantile(scores.transpose(0, 1).flatten(1), torch.tensor([0.02, 0.98], device=scores.device), 1)
    low, high = low[:, None, None], high[:, None, None]
    return ((scores - low) / (high - low).clamp_min(1e-8)).clamp(0, 1)


def _scores(tokens: Tokens) -> Tensor:
    """The first three principal components, (B, 3, h, w), of mean 0 over images and places."""
    flat = tokens.patches.float().flatten(0, 1)  # [B N, D]
    centred = flat - flat.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    scores = centred @ axes[:3].T
    # A component's sign is arbitrary; its largest loading is made positive so that pictures of two steps compare.
    scores = scores * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign().T
    return scores.unflatten(0, (tokens.patches.shape[0], *tokens.grid)).permute(0, 3, 1, 2)


def aligned(scores: Tensor, reference: Tensor) -> Tensor:
    """Scores (B, 3, h, w) rotated, permuted and mirrored in their three dimensions to fit the reference
    (B, 3, h', w') best by least squares: orthogonal Procrustes. Distances between tokens stay as they are.

    Source: Schoenemann 1966.
    """
    here = scores
    if here.shape[2:] != reference.shape[2:]:
        here = interpolate(here, reference.shape[2:], mode="bilinear", align_corners=False, antialias=True)
    left, _, right = torch.linalg.svd(torch.einsum("bihw,bjhw->ij", here, reference))  # [3, 3]
    return torch.einsum("bihw,ij->bjhw", scores, left @ right)


def mosaic(rows: list[Tensor], gap: int = 2) -> Tensor:
    """Rows of B pictures (B, 3, H, H), one row under the other with white gaps: (3, height, width)."""
    lines = []
    for row in rows:
        padded = pad(row, (0, gap, 0, gap), value=1.0)
        lines.append(torch.cat(list(padded), dim=2))
    return torch.cat(lines, dim=1)


def views_in_mode(module: Distiller, batch: Batch, training: bool) -> dict[str, Tensor]:
    """The views of a mode, by the flag of the module alone: its networks must not change mode for a picture."""
    was_training, module.training = module.training, training
    try:
        return module.make_views(batch)
    finally:
        module.training = was_training


class Pictures(Callback):
    """TensorBoard images at every validation: what teacher and student saw in training, and held-out patches with the
    PCA of the patch tokens of the student and of each frozen network side by side.
    """

    def __init__(self, images: int = 8) -> None:
        """Args: images: how many patches in a row."""
        self.images = images
        self._seen: Batch | None = None
        self._held_out: Batch | None = None

    def _few(self, batch: Batch) -> Batch:
        few = self.images
        return {"images": batch["images"][:few], "index": batch["index"][:few], "slides": batch["slides"][:few]}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keep the last training batch's first images."""
        self._seen = self._few(batch)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first held-out batch's first images."""
        if batch_idx == 0:
            self._held_out = self._few(batch)

    @torch.no_grad()
    @torch.compiler.set_stance("force_eager")  # these few images would be compiled for once
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw both pictures."""
        logger = next((each for each in trainer.loggers if isinstance(each, TensorBoardLogger)), None)
        if logger is None or not isinstance(pl_module, Distiller):
            return
        # On all processes, because a sharded student runs on all of them or on none; the logger writes on the first.
        if self._seen is not None:
            logger.experiment.add_image("seen/training", self.seen(pl_module, self._seen), trainer.global_step)
        if self._held_out is not None:
            logger.experiment.add_image("tokens/pca", self.pca(pl_module, self._held_out), trainer.global_step)

    @staticmethod
    def seen(module: Distiller, batch: Batch) -> Tensor:
        """A row for each crop of each view in use, drawn again from the patches' numbers: exactly what the networks
        saw. What the student did not see of a masked crop is grey; local crops are enlarged.
        """
        views = views_in_mode(module, batch, training=True)
        if any(need.masked for need in module.needs):
            masks = draw_masks(batch["index"], module.seed, module.student.grid, module.views.crops)
            grey = masks.to(views[STUDENT]).unflatten(1, module.student.grid).unsqueeze(1)  # [crops B, 1, h, w]
            grey = interpolate(grey, module.views.size)
            views[STUDENT] = views[STUDENT] * (1 - grey) + GREY * grey
        rows: list[Tensor] = []
        for name in sorted(views, key=["student", "clean", "local"].index):
            rows += interpolate(views[name].cpu(), module.views.size).split(len(batch["index"]))
        return mosaic(rows)

    @staticmethod
    def pca(module: Distiller, batch: Batch) -> Tensor:
        """The patches, the student's tokens, each frozen network's tokens: one row each, all in the colours of the
        first frozen network, which stay as they are from step to step.
        """
        views = views_in_mode(module, batch, training=False)
        tokens = {need.network: module.tokens(need, views[need.view]) for need in module.held_out_needs}
        reference = next((tokens[name] for name in tokens if name != STUDENT), None)
        size = module.views.size
        order = [STUDENT, *(name for name in tokens if name != STUDENT)]
        colours = [interpolate(token_pca(tokens[name], reference), size, mode="nearest").cpu() for name in order]
        return mosaic([next(iter(views.values())).cpu(), *colours])
