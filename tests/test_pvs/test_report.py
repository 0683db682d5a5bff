"""test_pvs.report: numbers computed by hand, marks, refused input, and pictures that show something."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from i2v.data.annotations import save_object_mask
from test_pvs import report
from test_pvs.pictures import draw_families, spread
from test_pvs.tables import LAYOUTS, Cell, Row, Table
from tests.test_pvs import layouts

HEADER = "table,system,dataset,setting,value,source\n"


def write_run(
    folder: Path, protocol: str, videos: dict[str, Any], failures: tuple[str, ...] = (), left_out: int = 0, **settings: Any
) -> Path:
    """Write the folder of a run.

    Args:
        folder (Path): the folder.
        protocol (str): name of the protocol.
        videos (dict): J&F of each object by video; for interactive runs a list by number of interacted frames for each object.
        failures (tuple of str): videos that failed.
        left_out (int): number of videos that were not evaluated.
        **settings: further settings of the run.
    """
    own = {"input": "3c"} if protocol == "semi_supervised" else {"clicks": 3, "frames": 8}
    usual = {"seed": None, "system": "static-mask", "config": None, "checkpoint": None, "precision": None, "overrides": []}
    usual["correct"] = "deepest"
    settings = {"protocol": protocol, **own, **usual, "dataset": "mose", "data": "/data/mose", **settings}
    results: dict[str, Any] = {name: {"prompts": [{"frame": 0}]} for name in videos}
    if protocol != "semi_supervised":
        results = {name: {"objects": [object_entry(numbers) for numbers in objects]} for name, objects in videos.items()}
    content: dict[str, Any] = {"settings": settings, "dataset_videos": len(videos) + len(failures) + left_out}
    content |= {"videos": results, "failures": dict.fromkeys(failures, "Traceback")}
    (folder / "masks").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "results.json").write_text(json.dumps(content))
    if protocol == "semi_supervised":
        # As the evaluator writes it: padded, the mean first, and 0 for videos that failed.
        lines = ["sequence    ,obj,        J&F,          J,          F", "Global score,   , 1.00000000, 1.00000000, 1.00000000"]
        for name, objects in {**videos, **{name: [0.0] for name in failures}}.items():
            lines += [f"{name:<12},{i:03d},{number:11.8f},{0:11.8f},{0:11.8f}" for i, number in enumerate(objects, start=1)]
        (folder / "masks/results.csv").write_text("\n".join(lines) + "\n")
    return folder


def object_entry(numbers: list[float]) -> dict[str, Any]:
    """The entry of an object with a curve that rises up to the last of 8 interacted frames."""
    first = 9 - len(numbers)
    curve = [{"frames": first + i, "j_and_f": number, "j": 0.0, "f": 0.0} for i, number in enumerate(numbers)]
    return {"object": 1, "curve": curve}


def make_report(tmp_path: Path, folders: list[Path], *arguments: str) -> Path:
    output = tmp_path / "report"
    assert report.main([*map(str, folders), "--output", str(output), *arguments]) == 0
    return output


def cells(path: Path) -> dict[str, dict[str, str]]:
    """The non-empty cells of a table, by system and column."""
    with path.open(newline="") as file:
        rows = {row.pop("system"): row for row in csv.DictReader(file)}
    return {system: {name: text for name, text in row.items() if text not in ("-", "")} for system, row in rows.items()}


def refused(tmp_path: Path, caplog: pytest.LogCaptureFixture, folders: list[Path], *arguments: str) -> str:
    assert report.main([*map(str, folders), "--output", str(tmp_path / "report"), *arguments]) == 1
    return caplog.records[-1].getMessage()


def test_numbers_are_means_over_objects_and_then_over_data_sets(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", "offline", {"one": [[10, 60], [20, 70]], "two": [[30, 95]]}),
        write_run(tmp_path / "b", "offline", {"x": [[50.0]]}, dataset="pumavos", data="/data/puma"),
        write_run(tmp_path / "c", "offline", {"one": [[1], [2]], "two": [[6]]}, system="optical-flow"),
        write_run(tmp_path / "d", "online", {"one": [[40], [50]], "two": [[90]]}, clicks=1),
        write_run(tmp_path / "e", "semi_supervised", {"one": [10, 20], "two": [60]}),
        write_run(tmp_path / "f", "semi_supervised", {"one": [11, 22], "two": [66]}, input="gm"),
    ]
    output = make_report(tmp_path, folders, "--tables-only")
    assert cells(output / "table_2.csv") == {
        # 75 = (60 + 70 + 95) / 3, and 62.5 = (75 + 50) / 2
        "static-mask": {
            **{"3c mose": "75.0", "3c PU": "50.0", "average mose": "75.0 (over 3c)", "average PU": "50.0 (over 3c)"},
            "OA": "62.5 (over PU 3c, mose 3c)",
        },
        "optical-flow": {"3c mose": "3.0", "average mose": "3.0 (over 3c)", "OA": "3.0 (over mose 3c)"},
    }
    assert cells(output / "table_1.csv")["static-mask"]["1c mose"] == "60.0"
    assert cells(output / "table_7.csv") == {
        # 31.5 = (30 + 33) / 2
        "static-mask": {
            **{"3c mose": "30.0", "gm mose": "33.0"},
            **{"average mose": "31.5 (over 3c gm)", "OA": "31.5 (over mose 3c gm)"},
        }
    }
    header = (output / "table_7.csv").read_text().splitlines()[0]
    assert header == "system,quoted,3c mose,bb mose,gm mose,average mose,OA"
    text = (output / "report.md").read_text()
    assert (
        "| static-mask |  | - | - | 50.0 | 75.0 | - | - | 50.0 (over 3c) | 75.0 (over 3c) | 62.5 (over PU 3c, mose 3c) |"
        in text
    )
    assert "ncomplete" not in text


def test_averages_over_all_of_a_table_have_no_note(tmp_path: Path) -> None:
    scores = {"esd": 10, "pumavos": 20, "lvvis": 30, "sav": 41}
    folders = [
        write_run(
            tmp_path / f"{name}{clicks}", "online", {"a": [[score + clicks]]}, dataset=name, data=f"/{name}", clicks=clicks
        )
        for name, score in scores.items()
        for clicks in (5, 3, 1)
    ]
    folders.append(write_run(tmp_path / "more", "online", {"a": [[90]]}, dataset="sav", data="/sav", clicks=2))
    output = make_report(tmp_path, folders, "--tables-only", "--tables", "1", "3")
    row = cells(output / "table_1.csv")["static-mask"]
    header = (output / "table_1.csv").read_text().splitlines()[0].split(",")[2:]
    columns = [f"{setting} {name}" for setting in ("1c", "3c", "5c", "2c", "average") for name in ("ES", "PU", "LV", "SV")]
    assert header == [*columns, "OA"]
    # 44 = (42 + 44 + 46) / 3: the table has no 2c; 28.2 = (13 + 23 + 33 + 44) / 4
    assert row["average SV"] == "44.0"
    assert row["2c SV"] == "90.0"
    assert row["OA"] == "28.2"
    assert cells(output / "table_3.csv") == {
        "static-mask": {"ES": "13.0", "PU": "23.0", "LV": "33.0", "SV": "44.0", "OA": "28.2"}
    }


@pytest.mark.parametrize(("protocol", "number", "table"), [("offline", [80.0], 2), ("semi_supervised", 80.0, 7)])
def test_failed_videos_are_left_out_and_marked(protocol: str, number: Any, table: int, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", protocol, {"one": [number]}, failures=("two", "three"))
    output = make_report(tmp_path, [run], "--tables-only")
    # There is no average.
    assert cells(output / f"table_{table}.csv") == {"static-mask": {"3c mose": "80.0 (incomplete: 1 of 3 videos)"}}
    assert f"- {run}: 1 of 3 videos" in (output / "report.md").read_text()


def test_a_run_of_fewer_videos_than_another_is_marked(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "a", "online", {"one": [[80]], "two": [[60]]})
    part = write_run(tmp_path / "b", "online", {"one": [[90]]}, system="optical-flow")
    table = cells(make_report(tmp_path, [whole, part], "--tables-only") / "table_1.csv")
    assert table["static-mask"]["3c mose"] == "70.0"
    assert table["optical-flow"] == {"3c mose": "90.0 (incomplete: 1 of 2 videos)"}


def test_videos_that_the_evaluator_did_not_score_are_left_out_and_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", "semi_supervised", {"one": [80], "two": [60]}, failures=("three",))
    scores = run / "masks/results.csv"
    scores.write_text("".join(line for line in scores.read_text().splitlines(keepends=True) if not line.startswith("two")))
    other = write_run(tmp_path / "b", "semi_supervised", {"one": [90]}, system="optical-flow")
    table = cells(make_report(tmp_path, [run, other]) / "table_7.csv")
    assert table["static-mask"] == {"3c mose": "80.0 (incomplete: 1 of 3 videos, 1 not scored)"}
    assert table["optical-flow"] == {"3c mose": "90.0 (incomplete: 1 of 3 videos)"}


@pytest.mark.parametrize("protocol", ["online", "semi_supervised"])
def test_a_run_on_some_of_the_videos_is_marked(protocol: str, tmp_path: Path) -> None:
    number: Any = 90.0 if protocol == "semi_supervised" else [90.0]
    run = write_run(tmp_path / "run", protocol, {"one": [number]}, failures=("two",), left_out=3)
    make_report(tmp_path, [run], "--tables-only")
    assert f"- {run}: 1 of 5 videos" in (tmp_path / "report/report.md").read_text()


def test_a_run_whose_videos_all_failed_has_no_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "online", {}, failures=("one",))
    table = cells(make_report(tmp_path, [run]) / "table_1.csv")
    assert table == {"static-mask": {"3c mose": "- (incomplete: 0 of 1 videos)"}}


def test_other_settings_are_other_rows(tmp_path: Path) -> None:
    digests = {"weights_sha256": "b7", "config_sha256": None}
    settings = ({"checkpoint": "a.pt"}, {"checkpoint": "b.pt", **digests}, {"checkpoint": "b.pt", "seed": 3})
    folders = [
        write_run(tmp_path / str(i), "offline", {"one": [[50 + i]]}, system="sam-i2v", **each)
        for i, each in enumerate(settings)
    ]
    table = cells(make_report(tmp_path, folders, "--tables-only") / "table_2.csv")
    assert {name: row["3c mose"] for name, row in table.items()} == {
        "sam-i2v (a.pt)": "50.0",
        "sam-i2v (b.pt)": "51.0",
        "sam-i2v (seed=3, b.pt)": "52.0",
    }


def test_a_table_without_runs_says_how_to_make_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "offline", {"one": [[40]]})
    message = refused(tmp_path, caplog, [run], "--tables-only", "--tables", "2", "3")
    assert message == "left out: Table 3 has no run: python -m test_pvs.paper 3 --dry-run prints its runs and their commands"
    assert cells(tmp_path / "report/table_2.csv")["static-mask"]["3c mose"] == "40.0"


def test_runs_of_other_tables_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders = [
        write_run(tmp_path / "scored", "semi_supervised", {"one": [40]}, input="bb"),
        write_run(tmp_path / "online", "online", {"one": [[40]]}),
        write_run(tmp_path / "more", "online", {"one": [[40]]}, clicks=5),
    ]
    lines = [
        f"{tmp_path / 'online'} (online, 3c) fits other tables: --tables 1 3 4 5 6 figure-6",
        f"{tmp_path / 'more'} (online, 5c) fits other tables: --tables 1",
    ]
    text = (make_report(tmp_path, folders, "--tables-only", "--tables", "7") / "report.md").read_text()
    assert text.endswith("Left out:\n\n" + "".join(f"- {line}\n" for line in lines))
    assert caplog.messages[-2:] == [f"in none of the tables: {line}" for line in lines]
    text = (make_report(tmp_path, folders, "--tables-only", "--tables", "7", "3") / "report.md").read_text()
    assert text.endswith(f"Left out:\n\n- {lines[1]}\n")
    caplog.clear()
    make_report(tmp_path, folders, "--tables-only")
    assert caplog.messages == []


def test_quoted_numbers_are_marked_and_never_mixed_with_measured_ones(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "offline", {"one": [[40]]})
    quoted = tmp_path / "quoted.csv"
    lines = ["static-mask,mose,3c,12.5,a test", "static-mask,ES,1c,7,a test", "other,OA,-,9,a test", "other,cost,-,4608,a test"]
    quoted.write_text(HEADER + "".join(f"2,{line}\n" for line in lines))
    output = make_report(tmp_path, [run], "--tables-only", "--quoted", str(quoted))
    rows = (output / "table_2.csv").read_text().splitlines()
    assert rows == [
        'system,quoted,"cost, GB hours",1c ES,1c mose,3c ES,3c mose,5c ES,5c mose,average ES,average mose,OA',
        "static-mask,,-,-,-,-,40.0,-,-,-,40.0 (over 3c),40.0 (over mose 3c)",
        "static-mask,a test,-,7.0,-,-,12.5,-,-,-,-,-",  # nobody quoted an average
        "other,a test,4.6k,-,-,-,-,-,-,-,-,9.0",
    ]
    assert "| static-mask | quoted: a test | - | 7.0 |" in (output / "report.md").read_text()
    assert not (output / "table_1.csv").exists()


@pytest.mark.slow
def test_figures_of_quoted_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "online", {"a": [[40]], "b": [[60]]}, dataset="esd", system="my:system")
    output = make_report(tmp_path, [run], "--quoted", "--tables", "1", "3", "figure-6")
    text = (output / "report.md").read_text()
    for name in ("figure_1.png", "table_3.png", "figure_6.png"):
        assert f"]({name})" in text
        assert np.asarray(Image.open(output / name).convert("L")).std() > 5
    assert "| TinySAM + SAM-I2V | quoted: SAM-I2V (CVPR 2025) Table 1 | 18.9 | 4.6k | 73.0 |" in text
    # No cost is known, and no system is an image SAM with a way to upgrade it.
    assert not list(make_report(tmp_path / "plain", [run], "--tables", "1", "3").glob("*_[136].png"))


@pytest.mark.slow
def test_bars_have_the_notes_of_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    cells = {("3c", "mose"): Cell(60.0), ("-", "OA"): Cell(60.0, "over mose")}
    rows = [Row("TinySAM + TA", "", cells), Row("EdgeSAM + TA", "", {}), Row("static-mask", "", cells)]
    notes, heights = [], []
    monkeypatch.setattr(Axes, "bar_label", lambda _, bars, texts, **__: notes.append(texts) or heights.append(len(bars)))
    draw_families(tmp_path / "bars.png", "bars", Table(LAYOUTS["3"], [*cells], rows))
    assert notes == [["", ""], ["over mose", ""]]
    assert heights == [2, 2]  # no bar of static-mask


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("table,system\n", "columns"),
        (HEADER + "11,a,mose,3c,1,s\n", "line 2: no table 11; expected one of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"),
        (HEADER + "8,a,OA,-,1,s\n", "line 2: no OA in this table; expected one of parameters, FLOPs"),
        (HEADER + "1,a,FLOPs,-,1,s\n", "line 2: no setting - in this table for FLOPs; expected one of 1c"),
        (HEADER + "1,a,OA,average,1,s\n", "line 2: no setting average in this table for OA; expected one of -"),
        (HEADER + "3,a,ES,average,1,s\n", "line 2: no setting average in this table for ES; expected one of 3c"),
        (HEADER + "1,a,mose,gm,1,s\n", "line 2: no setting gm"),
        (HEADER + "1,a,mose,3c,1,s\n1,a,mose,3c,2,s\n", "line 3: duplicate row"),
        (HEADER + "1,a,mose,3c,many,s\n", "'many' is not a number"),
        (HEADER + "1,a,mose,3c,nan,s\n", "'nan' is not a number"),
        (HEADER + "1,a,mose,3c,1,\n", "none of them empty"),
        (HEADER + "1,a,cost,-,0,s\n", "line 2: a cost of 0; leave the line out if there was no training"),
        ("", "quoted.csv is empty, expected the columns table, system"),
    ],
)
def test_bad_quotes(text: str, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "offline", {"one": [[40]]})
    (tmp_path / "quoted.csv").write_text(text)
    found = refused(tmp_path, caplog, [run], "--quoted", str(tmp_path / "quoted.csv"))
    assert message in found
    assert "quoted.csv" in found


def test_a_folder_that_cannot_be_used_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "online", {"one": [[40]], "two": [[50]]})
    (tmp_path / "other").mkdir()
    assert f"left out: {tmp_path / 'other'} is not a finished run" in refused(tmp_path, caplog, [tmp_path / "other", run])
    assert cells(tmp_path / "report/table_1.csv")["static-mask"]["3c mose"] == "45.0"
    assert f"Left out:\n\n- {tmp_path / 'other'} is not" in (tmp_path / "report/report.md").read_text()


@pytest.mark.parametrize("what", ["weights", "config"])
def test_different_files_of_one_name(what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [
        write_run(tmp_path / data, "online", {"one": [[40]]}, data=data, **{f"{what}_sha256": digest})
        for data, digest in (("a", "1f"), ("b", "2e"))
    ]
    assert f"{runs[0]} and {runs[1]} have different {what}" in refused(tmp_path, caplog, runs)


def test_folders_that_are_not_finished_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "semi_supervised", {"one": [40], "two": [50]})
    scores = run / "masks/results.csv"
    scores.write_text("nonsense\n1\n")
    assert f"{scores} is unreadable" in refused(tmp_path, caplog, [run])
    scores.unlink()
    assert f"{scores} does not exist; run semi_eval.sh" in refused(tmp_path, caplog, [run])
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps(settings | {"seed": 3}))
    assert f"{run}: the settings in results.json differ" in refused(tmp_path, caplog, [run])
    (run / "results.json").unlink()
    assert f"{run} is not a finished run: it has no results.json" in refused(tmp_path, caplog, [run])
    assert f"{tmp_path / 'none'} is not a finished run" in refused(tmp_path, caplog, [tmp_path / "none"])


@pytest.mark.parametrize("score", [-50, 100.5, 1e308])
def test_invalid_scores(score: float, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "online", {"one": [[40, score, 50]]})
    assert f"{run}/results.json: an object's J&F ('j_and_f') is {score}, not from" in refused(tmp_path, caplog, [run])
    run = write_run(tmp_path / "other", "semi_supervised", {"one": [score]})
    message = refused(tmp_path, caplog, [run])
    assert f"{run}/masks/results.csv is unreadable or malformed: ValueError: line 3" in message
    assert "the J&F of one is" in message


def test_a_negative_number_of_videos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(tmp_path / "run", "semi_supervised", {"one": [40]}, left_out=-4)
    assert f"{run}/results.json: 'dataset_videos' is -3, expected 0 or more" in refused(tmp_path, caplog, [run])


def test_the_same_run_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (write_run(tmp_path / name, "online", {"one": [[40]]}) for name in "ab")
    assert f"{first} and {second} have the same system and settings" in refused(tmp_path, caplog, [first, second])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a|b", "a\nb", 'a,"b"', "$a$ [b] (c)"])
def test_odd_names_survive(name: str, tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "run", "online", {name: [[40.0] * 8], "two": [[50.0] * 8]}, config=name, dataset=name),
        write_run(tmp_path / "other", "online", {name: [[41.0] * 8], "two": [[51.0] * 8]}, dataset=name),
    ]
    output = make_report(tmp_path, folders)
    assert cells(output / "table_1.csv")[f"static-mask ({name})"][f"3c {name}"] == "45.0"
    lines = (output / "report.md").read_text().splitlines()
    rows = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 4
    links = [re.search(r"\]\((.*)\)$", line)[1] for line in lines if line.startswith("![")]
    assert len(links) == 2
    assert all((output / unquote(link)).is_file() for link in links)
    assert all(not re.search(r"[\s()]", link) for link in links)
    assert {path.parent for path in tmp_path.rglob("*.png")} == {output}


@pytest.mark.parametrize("name", ["../../a", "/tmp/a", ""])
def test_names_that_leave_the_folder(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_run(tmp_path / "run", "online", {name: [[40.0] * 8]})
    assert report.main([str(folder), "--output", str(tmp_path / "report")]) == 1
    assert f"results.json names {name!r}: expected a path inside of its folder" in caplog.text


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on real frames, the second with empty masks; read-only."""
    root = tmp_path_factory.mktemp("compared")
    data = layouts.folders(root / "data", every=4)
    folders = []
    for system, sees in (("perfect", True), ("blind", False)):
        videos = {name: [[30.0 + sees, *[60.0 + sees] * 7]] * 2 for name in layouts.NAMES}
        folders.append(write_run(root / system, "online", videos, system=system, data=str(data)))
        for number, name in enumerate(layouts.NAMES):
            (folders[-1] / "masks" / name).mkdir()
            labels = layouts.discs(number)[1]
            for obj in (1, 2):
                for frame in range(0, layouts.NUM_FRAMES, 4):
                    save_object_mask(folders[-1] / "masks" / name, obj, f"{frame:05d}", (labels[frame] == obj) & sees)
    return folders


@pytest.mark.slow
def test_pictures_are_linked_and_show_something(compared: list[Path], tmp_path: Path) -> None:
    output = make_report(tmp_path, compared, "--strips", "two")
    names = {path.name for pattern in ("*.png", "*.jpg") for path in output.glob(pattern)}
    assert names == {"01_online_mose_curves.png", "01_online_mose_1_2.png", "01_online_mose_3c_two.jpg"}
    text = (output / "report.md").read_text()
    for name in names:
        assert f"]({name})" in text
        assert np.asarray(Image.open(output / name).convert("L")).std() > 5


def test_a_strip_names_a_mask_of_another_size(compared: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = shutil.copytree(compared[0], tmp_path / "run")
    path = run / "masks/two/001/00004.png"
    Image.new("L", (8, 6)).save(path)
    assert f"{path} is 8x6 pixels, but the frames of the video are 64x48" in refused(tmp_path, caplog, [run], "--strips", "two")


@pytest.mark.slow
def test_the_plot_of_runs_with_long_names(tmp_path: Path) -> None:
    sizes = []
    for number, checkpoint in enumerate((None, "/a/folder/with/a/long/name/and/a/checkpoint/with/a/long/name/too.pt")):
        root = tmp_path / str(number)
        runs = [
            write_run(root / system, "offline", {"a": [[*[30] * 7, 60]]}, system=system, checkpoint=checkpoint)
            for system in ("one", "two", "three")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Matplotlib warns where axes vanish
            plot = np.asarray(Image.open(make_report(root, runs) / "01_offline_mose_curves.png").convert("RGB")).astype(int)
        coloured = np.flatnonzero((np.ptp(plot, axis=2) > 60).any(axis=0))
        sizes.append(np.ptp(coloured))
    assert sizes[1] > 0.9 * sizes[0]


def test_curves_without_a_first_point_are_not_plotted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "online", {"a": [[30, 60]]})  # with 7 and 8 interacted frames
    assert not list(make_report(tmp_path, [run]).glob("*.png"))


@pytest.mark.slow
def test_a_panel_per_setting_but_none_for_a_single_video(tmp_path: Path) -> None:
    widths = []
    for number, videos in enumerate(({"a": [[30, 60]]}, {"a": [[30, 60]], "b": [[40, 70]]})):
        root = tmp_path / str(number)
        folders = [write_run(root / f"{system}1", "online", videos, system=system, clicks=1) for system in ("one", "two")]
        both = {"a": [[30, 60]], "b": [[40, 70]]}
        folders += [write_run(root / f"{system}3", "online", both, system=system, clicks=3) for system in ("one", "two")]
        widths.append(Image.open(make_report(root, folders) / "01_online_mose_1_2.png").width)
    # Without the margins.
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.05)


@pytest.mark.slow
def test_a_second_row_of_panels(tmp_path: Path) -> None:
    heights = []
    for count in (3, 4):
        root = tmp_path / str(count)
        both = {"a": [[30, 60]], "b": [[40, 70]]}
        runs = [
            write_run(root / f"{system}{clicks}", "online", both, system=system, clicks=clicks)
            for system in ("one", "two")
            for clicks in range(1, count + 1)
        ]
        heights.append(Image.open(make_report(root, runs) / "01_online_mose_1_2.png").height)
    assert heights[1] == pytest.approx(2 * heights[0], rel=0.05)


@pytest.mark.slow
def test_a_strip_has_the_ground_truth_first(compared: list[Path], tmp_path: Path) -> None:
    output = make_report(tmp_path, compared, "--strips", "two")
    strip = np.asarray(Image.open(output / "01_online_mose_3c_two.jpg")).astype(int)
    truth, perfect, blind = (row[22:] for row in np.split(strip, 3))  # without the titles
    # JPEG changes each row a bit, as its blocks lie.
    assert 2 * np.abs(truth - perfect).mean() < np.abs(truth - blind).mean()
    assert strip.shape[1] == 3 * (240 + 4)  # frames 0, 4 and 8


def test_frames_of_a_strip() -> None:
    assert spread(range(0, 100, 4)) == [0, 20, 40, 56, 76, 96]
    assert spread([3, 9]) == [3, 9]


def test_a_strip_of_an_unknown_video(compared: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "no run has finished the video three" in refused(tmp_path, caplog, compared, "--strips", "three")


@pytest.mark.slow
def test_strips_of_some_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture, compared: list[Path]) -> None:
    data = json.loads((compared[0] / "settings.json").read_text())["data"]
    one_click = write_run(tmp_path / "1c", "online", {name: [[30, 60]] * 2 for name in layouts.NAMES}, clicks=1, data=data)
    runs = [*compared, one_click]
    output = make_report(tmp_path, runs, "--strips", "one", "--strip-settings", "3c")
    assert [path.name for path in output.glob("*.jpg")] == ["01_online_mose_3c_one.jpg"]
    with pytest.raises(SystemExit):
        make_report(tmp_path, runs, "--strip-settings", "3c")
    assert "no run has the setting 5c" in refused(tmp_path, caplog, runs, "--strips", "one", "--strip-settings", "5c")


def test_without_matplotlib_there_are_tables(
    compared: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in refused(tmp_path, caplog, compared)
    assert (tmp_path / "report/report.md").exists()
    assert (tmp_path / "report/table_1.csv").exists()
