"""Files of prompts: what is read is what was written, errors name the step, and a replay gives what the session gave."""

from __future__ import annotations

import copy
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from i2v import segment
from i2v.data.frames import open_frames
from i2v.data.mask_files import read_labels
from i2v.data.rle import mask_to_rle
from i2v.exports import FILES
from i2v.inference.tracker import Tracker
from i2v.prompt import Prompt
from i2v.prompt_files import (
    ClearStep,
    NamedObject,
    PromptFile,
    PromptStep,
    RemoveStep,
    TrackStep,
    read_prompt_file,
    write_prompt_file,
)
from i2v.segment import main
from i2v.utils.masks import masks_to_labels
from tests.conftest import PROJECT

# pycocotools does not know NumPy 2 well.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = ["--config", str(Path(__file__).parent / "configs" / "tiny.yaml"), "--device", "cpu"]
LEFT = np.mgrid[:48, :64][1] < 20
CLICK = {"object": 1, "frame": 0, "points": [[16, 24, 1]], "box": None, "mask": None}
VALID = {
    "video": {"name": "disc", "width": 64, "height": 48, "num_frames": 12},
    "objects": [{"id": 1, "name": "Object 1", "colour": "#ff8000"}],
    "steps": [{"prompt": CLICK}],
}


@pytest.fixture(autouse=True)
def keep_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Errors and messages are read off the log."""
    caplog.set_level(logging.INFO)


def test_what_is_read_is_what_was_written(png_folder, tmp_path) -> None:
    frames = open_frames(png_folder)
    objects = [NamedObject(1, "disc \N{SNOWMAN}", (255, 128, 0)), NamedObject(3, "", (0, 0, 0))]
    steps = [
        PromptStep(0, 1, Prompt([(16.3, 24), (0, 48)], [1, 0], (1, 2, 30.5, 40))),
        PromptStep(2, 3, Prompt(mask=LEFT)),
        PromptStep(2, 7, Prompt(box=(1, 2, 3, 4))),
        TrackStep(2, 5, True),
        ClearStep(0, 1),
        RemoveStep(7),
        PromptStep(5, 1, Prompt.of_clicks([(1, 2, 1)])),
        TrackStep(5, 100, False),
    ]
    write_prompt_file(tmp_path / "prompts.json", "disc", frames, PromptFile(objects, steps))
    read = read_prompt_file(tmp_path / "prompts.json", frames)
    assert read.objects == objects
    assert read.colours() == {1: (255, 128, 0), 3: (0, 0, 0)}
    assert read.is_replay
    first, second, third, *others, _, _ = read.steps
    assert others == steps[3:6] and read.steps[7] == steps[7]
    assert (first.frame, first.obj_id) == (0, 1)
    assert torch.equal(first.prompt.points, steps[0].prompt.points)
    assert torch.equal(first.prompt.labels, steps[0].prompt.labels)
    assert torch.equal(first.prompt.box, steps[0].prompt.box)
    np.testing.assert_array_equal(second.prompt.mask, LEFT)
    assert third.prompt.box.tolist() == [1, 2, 3, 4] and not len(third.prompt.points)
    assert set(read.prompts()) == {(2, 3), (5, 1)}  # what was not cleared or removed


def test_example_of_the_documentation(tmp_path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", (PROJECT / "docs" / "data.md").read_text(), re.DOTALL)
    (tmp_path / "p.json").write_text(example)
    read = read_prompt_file(tmp_path / "p.json", open_frames(PROJECT / "assets" / "bunny.mp4"))
    assert list(read.prompts()) == [(24, 1)]
    assert len(read.steps) == 5


def changed(*keys: str | int, value: Any) -> Callable[[dict], None]:
    """A function that sets a value deep in a file's content."""

    def change(content: dict) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def added(*steps: dict) -> Callable[[dict], None]:
    return lambda content: content["steps"].extend(steps)


def prompt(**given: Any) -> Callable[[dict], None]:
    return added({"prompt": {**CLICK, **given}})


def masked(**given: Any) -> Callable[[dict], None]:
    return prompt(points=[], mask={**mask_to_rle(LEFT), **given})


TRACK = {"start": 0, "frames": 3, "reverse": False}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("video", "width", value=640), "p.json belongs to another video than .*: its width is 640, not 64"),
        (changed("video", "num_frames", value=11), "its num_frames is 11, not 12"),
        (changed("video", value=[]), "p.json: 'video' is a list, expected an object"),
        (changed("steps", value={}), "p.json: 'steps' is an object, expected a list"),
        (changed("steps", value=[]), "p.json: no prompt is left"),
        (lambda content: content.pop("objects"), "p.json lacks 'objects'"),
        (changed("objects", 0, "id", value="1"), "p.json: 'objects', entry 0: 'id' is a text, expected a whole number"),
        (changed("objects", 0, "id", value=256), "p.json: 'objects', entry 0: objects are numbered from 1 to 255, not 256"),
        (changed("objects", 0, "colour", value="red"), "entry 0: its colour is 'red', expected one such as '#ff8000'"),
        (lambda content: content["objects"].append(content["objects"][0]), "'objects' has a number twice: 1, 1"),
        (added({}), "p.json, step 2: expected one of 'prompt', 'clear', 'remove', 'track', got nothing"),
        (added({"jump": {}}), "p.json, step 2: expected one of .*, got 'jump'"),
        (added({"remove": {"object": 1}, "track": TRACK}), "p.json, step 2: expected one of .*, got 'remove', 'track'"),
        (changed("steps", 0, value=[]), "p.json: 'steps', entry 0 is a list"),
        (added({"track": 5}), "p.json, step 2: 'track' is a whole number, expected an object"),
        (prompt(object=2), "p.json, step 2: object 2 is not among the file's 'objects'"),
        (prompt(object=0), "p.json, step 2: objects are numbered from 1 to 255, not 0"),
        (prompt(object=True), "p.json, step 2: 'prompt': 'object' is true or false, expected a whole number"),
        (prompt(frame=12), "p.json, step 2: no frame 12 in .*: it has frames 0 to 11"),
        (prompt(frame=-1), "p.json, step 2: no frame -1"),
        (prompt(frame=0.5), "'frame' is a number, expected a whole number"),
        (prompt(points=[[65, 1, 1]]), r"p.json, step 2: a point of \[\[65.0, 1.0\]\] is outside of the frame"),
        (prompt(points=[[float("nan"), 1, 1]]), "p.json, step 2: points must be finite"),
        (prompt(points=[[10**400, 1, 1]]), "p.json, step 2: "),
        (prompt(points=[[1, 1]]), r"p.json, step 2: a point is \[x, y, label\]"),
        (prompt(points=[[1, 1, 2]]), r"p.json, step 2: a point is \[x, y, label\]"),
        (prompt(points=[["1", 1, 1]]), "p.json, step 2: 'points', entry 0, entry 0 is a text, expected"),
        (prompt(points=[]), "p.json, step 2: give points with labels, or a box"),
        (prompt(box=[1, 2, 3]), "p.json, step 2: .*box"),
        (prompt(box=[30, 2, 3, 10]), "p.json, step 2: .*x0 < x1"),
        (prompt(box=[3, 2, 300, 10]), "p.json, step 2: the box .* is not inside the frame"),
        (prompt(box="box"), "p.json, step 2: 'box' is a text, expected a list"),
        (prompt(mask=mask_to_rle(LEFT)), "p.json, step 2: an object in a frame takes either a mask, or points"),
        (masked(size=[64, 48]), "p.json, step 2: its mask is 48x64 pixels, the frame is 64x48"),
        (masked(size=[48]), "p.json, step 2: "),
        (masked(size=[10**12, 10**12]), "p.json, step 2: its mask is"),
        (masked(counts="PPk1"), "p.json, step 2: a run-length encoded mask does not fit"),
        (masked(counts="\N{SNOWMAN}"), "p.json, step 2: "),
        (masked(counts=[1.5]), "p.json, step 2: .*counts must be whole numbers"),
        (masked(counts=5), "p.json, step 2: 'mask': 'counts' is a whole number"),
        (added({"clear": {"object": 2, "frame": 0}}), "p.json, step 2: object 2 has no prompt before this step"),
        (added({"clear": {"object": 1, "frame": 12}}), "p.json, step 2: no frame 12"),
        (added({"clear": {"object": 1, "frame": 0}}), "p.json: no prompt is left"),
        (added({"clear": {"object": 1, "frame": 0}}, {"track": TRACK}), "p.json, step 3: there is nothing to track"),
        (added({"remove": {"object": 1}}), "p.json: no prompt is left"),
        (added({"remove": {"object": 9}}), "p.json, step 2: object 9 has no prompt before this step"),
        (added({"track": {**TRACK, "start": 12}}), "p.json, step 2: no frame 12"),
        (added({"track": {**TRACK, "frames": 0}}), "p.json, step 2: the number of frames to track must be at least 1"),
        (added({"track": {**TRACK, "reverse": 0}}), "p.json, step 2: 'track': 'reverse' is a whole number"),
    ],
)
def test_errors_name_the_file_and_the_step(change, said, png_folder, tmp_path) -> None:
    content = copy.deepcopy(VALID)
    change(content)
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said) as error:
        read_prompt_file(tmp_path / "p.json", open_frames(png_folder))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0", "[" * 10_000])
def test_other_json(text, png_folder, tmp_path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ValueError, match=r"p\.json"):
        read_prompt_file(tmp_path / "p.json", open_frames(png_folder))


def test_missing_file(png_folder, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no such file: .*none\.json"):
        read_prompt_file(tmp_path / "none.json", open_frames(png_folder))


# --- the command line -----------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(path: Path, png_folder: Path, objects: list[NamedObject], steps: list) -> str:
    write_prompt_file(path, "disc", open_frames(png_folder), PromptFile(objects, steps))
    return str(path)


ONE = [NamedObject(1, "disc", (128, 0, 0))]  # DAVIS' colour
FIRST = PromptStep(0, 1, Prompt([(16, 24)], [1], (6, 14, 26, 34)))
ARGUMENTS = ["--point", "0,16,24", "--box", "0,6,14,26,34"]


@pytest.mark.slow
def test_file_without_tracking_is_like_arguments(png_folder, tiny_checkpoint, tmp_path, monkeypatch) -> None:
    file = written(tmp_path / "p.json", png_folder, ONE, [FIRST])
    run = [str(png_folder), *TINY, "--checkpoint", str(tiny_checkpoint)]
    assert main([*run, *ARGUMENTS, "--reverse", "--output", str(tmp_path / "reverse")]) == 0
    assert main([*run, "--prompts", file, "--reverse", "--output", str(tmp_path / "reverse too")]) == 0
    assert contents(tmp_path / "reverse") == contents(tmp_path / "reverse too")
    assert main([*run, *ARGUMENTS, "--also", "green", "--output", str(tmp_path / "arguments")]) == 0
    again = [*run, "--prompts", file, "--also", "green", "--output", str(tmp_path / "out"), "--resume"]
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert main(again) == 130
    assert "green.mp4" in contents(tmp_path / "out")
    assert main(again) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "arguments")


def stop_after(patch: pytest.MonkeyPatch, count: int) -> None:
    """Ctrl-C after a number of tracked frames."""
    track, calls = Tracker.track, []

    def interrupted(self, state, objects, frame, reverse):
        calls.append(frame)
        if len(calls) > count:
            raise KeyboardInterrupt
        track(self, state, objects, frame, reverse)

    patch.setattr(Tracker, "track", interrupted)


@pytest.mark.slow
def test_resume_with_a_changed_file(png_folder, tiny_checkpoint, tmp_path, monkeypatch, caplog) -> None:
    file = written(tmp_path / "p.json", png_folder, ONE, [FIRST])
    run = [str(png_folder), *TINY, "--checkpoint", str(tiny_checkpoint), "--prompts", file, "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(run) == 130
    written(tmp_path / "p.json", png_folder, ONE, [FIRST, PromptStep(3, 1, Prompt.of_clicks([(1, 1, 0)]))])
    assert main([*run, "--resume"]) == 1
    assert "p.json was changed" in caplog.text


CORRECTION = PromptStep(6, 1, Prompt.of_clicks([(40, 24, 1), (2, 2, 0)]))
TWO = [NamedObject(1, "disc", (250, 120, 0)), NamedObject(2, "left", (0, 0, 250))]
# Objects are tracked, one is corrected after tracking and tracked on, prompts are taken back, and one object is removed.
SESSION = [
    FIRST,
    PromptStep(2, 2, Prompt(mask=LEFT)),
    PromptStep(1, 5, Prompt.of_clicks([(50, 10, 1)])),
    TrackStep(0, 8, False),
    CORRECTION,
    TrackStep(6, 4, False),
    PromptStep(11, 2, Prompt.of_clicks([(30, 24, 1)])),
    ClearStep(11, 2),
    PromptStep(7, 2, Prompt.of_clicks([(5, 24, 1)])),
    ClearStep(7, 2),
    RemoveStep(5),
    TrackStep(2, 100, True),
]


def masks_of_session(predictor: Any, folder: Path) -> dict[int, dict[int, np.ndarray]]:
    """The latest masks (H, W) bool by frame and object when `SESSION` is done by hand."""
    found: dict[int, dict[int, np.ndarray]] = {}

    def keep(frame: int, obj_ids: list[int], logits: torch.Tensor) -> None:
        found[frame] = dict(zip(obj_ids, logits[:, 0].numpy(), strict=True))

    with predictor.init_state(folder) as state:
        predictor.add_new_points_or_box(state, 0, 1, [(16, 24)], [1], box=(6, 14, 26, 34))
        predictor.add_new_mask(state, 2, 2, LEFT)
        predictor.add_new_points_or_box(state, 1, 5, [(50, 10)], [1])
        for result in predictor.propagate_in_video(state, 0, 7):
            keep(*result)
        keep(*predictor.add_new_points_or_box(state, 6, 1, [(40, 24), (2, 2)], [1, 0]))
        for result in predictor.propagate_in_video(state, 6, 3):
            keep(*result)
        predictor.add_new_points_or_box(state, 11, 2, [(30, 24)], [1])
        predictor.clear_all_prompts_in_frame(state, 11, 2)
        predictor.add_new_points_or_box(state, 7, 2, [(5, 24)], [1])
        keep(*predictor.clear_all_prompts_in_frame(state, 7, 2))
        predictor.remove_object(state, 5)
        for masks in found.values():
            masks.pop(5, None)
        for result in predictor.propagate_in_video(state, 2, None, reverse=True):
            keep(*result)
    return found


@pytest.mark.slow
def test_replay_gives_what_the_session_gave(png_folder, tiny_checkpoint, tiny_predictor, tmp_path, caplog) -> None:
    file = written(tmp_path / "p.json", png_folder, TWO, SESSION)
    output = tmp_path / "out"
    run = [str(png_folder), *TINY, "--checkpoint", str(tiny_checkpoint), "--prompts", file]
    assert main([*run, "--also", "objects", "--also", "cutout", "--also", "objects", "--output", str(output)]) == 0
    assert "masks, objects, cutout, overlay.mp4 and masklets.json of 10 frames are in" in caplog.text
    assert {path.name for path in output.iterdir()} == {"masks", "objects", "cutout", "overlay.mp4", "masklets.json"}
    expected = masks_of_session(tiny_predictor, png_folder)
    assert sorted(expected) == list(range(10))  # the prompt in frame 11 was taken back
    annotation = json.loads((output / "masklets.json").read_text())
    assert annotation["masklet_id"] == [1, 2]
    assert [masklet is not None for masklet in annotation["masklet"]] == 10 * [True] + 2 * [False]
    assert Image.open(output / "masks" / "00000.png").getpalette()[3:9] == [250, 120, 0, 0, 0, 250]
    overlapping = 0
    for frame, logits in expected.items():
        labels = read_labels(output / "masks" / f"{frame:05d}.png")
        for masklet, (obj_id, mask) in zip(annotation["masklet"][frame], sorted(logits.items()), strict=True):
            np.testing.assert_array_equal(coco_mask.decode(masklet), mask > 0)
            image = Image.open(output / "objects" / str(obj_id) / f"{frame:05d}.png")
            np.testing.assert_array_equal(np.asarray(image) > 0, mask > 0)
            assert (mask > 0)[labels == obj_id].all()
        np.testing.assert_array_equal(labels > 0, np.any([mask > 0 for mask in logits.values()], axis=0))
        overlapping += int((np.sum([mask > 0 for mask in logits.values()], axis=0) > 1).sum())
        if frame <= 2:  # tracked after the removal
            np.testing.assert_array_equal(labels, masks_to_labels(np.stack(list(logits.values())), list(logits)))
    assert overlapping
    assert {mask.any() for masks in expected.values() for mask in (x > 0 for x in masks.values())} == {True}


@pytest.mark.slow
def test_object_without_a_mask_in_a_frame(png_folder, tiny_checkpoint, tmp_path) -> None:
    """Frames that were not tracked after the object was prompted have none."""
    steps = [FIRST, TrackStep(0, 4, False), PromptStep(2, 2, Prompt(mask=LEFT)), TrackStep(2, 2, False)]
    file = written(tmp_path / "p.json", png_folder, TWO, steps)
    output = tmp_path / "out"
    assert main([str(png_folder), *TINY, "--checkpoint", str(tiny_checkpoint), "--prompts", file, "--output", str(output)]) == 0
    annotation = json.loads((output / "masklets.json").read_text())
    assert [None if masklet is None else masklet[1] is not None for masklet in annotation["masklet"]][:5] == [
        False, False, True, True, None,
    ]  # fmt: skip
    assert annotation["masklet_first_appeared_frame"] == [0, 2]


@pytest.mark.slow
def test_interrupted_replay_leaves_the_finished_frames(png_folder, tiny_checkpoint, tmp_path, monkeypatch, caplog) -> None:
    file = written(tmp_path / "p.json", png_folder, TWO, SESSION)
    run = [str(png_folder), *TINY, "--checkpoint", str(tiny_checkpoint), "--prompts", file, "--also", "cutout_webm"]
    run += ["--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert main(run) == 130
    assert "interrupted: writing the finished frames; a replay starts over, with another --output" in caplog.text
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {FILES[name] for name in ("masks", "overlay", "json", "cutout_webm")}
    with av.open(str(tmp_path / "out" / "cutout.webm")) as container:
        assert sum(1 for _ in container.decode(video=0)) == len(list((tmp_path / "out" / "masks").iterdir())) > 1
    caplog.clear()
    assert main(run) == 1
    assert "already has results" in caplog.text and "--resume" not in caplog.text


@pytest.mark.parametrize("option", [["--resume"], ["--reverse"], ["--both"], ["--max-frames", "3"]])
def test_options_that_contradict_a_replay(option, png_folder, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(segment, "build_i2v_video_predictor", lambda *args, **kwargs: pytest.fail("work was done"))
    file = written(tmp_path / "p.json", png_folder, TWO, SESSION)
    assert main([str(png_folder), *TINY, "--untrained", "--prompts", file, *option, "--output", str(tmp_path / "out")]) == 1
    assert f"p.json says itself what is tracked, and is always done from its start: leave out {option[0]}" in caplog.text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("other", [["--point", "0,1,2"], ["--box", "0,1,2,3,4"], ["--mask", "0,a.png"]])
def test_prompts_of_both_kinds(other, png_folder, tmp_path, caplog) -> None:
    run = [str(png_folder), *TINY, "--untrained", "--prompts", "p.json", *other, "--output", str(tmp_path / "out")]
    assert main(run) == 1
    assert "--prompts takes the place of --point, --box and --mask: give either" in caplog.text


def test_prompts_are_checked_before_any_work(png_folder, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(segment, "build_i2v_video_predictor", lambda *args, **kwargs: pytest.fail("work was done"))
    content = copy.deepcopy(VALID)
    content["steps"].append({"prompt": {**CLICK, "frame": 99}})
    (tmp_path / "p.json").write_text(json.dumps(content))
    run = [str(png_folder), *TINY, "--untrained", "--prompts", str(tmp_path / "p.json"), "--output", str(tmp_path / "out")]
    assert main(run) == 1
    assert "p.json, step 2: no frame 99" in caplog.text
    assert not (tmp_path / "out").exists()
