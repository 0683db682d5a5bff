"""Images, as they come from cameras, microscopes and editors, as 8-bit RGB."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from i2v.data.files import content_of, warn_once
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
MAX_PIXELS = 100_000_000
# So few look like one: 12 bits in 16 have no more.
_FEW_GREYS = 17
# The kinds of chunks with texts in PNG files, and the keys of the texts that hold EXIF data or XMP.
_TEXTS, _EXIF_KEYS = (b"zTXt", b"tEXt", b"iTXt"), (b"Raw profile type exif", b"XML:com.adobe.xmp")
_UPRIGHT = 1
# Tags of TIFF files, and what the values of the last one mean.
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 259, 262, 274, 339
_SAMPLE_FORMATS = {1: "whole numbers", 2: "signed numbers", 3: "floats"}
_WHITE_IS_ZERO = 0
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
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{path} has {image.width}x{image.height} pixels, which is too large")
            if (count := num_pictures(image)) > 1:
                raise ValueError(f"{path} holds {count} pictures: write each to a file of its own")
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {path}") from error
    except UnidentifiedImageError as error:
        if content_of(Path(path)) == "a video":
            raise ValueError(f"{path} is not an image but a video: give it a suffix that says so, such as .mp4") from error
        what = _unread_tiff(Path(path)) or "is not a readable image, it may be corrupt or truncated"
        raise ValueError(f"{path} {what}") from error
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is not a readable image, it may be corrupt or truncated: {error}") from error


def num_pictures(image: Image.Image) -> int:
    """Number of pictures in the file of an image; a JPEG's further ones are previews and the like."""
    return 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)


def _unread_tiff(path: Path) -> str | None:
    """What is in a TIFF file that Pillow does not know; None if it is none, or too damaged to tell."""
    try:
        with path.open("rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            bits = np.atleast_1d(tags[_BITS_PER_SAMPLE])
            values = _SAMPLE_FORMATS.get(int(np.max(tags.get(_SAMPLE_FORMAT, 1))), "values")
            others = f"PhotometricInterpretation {tags.get(_PHOTOMETRIC)}, Compression {tags.get(_COMPRESSION)}"
            return (
                f"is a TIFF of a kind that is not read ({len(bits)} channels of {bits.max()} bits, {values}, {others}): save "
                "it with 8 or 16 bits per channel, or in grey as floats of 32 bits"
            )
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return None


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
        has_more_bits = is_deep(image) or has_deep_colours(image)
        if not has_more_bits:
            image.load()
        try:
            pixels = to_rgb(image, value_range, str(Path(path).parent))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if value_range is None and has_more_bits and int(pixels.max()) - int(pixels.min()) < _FEW_GREYS:
            warn_once(
                f"{Path(path).parent}: of 256 levels its images of more than 8 bits have no more than {_FEW_GREYS}: see "
                "value_range, or --value-range"
            )
        return pixels


def to_rgb(
    image: Image.Image, value_range: tuple[float, float] | None = None, source: str = "the images in memory"
) -> np.ndarray:
    """An image of any mode as 8-bit RGB, turned upright as its EXIF data say. Transparency is ignored.

    Args:
        image: of any size and mode.
        value_range: the values that become 0 and 255, for images of more than 8 bits; by default the range of their type: 0 to
            65535 for whole numbers, and 0 to 1 for floats. The other way round where a TIFF says that white is zero.
        source: the folder of the image, or what else a warning is to name.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: values outside of the range of their type, or not finite.
    """
    values = deep_values(image)
    if values is None:
        warn_of_unused(value_range, source)
        image = upright(image)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    pixels = _to_bytes(values, value_range)
    # Pillow exchanges black and white in 8 bits only.
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def warn_of_unused(value_range: ValueRange, source: Path | str) -> None:
    """Say that a value range has no effect on the images of 8 bits in `source`, if there is a range."""
    if value_range is not None:
        warn_once(f"{source}: value_range is for images of more than 8 bits; those of 8 bits stay as they are")


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grey, of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_values(image: Image.Image) -> np.ndarray | None:
    """The values of an image of more than 8 bits, upright, (H, W) or (H, W, 3) RGB; None for any other image.

    Pillow keeps 8 bits of each colour, so that those of 16 are read from the image's file again. They may be another picture
    once the image was decoded, as drawing on it and resizing it do; then it is used as it is, with a warning.
    """
    if is_deep(image):
        return _turned(np.asarray(image), _orientation(image))
    if not has_deep_colours(image):
        return None
    if not image.tile or image.fp is None:
        file = getattr(image, "filename", "")
        warn_once(
            f"{Path(file).parent if file else 'the images in memory'}: an image of 16 bits per channel was decoded by Pillow, "
            "which keeps 8: give its path, or the image as it was opened"
        )
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    # From a copy: what is decoded is not certain any more.
    with Image.open(io.BytesIO(content), formats=[image.format]) as copy:
        is_turned = _ORIENTATION in getattr(copy, "tag_v2", ())  # OpenCV follows the tag of a TIFF
        orientation = _UPRIGHT if is_turned else _orientation(copy)
        copy.load()  # or OpenCV would say what is wrong with it, to the terminal
    # Not `imdecode`, which fails with TIFFs that are turned.
    _, pictures = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if len(pictures) <= image.tell() or pictures[image.tell()].dtype != np.uint16:
        raise ValueError("it has 16 bits per channel in a form that cannot be read: save it with 8")
    values = pictures[image.tell()]
    return _turned(values if values.ndim == 2 else values[..., 2::-1], orientation)


def has_deep_colours(image: Image.Image) -> bool:
    """Whether an image is of a file that is not grey, of 16 bits per channel."""
    if is_deep(image) or not isinstance(image, ImageFile.ImageFile):
        return False
    if image.format == "PNG":
        if image.tile:  # it is not decoded yet
            return ";16" in image.tile[0][3]
        path = Path(image.filename)
        if not path.is_file():
            return False
        with path.open("rb") as file:
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
        The value range; two numbers as a tuple.

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
    return low, high


def value_bounds(images: Sequence[Path]) -> tuple[float, float] | None:
    """The smallest and the largest value in all images of a folder, as `value_range`; None if none is of more than 8 bits.

    Raises:
        ValueError: see `open_image`; or values that are not finite.
    """
    bounds = []
    for path in images:
        with open_image(path) as image:
            values = deep_values(image)
            if values is not None:
                bounds.append((float(values.min()), float(values.max())))
                if not np.isfinite(bounds[-1]).all():
                    raise ValueError(f"{path}: it has values that are not finite numbers")
    if not bounds:
        warn_of_unused("data", images[0].parent)
        return None
    lows, highs = zip(*bounds, strict=True)
    low, high = min(lows), max(highs)
    if low == high:
        warn_once(f"{images[0].parent}: its images of more than 8 bits have the value {low:g} everywhere, which becomes black")
    return low, high


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


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in _SIDEWAYS:
        values = values.swapaxes(0, 1)
    rows, columns = -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(values[::rows, ::columns])


def _png_has_exif(path: Path) -> bool:
    """Whether a PNG file has EXIF data in a chunk, or in a text, as ImageMagick writes it, or XMP instead."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            key = file.read(min(length, max(map(len, _EXIF_KEYS)))) if kind in _TEXTS else b""
            if kind == b"eXIf" or key.startswith(_EXIF_KEYS):
                return True
            file.seek(length - len(key) + 4, 1)
    return False


def _to_bytes(values: np.ndarray, value_range: tuple[float, float] | None) -> np.ndarray:
    least, largest = float(values.min()), float(values.max())
    if not math.isfinite(largest - least):
        raise ValueError("it has values that are not finite numbers")
    if value_range is None:
        value_range = (0, 1) if values.dtype.kind == "f" else (0, 65535)
        if least < value_range[0] or largest > value_range[1]:
            raise ValueError(
                f"its values are {least:g} to {largest:g}, not in {value_range[0]} to {value_range[1]}: scale them, or give "
                "those that are to be black and white (value_range)"
            )
    low, high = value_range
    # Floats of 32 bits hold whole numbers of 16.
    exact = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    scaled = (exact - low) * (255 / max(high - low, 1e-30))  # which is no overflow where all values are equal
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
