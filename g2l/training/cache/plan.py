"""Which embeddings of frozen networks can be kept, and what determines them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from lightning import Trainer
from torch import nn

from g2l.data.identity import identify_patches
from g2l.data.module import SlideDataModule
from g2l.data.views import Views
from g2l.encoders.encoder import Encoder
from g2l.errors import ConfigError
from g2l.training.terms import Need, Term, View

FORMAT = 1
# Probabilities of the views' settings that change colours or sharpness, of the student's view alone.
APPEARANCE = ("stain", "jitter", "grayscale", "blur", "solarize")
# Of an encoder's description, what its tokens depend on beside the weights.
FACTS = ("architecture", "args", "mean", "std", "size", "pooling", "interpolation", "resize", "file_grid", "norm_eps")


class Entry(NamedTuple):
    """What is kept of one frozen network.

    view: the one it sees. patches: whether a term reads its patch
    tokens. file: name of its file. identity: everything that determines its rows, by name, as plain JSON.
    """

    view: View
    patches: bool
    file: str
    identity: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def differences(self, other: Mapping[str, Any]) -> str:
        """What is different in another identity, as text: empty when nothing is."""
        names = [name for name in {**self.identity, **other} if self.identity.get(name) != other.get(name)]
        return ", ".join(f"{name} {_shown(other.get(name), self.identity.get(name))}".strip() for name in names)


class Training(Protocol):
    """What is looked at of a Distiller, which itself imports this module."""

    needs: list[Need]
    terms: nn.ModuleDict
    views: Views
    half_frozen: bool

    @property
    def frozen(self) -> Mapping[str, Encoder]: ...

    @property
    def trainer(self) -> Trainer: ...


def make_plan(model: Training, data: object) -> dict[str, Entry]:
    """What to keep of every frozen network of a training, by its name in the config.

    Args:
        model: a Distiller, attached to its trainer. data: the SlideDataModule, set up.
    Raises:
        ConfigError: a frozen network would see other pixels the next time, or patches do not repeat; every setting to
            change is named.
    """
    frozen, views = model.frozen, model.views
    if not isinstance(data, SlideDataModule):
        raise ConfigError(
            "teacher embeddings are kept for the patches of a SlideDataModule alone; set model.cache: null"
        )
    seen: dict[str, View] = {}
    for need in sorted(need for need in model.needs if need.network in frozen):
        if need.view == "local":
            raise ConfigError(
                f"{need.network} sees local crops, which are never the same; its embeddings cannot be kept"
            )
        seen[need.network] = need.view  # the later one, "student", where it sees both: they must be the same
    if not seen:
        raise ConfigError("model.terms has no frozen network, whose embeddings could be kept")
    _require_fixed(seen.values(), views, data)
    terms = [term for term in model.terms.values() if isinstance(term, Term)]
    reads = {need.network for term in terms if _reads_patches(term) for need in term.needs}
    half = model.half_frozen and model.trainer.precision == "bf16-mixed"
    precision = f"{model.trainer.precision}, frozen in bfloat16" if half else model.trainer.precision
    patches = identify_patches(data)
    plan: dict[str, Entry] = {}
    for name, view in seen.items():
        network = frozen[name]
        facts = {fact: value for fact, value in network.spec.to_dict().items() if fact in FACTS}
        own = {"format of the cache": FORMAT, "network": facts, "weights (SHA-256)": network.source["sha256"]}
        own |= {"precision": precision, "model.views.size": views.size}
        file = re.sub(r"[^\w.-]", "_", network.spec.name) + ".safetensors"
        identity = json.loads(json.dumps(own | patches))
        plan[name] = Entry(view, name in reads, file, identity)
    if len({entry.file for entry in plan.values()}) < len(plan):
        raise ConfigError(f"two of the networks {', '.join(plan)} have one name; rename a YAML of yours")
    return plan


def _require_fixed(names: Iterable[str], views: Views, data: SlideDataModule) -> None:
    # Of views of another class it is not known what they do.
    settings: dict[str, tuple[Any, Any]] = {"model.views.class_path": (type(views).__name__, Views.__name__)}
    settings |= {"model.views.flip": (max(views.flips), 0), "model.views.quarter_turns": (views.quarter_turns, False)}
    if "student" in names:
        of = views.photometry
        settings |= {f"model.views.{name}": (float(np.max(getattr(of, name))), 0) for name in APPEARANCE}
    settings["data.patch_size"] = (data.patch_size, views.size)
    changes = [f"{name}={_text(want)} (is {_text(value)})" for name, (value, want) in settings.items() if value != want]
    if not data.repeat:
        changes.append("data.repeat to the number of patches (is 0, which is patches without end)")
    if changes:
        clean = "; view: clean in the terms asks for less" if "student" in names else ""
        raise ConfigError(
            "teacher embeddings can be kept only where the teacher sees the same pixels again: set "
            f"{', '.join(changes)}{clean}"
        )


def _text(value: Any) -> str:
    """As in YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def _reads_patches(term: Term) -> bool:
    """Of a term that does not say so it is assumed."""
    return "patch" in getattr(term, "parts", ("patch",))


def _shown(then: Any, now: Any) -> str:
    """Values as they can be shown in a line; nothing of hashes and long ones."""
    texts = [json.dumps(value) for value in (then, now)]
    return f"{texts[0]} -> {texts[1]}" if max(map(len, texts)) < 40 else ""
