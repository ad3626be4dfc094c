"""The prototype head that DINO and iBOT share: one call for the class tokens and the masked tokens of a step.

Letters: `B` images, `V` crops of an image, `M` masked tokens, `K` prototypes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from g2l.errors import ConfigError
from g2l.objectives.heads import PrototypeHead
from g2l.training.terms import EMA, STUDENT, Need, Networks, Passes

GLOBAL, LOCAL, TEACHER = Need(STUDENT, "student", True), Need(STUDENT, "local"), Need(EMA, "student")


class PrototypeSizes(NamedTuple):
    """See `PrototypeHead`."""

    hidden: int
    bottleneck: int
    prototypes: int
    trained_lengths: bool


class Prototypes(nn.Module):
    """A head on the student, and its moving average on the EMA teacher (attached by the Distiller)."""

    def __init__(self, width: int, sizes: PrototypeSizes) -> None:
        """Args: width D of the student's tokens; sizes of the head."""
        super().__init__()
        self.sizes = sizes
        self.head = PrototypeHead(width, *sizes)
        self.averaged: tuple[nn.Module, ...] = ()  # in a tuple: it belongs to the EMA
        self.uses: set[str] = set()

    def attach(self, averaged: nn.Module) -> None:
        """Name the moving average of `head`."""
        self.averaged = (averaged,)

    def student(self, passes: Passes) -> dict[str, Tensor]:
        """Logits of the masked global crops' class tokens (`cls`, then those of `local` crops) and masked tokens
        (`patch`), each (rows, K); a part that no term uses is not computed.
        """
        return self._once(passes, "student", self.head, GLOBAL)

    @torch.no_grad()
    def teacher(self, passes: Passes) -> dict[str, Tensor]:
        """The same of the EMA teacher, which sees the global crops whole."""
        return self._once(passes, "teacher", self.averaged[0], TEACHER)

    def _once(self, passes: Passes, who: str, head: nn.Module, need: Need) -> dict[str, Tensor]:
        key = (id(self), who)
        if key not in passes.memo:
            parts: dict[str, Tensor] = {}
            if "cls" in self.uses:
                classes = [passes[need].cls]
                if who == "student" and LOCAL in passes:
                    classes.append(passes[LOCAL].cls)
                parts["cls"] = torch.cat(classes)  # [V B, D]
            if "patch" in self.uses:
                assert passes.masked is not None
                parts["patch"] = passes[need].patches.flatten(0, 1).index_select(0, passes.masked.rows)  # [M, D]
            logits = head(torch.cat(list(parts.values()))).split([len(x) for x in parts.values()])
            passes.memo[key] = dict(zip(parts, logits, strict=True))
        return passes.memo[key]


def shared_prototypes(networks: Networks, name: str, part: str, sizes: PrototypeSizes) -> Prototypes:
    """The head called `name`, made on first use; ConfigError when two terms want it of different sizes."""
    student = networks.student
    if student.embed_dim != student.token_dim:
        raise ConfigError(
            f"the class embedding of the student {student.spec.name} is {student.embed_dim} wide, its tokens "
            f"{student.token_dim}; Dino and Ibot share a head for both: take an entry with pooling: cls"
        )
    if name not in networks.shared:
        networks.shared[name] = Prototypes(student.embed_dim, sizes)
    found = networks.shared[name]
    assert isinstance(found, Prototypes)
    if found.sizes != sizes:
        raise ConfigError(f"two terms share the head {name} but give different sizes; make them equal")
    found.uses.add(part)
    return found
