"""One image with masks or labels in it, read and written: the only place that knows what the values of such images mean."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from i2v.data.files import entries, listed, warn_once
from i2v.data.frame_order import natural_key
from i2v.data.images import chosen_kind, has_deep_colours, kind_of, num_pictures, open_image, upright
from i2v.utils.files import atomic_write
from i2v.utils.numbers import whole_number

# An image in which everything but 0 has this value is a mask, as in DAVIS 2016, rather than object 255.
MASK_VALUE = 255
# Areas are kept per label.
MAX_LABEL = 65535
# Half of what a value can be.
_HALF = 128
# White in 16 bits, from 8 bits that were shifted up to all of them.
_WHITE_16 = 0xFF00
# Up to and from these shares of an image's largest value, values are taken for black and white that smoothing has changed.
_DARK, _BRIGHT = 1 / 8, 7 / 8
# Areas of 5x5 pixels and more whose values differ by no more than this are an object's, also after compression; so many of
# them, in pixels, are no accident.
_PLATEAU, _PLATEAU_AREA = 16, 6
# What has more colours than this is a photograph.
_MANY = 32
# How far apart the colours of one object may be, per channel.
_SHADES = 64
# Flat colours that are closer than this were one before somebody edited the image.
_SAME = 16
_LOSSY = ("JPEG", "MPO", "WEBP")
# Up to this many values, each is looked at; of more, those that are nearly black or white are traces of compression.
_FEW = 8
# Which share of the pixels of smooth edges has a brighter one beside it. Dark values are more likely labels: smooth edges have
# so many of them at least, a darker pixel beside them, too, and black within so many pixels around them.
_SHARE_BESIDE, _SHARE_BETWEEN, _FADING, _REACH = 0.75, 0.85, 3, 33
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


def open_labels(source: str | Path | Image.Image, void: int | None = None) -> Image.Image:
    """Read a label image, or a mask as one. What it holds is decided in this order:

    - A palette image holds labels: the indices of its colours. Of colours in a palette that are transparent, only the first
      one may be; otherwise it is read as an image with transparency. Where all its colours are greys, the first one is not
      black, and black is among them, a program chose the palette, and what is bright is a mask. Greys with smooth edges are
      one, too. A warning says where black is not the first colour of another palette.
    - Where an image is partly transparent, the opaque part is the mask; if it is painted in a few colours, these count.
    - A grey image holds labels: its values. One that was compressed with loss or has smooth edges is a mask; it is
      thresholded at half of its largest value, with a warning. Several objects with smooth edges are an error. 0 and white in
      16 bits are a mask like 0 and 255.
    - An image in colour holds the labels that DAVIS' palette has these colours for, or one object in one colour, with smooth
      edges or not, as label 255. Other colours do not tell which object is which, and are an error.

    A mask with smooth edges has the label that it would have without them: the value or colour of its inside. Where it is too
    small to have an inside, or was compressed with loss, it has label 255.

    Args:
        source: the path of an image, or a PIL image.
        void: the label of pixels that belong to no object; they become 0, before anything is taken for smooth edges. None for
            no such label. Values that compression has changed are none.

    Returns:
        A decoded image of mode P or L, or I where labels are larger than 255, whose values are the labels; 0 is background. It
        is turned upright as its EXIF data say. Its `info` has what is `Found`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an image that can be read, or one that does not tell objects apart.
    """
    void = check_void(void)
    if isinstance(source, Image.Image):
        return _labels_of(decoded(source), source.format in _LOSSY, "the mask", void)
    try:
        with open_image(source) as image:
            image.load()
            return _labels_of(upright(image), image.format in _LOSSY, str(source), void)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no such mask: {source}") from error


def decoded(image: Image.Image) -> Image.Image:
    """A copy of an image that is given as a mask, upright; see `open_image` for what is refused."""
    if (count := num_pictures(image)) > 1:
        raise ValueError(f"the mask is an image file with {count} pictures: give one of them, as a copy()")
    try:
        image = upright(image).copy()
        image.info.pop(Found.LABELS, None)  # it may have been changed since
        return image
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the mask is not a readable image, it may be corrupt or truncated: {error}") from error


def _without(image: Image.Image, void: int | None, name: str) -> Image.Image:
    """An image of labels without those that are void."""
    if void is None or void not in (labels := labels_in(image)):
        return image
    if labels == [void] == [MASK_VALUE]:
        warn_once(f"{_any_mask_like(name)} has nothing but 255, which is void: without void it would be an object")
    if image.mode == "I":
        values = np.asarray(image)
        return Image.fromarray(np.where(values == void, 0, values))
    image = image.point([0 if value == void else value for value in range(256)])
    image.info[Found.LABELS] = [label for label in labels if label != void]
    return image


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
        return [label for label in np.flatnonzero(np.bincount(np.asarray(image).ravel())).tolist() if label]
    box = image.getbbox()  # most of a mask is background, which need not be looked at twice
    return [label for label, count in enumerate(image.crop(box).histogram()) if count and label] if box else []


def same_colour(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two colours (R, G, B) may be shades of one object's."""
    return all(abs(int(a) - int(b)) <= _SHADES for a, b in zip(one, other, strict=True))


def mask_paths(folder: Path) -> dict[str, Path]:
    """The mask or label images of a folder by their names without suffix, in natural order.

    Beside PNGs, images of other kinds are left out, with a warning, unless there are more of them.

    Raises:
        ValueError: two of them have the same name, or images of several kinds leave open which are the masks.
    """
    kinds: dict[str | None, list[Path]] = {}
    for path in entries(folder):
        kinds.setdefault(kind_of(path), []).append(path)
    kinds.pop(None, None)
    found: dict[str, Path] = {}
    kind = chosen_kind(folder, kinds, "PNG", "masks")
    if left_out := [path.name for other, paths in kinds.items() if other != kind for path in paths]:
        warn_once(f"{folder}: {len(left_out)} images that are not {kind} are left out, as no masks: {listed(left_out)}")
    for path in kinds.get(kind, []):
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


def _labels_of(image: Image.Image, lossy: bool, name: str, void: int | None) -> Image.Image:
    """See `open_labels`.

    Args:
        image: decoded and upright.
        lossy: whether it was compressed with loss.
        name: of the image, for messages.
        void: see `open_labels`.
    """
    if image.mode == "P" and _only_background_is_transparent(image):
        return _of_palette(image, name, void)
    if image.mode == "1":
        image = image.convert("L")
        image.info[Found.LABELS] = [MASK_VALUE] if image.getbbox() else []  # there is nothing else to look for
        return _without(image, void, name)
    if image.mode in ("L", "I") or image.mode.startswith("I;16"):
        return _of_grey(image, lossy, name, void)
    if has_deep_colours(image):
        raise ValueError(
            f"{name} is an image in colour of 16 bits: expected a palette or grey image, whose values are the labels"
        )
    if image.mode == "F":
        raise ValueError(f"{name} has values that are floats: expected labels, or a mask of 0 and 255")
    pixels = np.asarray(image.convert("RGBA"))
    alpha = pixels[..., 3]
    if alpha.min(initial=255) < 255 and _alpha_counts(pixels, name):
        opaque = alpha >= (int(alpha.max()) + 1) // 2 if alpha.any() else alpha > 0
        if len(_unique_colours(pixels[opaque])) > _MANY:  # something that was cut out of a photograph
            if ((alpha > 0) & (alpha < 255)).any():
                _warn_threshold(name)
            return Image.fromarray(np.where(opaque, np.uint8(MASK_VALUE), np.uint8(0)))
        return _of_painted(pixels, opaque, name, void)
    return _of_colours(pixels[..., :3], lossy, name, void)


def _only_background_is_transparent(image: Image.Image) -> bool:
    transparent = image.info.get("transparency", 0)
    if isinstance(transparent, bytes):
        return all(alpha == 255 for alpha in transparent[1:])
    return transparent == 0


def _alpha_counts(pixels: np.ndarray, name: str) -> bool:
    """Whether the transparency of an image (H, W, 4) uint8 says what the mask is. Where it is much the same everywhere, it does
    not, unless all is transparent, and no mask is painted in it."""
    alpha = pixels[..., 3]
    if 2 * int(alpha.min()) < int(alpha.max()):
        return True
    num_colours = len(_unique_colours(pixels))
    if alpha.any() or 1 < num_colours <= _MANY:
        return False
    if num_colours > 1:
        warn_once(f"{_any_mask_like(name)} is transparent everywhere, and is read as empty, whatever its colours show")
    return True


def _of_palette(image: Image.Image, name: str, void: int | None) -> Image.Image:
    """The labels of a palette image."""
    colours = np.reshape(image.getpalette("RGB"), (-1, 3))
    greys = (colours == colours[:, :1]).all(axis=1)
    dark = _DARK * colours.max(initial=0)
    starts_dark = bool((colours[:1] <= dark).all())
    if starts_dark and np.count_nonzero(greys) <= _FEW and not greys.all():  # DAVIS' palette has 4 greys
        return _without(image, void, name)
    image.info[Found.LABELS] = _find_labels(image)
    used = np.array([label for label in (0, *image.info[Found.LABELS]) if label < len(colours)], int)
    levels = np.unique(colours[used, 0])
    if not starts_dark and greys.all() and (levels[0] <= dark or len(np.unique(colours)) <= 2):
        return _of_brightness(image, name)
    black = [label for label in image.info[Found.LABELS] if label < len(colours) and (colours[label] <= dark).all()]
    if black and not starts_dark:  # a program may have chosen the palette
        warn_once(
            f"{_any_mask_like(name)} has a palette that does not begin with black, and black is label {listed(black)}: its "
            "values count, not its colours, so that 0 is the background"
        )
    image = _without(image, void, name)
    if starts_dark and greys[used].all() and len(levels) > 2:
        shown = image.convert("L")
        values, pixels = _find_labels(shown), np.asarray(shown)
        value = _smooth_label(pixels, values, name)
        if value is not None:
            label_of = dict(zip(colours[used, 0].tolist(), used.tolist(), strict=True))
            return _thresholded(pixels, values, label_of.get(value, value), name)
    return image


def _of_brightness(image: Image.Image, name: str) -> Image.Image:
    """The mask in a palette image for which a program chose greys, the first of them not black: what is bright, as label 255.

    Raises:
        ValueError: it shows several objects, for whose labels the greys may stand as well as their order.
    """
    shown = image.convert("L")
    values, pixels = _find_labels(shown), np.asarray(shown)
    top = max(image.getpalette("RGB"))
    if any(_DARK * top < value < _BRIGHT * top for value in values[:-1]) and _smooth_label(pixels, values, name) is None:
        raise ValueError(
            f"{name} has a palette of greys that does not begin with black, and several objects: save it as a grey image, "
            "whose values are the labels"
        )
    warn_once(f"{_any_mask_like(name)} has a palette of greys that does not begin with black: what is bright is the object")
    return Image.fromarray(np.where(pixels >= (top + 1) // 2, np.uint8(MASK_VALUE), np.uint8(0)))


def _of_grey(image: Image.Image, lossy: bool, name: str, void: int | None = None) -> Image.Image:
    """The labels of a grey image."""
    if image.mode != "L":
        values = np.asarray(image).astype(np.int32)
        if values.min(initial=0) < 0 or values.max(initial=0) > MAX_LABEL:
            raise ValueError(f"{name} has values from {values.min()} to {values.max()}: expected labels from 0 to {MAX_LABEL}")
        image = Image.fromarray(values.astype(np.uint8) if values.max(initial=0) <= MASK_VALUE else values)
    values = _find_labels(image)
    if lossy and values:
        pixels = np.asarray(image)
        if values[-1] < 64:
            raise ValueError(f"{name} was compressed with loss, and is too dark to tell its mask: save it as PNG")
        if _has_darker_objects(pixels):
            raise ValueError(_SMOOTH_OBJECTS.format(name))
        return _thresholded(pixels, values, MASK_VALUE, name)
    image.info[Found.LABELS] = values  # looking for them takes as long as scoring a small mask
    # Smooth edges of what has the value that is void elsewhere have no object beside them: it is a mask.
    label = _smooth_label(_unsigned(image), values, name) if len(values) > 2 and values[-1] == void else None
    if label is None:
        image = _without(image, void, name)
        values = labels_in(image)
        label = _smooth_label(_unsigned(image), values, name) if len(values) > 1 else None
    if label is not None:
        return _thresholded(np.asarray(image), values, MASK_VALUE if label >= _WHITE_16 else label, name)
    if len(values) == 1 and values[0] >= _WHITE_16:
        return Image.fromarray(np.where(np.asarray(image), np.uint8(MASK_VALUE), np.uint8(0)))
    return image


def _unsigned(image: Image.Image) -> np.ndarray:
    """The values of an image of mode L or I, which are no larger than 65535, as OpenCV takes them."""
    return np.asarray(image) if image.mode == "L" else np.asarray(image).astype(np.uint16)


def _thresholded(pixels: np.ndarray, values: Sequence[int], label: int, name: str) -> Image.Image:
    """The mask of what is brighter than half of the largest value, with a label."""
    if any(value < MASK_VALUE for value in values):
        _warn_threshold(name)
    kind = np.uint8 if label <= MASK_VALUE else np.int32
    return Image.fromarray(np.where(pixels >= (values[-1] + 1) // 2, kind(label), kind(0)))


def _has_darker_objects(pixels: np.ndarray) -> bool:
    """Whether an image that was compressed with loss, (H, W) uint8, shows objects between black and its largest value: areas of
    one value, or what is by itself and nowhere bright. Of ones as small as 8x8 pixels nearly all are found."""
    window, top = np.ones((5, 5), np.uint8), int(pixels.max())
    flat = cv2.dilate(pixels, window) - cv2.erode(pixels, window) <= _PLATEAU
    bright = pixels >= 0.85 * top
    if int((flat & (pixels > 0.15 * top) & ~bright).sum()) >= _PLATEAU_AREA:
        return True
    shown = (pixels > 0.25 * top).astype(np.uint8)
    _, parts = cv2.connectedComponents(shown)
    large = cv2.erode(shown, np.ones((7, 7), np.uint8)) > 0
    return bool(np.setdiff1d(parts[large], parts[bright]).size)


def _smooth_label(pixels: np.ndarray, values: Sequence[int], name: str) -> int | None:
    """The label of a mask with smooth edges, in a grey image (H, W) uint8 or uint16: the value of its inside, or 255 where it
    has none. None if the image has labels.

    Edges have values between black and the object's, that fill no area of as much as 3x3 pixels, and lie beside brighter ones.
    Where no value is as much as half of white, they must lie between black and an inside, too.

    Args:
        pixels: of the image.
        values: in it, without 0, in order.
        name: of the image, for messages.

    Raises:
        ValueError: several objects have smooth edges.
    """
    top = values[-1] if values else 0
    between = {value for value in values if _DARK * top <= value < _BRIGHT * top}
    dim = top <= np.iinfo(pixels.dtype).max // 2
    if len(values) < 2 or (dim and len(between) < _FADING):
        return None
    kernel = np.ones((3, 3), np.uint8)
    brightest, darkest = cv2.dilate(pixels, kernel), cv2.erode(pixels, kernel)
    areas = pixels[darkest == brightest]
    flat = set(np.flatnonzero(np.bincount(areas)).tolist()) - {0}
    thin = between - flat
    several = len(values) > _FEW and not between.isdisjoint(flat)
    if (dim and len(thin) < _FADING) or (several and len(thin) <= max(_FEW, 2 * len(flat))):
        return None
    edges = np.isin(pixels, list(thin))
    beside = brightest > pixels
    if dim:
        beside &= (darkest < pixels) & (cv2.erode(pixels, np.ones((_REACH, _REACH), np.uint8)) == 0)
    fading = bool(edges.any()) and beside[edges].mean() > (_SHARE_BETWEEN if dim else _SHARE_BESIDE)
    if several and fading:
        raise ValueError(_SMOOTH_OBJECTS.format(name))
    if len(values) <= _FEW:
        smooth = fading and len(flat) <= 1
    else:
        smooth = not several and (fading or (not between and values[-2] >= _BRIGHT * top))
    if not smooth:
        return None
    inside = np.bincount(areas[areas >= _BRIGHT * top], minlength=1)
    if 2 * inside.max() > inside.sum():
        return int(inside.argmax())
    return None if dim else MASK_VALUE


def _of_painted(pixels: np.ndarray, opaque: np.ndarray, name: str, void: int | None) -> Image.Image:
    """The labels of an image whose opaque part has a few colours, (H, W, 4) uint8; black may be the only one of them."""
    colours = _unique_colours(pixels[opaque])
    if ((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).any():
        _warn_threshold(name)
    if not colours.any():
        return Image.fromarray(np.where(opaque, np.uint8(MASK_VALUE), np.uint8(0)))
    if not colours.all():
        raise ValueError(f"{name} is painted in black and in other colours on nothing: expected labels, or one mask")
    return _of_colours(np.where(opaque[..., None], pixels[..., :3], np.uint8(0)), False, name, void)


def _of_colours(pixels: np.ndarray, lossy: bool, name: str, void: int | None) -> Image.Image:
    """The labels of an image in colour, (H, W, 3) uint8."""
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return _of_grey(Image.fromarray(np.ascontiguousarray(pixels[..., 0])), lossy, name, void)
    packed = _pack(pixels)
    colours = np.unique(packed)
    palette = _pack(np.reshape(davis_palette(), (256, 3)))
    if np.isin(colours, palette).all() and not _is_one_fading_colour(pixels, name):
        labels = np.zeros(packed.shape, np.uint8)
        for label, colour in enumerate(palette):
            labels[packed == colour] = label
        image = Image.fromarray(labels)
        image.putpalette(davis_palette())
        return _without(image, void, name)
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
    values = labels_in(labels)
    if len(values) > 1:
        raise ValueError(_UNKNOWN_COLOURS.format(name))
    mask = np.asarray(labels) != 0
    own = np.unique(packed[brightness == values[0]]) if values and not lossy else ()  # with smooth edges, that of its inside
    if len(own) == 1 and own[0] in palette:
        return _without(Image.fromarray(mask * np.uint8(palette.tolist().index(own[0]))), void, name)
    labels = Image.fromarray(mask * np.uint8(MASK_VALUE))
    labels.info[Found.COLOUR] = tuple(np.median(pixels[inside], axis=0).astype(int).tolist())
    return labels


def _is_one_fading_colour(pixels: np.ndarray, name: str) -> bool:
    """Whether colours of DAVIS' palette in an image (H, W, 3) uint8 are those of one object's smooth edges, as halves of its
    first colours are others of them."""
    brightness = pixels.max(axis=2)
    values = _find_labels(Image.fromarray(brightness))
    if len(values) <= _FADING:
        return False
    hues = pixels[brightness > 0] * (255 / brightness[brightness > 0, None])
    return same_colour(hues.min(axis=0), hues.max(axis=0)) and _smooth_label(brightness, values, name) is not None


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
    warn_once(
        f"{_any_mask_like(name)} has smooth edges or was compressed with loss, and is thresholded at half: PNGs of 0 and 255 "
        "are exact"
    )


def _any_mask_like(name: str) -> str:
    """What a warning names, so that there is one for a folder of masks."""
    folder = Path(name).parent
    return name if folder == Path() else f"{folder}: a mask"
