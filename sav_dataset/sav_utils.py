"""Reading SA-V: videos, their masklets, and pictures of both.

dataset = SAVDataset("sav_train")
image = draw_frame(dataset.load("sav_000001"), 0)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2v.data.files import find_file, walk
from i2v.data.masklets import ANNOTATION_STRIDE, Masklets
from i2v.data.video_file import VideoFile
from i2v.utils.visualization import draw_overlay


@dataclass(frozen=True)
class SAVVideo:
    """A video of SA-V.

    Attributes:
        video_id: its name, such as "sav_000001". frames: (H, W, 3) uint8 RGB each, decoded when they are asked for.
        manual, automatic: its masklets; None where there is no such file.
    """

    video_id: str
    frames: VideoFile
    manual: Masklets | None
    automatic: Masklets | None


class SAVDataset:
    """The videos in a folder of SA-V's training set, or in folders inside it.

    Args:
        root: the folder. stride: frames of the video from one annotated frame to the next.

    Attributes:
        video_ids: the names of all videos, sorted.

    Raises:
        NotADirectoryError: no such folder. ValueError: no MP4 file in it, or two of one name.
    """

    def __init__(self, root: str | Path, stride: int = ANNOTATION_STRIDE) -> None:
        root = Path(root)
        if not root.is_dir():
            raise NotADirectoryError(f"no such folder: {root}")
        self._stride = stride
        self._paths: dict[str, Path] = {}
        for path in sorted(path for path in walk(root) if path.suffix.lower() == ".mp4"):
            if self._paths.setdefault(path.stem, path) is not path:
                raise ValueError(f"{self._paths[path.stem]} and {path} have the same name")
        if not self._paths:
            raise ValueError(f"no videos (*.mp4) in {root}")
        self.video_ids = sorted(self._paths)

    def load(self, video_id: str) -> SAVVideo:
        """Open a video and its masklets.

        Raises:
            ValueError: no such video, or a file that cannot be read or has another size than the video.
        """
        if video_id not in self._paths:
            raise ValueError(f"no video {video_id!r}: there are {len(self._paths)}, see `video_ids`")
        path = self._paths[video_id]
        frames = VideoFile(path)
        masklets = []
        for kind in ("manual", "auto"):
            file = find_file(path.with_name(f"{video_id}_{kind}"), (".json",))
            masklets.append(Masklets(file, self._stride) if file else None)
            if masklets[-1] and (masklets[-1].height, masklets[-1].width) != (frames.height, frames.width):
                raise ValueError(f"{file} is for another size than {frames.width}x{frames.height}, that of {path.name}")
        return SAVVideo(video_id, frames, *masklets)


def draw_masks(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Draw masks over an image, each in its colour; where they overlap the smaller one is on top.

    Args:
        image: (H, W, 3) uint8 RGB. masks: (objects, H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    labels = np.zeros(image.shape[:2], np.uint8)
    for i in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        labels[masks[i]] = 1 + i % 255
    return draw_overlay(image, labels)


def draw_frame(video: SAVVideo, frame: int, manual: bool = True, automatic: bool = True) -> np.ndarray:
    """A picture of an annotated frame and its masklets, (H, W, 3) uint8 RGB.

    Args:
        manual, automatic: which masklets to draw, if the video has them.

    Raises:
        ValueError: the frame is not annotated.
    """
    chosen = [masklets for masklets, wanted in ((video.manual, manual), (video.automatic, automatic)) if masklets and wanted]
    image = video.frames[frame]
    return draw_masks(image, np.concatenate([np.zeros((0, *image.shape[:2]), bool), *(part.masks(frame) for part in chosen)]))
