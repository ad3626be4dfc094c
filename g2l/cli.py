"""The LightningCLI: parser mode, links between data and model, defaults; nothing else."""

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import lightning
import torch
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import StrategyRegistry

from g2l.data.module import SlideDataModule
from g2l.data.multicrop import MultiCrop  # noqa: F401  short class names in YAML resolve to what is imported here
from g2l.data.opening import DEMO, open_data
from g2l.deploy.callback import Export  # noqa: F401
from g2l.errors import ConfigError
from g2l.evaluation.embedding.predict import write_features
from g2l.evaluation.score import Score  # noqa: F401
from g2l.training import labels, losses, selfdistil  # noqa: F401
from g2l.training.cache.writing import DType, write_cache
from g2l.training.distiller import Distiller
from g2l.training.monitors import Throughput  # noqa: F401
from g2l.training.pictures import Pictures  # noqa: F401
from g2l.training.saving import KeepLast  # noqa: F401
from g2l.training.sharding import Sharded
from g2l.training.stops import CollapseStop, PaperStop  # noqa: F401


def the_seed(value: bool | int) -> int:
    """Lightning also takes true (a random seed) and false (none): such a run could not be repeated."""
    if isinstance(value, bool) or not 0 <= value < 2**32:
        raise ConfigError(f"seed_everything is {value}; give a whole number from 0 to {2**32 - 1}")
    return value


class Parser(LightningArgumentParser):
    """Tells a mistake in one line instead of two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{' '.join(message.split())}; python -m g2l fit --help lists every setting") from ex


class Trainer(lightning.Trainer):
    """Lightning's, with one verb more, which takes the same config."""

    report = ""

    def cache(
        self,
        model: Distiller,
        datamodule: SlideDataModule,
        out: str,
        dtype: DType = "float16",
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Embed the patches of a training with data.repeat by its frozen networks, to be read instead of computed.

        Args:
            model: of the config.
            datamodule: of the config.
            out: the folder of the embeddings; after an interruption the same command goes on.
            dtype: of the embeddings on disk; float32 takes twice the room.
            ckpt_path: not used; a run's own config.yaml names it.
            weights_only: not used.
        """
        self.report = write_cache(self, model, datamodule, Path(out), dtype)

    def predict(  # type: ignore[override]  # Lightning's gives back arrays; a user's are written
        self,
        model: Distiller,
        datamodule: SlideDataModule,
        out: str | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Features of the trained student for all slides of data.cohort, on a regular grid over their tissue, one HDF5
        file for each slide; of patches already cut, for all patches. After an interruption the same command goes on.

        Args:
            model: of the config.
            datamodule: of the config; its cohort, mpp, min_tissue, batch_size and threads count.
            out: folder of the files; default: features in trainer.default_root_dir.
            ckpt_path: the checkpoint that holds the student, or last.
            weights_only: not used; nothing else is ever read of a checkpoint.
        """
        self.report = write_features(self, datamodule, Path(out) if out else None, str(ckpt_path))


class CLI(LightningCLI):
    """`fit`, `validate`, `test`, `predict` and `cache`."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The Trainer's methods that are verbs."""
        skipped = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return dict.fromkeys(("fit", "validate", "test", "predict", "cache"), skipped)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """One seed serves the initial weights, the stream and the augmentations."""
        parser.link_arguments("seed_everything", "data.seed", compute_fn=the_seed)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=the_seed)

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """Lightning names an unknown strategy or precision with a ValueError. Embedding takes one device."""
        if self.subcommand == "predict":
            self.save_config_callback = None  # the run's own config stays
            kwargs |= {"logger": False, "strategy": "auto"}
        if self.subcommand == "cache":
            kwargs |= {"devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False}
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:
            raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error

    def before_instantiate_classes(self) -> None:
        """Refuse what would otherwise fail only after gigabytes of weights were loaded."""
        config = self.config[self.config.subcommand]
        data, trainer = config.data, config.trainer
        checkpoint = str(config.ckpt_path or "")
        if checkpoint not in ("", "last", "best") and not Path(checkpoint).is_file():
            raise ConfigError(f"--ckpt_path {checkpoint} does not exist; give a .ckpt file, or last")
        if self.config.subcommand in ("validate", "test", "predict") and not checkpoint:
            raise ConfigError(f"{self.config.subcommand} needs a checkpoint; give --ckpt_path FILE")
        if data.cohort != DEMO:
            open_data(data.cohort, data.manifest).split(data.hold_out, data.held_out_fraction, data.seed or 0)
        if str(trainer.accelerator) in ("gpu", "cuda") and not torch.cuda.is_available():
            raise ConfigError(
                f"trainer.accelerator is {trainer.accelerator} but no CUDA device is visible; "
                "set --trainer.accelerator=cpu (or auto), or check the driver with nvidia-smi"
            )
        root = Path(trainer.default_root_dir or ".")
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise ConfigError(
                f"output folder {root} cannot be written ({error.strerror}); set trainer.default_root_dir to another"
            ) from error


def main(arguments: list[str]) -> str:
    """Run a Trainer's verb; returns the reports of its callbacks."""
    # Without the setting, ${model.lr} in another branch of the file does not resolve below a subcommand.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)
    StrategyRegistry.register("sharded", Sharded, Sharded.__doc__, override=True)
    defaults: dict[str, Any] = {
        "gradient_clip_val": 1.0,
        "max_epochs": -1,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    # LightningCLI reads sys.argv, and its launcher of further processes starts sys.argv again.
    sys.argv[1:] = arguments
    try:
        cli = CLI(
            Distiller,
            SlideDataModule,
            trainer_class=Trainer,
            parser_class=Parser,
            trainer_defaults=defaults,
            seed_everything_default=0,
            # `omegaconf` resolves before the shell's overrides; `omegaconf+` after them.
            parser_kwargs={"parser_mode": "omegaconf+"},
            # The generated optimiser flags would replace configure_optimizers and include frozen parameters.
            auto_configure_optimizers=False,
            # Of a run that goes on in the same folder, the config is that of its last start.
            save_config_kwargs={"overwrite": True},
        )
    except MisconfigurationException as error:
        raise ConfigError(" ".join(str(error).split())) from error
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ConfigError(f"the checkpoint is of another model: {' '.join(str(error).split())[:300]} ...") from error
    reports = [getattr(callback, "report", "") for callback in cli.trainer.callbacks]  # type: ignore[attr-defined]
    return "\n".join(text for text in [*reports, getattr(cli.trainer, "report", "")] if text)
