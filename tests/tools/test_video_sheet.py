"""tools/video_sheet.py draws the first, the last and the frames between in their places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from i2v.utils.visualization import VideoWriter


@pytest.fixture
def video_sheet(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("video_sheet")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Nine frames, each of one grey: 20, 40, ... 180."""
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 10, 64, 32) as writer:
        for i in range(9):
            writer.write(np.full((32, 64, 3), 20 * (i + 1), np.uint8))
    return path


def test_frames_in_their_places(video_sheet: ModuleType, video: Path, tmp_path: Path) -> None:
    video_sheet.main([str(video), str(tmp_path / "sheet.png"), "--count", "6", "--columns", "3", "--width", "32"])
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (32, 96, 3)
    greys = sheet.reshape(2, 16, 3, 32, 3).mean((1, 3, 4)).ravel()
    np.testing.assert_allclose(greys, [20, 60, 80, 120, 140, 180], atol=6)


@pytest.mark.parametrize(("count", "columns"), [(5, 3), (12, 3)])
def test_rows_must_be_full(
    video_sheet: ModuleType, video: Path, tmp_path: Path, count: int, columns: int, outcome: Callable
) -> None:
    arguments = [video, tmp_path / "sheet.png", "--count", count, "--columns", columns]
    status, text = outcome(video_sheet.main, *arguments)
    assert status == 1
    assert f"{count} frames: there are 9 of them, and rows of {columns}" in text
