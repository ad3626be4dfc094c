"""Heads between a student's tokens and what they are compared with; a plain `nn.Linear` is one more."""

from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import weight_norm


def _plain(*layers: nn.Module) -> nn.Sequential:
    """The layers in a row, linear ones from a normal distribution of .02 cut at 2, without offset, as in DINO."""
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _weight_normed(width: int, out: int, trained: bool) -> nn.Linear:
    """A linear layer without bias whose rows have a direction and a length; all lengths are 1 at first."""
    # Directions keep torch's own initialisation, as in DINO, where only the layers before this one are drawn anew.
    layer = nn.Linear(width, out, bias=False)
    weight_norm(layer)
    lengths = layer.parametrizations["weight"].original0  # type: ignore[union-attr,index]
    assert isinstance(lengths, nn.Parameter)
    nn.init.ones_(lengths)
    lengths.requires_grad_(trained)
    return layer


def _unit(x: Tensor) -> Tensor:
    # Under autocast a layer returns bfloat16, in which a row of length 1 is only so to two or three digits.
    return normalize(x.float(), dim=-1)


class PrototypeHead(nn.Module):
    """DINO's head: three layers with GELU, L2 normalisation, cosine with each of the prototypes.

    `prototypes` is the last layer, the one that is frozen for the first steps.

    Source: Caron et al. 2021 (DINO), appendix C; Oquab et al. 2024 (DINOv2). In DINOv2's code, on which GPFM builds,
    the prototypes' lengths are trained; here as in DINO they stay 1, unless `trained_lengths`, so that a prototype
    cannot win by its length.
    """

    def __init__(
        self,
        width: int,
        hidden: int = 2048,
        bottleneck: int = 256,
        prototypes: int = 65536,
        trained_lengths: bool = False,
    ) -> None:
        """Args: widths of tokens, hidden layers and bottleneck; number of prototypes; whether their lengths learn."""
        super().__init__()
        self.mlp = _plain(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = _weight_normed(bottleneck, prototypes, trained_lengths)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (..., prototypes), in [-1, 1] with lengths of 1, of tokens (..., width)."""
        return self.prototypes(_unit(self.mlp(x)))


class ExpertHead(nn.Module):
    """GPFM's head for an expert: a linear bottleneck on the unit sphere, then a weight-normed linear layer.

    Its outputs span at most `bottleneck` dimensions, whatever the expert's features do.

    Source: Ma et al. 2024 (GPFM), their public code.
    """

    def __init__(self, width: int, target: int, bottleneck: int = 256) -> None:
        """Args: widths of tokens, of the expert's features, and of the bottleneck."""
        super().__init__()
        self.bottleneck = _plain(nn.Linear(width, bottleneck))
        self.last = _weight_normed(bottleneck, target, trained=True)

    def forward(self, x: Tensor) -> Tensor:
        """Predicted features (..., target) of tokens (..., width)."""
        return self.last(_unit(self.bottleneck(x)))


class MLPHead(nn.Module):
    """Two linear layers with GELU between them: no bottleneck unless `hidden` is one."""

    def __init__(self, width: int, target: int, hidden: int) -> None:
        """Args: widths of tokens, of the expert's features, and of the hidden layer."""
        super().__init__()
        self.mlp = _plain(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, target))

    def forward(self, x: Tensor) -> Tensor:
        """Predicted features (..., target) of tokens (..., width)."""
        return self.mlp(x)
