"""Read SA-V: videos, their masklets, and pictures of both.

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
        video_id (str): name of the video, such as "sav_000001".
        frames (VideoFile): its frames, each (H, W, 3) uint8 RGB, decoded on access.
        manual (Masklets or None): masklets drawn by people; None if the video has none.
        automatic (Masklets or None): masklets found by a model; None if the video has none.
    """

    video_id: str
    frames: VideoFile
    manual: Masklets | None
    automatic: Masklets | None


class SAVDataset:
    """The videos in a folder of SA-V's training set and in its subfolders.

    Args:
        root (str or Path): the folder.
        stride (int): distance between annotated frames, in frames of the video.

    Attributes:
        video_ids (list of str): names of all videos, sorted.

    Raises:
        NotADirectoryError: no such folder.
        ValueError: the folder has no MP4 files, or two of the same name.
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

        Args:
            video_id (str): name of the video, one of `video_ids`.

        Returns:
            The video (SAVVideo).

        Raises:
            ValueError: there is no such video, or a file is unreadable or differs from the video in size.
        """
        if video_id not in self._paths:
            raise ValueError(f"no video {video_id!r}: there are {len(self._paths)}, see `video_ids`")
        frames = VideoFile(self._paths[video_id])
        return SAVVideo(video_id, frames, self._masklets(frames, "manual"), self._masklets(frames, "auto"))

    def _masklets(self, frames: VideoFile, kind: str) -> Masklets | None:
        path = find_file(frames.path.with_name(f"{frames.path.stem}_{kind}"), (".json",))
        if path is None:
            return None
        masklets = Masklets(path, self._stride)
        if (masklets.width, masklets.height) != frames.size:
            raise ValueError(f"{path} is for another size than {frames.width}x{frames.height}, that of {frames.path.name}")
        return masklets


def draw_masks(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Draw masks over an image, each in its own colour; where they overlap, the smaller one is on top.

    Args:
        image (np.ndarray): (H, W, 3) uint8 RGB.
        masks (np.ndarray): (objects, H, W) bool.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    labels = np.zeros(image.shape[:2], np.uint8)
    for i in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        labels[masks[i]] = 1 + i % 255
    return draw_overlay(image, labels)


def draw_frame(video: SAVVideo, frame: int, manual: bool = True, automatic: bool = True) -> np.ndarray:
    """Draw an annotated frame and its masklets.

    Args:
        video (SAVVideo): the video.
        frame (int): index of the frame.
        manual (bool): draw the masklets drawn by people, if the video has them.
        automatic (bool): draw the masklets found by a model, if the video has them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the frame is not annotated.
    """
    chosen = [masklets for masklets, wanted in ((video.manual, manual), (video.automatic, automatic)) if masklets and wanted]
    image = video.frames[frame]
    return draw_masks(image, np.concatenate([np.zeros((0, *image.shape[:2]), bool), *(part.masks(frame) for part in chosen)]))
