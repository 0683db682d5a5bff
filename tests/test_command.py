"""The command `i2v`."""

from __future__ import annotations

from pathlib import Path

import pytest

import i2v.__main__ as command


@pytest.mark.parametrize("name", command.COMMANDS)
def test_each_command_is_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([name, "--help"])
    assert ended.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_arguments_and_status_are_passed_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["segment", str(tmp_path / "none.mp4"), "--point", "0,1,1", "--output", str(tmp_path / "out")]
    assert command.main(arguments) == 1
    assert "none.mp4" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--help"], 0, "segment   segment objects in a video"),
        ([], 2, "the following arguments are required: COMMAND"),
        (["track"], 2, "invalid choice: 'track'"),
    ],
)
def test_help_and_unknown_commands(arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == status
    assert message in "".join(capsys.readouterr())


def test_without_the_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "__file__", str(tmp_path / "i2v/__main__.py"))
    with pytest.raises(SystemExit):
        command.main(["train", "-c", "i2v-train"])
    assert "train needs the repository: clone it" in capsys.readouterr().err
