"""The simulated user: where it clicks, and its boxes."""

from __future__ import annotations

import pytest
import torch

from train.model.prompts import roughen, sample_box, sample_click


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clicks(masks: torch.Tensor, predicted: torch.Tensor | None, count: int = 300) -> tuple[list[tuple[int, int]], set[int]]:
    """Positions of many clicks on the first object, and their labels."""
    source = generator()
    drawn = [sample_click(masks, predicted, source) for _ in range(count)]
    assert all(points.shape == (len(masks), 1, 2) and labels.shape == (len(masks), 1) for points, labels in drawn)
    return [tuple(points[0, 0].int().tolist()) for points, _ in drawn], {int(labels[0, 0]) for _, labels in drawn}


def test_clicks_on_the_object() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2, 3:6] = True  # row 2, columns 3 to 5
    positions, labels = clicks(masks, None)
    counts = {position: positions.count(position) for position in set(positions)}
    assert counts.keys() == {(3, 2), (4, 2), (5, 2)}
    assert min(counts.values()) > 70  # of 100 on average, with a deviation of 8
    assert labels == {1}


def test_clicks_on_errors() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[0, 2, 3:6] = True
    predicted = torch.zeros_like(masks)
    predicted[0, 2, 4] = predicted[0, 6, 1] = True
    source = generator()
    for _ in range(50):
        points, labels = sample_click(masks, predicted, source)
        position = tuple(points[0, 0].int().tolist())
        assert (position, int(labels)) in {((3, 2), 1), ((5, 2), 1), ((1, 6), 0)}
    missed = masks.clone()
    assert clicks(masks, torch.zeros_like(masks))[1] == {1}
    assert clicks(missed, torch.ones_like(masks))[1] == {0}


def test_perfect_prediction_gets_a_click_on_the_background() -> None:
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    masks[0, 1, 2] = False
    positions, labels = clicks(masks, masks, 20)
    assert set(positions) == {(2, 1)}
    assert labels == {0}
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    assert sample_click(everywhere, everywhere, generator())[1].tolist() == [[0]]  # no background: somewhere
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert clicks(empty, None, 20)[1] == {0}


def test_objects_are_independent_and_draws_repeat() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4] = True
    masks[1, 4:] = True
    points, labels = sample_click(masks, None, generator(5))
    assert points[0, 0, 1] < 4 <= points[1, 0, 1]
    assert labels.tolist() == [[1], [1]]
    again, _ = sample_click(masks, None, generator(5))
    assert torch.equal(points, again)
    assert any(not torch.equal(points, sample_click(masks, None, generator(seed))[0]) for seed in range(5))


def test_boxes() -> None:
    masks = torch.zeros(2, 1024, 1024, dtype=torch.bool)
    masks[0, 300:401, 500:561] = True  # 60 wide, 100 high: noise up to 6 and 10 pixels
    masks[1, 100:900, 200:900] = True  # noise up to 20 pixels
    source = generator()
    drawn = [sample_box(masks, source) for _ in range(50)]
    boxes = torch.stack([points for points, _ in drawn])
    assert all(labels.tolist() == [[2, 3], [2, 3]] for _, labels in drawn)
    truth = torch.tensor([[[500, 300], [560, 400]], [[200, 100], [899, 899]]]).float()
    distance = (boxes - truth).abs().amax(dim=0)
    limit = torch.tensor([[[6, 10], [6, 10]], [[20, 20], [20, 20]]]).float()
    assert (distance <= limit).all()
    assert (distance > limit * 0.8).all()


def test_boxes_stay_inside() -> None:
    masks = torch.ones(1, 64, 64, dtype=torch.bool)
    source = generator()
    boxes = torch.cat([sample_box(masks, source)[0] for _ in range(30)])
    assert boxes.min() == 0
    assert boxes.max() == 63
    empty = sample_box(torch.zeros(1, 64, 64, dtype=torch.bool), source)[0]
    assert ((empty >= 0) & (empty <= 63)).all()
    assert (empty[0, 1] - empty[0, 0] > 40).all()


def disc(size: int, x: float, y: float, radius: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def test_central_clicks_are_deep_inside_the_largest_error() -> None:
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    predicted = torch.zeros_like(masks)
    masks[0, 10:50, 10:50] = True  # missed, 40 pixels wide
    masks[0, 90:93, 90:93] = True  # missed, too, and small
    predicted[1] = disc(96, 60, 30, 20)  # nothing is there
    source = generator()
    for _ in range(50):
        points, labels = sample_click(masks, predicted, source, central=True)
        assert labels[:, 0].tolist() == [1, 0]
        (x, y), (u, v) = points[:, 0].tolist()
        assert 23 <= x <= 36
        assert 23 <= y <= 36
        assert (u - 60) ** 2 + (v - 30) ** 2 <= 49


def test_a_long_thin_error_is_the_largest_by_its_area() -> None:
    masks = torch.zeros(1, 320, 320, dtype=torch.bool)
    masks[0, 5:9, 5:305] = True  # 1200 pixels
    masks[0, 100:120, 100:120] = True  # 400
    points, labels = sample_click(masks, None, generator(), central=True)
    assert labels.tolist() == [[1]]
    assert 5 <= points[0, 0, 1] <= 8


def test_a_central_click_where_nothing_is_wrong_is_on_the_background() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[0, :32] = True
    points, labels = sample_click(masks, masks, generator(), central=True)
    assert labels.tolist() == [[0]]
    assert points[0, 0, 1] > 40


@pytest.mark.slow
def test_rough_masks_have_something_of_the_object() -> None:
    masks = torch.stack([disc(192, 40, 50, 14), disc(192, 140, 150, 40), disc(192, 100, 30, 8)])
    video = torch.tensor([0, 0, 1])
    source, ious, with_another = generator(), [], [0, 0, 0]
    for _ in range(60):
        rough = roughen(masks, video, source)
        assert rough.shape == masks.shape
        assert rough.dtype == torch.bool
        ious.append((rough & masks).sum((1, 2)) / (rough | masks).sum((1, 2)))
        for i in range(3):
            with_another[i] += bool((rough[i] & masks[i - 1]).sum() > 0.9 * masks[i - 1].sum())
    mean = torch.stack(ious).mean(0)
    assert (mean > 0.3).all()
    assert (mean < 0.8).all()
    exact = [bool(iou == 1) for iou in torch.stack(ious).flatten()]
    assert 15 < sum(exact) < 60  # a fifth of 180
    # The object before it in the batch, if it is of the same image.
    assert with_another[1] > 5
    assert with_another[2] == 0
    assert torch.equal(roughen(masks, video, generator(3)), roughen(masks, video, generator(3)))
