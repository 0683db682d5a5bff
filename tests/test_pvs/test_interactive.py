"""test_pvs.interactive: which frames are corrected, the number of clicks, when it stops, and the scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2v.data.mask_files import read_mask
from i2v.utils.jf import boundary_accuracy, region_similarity
from test_pvs import interactive
from test_pvs.clicks import correction_click, first_click
from test_pvs.datasets import EvaluationVideo, read_dataset
from test_pvs.interactive import mean_curve, offline, online, replay, summarise
from test_pvs.systems import OpticalFlow
from tests.test_pvs import layouts
from tests.test_pvs.layouts import APPEARS, HEIGHT, NAMES, NUM_FRAMES, WIDTH
from tests.test_pvs.stubs import ErringSystem, Error

PROJECT = Path(__file__).parents[2]
LAST = NUM_FRAMES - 1
GONE = 8  # from here on the first object is gone in `vanishing`
NOTHING = np.zeros((HEIGHT, WIDTH), bool)


def only_first(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 1, labels, 0)


LABELS = only_first(layouts.discs(0)[1])
VANISHING = np.where(np.arange(NUM_FRAMES)[:, None, None] < GONE, LABELS, 0)


def write_video(root: Path, labels: np.ndarray) -> EvaluationVideo:
    """A video with annotations of every second frame."""
    layouts.write_frames(root / "JPEGImages/video", layouts.discs(0)[0])
    layouts.write_labels(root / "Annotations/video", labels, every=2)
    return read_dataset("mose", root)[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of two objects, annotated in every second frame; read-only."""
    return layouts.folders(tmp_path_factory.mktemp("data"), every=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> EvaluationVideo:
    """One object in all frames."""
    return write_video(tmp_path_factory.mktemp("video"), LABELS)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


def part_of(frame: int, part: float) -> np.ndarray:
    """The left columns of the first object in a frame, with an IoU of `part` or a little more."""
    mask = LABELS[frame] == 1
    columns = np.cumsum(mask.sum(axis=0)) / mask.sum()
    return mask & (np.arange(WIDTH) <= np.argmax(columns >= part))


def lost_in(*frames: int) -> list[Error]:
    """The first object is lost in each of these frames, again after a correction."""
    return [Error(1, frame, frame, NOTHING) for frame in frames]


def run_online(system: ErringSystem, video: EvaluationVideo, folder: Path, **options: Any) -> dict[str, Any]:
    defaults = {"clicks": 1, "frames": 8, "threshold": 0.75, "curve": False, "seed": None}
    return online(system, video, {**defaults, **options}, folder)


def run_offline(system: ErringSystem, video: EvaluationVideo, folder: Path, **options: Any) -> dict[str, Any]:
    defaults = {"clicks": 1, "frames": 8, "again": "clicks", "seed": None}
    return offline(system, video, {**defaults, **options}, folder)


def corrected(result: dict[str, Any]) -> list[tuple[int, int]]:
    """The interacted frames of the only object, with the number of clicks in each."""
    (entry,) = result["objects"]
    return [(interaction["frame"], len(interaction["clicks"])) for interaction in entry["interactions"]]


def curve_of(result: dict[str, Any]) -> dict[int, float]:
    (entry,) = result["objects"]
    return {point["frames"]: point["j_and_f"] for point in entry["curve"]}


def saved(folder: Path, frame: int, obj: int = 1) -> np.ndarray:
    return read_mask(folder / f"{obj:03d}" / f"{frame:05d}.png")


def test_nothing_to_correct(video: EvaluationVideo, output: Path) -> None:
    system = ErringSystem(LABELS)
    result = run_online(system, video, output)
    click = (*first_click(LABELS[0] == 1), 1)
    assert system.calls == [("prompt", 0, 1, [click]), ("propagate", 0, LAST)]
    assert result["objects"][0]["first_frame"] == 0
    assert corrected(result) == [(0, 1)]
    assert curve_of(result) == dict.fromkeys(range(1, 9), 100)  # more frames would change nothing


@pytest.mark.parametrize("clicks", [1, 3, 5])
def test_number_of_clicks_in_every_interacted_frame(clicks: int, video: EvaluationVideo, output: Path) -> None:
    result = run_online(ErringSystem(LABELS, lost_in(4), needed=clicks), video, output, clicks=clicks)
    assert corrected(result) == [(0, clicks), (4, clicks)]
    assert curve_of(result)[8] == 100


def test_fewer_clicks_when_no_error_is_left(video: EvaluationVideo, output: Path) -> None:
    result = run_online(ErringSystem(LABELS, lost_in(4), needed=2), video, output, clicks=5)
    assert corrected(result) == [(0, 2), (4, 2)]
    assert [click["iou"] for click in result["objects"][0]["interactions"][1]["clicks"]] == [0, 1]


def test_corrections_take_effect_from_the_frame_with_the_error(video: EvaluationVideo, output: Path) -> None:
    wrong = part_of(6, 0.5)
    system = ErringSystem(LABELS, [Error(1, 5, 8, wrong)])  # frame 5 has no ground truth: nobody sees it
    result = run_online(system, video, output)
    first, second = result["objects"][0]["interactions"]
    truth = LABELS[6] == 1
    assert second["frame"] == 6
    assert (first["iou"], second["iou"]) == (None, round(region_similarity(truth, wrong), 6))
    expected = correction_click(truth, wrong)
    assert expected[2] == 1
    assert tuple(second["clicks"][0][name] for name in ("x", "y", "label")) == expected
    # Tracking is paused after frame 6 and continues from there; earlier frames are not repeated.
    assert system.calls[1:] == [("propagate", 0, LAST), ("prompt", 6, 1, [expected]), ("propagate", 6, LAST)]
    assert all(np.array_equal(saved(output, frame), LABELS[frame] == 1) for frame in range(0, NUM_FRAMES, 2))


def test_the_corrected_mask_is_scored_even_if_it_is_still_wrong(video: EvaluationVideo, output: Path) -> None:
    system = ErringSystem(LABELS, [Error(1, 4, 6, part_of(4, 0.3))], needed=2)
    result = run_online(system, video, output, clicks=1)
    # One click is not enough, neither at first nor later. A frame is corrected once; then tracking continues.
    assert corrected(result) == [(0, 1), (4, 1)]
    assert not saved(output, 0).any()
    assert np.array_equal(saved(output, 4), part_of(4, 0.3))
    assert np.array_equal(saved(output, 6), LABELS[6] == 1)


@pytest.mark.parametrize(("part", "threshold", "frames"), [(0.8, 0.75, [0]), (0.8, 0.9, [0, 4]), (0.6, 0.75, [0, 4])])
def test_threshold(part: float, threshold: float, frames: list[int], video: EvaluationVideo, output: Path) -> None:
    result = run_online(ErringSystem(LABELS, [Error(1, 4, 4, part_of(4, part))]), video, output, threshold=threshold)
    assert [frame for frame, _ in corrected(result)] == frames


def test_a_mask_in_a_frame_without_the_object_is_corrected(tmp_path: Path, output: Path) -> None:
    video = write_video(tmp_path / "data", VANISHING)
    ghost = LABELS[GONE] == 1
    result = run_online(ErringSystem(VANISHING, [Error(1, GONE, LAST, ghost)]), video, output)
    _, away = result["objects"][0]["interactions"]
    assert (away["frame"], away["iou"], away["clicks"][0]["label"], away["clicks"][0]["iou"]) == (GONE, 0, 0, 1)
    assert curve_of(result)[8] == 100  # two empty masks are equal
    assert not saved(output, 10).any()


def score_by_hand(labels: np.ndarray, masks: dict[int, np.ndarray], first: int = 0) -> float:
    frames = [frame for frame in range(0, NUM_FRAMES, 2) if frame >= first]
    truths = {frame: labels[frame] == 1 for frame in frames}
    found = {frame: masks.get(frame, truths[frame]) for frame in frames}
    j = [region_similarity(truths[frame], found[frame]) for frame in frames]
    f = [boundary_accuracy(truths[frame], found[frame]) for frame in frames]
    return 50 * (np.mean(j) + np.mean(f))


def test_limit_of_interacted_frames(video: EvaluationVideo, output: Path) -> None:
    errors = lost_in(2, 4, 6, 8, 10)
    result = run_online(ErringSystem(LABELS, errors), video, output, frames=3)
    assert corrected(result) == [(0, 1), (2, 1), (4, 1)]  # the first frame counts
    assert curve_of(result) == {3: pytest.approx(score_by_hand(LABELS, dict.fromkeys((6, 8, 10), NOTHING)))}
    assert curve_of(result)[3] == pytest.approx(50)  # frames 0, 2, 4 of six, the prompted ones and both ends included
    assert [saved(output, frame).any() for frame in range(0, NUM_FRAMES, 2)] == [True, True, True, False, False, False]


def test_curve_is_that_of_a_run_for_each_limit(video: EvaluationVideo, tmp_path: Path) -> None:
    # A correction in frame 4 also helps in frame 6, but not in frame 8.
    errors = [Error(1, 2, 2, part_of(2, 0.4)), Error(1, 4, 6, part_of(5, 0.2)), Error(1, 8, 10, NOTHING)]
    system = ErringSystem(LABELS, errors)
    (tmp_path / "curve").mkdir()
    curve = curve_of(run_online(system, video, tmp_path / "curve", curve=True))
    assert list(curve) == list(range(1, 9))
    assert system.sessions == 5  # with limits 1 to 5; the last one corrects as much as the one before
    separate = {}
    for limit in curve:
        (tmp_path / str(limit)).mkdir()
        separate[limit] = curve_of(run_online(ErringSystem(LABELS, errors), video, tmp_path / str(limit), frames=limit))[limit]
    assert curve == separate
    assert curve[1] < curve[2] < curve[3] < curve[4] == curve[8] == 100


def test_objects_are_alone_and_begin_where_they_are_seen_first(data: Path, output: Path) -> None:
    video = read_dataset("mose", data)[0]
    labels = layouts.discs(0)[1]
    system = ErringSystem(labels, [Error(2, 8, 8, NOTHING)])
    result = run_online(system, video, output)
    assert system.sessions == 2
    first = system.calls.index(("propagate", APPEARS, LAST))
    assert all(call[2] == 1 for call in system.calls[: first - 1] if call[0] == "prompt")
    assert all(call[2] == 2 for call in system.calls[first:] if call[0] == "prompt")
    entries = {entry["object"]: entry for entry in result["objects"]}
    assert {obj: entry["first_frame"] for obj, entry in entries.items()} == {1: 0, 2: APPEARS}
    assert [interaction["frame"] for interaction in entries[2]["interactions"]] == [APPEARS, 8]
    assert not saved(output, 2, obj=2).any()
    assert np.array_equal(saved(output, APPEARS, obj=2), labels[APPEARS] == 2)


@pytest.mark.parametrize("protocol", [run_online, run_offline])
def test_objects_with_annotations_only_at_the_prompt_are_left_out(
    protocol: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = read_dataset("mose", layouts.folders(tmp_path / "data", every=APPEARS + 1))[0]  # the second one appears just before
    for path in sorted(video.annotations.source.iterdir())[2:]:
        path.unlink()
    (tmp_path / "1").mkdir()
    system = ErringSystem(layouts.discs(0)[1])
    result = protocol(system, video, tmp_path / "1")
    assert [entry["object"] for entry in result["objects"]] == [1]
    assert system.sessions == 1
    assert "object 2" in caplog.text
    assert not saved(tmp_path / "1", APPEARS + 1, obj=2).any()

    (video.annotations.source / f"{APPEARS + 1:05d}.png").unlink()
    (video,) = read_dataset("mose", tmp_path / "data", ["one"])
    with pytest.raises(ValueError, match="no object has an annotated frame after"):
        protocol(system, video, tmp_path / "1")


@pytest.mark.parametrize("protocol", [run_online, run_offline])
def test_a_missing_mask_file_does_not_mean_that_the_object_is_absent(
    protocol: Callable[..., dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    video = read_dataset("sav", layouts.sav(tmp_path / "sav"))[0]
    (video.annotations.source / "000/00004.png").unlink()
    # The readers number objects from 0 on in this layout, the system knows them by labels.
    system = ErringSystem(layouts.discs(0)[1].astype(int) - 1, [Error(0, 8, 8, NOTHING)])
    result = protocol(system, video, output, frames=2)
    first = next(entry for entry in result["objects"] if entry["object"] == 0)
    assert [interaction["frame"] for interaction in first["interactions"]] == [0, 8]
    assert first["curve"][-1]["j_and_f"] == 100


@pytest.mark.parametrize("protocol", [run_online, run_offline])
def test_a_video_without_visible_objects_has_nothing_to_score(
    protocol: Callable[..., dict[str, Any]], tmp_path: Path, output: Path
) -> None:
    video = write_video(tmp_path, np.zeros_like(LABELS))
    assert protocol(ErringSystem(LABELS), video, output)["objects"] == []


@pytest.mark.parametrize("again", ["clicks", "masks"])
def test_offline_corrects_the_worst_frame_after_each_pass(video: EvaluationVideo, output: Path, again: str) -> None:
    bad, worse = part_of(4, 0.6), part_of(8, 0.2)
    system = ErringSystem(LABELS, [Error(1, 4, 4, bad), Error(1, 8, 8, worse)])
    result = run_offline(system, video, output, again=again)
    assert corrected(result) == [(0, 1), (8, 1), (4, 1)]
    first, second, third = ([(*first_click(LABELS[0] == 1), 1)], *(
        [correction_click(LABELS[frame] == 1, mask)] for frame, mask in ((8, worse), (4, bad))
    ))  # fmt: skip
    assert system.calls == [
        ("prompt", 0, 1, first),
        ("propagate", 0, LAST),
        ("prompt", 8, 1, second),
        ("reset",),
        ("prompt", 0, 1, first),
        ("prompt", 8, 1, "mask" if again == "masks" else second),
        ("propagate", 0, LAST),
        ("prompt", 4, 1, third),
        ("reset",),
        ("prompt", 0, 1, first),
        ("prompt", 4, 1, "mask" if again == "masks" else third),
        ("prompt", 8, 1, "mask" if again == "masks" else second),
        ("propagate", 0, LAST),
    ]
    assert system.sessions == 1
    curve = curve_of(result)
    assert curve[1] == pytest.approx(score_by_hand(LABELS, {4: bad, 8: worse}))
    assert curve[2] == pytest.approx(score_by_hand(LABELS, {4: bad}))
    assert [curve[number] for number in range(3, 9)] == [100] * 6  # nothing is left to correct
    assert np.array_equal(saved(output, 4), LABELS[4] == 1)


def test_offline_gives_clicks_again_one_by_one(video: EvaluationVideo, output: Path) -> None:
    system = ErringSystem(LABELS, lost_in(4), needed=2)
    result = run_offline(system, video, output, clicks=2, again="clicks")
    assert corrected(result) == [(0, 2), (4, 2)]
    again = system.calls[system.calls.index(("reset",)) + 1 : -1]
    assert [(frame, len(points)) for _, frame, _, points in again] == [(0, 1), (0, 2), (4, 1), (4, 2)]


def test_offline_stops_after_the_given_number_of_passes(video: EvaluationVideo, output: Path) -> None:
    system = ErringSystem(LABELS, lost_in(2, 4, 6, 8, 10))
    result = run_offline(system, video, output, frames=3)
    assert corrected(result) == [(0, 1), (2, 1), (4, 1)]  # of equally bad frames the first
    assert len([call for call in system.calls if call[0] == "propagate"]) == 3
    assert curve_of(result) == {number: pytest.approx(100 * number / 6) for number in (1, 2, 3)}  # frames that are right


def test_offline_corrects_a_frame_again_while_it_is_the_worst(video: EvaluationVideo, output: Path) -> None:
    system = ErringSystem(LABELS, [*lost_in(4), Error(1, 8, 8, part_of(8, 0.5))], needed={4: 2})
    result = run_offline(system, video, output, again="masks")
    assert corrected(result) == [(0, 1), (4, 1), (4, 1), (8, 1)]
    prompts = [call for call in system.calls if call[0] == "prompt" and call[1] == 4 and call[3] != "mask"]
    assert [len(points) for *_, points in prompts] == [1, 2]  # a correction gives all points again
    assert curve_of(result)[8] == 100


def test_mean_curve() -> None:
    def entry(**scores: float) -> dict[str, Any]:
        return {"curve": [{"frames": int(k[1:]), "j_and_f": v, "j": v - 1, "f": v + 1} for k, v in scores.items()]}

    curve = mean_curve([entry(k1=50, k2=60), entry(k1=70, k2=90), entry(k2=30)])
    assert curve == {2: {"j_and_f": 60, "j": 59, "f": 61}}
    assert mean_curve([]) == {}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["online", "offline"])
def test_a_run_can_be_replayed(protocol: str, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    # Floors need many corrections, and drawn clicks differ from the deterministic ones.
    assert run(protocol, data, output, "--system", "optical-flow", "--seed", "3", "--clicks", "2", "--frames", "3") == 0
    results = json.loads((output / "results.json").read_text())
    result = results["videos"]["one"]
    assert any(len(entry["interactions"]) == 3 for entry in result["objects"])
    (tmp_path / "again").mkdir()
    again = replay(OpticalFlow(), read_dataset("mose", data)[0], results["settings"], result, tmp_path / "again")
    assert json.loads(json.dumps(again["objects"])) == result["objects"]
    assert files_of(tmp_path / "again") == files_of(output / "masks/one")


def test_a_replay_ignores_the_predictions(video: EvaluationVideo, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    options = {"clicks": 2, "frames": 8, "threshold": 0.75, "curve": False, "seed": None}
    bad = ErringSystem(LABELS, lost_in(4, 8), needed=2)
    result = online(bad, video, options, tmp_path / "first")
    good = ErringSystem(LABELS)
    again = replay(good, video, {"protocol": "online", **options}, result, tmp_path / "second")
    assert good.calls == bad.calls
    assert corrected(again) == [(0, 2), (4, 2), (8, 2)]


@pytest.mark.parametrize(
    ("settings", "result", "message"),
    [
        ([], {}, "the settings is a list, expected an object"),
        ({}, {}, "the settings lacks 'protocol'"),
        ({"protocol": "online"}, {}, "the settings lacks 'frames'"),
        ({"protocol": "online", "frames": 8, "curve": False}, [], "the result of video is a list"),
        ({"protocol": "online", "frames": 8, "curve": False}, {}, "the result of video lacks 'objects'"),
        ({"protocol": "online", "frames": 8, "curve": False}, {"objects": [{"object": 1}]}, "entry 0 lacks 'interactions'"),
        ({"protocol": "online", "frames": 8, "curve": False}, {"objects": []}, "the result of video has no object 1"),
    ],
)
def test_a_broken_log_is_named(settings: Any, result: Any, message: str, video: EvaluationVideo, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        replay(ErringSystem(LABELS), video, settings, result, tmp_path)


def test_other_runs_cannot_be_replayed(video: EvaluationVideo, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only online and offline runs can be replayed, not semi_supervised"):
        replay(ErringSystem(LABELS), video, {"protocol": "semi_supervised"}, {"prompts": []}, tmp_path)


def test_without_a_curve_the_last_point_is_printed() -> None:
    def result(*numbers: int) -> dict[str, Any]:
        return {"objects": [{"curve": [{"frames": k, "j_and_f": 10.0 * k, "j": 0, "f": 0} for k in numbers]}]}

    assert summarise({"a": result(6, 7, 8), "b": result(5, 6, 7, 8)}).endswith(": 80.0 @ 8")
    assert summarise({"a": result(1, 2), "b": result(1, 2)}).endswith(": 10.0 @ 1, 20.0 @ 2")


def run(protocol: str, data: Path, output: Path, *options: str) -> int:
    """Run the command line in this process, by default with static masks on the CPU."""
    defaults = ["--output", str(output), "--system", "static-mask", "--devices", "cpu"]
    return interactive.main([protocol, "mose", str(data), *defaults, *options])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.slow
def test_a_run_continues_after_its_worker_was_killed(
    data: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("STUB_LOG", str(log))
    monkeypatch.setenv("STUB_DIE", "two")
    system = ("--system", "tests.test_pvs.stubs:unusual", "--frames", "2")
    assert run("online", data, output, *system, "--devices", "cpu:2") == 1
    results = json.loads((output / "results.json").read_text())
    assert (list(results["videos"]), list(results["failures"])) == (["one"], ["two"])
    finished = files_of(output / "masks/one")
    log.unlink()
    monkeypatch.delenv("STUB_DIE")
    assert run("online", data, output, *system) == 0
    assert set(log.read_text().split()[::2]) == {"two"}  # the first one is not done again
    results = json.loads((output / "results.json").read_text())
    assert (list(results["videos"]), results["failures"]) == (list(NAMES), {})
    assert files_of(output / "masks/one") == finished
    assert len(files_of(output / "masks/two")) == 2 * NUM_FRAMES / 2


def test_settings_are_of_their_protocol(data: Path, output: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert run("online", data, output, "--videos", "one", "--frames", "1") == 0
    assert run("online", data, output, "--videos", "one", "--frames", "2") == 1
    assert "frames was 1, is 2" in caplog.text
    assert run("offline", data, output, "--videos", "one", "--frames", "1") == 1
    assert "protocol was online, is offline" in caplog.text


@pytest.mark.parametrize(
    "options",
    [
        ["--clicks", "0"],
        ["--frames", "x"],
        ["--again", "masks"],
        ["--threshold", "75"],
        ["--threshold", "nan"],
        ["--seed", "-1"],
    ],
)
def test_bad_options_are_refused_at_once(options: list[str], data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run("online", data, tmp_path / "new", *options)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_script_prints_j_and_f(data: Path, tmp_path: Path) -> None:
    where = {"MODE": "offline", "CLICKS": "1", "DATASET": "mose", "DATA": str(data), "OUT": str(tmp_path / "the output")}
    what = {"SYSTEM": "static-mask", "DEVICES": "cpu", "VIDEOS": "one"}
    done = subprocess.run(
        ["sh", str(PROJECT / "test_pvs/interactive.sh"), "--frames", "2"],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": "", **what, **where},
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "the output/results.json").read_text())
    assert list(results["videos"]) == ["one"]
    curve = mean_curve(results["videos"]["one"]["objects"])
    assert f"J&F over 2 objects by number of interacted frames: {curve[1]['j_and_f']:.1f} @ 1, " in done.stdout
    assert {name: results["settings"][name] for name in ("protocol", "clicks", "system")} == {
        "protocol": "offline",
        "clicks": 1,
        "system": "static-mask",
    }
