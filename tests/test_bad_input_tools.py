"""What the command lines of tools, evaluator and benchmarks say to wrong files, numbers and flags: a line in a table each."""

from __future__ import annotations

import importlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.utils.visualization import VideoWriter
from tests.test_pvs import layouts

_SECONDS = 60  # until a call counts as hanging


class HangsError(BaseException):
    """Nothing that a command line would catch."""


@pytest.fixture
def no_hanging() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise HangsError(f"it did not end within {_SECONDS} seconds")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good and bad files by their names in the table; only "out" may be written to."""
    root = tmp_path_factory.mktemp("places")
    found = {name: root / name for name in ("missing", "folder", "file", "empty", "fifo", "out")}
    found["folder"].mkdir()
    found["file"].write_text("no such thing\n")
    found["empty"].touch()
    os.mkfifo(found["fifo"])
    found["below"] = found["file"] / "out"
    found["list"] = root / "list.json"
    found["list"].write_text("[]")
    found["video"] = root / "video.mp4"
    with VideoWriter(found["video"], 10, 64, 32) as writer:
        for i in range(9):
            writer.write(np.full((32, 64, 3), 20 * (i + 1), np.uint8))
    (root / "videos").mkdir()
    found["videos"] = root / "videos"
    (root / "videos/a.mp4").write_bytes(found["video"].read_bytes())
    found["data"] = layouts.davis2016(root / "davis")
    found["photographs"] = root / "photographs"
    found["photographs"].mkdir()
    Image.new("RGB", (32, 32)).save(found["photographs"] / "a.jpg")
    (found["photographs"] / "a.json").write_text("[]")
    found["checkpoint"] = root / "weights.pt"
    torch.save({"model": {"a": torch.zeros(2)}}, found["checkpoint"])
    found["mask"] = root / "masks"
    for kind in ("gt", "pred"):
        (root / "masks" / kind / "one").mkdir(parents=True)
        for frame in range(3):
            Image.fromarray(np.full((8, 8), 255 * (kind == "gt"), np.uint8)).save(root / f"masks/{kind}/one/{frame:05d}.png")
    found["gt"], found["pred"] = root / "masks/gt", root / "masks/pred"
    return found


_FLOOR = "--system static-mask --devices cpu"
_SEMI = f"davis2016 {{data}} --output {{out}} {_FLOOR}"
_FROM_1 = "expected a whole number from 1"
_EMPTY = "it is empty: give a value, or leave the option out"

# Beginnings of lines that report an error; a benchmark continues after a failed video.
_MARKS = ("error: ", "failed: ", "warning: every")

# Entry point, arguments ("''" is an empty one), status, part of the message.
TABLE = [
    ("extract_sav_frames", "{missing} {out}", 2, "no such folder: {missing}"),
    ("extract_sav_frames", "{file} {out}", 2, "no such folder: {file}"),
    ("extract_sav_frames", "{fifo} {out}", 2, "no such folder: {fifo}"),
    ("extract_sav_frames", "{folder} {out}", 2, "no videos in {folder}"),
    ("extract_sav_frames", "{videos} {file}", 1, "{file} is a file, or below one"),
    ("extract_sav_frames", "{videos} ''", 2, _EMPTY),
    *(("extract_sav_frames", f"{{videos}} {{out}} --every {n}", 2, f"--every: {_FROM_1}") for n in ("0", "-1", "x")),
    *(
        ("extract_sav_frames", f"{{videos}} {{out}} --quality {n}", 2, f"--quality: {_FROM_1} to 100")
        for n in ("0", "101", "x")
    ),
    *(("extract_sav_frames", f"{{videos}} {{out}} --workers {n}", 2, f"--workers: {_FROM_1}") for n in ("0", "-1", "x")),
    ("save_gt_mask_multiprocess", "davis2016 {missing} {out}", 2, "no such folder: {missing}"),
    ("save_gt_mask_multiprocess", "davis2016 {folder} {out}", 2, "{folder} is not the folder of this data set"),
    ("save_gt_mask_multiprocess", "davis2016 {data} {below}", 1, "{below} is a file, or below one"),
    ("save_gt_mask_multiprocess", "davis2016 {data} ''", 2, _EMPTY),
    ("save_gt_mask_multiprocess", "davis {data} {out}", 2, "unknown data set 'davis' (did you mean davis2017?)"),
    ("save_gt_mask_multiprocess", "davis2016 {data} {out} --workers 0", 2, f"--workers: {_FROM_1}"),
    ("tests.sav_dataset.benchmark_jf", "--attempts 0", 2, f"--attempts: {_FROM_1}"),
    ("tests.sav_dataset.benchmark_jf", "--gt_root {gt}", 2, "give --gt_root and --pred_root or neither"),
    ("tests.sav_dataset.benchmark_jf", "--gt_root {missing} --pred_root {pred}", 1, "no such folder: {missing}"),
    ("tests.sav_dataset.benchmark_jf", "--gt_root {gt} --pred_root {folder}", 1, "{folder}/one is missing"),
    ("export_checkpoint", "{missing} {out}/a.pt", 1, "no such checkpoint: {missing}"),
    ("export_checkpoint", "{folder} {out}/a.pt", 1, "{folder} is a folder, not a file"),
    ("export_checkpoint", "{fifo} {out}/a.pt", 1, "{fifo} is a named pipe, not a file"),
    ("export_checkpoint", "{empty} {out}/a.pt", 1, "{empty} is not a readable checkpoint"),
    ("export_checkpoint", "{file} {out}/a.pt", 1, "{file}"),
    ("export_checkpoint", "{checkpoint} {folder}", 1, "{folder} is not a file"),
    ("export_checkpoint", "{checkpoint} /dev/null", 1, "/dev/null is not a file"),
    ("export_checkpoint", "{checkpoint} {below}", 1, "{file} is a file, or below one"),
    ("export_checkpoint", "'' {out}/a.pt", 2, _EMPTY),
    ("pack_lite_data", "{missing} {out}/pack", 1, "{missing} has none of the folders"),
    ("pack_lite_data", "{folder} {below}", 1, "{file} is a file, or below one"),
    ("pack_lite_data", "{folder} ''", 2, _EMPTY),
    ("pack_lite_data", "{folder} {out}/pack --quality 101", 2, f"--quality: {_FROM_1} to 100"),
    ("pack_lite_data", "{folder} {out}/pack --every 0", 2, f"--every: {_FROM_1}"),
    ("prepare_lite_data", "{out} --coco {missing} {folder}", 1, "{missing}"),
    ("prepare_lite_data", "{out} --coco {empty} {folder}", 1, "{empty}"),
    ("prepare_lite_data", "{out} --coco {list} {folder}", 1, "{list} is a list, expected an object"),
    ("prepare_lite_data", "{out} --bsds500 {file}", 1, "{file} has no images"),
    ("prepare_lite_data", "{file} --bsds500 {folder}", 1, "{file} is a file, or below one"),
    ("prepare_lite_data", "'' --bsds500 {folder}", 2, _EMPTY),
    ("prepare_lite_data", "{out} --bsds500 {folder} --height 0", 2, f"--height: {_FROM_1}"),
    ("prepare_lite_data", "{out} --bsds500 {folder} --coco-photographs -1", 2, f"--coco-photographs: {_FROM_1}"),
    ("train.show_clips", "{out}/a.png --folders {missing}", 1, "no such folder: {missing}"),
    ("train.show_clips", "{out}/a.png --folders {folder}", 1, "{folder} has no"),
    ("train.show_clips", "{out}/a.png --folders {file}", 1, "{file} is not a folder"),
    ("train.show_clips", "{out}/a.png --folders {photographs}", 1, "{photographs}"),
    ("train.show_clips", "{out}/a --folders {photographs}", 2, "expected a picture file"),
    ("train.show_clips", "{below}.png --folders {photographs}", 1, "{file} is a file, or below one"),
    ("train.show_clips", "{out}/a.png --folders {photographs} --count 0", 2, f"--count: {_FROM_1}"),
    ("train.show_clips", "{out}/a.png --folders {photographs} --cell 0", 2, f"--cell: {_FROM_1}"),
    ("train.show_clips", "{out}/a.png --folders {photographs} --seed -1", 2, "--seed: expected a whole number from 0"),
    ("write_file_list", "sav {missing} {out}/a.txt", 2, "no such folder: {missing}"),
    ("write_file_list", "sav {fifo} {out}/a.txt", 2, "no such folder: {fifo}"),
    ("write_file_list", "sav {folder} {out}/a.txt", 2, "{folder} has 0 samples"),
    ("write_file_list", "sa1b {photographs} {folder} --count 1", 1, "{folder} is not a file"),
    ("write_file_list", "sa1b {photographs} {below} --count 1", 1, "{file} is a file, or below one"),
    ("write_file_list", "sa1b {photographs} {out}/a.txt --count 0", 2, f"--count: {_FROM_1}"),
    ("write_file_list", "sa1b {photographs} {out}/a.txt --seed x", 2, "--seed: expected a whole number from 0"),
    ("count_flops", "--config nothing", 1, "unknown config 'nothing'"),
    ("count_flops", "--config ''", 2, _EMPTY),
    ("count_flops", "model.nothing=1", 1, "Could not override 'model.nothing'"),
    ("count_flops", "model.image_size=x", 1, "model.image_size must be a whole number, not 'x'"),
    ("count_flops", "=", 1, "cannot compose the config"),
    ("benchmark", "--config {file}", 1, "unknown config '{file}'"),
    ("benchmark", "--config tests/configs/tiny.yaml --checkpoint {missing}", 1, "no such checkpoint: {missing}"),
    ("benchmark", "--config tests/configs/tiny.yaml --checkpoint {empty}", 1, "{empty} is not a readable checkpoint"),
    ("benchmark", "--checkpoint ''", 2, _EMPTY),
    ("benchmark", "--device nothing", 1, "--device is cuda, cuda:NUMBER, mps or cpu: cannot use the device 'nothing'"),
    ("benchmark", "--device meta", 1, "--device is cuda, cuda:NUMBER, mps or cpu: nothing is computed on"),
    ("benchmark", "--frames 0", 2, f"--frames: {_FROM_1}"),
    ("benchmark", "--objects -1", 2, f"--objects: {_FROM_1}"),
    ("benchmark", "--memory 40", 2, "--memory: expected a whole number from 41"),
    ("train.measure_memory", "--config nothing", 1, "unknown config 'nothing'"),
    ("train.measure_memory", "data.parts.sav.batch_size=x", 1, "'batch_size' is a text, expected a whole number"),
    ("train.measure_memory", "data.parts.sav.batch_size=0", 1, "data.parts.sav: batch_size, num_frames and max_objects are (0"),
    ("train.measure_memory", "prompts=null", 1, "'prompts' is null, expected an object"),
    ("train.measure_memory", "model.image_size=x", 1, "model.image_size must be a whole number, not 'x'"),
    ("sav_dataset.sav_evaluator", "--gt_root {missing} --pred_root {pred}", 1, "no such folder: {missing}"),
    ("sav_dataset.sav_evaluator", "--gt_root {gt} --pred_root {fifo}", 1, "no such folder: {fifo}"),
    ("sav_dataset.sav_evaluator", "--gt_root {gt} --pred_root ''", 2, _EMPTY),
    ("sav_dataset.sav_evaluator", "--gt_root {gt} --pred_root {pred} -n 0", 2, f"-n/--num_processes: {_FROM_1}"),
    ("sav_dataset.sav_evaluator", "--gt_root {gt} --pred_root {pred} --void 0", 2, f"--void: {_FROM_1} to 65535"),
    ("sav_dataset.sav_evaluator", "--gt_root {gt} --pred_root {pred} -q", 0, "every predicted mask is empty"),
    ("test_pvs.datasets", "--check davis2016 {missing}", 1, "no such folder: {missing}"),
    ("test_pvs.datasets", "--check nothing {data}", 1, "unknown data set 'nothing'"),
    ("test_pvs.datasets", "--check davis2016 {data} --void -1", 2, f"--void: {_FROM_1}"),
    ("test_pvs.datasets", "--export davis2016 {data} ''", 2, _EMPTY),
    ("test_pvs.datasets", "--export davis2016 {data} {file}", 1, "{file} already exists"),
    ("test_pvs.datasets", "--export davis2016 {data} {below}", 1, "not a directory"),
    ("test_pvs.datasets", "--check davis2016 {data} --settings {missing}", 1, "{missing}"),
    ("test_pvs.semi_supervised", f"davis2016 {{missing}} --output {{out}} {_FLOOR}", 1, "no such folder: {missing}"),
    ("test_pvs.semi_supervised", f"davis2016 {{data}} --output {{file}} {_FLOOR}", 1, "{file} is a file, or below one"),
    ("test_pvs.semi_supervised", f"davis2016 {{data}} --output {{below}} {_FLOOR}", 1, "{below} is a file, or below one"),
    ("test_pvs.semi_supervised", f"davis2016 {{data}} --output '' {_FLOOR}", 2, _EMPTY),
    ("test_pvs.semi_supervised", f"{_SEMI} --checkpoint ''", 2, _EMPTY),
    ("test_pvs.semi_supervised", f"{_SEMI} --config ''", 2, _EMPTY),
    ("test_pvs.semi_supervised", f"{_SEMI} --videos nothing", 1, "has no video nothing"),
    ("test_pvs.semi_supervised", f"{_SEMI} --void 0", 2, f"--void: {_FROM_1}"),
    ("test_pvs.semi_supervised", f"{_SEMI} --seed -1", 2, "--seed: expected a whole number from 0"),
    ("test_pvs.semi_supervised", f"{_SEMI} --seed x", 2, "--seed: expected a whole number from 0"),
    ("test_pvs.semi_supervised", f"{_SEMI} --input 0c", 2, "unknown input '0c'"),
    *(
        ("test_pvs.semi_supervised", f"davis2016 {{data}} --output {{out}} --system {system} --devices cpu", 1, message)
        for system, message in (
            ("magic", "unknown system 'magic'"),
            ("sam_i2v", "unknown system 'sam_i2v' (did you mean sam-i2v?)"),
            (":", "':' is not of the form package.module:function"),
            ("..:f", "'..:f' is not of the form package.module:function"),
            ("json:nothing", "the module json has no function nothing"),
            ("json:__name__", "has no function __name__"),
            ("no_such_module:f", "add the folder that contains it to PYTHONPATH"),
        )
    ),
    *(
        ("test_pvs.semi_supervised", f"davis2016 {{data}} --output {{out}} --system static-mask --devices {name}", 1, message)
        for name, message in (
            ("gpu", "'gpu' is not a device"),
            ("cpu:0", "has no worker"),
            ("cpu:x", "'cpu:x' is not a device"),
        )
    ),
    ("test_pvs.interactive", f"online {_SEMI} --clicks 0", 2, f"--clicks: {_FROM_1}"),
    ("test_pvs.interactive", f"online {_SEMI} --frames -1", 2, f"--frames: {_FROM_1}"),
    *(
        ("test_pvs.interactive", f"online {_SEMI} --threshold {x}", 2, "expected a number from 0 to 1")
        for x in ("nan", "2", "x")
    ),
    ("test_pvs.interactive", f"offline davis2016 {{data}} --output '' {_FLOOR}", 2, _EMPTY),
    ("test_pvs.corrections", f"{_SEMI} --distance 0", 2, f"--distance: {_FROM_1}"),
    ("test_pvs.corrections", f"{_SEMI} --after -1", 2, "--after: expected a whole number from 0"),
    ("test_pvs.photographs", "{missing} --output {out}/a.json --system static-mask", 1, "no such folder: {missing}"),
    ("test_pvs.photographs", "{folder} --output {out}/a.json --system static-mask", 1, "{folder} has no *.jpg"),
    ("test_pvs.photographs", "{photographs} --output {folder} --system static-mask", 1, "{folder} is not a file"),
    ("test_pvs.photographs", "{photographs} --output {below} --system static-mask", 1, "{file} is a file, or below one"),
    ("test_pvs.photographs", "{photographs} --output '' --system static-mask", 2, _EMPTY),
    ("test_pvs.photographs", "{photographs} --output {out}/a.json --file-list {fifo}", 1, "{fifo} is a named pipe, not a file"),
    ("test_pvs.photographs", "{photographs} --output {out}/a.json --file-list {file}", 1, "no such thing.jpg"),
    ("test_pvs.photographs", "{photographs} --output {out}/a.json --min-share 2", 2, "expected a number from 0 to 1"),
    ("test_pvs.photographs", "{photographs} --output {out}/a.json --device gpu", 1, "'gpu' is not a device"),
    ("test_pvs.photographs", "{photographs} --output {out}/new/a.json --system static-mask", 1, "a.json is unreadable"),
    ("test_pvs.report", "{missing} --output {out}", 1, "{missing} is not a finished run"),
    ("test_pvs.report", "{file} --output {out}", 1, "{file} is not a finished run"),
    ("test_pvs.report", "{folder} --output ''", 2, _EMPTY),
    ("test_pvs.report", "{folder} --output {out} --quoted {missing}", 1, "no such file: {missing}"),
    ("test_pvs.report", "{folder} --output {out} --quoted {fifo}", 1, "no such file: {fifo}"),
    ("test_pvs.report", "{folder} --output {out} --quoted {folder}", 1, "no such file: {folder}"),
    ("test_pvs.report", "{folder} --output {out} --quoted {empty}", 1, "{empty} is empty, expected the columns table"),
    ("test_pvs.report", "{folder} --output {out} --quoted {video}", 1, "{video} is unreadable"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("no_hanging")
@pytest.mark.parametrize(("entry", "arguments", "status", "message"), TABLE, ids=[f"{row[0]} {row[1]}" for row in TABLE])
def test_one_line_and_a_status(
    entry: str,
    arguments: str,
    status: int,
    message: str,
    places: dict[str, Path],
    outcome: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.chdir(root)
    monkeypatch.syspath_prepend(root / "tools")
    words = ["" if word == "''" else word.format(**places) for word in arguments.split()]
    found, text = outcome(importlib.import_module(entry).main, *words)
    assert found == status, text
    (line,) = [line for line in text.splitlines() if any(mark in line for mark in _MARKS)]
    assert message.format(**places) in line
    assert "Traceback" not in text


def run_files(folder: Path, **contents: str) -> Path:
    """The folder of a run with some files instead of good ones."""
    settings = {"protocol": "online", "dataset": "mose", "data": "/data", "system": "static-mask", "clicks": 3, "frames": 1}
    curve = [{"frames": 1, "j_and_f": 50.0, "j": 40.0, "f": 60.0}]
    video = {"objects": [{"object": 1, "curve": curve}]}
    results = {"settings": settings, "dataset_videos": 1, "videos": {"one": video}, "failures": {}}
    folder.mkdir()
    for name, content in (("settings", settings), ("results", results)):
        (folder / f"{name}.json").write_text(contents.get(name, json.dumps(content)))
    return folder


SETTINGS = '{"protocol": "online", "dataset": "mose", "data": "/data", "system": "static-mask", "clicks": 3, "frames": 1'
RESULTS = f'{{"settings": {SETTINGS}}}, "dataset_videos": 1, "failures": {{}}, "videos": '
POINT = '{"frames": 1, "j": 1, "f": 1, "j_and_f": '
BROKEN = [
    *(("settings", text, "") for text in ("", "[", "{", '{"protocol": ', "\x00")),
    *(("settings", text, "settings.json is ") for text in ("[]", "null", "3", '"text"')),
    ("settings", "{}", "settings.json lacks 'protocol'"),
    ("settings", '{"protocol": 3}', "settings.json: 'protocol' is a whole number, expected a text"),
    ("settings", '{"protocol": "online"}', "settings.json lacks 'dataset'"),
    ("settings", SETTINGS.replace(', "frames": 1', "") + "}", "settings.json lacks 'frames'"),
    ("settings", SETTINGS.replace('"clicks": 3', '"clicks": true') + "}", "'clicks' is true or false, expected a whole number"),
    ("settings", SETTINGS + ', "void": "x"}', "settings.json: 'void' is a text, expected a whole number or null"),
    *(("results", text, "") for text in ("", RESULTS, RESULTS[:30])),
    *(("results", text, "results.json is ") for text in ("[]", "null", "3")),
    ("results", "{}", "results.json lacks 'settings'"),
    ("results", RESULTS.replace('"dataset_videos": 1', '"dataset_videos": null') + "{}}", "'dataset_videos' is null"),
    ("results", RESULTS + "[]}", "results.json: 'videos' is a list, expected an object"),
    ("results", RESULTS + '{"one": []}}', "results.json: 'videos': 'one' is a list, expected an object"),
    ("results", RESULTS + '{"one": {}}}', "results.json: 'videos': 'one' lacks 'objects'"),
    ("results", RESULTS + '{"one": {"objects": [{}]}}}', "'objects', entry 0 lacks 'curve'"),
    ("results", RESULTS + f'{{"one": {{"objects": [{{"curve": [{POINT}"x"}}]}}]}}}}}}', "'j_and_f' is a text, expected"),
    ("results", RESULTS + f'{{"one": {{"objects": [{{"curve": [{POINT}NaN}}]}}]}}}}}}', "results.json: an object has no J&F"),
    ("results", RESULTS + '{"one": {"objects": [{"curve": []}]}}}', "results.json: an object has no J&F with 1 interacted"),
]


@pytest.mark.parametrize(("name", "content", "message"), BROKEN)
def test_broken_files_of_a_run_are_named(name: str, content: str, message: str, tmp_path: Path, outcome: Callable) -> None:
    main = importlib.import_module("test_pvs.report").main
    assert outcome(main, run_files(tmp_path / "good"), "--output", tmp_path / "report", "--tables-only")[0] == 0
    folder = run_files(tmp_path / "bad", **{name: content})
    status, text = outcome(main, folder, "--output", tmp_path / "report", "--tables-only")
    assert status == 1
    (line,) = text.splitlines()
    assert f"{folder}/{name}.json" in line
    assert message in line


@pytest.mark.parametrize("content", ["", "[]", '{"protocol":'])
def test_a_run_does_not_go_on_with_broken_settings(content: str, places: dict[str, Path], tmp_path: Path, outcome) -> None:
    main = importlib.import_module("test_pvs.semi_supervised").main
    (tmp_path / "settings.json").write_text(content)
    status, text = outcome(main, "davis2016", places["data"], "--output", tmp_path, *_FLOOR.split())
    assert status == 1
    assert f"error: {tmp_path}/settings.json" in text
