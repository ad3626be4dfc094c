"""The step: views -> tokens of every network -> terms -> one loss.

Letters: `B` images of this process, `S` pixels of a read patch, `H` pixels of a view, `D` width.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from lightning import LightningModule
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn

from g2l import __version__
from g2l.data.views import Views
from g2l.encoders.encoder import Encoder, Tokens, create_encoder
from g2l.encoders.locate import require_weights
from g2l.errors import ConfigError, TrainingError
from g2l.evaluation.similarity import linear_cka
from g2l.objectives.collective import all_sum
from g2l.training.collapse import spread
from g2l.training.optim import adamw
from g2l.training.schedules import cosine
from g2l.training.terms import STUDENT, Need, Term


class Batch(TypedDict):
    """What the loader delivers."""

    images: Tensor  # uint8 (B, S, S, 3)
    index: Tensor  # int64 (B,): the patches' numbers in the run
    slides: list[str]  # B names


class Distiller(LightningModule):
    """A student learns from frozen networks through a dictionary of named terms.

    The frozen networks live outside the module tree (in a tuple): they are in no checkpoint, are not broadcast by
    DDP, and no `train()` reaches them.
    """

    def __init__(
        self,
        student: str,
        terms: dict[str, Term],
        weights: str | None = None,
        student_init: Literal["weights", "random"] = "weights",
        views: Views | None = None,
        lr: float = 1e-4,
        lr_final: float = 0.0,
        warmup_steps: int = 0,
        weight_decay: float = 0.05,
        weight_decay_final: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        observe_patches: int = 2048,
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
        observe_patches: how many training patches give the targets' moments, in one pass before the first step.
        seed: of the augmentations; the command line links it to the data's seed.
        """
        super().__init__()
        active = {name: term for name, term in terms.items() if term.weight > 0}
        if not active:
            raise ConfigError("model.terms has no term of weight above 0: nothing would be trained")
        self.needs = sorted(frozenset[Need]().union(*(term.needs for term in active.values())))
        names = sorted({need.network for need in self.needs} - {STUDENT})
        require_weights([*names, *([student] if student_init == "weights" else [])], weights)
        # An encoder comes in eval mode, and Lightning trains a model in the mode it finds it in.
        self.student = create_encoder(student, weights, init=student_init).train()
        self._frozen = ({name: create_encoder(name, weights).requires_grad_(False).eval() for name in names},)
        for term in active.values():
            term.build(self.student, self.frozen)
        self.terms = nn.ModuleDict(active)
        self.views = views or Views(size=self.student.size)
        if self.views.size != self.student.size:
            raise ConfigError(
                f"views are {self.views.size} px but {student} takes {self.student.size} px; "
                "set model.views.size or leave it out"
            )
        self.lr, self.lr_final, self.warmup_steps, self.betas = lr, lr_final, warmup_steps, betas
        self.weight_decay = weight_decay
        self.weight_decay_final = weight_decay if weight_decay_final is None else weight_decay_final
        self.observe_patches, self.seed = observe_patches, seed
        self._held_out: list[dict[str, Tensor]] = []

    @property
    def frozen(self) -> dict[str, Encoder]:
        """The frozen networks by name."""
        return self._frozen[0]

    # --- the step ---------------------------------------------------------------------------------------------

    def make_views(self, batch: Batch) -> dict[str, Tensor]:
        """The views that the terms need, (B, 3, H, H) in [0, 1]; a pure function of the patches' numbers."""
        names = sorted({need.view for need in self.needs})
        return self.views(batch["images"], batch["index"], seed=self.seed, training=self.training, names=names)

    def tokens(self, need: Need, view: Tensor) -> Tokens:
        """One network's tokens of one view; an encoder that takes another size resizes the view itself."""
        if need.network == STUDENT:
            return self.student(view)
        with torch.inference_mode():
            tokens = self.frozen[need.network](view)
        # Copies outside inference mode: autograd refuses to save an inference tensor for the backward pass.
        return Tokens(tokens.cls.clone(), tokens.patches.clone(), tokens.grid)

    def forward_terms(self, batch: Batch) -> tuple[dict[str, Tensor], dict[Need, Tokens]]:
        """Every term's unweighted value, and the tokens they were computed from. Every network runs once per view."""
        views = self.make_views(batch)  # {view: [B, 3, H, H]}
        tokens = {need: self.tokens(need, views[need.view]) for need in self.needs}  # cls [B, D], patches [B, N, D]
        return {name: term(tokens) for name, term in self.terms.items()}, tokens

    def total(self, values: Mapping[str, Tensor]) -> Tensor:
        """The loss: the sum of weight x value, exactly what is optimised and logged."""
        return torch.stack([self._term(name).weight * value for name, value in values.items()]).sum()

    def _term(self, name: str) -> Term:
        term = self.terms[name]
        assert isinstance(term, Term)
        return term

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        values, _ = self.forward_terms(batch)
        loss = self.total(values)
        self._require_finite(loss, values, batch)
        self.log("train/loss", loss.detach(), prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in values.items()})
        return loss

    def _require_finite(self, loss: Tensor, values: Mapping[str, Tensor], batch: Batch) -> None:
        broken = all_sum((~torch.isfinite(loss.detach())).float())  # all processes stop together
        if broken == 0:
            return
        names = [name for name, value in values.items() if not torch.isfinite(value)] or ["(another process)"]
        path = Path(self.trainer.default_root_dir) / "nonfinite.ckpt"
        self.trainer.save_checkpoint(path)
        raise TrainingError(
            f"the loss is not finite at step {self.global_step} (term {', '.join(names)}; slides "
            f"{', '.join(sorted(set(batch['slides'])))}); the state is in {path}; lower model.lr or set "
            "trainer.gradient_clip_val, or look at these slides"
        )

    # --- before and around the steps --------------------------------------------------------------------------

    def _move_frozen(self) -> None:
        for network in self.frozen.values():
            network.to(self.device)

    def on_fit_start(self) -> None:
        """Check what only the trainer knows, bring the frozen networks to the device, and name the licences."""
        if self.trainer.max_steps < 1:
            raise ConfigError("trainer.max_steps is not set; patches are drawn without end, so give a number of steps")
        interval = self.trainer.val_check_interval
        if self.trainer.enable_validation and isinstance(interval, int) and self.trainer.max_steps % interval:
            raise ConfigError(
                f"trainer.max_steps {self.trainer.max_steps} is no multiple of trainer.val_check_interval {interval}: "
                "the last steps would be neither validated nor kept; change one of them"
            )
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise ConfigError(
                f"trainer.precision is {self.trainer.precision}; the losses and moments need float32 beside the "
                "networks: give 32-true or bf16-mixed"
            )
        exact = all(self._term(name).accumulates for name in self.terms)
        if self.trainer.accumulate_grad_batches > 1 and not exact:
            raise ConfigError(
                "trainer.accumulate_grad_batches is above 1, but the log of a sum is not the mean of logs: "
                "a log-sum term would optimise something else; raise data.batch_size or devices instead"
            )
        # The student sees tissue as the data show it, whatever resolution its architecture was published for.
        mpp = getattr(getattr(self.trainer, "datamodule", None), "mpp", None)
        if mpp is not None:
            self.student.spec = self.student.spec.override(mpp=mpp)
        self._move_frozen()
        for source in self.sources():
            origin = f" ({source['hub']})" if source["hub"] else ""
            rank_zero_info(f"{source['role']}: {source['name']}{origin}, licence: {source['licence']}")

    @property
    def _unobserved(self) -> list[Term]:
        return [self._term(name) for name in self.terms if self._term(name).observes]

    def on_train_start(self) -> None:
        """One pass over the first patches of the training stream for terms that need moments of the cohort."""
        waiting = self._unobserved
        if not waiting:
            return
        # The stream is a pure function of the patch number: this pass takes nothing away from the training's own.
        needs = {need for term in waiting for need in term.needs if need.network != STUDENT}
        seen = 0
        for batch in self.trainer.train_dataloader:  # type: ignore[union-attr]
            batch = self.trainer.strategy.batch_to_device(batch, self.device)
            with torch.no_grad(), self.trainer.precision_plugin.train_step_context():
                views = self.make_views(batch)
                tokens = {need: self.tokens(need, views[need.view]) for need in needs}
                for term in waiting:
                    term.observe(tokens)
            seen += len(batch["index"]) * self.trainer.world_size
            if seen >= self.observe_patches:
                return

    def on_validation_start(self) -> None:
        """The frozen networks may still be elsewhere when only validating."""
        self._move_frozen()
        if self._unobserved and not self.trainer.sanity_checking:
            raise TrainingError("the targets' moments are unknown before a training; give a checkpoint (--ckpt_path)")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Rates of this step, and random numbers (drop path) that depend on nothing but seed, step and process."""
        step, total = self.global_step, int(self.trainer.max_steps)
        lr = cosine(step, total, self.lr, self.lr_final, self.warmup_steps)
        decay = cosine(step, total, self.weight_decay, self.weight_decay_final)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay if group["decays"] else 0.0
        self.log("train/lr", lr)
        self.log("train/weight_decay", decay)
        micro = step * self.trainer.accumulate_grad_batches + batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(((self.seed * 1_000_003 + micro) * 65_537 + self.global_rank) % 2**63)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over student and heads; nothing frozen is in it."""
        return adamw([self.student, self.terms], self.lr, self.weight_decay, self.betas)

    # --- held-out patients ------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on held-out patients without augmentation; the embeddings are kept for the epoch's CKA."""
        if self._unobserved:
            return  # only in Lightning's sanity check, before the first step
        values, tokens = self.forward_terms(batch)
        size = len(batch["index"])
        named = {f"val/{name}": value for name, value in values.items()}
        self.log_dict({"val/loss": self.total(values)} | named, sync_dist=True, batch_size=size)
        self._held_out.append({need.network: tokens[need].cls.float().cpu() for need in self.needs})

    def on_validation_epoch_end(self) -> None:
        """CKA of the student with every frozen network (`val/cka`: their mean), spread and rank of its embeddings."""
        if not self._held_out:
            return
        features = {}
        for network in self._held_out[0]:
            local = torch.cat([row[network] for row in self._held_out]).to(self.device)
            gathered = self.all_gather(local)
            assert isinstance(gathered, Tensor)
            features[network] = gathered.reshape(-1, local.shape[-1]).cpu()
        self._held_out.clear()
        student = features[STUDENT]
        cka = {name: linear_cka(student.numpy(), features[name].numpy()) for name in self.frozen}
        self.log_dict({f"val/cka_{self.frozen[name].spec.name}": value for name, value in cka.items()}, sync_dist=True)
        self.log("val/cka", sum(cka.values()) / len(cka), prog_bar=True, sync_dist=True)
        self.log_dict({f"val/{name}": value for name, value in spread(student).items()}, sync_dist=True)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def sources(self) -> list[dict[str, Any]]:
        """Where every network comes from: role, name, hub id, licence, hash of the weights."""
        networks = [("student", self.student), *(("teacher", network) for network in self.frozen.values())]
        return [{"role": role} | network.source for role, network in networks]

    def best_student(self) -> Encoder:
        """A copy of the student with the weights of the best checkpoint on held-out patients, or as it is now where
        no checkpoint was kept.
        """
        student = copy.deepcopy(self.student).eval()
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        if best:
            state = torch.load(best, map_location=self.device, weights_only=True)["state_dict"]
            own = {key.removeprefix("student."): value for key, value in state.items() if key.startswith("student.")}
            student.load_state_dict(own)
        return student

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What an export needs to rebuild the student and to name all it was made from; plain types only."""
        checkpoint["g2l"] = {
            "version": __version__,
            "student": self.student.spec.to_dict(),
            "networks": self.sources(),
        }
