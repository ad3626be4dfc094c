"""Embeddings of held-out patients: gathered over a validation, then compared with every frozen network's."""

from collections.abc import Mapping

import torch
from lightning import LightningModule
from torch import Tensor

from g2l.encoders.encoder import Encoder, Tokens
from g2l.evaluation.measures.similarity import linear_cka
from g2l.training.collapse import spread
from g2l.training.terms import STUDENT, Need


class HeldOut:
    """The class embeddings of one validation, by network."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []

    def add(self, passes: Mapping[Need, Tokens]) -> None:
        """One batch."""
        self._rows.append({need.network: tokens.cls.float().cpu() for need, tokens in passes.items()})

    def measure(self, module: LightningModule, frozen: Mapping[str, Encoder]) -> dict[str, float]:
        """CKA of the student with each frozen network, and their mean `cka`; spread and rank of its embeddings; over
        the patches of all processes. Empty when no batch was added.
        """
        if not self._rows:
            return {}
        features = {}
        for network in self._rows[0]:
            local = torch.cat([row[network] for row in self._rows]).to(module.device)
            gathered = module.all_gather(local)
            assert isinstance(gathered, Tensor)
            features[network] = gathered.reshape(-1, local.shape[-1]).cpu()
        self._rows.clear()
        student = features[STUDENT]
        cka = {name: linear_cka(student.numpy(), features[name].numpy()) for name in frozen}
        found = {f"cka_{frozen[name].spec.name}": value for name, value in cka.items()}
        if cka:
            found["cka"] = sum(cka.values()) / len(cka)
        return found | spread(student)
