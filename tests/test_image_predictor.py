"""i2v.image_predictor at a tiny size: what segment-anything's users expect of its methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.image_predictor import SamPredictor, build_image_segmenter, build_sam
from tests.conftest import TINY_CONFIG, fixed_weight, moving_disc

SIDE = 128  # of the network's input
LOW = 32  # of its masks


@pytest.fixture(scope="module")
def predictor() -> SamPredictor:
    model = build_image_segmenter("tiny_vit", TINY_CONFIG)
    model.load_state_dict({name: fixed_weight(name, value) for name, value in model.state_dict().items()})
    return SamPredictor(model.eval())


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """(80, 160, 3)."""
    return moving_disc(1, 80, 160)[0]


@pytest.mark.slow
def test_shapes_and_types(predictor: SamPredictor, image: np.ndarray) -> None:
    predictor.set_image(image)
    masks, ious, low = predictor.predict(np.array([[40, 40]]), np.array([1]))
    assert (masks.shape, masks.dtype) == ((3, 80, 160), np.dtype(bool))
    assert (ious.shape, low.shape, low.dtype) == ((3,), (3, LOW, LOW), np.dtype(np.float32))
    masks, ious, low = predictor.predict(box=[20, 10, 90, 70], multimask_output=False)
    assert (masks.shape, ious.shape, low.shape) == ((1, 80, 160), (1,), (1, LOW, LOW))
    logits, *_ = predictor.predict(box=[20, 10, 90, 70], multimask_output=False, return_logits=True)
    assert np.array_equal(logits > 0, masks)
    assert predictor.get_image_embedding().shape == (1, 32, 8, 8)


@pytest.mark.slow
def test_coordinates_are_those_of_the_image(predictor: SamPredictor, image: np.ndarray) -> None:
    predictor.set_image(image)
    features = predictor.get_image_embedding()
    points, labels = torch.tensor([[[40 * 0.8, 30 * 0.8]]]), torch.tensor([[1]])
    with torch.inference_mode():
        expected = predictor.model.decode(features, points, labels)
    *_, low = predictor.predict([[40, 30]], [1])
    assert np.allclose(low, expected.masks[0].numpy(), atol=1e-5)


@pytest.mark.slow
def test_the_same_image_in_other_forms(predictor: SamPredictor, image: np.ndarray) -> None:
    results = []
    for given, order in ((image, "RGB"), (image[..., ::-1], "BGR"), (Image.fromarray(image), "RGB")):
        predictor.set_image(given, order)
        results.append(predictor.predict(box=[20, 10, 90, 70])[2])
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.slow
def test_padding_has_no_part_in_the_mask(predictor: SamPredictor) -> None:
    small = moving_disc(1, SIDE // 2, SIDE)[0]
    predictor.set_image(small)
    logits, _, low = predictor.predict([[30, 30]], [1], return_logits=True)
    whole = torch.nn.functional.interpolate(torch.from_numpy(low)[None], size=(SIDE, SIDE), mode="bilinear")[0]
    assert np.allclose(logits, whole[:, : SIDE // 2].numpy(), atol=1e-5)


@pytest.mark.slow
def test_an_earlier_mask_is_refined(predictor: SamPredictor, image: np.ndarray) -> None:
    predictor.set_image(image)
    *_, low = predictor.predict([[40, 40]], [1])
    alone = predictor.predict(mask_input=low[:1], multimask_output=False)[2]
    other = predictor.predict(mask_input=-low[:1], multimask_output=False)[2]
    clicked = predictor.predict([[40, 40]], [1], mask_input=low[:1], multimask_output=False)[2]
    assert not np.allclose(alone, other)
    assert not np.allclose(alone, clicked)


@pytest.mark.slow
def test_padding_tokens_are_those_of_sam(predictor: SamPredictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    decoder = predictor.model.sam_mask_decoder
    forward = decoder.forward

    def recorded(features, position, tokens, *others):
        counts.append(tokens.shape[1])
        return forward(features, position, tokens, *others)

    monkeypatch.setattr(decoder, "forward", recorded)
    predictor.set_image(image)
    predictor.predict([[40, 40]], [1])
    predictor.predict(box=[20, 10, 90, 70])
    predictor.predict([[40, 40]], [1], box=[20, 10, 90, 70])
    predictor.predict(mask_input=np.zeros((1, LOW, LOW), np.float32))
    assert counts == [1 + 1, 2, 1 + 2, 0]


@pytest.mark.slow
def test_what_cannot_be_used(predictor: SamPredictor, image: np.ndarray) -> None:
    predictor.set_image(image)
    for arguments, message in (
        ({}, "give points with labels, or a box"),
        ({"point_coords": [[200, 10]], "point_labels": [1]}, "outside of the frame"),
        ({"point_coords": [[20, 10]]}, "points need labels"),
        ({"box": [50, 10, 20, 60]}, "must have x0 < x1"),
        ({"mask_input": np.zeros((1, 256, 256))}, r"mask_input has the shape \(1, 256, 256\), not \(1, 32, 32\)"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.predict(**arguments)
    with pytest.raises(ValueError, match="image_format must be 'RGB' or 'BGR', not 'GBR'"):
        predictor.set_image(image, "GBR")
    with pytest.raises(ValueError, match="uint8"):
        predictor.set_image(image.astype(np.float32))
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, fp16, not 'fp8'"):
        SamPredictor(predictor.model, "fp8")
    for call in (predictor.predict, predictor.get_image_embedding):
        with pytest.raises(ValueError, match=r"no image is set: call set_image\(image\) first"):
            call()


def test_names_and_files_that_do_not_exist(tmp_path) -> None:
    with pytest.raises(
        ValueError, match=r"unknown image segmenter 'sam'.*: give tinysam, mobilesam, edge_sam, .*; or a trunk, one of"
    ):
        build_sam("sam", tmp_path / "sam.pth", "cpu")
    with pytest.raises(
        FileNotFoundError, match=r"no such checkpoint: .*edge_sam\.pth; download it from https://github.com/chong"
    ):
        build_sam("edge_sam", tmp_path / "edge_sam.pth", "cpu")
    with pytest.raises(TypeError, match="checkpoint must be the path of the published weights of mobilesam, not None"):
        build_sam("mobilesam", None, "cpu")


@pytest.mark.parametrize(
    ("name", "near"), [("edgesam", "edge_sam"), ("mobile_sam", "mobilesam"), ("sam-b", "sam_b"), ("TinySAM", "tinysam")]
)
def test_the_nearest_image_segmenter_is_suggested(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown image segmenter '{name}' \(did you mean {near}\?\): give"):
        build_sam(name, "weights.pth", "cpu")
