"""Validation during training."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.modeling.precision import autocast
from i2v.modeling.sam_i2v import SAMI2V
from i2v.utils.jf import jf_scores
from train.dataset.mixture import SampleReader, collate
from train.dataset.sample import BAD_SAMPLE, ClipDataset, require_positive
from train.dataset.transforms import PlainTransform
from train.losses import mask_iou
from train.model.rollout import ClipRollout, PromptPlan, PromptSampling
from train.utils.processes import Processes

log = logging.getLogger(__name__)

_PROMPTS = ("mask", "click", "box")


class Validation(ABC):
    """A validation set: samples that each give a score in [0, 100]."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def score(self, model: SAMI2V, index: int, precision: str) -> float:
        """Compute the score of a sample.

        Args:
            model (SAMI2V): the network, in evaluation mode.
            index (int): index of the sample.
            precision (str): precision of the trainer, "fp32" or "bf16".

        Returns:
            The score; NaN if the sample has none.
        """

    @abstractmethod
    def read_one(self) -> None:
        """Read the first sample, to check that it can be read; its errors are raised."""


class VideoValidation(Validation):
    """J&F on videos with the predictor, as a user would get it.

    Each object is prompted with its mask in the first frame in which it is visible.

    Args:
        videos (ClipDataset): a data set of whole videos: a `VOSFolder` with num_frames=None and max_objects=None.
    """

    def __init__(self, videos: ClipDataset) -> None:
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def score(self, model: SAMI2V, index: int, precision: str) -> float:
        clip = self.videos.load(index, np.random.default_rng(index))
        predictor = I2VVideoPredictor(model, precision=precision)
        state = predictor.init_state(clip.frames.permute(0, 2, 3, 1).numpy())
        truth = clip.masks.numpy()
        found = np.zeros_like(truth)
        first_seen = truth.any((2, 3)).argmax(axis=0)
        starts = sorted(set(first_seen.tolist()))
        for start, end in pairwise([*starts, len(truth)]):
            for obj_id in np.flatnonzero(first_seen == start).tolist():
                predictor.add_new_mask(state, start, obj_id, clip.masks[start, obj_id])
            for t, obj_ids, logits in predictor.propagate_in_video(state, start, end - start - 1):
                found[t, obj_ids] = (logits[:, 0] > 0).cpu().numpy()
        return _mean([score.j_and_f for score in jf_scores(truth, found)])

    def read_one(self) -> None:
        self.videos.load(0, np.random.default_rng(0))


class ClipValidation(Validation):
    """Mean IoU on a fixed selection of clips or images, prompted in the first frame.

    An empty mask of an object that is not visible has IoU 1.

    Args:
        dataset (ClipDataset): the clips to choose from.
        image_size (int): S, side of the network's input in pixels.
        num_samples (int): number of clips.
        prompt (str): "mask", "click" or "box"; with a mask, the first frame is not scored.
        clicks (int): number of correction clicks in the first frame, each in the middle of the largest error.

    Raises:
        ValueError: the prompt is unknown, or a number is too small.
    """

    def __init__(self, dataset: ClipDataset, image_size: int, num_samples: int, prompt: str, clicks: int = 0) -> None:
        if prompt not in _PROMPTS:
            raise ValueError(f"unknown prompt {prompt!r}; known: {', '.join(_PROMPTS)}")
        if clicks < 0:
            raise ValueError(f"clicks must not be negative, but is {clicks}")
        require_positive(num_samples=num_samples)
        self.reader = SampleReader(dataset, PlainTransform(image_size))
        self.image_size = image_size
        self.num_samples = num_samples
        self.prompt = prompt
        self.clicks = clicks

    def __len__(self) -> int:
        return self.num_samples

    def score(self, model: SAMI2V, index: int, precision: str) -> float:
        device = model.no_mem_embed.device
        # Spread the selection over the whole data set, whose folders follow one another.
        position = index * len(self.reader) // self.num_samples
        batch = collate([self.reader.read(position, seed=index)]).to(device)
        rollout = ClipRollout(model, PromptSampling(ground_truth_clicks=0, central_clicks=1))
        plan = PromptPlan({0: self.prompt}, {0: self.clicks} if self.clicks else {})
        generator = torch.Generator(device).manual_seed(index)
        with autocast(device, precision):
            frames = rollout(batch.frames, batch.masks, batch.video, generator, plan)
        ious = []
        for t, frame in enumerate(frames):
            if t or self.prompt != "mask":
                logits, masks = model.upsample(frame.predictions[-1].masks), batch.masks[:, t, None]
                nothing = ~(logits > 0).flatten(1).any(1) & ~masks.flatten(1).any(1)
                ious.append(torch.where(nothing, 1.0, mask_iou(logits, masks)[:, 0]))
        return 100 * float(torch.stack(ious).mean())

    def read_one(self) -> None:
        self.reader.read(0, seed=0)


@torch.inference_mode()
def validate(
    validation: Validation,
    model: SAMI2V,
    processes: Processes,
    precision: str,
    is_stopping: Callable[[], bool] = lambda: False,
) -> float | None:
    """Mean of the finite scores, computed across all processes. Samples that cannot be read are reported and left out.

    Args:
        validation (Validation): the validation set.
        model (SAMI2V): the network.
        processes (Processes): the processes that share the work.
        precision (str): "fp32" or "bf16".
        is_stopping (Callable[[], bool]): a function that each process calls before each score: whether it was asked to stop.

    Returns:
        The mean, NaN if there are no scores; None if any process was asked to stop.
    """
    training = model.training
    model.eval()
    scores: list[float] = []
    stopped = False
    for index in range(processes.rank, len(validation), processes.world_size):
        if stopped := is_stopping():
            break
        try:
            scores.append(validation.score(model, index, precision))
        except BAD_SAMPLE as error:
            log.warning("validation sample %d is left out: %s", index, str(error) or type(error).__name__)
    scores = processes.gather(scores)
    model.train(training)
    return None if any(processes.gather([stopped])) else _mean(scores)


def _mean(scores: list[float]) -> float:
    """The mean without NaN; NaN if nothing is left."""
    finite = [score for score in scores if not math.isnan(score)]
    return sum(finite) / len(finite) if finite else math.nan
