"""`from_pretrained`: a folder with config and weights, a file in it, or a repository; and writing such a folder."""

from __future__ import annotations

import builtins
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from i2v import I2VVideoPredictor
from i2v.utils.checkpoints import save_checkpoint
from tests.conftest import TINY_CONFIG


@pytest.fixture
def exported(load_tool, tiny_predictor, tmp_path: Path) -> Path:
    """A folder that tools/export_checkpoint.py wrote."""
    save_checkpoint(tmp_path / "last.pt", {"model": tiny_predictor.state_dict()})
    arguments = [str(tmp_path / "last.pt"), str(tmp_path / "exported"), "--config", str(TINY_CONFIG)]
    assert load_tool("export_checkpoint").main([*arguments, "--overrides", "predictor.fill_hole_area=3"]) in (None, 0)
    return tmp_path / "exported"


def assert_exported(predictor: I2VVideoPredictor, expected: I2VVideoPredictor) -> None:
    assert predictor.fill_hole_area == 3
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(predictor.state_dict()[name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_folder_and_a_file_in_it(exported: Path, tiny_predictor: I2VVideoPredictor) -> None:
    assert sorted(path.name for path in exported.iterdir()) == ["config.yaml", "model.pt"]
    assert_exported(I2VVideoPredictor.from_pretrained(exported, device="cpu"), tiny_predictor)
    assert_exported(I2VVideoPredictor.from_pretrained(str(exported / "model.pt"), device="cpu"), tiny_predictor)


@pytest.mark.slow
def test_options(exported: Path) -> None:
    options = {"hydra_overrides_extra": ["predictor.fill_hole_area=5"], "device": "cpu"}
    assert I2VVideoPredictor.from_pretrained(exported, **options).fill_hole_area == 5


@pytest.mark.slow
def test_a_repository(
    exported: Path, tiny_predictor: I2VVideoPredictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    shutil.copytree(exported, blobs)
    snapshot.mkdir()
    for number, name in enumerate(("config.yaml", "model.pt")):  # the cache of Hugging Face has links to blobs
        (blobs / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(blobs / str(number))
    asked = []

    def snapshot_download(repository: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert ignore_patterns == ["*/*"]
        asked.append((repository, allow_patterns))
        return str(snapshot)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert_exported(I2VVideoPredictor.from_pretrained("user/sam-i2v", device="cpu"), tiny_predictor)
    assert asked == [("user/sam-i2v", ["config.yaml", "*.pt", "*.pth"])]


def test_a_repository_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_hub(name: str, *arguments: object) -> object:
        if name == "huggingface_hub":
            raise ImportError
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", no_hub)
    with pytest.raises(ImportError, match=r"'user/sam-i2v' is not a folder or file here.*pip install huggingface_hub"):
        I2VVideoPredictor.from_pretrained("user/sam-i2v")


@pytest.mark.slow
def test_missing_files(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'no/such/folder' is not a folder, a file or the name of a repository"):
        I2VVideoPredictor.from_pretrained("no/such/folder")
    for path in ("checkpoints/none.pt", "./model", "../model"):  # no names of repositories
        with pytest.raises(FileNotFoundError, match="is not a folder, a file"):
            I2VVideoPredictor.from_pretrained(path)
    (exported / "model.pt").rename(exported / "other.pt")
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*model\.pt"):
        I2VVideoPredictor.from_pretrained(exported)
    config = exported / "config.yaml"
    config.write_text(config.read_text().replace("checkpoint: model.pt\n", ""))
    assert I2VVideoPredictor.from_pretrained(exported, device="cpu").fill_hole_area == 3  # the only one
    shutil.copy(exported / "other.pt", exported / "another.pth")
    with pytest.raises(ValueError, match=re.escape("has several weights files (another.pth, other.pt)")):
        I2VVideoPredictor.from_pretrained(exported)
    for path in (exported / "other.pt", exported / "another.pth"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no weights: no file ends in \.pt or \.pth"):
        I2VVideoPredictor.from_pretrained(exported)
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"exported has no config\.yaml"):
        I2VVideoPredictor.from_pretrained(exported)


@pytest.mark.slow
def test_the_config_is_not_trusted(exported: Path) -> None:
    config = exported / "config.yaml"
    config.write_text(config.read_text().replace("i2v.modeling.sam_i2v.SAMI2V", "os.system"))
    with pytest.raises(ValueError, match=r"not trusted: model\._target_ names 'os\.system'"):
        I2VVideoPredictor.from_pretrained(exported)


@pytest.mark.slow
def test_weights_of_another_config_are_not_exported(load_tool, tiny_predictor, tmp_path: Path, caplog) -> None:
    save_checkpoint(tmp_path / "last.pt", {"model": tiny_predictor.state_dict()})
    arguments = [str(tmp_path / "last.pt"), str(tmp_path / "exported"), "--config", "i2v-lite"]
    assert load_tool("export_checkpoint").main(arguments) == 1
    assert "is not a checkpoint of this config's model" in caplog.text
    assert not (tmp_path / "exported").exists()
