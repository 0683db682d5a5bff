"""The sound of a video file, for a video that is made from its frames."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from heapq import merge
from pathlib import Path

import av
from av.container import InputContainer

from i2v.data.video_file import VideoFile, open_container


def copy_sound(source: VideoFile, first: int, silent: Path, target: Path) -> bool:
    """Write a video once more, with the sound of its source. Pictures and sound are copied as they are, not encoded again.

    Args:
        source: where the sound is.
        first: index of the frame of the source that the video begins with.
        silent: the video, without sound.
        target: the MP4 file to write.

    Returns:
        Whether the source has sound at that time. Nothing is written if it has none.

    Raises:
        av.FFmpegError: an MP4 file cannot hold sound of this kind, such as mu-law.
    """
    start = source.seconds(first)
    with open_container(source.path) as heard, av.open(str(silent.absolute())) as seen:
        if start is None or not heard.streams.audio:
            return False
        pictures = list(seen.demux(video=0))[:-1]  # the last packet, without content, only ends the decoding
        length = (pictures[-1].pts + pictures[-1].duration) * pictures[-1].time_base
        sounds = list(_sound_between(heard, start, start + length))
        if not sounds:
            return False
        with av.open(str(target.absolute()), "w", format="mp4") as output:
            streams = {
                stream.type: output.add_stream_from_template(stream) for stream in (pictures[0].stream, sounds[0].stream)
            }
            for packet in merge(pictures, sounds, key=lambda packet: packet.dts * packet.time_base):
                packet.stream = streams[packet.stream.type]
                output.mux(packet)
    return True


def _sound_between(container: InputContainer, start: Fraction, end: Fraction) -> Iterator[av.Packet]:
    """The packets of the first sound between two times in seconds, with times that begin at zero."""
    for packet in container.demux(audio=0):
        if packet.pts is None or packet.dts is None or packet.pts * packet.time_base < start:
            continue
        if packet.pts * packet.time_base >= end:
            return
        shift = round(start / packet.time_base)
        packet.pts -= shift
        packet.dts = max(packet.dts - shift, 0)
        yield packet
