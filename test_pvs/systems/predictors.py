"""SAM-I2V and SAM 2.1, whose predictors have the same methods."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from i2v.build_i2v import build_i2v_video_predictor
from i2v.data.frames import ImageFolder
from i2v.data.images import is_plain
from i2v.load_config import DEFAULT_CONFIG, load_config, shipped_checkpoint
from i2v.prompt import Prompt
from i2v.utils.numbers import whole_number
from test_pvs.systems.interface import VideoSession, VideoSystem


class PredictorSession(VideoSession):
    """A session of a predictor with SAM 2's methods.

    Args:
        predictor (I2VVideoPredictor or SAM2VideoPredictor): the predictor.
        state (object): return value of its `init_state`.
        context (Callable): makes the context manager in which the predictor is called.
        keep (object): kept alive as long as the session.
    """

    def __init__(
        self, predictor: Any, state: Any, context: Callable[[], AbstractContextManager[Any]] = nullcontext, keep: Any = None
    ) -> None:
        self._predictor = predictor
        self._state = state
        self._context = context
        self._keep = keep

    def prompt(self, frame: int, obj: int, prompt: Prompt) -> np.ndarray:
        obj = whole_number(obj, "an object id")
        with self._context():
            if prompt.mask is not None:
                _, objects, logits = self._predictor.add_new_mask(self._state, frame, obj, prompt.mask)
            else:
                _, objects, logits = self._predictor.add_new_points_or_box(
                    self._state,
                    frame,
                    obj,
                    points=prompt.points.tolist() or None,
                    labels=prompt.labels.tolist() or None,
                    box=None if prompt.box is None else prompt.box.tolist(),
                )
        return _scores(logits[list(objects).index(obj), 0])

    def clear(self, frame: int, obj: int) -> None:
        self._predictor.clear_all_prompts_in_frame(self._state, frame, obj, need_output=False)

    def reset(self) -> None:
        self._predictor.reset_state(self._state)

    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        # The context is entered for each step: a generator must not leave it open in its caller.
        results = iter(self._predictor.propagate_in_video(self._state, first, last - first))
        while True:
            with self._context():
                result = next(results, None)
            if result is None:
                return
            frame, objects, logits = result
            yield frame, {obj: _scores(logits[i, 0]) for i, obj in enumerate(objects)}


def _scores(logits: torch.Tensor) -> np.ndarray:
    return logits.float().cpu().numpy()


class SAM2Session(PredictorSession):
    """A session of SAM 2.

    SAM 2 tracks a frame again that was corrected after tracking, which would lose the clicks. Here, tracking from such a frame
    yields the scores that the user saw there, and continues from the next frame with the correction in memory.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._frame = -1  # the last tracked frame
        self._tracked: dict[int, np.ndarray] = {}  # scores in it by object
        self._corrected: dict[int, dict[int, np.ndarray]] = {}  # scores by frame and object

    def prompt(self, frame: int, obj: int, prompt: Prompt) -> np.ndarray:
        scores = super().prompt(frame, obj, prompt)
        if frame == self._frame:
            self._corrected.setdefault(frame, dict(self._tracked))
        if frame in self._corrected:
            self._corrected[frame][obj] = scores
        return scores

    def clear(self, frame: int, obj: int) -> None:
        super().clear(frame, obj)
        self._corrected.pop(frame, None)

    def reset(self) -> None:
        super().reset()
        self._frame, self._tracked = -1, {}
        self._corrected.clear()

    def propagate(self, first: int, last: int) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
        if first in self._corrected:
            yield first, dict(self._corrected[first])
            first += 1
        if first > last:
            return
        for self._frame, self._tracked in super().propagate(first, last):
            self._corrected.pop(self._frame, None)
            yield self._frame, self._tracked


class SAMI2VSystem(VideoSystem):
    """SAM-I2V with any config.

    Args:
        config (str): name or path of a config; see `i2v.build_i2v_video_predictor`.
        checkpoint (str or None): path of the weights; None for those bundled with the config.
        device (str): PyTorch device to run on.
        precision (str or None): fp32, bf16 or fp16; None for the config's.
        overrides (Sequence[str]): KEY=VALUE, applied to the config.

    Raises:
        ValueError, FileNotFoundError: see `i2v.build_i2v_video_predictor`. Weights are required, because random ones would be
            scored without an error.
    """

    def __init__(
        self,
        config: str = DEFAULT_CONFIG,
        checkpoint: str | None = None,
        device: str = "cpu",
        precision: str | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        overrides = [*overrides, *([f"++predictor.precision={precision}"] if precision else [])]
        if checkpoint is None and shipped_checkpoint(load_config(config, overrides)) is None:
            raise ValueError(
                f"the config {config} has no bundled weights: give a checkpoint (--checkpoint, or CKPT of the scripts)"
            )
        self._predictor = build_i2v_video_predictor(config, checkpoint, device, hydra_overrides_extra=overrides)

    def start(self, frames: Path | np.ndarray) -> VideoSession:
        """Open a video.

        Args:
            frames (Path or np.ndarray): folder of images, or frames (T, H, W, 3) uint8 RGB.
        """
        return PredictorSession(self._predictor, self._predictor.init_state(frames, offload_video_to_cpu=True))


def import_sam2() -> Callable[..., Any]:
    """Import the function of the package `sam2` that builds a predictor.

    Raises:
        ImportError: the package is missing.
    """
    try:
        from sam2.build_sam import build_sam2_video_predictor
    except ImportError as error:
        raise ImportError("SAM 2.1 needs the package sam2: pip install 'sam2>=1.1'") from error
    return build_sam2_video_predictor


class SAM2System(VideoSystem):
    """SAM 2 and SAM 2.1, from the PyPI package `sam2`.

    Args:
        config (str): name of a config in the package, such as configs/sam2.1/sam2.1_hiera_t.yaml.
        checkpoint (str or None): path of the weights published with the config; required.
        device (str): PyTorch device to run on.
        precision (str or None): fp32 (default), or bf16 with autocast as in SAM 2's evaluation.
        overrides (Sequence[str]): KEY=VALUE, applied to the config.

    Raises:
        ImportError: the package is missing; the message says how to install it.
        ValueError: there is no checkpoint, or the precision is not supported.
    """

    def __init__(
        self,
        config: str,
        checkpoint: str | None,
        device: str = "cpu",
        precision: str | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        build_sam2_video_predictor = import_sam2()
        if checkpoint is None or not Path(checkpoint).is_file():
            raise ValueError(f"SAM 2.1 needs its published weights, got {checkpoint}")
        if precision not in (None, "fp32", "bf16"):
            raise ValueError(f"SAM 2.1 runs in fp32 or bf16, not {precision}")
        self._predictor = build_sam2_video_predictor(config, checkpoint, device, hydra_overrides_extra=list(overrides))
        self._device_type = torch.device(device).type
        self._autocast = precision == "bf16"

    def start(self, frames: Path) -> VideoSession:
        folder = numbered_jpegs(frames)
        state = self._predictor.init_state(folder.name, offload_video_to_cpu=True)
        return SAM2Session(self._predictor, state, self._context, keep=folder)

    def _context(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device_type, torch.bfloat16, enabled=self._autocast)


def numbered_jpegs(frames: Path) -> tempfile.TemporaryDirectory[str]:
    """Make a folder of links 00000.jpg, 00001.jpg, ... to the frames of a video, as SAM 2 expects them.

    Other formats get a .jpg name too; readers detect the format from the content. Images that SAM 2 would decode differently
    from this project (rotated by EXIF data, more than 8 bits) are copied losslessly.

    Returns:
        The folder, which is removed with the object.
    """
    folder = tempfile.TemporaryDirectory(prefix="frames-")
    images = ImageFolder(frames)
    for index, path in enumerate(images.paths):
        link = Path(folder.name) / f"{index:05d}.jpg"
        if is_plain(path):
            link.symlink_to(path.resolve())
        else:
            Image.fromarray(images[index]).save(link, format="PNG")
    return folder
