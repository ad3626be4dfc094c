"""What a run draws: the views that the networks saw, and tokens of several networks in the same colours."""

import torch
from small import SIZE, Networks, batches

from g2l.data.masks import draw_masks
from g2l.data.multicrop import MultiCrop
from g2l.encoders.encoder import Tokens
from g2l.training.distiller import Distiller
from g2l.training.losses import LogSum
from g2l.training.pictures import Pictures, aligned, mosaic, token_pca
from g2l.training.selfdistil import Dino


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


def orthogonal(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(seed))).Q


def tokens_of(grid: tuple[int, int], width: int = 12) -> Tokens:
    """Smooth tokens whose first three components are about equally strong: their order and signs are arbitrary."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(4, 3, 3, 3, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, grid, mode="bilinear", align_corners=False)
    patches = fine.flatten(2).transpose(1, 2) @ orthogonal(width, 2)[:3]
    return Tokens(torch.zeros(4, width), patches, grid)


def test_a_rotated_and_wider_copy_gets_the_colours_of_the_original() -> None:
    teacher = tokens_of((8, 8))
    rotated = torch.cat([teacher.patches, torch.zeros(4, 64, 5)], 2) @ orthogonal(17, 3) * 7 + 2
    student = Tokens(torch.zeros(4, 17), rotated, teacher.grid)
    own = token_pca(teacher)
    assert torch.allclose(token_pca(student, like=teacher), own, atol=1e-4)
    assert torch.allclose(token_pca(teacher, like=teacher), own, atol=1e-5)


def test_a_turned_copy_within_the_three_components_gets_them_too() -> None:
    teacher = tokens_of((8, 8))
    scores = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    turned = torch.einsum("bihw,ij->bjhw", scores, orthogonal(3, 5))
    assert torch.allclose(aligned(turned, scores), scores, atol=1e-5)
    assert torch.equal(token_pca(teacher), token_pca(teacher, None))


def test_networks_with_other_grids_are_compared_too() -> None:
    teacher, student = tokens_of((12, 12)), tokens_of((8, 8))
    mirrored = Tokens(student.cls, -student.patches.flip(2), student.grid)
    colours = token_pca(mirrored, like=teacher)
    assert colours.shape == (4, 3, 8, 8)
    enlarged = torch.nn.functional.interpolate(colours, (12, 12), mode="bilinear", align_corners=False)
    assert (enlarged - token_pca(teacher)).abs().mean() < 0.05


def test_tokens_that_are_all_equal_are_drawn_too() -> None:
    same = Tokens(torch.zeros(2, 6), torch.ones(2, 16, 6), (4, 4))
    assert torch.isfinite(token_pca(same, like=tokens_of((4, 4))._replace(patches=torch.randn(2, 16, 12)))).all()


def test_pictures_show_what_the_networks_saw(networks: Networks) -> None:
    model = networks.distiller({"logsum": LogSum(networks.teacher, view="clean")})
    batch = batches(1, size=4)[0]
    picture = Pictures.seen(model, batch)
    views = model.make_views(batch)
    assert torch.equal(picture, mosaic([views["student"], views["clean"]]))
    assert model.training and model.student.training
    assert Pictures.pca(model.eval(), batch).shape == (3, 3 * 34, 4 * 34)


def test_pictures_of_self_distillation_show_every_crop_and_its_mask(networks: Networks) -> None:
    torch.manual_seed(0)
    views = MultiCrop(size=SIZE, local_size=16, locals=3, blur_kernel=5)
    dino = Dino(hidden=16, bottleneck=8, prototypes=24)
    model = Distiller(networks.student, {"dino": dino}, networks.weights, views=views)
    batch = batches(1, size=4)[0]
    side = SIZE + 2
    picture = Pictures.seen(model, batch)
    assert picture.shape == (3, (2 + 3) * side, 4 * side)
    masks = draw_masks(batch["index"], model.seed, model.student.grid).unflatten(0, (2, 4)).unflatten(2, (4, 4))
    shown = picture.unflatten(1, (5, side)).unflatten(3, (4, side))[:, :2, :SIZE, :, :SIZE]  # [3, crops, H, B, W]
    grey = (shown == 0.5).all(0).permute(0, 2, 1, 3).unflatten(2, (4, 8)).unflatten(4, (4, 8)).all(5).all(3)
    assert torch.equal(grey, masks)
    assert Pictures.pca(model.eval(), batch).shape == (3, 2 * side, 4 * side)


def test_mosaic_of_one_row_keeps_the_pictures() -> None:
    row = torch.rand(2, 3, 5, 5)
    whole = mosaic([row], gap=1)
    assert whole.shape == (3, 6, 12)
    assert torch.equal(whole[:, :5, 6:11], row[1])
    assert torch.equal(whole[:, 5], torch.ones(3, 12))
