"""Embeddings of frozen networks read from disk in the place of running them.

Letters: `B` images of a batch, `N` patch tokens, `D` width.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2l.encoders.encoder import Tokens
from g2l.errors import ConfigError
from g2l.training.cache.plan import Entry
from g2l.training.cache.table import Table


class TeacherCache:
    """What `g2l cache` wrote, opened for a training whose config must determine the very same rows.

    Attributes:
        repeat: rows; patch number i has row i % repeat.
        digests: network -> SHA-256 of all that determines its rows.
        refused: batches that were not given, since a patch of theirs was replaced in another way.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Entry]) -> None:
        """Args: plan: what the training needs (plan.py).

        Raises:
            ConfigError: files are missing, unfinished, or of other settings, weights or patches; the message names what
                differs.
        """
        self.folder = folder
        self._tables = {network: open_table(folder / entry.file, entry) for network, entry in plan.items()}
        self.repeat = min(len(table) for table in self._tables.values())
        self.digests = {network: entry.digest for network, entry in plan.items()}
        self.refused = 0

    def tokens(self, batch: Mapping[str, Any], device: torch.device) -> dict[str, Tokens]:
        """Tokens of every network for a training batch, float32: cls (B, D), patches (B, N, D), or (B, 0, D) where no
        term reads them.

        A network is missing where a patch of the batch is not the one that was embedded: a patch that cannot be read,
        or lies on a slide given up by this process, is replaced, and that may have gone otherwise then. The network is
        to run for this batch.
        """
        rows = batch["index"].cpu().numpy() % self.repeat
        attempts = batch["attempt"].cpu().numpy() if "attempt" in batch else np.zeros(len(rows))
        found: dict[str, Tokens] = {}
        for network, table in self._tables.items():
            if (table.columns["attempt"][rows] != attempts).any():
                self._refuse(int(rows[np.argmax(table.columns["attempt"][rows] != attempts)]))
                continue
            height, width, tokens = json.loads(table.about["grid"])
            cls = self._rows(table, "cls", rows, device)
            if "patches" in table.columns:
                patches = self._rows(table, "patches", rows, device)
            else:
                patches = cls.new_empty(len(rows), 0, tokens)
            found[network] = Tokens(cls, patches, (height, width))
        return found

    def __str__(self) -> str:
        names = ", ".join(f"{network} ({digest[:12]})" for network, digest in self.digests.items())
        return f"teacher embeddings from cache {self.folder}: {self.repeat} patches of {names}"

    @staticmethod
    def _rows(table: Table, name: str, rows: np.ndarray, device: torch.device) -> Tensor:
        column = table.columns[name]
        dtype = torch.float16 if column.dtype == np.float16 else torch.float32
        on_gpu = device.type == "cuda"
        values = torch.empty(len(rows), *column.shape[1:], dtype=dtype, pin_memory=on_gpu)
        np.take(column, rows, 0, values.numpy(), "clip")  # "raise" would first take them into memory of its own
        return values.to(device, non_blocking=on_gpu).float()

    def _refuse(self, row: int) -> None:
        if not self.refused:
            warnings.warn(
                f"patch {row} is another one than when {self.folder} was made, as one of the two could not be read; "
                "batches that hold such patches run through the teacher",
                stacklevel=3,
            )
        self.refused += 1


def open_table(file: Path, entry: Entry) -> Table:
    """The finished table of one network.

    Raises:
        ConfigError: as `TeacherCache`.
    """
    again = "run g2l cache with this config and another --out"
    if not file.is_file():
        raise ConfigError(f"{file} is missing or unfinished; {again.replace('another', 'that')}")
    table = Table(file)
    differences = entry.differences(json.loads(table.about.get("identity", "{}")))
    if differences:
        raise ConfigError(f"{file} was made for something else: {differences}; change it back, or {again}")
    if entry.patches and "patches" not in table.columns:
        raise ConfigError(f"{file} holds no patch tokens, but a term reads them; set its patch: 0, or {again}")
    return table
