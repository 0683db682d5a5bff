"""test_pvs.datasets: every layout is read, and problems with it are found."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from i2v.data.mask_files import read_mask
from sav_dataset.sav_evaluator import evaluate
from test_pvs import datasets
from test_pvs import semi_supervised as benchmark
from test_pvs.datasets import EvaluationVideo, export_ground_truth, read_dataset
from tests.conftest import examples_of_extending
from tests.test_pvs import layouts
from tests.test_pvs.layouts import APPEARS, NAMES, NUM_FRAMES

# By data set: the writer, names of the videos, objects of the first video by label, and frames from one annotated to the next.
LAYOUTS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], dict[int, int], int]] = {
    "sav": (layouts.sav, NAMES, {1: 0, 2: 1}, 4),
    "davis2017": (lambda root: layouts.folders(root, resolution="480p"), NAMES, {1: 1, 2: 2}, 1),
    "pumavos": (layouts.folders, NAMES, {1: 1, 2: 2}, 1),
    "lvvis": (layouts.lvvis, NAMES, {1: 11, 2: 12}, 1),
    "esd": (layouts.esd, ("training--one", "training--two"), {1: 1, 2: 2}, 1),
    "mose": (lambda root: layouts.folders(root, every=2), NAMES, {1: 1, 2: 2}, 2),
    "youtubevos": (lambda root: layouts.folders(root, every=4, step=5), NAMES, {1: 1, 2: 2}, 4),
}


def read(dataset: str, root: Path) -> list[EvaluationVideo]:
    return read_dataset(dataset, LAYOUTS[dataset][0](root))


@pytest.mark.parametrize("dataset", LAYOUTS)
def test_layout(dataset: str, tmp_path: Path) -> None:
    _, names, objects, every = LAYOUTS[dataset]
    videos = read(dataset, tmp_path / "val")
    assert tuple(video.name for video in videos) == names
    frames, labels = layouts.discs(0)
    video = videos[0]
    assert video.size == (64, 48)
    assert video.annotated_frames == list(range(0, NUM_FRAMES, every))
    assert video.objects == list(objects.values())
    for label, obj in objects.items():
        for frame in video.annotated_frames:
            assert np.array_equal(video.mask(frame, obj), labels[frame] == label)
    assert [video.first_frame(obj) for obj in video.objects] == [0, APPEARS]
    assert len(video.frame_names) == NUM_FRAMES
    assert np.abs(video.images[5].astype(int) - frames[5]).mean() < 20
    assert [problem for video in videos for problem in video.problems(thorough=True)] == []


def test_davis2016_has_one_object_and_its_list_is_used(tmp_path: Path) -> None:
    videos = read_dataset("davis2016", layouts.davis2016(tmp_path))
    assert [video.name for video in videos] == list(NAMES)
    assert videos[0].objects == [1]
    assert np.array_equal(videos[0].mask(6, 1), layouts.discs(0)[1][6] > 0)
    # The label images of DAVIS 2017, too: all objects are one. And 0 and 255 are one object, whatever the reader.
    both = read_dataset("davis2016", layouts.folders(tmp_path / "2017", resolution="480p"))
    assert both[0].objects == [1]
    assert np.array_equal(both[0].mask(6, 1), layouts.discs(0)[1][6] > 0)
    # Masks of one object may be in colour.
    write_in_colour(tmp_path / "2017/Annotations/480p/one")
    coloured = read_dataset("davis2016", tmp_path / "2017")[0]
    assert np.array_equal(coloured.mask(6, 1), layouts.discs(0)[1][6] > 0)
    (tmp_path / "ImageSets/480p/val.txt").unlink()
    assert len(read_dataset("davis2016", tmp_path)) == 3
    binary = read_dataset("davis2017", tmp_path)[0]
    assert binary.objects == [1]
    assert np.array_equal(binary.mask(6, 1), layouts.discs(0)[1][6] > 0)


def test_davis2017_list(tmp_path: Path) -> None:
    layouts.folders(tmp_path, resolution="480p")
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("two\n")
    assert [video.name for video in read_dataset("davis2017", tmp_path)] == ["two"]
    (tmp_path / "ImageSets/2017/val.txt").write_text("two\nthree\n")
    with pytest.raises(ValueError, match="three"):
        read_dataset("davis2017", tmp_path)


def test_lvvis_json_in_its_folder(tmp_path: Path) -> None:
    assert len(read_dataset("lvvis", layouts.lvvis(tmp_path / "val", in_folder=True))) == 2


def test_some_videos(tmp_path: Path) -> None:
    layouts.folders(tmp_path)
    assert [video.name for video in read_dataset("mose", tmp_path, ["two"])] == ["two"]
    with pytest.raises(ValueError, match="three"):
        read_dataset("mose", tmp_path, ["two", "three"])


@pytest.mark.parametrize("dataset", datasets.READERS)
def test_wrong_folder_is_named(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match=str(tmp_path / "other")):
        read_dataset(dataset, tmp_path / "other")
    with pytest.raises(NotADirectoryError, match="nowhere"):
        read_dataset(dataset, tmp_path / "nowhere")


def test_unknown_data_set() -> None:
    with pytest.raises(ValueError, match="davis2016"):
        read_dataset("davis", ".")


@pytest.mark.slow
def test_real_data(shared: Path) -> None:
    davis = read_dataset("davis2016", shared / "data/davis2016-dev")
    assert [video.name for video in davis] == ["blackswan", "bmx-trees", "car-shadow", "dance-twirl", "dog"]
    assert davis[-1].objects == [1]
    assert davis[-1].mask(0, 1).shape == (480, 854)
    (chair,) = read_dataset("pumavos", shared / "data/pumavos-chair")
    assert chair.annotated_frames == list(range(60))  # frame_000000.png belongs to 00000.jpg
    assert chair.objects == [1]
    assert chair.problems() == []


def break_image(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def write_small(path: Path) -> None:
    Image.fromarray(np.ones((20, 30), np.uint8)).save(path)


def write_empty(folder: Path) -> None:
    for path in folder.glob("*.png"):
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)


def write_in_colour(folder: Path) -> None:
    """Write the masks in DAVIS' colours, without a palette."""
    for path in folder.glob("*.png"):
        Image.open(path).convert("RGB").save(path)


def write_in_other_colours(folder: Path) -> None:
    for path in folder.glob("*.png"):
        image = np.asarray(Image.open(path))
        Image.fromarray(np.stack([255 * (image == label) for label in (1, 2, 3)], axis=2).astype(np.uint8)).save(path)


def keep(folder: Path, count: int) -> None:
    """Remove all but the first files of a folder."""
    for path in sorted(folder.iterdir())[count:]:
        path.unlink()


DAMAGES = {
    "missing frame": ("pumavos", "JPEGImages/one/00003.jpg", Path.unlink, "masks of frame 00003"),
    "gap in the frames": ("mose", "JPEGImages/one/00003.jpg", Path.unlink, "missing after 00002"),
    "missing mask": ("pumavos", "Annotations/one/00003.png", Path.unlink, "no masks of frame 00003"),
    "missing mask of an object": (
        "sav",
        "Annotations_6fps/one/001/00008.png",
        Path.unlink,
        "object 1 has no mask of frame 00008",
    ),
    "gap between numbers": ("youtubevos", "JPEGImages/one/00015.jpg", Path.unlink, "missing after 00010"),
    "no frames": ("mose", "JPEGImages/one", lambda path: keep(path, 0), "it is empty"),
    "no masks": ("mose", "Annotations/one", lambda path: keep(path, 0), "no annotated frame"),
    "one annotated frame": ("mose", "Annotations/one", lambda path: keep(path, 1), "only 1 of 12 frames annotated"),
    "two annotated frames": ("mose", "Annotations/one", lambda path: keep(path, 2), "only 2 of 12 frames annotated"),
    "no object": ("mose", "Annotations/one", write_empty, "no annotated frame with an object"),
    "object in no frame": ("sav", "Annotations_6fps/one/001", write_empty, "object 1 is in no frame"),
    "truncated frame": ("mose", "JPEGImages/one/00003.jpg", break_image, "00003.jpg is not a readable image"),
    "frame of another size": ("mose", "JPEGImages/one/00003.jpg", write_small, "00003.jpg is 30x20"),
    "truncated mask": ("sav", "Annotations_6fps/one/001/00004.png", break_image, "00004.png is not a readable image"),
    "label images in colour": ("esd", "training/one/Mask", write_in_other_colours, "is a colour image"),
    "truncated label image": ("mose", "Annotations/one/00004.png", break_image, "00004.png is not a readable image"),
    "mask of another size": (
        "pumavos",
        "Annotations/one/00004.png",
        write_small,
        "is 30x20 pixels, but the video is 64x48",
    ),
    "stray file": ("sav", "Annotations_6fps/one/001", lambda path: path.rename(path.with_name("dog")), "but it has dog"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_check_finds(damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, path, change, message = DAMAGES[damage]
    LAYOUTS[dataset][0](tmp_path)
    assert datasets.main(["--check", dataset, str(tmp_path)]) == 0
    change(tmp_path / path)
    assert datasets.main(["--check", dataset, str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert message in output
    assert "two:" not in output  # the other video is intact


def test_check_counts_all_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.sav(tmp_path)
    for name in ("00000.png", "00004.png"):
        break_image(tmp_path / "Annotations_6fps/one/000" / name)
    (tmp_path / "JPEGImages_24fps/two/00005.jpg").unlink()
    assert datasets.main(["--check", "sav", str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert "000/00000.png" in output
    assert "000/00004.png" in output
    assert "2 videos, 4 problems" in output  # frames 5 to 11 move up, so that frames 4 and 8 are at other places


def test_davis_colours_without_palette_are_its_labels(tmp_path: Path) -> None:
    layouts.esd(tmp_path)
    before = read_dataset("esd", tmp_path)[0]
    masks = [before.mask(frame, obj) for frame in before.annotated_frames for obj in before.objects]
    write_in_colour(tmp_path / "training/one/Mask")
    after = read_dataset("esd", tmp_path)[0]
    assert after.objects == before.objects == [1, 2]
    assert np.array_equal(masks, [after.mask(frame, obj) for frame in after.annotated_frames for obj in after.objects])


@pytest.mark.parametrize("path", ["JPEGImages/one/{:05d}.jpg", "Annotations/one/{:05d}.png"])
def test_check_names_all_files_that_cannot_be_read(path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.folders(tmp_path)
    for frame in (2, 4, 6, 7, 8, 9, 10, 11):
        break_image(tmp_path / path.format(frame))
    assert datasets.main(["--check", "mose", str(tmp_path)]) == 1
    (line, _) = capsys.readouterr().out.splitlines()
    first, *names = (Path(path.format(frame)).name for frame in (2, 4, 6, 7, 8, 9))
    assert f"{first} is not a readable image" in line
    assert f"(7 more files of this folder cannot be used: {', '.join(names)}, ...)" in line


def test_thorough_check_decodes_frames(tmp_path: Path) -> None:
    layouts.esd(tmp_path)
    path = tmp_path / "training/one/RGB/rgb_7.png"
    data = path.read_bytes()
    middle = len(data) // 2
    # Header and end are intact: only decoding shows the damage between them.
    path.write_bytes(data[:middle] + bytes(64) + data[middle + 64 :])
    (video, _) = read_dataset("esd", tmp_path)
    assert video.problems() == []
    assert any("rgb_7.png" in problem for problem in video.problems(thorough=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["annotations"][0]["segmentations"][3].update(size=[20, 30]),
        lambda content: content["annotations"][0]["segmentations"][3].update(counts=[700, 9]),
        lambda content: content["videos"][0]["file_names"].__setitem__(-1, "one/00077.jpg"),
    ],
    ids=["another size", "broken encoding", "no such frame"],
)
def test_check_finds_in_json(change: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.lvvis(tmp_path / "val")
    path = tmp_path / "val_instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    assert datasets.main(["--check", "lvvis", str(tmp_path / "val")]) == 1
    output = capsys.readouterr().out
    assert "val_instances.json" in output
    assert "two:" not in output


# Changes of the first video and the first annotation, and the message.
BAD_JSON = [
    ({}, {"id": 12}, "video 1 has several annotations with the id 12"),
    *(
        ({}, {"id": number}, f"'annotations', entry 0: 'id' is {kind}, expected a whole number")
        for number, kind in ((11.5, "a number"), (11.0, "a number"), ("11", "a text"), (True, "true or false"), (None, "null"))
    ),
    *(({}, {"id": number}, f"has the id {number}: expected a whole number from 0 to 65535") for number in (-7, 65536, 2**70)),
    ({}, {"video_id": "1"}, "'annotations', entry 0: 'video_id' is a text, expected a whole number"),
    ({}, {"segmentations": None}, "'annotations', entry 0: 'segmentations' is null, expected a list"),
    ({}, {"segmentations": [None] * 9}, "the id 11 has 9 segmentations, but its video has 12 file_names"),
    ({"id": 2}, {}, "several videos have the id 2"),
    ({"id": 1.5}, {}, "'videos', entry 0: 'id' is a number, expected a whole number"),
    ({"file_names": []}, {}, "the file_names of video 1 are in 0 folders, expected one"),
    ({"file_names": ["one/00000.jpg", "two/00001.jpg"]}, {}, "the file_names of video 1 are in 2 folders, expected one"),
    ({"file_names": ["one/00000.jpg", "one/00000.png"]}, {}, "the file_names of video 1 have the frame 00000 several times"),
    ({"file_names": [0, 1]}, {}, "'file_names', entry 0 is a whole number, expected a text"),
]


def changed_lvvis(root: Path, video: dict[str, Any], annotation: dict[str, Any]) -> Path:
    """Write LV-VIS with other values in its first video and first annotation."""
    layouts.lvvis(root)
    path = root.parent / f"{root.name}_instances.json"
    content = json.loads(path.read_text())
    content["videos"][0].update(video)
    content["annotations"][0].update(annotation)
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(("video", "annotation", "message"), BAD_JSON)
def test_json_that_would_lose_objects_is_refused(
    video: dict[str, Any], annotation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = changed_lvvis(tmp_path / "val", video, annotation)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_dataset("lvvis", data)
    assert "val_instances.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_videos_of_one_folder_are_refused(tmp_path: Path) -> None:
    data = changed_lvvis(tmp_path / "val", {"file_names": [f"two/{t:05d}.jpg" for t in range(NUM_FRAMES)]}, {})
    with pytest.raises(ValueError, match="several videos two"):
        read_dataset("lvvis", data)


def test_annotations_of_other_videos_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = read_dataset("lvvis", changed_lvvis(tmp_path / "val", {}, {"video_id": 7}))
    assert [video.objects for video in videos] == [[12], [21, 22]]
    assert "1 annotations of LV-VIS are ignored, because their videos are not in its list" in caplog.text


@pytest.mark.slow
def test_line_breaks_in_names_do_not_break_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(changed_lvvis(tmp_path / "val", {"file_names": [f"o\nne/{t:05d}.jpg" for t in range(NUM_FRAMES)]}, {}))
    assert datasets.main(["--check", "lvvis", data]) == 1
    problems, summary = capsys.readouterr().out.splitlines()
    assert problems.startswith("o; ne: ")
    assert summary == f"{data}: 2 videos, 1 problems"
    output = str(tmp_path / "out")
    assert benchmark.main(["lvvis", data, "--output", output, "--system", "static-mask", "--devices", "cpu"]) == 1
    (failure,) = [record.getMessage() for record in caplog.records if "failed: " in record.getMessage()]
    assert re.fullmatch("failed: o; ne: FileNotFoundError: no such folder of frames: .*o; ne", failure)


def test_all_lists_of_sav_are_read(tmp_path: Path) -> None:
    data = layouts.sav(tmp_path)
    (data / "sav_val.txt").write_text("one\n")
    (data / "sav_test.txt").write_text("two\n")
    assert [video.name for video in read_dataset("sav", data)] == ["one", "two"]


def test_malformed_json_is_named(tmp_path: Path) -> None:
    layouts.lvvis(tmp_path / "val")
    for text in ("{", "[]", '{"videos": []}'):
        (tmp_path / "val_instances.json").write_text(text)
        with pytest.raises(ValueError, match=r"val_instances\.json"):
            read_dataset("lvvis", tmp_path / "val")


def test_check_of_a_wrong_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert datasets.main(["--check", "sav", str(tmp_path)]) == 1
    assert str(tmp_path) in caplog.text


def test_check_mentions_videos_without_masks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.folders(tmp_path)
    (tmp_path / "JPEGImages/three").mkdir()
    with caplog.at_level(logging.INFO):
        assert datasets.main(["--check", "pumavos", str(tmp_path)]) == 0
    assert "three" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("dataset", LAYOUTS)
def test_exported_ground_truth_has_every_object_in_every_annotated_frame(dataset: str, tmp_path: Path) -> None:
    videos = read(dataset, tmp_path / "val")
    output = tmp_path / "ground_truth"
    export_ground_truth(videos, output)
    with pytest.raises(ValueError, match="ground_truth already exists"):
        export_ground_truth(videos, output)
    expected = {
        f"{video.name}/{obj:03d}/{video.frame_names[frame]}.png": layouts.discs(number)[1][frame] == label
        for number, video in enumerate(videos)
        for label, obj in enumerate(video.objects, start=1)
        for frame in video.annotated_frames
    }
    found = {path.relative_to(output).as_posix(): read_mask(path) for path in output.rglob("*.png")}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert [len(result.scores) for result in evaluate(output, output, strict=True)] == [2, 2]  # the evaluator can read it


@pytest.mark.parametrize(
    ("dataset", "path", "change", "message"),
    [
        ("sav", "Annotations_6fps/one/000/00004.png", break_image, "00004.png is not a readable image"),
        ("sav", "Annotations_6fps/one/000/00004.png", write_small, "00004.png is 30x20"),
        ("mose", "Annotations/one/00004.png", break_image, "00004.png is not a readable image"),
        ("mose", "JPEGImages/one", lambda path: keep(path, 0), "it is empty"),
    ],
)
def test_a_bad_video_is_named_and_the_others_are_exported(
    dataset: str, path: str, change: Callable[[Path], None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = LAYOUTS[dataset][0](tmp_path / "data"), tmp_path / "ground_truth"
    change(root / path)
    assert datasets.main(["--export", dataset, str(root), str(output)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("one: ")
    assert message in line
    assert [folder.name for folder in output.iterdir()] == ["two"]  # nothing of the bad one is left, visible or hidden
    (result,) = evaluate(output, output, strict=True)
    assert len(result.scores) == 2


def test_videos_and_objects_without_annotations_are_not_exported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    layouts.lvvis(tmp_path / "lvvis")
    path = tmp_path / "lvvis_instances.json"
    content = json.loads(path.read_text())
    content["annotations"] = [entry for entry in content["annotations"] if entry["video_id"] == 1]
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.INFO):
        assert datasets.main(["--export", "lvvis", str(tmp_path / "lvvis"), str(tmp_path / "1")]) == 0
    assert "1 of 2 videos are left out, because they have no annotated object: two" in caplog.text
    assert [folder.name for folder in (tmp_path / "1").iterdir()] == ["one"]

    layouts.sav(tmp_path / "sav")
    keep(tmp_path / "sav/Annotations_6fps/one/000", 0)
    assert datasets.main(["--export", "sav", str(tmp_path / "sav"), str(tmp_path / "2")]) == 0
    written = sorted(path.relative_to(tmp_path / "2/one").as_posix() for path in (tmp_path / "2/one").rglob("*.png"))
    assert written == ["001/00000.png", "001/00004.png", "001/00008.png"]


def test_videos_that_lack_frames_or_masks_are_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = layouts.folders(tmp_path / "data")
    for folder, suffix, message in (
        ("JPEGImages", "jpg", "masks of frame 00006, 00007, but"),
        ("Annotations", "png", "no masks of frame 00006, 00007"),
    ):
        paths = [data / folder / f"one/{number:05d}.{suffix}" for number in (6, 7)]
        contents = [path.read_bytes() for path in paths]
        for path in paths:
            path.unlink()
        assert datasets.main(["--export", "pumavos", str(data), str(tmp_path / folder)]) == 1
        assert message in capsys.readouterr().out
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["two"]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
    assert datasets.main(["--export", "mose", str(data), str(tmp_path / "whole")]) == 0


@pytest.mark.slow
def test_user_defined_data_set_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_videos.py").write_text(examples_of_extending()["my_videos.py"])
    monkeypatch.syspath_prepend(tmp_path)
    for number, name in enumerate(NAMES):
        frames, labels = layouts.discs(number)
        layouts.write_frames(tmp_path / "data" / name / "frames", frames)
        layouts.write_labels(tmp_path / "data" / name / "masks", labels)
    data, output = str(tmp_path / "data"), tmp_path / "out"
    # As a program: then test_pvs.datasets is __main__, and the user's module imports it a second time.
    command = [sys.executable, "-m", "test_pvs.datasets", "--check", "my_videos:read", data]
    paths = os.pathsep.join([str(tmp_path), str(Path(datasets.__file__).parents[1])])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("2 videos, 0 problems\n"), done.stderr
    arguments = [
        "my_videos:read",
        data,
        "--output",
        str(output),
        "--input",
        "gm",
        "--system",
        "static-mask",
        "--devices",
        "cpu:2",
    ]
    assert benchmark.main(arguments) == 0
    assert json.loads((output / "settings.json").read_text())["dataset"] == "my_videos:read"
    assert sorted(path.name for path in (output / "masks").iterdir()) == sorted(NAMES)
    assert datasets.main(["--export", "my_videos:read", data, str(tmp_path / "truth")]) == 0
    results = evaluate(tmp_path / "truth", output / "masks", strict=True)
    assert [len(result.scores) for result in results] == [2, 2]


def returns_names(root: Path) -> list[str]:
    """A reader that returns something other than videos."""
    return ["video"]


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mine", ValueError, "unknown data set 'mine'.*package.module:function"),
        ("no:such:form", ValueError, "not of the form package.module:function"),
        ("no_such_module:read", ImportError, "PYTHONPATH"),
        ("tests.test_pvs.layouts:nothing", ValueError, "has no function nothing"),
        ("tests.test_pvs.test_datasets:returns_names", ValueError, "must return a list of .*EvaluationVideo"),
    ],
)
def test_bad_user_defined_data_sets(name: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        read_dataset(name, tmp_path)
