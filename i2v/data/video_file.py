"""Compressed videos, decoded by PyAV (FFmpeg), with exact random access."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from i2v.data.files import content_of, walk
from i2v.data.frames import MAX_BYTES, ForkSafeLock, Frames, UnchangedFiles
from i2v.data.images import kind_of
from i2v.utils.files import require_regular_file

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v")
# The formats that FFmpeg may recognise: no lists of other files and URLs (concat, HLS, DASH, SDP), which it would open.
_FORMATS = (
    "3gp,amv,asf,av1,avi,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,"
    "obu,ogg,rm,vc1,vvc,webm,wtv,yuv4mpegpipe"
)
# Codecs with packets that show no frame.
_HIDING = ("vp8", "vp9", "av1", "libvpx", "libdav1d", "libaom")
# Damage in the last packet appears in one of the last frames, since some that depend on it may be shown after it.
_LAST_FRAMES = 4
# Backward reading decodes up to this many frames at once, as memory allows.
_CHUNK = 16
# Up to this many zero bytes may follow the end of a GIF.
_GIF_END = 2**16
# Pictures and sound that both end before this share of the duration in the header cause a warning.
_WHOLE = 0.95


class VideoFile(Frames):
    """A video file.

    The video is decoded once when it is opened, which costs little compared with tracking: the number of frames in the header
    is often an estimate, and there is no other way to find out whether the file is whole. It can be read from several threads,
    and after a fork.

    Args:
        path (str or Path): path of the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a video, or truncated: it ends in a decoding error.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._unchanged = UnchangedFiles([self.path])
        self._timestamps, self._time_base, self.frames_per_second = _scan(self.path)
        self.num_frames = len(self._timestamps)
        # Frames are identified by time stamp; if these are missing or not unique, the file is read from its start.
        self._indices = {timestamp: index for index, timestamp in enumerate(self._timestamps)}
        self._can_seek = None not in self._indices and len(self._indices) == self.num_frames
        self._decoded: Iterator[av.VideoFrame]
        self._begin()
        first = next(self._decoded)
        self._decoded = chain([first], self._decoded)
        self.height, self.width = to_picture(first).shape[:2]
        self._chunk = min(max(MAX_BYTES // (3 * self.height * self.width), 1), _CHUNK)

    def _begin(self) -> None:
        """Make what each reader of the file has of its own."""
        self._lock = ForkSafeLock()
        self._is_closed = False
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        _OPEN.add(self)
        self._rewind()

    def another(self) -> VideoFile:
        """A source of the same file with a decoder of its own, without decoding the file again; see `Frames.another`.

        Raises:
            FileNotFoundError: the file is gone.
            ValueError: the file was changed.
        """
        self._unchanged.check(self.path)
        other = VideoFile.__new__(VideoFile)
        vars(other).update(vars(self))
        other._begin()
        return other

    def __getitem__(self, index: int) -> np.ndarray:
        with self._lock:
            if self._is_closed:
                raise ValueError(f"{self.name} was closed: open it again")
            if self._process != os.getpid():
                self._rewind()
            if index not in self._recent:
                if not 0 <= index < self.count():
                    raise IndexError(f"{self.name} has no frame {index}")
                self._read(index)
            return self._recent[index]

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._recent.clear()
            if self._process == os.getpid():
                self._decoded = iter(())
                self._container.close()

    def seconds(self, index: int) -> Fraction | None:
        """The time at which a frame is shown, in seconds of the file's clock; None if the file does not specify it."""
        timestamp = self._timestamps[index]
        return None if timestamp is None else timestamp * self._time_base

    def __reduce__(self) -> tuple[type[VideoFile], tuple[Path]]:
        return VideoFile, (self.path,)

    def abandon(self) -> None:
        """Leave the file open for ever, even when the process ends.

        In a forked process, closing it would wait for the decoder's threads, which exist in the parent process only.
        """
        for inherited in (self._container, self._decoded):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))

    def _read(self, index: int) -> None:
        """Decode frame `index`, and when reading backward also the frames before it."""
        self._unchanged.check(self.path)
        first = max(index - self._chunk + 1, 0) if index < self._position else index
        if not self._position <= first <= self._position + _CHUNK:
            self._seek(first)
        while self._position <= index:
            frame = next(self._decoded, None)
            if frame is None:
                raise ValueError(f"{self.name}: frame {self._position} can no longer be decoded")
            if self._position >= first:
                self._recent[self._position] = to_picture(frame, self.size)
                if len(self._recent) > self._chunk:
                    self._recent.popitem(last=False)
            self._position += 1

    def _rewind(self) -> None:
        """Make the first frame the next one to decode."""
        self._process = os.getpid()
        self._container = open_container(self.path)
        self._decoded = _decode(self._container)
        self._position = 0

    def _seek(self, index: int) -> None:
        """Make a key frame at or before `index` the next one to decode."""
        timestamp = self._timestamps[index]
        if self._can_seek and timestamp is not None:
            self._container.seek(timestamp, stream=self._container.streams.video[0])
            decoded = _decode(self._container)
            # Frames before the first key frame may lack frames that they depend on.
            first = next((frame for frame in decoded if frame.key_frame and frame.pts in self._indices), None)
            if first is not None and self._indices[first.pts] <= index:
                self._decoded = chain([first], decoded)
                self._position = self._indices[first.pts]
                return
        self._rewind()


_OPEN: weakref.WeakSet[VideoFile] = weakref.WeakSet()


def _begin_after_fork() -> None:
    """Leave the parent's open files alone: closing or collecting them would wait for threads that do not exist here."""
    gc.freeze()
    for video in _OPEN:
        video.abandon()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_begin_after_fork)


def iterate_frames(
    path: str | Path, wanted: Callable[[int], bool], stop: int | None = None, threads: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """Read a video once from its start.

    Args:
        path (str or Path): path of the file.
        wanted (Callable[[int], bool]): whether to convert a frame, given its index; other frames are only decoded.
        stop (int or None): index at which to stop; None to read to the end.
        threads (int): number of decoding threads; 0 for one per core.

    Yields:
        Index and picture, (H, W, 3) uint8 RGB, of each wanted frame.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a video, or, once its end is reached, it is truncated.
    """
    size: tuple[int, int] | None = None
    with open_container(path, threads) as container:
        for index, frame in enumerate(_decode(container, path)):
            if wanted(index):
                picture = to_picture(frame, size)
                size = picture.shape[1], picture.shape[0]
                yield index, picture
            if stop is not None and index + 1 >= stop:
                return


def count_frames(path: str | Path) -> int:
    """Count the frames of a video by decoding it.

    Args:
        path (str or Path): path of the file.

    Returns:
        Number of frames (int).

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a video, or truncated.
    """
    return len(_scan(Path(path))[0])


def require_whole(path: Path, count: int, name: str | Path) -> None:
    """Check a video that was written.

    Args:
        path (Path): path of the file.
        count (int): number of frames that were written to it.
        name (str or Path): name of the file, for the message.

    Raises:
        OSError: it does not have all frames.
    """
    try:
        found = count_frames(path)
    except (ValueError, FileNotFoundError):
        found = 0
    if found != count:
        raise OSError(f"{name} is incomplete ({found} of {count} frames): is the disk full?")


def read_frames(path: str | Path, indices: Sequence[int]) -> list[np.ndarray]:
    """Read some frames of a video, which is decoded from its start to the last of them.

    Args:
        path (str or Path): path of the file.
        indices (Sequence[int]): indices of the frames in ascending order.

    Returns:
        One image (H, W, 3) uint8 RGB per frame.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a video, or ends before the last frame.
    """
    images = [image for _, image in iterate_frames(path, set(indices).__contains__, stop=indices[-1] + 1)]
    if len(images) < len(indices):
        raise ValueError(f"{path} ends before frame {indices[-1]}, which is needed")
    return images


def find_videos(folder: Path) -> list[Path]:
    """Find the video files in a folder and its subfolders by suffix, sorted by path."""
    return sorted(path for path in walk(folder) if path.suffix.lower() in VIDEO_SUFFIXES)


def to_picture(frame: av.VideoFrame, size: tuple[int, int] | None = None) -> np.ndarray:
    """Convert a decoded frame to RGB, rotated and mirrored as the file specifies.

    Args:
        frame (av.VideoFrame): frame from the decoder.
        size (tuple of int): (width, height) of the result in pixels, for videos whose resolution changes; by default that of
            the frame.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")  # it has a buffer, which PyAV's type hints do not declare
    if matrix is None:
        width, height = size or (None, None)
        return frame.to_ndarray(width=width, height=height, format="rgb24")
    # The pixel (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    is_sideways = abs(b) > abs(a)
    width, height = (size[::-1] if is_sideways else size) if size is not None else (None, None)
    image = frame.to_ndarray(width=width, height=height, format="rgb24")
    if is_sideways:
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def open_container(path: str | Path, threads: int = 0) -> av.container.InputContainer:
    """Open a video file with PyAV.

    Args:
        path (str or Path): path of the file.
        threads (int): number of decoding threads; 0 for one per core.

    Returns:
        The open container.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a video.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no such video: {path}")
    require_regular_file(path)
    content = content_of(Path(path))
    if kind_of(Path(path)) is not None:
        if content == "a video":
            raise ValueError(f"{path} has the suffix of an image but is a video: give it the suffix of a video, such as .mp4")
        raise ValueError(f"{path} is an image, not a video: pass its folder, or a list of images")
    try:
        # A relative path such as "12:30.mp4" would be a URL with the protocol "12".
        container = av.open(str(Path(path).absolute()), options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})
    except av.FFmpegError as error:
        if content == "an image":
            raise ValueError(
                f"{path} is not a video but an image: correct its suffix, and pass its folder, or a list of images"
            ) from error
        if content == "a playlist":
            raise ValueError(f"{path} is not a video but a playlist, which is not supported: pass the video itself") from error
        raise ValueError(
            f"{path} is not a video that FFmpeg can open (nor a folder of images): {error.strerror}. If it is an MP4, it may "
            "be truncated: without its end it has no index"
        ) from error
    if not container.streams.video or container.streams.video[0].codec_context is None:
        container.close()
        raise ValueError(f"{path} has no pictures: it is not a video, or it is truncated within its index")
    codec = container.streams.video[0].codec_context
    codec.thread_type = "AUTO"
    codec.thread_count = threads
    return container


def _decode(container: av.container.InputContainer, path: str | Path | None = None) -> Iterator[av.VideoFrame]:
    """Decode the frames from the current position of a file. As in FFmpeg, damaged ones are left out.

    Args:
        container (av.container.InputContainer): the open file.
        path (str or Path or None): path of the file, to raise a ValueError at damage that changes the numbers of later frames;
            None to continue there.

    Yields:
        The decoded frames.
    """
    stream = container.streams.video[0]

    def refuse(decoded: int) -> None:
        raise ValueError(f"{path} is damaged after {decoded} frames, so later frames would have wrong numbers")

    yield from _frames_of(container.demux(stream), stream, path, refuse if path else None)


def _frames_of(
    packets: Iterator[av.Packet],
    stream: av.VideoStream,
    path: str | Path | None,
    on_damage: Callable[[int], None] | None = None,
) -> Iterator[av.VideoFrame]:
    """Decode packets and find damage; see `_decode`.

    Args:
        packets (Iterator[av.Packet]): packets of the stream.
        stream (av.VideoStream): the stream.
        path (str or Path or None): path of the file, to raise a ValueError if its end is damaged; None to ignore that.
        on_damage (Callable[[int], None] or None): called with the number of frames before the damage if frames are lost
            between others.

    Yields:
        The decoded frames.
    """
    read = decoded = 0
    spoilt = None  # index of the first of the last frames that the decoder marked as corrupt
    damaged = None  # number of the last damaged packet
    lost_after = None  # number of frames before the damage, until a frame follows it
    # Time stamps of frames that are due, because some decoders silently omit damaged ones.
    waiting: set[int] = set()
    has_hidden_frames = stream.codec_context.name.startswith(_HIDING)
    # AVI numbers the packets, which are not in the order of the frames then.
    has_no_times = stream.container.format.name == "avi" and stream.codec_context.has_b_frames
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            read += 1
            if packet.is_corrupt:
                damaged = read
            if packet.pts is not None and packet.size and not packet.is_discard and not (has_hidden_frames or has_no_times):
                waiting.add(packet.pts)
            for frame in packet.decode():
                if frame.pts is not None and waiting:
                    lost = {pts for pts in waiting if pts < frame.pts}
                    waiting -= {*lost, frame.pts}
                    if lost and decoded and lost_after is None:
                        lost_after = decoded
                if lost_after is not None and on_damage is not None:
                    on_damage(lost_after)
                lost_after = None
                if frame.is_corrupt and (spoilt is None or spoilt < decoded - _LAST_FRAMES):
                    spoilt = decoded
                decoded += 1
                yield frame
        except av.FFmpegError:
            damaged = read
        if damaged == read and decoded:  # packets before the first frame may be missing after a cut
            lost_after = decoded
    whole = decoded if spoilt is None or spoilt < decoded - _LAST_FRAMES else spoilt
    # The decoder's threads report damage some packets later.
    ends_damaged = damaged is not None and read - damaged <= stream.codec_context.thread_count + 1
    is_cut_gif = path is not None and stream.container.format.name == "gif" and not _ends_as_gif(Path(path))
    if path is not None and (ends_damaged or whole < decoded or is_cut_gif):
        cut = f", or cut it to its intact frames (ffmpeg -i {Path(path).name} -frames:v {whole} fixed.mp4)" if whole else ""
        how = "its end is missing" if is_cut_gif else "it ends in a decoding error"
        raise ValueError(f"{path} is truncated: {how}, after {whole} frames. Repair it{cut}")


def _ends_as_gif(path: Path) -> bool:
    """Whether a GIF file has its last byte, apart from trailing zeros and white space. Decoders do not report its absence."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _GIF_END, 0))
        return file.read().rstrip(b"\0\r\n\t ").endswith(b";")


def _warn_of_what_is_not_followed(path: Path, container: av.container.InputContainer) -> None:
    """Warn that a file has more than one video, or pixels that are not square."""
    first, *others = container.streams.video
    if num_others := sum(not stream.disposition & Disposition.attached_pic for stream in others):
        log.warning("%s holds %d video streams: only the first one is read", path, 1 + num_others)
    aspect = first.sample_aspect_ratio
    if aspect and aspect != 1:
        log.warning(
            "%s: its pixels should be shown %s times as wide as high; they are read as stored, as squares", path, aspect
        )


@dataclass
class _Faults:
    """What is wrong with the frames of a video, for warnings.

    Attributes:
        damage (list[int]): numbers of frames before each damaged place.
        resized (list[int]): indices of frames whose size differs from that of the first frame.
        spoilt (list[int]): indices of frames that the decoder marked as corrupt.
    """

    damage: list[int] = field(default_factory=list)
    resized: list[int] = field(default_factory=list)
    spoilt: list[int] = field(default_factory=list)

    def warn(self, path: Path, size: tuple[int, int]) -> None:
        """Log a warning for each kind of fault.

        Args:
            path (Path): path of the file.
            size (tuple of int): (width, height) of the first frame in pixels.
        """
        if self.resized:
            log.warning(
                "%s: %d of its frames, first frame %d, differ in size from the first one: they are scaled to %dx%d pixels",
                path,
                len(self.resized),
                self.resized[0],
                *size,
            )
        if self.spoilt:
            log.warning(
                "%s: %d of its frames are damaged, first frame %d: their pictures may be wrong",
                path,
                len(self.spoilt),
                self.spoilt[0],
            )
        if self.damage:
            log.warning(
                "%s is damaged in %d places, first after %d frames: frames that cannot be decoded are left out",
                path,
                len(self.damage),
                self.damage[0],
            )


def _scan(path: Path) -> tuple[list[int | None], Fraction, float]:
    """Decode a video once to find its frames and its faults.

    Args:
        path (Path): path of the file.

    Returns:
        Time stamps of all frames in their order, in units of the file; this unit in seconds; and the frames per second.
    """
    with open_container(path) as container:
        stream = container.streams.video[0]
        # The loop filter takes a fifth of the time and affects nothing but the pictures, which are not used here.
        stream.codec_context.options = {"skip_loop_filter": "all"}
        ends: dict[int, int] = {}  # end of each stream by its index, in units of the stream

        def packets() -> Iterator[av.Packet]:
            for packet in container.demux():
                if packet.pts is not None:
                    index = packet.stream.index
                    ends[index] = max(ends.get(index, 0), packet.pts + (packet.duration or 0))
                if packet.stream is stream:
                    yield packet

        _warn_of_what_is_not_followed(path, container)
        faults = _Faults()
        size: tuple[int, int] | None = None
        timestamps: list[int | None] = []
        for frame in _frames_of(packets(), stream, path, faults.damage.append):
            if frame.is_corrupt:
                faults.spoilt.append(len(timestamps))
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                faults.resized.append(len(timestamps))
            timestamps.append(frame.pts)
        faults.warn(path, size or (0, 0))
        if not timestamps:
            raise ValueError(f"{path}: not a single frame can be decoded")
        promised = (container.duration or 0) / av.time_base
        end = max((float(last * container.streams[index].time_base) for index, last in ends.items()), default=0.0)
        if end < _WHOLE * promised:
            log.warning(
                "%s: its header promises %.1f seconds, but its %d frames and its sound end after %.1f: it may be truncated",
                path,
                promised,
                len(timestamps),
                end,
            )
        rate = float(stream.average_rate or stream.guessed_rate or Frames.frames_per_second)
        return timestamps, stream.time_base, rate
