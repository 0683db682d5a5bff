"""Sources of frames: folders of images, video files, arrays, iterators, live videos.

A source decodes frames on access and keeps a bounded amount of them in memory. Wherever this is possible without decoding every
image, faults in a video are found when the source is opened, before any work is done.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
from PIL import Image

from i2v.data.files import listed, scan, warn_once
from i2v.data.frame_order import gaps, in_frame_order, restarts
from i2v.data.images import (
    IMAGE_SUFFIXES,
    ValueRange,
    check_value_range,
    chosen_kind,
    kind_of,
    num_pictures,
    read_rgb,
    to_rgb,
    upright_size,
    value_bounds,
    warn_of_unused,
)
from i2v.utils.files import read_each

# Limit of the decoded frames that a source keeps in memory, in bytes: 40 frames at 1080p.
MAX_BYTES = 256 * 2**20
_KINDS = ", ".join(IMAGE_SUFFIXES)
# Suffixes of notes that programs write beside a frame, under its name; anything else of such a name may be a frame itself.
_NOTES = (".txt", ".json", ".xml", ".csv", ".yaml", ".yml", ".xmp")


class Frames(ABC):
    """A sequence of RGB frames of the same size.

    Attributes:
        name (str): name of the source, for messages.
        height (int): height of a frame in pixels.
        width (int): width of a frame in pixels.
        num_frames (int or None): number of frames; None while it is unknown.
        frames_per_second (float): frame rate; 24 if the source does not specify one.
    """

    name: str
    height: int
    width: int
    num_frames: int | None
    frames_per_second: float = 24.0

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """Read frame `index`, (height, width, 3) uint8 RGB."""

    def has(self, index: int) -> bool:
        """Whether frame `index` exists. A source of unknown length is read up to it."""
        return 0 <= index < self.count()

    def count(self) -> int:
        """The number of frames. A source of unknown length is read to its end."""
        assert self.num_frames is not None
        return self.num_frames

    def extent(self) -> str:
        """The range of frames that exist, for messages."""
        return f"0 to {self.count() - 1}"

    def another(self) -> Frames:
        """A source of the same frames for another reader, which does not look for them again.

        Reading one does not slow the other down. A source that reads all frames equally fast returns itself.
        """
        return self

    def close(self) -> None:  # noqa: B027 # most sources hold no resources
        """Release threads, files and memory. The frames cannot be used any more, unless they are in memory anyway."""

    def missing_frame_error(self, index: int) -> IndexError:
        """The exception to raise if there is no frame `index`."""
        return IndexError(f"no frame {index} in {self.name}: it has frames {self.extent()}")


class ImageFolder(Frames):
    """A folder of images of one kind (JPEG, PNG, WebP, BMP, TIFF), in the natural order of their names.

    If some images are JPEGs, the others are assumed to be masks and are left out with a warning. Warnings also name files that
    are not read but named like frames, and gaps in the numbering.

    Args:
        folder (str or Path): folder of the images.
        value_range (ValueRange): values that become black and white in images with more than 8 bits; see
            `i2v.data.images.to_rgb`. "data" uses the smallest and largest value of all images.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: the path is a file.
        ValueError: there are no images; it is unclear which of several kinds are the frames, or what their order is; an image
            is unreadable, truncated or of another size, or a link is broken. The message names the files.
    """

    def __init__(self, folder: str | Path, value_range: ValueRange = None) -> None:
        self.folder = Path(folder)
        self.name = str(folder)
        self.paths = frame_paths(self.folder)
        self.num_frames = len(self.paths)
        self._unchanged = UnchangedFiles(self.paths)
        sizes = read_each(upright_size, self.paths)
        self.width, self.height = sizes[0]
        for path, size in zip(self.paths, sizes, strict=True):
            self._check_size(path, *size)
        value_range = check_value_range(value_range)
        self._value_range = value_bounds(self.paths) if value_range == "data" else value_range

    def __getitem__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        self._unchanged.check(path)
        try:
            image = read_rgb(path, self._value_range)
        except (ValueError, FileNotFoundError) as error:
            self._unchanged.forget(path)  # the file may be repaired
            raise ValueError(f"cannot decode frame {index}: {error}") from error
        self._check_size(path, image.shape[1], image.shape[0])
        return image

    def _check_size(self, path: Path, width: int, height: int) -> None:
        if (width, height) != self.size:
            raise ValueError(
                f"{path} is {width}x{height} pixels, but {self.paths[0].name} is {self.width}x{self.height}: all frames of a "
                "video must have the same size (as seen upright)"
            )


class ArrayFrames(Frames):
    """Frames in memory: an array or a list.

    Args:
        frames (np.ndarray or Sequence[Any]): (T, H, W, 3) uint8 RGB, or a list of images (H, W, 3) uint8 RGB or PIL images; it
            is not copied.
        value_range (tuple of float): value range of PIL images; see `i2v.data.images.to_rgb`.

    Raises:
        ValueError: there are no frames, or a frame has another type, shape or size, cannot be decoded or has several pictures.
    """

    def __init__(self, frames: np.ndarray | Sequence[Any], value_range: tuple[float, float] | None = None) -> None:
        self.name = "the array of frames"
        if len(frames) == 0:
            raise ValueError("the array of frames is empty")
        if isinstance(frames, np.ndarray) and frames.dtype == object:
            frames = list(frames)
        self._frames = frames
        self._value_range = value_range
        self.num_frames = len(frames)
        for i, frame in enumerate(() if isinstance(frames, np.ndarray) else frames):
            if isinstance(frame, Image.Image) and (count := num_pictures(frame)) > 1:
                raise ValueError(f"frame {i} is an image file of {count} pictures: pass a copy of each of them (image.copy())")
        self.height, self.width = _as_rgb(frames[0], 0, value_range).shape[:2]
        if not isinstance(frames, np.ndarray):
            for i, frame in enumerate(frames):
                _check_size(_as_rgb(frame, i, value_range), i, self)

    def __getitem__(self, index: int) -> np.ndarray:
        return _as_rgb(self._frames[index], index, self._value_range)


class KeptFrames:
    """A store for frames that cannot be read again: the latest in memory, the others on disk without loss.

    The files are removed by `close`, or when this object is garbage collected.

    Args:
        max_bytes (int): limit of the frames in memory, in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._in_memory: OrderedDict[int, np.ndarray] = OrderedDict()
        self._on_disk: dict[int, Path] = {}
        self._folder: Path | None = None
        self._remove: Callable[[], None] | None = None

    def close(self) -> None:
        """Discard all frames."""
        self._in_memory.clear()
        self._on_disk.clear()
        if self._remove is not None:
            self._remove()

    def add(self, index: int, image: np.ndarray) -> None:
        """Store a frame.

        Args:
            index (int): index of the frame.
            image (np.ndarray): (H, W, 3) uint8 RGB.

        Raises:
            OSError: a frame cannot be written to disk.
        """
        self._in_memory[index] = image
        try:
            while sum(kept.nbytes for kept in self._in_memory.values()) > self._max_bytes:
                oldest = next(iter(self._in_memory))
                self._on_disk[oldest] = self._write(oldest, self._in_memory[oldest])
                del self._in_memory[oldest]
        except OSError:
            self._in_memory.pop(index, None)
            raise

    def __getitem__(self, index: int) -> np.ndarray:
        if index in self._in_memory:
            return self._in_memory[index]
        image = cv2.imread(str(self._on_disk[index]))
        if image is None:
            raise OSError(f"cannot read frame {index} from {self._on_disk[index]}: was it removed?")
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def __contains__(self, index: int) -> bool:
        return index in self._in_memory or index in self._on_disk

    def drop(self, index: int) -> None:
        """Discard a frame, if it is stored."""
        self._in_memory.pop(index, None)
        path = self._on_disk.pop(index, None)
        if path is not None and path.stem.endswith(f"-{os.getpid()}"):  # not a file of the parent process
            path.unlink(missing_ok=True)

    def _write(self, index: int, image: np.ndarray) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="i2v-frames-"))
            self._remove = weakref.finalize(self, _remove_folder, self._folder, os.getpid())
        # Named by the process, because after a fork both processes continue to write.
        path = self._folder / f"{index:06d}-{os.getpid()}.png"
        if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"cannot write frame {index} to {path}: is the disk full?")
        return path


def _remove_folder(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked process
        shutil.rmtree(folder, ignore_errors=True)


class IteratorFrames(Frames):
    """Frames from an iterator, read on demand.

    An iterator cannot be rewound, so every frame is stored on disk without loss, in a temporary folder that is removed with
    this object.

    Args:
        frames (Iterable[Any]): yields images (H, W, 3) uint8 RGB or PIL images.
        value_range (tuple of float): value range of PIL images; see `i2v.data.images.to_rgb`.

    Raises:
        ValueError: there are no frames, or the first one has another type or shape.
    """

    def __init__(self, frames: Iterable[Any], value_range: tuple[float, float] | None = None) -> None:
        self.name = "the iterator of frames"
        self._iterator: Iterator[Any] = iter(frames)
        self._value_range = value_range
        self._kept = KeptFrames(max_bytes=0)
        self._lock = ForkSafeLock()
        self._read = 0
        self._error: Exception | None = None
        self.num_frames = None
        try:
            first = next(self._iterator)
        except StopIteration:
            raise ValueError("the iterator of frames is empty") from None
        self.height, self.width = _as_rgb(first, 0, value_range).shape[:2]
        self._store(first)

    def has(self, index: int) -> bool:
        with self._lock:
            while self.num_frames is None and index >= self._read:
                self._read_one()
            return 0 <= index < self._read

    def count(self) -> int:
        with self._lock:
            while self.num_frames is None:
                self._read_one()
            return self.num_frames

    def extent(self) -> str:
        # Not `count`, because the iterator may be a camera and never end.
        return f"0 to {self._read - 1}" + ("" if self.num_frames is not None else " so far")

    def close(self) -> None:
        with self._lock:
            self._error = self._error or ValueError(f"{self.name} was closed with its session")
            self.num_frames = None
            self._read = 0
            self._kept.close()

    def __getitem__(self, index: int) -> np.ndarray:
        if not self.has(index):
            raise IndexError(f"{self.name} has no frame {index}")
        return self._kept[index]

    def __reduce__(self) -> NoReturn:
        raise TypeError("frames of an iterator cannot be pickled or copied: pass a path or an array to the other process")

    def _read_one(self) -> None:
        if self._error is not None:  # a frame is lost, and the next one must not take its place
            raise self._error
        try:
            self._store(next(self._iterator))
        except StopIteration:
            self.num_frames = self._read
        except BaseException as error:  # also KeyboardInterrupt, after which a generator is exhausted
            # An interrupt is raised once only, because a second one would stop a program that continued after the first.
            self._error = error if isinstance(error, Exception) else ValueError(f"{self.name} was interrupted: open it again")
            raise

    def _store(self, frame: Any) -> None:
        image = _as_rgb(frame, self._read, self._value_range)
        self._kept.add(self._read, _check_size(image, self._read, self))
        self._read += 1


class LiveFrames(Frames):
    """A live video, whose frames arrive one by one; see `append`.

    Args:
        num_usable (int): number of latest frames that can be requested.
        num_kept (int): number of latest frames that are kept, because a usable frame may need them.
        max_bytes (int): limit of the kept frames in memory, in bytes; older ones are stored on disk without loss.
        value_range (tuple of float): value range of PIL images; see `i2v.data.images.to_rgb`.
    """

    def __init__(
        self,
        num_usable: int,
        num_kept: int,
        max_bytes: int = MAX_BYTES,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.name = "the live video"
        self.num_frames = 0
        self.height = self.width = 0
        self._num_usable = num_usable
        self._num_kept = num_kept
        self._value_range = value_range
        self._kept = KeptFrames(max_bytes)

    def append(self, frame: Any) -> int:
        """Add a frame.

        Args:
            frame: image (H, W, 3) uint8 RGB, or a PIL image.

        Returns:
            Index of the frame (int).

        Raises:
            ValueError: the frame has another type, shape or size.
            OSError: a frame cannot be written to disk.
        """
        index = self.count()
        image = _as_rgb(frame, index, self._value_range)
        if index == 0:
            self.height, self.width = image.shape[:2]
        self._kept.add(index, _check_size(image, index, self).copy())
        self.num_frames = index + 1
        self._kept.drop(index - self._num_kept)
        return index

    def close(self) -> None:
        self._kept.close()

    @property
    def _usable(self) -> range:
        return range(max(self.count() - self._num_usable, 0), self.count())

    def has(self, index: int) -> bool:
        return index in self._usable

    def extent(self) -> str:
        return f"{self._usable[0]} to {self._usable[-1]}, and discards earlier ones" if self._usable else "none yet"

    def __getitem__(self, index: int) -> np.ndarray:
        if index not in self._kept:
            oldest = max(self.count() - self._num_kept, 0)
            raise IndexError(f"frame {index} of the live video is gone: only frames {oldest} and later are kept")
        return self._kept[index]


class UnchangedFiles:
    """Detects files that were replaced or modified since this object was created.

    Args:
        paths (Iterable[Path]): paths of the files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._states: dict[Path, tuple[int, int, int]] = {}
        for path in paths:
            self.check(path)

    def check(self, path: Path) -> None:
        """Raise a ValueError if a file exists but has changed."""
        if not path.exists():
            return
        status = path.stat()
        state = status.st_size, status.st_mtime_ns, status.st_ino  # unpacked archives may give all files the same time
        if state != self._states.setdefault(path, state):
            raise ValueError(f"{path} was changed since the video was opened: open the video again")

    def forget(self, path: Path) -> None:
        """Accept the state in which the file is at the next check."""
        self._states.pop(path, None)


class ForkSafeLock:
    """A lock for threads that is released in a forked process, where the thread that held it does not exist."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._process = os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            self._reset()
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def open_frames(
    video: str | Path | np.ndarray | Sequence[Any] | Iterable[Any] | Frames, value_range: ValueRange = None
) -> Frames:
    """Open a video from any kind of source.

    Args:
        video (str or Path or np.ndarray or Sequence or Iterable or Frames): path of a folder or a video file; an array (T, H,
            W, 3) uint8 RGB; a list or an iterator of images (H, W, 3) uint8 RGB or PIL images; or open frames, which are
            returned unchanged.
        value_range (ValueRange): values that become black and white in images with more than 8 bits, or "data" for the
            smallest and largest value in a folder; by default the range of their type. See `i2v.data.images.to_rgb`.

    Returns:
        The frames (Frames).

    Raises:
        FileNotFoundError: no such file or folder.
        TypeError: `video` is none of these.
        ValueError: see the classes; or `value_range` is "data" and `video` is not a folder, or there is a value range for a
            video file or open frames; or the path is empty.
    """
    if isinstance(video, Frames):
        if value_range is not None:
            raise ValueError(f"{video.name} is open already: pass value_range where it is opened (open_frames)")
        return video
    if isinstance(video, str) and not video:  # for Python this is the working directory
        raise ValueError("the path of the video is empty")
    path = Path(video) if isinstance(video, (str, Path)) else None
    if path is not None and not path.exists():
        raise FileNotFoundError(f"no such video file or folder of frames: {video}")
    if path is not None and path.is_dir():
        return ImageFolder(path, value_range)
    if path is not None and value_range is not None:
        raise ValueError(f"value_range is for folders and lists of images, not for a file: {path} is read as 8 bits")
    bounds = check_bounds(value_range)
    if path is not None:
        from i2v.data.video_file import VideoFile  # here, because it imports this module

        return VideoFile(path)
    if isinstance(video, (np.ndarray, list, tuple)):
        return ArrayFrames(video, bounds)
    if isinstance(video, Iterable):
        return IteratorFrames(video, bounds)
    raise TypeError(
        f"cannot read a video from {type(video).__name__}: pass a path, an array (T, H, W, 3), a list or an iterator of images"
    )


def check_bounds(value_range: ValueRange) -> tuple[float, float] | None:
    """Check the value range of frames that cannot be read in advance.

    Args:
        value_range (ValueRange): None, or the values of black and white.

    Returns:
        The value range.

    Raises:
        ValueError: the value range is "data", or invalid; see `check_value_range`.
    """
    bounds = check_value_range(value_range)
    if bounds == "data":
        raise ValueError('value_range="data" is for a folder of images: give two numbers, the values of black and white')
    return bounds


def frame_paths(folder: Path) -> list[Path]:
    """Find the images of a folder that are the frames of a video.

    Warnings name the images that are left out, and gaps in the numbering.

    Args:
        folder (Path): the folder.

    Returns:
        Paths of the frames in their order; see `i2v.data.frame_order.in_frame_order`.

    Raises:
        FileNotFoundError: see `ImageFolder`.
        NotADirectoryError: see `ImageFolder`.
        ValueError: see `ImageFolder`.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no such folder of frames: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder of frames")
    kinds: dict[str, list[Path]] = defaultdict(list)
    others: list[Path] = []
    broken: list[str] = []
    for entry in scan(folder):
        path = folder / entry.name
        kind = None if entry.is_dir() else kind_of(path)
        (others if kind is None else kinds[kind]).append(path)
        if kind is not None and entry.is_symlink() and not path.exists():
            broken.append(path.name)
    chosen = chosen_kind(folder, kinds, "JPEG", "frames")  # beside JPEGs there may be a mask for each of them
    if chosen is None:
        files = [path for path in others if path.is_file()]
        found = "it is empty"
        if others:
            found = f"it holds other {'files' if files else 'folders'} ({(files or others)[0].name}, ...)"
        raise ValueError(f"no JPEG or PNG frames in {folder}, nor any other kind that is supported ({_KINDS}): {found}")
    paths = in_frame_order(kinds.pop(chosen))
    if broken:
        raise ValueError(f"{folder} has broken links: {listed(broken)}")
    _warn_of_doubts(folder, paths, [path for images in kinds.values() for path in images], others)
    return paths


def _warn_of_doubts(folder: Path, paths: Sequence[Path], other_images: Sequence[Path], others: Sequence[Path]) -> None:
    """Warn of files that may be frames but are left out, and of numbering that may be wrong.

    Args:
        folder (Path): the folder.
        paths (Sequence[Path]): paths of the frames, in order.
        other_images (Sequence[Path]): paths of images of other kinds.
        others (Sequence[Path]): paths of files and folders that are not images.
    """
    like_frames = {_shape(path.name) for path in paths}
    if unread := [path.name for path in others if path.suffix.lower() not in _NOTES and _shape(path.name) in like_frames]:
        warn_once(f"{folder}: {len(unread)} unsupported files or folders are named like frames and left out: {listed(unread)}")
    if left_out := [path.name for path in other_images]:
        warn_once(
            f"{folder}: {len(left_out)} images that are not {kind_of(paths[0])} are left out as masks: {listed(left_out)}"
        )
    if after := gaps([path.stem for path in paths]):
        plural = "s" if len(after) > 1 else ""
        warn_once(f"{folder}: the numbers have {len(after)} gap{plural}, after {listed(after)}; the video continues there")
    if starts := restarts([path.stem for path in paths]):
        warn_once(
            f"{folder}: the numbering restarts, the same after {' and after '.join(starts[:2])}: these may be several videos "
            "in one folder, which are read as one"
        )


def _shape(name: str) -> str:
    """A name up to its first point, regardless of its numbers and of case."""
    return re.sub("[0-9]+", "0", name.partition(".")[0].casefold())


def _as_rgb(frame: Any, index: int, value_range: tuple[float, float] | None) -> np.ndarray:
    if isinstance(frame, Image.Image):
        try:
            return to_rgb(frame, value_range)
        except (OSError, SyntaxError, ValueError) as error:  # raised by Pillow for damaged files
            raise ValueError(f"frame {index}: {error}") from error
    if isinstance(frame, np.ma.MaskedArray):
        raise ValueError(f"frame {index} is a masked array, whose masked pixels have no colour: pass its filled(...)")
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        what = f"{frame.dtype} array {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"frame {index} must be a uint8 RGB array (H, W, 3) or a PIL image, got {what}")
    if not frame.size:
        raise ValueError(f"frame {index} has no pixels: its shape is {frame.shape}")
    warn_of_unused(value_range, "the images in memory")
    return frame


def _check_size(image: np.ndarray, index: int, frames: Frames) -> np.ndarray:
    if image.shape[:2] != (frames.height, frames.width):
        raise ValueError(
            f"frame {index} of {frames.name} is {image.shape[1]}x{image.shape[0]} pixels, the first one is "
            f"{frames.width}x{frames.height}: all frames of a video must have the same size"
        )
    return image
