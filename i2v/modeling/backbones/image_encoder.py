"""The image encoder: trunk, then Temporal Feature Integrator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from i2v.modeling.backbones.tfi import TemporalFeatureIntegrator


class ImageEncoder(nn.Module):
    """Frames in, features out.

    The work is split where time enters: `trunk_maps` depends on one frame, `integrate` on a window of them. So a video
    needs each part once per frame, and training and inference use the same two calls.

    Args:
        trunk_image: maps (B, 3, H, W) to a list of maps, the last of the features' width. It has `channels`, of
            all maps, and `depth_groups()`, the layers that the training's layer decay tells apart.
        trunk_video: the TFI, or None to use the trunk's last map alone (the ablation without TFI).
        levels: which maps of the trunk the TFI uses.
        high_res_levels: which maps of the trunk help the mask decoder to draw fine masks, from coarse to fine; none as
            published. As in SAM 2 (`use_high_res_features`), each is projected once per frame.
        high_res_channels: of these maps after their projection; those of the levels of the decoder's upscaling.
    """

    def __init__(
        self,
        trunk_image: nn.Module,
        trunk_video: TemporalFeatureIntegrator | None = None,
        levels: Sequence[int] = (2, 3, 4),
        high_res_levels: Sequence[int] = (),
        high_res_channels: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.trunk_image = trunk_image
        self.trunk_video = trunk_video
        self.levels = list(levels)
        self.high_res_levels = list(high_res_levels)
        self.high_res_projections = nn.ModuleList(
            nn.Conv2d(trunk_image.channels[level], channels, 1)
            for level, channels in zip(high_res_levels, high_res_channels, strict=True)
        )

    @property
    def window(self) -> int:
        """Number of frames that the features of one frame depend on."""
        return 1 if self.trunk_video is None else self.trunk_video.window

    def trunk_maps(self, images: Tensor) -> list[Tensor]:
        """The maps of the trunk, for images (N, 3, S, S)."""
        # Convolutions on the CPU are up to twice as fast with the channels last (trunk: 1.17 s -> 0.92 s, bf16 0.82 -> 0.48).
        return self.trunk_image(images.contiguous(memory_format=torch.channels_last))

    def high_res_features(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """What the mask decoder adds to its upscaled features, from coarse to fine, of `trunk_maps`."""
        return [project(maps[level]) for level, project in zip(self.high_res_levels, self.high_res_projections, strict=True)]

    def stem_products(self, images: Tensor) -> Tensor | None:
        """What the TFI needs of every frame of a window, (N, taps, channels, h, w); None without TFI."""
        if self.trunk_video is None:
            return None
        return self.trunk_video.stem_products(images.contiguous(memory_format=torch.channels_last))

    def integrate(self, maps: Sequence[Tensor], products: Sequence[Tensor]) -> Tensor:
        """
        Args:
            maps: `trunk_maps` of the current frame. products: `stem_products` of the frames from t - window + 1 (not
                before the first) to t; the copies of frame t that fill the window are added here.

        Returns:
            (B, C, h, w) features of frame t.
        """
        if self.trunk_video is None:
            return maps[-1]
        products = [*products, *[products[-1]] * (self.window - len(products))]
        return self.trunk_video([maps[level] for level in self.levels], products[-self.window :])

    def encode_clip(self, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
        """All frames of clips at once, for training; the window of a frame stays inside the clip.

        Args:
            clip: (B, T, 3, S, S), normalised.

        Returns:
            Features (B, T, C, h, w), and high-resolution features (B, T, C_l, h_l, w_l) per level.
        """
        frames = clip.flatten(0, 1)
        maps, products = self.trunk_maps(frames), self.stem_products(frames)
        windows = []
        if products is not None:
            products = products.unflatten(0, clip.shape[:2])
            time = torch.arange(clip.shape[1], device=clip.device)
            first = (time - self.window + 1).clamp(min=0)
            windows = [products[:, torch.minimum(first + step, time)].flatten(0, 1) for step in range(self.window)]
        features = [self.integrate(maps, windows), *self.high_res_features(maps)]
        features, *high_res = (x.unflatten(0, clip.shape[:2]) for x in features)
        return features, high_res
