"""Where frames come from: a folder of images, a video file, arrays, an iterator, a live source.

A source decodes a frame when it is asked for it and keeps none (a live source a few). What is wrong with a video is found
when the source is opened, before any work is done, wherever that is possible without decoding every image.
"""

from __future__ import annotations

import logging
import re
import tempfile
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from i2v.utils.files import read_each

log = logging.getLogger(__name__)

# In order of preference: PNGs beside JPEG frames are taken for masks.
IMAGE_SUFFIXES = ((".jpg", ".jpeg"), (".png",))
# Backward reading of a video file decodes this many frames at once.
_CHUNK = 16


class Frames(ABC):
    """A sequence of RGB frames of one size.

    Attributes:
        name: for messages. height, width: in pixels. num_frames: None while it is not known.
    """

    name: str
    height: int
    width: int
    num_frames: int | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """Frame `index` as (height, width, 3) uint8 RGB."""

    def has(self, index: int) -> bool:
        """Whether frame `index` exists. A source of unknown length reads up to it."""
        return 0 <= index < self.count()

    def count(self) -> int:
        """Number of frames. A source of unknown length is read to its end."""
        assert self.num_frames is not None
        return self.num_frames

    def extent(self) -> str:
        """Which frames there are, for messages."""
        return f"0 to {self.count() - 1}"

    def no_frame(self, index: int) -> IndexError:
        """The error that says that there is no frame `index`."""
        return IndexError(f"no frame {index} in {self.name}: it has frames {self.extent()}")


class ImageFolder(Frames):
    """A folder of JPEG frames, or of PNG frames if there is no JPEG, ordered by the last number in their names.

    Raises:
        FileNotFoundError, NotADirectoryError: no such folder.
        ValueError: no images in it, a name without a number or two names with the same, unreadable or truncated images, or
            an image of another size; the message names the files.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = str(folder)
        self.paths = _numbered_images(self.folder)
        self.num_frames = len(self.paths)
        sizes = read_each(_check_image, self.paths)
        self.width, self.height = sizes[0]
        for path, size in zip(self.paths, sizes, strict=True):
            if size != sizes[0]:
                raise ValueError(
                    f"{path} is {size[0]}x{size[1]} pixels, but {self.paths[0].name} is {self.width}x{self.height}: all "
                    "frames of a video must have one size"
                )

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"cannot decode frame {index}, {path}: {error}") from error


class VideoFile(Frames):
    """A video that OpenCV can decode.

    Opening counts the frames by decoding the video once (a small part of the cost of tracking), because the count in a file's
    header is often an estimate.

    Raises:
        FileNotFoundError: no such file.
        ValueError: OpenCV cannot open it, or it ends before 95 % of the frames that its header promises.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no such video: {path}")
        capture = self._open()
        self._timestamps: list[float] = []
        while capture.grab():
            self._timestamps.append(capture.get(cv2.CAP_PROP_POS_MSEC))
        promised = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frames_per_second = capture.get(cv2.CAP_PROP_FPS) or 24.0
        capture.release()
        self.num_frames = len(self._timestamps)
        if not self.num_frames:
            raise ValueError(f"{path}: OpenCV cannot decode a single frame of it")
        # The header's number may be an estimate from duration and rate: a rate that varies is no truncation.
        ends = self._timestamps[-1] / 1000 + 1 / self.frames_per_second
        if self.num_frames < 0.95 * promised and ends < 0.95 * promised / self.frames_per_second:
            raise ValueError(
                f"{path} ends early: it promises {promised} frames, {self.num_frames} can be decoded. It is truncated; "
                f"repair it, or cut it to what is there (ffmpeg -i {self.path.name} -frames:v {self.num_frames} fixed.mp4)"
            )
        if self.num_frames < promised:
            log.warning("%s: its header promises %d frames, %d can be decoded", path, promised, self.num_frames)
        self._capture = self._open()
        self._position = 0
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        self.height, self.width = self[0].shape[:2]

    def __getitem__(self, index: int) -> np.ndarray:
        if index in self._recent:
            return self._recent[index]
        if not 0 <= index < self.count():
            raise IndexError(f"{self.name} has no frame {index}")
        if index < self._position or index > self._position + _CHUNK:
            # Going back, one seek serves a whole chunk.
            self._seek(max(index - _CHUNK + 1, 0) if index < self._position else index)
        while self._position <= index:
            ok, image = self._capture.read()
            if not ok:
                raise ValueError(f"{self.name}: frame {self._position} can no longer be decoded")
            self._recent[self._position] = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            self._position += 1
            if len(self._recent) > _CHUNK:
                self._recent.popitem(last=False)
        return self._recent[index]

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise ValueError(f"{self.path} is not a video that OpenCV can open (nor a folder of JPEG or PNG frames)")
        return capture

    def _seek(self, index: int) -> None:
        """Make `index` the next frame to read. Seeking in a compressed video is not always exact, so the time stamp is
        compared, and where it differs the video is read from its start."""
        self._capture.set(cv2.CAP_PROP_POS_FRAMES, max(index - 1, 0))
        arrived = index > 0 and self._capture.grab() and self._at(index - 1)
        if not arrived:
            self._capture.release()
            self._capture = self._open()
            for _ in range(index):
                self._capture.grab()
        self._position = index

    def _at(self, index: int) -> bool:
        return abs(self._capture.get(cv2.CAP_PROP_POS_MSEC) - self._timestamps[index]) < 0.5


class ArrayFrames(Frames):
    """Frames in memory: an array (T, H, W, 3) uint8 RGB, or a list of such images or of PIL images.

    Raises:
        ValueError: no frames, or a frame of another type, shape or size.
    """

    def __init__(self, frames: np.ndarray | Sequence[Any]) -> None:
        self.name = "the array of frames"
        if len(frames) == 0:
            raise ValueError("the array of frames is empty")
        self._frames = frames
        self.num_frames = len(frames)
        self.height, self.width = _to_rgb(frames[0], 0).shape[:2]
        if not isinstance(frames, np.ndarray):
            for i, frame in enumerate(frames):
                _check_size(_to_rgb(frame, i), i, self)

    def __getitem__(self, index: int) -> np.ndarray:
        return _to_rgb(self._frames[index], index)


class IteratorFrames(Frames):
    """Frames from an iterator, read when they are needed.

    An iterator cannot go back, so that every frame is kept on disk, without loss, in a temporary folder that disappears with
    this object.
    """

    def __init__(self, frames: Iterable[Any]) -> None:
        self.name = "the iterator of frames"
        self._iterator: Iterator[Any] = iter(frames)
        self._folder = tempfile.TemporaryDirectory(prefix="i2v-frames-")
        self._read = 0
        self._error: Exception | None = None
        self.num_frames = None
        first = next(self._iterator, None)
        if first is None:
            raise ValueError("the iterator of frames is empty")
        self.height, self.width = _to_rgb(first, 0).shape[:2]
        self._store(first)

    def has(self, index: int) -> bool:
        while self.num_frames is None and index >= self._read:
            self._read_one()
        return 0 <= index < self._read

    def count(self) -> int:
        while self.num_frames is None:
            self._read_one()
        return self.num_frames

    def __getitem__(self, index: int) -> np.ndarray:
        if not self.has(index):
            raise IndexError(f"{self.name} has no frame {index}")
        return cv2.cvtColor(cv2.imread(self._path(index)), cv2.COLOR_BGR2RGB)

    def _read_one(self) -> None:
        if self._error is not None:  # the frame is lost: the next one must not take its place
            raise self._error
        try:
            frame = next(self._iterator)
        except StopIteration:
            self.num_frames = self._read
            return
        try:
            self._store(frame)
        except (ValueError, OSError) as error:
            self._error = error
            raise

    def _store(self, frame: Any) -> None:
        image = _check_size(_to_rgb(frame, self._read), self._read, self)
        path = self._path(self._read)
        if not cv2.imwrite(path, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"cannot write frame {self._read} of the iterator to {path}: is the disk full?")
        self._read += 1

    def _path(self, index: int) -> str:
        return str(Path(self._folder.name) / f"{index:06d}.png")


class LiveFrames(Frames):
    """Frames that arrive one by one (`append`).

    Args:
        num_usable: the last frames that can be asked for. num_kept: those that are held, because a usable one may need them.
    """

    def __init__(self, num_usable: int, num_kept: int) -> None:
        self.name = "the live video"
        self.num_frames = 0
        self.height = self.width = 0
        self._num_usable = num_usable
        self._num_kept = num_kept
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()

    def append(self, frame: Any) -> int:
        """Add a frame, (H, W, 3) uint8 RGB or a PIL image, and return its index."""
        index = self.count()
        image = _to_rgb(frame, index)
        if index == 0:
            self.height, self.width = image.shape[:2]
        self._recent[index] = _check_size(image, index, self).copy()
        self.num_frames = index + 1
        if len(self._recent) > self._num_kept:
            self._recent.popitem(last=False)
        return index

    @property
    def _usable(self) -> range:
        return range(max(self.count() - self._num_usable, 0), self.count())

    def has(self, index: int) -> bool:
        return index in self._usable

    def extent(self) -> str:
        return f"{self._usable[0]} to {self._usable[-1]}, and forgets earlier ones" if self._usable else "none yet"

    def __getitem__(self, index: int) -> np.ndarray:
        if index not in self._recent:
            oldest = next(iter(self._recent), 0)
            raise IndexError(f"frame {index} of the live video is gone: only frames {oldest} and later are held")
        return self._recent[index]


def open_frames(video: str | Path | np.ndarray | Sequence[Any] | Iterable[Any]) -> Frames:
    """Open whatever `video` is: a folder or file by its path, an array or list of images, an iterator of images.

    Raises:
        FileNotFoundError: no such path. TypeError: none of these. ValueError: see the classes.
    """
    if isinstance(video, Frames):
        return video
    if isinstance(video, (str, Path)):
        path = Path(video)
        if not path.exists():
            raise FileNotFoundError(f"no such video file or folder of frames: {video}")
        return ImageFolder(path) if path.is_dir() else VideoFile(path)
    if isinstance(video, (np.ndarray, list, tuple)):
        return ArrayFrames(video)
    if isinstance(video, Iterable):
        return IteratorFrames(video)
    raise TypeError(
        f"cannot read a video from {type(video).__name__}: give a path, an array (T, H, W, 3), a list or an iterator of images"
    )


def _numbered_images(folder: Path) -> list[Path]:
    """The images of a folder in the order of the last number in their names."""
    if not folder.exists():
        raise FileNotFoundError(f"no such folder of frames: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder of frames")
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in visible if path.is_file()]
    kinds = [[path for path in files if path.suffix.lower() in suffixes] for suffixes in IMAGE_SUFFIXES]
    images = next(filter(None, kinds), [])
    if not images:
        found = "it is empty"
        if visible:
            found = f"it holds other {'files' if files else 'folders'} ({(files or visible)[0].name}, ...)"
        raise ValueError(f"no JPEG or PNG frames in {folder}: {found}")
    return list(by_frame_number(images).values())


def frame_number(path: str | Path) -> int:
    """The last number in a file's name.

    Raises:
        ValueError: there is none.
    """
    numbers = re.findall(r"\d+", Path(path).stem)
    if not numbers:
        raise ValueError(f"{path} has no number in its name, so that its place in the video is unknown")
    return int(numbers[-1])


def by_frame_number(paths: Iterable[Path]) -> dict[int, Path]:
    """Files by the last numbers in their names, in the order of these.

    Raises:
        ValueError: a name without a number, or two with the same.
    """
    found: dict[int, Path] = {}
    for path in paths:
        number = frame_number(path)
        if found.setdefault(number, path) is not path:
            raise ValueError(f"{found[number]} and {path.name} both are frame {number}")
    return dict(sorted(found.items()))


def _check_image(path: Path) -> tuple[int, int]:
    """(width, height) of an image; a ValueError if it is not one or is cut off.

    Only the header and the last bytes are read; an image that does not end as it should is decoded to be sure.
    """
    end = b"\xff\xd9" if path.suffix.lower() != ".png" else b"IEND\xaeB`\x82"
    try:
        with Image.open(path) as image, path.open("rb") as file:
            file.seek(max(path.stat().st_size - len(end), 0))
            if file.read() != end:
                image.load()
            return image.size
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image, it may be corrupt or truncated: {error}") from error


def _to_rgb(frame: Any, index: int) -> np.ndarray:
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        what = f"{frame.dtype} array {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"frame {index} must be a uint8 RGB array (H, W, 3) or a PIL image, got {what}")
    return frame


def _check_size(image: np.ndarray, index: int, frames: Frames) -> np.ndarray:
    if image.shape[:2] != (frames.height, frames.width):
        raise ValueError(
            f"frame {index} of {frames.name} is {image.shape[1]}x{image.shape[0]} pixels, the first one is "
            f"{frames.width}x{frames.height}: all frames of a video must have one size"
        )
    return image
