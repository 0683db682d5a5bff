"""Image segmenters: TinySAM, MobileSAM, EdgeSAM, SlimSAM and SAM-Base.

They have the main methods of segment-anything's `SamPredictor`, and consist of the video model's parts: a trunk, the prompt
encoder and the mask decoder. Nothing in them knows time.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from i2v.data.frames import open_frames
from i2v.load_config import CONFIG_DIR, load_config, named_config
from i2v.modeling.backbones.image_encoder import ImageEncoder
from i2v.modeling.precision import PRECISIONS, autocast
from i2v.modeling.sam.mask_decoder import DecodedMasks, MaskDecoder
from i2v.modeling.sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, PromptEncoder
from i2v.prompt import Prompt
from i2v.typed_config import build
from i2v.utils.checkpoints import load_image_segmenter
from i2v.utils.devices import usable_device
from i2v.utils.messages import did_you_mean
from i2v.utils.published_checkpoints import IMAGE_SEGMENTERS

# The published video model without what image segmenters lack.
_CONFIG = "i2v-infer"
_WITHOUT_TIME = (
    "model.image_encoder.trunk_video=null",
    "model.sam_mask_decoder.dynamic_multimask_via_stability=false",
    "++model.sam_mask_decoder.object_score=false",
)


class ImageSegmenter(nn.Module):
    """SAM (Kirillov et al., "Segment Anything", ICCV 2023) and its relatives. Its parts have the names of those of `SAMI2V`.

    Args:
        image_encoder (ImageEncoder): an image trunk, without a TFI.
        sam_prompt_encoder (PromptEncoder): turns prompts into tokens.
        sam_mask_decoder (MaskDecoder): decodes masks, without an object score.

    Raises:
        ValueError: the image size of the prompt encoder does not fit the trunk; see `Trunk.check_image_size`.
    """

    def __init__(self, image_encoder: ImageEncoder, sam_prompt_encoder: PromptEncoder, sam_mask_decoder: MaskDecoder) -> None:
        super().__init__()
        image_encoder.trunk_image.check_image_size(sam_prompt_encoder.image_size)
        self.image_encoder = image_encoder
        self.sam_prompt_encoder = sam_prompt_encoder
        self.sam_mask_decoder = sam_mask_decoder

    @property
    def image_size(self) -> int:
        """Side of the input, in pixels."""
        return self.sam_prompt_encoder.image_size

    def encode(self, images: Tensor) -> Tensor:
        """Compute the features (B, C, h, w) of normalised images (B, 3, S, S)."""
        return self.image_encoder.trunk_maps(images)[-1]

    def decode(
        self,
        features: Tensor,
        points: Tensor,
        labels: Tensor,
        box: Tensor | None = None,
        mask_logits: Tensor | None = None,
        multimask: bool = True,
    ) -> DecodedMasks:
        """Decode the masks of B objects in one image.

        Args:
            features (Tensor): (1, C, h, w) from `encode`.
            points (Tensor): (B, N, 2), (x, y) in pixels of the input; N may be 0.
            labels (Tensor): (B, N) integers: 1 foreground, 0 background.
            box (Tensor or None): (B, 4), (x0, y0, x1, y1) in pixels of the input, or None.
            mask_logits (Tensor or None): (B, 1, mask_size, mask_size) of a mask to refine, or None.
            multimask (bool): return three masks, for an ambiguous prompt, instead of one.
        """
        pad = box is None and points.shape[1] > 0  # as in SAM; SAM 2 always pads
        if box is not None:
            corners = labels.new_tensor([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]).expand(len(box), 2)
            points, labels = torch.cat([points, box.unflatten(1, (2, 2))], dim=1), torch.cat([labels, corners], dim=1)
        tokens, dense = self.sam_prompt_encoder(points, labels, mask_logits, pad)
        return self.sam_mask_decoder(features, self.sam_prompt_encoder.image_position(), tokens, dense, None, multimask)


class _SetImage(NamedTuple):
    """The image that is segmented: its features (1, C, h, w), and its sizes (height, width) before and after resizing."""

    features: Tensor
    size: tuple[int, int]
    resized: tuple[int, int]


class SamPredictor:
    """Segments one image at a time from clicks, a box or a mask, with the main methods of segment-anything's `SamPredictor`.

    As in SAM, the image is resized so that its longer side fits the network's input, and padded with the mean colour.

    Args:
        model (ImageSegmenter): the network, in evaluation mode.
        precision (str): "fp32", "bf16" or "fp16", for the image encoder.

    Raises:
        ValueError: another precision.
    """

    def __init__(self, model: ImageSegmenter, precision: str = "fp32") -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        self.model = model
        self._precision = precision
        self._image: _SetImage | None = None

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return self.model.sam_mask_decoder.iou_token.weight.device

    @torch.inference_mode()
    def set_image(self, image: Any, image_format: str = "RGB") -> None:
        """Compute the features of an image, for the following calls of `predict`.

        On a CPU this takes seconds; see docs/python.md.

        Args:
            image: (H, W, 3) uint8, or a PIL image.
            image_format (str): "RGB" or "BGR", the order of the channels of an array.

        Raises:
            ValueError, TypeError: another format, or not an image.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', not {image_format!r}")
        self.reset_image()
        pixels = open_frames([image])[0]
        pixels = pixels if image_format == "RGB" else pixels[..., ::-1]
        height, width = pixels.shape[:2]
        side = self.model.image_size
        scale = side / max(height, width)
        resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        small = np.array(Image.fromarray(pixels).resize(resized[::-1], Image.Resampling.BILINEAR))
        values = torch.from_numpy(small).to(self.device).permute(2, 0, 1)[None].float() / 255
        values = F.pad(self.model.image_encoder.normalize(values), (0, side - resized[1], 0, side - resized[0]))
        with autocast(self.device, self._precision):
            features = self.model.encode(values).float()
        self._image = _SetImage(features, (height, width), resized)

    @torch.inference_mode()
    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: np.ndarray | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Segment one object in the image.

        Args:
            point_coords: array (N, 2), (x, y) in pixels of the image, or None.
            point_labels: array (N,), 1 for foreground and 0 for background, or None.
            box: array (4,), (x0, y0, x1, y1) in pixels of the image, or None.
            mask_input (np.ndarray or None): (1, 256, 256) logits of a mask to refine, as returned by an earlier call; its side
                is a quarter of the network's input.
            multimask_output (bool): return three masks, for an ambiguous prompt such as one click, instead of one.
            return_logits (bool): return the masks as logits.

        Returns:
            Masks (M, H, W) bool, or float32 logits; their predicted IoUs (M,) float32, which are not confined to [0, 1]; and
            their logits at low resolution (M, 256, 256) float32.

        Raises:
            ValueError, TypeError: no image is set, no prompt is given, a prompt is outside of the image, or `mask_input` is of
                another shape; see `i2v.prompt.Prompt`.
        """
        image = self._current()
        height, width = image.size
        device = self.device
        points, labels, corners = torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.int32), None
        scale = torch.tensor([image.resized[1] / width, image.resized[0] / height])
        if mask_input is None or not (point_coords is None and point_labels is None and box is None):
            prompt = Prompt(point_coords, point_labels, box)
            prompt.check((width, height))
            points, labels = prompt.points[None] * scale, prompt.labels[None]
            corners = None if prompt.box is None else prompt.box[None] * scale.repeat(2)
        low = None if mask_input is None else self._given_logits(mask_input)
        decoded = self.model.decode(
            image.features,
            points.to(device),
            labels.to(device),
            None if corners is None else corners.to(device),
            low,
            multimask_output,
        )
        masks = self._to_image(decoded.masks, image)[0]
        masks = masks if return_logits else masks > 0
        return masks.cpu().numpy(), decoded.ious[0].cpu().numpy(), decoded.masks[0].cpu().numpy()

    def get_image_embedding(self) -> Tensor:
        """The features of the image, (1, 256, 64, 64).

        Raises:
            ValueError: no image is set.
        """
        return self._current().features

    @property
    def is_image_set(self) -> bool:
        """Whether `set_image` was called since the last `reset_image`."""
        return self._image is not None

    def reset_image(self) -> None:
        """Forget the image."""
        self._image = None

    def _current(self) -> _SetImage:
        if self._image is None:
            raise ValueError("no image is set: call set_image(image) first")
        return self._image

    def _given_logits(self, mask_input: np.ndarray) -> Tensor:
        side = self.model.sam_prompt_encoder.mask_size
        logits = torch.as_tensor(mask_input, dtype=torch.float32, device=self.device)
        if logits.shape != (1, side, side):
            raise ValueError(f"mask_input has the shape {tuple(logits.shape)}, not {(1, side, side)} as returned by predict")
        return logits[None]

    def _to_image(self, masks: Tensor, image: _SetImage) -> Tensor:
        """Resize mask logits (1, M, h, w) to the image, without the padding."""
        side = self.model.image_size
        masks = F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False)
        masks = masks[..., : image.resized[0], : image.resized[1]]
        return F.interpolate(masks, size=image.size, mode="bilinear", align_corners=False)


def build_sam(
    name: str,
    checkpoint: str | Path,
    device: str | int | torch.device | None = None,
    precision: str = "fp32",
) -> SamPredictor:
    """Build an image segmenter with its published weights.

    Args:
        name (str): "tinysam", "mobilesam", "edge_sam", "slimsam_50", "slimsam_77" or "sam_b"; or the name of a trunk's config
            (model/trunk=...).
        checkpoint (str or Path): path of the published weights.
        device (str or int or torch.device or None): PyTorch device; by default CUDA, then MPS, then the CPU.
        precision (str): "fp32", "bf16" or "fp16", for the image encoder.

    Raises:
        ValueError: an unknown name, device or precision, or the checkpoint is not one of this image segmenter; the message says
            what it looks like.
        TypeError: `checkpoint` is not a path.
        FileNotFoundError: see `i2v.utils.checkpoints.load_image_segmenter`.
    """
    if not isinstance(checkpoint, (str, PathLike)):
        raise TypeError(f"checkpoint must be the path of the published weights of {name}, not {checkpoint!r}")
    device = usable_device(device)
    predictor = SamPredictor(build_image_segmenter(name).eval(), precision)
    load_image_segmenter(predictor.model, checkpoint)
    predictor.model.to(device)
    return predictor


def build_image_segmenter(name: str, config_file: str | Path = _CONFIG, overrides: tuple[str, ...] = ()) -> ImageSegmenter:
    """Build an image segmenter with random weights.

    Args:
        name (str): see `build_sam`.
        config_file (str or Path): config of a video model, whose other parts are used.
        overrides (tuple of str): overrides of that config.

    Raises:
        ValueError: an unknown name; see also `i2v.load_config.load_config`.
    """
    trunk = IMAGE_SEGMENTERS.get(name, name)
    trunks = sorted(path.stem for path in (CONFIG_DIR / "model/trunk").glob("*.yaml"))
    if trunk not in trunks:
        known, hint = ", ".join(IMAGE_SEGMENTERS), did_you_mean(str(name).lower(), [*IMAGE_SEGMENTERS, *trunks])
        raise ValueError(f"unknown image segmenter {name!r}{hint}: give {known}; or a trunk, one of {', '.join(trunks)}")
    config = load_config(config_file, [f"model/trunk={trunk}", *_WITHOUT_TIME, *overrides])
    with named_config(config_file):
        return ImageSegmenter(
            build(config, "model", "image_encoder", kind=ImageEncoder),
            build(config, "model", "sam_prompt_encoder", kind=PromptEncoder),
            build(config, "model", "sam_mask_decoder", kind=MaskDecoder),
        )
