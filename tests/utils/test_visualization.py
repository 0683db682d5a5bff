"""Overlays, and videos of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from i2v.prompt import Prompt
from i2v.utils.visualization import VideoWriter, draw_overlay

WHITE, GREEN, RED = [255, 255, 255], [0, 200, 0], [220, 0, 0]
FRAME = np.full((60, 80, 3), 100, np.uint8)


def labelled(label: int = 1) -> np.ndarray:
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 10:30] = label
    return labels


def test_objects_are_tinted_and_outlined_and_the_rest_stays():
    labels = labelled(1)
    labels[40:50, 40:60] = 2
    frame = FRAME.copy()
    image = draw_overlay(frame, labels)
    np.testing.assert_allclose(image[20, 20], [114, 50, 50], atol=1)  # half grey, half (128, 0, 0)
    np.testing.assert_allclose(image[45, 50], [50, 114, 50], atol=1)
    assert image[10, 20].tolist() == image[40, 50].tolist() == WHITE
    assert (image[labels == 0] == 100).all()
    assert (frame == 100).all()
    assert image.dtype == np.uint8


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_opacity(alpha):
    np.testing.assert_allclose(draw_overlay(FRAME, labelled(3), alpha=alpha)[20, 20, 0], 100 + 28 * alpha, atol=1)


def test_no_object_and_no_prompt_is_the_frame():
    np.testing.assert_array_equal(draw_overlay(FRAME, labelled(0)), FRAME)


def test_prompts_are_drawn():
    prompts = {1: Prompt([(50.2, 40), (70, 20.4)], [1, 0]), 2: Prompt(box=(4, 34, 24, 54))}
    image = draw_overlay(FRAME, labelled(0), prompts)
    assert image[40, 50].tolist() == GREEN
    assert image[20, 70].tolist() == RED
    assert image[34, 14].tolist() == image[44, 24].tolist() == [0, 128, 0]
    assert image[44, 14].tolist() == [100, 100, 100]
    # Points at the border do no harm.
    draw_overlay(FRAME, labelled(0), {255: Prompt([(0, 0), (79.9, 59.9)], [1, 0], (0, 0, 80, 60))})


@pytest.mark.parametrize(("width", "height"), [(80, 60), (63, 47), (16, 200)])
def test_video_is_vp9_of_the_right_size_rate_and_colours(width, height, tmp_path):
    path = tmp_path / "a.mp4"
    with VideoWriter(path, 12.5, width, height) as video:
        for value in range(10):
            video.write(np.full((height, width, 3), (200, 20 * value, 30), np.uint8))
        assert not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    assert int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").lower() in (b"vp09", b"vp90")
    frames = []
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    # VP9's colours need even sides: an odd last row or column is repeated.
    assert [frame.shape for frame in frames] == [(height + height % 2, width + width % 2, 3)] * 10
    for value, frame in enumerate(frames):
        np.testing.assert_allclose(frame.mean((0, 1)), (200, 20 * value, 30), atol=12)


@pytest.mark.parametrize("old", [None, b"an old video"])
def test_video_that_is_not_finished_leaves_the_old_file(old, tmp_path):
    path = tmp_path / "a.mp4"
    if old:
        path.write_bytes(old)
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 10, 80, 60) as video:
        video.write(FRAME)
        raise KeyboardInterrupt
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.slow
def test_video_that_does_not_fit_on_the_disk(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows limits no file's size")
    noise = np.random.default_rng(0).integers(0, 256, (40, 120, 160, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        whole = pytest.raises(OSError, match=r"a\.mp4 is incomplete .*of 40 frames.*disk full")
        with whole, VideoWriter(tmp_path / "a.mp4", 10, 160, 120) as video:
            for frame in noise:
                video.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_video_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*a\.mp4"), VideoWriter(tmp_path / "no" / "a.mp4", 10, 80, 60):
        pass


def test_name_that_looks_like_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter("12:30.mp4", 10, 16, 8) as video:
        video.write(np.zeros((8, 16, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["12:30.mp4"]
