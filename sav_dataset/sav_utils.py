"""Reading SA-V: videos, their masklets, and pictures of both.

dataset = SAVDataset("sav_train")
image = draw_frame(dataset.load("sav_000001"), 0)
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2v.inference.frames import VideoFile
from i2v.utils.masks import decode_mask
from i2v.utils.visualization import draw_overlay

ANNOTATION_STRIDE = 4  # SA-V's videos have 24 frames per second, its masklets 6


class Masklets:
    """The masklets of a video, from SA-V's JSON (or the one that `i2v.segment` writes, with a stride of 1).

    Args:
        path: of the JSON file. stride: frames of the video from one annotated frame to the next.

    Attributes:
        object_ids: of the masklets, in their order. height, width: in pixels.
        annotated_frames: indices into the video.

    Raises:
        FileNotFoundError: no such file. ValueError: not the JSON of masklets.
    """

    def __init__(self, path: str | Path, stride: int = ANNOTATION_STRIDE) -> None:
        self._path = Path(path)
        try:
            annotation = json.loads(self._path.read_text(encoding="utf-8"))
            self.object_ids = [int(obj_id) for obj_id in annotation["masklet_id"]]
            self.height, self.width = int(annotation["video_height"]), int(annotation["video_width"])
            frames = dict(zip(range(0, stride * len(annotation["masklet"]), stride), annotation["masklet"], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a JSON file of SA-V's masklets: {error!r}") from error
        self._rles = {frame: rles for frame, rles in frames.items() if rles is not None}
        self.annotated_frames = list(self._rles)

    def masks(self, frame: int) -> np.ndarray:
        """The masks of all objects in an annotated frame: (objects, height, width) bool.

        Raises:
            ValueError: the frame is not annotated, or a mask in the file is broken.
        """
        if frame not in self._rles:
            raise ValueError(f"{self._path} has no masks of frame {frame}: see `annotated_frames`")
        rles, shape = self._rles[frame], (self.height, self.width)
        if len(rles) != len(self.object_ids):
            raise ValueError(f"{self._path}, frame {frame}: {len(rles)} masks of {len(self.object_ids)} objects")
        try:
            return np.array([decode_mask(rle, shape) for rle in rles], bool).reshape(-1, *shape)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._path}, frame {frame}: {error}") from error


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
        for path in sorted(root.rglob("*.mp4")):
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
            file = path.with_name(f"{video_id}_{kind}.json")
            masklets.append(Masklets(file, self._stride) if file.exists() else None)
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
