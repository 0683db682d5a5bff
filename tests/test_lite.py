"""The Lite model with its bundled weights: installed or not, it is the default, and it finds the bunny."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from i2v import I2VVideoPredictor, build_i2v_video_predictor
from i2v.data.video_file import VideoFile
from i2v.load_config import DEFAULT_CONFIG, load_config, shipped_checkpoint
from i2v.segment import build_parser
from i2v.utils.jf import region_similarity

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def predictor() -> I2VVideoPredictor:
    return build_i2v_video_predictor("i2v-lite", device="cpu")


def test_is_the_default() -> None:
    assert DEFAULT_CONFIG == "i2v-lite"
    assert build_parser().parse_args(["video.mp4", "--output", "out"]).config == "i2v-lite"


@pytest.mark.slow
def test_weights_are_small(predictor: I2VVideoPredictor) -> None:
    path = shipped_checkpoint(load_config("i2v-lite"))
    assert path is not None
    assert path.stat().st_size <= 20e6
    assert set(torch.load(path, weights_only=True)) == {"model"}
    assert sum(parameter.numel() for parameter in predictor.model.parameters()) <= 8e6


# The bunny's outline in two frames of the clip, drawn by hand, in pixels.
# fmt: off
OUTLINES = {
    0: [
        (80, 128), (125, 140), (165, 133), (195, 131), (235, 140), (250, 138), (248, 85), (267, 105),
        (268, 138), (280, 143), (297, 92), (300, 115), (285, 150), (290, 170), (310, 190), (320, 215),
        (313, 250), (290, 262), (300, 230), (285, 215), (265, 245), (258, 270), (258, 295), (240, 297),
        (225, 285), (200, 282), (165, 265), (140, 240), (135, 215), (150, 195), (155, 175), (125, 168),
        (105, 172), (120, 155), (85, 137),
    ],
    24: [
        (81, 78), (113, 76), (125, 83), (175, 80), (197, 80), (197, 62), (150, 57), (165, 51),
        (197, 55), (198, 40), (215, 37), (240, 45), (255, 65), (268, 50), (290, 55), (285, 70),
        (278, 90), (283, 105), (297, 130), (305, 170), (308, 210), (303, 250), (293, 280), (270, 297),
        (268, 312), (248, 312), (230, 285), (215, 285), (205, 298), (172, 277), (172, 240), (168, 195),
        (175, 160), (180, 133), (150, 118), (115, 103), (85, 103),
    ],
}
# fmt: on
# A click on its face.
CLICKED_FRAME, CLICK = 24, (265, 90)


@pytest.mark.slow
def test_finds_the_bunny(predictor: I2VVideoPredictor) -> None:
    """One click, as in `make demo`."""
    state = predictor.init_state(VideoFile(str(PROJECT / "assets" / "bunny.mp4")))
    predictor.add_new_points_or_box(state, frame_idx=CLICKED_FRAME, obj_id=1, points=[CLICK], labels=[1])
    for frame, _, logits in predictor.propagate_in_video(state, start_frame_idx=CLICKED_FRAME, reverse=True):
        if frame in OUTLINES:
            bunny = np.zeros(logits.shape[-2:], np.uint8)
            cv2.fillPoly(bunny, [np.array(OUTLINES[frame])], 1)
            assert region_similarity(bunny > 0, (logits[0, 0] > 0).numpy()) > 0.6, f"frame {frame}"


@pytest.mark.slow
def test_weights_are_in_the_package(tmp_path: Path) -> None:
    """What a wheel installs has the weights in it, and finds them there."""
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(tmp_path / "build"), "build_py"]
    subprocess.run([*command, "--build-lib", str(tmp_path / "lib")], cwd=PROJECT, check=True, capture_output=True)
    program = (
        "from i2v.build_i2v import build_i2v; build_i2v('i2v-lite', device='cpu'); "
        "from i2v.load_config import load_config, shipped_checkpoint; "
        "print(shipped_checkpoint(load_config('i2v-lite')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()) == tmp_path / "lib" / "i2v" / "checkpoints" / "sam-i2v_lite.pt"
