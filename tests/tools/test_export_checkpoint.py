"""tools/export_checkpoint.py writes the weights only, in half precision."""

from __future__ import annotations

import pytest
import torch

from i2v.utils.checkpoints import load_weights, save_checkpoint


@pytest.fixture
def export_checkpoint(load_tool):
    return load_tool("export_checkpoint")


@pytest.mark.slow
def test_exported_checkpoint_loads(export_checkpoint, make_tiny_predictor, tmp_path):
    model = make_tiny_predictor().model
    optimizer = {"moment": torch.zeros(1000)}
    save_checkpoint(tmp_path / "last.pt", {"model": model.state_dict(), "optimizer": optimizer, "step": 3})
    export_checkpoint.main([str(tmp_path / "last.pt"), str(tmp_path / "out.pt")])
    assert set(torch.load(tmp_path / "out.pt", weights_only=True)) == {"model"}
    assert (tmp_path / "out.pt").stat().st_size < 0.6 * (tmp_path / "last.pt").stat().st_size
    other = make_tiny_predictor().model
    for parameter in other.parameters():
        parameter.data.zero_()
    load_weights(other, tmp_path / "out.pt")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def test_weights_that_do_not_fit(export_checkpoint, tmp_path):
    save_checkpoint(tmp_path / "last.pt", {"model": {"large": torch.tensor([1e6])}})
    with pytest.raises(ValueError, match=r"last\.pt: large does not fit"):
        export_checkpoint.half_weights(tmp_path / "last.pt")


@pytest.mark.parametrize("existing", [None, b"former"])
def test_full_disk(existing, export_checkpoint, tmp_path, monkeypatch, caplog):
    save_checkpoint(tmp_path / "last.pt", {"model": {"a": torch.zeros(2)}})
    target = tmp_path / "out.pt"
    if existing:
        target.write_bytes(existing)

    def save(_, path):
        path.write_bytes(b"a part")
        raise RuntimeError("[enforce fail at inline_container.cc:664] .\nunexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", save)
    assert export_checkpoint.main([str(tmp_path / "last.pt"), str(target)]) == 1
    stays = "; the previous one is untouched" if existing else ""
    assert caplog.messages == [f"error: cannot write {target}{stays}. Is the disk full, or the size of files limited?"]
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "out.pt"} - ({"out.pt"} if existing is None else set())
    assert existing is None or target.read_bytes() == existing
