"""The layers of a synthetic clip: pictures that move, rotate and bend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

# The geometry of a layer is computed on a grid of this spacing in pixels, and interpolated.
_CELL = 8
# The longest motion blur, as a share of the frame's side: with more, little of an object would be visible.
_MAX_BLUR = 0.08
# cv2.remap's second map, if the first one has both coordinates.
_NO_MAP: Any = None  # which the stubs of OpenCV do not allow


@dataclass
class Bending:
    """A displacement that varies smoothly over space and time: the sum of K travelling sine waves.

    Attributes:
        wave_vectors (np.ndarray): (K, 2), radians per pixel.
        phases (np.ndarray): (T, K), radians.
        amplitudes (np.ndarray): (K, 2), pixels.
    """

    wave_vectors: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    def __call__(self, points: np.ndarray, t: int) -> np.ndarray:
        """The displacement (..., 2) of points (..., 2) in frame t."""
        return np.sin(points @ self.wave_vectors.T + self.phases[t]) @ self.amplitudes


@dataclass
class Layer:
    """A picture and how it moves.

    Attributes:
        pixels (np.ndarray): (h, w, 3) uint8 for the background, or (h, w, 4) for a sprite: opacity last, colours multiplied by
            it.
        matrices (np.ndarray): (T, 3, 3), from pixels of the picture to pixels of each frame.
        bending (Bending): displacement in pixels of the picture.
        centre (np.ndarray): (2,), centre of the object in pixels of the picture.
        radius (float): radius of a disc with the object's area, in pixels of the frame.
        light (np.ndarray): (T,), factors of the brightness.
        label (int): label of a sprite; 0 if it is not annotated.
    """

    pixels: np.ndarray
    matrices: np.ndarray
    bending: Bending
    centre: np.ndarray
    radius: float
    light: np.ndarray
    label: int = 0

    def path(self) -> np.ndarray:
        """Position of the object's centre in each frame, (T, 2), without the bending."""
        return transform(self.matrices, self.centre)


@dataclass
class Drawing:
    """Everything that is drawn in a clip.

    Attributes:
        background (Layer): the layer behind all others.
        labels (np.ndarray): (h, w) uint8, the annotated objects of the background.
        sprites (list[Layer]): the other layers, back to front.
        shutter (float): duration of the exposure, as a share of the time between frames.
    """

    background: Layer
    labels: np.ndarray
    sprites: list[Layer] = field(default_factory=list)
    shutter: float = 0.0

    def num_labels(self) -> int:
        """Number of annotated objects, which have the labels from 1 on."""
        return max([int(self.labels.max())] + [sprite.label for sprite in self.sprites])


def draw_frame(drawing: Drawing, t: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw frame t.

    Returns:
        The frame (size, size, 3) uint8 RGB, and its labels (size, size) uint8.
    """
    background = drawing.background
    source = _source_positions(background, t, (0, 0, size, size))
    image = cv2.remap(background.pixels, source, _NO_MAP, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    labels: np.ndarray = np.zeros((size, size), np.uint8)
    if drawing.labels.any():
        labels = cv2.remap(drawing.labels, source, _NO_MAP, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    image = _blur_along(image, _blur(drawing, size, _step(background, t, np.full(2, size / 2))))
    for sprite in drawing.sprites:
        blur = _blur(drawing, size, _step(sprite, t))
        box = _box_in_frame(sprite, t, np.abs(blur).max() / 2, size)
        if box is None:
            continue
        x0, y0, x1, y1 = box
        pixels = cv2.remap(sprite.pixels, _source_positions(sprite, t, box), _NO_MAP, cv2.INTER_LINEAR)
        labels[y0:y1, x0:x1][pixels[..., 3] >= 128] = sprite.label
        pixels = _blur_along(pixels, blur)
        colours = cv2.convertScaleAbs(pixels[..., :3], alpha=sprite.light[t])
        transparency = cv2.merge([255 - pixels[..., 3]] * 3)
        behind = cv2.multiply(image[y0:y1, x0:x1], transparency, scale=1 / 255)
        image[y0:y1, x0:x1] = cv2.add(behind, colours)
    return image, labels


def _blur(drawing: Drawing, size: int, step: np.ndarray) -> np.ndarray:
    """The movement (2,) during the exposure, in pixels, of something that moves by `step` between frames."""
    limit = _MAX_BLUR * size / max(float(np.linalg.norm(step)), 1e-6)
    return step * min(drawing.shutter, limit)


def _source_positions(layer: Layer, t: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """The position in the layer's picture of each pixel of a box (x0, y0, x1, y1) in frame t: (h, w, 2) float32."""
    x0, y0, x1, y1 = box
    # Centres of cells, with one more on each side, so that cv2.resize interpolates everywhere in the box.
    columns = x0 + (np.arange(-1, (x1 - x0 - 1) // _CELL + 2) + 0.5) * _CELL - 0.5
    rows = y0 + (np.arange(-1, (y1 - y0 - 1) // _CELL + 2) + 0.5) * _CELL - 0.5
    inverse = np.linalg.inv(layer.matrices[t])
    nodes = np.stack(np.meshgrid(columns, rows), axis=-1) @ inverse[:2, :2].T + inverse[:2, 2]
    nodes += layer.bending(nodes, t)
    source = cv2.resize(nodes.astype(np.float32), None, fx=_CELL, fy=_CELL, interpolation=cv2.INTER_LINEAR)
    return source[_CELL : _CELL + y1 - y0, _CELL : _CELL + x1 - x0]


def _box_in_frame(sprite: Layer, t: int, margin: float, size: int) -> tuple[int, int, int, int] | None:
    """The part (x0, y0, x1, y1) of the frame that a sprite may cover; None if it is outside."""
    height, width = sprite.pixels.shape[:2]
    bent = np.linalg.norm(sprite.bending.amplitudes, axis=1).sum()
    corners = np.array([[x, y] for x in (-bent, width + bent) for y in (-bent, height + bent)])
    corners = corners @ sprite.matrices[t, :2, :2].T + sprite.matrices[t, :2, 2]
    x0, y0 = np.clip(np.floor(corners.min(0) - margin), 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(corners.max(0) + margin), 0, size).astype(int).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _step(layer: Layer, t: int, position: np.ndarray | None = None) -> np.ndarray:
    """The movement (2,) between frames, in pixels, of the layer's object, or of the point at `position` in frame t."""
    other = t + 1 if t + 1 < len(layer.matrices) else t - 1
    point = layer.centre if position is None else transform(np.linalg.inv(layer.matrices[t])[None], position)[0]
    return np.subtract(*transform(layer.matrices[[other, t]], point))


def _blur_along(image: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Average an image over a movement by (2,) pixels, centred on its position."""
    if np.abs(direction).max() < 1:
        return image
    size = image.shape[1::-1]
    for part in (1 / 4, 1 / 8, 1 / 16):  # three averages of two make one of eight
        x, y = direction * part
        if max(abs(x), abs(y)) < 0.3:
            break
        shifted = [
            cv2.warpAffine(image, np.array([[1, 0, sign * x], [0, 1, sign * y]]), size, borderMode=cv2.BORDER_REPLICATE)
            for sign in (-1, 1)
        ]
        image = cv2.addWeighted(shifted[0], 0.5, shifted[1], 0.5, 0)
    return image


def transform(matrices: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Apply matrices (T, 3, 3) to a point (2,): (T, 2)."""
    return matrices[:, :2, :2] @ point + matrices[:, :2, 2]


def translation(offsets: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that move by (T, 2)."""
    matrices = np.tile(np.eye(3), (len(offsets), 1, 1))
    matrices[:, :2, 2] = offsets
    return matrices


def similarity_transform(angles: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that rotate by (T,) radians and scale by (T,) around the origin, then move by (T, 2)."""
    matrices = translation(offsets)
    cosines, sines = scales * np.cos(angles), scales * np.sin(angles)
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = cosines, -sines, sines, cosines
    return matrices
