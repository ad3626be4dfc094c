"""Position embeddings of a weight file whose token grid, or class token, is not the model's."""

from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from g2l.errors import EncoderError


def fit_positions(
    state: dict[str, Tensor], module: nn.Module, file_grid: tuple[int, int] | None, where: str
) -> str | None:
    """Brings `pos_embed` (and `cls_token`) of `state` to the module's shape, in place.

    Two differences are known. A file with registers stores a position for its class token, where timm adds none
    (`no_embed_class`): the two are added up, which gives the same tokens. A file of another grid is resampled (bicubic,
    antialiased), but only where the entry states that grid as `file_grid`.

    Args:
        state: tensors under the module's keys.
        file_grid: (height, width) of the file's grid in tokens, None when it is the module's.
        where: the file, for messages.
    Returns:
        What was done, in words for the record, or None.
    Raises:
        EncoderError: when the grids differ and nothing states the file's.
    """
    key = next((k for k in ("pos_embed", "trunk.pos_embed") if k in state), None)
    target = module.state_dict().get(key) if key else None
    if key is None or target is None or state[key].ndim != 3 or target.ndim != 3:
        return None
    trunk = module.get_submodule(key.removesuffix("pos_embed").rstrip("."))
    grid = tuple(trunk.patch_embed.grid_size)  # type: ignore[union-attr]
    positions = state[key]
    source = file_grid or grid
    prefix = target.shape[1] - grid[0] * grid[1]
    cls_key = key.replace("pos_embed", "cls_token")
    with_class = {height * width + 1 for height, width in (source, grid)}
    if prefix == 0 and positions.shape[1] in with_class and cls_key in state:
        state[cls_key] = state[cls_key] + positions[:, :1]
        positions = state[key] = positions[:, 1:]
    if positions.shape[1] == target.shape[1]:
        return None  # also where `file_grid` differs: a checkpoint or bundle of ours has been resampled before
    if positions.shape[1] != source[0] * source[1] + prefix:
        raise EncoderError(
            f"{where} holds {positions.shape[1]} position embeddings, not the {prefix} + {source[0]}x{source[1]} "
            "expected; state the file's token grid as `file_grid: [height, width]` to have them resampled"
        )
    state[key] = resample_abs_pos_embed(positions, list(grid), list(source), num_prefix_tokens=prefix)
    return f"position embeddings resampled {source[0]}x{source[1]} -> {grid[0]}x{grid[1]} (bicubic, antialiased)"
