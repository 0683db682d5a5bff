"""Masks: holes, run-length encoding, palette images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from i2v.data.mask_files import davis_palette, read_labels, read_mask, save_label_image
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.utils.masks import fill_holes, give_free_pixels, masks_to_labels

# pycocotools does not know NumPy 2 well.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def drawing(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


# What is drawn, how large a hole may be, and whether the cells "o" are filled (in the drawing they are background).
HOLES = {
    "one cell": (["#####", "##o##", "#####"], 1, True),
    "at the limit": (["######", "#oooo#", "######"], 4, True),
    "over the limit": (["######", "#oooo#", "######"], 3, False),
    "diagonal cells are one hole": (["#####", "#o###", "##o##", "###o#", "#####"], 2, False),
    "diagonal cells within the limit": (["#####", "#o###", "##o##", "###o#", "#####"], 3, True),
    "two holes are counted alone": (["#####", "#o#o#", "#####"], 1, True),
    "a small corner is a component, too": (["o####", "#####", "#####"], 1, True),
    "background around an object": (["oooooo", "oo##oo", "oooooo"], 8, False),
    "a diagonal gap joins hole and background": (["ooooo", "o###o", "o#o#o", "o##oo", "ooooo"], 8, False),
    "no filling": (["#####", "##o##", "#####"], 0, False),
    "an empty mask": (["oooo", "oooo", "oooo"], 8, False),
}


@pytest.mark.parametrize("case", HOLES)
def test_fill_holes(case):
    rows, max_area, filled = HOLES[case]
    foreground = drawing(*rows)
    logits = torch.where(torch.from_numpy(foreground), 3.0, -2.0)[None, None]
    before = logits.clone()
    result = fill_holes(logits, max_area)
    expected = torch.where(logits > 0, 3.0, 0.1 if filled else -2.0)
    torch.testing.assert_close(result, expected)
    assert torch.equal(logits, before)


def test_fill_holes_of_each_mask_of_a_batch():
    rows = [HOLES[case][0] for case in ("one cell", "two holes are counted alone")]
    logits = torch.stack([torch.where(torch.from_numpy(drawing(*row)), 1.0, -1.0)[None] for row in rows])
    logits[0, 0, 1, 2] = 0.0  # zero is background
    assert (fill_holes(logits, 1) > 0).all()
    assert fill_holes(logits[:0], 1).shape == (0, 1, 3, 5)


MASKS = {
    "empty": np.zeros((5, 7), bool),
    "full": np.ones((5, 7), bool),
    "noise": np.random.RandomState(0).rand(37, 53) > 0.5,
    "not contiguous": (np.random.RandomState(1).rand(53, 37) > 0.9).T,
}


@pytest.mark.parametrize("case", MASKS)
def test_rle_round_trip(case):
    mask = MASKS[case]
    rle = mask_to_rle(mask)
    assert rle["size"] == list(mask.shape)
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(rle_to_mask(rle), mask)
    np.testing.assert_array_equal(coco_mask.decode(rle), mask)


def test_rle_counts_down_the_columns():
    """Uncompressed ones too."""
    np.testing.assert_array_equal(rle_to_mask({"size": [2, 3], "counts": [1, 1, 2, 1, 1]}), drawing("..#", "#.."))


def test_damaged_rle_is_refused_or_decoded():
    """Cutting, changing or adding bytes gives an error, or a mask that encodes as the same runs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :128]
    damages = {
        "cut": lambda counts: counts[: rng.integers(len(counts))],
        "changed": lambda counts: [*counts[:-3], chr(rng.integers(33, 127)), *counts[-2:]],
        "longer": lambda counts: [*counts, *map(chr, rng.integers(48, 112, 5))],
        "noise": lambda counts: [*map(chr, rng.integers(48, 112, rng.integers(40)))],
        "not ASCII": lambda counts: [*counts, "\u00e9"],
    }
    refused = dict.fromkeys(damages, 0)
    for _ in range(200):
        mask = (x - rng.uniform(0, 128)) ** 2 + (y - rng.uniform(0, 96)) ** 2 < rng.uniform(5, 30) ** 2
        counts = list(mask_to_rle(mask)["counts"])
        for name, damage in damages.items():
            damaged = {"size": [96, 128], "counts": "".join(damage(counts))}
            try:
                found = rle_to_mask(damaged)
            except ValueError:
                refused[name] += 1
            else:
                np.testing.assert_array_equal(found, coco_mask.decode(damaged))
    assert refused["cut"] > 180
    assert refused["changed"] > 150
    assert all(refused[name] == 200 for name in ("longer", "noise", "not ASCII"))


WRONG_COUNTS = ([3, 4], [1, 4, -1, 2], [6.9], [10**30], [2**63 - 1, 2**63 - 1, 8], "", "0" * 3, "o" * 40, 5, {"a": 1}, (6,))


@pytest.mark.parametrize("counts", WRONG_COUNTS, ids=repr)
def test_rle_that_does_not_fit_its_size(counts):
    with pytest.raises(ValueError, match="a run-length encoded mask"):
        rle_to_mask({"size": [2, 3], "counts": counts})


def test_palette_is_that_of_davis():
    palette = np.reshape(davis_palette(), (256, 3)).tolist()
    assert palette[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[8] == [64, 0, 0]
    assert palette[255] == [224, 224, 192]
    assert len(set(map(tuple, palette))) == 256


def test_overlapping_masks_become_labels():
    logits = np.array(
        [
            [[2.0, 2.0, -1.0, -9.0, 0.0]],
            [[1.0, 3.0, 0.5, -1.0, 0.0]],
        ]
    )
    labels = masks_to_labels(logits, [7, 255])
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[7, 255, 255, 0, 0]]
    assert masks_to_labels(logits[:0], []).tolist() == [[0, 0, 0, 0, 0]]


def test_free_pixels_go_to_the_first_mask_that_covers_them():
    labels = np.array([[0, 0, 3, 0]], np.uint8)
    masks = {1: np.array([[0, 1, 1, 0]]), 2: np.array([[1, 1, 1, 0]])}
    assert give_free_pixels(labels, masks).tolist() == [[2, 1, 3, 0]]


def test_label_image_round_trip(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save_label_image(tmp_path / "a.png", labels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert image.getpalette() == davis_palette()
        np.testing.assert_array_equal(image, labels)
        assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png"), labels)


FOREGROUND = drawing("..#", "#..")


def palette_image() -> Image.Image:
    """Label 1 is drawn red, on white, and all is foreground but label 0."""
    image = Image.fromarray(FOREGROUND.astype(np.uint8))
    image.putpalette([255, 255, 255, 200, 0, 0])
    return image


def with_alpha() -> Image.Image:
    image = Image.fromarray(FOREGROUND.astype(np.uint8) * 255).convert("RGBA")
    image.putalpha(255)
    return image


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(FOREGROUND.astype(np.uint8)),
        Image.fromarray(FOREGROUND),
        Image.fromarray(FOREGROUND.astype(np.uint16) * 256),
        Image.fromarray(np.stack([FOREGROUND * 0, FOREGROUND * 0, FOREGROUND * 9], axis=2).astype(np.uint8)),
        palette_image(),
        with_alpha(),
    ],
    ids=lambda image: image.mode,
)
def test_masks_of_all_kinds_are_read(image, tmp_path):
    image.save(tmp_path / "a.png")
    mask = read_mask(str(tmp_path / "a.png"))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, FOREGROUND)


def test_mask_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such mask: .*a\.png"):
        read_mask(tmp_path / "a.png")
    for content in (b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(50)):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
            read_mask(tmp_path / "a.png")
