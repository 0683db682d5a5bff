"""Synthetic videos made of photographs with masks, for learning to track without annotated videos.

A clip is drawn in layers, back to front: a photograph under the motion of a camera, in which objects may be annotated in place,
and sprites, which are objects cut out of photographs. Every layer moves smoothly and bends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from train.dataset.camera import CameraEffects, apply_camera_effects
from train.dataset.layers import Bending, Drawing, Layer, draw_frame, similarity_transform, transform, translation
from train.dataset.sample import ClipDataset, RawClip, SampleError, require_positive, stack_frames
from train.dataset.smooth import curve, drift, log_uniform
from train.dataset.stills import Photograph, Photographs, Split, VideoStills, cut_out, fill_hole, sample_object

# Largest number of clips that are composed until one shows an object well enough.
_TRIES = 20


@dataclass(frozen=True)
class Motion:
    """How things move. Ranges are (lowest, highest), and lengths are shares of the frame's side.

    Attributes:
        speed (tuple[float, float]): longest step of an object from a frame to the next, log-uniform.
        fast_speed (tuple[float, float]): the same for fast objects.
        fast_probability (float): probability that an object is fast.
        scale (float): largest change of an object's size, as a factor.
        rotation (float): largest change of an object's angle, in degrees.
        shear (float): largest shear of an object.
        deformation (float): largest bending of an object, as a share of its size.
        camera_speed (tuple[float, float]): longest step of the whole scene from a frame to the next, log-uniform.
        camera_scale (float): largest zoom of the camera, as a factor.
        camera_rotation (float): largest rotation of the camera, in degrees.
        camera_deformation (float): largest bending of the scene, in place of parallax.
        camera_shake (float): standard deviation of the camera's position from frame to frame.
        follow_probability (float): probability that a sprite is part of the scene, so that the camera moves it, too.
        leave_probability (float): probability that the first sprite leaves the frame and returns.
        occlude_probability (float): probability that something passes in front of the first object.
    """

    speed: tuple[float, float] = (0.003, 0.06)
    fast_speed: tuple[float, float] = (0.06, 0.15)
    fast_probability: float = 0.15
    scale: float = 1.6
    rotation: float = 40
    shear: float = 0.2
    deformation: float = 0.06
    camera_speed: tuple[float, float] = (0.002, 0.06)
    camera_scale: float = 1.3
    camera_rotation: float = 10
    camera_deformation: float = 0.02
    camera_shake: float = 0.003
    follow_probability: float = 0.5
    leave_probability: float = 0.12
    occlude_probability: float = 0.35


@dataclass(frozen=True)
class Scene:
    """What a clip shows.

    Attributes:
        in_place_probability (float): probability that objects are annotated in place in a photograph, and move with it.
        moved_probability (float): probability that an object moves over its own photograph, in which the hole it leaves is
            filled. Otherwise sprites move over any photograph.
        extra_probability (float): probability of adding another annotated sprite, applied repeatedly.
        same_photograph_probability (float): probability that it comes from the same photograph as the previous one.
        twin_probability (float): probability that the first sprite has a twin that is not annotated.
        object_size (tuple[float, float]): square root of the area of a sprite as a share of the frame's side, log-uniform.
        feather (tuple[float, float]): softness of a sprite's edge, in pixels.
        min_area (float): smallest area of an annotated object in the first frame, as a share of the frame.
    """

    in_place_probability: float = 0.35
    moved_probability: float = 0.25
    extra_probability: float = 0.4
    same_photograph_probability: float = 0.3
    twin_probability: float = 0.2
    object_size: tuple[float, float] = (0.07, 0.5)
    feather: tuple[float, float] = (0.0, 1.5)
    min_area: float = 0.003


class SyntheticClips(ClipDataset):
    """Clips made of photographs, as many as there are photographs.

    Clip `index` shows an object of photograph `index`, if it has one; everything else is random. Every annotated object is
    visible in the first frame. Where it is covered or outside of the frame, its mask is empty.

    Args:
        folders (Sequence[str or Path]): folders of photographs; see `Photographs`.
        split (Split): see `Photographs`.
        background_videos (str or Path or None): folder of videos whose stills are further backgrounds; see `VideoStills`.
        num_frames (int): number of frames of a clip, at least 2.
        size (int): side of the square frames, in pixels.
        max_objects (int): largest number of annotated objects.
        motion (Motion or None): how things move; None for the defaults.
        scene (Scene or None): what a clip shows; None for the defaults.
        camera_effects (CameraEffects or None): camera effects; None for the defaults.

    Raises:
        FileNotFoundError: a folder does not exist.
        NotADirectoryError: a folder is a file.
        ValueError: a folder has no files of this split, or a number is too small.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        split: Split = "train",
        background_videos: str | Path | None = None,
        num_frames: int = 8,
        size: int = 384,
        max_objects: int = 3,
        motion: Motion | None = None,
        scene: Scene | None = None,
        camera_effects: CameraEffects | None = None,
    ) -> None:
        if num_frames < 2:
            raise ValueError(f"num_frames must be at least 2, not {num_frames}")
        require_positive(size=size, max_objects=max_objects)
        self.name = "synthetic clips"
        self.photographs = Photographs(folders, split)
        self.video_stills = None if background_videos is None else VideoStills(background_videos, split)
        self.num_frames = num_frames
        self.size = size
        self.max_objects = max_objects
        self.motion = motion or Motion()
        self.scene = scene or Scene()
        self.camera_effects = camera_effects or CameraEffects()

    def __len__(self) -> int:
        return len(self.photographs)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        """Compose and draw a clip.

        Raises:
            SampleError: a photograph cannot be read, or none of 20 clips shows an object that is large enough.
        """
        for attempt in range(_TRIES):
            photograph = self.photographs.read(index if attempt < _TRIES // 2 else self._sample_index(rng), rng)
            drawing = self._compose(photograph, rng)
            if drawing is None:
                continue
            first_image, first_labels = draw_frame(drawing, 0, self.size)
            areas = np.bincount(first_labels.ravel(), minlength=drawing.num_labels() + 1)
            visible = np.flatnonzero(areas[1:] >= self.scene.min_area * self.size**2) + 1
            if len(visible):
                break
        else:
            raise SampleError(f"{photograph.name}: none of {_TRIES} clips shows an object that is large enough")
        chosen = np.sort(rng.choice(visible, min(self.max_objects, len(visible)), replace=False))
        drawn = [(first_image, first_labels)] + [draw_frame(drawing, t, self.size) for t in range(1, self.num_frames)]
        images = apply_camera_effects([image for image, _ in drawn], self.camera_effects, rng)
        labels = np.stack([labels for _, labels in drawn])
        return RawClip(photograph.name, stack_frames(images), torch.from_numpy(labels[:, None] == chosen[:, None, None]))

    def _sample_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.photographs)))

    # What a clip shows

    def _compose(self, photograph: Photograph, rng: np.random.Generator) -> Drawing | None:
        """Choose everything in a clip except for the camera effects; None if no object can be found."""
        mask = sample_object(photograph, rng)
        if mask is None:
            return None
        scene = self.scene
        kind = rng.random()
        if kind < scene.in_place_probability:
            drawing = self._scene_of(photograph.image, rng, mask)
            drawing.labels = self._annotate_in_place(photograph, mask, rng)
        elif kind < scene.in_place_probability + scene.moved_probability:
            drawing = self._scene_of(photograph.image, rng, mask)
            drawing.background.pixels = fill_hole(photograph.image, mask)
            drawing.sprites.append(self._cut_sprite(drawing.background, photograph, mask, rng, label=1, in_place=True))
        else:
            drawing = self._scene_of(self._sample_background(photograph, rng), rng)
            drawing.sprites.append(self._cut_sprite(drawing.background, photograph, mask, rng, label=1))
        for label in range(drawing.num_labels() + 1, self.max_objects + 1):
            if rng.random() >= scene.extra_probability:
                break
            if rng.random() >= scene.same_photograph_probability:
                photograph = self.photographs.read(self._sample_index(rng), rng)
            mask = sample_object(photograph, rng)
            if mask is not None:
                drawing.sprites.append(self._cut_sprite(drawing.background, photograph, mask, rng, label))
        if drawing.sprites and rng.random() < scene.twin_probability:
            self._add_twin(drawing, rng)
        if rng.random() < self.motion.occlude_probability:
            self._add_occluder(drawing, rng)
        if rng.random() < self.camera_effects.shutter_probability:
            drawing.shutter = self.camera_effects.shutter * rng.random()
        return drawing

    def _sample_background(self, photograph: Photograph, rng: np.random.Generator) -> np.ndarray:
        """Choose a background for sprites of `photograph`: the photograph itself, another one, or a still of a video."""
        kind = rng.random()
        if kind < 0.15:
            return photograph.image
        if kind < 0.4 and self.video_stills is not None:
            return self.video_stills.sample(rng)
        return self.photographs.read(self._sample_index(rng), rng).image

    def _annotate_in_place(self, photograph: Photograph, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A label image (H, W) uint8 with `mask` and, sometimes, other objects that do not overlap it."""
        labels = mask.astype(np.uint8)
        for _ in range(1, self.max_objects):
            if rng.random() >= self.scene.extra_probability:
                break
            other = sample_object(photograph, rng)
            if other is not None and not labels[other].any():
                labels[other] = labels.max() + 1
        return labels

    def _scene_of(self, image: np.ndarray, rng: np.random.Generator, mask: np.ndarray | None = None) -> Drawing:
        """A clip of a photograph seen by a moving camera, in whose first frame `mask` is visible."""
        motion, num_frames = self.motion, self.num_frames
        height, width = image.shape[:2]
        angle = rng.uniform(-0.5, 0.5) * motion.camera_rotation + drift(rng, num_frames, motion.camera_rotation)
        angle = np.radians(angle)
        # The view, a rotated square of `side` pixels, must stay inside of the photograph.
        spread = np.abs(np.cos(angle)) + np.abs(np.sin(angle))
        most = min(height, width) / spread
        middle = np.array([width, height]) / 2
        centre, extent = middle, 0.0
        if mask is not None:
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            centre, extent = np.array([x + w / 2, y + h / 2]), min(1.1 * max(w, h), most.min())
        side = rng.uniform(max(extent, 0.5 * min(height, width)), most.min())
        side = np.minimum(side * np.exp(drift(rng, num_frames, np.log(motion.camera_scale))), most)
        path = centre + rng.normal(0, 0.12, 2) * side[0] + self._sample_path(rng, motion.camera_speed) * side[0]
        path += rng.normal(0, motion.camera_shake * rng.random(), path.shape) * side[0]
        room = middle - (side * spread)[:, None] / 2
        path = middle + room * np.tanh((path - middle) / np.maximum(room, 1))
        scale = self.size / side
        matrices = similarity_transform(angle, scale, np.full((num_frames, 2), self.size / 2)) @ translation(-path)
        bending = self._sample_bending(rng, motion.camera_deformation * side[0], side[0])
        radius = 0.0 if mask is None else float(np.sqrt(mask.sum() / np.pi) * scale[0])
        background = Layer(image, matrices, bending, centre, radius, np.ones(num_frames))
        return Drawing(background, np.zeros((height, width), np.uint8))

    def _cut_sprite(
        self,
        background: Layer,
        photograph: Photograph,
        mask: np.ndarray,
        rng: np.random.Generator,
        label: int = 0,
        in_place: bool = False,
        size: float | None = None,
    ) -> Layer:
        """Make a layer of an object of a photograph that moves over the background.

        Args:
            background (Layer): the layer behind it.
            photograph (Photograph): the photograph.
            mask (np.ndarray): (H, W) bool, the object in the photograph.
            rng (np.random.Generator): source of the random choices.
            label (int): label of the object; 0 if it is not annotated.
            in_place (bool): whether it starts at its place in the background.
            size (float or None): square root of its area in pixels; random by default.
        """
        motion, view = self.motion, background.matrices
        if in_place:
            scale = float(np.sqrt(np.linalg.det(view[0, :2, :2])))
            base_angle = float(np.arctan2(view[0, 1, 0], view[0, 0, 0]))
        else:
            size = size or log_uniform(rng, self.scene.object_size) * self.size
            # Not much larger than in the photograph, and not larger than the frame.
            longest = max(cv2.boundingRect(mask.view(np.uint8))[2:])
            scale = float(min(size / np.sqrt(mask.sum()), 2.5, 1.1 * self.size / longest))
            base_angle = rng.normal(0, 0.15)
        pixels, corner = cut_out(photograph.image, mask, scale, rng.uniform(*self.scene.feather))
        centre = np.array(pixels.shape[1::-1]) / 2
        start = rng.uniform(0.15, 0.85, 2) * self.size
        if in_place:
            start = transform(view[:1], corner + (centre + 0.5) / scale - 0.5)[0]  # pixel centres are whole numbers
        elif rng.random() < 0.5:
            pixels = pixels[:, ::-1].copy()
        leaves = label == 1 and rng.random() < motion.leave_probability
        path = self._sample_excursion(start, pixels.shape, rng) if leaves else self._sample_object_path(start, rng)
        matrices = self._move_about(path, centre, base_angle, rng)
        if not leaves and (in_place or rng.random() < motion.follow_probability):
            matrices = view @ np.linalg.inv(view[0]) @ matrices
        light = drift(rng, self.num_frames, np.log(self.camera_effects.object_light))
        if not in_place:
            light += rng.uniform(-1, 1) * np.log(self.camera_effects.object_light)
        radius = float(np.sqrt(mask.sum() / np.pi) * scale)
        bending = self._sample_bending(rng, motion.deformation * 2 * radius, 2 * radius)
        return Layer(pixels, matrices, bending, centre, radius, np.exp(light), label)

    def _add_twin(self, drawing: Drawing, rng: np.random.Generator) -> None:
        """Add a layer that looks like the first sprite and moves independently, in front of it or behind; not annotated."""
        sprite = drawing.sprites[0]
        path = self._sample_object_path(rng.uniform(0.1, 0.9, 2) * self.size, rng)
        matrices = self._move_about(path, sprite.centre, rng.normal(0, 0.2), rng)
        bending = self._sample_bending(rng, self.motion.deformation * 2 * sprite.radius, 2 * sprite.radius)
        twin = Layer(sprite.pixels, matrices, bending, sprite.centre, sprite.radius, sprite.light)
        drawing.sprites.insert(int(rng.integers(2)), twin)

    def _add_occluder(self, drawing: Drawing, rng: np.random.Generator) -> None:
        """Add a layer that passes in front of the first object, wherever it moves; not annotated."""
        target = next((sprite for sprite in drawing.sprites if sprite.label), drawing.background)
        photograph = self.photographs.read(self._sample_index(rng), rng)
        mask = sample_object(photograph, rng)
        if mask is None:
            return
        size = 2 * target.radius * rng.uniform(0.7, 1.6)
        occluder = self._cut_sprite(drawing.background, photograph, mask, rng, size=size)
        angle = rng.uniform(0, 2 * np.pi)
        reach = target.radius + occluder.radius
        step = reach / rng.uniform(1, 4)  # per frame, relative to the target
        when = rng.uniform(1, self.num_frames - 1)
        offsets = (np.arange(self.num_frames) - when)[:, None] * step * np.array([np.cos(angle), np.sin(angle)])
        offsets += rng.normal(0, 0.2, 2) * target.radius
        occluder.matrices = translation(target.path() + offsets - occluder.path()) @ occluder.matrices
        drawing.sprites.append(occluder)

    # How things move

    def _sample_path(self, rng: np.random.Generator, speed: tuple[float, float]) -> np.ndarray:
        """A smooth path (T, 2) from the origin, whose longest step is in the range `speed`."""
        path = curve(np.cumsum(rng.normal(size=(4, 2)), axis=0), self.num_frames)
        path -= path[0]
        longest = np.linalg.norm(np.diff(path, axis=0), axis=1).max()
        return path * (log_uniform(rng, speed) / longest)

    def _sample_object_path(self, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A smooth path (T, 2) in pixels of the frame."""
        fast = rng.random() < self.motion.fast_probability
        path = self._sample_path(rng, self.motion.fast_speed if fast else self.motion.speed) * self.size
        if rng.random() < 0.7:  # most filmed objects stay in view
            path *= np.where(path[-1] * (start - self.size / 2) > 0, -1, 1)
        return start + path

    def _sample_excursion(self, start: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """A path (T, 2) from `start` out of the frame and back into it, for an object of (height, width, ...) pixels."""
        reach = np.hypot(shape[0], shape[1]) / 2 * 1.2
        outside = rng.uniform(0, 1, 2) * self.size
        outside[rng.integers(2)] = -reach if rng.random() < 0.5 else self.size + reach
        times = np.linspace(0, 1, self.num_frames)[:, None]
        inside = start + times * (rng.uniform(0.2, 0.8, 2) * self.size - start)
        return inside + np.minimum(1.2 * np.sin(np.pi * times) ** 2, 1) * (outside - inside)

    def _move_about(self, path: np.ndarray, centre: np.ndarray, base_angle: float, rng: np.random.Generator) -> np.ndarray:
        """Matrices (T, 3, 3) that put `centre` on the path, while the object rotates, grows and is sheared."""
        motion, num_frames = self.motion, self.num_frames
        angle = base_angle + drift(rng, num_frames, np.radians(motion.rotation))
        scale = np.exp(drift(rng, num_frames, np.log(motion.scale)))
        shear = np.tile(np.eye(3), (num_frames, 1, 1))
        shear[:, 0, 1] = drift(rng, num_frames, motion.shear)
        return similarity_transform(angle, scale, path) @ shear @ translation(-centre[None])

    def _sample_bending(self, rng: np.random.Generator, most: float, length: float, num_waves: int = 4) -> Bending:
        """Random waves of about `length` pixels that displace by up to `most` pixels."""
        angles = rng.uniform(0, 2 * np.pi, num_waves)
        wave_numbers = 2 * np.pi / length * rng.uniform(0.2, 0.8, num_waves)
        amplitudes = rng.normal(size=(num_waves, 2))
        amplitudes *= most * rng.random() / np.linalg.norm(amplitudes, axis=1).sum()
        cycles = rng.uniform(-1, 1, num_waves)
        phases = 2 * np.pi * (rng.random(num_waves) + np.linspace(0, 1, self.num_frames)[:, None] * cycles)
        return Bending(wave_numbers[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1), phases, amplitudes)
