"""Users' ids, masks, devices and options: accepted, or refused with a message that says what is wrong."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from i2v import build_i2v, build_i2v_video_predictor
from i2v.data.frames import ImageFolder
from i2v.prompt import Prompt, parse_mask, resize_mask
from i2v.utils.masks import masks_to_labels
from i2v.utils.numbers import whole_number
from test_pvs.systems import StaticMask
from tests.conftest import TINY_CONFIG

MASK = np.zeros((48, 64), bool)
MASK[10:30, 5:25] = True


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3), torch.tensor(3, dtype=torch.uint8)]
)
def test_ids_are_any_kind_of_integer(number, tiny_predictor, tiny_video, png_folder):
    state = tiny_predictor.init_state(tiny_video, seed=number)
    tiny_predictor.add_new_points_or_box(state, number, number, [[16, 24]], [1])
    tiny_predictor.add_new_mask(state, 4, 3, MASK)
    assert state.obj_ids == [3]
    assert sorted(state.objects[3].prompts) == [3, 4]
    assert [type(key) for key in state.objects] == [int]
    tiny_predictor.clear_all_prompts_in_frame(state, number, number)
    assert [frame for frame, _, _ in tiny_predictor.propagate_in_video(state, number, number)] == [3, 4, 5, 6]
    assert tiny_predictor.remove_object(state, number)[0] == []
    assert masks_to_labels(np.ones((1, 2, 2)), [number]).tolist() == [[3, 3], [3, 3]]
    session = StaticMask().start(png_folder)
    session.prompt(0, number, Prompt(mask=MASK))
    assert [list(scores) for _, scores in session.propagate(0, 1)] == [[3], [3]]


@pytest.mark.parametrize(
    "thing", [None, True, np.True_, 3.0, np.float32(3), torch.tensor(3.0), [3], np.array([3]), "3"], ids=repr
)
def test_values_that_are_not_integers(thing, tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    calls = {
        "object id": [
            lambda: tiny_predictor.add_new_points_or_box(state, 0, thing, [[16, 24]], [1]),
            lambda: tiny_predictor.add_new_mask(state, 0, thing, MASK),
            lambda: tiny_predictor.clear_all_prompts_in_frame(state, 0, thing),
            lambda: tiny_predictor.remove_object(state, thing),
            lambda: masks_to_labels(np.ones((1, 2, 2)), [thing]),
        ],
        "frame index": [
            lambda: tiny_predictor.add_new_points_or_box(state, thing, 1, [[16, 24]], [1]),
            lambda: tiny_predictor.add_new_mask(state, thing, 1, MASK),
        ],
        "seed": [lambda: tiny_predictor.init_state(tiny_video, seed=thing)],
    }
    for what, several in calls.items():
        for call in several:
            with pytest.raises(TypeError, match=f"{what}.* must be an integer"):
                call()
    assert state.obj_ids == [1]
    assert whole_number(state.obj_ids[0], "it") == 1


def test_masks_of_several_types(tiny_predictor, tiny_video):
    masks = {
        "PIL": Image.fromarray(np.uint8(MASK * 255)),
        "1 bit": Image.fromarray(MASK),
        "mirrored": np.ascontiguousarray(MASK[:, ::-1])[:, ::-1],
        "upside down": np.ascontiguousarray(MASK[::-1])[::-1],
        "list": MASK.tolist(),
        "16 bit": MASK.astype(np.uint16),
        "cut out": Image.fromarray(np.dstack([np.uint8(MASK * 0)] * 3 + [np.uint8(MASK * 255)])),
    }
    state = tiny_predictor.init_state(tiny_video)
    _, _, expected = tiny_predictor.add_new_mask(state, 0, 1, MASK)
    for name, mask in masks.items():
        _, _, found = tiny_predictor.add_new_mask(state, 0, 1, mask)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)
    mirrored = np.array([[24, 16], [4, 60]])[:, ::-1]
    tiny_predictor.add_new_points_or_box(state, 1, 2, mirrored, np.array([0, 1])[::-1])
    for bad in ("mask.png", object(), None):
        with pytest.raises(TypeError, match=r"a mask is an array .* not (str|object|NoneType)"):
            tiny_predictor.add_new_mask(state, 0, 1, bad)
    two = np.zeros((48, 64, 3), np.uint8)
    two[:10], two[20:] = (255, 0, 0), (0, 255, 0)
    with pytest.raises(ValueError, match="the mask is a colour image"):
        tiny_predictor.add_new_mask(state, 0, 1, Image.fromarray(two))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(48, 64), (1080, 1920), (4320, 7680)])
@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("place", [0.0, 0.37, 0.999])
def test_small_mask_never_becomes_empty(size, side, place):
    mask = torch.zeros(size, dtype=torch.bool)
    y, x = (int(place * (length - side)) for length in size)
    mask[y : y + side, x : x + side] = True
    resized = resize_mask(mask, 1024, 256)
    assert resized.shape == (1, 1, 1024, 1024)
    shares = torch.nn.functional.interpolate(resized, size=(256, 256), mode="bilinear", antialias=True)
    assert (shares > 0.5).any()
    rows, columns = resized[0, 0].nonzero().T
    assert abs(rows.float().mean() / 1024 - (y + side / 2) / size[0]) < 0.01
    assert abs(columns.float().mean() / 1024 - (x + side / 2) / size[1]) < 0.01
    assert not resize_mask(mask & False, 1024, 256).any()


def test_small_mask_prompt_has_a_mask(tiny_predictor):
    video = np.zeros((2, 480, 640, 3), np.uint8)
    state = tiny_predictor.init_state(video)
    mask = np.zeros((480, 640), bool)
    mask[100, 200] = True
    _, _, logits = tiny_predictor.add_new_mask(state, 0, 1, mask)
    rows, columns = (logits[0, 0] > 0).nonzero().T
    assert len(rows)
    assert (rows - 100).abs().max() < 20
    assert (columns - 200).abs().max() < 20


@pytest.mark.parametrize("overrides", [5, [3], {"a": 1}, None])
@pytest.mark.parametrize("build", [build_i2v, build_i2v_video_predictor])
def test_overrides_that_are_not_strings(build, overrides):
    with pytest.raises(TypeError, match=r"hydra_overrides_extra.* list of strings"):
        build(TINY_CONFIG, device="cpu", hydra_overrides_extra=overrides)


@pytest.mark.parametrize("build", [build_i2v, build_i2v_video_predictor])
@pytest.mark.parametrize("config", [None, 3])
def test_config_that_is_not_a_name(build, config):
    with pytest.raises(TypeError, match=f"config_file must be the name of a config .* not {config}"):
        build(config)


def test_overrides_that_are_one_string():
    for build in (build_i2v, build_i2v_video_predictor):
        with pytest.raises(TypeError, match=r"overrides .*list of strings.*\['predictor.precision=bf16'\]"):
            build(TINY_CONFIG, device="cpu", hydra_overrides_extra="predictor.precision=bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device 0")
def test_device_0_is_not_the_default_device():
    with pytest.raises(ValueError, match="cannot use the device '0'"):
        build_i2v(TINY_CONFIG, device=0)


def test_open_frames_are_used_directly(tiny_predictor, png_folder: Path):
    frames = ImageFolder(png_folder)
    assert tiny_predictor.init_state(frames).frames is frames


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.where(MASK, 3.5, -7.0), "negative values, as logits have: give a boolean mask"),
        (np.where(MASK, 1, 0) + 2 * np.eye(48, 64, 40, dtype=int), "several objects, with labels 1, 2"),
        (np.where(MASK, 2.5, 0), "give a boolean mask, or values from 0 to 1"),
        (np.where(MASK, 2**20, 0), "give a boolean mask"),
        (np.where(MASK, 2**63, 0).astype(np.uint64), "values up to 9.22337e\\+18: give a boolean mask"),
        (MASK * 0.001, "values up to 0.001, none of which reaches 0.5: scale or threshold them"),
    ],
    ids=["logits", "labels", "other floats", "huge", "unsigned", "dim"],
)
def test_arrays_that_are_not_masks(mask, message, kind, tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    with pytest.raises(ValueError, match=message):
        tiny_predictor.add_new_mask(state, 0, 1, kind(mask))


@pytest.mark.parametrize("scale", [1, 255, 1.0, 255.0, np.uint16(700)], ids=repr)
def test_arrays_with_one_value_besides_0(scale):
    np.testing.assert_array_equal(parse_mask(MASK * scale), MASK)


def test_soft_masks_are_thresholded_at_half():
    soft = cv2.GaussianBlur(MASK.astype(np.float32), (0, 0), 2)
    assert np.count_nonzero(parse_mask(soft).numpy() != (soft >= 0.5)) <= 2
    noise = np.random.RandomState(0).rand(48, 64) * 0.2
    for shares in (
        np.where(MASK, 0.9, 0.1),
        np.where(MASK, 0.6, 0.4),
        MASK * 0.5,
        np.where(MASK, 1, noise),
        noise + MASK * 0.5,
    ):
        for kind in (np.float16, np.float32, np.float64):
            np.testing.assert_array_equal(parse_mask(shares.astype(kind)), MASK)
    assert not parse_mask(MASK * 0.0).any()
    smooth = (soft * 255).round().astype(np.uint8)
    assert np.count_nonzero(parse_mask(smooth).numpy() != (soft >= 0.5)) <= 2


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK * 1j, "not complex numbers"),
        (torch.from_numpy(MASK).to_sparse(), r"not a sparse tensor: give its to_dense\(\)"),
    ],
    ids=["complex", "sparse"],
)
def test_arrays_of_unsupported_types(mask, message):
    with pytest.raises(TypeError, match=message):
        parse_mask(mask)


def test_arrays_of_any_memory_layout():
    """Read-only, mirrored, and in another byte order."""
    read_only = np.asarray(Image.fromarray(MASK))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(parse_mask(read_only), MASK)
    np.testing.assert_array_equal(parse_mask(MASK[:, ::-1]), MASK[:, ::-1])
    np.testing.assert_array_equal(parse_mask(MASK.astype(">i4")), MASK)
    for points in (np.array([[3, 5]])[::-1], np.array([[3, 5]], ">f8")):
        assert Prompt(points, [1]).to_network((64, 48), 64, 16).points.tolist() == [pytest.approx([3, 5 * 64 / 48])]


def test_all_points_are_padding():
    padding = [[7, 5], [0, 0]], [-1, -1]
    assert Prompt(*padding, [1, 2, 3, 4]).to_network((64, 48), 64, 16).labels.tolist() == [2, 3]
    with pytest.raises(ValueError, match=r"has only padding \(label -1\)"):
        Prompt(*padding)


def test_pil_images_of_floats_are_soft_masks(tmp_path):
    image = Image.fromarray(np.where(MASK, 0.6, 0.4).astype(np.float32))
    assert image.mode == "F"
    np.testing.assert_array_equal(parse_mask(image), MASK)
    image.save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        np.testing.assert_array_equal(parse_mask(opened), MASK)
    with pytest.raises(ValueError, match="negative values, as logits have"):
        parse_mask(Image.fromarray(np.where(MASK, 3, -3).astype(np.float32)))


@pytest.mark.filterwarnings("error")
def test_several_masks_in_a_list():
    with pytest.raises(ValueError, match=r"the mask has shape \(2, 48, 64\)"):
        parse_mask([MASK, MASK])
    with pytest.raises(TypeError, match=r"a mask is an array"):
        parse_mask([MASK, MASK[:3]])
    assert Prompt([np.array([3, 5])], [1]).labels.tolist() == [1]


def test_label_images_hold_objects_1_to_255():
    with pytest.raises(ValueError, match=r"objects 1 to 255, not \[300\]"):
        masks_to_labels(np.ones((1, 2, 2)), [300])


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range(seed, tiny_predictor, tiny_video):
    with pytest.raises(ValueError, match=f"seed must be from 0 to .*not {seed}"):
        tiny_predictor.init_state(tiny_video, seed=seed)


@pytest.mark.parametrize("shape", [(3, 0, 8, 3), (3, 8, 0, 3)])
def test_frames_without_pixels(shape, tiny_predictor):
    for video in (np.zeros(shape, np.uint8), list(np.zeros(shape, np.uint8)), iter(np.zeros(shape, np.uint8))):
        with pytest.raises(ValueError, match="frame 0 has no pixels"):
            tiny_predictor.init_state(video)


@pytest.mark.parametrize("prompt", [{"points": [[16, 24]], "labels": [1]}, {"box": [6, 14, 26, 34]}, {"mask": MASK}], ids=str)
def test_add_prompt_equals_the_calls_of_sam_2(prompt, tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    call = tiny_predictor.add_new_mask if "mask" in prompt else tiny_predictor.add_new_points_or_box
    expected = call(state, 0, 1, **prompt)[2]
    assert tiny_predictor.add_prompt(state, 0, 2, Prompt(**prompt))[2][1].equal(expected[0])


def test_a_mask_excludes_points_and_boxes():
    for other in ({"points": [[1, 1]], "labels": [1]}, {"box": [1, 2, 3, 4]}):
        with pytest.raises(ValueError, match="either a mask, or points and a box"):
            Prompt(mask=MASK, **other)


def test_a_prompt_keeps_what_it_was_given() -> None:
    points, mask = torch.zeros(1, 2), torch.zeros(4, 4, dtype=torch.bool)
    prompts = Prompt(points, [1]), Prompt(mask=mask)
    points += 5
    mask[:] = True
    assert prompts[0].points.tolist() == [[0, 0]]
    assert not prompts[1].mask.any()
