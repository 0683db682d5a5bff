"""Images, as they come from cameras, microscopes and editors, as 8-bit RGB."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from i2v.data.files import warn_once
from i2v.utils.files import require_regular_file

# The kinds of image files that are read, with their suffixes in small letters.
IMAGE_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
ALL_SUFFIXES = tuple(suffix for suffixes in IMAGE_SUFFIXES.values() for suffix in suffixes)
_KINDS = {suffix: kind for kind, suffixes in IMAGE_SUFFIXES.items() for suffix in suffixes}
# How the values of images of more than 8 bits become 0 to 255: None for the range of their type, "data" for that of the video's
# own values, or the values that become black and white.
ValueRange = tuple[float, float] | Literal["data"] | None
# How files of these kinds end.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# What Pillow may take a file for: not, for instance, a PostScript program.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Small files can hold huge images; this is three times 8K.
_MAX_PIXELS = 100_000_000
# So few look like one.
_FEW_GREYS = 16
# The kinds of chunks with texts in PNG files, and the key of the text that holds EXIF data.
_TEXTS, _EXIF_KEY = (b"zTXt", b"tEXt", b"iTXt"), b"Raw profile type exif"
_UPRIGHT = 1
_BITS_PER_SAMPLE = 258
_SIDEWAYS = (5, 6, 7, 8)


def kind_of(path: Path) -> str | None:
    """The kind of an image file by its suffix, a key of `IMAGE_SUFFIXES`; None if it is none."""
    return _KINDS.get(path.suffix.lower())


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file with one picture in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no image file, corrupt, cut off, too large, or holds several pictures; also where that shows within
            the block.
    """
    try:
        require_regular_file(path)
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{path} has {image.width}x{image.height} pixels, which is too large")
            # A JPEG's further pictures are previews and the like.
            if image.format not in ("JPEG", "MPO") and getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"{path} holds {image.n_frames} pictures: write each to a file of its own")
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {path}") from error
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is not a readable image, it may be corrupt or truncated: {error}") from error


def read_rgb(path: str | Path, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Read an image file, turned upright as its EXIF data say.

    Args:
        path: of the file.
        value_range: see `to_rgb`.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `open_image` and `to_rgb`; the message names the file.
    """
    with open_image(path) as image:
        image.load()
        try:
            pixels = to_rgb(image, value_range)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if value_range is None and is_deep(image) and int(pixels.max()) - int(pixels.min()) < _FEW_GREYS:
            warn_once(
                f"{Path(path).parent}: of 256 grey levels its images of more than 8 bits have fewer than {_FEW_GREYS}: see "
                "value_range, or --value-range"
            )
        return pixels


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """An image of any mode as 8-bit RGB, turned upright as its EXIF data say. Transparency is ignored.

    Args:
        image: of any size and mode.
        value_range: the values that become 0 and 255, for grey images of more than 8 bits; by default the range of their
            type: 0 to 65535 for whole numbers, and 0 to 1 for floats.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: values outside of the range of their type, or not finite.
    """
    values = deep_colours(image)
    if values is not None:
        shallow = Image.fromarray(_to_bytes(values, value_range))
        shallow.getexif()[ExifTags.Base.Orientation] = _orientation(image)
        return np.asarray(upright(shallow))
    image = upright(image)
    if is_deep(image):
        return np.repeat(_to_bytes(np.asarray(image), value_range)[..., None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey, of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_colours(image: Image.Image) -> np.ndarray | None:
    """The colours of an image file of 16 bits per channel, of which Pillow keeps 8: (H, W, 3) uint16 RGB, not turned upright;
    None for any other image."""
    if not has_deep_colours(image):
        return None
    path = image.filename
    values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError(f"{path} has 16 bits per channel in a form that cannot be read: save it with 8")
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    return np.ascontiguousarray(values[..., 2::-1])


def has_deep_colours(image: Image.Image) -> bool:
    """Whether an image is of a file that is not grey, of 16 bits per channel."""
    if not getattr(image, "filename", "") or is_deep(image):
        return False
    if image.format == "PNG":
        with Path(image.filename).open("rb") as file:
            return file.read(25)[24:] == b"\x10"  # the header's bit depth
    return image.format == "TIFF" and max(np.atleast_1d(image.tag_v2.get(_BITS_PER_SAMPLE, 8))) == 16


def is_plain(path: Path) -> bool:
    """Whether an image file is upright as it lies on the disk, and of 8 bits: then programs read it alike.

    Raises:
        ValueError: see `open_image`.
    """
    with open_image(path) as image:
        return not is_deep(image) and not has_deep_colours(image) and _orientation(image) == _UPRIGHT


def chosen_kind(folder: Path, kinds: Mapping[str, Sequence[Path]], preferred: str, what: str) -> str | None:
    """Which of several kinds of images in a folder count: the preferred one, unless others outnumber it.

    Args:
        folder: for the message.
        kinds: the images by kind.
        preferred: where it is there.
        what: is wanted, for the message: frames or masks.

    Returns:
        The kind; None if there are no images.

    Raises:
        ValueError: there are several kinds, and more images of another one than of the preferred one.
    """
    if len(kinds) > 1 and len(kinds.get(preferred, ())) < max(map(len, kinds.values())):
        found = ", ".join(f"{len(images)} {kind} ({images[0].name}, ...)" for kind, images in kinds.items())
        raise ValueError(f"{folder} has images of several kinds: {found}. Leave only the {what} in it")
    return preferred if preferred in kinds else next(iter(kinds), None)


def check_value_range(value_range: ValueRange) -> ValueRange:
    """Check that a value range is None, "data", or two numbers.

    Returns:
        The value range, as it is.

    Raises:
        ValueError: it is not, or the values of black and white are not finite or not in this order.
    """
    if value_range is None or (isinstance(value_range, str) and value_range == "data"):
        return value_range
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if isinstance(value_range, str) or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f'value_range is "data", or two numbers, the values of black and of white, not {value_range!r}')
    return value_range


def value_bounds(images: Sequence[Path]) -> tuple[float, float] | None:
    """The smallest and the largest value in all images together, as `value_range`; None if none is of more than 8 bits.

    Raises:
        ValueError: see `open_image`.
    """
    bounds = []
    for path in images:
        with open_image(path) as image:
            values = np.asarray(image) if is_deep(image) else deep_colours(image)
            if values is not None:
                bounds.append((float(values.min()), float(values.max())))
    if not bounds:
        return None
    lows, highs = zip(*bounds, strict=True)
    return min(lows), max(highs)


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF data say; the image itself where there is nothing to do."""
    return image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of an image file, turned upright.

    Of JPEG and PNG only the header and the last bytes are read; an image that does not end as it should, and any other kind,
    is decoded to be sure that it is whole.

    Raises:
        ValueError: see `open_image`.
    """
    with open_image(path) as image, path.open("rb") as file:
        end = _ENDS.get({"MPO": "JPEG"}.get(image.format, image.format))
        if end is not None:
            file.seek(max(path.stat().st_size - len(end), 0))
        if end is None or file.read() != end:
            image.load()
        width, height = image.size
        # To be sure that a PNG has no EXIF data, Pillow would decode it.
        if image.format == "PNG" and not _png_has_exif(path):
            return width, height
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return orientation if orientation in range(2, 9) else _UPRIGHT


def _png_has_exif(path: Path) -> bool:
    """Whether a PNG file has EXIF data in a chunk, or, as ImageMagick writes it, in a text."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            key = file.read(min(length, len(_EXIF_KEY))) if kind in _TEXTS else b""
            if kind == b"eXIf" or key == _EXIF_KEY:
                return True
            file.seek(length - len(key) + 4, 1)
    return False


def _to_bytes(values: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    least, largest = values.min(), values.max()
    if not np.isfinite(largest - least):
        raise ValueError("it has values that are not finite numbers")
    if value_range is None:
        value_range = (0, 1) if values.dtype.kind == "f" else (0, 65535)
        if least < value_range[0] or largest > value_range[1]:
            raise ValueError(
                f"its values are {least:g} to {largest:g}, not in {value_range[0]} to {value_range[1]}: scale them, or give "
                "those that are to be black and white (value_range)"
            )
    low, high = value_range
    scaled = (values.astype(np.float32) - low) * (255 / max(high - low, np.finfo(np.float32).tiny))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
