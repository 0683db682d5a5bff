"""The sound of a video file, for a video that is made from its frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from heapq import merge
from itertools import chain
from pathlib import Path

import av

from i2v.data.video_file import VideoFile, open_container

# How far pictures and sound may drift apart before a viewer notices, in seconds.
_TOLERANCE = 0.15


def copy_sound(source: VideoFile, indices: Sequence[int], frames_per_second: float, silent: Path, target: Path) -> bool:
    """Write a video once more, with the sound of its source. Pictures and sound are copied as they are, not encoded again.

    Args:
        source: the video file whose sound it is.
        indices: of the frames of the source that the video shows, at least one.
        frames_per_second: at which it shows them.
        silent: the video, without sound.
        target: the MP4 file to write.

    Returns:
        Whether the source has sound at that time. Nothing is written if it has none.

    Raises:
        ValueError: the sound would not fit the pictures.
        av.FFmpegError, OSError: the file cannot be written, or MP4 cannot hold sound of this kind, such as mu-law.
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
            pictures = (packet for packet in seen.demux(video=0) if packet.dts is not None)  # the last one is empty
            for packet in merge(pictures, chain([first], sounds), key=lambda packet: packet.dts * packet.time_base):
                packet.stream = streams[packet.stream.type]
                output.mux(packet)
    return True


def _start(source: VideoFile, indices: Sequence[int], frames_per_second: float) -> Fraction:
    """When the first frame is shown in the source, in seconds.

    Raises:
        ValueError: the others are shown at other times after it than in a video with a constant rate.
    """
    times = [source.seconds(index) for index in indices]
    if None in times:
        raise ValueError("its frames have no time stamps")
    if any(abs(float(time - times[0]) - i / frames_per_second) > _TOLERANCE for i, time in enumerate(times)):
        raise ValueError("its frames do not follow each other at a constant rate, or some between them were not tracked")
    return times[0]


def _sound_between(packets: Iterator[av.Packet], start: Fraction, end: Fraction) -> Iterator[av.Packet]:
    """The packets of sound from `start` to `end`, in seconds, shifted so that `start` is zero."""
    for packet in packets:
        if packet.pts is None or packet.dts is None or packet.pts * packet.time_base < start:
            continue
        if packet.pts * packet.time_base >= end:
            return
        shift = round(start / packet.time_base)
        packet.pts -= shift
        packet.dts = max(packet.dts - shift, 0)
        yield packet
