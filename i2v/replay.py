"""A session of the page done again: its steps applied to a session of the predictor."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from tqdm import tqdm

from i2v.i2v_video_predictor import I2VVideoPredictor
from i2v.inference.state import VideoState
from i2v.prompt_files import ClearStep, PromptFile, PromptStep, TrackStep
from i2v.results import ResultWriter


def replay(
    predictor: I2VVideoPredictor, state: VideoState, content: PromptFile, writer: ResultWriter
) -> Iterator[tuple[int, list[int], Tensor]]:
    """Apply the steps of a file of prompts in order, with a progress bar over the frames that are tracked.

    Args:
        predictor (I2VVideoPredictor): the predictor.
        state (VideoState): a session without objects.
        content (PromptFile): the steps.
        writer (ResultWriter): where the results are written, for steps that remove some.

    Yields:
        The index of a frame, the ids of the objects that have masks there, and these masks (see `I2VVideoPredictor`), each time
        that they are new.
    """
    total = sum(_length(step, state.frames.count()) for step in content.steps if isinstance(step, TrackStep))
    with tqdm(total=total, desc="replay", unit="frame") as bar:
        for step in content.steps:
            if isinstance(step, TrackStep):
                for result in predictor.propagate_in_video(state, step.start, step.frames - 1, step.reverse):
                    yield _with_masks(state, *result)
                    bar.update()
            elif isinstance(step, PromptStep):
                yield _with_masks(state, *predictor.add_prompt(state, step.frame, step.obj_id, step.prompt))
            elif isinstance(step, ClearStep):
                result = predictor.clear_all_prompts_in_frame(state, step.frame, step.obj_id)
                assert result is not None
                yield _with_masks(state, *result)
            else:
                predictor.remove_object(state, step.obj_id, need_output=False)
                writer.remove(step.obj_id)


def _length(step: TrackStep, num_frames: int) -> int:
    return min(step.frames, step.start + 1 if step.reverse else num_frames - step.start)


def _with_masks(state: VideoState, frame: int, obj_ids: list[int], mask_logits: Tensor) -> tuple[int, list[int], Tensor]:
    """A result without the objects that have none in the frame."""
    kept = [i for i, obj_id in enumerate(obj_ids) if frame in state.objects[obj_id].bank]
    return frame, [obj_ids[i] for i in kept], mask_logits[kept]
