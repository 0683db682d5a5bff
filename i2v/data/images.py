"""Read images from cameras, microscopes and editors as 8-bit RGB."""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeGuard

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from i2v.data.files import content_of, warn_once
from i2v.utils.files import require_regular_file

# The kinds of image files that are read, with their suffixes in lower case.
IMAGE_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
}
ALL_SUFFIXES = tuple(suffix for suffixes in IMAGE_SUFFIXES.values() for suffix in suffixes)
_KINDS = {suffix: kind for kind, suffixes in IMAGE_SUFFIXES.items() for suffix in suffixes}
# How the values of images with more than 8 bits are mapped to 0 to 255: None for the range of their type, "data" for the range
# of the values in the video, or the values that become black and white.
ValueRange = tuple[float, float] | Literal["data"] | None
# Last bytes of whole files of these kinds.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# The formats that Pillow may recognise, which excludes PostScript programs, for instance.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Limit, since small files can hold huge images; this is three times 8K.
MAX_PIXELS = 100_000_000
# An image with fewer grey levels looks uniform; 12 bits stored in 16 have no more than this.
_FEW_GREYS = 17
# The types of text chunks in PNG files, and the keys of texts with EXIF data or XMP.
_TEXTS, _EXIF_KEYS = (b"zTXt", b"tEXt", b"iTXt"), (b"Raw profile type exif", b"XML:com.adobe.xmp")
_UPRIGHT = 1
# Tags of TIFF files, and the meaning of the last one's values.
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 259, 262, 274, 339
_SAMPLE_FORMATS = {1: "whole numbers", 2: "signed numbers", 3: "floats"}
_WHITE_IS_ZERO = 0
_SIDEWAYS = (5, 6, 7, 8)


def kind_of(path: Path) -> str | None:
    """The kind of an image file by its suffix, a key of `IMAGE_SUFFIXES`; None if it is not an image."""
    return _KINDS.get(path.suffix.lower())


@contextmanager
def open_image(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file that holds one picture.

    Args:
        path (str or Path): path of the file.

    Yields:
        The PIL image, which is not decoded yet.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not an image, corrupt, truncated, too large, or holds several pictures. Decoding errors in the
            block are raised as such an error, too.
    """
    try:
        require_regular_file(path)
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{path} has {image.width}x{image.height} pixels, which is too large")
            if (count := num_pictures(image)) > 1:
                raise ValueError(f"{path} holds {count} pictures: save each of them to its own file")
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such file: {path}") from error
    except UnidentifiedImageError as error:
        if content_of(Path(path)) == "a video":
            raise ValueError(f"{path} is not an image but a video: give it the suffix of a video, such as .mp4") from error
        what = _unread_tiff(Path(path)) or "is not a readable image, it may be corrupt or truncated"
        raise ValueError(f"{path} {what}") from error
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError) as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        raise ValueError(f"{path} is not a readable image, it may be corrupt or truncated: {error}") from error


def num_pictures(image: Image.Image) -> int:
    """Number of pictures in the file of an image; additional pictures in a JPEG, such as previews, do not count."""
    return 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)


def _unread_tiff(path: Path) -> str | None:
    """Describe a TIFF file that Pillow does not support; None if it is not a TIFF file, or too damaged."""
    try:
        with path.open("rb") as file:
            tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
            file.seek(tags.next)
            tags.load(file)
            bits = np.atleast_1d(tags[_BITS_PER_SAMPLE])
            values = _SAMPLE_FORMATS.get(int(np.max(tags.get(_SAMPLE_FORMAT, 1))), "values")
            others = f"PhotometricInterpretation {tags.get(_PHOTOMETRIC)}, Compression {tags.get(_COMPRESSION)}"
            return (
                f"is an unsupported TIFF ({len(bits)} channels of {bits.max()} bits, {values}, {others}): save it with 8 or 16 "
                "bits per channel, or in grayscale as 32-bit floats"
            )
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):
        return None


def read_rgb(path: str | Path, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Read an image file, upright according to its EXIF data.

    Args:
        path (str or Path): path of the file.
        value_range (tuple of float): see `to_rgb`.

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
                f"{Path(path).parent}: its images with more than 8 bits have at most {_FEW_GREYS} of 256 grey levels: see "
                "value_range, or --value-range"
            )
        return pixels


def to_rgb(
    image: Image.Image, value_range: tuple[float, float] | None = None, source: str = "the images in memory"
) -> np.ndarray:
    """Convert an image of any mode to 8-bit RGB, upright according to its EXIF data. Transparency is ignored.

    Args:
        image (Image.Image): image of any size and mode.
        value_range (tuple of float): values that become 0 and 255, for images with more than 8 bits; by default the range of
            their type: 0 to 65535 for integers, 0 to 1 for floats. Reversed if a TIFF declares that white is zero.
        source (str): folder of the image, or another name for warnings.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: a value is outside of the range of its type, or not finite.
    """
    values = deep_values(image)
    if values is None:
        warn_of_unused(value_range, source)
        image = upright(image)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    pixels = _to_bytes(values, value_range)
    # Pillow swaps black and white only in 8 bits.
    if image.format == "TIFF" and _tiff_tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def warn_of_unused(value_range: ValueRange, source: Path | str) -> None:
    """Warn that a value range, if there is one, has no effect on the 8-bit images in `source`."""
    if value_range is not None:
        warn_once(f"{source}: value_range applies to images with more than 8 bits; 8-bit images stay as they are")


def is_deep(image: Image.Image) -> bool:
    """Whether an image is grayscale with more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def deep_values(image: Image.Image) -> np.ndarray | None:
    """Read the values of an image with more than 8 bits.

    Pillow keeps 8 bits per colour channel, so 16-bit colours are read from the image's file again. A decoded image may have
    been changed since, by drawing or resizing; it is used as it is, with a warning.

    Args:
        image (Image.Image): the image.

    Returns:
        Upright values, (H, W) or (H, W, 3) RGB; None for an image with 8 bits.

    Raises:
        ValueError: the image has 16 bits per channel in an unsupported form.
    """
    if is_deep(image):
        return _turned(np.asarray(image), _orientation(image))
    if not has_deep_colours(image):
        return None
    if not image.tile or image.fp is None:
        folder = Path(os.fsdecode(image.filename)).parent if image.filename else "the images in memory"
        warn_once(
            f"{folder}: an image of 16 bits per channel was decoded by Pillow, which keeps 8: pass its path, or the image as "
            "opened"
        )
        return None
    place = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(place)
    # A copy is decoded, so the image itself stays as it was opened.
    with Image.open(io.BytesIO(content), formats=_FORMATS) as copy:
        is_turned = _ORIENTATION in getattr(copy, "tag_v2", ())  # OpenCV follows the tag of a TIFF
        orientation = _UPRIGHT if is_turned else _orientation(copy)
        copy.load()  # fails before OpenCV would print errors to the terminal
    # Not `imdecode`, which fails with rotated TIFFs.
    _, pictures = cv2.imdecodemulti(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if len(pictures) <= image.tell() or pictures[image.tell()].dtype != np.uint16:
        raise ValueError("it has 16 bits per channel in an unsupported form: save it with 8")
    values = pictures[image.tell()]
    return _turned(values if values.ndim == 2 else values[..., 2::-1], orientation)


def has_deep_colours(image: Image.Image) -> TypeGuard[ImageFile.ImageFile]:
    """Whether an image is from a colour file with 16 bits per channel."""
    if is_deep(image) or not isinstance(image, ImageFile.ImageFile):
        return False
    if image.format == "PNG":
        if image.tile:  # it is not decoded yet
            return ";16" in str(image.tile[0][3])
        path = Path(os.fsdecode(image.filename))
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(25)[24:] == b"\x10"  # the header's bit depth
    return image.format == "TIFF" and max(np.atleast_1d(_tiff_tags(image).get(_BITS_PER_SAMPLE, 8))) == 16


def is_plain(path: Path) -> bool:
    """Whether an image file is stored upright with 8 bits, so that all programs read it alike.

    Args:
        path (Path): path of the file.

    Raises:
        ValueError: see `open_image`.
    """
    with open_image(path) as image:
        return not is_deep(image) and not has_deep_colours(image) and _orientation(image) == _UPRIGHT


def chosen_kind(folder: Path, kinds: Mapping[str, Sequence[Path]], preferred: str, what: str) -> str | None:
    """Choose which of several kinds of images in a folder to read.

    Args:
        folder (Path): the folder, for the message.
        kinds (Mapping[str, Sequence[Path]]): paths of the images by kind.
        preferred (str): the kind that is chosen if the folder has it.
        what (str): what is wanted, for the message: frames or masks.

    Returns:
        The kind (str); None if there are no images.

    Raises:
        ValueError: there are several kinds, and another one outnumbers the preferred one.
    """
    if len(kinds) > 1 and len(kinds.get(preferred, ())) < max(map(len, kinds.values())):
        found = ", ".join(f"{len(images)} {kind} ({images[0].name}, ...)" for kind, images in kinds.items())
        raise ValueError(f"{folder} has images of several kinds: {found}. Keep only the {what} in it")
    return preferred if preferred in kinds else next(iter(kinds), None)


def check_value_range(value_range: ValueRange) -> ValueRange:
    """Check a value range.

    Args:
        value_range (ValueRange): None, "data", or the values of black and white.

    Returns:
        The value range; two numbers as a tuple.

    Raises:
        ValueError: the value range is none of these, or black and white are not finite or not in ascending order.
    """
    if value_range is None or (isinstance(value_range, str) and value_range == "data"):
        return value_range
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = math.nan
    if isinstance(value_range, str) or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f'value_range must be "data" or two numbers, the values of black and white, not {value_range!r}')
    return low, high


def value_bounds(images: Sequence[Path]) -> tuple[float, float] | None:
    """Find the smallest and largest value in the images of a folder.

    Args:
        images (Sequence[Path]): paths of the images, all in one folder.

    Returns:
        The two values, as a `value_range`; None if no image has more than 8 bits.

    Raises:
        ValueError: see `open_image`; or a value is not finite.
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
        warn_once(
            f"{images[0].parent}: its images with more than 8 bits have the value {low:g} everywhere, which becomes black"
        )
    return low, high


def upright(image: Image.Image) -> Image.Image:
    """An image turned upright according to its EXIF data; the image itself if it is upright."""
    return image if _orientation(image) == _UPRIGHT else ImageOps.exif_transpose(image)


def upright_size(path: Path) -> tuple[int, int]:
    """The size of an image file, upright according to its EXIF data.

    Only the header and the last bytes of JPEGs and PNGs are read. If these are not the end of an image, and for all other
    kinds, the image is decoded to make sure that it is whole.

    Args:
        path (Path): path of the file.

    Returns:
        (width, height) in pixels.

    Raises:
        ValueError: see `open_image`.
    """
    with open_image(path) as image, path.open("rb") as file:
        end = _ENDS.get("JPEG" if image.format == "MPO" else image.format or "")
        if end is not None:
            file.seek(max(path.stat().st_size - len(end), 0))
        if end is None or file.read() != end:
            image.load()
        width, height = image.size
        # Pillow would decode a PNG to find out that it has no EXIF data.
        if image.format == "PNG" and not _png_has_exif(path):
            return width, height
        return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _tiff_tags(image: Image.Image) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of an image whose format is TIFF."""
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    return image.tag_v2


def _orientation(image: Image.Image) -> int:
    orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
    return orientation if orientation in range(2, 9) else _UPRIGHT


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    if orientation in _SIDEWAYS:
        values = values.swapaxes(0, 1)
    rows, columns = -1 if orientation in (3, 4, 7, 8) else 1, -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(values[::rows, ::columns])


def _png_has_exif(path: Path) -> bool:
    """Whether a PNG file has EXIF data, in a chunk of its own or in a text as ImageMagick writes it, or XMP."""
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
                "the values of black and white (value_range)"
            )
    low, high = value_range
    # 32-bit floats represent 16-bit integers exactly.
    exact = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    scaled = (exact - low) * (255 / max(high - low, 1e-30))  # without overflow if all values are equal
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
