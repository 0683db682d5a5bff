"""Read and write an image with masks or labels: the only module that knows what the values of such images mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from i2v.data.files import entries, listed, warn_once
from i2v.data.frame_order import natural_key
from i2v.data.images import chosen_kind, has_deep_colours, kind_of, num_pictures, open_image, upright
from i2v.utils.files import atomic_write
from i2v.utils.numbers import whole_number

# An image that has only this value besides 0 is a mask, as in DAVIS 2016, rather than object 255.
MASK_VALUE = 255
# Larger labels are refused, because areas are kept per label.
MAX_LABEL = 65535
# White in 16 bits: from here (8 bits shifted up) to 65535.
_WHITE_16 = 0xFF00
# Values below the first and above the second share of an image's largest value count as black and white, changed by smoothing.
_DARK, _BRIGHT = 1 / 8, 7 / 8
# Areas of at least 5x5 pixels whose values differ by at most `_PLATEAU` belong to an object, also after compression, if there
# are at least `_PLATEAU_AREA` pixels of them.
_PLATEAU, _PLATEAU_AREA = 16, 6
# An image with more colours than this is a photograph.
_MANY = 32
# Largest difference between the colours of one object, per channel.
_SHADES = 64
# Flat colours closer than this were one colour before the image was edited.
_SAME = 16
_LOSSY = ("JPEG", "MPO", "WEBP")
# Up to this many values, each one counts; if there are more, nearly black and nearly white ones are compression artefacts.
_FEW = 8
# Smallest share of the pixels of smooth edges that adjoin a brighter one. Dark values are more likely labels, so for these the
# share is larger, there must be at least `_FADING` of them, and they must adjoin a darker pixel too and have black in a window
# of `_REACH` pixels around them.
_SHARE_BESIDE, _SHARE_BETWEEN, _FADING, _REACH = 0.75, 0.85, 3, 33
_SMOOTH_OBJECTS = (
    "{} has several objects, with smooth edges or compression artefacts between them: save labels as they are, in a PNG"
)
_UNKNOWN_COLOURS = (
    "{} is a colour image with several colours, which do not identify the objects: expected a palette or grayscale image, "
    "whose values are the labels, or DAVIS' colours"
)


# Keys under which `open_labels` keeps its findings in an image's `info`: the labels, and the colour of an object that DAVIS'
# palette has no label for. Entries of the file have other keys: texts, or pairs of non-negative numbers.
_LABELS, _COLOUR = (-1, 0), (-1, 1)


def open_labels(source: str | Path | Image.Image, void: int | None = None) -> Image.Image:
    """Read a label image, or a mask as a label image. The kind of image is determined in this order:

    - A palette image holds labels: the indices of its colours. If any colour but the first is transparent, it is read as an
      image with transparency instead. If all its colours are greys, including black, but the first is not black, a program
      chose the palette, and the bright part is a mask. Greys with smooth edges are a mask too. If the first colour of any other
      palette is not black but another label is, a warning says so.
    - If an image is partly transparent, its opaque part is the mask; if that is painted in a few colours, the colours count.
    - A grayscale image holds labels: its values. With lossy compression or smooth edges it is a mask, which is thresholded at
      half of its largest value, with a warning. Several objects with smooth edges are an error. 0 and white in 16 bits are a
      mask like 0 and 255.
    - A colour image holds labels if all its colours are in DAVIS' palette, or one object in one colour, with or without smooth
      edges, as label 255. Other colours do not identify objects and are an error.

    A mask with smooth edges has the label that it would have without them: that of the value or colour of its inside. If it is
    too small to have an inside, or has lossy compression, its label is 255.

    Args:
        source (str or Path or Image.Image): path of an image, or a PIL image.
        void (int or None): label of pixels that belong to no object, which become 0 before smooth edges are looked for; None
            for no such label. It does not apply to values changed by compression.

    Returns:
        A decoded PIL image, upright according to its EXIF data, whose values are the labels, 0 for background. Its mode is P or
            L, or I if there are labels above 255.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the image is unreadable or does not identify its objects.
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
    """Decode a PIL image that is passed as a mask.

    Args:
        image (Image.Image): the image, which stays unchanged.

    Returns:
        An upright copy.

    Raises:
        ValueError: the image is corrupt, or its file holds several pictures.
    """
    if (count := num_pictures(image)) > 1:
        raise ValueError(f"the mask is an image file with {count} pictures: pass one of them, as a copy()")
    try:
        image = upright(image).copy()
        image.info.pop(_LABELS, None)  # the image may have been changed since
        return image
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the mask is not a readable image, it may be corrupt or truncated: {error}") from error


def _without(image: Image.Image, void: int | None, name: str) -> Image.Image:
    """A label image with background in place of void pixels."""
    if void is None or void not in (labels := labels_in(image)):
        return image
    if labels == [void] == [MASK_VALUE]:
        warn_once(f"{_any_mask_like(name)} has no label but 255, which is void; without void, 255 would be an object")
    if image.mode == "I":
        values = np.asarray(image)
        return Image.fromarray(np.where(values == void, 0, values))
    image = image.point([0 if value == void else value for value in range(256)])
    image.info[_LABELS] = [label for label in labels if label != void]
    return image


def check_void(void: int | None) -> int | None:
    """Check the label of pixels that belong to no object.

    Args:
        void (int or None): the label; None for no such label.

    Returns:
        The label as an int, or None.

    Raises:
        TypeError: the label is not an integer.
        ValueError: the label is not in 1 to 65535.
    """
    if void is None:
        return None
    number = whole_number(void, "void")
    if not 0 < number <= MAX_LABEL:
        raise ValueError(f"void is a label from 1 to {MAX_LABEL}, not {number}")
    return number


def read_labels(source: str | Path | Image.Image, void: int | None = None) -> np.ndarray:
    """Read a label image as an array.

    Args:
        source (str or Path or Image.Image): path of an image, or a PIL image.
        void (int or None): see `open_labels`.

    Returns:
        (H, W) int32 labels, 0 for background.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `open_labels`.
    """
    return np.asarray(open_labels(source, void)).astype(np.int32)


def read_mask(source: str | Path | Image.Image, void: int | None = None) -> np.ndarray:
    """Read the mask of one object, regardless of its label.

    Args:
        source (str or Path or Image.Image): path of an image, or a PIL image.
        void (int or None): see `open_labels`.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `open_labels`; or the image shows several objects.
    """
    image = open_labels(source, void)
    require_one_object(image, "the mask" if isinstance(source, Image.Image) else source)
    return np.asarray(image) != 0


def require_one_object(image: Image.Image, name: str | Path, void: int | None = None) -> None:
    """Check that a label image shows at most one object.

    Args:
        image (Image.Image): label image from `open_labels`.
        name (str or Path): name of the image, for the message.
        void (int or None): label of pixels that belong to no object; None for no such label.

    Raises:
        ValueError: there is more than one label besides 0 and `void`.
    """
    labels = [label for label in labels_in(image) if label != void]
    if len(labels) > 1:
        raise ValueError(f"{name} holds several objects, with labels {listed(labels)}: expected the mask of one")


def labels_in(image: Image.Image) -> list[int]:
    """The labels in a label image from `open_labels`, in ascending order, without 0.

    The image may be cropped to a box that contains all objects.
    """
    known: list[int] | None = image.info.get(_LABELS)
    return _find_labels(image) if known is None else known


def colour_of(image: Image.Image) -> tuple[int, int, int] | None:
    """The colour (R, G, B) of the object in a label image from `open_labels`, if only its colour identifies it; else None."""
    return image.info.get(_COLOUR)


def _find_labels(image: Image.Image) -> list[int]:
    if image.mode == "I":
        return [label for label in np.flatnonzero(np.bincount(np.asarray(image).ravel())).tolist() if label]
    box = image.getbbox()  # most of a mask is background
    return [label for label, count in enumerate(image.crop(box).histogram()) if count and label] if box else []


def same_colour(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two colours (R, G, B) may be shades of the same object."""
    return all(abs(int(a) - int(b)) <= _SHADES for a, b in zip(one, other, strict=True))


def mask_paths(folder: Path) -> dict[str, Path]:
    """Find the mask or label images of a folder.

    If there are PNGs, images of other kinds are left out with a warning.

    Args:
        folder (Path): the folder.

    Returns:
        Paths of the images by their names without suffix, in natural order.

    Raises:
        ValueError: two images have the same name, or it is unclear which of several kinds of images are the masks, because
            PNGs are outnumbered or missing.
    """
    kinds: dict[str, list[Path]] = {}
    for path in entries(folder):
        if (found_kind := kind_of(path)) is not None:
            kinds.setdefault(found_kind, []).append(path)
    found: dict[str, Path] = {}
    kind = chosen_kind(folder, kinds, "PNG", "masks")
    if left_out := [path.name for other, paths in kinds.items() if other != kind for path in paths]:
        warn_once(f"{folder}: {len(left_out)} images that are not {kind} are left out: {listed(left_out)}")
    for path in kinds[kind] if kind is not None else ():
        if found.setdefault(path.stem, path) is not path:
            raise ValueError(f"{found[path.stem]} and {path.name} are both masks of frame {path.stem}")
    return {name: found[name] for name in sorted(found, key=natural_key)}


def davis_palette() -> list[int]:
    """The palette of DAVIS' and PASCAL VOC's label images: 256 RGB triples as a flat list; label 0 is black."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.flatten().tolist()


def label_colours(colours: Mapping[int, tuple[int, int, int]] | None = None) -> np.ndarray:
    """The colours of all labels.

    Args:
        colours (Mapping[int, tuple[int, int, int]] or None): RGB colours by label, 1 to 255; DAVIS' for those left out.

    Returns:
        (256, 3) uint8 RGB; label 0 is black.
    """
    palette = np.array(davis_palette(), np.uint8).reshape(256, 3)
    for label, colour in (colours or {}).items():
        palette[label] = colour
    return palette


def save_label_image(path: str | Path, labels: np.ndarray, colours: Mapping[int, tuple[int, int, int]] | None = None) -> None:
    """Write a palette PNG atomically.

    Args:
        path (str or Path): path of the file.
        labels (np.ndarray): (H, W) uint8.
        colours (Mapping[int, tuple[int, int, int]] or None): RGB colours by label, 1 to 255; DAVIS' for those left out.
    """
    image = Image.fromarray(labels)
    image.putpalette(label_colours(colours).flatten().tolist())
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def _labels_of(image: Image.Image, lossy: bool, name: str, void: int | None) -> Image.Image:
    """Convert a decoded image to a label image; see `open_labels`.

    Args:
        image (Image.Image): decoded, upright image.
        lossy (bool): whether its compression is lossy.
        name (str): name of the image, for messages.
        void (int or None): see `open_labels`.
    """
    if image.mode == "P" and _only_background_is_transparent(image):
        return _of_palette(image, name, void)
    if image.mode == "1":
        image = image.convert("L")
        image.info[_LABELS] = [MASK_VALUE] if image.getbbox() else []  # no other label is possible
        return _without(image, void, name)
    if image.mode in ("L", "I") or image.mode.startswith("I;16"):
        return _of_grey(image, lossy, name, void)
    if has_deep_colours(image):
        raise ValueError(
            f"{name} is a colour image of 16 bits: expected a palette or grayscale image, whose values are the labels"
        )
    if image.mode == "F":
        raise ValueError(f"{name} has floating-point values: expected labels, or a mask of 0 and 255")
    pixels = np.asarray(image.convert("RGBA"))
    alpha = pixels[..., 3]
    if alpha.min(initial=255) < 255 and _alpha_counts(pixels, name):
        opaque = alpha >= (int(alpha.max()) + 1) // 2 if alpha.any() else alpha > 0
        if len(_unique_colours(pixels[opaque])) > _MANY:  # an object cut out of a photograph
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
    """Whether the mask in an image (H, W, 4) uint8 is given by its transparency.

    If transparency is much the same everywhere, it is not, unless the image is fully transparent and no mask is painted in it.
    """
    alpha = pixels[..., 3]
    if 2 * int(alpha.min()) < int(alpha.max()):
        return True
    num_colours = len(_unique_colours(pixels))
    if alpha.any() or 1 < num_colours <= _MANY:
        return False
    if num_colours > 1:
        warn_once(f"{_any_mask_like(name)} is fully transparent and is read as empty, regardless of its colours")
    return True


def _of_palette(image: Image.Image, name: str, void: int | None) -> Image.Image:
    """The labels of a palette image."""
    colours = _palette_of(image)
    greys = (colours == colours[:, :1]).all(axis=1)
    dark = _DARK * colours.max(initial=0)
    starts_dark = bool((colours[:1] <= dark).all())
    if starts_dark and np.count_nonzero(greys) <= _FEW and not greys.all():  # DAVIS' palette has 4 greys
        return _without(image, void, name)
    labels = _find_labels(image)
    image.info[_LABELS] = labels
    used = np.array([label for label in (0, *labels) if label < len(colours)])
    levels = np.unique(colours[used, 0])
    if not starts_dark and greys.all() and (levels[0] <= dark or len(np.unique(colours)) <= 2):
        return _of_brightness(image, name)
    black = [label for label in labels if label < len(colours) and (colours[label] <= dark).all()]
    if black and not starts_dark:  # a program may have chosen the palette
        warn_once(
            f"{_any_mask_like(name)} has a palette that does not begin with black, and black is label {listed(black)}: its "
            "values count, not its colours, so 0 is the background"
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
    """The mask in a palette image with greys chosen by a program, the first of them not black: its bright part, as label 255.

    Raises:
        ValueError: the image shows several objects, whose labels may be either the greys or their indices.
    """
    shown = image.convert("L")
    values, pixels = _find_labels(shown), np.asarray(shown)
    top = int(_palette_of(image).max())
    if any(_DARK * top < value < _BRIGHT * top for value in values[:-1]) and _smooth_label(pixels, values, name) is None:
        raise ValueError(
            f"{name} has a palette of greys that does not begin with black, and several objects: save it as a grayscale "
            "image, whose values are the labels"
        )
    warn_once(f"{_any_mask_like(name)} has a palette of greys that does not begin with black: its bright part is the object")
    return Image.fromarray(np.where(pixels >= (top + 1) // 2, np.uint8(MASK_VALUE), np.uint8(0)))


def _of_grey(image: Image.Image, lossy: bool, name: str, void: int | None = None) -> Image.Image:
    """The labels of a grayscale image."""
    if image.mode != "L":
        wide = np.asarray(image).astype(np.int32)
        if wide.min(initial=0) < 0 or wide.max(initial=0) > MAX_LABEL:
            raise ValueError(f"{name} has values from {wide.min()} to {wide.max()}: expected labels from 0 to {MAX_LABEL}")
        image = Image.fromarray(wide.astype(np.uint8) if wide.max(initial=0) <= MASK_VALUE else wide)
    values = _find_labels(image)
    if lossy and values:
        pixels = np.asarray(image)
        if values[-1] < 64:
            raise ValueError(f"{name} has lossy compression and is too dark to find its mask: save it as PNG")
        if _has_darker_objects(pixels):
            raise ValueError(_SMOOTH_OBJECTS.format(name))
        return _thresholded(pixels, values, MASK_VALUE, name)
    image.info[_LABELS] = values  # finding them takes as long as scoring a small mask
    # If the largest value is void but has smooth edges, and no object beside them, it is that of a mask.
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
    """The values of an image of mode L or I, up to 65535, in a type that OpenCV supports."""
    return np.asarray(image) if image.mode == "L" else np.asarray(image).astype(np.uint16)


def _thresholded(pixels: np.ndarray, values: Sequence[int], label: int, name: str) -> Image.Image:
    """The mask of the pixels with at least half of the largest value, as the given label."""
    if any(value < MASK_VALUE for value in values):
        _warn_threshold(name)
    mask = pixels >= (values[-1] + 1) // 2
    return Image.fromarray(mask * np.uint8(label) if label <= MASK_VALUE else mask * np.int32(label))


def _has_darker_objects(pixels: np.ndarray) -> bool:
    """Whether an image with lossy compression, (H, W) uint8, shows objects darker than its largest value.

    These are areas of a uniform value, or isolated parts that are nowhere bright. Nearly all of at least 8x8 pixels are found.
    """
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
    """Find out whether a grayscale image is a mask with smooth edges.

    The values of edges lie between black and that of the object, do not fill an area of 3x3 pixels, and adjoin brighter ones.
    If no value reaches half of white, they must also lie between black and an inside.

    Args:
        pixels (np.ndarray): (H, W) uint8 or uint16.
        values (Sequence[int]): the values in the image, without 0, in ascending order.
        name (str): name of the image, for messages.

    Returns:
        The label of the mask: the value of its inside, or 255 if it has none. None if the image holds labels.

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
    """The labels of an image (H, W, 4) uint8 whose opaque part has a few colours, or is all black."""
    colours = _unique_colours(pixels[opaque])
    if ((pixels[..., 3] > 0) & (pixels[..., 3] < 255)).any():
        _warn_threshold(name)
    if not colours.any():
        return Image.fromarray(np.where(opaque, np.uint8(MASK_VALUE), np.uint8(0)))
    if not colours.all():
        raise ValueError(
            f"{name} is painted in black and other colours on a transparent background: expected labels, or one mask"
        )
    return _of_colours(np.where(opaque[..., None], pixels[..., :3], np.uint8(0)), False, name, void)


def _of_colours(pixels: np.ndarray, lossy: bool, name: str, void: int | None) -> Image.Image:
    """The labels of a colour image, (H, W, 3) uint8."""
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return _of_grey(Image.fromarray(np.ascontiguousarray(pixels[..., 0])), lossy, name, void)
    packed = _pack(pixels)
    colours = np.unique(packed)
    palette = _pack(np.reshape(davis_palette(), (256, 3)))
    if np.isin(colours, palette).all() and not _is_one_fading_colour(pixels, name):
        labels: np.ndarray = np.zeros(packed.shape, np.uint8)
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
    shown = _of_grey(Image.fromarray(brightness), lossy, name)
    values = labels_in(shown)
    if len(values) > 1:
        raise ValueError(_UNKNOWN_COLOURS.format(name))
    mask = np.asarray(shown) != 0
    # With smooth edges, the colour of the object is that of its inside.
    own = np.unique(packed[brightness == values[0]]).tolist() if values and not lossy else []
    if len(own) == 1 and own[0] in palette:
        return _without(Image.fromarray(mask * np.uint8(palette.tolist().index(own[0]))), void, name)
    image = Image.fromarray(mask * np.uint8(MASK_VALUE))
    image.info[_COLOUR] = tuple(np.median(pixels[inside], axis=0).astype(int).tolist())
    return image


def _is_one_fading_colour(pixels: np.ndarray, name: str) -> bool:
    """Whether the colours of an image (H, W, 3) uint8, all in DAVIS' palette, are those of one object with smooth edges.

    Halves of some of the palette's colours are in the palette themselves.
    """
    brightness = pixels.max(axis=2)
    values = _find_labels(Image.fromarray(brightness))
    if len(values) <= _FADING:
        return False
    hues = pixels[brightness > 0] * (255 / brightness[brightness > 0, None])
    return same_colour(hues.min(axis=0), hues.max(axis=0)) and _smooth_label(brightness, values, name) is not None


def _num_flat_colours(pixels: np.ndarray) -> int:
    """Number of colours but black that fill an area of 3x3 pixels in an image (H, W, 3); nearly equal ones count as one."""
    kernel = np.ones((3, 3), np.uint8)
    flat = (cv2.erode(pixels, kernel) == cv2.dilate(pixels, kernel)).all(axis=2)
    colours = np.unique(pixels[flat & pixels.any(axis=2)] // _SAME, axis=0).astype(int)
    return sum(not (abs(colours[:i] - colour) <= 1).all(axis=1).any() for i, colour in enumerate(colours))


def _has_other_hues(pixels: np.ndarray, bright: np.ndarray, hues: np.ndarray) -> bool:
    """Whether a colour image with lossy compression has a small object in another hue than the rest.

    Args:
        pixels (np.ndarray): (H, W, 3) uint8.
        bright (np.ndarray): (H, W) bool, True where there are objects.
        hues (np.ndarray): (N, 3) colours of the large objects at full brightness.
    """
    own = pixels * (255 / np.maximum(pixels.max(axis=2), 1)[..., None])
    other = bright & (abs(own - np.median(hues, axis=0)) > 1.5 * _SHADES).any(axis=2)
    return bool(cv2.erode(other.astype(np.uint8), np.ones((3, 3), np.uint8)).any())


def _pack(pixels: np.ndarray) -> np.ndarray:
    """One int32 number per pixel of (..., 3) RGB."""
    return pixels[..., 0].astype(np.int32) << 16 | pixels[..., 1].astype(np.int32) << 8 | pixels[..., 2]


def _palette_of(image: Image.Image) -> np.ndarray:
    """The colours of a palette image, (N, 3) RGB."""
    return np.reshape(np.array(image.getpalette("RGB")), (-1, 3))


def _unique_colours(pixels: np.ndarray) -> np.ndarray:
    return np.unique(_pack(pixels))


def _warn_threshold(name: str) -> None:
    """Warn that a mask is thresholded, once for all masks of a folder."""
    warn_once(
        f"{_any_mask_like(name)} has smooth edges or lossy compression and is thresholded at half: PNGs of 0 and 255 are exact"
    )


def _any_mask_like(name: str) -> str:
    """The subject of a warning, the same for all masks of a folder, so that there is one warning for them."""
    folder = Path(name).parent
    return name if folder == Path() else f"{folder}: a mask"
