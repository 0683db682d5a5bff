"""Videos with transparency."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from i2v.data.video_file import require_whole
from i2v.utils.files import atomic_write

# Constant quality; several threads. Frames that are never shown, as VP9 makes them by default, would lose their transparency.
_OPTIONS = {"crf": "24", "b": "0", "cpu-used": "4", "row-mt": "1", "auto-alt-ref": "0"}


@contextmanager
def transparent_video(path: Path, frames_per_second: float, width: int, height: int) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a WebM file with transparency (VP9), which browsers and video editors show over another picture.

    The file appears when the block ends and all frames can be read back from it.

    Args:
        path (Path): the file to write.
        frames_per_second (float): frame rate.
        width (int): width of the frames, in pixels.
        height (int): height of the frames, in pixels.

    Yields:
        A function that adds a frame, (height, width, 4) uint8 RGBA.

    Raises:
        OSError: the file cannot be written, or is incomplete.
    """
    rate, count = Fraction(frames_per_second).limit_denominator(100_000), 0
    padding = (0, height % 2, 0, width % 2)  # the codec subsamples colours, so it needs even sides
    with atomic_write(path) as temporary:
        with av.open(str(temporary.absolute()), "w", format="webm") as container:
            stream = container.add_stream("libvpx-vp9", rate, options=_OPTIONS)
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuva420p"
            stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU601

            def write(image: np.ndarray) -> None:
                nonlocal count
                padded: np.ndarray = np.asarray(cv2.copyMakeBorder(image, *padding, cv2.BORDER_REPLICATE), np.uint8)
                frame = av.VideoFrame.from_ndarray(padded, format="rgba")
                frame = frame.reformat(format="yuva420p", dst_colorspace="ITU601")
                frame.pts, frame.time_base = count, 1 / rate
                container.mux(stream.encode(frame))
                count += 1

            yield write
            container.mux(stream.encode())
        require_whole(temporary, count, path)
