"""An image segmenter and a mask propagator as one system, such as the paper's SAM with XMem++ or Cutie.

The segmenter converts clicks and boxes to a mask in their frame, and the propagator carries it through the video.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2v.data.frames import ImageFolder
from i2v.image_predictor import SamPredictor, build_sam
from i2v.load_config import DEFAULT_CONFIG
from i2v.prompt import Prompt
from i2v.utils.messages import did_you_mean
from i2v.utils.published_checkpoints import IMAGE_SEGMENTERS
from test_pvs.systems.interface import SystemSettings, VideoSession, VideoSystem
from test_pvs.systems.predictors import SAMI2VSystem
from test_pvs.user_functions import find_function

# (image (H, W, 3) uint8 RGB, points or a box, mask (H, W) bool before, empty if the object has none) -> mask (H, W) bool
Segmenter = Callable[[np.ndarray, Prompt, np.ndarray], np.ndarray]
# The same with the index of a frame instead of the image: the `to_mask` of a `CarriedMaskSession`.
ToMask = Callable[[int, Prompt, np.ndarray], np.ndarray]

_PREFIX = "adapter."
OPTIONS = ("segmenter", "repository", "size")


class Propagator(ABC):
    """A method that carries masks through videos."""

    @abstractmethod
    def open(self, images: ImageFolder, to_mask: ToMask) -> VideoSession:
        """Open a video.

        Args:
            images (ImageFolder): frames of the video.
            to_mask (ToMask): converts prompts to masks.
        """


class SegmentThenPropagate(VideoSystem):
    """A segmenter and a propagator as one system.

    A correction starts from the mask of the object in that frame; the corrected mask is a new reference for the propagator.

    Args:
        segmenter (Segmenter): converts clicks and boxes to masks.
        propagator (Propagator): carries masks through videos.
    """

    def __init__(self, segmenter: Segmenter, propagator: Propagator) -> None:
        self._segmenter = segmenter
        self._propagator = propagator

    @classmethod
    def build(
        cls, settings: SystemSettings, propagator: Callable[[str, Mapping[str, str]], Propagator]
    ) -> SegmentThenPropagate:
        """Build the system from settings.

        Args:
            settings (SystemSettings): settings; see `adapter_options`.
            propagator (Callable[[str, Mapping], Propagator]): makes a propagator from a device and the options.

        Raises:
            ValueError: an option is unknown; see also `SAMI2VSystem` and the propagator.
            ImportError: a package is missing.
        """
        options, segmenter_settings = adapter_options(settings)
        # The propagator comes first, so that a missing package is found before weights are loaded.
        built = propagator(settings.device, options)
        return cls(build_segmenter(segmenter_settings, options.get("segmenter")), built)

    def start(self, frames: Path) -> VideoSession:
        images = ImageFolder(frames)

        def to_mask(frame: int, prompt: Prompt, before: np.ndarray) -> np.ndarray:
            return self._segmenter(images[frame], prompt, before)

        return self._propagator.open(images, to_mask)


def adapter_options(settings: SystemSettings) -> tuple[dict[str, str], SystemSettings]:
    """Split settings into the options of these systems and the settings of the segmenter.

    Options are overrides adapter.NAME=VALUE: "segmenter" (see `build_segmenter`) and those of the propagator.

    Raises:
        ValueError: an option is unknown.
    """
    ours = [text.removeprefix(_PREFIX) for text in settings.overrides if text.startswith(_PREFIX)]
    options = dict(text.split("=", 1) for text in ours if "=" in text)
    unknown = sorted(options.keys() - set(OPTIONS)) + [text for text in ours if "=" not in text]
    if unknown:
        raise ValueError(f"unknown {_PREFIX}{unknown[0]}: give {', '.join(f'{_PREFIX}{name}=...' for name in OPTIONS)}")
    rest = tuple(text for text in settings.overrides if not text.startswith(_PREFIX))
    return options, replace(settings, overrides=rest)


def build_segmenter(settings: SystemSettings, name: str | None = None) -> Segmenter:
    """Build an image segmenter.

    Args:
        settings (SystemSettings): settings of the segmenter.
        name (str or None): an image segmenter of `i2v.image_predictor.build_sam`, whose published weights are the checkpoint;
            or "package.module:function". The function is called with the settings and returns a `Segmenter`, or a predictor
            with the methods of segment-anything's `SamPredictor`. By default SAM-I2V segments single images.

    Raises:
        ValueError: an unknown segmenter, or a known one without a checkpoint or with other settings; see also `SAMI2VSystem`,
            `build_sam` and `find_function`.
    """
    if name is None:
        config = settings.config or DEFAULT_CONFIG
        return SingleFrame(SAMI2VSystem(config, settings.checkpoint, settings.device, settings.precision, settings.overrides))
    if name in IMAGE_SEGMENTERS:
        return WithSamPredictor(_published_segmenter(settings, name))
    if ":" not in name:
        known, hint = ", ".join(IMAGE_SEGMENTERS), did_you_mean(name.lower(), IMAGE_SEGMENTERS)
        raise ValueError(f"unknown {_PREFIX}segmenter={name}{hint}: give {known}, or package.module:function for another one")
    found = find_function(name)(settings)
    return WithSamPredictor(found) if hasattr(found, "set_image") else found


def _published_segmenter(settings: SystemSettings, name: str) -> SamPredictor:
    if settings.config is not None or settings.overrides:
        raise ValueError(f"{_PREFIX}segmenter={name} has no config: leave out --config and the overrides without {_PREFIX}")
    if settings.checkpoint is None:
        raise ValueError(f"{_PREFIX}segmenter={name} needs its published weights: give a checkpoint (--checkpoint, or CKPT)")
    return build_sam(name, settings.checkpoint, settings.device, settings.precision or "fp32")


class SingleFrame:
    """Segments images with SAM-I2V, each as a video of one frame, so that there is no memory."""

    def __init__(self, system: SAMI2VSystem) -> None:
        self._system = system

    def __call__(self, image: np.ndarray, prompt: Prompt, before: np.ndarray) -> np.ndarray:
        session = self._system.start(image[None])
        if before.any():
            session.prompt(0, 1, Prompt(mask=before))
        for shown in _one_by_one(prompt):
            scores = session.prompt(0, 1, shown)
        return scores > 0


class WithSamPredictor:
    """Segments images with a predictor that has the methods of segment-anything's `SamPredictor` (set_image, predict)."""

    def __init__(self, predictor: Any) -> None:
        self._predictor = predictor

    def __call__(self, image: np.ndarray, prompt: Prompt, before: np.ndarray) -> np.ndarray:
        self._predictor.set_image(image)
        low = _low_resolution(before) if before.any() else None
        for shown in _one_by_one(prompt):
            masks, scores, lows = self._predictor.predict(
                point_coords=shown.points.numpy() if len(shown.points) else None,
                point_labels=shown.labels.numpy() if len(shown.points) else None,
                box=None if shown.box is None else shown.box.numpy(),
                mask_input=low,
                # One click is ambiguous between a part and the whole, so the best of several masks is taken.
                multimask_output=len(shown.points) == 1 and shown.box is None and low is None,
            )
            best = int(np.argmax(scores))
            low = lows[best : best + 1]
        return np.asarray(masks[best]) > 0


def _one_by_one(prompt: Prompt) -> list[Prompt]:
    """List the prompts as a person gives them: each click with the box and the clicks before it; or the box alone."""
    numbers = range(1, len(prompt.points) + 1)
    return [Prompt(prompt.points[:number], prompt.labels[:number], prompt.box) for number in numbers] or [prompt]


_LOW_SIDE, _LOW_LOGIT = 256, 10.0


def _low_resolution(mask: np.ndarray) -> np.ndarray:
    """Convert a mask (H, W) bool to SAM's mask input: logits (1, 256, 256), longer side scaled to 256, padded at the end."""
    scale = _LOW_SIDE / max(mask.shape)
    height, width = (round(side * scale) for side in mask.shape)
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    logits = np.full((1, _LOW_SIDE, _LOW_SIDE), -_LOW_LOGIT, np.float32)
    logits[0, :height, :width][small >= 0.5] = _LOW_LOGIT
    return logits
