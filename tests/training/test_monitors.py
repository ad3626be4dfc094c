"""What watches a run: collapse, the stop rule, throughput, pictures, schedules, parameter groups."""

import math

import pytest
import torch
from small import Networks, batches

from g2l.encoders.encoder import Tokens
from g2l.errors import ConfigError
from g2l.training.collapse import spread
from g2l.training.monitors import PaperStop, Pictures, Throughput, mosaic, token_pca
from g2l.training.optim import decay_groups
from g2l.training.schedules import cosine
from g2l.training.terms import Cosine, LogSum


def test_spread_tells_collapse_from_use() -> None:
    generator = torch.Generator().manual_seed(0)
    even = spread(torch.randn(500, 16, generator=generator))
    assert even["embedding_std"] == pytest.approx(1, abs=0.05)
    assert even["embedding_rank"] > 15
    line = spread(torch.randn(500, 1, generator=generator) * torch.randn(1, 16, generator=generator))
    assert line["embedding_rank"] == pytest.approx(1, abs=1e-3)
    point = spread(torch.ones(50, 16))
    assert point["embedding_std"] == pytest.approx(0, abs=1e-6)


def test_cosine_schedule_at_its_corners() -> None:
    assert [cosine(step, 10, 1.0, 0.0, warmup=4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine(4, 10, 1.0, 0.0, warmup=4) == 1.0
    assert cosine(7, 10, 1.0, 0.0, warmup=4) == pytest.approx(0.5)
    assert cosine(10, 10, 1.0, 0.1, warmup=4) == 0.1 == cosine(99, 10, 1.0, 0.1, warmup=4)
    assert cosine(3, 12, 0.04, 0.4) == pytest.approx(0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi / 4)) / 2)


def test_norms_biases_and_tokens_do_not_decay(networks: Networks) -> None:
    model = networks.distiller({"cosine": Cosine(networks.teacher)})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in decay_groups([model.student, model.terms]))  # type: ignore[attr-defined]
    assert decayed | plain == set(names.values()) and not decayed & plain
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert {"student.backbone.cls_token", "student.backbone.pos_embed"} <= plain
    assert {"terms.cosine.projectors.cls.weight", "student.backbone.patch_embed.proj.weight"} <= decayed


def test_paper_stop_consecutive_and_cumulative() -> None:
    # Ten steps at 1, then alternately above and below the mean, then always above.
    losses = [1.0] * 10 + [2.0, 0.1] * 6 + [3.0, 4.0, 5.0, 6.0, 7.0]
    first = {}
    for count in ("consecutive", "cumulative"):
        rule = PaperStop(window=10, patience=3, count=count)
        first[count] = next(step for step, loss in enumerate(losses) if rule.exceeded(loss))
    assert first == {"consecutive": 25, "cumulative": 16}
    with pytest.raises(ConfigError, match="at least 1"):
        PaperStop(window=0)


def test_paper_stop_resumes_where_it_was() -> None:
    losses = [1.0] * 10 + [2.0] * 3
    whole, half = PaperStop(10, 3), PaperStop(10, 3)
    for loss in losses:
        assert whole.exceeded(loss) == half.exceeded(loss)
    rest = PaperStop(10, 3)
    rest.load_state_dict(half.state_dict())
    assert whole.exceeded(9.0) and rest.exceeded(9.0)


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
    for step in range(3):
        watch.on_train_batch_start(trainer, module, batch, step)  # type: ignore[arg-type]
        watch.on_train_batch_end(trainer, module, None, batch, step)  # type: ignore[arg-type]
    assert module.logged["train/data_wait"] == pytest.approx(6 / 9)
    assert module.logged["train/images_per_second"] == pytest.approx(3 * 8 * 2 / 9)


def test_token_pca_shows_the_directions_of_greatest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q[:3]
    scores = torch.randn(2 * 16, 3, generator=generator) * torch.tensor([9.0, 3.0, 1.0])
    colours = token_pca(Tokens(torch.zeros(2, 12), (scores @ basis).unflatten(0, (2, 16)), (4, 4)))
    assert colours.shape == (2, 3, 4, 4)
    for channel in range(3):
        shown = colours[:, channel].flatten()
        inside = (shown > 0) & (shown < 1)
        correlation = torch.corrcoef(torch.stack([shown[inside], scores[:, channel][inside]]))[0, 1]
        assert abs(correlation) > 0.98


def test_pictures_show_what_the_networks_saw(networks: Networks) -> None:
    model = networks.distiller({"logsum": LogSum(networks.teacher, view="clean")})
    batch = batches(1, size=4)[0]
    picture = Pictures.seen(model, batch)
    views = model.make_views(batch)
    assert torch.equal(picture, mosaic([views["student"], views["clean"]]))
    assert model.training and model.student.training
    assert Pictures.pca(model.eval(), batch).shape == (3, 3 * 34, 4 * 34)


def test_mosaic_of_one_row_keeps_the_pictures() -> None:
    row = torch.rand(2, 3, 5, 5)
    whole = mosaic([row], gap=1)
    assert whole.shape == (3, 6, 12)
    assert torch.equal(whole[:, :5, 6:11], row[1])
    assert torch.equal(whole[:, 5], torch.ones(3, 12))
