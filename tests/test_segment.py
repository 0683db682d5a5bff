"""The command line: a whole run, its files, its errors, and what an interrupted run leaves."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from i2v import build_i2v_video_predictor, segment
from i2v.data.frames import open_frames
from i2v.data.mask_files import save_label_image
from i2v.inference.tracker import Tracker
from i2v.prompt_arguments import parse_prompts
from i2v.results import ResultWriter
from i2v.segment import Tracking, main
from i2v.utils.checkpoints import save_checkpoint
from i2v.utils.visualization import VideoWriter

# pycocotools does not know NumPy 2 well.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = ["--config", str(Path(__file__).parent / "configs" / "tiny.yaml"), "--device", "cpu"]
POINT = ["--point", "0,16,24"]


@pytest.fixture(autouse=True)
def keep_logs(caplog):
    """Errors and messages are read off the log."""
    caplog.set_level(logging.INFO)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is handler  # `main` puts it back


@pytest.fixture(scope="module")
def checkpoint(tiny_predictor, tmp_path_factory) -> list[str]:
    """--checkpoint with weights whose masks are not empty."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pt"
    save_checkpoint(path, {"model": tiny_predictor.model.state_dict()})
    return ["--checkpoint", str(path)]


def read_masks(output: Path) -> dict[int, np.ndarray]:
    """Label images by frame."""
    images = {int(path.stem): Image.open(path) for path in sorted((output / "masks").iterdir())}
    assert {image.mode for image in images.values()} == {"P"}
    assert images[min(images)].getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    return {frame: np.asarray(image) for frame, image in images.items()}


def read_video(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return frames


PROGRESS = {".session.pt", ".frames.jsonl", ".settings.json"}


def check_results(
    output: Path, frames: list[int], num_frames: int = 12, obj_ids: tuple[int, ...] = (1,), stopped: bool = False
) -> dict:
    """Check that the results of the given frames exist, are readable and agree with each other. Returns the JSON."""
    labels = read_masks(output)
    assert sorted(labels) == frames
    assert {image.shape for image in labels.values()} == {(48, 64)}
    drawn = read_video(output / "overlay.mp4")
    assert len(drawn) == len(frames)
    assert drawn[0].shape == (48, 64, 3)
    annotation = json.loads((output / "masklets.json").read_text())
    assert annotation["video_frame_count"] == num_frames == len(annotation["masklet"])
    assert (annotation["video_height"], annotation["video_width"]) == (48, 64)
    assert annotation["masklet_id"] == list(obj_ids)
    assert annotation["masklet_num"] == len(obj_ids)
    for frame, masklet in enumerate(annotation["masklet"]):
        assert (masklet is not None) == (frame in labels)
        masks = [coco_mask.decode(rle).astype(bool) for rle in masklet or ()]
        if len(obj_ids) == 1 and masks:
            np.testing.assert_array_equal(masks[0], labels[frame] == obj_ids[0])
        elif masks:  # where objects overlap the label image shows one of them
            np.testing.assert_array_equal(np.any(masks, axis=0), labels[frame] > 0)
            for obj_id, mask in zip(obj_ids, masks, strict=True):
                assert mask[labels[frame] == obj_id].all()
    assert {path.name for path in output.rglob(".*")} == (PROGRESS if stopped else set())  # no temporary files
    return annotation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "frames"),
    [
        (POINT, range(12)),
        (["--point", "5,16,24"], range(5, 12)),
        (["--point", "5,16,24", "--reverse"], range(6)),
        (["--point", "5,16,24", "--both"], range(12)),
        (["--point", "5,16,24", "--both", "--max-frames", "3"], range(3, 8)),
        (["--point", "5,16,24", "--max-frames", "1"], [5]),
        (["--point", "5,16,24", "--max-frames", "100", "--reverse"], range(6)),
        (["--point", "2,16,24", "--point", "7,30,24", "--reverse"], range(8)),
        (["--box", "0,6,14,26,34"], range(12)),
        ([*POINT, "--precision", "bf16"], range(12)),
    ],
)
def test_run(arguments, frames, checkpoint, png_folder, tmp_path):
    output = tmp_path / "new" / "out"
    assert main([str(png_folder), *TINY, *checkpoint, *arguments, "--output", str(output)]) == 0
    annotation = check_results(output, list(frames))
    # Empty or full masks would prove little.
    areas = [coco_mask.area(masklet[0]) for masklet in annotation["masklet"] if masklet]
    assert all(0 < area < 48 * 64 for area in areas)
    assert annotation["video_id"] == png_folder.name
    assert annotation["masklet_first_appeared_frame"] == [min(frames)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["video.mp4", "video.avi"])
def test_run_on_a_video_file_with_all_kinds_of_prompts(name, checkpoint, make_video, tiny_video, tmp_path):
    video = make_video(tmp_path / name, tiny_video)
    mask = tmp_path / "my,mask@home.png"
    Image.fromarray((np.mgrid[:48, :64][1] < 20).astype(np.uint8)).save(mask)
    prompts = ["--point", "0,16,24,1@2", "--point", "0,2,2,0@2", "--box", "3,6,14,26,34@5", "--mask", f"1,{mask}@3"]
    output = tmp_path / "out"
    assert main([str(video), *TINY, *checkpoint, *prompts, "--output", str(output)]) == 0
    annotation = check_results(output, list(range(12)), obj_ids=(2, 3, 5))
    first = coco_mask.decode(annotation["masklet"][1][1])  # object 3 where it was prompted
    assert first[:, :18].all() and not first[:, 22:].any()
    assert annotation["masklet_first_appeared_frame"] == [0, 0, 0]  # also before it was prompted
    # The prompts are drawn: a green point in the first frame.
    capture = cv2.VideoCapture(str(output / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    blue, green, red = read_video(output / "overlay.mp4")[0][24, 16].astype(int)
    assert green > red + 50 and green > blue + 50


@pytest.mark.slow
@pytest.mark.parametrize("untrained", [False, True])
def test_seed_repeats(untrained, checkpoint, png_folder, tmp_path, monkeypatch):
    """It determines the sampled memories and untrained weights, and the global random state is untouched."""
    built = []

    def build(*args, **kwargs):
        built.append(build_i2v_video_predictor(*args, **kwargs))
        return built[-1]

    monkeypatch.setattr(segment, "build_i2v_video_predictor", build)
    before = torch.get_rng_state()
    files = []
    for i, seed in enumerate("112"):
        output = tmp_path / str(i)
        weights = ["--untrained"] if untrained else checkpoint
        assert main([str(png_folder), *TINY, *weights, *POINT, "--seed", seed, "--output", str(output)]) == 0
        files.append({path.relative_to(output): path.read_bytes() for path in output.rglob("*") if path.is_file()})
    assert len(files[0]) == 14
    assert files[0] == files[1]
    if untrained:
        first, second, other = (predictor.model.mask_downsample.weight for predictor in built)
        assert torch.equal(first, second) and not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), before)
    else:
        assert files[0] != files[2]


@pytest.mark.slow
def test_untrained_weights_are_announced(png_folder, tmp_path, caplog):
    assert main([str(png_folder), *TINY, "--untrained", *POINT, "--max-frames", "1", "--output", str(tmp_path / "out")]) == 0
    assert "masks mean nothing" in caplog.text
    assert str(tmp_path / "out") in caplog.text


# --- errors ---------------------------------------------------------------------------------------------------------------


def check_error(caplog, arguments: list[str], *named: str) -> None:
    """Check for status 1, and one line that names the cause."""
    assert main(arguments) == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is None
    assert record.getMessage().startswith("error: ")
    for name in named:
        assert name in record.getMessage()


@pytest.mark.parametrize(
    ("option", "text"),
    [("--point", text) for text in ("", "0", "0,1", "a,1,2", "-1,1,2", "0.5,1,2", "0,x,2", "0,1,2,3", "0,1,2,0.5", "0,1,2,nan")]
    + [("--point", text) for text in ("0,1,2,1,5", "0,1,2@0", "0,1,2@256", "0,1,2@x", "0,1,2@-1", "0,1,2@", "@1")]
    + [("--box", text) for text in ("", "0", "0,1,2,3", "0,1,2,3,4,5", "0,1,2,3,x", "b,1,2,3,4", "0,1,2,3,4@0")]
    + [("--mask", text) for text in ("", "0", "a,m.png", "-1,m.png", "m.png", "0,m.png@999")],
)
def test_malformed_prompt_is_named(option, text, caplog, tmp_path):
    # The video does not exist either: prompts are parsed first.
    check_error(caplog, ["no-video", *TINY, "--untrained", option + "=" + text, "--output", str(tmp_path / "out")], repr(text))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0,", "0, ", "0,@2"])
def test_mask_without_a_name(text):
    with pytest.raises(ValueError, match=f"'{text}': the file name in --mask .* is empty"):
        parse_prompts([], [], [text])


@pytest.mark.parametrize(
    ("option", "text"),
    [("point", "{},1,2"), ("point", "0,1,2@{}"), ("box", "{},1,2,3,4"), ("mask", "{},m.png"), ("point", "0,1\n,2@{}")],
)
def test_number_of_thousands_of_digits_is_malformed(option, text):
    texts = {"point": [], "box": [], "mask": []} | {option: [text.format("1" * 5000)]}
    with pytest.raises(ValueError, match=f"is not of the form --{option} ") as error:
        parse_prompts(*texts.values())
    assert len(str(error.value)) < 400


def test_object_must_be_a_number(caplog, tmp_path):
    run = ["no-video", *TINY, "--untrained", "--point=0,1,2@x", "--output", str(tmp_path / "out")]
    check_error(caplog, run, "--point FRAME,X,Y[,LABEL][@OBJ]", "OBJ from 1 to 255")


def test_empty_video_is_not_the_working_directory(caplog, png_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(png_folder)
    check_error(caplog, ["", *TINY, "--untrained", *POINT, "--output", str(tmp_path / "out")], "path of the video is empty")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("value_range", [["--value-range", "-20,50"], ["--value-range=-20,50"]])
def test_value_range_below_zero(value_range, tmp_path):
    folder = tmp_path / "celsius"
    folder.mkdir()
    for t in range(2):
        Image.fromarray(np.full((48, 64), 15, np.float32)).save(folder / f"{t}.tif")
    run = [str(folder), *TINY, "--untrained", *POINT, "--max-frames", "1", "--output", str(tmp_path / "out")]
    assert main([*run, *value_range]) == 0
    assert json.loads((tmp_path / "out" / "masklets.json").read_text())["video_frame_count"] == 2


def test_output_that_is_a_file(caplog, png_folder, tmp_path):
    (tmp_path / "out").write_text("mine")
    check_error(caplog, [str(png_folder), *TINY, "--untrained", *POINT, "--output", str(tmp_path / "out")], "out is a file")


def test_mask_image_with_several_labels_is_several_objects(tmp_path):
    labels = np.zeros((48, 64), np.uint8)
    labels[:10], labels[20:30] = 2, 7
    save_label_image(tmp_path / "two.png", labels)
    prompts = parse_prompts([], [], [f"3,{tmp_path / 'two.png'}"])
    assert list(prompts) == [(3, 2), (3, 7)]
    np.testing.assert_array_equal(prompts[3, 7].mask, labels == 7)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    assert list(parse_prompts([], [], [f"3,{tmp_path / 'grey.png'}"])) == [(3, 2), (3, 7)]
    with pytest.raises(ValueError, match=r"two\.png@2.*has several objects, with labels 2, 7"):
        parse_prompts([], [], [f"3,{tmp_path / 'two.png'}@2"])
    assert list(parse_prompts([], [], [f"3,{tmp_path / 'two.png'}@5"], void=7)) == [(3, 5)]


@pytest.mark.slow
def test_object_with_empty_masks_is_reported(caplog, png_folder, tmp_path):
    Image.new("L", (64, 48)).save(tmp_path / "empty.png")
    run = [str(png_folder), *TINY, "--untrained", "--max-frames", "1", "--output", str(tmp_path / "out")]
    assert main([*run, "--mask", f"0,{tmp_path / 'empty.png'}@4"]) == 0
    assert "object 4: its mask is empty in every frame" in caplog.text


def test_prompts_are_parsed():
    prompts = parse_prompts(["0,1.5,2", "0,3,4,0", "7,5,6@2"], ["0,1,2,3,4", " 7 ,1,2,3,4@3"], [])
    assert list(prompts) == [(0, 1), (7, 2), (7, 3)]
    assert prompts[0, 1].points.tolist() == [[1.5, 2], [3, 4]]
    assert prompts[0, 1].labels.tolist() == [1, 0]
    assert prompts[0, 1].box.tolist() == [1, 2, 3, 4]
    assert prompts[7, 2].points.tolist() == [[5, 6]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["--point", "--box", "--mask"]),
        (["--point", "12,1,2"], ["frame 12", "12"]),
        (["--point", "0,65,2"], ["65", "outside"]),
        (["--point", "0,nan,2"], ["finite"]),
        (["--box", "0,20,1,10,9"], ["20", "x0 < x1"]),
        (["--box", "0,1,2,3,4", "--box", "0,1,2,3,5"], ["'0,1,2,3,5'", "second box"]),
        (["--mask", "0,MASK", "--mask", "0,MASK"], ["second mask"]),
        (["--mask", "0,MASK", "--point", "0,1,2"], ["either a mask"]),
        (["--mask", "0,none.png"], ["no such mask", "none.png"]),
        (["--mask", "0,TEXT"], ["text.png", "not a readable image"]),
        (["--mask", "0,MASK"], ["mask", "8, 8", "48, 64"]),
        ([*POINT, "--max-frames", "0"], ["--max-frames", "0"]),
        ([*POINT, "--config", "nonsense"], ["nonsense", "i2v-infer"]),
        *(
            ([*POINT, "--device", device], ["--device is cuda, cuda:NUMBER, mps or cpu", device[:900]])
            for device in ("nonsense", "cuda:77", "777", "meta", "lazy", "hpu", "9" * 20, "9" * 5000, "")
        ),
    ],
)
def test_error_names_its_cause_and_a_second_try_works(arguments, named, caplog, png_folder, tmp_path):
    Image.new("L", (8, 8), 1).save(tmp_path / "mask.png")
    (tmp_path / "text.png").write_text("text")
    files = {"0,MASK": f"0,{tmp_path / 'mask.png'}", "0,TEXT": f"0,{tmp_path / 'text.png'}"}
    arguments = [files.get(argument, argument) for argument in arguments]
    run = [str(png_folder), *TINY, "--untrained", "--output", str(tmp_path / "out")]
    check_error(caplog, [*run, *arguments], *named)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert main([*run, *POINT, "--max-frames", "1"]) == 0


@pytest.mark.parametrize("prompt", [["--point", "99,1,1"], ["--box", "5,500,1,501,9"], ["--mask", "3,MASK"]])
def test_all_prompts_are_checked_before_any_work(prompt, caplog, monkeypatch, png_folder, tmp_path):
    Image.new("L", (8, 8), 1).save(tmp_path / "mask.png")
    prompt = [argument.replace("MASK", str(tmp_path / "mask.png")) for argument in prompt]
    monkeypatch.setattr(segment, "build_i2v_video_predictor", lambda *args, **kwargs: pytest.fail("work was done"))
    run = [str(png_folder), *TINY, "--untrained", "--output", str(tmp_path / "out"), *POINT, *prompt]
    check_error(caplog, run, "frame")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_weights_or_untrained(caplog, capsys, tmp_path):
    run = ["video", *TINY, *POINT, "--output", str(tmp_path)]
    check_error(caplog, run, "has no bundled weights", "tiny.yaml", "--checkpoint", "--untrained")
    with pytest.raises(SystemExit) as status:
        main([*run, "--untrained", "--checkpoint", "a.pt"])
    assert status.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.slow
def test_video_or_checkpoint_is_missing(caplog, png_folder, tmp_path):
    rest = [*TINY, *POINT, "--output", str(tmp_path / "out")]
    check_error(caplog, [str(tmp_path / "none.mp4"), "--untrained", *rest], "none.mp4")
    caplog.clear()
    check_error(caplog, [str(png_folder), "--checkpoint", str(tmp_path / "none.pt"), *rest], "no such checkpoint", "none.pt")


@pytest.mark.slow
def test_results_of_another_run_are_not_overwritten(caplog, png_folder, tmp_path):
    run = [str(png_folder), *TINY, "--untrained", *POINT, "--max-frames", "1", "--output", str(tmp_path / "out")]
    assert main(run) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    check_error(caplog, [*run, "--seed", "5"], str(tmp_path / "out"))
    caplog.clear()
    check_error(caplog, [*run, "--resume"], str(tmp_path / "out"), "of a finished run", "nothing to resume")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    shutil.rmtree(tmp_path / "out" / "masks")
    caplog.clear()
    check_error(caplog, run, "overlay.mp4")


def test_output_is_a_file(caplog, png_folder, tmp_path):
    (tmp_path / "out").write_text("mine")
    check_error(caplog, [str(png_folder), *TINY, "--untrained", *POINT, "--output", str(tmp_path / "out")], "out")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.slow
def test_bad_frame_in_mid_video_leaves_the_finished_frames(caplog, checkpoint, broken_folder, tmp_path):
    check_error(caplog, [str(broken_folder), *TINY, *checkpoint, *POINT, "--output", str(tmp_path / "out")], "00006.png")
    check_results(tmp_path / "out", list(range(6)), stopped=True)


# --- interruptions --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(("arguments", "finished"), [(POINT, range(9)), (["--point", "4,16,24", "--both"], range(3, 12))])
def test_interrupted_run_leaves_the_finished_frames(
    arguments, finished, stop, status, monkeypatch, checkpoint, png_folder, tmp_path
):
    track, calls = Tracker.track, []

    def interrupted(self, state, objects, frame, reverse):
        calls.append(frame)
        if len(calls) == 9:
            assert callable(signal.getsignal(stop))  # or this would end the tests
            signal.raise_signal(stop)
        track(self, state, objects, frame, reverse)

    monkeypatch.setattr(Tracker, "track", interrupted)
    assert main([str(png_folder), *TINY, *checkpoint, *arguments, "--output", str(tmp_path / "out")]) == status
    check_results(tmp_path / "out", list(finished), stopped=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_stopped_process_leaves_the_finished_frames(checkpoint, tiny_video, make_video, tmp_path):
    video = make_video(tmp_path / "video.avi", np.concatenate([tiny_video] * 100))
    command = [sys.executable, "-m", "i2v.segment", str(video), *TINY, *checkpoint, *POINT, "--output", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "masks" / "00004.png").exists():  # so that frame 3 is in the list
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    annotation = json.loads((tmp_path / "out" / "masklets.json").read_text())
    count = sum(masklet is not None for masklet in annotation["masklet"])
    assert 4 <= count < 1200
    # Stopped between the two, a frame's PNG is there, but it is not yet in the list.
    (tmp_path / "out" / "masks" / f"{count:05d}.png").unlink(missing_ok=True)
    check_results(tmp_path / "out", list(range(count)), num_frames=1200, stopped=True)


def make_fail(monkeypatch, owner: type, name: str, error: BaseException, after: int = 0) -> None:
    """Make a method raise an error after a number of calls."""
    method, calls = getattr(owner, name), []

    def failing(*args, **kwargs):
        calls.append(name)
        if len(calls) > after:
            raise error
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FULL_DISK = OSError("cannot write it: the disk is full")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [POINT, ["--point", "4,16,24", "--both"]])
def test_resumed_run_equals_one_that_was_not_stopped(arguments, monkeypatch, checkpoint, png_folder, tmp_path, caplog):
    run = [str(png_folder), *TINY, *checkpoint, *arguments, "--output"]
    assert main([*run, str(tmp_path / "whole")]) == 0
    for count in (3, 4):  # frames of each part
        with monkeypatch.context() as patch:
            make_fail(patch, Tracker, "track", KeyboardInterrupt(), after=count)
            assert main([*run, str(tmp_path / "out"), "--resume"]) == 130
    assert "--resume continues from there" in caplog.text
    # As on a disk that is full, or of a process that is killed.
    with (tmp_path / "out" / ".frames.jsonl").open("a") as file:
        file.write('[5, {"1": {"si')
    with monkeypatch.context() as patch:
        make_fail(patch, Tracker, "track", KeyboardInterrupt(), after=2)
        assert main([*run, str(tmp_path / "out"), "--resume"]) == 130
    assert main([*run, str(tmp_path / "out"), "--resume"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("error", "status"), [(FULL_DISK, 1), (KeyboardInterrupt(), 130), (segment.Terminated(), 143)])
def test_what_was_tracked_outlives_a_failing_overlay(error, status, monkeypatch, checkpoint, png_folder, tmp_path):
    run = [str(png_folder), *TINY, *checkpoint, *POINT, "--output"]
    assert main([*run, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        make_fail(patch, VideoWriter, "write", error, after=5)
        assert main([*run, str(tmp_path / "out")]) == status
    assert {path.name for path in (tmp_path / "out").rglob(".*")} == PROGRESS
    (tmp_path / "out" / ".123.overlay.mp4").write_text("left by a killed process")
    monkeypatch.setattr(Tracker, "track", lambda *args: pytest.fail("it was tracked again"))
    assert main([*run, str(tmp_path / "out"), "--resume"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def replace(path: Path) -> None:
    """The same content, written later."""
    path.write_bytes(path.read_bytes())
    os.utime(path, (0, 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: replace(folder / "frames" / "00008.png"), "{folder}/frames/00008.png was changed"),
        (lambda folder: replace(folder / "mask.png"), "{folder}/mask.png was changed"),
        (lambda folder: replace(folder / "bundled.pt"), "{folder}/bundled.pt was changed"),
        (lambda folder: replace(folder / "own.yaml"), "{folder}/own.yaml was changed"),
        (lambda folder: [(folder / "frames" / f"{i:05d}.png").unlink() for i in (10, 11)], "00011.png were removed"),
        (lambda folder: [(folder / "frames" / f"{i:05d}.png").unlink() for i in range(1, 12)], "... (11 in all) were removed"),
        (lambda folder: shutil.copy(folder / "mask.png", folder / "frames" / "00012.png"), "00012.png was added"),
    ],
)
def test_resume_with_other_files(change, said, monkeypatch, caplog, checkpoint, png_folder, tmp_path):
    shutil.copytree(png_folder, tmp_path / "frames")
    Image.fromarray((np.mgrid[:48, :64][1] < 20).astype(np.uint8)).save(tmp_path / "mask.png")
    shutil.copy(checkpoint[1], tmp_path / "bundled.pt")
    (tmp_path / "own.yaml").write_text(f"{Path(TINY[1]).read_text()}\ncheckpoint: {tmp_path / 'bundled.pt'}\n")
    run = [str(tmp_path / "frames"), "--config", str(tmp_path / "own.yaml"), "--device", "cpu"]
    run += ["--mask", f"0,{tmp_path / 'mask.png'}", "--output", str(tmp_path / "out"), "--resume"]
    with monkeypatch.context() as patch:
        make_fail(patch, Tracker, "track", KeyboardInterrupt(), after=2)
        assert main(run) == 130
    change(tmp_path)
    before = contents(tmp_path / "out")
    check_error(caplog, run, "out/.settings.json belongs to a run with other settings: ", said.format(folder=tmp_path))
    assert contents(tmp_path / "out") == before


@pytest.mark.slow
@pytest.mark.parametrize("also", ["finish", "save"])
def test_first_error_is_the_one_reported(also, monkeypatch, caplog, checkpoint, broken_folder, tmp_path):
    owner = ResultWriter if also == "finish" else Tracking
    make_fail(monkeypatch, owner, also, ValueError("no such mask: 00003.png"))
    check_error(caplog, [str(broken_folder), *TINY, *checkpoint, *POINT, "--output", str(tmp_path / "out")], "00006.png")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "no such mask: 00003.png" in warnings


@pytest.mark.slow
def test_stopped_on_a_full_disk(monkeypatch, caplog, checkpoint, png_folder, tmp_path):
    """The status is that of the signal, and what was saved earlier stays usable."""
    run = [str(png_folder), *TINY, *checkpoint, *POINT, "--output"]
    assert main([*run, str(tmp_path / "whole")]) == 0
    for tracked, said in ((2, "there"), (4, "the last saved frame")):
        with monkeypatch.context() as patch:
            make_fail(patch, Tracker, "track", segment.Terminated(), after=tracked)
            if tracked == 4:
                make_fail(patch, torch, "save", FULL_DISK)
                make_fail(patch, VideoWriter, "write", FULL_DISK)
            assert main([*run, str(tmp_path / "out"), "--resume"]) == 143
        assert f"interrupted: writing the finished frames; --resume continues from {said}" in caplog.text
    assert main([*run, str(tmp_path / "out"), "--resume"]) == 0
    assert "resuming after 3 frames" in caplog.text
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_stopped_on_a_full_disk_before_anything_was_saved(monkeypatch, caplog, checkpoint, png_folder, tmp_path):
    run = [str(png_folder), *TINY, *checkpoint, *POINT, "--output", str(tmp_path / "out"), "--resume"]
    with monkeypatch.context() as patch:
        make_fail(patch, Tracker, "track", segment.Terminated(), after=2)
        make_fail(patch, torch, "save", FULL_DISK)
        assert main(run) == 143
    assert "--resume continues from the start" in caplog.text
    assert main(run) == 0
    check_results(tmp_path / "out", list(range(12)))


RUN = [*TINY, "--untrained", *POINT]


@pytest.fixture(scope="module")
def stopped_run(png_folder, tmp_path_factory) -> Path:
    """The output of a run that was stopped after 4 frames."""
    output = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patch:
        make_fail(patch, Tracker, "track", KeyboardInterrupt(), after=3)
        assert main([str(png_folder), *RUN, "--output", str(output)]) == 130
    return output


@pytest.fixture
def check_damaged(stopped_run, png_folder, caplog, monkeypatch, tmp_path):
    """Check that --resume refuses what a function made of the stopped run, before anything is tracked.

    Returns:
        The arguments of the run.
    """

    def check(damage: Callable[[Path], None], *named: str) -> list[str]:
        output = Path(shutil.copytree(stopped_run, tmp_path / "out"))
        damage(output)
        run = [str(png_folder), *RUN, "--output", str(output), "--resume"]
        with monkeypatch.context() as patch:
            patch.setattr(Tracker, "track", lambda *args: pytest.fail("work was done"))
            check_error(caplog, run, *named, f"Remove {output}/.session.pt, and --resume starts over")
        return run

    return check


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('[0, {"1": 5}]', "TypeError"),
        ('["a", {}]', "there is no frame a"),
        ("[1e999, {}]", "there is no frame inf"),
        ("[true, {}]", "there is no frame True"),
        ("[-1, {}]", "there is no frame -1"),
        ("[12, {}]", "there is no frame 12"),
        ("[0, {}]", "its objects are , not 1"),
        ('[0, ["1"]]', "AttributeError"),
        ("5", "TypeError"),
        ("[0]", "not enough values"),
        ("{", "JSONDecodeError"),
        ('[0, {"1": {"size": [48, 64], "counts": [3072]}}]', "a mask is not compressed"),
        ('[0, {"1": {"size": [48, 64], "counts": "PPk1"}}]', "does not fit its size"),
        ('[0, {"1": {"size": [64, 48], "counts": "PPk0"}}]', "its mask is 48x64 pixels"),
    ],
)
def test_resume_with_a_damaged_list_of_frames(line, said, check_damaged):
    def damage(output: Path) -> None:
        with (output / ".frames.jsonl").open("a") as file:
            file.write(line + "\n")

    check_damaged(damage, "out/.frames.jsonl, line 5, is unreadable or malformed: ", said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda output: (output / ".frames.jsonl").write_text(""), ".frames.jsonl lacks frames that were tracked: 0, 1, 2, 3"),
        (lambda output: (output / ".frames.jsonl").unlink(), "no such file: "),
        (lambda output: (output / "masks" / "00002.png").unlink(), "masks/00002.png is missing"),
    ],
)
def test_resume_without_some_results(damage, named, check_damaged, tmp_path):
    run = check_damaged(damage, named, ".frames.jsonl")
    (tmp_path / "out" / ".session.pt").unlink()  # as the error says
    assert main(run) == 0
    check_results(tmp_path / "out", list(range(12)))


@pytest.mark.slow
def test_resume_with_a_truncated_mask(stopped_run, png_folder, caplog, tmp_path):
    output = Path(shutil.copytree(stopped_run, tmp_path / "out"))
    (output / "masks" / "00002.png").write_bytes(b"")
    run = [str(png_folder), *RUN, "--output", str(output), "--resume"]
    check_error(
        caplog, run, "masks/00002.png is not a readable image", f"Remove {output}/.session.pt, and --resume starts over"
    )
    (output / ".session.pt").unlink()  # as the error says
    assert main(run) == 0
    check_results(output, list(range(12)))


@pytest.mark.parametrize(
    ("content", "said"), [("[]", "is a list, expected an object"), ("", "JSONDecodeError"), (None, "is a folder, not a file")]
)
def test_resume_with_damaged_settings(content, said, stopped_run, png_folder, caplog, tmp_path):
    output = Path(shutil.copytree(stopped_run, tmp_path / "out"))
    (output / ".settings.json").unlink()
    if content is None:
        (output / ".settings.json").mkdir()
    else:
        (output / ".settings.json").write_text(content)
    run = [str(png_folder), *RUN, "--output", str(output), "--resume"]
    check_error(caplog, run, f"{output}/.settings.json", said, f"Remove {output}, and --resume starts over")


@pytest.mark.slow
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_resume_with_a_session_that_is_not_a_file(make, check_damaged):
    def damage(output: Path) -> None:
        (output / ".session.pt").unlink()
        make(output / ".session.pt")

    check_damaged(damage, "out/.session.pt is a ", ", not a file")


def first_tracked(content: dict) -> dict:
    return next(iter(content["objects"][0]["tracked"].values()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["progress"].update(done=float("inf")), "progress is {'direction': 0, 'done': inf}"),
        (lambda content: content["progress"].update(done=True), "not whole numbers"),
        (lambda content: content["progress"].update(done=13), "its progress is impossible"),
        (lambda content: content["progress"].update(done=-1), "its progress is impossible"),
        (lambda content: content["progress"].update(direction=1), "its progress is impossible"),
        (lambda content: content["progress"].clear(), "its progress is impossible"),
        (lambda content: first_tracked(content)["pointer"].fill_(float("nan")), "the tensor pointer of frame 1 contains NaN"),
        (lambda content: first_tracked(content).update(pointer=torch.zeros(3)), "not those of this session"),
        (lambda content: first_tracked(content).update(pointer=3), "pointer of frame 1 is of type int"),
        (lambda content: first_tracked(content).update(nonsense=3), "KeyError: 'nonsense'"),
        (lambda content: content["objects"][0]["prompts"].clear(), "not those of this session"),
        (lambda content: content["objects"][0]["conditioning"].clear(), "not those of this session"),
        (lambda content: content["objects"][0]["tracked"].update({99: {}}), "there is no frame 99"),
        (lambda content: content["objects"][0].update(id=2), "not those of this session"),
        (lambda content: content["objects"].clear(), "not those of this session"),
        (lambda content: content.clear(), "KeyError: 'objects'"),
    ],
)
def test_resume_with_a_damaged_session(change, said, check_damaged):
    def damage(output: Path) -> None:
        content = torch.load(output / ".session.pt")
        change(content)
        save_checkpoint(output / ".session.pt", content)

    check_damaged(damage, "out/.session.pt", said)


def test_interrupted_while_the_model_is_built(monkeypatch, caplog, png_folder, tmp_path):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(segment, "build_i2v_video_predictor", interrupt)
    assert main([str(png_folder), *TINY, "--untrained", *POINT, "--output", str(tmp_path / "out")]) == 130
    assert "interrupted" in caplog.text


@pytest.mark.slow
def test_error_in_a_process(tmp_path):
    command = [sys.executable, "-m", "i2v.segment", "no-such-video", *TINY, "--untrained", *POINT, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: no such video file or folder of frames: no-such-video"


def test_a_frame_with_a_grid(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(png_folder), "--grid", "--frame", "3"]) == 0
    (path,) = tmp_path.glob("*-00003-grid.png")
    frame = open_frames(png_folder)[3]
    image = np.asarray(Image.open(path))
    factor = image.shape[0] // frame.shape[0]
    assert image.shape == (factor * frame.shape[0], factor * frame.shape[1], 3)
    # Between the lines, the pixels are those of the frame; on a line, half-way to white. Numbers are at the border.
    assert factor > 4
    x, y = 33, 27
    corner = image[y * factor, x * factor]
    np.testing.assert_allclose(corner, frame[y, x], atol=1)
    lined = 30
    np.testing.assert_allclose(image[y * factor, lined * factor + factor // 2], frame[y, lined] / 2 + 127.5, atol=1)
    assert main([str(png_folder), "--grid", "--frame", "99"]) == 1
    assert "99" in caplog.records[-1].getMessage()
    assert main([str(png_folder), "--grid", "--output", str(tmp_path / "new")]) == 0
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_output_is_required_without_a_grid(png_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(png_folder), *POINT])
    assert "required: --output" in capsys.readouterr().err
