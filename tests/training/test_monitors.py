"""Throughput, schedules, parameter groups."""

import math

import pytest
import torch
from small import Networks, batches

from g2l.training.losses import Cosine
from g2l.training.monitors import Throughput
from g2l.training.optim import parameter_groups
from g2l.training.schedules import cosine


def test_cosine_schedule_at_its_corners() -> None:
    assert [cosine(step, 10, 1.0, 0.0, warmup=4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine(4, 10, 1.0, 0.0, warmup=4) == 1.0
    assert cosine(7, 10, 1.0, 0.0, warmup=4) == pytest.approx(0.5)
    assert cosine(10, 10, 1.0, 0.1, warmup=4) == 0.1 == cosine(99, 10, 1.0, 0.1, warmup=4)
    assert cosine(3, 12, 0.04, 0.4) == pytest.approx(0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi / 4)) / 2)


def test_norms_biases_and_tokens_do_not_decay(networks: Networks) -> None:
    model = networks.distiller({"cosine": Cosine(networks.teacher)})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups({"student": model.student, "terms": model.terms})
    decayed, plain = ({names[id(p)] for g in groups if g["decays"] is on for p in g["params"]} for on in (True, False))
    assert decayed | plain == set(names.values()) and not decayed & plain
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"student.backbone.cls_token", "student.backbone.pos_embed"} <= plain
    assert {"terms.cosine.heads.cls.weight", "student.backbone.patch_embed.proj.weight"} <= decayed


def test_throughput_tells_waiting_from_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        def __init__(self) -> None:
            self.logged: dict[str, float] = {}

        def log(self, name: str, value: float) -> None:
            self.logged[name] = value

    class Trainer:
        world_size = 2

    clock = iter([10.0, 11.0, 14.0, 15.0, 18.0, 19.0, 19.0])  # steps of 1 s, between them waits of 3 s
    monkeypatch.setattr("g2l.training.monitors.time.perf_counter", lambda: next(clock))
    watch, module, trainer, batch = Throughput(every=3), Module(), Trainer(), batches(1)[0]
    batch["attempt"] = torch.tensor([0, 1, 0, 0, 0, 0, 2, 0])
    for step in range(3):
        watch.on_train_batch_start(trainer, module, batch, step)  # type: ignore[arg-type]
        watch.on_train_batch_end(trainer, module, None, batch, step)  # type: ignore[arg-type]
    assert module.logged["train/data_wait"] == pytest.approx(6 / 9)
    assert module.logged["train/replaced"] == 2 / 8
    assert module.logged["train/images_per_second"] == pytest.approx(3 * 8 * 2 / 9)
