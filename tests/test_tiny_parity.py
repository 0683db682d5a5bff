"""The published architecture at a small size, with seeded weights, against outputs that are kept in tests/parity.

The outputs are of a commit whose full-size outputs equal the published model's (tests/test_parity.py, which needs ../shared).
So whoever has only this repository can check that the network still computes the same. To write them again, after
test_parity.py has passed:

    python -m tests.test_tiny_parity
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from i2v import I2VVideoPredictor
from tests.conftest import moving_disc, recorded_ious, seeded_predictor

FIXTURE = Path(__file__).parent / "parity" / "tiny.npz"
FRAMES = (0, 4, 11)
# Of the largest value of each output.
TOLERANCE = 1e-4
PROMPTS = {
    "click": {"points": [[16, 24], [20, 28], [60, 4]], "labels": [1, 1, 0]},
    "box": {"box": [6, 12, 28, 36]},
    "mask": {},
}


@torch.inference_mode()
def outputs(predictor: I2VVideoPredictor) -> dict[str, np.ndarray]:
    """Of an image, and of a tracked clip for each kind of prompt: float32, and bool masks packed into bytes."""
    model, video = predictor.model, moving_disc()
    noise = torch.from_numpy(np.random.RandomState(1).standard_normal((1, 3, 128, 128)).astype(np.float32))
    maps = model.image_encoder.trunk_image(noise)
    features = model.image_encoder.integrate(maps, model.image_encoder.stem_taps(noise.expand(5, -1, -1, -1)).split(1))
    actual = {"trunk": maps[-1][:, ::4], "features": features[:, ::4]}
    for name, prompt in PROMPTS.items():
        state = predictor.init_state(video)
        with recorded_ious() as ious:
            if name == "mask":
                predictor.add_new_mask(state, 0, 1, video[0, ..., 0] > 100)
            else:
                predictor.add_new_points_or_box(state, 0, 1, **prompt)
            masks, kept_ious = {}, {}
            for frame, _, mask in predictor.propagate_in_video(state):
                masks[frame], kept_ious[frame] = mask[0, 0] > 0, ious[-1].expand(3)
        kept = [state.objects[1].bank[frame] for frame in FRAMES]
        actual[f"{name}.logits"] = torch.stack([output.mask_logits.reshape(32, 32)[::2, ::2] for output in kept])
        actual[f"{name}.ious"] = torch.stack([kept_ious[frame] for frame in FRAMES])
        actual[f"{name}.scores"] = torch.stack([output.score.reshape(()) for output in kept])
        actual[f"{name}.pointers"] = torch.stack([output.pointer.reshape(-1) for output in kept])
        actual[f"{name}.masks"] = torch.from_numpy(np.packbits([masks[frame].numpy() for frame in FRAMES]))
    return {name: value.numpy() for name, value in actual.items()}


def tiny_predictor() -> I2VVideoPredictor:
    return seeded_predictor("model/memory_selector=greedy", "predictor.fill_hole_area=0")


@pytest.fixture(scope="module")
def actual() -> dict[str, np.ndarray]:
    return outputs(tiny_predictor())


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FIXTURE) as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_outputs_are_those_that_were_kept(actual, expected) -> None:
    assert set(actual) == set(expected)
    for name, value in expected.items():
        if name.endswith("masks"):
            wrong = np.unpackbits(actual[name] ^ value).mean()
            assert wrong <= TOLERANCE, f"{name}: {wrong:.1e} of the pixels differ"
        else:
            error = np.abs(actual[name] - value).max() / np.abs(value).max()
            assert error <= TOLERANCE, f"{name}: {error:.1e}"


def test_kept_masks_are_neither_empty_nor_full(expected) -> None:
    for name in PROMPTS:
        share = np.unpackbits(expected[f"{name}.masks"]).mean()
        assert 0.02 < share < 0.98, f"{name}: {share:.3f}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "image_encoder.trunk_image",
        "image_encoder.trunk_video",
        "memory_attention",
        "memory_encoder",
        "memory_prompt_generator",
        "sam_prompt_encoder",
        "obj_ptr_proj",
        "sam_mask_decoder.transformer",
        "sam_mask_decoder.iou_prediction_head",
    ],
)
def test_these_parts_of_the_network_matter(module, expected) -> None:
    """A change of one percent in one of them is far beyond the tolerance, so that the comparison would notice it."""
    predictor = tiny_predictor()
    with torch.no_grad():
        for parameter in predictor.model.get_submodule(module).parameters():
            parameter *= 1.01
    changed = outputs(predictor)
    errors = [
        np.abs(changed[name] - expected[name]).max() / np.abs(expected[name]).max() for name in expected if "masks" not in name
    ]
    assert max(errors) > 10 * TOLERANCE


if __name__ == "__main__":
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FIXTURE, **outputs(tiny_predictor()))
    print(f"wrote {FIXTURE}, {FIXTURE.stat().st_size / 1024:.1f} KiB")
