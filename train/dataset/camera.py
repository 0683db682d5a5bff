"""Camera effects on the frames of a clip: light, focus, resolution, noise, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from train.dataset.smooth import drift


@dataclass(frozen=True)
class CameraEffects:
    """Probabilities and largest strengths of camera effects.

    Attributes:
        light (float): change of brightness and gamma over a clip, as a factor.
        object_light (float): change of the brightness of each sprite, as a factor.
        shutter_probability (float): probability of motion blur.
        shutter (float): duration of the exposure, as a share of the time between frames.
        defocus_probability (float): probability of a blurred clip.
        defocus (float): standard deviation of the blur, in pixels.
        noise_probability (float): probability of noise.
        noise (float): standard deviation of the noise, for values from 0 to 255.
        jpeg_probability (float): probability of compression.
        jpeg_quality (tuple[int, int]): lowest and highest quality of the compression.
        low_resolution_probability (float): probability of a reduced resolution.
        low_resolution (float): factor by which the resolution is reduced.
    """

    light: float = 1.3
    object_light: float = 1.2
    shutter_probability: float = 0.5
    shutter: float = 0.8
    defocus_probability: float = 0.2
    defocus: float = 1.5
    noise_probability: float = 0.5
    noise: float = 10
    jpeg_probability: float = 0.4
    jpeg_quality: tuple[int, int] = (30, 90)
    low_resolution_probability: float = 0.15
    low_resolution: float = 2.5


def apply_camera_effects(images: list[np.ndarray], effects: CameraEffects, rng: np.random.Generator) -> list[np.ndarray]:
    """Apply the camera effects to frames (H, W, 3) uint8."""
    num_frames = len(images)
    gains = np.exp(rng.uniform(-1, 1) * np.log(effects.light) / 2 + drift(rng, num_frames, np.log(effects.light)))
    gammas = np.exp(drift(rng, num_frames, np.log(effects.light)))
    values = np.linspace(0, 1, 256)
    tables = [np.clip(255 * gain * values**gamma, 0, 255).astype(np.uint8) for gain, gamma in zip(gains, gammas, strict=True)]
    images = [cv2.LUT(image, table) for image, table in zip(images, tables, strict=True)]
    if rng.random() < effects.defocus_probability:
        blurs = np.abs(rng.uniform(0, effects.defocus) + drift(rng, num_frames, effects.defocus / 2))
        images = [cv2.GaussianBlur(image, (0, 0), max(blur, 0.1)) for image, blur in zip(images, blurs, strict=True)]
    if rng.random() < effects.low_resolution_probability:
        shrink = 1 / rng.uniform(1, effects.low_resolution)
        images = [_resample(image, shrink) for image in images]
    if rng.random() < effects.noise_probability:
        images = _add_noise(images, effects.noise * rng.random(), rng)
    if rng.random() < effects.jpeg_probability:
        quality = int(rng.integers(effects.jpeg_quality[0], effects.jpeg_quality[1] + 1))
        images = [_compress(image, quality) for image in images]
    return images


def _resample(image: np.ndarray, shrink: float) -> np.ndarray:
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _compress(image: np.ndarray, quality: int) -> np.ndarray:
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded


def _add_noise(images: list[np.ndarray], deviation: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Add Gaussian noise. The frames share one noise field, each with a random offset."""
    height, width = images[0].shape[:2]
    noise = np.rint(deviation * rng.standard_normal((height + 64, width + 64, 3), np.float32)).astype(np.int16)
    corners = rng.integers(0, 65, (len(images), 2))
    parts = [noise[y : y + height, x : x + width] for y, x in corners]
    return [cv2.add(image, part, dtype=cv2.CV_8U) for image, part in zip(images, parts, strict=True)]
