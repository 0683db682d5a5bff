"""test_pvs.clicks: the simulated user on shapes with a known answer."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from test_pvs.clicks import (
    DEEPEST,
    INNER,
    LARGEST,
    Click,
    LoggedUser,
    SimulatedUser,
    box_around,
    correction_click,
    first_click,
)

HEIGHT, WIDTH = 60, 80
Y, X = np.mgrid[:HEIGHT, :WIDTH]
NOTHING = np.zeros((HEIGHT, WIDTH), bool)


def disc(x: int, y: int, radius: float) -> np.ndarray:
    return (X - x) ** 2 + (Y - y) ** 2 <= radius**2


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """A rectangle from (x0, y0) to (x1, y1), both included."""
    mask = NOTHING.copy()
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


RING = disc(40, 30, 20) & ~disc(40, 30, 12)
L_SHAPE = rectangle(10, 10, 15, 49) | rectangle(10, 44, 49, 49)


def test_first_click_is_the_centre_of_a_disc() -> None:
    assert first_click(disc(33, 21, 9)) == (33, 21)


@pytest.mark.parametrize("mask", [RING, L_SHAPE, disc(20, 20, 9) | disc(60, 20, 9)])
def test_first_click_is_the_pixel_of_the_mask_nearest_to_the_centre_of_mass(mask: np.ndarray) -> None:
    x, y = first_click(mask)
    assert mask[y, x]
    pixels = [(px, py) for py in range(HEIGHT) for px in range(WIDTH) if mask[py, px]]
    centre = np.mean(pixels, axis=0)
    assert not mask[int(centre[1]), int(centre[0])]  # the case is not the trivial one
    assert np.hypot(x - centre[0], y - centre[1]) == min(np.hypot(px - centre[0], py - centre[1]) for px, py in pixels)


def test_first_click_of_a_ring_is_the_upper_left_one_of_eight_equally_near_pixels() -> None:
    assert first_click(RING) == (39, 18)  # (40, 18) is in the hole


def test_missed_disc_gets_a_positive_click_in_its_middle() -> None:
    assert correction_click(disc(33, 21, 9), NOTHING) == (33, 21, 1)


def test_false_positive_disc_gets_a_negative_click_in_its_middle() -> None:
    assert correction_click(NOTHING, disc(33, 21, 9)) == (33, 21, 0)


def test_larger_of_two_regions_of_one_kind() -> None:
    assert correction_click(disc(20, 30, 10) | disc(60, 30, 12), NOTHING) == (60, 30, 1)


def test_larger_of_two_regions_of_two_kinds() -> None:
    assert correction_click(disc(20, 30, 10), disc(60, 30, 12)) == (60, 30, 0)
    assert correction_click(disc(20, 30, 12), disc(60, 30, 10)) == (20, 30, 1)


def test_the_deepest_error_is_clicked_even_if_another_has_more_pixels() -> None:
    long, thick = rectangle(0, 50, 79, 54), disc(40, 20, 9)  # 400 pixels and about 250
    assert correction_click(NOTHING, long | thick) == (40, 20, 0)
    assert correction_click(thick, long) == (40, 20, 1)
    # The other rule.
    assert correction_click(NOTHING, long | thick, correct=LARGEST)[1] == 52
    assert correction_click(thick, long, correct=LARGEST)[1:] == (52, 0)


def test_equally_deep_errors_of_two_kinds_get_a_negative_click() -> None:
    assert correction_click(disc(20, 30, 10), disc(60, 30, 10)) == (60, 30, 0)
    assert correction_click(disc(20, 30, 10), disc(60, 30, 10), correct=LARGEST) == (20, 30, 1)


def test_the_depth_of_an_error_is_that_among_all_errors_of_its_kind() -> None:
    """Regions that touch count as one: the published rule uses the distance to the nearest pixel without this kind of error."""
    two = rectangle(10, 10, 20, 20) | rectangle(21, 10, 31, 20)
    assert correction_click(two | disc(60, 40, 5), NOTHING)[1] == 15
    assert correction_click(NOTHING, disc(20, 40, 7) | two) == (20, 40, 0)


@pytest.mark.parametrize("correct", [DEEPEST, LARGEST])
def test_one_region_and_not_the_kind_with_the_larger_sum(correct: str) -> None:
    missed = disc(20, 15, 8) | disc(20, 45, 8)  # together more than the other one
    assert correction_click(missed, disc(60, 30, 10), correct=correct) == (60, 30, 0)


def test_a_ring_is_clicked_in_the_middle_of_its_band() -> None:
    x, y, label = correction_click(RING, NOTHING)
    assert label == 1
    assert np.hypot(x - 40, y - 30) == pytest.approx(16, abs=1)


def test_an_l_shape_is_clicked_at_its_corner() -> None:
    x, y, _ = correction_click(L_SHAPE, NOTHING)
    assert 11 <= x <= 14  # the corner, where both arms meet, is the widest part
    assert 45 <= y <= 48


def test_the_border_of_the_frame_is_a_border() -> None:
    # Without that, the deepest points of the half disc would lie on the border of the frame.
    assert correction_click(rectangle(0, 10, 20, 30), NOTHING) == (10, 20, 1)
    assert correction_click(np.ones((9, 9), bool), np.zeros((9, 9), bool)) == (4, 4, 1)


def test_nothing_to_correct() -> None:
    assert correction_click(L_SHAPE, L_SHAPE) is None
    assert SimulatedUser().click(0, 1, L_SHAPE, L_SHAPE) is None


def test_empty_masks_and_masks_of_different_sizes_are_errors() -> None:
    with pytest.raises(ValueError, match="empty"):
        first_click(NOTHING)
    with pytest.raises(ValueError, match="empty"):
        box_around(NOTHING)
    with pytest.raises(ValueError, match="differ in size"):
        correction_click(NOTHING, NOTHING[:-1])


def test_box() -> None:
    assert box_around(rectangle(3, 4, 20, 30)) == (3, 4, 21, 31)
    assert box_around(np.ones((60, 80), bool)) == (0, 0, 80, 60)
    assert box_around(rectangle(3, 4, 20, 30), INNER) == (3, 4, 20, 30)
    assert box_around(np.ones((60, 80), bool), INNER) == (0, 0, 79, 59)
    assert box_around(rectangle(79, 4, 79, 4), INNER) == box_around(rectangle(79, 4, 79, 4)) == (79, 4, 80, 5)


def test_clicks_can_be_read_from_the_output_json() -> None:
    user = SimulatedUser()
    first = user.click(3, 7, disc(33, 21, 9))
    second = user.click(4, 7, disc(33, 21, 9), disc(33, 21, 9) | disc(60, 30, 5))
    assert [first, second] == [Click(3, 7, 33, 21, 1), Click(4, 7, 60, 30, 0)]
    entries = json.loads(json.dumps([{**asdict(click), "iou": 0.5} for click in (first, second)]))
    again = LoggedUser(map(Click.of, entries))
    # Whatever is predicted, and wherever.
    assert [again.click(0, 1, RING, RING), again.click(0, 1, RING), again.click(0, 1, RING)] == [first, second, None]


def drawn_clicks(seed: int, video: str) -> list[Click]:
    user = SimulatedUser.of_run({"seed": seed}, video)
    return [user.click(frame, 1, *masks) for frame in range(5) for masks in ((disc(33, 21, 15),), (NOTHING, RING))]


def test_sampled_clicks_repeat_with_the_seed_and_differ_without() -> None:
    assert drawn_clicks(1, "dog") == drawn_clicks(1, "dog")
    assert drawn_clicks(1, "dog") != drawn_clicks(2, "dog")
    assert drawn_clicks(1, "dog") != drawn_clicks(1, "cat")


def test_sampled_clicks_are_well_inside_their_region_and_vary() -> None:
    clicks = drawn_clicks(1, "dog")
    first, corrections = clicks[::2], clicks[1::2]
    assert len({(click.x, click.y) for click in first}) > 1
    assert all(np.hypot(click.x - 33, click.y - 21) <= 8.5 and click.label == 1 for click in first)
    assert all(RING[click.y, click.x] and click.label == 0 for click in corrections)
