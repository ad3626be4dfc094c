"""The networks of a training: which there are, and one forward pass of each that the terms need."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from g2l.data.views import Views
from g2l.encoders.encoder import Encoder, Tokens, create_encoder
from g2l.encoders.locate import require_weights
from g2l.errors import ConfigError
from g2l.training.sharding import compile_network
from g2l.training.terms import EMA, STUDENT, Need, Term

Init = Literal["weights", "random"]


def gather_needs(terms: Iterable[Term], views: Views) -> list[Need]:
    """The union of what the terms need of these views, each pass once."""
    union = frozenset[Need]().union(*(term.needs for term in terms))
    needs = sorted(need for need in union if need.view != "local" or views.locals)
    if views.crops < 2 and any(need.masked or need.network == EMA for need in needs):
        raise ConfigError(
            "Dino, Ibot, and terms with masked: true (the default of Expert, KoLeo and KDE) need two global crops of "
            f"an image, but {type(views).__name__} makes one; set model.views.class_path to MultiCrop, or masked: false"
        )
    return needs


def load_student(
    name: str, weights: str | None, init: Init, drop_path: float, needs: Sequence[Need], views: Views
) -> Encoder:
    """The student in train mode; it takes local crops where they are needed."""
    if init == "weights":
        require_weights([name], weights)
    local = any(need.view == "local" for need in needs)
    arguments = {"dynamic_img_size": True} if local else {}
    # An encoder comes in eval mode, and Lightning trains a model in the mode it finds it in.
    student = create_encoder(name, weights, init=init, training_args=arguments).train()
    if views.size != student.size:
        raise ConfigError(
            f"views are {views.size} px but {name} takes {student.size} px; set model.views.size or leave it out"
        )
    student.check(masked=any(need.masked for need in needs), size=views.local_size if local else None)
    return student.set_drop_path(drop_path) if drop_path else student


def load_frozen(names: Iterable[str], weights: str | None) -> dict[str, Encoder]:
    """Teachers and experts, without gradients, in eval mode."""
    frozen = {name: create_encoder(name, weights).requires_grad_(False).eval() for name in names}
    called = [encoder.spec.name for encoder in frozen.values()]
    if len(set(called)) < len(called):
        raise ConfigError(f"of the frozen networks {', '.join(frozen)} two have one name; rename a YAML of yours")
    return frozen


def frozen_names(needs: Iterable[Need]) -> list[str]:
    """Names of the frozen networks."""
    return sorted({need.network for need in needs} - {STUDENT, EMA})


def frozen_tokens(network: Encoder, view: Tensor) -> Tokens:
    """Tokens of a frozen network."""
    with torch.inference_mode():
        tokens = network(view)
    # Copies outside inference mode: autograd refuses to save an inference tensor for the backward pass.
    return Tokens(tokens.cls.clone(), tokens.patches.clone(), tokens.grid)


def held_out_needs(needs: Iterable[Need], terms: Mapping[str, Term]) -> list[Need]:
    """What held-out patches are seen by: all that terms with a value on them need, and every frozen network."""
    wanted = set(itertools.chain.from_iterable(term.needs for term in terms.values() if term.validates))
    frozen = {need for need in needs if need.network not in (STUDENT, EMA)}
    return sorted({need._replace(masked=False) for need in wanted | frozen} | {Need(STUDENT, "student")})


def prepare(
    frozen: Sequence[Encoder], trained: Sequence[Encoder], device: torch.device, half: bool, compiles: bool
) -> None:
    """Frozen networks to the device, in half precision where asked; all networks compiled for the shapes they meet."""
    for network in frozen:
        network.to(device)
        if half and not network.halved:
            network.halve()
    for network in [*frozen, *trained] if compiles else ():
        compile_network(network)
