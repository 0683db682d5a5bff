"""Copy the sound of a video file to a video made from its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from heapq import merge
from itertools import chain
from pathlib import Path

import av

from i2v.data.video_file import VideoFile, open_container

# Drift between pictures and sound that a viewer does not notice, in seconds.
_TOLERANCE = 0.15


def copy_sound(source: VideoFile, indices: Sequence[int], frames_per_second: float, silent: Path, target: Path) -> bool:
    """Write a copy of a silent video with the sound of its source. Neither pictures nor sound are encoded again.

    Args:
        source (VideoFile): the video file with the sound.
        indices (Sequence[int]): indices of the source's frames that the silent video shows; at least one.
        frames_per_second (float): frame rate of the silent video.
        silent (Path): path of the silent video.
        target (Path): path of the MP4 file to write.

    Returns:
        Whether the source has sound at that time. If not, nothing is written.

    Raises:
        ValueError: pictures and sound would not be in sync.
        av.FFmpegError: the file cannot be written, or MP4 does not support the sound's codec, such as mu-law.
        OSError: the file cannot be written.
    """
    with open_container(source.path) as heard, av.open(str(silent.absolute())) as seen:
        if not heard.streams.audio:
            return False
        start = _start(source, indices, frames_per_second)
        sounds = _sound_between(heard.demux(audio=0), start, start + Fraction(len(indices) / frames_per_second))
        if (first := next(sounds, None)) is None:
            return False
        with av.open(str(target.absolute()), "w", format="mp4") as output:
            streams = {stream.type: output.add_stream_from_template(stream) for stream in (seen.streams.video[0], first.stream)}
            pictures = (packet for packet in seen.demux(video=0) if packet.dts is not None)  # the last packet is empty
            for packet in merge(pictures, chain([first], sounds), key=lambda packet: packet.dts * packet.time_base):
                packet.stream = streams[packet.stream.type]
                output.mux(packet)
    return True


def _start(source: VideoFile, indices: Sequence[int], frames_per_second: float) -> Fraction:
    """The time at which the source shows the first frame, in seconds.

    Raises:
        ValueError: a frame has no time stamp, or the frames do not follow each other at a constant rate.
    """
    times = [time for index in indices if (time := source.seconds(index)) is not None]
    if len(times) < len(indices):
        raise ValueError("its frames have no time stamps")
    if any(abs(float(time - times[0]) - i / frames_per_second) > _TOLERANCE for i, time in enumerate(times)):
        raise ValueError("its frames do not follow each other at a constant rate, or some between them were not tracked")
    return times[0]


def _sound_between(packets: Iterator[av.Packet], start: Fraction, end: Fraction) -> Iterator[av.Packet]:
    """The packets of sound from `start` to `end` (both in seconds), shifted so that `start` becomes zero."""
    for packet in packets:
        if packet.pts is None or packet.dts is None or packet.pts * packet.time_base < start:
            continue
        if packet.pts * packet.time_base >= end:
            return
        shift = round(start / packet.time_base)
        packet.pts -= shift
        packet.dts = max(packet.dts - shift, 0)
        yield packet
