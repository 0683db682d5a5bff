"""test_pvs.semi_supervised and test_pvs.runner: prompts that a system is given, masks that are saved, and resuming."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from i2v.data.mask_files import read_mask, save_label_image
from i2v.utils.jf import jf_scores
from sav_dataset.sav_evaluator import evaluate as sav_evaluate
from test_pvs import semi_supervised as benchmark
from test_pvs.clicks import INNER, box_around, correction_click, first_click
from test_pvs.datasets import EvaluationVideo, read_dataset
from test_pvs.finished_runs import read_run
from test_pvs.prompting import rounded_iou
from test_pvs.runner import parse_devices, run_videos
from test_pvs.runs import Run
from test_pvs.semi_supervised import semi_supervised
from test_pvs.systems import SystemSettings
from tests.conftest import examples_of_extending
from tests.test_pvs import layouts, stubs
from tests.test_pvs.layouts import APPEARS, HEIGHT, NAMES, NUM_FRAMES, WIDTH
from tests.test_pvs.stubs import RecordingSystem

PROJECT = Path(__file__).parents[2]
TINY_CONFIG = PROJECT / "tests/configs/tiny.yaml"
LABELS = layouts.discs(0)[1]
FIRST, SECOND = LABELS[0] == 1, LABELS[APPEARS] == 2  # the objects where they are prompted
LAST = NUM_FRAMES - 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with label images on every second frame; read-only."""
    return layouts.folders(tmp_path_factory.mktemp("data"), every=2)


@pytest.fixture
def video(data: Path) -> EvaluationVideo:
    return read_dataset("mose", data)[0]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def evaluate(system: RecordingSystem, video: EvaluationVideo, folder: Path, kind: str, **options: Any) -> dict[str, Any]:
    folder.mkdir()
    return semi_supervised(system, video, {"input": kind, **options}, folder)


def half(mask: np.ndarray, part: float) -> np.ndarray:
    """The left part of a mask, by columns of the frame."""
    left, _, right, _ = box_around(mask, INNER)
    return mask & (np.arange(WIDTH) <= left + part * (right - left))


def saved(folder: Path, obj: int, frame: int) -> np.ndarray:
    return read_mask(folder / f"{obj:03d}" / f"{frame:05d}.png")


def test_masks_are_given_where_objects_appear(video: EvaluationVideo, output: Path) -> None:
    system = RecordingSystem((HEIGHT, WIDTH))
    result = evaluate(system, video, output, "gm")
    assert system.calls == [
        ("prompt", 0, 1, "mask"),
        ("propagate", 0, APPEARS - 1),
        ("prompt", APPEARS, 2, "mask"),
        ("propagate", APPEARS, LAST),
    ]
    assert [(prompt["frame"], prompt["object"], prompt["iou"]) for prompt in result["prompts"]] == [(0, 1, 1), (APPEARS, 2, 1)]


def test_masks_of_annotated_frames_are_saved_and_empty_before_an_object_appears(video: EvaluationVideo, output: Path) -> None:
    evaluate(RecordingSystem((HEIGHT, WIDTH)), video, output, "gm")
    names = [f"{frame:05d}.png" for frame in range(0, NUM_FRAMES, 2)]
    assert {path.name: sorted(file.name for file in path.iterdir()) for path in output.iterdir()} == {
        "001": names,
        "002": names,
    }
    assert np.array_equal(saved(output, 1, 2), FIRST)
    assert not saved(output, 2, 2).any()
    assert np.array_equal(saved(output, 2, APPEARS), SECOND)


def test_all_frames_are_saved_on_request(video: EvaluationVideo, output: Path) -> None:
    evaluate(RecordingSystem((HEIGHT, WIDTH)), video, output, "gm", all_frames=True)
    assert len(list((output / "001").iterdir())) == NUM_FRAMES


def test_frames_before_the_first_object_have_empty_masks(tmp_path: Path, output: Path) -> None:
    root = layouts.sav(tmp_path / "sav")
    for path in (root / "Annotations_6fps/one/000").iterdir():  # the one object that is left appears in frame 4
        path.unlink()
    (root / "Annotations_6fps/one/000").rmdir()
    system = RecordingSystem((HEIGHT, WIDTH))
    evaluate(system, read_dataset("sav", root)[0], output, "gm")
    assert system.calls == [("prompt", 4, 1, "mask"), ("propagate", 4, LAST)]
    assert [saved(output, 1, frame).any() for frame in (0, 4, 8)] == [False, True, True]


def test_objects_do_not_overlap_where_the_ground_truth_does_not(video: EvaluationVideo, output: Path) -> None:
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    evaluate(RecordingSystem((HEIGHT, WIDTH), {(1, 1): everywhere, (2, 1): SECOND}), video, output, "1c")
    assert np.array_equal(saved(output, 1, 6), ~SECOND)  # the stub's higher number has the higher score
    assert np.array_equal(saved(output, 2, 6), SECOND)


def test_objects_may_overlap_in_sav(tmp_path: Path, output: Path) -> None:
    (video, _) = read_dataset("sav", layouts.sav(tmp_path / "sav"))
    everywhere = np.ones((HEIGHT, WIDTH), bool)
    evaluate(RecordingSystem((HEIGHT, WIDTH), {(0, 1): everywhere, (1, 1): SECOND}), video, output, "1c")
    assert saved(output, 0, 8).all()
    assert np.array_equal(saved(output, 1, 8), SECOND)


def test_boxes(video: EvaluationVideo, output: Path) -> None:
    system = RecordingSystem((HEIGHT, WIDTH))
    result = evaluate(system, video, output, "bb")
    prompts = [call for call in system.calls if call[0] == "prompt"]
    assert prompts == [("prompt", 0, 1, box_around(FIRST)), ("prompt", APPEARS, 2, box_around(SECOND))]
    assert [tuple(prompt["box"]) for prompt in result["prompts"]] == [box_around(FIRST), box_around(SECOND)]
    assert result["prompts"][0]["iou"] == pytest.approx(FIRST.sum() / 18**2, abs=1e-6)


def test_boxes_whose_sides_lie_on_the_last_pixels(video: EvaluationVideo, output: Path) -> None:
    result = evaluate(RecordingSystem((HEIGHT, WIDTH)), video, output, "bb", box_edges="inner")
    assert [tuple(prompt["box"]) for prompt in result["prompts"]] == [box_around(FIRST, INNER), box_around(SECOND, INNER)]


def test_a_single_click_is_given_once(video: EvaluationVideo, output: Path) -> None:
    system = RecordingSystem((HEIGHT, WIDTH), {(1, 1): FIRST, (2, 1): SECOND})
    evaluate(system, video, output, "1c")
    assert [len(points) for points in clicks_of(system, 1)] == [1]


def clicks_of(system: RecordingSystem, obj: int) -> list[Any]:
    return [call[3] if call[0] == "prompt" else call[0] for call in system.calls if call[0] != "propagate" and call[2] == obj]


def test_three_clicks_each_where_the_prediction_was_wrong(video: EvaluationVideo, output: Path) -> None:
    answers = {(1, 1): half(FIRST, 0.3), (1, 2): half(FIRST, 0.6), (1, 3): FIRST | half(SECOND, 0.1)}
    answers |= {(2, number): half(SECOND, 0.2 * number) for number in (1, 2, 3)}
    system = RecordingSystem((HEIGHT, WIDTH), answers)
    result = evaluate(system, video, output, "3c")
    expected = [(*first_click(FIRST), 1)]
    expected += [correction_click(FIRST, answers[1, number]) for number in (1, 2)]
    # All three are the best, and are given once more.
    assert clicks_of(system, 1) == [expected[:1], expected[:2], expected, expected]
    prompt = result["prompts"][0]
    assert [(click["frame"], click["obj"], click["x"], click["y"], click["label"]) for click in prompt["clicks"]] == [
        (0, 1, *click) for click in expected
    ]
    assert prompt["used"] == 3
    assert prompt["iou"] == prompt["clicks"][2]["iou"] == pytest.approx(FIRST.sum() / answers[1, 3].sum(), abs=1e-6)


@pytest.mark.parametrize("rule", ["once-more", "anew"])
def test_the_best_prefix_is_used(video: EvaluationVideo, output: Path, rule: str) -> None:
    """As published, it is given once more without clearing the third click; or it is repeated from scratch."""
    answers = {(1, 1): half(FIRST, 0.5), (1, 2): half(FIRST, 0.9), (1, 3): half(FIRST, 0.2)}
    answers |= {(2, 1): half(SECOND, 0.9), (2, 2): half(SECOND, 0.5), (2, 3): half(SECOND, 0.9)}
    system = RecordingSystem((HEIGHT, WIDTH), answers)
    result = evaluate(system, video, output, "3c", best_clicks=rule)
    assert [prompt["used"] for prompt in result["prompts"]] == [2, 1]  # of equally good prefixes the shortest
    first, second = (clicks_of(system, obj) for obj in (1, 2))
    ends = {"once-more": ([2], [1]), "anew": (["clear", 1, 2], ["clear", 1])}[rule]
    assert [call if call == "clear" else len(call) for call in first] == [1, 2, 3, *ends[0]]
    assert [call if call == "clear" else len(call) for call in second] == [1, 2, 3, *ends[1]]
    assert first[-1] == first[1]
    assert np.array_equal(saved(output, 1, 8), answers[1, 2])
    assert np.array_equal(saved(output, 2, 8), answers[2, 1])
    assert len(result["prompts"][0]["clicks"]) == 3  # all of them are in the log


def test_no_click_where_nothing_is_wrong(video: EvaluationVideo, output: Path) -> None:
    system = RecordingSystem((HEIGHT, WIDTH), {(1, 1): FIRST, (2, 1): half(SECOND, 0.5), (2, 2): SECOND})
    result = evaluate(system, video, output, "3c")
    assert [len(prompt["clicks"]) for prompt in result["prompts"]] == [1, 2]
    assert [prompt["used"] for prompt in result["prompts"]] == [1, 2]


def test_sampled_clicks_repeat(video: EvaluationVideo, tmp_path: Path) -> None:
    answers = {(obj, 1): np.ones((HEIGHT, WIDTH), bool) for obj in (1, 2)}
    results = [
        evaluate(RecordingSystem((HEIGHT, WIDTH), answers), video, tmp_path / str(i), "1c", seed=seed)["prompts"]
        for i, seed in enumerate((1, 1, 2))
    ]
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("text", ["0c", "c", "gt", "3", "-1c"])
def test_unknown_input_is_refused_at_once(text: str, data: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(data, output, f"--input={text}")
    assert "3c" in capsys.readouterr().err
    assert not output.exists()


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_devices("cpu") == ["cpu"]
    assert parse_devices("cpu:3") == ["cpu"] * 3
    for text in ("gpu", "cuda:x", "cpu:0"):
        with pytest.raises(ValueError, match=text):
            parse_devices(text)
    if not torch.cuda.is_available():
        assert parse_devices("") == ["cpu"]
        with pytest.raises(ValueError, match="no device"):
            parse_devices("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parse_devices("cuda:0,cuda:1") == parse_devices("cuda") == ["cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="no device cuda:2: PyTorch finds 2"):
        parse_devices("cuda:2")


def run(data: Path, output: Path, *options: str) -> int:
    """Run the command line in this process, by default with static masks on the CPU."""
    defaults = ["--input", "gm", "--system", "static-mask", "--devices", "cpu"]
    return benchmark.main(["mose", str(data), "--output", str(output), *defaults, *options])


def files_of(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*.png")}


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def prompts_of(output: Path) -> dict[str, Any]:
    videos = json.loads((output / "results.json").read_text())["videos"]
    return {name: result["prompts"] for name, result in videos.items()}


@pytest.mark.slow
def test_two_workers_give_the_same_as_one(data: Path, tmp_path: Path) -> None:
    options = ("--input", "3c", "--system", "optical-flow")
    assert run(data, tmp_path / "1", *options) == 0
    assert run(data, tmp_path / "2", *options, "--devices", "cpu:2") == 0
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert len(files_of(tmp_path / "1")) == 2 * 2 * NUM_FRAMES / 2
    assert prompts_of(tmp_path / "1") == prompts_of(tmp_path / "2")
    assert set(prompts_of(tmp_path / "1")) == set(NAMES)


@pytest.mark.slow
def test_a_bad_video_is_reported_and_does_not_stop_the_others(
    tmp_path: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = layouts.folders(tmp_path / "data")
    mask = root / "Annotations/one/00004.png"
    good = mask.read_bytes()
    mask.write_bytes(good[:50])
    assert run(root, output) == 1
    failures = json.loads((output / "results.json").read_text())["failures"]
    assert list(failures) == ["one"]
    assert "00004.png" in failures["one"]
    assert "Traceback" in failures["one"]
    assert "one" in caplog.text
    assert entries(output / "masks") == ["two"]  # nothing of the bad video is left, visible or hidden
    mask.write_bytes(good)
    assert run(root, output) == 0  # it is done when it can be
    assert set(prompts_of(output)) == set(NAMES)
    assert json.loads((output / "results.json").read_text())["failures"] == {}


@pytest.mark.slow
def test_a_failed_video_leaves_nothing_in_memory(data: Path, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    failures = run_videos(Run(stubs.out_of_memory, {}, SystemSettings("static-mask"), "mose", data, output), ["cpu"])
    assert list(failures) == list(NAMES)
    assert all(text.endswith("\nMemoryError: beside 0 earlier sessions\n") for text in failures.values())
    assert "failed: two: MemoryError: beside 0 earlier sessions" in caplog.text


@pytest.mark.slow
def test_a_run_on_some_videos_keeps_the_results_of_the_others(tmp_path: Path, output: Path) -> None:
    root = layouts.folders(tmp_path / "data")
    mask = root / "Annotations/one/00004.png"
    good = mask.read_bytes()
    mask.write_bytes(good[:50])

    def results(*names: str) -> tuple[int, int, list[str], list[str]]:
        status = run(root, output, "--videos", *names)
        content = json.loads((output / "results.json").read_text())
        return status, content["dataset_videos"], list(content["videos"]), list(content["failures"])

    assert results("one") == (1, 2, [], ["one"])
    assert results("two") == (0, 2, ["two"], ["one"])
    mask.write_bytes(good)
    assert results("one") == (0, 2, ["one", "two"], [])
    assert results("two") == (0, 2, ["one", "two"], [])


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("STUB_DIE", "one")
    assert run(data, output, "--system", "tests.test_pvs.stubs:unusual", "--devices", "cpu:2") == 1
    results = json.loads((output / "results.json").read_text())
    assert list(results["failures"]) == ["one"]
    assert list(results["videos"]) == ["two"]


def test_a_system_that_cannot_be_built_ends_the_run(data: Path, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(data, output, "--system", "tests.test_pvs.stubs:broken", "--config", "a unicorn") == 1
    assert "no such thing as a unicorn" in caplog.text
    assert not output.exists()
    assert run(data, output, "--videos", "one") == 0  # it is free for other settings


def test_a_folder_with_other_settings_is_refused(data: Path, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(data, output, "--videos", "one") == 0
    assert run(data, output, "--input", "bb") == 1
    assert "input was gm, is bb" in caplog.text
    assert run(data, output) == 0  # more videos, and other devices, are no other settings
    assert set(prompts_of(output)) == set(NAMES)


def test_settings_that_a_baseline_ignores_are_not_recorded(data: Path, output: Path) -> None:
    ignored = ("--config", "i2v-infer", "--checkpoint", "none.pt", "--precision", "bf16", "--overrides", "a=1")
    assert run(data, output, "--videos", "one", *ignored) == 0
    assert run(data, output, "--videos", "one") == 0
    settings = json.loads((output / "settings.json").read_text())
    assert {name: settings[name] for name in ("system", "config", "checkpoint", "precision", "overrides")} == {
        "system": "static-mask",
        "config": None,
        "checkpoint": None,
        "precision": None,
        "overrides": [],
    }


@pytest.mark.parametrize("kind", ["weights", "config"])
def test_a_run_is_not_resumed_with_a_replaced_file(
    kind: str, data: Path, output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    file = tmp_path / "file"
    option = "--checkpoint" if kind == "weights" else "--config"
    command = (data, output, "--system", "tests.test_pvs.stubs:unusual", option, str(file), "--videos")
    file.write_text("old")
    assert run(*command, "one") == 0
    file.write_text("new")
    assert run(*command, "two") == 1
    assert f"{kind}_sha256 was " in caplog.text
    file.write_text("old")
    assert run(*command, "two") == 0


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "STUB_LOG": str(tmp_path / "log"), **variables}


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        # A process that ended and was not waited for is still listed, as a zombie.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def unusual_run(data: Path, output: Path, devices: str) -> list[str]:
    """The command line of a run that environment variables disturb."""
    command = [sys.executable, "-m", "test_pvs.semi_supervised", "mose", str(data), "--output", str(output), "--input", "gm"]
    return [*command, "--system", "tests.test_pvs.stubs:unusual", "--devices", devices]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_a_killed_run_is_resumed_and_repeats_nothing(devices: str, data: Path, output: Path, tmp_path: Path) -> None:
    command = unusual_run(data, output, devices)
    log = tmp_path / "log"
    process = subprocess.Popen(command, env=environment(tmp_path, STUB_HANG="two"), cwd=tmp_path)
    try:
        wait_until(lambda: log.with_suffix(".hangs").exists() and (output / "masks/one").exists())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    lines = log.read_text().split()
    assert sorted(lines[::2]) == ["one", "two"]
    wait_until(lambda: not any(is_running(int(worker)) for worker in lines[1::2]), 10)  # no worker survives
    assert (output / "masks/.two.partial/001/00000.png").exists()  # half-written
    assert not (output / "masks/two").exists()
    log.unlink()
    subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, check=True, timeout=120)
    assert log.read_text().split()[::2] == ["two"]  # the finished video is not done again
    assert entries(output / "masks") == ["one", "two"]
    assert run(data, tmp_path / "whole") == 0
    assert files_of(output) == files_of(tmp_path / "whole")
    assert set(prompts_of(output)) == set(NAMES)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_two_runs_do_not_write_into_one_folder(
    data: Path, output: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = subprocess.Popen(
        unusual_run(data, output, "cpu"),
        env=environment(tmp_path, STUB_HANG="one"),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until((tmp_path / "log.hangs").exists)
        half_written = files_of(output / "masks")
        assert run(data, output, "--system", "tests.test_pvs.stubs:unusual") == 1
        assert f"another run writes into {output}" in caplog.text
        assert files_of(output / "masks") == half_written
    finally:
        process.kill()
        process.wait()


def test_a_video_that_another_run_finished_meanwhile(data: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_FINISHED", str(output / "masks/one"))
    assert run(data, output, "--system", "tests.test_pvs.stubs:overtaken") == 0
    assert prompts_of(output)["one"] == ["of another run"]
    assert set(prompts_of(output)) == set(NAMES)


@pytest.mark.skipif(os.name != "posix", reason="the lock is POSIX's")
def test_a_file_system_without_locks(
    data: Path, output: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    assert run(data, output) == 0
    assert f"{output} cannot be locked" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["cpu", "cpu:2"])
def test_ctrl_c_stops_a_run_in_the_middle_of_a_video(devices: str, data: Path, output: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        unusual_run(data, output, devices),
        env=environment(tmp_path, STUB_HANG="one"),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until((tmp_path / "log.hangs").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    finally:
        process.kill()
    assert "one" not in entries(output / "masks")
    workers = [int(line.split()[1]) for line in (tmp_path / "log").read_text().splitlines()]
    wait_until(lambda: not any(map(is_running, workers)))


def run_script(name: str, tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(PROJECT / "test_pvs" / name), *arguments],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": "", **variables},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_user_defined_system_of_the_documentation(data: Path, tmp_path: Path) -> None:
    (tmp_path / "drift.py").write_text(examples_of_extending()["drift.py"])
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm", "PYTHONPATH": str(tmp_path)}
    done = run_script("semi_infer.sh", tmp_path, SYSTEM="drift:build", INPUT="gm", DEVICES="cpu", VIDEOS="one", **where)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(saved(tmp_path / "gm/masks/one", 1, 2), np.roll(FIRST, 2, axis=1))


def global_score(output: str) -> list[float]:
    (line,) = (line for line in output.splitlines() if line.startswith("Global score  "))
    return [float(number) for number in line.split()[2:]]


@pytest.mark.slow
def test_sam_i2v_through_the_scripts(data: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    where = {"DATASET": "mose", "DATA": str(data), "OUT": str(tmp_path / "the output")}
    model = {"CONFIG": str(TINY_CONFIG), "CKPT": str(tiny_checkpoint), "DEVICES": "cpu"}
    done = run_script("semi_infer.sh", tmp_path, "--videos", "one", INPUT="3c", **model, **where)
    assert done.returncode == 0, done.stderr
    (prompts,) = prompts_of(tmp_path / "the output").values()
    assert [(prompt["frame"], prompt["object"]) for prompt in prompts] == [(0, 1), (APPEARS, 2)]
    assert all(1 <= prompt["used"] <= len(prompt["clicks"]) <= 3 for prompt in prompts)
    assert all(prompt["clicks"][prompt["used"] - 1]["iou"] == max(c["iou"] for c in prompt["clicks"]) for prompt in prompts)
    masks = tmp_path / "the output/masks"
    # Alone in its frame, the first object has there the mask of the clicks that were used.
    assert rounded_iou(FIRST, saved(masks / "one", 1, 0)) == prompts[0]["iou"]
    done = run_script("semi_eval.sh", tmp_path, "-n", "1", "--strict", VIDEOS="one", **where)
    assert done.returncode == 0, done.stderr
    frames = range(0, NUM_FRAMES, 2)
    truth = np.stack([[LABELS[frame] == obj for obj in (1, 2)] for frame in frames])
    found = np.stack([[saved(masks / "one", obj, frame) for obj in (1, 2)] for frame in frames])
    scores = [(score.j_and_f, score.j, score.f) for score in jf_scores(truth, found)]
    assert global_score(done.stdout) == pytest.approx(np.mean(scores, axis=0), abs=0.051)  # printed with one decimal
    assert (masks / "results.csv").exists()


@pytest.mark.slow
def test_scores_are_those_of_the_masks(tmp_path: Path) -> None:
    """A static mask of an object that does not move is perfect, but a click on it is not."""
    frames, labels = layouts.discs(0)
    layouts.write_frames(tmp_path / "data/JPEGImages/still", np.repeat(frames[:1], 6, axis=0))
    layouts.write_labels(tmp_path / "data/Annotations/still", np.repeat(labels[:1], 6, axis=0))
    where = {"DATASET": "mose", "DATA": str(tmp_path / "data"), "OUT": "gm"}
    done = run_script("semi_infer.sh", tmp_path, INPUT="gm", SYSTEM="static-mask", DEVICES="cpu", **where)
    assert done.returncode == 0, done.stderr
    assert global_score(run_script("semi_eval.sh", tmp_path, "-n", "1", **where).stdout) == [100, 100, 100]
    assert run(tmp_path / "data", tmp_path / "1c", "--input", "1c") == 0
    (result,) = sav_evaluate(tmp_path / "gm/ground_truth", tmp_path / "1c/masks", strict=True)
    assert result.scores["001"].j < 50


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text('{"prom'), lambda path: path.write_text("[]")])
def test_a_finished_video_without_its_result_is_evaluated_again(
    damage: Callable[[Path], Any], data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "gm"
    assert run(data, output) == 0
    expected = results_without_times(output)
    other = (output / "masks/two/result.json").stat().st_mtime_ns
    damage(output / "masks/one/result.json")
    (output / "masks/one/001/00004.png").unlink()
    assert run(data, output) == 0
    assert results_without_times(output) == expected
    assert (output / "masks/one/001/00004.png").exists()
    assert (output / "masks/two/result.json").stat().st_mtime_ns == other


def results_without_times(output: Path) -> dict[str, Any]:
    videos = json.loads((output / "results.json").read_text())["videos"]
    return {name: result | {"seconds": 0} for name, result in videos.items()}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"failures": 3}', '{"failures": {"one": 3}}'])
def test_broken_results_are_rewritten(content: str, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(data, tmp_path / "gm") == 0
    path = tmp_path / "gm/results.json"
    expected = path.read_text()
    path.write_text(content)
    assert run(data, tmp_path / "gm") == 0
    assert path.read_text() == expected
    (warning,) = [line for line in caplog.messages if "it is rewritten" in line]
    assert str(path) in warning


def blind(settings: SystemSettings) -> RecordingSystem:
    """A system that predicts empty masks."""
    return RecordingSystem((HEIGHT, WIDTH), {(obj, 1): np.zeros((HEIGHT, WIDTH), bool) for obj in (1, 2)})


def test_a_run_with_empty_masks_says_so(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    warning = f"every mask in {tmp_path / 'blind/masks'} is empty"
    assert run(data, tmp_path / "gm") == 0
    assert "is empty" not in caplog.text
    monkeypatch.setitem(sys.modules, "own_systems", sys.modules[__name__])
    arguments = ["mose", str(data), "--output", str(tmp_path / "blind"), "--input", "1c", "--devices", "cpu"]
    assert benchmark.main([*arguments, "--system", "own_systems:blind"]) == 0
    assert warning in caplog.text


@pytest.mark.slow
def test_a_killed_evaluation_keeps_the_previous_one(data: Path, tmp_path: Path) -> None:
    """The script is killed while it scores: a stand-in for Python waits there."""
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    assert run(data, tmp_path / "gm") == 0
    assert run_script("semi_eval.sh", tmp_path, "-n", "1", **where).returncode == 0
    table = (tmp_path / "gm/masks/results.csv").read_text()
    truth = sorted(path.relative_to(tmp_path) for path in (tmp_path / "gm/ground_truth").rglob("*"))
    slow = tmp_path / "slow"
    slow.write_text(
        f'#!/bin/sh\ncase "$*" in *sav_evaluator*) touch reached; sleep 100;; *) exec "{sys.executable}" "$@";; esac\n'
    )
    slow.chmod(0o755)
    environment = {**os.environ, **where, "PYTHON": str(slow)}
    script = ["sh", str(PROJECT / "test_pvs/semi_eval.sh")]
    process = subprocess.Popen(script, env=environment, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "reached").exists)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (tmp_path / "gm/masks/results.csv").read_text() == table
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "gm/ground_truth").rglob("*")) == truth
    # What it left is not in the way of the next one.
    assert run_script("semi_eval.sh", tmp_path, "-n", "1", **where).returncode == 0
    assert not (tmp_path / "gm/ground_truth.new").exists()


@pytest.mark.slow
def test_a_failed_evaluation_sets_the_previous_one_aside(data: Path, tmp_path: Path) -> None:
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    assert run(data, tmp_path / "gm") == 0
    assert run_script("semi_eval.sh", tmp_path, "-n", "1", **where).returncode == 0
    table = (tmp_path / "gm/masks/results.csv").read_text()
    for variables, message in (
        ({"VIDEOS": "three"}, "has no video three"),
        ({"DATA": "nowhere"}, "no such folder: nowhere"),
        ({"VOID": "255"}, "settings.json: the run's void is None, not 255"),
        ({"DATASET": "youtubevos"}, "settings.json: the run's dataset is mose, not youtubevos"),
    ):
        done = run_script("semi_eval.sh", tmp_path, "-n", "1", **{**where, **variables})
        assert done.returncode == 1
        assert message in done.stderr
        assert not (tmp_path / "gm/masks/results.csv").exists()
        assert (tmp_path / "gm/masks/results.old.csv").read_text() == table
    assert run_script("semi_eval.sh", tmp_path, "-n", "1", **where).returncode == 0
    assert not (tmp_path / "gm/masks/results.old.csv").exists()


def scored_videos(output: Path) -> set[str]:
    """The videos in the evaluator's table."""
    lines = (output / "masks/results.csv").read_text().splitlines()
    return {line.split(",")[0].strip() for line in lines[2:]}  # the first two are the header and the mean


@pytest.mark.slow
def test_each_evaluation_uses_the_requested_videos_and_current_annotations(tmp_path: Path) -> None:
    data = layouts.folders(tmp_path / "data", every=4)
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    done = run_script("semi_infer.sh", tmp_path, INPUT="gm", SYSTEM="static-mask", DEVICES="cpu", VIDEOS="one", **where)
    assert done.returncode == 0, done.stderr
    assert entries(tmp_path / "gm/masks") == ["one"]
    assert run(data, tmp_path / "gm") == 0
    moving = run_script("semi_eval.sh", tmp_path, "-n", "1", **where)
    assert scored_videos(tmp_path / "gm") == set(NAMES)
    assert global_score(moving.stdout)[0] < 100
    for path in (data / "Annotations/one").iterdir():  # the object does not move any more
        save_label_image(path, LABELS[0])
    still = run_script("semi_eval.sh", tmp_path, "-n", "1", VIDEOS="one", **where)
    assert scored_videos(tmp_path / "gm") == {"one"}
    assert global_score(still.stdout) == [100, 100, 100]


@pytest.mark.slow
def test_masks_of_an_unfinished_run_are_scored_with_a_warning(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "gm") == 0
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    assert "not finished" not in run_script("semi_eval.sh", tmp_path, "-n", "1", **where).stderr
    (tmp_path / "gm/results.json").unlink()  # written at the end of a run
    assert "this run was not finished" in run_script("semi_eval.sh", tmp_path, "-n", "1", **where).stderr


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["JPEGImages/one/00006.jpg", "Annotations/one/00006.png"])
def test_a_video_that_lacks_frames_or_masks_fails(missing: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise fewer, perhaps easier frames would be scored."""
    data = layouts.folders(tmp_path / "data")
    (data / missing).unlink()
    arguments = ["pumavos", str(data), "--output", str(tmp_path / "out"), "--system", "static-mask", "--devices", "cpu"]
    assert benchmark.main(arguments) == 1
    assert "failed: one: ValueError" in caplog.text
    assert entries(tmp_path / "out/masks") == ["two"]


@pytest.mark.slow
def test_videos_without_objects_are_left_out(tmp_path: Path) -> None:
    data = layouts.folders(tmp_path / "data", every=4)
    for path in (data / "Annotations/one").iterdir():
        save_label_image(path, np.zeros_like(LABELS[0]))
    assert run(data, tmp_path / "gm") == 0
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    assert run_script("semi_eval.sh", tmp_path, "-n", "1", "--strict", **where).returncode == 0
    assert scored_videos(tmp_path / "gm") == {"two"}
    assert read_run(tmp_path / "gm").missing == ""


@pytest.mark.slow
def test_the_report_has_the_scores_of_the_last_evaluation(tmp_path: Path) -> None:
    data = layouts.folders(tmp_path / "data", every=2)
    assert run(data, tmp_path / "gm") == 0
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    done = run_script("semi_eval.sh", tmp_path, "-n", "1", **where)
    assert read_run(tmp_path / "gm").j_and_f == pytest.approx(global_score(done.stdout)[0], abs=0.051)
    # The table says nothing of frames that are usually left out, and nothing at all after an error.
    done = run_script("semi_eval.sh", tmp_path, "-n", "1", "--do_not_skip_first_and_last_frame", **where)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ValueError, match="the first and last frame are scored too"):
        read_run(tmp_path / "gm")
    (tmp_path / "gm/masks/one/001/00004.png").unlink()
    assert run_script("semi_eval.sh", tmp_path, "-n", "1", "--strict", **where).returncode == 1
    with pytest.raises(ValueError, match="not scored"):
        read_run(tmp_path / "gm")


@pytest.mark.slow
def test_videos_whose_ground_truth_is_broken_are_named_and_the_others_scored(tmp_path: Path) -> None:
    data = layouts.folders(tmp_path / "data", every=4)
    assert run(data, tmp_path / "gm") == 0
    where = {"DATASET": "mose", "DATA": str(data), "OUT": "gm"}
    path = data / "Annotations/one/00004.png"
    path.write_bytes(path.read_bytes()[:50])
    done = run_script("semi_eval.sh", tmp_path, "-n", "1", **where)
    assert done.returncode == 1
    assert scored_videos(tmp_path / "gm") == {"two"}
    assert global_score(done.stdout)
    *_, heading, last = done.stderr.splitlines()
    assert "not scored" in heading
    assert last.startswith("one: ")
    assert "00004.png" in last
    # Nothing is scored where the data set cannot be read.
    (tmp_path / "gm/masks/results.csv").unlink()
    done = run_script("semi_eval.sh", tmp_path, **where, VIDEOS="three")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("has no video three")
    assert not (tmp_path / "gm/masks/results.csv").exists()


def test_nothing_is_written_where_there_are_no_masks(tmp_path: Path) -> None:
    done = run_script("semi_eval.sh", tmp_path, DATASET="mose", DATA=str(layouts.folders(tmp_path / "data")), OUT="wrong")
    assert done.returncode == 1
    assert "error: no such folder: wrong/masks" in done.stderr
    assert entries(tmp_path) == ["data"]


def test_scripts_say_which_variable_is_missing(tmp_path: Path) -> None:
    for script in ("semi_infer.sh", "semi_eval.sh"):
        done = run_script(script, tmp_path, DATASET="mose", OUT="out")
        assert done.returncode != 0
        assert "DATA:" in done.stderr


def test_scripts_without_variables_run_the_published_test(tmp_path: Path) -> None:
    if (PROJECT / "data/sav_test").exists():
        pytest.skip("SAV-Test is here: it would be run")
    for script in ("semi_infer.sh", "semi_eval.sh"):
        done = run_script(script, tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert f"no such folder: {PROJECT}/data/sav_test: put SAV-Test there, or set DATASET, DATA and OUT" in done.stderr


@pytest.mark.slow
def test_weights_are_needed(data: Path, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run(data, output, "--system", "sam-i2v", "--config", str(TINY_CONFIG)) == 1
    assert "no bundled weights" in caplog.text
