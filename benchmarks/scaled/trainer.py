"""The `trainer` section of every `g2l fit` of the study."""

from pathlib import Path
from typing import Any

LOGGED = 20  # losses that a training logs


def trainer(run: Path, steps: int, accelerator: str, precision: str) -> dict[str, Any]:
    """Of a training of `steps` into the folder `run`.

    Nothing is chosen on held-out patches: they are looked at once, after the last step, as which a student is judged.
    """
    # flushed at once, or a run that is killed loses what it logged before its checkpoint
    logger = {"save_dir": str(run), "name": "losses", "flush_logs_every_n_steps": 1}
    return {
        "max_steps": steps,
        "val_check_interval": steps,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": max(1, steps // LOGGED),
        "accelerator": accelerator,
        "devices": 1,
        "precision": precision,
        "gradient_clip_val": 1.0,
        "default_root_dir": str(run),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {"class_path": "CSVLogger", "init_args": logger},
        "callbacks": [
            {"class_path": "KeepLast", "init_args": {"every_n_train_steps": max(1, steps // 4)}},
            {"class_path": "Export"},
        ],
    }
