"""The meaning of the values of mask and label images in all forms in which these are saved."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from i2v.data.annotations import LabelImages, ObjectFolders, open_annotations
from i2v.data.files import find_file
from i2v.data.mask_files import davis_palette, labels_in, open_labels, read_labels, read_mask, save_label_image
from i2v.data.rle import mask_to_rle
from i2v.prompt_arguments import parse_prompts
from sav_dataset.sav_evaluator import evaluate
from test_pvs.datasets import read_dataset
from test_pvs.runner import run_videos
from test_pvs.runs import Run
from test_pvs.semi_supervised import semi_supervised
from test_pvs.systems import SystemSettings
from train.dataset.sa1b import SA1B
from train.dataset.sample import SampleError
from train.dataset.vos_folder import VOSFolder

HEIGHT, WIDTH = 48, 64
Y, X = np.mgrid[:HEIGHT, :WIDTH]
ONE = (X - 18) ** 2 + (Y - 20) ** 2 <= 10**2
TWO = (X - 45) ** 2 + (Y - 26) ** 2 <= 9**2
LABELS = (ONE + 2 * TWO).astype(np.uint8)
DAVIS = np.uint8(np.reshape(davis_palette(), (256, 3)))
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def smooth(mask: np.ndarray) -> np.ndarray:
    """A mask with smooth edges, 0 to 255."""
    return cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 1)


def painted(*colours: tuple[int, int, int], background: tuple[int, ...] = (0, 0, 0)) -> np.ndarray:
    pixels = np.tile(np.uint8(background), (HEIGHT, WIDTH, 1))
    for mask, colour in zip((ONE, TWO), colours, strict=False):
        pixels[mask, :3] = colour
        pixels[mask, 3:] = 255
    return pixels


def photograph() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


EXACT = {
    "grey": np.uint8(ONE),
    "grey 255": np.uint8(ONE * 255),
    "one colour": painted(RED),
    "one of DAVIS' colours": painted(tuple(DAVIS[3])),
    "opaque": np.dstack([painted((255, 255, 255)), np.full((HEIGHT, WIDTH), 255, np.uint8)]),
    "cut out of a photograph": np.dstack([photograph(), np.uint8(ONE * 255)]),
    "black on transparent": np.dstack([painted(), np.uint8(ONE * 255)]),
    "white on transparent": painted((255, 255, 255), background=(0, 0, 0, 0)),
    "grey with alpha": np.dstack([np.full((HEIGHT, WIDTH), 99, np.uint8), np.uint8(ONE * 255)]),
}


@pytest.mark.parametrize("kind", EXACT)
def test_masks(kind, tmp_path, caplog):
    Image.fromarray(EXACT[kind]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ONE)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(read_mask(image), ONE)
    assert not caplog.records


THRESHOLDED = {
    "smooth": ("png", smooth(ONE)),
    "smooth alpha": ("png", np.dstack([photograph(), smooth(ONE)])),
    "smooth colour": ("png", np.dstack([smooth(ONE), smooth(ONE) * 0, smooth(ONE) * 0])),
    "JPEG": ("jpg", np.uint8(ONE * 255)),
    "JPEG in colour": ("jpg", painted((250, 10, 10))),
    "WebP": ("webp", painted((255, 255, 255))),
}


@pytest.mark.parametrize("kind", THRESHOLDED)
def test_masks_that_are_thresholded_with_a_warning(kind, tmp_path, caplog):
    suffix, pixels = THRESHOLDED[kind]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    mask = read_mask(path)
    assert (mask != ONE).sum() <= (12 if "JPEG" in kind or kind == "WebP" else 0) + 0.02 * ONE.sum()
    assert "thresholded at half" in caplog.text
    assert len(caplog.records) == 1
    read_mask(path)
    assert len(caplog.records) == 1  # once for the masks of a folder
    if kind in ("JPEG", "WebP"):
        Image.open(path).convert("L").save(tmp_path / "traces.png")  # with compression artefacts
        np.testing.assert_array_equal(read_mask(tmp_path / "traces.png"), mask)


def ellipse(value: int, centre: tuple[int, int] = (60, 60), size: int = 480) -> np.ndarray:
    """A quarter of the size, so that its edges are smooth: (size / 4, size / 4) uint8."""
    image = np.zeros((size, size), np.uint8)
    cv2.ellipse(image, (4 * centre[0], 4 * centre[1]), (110, 70), 30, 0, 360, value, -1)
    return cv2.resize(image, (size // 4, size // 4), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("form", "value"),
    [("16 bits", 255), *((form, value) for form in ("L", "P", "quantized") for value in (255, 230, 200, 180, 128))],
)
def test_smooth_edges_of_any_brightness(form, value, tmp_path):
    pixels = ellipse(value)
    image = {
        "L": Image.fromarray(pixels),
        "P": Image.fromarray(pixels).convert("P"),
        "quantized": Image.fromarray(pixels).convert("RGB").quantize(64),
        "16 bits": Image.fromarray(pixels.astype(np.uint16) * 257),
    }[form]
    image.save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert abs(int(mask.sum()) - int((pixels >= value / 2).sum())) <= 3


def test_several_objects_with_smooth_edges_are_never_merged(tmp_path):
    pixels = np.maximum(ellipse(255, (35, 35)), ellipse(128, (80, 80)))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png has several objects, with smooth edges"):
        read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("values", [(100, 255), (128, 255), (200, 255), (150, 200), (85, 255)])
def test_several_objects_in_a_lossy_image_are_never_merged(values, tmp_path):
    pixels = np.maximum(ellipse(values[1], (35, 35)), ellipse(values[0], (80, 80)))
    for suffix in ("jpg", "webp"):
        Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", quality=90)
        with pytest.raises(ValueError, match=rf"a\.{suffix} has several objects, with smooth edges or compression artefacts"):
            read_labels(tmp_path / f"a.{suffix}")


def test_a_small_object_in_another_colour_in_a_lossy_image(tmp_path):
    pixels = np.zeros((96, 96, 3), np.uint8)
    pixels[10:70, 10:60] = (250, 10, 10)
    pixels[80:90, 70:82] = (10, 240, 10)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=92)
    with pytest.raises(ValueError, match=r"a\.jpg is a colour image with several"):
        read_labels(tmp_path / "a.jpg")


def test_labels_beside_brighter_ones_are_not_smooth_edges(tmp_path):
    pole = np.where(ONE, np.uint8(200), np.uint8(0))
    pole[:, 50:52] = 100
    cells = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i in range(12):
        cells[4 + 6 * (i // 4) : 6 + 6 * (i // 4), 4 + 8 * (i % 4) : 6 + 8 * (i % 4)] = 20 * (i + 1)
    for labels in (pole, cells):
        Image.fromarray(labels).save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


CRISP = np.kron(ONE | TWO, np.ones((4, 4), bool))


def smaller(pixels: np.ndarray, factor: int = 3) -> np.ndarray:
    """Scaled down by a factor that does not divide the size of the shapes, so edges are smooth."""
    return cv2.resize(pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(value, np.uint8) for value in (20, 60, 120, 127, 128, 180, 200, 254, 255)]
    + [(value, np.uint16) for value in (200, 255, 1000, 4095, 65280, 65535)],
)
def test_crisp_and_smooth_frames_of_one_object_have_one_label(value, kind, tmp_path, caplog):
    large = CRISP * kind(value)
    frames = [large[1::3, 1::3], smaller(large), cv2.GaussianBlur(large, (0, 0), 1.5)[1::3, 1::3]]
    for t, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / f"{t}.png")
    masks = LabelImages(tmp_path)
    label = 255 if value >= 65280 else value
    assert [labels_in(masks.open(frame)) for frame in masks.frames] == [[label]] * 3
    for frame in ("1", "2"):
        assert (read_mask(masks.paths[frame]) != (frames[0] > 0)).mean() < 0.01
    assert "thresholded at half" in caplog.text


@pytest.mark.parametrize("label", [1, 3, 5])
def test_smooth_edges_of_one_of_davis_colours(label, tmp_path):
    large = CRISP[..., None] * DAVIS[label]
    Image.fromarray(smaller(large)).save(tmp_path / "a.png")
    assert labels_in(open_labels(tmp_path / "a.png")) == [label]
    halves = np.kron(ONE, np.ones((2, 2), bool))[1:, 1:, None] * DAVIS[label]  # DAVIS' palette has their halves and quarters
    Image.fromarray(smaller(halves[:94, :126], 2)).save(tmp_path / "a.png")
    labels = read_labels(tmp_path / "a.png")
    assert np.unique(labels).tolist() == [0, label]


def test_several_dark_objects_with_smooth_edges_are_never_merged(tmp_path):
    for pixels in (np.maximum(ellipse(120, (35, 35)), ellipse(60, (80, 80))), ellipse(120, (35, 35)) * np.uint16(40)):
        pixels = np.maximum(pixels, np.roll(pixels // 2, 50, axis=1))
        Image.fromarray(pixels).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match=r"a\.png has several objects, with smooth edges"):
            read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("num_labels", [5, 9, 60, 400])
@pytest.mark.parametrize("dense", [True, False])
def test_small_labels_beside_each_other_are_not_smooth_edges(num_labels, dense, tmp_path):
    rng = np.random.RandomState(0)
    labels = np.zeros((96, 128), np.uint16)
    centres = rng.randint(0, (96, 128), (num_labels, 2))
    if dense:  # numbered from left to right
        centres = centres[centres[:, 1].argsort()]
        y, x = np.mgrid[:96, :128]
        labels[:] = ((y - centres[:, :1, None]) ** 2 + (x - centres[:, 1:, None]) ** 2).argmin(axis=0)
    else:
        cv2.ellipse(labels, (64, 48), (30, 20), 0, 0, 360, num_labels, -1)  # parts of all sizes along its outline
        for label in range(1, num_labels):
            angle = rng.uniform(0, 2 * np.pi)
            centre = int(64 + 31 * np.cos(angle)), int(48 + 21 * np.sin(angle))
            cv2.ellipse(labels, centre, tuple(rng.randint(0, 4, 2).tolist()), 0, 0, 360, label, -1)
    Image.fromarray(labels if num_labels > 255 else labels.astype(np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


def test_a_palette_in_which_white_comes_first(tmp_path, caplog):
    soft = smaller(CRISP * np.uint8(255))
    for name, pixels, truth in (
        ("crisp", np.uint8(ONE * 255), ONE),
        ("full", np.full((9, 9), 255, np.uint8), 1),
        ("soft", soft, 0),
    ):
        image = Image.fromarray(pixels).convert("RGB")
        for colours in (2, 8, 256):
            for i, palette in enumerate((image.quantize(colours), image.convert("P", palette=Image.ADAPTIVE, colors=colours))):
                assert palette.getpalette()[0] > 128
                palette.save(tmp_path / f"{name}{colours}{i}.png")
                labels = read_labels(tmp_path / f"{name}{colours}{i}.png")
                assert np.unique(labels).tolist()[-1] == 255
                wrong = (labels > 0) != ((pixels >= 128) if name == "soft" else truth)
                assert wrong.sum() <= (8 if name == "soft" else 0)
    assert caplog.text.count("its bright part is the object") == 1


def test_a_palette_of_colours_in_which_black_is_a_label(tmp_path, caplog):
    pixels = np.zeros((9, 12, 3), np.uint8)
    pixels[1:4, 1:4], pixels[5:8, 6:11] = (200, 30, 30), (30, 200, 30)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        image = Image.fromarray(pixels).quantize(3)
        for name in ("0.png", "1.png"):
            image.save(tmp_path / folder / name)
            np.testing.assert_array_equal(read_labels(tmp_path / folder / name), image)
    what = "a mask has a palette that does not begin with black, and black is label 2"
    assert [f"{tmp_path / folder}: {what}" in caplog.text for folder in ("first", "second")] == [True, True]
    assert caplog.text.count(what) == 2
    caplog.clear()
    save_label_image(tmp_path / "davis.png", np.asarray(image))
    read_labels(tmp_path / "davis.png")
    assert not caplog.records


def test_labels_in_palettes_of_greys(tmp_path):
    for palette in ([0, 85, 170], [0, 255], [255, 0, 0], list(range(256)), list(range(255, -1, -1))):
        image = Image.fromarray(np.minimum(LABELS, len(palette) - 1))
        colours = np.repeat(palette, 3).tolist()
        image.putpalette([255, 255, 255, 0, 0, 0, 9, 0, 200] if palette == [255, 0, 0] else colours)
        image.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), image)
    image = Image.fromarray(LABELS)
    image.putpalette([255] * 3 + [0] * 3 + [128] * 3)
    image.save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has a palette of greys that does not begin with black, and several objects"):
        read_labels(tmp_path / "b.png")


def test_a_palette_in_which_black_comes_first_and_edges_are_smooth(tmp_path):
    for t, pixels in enumerate((CRISP[1::3, 1::3] * np.uint8(255), smaller(CRISP * np.uint8(255)))):
        Image.fromarray(pixels).convert("RGB").convert("P", dither=Image.Dither.NONE).save(tmp_path / f"{t}.png")
    masks = LabelImages(tmp_path)
    assert labels_in(masks.open("0")) == labels_in(masks.open("1")) == [225]  # white in Pillow's palette
    assert masks.objects == [225]


@pytest.mark.parametrize("value", [85, 110, 128, 160, 190])
@pytest.mark.parametrize("quality", [75, 95])
def test_a_small_darker_object_in_a_lossy_image(value, quality, tmp_path):
    pixels = np.zeros((120, 160), np.uint8)
    pixels[20:100, 80:150] = 255
    pixels[33:43, 21:31] = value
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=quality)
    with pytest.raises(ValueError, match=r"a\.jpg has several objects"):
        read_labels(tmp_path / "a.jpg")


def test_void_is_not_a_smooth_edge(tmp_path):
    border = cv2.dilate(np.uint8(ONE), np.ones((3, 3), np.uint8)) > ONE
    for object_value, void in ((255, 128), (128, 255)):
        pixels = np.where(border, void, ONE * object_value).astype(np.uint8)
        for image in (Image.fromarray(pixels), Image.fromarray(pixels.astype(np.int32) * 257)):
            image.save(tmp_path / "a.tif")
            found = read_labels(tmp_path / "a.tif", void=void * (257 if image.mode == "I" else 1))
            np.testing.assert_array_equal(found > 0, ONE)
    Image.fromarray(smooth(ONE)).save(tmp_path / "b.png")
    assert (read_mask(tmp_path / "b.png", void=255) != ONE).mean() < 0.01  # 255 is its inside, rather than void
    thin = np.where(border, 255, 0).astype(np.uint8)
    thin[20, :] = 100
    Image.fromarray(thin).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "c.png", void=255), np.where(thin == 100, 100, 0))


def test_16_bits_of_black_and_white_are_a_mask(tmp_path):
    Image.fromarray(np.uint16(ONE * 65535)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), ONE * 255)
    assert LabelImages(tmp_path).objects == [1]
    labels = np.uint16(LABELS)
    labels[:9, :60] = np.kron(np.arange(3, 63).reshape(3, 20), np.ones((3, 3)))
    labels[40:, :] = 65535
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png", void=65535), np.where(labels == 65535, 0, labels))


@pytest.mark.parametrize("alpha", [0, 128, 254, 255])
def test_uniform_transparency_is_ignored(alpha, tmp_path, caplog):
    for colours, expected in ((painted((255, 255, 255)), ONE), (painted(DAVIS[1], DAVIS[2]), LABELS), (painted(), ONE * 0)):
        Image.fromarray(np.dstack([colours, np.full((HEIGHT, WIDTH), alpha, np.uint8)])).save(tmp_path / "a.png")
        found = read_labels(tmp_path / "a.png")
        np.testing.assert_array_equal(np.minimum(found, expected.max()), expected)
    assert not caplog.records
    if alpha == 0:  # a frame without the object, with nothing cut out
        Image.fromarray(np.dstack([photograph(), np.uint8(ONE * 0)])).save(tmp_path / "a.png")
        assert not read_mask(tmp_path / "a.png").any()
        assert "a mask is fully transparent and is read as empty" in caplog.text


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_several_pictures_are_not_a_mask(kind, tmp_path):
    pictures = [Image.fromarray(np.uint8(mask * 255)) for mask in (ONE, TWO)]
    pictures[0].save(tmp_path / "a.x", format=kind, save_all=True, append_images=pictures[1:])
    with pytest.raises(ValueError, match=r"a\.x holds 2 pictures"):
        read_mask(tmp_path / "a.x")
    with Image.open(tmp_path / "a.x") as image:
        with pytest.raises(ValueError, match=r"the mask is an image file with 2 pictures: pass one of them, as a copy\(\)"):
            read_mask(image)
        image.seek(1)
        np.testing.assert_array_equal(read_mask(image.copy()), TWO)


def test_truncated_image(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with Image.open(tmp_path / "b.png") as image, pytest.raises(ValueError, match="the mask is not a readable image"):
        read_mask(image)


def test_a_mask_of_another_kind_is_left_out_with_a_warning(tmp_path, caplog):
    for t in range(3):
        Image.fromarray(LABELS).save(tmp_path / f"{t}.png")
    Image.fromarray(LABELS).save(tmp_path / "3.jpg")
    assert LabelImages(tmp_path).frames == ["0", "1", "2"]
    assert f"{tmp_path}: 1 images that are not PNG are left out: 3.jpg" in caplog.text


def test_a_translucent_mask(tmp_path):
    Image.fromarray(np.dstack([painted(RED), np.uint8(ONE * 100)])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ONE)


def test_labels_in_colours_of_16_bits_are_refused(tmp_path):
    pixels = np.repeat(LABELS[..., None], 3, axis=2).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    with pytest.raises(ValueError, match=r"a\.png is a colour image of 16 bits"):
        read_labels(tmp_path / "a.png")


def test_masks_of_several_kinds_in_a_folder(tmp_path):
    for t in range(3):
        Image.fromarray(LABELS).save(tmp_path / f"{t}.tif")
        Image.fromarray(photograph()).save(tmp_path / f"{t}.jpg")
    with pytest.raises(ValueError, match=r"images of several kinds: 3 JPEG \(0\.jpg, \.\.\.\), 3 TIFF"):
        _ = LabelImages(tmp_path).frames
    for t in range(3):
        (tmp_path / f"{t}.jpg").unlink()
    Image.fromarray(LABELS).save(tmp_path / "palette.png")
    with pytest.raises(ValueError, match=r"images of several kinds: 3 TIFF .*1 PNG"):
        _ = LabelImages(tmp_path).frames
    (tmp_path / "palette.png").unlink()
    assert LabelImages(tmp_path).frames == ["0", "1", "2"]


@pytest.mark.parametrize(("void", "error"), [(True, TypeError), ("255", TypeError), (0, ValueError), (-1, ValueError)])
def test_void_is_a_label(void, error, tmp_path):
    write_video(tmp_path, [LABELS] * 3)
    for read in (lambda: train_masks(tmp_path, void=void), lambda: read_dataset("mose", tmp_path, void=void)):
        with pytest.raises(error, match="void"):
            read()


def test_void_does_not_erase_masks(tmp_path, caplog):
    Image.fromarray(np.uint8(ONE * 255)).save(tmp_path / "a.jpg")
    assert read_mask(tmp_path / "a.jpg", void=255).sum() > 0.9 * ONE.sum()
    Image.fromarray(np.uint8(ONE * 255)).save(tmp_path / "a.png")
    assert not read_mask(tmp_path / "a.png", void=255).any()
    assert "a mask has no label but 255, which is void" in caplog.text


def test_thin_and_small_labels_are_not_smooth_edges(tmp_path):
    labels = LABELS.copy()
    labels[5, :40] = 3  # a line
    labels[40, 60] = 4
    labels[40:46, 2:8] = 255
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png", void=255), np.where(labels == 255, 0, labels))


SEVERAL = {
    "DAVIS": (np.where(LABELS[..., None] > 0, DAVIS[LABELS], np.uint8(0)), True),
    "DAVIS on transparent": (np.dstack([DAVIS[LABELS], np.uint8(255 * (LABELS > 0))]), True),
    "grey": (LABELS, True),
    "grey, far apart": (LABELS * 85, True),
    "other colours": (painted(RED, GREEN), False),
    "shades of a colour": (painted(RED, (150, 0, 0)), False),
    "colours close to each other": (painted(RED, (255, 60, 0)), False),
    "other colours on transparent": (painted(RED, BLUE, background=(0, 0, 0, 0)), False),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_several_objects_are_never_merged(kind, tmp_path, caplog):
    pixels, known = SEVERAL[kind]
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    with pytest.raises(ValueError, match=r"a\.png .*several|a\.png .*colour"):
        read_mask(path)
    if known:
        labels = read_labels(path)
        assert [(labels == value).sum() for value in np.unique(labels)[1:]] == [ONE.sum(), TWO.sum()]
        assert len(parse_prompts([], [], [f"0,{path}"])) == 2
    else:
        with pytest.raises(ValueError, match=r"a\.png is a colour image"):
            parse_prompts([], [], [f"0,{path}"])


@pytest.mark.parametrize("mode", ["L", "P"])
def test_texts_in_a_file_are_not_taken_for_labels(mode, tmp_path):
    """Pillow keeps them in `Image.info`, where `open_labels` keeps its findings."""
    texts = PngInfo()
    for name in ("labels", "colour", "thresholded"):
        texts.add_text(name, "9")
    values = np.array([[0, 3], [3, 7]], np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette(davis_palette())
    image.save(tmp_path / "mask.png", pnginfo=texts)
    assert labels_in(open_labels(tmp_path / "mask.png", void=7)) == [3]
    assert labels_in(open_labels(tmp_path / "mask.png")) == [3, 7]


def test_image_changed_after_its_use_as_a_mask():
    image = Image.fromarray(np.array([[0, 3]], np.uint8))
    assert labels_in(open_labels(image)) == [3]
    image.putpixel((0, 0), 5)
    assert labels_in(open_labels(image)) == [3, 5]


def test_mask_drawn_on_the_upright_picture(tmp_path):
    image = Image.fromarray(np.uint8(ONE * 255).T)
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = 5  # mirrored along the diagonal
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ONE)


def test_palette_with_a_transparent_background(tmp_path):
    save_label_image(tmp_path / "a.png", LABELS)
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        image.save(tmp_path / "b.png", transparency=0)
    np.testing.assert_array_equal(read_labels(tmp_path / "b.png"), LABELS)


@pytest.mark.parametrize("kind", ["floats", "dark JPEG", "negative"])
def test_invalid_masks(kind, tmp_path):
    path = tmp_path / ("a.jpg" if "JPEG" in kind else "a.tif")
    values = {"floats": np.float32(ONE) / 2, "dark JPEG": np.uint8(ONE * 20), "negative": -np.int32(ONE)}[kind]
    Image.fromarray(values).save(path)
    with pytest.raises(ValueError, match=path.name):
        read_mask(path)


# --- the same for all readers ----------------------------------------------------------------------------------------------


def write_video(root: Path, images: list[np.ndarray], suffix: str = "png", names: str = "{:05d}") -> None:
    """A video in the layout of MOSE."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "video").mkdir(parents=True)
    for t, pixels in enumerate(images):
        Image.fromarray(photograph()).save(root / f"JPEGImages/video/{names.format(t)}.jpg")
        Image.fromarray(pixels).save(root / f"Annotations/video/{names.format(t)}.{suffix}")


def train_masks(root: Path, **options: int) -> np.ndarray:
    dataset = VOSFolder(root / "JPEGImages", root / "Annotations", num_frames=3, max_objects=None, **options)
    return dataset.load(0, np.random.default_rng(0)).masks.numpy()


@pytest.mark.parametrize("names", ["{:05d}", "{:05d}_cam3", "2024-01-15_12-30-{:02d}", "f_{:04d}_jpg.rf.9b3c"])
def test_two_objects_stay_two_in_training_and_benchmark(names, tmp_path):
    write_video(tmp_path, [SEVERAL["DAVIS"][0]] * 3, names=names)
    expected = np.stack([ONE, TWO])
    np.testing.assert_array_equal(train_masks(tmp_path)[1], expected)
    (video,) = read_dataset("mose", tmp_path)
    assert video.objects == [1, 2]
    assert video.annotated_frames == [0, 1, 2]
    np.testing.assert_array_equal([video.mask(1, obj) for obj in (np.int64(1), 2)], expected)
    (result,) = evaluate(tmp_path / "Annotations", tmp_path / "Annotations", skip_first_and_last=False)
    assert {name: score.j for name, score in result.scores.items()} == {"001": 100, "002": 100}


@pytest.mark.parametrize("change", [lambda t: painted(RED, GREEN), lambda t: painted((RED, GREEN, BLUE)[t])])
def test_ambiguous_colours_are_an_error_everywhere(change, tmp_path):
    write_video(tmp_path, [change(t) for t in range(3)])
    with pytest.raises(SampleError, match="colour"):
        train_masks(tmp_path)
    (video,) = read_dataset("mose", tmp_path)
    with pytest.raises(ValueError, match="colour"):
        _ = [video.mask(frame, obj) for obj in video.objects for frame in video.annotated_frames]
    with pytest.raises(ValueError, match="colour"):
        evaluate(tmp_path / "Annotations", tmp_path / "Annotations", skip_first_and_last=False)


def test_void_in_all_readers(tmp_path):
    labels = LABELS.copy()
    labels[40:, :] = 255
    write_video(tmp_path, [labels] * 3)
    assert train_masks(tmp_path).shape[1] == 3
    np.testing.assert_array_equal(train_masks(tmp_path, void=255)[0], np.stack([ONE, TWO]))
    assert read_dataset("mose", tmp_path)[0].objects == [1, 2, 255]
    assert read_dataset("mose", tmp_path, void=255)[0].objects == [1, 2]
    Image.fromarray(np.where(labels == 255, 1, labels).astype(np.uint8)).save(tmp_path / "wrong_there.png")
    for t in range(3):
        (tmp_path / f"pred/video/{t:05d}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.open(tmp_path / "wrong_there.png").save(tmp_path / f"pred/video/{t:05d}.png")
    for void, objects in ((None, ["001", "002", "255"]), (255, ["001", "002"])):  # a protocol, and its masks
        run = Run(semi_supervised, {"input": "gm"}, SystemSettings("static-mask"), "mose", tmp_path, tmp_path / f"{void}", void)
        assert run_videos(run, ["cpu"]) == {}
        assert sorted(path.name for path in (tmp_path / f"{void}/masks/video").iterdir() if path.is_dir()) == objects
    (result,) = evaluate(tmp_path / "Annotations", tmp_path / "pred", skip_first_and_last=False, void=255)
    assert {name: score.j for name, score in result.scores.items()} == {"001": 100, "002": 100}


def test_lossy_masks_in_all_readers(tmp_path, caplog):
    write_video(tmp_path, [np.uint8(ONE * 255)] * 3, suffix="jpg")
    masks = train_masks(tmp_path)
    assert masks.shape[1] == 1
    assert (masks[0, 0] != ONE).mean() < 0.01
    (video,) = read_dataset("mose", tmp_path)
    assert video.objects == [1]
    np.testing.assert_array_equal(video.mask(0, 1), masks[0, 0])
    assert len(caplog.records) == 1
    (result,) = evaluate(tmp_path / "Annotations", tmp_path / "Annotations", skip_first_and_last=False)
    assert list(result.scores) == ["001"]


def test_hidden_and_system_files_in_all_readers(tmp_path):
    write_video(tmp_path, [LABELS] * 3)
    for folder in ("JPEGImages", "Annotations", "JPEGImages/video", "Annotations/video"):
        for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
            (tmp_path / folder / name).mkdir()
            Image.fromarray(LABELS).save(tmp_path / folder / name / "00000.png")
        for name in ("._00000.png", "._00000.jpg", "Thumbs.db", "desktop.ini"):
            (tmp_path / folder / name).write_bytes(b"x")
    np.testing.assert_array_equal(train_masks(tmp_path)[0], np.stack([ONE, TWO]))
    (video,) = read_dataset("mose", tmp_path)
    assert video.problems() == []
    assert isinstance(open_annotations(tmp_path / "Annotations/video"), LabelImages)
    assert [result.name for result in evaluate(tmp_path / "Annotations", tmp_path / "Annotations")] == ["video"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_in_all_readers(encoding, tmp_path):
    write_video(tmp_path, [LABELS] * 3)
    (tmp_path / "list.txt").write_text("video\r\n\r\n", encoding=encoding)
    assert train_masks(tmp_path, file_list=tmp_path / "list.txt").shape[1] == 2
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("video\r\n", encoding=encoding)
    assert [video.name for video in read_dataset("davis2017", tmp_path)] == ["video"]


def test_list_that_is_not_text(tmp_path):
    write_video(tmp_path, [LABELS] * 3)
    for content in (b"\xffvideo", b"vi\0deo", "video".encode("utf-32"), "\ufeffvideo".encode("utf-32-be")):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(ValueError, match=r"list\.txt is not a text file in UTF-8"):
            train_masks(tmp_path, file_list=tmp_path / "list.txt")


def test_upper_case_suffixes_and_json_with_a_byte_order_mark(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.JPG")
    content = json.dumps({"annotations": [{"segmentation": mask_to_rle(ONE)}]})
    (tmp_path / "a.json").write_text(content, encoding="utf-8-sig")
    np.testing.assert_array_equal(SA1B(tmp_path).load(0, np.random.default_rng(0)).masks[0, 0], ONE)


def test_suffixes_in_any_case(tmp_path):
    for suffixes in (("Jpg", "Json"), ("jPeG", "jSON")):
        folder = tmp_path / suffixes[0]
        folder.mkdir()
        Image.fromarray(photograph()).save(folder / f"a.{suffixes[0]}", format="JPEG")
        (folder / f"a.{suffixes[1]}").write_text(json.dumps({"annotations": [{"segmentation": mask_to_rle(ONE)}]}))
        np.testing.assert_array_equal(SA1B(folder).load(0, np.random.default_rng(0)).masks[0, 0], ONE)
    (tmp_path / "Jpg/a.jpg").touch()
    assert find_file(tmp_path / "Jpg/a", (".png", ".jpg")) == tmp_path / "Jpg/a.jpg"  # rather than a.Jpg


def test_objects_in_folders(tmp_path):
    for obj, mask in (("002", ONE), ("010", TWO)):
        (tmp_path / obj).mkdir()
        for t in (8, 16, 100):
            Image.fromarray(mask).save(tmp_path / obj / f"{t}.png")
    annotations = open_annotations(tmp_path)
    assert isinstance(annotations, ObjectFolders)
    assert annotations.frames == ["8", "16", "100"]
    assert annotations.areas("16").tolist()[2::8] == [ONE.sum(), TWO.sum()]
    np.testing.assert_array_equal(annotations.masks("8", [2, 10], (WIDTH, HEIGHT)), np.stack([ONE, TWO]))
    Image.fromarray(LABELS).save(tmp_path / "002" / "16.png")
    with pytest.raises(ValueError, match=r"16\.png holds several objects, with labels 1, 2"):
        annotations.mask("16", 2, (WIDTH, HEIGHT))
