"""Checkpoints: round trips, initialisation from an image segmenter, files that are complete or absent."""

from __future__ import annotations

import json

import pytest
import torch

from i2v import build_i2v
from i2v.utils.checkpoints import (
    load_image_segmenter,
    load_matching_weights,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)


@pytest.fixture
def model(make_tiny_predictor):
    """A network of its own, to be changed."""
    return make_tiny_predictor().model


@pytest.fixture(scope="module")
def weights(tiny_predictor):
    """Other weights for the same network."""
    state = tiny_predictor.model.state_dict()
    return {name: value + 1 if value.is_floating_point() else value + 7 for name, value in state.items()}


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"model": weights, "epoch": 3}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip(wrap, dtype, model, weights, tmp_path):
    stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}
    save_checkpoint(tmp_path / "a.pt", wrap(stored))
    load_weights(model, tmp_path / "a.pt")
    for name, value in model.state_dict().items():
        assert value.dtype == weights[name].dtype
        assert torch.equal(value, stored[name].to(value.dtype))


def test_checkpoint_keeps_what_is_beside_the_weights(weights, tmp_path):
    save_checkpoint(tmp_path / "a.pt", {"model": weights, "epoch": 3, "optimizer": {"steps": [1, 2], "lr": 0.1}})
    checkpoint = read_checkpoint(str(tmp_path / "a.pt"))
    assert list(checkpoint) == ["model", "epoch", "optimizer"]
    assert checkpoint["optimizer"] == {"steps": [1, 2], "lr": 0.1}


def as_image_segmenter(weights):
    """Names as in TinySAM's checkpoints."""
    renamed = {}
    for name, value in weights.items():
        for prefix, theirs in (
            ("image_encoder.trunk_image.", "image_encoder."),
            ("sam_prompt_encoder.", "prompt_encoder."),
            ("sam_mask_decoder.", "mask_decoder."),
        ):
            if name.startswith(prefix) and "obj_score" not in name:
                name = theirs + name.removeprefix(prefix)
                for i in range(2):  # in the transformer of the mask decoder
                    name = name.replace(f".mlp.layers.{i}.", f".mlp.lin{i + 1}.")
                renamed[name] = value
    return renamed


@pytest.mark.slow
def test_image_segmenter_initialises_its_parts_and_nothing_else(model, weights, tmp_path):
    given = as_image_segmenter(weights)
    assert any("mlp.lin2." in name for name in given)
    save_checkpoint(tmp_path / "tinysam.pt", given)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    load_image_segmenter(model, tmp_path / "tinysam.pt")
    parts = ("image_encoder.trunk_image.", "sam_prompt_encoder.", "sam_mask_decoder.")
    taken = [name for name in before if name.startswith(parts) and "obj_score" not in name]
    assert len(taken) == len(given)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name] if name in taken else before[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_weights, load_image_segmenter])
@pytest.mark.parametrize("change", ["missing", "unknown", "of another shape"])
def test_what_does_not_fit_is_named_and_changes_nothing(load, change, model, weights, tmp_path):
    given = dict(weights) if load is load_weights else as_image_segmenter(weights)
    name = next(name for name in given if name.endswith("no_mask_embed.weight"))
    value = given.pop(name)
    if change == "unknown":
        given |= {name: value, "prompt_encoder.other": value}
    elif change == "of another shape":
        given[name] = value[:, 1:]
    save_checkpoint(tmp_path / "a.pt", given)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=rf"a\.pt .*1 {change}: .*(no_mask_embed\.weight|other)"):
        load(model, tmp_path / "a.pt")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.slow
def test_many_differences_are_counted(model, tmp_path):
    save_checkpoint(tmp_path / "a.pt", {f"other.{i}": torch.zeros(1) for i in range(10)})
    with pytest.raises(ValueError, match=r"10 unknown: other\.0, other\.1, other\.2, other\.3, \.\.\.$"):
        load_weights(model, tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Virus scan warning</html>", "it is a text that begins with '<!DOCTYPE html>"),
        (b"\x89PNG\r\n\x1a\n" + bytes(5000), "it has 5,008 bytes, and is truncated, damaged or of another format; download"),
        (b"PK\x03\x04", "it has 4 bytes, and is truncated"),
        (b"", "it has 0 bytes, and is truncated"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_internals(content, message, tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable checkpoint") as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path} is not a readable checkpoint: {message}")
    assert "opcode" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied", "a.pt"), "not a readable checkpoint: Permission denied"),
        (MemoryError(), "not a readable checkpoint: there is not enough memory for it"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), "there is not enough memory for it"),
        (
            RuntimeError("[enforce fail at inline_container.cc:180]"),
            "truncated, damaged or of another format; download or save",
        ),
    ],
)
def test_errors_of_loading_are_explained(error, message, tmp_path, monkeypatch):
    def load(*args, **kwargs):
        raise error

    save_checkpoint(tmp_path / "a.pt", {})
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("old", [None, {"step": 1}])
def test_writer_that_fails_leaves_the_old_file(old, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    if old:
        save_checkpoint(path, old)

    def full_disk(checkpoint, file):
        file.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, {"step": 2})
    assert (read_checkpoint(path) if old else None) == old
    assert [file.name for file in tmp_path.iterdir()] == (["a.pt"] if old else [])


@pytest.mark.slow
def test_published_names_of_tinysam_leave_none_over(shared, tmp_path):
    shapes = json.loads((shared / "reference" / "checkpoints" / "tinysam_state_dict.json").read_text())
    assert len(shapes) == 439
    given = {name: torch.zeros(shape, dtype=torch.long if "num_batches" in name else None) for name, shape in shapes.items()}
    save_checkpoint(tmp_path / "tinysam.pt", given)
    with torch.random.fork_rng(devices=[]):
        model = build_i2v("i2v-infer", device="cpu")
    load_image_segmenter(model, tmp_path / "tinysam.pt")
    zeros = [name for name, value in model.image_encoder.trunk_image.state_dict().items() if not value.any()]
    assert len(zeros) == len(model.image_encoder.trunk_image.state_dict())


@pytest.mark.slow
def test_only_weights_with_the_prefixes_are_loaded(model, weights, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "a.pt", weights)
    load_matching_weights(model, tmp_path / "a.pt", ["sam_mask_decoder", "image_encoder.trunk_image"])
    for name, value in model.state_dict().items():
        is_wanted = name.startswith(("sam_mask_decoder", "image_encoder.trunk_image"))
        assert torch.equal(value, (weights if is_wanted else before)[name]), name


@pytest.mark.slow
def test_prefix_without_weights_is_named(model, weights, tmp_path):
    save_checkpoint(tmp_path / "a.pt", weights)
    with pytest.raises(ValueError, match=r"a\.pt contains no weights of this model whose names begin with sam_decoder"):
        load_matching_weights(model, tmp_path / "a.pt", ["sam_mask_decoder", "sam_decoder"])


@pytest.mark.slow
@pytest.mark.parametrize("prefixes", ["sam_mask_decoder", [], ""])
def test_prefixes_are_a_list(prefixes, model, weights, tmp_path):
    save_checkpoint(tmp_path / "a.pt", weights)
    with pytest.raises(ValueError, match="prefixes must be a list of prefixes of names, not"):
        load_matching_weights(model, tmp_path / "a.pt", prefixes)
