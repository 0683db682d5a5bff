"""tools/download_checkpoints.py, without a network."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch

from i2v.utils.checkpoints import read_checkpoint, save_checkpoint


@pytest.fixture
def tool(load_tool) -> ModuleType:
    return load_tool("download_checkpoints")


def test_downloadable_files_are_downloaded_once(tool, tmp_path: Path, monkeypatch, capsys) -> None:
    fetched = []

    def download(url: str, path: str) -> None:
        fetched.append(url)
        save_checkpoint(path, {"model": {"a": torch.zeros(2)}})

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert tool.main(["--output", str(tmp_path)]) == 0
    assert fetched == ["https://huggingface.co/xinghaochen/tinysam/resolve/main/tinysam.pth"]
    printed = capsys.readouterr().out
    assert f"tinysam.pth: SHA-256 {hashlib.sha256((tmp_path / 'tinysam.pth').read_bytes()).hexdigest()}" in printed
    for name in ("sam-i2v_8gpu.pt", "sam-i2v_32gpu.pt"):
        assert f"{name}: cannot be downloaded automatically. Download it manually from https://drive.google.com" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["tinysam.pth"]


def test_no_network(tool, tmp_path: Path, monkeypatch, caplog) -> None:
    def download(url: str, path: str) -> None:
        Path(path).write_bytes(b"a part")
        raise URLError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert tool.main(["tinysam.pth", "--output", str(tmp_path)]) == 1
    assert "no route" in caplog.text and "download it manually from https://huggingface.co/xinghaochen/tinysam" in caplog.text
    assert not list(tmp_path.iterdir())


def test_connection_that_ends_early(tool, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path: Path(path).write_bytes(b"PK\x03\x04 a part"))
    assert tool.main(["tinysam.pth", "--output", str(tmp_path)]) == 1
    assert "is not a readable checkpoint" in caplog.text
    assert not list(tmp_path.iterdir())


def test_unknown_names(tool, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        tool.main(["sam.pt", "--output", str(tmp_path)])
    assert "unknown checkpoint 'sam.pt'; known are sam-i2v_8gpu.pt" in capsys.readouterr().err


def test_error_for_a_missing_checkpoint_links_its_page(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"32gpu\.pt; download it from https://drive\.google\.com"):
        read_checkpoint(tmp_path / "sam-i2v_32gpu.pt")
    with pytest.raises(FileNotFoundError, match=r"python tools/download_checkpoints\.py fetches it from https://hugg"):
        read_checkpoint(tmp_path / "tinysam.pth")
    with pytest.raises(FileNotFoundError, match=r"other\.pt$"):
        read_checkpoint(tmp_path / "other.pt")
