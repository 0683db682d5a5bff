"""Bad input: a clear error that names its cause, before any work and without loss."""

from __future__ import annotations

import math
import os
import re
import shutil
import struct
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v import build_i2v_video_predictor
from i2v.data.video_file import VideoFile
from i2v.utils.checkpoints import read_checkpoint, save_checkpoint

EMPTY_MASK = np.zeros((48, 64), bool)
NAN = math.nan

# What is called, with which arguments beside state and object, and what the message must name.
BAD_CALLS = {
    "points outside, right": ("points", {"points": [[64.5, 10]], "labels": [1]}, ValueError, r"64\.5.* outside .*64.*48"),
    "points outside, left": ("points", {"points": [[3, 4], [-0.5, 10]], "labels": [1, 1]}, ValueError, r"-0\.5.* outside"),
    "points outside, below": ("points", {"points": [[10, 49]], "labels": [1]}, ValueError, r"49.* outside"),
    "fractions outside": ("points", {"points": [[1.01, 1]], "labels": [1], "normalize_coords": False}, ValueError, "outside"),
    "NaN points": ("points", {"points": [[NAN, 3]], "labels": [1]}, ValueError, "finite.*nan"),
    "infinite points": ("points", {"points": [[3, math.inf]], "labels": [1]}, ValueError, "finite.*inf"),
    "label 2": ("points", {"points": [[1, 1], [2, 2]], "labels": [1, 2]}, ValueError, "labels .*2"),
    "label -2": ("points", {"points": [[1, 1]], "labels": [-2]}, ValueError, "labels .*-2"),
    "label 0.5": ("points", {"points": [[1, 1]], "labels": [0.5]}, ValueError, r"labels .*0\.5"),
    "too many points": (
        "points",
        {"points": [[1, 1]] * 10_001, "labels": [1] * 10_001},
        ValueError,
        "10001 points: at most 10000",
    ),
    "no labels": ("points", {"points": [[1, 1]]}, ValueError, "points need labels"),
    "no points": ("points", {"labels": [1], "box": [5, 5, 9, 9]}, ValueError, "labels need points"),
    "only labels": ("points", {"labels": [1]}, ValueError, "points .*labels"),
    "neither": ("points", {}, ValueError, "points .*box"),
    "too few labels": ("points", {"points": [[1, 1], [2, 2]], "labels": [1]}, ValueError, "2 points .*1 label"),
    "empty lists": ("points", {"points": [], "labels": []}, ValueError, "empty"),
    "3-D point": ("points", {"points": [[1, 1, 1]], "labels": [1]}, ValueError, "points"),
    "3-D points": ("points", {"points": [[1, 1, 1], [1, 1, 1]], "labels": [1, 1, 1]}, ValueError, "points"),
    "points as text": ("points", {"points": "1,2", "labels": [1]}, TypeError, r"points must be an array of numbers .*'1,2'"),
    "points with None": ("points", {"points": [[None, 2]], "labels": [1]}, TypeError, r"points must be an array of numbers"),
    "ragged points": (
        "points",
        {"points": [[1, 2], [3]], "labels": [1, 1]},
        TypeError,
        r"points must be .*\[\[1, 2\], \[3\]\]",
    ),
    "one number as points": ("points", {"points": 5, "labels": [1]}, ValueError, r"points must be pairs \(x, y\), got 5"),
    "labels as text": ("points", {"points": [[1, 2]], "labels": ["a"]}, TypeError, "labels must be an array of numbers"),
    "box as text": ("points", {"box": "1,2,3,4"}, TypeError, "box must be an array of numbers .*'1,2,3,4'"),
    "box x0 > x1": ("points", {"box": [20, 5, 10, 9]}, ValueError, "box .*x0 < x1.*20"),
    "box x0 = x1": ("points", {"box": [10, 5, 10, 9]}, ValueError, "box .*x0 < x1.*10"),
    "box y0 > y1": ("points", {"box": [5, 20, 9, 10]}, ValueError, "box .*y0 < y1.*20"),
    "box outside": ("points", {"box": [5, 5, 65, 10]}, ValueError, "box .*65.* not inside"),
    "box outside, left": ("points", {"box": [-1, 5, 6, 10]}, ValueError, "box .*-1.* not inside"),
    "box with NaN": ("points", {"box": [NAN, 5, 6, 10]}, ValueError, "box .*finite.*nan"),
    "box of two numbers": ("points", {"box": [5, 5]}, ValueError, "box .*four"),
    "box of five numbers": ("points", {"box": [5, 5, 9, 9, 9]}, ValueError, "box .*four"),
    "box with bad points": ("points", {"box": [5, 5, 9, 9], "points": [[99, 0]], "labels": [1]}, ValueError, "99.* outside"),
    "box beside old points": ("points", {"box": [5, 5, 9, 9], "clear_old_points": False}, ValueError, "clear_old_points"),
    "mask of another size": ("mask", {"mask": np.ones((64, 48))}, ValueError, r"64, 48.*48, 64"),
    "mask of three dimensions": ("mask", {"mask": np.ones((1, 48, 64))}, ValueError, r"1, 48, 64"),
    "mask with NaN": ("mask", {"mask": np.full((48, 64), NAN)}, ValueError, "mask .*NaN"),
    "frame 1.5 for points": ("points", {"frame_idx": 1.5, "points": [[1, 1]], "labels": [1]}, TypeError, r"integer, not 1\.5"),
    "frame 12 for points": ("points", {"frame_idx": 12, "points": [[1, 1]], "labels": [1]}, IndexError, r"12 .*frames 0 to 11"),
    "frame -1 for points": ("points", {"frame_idx": -1, "points": [[1, 1]], "labels": [1]}, IndexError, "frame -1"),
    "frame 12 for a mask": ("mask", {"frame_idx": 12, "mask": EMPTY_MASK}, IndexError, "frame 12"),
    "frame -1 for a mask": ("mask", {"frame_idx": -1, "mask": EMPTY_MASK}, IndexError, "frame -1"),
    "clear in frame 12": ("clear", {"frame_idx": 12}, IndexError, "frame 12"),
    "start at 12": ("propagate", {"start_frame_idx": 12}, IndexError, "frame 12"),
    "start at -1": ("propagate", {"start_frame_idx": -1, "reverse": True}, IndexError, "frame -1"),
    "track -1 frames": ("propagate", {"max_frame_num_to_track": -1}, ValueError, "max_frame_num_to_track .*-1"),
    "unknown object to clear": ("clear", {"obj_id": 7}, KeyError, r"7.*\[1, 2\]"),
    "unknown object to remove": ("remove", {"obj_id": 7, "strict": True}, KeyError, r"7.*\[1, 2\]"),
    "live": ("live", {"frame": np.zeros((48, 64, 3), np.uint8)}, ValueError, "live"),
}


def call(predictor, state, method, arguments):
    """Make a call of BAD_CALLS; by default for object 1 in frame 3, which was tracked."""
    target = {"frame_idx": 3, "obj_id": 1}
    if method == "points":
        return predictor.add_new_points_or_box(state, **target | arguments)
    if method == "mask":
        return predictor.add_new_mask(state, **target | arguments)
    if method == "clear":
        return predictor.clear_all_prompts_in_frame(state, **target | arguments)
    if method == "remove":
        return predictor.remove_object(state, **arguments)
    if method == "live":
        return predictor.track_frame(state, **arguments)
    return predictor.propagate_in_video(state, **arguments)  # raises at the call, not at the first frame


def prompted_session(predictor, video):
    """A session with two objects that were not tracked yet."""
    state = predictor.init_state(video)
    predictor.add_new_points_or_box(state, 0, 1, [[16, 24], [60, 4]], [1, 0])
    predictor.add_new_points_or_box(state, 2, 2, box=[10, 12, 30, 36])
    return state


def contents(state):
    """The content of a session: objects, prompts, outputs, memories."""
    found = {obj_id: asdict(obj) for obj_id, obj in state.objects.items()}
    for obj in found.values():
        obj["bank"]["corrected"] = sorted(obj["bank"]["corrected"])  # torch.testing does not compare sets
    return found


@pytest.fixture(scope="module")
def undisturbed_masks(tiny_predictor, tiny_video):
    """The masks of a session without a bad call."""
    state = prompted_session(tiny_predictor, tiny_video)
    return [masks.numpy() for _, _, masks in tiny_predictor.propagate_in_video(state, max_frame_num_to_track=8)]


@pytest.mark.slow
@pytest.mark.parametrize("bad", BAD_CALLS)
def test_bad_call_names_its_cause_and_loses_nothing(bad, tiny_predictor, tiny_video, undisturbed_masks):
    method, arguments, error, message = BAD_CALLS[bad]
    state = prompted_session(tiny_predictor, tiny_video)
    results = tiny_predictor.propagate_in_video(state, max_frame_num_to_track=8)
    done = [next(results)[2].numpy() for _ in range(6)]
    before = contents(state)
    # For an object that is there, and for one that is not and must not appear.
    for obj in ({}, {"obj_id": 9} if method in ("points", "mask") else {}):
        with pytest.raises(error, match=message):
            call(tiny_predictor, state, method, arguments | obj)
    assert state.obj_ids == [1, 2]
    torch.testing.assert_close(contents(state), before, rtol=0, atol=0)
    done += [masks.numpy() for _, _, masks in results]
    np.testing.assert_array_equal(done, undisturbed_masks)


def test_old_points_count(tiny_predictor, tiny_video, monkeypatch):
    monkeypatch.setattr("i2v.prompt.MAX_POINTS", 3)
    state = prompted_session(tiny_predictor, tiny_video)
    two = {"points": [[16, 24], [17, 24]], "labels": [1, 1]}
    with pytest.raises(ValueError, match="there are 4 points: at most 3 are allowed"):
        tiny_predictor.add_new_points_or_box(state, 0, 1, **two, clear_old_points=False)
    tiny_predictor.add_new_points_or_box(state, 0, 1, **two)
    assert len(state.objects[1].prompts[0].points) == 2


@pytest.mark.parametrize("thing", ["video.mp4", None, 3])
@pytest.mark.parametrize("method", ["points", "mask", "clear", "remove", "live", "propagate", "reset"])
def test_arguments_that_are_not_sessions(method, thing, tiny_predictor):
    arguments = {"mask": {"mask": EMPTY_MASK}, "remove": {"obj_id": 1}, "live": {"frame": EMPTY_MASK}}.get(method, {})
    with pytest.raises(TypeError, match=f"inference_state must be the session .* not of type {type(thing).__name__}"):
        if method == "reset":
            tiny_predictor.reset_state(thing)
        else:
            call(tiny_predictor, thing, method, arguments)


@pytest.mark.slow
def test_tracking_without_prompts_is_refused_at_the_call(tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    with pytest.raises(ValueError, match="prompt an object first"):
        tiny_predictor.propagate_in_video(state)
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    tiny_predictor.clear_all_prompts_in_frame(state, 0, 1)
    with pytest.raises(ValueError, match="prompt an object first"):
        tiny_predictor.propagate_in_video(state)
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    assert len(list(tiny_predictor.propagate_in_video(state))) == 12


def test_unknown_object_is_left_alone_without_strict(tiny_predictor, tiny_video):
    state = prompted_session(tiny_predictor, tiny_video)
    assert tiny_predictor.remove_object(state, 7) == ([1, 2], [])


@pytest.mark.slow
@pytest.mark.parametrize("empty", [EMPTY_MASK, EMPTY_MASK.astype(np.float32), torch.zeros(48, 64, dtype=torch.uint8)])
def test_empty_mask_says_that_the_object_is_absent(empty, tiny_predictor, tiny_video):
    state = tiny_predictor.init_state(tiny_video)
    tiny_predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
    _, ids, masks = tiny_predictor.add_new_mask(state, 0, 2, empty)
    assert ids == [1, 2]
    assert (masks[0] > 0).any()
    assert (masks[1] <= 0).all()
    assert state.objects[2].bank[0].score <= 0  # so that its memory says so, too
    results = {frame: masks for frame, _, masks in tiny_predictor.propagate_in_video(state)}
    assert (results[0][1] <= 0).all()
    # Later in the video, too, and after it was there.
    _, _, masks = tiny_predictor.add_new_mask(state, 5, 1, empty)
    assert (masks[0] <= 0).all()
    results = {frame: masks for frame, _, masks in tiny_predictor.propagate_in_video(state)}
    assert (results[5][0] <= 0).all()
    assert all(masks.isfinite().all() for masks in results.values())


# --- videos ---------------------------------------------------------------------------------------------------------------


def jpeg_folder(folder: Path, video: np.ndarray) -> Path:
    folder.mkdir()
    for i, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg")
    return folder


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("not an image")


def noise(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2] + np.random.RandomState(0).bytes(path.stat().st_size))


def cut_at(share: float):
    def cut(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return cut


def other_size(path: Path) -> None:
    Image.new("RGB", (48, 64)).save(path)


DAMAGES = {"empty": empty_file, "text": text, "noise": noise, "other size": other_size}
DAMAGES |= {f"cut at {share}": cut_at(share) for share in (0.01, 0.3, 0.99)}


@pytest.mark.parametrize("damaged_frame", [0, 7, 11])
@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_jpeg_is_named_when_the_video_is_opened(damage, damaged_frame, tiny_predictor, tiny_video, tmp_path):
    folder = jpeg_folder(tmp_path / "video", tiny_video)
    path = folder / f"{damaged_frame:05d}.jpg"
    DAMAGES[damage](path)
    if damage == "other size" and damaged_frame == 0:
        path = folder / "00001.jpg"  # the first one that differs from the first
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        tiny_predictor.init_state(folder)
    if damage == "other size":
        assert re.search("48x64 .*64x48|64x48 .*48x64", str(error.value))


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_truncated_png_is_named(share, tiny_predictor, png_folder, tmp_path):
    folder = shutil.copytree(png_folder, tmp_path / "video")
    cut_at(share)(folder / "00007.png")
    with pytest.raises(ValueError, match=r"00007\.png .*truncated"):
        tiny_predictor.init_state(folder)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: None, FileNotFoundError, "no such .*video"),
        (lambda path: path.mkdir(), ValueError, "no JPEG or PNG frames in .*video.* empty"),
        (lambda path: (path.mkdir(), text(path / "a.txt")), ValueError, r"no JPEG or PNG frames in .*video.*a\.txt"),
        (
            lambda path: (path.mkdir(), (path / "0.jpg").mkdir()),
            ValueError,
            r"no JPEG or PNG frames in .*video.*folders \(0\.jpg",
        ),
        (text, ValueError, "video is not a video that FFmpeg can open"),
        (empty_file, ValueError, "video is not a video that FFmpeg can open"),
    ],
)
def test_bad_path(make, error, message, tiny_predictor, tmp_path):
    make(tmp_path / "video")
    for path in (tmp_path / "video", str(tmp_path / "video")):
        with pytest.raises(error, match=message):
            tiny_predictor.init_state(path)


def test_video_that_ends_in_a_decoding_error(tiny_predictor, tiny_video, tmp_path, make_video):
    path = make_video(tmp_path / "jpeg.avi", tiny_video)
    assert VideoFile(path).num_frames == 12
    cut_at(0.6)(path)
    with pytest.raises(ValueError, match=r"jpeg\.avi is truncated.*decoding error, after [1-9] frames"):
        tiny_predictor.init_state(path)


def test_video_that_ends_early_without_an_error_is_worth_a_warning(tiny_predictor, tiny_video, tmp_path, make_video, caplog):
    path = make_video(tmp_path / "vp9.mkv", tiny_video)
    cut_at(0.6)(path)
    assert 0 < tiny_predictor.init_state(path).num_frames < 12
    assert re.search(r"vp9\.mkv: its header promises 1\.2 seconds, but its [1-9] frames .*truncated", caplog.text)


def test_mp4_that_lost_its_end_cannot_be_opened(tiny_predictor, tiny_video, tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", tiny_video)
    cut_at(0.6)(path)
    with pytest.raises(ValueError, match=r"a\.mp4 is not a video that FFmpeg can open"):
        tiny_predictor.init_state(path)


@pytest.mark.parametrize("thing", [7, 1.5, object()])
def test_what_is_not_a_video(thing, tiny_predictor):
    with pytest.raises(TypeError, match=type(thing).__name__):
        tiny_predictor.init_state(thing)


# --- checkpoints and configs ----------------------------------------------------------------------------------------------


class RunsCode:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def build_tiny(checkpoint: Path):
    config = Path(__file__).parent / "configs" / "tiny.yaml"
    return build_i2v_video_predictor(config, checkpoint, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [lambda code: code, lambda code: {"model": {}, "args": code}])
def test_checkpoint_with_code_in_it_is_refused_and_not_run(place, zipped, tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.pt"
    torch.save(place(RunsCode(trace)), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"evil\.pt was refused.*code"):
        build_tiny(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so it would have run


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0, 0.3, 0.9, 0.999])
def test_truncated_checkpoint(share, zipped, tiny_predictor, tmp_path):
    path = tmp_path / "cut.pt"
    torch.save({"model": tiny_predictor.model.state_dict()}, path, _use_new_zipfile_serialization=zipped)
    cut_at(share)(path)
    with pytest.raises(ValueError, match=r"cut\.pt .*truncated"):
        build_tiny(path)


def test_checkpoint_truncated_anywhere_is_named(tmp_path):
    """PyTorch's old format fails in many ways."""
    path = tmp_path / "cut.pt"
    torch.save({"model": {"a": torch.zeros(3)}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"cut\.pt"):
            read_checkpoint(path)


def nested_twice(levels: int) -> bytes:
    """The pickle of a dictionary whose key is a tuple that holds a tuple twice, and so on."""
    doubled = b"".join(b"h%c\x86q%c" % (level, level + 1) for level in range(levels))
    return b"\x80\x02})q\x00" + doubled + b"K\x01s."


# Pickles that are small, and what is said of them.
PICKLE_BOMBS = {
    "hash": (nested_twice(60), "repeats the same values too often"),
    "text": (
        b"\x80\x02}U\x01a]q\x00" + b"]q\x01(h\x00h\x00e" + b"]q\x00(h\x01h\x01e]q\x01(h\x00h\x00e" * 30 + b"s.",
        "repeats the same",
    ),
    "deep": (b"\x80\x02})" + b"\x85" * 100_000 + b"K\x01s.", "is nested more than 100 deep"),
    "filled afterwards": (b"\x80\x02}U\x01a]q\x00]q\x01(h\x00h\x00eh\x00h\x01as.", "changes an object after using it"),
}


def rewritten(path: Path, compression: int, pickled: bytes | None = None) -> None:
    """Rewrite a checkpoint's records, compressed or with another pickle among them."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, pickled if pickled and name.endswith("data.pkl") else content)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("bomb", PICKLE_BOMBS)
def test_checkpoint_that_is_a_bomb_is_refused_at_once(bomb, zipped, tmp_path):
    path, (content, message) = tmp_path / "bomb.pt", PICKLE_BOMBS[bomb]
    torch.save({"a": torch.zeros(3)}, path)
    if zipped:
        rewritten(path, zipfile.ZIP_STORED, content)
    else:
        path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(ValueError, match=rf"bomb\.pt was refused: it {message}"):
        read_checkpoint(path)
    assert time.process_time() - started < 2


def test_compressed_checkpoint_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"a": torch.zeros(2**20)}, path)
    rewritten(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"bomb\.pt was refused: it is compressed inside"):
        read_checkpoint(path)


def test_checkpoint_whose_records_share_its_bytes_is_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({name: torch.zeros(2**10) for name in "ab"}, path)
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    data = bytearray(path.read_bytes())
    # In the directory, the second record's place becomes the first one's, and both are as large as the file.
    entries = [data.index(b"bomb/data/%d" % number, directory) - 46 for number in (0, 1)]
    data[entries[1] + 42 : entries[1] + 46] = data[entries[0] + 42 : entries[0] + 46]
    for entry in entries:
        data[entry + 20 : entry + 28] = struct.pack("<II", len(data), len(data))
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"bomb\.pt was refused: it has records that are larger than the file"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoints_that_repeat_a_little_are_read(zipped, tmp_path):
    weights, betas = {f"a{i}": torch.full((2,), i) for i in range(200)}, (0.9, 0.999)
    optimizer = {"state": {i: {"step": torch.tensor(1.0)} for i in range(200)}, "groups": [{"betas": betas}] * 200}
    content = {"model": weights, "best": weights, "optimizer": optimizer, ("a", 1): 2}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    torch.testing.assert_close(read_checkpoint(tmp_path / "a.pt"), content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ([1, 2], r"a\.pt contains a list"),
        ({"model": 3}, r"a\.pt contains a int, not a dictionary of weights"),
        ({"epoch": 3}, r"a\.pt does not contain a dictionary of weights"),
        ({}, r"a\.pt contains no weights: the dictionary is empty"),
    ],
)
def test_file_that_is_not_a_checkpoint(checkpoint, message, tmp_path):
    torch.save(checkpoint, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        build_tiny(tmp_path / "a.pt")


@pytest.mark.slow
def test_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*none\.pt"):
        build_tiny(tmp_path / "none.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    for path, kind in ((tmp_path, "a folder"), (tmp_path / "pipe.pt", "a named pipe")):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is {kind}, not a file"):
            build_tiny(path)


@pytest.mark.slow
def test_checkpoint_of_another_model_says_which_names_differ(tiny_predictor, tmp_path):
    weights = tiny_predictor.model.state_dict()
    del weights["no_obj_ptr"]
    weights["image_encoder.other"] = torch.zeros(1)
    weights["maskmem_tpos_enc"] = torch.zeros(4, 1, 1, 8)
    save_checkpoint(tmp_path / "other.pt", {"model": weights})
    with pytest.raises(ValueError, match=r"other\.pt is not a checkpoint of this config") as error:
        build_tiny(tmp_path / "other.pt")
    message = str(error.value)
    assert "1 missing: no_obj_ptr" in message
    assert "1 unknown: image_encoder.other" in message
    assert "1 of another shape: maskmem_tpos_enc (4, 1, 1, 8) instead of (7, 1, 1, 8)" in message


@pytest.mark.slow
@pytest.mark.parametrize("value", [torch.zeros(1), torch.tensor(NAN), 3], ids=str)
def test_very_long_names_of_parameters_are_shortened(value, tmp_path):
    torch.save({"n" * 5_000_000: value, "b": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt.*nnnn \.\.\. ") as error:
        build_tiny(tmp_path / "a.pt")
    assert len(str(error.value)) < 3000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("no_obj_ptr", lambda value: value.bool(), "1 of another type: {} torch.bool instead of torch.float32"),
        ("no_obj_ptr", lambda value: value.long(), "1 of another type: {} torch.int64 instead of torch.float32"),
        ("num_batches_tracked", lambda value: value - 5.5, "1 of another type: {} torch.float32 instead of torch.int64"),
        ("running_var", lambda value: -value - 1, "the tensor {} has negative values"),
    ],
)
def test_checkpoint_with_numbers_of_another_kind_names_them(name, change, message, tiny_predictor, tmp_path):
    weights = tiny_predictor.model.state_dict()
    name = next(other for other in weights if other.endswith(name))
    save_checkpoint(tmp_path / "a.pt", weights | {name: change(weights[name])})
    with pytest.raises(ValueError, match=rf"a\.pt.*{re.escape(message.format(name))}"):
        build_tiny(tmp_path / "a.pt")


@pytest.mark.slow
def test_weights_whose_results_are_not_finite(make_tiny_predictor, tiny_video):
    predictor = make_tiny_predictor()
    for parameter in predictor.model.parameters():
        parameter.data.fill_(1e30)
    state = predictor.init_state(tiny_video)
    with pytest.raises(ValueError, match="outputs are not finite: its weights are broken"):
        predictor.add_new_points_or_box(state, 0, 1, points=[[16, 24]], labels=[1])
    assert state.obj_ids == []


@pytest.mark.parametrize(
    "config", ["i2v-train", "sam2.1_hiera_t.yaml", "./no/such/file.yaml", "other/configs/i2v-infer.yaml", ""]
)
def test_unknown_config_lists_the_known(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"unknown config .*{re.escape(config)}.*i2v-infer"):
        build_i2v_video_predictor(config)


@pytest.mark.parametrize(
    ("content", "override", "message"),
    [
        ("model: [", "", r"own\.yaml"),
        ("a: 1", "", "model"),
        ("defaults: [model: nothing]", "", "nothing"),
        ("defaults: [model: sam_i2v, _self_]", "model.no_such_key=1", "no_such_key"),
        ("defaults: [model: sam_i2v, _self_]", "model.memory_selector.mode=best", "mode.*best.*greedy"),
    ],
)
def test_bad_config(content, override, message, tmp_path):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"(?s){message}"), torch.device("meta"):
        build_i2v_video_predictor(tmp_path / "own.yaml", device="meta", hydra_overrides_extra=[override] if override else [])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [("predictor.precision=fp8", "fp8.*bf16"), ("predictor.fill_hole_area=-1", "fill_hole_area.*-1")],
)
def test_bad_predictor_option(override, message, make_tiny_predictor):
    with pytest.raises(ValueError, match=message):
        make_tiny_predictor(override)
