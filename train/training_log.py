"""Progress bar, and numbers and pictures for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from i2v.prompt import Prompt
from i2v.utils.visualization import draw_overlay
from train.dataset.mixture import Batch
from train.model.rollout import PromptedFrame


class TrainingLog:
    """The log of the first process; the others have none.

    Args:
        folder (Path): folder of TensorBoard's files.
        first (int): step at which this run begins.
        last (int): number of steps of the whole training.
    """

    def __init__(self, folder: Path, first: int, last: int) -> None:
        self._writer = SummaryWriter(folder, purge_step=first)
        interval = 1.0 if sys.stderr.isatty() else 30.0  # in seconds; in a file, each update is a line
        self._bar = tqdm(total=last, initial=first, unit="step", mininterval=interval, smoothing=0.02, dynamic_ncols=True)

    def step(self, values: dict[str, float]) -> None:
        """Advance by one step, and show its losses."""
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        self._bar.update()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers for TensorBoard, by their names."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, name: str, batch: Batch, frames: list[PromptedFrame], step: int) -> None:
        """Draw the first clip: the prediction with the prompts above the ground truth."""
        self._writer.add_image(name, draw_clip(batch, frames), step, dataformats="HWC")

    def close(self) -> None:
        self._bar.close()
        self._writer.close()


def draw_clip(batch: Batch, frames: list[PromptedFrame]) -> np.ndarray:
    """Draw the first clip of a batch as a picture (2 S, T S, 3) uint8."""
    members = (batch.video == 0).nonzero()[:, 0].tolist()
    columns = []
    for t, frame in enumerate(frames):
        image = to_image(batch.frames[0, t])
        labels = np.zeros((2, *image.shape[:2]), np.uint8)
        prompts = {}
        for number, member in enumerate(members, start=1):
            logits = frame.predictions[-1].masks[member, 0].detach().float().cpu().numpy()
            shown = cv2.resize(logits, image.shape[1::-1]) > 0
            labels[0][shown] = number
            labels[1][batch.masks[member, t].cpu().numpy()] = number
            if frame.points is not None and frame.labels is not None:
                prompts[number] = Prompt(frame.points[member], frame.labels[member])
        columns.append(np.concatenate([draw_overlay(image, labels[0], prompts), draw_overlay(image, labels[1])]))
    return np.concatenate(columns, axis=1)


def to_image(frame: Tensor) -> np.ndarray:
    """A frame (3, S, S) in [0, 1] as a picture (S, S, 3) uint8."""
    pixels = frame.float().cpu().numpy().transpose(1, 2, 0)
    return np.ascontiguousarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
