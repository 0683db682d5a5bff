"""One image with masks or labels in it, read and written: the only place that knows what the values of such images mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from i2v.data.files import entries, listed, natural_key, warn_once
from i2v.data.images import chosen_kind, has_deep_colours, kind_of, open_image, upright
from i2v.utils.files import atomic_write
from i2v.utils.numbers import whole_number

# An image in which everything but 0 has this value is a mask, as in DAVIS 2016, rather than object 255.
MASK_VALUE = 255
# Areas are kept per label.
MAX_LABEL = 65535
# Half of what a value or an opacity can be.
_HALF = 128
# Up to and from these shares of an image's largest value, values are taken for black and white that smoothing has changed.
_DARK, _BRIGHT = 1 / 8, 7 / 8
# Areas of 7x7 pixels and more whose values differ by no more than this are an object's, also after compression; so many of
# them, in pixels, are no accident.
_PLATEAU, _PLATEAU_AREA = 12, 16
# What has more colours than this is a photograph.
_MANY = 32
# How far apart the colours of one object may be, per channel.
_SHADES = 64
# Flat colours that are closer than this were one before somebody edited the image.
_SAME = 16
_LOSSY = ("JPEG", "MPO", "WEBP")
# Up to this many values, each is looked at; of more, those that are nearly black or white are traces of compression.
_FEW = 8
_SMOOTH_OBJECTS = (
    "{} has several objects, and smooth edges or traces of compression between them: save labels as they are, in a PNG"
)
_UNKNOWN_COLOURS = (
    "{} is an image in colour, with several of them that do not tell which object is which: expected a palette or grey image, "
    "whose values are the labels, or DAVIS' colours"
)


class Found(Enum):
    """Keys of what `open_labels` keeps in the `info` of its images, where a file's own texts end up, too."""

    LABELS = 0  # a list, see `labels_in`
    COLOUR = 1  # (R, G, B) of an object that DAVIS' palette has no label for
    THRESHOLDED = 2  # True: the values of the file were not labels


def open_labels(source: str | Path | Image.Image, void: int | None = None) -> Image.Image:
    """Read a label image, or a mask as one. What it holds is decided in this order:

    - A palette image holds labels: the indices of its colours. Of colours in a palette that are transparent, only the first
      one may be; otherwise it is read as an image with transparency. Where its colours are many greys, it is read as a
      grey image.
    - Where an image is partly transparent, the opaque part is the mask; if it is painted in a few colours, these count.
    - A grey image holds labels: its values. One that was compressed with loss or has smooth edges is a mask; it is
      thresholded at half of its largest value, with a warning. Several objects with smooth edges are an error.
    - An image in colour holds the labels that DAVIS' palette has these colours for, or one object in one colour, with smooth
      edges or not, as label 255. Other colours do not tell which object is which, and are an error.

    Args:
        source: the path of an image, or a PIL image.
        void: the label of pixels that belong to no object; they become 0. None for no such label.

    Returns:
        A decoded image of mode P or L, or I where labels are larger than 255, whose values are the labels; 0 is background. It
        is turned upright as its EXIF data say. Its `info` has what is `Found`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image that can be read, or one that does not tell objects apart.
    """
    void = check_void(void)
    if isinstance(source, Image.Image):
        labels = _labels_of(upright(source).copy(), source.format in _LOSSY, "the mask")
    else:
        try:
            with open_image(source) as image:
                image.load()
                labels = _labels_of(upright(image), image.format in _LOSSY, str(source))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no such mask: {source}") from error
    if void is None or labels.info.get(Found.THRESHOLDED):  # 255 is what the threshold made then
        return labels
    if labels_in(labels) == [void] == [MASK_VALUE]:
        what = "a mask" if isinstance(source, Image.Image) else f"{Path(source).parent}: a mask"
        warn_once(f"{what} has nothing but 255, which is void: without void it would be an object")
    if labels.mode == "I":
        values = np.asarray(labels)
        return Image.fromarray(np.where(values == void, 0, values))
    labels.info.pop(Found.LABELS, None)
    return labels.point([0 if value == void else value for value in range(256)])


def check_void(void: int | None) -> int | None:
    """Check the label of pixels that belong to no object.

    Returns:
        The label, as an int, or None where there is none.

    Raises:
        TypeError: it is no integer.
        ValueError: it is not a label, from 1 to 65535.
    """
    if void is None:
        return None
    number = whole_number(void, "void")
    if not 0 < number <= MAX_LABEL:
        raise ValueError(f"void is a label from 1 to {MAX_LABEL}, not {number}")
    return number


def read_labels(source: str | Path | Image.Image, void: int | None = None) -> np.ndarray:
    """Read a label image; see `open_labels`.

    Returns:
        (H, W) int32, 0 where there is no object.
    """
    return np.asarray(open_labels(source, void)).astype(np.int32)


def read_mask(source: str | Path | Image.Image, void: int | None = None) -> np.ndarray:
    """Read the mask of one object, whatever its label; see `open_labels`.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `open_labels`, or there are several objects in it.
    """
    image = open_labels(source, void)
    require_one_object(image, "the mask" if isinstance(source, Image.Image) else source)
    return np.asarray(image) != 0


def require_one_object(image: Image.Image, name: str | Path, void: int | None = None) -> None:
    """A ValueError that names it if an image of `open_labels` has more labels than one besides 0 and `void`."""
    labels = [label for label in labels_in(image) if label != void]
    if len(labels) > 1:
        raise ValueError(f"{name} holds several objects, with labels {listed(labels)}: expected the mask of one")


def labels_in(image: Image.Image) -> list[int]:
    """The labels in an image of `open_labels`, or in a part of it around all objects, in order, without 0."""
    known: list[int] | None = image.info.get(Found.LABELS)
    return _find_labels(image) if known is None else known


def _find_labels(image: Image.Image) -> list[int]:
    if image.mode == "I":
        return [int(label) for label in np.unique(np.asarray(image)) if label]
    box = image.getbbox()  # most of a mask is background, which need not be looked at twice
    return [label for label, count in enumerate(image.crop(box).histogram()) if count and label] if box else []


def same_colour(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two colours (R, G, B) may be shades of one object's."""
    return all(abs(int(a) - int(b)) <= _SHADES for a, b in zip(one, other, strict=True))


def mask_paths(folder: Path) -> dict[str, Path]:
    """The mask or label images of a folder by their names without suffix, in natural order.

    Beside PNGs, images of other kinds are left out, unless there are more of them.

    Raises:
        ValueError: two of them have the same name, or images of several kinds leave open which are the masks.
    """
    kinds: dict[str | None, list[Path]] = {}
    for path in entries(folder):
        kinds.setdefault(kind_of(path), []).append(path)
    kinds.pop(None, None)
    found: dict[str, Path] = {}
    for path in kinds.get(chosen_kind(folder, kinds, "PNG", "masks"), []):
        if found.setdefault(path.stem, path) is not path:
            raise ValueError(f"{found[path.stem]} and {path.name} both are masks of frame {path.stem}")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def davis_palette() -> list[int]:
    """The colours of DAVIS' and PASCAL VOC's label images: 256 RGB triples, flat; label 0 is black."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.flatten().tolist()


def save_label_image(path: str | Path, labels: np.ndarray) -> None:
    """Write a palette PNG in DAVIS' colours, atomically.

    Args:
        path: of the file.
        labels: (H, W) uint8.
    """
    image = Image.fromarray(labels)
    image.putpalette(davis_palette())
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def _labels_of(image: Image.Image, lossy: bool, name: str) -> Image.Image:
    """See `open_labels`.

    Args:
        image: decoded and upright.
        lossy: whether it was compressed with loss.
        name: of the image, for messages.
    """
    if image.mode == "P" and _only_background_is_transparent(image):
        return _of_grey(image.convert("L"), lossy, name) if _is_grey_picture(image) else image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("L", "I") or image.mode.startswith("I;16"):
        return _of_grey(image, lossy, name)
    if has_deep_colours(image):
        raise ValueError(
            f"{name} is an image in colour of 16 bits: expected a palette or grey image, whose values are the labels"
        )
    if image.mode == "F":
        raise ValueError(f"{name} has values that are floats: expected labels, or a mask of 0 and 255")
    pixels = np.asarray(image.convert("RGBA"))
    alpha = pixels[..., 3]
    if alpha.min(initial=255) < 255:
        opaque = alpha >= (int(alpha.max()) + 1) // 2 if alpha.any() else alpha > 0
        if len(_unique_colours(pixels[opaque])) > _MANY:  # something that was cut out of a photograph
            if ((alpha > 0) & (alpha < 255)).any():
                _warn_threshold(name)
            return Image.fromarray(np.where(opaque, np.uint8(MASK_VALUE), np.uint8(0)))
        return _of_painted(pixels, opaque, name)
    return _of_colours(pixels[..., :3], lossy, name)


def _only_background_is_transparent(image: Image.Image) -> bool:
    transparent = image.info.get("transparency", 0)
    if isinstance(transparent, bytes):
        return all(alpha == 255 for alpha in transparent[1:])
    return transparent == 0


def _is_grey_picture(image: Image.Image) -> bool:
    """Whether a palette image is a grey one, for which some program chose a palette, rather than one of labels."""
    colours = np.reshape(image.getpalette("RGB"), (-1, 3))
    grey = (colours == colours[:, :1]).all(axis=1)
    if np.count_nonzero(grey) <= _FEW:  # DAVIS' palette has 4 greys
        return False
    used = [label for label, count in enumerate(image.histogram()) if count and label < len(colours)]
    return len(used) > _FEW and bool(grey[used].all()) and colours[used, 0].max() >= _HALF


def _of_grey(image: Image.Image, lossy: bool, name: str) -> Image.Image:
    """The labels of a grey image."""
    if image.mode != "L":
        values = np.asarray(image).astype(np.int32)
        if values.min(initial=0) < 0 or values.max(initial=0) > MAX_LABEL:
            raise ValueError(f"{name} has values from {values.min()} to {values.max()}: expected labels from 0 to {MAX_LABEL}")
        if values.max(initial=0) <= 255:
            return Image.fromarray(values.astype(np.uint8))
        if values.max() < MAX_LABEL or len(np.unique(values)) <= _FEW:
            return Image.fromarray(values)
        image = Image.fromarray((values >> 8).astype(np.uint8))  # from black to white in 16 bits
    values = _find_labels(image)
    if lossy and values and values[-1] < 64:
        raise ValueError(f"{name} was compressed with loss, and is too dark to tell its mask: save it as PNG")
    if lossy and _has_plateaus(np.asarray(image)):
        raise ValueError(_SMOOTH_OBJECTS.format(name))
    if lossy or _is_smoothed(image, values, name):
        if any(value < MASK_VALUE for value in values):
            _warn_threshold(name)
        half = (values[-1] + 1) // 2 if values else _HALF
        mask = image.point([MASK_VALUE if value >= half else 0 for value in range(256)])
        mask.info[Found.THRESHOLDED] = True
        return mask
    image.info[Found.LABELS] = values  # looking for them takes as long as scoring a small mask
    return image


def _has_plateaus(pixels: np.ndarray) -> bool:
    """Whether an image that was compressed with loss, (H, W) uint8, has areas of values between black and its largest one."""
    window = np.ones((7, 7), np.uint8)
    flat = cv2.dilate(pixels, window) - cv2.erode(pixels, window) <= _PLATEAU
    top = int(pixels.max())
    return int((flat & (pixels > 0.15 * top) & (pixels < 0.85 * top)).sum()) >= _PLATEAU_AREA


def _is_smoothed(image: Image.Image, values: Sequence[int], name: str) -> bool:
    """Whether a grey image is a mask with smooth edges, rather than one with labels.

    Edges have values between black and the object's, that fill no area of as much as 3x3 pixels, and lie beside brighter ones.

    Raises:
        ValueError: several objects have smooth edges.
    """
    if len(values) < 2 or values[-1] < _HALF:
        return False
    pixels, kernel = np.asarray(image), np.ones((3, 3), np.uint8)
    brightest = cv2.dilate(pixels, kernel)
    flat = set(np.unique(pixels[cv2.erode(pixels, kernel) == brightest]).tolist()) - {0}
    between = {value for value in values if _DARK * values[-1] <= value < _BRIGHT * values[-1]}
    edges = np.isin(pixels, list(between - flat))
    beside_brighter = edges.any() and (brightest > pixels)[edges].mean() > 0.75
    if len(values) <= _FEW:
        return beside_brighter and len(flat) <= 1
    if not between & flat:
        return beside_brighter or (not between and values[-2] >= _BRIGHT * values[-1])
    if beside_brighter and len(between - flat) > max(_FEW, 2 * len(flat)):
        raise ValueError(_SMOOTH_OBJECTS.format(name))
    return False


def _of_painted(pixels: np.ndarray, opaque: np.ndarray, name: str) -> Image.Image:
    """The labels of an image whose opaque part has a few colours, (H, W, 4) uint8; black may be the only one of them."""
    colours = _unique_colours(pixels[opaque])
    if ((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).any():
        _warn_threshold(name)
    if not colours.any():
        return Image.fromarray(np.where(opaque, np.uint8(MASK_VALUE), np.uint8(0)))
    if not colours.all():
        raise ValueError(f"{name} is painted in black and in other colours on nothing: expected labels, or one mask")
    return _of_colours(np.where(opaque[..., None], pixels[..., :3], np.uint8(0)), False, name)


def _of_colours(pixels: np.ndarray, lossy: bool, name: str) -> Image.Image:
    """The labels of an image in colour, (H, W, 3) uint8."""
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return _of_grey(Image.fromarray(np.ascontiguousarray(pixels[..., 0])), lossy, name)
    packed = _pack(pixels)
    colours = np.unique(packed)
    palette = _pack(np.reshape(davis_palette(), (256, 3)))
    if np.isin(colours, palette).all():
        labels = np.zeros(packed.shape, np.uint8)
        for label, colour in enumerate(palette):
            labels[packed == colour] = label
        image = Image.fromarray(labels)
        image.putpalette(davis_palette())
        return image
    if not lossy and _num_flat_colours(pixels) > 1:
        raise ValueError(_UNKNOWN_COLOURS.format(name))
    brightness = pixels.max(axis=2)
    inside = bright = brightness >= (int(brightness.max()) + 1) // 2
    if lossy and (core := cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)).view(bool)).any():
        inside = core  # compression mixes the colours at the edges
    hues = pixels[inside] * (255 / brightness[inside, None])
    if not same_colour(hues.min(axis=0), hues.max(axis=0)) or (lossy and _has_other_hues(pixels, bright, hues)):
        raise ValueError(_UNKNOWN_COLOURS.format(name))
    labels = _of_grey(Image.fromarray(brightness), lossy, name)
    if len(labels_in(labels)) > 1:
        raise ValueError(_UNKNOWN_COLOURS.format(name))
    labels = labels.point([0] + [MASK_VALUE] * 255)
    labels.info[Found.COLOUR] = tuple(np.median(pixels[inside], axis=0).astype(int).tolist())
    return labels


def _num_flat_colours(pixels: np.ndarray) -> int:
    """Number of colours, besides black, that fill an area of 3x3 pixels in an image (H, W, 3); nearly equal ones are one."""
    kernel = np.ones((3, 3), np.uint8)
    flat = (cv2.erode(pixels, kernel) == cv2.dilate(pixels, kernel)).all(axis=2)
    colours = np.unique(pixels[flat & pixels.any(axis=2)] // _SAME, axis=0).astype(int)
    return sum(not (abs(colours[:i] - colour) <= 1).all(axis=1).any() for i, colour in enumerate(colours))


def _has_other_hues(pixels: np.ndarray, bright: np.ndarray, hues: np.ndarray) -> bool:
    """Whether an image in colour that was compressed with loss has a small object in another hue than most of it.

    Args:
        pixels: (H, W, 3) uint8.
        bright: (H, W) bool, where there are objects.
        hues: (N, 3), of most of it, at full brightness.
    """
    own = pixels * (255 / np.maximum(pixels.max(axis=2), 1)[..., None])
    other = bright & (abs(own - np.median(hues, axis=0)) > 1.5 * _SHADES).any(axis=2)
    return bool(cv2.erode(other.astype(np.uint8), np.ones((3, 3), np.uint8)).any())


def _pack(pixels: np.ndarray) -> np.ndarray:
    """One number per pixel of (..., 3) RGB."""
    return pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2]


def _unique_colours(pixels: np.ndarray) -> np.ndarray:
    return np.unique(_pack(pixels))


def _warn_threshold(name: str) -> None:
    """Once for all masks of a folder."""
    folder = Path(name).parent
    what = name if folder == Path() else f"{folder}: a mask"
    warn_once(f"{what} has smooth edges or was compressed with loss, and is thresholded at half: PNGs of 0 and 255 are exact")
