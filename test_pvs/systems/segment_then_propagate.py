"""An image segmenter and a mask propagator as one system: clicks and boxes become a mask in the frame in which they are made,
and the propagator carries it through the video. The paper's rows of SAM with XMem++ and Cutie are of this kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2v.build_i2v import DEFAULT_CONFIG
from i2v.data.frames import ImageFolder
from test_pvs.systems.interface import Box, Point, SystemSettings, VideoSession, VideoSystem
from test_pvs.systems.predictors import SAMI2VSystem
from test_pvs.user_functions import find_function

# (image (H, W, 3) uint8 RGB, points, box, mask (H, W) bool that the object has, empty without) -> mask (H, W) bool
Segmenter = Callable[[np.ndarray, Sequence[Point], Box | None, np.ndarray], np.ndarray]
# The same for a frame of a video, by its index: what a `CarriedMaskSession` wants.
ToMask = Callable[[int, Sequence[Point], Box | None, np.ndarray], np.ndarray]

_PREFIX = "adapter."
OPTIONS = ("segmenter", "repository", "size")


class Propagator(ABC):
    """A method that carries masks through videos."""

    @abstractmethod
    def open(self, images: ImageFolder, to_mask: ToMask) -> VideoSession:
        """Start a video.

        Args:
            to_mask: turns prompts into masks.
        """


class SegmentThenPropagate(VideoSystem):
    """A system of both. A correction starts from the mask that the object has in that frame; the corrected mask is a new
    reference for the propagator."""

    def __init__(self, segmenter: Segmenter, propagator: Propagator) -> None:
        self._segmenter = segmenter
        self._propagator = propagator

    @classmethod
    def build(
        cls, settings: SystemSettings, propagator: Callable[[str, Mapping[str, str]], Propagator]
    ) -> SegmentThenPropagate:
        """Build one from settings.

        Args:
            settings: see `adapter_options`. propagator: makes one from a device and the options.

        Raises:
            ValueError: an unknown option; see also SAM-I2V and the propagator. ImportError: a package is missing.
        """
        options, rest = adapter_options(settings)
        # The propagator first: a missing package is found before weights are loaded.
        made = propagator(settings.device, options)
        return cls(build_segmenter(rest, options.get("segmenter")), made)

    def start(self, frames: Path) -> VideoSession:
        images = ImageFolder(frames)

        def to_mask(frame: int, points: Sequence[Point], box: Box | None, before: np.ndarray) -> np.ndarray:
            return self._segmenter(images[frame], points, box, before)

        return self._propagator.open(images, to_mask)


def adapter_options(settings: SystemSettings) -> tuple[dict[str, str], SystemSettings]:
    """The options of these systems, and the settings without them, which are the segmenter's.

    Overrides adapter.NAME=VALUE are options: "segmenter", see `build_segmenter`, and those of the propagator.

    Raises:
        ValueError: an unknown option.
    """
    ours = [text.removeprefix(_PREFIX) for text in settings.overrides if text.startswith(_PREFIX)]
    options = dict(text.split("=", 1) for text in ours if "=" in text)
    unknown = sorted(options.keys() - set(OPTIONS)) + [text for text in ours if "=" not in text]
    if unknown:
        raise ValueError(f"unknown {_PREFIX}{unknown[0]}: give {', '.join(f'{_PREFIX}{name}=...' for name in OPTIONS)}")
    rest = tuple(text for text in settings.overrides if not text.startswith(_PREFIX))
    return options, replace(settings, overrides=rest)


def build_segmenter(settings: SystemSettings, function: str | None = None) -> Segmenter:
    """The image segmenter of settings.

    Args:
        function: "package.module:function", which is called with the settings and returns a `Segmenter` or a predictor with
            the calls of segment-anything's `SamPredictor`. By default SAM-I2V segments single images.
    """
    if function is None:
        config = settings.config or DEFAULT_CONFIG
        return SingleFrame(SAMI2VSystem(config, settings.checkpoint, settings.device, settings.precision, settings.overrides))
    found = find_function(function)(settings)
    return WithSamPredictor(found) if hasattr(found, "set_image") else found


class SingleFrame:
    """Segments images with SAM-I2V: each is a video of one frame, so that there is no memory."""

    def __init__(self, system: SAMI2VSystem) -> None:
        self._system = system

    def __call__(self, image: np.ndarray, points: Sequence[Point], box: Box | None, before: np.ndarray) -> np.ndarray:
        session = self._system.start(image[None])
        if before.any():
            session.prompt(0, 1, mask=before)
        for shown in _one_by_one(points):
            scores = session.prompt(0, 1, points=shown, box=box)
        return scores > 0


class WithSamPredictor:
    """Segments images with a predictor that has the calls of segment-anything's `SamPredictor` (set_image, predict)."""

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor

    def __call__(self, image: np.ndarray, points: Sequence[Point], box: Box | None, before: np.ndarray) -> np.ndarray:
        self._predictor.set_image(image)
        low = _low_resolution(before) if before.any() else None
        for shown in _one_by_one(points):
            masks, scores, lows = self._predictor.predict(
                point_coords=np.array([point[:2] for point in shown], np.float32) if shown else None,
                point_labels=np.array([point[2] for point in shown], np.int32) if shown else None,
                box=None if box is None else np.asarray(box, np.float32),
                mask_input=low,
                # One click may mean a part or the whole, and the best guess is taken; more than that is clear.
                multimask_output=len(shown) == 1 and box is None and low is None,
            )
            best = int(np.argmax(scores))
            low = lows[best : best + 1]
        return np.asarray(masks[best]) > 0


def _one_by_one(points: Sequence[Point]) -> list[Sequence[Point]]:
    """The clicks as a person makes them, each with those before; once nothing if there is none."""
    return [points[:number] for number in range(1, len(points) + 1)] or [()]


_LOW_SIDE, _LOW_LOGIT = 256, 10.0


def _low_resolution(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) bool as SAM takes it: logits (1, 256, 256), the frame's longer side scaled to 256, padded at the end."""
    scale = _LOW_SIDE / max(mask.shape)
    height, width = (round(side * scale) for side in mask.shape)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    logits = np.full((1, _LOW_SIDE, _LOW_SIDE), -_LOW_LOGIT, np.float32)
    logits[0, :height, :width][small >= 0.5] = _LOW_LOGIT
    return logits
