"""tools/run_lite_paper.py: every row is a config that builds, and a finished row is not run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from i2v.modeling.sam_i2v import SAMI2V
from i2v.typed_config import build
from i2v.utils.checkpoints import save_checkpoint
from train.cli import build_model, load_experiment
from train.model.initial_weights import from_checkpoint


@pytest.fixture
def runner(load_tool: Callable[[str], ModuleType]) -> ModuleType:
    return load_tool("run_lite_paper")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The data sets and the results."""
    (tmp_path / "data" / "davis2016-dev").mkdir(parents=True)
    return tmp_path / "data", tmp_path / "results"


def overrides_of(command: list[str]) -> list[str]:
    return [argument for argument in command if "=" in argument and not argument.startswith("-")]


def finish(online: Path, j_and_f: float) -> None:
    """Write the results of an evaluation with one video."""
    settings = {"protocol": "online", "dataset": "davis2016", "data": "davis", "system": "sam-i2v", "clicks": 3, "frames": 8}
    curve = [{"frames": 8, "j_and_f": j_and_f, "j": j_and_f, "f": j_and_f}]
    results = {"settings": settings, "dataset_videos": 1, "videos": {"dog": {"objects": [{"curve": curve}]}}, "failures": {}}
    online.mkdir(parents=True)
    (online / "settings.json").write_text(json.dumps(settings))
    (online / "results.json").write_text(json.dumps(results))


@pytest.mark.slow
def test_rows_build_and_start_from_the_image_segmenter(runner: ModuleType, folders: tuple[Path, Path]) -> None:
    networks: dict[str, SAMI2V] = {}
    for name, row in runner.ROWS.items():
        *images, training, _ = runner.commands(row.weights or name, *folders)
        config = load_experiment("i2v-lite-paper", overrides_of(training))
        assert config.data.steps_per_epoch == config.trainer.validate_every == 150
        assert str(folders[0]) in config.data.parts.davis.dataset.frames
        assert "davis2016-dev" not in str(config)  # evaluation only
        evaluated = load_experiment("i2v-lite-paper", list(row.model))
        networks[name] = build(evaluated, "model")
        with torch.device("meta"):
            trained = build(config, "model")
        assert trained.state_dict().keys() == networks[name].state_dict().keys()
        for command in images:
            segmenter = load_experiment("i2v-lite-image-sams", overrides_of(command))
            weights = build_model(segmenter).state_dict()
            path = Path(config.initial_weights.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(path, {"model": weights})
        if row.weights is None:
            from_checkpoint(networks[name], *(config.initial_weights[key] for key in ("path", "prefixes")))
    tokens = [networks[name].memory_prompt_generator.no_memory(1).shape[1] for name in ("mpg-1", "base", "mpg-5")]
    assert tokens == [1, 3, 5]
    assert networks["ta"].image_encoder.trunk_video is None
    assert networks["tfi"].image_encoder.trunk_video is not None
    size = {name: sum(p.numel() for p in networks[name].parameters()) for name in ("ta", "sa-ta", "st-adapter-ta")}
    assert size["ta"] < size["st-adapter-ta"] < size["sa-ta"]
    assert size["sa-ta"] / size["ta"] == pytest.approx(18.7 / 17.8, abs=0.003)
    assert type(networks["ta"].memory_selector) is type(networks["tfi"].memory_selector)
    chosen = {name: networks[name].memory_selector for name in networks if name.startswith(("msa", "ufs"))}
    assert {(s.num_global, s.num_local) for s in chosen.values()} == {(0, 6), (1, 5), (2, 4), (3, 3)}


def test_commands_of_a_row(runner: ModuleType, folders: tuple[Path, Path]) -> None:
    train, evaluate = runner.commands("base-seed-1", *folders)
    assert {"seed=1", f"output={folders[1] / 'base-seed-1'}"} <= set(train)
    assert "--overrides" not in evaluate and "seed=1" not in evaluate
    (evaluate,) = runner.commands("msa-3-3", *folders)
    assert str(folders[1] / "base" / "last.pt") in evaluate
    assert "model.memory_selector.num_global=3" in evaluate[evaluate.index("--overrides") :]


def test_finished_rows_are_skipped(
    runner: ModuleType, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    status = 3

    class Finished:
        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)
            self.returncode = status
            if "--output" in command and status == 0:
                online = Path(command[command.index("--output") + 1])
                finish(online, 70.0)

    monkeypatch.setattr(runner.subprocess, "run", Finished)
    arguments = ["ta", "--shared", str(folders[0]), "--output", str(folders[1])]
    assert runner.main(arguments) == 1  # the training fails
    assert len(started) == 1
    status = 0
    assert runner.main(arguments) == 0
    assert len(started) == 3
    header = "| system | quoted | davis2016 | OA |\n| --- | --- | ---: | ---: |\n"
    table = "## Table 4: Temporal feature integrator, online, 3 clicks, J&F\n\n" + header
    row = "| Base |  | 70.0 | 70.0 (over davis2016) |\n"
    assert capsys.readouterr().out == f"{table}{row}\n"
    assert runner.main(arguments) == 0
    assert len(started) == 3

    finish(folders[1] / "base" / "online", 71.0)
    base = row.replace("70.0", "71.0")
    assert list(runner.tables(folders[1])) == [
        table + base.replace("Base", "SAM-I2V") + row,
        "## Table 6: Memory prompt generator, online, 3 clicks, J&F\n\n" + header + base.replace("Base", "w/ MPG-3"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tb"], "unknown row tb: choose among base, "),
        (["msa-0-6"], "row msa-0-6 uses the weights of base: run that first"),
        (["ta", "msa-0-6"], "row msa-0-6 uses the weights of base: run that first"),  # before anything is trained
        (["--shared", "nowhere"], "has no davis2016-dev"),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    message: str,
    runner: ModuleType,
    folders: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        runner.main(["--shared", str(folders[0]), "--output", str(folders[1]), *arguments])
    assert message in capsys.readouterr().err
