"""Trunks and whole image segmenters against the published ones (fixtures in ../shared/reference)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v import build_i2v
from i2v.image_predictor import ImageSegmenter, build_sam
from i2v.utils.checkpoints import load_image_segmenter, save_checkpoint
from i2v.utils.published_checkpoints import IMAGE_SEGMENTERS
from tests.train.helpers import load_seeded_weights

# Of the largest value.
TOLERANCE = 1e-3
# Names of the trunk's maps in the fixtures.
BLOCKS = ("block2", "block5", "block8", "block11", "neck")
MAPS = {
    "sam_b": BLOCKS,
    "slimsam_50": BLOCKS,
    "slimsam_77": BLOCKS,
    "edge_sam": ("stage0", "stage1", "stage2", "stage3", "neck"),
    "mobilesam": (None, None, None, None, "neck"),
}
# Million parameters of the trunk, and of the network with it, as in docs/model.md.
PARAMETERS = {
    "tinysam": (6.1, 18.9),
    "mobilesam": (6.1, 18.9),
    "edge_sam": (5.5, 18.4),
    "slimsam_77": (5.7, 18.5),
    "slimsam_50": (23.9, 36.8),
    "sam_b": (89.7, 102.8),
}
pytestmark = pytest.mark.slow


def seeded_weights(name: str, shared: Path) -> dict[str, torch.Tensor]:
    manifest = json.loads((shared / f"reference/checkpoints/{name}_state_dict.json").read_text())
    return load_seeded_weights(shared).seeded_state_dict(manifest)


def deviations(actual: dict[str, torch.Tensor], shared: Path) -> dict[str, float]:
    """The largest deviation from each fixture, as a share of its largest value."""
    with np.load(shared / "reference/fixtures/trunks.npz") as expected:
        return {
            name: float(np.abs(value.numpy() - expected[name]).max() / np.abs(expected[name]).max())
            for name, value in actual.items()
        }


@pytest.fixture(scope="module", params=list(MAPS))
def segmenter(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, ImageSegmenter]:
    """An image segmenter with the fixtures' weights, from a checkpoint like a user's, and its name."""
    weights = seeded_weights(request.param, shared)
    if request.param == "mobilesam":
        # MobileSAM's code caches its attention biases when it is switched to evaluation, and its `build_sam` does that before
        # it loads a checkpoint. So the fixtures have the biases of an untrained network, which are zero: with these, the
        # maps here deviate by 2e-6, and with those of the checkpoint by 2e-3. (The component fixtures do have biases.)
        weights |= {name: 0 * value for name, value in weights.items() if name.endswith("attention_biases")}
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    save_checkpoint(path, weights)
    predictor = build_sam(request.param, path, "cpu")
    path.unlink()
    return request.param, predictor.model


@torch.inference_mode()
def test_maps_and_masks(segmenter: tuple[str, ImageSegmenter], shared: Path) -> None:
    name, model = segmenter
    image = load_seeded_weights(shared).seeded_input("image", (1, 3, 1024, 1024))
    maps = model.image_encoder.trunk_maps(image)
    actual = {f"{name}.{key}": x[:, ::8, ::8, ::8] for key, x in zip(MAPS[name], maps, strict=True) if key}
    click = model.decode(maps[-1], torch.tensor([[[300.0, 200.0]]]), torch.tensor([[1]]))
    nothing = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)
    box = model.decode(maps[-1], *nothing, torch.tensor([[150.0, 220.0, 800.0, 900.0]]))
    for prompt, decoded in (("click", click), ("box", box)):
        actual |= {f"{name}.{prompt}.masks": decoded.masks[:, :, ::4, ::4], f"{name}.{prompt}.ious": decoded.ious}
    assert {key: value for key, value in deviations(actual, shared).items() if value > TOLERANCE} == {}


@pytest.mark.parametrize("name", list(IMAGE_SEGMENTERS))
def test_checkpoints_initialise_the_video_model(name: str, shared: Path, tmp_path: Path) -> None:
    weights = seeded_weights(name, shared)
    save_checkpoint(tmp_path / "sam.pth", weights)
    model = build_i2v("i2v-infer", device="cpu", mode="train", hydra_overrides_extra=[f"model/trunk={IMAGE_SEGMENTERS[name]}"])
    load_image_segmenter(model, tmp_path / "sam.pth")
    trunk = model.image_encoder.trunk_image
    theirs = {key.removeprefix("image_encoder."): value for key, value in weights.items() if key.startswith("image_encoder.")}
    assert theirs.keys() == trunk.state_dict().keys()
    assert all(value.equal(theirs[key]) for key, value in trunk.state_dict().items())
    counts = (sum(p.numel() for p in part.parameters()) / 1e6 for part in (trunk, model))
    assert tuple(round(count, 1) for count in counts) == PARAMETERS[name]


def test_the_family_of_a_published_checkpoint_is_named(shared: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "sam.pth", seeded_weights("slimsam_77", shared))
    with pytest.raises(ValueError, match=r"looks like SlimSAM-77 \(168 channels\); choose model/trunk=vit_slim_77"):
        build_sam("tinysam", tmp_path / "sam.pth", "cpu")
