"""Clicks and boxes drawn as maps."""

from __future__ import annotations

import torch

from i2v.modeling.sam.dense_prompts import DensePromptEncoder


def encoder() -> DensePromptEncoder:
    return DensePromptEncoder(embed_dim=16, channels=[8, 4, 2], image_size=64, feature_stride=16, click_radius=2)


def test_shapes_from_coarse_to_fine() -> None:
    points, labels = torch.zeros(3, 2, 2), torch.ones(3, 2, dtype=torch.int32)
    for mask in (None, torch.randn(3, 1, 32, 32)):
        dense, levels = encoder()(points, labels, mask)
        assert dense.shape == (3, 16, 4, 4)
        assert [tuple(level.shape) for level in levels] == [(3, 8, 8, 8), (3, 4, 16, 16), (3, 2, 32, 32)]


def test_what_is_drawn() -> None:
    points = torch.tensor([[[10.0, 20.0], [50.0, 20.0], [8.0, 12.0], [39.0, 55.0], [32.0, 32.0]]])
    positive, negative, box = encoder().draw(points, torch.tensor([[1, 0, 2, 3, -1]]))[0]
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")

    def disc(x: float, y: float) -> torch.Tensor:
        centre = [(value + 0.5) / 2 - 0.5 for value in (x, y)]  # pixels have half the size of cells
        return ((columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= 4).float()

    assert torch.equal(positive, disc(10, 20))
    assert torch.equal(negative, disc(50, 20))
    assert box.sum() == 18 * 24
    assert box[5:29, 3:21].sum() == box.sum()


def test_padding_draws_nothing() -> None:
    drawn = encoder().draw(torch.full((2, 3, 2), 20.0), torch.full((2, 3), -1))
    assert drawn.shape == (2, 3, 32, 32)
    assert not drawn.any()


def test_thin_boxes_are_drawn() -> None:
    for x in range(10, 16):
        points = torch.tensor([[[float(x), 8.0], [x + 1.0, 40.0]]])
        box = encoder().draw(points, torch.tensor([[2, 3]]))[0, 2]
        assert box.any()
        assert box.any(0).sum() <= 3
