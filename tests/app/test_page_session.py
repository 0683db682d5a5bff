"""Sessions of the page: the predictor's masks, undo, and what is out of date."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from i2v import build_i2v_video_predictor, segment
from i2v.app.jobs import Job
from i2v.data.frames import open_frames
from i2v.data.rle import mask_to_rle, rle_to_mask
from i2v.prompt_files import read_prompt_file, step_to_json
from i2v.replay import replay

PROJECT = Path(__file__).parents[2]
CLICK = (16.0, 24.0, 1)
AWAY = (50.0, 10.0, 0)
MASK = np.zeros((48, 64), bool)
MASK[14:34, 6:26] = True


def counts(mask: np.ndarray) -> dict:
    """Uncompressed run lengths, column by column, as the page's brush sends them."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": ([0] if flat[0] else []) + runs}


def by_hand(predictor, state, start, reverse, shown):
    """Track with the predictor, and note the masks as bytes."""
    for frame, ids, logits in predictor.propagate_in_video(state, start, reverse=reverse):
        note(shown, frame, ids, logits)


def note(shown, frame, ids, logits):
    masks = {obj: (mask[0] > 0).numpy().astype(np.uint8).tobytes() for obj, mask in zip(ids, logits, strict=True)}
    shown.setdefault(frame, {}).update(masks)


def test_masks_are_those_of_the_predictor(session, videos, tiny_predictor):
    """Clicks, a box, a mask, tracking both ways, a correction, and tracking on."""
    predictor, shown = tiny_predictor, {}
    with predictor.init_state(videos / "disc") as state:
        note(shown, *predictor.add_new_points_or_box(state, 5, 1, [CLICK[:2]], [1]))
        note(shown, *predictor.add_new_points_or_box(state, 5, 1, [CLICK[:2], AWAY[:2]], [1, 0]))
        note(shown, *predictor.add_new_points_or_box(state, 5, 2, box=[30, 10, 50, 40]))
        note(shown, *predictor.add_new_mask(state, 5, 3, MASK))
        by_hand(predictor, state, 6, False, shown)
        by_hand(predictor, state, 4, True, shown)
        note(shown, *predictor.add_new_points_or_box(state, 8, 1, [AWAY[:2]], [0]))
        by_hand(predictor, state, 9, False, shown)
    for obj in (1, 2, 3):
        assert session.add() == obj
    session.click(1, 5, CLICK)
    session.click(1, 5, CLICK, AWAY)
    session.click(2, 5, box=[30, 10, 50, 40])
    answer = session.click(3, 5, mask=counts(MASK))
    assert answer["objects"]["3"]["prompted"] and answer["session"]["undo"] == "mask of Object 3 in frame 5"
    session.track(5, "both")
    session.click(1, 8, AWAY)
    session.track(8)
    assert session.all_masks() == shown
    assert session.outdated(1) == [0, 1, 2, 3, 4]
    assert session.outdated(2) == []


def test_a_mask_is_read_as_it_was_painted(session):
    session.add()
    session.click(1, 0, mask=counts(MASK))
    assert (session.inside.results().prompts(0)[1].mask.numpy() == MASK).all()


def read_archive(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


def test_exports_are_what_is_shown(session):
    """Masks per object are exact; in label images, each pixel of any mask belongs to one of its objects."""
    session.add(), session.add(), session.add()
    session.click(1, 3, CLICK)
    session.click(2, 3, box=[2, 2, 60, 46])
    session.click(3, 3, (40, 24, 1))
    session.track(3, "both")
    session.ok("PATCH", "/objects/3", {"hidden": True})
    session.ok("PATCH", "/objects/2", {"colour": "#0a0b0c", "name": "box"})
    archive = read_archive(session.export("masks", "objects", "json"))
    masklets = json.loads(archive.read("disc/masklets.json"))
    assert masklets["masklet_id"] == [1, 2]
    for t in range(12):
        shown = {obj: mask > 0 for obj, mask in session.masks(t).items()}
        for obj in (1, 2):
            image = np.asarray(Image.open(io.BytesIO(archive.read(f"disc/objects/{obj}/{t:05d}.png"))))
            assert ((image > 0) == shown[obj]).all()
            assert (rle_to_mask(masklets["masklet"][t][obj - 1]) == shown[obj]).all()
        image = Image.open(io.BytesIO(archive.read(f"disc/masks/{t:05d}.png")))
        assert image.getpalette()[6:9] == [10, 11, 12]
        labels = np.asarray(image)
        assert ((labels > 0) == (shown[1] | shown[2])).all()
        for obj in (1, 2):
            assert shown[obj][labels == obj].all()
    assert not [name for name in archive.namelist() if name.startswith("disc/objects/3")]


def test_labels_where_objects_overlap(session, videos, tiny_predictor):
    """The largest logit wins; what a hidden or removed object covered is seen."""
    with tiny_predictor.init_state(videos / "disc") as state:
        tiny_predictor.add_new_points_or_box(state, 0, 1, [CLICK[:2]], [1])
        _, _, logits = tiny_predictor.add_new_points_or_box(state, 0, 2, box=[2, 2, 60, 46])
    best = logits[:, 0].argmax(0).numpy() + 1
    own = (logits[:, 0] > 0).numpy()
    assert (own[0] & own[1]).any()
    session.add(), session.add()
    session.click(1, 0, CLICK)
    session.click(2, 0, box=[2, 2, 60, 46])
    labels = session.inside.results().labels(0)
    assert (labels == np.where(own.any(0), best, 0)).all()
    session.ok("PATCH", "/objects/1", {"hidden": True})
    assert ((session.inside.results().labels(0) == 2) == own[1]).all()
    session.ok("PATCH", "/objects/1", {"hidden": False})
    session.ok("DELETE", "/objects/2")
    assert ((session.inside.results().labels(0) == 1) == own[0]).all()
    session.ok("POST", "/undo", {})
    assert (session.inside.results().labels(0) == labels).all()


STEPS = {
    "click": lambda s: s.click(1, 2, CLICK, AWAY),
    "box": lambda s: s.click(1, 2, box=[4, 4, 30, 40]),
    "mask": lambda s: s.click(2, 2, mask=counts(MASK)),
    "empty mask": lambda s: s.click(1, 2, mask=counts(MASK & False)),
    "correction": lambda s: s.click(1, 7, AWAY),
    "untracked frame": lambda s: s.click(1, 11, AWAY),
    "clear": lambda s: s.clear(1, 2),
    "clear correction": lambda s: s.clear(2, 5),
    "remove": lambda s: s.ok("DELETE", "/objects/1"),
    "new object": lambda s: s.click(3, 6, CLICK),
}


@pytest.fixture
def tracked(session):
    """Three objects: two are prompted in frame 2 and tracked to frame 9 and back, and the second is corrected in frame 5."""
    session.add(), session.add(), session.add()
    session.click(1, 2, CLICK)
    session.click(2, 2, box=[30, 10, 50, 40])
    session.track(2, "both", 7)
    session.click(2, 5, (40, 20, 1))
    session.track(5, "forward", 2)
    return session


def remembered(session):
    """What the network remembers, as it is compared."""
    found = {}
    for obj, tracked in session.inside._state.objects.items():
        bank = tracked.bank
        frames = {t: bank[t].mask_logits.numpy().tobytes() for t in sorted({*bank.conditioning, *bank.tracked})}
        if frames:
            found[obj] = frames, sorted(bank.conditioning), sorted(bank.corrected), sorted(tracked.prompts)
    return found


@pytest.mark.parametrize("name", STEPS)
def test_undo_and_redo(tracked, name):
    """Bit for bit, in what is shown and in what the network remembers, once and again."""
    before, known = tracked.state(), remembered(tracked)
    exported = list(map(step_to_json, tracked.inside.prompt_file().steps))
    STEPS[name](tracked)
    after, known_after = tracked.state(), remembered(tracked)
    assert after != before
    for _ in range(2):
        tracked.ok("POST", "/undo", {})
        assert tracked.state() == before
        assert remembered(tracked) == known
        assert list(map(step_to_json, tracked.inside.prompt_file().steps)) == exported
        tracked.ok("POST", "/redo", {})
        assert tracked.state() == after
        assert remembered(tracked) == known_after


def test_undo_of_everything(tracked):
    states = [tracked.state()]
    for name in ("click", "correction", "mask", "clear", "new object", "remove"):
        STEPS[name](tracked)
        states.append(tracked.state())
    for state in states[-2::-1]:
        tracked.ok("POST", "/undo", {})
        assert tracked.state() == state
    for state in states[1:]:
        tracked.ok("POST", "/redo", {})
        assert tracked.state() == state
    assert tracked.refused("POST", "/redo", {}) == (409, "there is nothing to redo")


def test_a_change_ends_what_can_be_redone(tracked):
    tracked.click(1, 7, AWAY)
    tracked.ok("POST", "/undo", {})
    assert tracked.ok("GET")["redo"] == "click of Object 1 in frame 7"
    tracked.click(1, 8, AWAY)
    assert tracked.ok("GET")["redo"] is None


def test_undo_after_tracking(session):
    """Masks that depend on the change are out of date without it, and up to date again with it."""
    session.add()
    session.click(1, 2, CLICK)
    session.track(2)
    session.click(1, 6, AWAY)
    assert session.outdated() == [7, 8, 9, 10, 11]
    session.track(6, "forward", 2)
    assert session.outdated() == [9, 10, 11] or session.outdated() == [8, 9, 10, 11]
    left = session.outdated()
    state = session.state()
    session.ok("POST", "/undo", {})
    fresh = sorted({7, 8, 9, 10, 11} - set(left))
    assert session.outdated() == fresh
    session.ok("POST", "/redo", {})
    assert session.outdated() == left and session.state() == state


def test_undo_of_the_first_prompt_after_tracking(session, videos, tiny_predictor):
    """Its masks are hidden, and the object starts over: the next prompt is not a correction of masks that nothing supports."""
    session.add()
    session.click(1, 0, CLICK)
    session.track(0)
    state = session.state()
    session.ok("POST", "/undo", {})
    assert session.outdated() == [] and not any(session.all_masks().values())
    assert session.refused("POST", "/track", {"frame": 0, "direction": "forward"})[0] == 409
    session.ok("POST", "/redo", {})
    assert session.state() == state
    session.ok("POST", "/undo", {})
    session.click(1, 5, CLICK)
    session.track(5, "both")
    shown = {}
    with tiny_predictor.init_state(videos / "disc") as by_itself:
        note(shown, *tiny_predictor.add_new_points_or_box(by_itself, 5, 1, [CLICK[:2]], [1]))
        by_hand(tiny_predictor, by_itself, 6, False, shown)
        by_hand(tiny_predictor, by_itself, 4, True, shown)
    assert session.all_masks() == shown
    assert session.outdated() == []


def test_undo_of_a_removed_prompt_keeps_what_was_tracked_since(session):
    """What the network remembers is what is shown."""
    session.add()
    session.click(1, 0, CLICK)
    session.click(1, 6, AWAY)
    session.track(0)
    session.clear(1, 6)
    session.track(5, "forward", 4)
    session.ok("POST", "/undo", {})
    bank = session.inside._state.objects[1].bank
    _, _, logits = session.inside._predictor.masks_in_frame(session.inside._state, 7)
    assert (session.masks(7)[1] == (logits[0, 0] > 0).numpy()).all()
    assert sorted(bank.conditioning) == [0, 6]


def test_outdated_by_direction(session):
    """A correction makes the frames after it out of date, in the direction in which they were tracked."""
    session.add()
    session.click(1, 5, CLICK)
    session.track(5, "forward")
    session.click(1, 8, AWAY)
    assert session.outdated() == [9, 10, 11]
    session.track(8)
    assert session.outdated() == []
    session.track(5, "backward")
    session.click(1, 2, AWAY)
    assert session.outdated() == [0, 1]  # what was tracked forward came before
    session.click(1, 5, CLICK, AWAY)
    assert session.outdated() == [0, 1, 3, 4, 6, 7, 9, 10, 11]


def test_outdated_where_the_other_direction_was_remembered(session):
    """Frames that were tracked backward after forward remember those on the other side of the prompt."""
    session.add()
    session.click(1, 5, CLICK)
    session.track(5, "both")
    session.click(1, 8, AWAY)
    assert session.outdated() == [0, 1, 2, 3, 4, 9, 10, 11]
    inside = session.inside
    assert inside._predictor.model.memory_selector.look_back >= 4
    before = session.masks(4)[1]
    session.track(5, "backward", 1)
    assert (session.masks(4)[1] != before).any()


def test_masks_that_are_up_to_date_are_not_tracked_again(session):
    """After tracking both ways, another direction goes on where masks are missing."""
    session.add()
    session.click(1, 5, CLICK)
    session.track(5, "both", 2)
    session.track(3, "forward", 2)  # the page shows the last frame of the backward direction
    assert [t for t, masks in session.all_masks().items() if masks] == list(range(3, 10))
    session.track(3)
    assert session.refused("POST", "/track", {"frame": 5, "direction": "forward"}) == (
        409,
        "nothing is left to track in this direction: all masks up to the end of the video are up to date",
    )


def test_outdated_before_a_conditioning_frame(session):
    """A prompt that was there during tracking is remembered in the frames before it, too."""
    session.add()
    session.click(1, 0, CLICK)
    session.click(1, 8, (40, 24, 1))
    session.track(0)
    session.click(1, 8, (40, 24, 1), AWAY)
    changed = session.outdated()
    assert changed == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    session.ok("POST", "/undo", {})
    assert session.outdated() == []
    session.clear(1, 8)
    assert session.outdated() == changed
    session.ok("POST", "/undo", {})
    session.ok("POST", "/undo", {})  # the prompt in frame 8
    assert session.outdated() == changed


def test_a_new_prompt_in_an_untracked_frame_makes_nothing_outdated(session):
    session.add()
    session.click(1, 0, CLICK)
    session.track(0, "forward", 5)
    session.click(1, 10, CLICK)
    assert session.outdated() == []


def test_where_tracking_starts(session):
    """At the last frame up to the given one that has a mask, or after it, if that is up to date."""
    session.add()
    session.click(1, 4, CLICK)
    job = session.ok("POST", "/track", {"frame": 9, "direction": "forward", "frames": 2})
    assert job["total"] == 2
    session.wait()
    assert sorted(t for t, masks in session.all_masks().items() if masks) == [4, 5, 6]
    session.track(11, "forward")
    assert sorted(t for t, masks in session.all_masks().items() if masks) == list(range(4, 12))
    assert session.refused("POST", "/track", {"frame": 11, "direction": "forward"})[0] == 409
    session.track(0, "backward", 1)
    assert session.masks(3) and not session.masks(2)
    session.click(1, 6, AWAY)
    session.track(8, "forward", 1)
    # Frame 8 was tracked again, because it was out of date; frame 3 because what came after frame 4 was in its memory.
    assert session.outdated() == [3, 7, 9, 10, 11]


def replayed(data: bytes, videos, predictor, tmp_path):
    """The masks that a replay of exported prompts gives."""
    path = tmp_path / "prompts.json"
    path.write_bytes(data)
    frames = open_frames(videos / "disc")
    content = read_prompt_file(path, frames)
    shown = {}
    with predictor.init_state(frames) as state:
        removed = SimpleNamespace(remove=lambda obj: [masks.pop(obj, None) for masks in shown.values()])
        for result in replay(predictor, state, content, removed):
            note(shown, *result)
    return shown


REPLAYED = {
    "corrections": lambda s: (s.click(1, 0, CLICK), s.track(0), s.click(1, 6, AWAY), s.track(6)),
    "undone": lambda s: (
        *(s.click(1, 0, CLICK), s.track(0), s.click(1, 6, AWAY), s.ok("POST", "/undo", {})),
        *(s.click(1, 7, AWAY), s.track(7)),
    ),
    "undone and redone": lambda s: (
        *(s.click(1, 0, CLICK), s.track(0), s.click(1, 6, AWAY), s.track(6)),
        *(s.ok("POST", "/undo", {}), s.ok("POST", "/redo", {})),
    ),
    "start undone": lambda s: (
        *(s.click(1, 0, CLICK), s.track(0), s.ok("POST", "/undo", {})),
        *(s.click(1, 4, CLICK), s.track(4, "both")),
    ),
    "an object without prompts": lambda s: (s.add(), s.click(1, 0, CLICK), s.click(2, 0, CLICK), s.clear(2, 0), s.track(0)),
    "an object that was never prompted": lambda s: (s.add(), s.click(1, 0, CLICK), s.ok("DELETE", "/objects/2"), s.track(0)),
    "a removed object": lambda s: (
        *(s.add(), s.click(1, 0, CLICK), s.click(2, 0, box=[30, 10, 50, 40]), s.track(0, "forward", 4)),
        *(s.ok("DELETE", "/objects/1"), s.track(4)),
    ),
    "a mask": lambda s: (s.click(1, 3, mask=counts(MASK)), s.track(3, "both"), s.clear(1, 3), s.click(1, 2, CLICK), s.track(2)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REPLAYED)
def test_exported_prompts_do_the_same_again(session, videos, tiny_predictor, tmp_path, name):
    session.add()
    REPLAYED[name](session)
    shown = session.all_masks()
    again = replayed(session.export("prompts"), videos, tiny_predictor, tmp_path)
    fresh = {t: {obj: mask for obj, mask in masks.items() if t not in session.outdated(obj)} for t, masks in shown.items()}
    assert any(fresh.values())
    for t, masks in fresh.items():
        assert {obj: again[t].get(obj) for obj in masks} == masks, t


def test_a_prompt_during_tracking_is_replayed_at_its_time(session, videos, tiny_predictor, tmp_path, monkeypatch):
    session.add(), session.add()
    session.click(1, 0, CLICK)
    inside, steps = session.inside, []
    advance = Job.advance

    def prompt_in_between(job, done):
        advance(job, done)
        if done == 5 and not steps:
            steps.append(done)
            future = session.page.workspace.scheduler.submit(0, lambda: inside.set_prompt(2, 4, inside.results().prompts(0)[1]))
            future.add_done_callback(lambda done: steps.append(done.exception()))

    monkeypatch.setattr(Job, "advance", prompt_in_between)
    session.track(0)
    assert steps == [5, None]
    shown = session.all_masks()
    assert 2 in shown[4] and 2 not in shown[5] and 2 in shown[6]
    again = replayed(session.export("prompts"), videos, tiny_predictor, tmp_path)
    for t, masks in shown.items():
        assert {obj: again[t][obj] for obj in masks} == masks
    assert mask_to_rle(session.masks(6)[2])


@pytest.mark.slow
def test_segment_does_the_same_again(make_page, tmp_path):
    """`python -m i2v.segment --prompts` writes what the page exports, to the pixel, with the Lite model."""
    predictor = build_i2v_video_predictor("i2v-lite", device="cpu")
    root = tmp_path / "clips"
    root.mkdir()
    shutil.copy(PROJECT / "assets" / "bunny.mp4", root)
    session = make_page(predictor, root=root).open_video("bunny.mp4")
    session.add(), session.add()
    session.click(1, 24, (265, 90, 1))
    session.click(1, 24, (265, 90, 1), (300, 100, 1))
    session.click(2, 26, box=[20, 20, 200, 200])
    session.track(24, "both", 6)
    session.click(1, 27, (200, 90, 0))
    session.track(27, "forward", 3)
    session.ok("POST", "/undo", {})
    session.track(27, "forward", 4)
    session.click(1, 22, (260, 100, 1))
    session.track(22, "backward", 4)
    assert session.outdated(1) == [28, 29, 30, 31]  # which remember frame 22, because they were tracked later
    session.track(27, "forward", 4)
    assert session.outdated(1) == session.outdated(2) == []
    archive = read_archive(session.export("masks", "prompts"))
    archive.extractall(tmp_path)
    arguments = [root / "bunny.mp4", "--prompts", tmp_path / "bunny" / "prompts.json", "--output", tmp_path / "again"]
    assert segment.main([*map(str, arguments), "--config", "i2v-lite", "--device", "cpu"]) == 0
    names = [path.name for path in sorted((tmp_path / "bunny" / "masks").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "again" / "masks").iterdir())] and len(names) > 10
    for name in names:
        ours, theirs = (np.asarray(Image.open(tmp_path / run / "masks" / name)) for run in ("bunny", "again"))
        assert (ours == theirs).all(), name


def test_removed_objects_do_not_move_the_start(session):
    """Tracking goes on from the masks that are shown."""
    session.add(), session.add()
    session.click(1, 0, CLICK)
    session.track(0)
    session.ok("DELETE", "/objects/1")
    session.click(2, 0, CLICK)
    session.track(11)
    assert [t for t, masks in session.all_masks().items() if 2 in masks] == list(range(12))


def test_masks_do_not_change_during_an_export(session):
    session.add()
    session.click(1, 0, CLICK)
    job = session.inside.start_export()
    busy = (409, "an export is running: wait for its end, or stop it")
    assert session.refused("PUT", "/objects/1/prompts/1", {"points": [CLICK]}) == busy
    assert session.refused("DELETE", "/objects/1/prompts/0") == busy
    assert session.refused("DELETE", "/objects/1") == busy
    assert session.refused("POST", "/undo", {}) == busy
    session.inside.end_job(job, None)
    session.click(1, 1, CLICK)


def test_an_object_without_prompts_has_no_masks(session):
    """What was tracked from prompts that are gone is neither shown nor exported; a redo shows it again."""
    session.add()
    session.click(1, 0, CLICK)
    session.track(0)
    shown = session.all_masks()
    session.clear(1, 0)
    assert not any(session.all_masks().values()) and session.inside.results().tracked() == []
    session.ok("POST", "/undo", {})
    assert session.all_masks() == shown
