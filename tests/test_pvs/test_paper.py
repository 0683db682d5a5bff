"""test_pvs.paper: the paper's tables by one command."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from test_pvs.paper.__main__ import main
from test_pvs.paper.cluster import ShareTask
from test_pvs.paper.plan import plan_runs
from test_pvs.paper.registry import PaperSystem, read_registry, with_config
from test_pvs.quotes import PAPER_QUOTES, read_quotes
from test_pvs.runs import OutputFolder
from test_pvs.tables import LAYOUTS, TABLE_SETTINGS
from tests.conftest import PROJECT, TINY_CONFIG
from tests.test_pvs import layouts

Outcome = Callable[..., tuple[int, str]]
# In millions, of all systems made of SAM-I2V. The paper has those of the first three: 18.9, 17.8 and 18.7.
PARAMETERS = {
    **{"sam-i2v": 18.9, "ta": 17.8, "sa-ta": 18.7, "st-adapter": 18.0, "tfi": 21.5},
    **{"edgesam-ta": 17.2, "edgesam-sam-i2v": 18.4, "mobilesam-ta": 17.8, "mobilesam-sam-i2v": 18.9},
    **{"slimsam-ta": 35.6, "slimsam-sam-i2v": 36.8, "sam-ta": 101.4, "sam-sam-i2v": 102.8},
    **dict.fromkeys(("msa-0-6", "msa-1-5", "msa-2-4", "ufs", "mpg-1", "mpg-5", "no-mca"), 18.9),
    **{f"sam-i2v-{name}": 18.9 for name in ("48h", "16gpu", "32gpu")},
    "no-mpg": 18.3,
}
STILL, FLOW = {"system": "static-mask", "parameters": 1.5, "cost": 4608}, {"system": "optical-flow"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The paper's data sets, each of two tiny videos; read-only."""
    root = tmp_path_factory.mktemp("data")
    (root / "lvvis").mkdir()
    return {
        "esd": layouts.esd(root / "esd"),
        "pumavos": layouts.folders(root / "pumavos"),
        "lvvis": layouts.lvvis(root / "lvvis/val"),
        "sav": layouts.sav(root / "sav"),
    }


@pytest.fixture
def paper(tmp_path: Path, data: dict[str, Path]) -> Callable[..., list[str]]:
    """Makes the arguments of a table with the given systems as its rows, which are called Row KEY."""

    def arguments(
        table: str, systems: dict[str, dict[str, Any]], *more: str, only: tuple[str, ...] = ("pumavos",)
    ) -> list[str]:
        rows = {f"Row {key}": key for key in systems}
        registry = {"systems": systems, "tables": {table: rows}, "data": {name: str(data[name]) for name in only}}
        (tmp_path / "registry.yaml").write_text(yaml.safe_dump(registry, sort_keys=False))
        given = [table, "--registry", str(tmp_path / "registry.yaml"), "--output", str(tmp_path / "out"), "--devices", "cpu"]
        return [*given, *([] if "--slurm" in more or "--dry-run" in more else ["--tables-only"]), *more]

    return arguments


def measured(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row.pop("system"): row for row in csv.DictReader(file) if not row["quoted"]}


@pytest.mark.slow
def test_a_table_is_made_and_nothing_is_run_again(
    paper: Callable[..., list[str]], data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = paper("1", {"still": STILL}, only=tuple(data))
    assert main(arguments) == 0
    rows = measured(tmp_path / "out/table_1/table_1.csv")
    [row] = rows.values()
    assert (row["parameters, M"], row["cost, GB hours"]) == ("1.5", "4.6k (quoted)")
    cells = {name: [float(row[f"{clicks}c {name}"]) for clicks in (1, 3, 5)] for name in ("ES", "PU", "LV", "SV")}
    averages = [float(row[f"average {name}"]) for name in cells]
    assert averages == pytest.approx([sum(values) / 3 for values in cells.values()], abs=0.1)
    assert float(row["OA"]) == pytest.approx(sum(averages) / 4, abs=0.1)
    text = (tmp_path / "out/table_1/report.md").read_text()
    assert "| TinySAM + SAM-I2V | quoted: SAM-I2V (CVPR 2025) Table 1 | 18.9 | 4.6k | 73.0 |" in text
    assert "- Row still: static-mask\n" in text

    monkeypatch.setattr("test_pvs.paper.plan.run_videos", None)
    assert main(arguments) == 0


@pytest.mark.slow
def test_a_table_of_one_data_set_says_so(paper: Callable[..., list[str]], tmp_path: Path) -> None:
    assert main(paper("3", {"still": STILL})) == 0
    row = measured(tmp_path / "out/table_3/table_3.csv")["Row still"]
    assert list(row) == ["quoted", "ES", "PU", "LV", "SV", "OA"]  # no parameters, as in the paper
    assert row["OA"] == f"{row['PU']} (over PU)"


@pytest.mark.slow
def test_masks_of_the_semi_supervised_table_are_scored(paper: Callable[..., list[str]], tmp_path: Path) -> None:
    arguments = paper("7", {"still": STILL})
    assert main(arguments) == 0
    row = measured(tmp_path / "out/table_7/table_7.csv")["Row still"]
    assert float(row["3c PU"]) < float(row["gm PU"])
    scores = tmp_path / "out/runs/still/pumavos-semi_supervised-gm/masks/results.csv"
    before = scores.stat().st_mtime_ns
    os.utime(scores, (0, 0))  # older than the results
    assert main(arguments) == 0
    assert scores.stat().st_mtime_ns >= before


@pytest.mark.slow
def test_a_failed_video_is_reported_and_tried_again(
    paper: Callable[..., list[str]], data: dict[str, Path], tmp_path: Path, outcome: Outcome
) -> None:
    broken = shutil.copytree(data["pumavos"], tmp_path / "broken")
    (broken / "Annotations/two/00004.png").unlink()
    arguments = paper("3", {"still": STILL}, "--data", f"pumavos={broken}")
    assert outcome(main, *arguments)[0] == 1
    assert "incomplete: 1 of 2 videos" in measured(tmp_path / "out/table_3/table_3.csv")["Row still"]["PU"]
    shutil.copy(data["pumavos"] / "Annotations/two/00004.png", broken / "Annotations/two")
    assert main(arguments) == 0


@pytest.mark.slow
def test_missing_weights_are_named_before_any_work(paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome) -> None:
    published = {"config": "i2v-infer", "checkpoint": str(tmp_path / "tinysam.pth")}
    systems = {
        "still": STILL,
        "mine": {"config": "i2v-infer", "checkpoint": str(tmp_path / "mine.pt"), "source": "a training"},
        "theirs": published,
        "none": {"config": "i2v-infer"},
    }
    status, said = outcome(main, *paper("3", systems))
    assert status == 1
    assert f"Row mine (mine): no such file: {tmp_path / 'mine.pt'}; get it from: a training" in said
    assert f"Row theirs (theirs): no such file: {tmp_path / 'tinysam.pth'}; python tools/download_checkpoints.py" in said
    assert "Row none (none): the config i2v-infer comes without weights" in said
    assert "nothing was run: 3 of 4 systems cannot be used" in said
    assert "--checkpoint mine=PATH, or run the others alone: --systems still" in said
    assert not (tmp_path / "out").exists()
    assert main(paper("3", systems, "--systems", "still")) == 0


def test_a_system_that_cannot_be_built_is_named_before_any_work(
    paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome
) -> None:
    broken = {"system": "tests.test_pvs.stubs:broken", "config": "nonsense"}
    status, said = outcome(main, *paper("3", {"still": STILL, "broken": broken}))
    assert status == 1
    assert "Row broken (broken): there is no such thing as nonsense" in said
    assert "--systems still" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [(), ("--slurm",)])
def test_missing_packages_are_named_before_any_work(
    mode: tuple[str, ...], paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cutie", None)
    monkeypatch.setitem(sys.modules, "sam2", None)
    monkeypatch.delenv("XMEM_REPOSITORY", raising=False)
    (tmp_path / "there.pt").touch()
    there, nowhere = {"checkpoint": str(tmp_path / "there.pt")}, {"checkpoint": str(tmp_path / "nowhere.pt")}
    systems = {"still": STILL, "cutie": {"system": "sam+cutie", **there}, "sam2": {"system": "sam2", **there}}
    status, said = outcome(main, *paper("3", systems, *mode))
    assert status == 1
    assert "Row cutie (cutie): Cutie is not installed: git clone" in said
    assert "Row sam2 (sam2): SAM 2.1 needs the package sam2" in said
    assert "(see above): provide what is missing, or run the others alone: --systems still" in said  # no weights are missing
    status, said = outcome(main, *paper("3", {"xmem++": {"system": "sam+xmem++", **nowhere}}, *mode))
    assert f"Row xmem++ (xmem++): no such file: {tmp_path / 'nowhere.pt'}" in said
    assert "Row xmem++ (xmem++): XMem++ is not installed (no repository given)" in said
    assert said.endswith("provide what is missing, or name weights with --checkpoint xmem++=PATH\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", [(), ("--slurm",), ("--dry-run",)])
def test_everything_that_is_missing_is_listed_at_once(
    mode: tuple[str, ...],
    paper: Callable[..., list[str]],
    tmp_path: Path,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "sam2", None)
    systems = {"still": STILL, "sam2": {"system": "sam2", "checkpoint": str(tmp_path / "nowhere.pt")}}
    arguments = paper("3", systems, *mode, "--data", "sav=nowhere", "esd=no")
    if "--dry-run" in mode:
        assert main(arguments) == 0
        said = capsys.readouterr().out
    else:
        status, said = outcome(main, *(argument for argument in arguments if argument != "--tables-only"), "--strips", "one")
        assert status == 1
    for line in (
        "data set sav: no such folder: nowhere\n",
        "data set esd: no such folder: no\n",
        f"Row sam2 (sam2): no such file: {tmp_path / 'nowhere.pt'}\n",
        "Row sam2 (sam2): SAM 2.1 needs the package sam2: pip install",
        "2 of 2 data sets and 1 of 2 systems cannot be used (see above): provide what is missing, or name the data sets",
    ):
        assert line in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_with_an_error_is_left_out_and_the_others_go_on(
    paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome
) -> None:
    missing = {"config": "i2v-infer", "checkpoint": str(tmp_path / "mine.pt")}
    arguments = paper("3", {"mine": missing, "still": STILL}, "--keep-going")
    status, said = outcome(main, *arguments)
    assert status == 1
    assert list(measured(tmp_path / "out/table_3/table_3.csv")) == ["Row still"]
    assert "left out: Row mine, pumavos, 3c: no such checkpoint" in said
    assert "- Row mine, pumavos, 3c: no such checkpoint" in (tmp_path / "out/table_3/report.md").read_text()


@pytest.mark.slow
def test_a_run_that_another_table_makes_is_left_out(
    paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = paper("3", {"still": STILL, "flow": FLOW})
    rows = read_registry(tmp_path / "registry.yaml").rows("3")
    data = read_registry(tmp_path / "registry.yaml").data
    planned = plan_runs(LAYOUTS["3"], rows, data, tmp_path / "out/runs")
    with OutputFolder(planned[0].run.output, planned[0].run.settings(), shared=True) as share:
        share.claim()
        status, said = outcome(main, *arguments)
        assert (status, "left out: Row still, pumavos, 3c: another run writes into" in said) == (1, True)
        assert list(measured(tmp_path / "out/table_3/table_3.csv")) == ["Row flow"]
    with OutputFolder(planned[0].run.output, planned[0].run.settings()) as whole:  # the report of the other table
        whole.claim()
        monkeypatch.setattr("submitit.JobEnvironment", lambda: SimpleNamespace(global_rank=0, num_tasks=1))
        ShareTask([planned[0].run], "cpu")()
    assert main(arguments) == 0


def test_missing_data_is_named_before_any_work(paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome) -> None:
    status, said = outcome(main, *paper("3", {"still": STILL}, "--data", "sav=nowhere", "davis2016=nowhere"))
    assert status == 1
    assert "data set sav: no such folder: nowhere\n" in said
    assert "data set davis2016: no such folder: nowhere\n" in said
    assert "2 of 2 data sets cannot be used (see above): provide what is missing, or name the data sets that you have" in said
    (tmp_path / "empty").mkdir()
    status, said = outcome(main, *paper("3", {"still": STILL}, "--data", f"sav={tmp_path / 'empty'}"))
    assert f"data set sav: {tmp_path / 'empty'} is not the folder of this data set: JPEGImages_24fps is missing\n" in said
    for given, message in (
        (["nonsense"], "expected NAME=VALUE, got 'nonsense'"),
        (["nonsense=x"], "nonsense"),
        (["sav=x", "sav=y"], "--data has a data set twice"),
    ):
        status, said = outcome(main, *paper("3", {"still": STILL}, "--data", *given))
        assert (status, message in said) == (2, True)


def test_pictures_are_checked_before_any_work(
    paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [argument for argument in paper("3", {"still": STILL}) if argument != "--tables-only"]
    status, said = outcome(main, *arguments, "--strips", "one", "three")
    assert (status, "no data set has the video three of --strips" in said) == (1, True)
    status, said = outcome(main, *arguments, "--strips", "one", "--tables-only")
    assert (status, "--strips cannot be combined with --tables-only" in said) == (2, True)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, said = outcome(main, *arguments)
    assert (status, "pip install matplotlib" in said) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_dry_run_shows_the_commands_of_missing_runs(
    paper: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = {
        "still": STILL,
        "mine": {"config": "i2v-infer", "checkpoint": "mine.pt", "overrides": ["predictor.keep_given_masks=true"]},
    }
    assert main(paper("3", systems, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert (
        "Table 3: 2 of 2 runs are missing:\n# Row still, pumavos, 3c\npython -m test_pvs.interactive online pumavos" in printed
    )
    assert "| EdgeSAM + TA | quoted: SAM-I2V (CVPR 2025) Table 3 | 78.3 |" in printed
    assert "--config i2v-infer --checkpoint mine.pt --clicks 3 --overrides predictor.keep_given_masks=true\n# Row" in printed
    assert not (tmp_path / "out").exists()
    assert main(paper("7", systems, "--dry-run")) == 0
    assert "--input bb && DATASET=pumavos DATA=" in capsys.readouterr().out

    assert main(paper("3", systems, "--systems", "still")) == 0
    capsys.readouterr()
    assert main(paper("3", systems, "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "| Row still |" in printed
    assert "1 of 2 runs are missing:\n# Row mine, pumavos, 3c\n" in printed
    assert "# Row mine (mine): no such file: mine.pt\n# 1 of 2 systems cannot be used (see above)" in printed


@pytest.mark.slow
def test_results_of_other_weights_are_not_taken(
    paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome, data: dict[str, Path]
) -> None:
    assert main(paper("3", {"still": STILL})) == 0
    for dry_run in ([], ["--dry-run"]):
        status, said = outcome(main, *paper("3", {"still": {**STILL, "system": "optical-flow"}}, *dry_run))
        assert status == 1
        assert "holds a run with other settings (system was static-mask, is optical-flow): use another folder" in said


@pytest.mark.slow
def test_selector_settings_of_one_model(tmp_path: Path, tiny_checkpoint: Path, data: dict[str, Path]) -> None:
    """Table 5 as in the registry, with a tiny network and its weights in the place of the published one."""
    output = tmp_path / "out"
    arguments = ["5", "--config", str(TINY_CONFIG), "--checkpoint", f"sam-i2v={tiny_checkpoint}", "--output", str(output)]
    arguments += ["--data", f"sav={data['sav']}", "--devices", "cpu", "--tables-only", "--systems", "msa-0-6", "ufs"]
    assert main(arguments) == 0
    rows = measured(output / "table_5/table_5.csv")
    assert list(rows) == ["w/o MSA (i.e., x=0, y=6) (tiny)", "w/ MSA (x=3, y=3) w/ UFS (tiny)"]
    settings = json.loads((output / "runs/msa-0-6-tiny/sav-online-3c/settings.json").read_text())
    assert settings["checkpoint"] == str(tiny_checkpoint)
    assert settings["overrides"][0] == "model.memory_selector.num_global=0"


def test_weights_with_another_config() -> None:
    systems = read_registry().systems
    assert systems["sam-i2v"].with_config("i2v-lite", "Row") == (
        "Row (i2v-lite)",
        PaperSystem("sam-i2v", config="i2v-lite", overrides=systems["sam-i2v"].overrides),
    )
    assert systems["msa-1-5"].with_config("i2v-lite", "")[1].checkpoint is None
    # Weights of another training do not come with the config.
    assert systems["no-mca"].with_config("i2v-lite", "")[1].checkpoint == "runs/i2v-train-no-mca/last.pt"
    assert systems["sam-2.1"].with_config("i2v-lite", "Row") == ("Row", systems["sam-2.1"])
    given = read_registry(checkpoints={"sam-i2v": "mine.pt", "ta": "ta.pt"}).systems
    assert {given[key].with_config("i2v-lite", "")[1].checkpoint for key in ("sam-i2v", "ufs")} == {"mine.pt"}
    assert given["mpg-1"].checkpoint == "runs/i2v-train-mpg-1/last.pt"


def test_rows_with_another_config_are_named_by_its_trunk() -> None:
    registry = read_registry()
    rows = with_config(registry.rows("3"), "i2v-lite")
    assert {name: system.key for name, system in rows.items()} == {
        "EfficientNetLite + TA (i2v-lite)": "ta",
        "EfficientNetLite + SAM-I2V (i2v-lite)": "sam-i2v",
        "EdgeSAM + TA (i2v-lite)": "edgesam-ta",  # these rows name the trunk
        "EdgeSAM + SAM-I2V (i2v-lite)": "edgesam-sam-i2v",
    }
    rows = with_config(registry.rows("figure-6", ["ta", "mobilesam-ta"]), "i2v-lite")
    assert list(rows) == ["EfficientNetLite + TA (i2v-lite)", "EfficientNetLite + TA (i2v-lite), mobilesam-ta"]
    assert list(with_config(registry.rows("3", ["ta"]), str(PROJECT / "configs/i2v-train.yaml"))) == [
        "TinySAM + TA (i2v-train)"
    ]
    assert "w/ MSA (x=3, y=3) (i2v-lite)" in with_config(registry.rows("5"), "i2v-lite")
    assert "Base + TFI (i2v-lite)" in with_config(registry.rows("4"), "i2v-lite")


def test_only_the_published_weights_have_a_cost() -> None:
    systems = read_registry().systems
    assert {key: system.cost for key, system in systems.items() if system.cost} == {
        "sam-2.1": 2211840,
        **dict.fromkeys(["sam-i2v", "msa-0-6", "msa-1-5", "msa-2-4", "ufs"], 4608),
        "sam-i2v-32gpu": 18432,
    }
    given = read_registry(checkpoints={"sam-i2v": "a.pt", "sam-i2v-32gpu": "b.pt", "sam-2.1": "theirs.pt"}).systems
    assert not [key for key, system in given.items() if system.cost]
    assert not [key for key, system in systems.items() if system.parameters]  # the paper's are in quoted.csv


def test_rows_are_those_of_the_paper() -> None:
    quoted = {(quote.table, quote.system): None for quote in read_quotes(PAPER_QUOTES, TABLE_SETTINGS)}
    tables = read_registry().tables
    assert set(tables) == set(LAYOUTS)
    tables["8"] = tables["1"]
    rows = [key for key in quoted if key[0] != "9"]  # its rows are parts of a system
    assert rows == [(table, name) for table in TABLE_SETTINGS if table != "9" for name in tables[table]]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "parameters"), PARAMETERS.items())
def test_parameters_of_all_systems(key: str, parameters: float) -> None:
    assert read_registry().systems[key].count_parameters() == pytest.approx(parameters, abs=0.05)


def test_every_system_made_of_sam_i2v_is_built() -> None:
    assert set(PARAMETERS) == {key for key, system in read_registry().systems.items() if system.system == "sam-i2v"}


def test_the_table_of_scalability_has_one_data_set_and_costs(
    paper: Callable[..., list[str]], data: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(paper("10", {"still": STILL}, "--dry-run", only=tuple(data))) == 0
    printed = capsys.readouterr().out
    assert "| system | quoted | cost, GB hours | SV |\n" in printed
    assert "| (d) 32 x 24 G x 24 hours | quoted: SAM-I2V (CVPR 2025) Table 10 | 18.4k | 65.2 |\n" in printed
    assert "Table 10: 1 of 1 runs are missing:\n# Row still, sav, gm\npython -m test_pvs.semi_supervised sav" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"systems": {"a": {"nonsense": 1}}}, "a has the unknown field nonsense; expected some of like, system"),
        ({"systems": {"a": {"cost": "much"}}}, "a: 'cost' is a text, expected a whole number or a number"),
        ({"systems": {"a": {"cost": 0}}}, "a: 'cost' is 0, expected more than 0: leave it out if there was no training"),
        ({"systems": {"a": {"like": "b"}}}, "a is like b, which is not a system above it"),
        ({"tables": {"8": {}}}, "unknown table 8; expected one of 1, 2"),
        ({"tables": {"3": {"Row": "nobody"}}}, "table 3 has the unknown system nobody"),
        ({"tables": {"3": {"Row": "still", "Again": "still"}}}, "table 3 has the system still in several rows"),
        ({"tables": {"4": {}}}, "the registry has no table 3: it has 4"),
        ({"systems": None}, "'systems' is null, expected an object"),
    ],
)
def test_bad_registries(
    change: dict[str, Any], message: str, paper: Callable[..., list[str]], tmp_path: Path, outcome: Outcome
) -> None:
    arguments = paper("3", {"still": STILL})
    path = tmp_path / "registry.yaml"
    content = yaml.safe_load(path.read_text())
    # Rows of systems that are not there would be named first.
    path.write_text(yaml.safe_dump((content if "tables" in change else content | {"tables": {}}) | change))
    status, said = outcome(main, *arguments)
    assert status == 1
    assert message in said


def test_unknown_names(paper: Callable[..., list[str]], outcome: Outcome) -> None:
    status, said = outcome(main, *paper("3", {"still": STILL}, "--systems", "nobody"))
    assert (status, "Table 3 has no system nobody: it has still" in said) == (1, True)
    status, said = outcome(main, *paper("3", {"still": STILL}, "--checkpoint", "stil=x.pt"))
    assert (status, "has no system stil, for which a checkpoint is given: did you mean still?" in said) == (1, True)
    assert outcome(main, "8")[0] == 2
    status, said = outcome(main, "5", "--config", "nonsense", "--dry-run")
    assert (status, "nonsense" in said) == (1, True)


def test_no_slurm(paper: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    status, said = outcome(main, *paper("3", {"still": STILL}, "--slurm"))
    assert (status, "cannot submit to Slurm" in said) == (1, True)


@pytest.mark.slow
def test_slurm(
    fake_slurm: Path,
    paper: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Outcome,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from submitit.core.utils import DelayedSubmission

    arguments = paper("3", {"still": STILL, "flow": FLOW}, "--slurm", "--nodes", "2", "--gpus-per-node", "4", "--hours", "5")
    caplog.set_level(logging.INFO)
    status, said = outcome(main, *arguments)
    assert (status, said.count("submitted as job 1")) == (0, 2)
    videos, report = fake_slurm.read_text().split("#!/bin/bash")[1:]
    for line in ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--time=300"):
        assert f"#SBATCH {line}\n" in videos
    assert "#SBATCH --nodes=1\n" in report
    assert f"export PYTHONPATH={PROJECT}$" in report
    assert "#SBATCH --dependency=afterany:17\n" in report

    pickles = sorted((tmp_path / "out/slurm").glob("*.pkl"), key=lambda path: path.stat().st_mtime_ns)
    share, collect = (DelayedSubmission.load(path).function for path in pickles)
    for rank, finished in ((0, ["one"]), (1, ["one", "two"])):  # the nodes, one after the other

        class Environment:
            global_rank, num_tasks = rank, 2

        monkeypatch.setattr("submitit.JobEnvironment", Environment)
        share()
        for key in ("still", "flow"):
            folder = tmp_path / f"out/runs/{key}/pumavos-online-3c"
            assert sorted(path.parent.name for path in folder.glob("masks/*/result.json")) == finished
    monkeypatch.setattr("test_pvs.runner.evaluate_all", None)  # nothing is left to evaluate
    collect()
    assert list(measured(tmp_path / "out/table_3/table_3.csv")) == ["Row still", "Row flow"]

    monkeypatch.setattr("test_pvs.paper.cluster.run_videos", lambda *_, **__: {"one": "Traceback"})
    with pytest.raises(RuntimeError, match=r"not all videos of .*still.* were evaluated"):
        share()
    (tmp_path / "registry.yaml").unlink()
    with pytest.raises(RuntimeError, match="the report is not complete"):
        collect()
