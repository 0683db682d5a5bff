"""Images as 8-bit RGB: bit depth, orientation, damaged files; and their folders."""

from __future__ import annotations

import io
import logging
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, ImageSequence
from PIL.PngImagePlugin import PngInfo

from i2v.data.files import warn_once
from i2v.data.frames import ArrayFrames, ImageFolder, IteratorFrames, LiveFrames, open_frames
from i2v.data.images import check_value_range, read_rgb, to_rgb
from train.dataset.vos_folder import VOSFolder

RAMP = np.linspace(0, 65535, 48).reshape(6, 8).round()


def grey16(mode: str) -> Image.Image:
    """The values of `RAMP` in a mode with more than 8 bits."""
    values = {"I;16": RAMP.astype(np.uint16), "I": RAMP.astype(np.int32), "F": (RAMP / 65535).astype(np.float32)}
    return Image.fromarray(values[mode])


def sideways(image: Image.Image, orientation: int = 6) -> Image.Exif:
    exif = image.getexif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_scaled_by_the_range_of_the_type(mode):
    image = to_rgb(grey16(mode))
    assert image.dtype == np.uint8
    assert image.shape == (6, 8, 3)
    np.testing.assert_allclose(image[..., 0], RAMP / 257, atol=0.51)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_files_of_16_bits(suffix, tmp_path):
    for t in range(3):
        grey16("I;16").save(tmp_path / f"{t}.{suffix}")
    np.testing.assert_allclose(ImageFolder(tmp_path)[1][..., 2], RAMP / 257, atol=0.51)


@pytest.mark.parametrize(("value_range", "white"), [("data", 3000), ((0, 4095), 4095), (None, 65535)])
def test_range_of_12_bits_in_16(value_range, white, tmp_path):
    for t, value in enumerate((0, 1500, 3000)):
        Image.fromarray(np.full((6, 8), value, np.uint16)).save(tmp_path / f"{t}.png")
    frames = open_frames(tmp_path, value_range)
    assert [int(frames[t][0, 0, 0]) for t in range(3)] == [round(255 * value / white) for value in (0, 1500, 3000)]


@pytest.mark.parametrize("values", [[0.0, 255.0], [-0.1, 0.5], [0.2, np.nan]])
def test_floats_outside_of_0_to_1_are_an_error(values, tmp_path):
    image = Image.fromarray(np.tile(np.float32(values), (6, 4)))
    with pytest.raises(ValueError, match="values"):
        to_rgb(image)
    image.save(tmp_path / "0.tif")
    with pytest.raises(ValueError, match=r"0\.tif.*values"):
        read_rgb(tmp_path / "0.tif")
    if np.isfinite(values).all():
        assert to_rgb(image, (values[0], values[1]))[0, :2, 0].tolist() == [0, 255]


def test_data_range_needs_a_folder():
    with pytest.raises(ValueError, match="value_range"):
        open_frames([grey16("I;16")], "data")


@pytest.mark.parametrize("source", ["list", "iterator", "live"])
def test_pil_frames_of_16_bits(source):
    image = grey16("I;16")
    if source == "live":
        frames = LiveFrames(1, 1)
        frames.append(image)
    else:
        frames = ArrayFrames([image]) if source == "list" else IteratorFrames(iter([image]))
    np.testing.assert_allclose(frames[0][..., 1], RAMP / 257, atol=0.51)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_is_followed(suffix, orientation, tmp_path):
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (0, 0, 16, 16))  # the left half
    image.save(tmp_path / f"0.{suffix}", exif=sideways(image, orientation))
    frames = ImageFolder(tmp_path)
    assert frames.size == ((32, 16) if orientation == 3 else (16, 32))
    frame = frames[0]
    assert frame.shape == (frames.height, frames.width, 3)
    bright = {3: frame[:, 20:], 6: frame[:12], 8: frame[20:]}[orientation]
    assert bright.mean() > 240
    assert frame.mean() < 140


def test_orientation_of_pil_and_live_frames(tmp_path):
    image = Image.new("RGB", (32, 16))
    image.save(tmp_path / "0.jpg", exif=sideways(image))
    with Image.open(tmp_path / "0.jpg") as opened:
        assert ArrayFrames([opened]).size == (16, 32)
        assert opened.size == (32, 16)  # the user's image is unchanged
        frames = LiveFrames(1, 1)
        frames.append(opened)
        assert frames.size == (16, 32)


def test_frames_that_differ_in_upright_size(tmp_path):
    image = Image.new("RGB", (32, 16))
    image.save(tmp_path / "0.jpg")
    image.save(tmp_path / "1.jpg", exif=sideways(image))
    with pytest.raises(ValueError, match=r"1\.jpg is 16x32 .*0\.jpg is 32x16"):
        ImageFolder(tmp_path)


def save(folder: Path, *names: str) -> None:
    for name in names:
        Image.new("RGB", (16, 8)).save(folder / name)


@pytest.mark.parametrize(
    ("names", "extra", "warning"),
    [
        (("0.jpg", "1.jpg"), ("1.png",), r"1 images .*1\.png"),
        (("0.jpg", "1.jpg", "2.jpg", "5.jpg", "6.jpg"), (), r"1 gap, after 2;"),
    ],
)
def test_left_out_images_are_reported(names, extra, warning, tmp_path, caplog):
    save(tmp_path, *names, *extra)
    with caplog.at_level(logging.WARNING):
        assert ImageFolder(tmp_path).num_frames == len(names)
    assert len(caplog.records) == 1
    assert re.search(warning, caplog.text)


def test_evenly_numbered_frames_have_no_gaps(tmp_path, caplog):
    save(tmp_path, "0000.jpg", "0004.jpg", "0008.jpg")
    ImageFolder(tmp_path)
    assert not caplog.records


def test_ambiguous_folders_are_refused(tmp_path):
    save(tmp_path, "0.png", "1.png", "2.png", "preview1.jpg")
    with pytest.raises(ValueError, match=r"several kinds.*3 PNG.*1 JPEG|several kinds.*1 JPEG.*3 PNG"):
        ImageFolder(tmp_path)


def test_two_kinds_without_jpeg_are_refused(tmp_path):
    save(tmp_path, "0.png", "1.tif")
    with pytest.raises(ValueError, match=r"several kinds"):
        ImageFolder(tmp_path)


def test_broken_link_and_several_pages(tmp_path):
    save(tmp_path, "0.jpg")
    (tmp_path / "1.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=r"broken links: 1\.jpg"):
        ImageFolder(tmp_path)
    folder = tmp_path / "pages"
    folder.mkdir()
    page = Image.new("L", (16, 8))
    page.save(folder / "0.tif", save_all=True, append_images=[page, page])
    with pytest.raises(ValueError, match=r"0\.tif holds 3 pictures"):
        ImageFolder(folder)
    with pytest.raises(ValueError, match=r"0\.tif is an image, not a video"):
        open_frames(folder / "0.tif")


def test_hidden_and_system_files_are_not_frames(tmp_path, caplog):
    save(tmp_path, "0.JPG", "1.JPG")
    for name in ("._0.JPG", "Thumbs.db", ".DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "@eaDir").mkdir()
    assert ImageFolder(tmp_path).num_frames == 2
    assert not caplog.records


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("value_range", [None, (0, 4095), "data"])
def test_colours_of_16_bits(suffix, value_range, tmp_path):
    values = (np.random.default_rng(0).random((6, 8, 3)) * 4095).astype(np.uint16)
    values[0, 0], values[0, 1] = 0, 4095
    cv2.imwrite(str(tmp_path / f"0.{suffix}"), values[..., ::-1])
    expected = values / 257 if value_range is None else values / 4095 * 255
    np.testing.assert_allclose(open_frames(tmp_path, value_range)[0], expected, atol=0.51)


@pytest.mark.parametrize(
    "value_range", [(599, 0), (3, 3), (0, float("nan")), "auto", 7200, (1, 2, 3), np.array([7700, 7200]), ("a", "b")], ids=str
)
def test_invalid_value_ranges(value_range, tmp_path):
    grey16("I;16").save(tmp_path / "0.png")
    for read in (
        lambda: open_frames(tmp_path, value_range),
        lambda: open_frames([grey16("I;16")], value_range),
        lambda: VOSFolder(tmp_path, tmp_path, value_range=value_range),
    ):
        with pytest.raises(ValueError, match='value_range must be "data" or two numbers, the values of black and white'):
            read()


def test_training_uses_the_value_range_of_a_video(tmp_path):
    for folder in ("frames/video", "masks/video"):
        (tmp_path / folder).mkdir(parents=True)
    for t in range(3):
        Image.fromarray(np.full((6, 8), 1000 + 500 * t, np.uint16)).save(tmp_path / f"frames/video/{t}.png")
        Image.fromarray(np.ones((6, 8), np.uint8)).save(tmp_path / f"masks/video/{t}.png")
    data = VOSFolder(tmp_path / "frames", tmp_path / "masks", num_frames=3, value_range="data")
    clip = data.load(0, np.random.default_rng(0))
    np.testing.assert_allclose(clip.frames.float().mean((1, 2, 3)), [0, 127.5, 255], atol=0.51)


def test_nearly_uniform_frames_cause_a_warning(tmp_path, caplog):
    Image.fromarray((7200 + RAMP / 200).astype(np.uint16)).save(tmp_path / "0.png")
    frames = open_frames(tmp_path)
    assert np.ptp(frames[0]) < 16
    assert "of 256 grey levels" in caplog.text
    assert "--value-range" in caplog.text


@pytest.mark.parametrize("place", ["before", "after", "raw profile"])
def test_orientation_of_a_png(place, tmp_path):
    path = tmp_path / "0.png"
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    exif = sideways(image).tobytes()
    if place == "raw profile":
        info = PngInfo()
        data = exif.hex()
        info.add_text("Raw profile type exif", f"\nexif\n{len(exif):8d}\n{data}\n", zip=True)
        image.save(path, pnginfo=info)
    else:
        image.save(path, exif=exif)
    if place == "after":
        content = path.read_bytes()
        start = content.index(b"eXIf") - 4
        length = 12 + int.from_bytes(content[start : start + 4], "big")
        chunk, rest = content[start : start + length], content[:start] + content[start + length :]
        end = rest.index(b"IEND") - 4
        path.write_bytes(rest[:end] + chunk + rest[end:])
    frames = ImageFolder(tmp_path)
    assert frames.size == (6, 8)
    assert frames[0].shape == (8, 6, 3)


def test_unsupported_images_are_named(tmp_path, caplog):
    save(tmp_path, "0.jpg", "1.jpg")
    for name in ("2.heic", "3.HEIC", "4.gif"):
        (tmp_path / name).write_bytes(b"?")
    assert ImageFolder(tmp_path).num_frames == 2
    assert "3 unsupported files or folders are named like frames and left out: 2.heic, 3.HEIC, 4.gif" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("2.pgm", "2.pbm", "2.jpe", "2.dib", "2.psd", "2.cr3", "2.npy", "2.svg", "2.anything"),
        ("3.jpg~", "3.jpg.part", "3.jpg.crdownload"),
        ("2.jpg/",),
    ],
)
def test_unsupported_files_named_like_frames_cause_a_warning(names, tmp_path, caplog):
    save(tmp_path, "0.jpg", "1.JPG")
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(b"?")
    assert ImageFolder(tmp_path).num_frames == 2
    (record,) = caplog.records
    assert f": {len(names)} unsupported files or folders are named like frames" in record.getMessage()
    assert sorted(names)[0].rstrip("/") in record.getMessage()


def test_notes_beside_frames_need_no_warning(tmp_path, caplog):
    save(tmp_path, "cam_0.jpg", "cam_1.jpg")
    for name in ("cam_0.txt", "cam_1.json", "cam_1.jpg.xml", "cam_1_mask.npy", "readme.md", "2.zip"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "cam").mkdir()
    assert ImageFolder(tmp_path).num_frames == 2
    assert not caplog.records


def colours16(path: Path, orientation: int = 1) -> np.ndarray:
    """Write an image of 16 bits per channel, PNG or TIFF; returns its values, (6, 8, 3) RGB."""
    values = (np.random.default_rng(0).random((6, 8, 3)) * 65535).astype(np.uint16)
    if path.suffix == ".tif":
        tags = [(256, 8), (257, 6), (258, 134), (259, 1), (262, 2), (273, 140), (274, orientation), (277, 3), (278, 6)]
        tags.append((279, values.nbytes))
        entries = b"".join(struct.pack("<HHII", tag, 3, 3 if tag == 258 else 1, value) for tag, value in tags)
        head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
        path.write_bytes(head + struct.pack("<3H", 16, 16, 16) + values.astype("<u2").tobytes())
        return values
    cv2.imwrite(str(path), values[..., ::-1])
    exif = sideways(Image.new("L", (1, 1)), orientation).tobytes().removeprefix(b"Exif\0\0")
    content, chunk = path.read_bytes(), b"eXIf" + exif
    path.write_bytes(content[:33] + struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:])
    return values


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_16_bits_are_rotated(suffix, orientation, tmp_path, capfd):
    path = tmp_path / f"0.{suffix}"
    values = colours16(path, orientation)
    image = Image.fromarray((values >> 8).astype(np.uint8))
    sideways(image, orientation)
    expected = np.asarray(ImageOps.exif_transpose(image))
    frames = ImageFolder(tmp_path)
    assert frames.size == expected.shape[1::-1]
    np.testing.assert_allclose(frames[0], expected, atol=1)
    with Image.open(path) as opened:
        given = ArrayFrames([opened])
        np.testing.assert_array_equal(given[0], frames[0])
        np.testing.assert_array_equal(given[0], frames[0])  # a second time
    assert not capfd.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_pil_images_of_16_bit_colours(in_memory, suffix, tmp_path, caplog):
    path = tmp_path / f"0.{suffix}"
    values = colours16(path)
    source = io.BytesIO(path.read_bytes()) if in_memory else path
    warn_once.cache_clear()
    image = Image.open(source)
    np.testing.assert_allclose(open_frames([image], (0, 6553.5))[0], np.minimum(values / 25.7, 255), atol=0.51)
    assert not caplog.records
    image.thumbnail((4, 3))
    frames = open_frames([image])
    assert frames.size == (4, 3)
    np.testing.assert_array_equal(frames[0], np.asarray(image))
    if not in_memory or suffix == "tif":
        assert "decoded by Pillow, which keeps 8" in caplog.text


def test_picture_that_was_drawn_on_is_used_as_it_is(tmp_path):
    colours16(tmp_path / "0.png")
    with Image.open(tmp_path / "0.png") as image:
        image.paste((1, 2, 3), (0, 0, 8, 6))
        (tmp_path / "0.png").unlink()
        assert (open_frames([image])[0] == (1, 2, 3)).all()


def test_value_range_is_used_refused_or_reported_as_unused(tmp_path, make_video, tiny_video, caplog):
    path = make_video(tmp_path / "a.avi", tiny_video)
    for value_range in ((0, 4095), "data"):
        with pytest.raises(ValueError, match=r"value_range is for folders and lists of images, not for a file: .*a\.avi"):
            open_frames(path, value_range)
    with pytest.raises(ValueError, match=r"is open already: pass value_range"):
        open_frames(open_frames(path), (0, 4095))
    save(tmp_path, "0.jpg")
    for video, value_range in ((tmp_path, (0, 4095)), (tmp_path, "data"), (list(tiny_video), (0, 4095))):
        warn_once.cache_clear()
        caplog.clear()
        open_frames(video, value_range)[0]
        assert "value_range applies to images with more than 8 bits" in caplog.text


def test_each_folder_with_an_unused_value_range_is_named(tmp_path, caplog):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save(tmp_path / name, "0.png", "1.png")
        for value_range in ("data", (0, 4095)):
            frames = open_frames(tmp_path / name, value_range)
            assert [frames[i].shape for i in range(2)] == [(8, 16, 3)] * 2
        assert caplog.text.count(f"{tmp_path / name}: value_range applies to images with more than 8 bits") == 1


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("values", [np.full((6, 8), 700, np.uint16), np.full((6, 8), 0.25, np.float32)], ids=["whole", "float"])
def test_data_range_of_a_single_value(values, tmp_path, caplog):
    for t in range(2):
        Image.fromarray(values).save(tmp_path / f"{t}.tif")
    frames = open_frames(tmp_path, "data")
    assert not frames[1].any()
    assert f"{tmp_path}: its images with more than 8 bits have the value {values[0, 0]:g} everywhere" in caplog.text


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_values_of_32_bits(tmp_path):
    image = Image.fromarray(np.int32([[-1, 2**30, 2**31 - 1]]))
    with pytest.raises(ValueError, match=r"its values are -1 to 2\.14748e\+09, not in 0 to 65535"):
        to_rgb(image)
    assert to_rgb(image, (-1, 2**31 - 1))[0, :, 0].tolist() == [0, 128, 255]
    image = Image.fromarray(2**30 + np.arange(256, dtype=np.int32).reshape(16, 16))
    image.save(tmp_path / "0.tif")
    assert open_frames(tmp_path, "data")[0][..., 0].ravel().tolist() == list(range(256))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_data_range_of_values_that_are_not_finite(tmp_path):
    for t, value in enumerate((0.5, np.nan)):
        Image.fromarray(np.full((6, 8), value, np.float32)).save(tmp_path / f"{t}.tif")
    with pytest.raises(ValueError, match=r"1\.tif: it has values that are not finite"):
        open_frames(tmp_path, "data")


def test_value_range_of_an_array(tmp_path):
    Image.fromarray(np.full((6, 8), 819, np.uint16)).save(tmp_path / "0.png")
    assert open_frames(tmp_path, np.array([0, 4095]))[0][0, 0, 0] == 51
    assert check_value_range(np.array([0, 4095])) == (0, 4095)


@pytest.mark.parametrize("value_range", [None, (0, 65535)])
def test_tiff_in_which_zero_is_white(value_range, tmp_path):
    for name, values in (("8", (RAMP // 257).astype(np.uint8)), ("16", RAMP.astype(np.uint16))):
        (tmp_path / name).mkdir()
        Image.fromarray(values).save(tmp_path / name / "0.tiff", tiffinfo={262: 0})
    stored = (tmp_path / "16/0.tiff").read_bytes()
    assert RAMP.astype("<u2").tobytes() in stored  # Pillow does not swap black and white
    image = open_frames(tmp_path / "16", value_range)[0]
    np.testing.assert_allclose(image[..., 0], 255 - RAMP / 257, atol=0.51)


@pytest.mark.parametrize("colours", [False, True])
def test_12_bits_in_16_cause_a_hint(colours, tmp_path, caplog):
    ramp = np.linspace(0, 4095, 48).reshape(6, 8).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "0.png"), np.dstack([ramp] * 3) if colours else ramp)
    assert open_frames(tmp_path)[0].max() == 16
    assert "see value_range, or --value-range" in caplog.text


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_a_png_in_xmp(orientation, tmp_path):
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>')
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    image.save(tmp_path / "0.png", pnginfo=info)
    frames = ImageFolder(tmp_path)
    turned = np.rot90(np.asarray(image), {3: 2, 6: -1}[orientation])
    assert frames.size == turned.shape[::-1]
    np.testing.assert_array_equal(frames[0][..., 0], turned)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("source", [list, iter])
def test_damaged_pil_image_is_identified_by_index(source, suffix, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / f"1.{suffix}")
    whole = Image.new("RGB", (80, 60))
    data = (tmp_path / f"1.{suffix}").read_bytes()
    cut = Image.open(io.BytesIO(data[: int(len(data) * 0.7)]))
    with pytest.raises(ValueError, match=r"^frame 1: .*"):
        open_frames(source([whole, cut])).count()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("values", [np.zeros((6, 8)), np.zeros((6, 8, 3), np.float32), np.zeros((6, 8, 3), np.int32)])
def test_unsupported_tiff(values, tmp_path):
    cv2.imwrite(str(tmp_path / "0.tiff"), values)
    with pytest.raises(ValueError, match=r"0\.tiff is an unsupported TIFF \([13] channels of (32|64) bits"):
        open_frames(tmp_path)
    content = (tmp_path / "0.tiff").read_bytes()
    (tmp_path / "0.tiff").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"0\.tiff"):
        open_frames(tmp_path)


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_pil_images_with_several_pictures(suffix, tmp_path):
    pages = [Image.new("L", (16, 8), value) for value in (0, 100, 200)]
    pages[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=pages[1:])
    with Image.open(tmp_path / f"a.{suffix}") as image:
        with pytest.raises(ValueError, match=r"frame 0 is an image file of 3 pictures"):
            open_frames(list(ImageSequence.Iterator(image)))
        copies = open_frames([page.copy() for page in ImageSequence.Iterator(image)])
        in_turn = open_frames(ImageSequence.Iterator(image))
        assert [int(frames[i].mean()) for frames in (copies, in_turn) for i in range(3)] == [0, 100, 200] * 2


def test_empty_path_is_not_the_working_directory(tmp_path, monkeypatch):
    save(tmp_path, "0.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path of the video is empty"):
        open_frames("")
    assert open_frames(".").num_frames == 1
