"""The SA-V evaluator: known scores, the three layouts, and all kinds of faulty predictions."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.mask_files import davis_palette
from i2v.utils.jf import jf_scores
from sav_dataset.sav_evaluator import VideoResult, evaluate, main
from tests.sav_dataset import oracle

PROJECT = Path(__file__).parents[2]
NUM_FRAMES = 6


def make_masks(shift: int) -> np.ndarray:
    """Two objects that do not overlap, (T, 2, 40, 60) bool; the second one appears in frame 2 and is hidden in frame 4."""
    masks = np.zeros((NUM_FRAMES, 2, 40, 60), bool)
    for frame in range(NUM_FRAMES):
        masks[frame, 0, 5:15, 5 + 5 * frame + shift : 20 + 5 * frame] = True
        if frame not in (0, 1, 4):
            masks[frame, 1, 22 + shift : 38, 10:30] = True
    return masks


TRUE, FOUND = make_masks(0), make_masks(2)


def write_labels(folder: Path, masks: np.ndarray, labels: tuple[int, ...], mode: str = "P") -> None:
    """Write masks (T, O, H, W) as label images."""
    folder.mkdir(parents=True)
    for frame, objects in enumerate(masks):
        image = Image.fromarray((objects * np.array(labels, np.uint8)[:, None, None]).max(axis=0))
        if mode == "P":
            image.putpalette(davis_palette())
        image.convert(mode).save(folder / f"{frame:05d}.png")


def write_folders(folder: Path, masks: np.ndarray, mode: str = "1") -> None:
    """Write masks (T, O, H, W) as a folder per object."""
    for i in range(masks.shape[1]):
        write_labels(folder / f"{i + 1:03d}", masks[:, i : i + 1], (255,), mode)


def write_palette(folder: Path, masks: np.ndarray) -> None:
    write_labels(folder, masks, (1, 2)[: masks.shape[1]])


LAYOUTS = [write_folders, write_palette]
BY_LAYOUT = pytest.mark.parametrize("write", LAYOUTS)


def make_roots(root: Path, write: Callable[[Path, np.ndarray], None]) -> tuple[Path, Path]:
    """Write the ground truth and predictions of two videos."""
    for video in ("first", "second"):
        write(root / "gt" / video, TRUE)
        write(root / "pred" / video, FOUND)
    return root / "gt", root / "pred"


def scores_of(results: list[VideoResult]) -> dict[tuple[str, str], tuple[float, float]]:
    return {(result.name, obj): score for result in results for obj, score in result.scores.items()}


def problems_of(results: list[VideoResult]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        for kind, count in result.problems.counts.items():
            counts[kind] = counts.get(kind, 0) + count
    return counts


@pytest.mark.slow
def test_equal_to_the_published_evaluator(shared: Path) -> None:
    expected = json.loads((shared / "reference" / "jf" / "expected.json").read_text())
    results = evaluate(
        shared / "data" / "davis2016-dev" / "Annotations" / "480p", shared / "reference" / "jf" / "pred", strict=True
    )
    assert [result.name for result in results] == sorted(expected)
    for result in results:
        assert result.scores["001"] == pytest.approx((expected[result.name]["J"], expected[result.name]["F"]), abs=1e-6)


@BY_LAYOUT
def test_equal_to_the_oracle_and_to_arrays(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    roots = make_roots(tmp_path, write)
    results = evaluate(*roots, strict=True)
    assert not problems_of(results)
    scores = scores_of(results)
    assert scores == {key: pytest.approx(value, abs=1e-12) for key, value in oracle.evaluate(*roots).items()}
    for i, score in enumerate(jf_scores(TRUE, FOUND)):
        assert scores["first", f"{i + 1:03d}"] == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("true_layout", [("P", 255), ("L", 255), ("1", 255)])
@pytest.mark.parametrize("found_layout", [("P", 1), ("P", 255), ("L", 255), ("1", 255)])
def test_davis_2016(tmp_path: Path, true_layout: tuple[str, int], found_layout: tuple[str, int]) -> None:
    for kind, masks, (mode, label) in (("gt", TRUE, true_layout), ("pred", FOUND, found_layout)):
        write_labels(tmp_path / kind / "video", masks[:, :1], (label,), mode)
    results = evaluate(tmp_path / "gt", tmp_path / "pred", strict=True)
    assert scores_of(results) == {("video", "001"): pytest.approx(jf_scores(TRUE, FOUND)[0], abs=1e-12)}


@pytest.mark.parametrize("write", [write_folders, lambda folder, masks: write_labels(folder, masks, (255,), "L")])
@pytest.mark.parametrize("value", [65535, 700])
def test_masks_of_16_bits(tmp_path: Path, write: Callable[[Path, np.ndarray], None], value: int) -> None:
    """With a folder per object, or ground truth of 0 and 255, every value but 0 is the object."""
    true, found = TRUE[:, :1], FOUND[:, :1]
    write(tmp_path / "true/video", true)
    write(tmp_path / "found/video", found)
    expected = scores_of(evaluate(tmp_path / "true", tmp_path / "found"))
    for root in ("found", "true"):
        for path in (tmp_path / root).rglob("*.png"):
            Image.fromarray(np.where(np.asarray(Image.open(path)), value, 0).astype(np.uint16)).save(path)
        if root == "true" and value == 700 and write is not write_folders:  # labels
            with pytest.raises(ValueError, match="labels above 255"):
                evaluate(tmp_path / "true", tmp_path / "found")
        else:
            results = evaluate(tmp_path / "true", tmp_path / "found")
            assert scores_of(results) == expected
            assert problems_of(results) == {}


@BY_LAYOUT
def test_all_frames(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    results = evaluate(*make_roots(tmp_path, write), skip_first_and_last=False)
    for i, score in enumerate(jf_scores(TRUE, FOUND, skip_first_and_last=False)):
        assert scores_of(results)["second", f"{i + 1:03d}"] == pytest.approx(score, abs=1e-12)


def test_file_with_several_objects_is_never_one_object(tmp_path: Path) -> None:
    truth, predictions = make_roots(tmp_path, write_folders)
    both = np.broadcast_to(1 + np.arange(TRUE.shape[-1], dtype=np.uint8) % 2, TRUE.shape[-2:]).copy()
    Image.fromarray(both).save(predictions / "first/001/00001.png")
    assert problems_of(evaluate(truth, predictions)) == {"unreadable frame": 1}
    Image.fromarray(both).save(truth / "first/001/00001.png")
    with pytest.raises(ValueError, match=r"001/00001\.png holds several objects, with labels 1, 2: expected the mask of one"):
        evaluate(truth, predictions)


@pytest.mark.slow
@BY_LAYOUT
def test_several_processes_give_the_same(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    roots = make_roots(tmp_path, write)
    (roots[1] / "second").rename(roots[1] / "other")
    alone, together = evaluate(*roots), evaluate(*roots, num_processes=2)
    assert alone == together
    with pytest.raises(ValueError, match="second is missing"):
        evaluate(*roots, num_processes=2, strict=True)


def damage(path: Path) -> None:
    """Break the pixels of a PNG, but not its header."""
    data = path.read_bytes()
    start = data.index(b"IDAT") + 6
    path.write_bytes(data[:start] + bytes(len(data) - start))


def shrink(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((30, 20)).save(path)


def colour(path: Path) -> None:
    with Image.open(path) as image:
        pixels = np.random.default_rng(0).integers(0, 255, (image.height, image.width, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


FRAME_PROBLEMS = {
    Path.unlink: ("frame", "is missing"),
    damage: ("unreadable frame", "not a readable image"),
    colour: ("unreadable frame", "colour image"),
    shrink: ("frame of another size", "is 30x20 pixels, the ground truth 60x40"),
}


@BY_LAYOUT
@pytest.mark.parametrize("frame", [1, 3, 4])  # before the second object appears, while it is there, while it is hidden
@pytest.mark.parametrize("spoil", FRAME_PROBLEMS)
def test_unusable_frame(
    tmp_path: Path, write: Callable[[Path, np.ndarray], None], frame: int, spoil: Callable[[Path], None]
) -> None:
    write(tmp_path / "gt" / "video", TRUE)
    write(tmp_path / "pred" / "video", TRUE)
    files = list((tmp_path / "pred").rglob(f"{frame:05d}.png"))
    for path in files:
        spoil(path)
    kind, message = FRAME_PROBLEMS[spoil]
    results = evaluate(tmp_path / "gt", tmp_path / "pred")
    assert problems_of(results) == {kind: len(files)}
    # The other frames are perfect. The second object is scored from frame 2 on, and in a frame that is missing.
    second = 100 * (3 / 4 if frame == 1 else 2 / 3)
    assert scores_of(results) == {("video", "001"): pytest.approx((75, 75)), ("video", "002"): pytest.approx((second, second))}
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path / "gt", tmp_path / "pred", strict=True)


@BY_LAYOUT
def test_ground_truth_of_another_size_is_named(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    roots = make_roots(tmp_path, write)
    path = next((roots[0] / "first").rglob("00003.png"))
    shrink(path)
    with pytest.raises(ValueError, match=re.escape(f"{path} is 30x20 pixels, but most of this video's ground truth is 60x40")):
        evaluate(*roots)


@BY_LAYOUT
def test_empty_predictions_cause_a_warning(
    tmp_path: Path, write: Callable[[Path, np.ndarray], None], outcome: Callable
) -> None:
    truth, predictions = make_roots(tmp_path, write)
    arguments = ["--gt_root", truth, "--pred_root", predictions, "-n", "1", "-q"]
    assert "is empty" not in outcome(main, *arguments)[1]
    for path in predictions.rglob("*.png"):
        Image.new("L", (60, 40)).save(path)
    status, text = outcome(main, *arguments)
    assert status == 0
    assert "warning: every predicted mask is empty" in text
    shutil.rmtree(predictions)
    predictions.mkdir()
    assert "is empty" not in outcome(main, *arguments)[1]  # they are missing


@BY_LAYOUT
def test_unscored_frames_may_be_missing(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    roots = make_roots(tmp_path, write)
    expected = evaluate(*roots)
    for name in ("00000.png", f"{NUM_FRAMES - 1:05d}.png"):
        for path in roots[1].rglob(name):
            path.unlink()
    assert scores_of(evaluate(*roots, strict=True)) == scores_of(expected)


@BY_LAYOUT
def test_missing_video(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    roots = make_roots(tmp_path, write)
    shutil.rmtree(roots[1] / "second")
    results = evaluate(*roots)
    assert problems_of(results) == {"video": 1}
    scores = scores_of(results)
    assert len(scores) == 4
    assert scores["second", "001"] == scores["second", "002"] == (0, 0)
    with pytest.raises(ValueError, match="second is missing"):
        evaluate(*roots, strict=True)


@pytest.mark.parametrize(("true", "found"), [LAYOUTS, LAYOUTS[::-1]])
def test_predictions_in_the_other_layout_are_an_error(tmp_path: Path, true: Callable, found: Callable) -> None:
    true(tmp_path / "gt/video", TRUE)
    found(tmp_path / "pred/video", FOUND)
    with pytest.raises(ValueError, match=r"pred.video has .*, but .*gt.video .*: use the same layout for both"):
        evaluate(tmp_path / "gt", tmp_path / "pred")


def test_missing_object_folder(tmp_path: Path) -> None:
    roots = make_roots(tmp_path, write_folders)
    shutil.rmtree(roots[1] / "first" / "002")
    results = evaluate(*roots)
    assert problems_of(results) == {"object": 1}
    assert scores_of(results)["first", "002"] == (0, 0)
    with pytest.raises(ValueError, match="002 is missing"):
        evaluate(*roots, strict=True)


def test_missing_object_in_label_images(tmp_path: Path) -> None:
    write_palette(tmp_path / "gt" / "video", TRUE)
    found = FOUND.copy()
    found[:, 1] = False
    write_palette(tmp_path / "pred" / "video", found)
    results = evaluate(tmp_path / "gt", tmp_path / "pred")
    assert problems_of(results) == {"object": 1}
    assert scores_of(results)["video", "002"] == pytest.approx(
        (100 / 3, 100 / 3)
    )  # as empty masks, which are right while it is hidden
    with pytest.raises(ValueError, match="has object 2 in no frame"):
        evaluate(tmp_path / "gt", tmp_path / "pred", strict=True)
    # An object that was prompted in the first frame and lost after it is a prediction like any other.
    found[0, 1, 25:30, 10:30] = True
    shutil.rmtree(tmp_path / "pred")
    write_palette(tmp_path / "pred" / "video", found)
    assert scores_of(evaluate(tmp_path / "gt", tmp_path / "pred", strict=True)) == scores_of(results)


def test_additional_objects_and_files_are_ignored(tmp_path: Path) -> None:
    write_palette(tmp_path / "gt" / "video", TRUE[:, :1])
    write_palette(tmp_path / "pred" / "video", FOUND)
    (tmp_path / "pred" / "video" / "99999.png").write_text("no image")
    (tmp_path / "gt" / "video" / ".DS_Store").touch()
    (tmp_path / "gt" / "list.txt").touch()
    (tmp_path / "pred" / "more").mkdir()
    results = evaluate(tmp_path / "gt", tmp_path / "pred", strict=True)
    assert scores_of(results) == {("video", "001"): pytest.approx(jf_scores(TRUE, FOUND)[0], abs=1e-12)}


@BY_LAYOUT
def test_objects_in_no_scored_frame_are_not_scored(
    tmp_path: Path, write: Callable[[Path, np.ndarray], None], caplog: pytest.LogCaptureFixture
) -> None:
    masks = TRUE.copy()
    masks[1:-1, 1] = False
    write(tmp_path / "gt" / "video", masks)
    write(tmp_path / "pred" / "video", FOUND)
    assert list(evaluate(tmp_path / "gt", tmp_path / "pred")[0].scores) == ["001"]
    if write is write_folders:
        assert "002 has no object" in caplog.text


@BY_LAYOUT
def test_broken_ground_truth_is_always_an_error(tmp_path: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    roots = make_roots(tmp_path, write)
    damage(next(roots[0].rglob("00002.png")))
    with pytest.raises(ValueError, match="not a readable image"):
        evaluate(*roots)


def test_name_that_is_not_utf8_is_refused_before_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr("sav_dataset.sav_evaluator._evaluate_video", lambda *_, **__: pytest.fail("it has begun"))
    (tmp_path / "pred").mkdir()
    (tmp_path / "gt").mkdir()
    (tmp_path / "gt" / os.fsdecode(b"a\xff\xfe")).mkdir()
    assert main(["--gt_root", str(tmp_path / "gt"), "--pred_root", str(tmp_path / "pred"), "-n", "1"]) == 1
    assert caplog.messages == [
        f"error: {tmp_path / 'gt'}: the folder 'a\\udcff\\udcfe' has a name that is not UTF-8: rename it"
    ]


def test_bad_roots(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    gt_root, pred_root = make_roots(tmp_path, write_palette)
    with pytest.raises(NotADirectoryError, match="nowhere"):
        evaluate(tmp_path / "nowhere", pred_root)
    with pytest.raises(NotADirectoryError, match="nowhere"):
        evaluate(gt_root, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no videos"):
        evaluate(tmp_path / "empty", pred_root)
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(gt_root, pred_root, num_processes=0)
    (gt_root / "third").mkdir()
    with pytest.raises(ValueError, match="no PNGs in"):
        evaluate(gt_root, pred_root)
    (gt_root / "first" / "001").mkdir()
    with pytest.raises(ValueError, match="not both"):
        evaluate(gt_root, pred_root)
    shutil.rmtree(gt_root)
    for name in ("1", "01"):
        write_palette(gt_root / "first" / name, TRUE)
    with pytest.raises(ValueError, match="two folders of the same number"):
        evaluate(gt_root, pred_root)
    shutil.rmtree(gt_root)
    write_palette(gt_root / "short", TRUE[:2])
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate(gt_root, pred_root)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    roots = make_roots(tmp_path, write_folders)
    arguments = ["--gt_root", str(roots[0]), "--pred_root", str(roots[1]), "-n", "1"]
    expected = scores_of(evaluate(*roots))
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    j, f = np.mean(list(expected.values()), axis=0)
    assert f"Global score: J&F: {(j + f) / 2:.1f} J: {j:.1f} F: {f:.1f}" in printed
    with (roots[1] / "results.csv").open() as file:
        header, overall, *rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
    assert header == ["sequence", "obj", "J&F", "J", "F"]
    assert overall[:2] == ["Global score", ""]
    assert [float(cell) for cell in overall[2:]] == pytest.approx([(j + f) / 2, j, f], abs=1e-7)
    assert {(row[0], row[1]): (float(row[3]), float(row[4])) for row in rows} == {
        key: pytest.approx(score, abs=1e-7) for key, score in expected.items()
    }

    for path in (roots[1] / "second").rglob("*.png"):
        path.unlink()
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert "8 predictions are missing or unusable (frame: 8)" in caplog.text
    assert main([*arguments, "--strict"]) == 1
    assert "error: " in caplog.text
    assert main([*arguments, "--do_not_skip_first_and_last_frame"]) == 0
    assert (roots[1] / "results.csv").read_text().splitlines()[1].startswith("Global score,all,")
    assert "(frame: 12)" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("start", [["sav_dataset/sav_evaluator.py"], ["-m", "sav_dataset.sav_evaluator"]])
def test_command_in_a_shell(tmp_path: Path, start: list[str]) -> None:
    roots = make_roots(tmp_path, write_palette)
    command = [sys.executable, *start, "--gt_root", str(roots[0]), "--pred_root", str(roots[1]), "-n", "2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert result.returncode == 0, result.stderr
    assert "Global score" in result.stdout
    assert (roots[1] / "results.csv").exists()
