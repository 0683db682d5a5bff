"""J and F: compared with straightforward definitions, and for shapes with known scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from i2v.utils.jf import ObjectScores, boundary_accuracy, jf_scores, region_similarity, tolerance_in_pixels
from tests.sav_dataset import oracle

SIZES = [(40, 56), (97, 61), (1, 1), (1, 30), (30, 1), (30, 2), (200, 260)]


def box(shape: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """A mask of the rectangle from (top, left) to before (bottom, right)."""
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def all_kinds_of_masks(shape: tuple[int, int], random: np.random.RandomState) -> list[np.ndarray]:
    """Masks that are empty, full, noise, single pixels, thin lines, and boxes inside and at each border."""
    height, width = shape
    noise = [random.rand(*shape) < share for share in (0.02, 0.5, 0.98)]
    y, x = random.randint(height), random.randint(width)
    pixels = [box(shape, y, x, y + 1, x + 1), box(shape, 0, 0, 1, 1), box(shape, height - 1, width - 1, height, width)]
    lines = [box(shape, y, 0, y + 1, width), box(shape, 0, x, height, x + 1)]
    parts = [box(shape, 0, 0, height // 2, width // 3), box(shape, height // 2, width // 3, height, width)]
    inside = [box(shape, height // 4, width // 4, height // 2 + i, width // 2 + i) for i in range(3)]
    return [np.zeros(shape, bool), np.ones(shape, bool), *noise, *pixels, *lines, *parts, *inside]


@pytest.mark.parametrize("shape", SIZES)
def test_equal_to_the_oracle(shape: tuple[int, int]) -> None:
    masks = all_kinds_of_masks(shape, np.random.RandomState(sum(shape)))
    for true in masks:
        for found in masks:
            assert region_similarity(true, found) == pytest.approx(oracle.region_similarity(true, found), abs=1e-12)
            assert boundary_accuracy(true, found) == pytest.approx(oracle.boundary_accuracy(true, found), abs=1e-12)


def test_memory_layout_does_not_matter() -> None:
    true, found = np.random.RandomState(0).rand(2, 30, 50) < 0.1
    expected = boundary_accuracy(true, found)
    assert boundary_accuracy(np.asfortranarray(true), found) == expected
    wide = np.zeros((60, 100), bool)
    wide[::2, ::2] = found
    assert boundary_accuracy(true, wide[::2, ::2]) == expected


def test_tolerance_is_rounded_up() -> None:
    assert tolerance_in_pixels(480, 854) == 8  # 7.84
    assert tolerance_in_pixels(300, 400) == 4  # exactly
    assert tolerance_in_pixels(1, 1) == 1


def test_known_scores() -> None:
    shape = (300, 400)  # tolerance 4
    true = box(shape, 100, 100, 200, 200)
    assert region_similarity(true, box(shape, 100, 150, 200, 250)) == pytest.approx(1 / 3)
    assert boundary_accuracy(true, true) == 1
    assert boundary_accuracy(true, box(shape, 104, 100, 204, 200)) == 1  # no boundary pixel moves by more than 4
    assert boundary_accuracy(true, box(shape, 105, 100, 205, 200)) < 1
    assert boundary_accuracy(true, box(shape, 220, 220, 280, 280)) == 0
    # The boundary of a pixel is itself and three neighbours. 5 to the right, the left two of one are 4 from the other's.
    pixel, moved = box(shape, 50, 50, 51, 51), box(shape, 50, 55, 51, 56)
    assert boundary_accuracy(pixel, moved) == 0.5


def test_empty_and_full_masks() -> None:
    shape = (30, 40)
    empty, full, some = np.zeros(shape, bool), np.ones(shape, bool), box(shape, 5, 5, 9, 9)
    assert region_similarity(empty, empty) == boundary_accuracy(empty, empty) == 1
    assert region_similarity(empty, some) == region_similarity(some, empty) == 0
    assert boundary_accuracy(empty, some) == boundary_accuracy(some, empty) == 0
    assert region_similarity(full, empty) == 0
    assert boundary_accuracy(full, empty) == 1  # neither has a boundary: DAVIS' rule


def test_cropped_masks_need_the_tolerance_of_the_frame() -> None:
    true, found = box((300, 400), 20, 20, 80, 80), box((300, 400), 26, 24, 90, 85)
    window = np.s_[10:100, 10:100]
    assert boundary_accuracy(true[window], found[window], tolerance_in_pixels(300, 400)) == boundary_accuracy(true, found)
    assert boundary_accuracy(true[window], found[window]) < boundary_accuracy(true, found)


@pytest.mark.parametrize("score", [region_similarity, boundary_accuracy, ObjectScores().add])
@pytest.mark.parametrize(
    ("true", "found"),
    [
        (np.zeros((4, 5), bool), np.zeros((5, 4), bool)),
        (np.zeros((4, 5), bool), np.zeros((1, 4, 5), bool)),
        (np.zeros((1, 4, 5), bool), np.zeros((1, 4, 5), bool)),
        (np.zeros((0, 5), bool), np.zeros((0, 5), bool)),
        (np.zeros((4, 5), bool), np.full((4, 5), 255, np.uint8)),
    ],
)
def test_bad_masks(score, true: np.ndarray, found: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        score(true, found)


def test_video() -> None:
    shape = (20, 30)
    here, half, nothing = box(shape, 0, 0, 10, 10), box(shape, 0, 0, 5, 10), np.zeros(shape, bool)
    true = np.array([[here, nothing], [here, nothing], [here, nothing], [here, here]])
    found = np.array([[nothing, here], [here, here], [half, nothing], [nothing, nothing]])
    scores = jf_scores(true, found)
    assert scores[0].j == pytest.approx(75)
    assert scores[0].j_and_f == pytest.approx((scores[0].j + scores[0].f) / 2)
    assert all(math.isnan(number) for number in scores[1])  # only the last frame of the ground truth shows it
    scores = jf_scores(true, found, skip_first_and_last=False)
    assert scores[0].j == pytest.approx(100 * (0 + 1 + 0.5 + 0) / 4)
    assert scores[1].j == pytest.approx(100 * (0 + 0 + 1 + 0) / 4)


def test_object_is_scored_from_its_first_frame() -> None:
    here, nothing = box((20, 30), 5, 5, 10, 10), np.zeros((20, 30), bool)
    true = np.array([[nothing]] * 3 + [[here]] + [[nothing]])
    assert jf_scores(true, np.zeros_like(true), False)[0].j == 50  # missed in one frame, correctly empty in the next
    early = true.copy()
    early[1] = here
    assert jf_scores(true, early, False)[0].j == pytest.approx(75)  # wrong, right, right, right


def test_missing_frames_score_zero() -> None:
    here = box((20, 30), 5, 5, 10, 10)
    scores = ObjectScores()
    scores.add(here, here)
    assert scores.percent() == (100, 100)
    assert scores.percent(num_missing=3) == (25, 25)


@pytest.mark.parametrize("shapes", [((4, 1, 5, 6), (4, 2, 5, 6)), ((4, 5, 6), (4, 5, 6)), ((2, 1, 5, 6), (2, 1, 5, 6))])
def test_bad_videos(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"expected|no frame"):
        jf_scores(*(np.zeros(shape, bool) for shape in shapes))
