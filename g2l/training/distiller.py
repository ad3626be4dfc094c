"""How the objective is trained: the step, its rates, held-out patients, checkpoints."""

import math
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn

from g2l import __version__
from g2l.data.record import Record, joined, record_of
from g2l.data.views import Views
from g2l.encoders.checkpoint import student_state
from g2l.encoders.encoder import Encoder
from g2l.errors import TrainingError
from g2l.training.batch import Batch
from g2l.training.cache.plan import make_plan
from g2l.training.cache.reading import TeacherCache
from g2l.training.checks import FiniteLoss, check_labels, check_trainer
from g2l.training.facts import Facts, data_facts, step_facts
from g2l.training.heldout import HeldOut
from g2l.training.networks import Init, prepare
from g2l.training.objective import Objective
from g2l.training.optim import clip_by_module
from g2l.training.recipe import Recipe
from g2l.training.saving import back_to_step
from g2l.training.sharding import copy_whole, shard
from g2l.training.terms import STUDENT, Term


class Distiller(Objective):
    """A student learns from frozen networks, and from the moving average of itself, through a dictionary of terms."""

    def __init__(
        self,
        student: str,
        terms: dict[str, Term],
        weights: str | None = None,
        student_init: Init = "weights",
        views: Views | None = None,
        lr: float = 1e-4,
        lr_final: float = 0.0,
        warmup_steps: int = 0,
        weight_decay: float = 0.05,
        weight_decay_final: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        layer_decay: float = 1.0,
        patch_embed_scale: float = 1.0,
        freeze_last_layer: int = 0,
        clip: Literal["whole", "module"] = "whole",
        drop_path: float = 0.0,
        ema_momentum: float = 0.992,
        ema_momentum_final: float = 1.0,
        result: Literal["student", "ema"] = "student",
        half_frozen: bool = True,
        compile: bool | None = None,
        checkpointing: bool = False,
        observe_patches: int = 2048,
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        """Args:
        student: a catalogue name, any timm name, or the path of a YAML of one's own.
        terms: the summands of the loss by name; the name appears in the log.
        weights: folder with <name>.safetensors for every network (not needed for weights that come with g2l).
        student_init: weights: start from its published weights; random: start from nothing.
        views: augmentation; default: `Views()` at the student's size.
        lr, lr_final: learning rate after warm-up and at the last step, cosine between them.
        warmup_steps: linear warm-up.
        weight_decay, weight_decay_final: the same for weight decay; None: constant.
        betas: of AdamW.
        layer_decay: the learning rate of each layer is that of the one above times this; 1: the same for all.
            patch_embed_scale: factor of the patch embedding's beside that.
        freeze_last_layer: steps for which the prototypes stay as they are.
        clip: whether trainer.gradient_clip_val is the norm of the whole gradient, or of each module's by itself.
        drop_path: stochastic depth of the student in training.
        ema_momentum, ema_momentum_final: of the moving average of the student, cosine between them over the run.
        result: what is validated, scored and exported: the student, or its moving average (whose val/loss is that of
            its tokens through the student's heads: judge it by val/cka).
        half_frozen: with trainer.precision bf16-mixed, the frozen networks' weights are bfloat16 as well.
        compile: torch.compile with fixed shapes; None: on a GPU alone, where it pays within minutes.
        checkpointing: of activations: the student's backward pass computes them again, for less memory.
        observe_patches: how many training patches give the targets' moments, in one pass before the first step.
        cache: folder made by `g2l cache` with this config, read in training instead of running the frozen networks.
        seed: of the augmentations; the command line links it to the data's seed.
        """
        super().__init__(student, terms, weights, student_init, views, drop_path, result, seed)
        if checkpointing:
            self.student.checkpoint_activations()
        self.recipe = Recipe(
            lr,
            lr_final,
            warmup_steps,
            weight_decay,
            weight_decay_final,
            betas,
            layer_decay,
            patch_embed_scale,
            freeze_last_layer,
            ema_momentum,
            ema_momentum_final,
            clip,
        )
        self.half_frozen, self.compiles, self._prepared = half_frozen, compile, False
        self.observe_patches, self.cache_folder = observe_patches, cache
        self._held_out, self._finite, self._watching = HeldOut(), FiniteLoss(), False
        self.distilled_on: Record | None = None
        self._facts: Facts = {}

    # --- the step ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        values, _ = self.forward_terms(batch)
        loss = self.total(values)
        self._finite.note(loss, values, batch["slides"])
        if self._watching:  # half a millisecond for each name, and the progress bar would wait for a GPU in every step
            self.log("train/loss", loss.detach().cpu(), prog_bar=True)
            self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})
            for name in values:
                self.log_dict({f"train/{name}_{what}": value for what, value in self.term(name).seen.items()})
        return loss

    # --- before and around the steps --------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Under trainer.strategy sharded, each process keeps its part of all that is trained, and of the average."""
        if self._trainer is not None:
            shard(self, self.trainer.strategy)

    def on_fit_start(self) -> None:
        """Check what only the trainer knows, bring the frozen networks to the device, and name the licences."""
        terms, data = {name: self.term(name) for name in self.terms}, getattr(self.trainer, "datamodule", None)
        check_trainer(self.trainer, terms, self.frozen)
        check_labels(terms, data)
        # The student sees tissue as the data show it, whatever resolution its architecture was published for.
        mpp = getattr(data, "mpp", None)
        if mpp is not None:
            for encoder in {self.student, self.result_encoder}:
                encoder.spec = encoder.spec.override(mpp=mpp)
        self.prepare_networks()
        # A run that goes on with other data has seen both.
        self.distilled_on = joined(self.distilled_on, record_of(data))
        self._facts = data_facts(data)
        if self.cache_folder is not None:
            self.cache = TeacherCache(Path(self.cache_folder), make_plan(self, data))
            rank_zero_info(str(self.cache))
        for source in self.sources():
            origin = f" ({source['hub']})" if source["hub"] else ""
            rank_zero_info(f"{source['role']}: {source['name']}{origin}, licence: {source['licence']}")

    def prepare_networks(self) -> None:
        """Frozen networks to the device, in half precision where the run is; all compiled where asked."""
        half = self.half_frozen and self.trainer.precision == "bf16-mixed"
        compiles = self.device.type == "cuda" if self.compiles is None else self.compiles
        trained = [self.student] if self.ema is None else [self.student, self._average]
        prepare(list(self.frozen.values()), trained, self.device, half, compiles and not self._prepared)
        self._prepared = True

    @property
    def _unobserved(self) -> list[Term]:
        return [self.term(name) for name in self.terms if self.term(name).observes]

    def on_train_start(self) -> None:
        """One pass over the first patches of the training stream for terms that need moments of the cohort."""
        waiting = self._unobserved
        if not waiting:
            return
        # The stream is a pure function of the patch number: this pass takes nothing away from the training's own.
        needs = sorted({need for term in waiting for need in term.needs if need.network in self.frozen})
        seen = 0
        for batch in self.trainer.train_dataloader:  # type: ignore[union-attr]
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            with torch.no_grad(), self.trainer.precision_plugin.train_step_context():
                passes = self.run(batch, needs)
                for term in waiting:
                    term.observe(passes)
            seen += len(batch["index"]) * self.trainer.world_size
            if seen >= self.observe_patches:
                return

    def on_test_start(self) -> None:
        """As before a validation."""
        self.on_validation_start()

    def on_validation_start(self) -> None:
        """The frozen networks may still be elsewhere when only validating."""
        self.prepare_networks()
        if self._unobserved and not self.trainer.sanity_checking:
            raise TrainingError("the targets' moments are unknown before a training; give a checkpoint (--ckpt_path)")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Rates of this step, and random numbers (drop path) that depend on nothing but seed, step and process."""
        step, total = self.global_step, int(self.trainer.max_steps)
        rates = self.recipe.apply(self.trainer.optimizers[0], step, total)
        if self.ema is not None:
            rates["ema_momentum"] = self._momentum = self.recipe.momentum(step, total)
        self._watching = (step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        for name in self.terms:
            term = self.term(name)
            term.start_step(step, total)
            term.watching = self._watching
            if term.scheduled:
                rates[f"{name}_weight"] = term.weight
        if self._watching:
            self.log_dict({f"train/{name}": value for name, value in rates.items()})
        micro = step * self.trainer.accumulate_grad_batches + batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(((self.seed * 1_000_003 + micro) * 65_537 + self.global_rank) % 2**63)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """The whole gradient by its norm, or each module's. Not by Lightning, which refuses it beside a fused AdamW.

        The last hook before the optimiser's step, of which there is none on a loss or gradient that is not finite.
        """
        parts = self._trained
        masking = parts.pop("masking", None)
        if masking is not None:  # the mask token counts to the student, as in DINOv2's backbone
            parts[STUDENT] = nn.ModuleList([parts[STUDENT], masking])
        norms = clip_by_module(parts, gradient_clip_val or math.inf, whole=self.recipe.clip == "whole")
        self._finite.note_gradient(norms)
        self._finite.require(self.trainer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimiser's step, and what follows once upon each: centres and the moving average."""
        super().optimizer_step(*args, **kwargs)
        for name in self.terms:
            self.term(name).end_step()
        if self.ema is not None:
            self.ema.update(self.averaged(), self._momentum)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over student and heads; nothing frozen is in it."""
        return self.recipe.optimizer(self._trained)

    @property
    def _trained(self) -> dict[str, nn.Module]:
        """What is optimised, and clipped, by name."""
        parts: dict[str, nn.Module] = {"masking": self.masking}
        parts |= {f"head {name}": head for name, head in self.heads.items()}
        parts |= {f"term {name}": term for name, term in self.terms.items()}
        return {STUDENT: self.student} | {
            name: part for name, part in parts.items() if next(part.parameters(), None) is not None
        }

    # --- held-out patients ------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on held-out patients without augmentation; the embeddings are kept for the epoch's CKA."""
        self._hold(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on the test part of the split."""
        self._hold(batch, "test")

    def _hold(self, batch: Batch, part: str) -> None:
        if self._unobserved:
            return  # only in Lightning's sanity check, before the first step
        for name in self.terms:
            self.term(name).watching = True
        values, passes = self.forward_terms(batch)
        if values:
            named = {f"{part}/loss": self.total(values)} | {f"{part}/{name}": value for name, value in values.items()}
            for name in values:
                named |= {f"{part}/{name}_{what}": value for what, value in self.term(name).seen.items()}
            self.log_dict(named, sync_dist=True, batch_size=len(batch["index"]))
        self._held_out.add(passes)

    def on_validation_epoch_end(self) -> None:
        """CKA of the student with every frozen network (`val/cka`: their mean), spread and rank of its embeddings."""
        self._measure("val")

    def on_test_epoch_end(self) -> None:
        """The same of the test part (`test/cka`)."""
        self._measure("test")

    def _measure(self, part: str) -> None:
        found = {f"{part}/{name}": value for name, value in self._held_out.measure(self, self.frozen).items()}
        self.log_dict(found, sync_dist=True)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def sources(self) -> list[dict[str, Any]]:
        """Where every network comes from: role, name, hub id, licence, hash of the weights, cache."""
        kept = self.cache.digests if self.cache else {}
        teachers = [network.source | {"cache": kept.get(name)} for name, network in self.frozen.items()]
        return [{"role": "student"} | self.student.source, *({"role": "teacher"} | source for source in teachers)]

    def best_student(self) -> Encoder:
        """A copy of the student (or of its moving average) with the weights of the best checkpoint on held-out
        patients, or as it is now where no checkpoint was kept.
        """
        student = copy_whole(self.result_encoder).eval()
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            content = torch.load(best, map_location="cpu", mmap=True, weights_only=True)
            student.load_state_dict(student_state(content))
        return student

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What an export needs to rebuild the student and to name all it was made from; plain types only."""
        weights = {name: self.term(name).weight for name in self.terms}
        checkpoint["g2l"] = {
            "version": __version__,
            "student": self.student.spec.to_dict(),
            "result": self.result,
            "weights": weights,
            "networks": self.sources(),
            "distilled_on": self.distilled_on,
            "training": step_facts(self._facts, self.trainer, weights),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Weights that change over the run are those of the checkpoint's step, also when only validating. A run goes on
        at the beginning of a step.
        """
        if self._trainer is not None:
            back_to_step(checkpoint, self.trainer.accumulate_grad_batches)
        self.distilled_on = checkpoint.get("g2l", {}).get("distilled_on")
        for name, weight in checkpoint.get("g2l", {}).get("weights", {}).items():
            if name in self.terms:
                self.term(name).weight = weight
