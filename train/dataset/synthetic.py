"""Synthetic videos made of photographs with masks, to learn to track where there are no videos with masks.

A clip is drawn as layers, back to front: a photograph under the motion of a camera, in which objects may be annotated where
they are, and sprites, which are objects cut out of photographs. Every layer moves smoothly and bends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from train.dataset.sample import ClipDataset, RawClip, SampleError, stack_frames
from train.dataset.stills import Photograph, Photographs, Split, VideoStills, cut_out, draw_object, fill_hole

# The geometry of a layer is computed at every this many pixels, and interpolated.
_CELL = 8
# The longest motion blur, as a share of the frame's side: more would not leave much of an object to see.
_MAX_BLUR = 0.08
# Clips that are drawn, until one shows an object well enough.
_TRIES = 20


@dataclass(frozen=True)
class Motion:
    """How things move. Ranges are (lowest, highest), and lengths are shares of the frame's side.

    Attributes:
        speed: of an object, its longest step from a frame to the next, log-uniform. fast_speed: of some, with a probability
            of fast_probability. scale: an object's size changes by up to this factor. rotation: and its angle by up to this
            many degrees. shear: and it is sheared by up to this much. deformation: it bends by up to this share of its size.
        camera_speed: as speed, of the whole scene. camera_scale, camera_rotation, camera_deformation: as of an object; the
            latter stands for parallax. camera_shake: standard deviation of the position from frame to frame.
        follow_probability: that a sprite is part of the scene, so that the camera moves it, too.
        leave_probability: that the first sprite leaves the frame and comes back.
        occlude_probability: that something passes in front of the first object.
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
        in_place_probability: objects are annotated where they are in a photograph, and move with it.
        moved_probability: one object moves on its own photograph, where the hole that it leaves is filled. Otherwise sprites
            move over any photograph.
        extra_probability: that there is a further sprite to annotate, again and again.
        same_photograph_probability: that it comes from the same photograph as the one before.
        twin_probability: that the first sprite has a twin that is not annotated.
        object_size: square root of the area of a sprite as a share of the frame's side, log-uniform.
        feather: softness of a sprite's edge in pixels.
        min_area: of an annotated object in the first frame, as a share of the frame.
    """

    in_place_probability: float = 0.35
    moved_probability: float = 0.25
    extra_probability: float = 0.4
    same_photograph_probability: float = 0.3
    twin_probability: float = 0.2
    object_size: tuple[float, float] = (0.07, 0.5)
    feather: tuple[float, float] = (0.0, 1.5)
    min_area: float = 0.003


@dataclass(frozen=True)
class Flaws:
    """What cameras do to a picture. Each flaw has a probability, and up to how strong it is.

    Attributes:
        light: change of the brightness and of the gamma over a clip, as a factor. object_light: as light, of each sprite.
        shutter: motion blur, as a share of the time between frames. defocus: standard deviation in pixels.
        noise: standard deviation, of 255. jpeg_quality: lowest and highest. low_resolution: factor.
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


@dataclass
class _Bending:
    """A displacement that varies smoothly over space and time: a few sine waves that travel.

    Attributes:
        wave_vectors: (K, 2) radians per pixel. phases: (T, K). amplitudes: (K, 2) pixels.
    """

    wave_vectors: np.ndarray
    phases: np.ndarray
    amplitudes: np.ndarray

    def __call__(self, points: np.ndarray, t: int) -> np.ndarray:
        """The displacement (..., 2) of points (..., 2) in frame t."""
        return np.sin(points @ self.wave_vectors.T + self.phases[t]) @ self.amplitudes


@dataclass
class _Layer:
    """A picture and how it moves.

    Attributes:
        pixels: (h, w, 3) uint8 of the background, or (h, w, 4) of a sprite: opacity last, colours multiplied by it.
        matrices: (T, 3, 3) take the picture's pixels to those of each frame. bending: in the picture's pixels.
        centre: of the object, in the picture's pixels. radius: of a disc of the object's area, in the frame's pixels.
        light: (T,) factors of the brightness. label: of a sprite; 0 if it is not annotated.
    """

    pixels: np.ndarray
    matrices: np.ndarray
    bending: _Bending
    centre: np.ndarray
    radius: float
    light: np.ndarray
    label: int = 0

    def path(self) -> np.ndarray:
        """Where the object's centre is in each frame, (T, 2), but for the bending."""
        return _transform(self.matrices, self.centre)


@dataclass
class _Drawing:
    """A clip before it is drawn.

    Attributes:
        labels: (h, w) uint8, the annotated objects of the background. sprites: back to front. shutter: share of the time
            between frames.
    """

    background: _Layer
    labels: np.ndarray
    sprites: list[_Layer] = field(default_factory=list)
    shutter: float = 0.0

    def num_labels(self) -> int:
        """The annotated objects have the labels 1 to this."""
        return max([int(self.labels.max())] + [sprite.label for sprite in self.sprites])


class SyntheticClips(ClipDataset):
    """Clips made of the photographs of some folders; as many as there are photographs. Clip `index` shows an object of
    photograph `index`, if it has one; everything else is left to chance.

    Every annotated object is visible in the first frame. Where it is covered or outside the frame, its mask is empty.

    Args:
        folders, split: see `Photographs`. background_videos: a folder, see `VideoStills`, for more backgrounds.
        num_frames: at least 2. size: of the frames, in pixels; they are square.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: see `Photographs` and `VideoStills`.
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
        flaws: Flaws | None = None,
    ) -> None:
        if num_frames < 2:
            raise ValueError(f"a clip has at least 2 frames, not {num_frames}")
        self.name = "synthetic clips"
        self.photographs = Photographs(folders, split)
        self.video_stills = None if background_videos is None else VideoStills(background_videos, split)
        self.num_frames = num_frames
        self.size = size
        self.max_objects = max_objects
        self.motion = motion or Motion()
        self.scene = scene or Scene()
        self.flaws = flaws or Flaws()

    def __len__(self) -> int:
        return len(self.photographs)

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        """Draw a clip.

        Raises:
            SampleError: a photograph cannot be read, or none of 20 clips shows an object.
        """
        for attempt in range(_TRIES):
            photograph = self.photographs.read(index if attempt < _TRIES // 2 else self._draw_index(rng), rng)
            drawing = self._compose(photograph, rng)
            if drawing is None:
                continue
            first_image, first_labels = self._draw_frame(drawing, 0)
            areas = np.bincount(first_labels.ravel(), minlength=drawing.num_labels() + 1)
            visible = np.flatnonzero(areas[1:] >= self.scene.min_area * self.size**2) + 1
            if len(visible):
                break
        else:
            raise SampleError(f"{photograph.name}: none of {_TRIES} clips shows an object that is large enough")
        chosen = np.sort(rng.choice(visible, min(self.max_objects, len(visible)), replace=False))
        drawn = [(first_image, first_labels)] + [self._draw_frame(drawing, t) for t in range(1, self.num_frames)]
        images = _photograph([image for image, _ in drawn], self.flaws, rng)
        labels = np.stack([labels for _, labels in drawn])
        return RawClip(photograph.name, stack_frames(images), torch.from_numpy(labels[:, None] == chosen[:, None, None]))

    def _draw_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.photographs)))

    # What a clip shows

    def _compose(self, photograph: Photograph, rng: np.random.Generator) -> _Drawing | None:
        """Decide all of a clip but the camera's flaws; None if no object can be found."""
        mask = draw_object(photograph, rng)
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
            drawing = self._scene_of(self._draw_background(photograph, rng), rng)
            drawing.sprites.append(self._cut_sprite(drawing.background, photograph, mask, rng, label=1))
        for label in range(drawing.num_labels() + 1, self.max_objects + 1):
            if rng.random() >= scene.extra_probability:
                break
            if rng.random() >= scene.same_photograph_probability:
                photograph = self.photographs.read(self._draw_index(rng), rng)
            mask = draw_object(photograph, rng)
            if mask is not None:
                drawing.sprites.append(self._cut_sprite(drawing.background, photograph, mask, rng, label))
        if drawing.sprites and rng.random() < scene.twin_probability:
            self._add_twin(drawing, rng)
        if rng.random() < self.motion.occlude_probability:
            self._add_occluder(drawing, rng)
        if rng.random() < self.flaws.shutter_probability:
            drawing.shutter = self.flaws.shutter * rng.random()
        return drawing

    def _draw_background(self, photograph: Photograph, rng: np.random.Generator) -> np.ndarray:
        """A picture for sprites of `photograph` to move over: its own one, another one, or a still of a video."""
        kind = rng.random()
        if kind < 0.15:
            return photograph.image
        if kind < 0.4 and self.video_stills is not None:
            return self.video_stills.draw(rng)
        return self.photographs.read(self._draw_index(rng), rng).image

    def _annotate_in_place(self, photograph: Photograph, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A label image (H, W) uint8 with `mask` and, sometimes, further objects that are apart from it."""
        labels = mask.astype(np.uint8)
        for _ in range(1, self.max_objects):
            if rng.random() >= self.scene.extra_probability:
                break
            other = draw_object(photograph, rng)
            if other is not None and not labels[other].any():
                labels[other] = labels.max() + 1
        return labels

    def _scene_of(self, image: np.ndarray, rng: np.random.Generator, mask: np.ndarray | None = None) -> _Drawing:
        """A clip of nothing but a photograph, seen by a camera that moves; it begins with `mask` in the view."""
        motion, num_frames = self.motion, self.num_frames
        height, width = image.shape[:2]
        angle = rng.uniform(-0.5, 0.5) * motion.camera_rotation + _drift(rng, num_frames, motion.camera_rotation)
        angle = np.radians(angle)
        # The view, a turned square of `side` pixels, must stay inside of the photograph.
        spread = np.abs(np.cos(angle)) + np.abs(np.sin(angle))
        most = min(height, width) / spread
        middle = np.array([width, height]) / 2
        centre, extent = middle, 0.0
        if mask is not None:
            x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
            centre, extent = np.array([x + w / 2, y + h / 2]), min(1.1 * max(w, h), most.min())
        side = rng.uniform(max(extent, 0.5 * min(height, width)), most.min())
        side = np.minimum(side * np.exp(_drift(rng, num_frames, np.log(motion.camera_scale))), most)
        path = centre + rng.normal(0, 0.12, 2) * side[0] + self._draw_path(rng, motion.camera_speed) * side[0]
        path += rng.normal(0, motion.camera_shake * rng.random(), path.shape) * side[0]
        room = middle - (side * spread)[:, None] / 2
        path = middle + room * np.tanh((path - middle) / np.maximum(room, 1))
        scale = self.size / side
        matrices = _similarity(angle, scale, np.full((num_frames, 2), self.size / 2)) @ _translation(-path)
        bending = self._draw_bending(rng, motion.camera_deformation * side[0], side[0])
        radius = 0.0 if mask is None else float(np.sqrt(mask.sum() / np.pi) * scale[0])
        background = _Layer(image, matrices, bending, centre, radius, np.ones(num_frames))
        return _Drawing(background, np.zeros((height, width), np.uint8))

    def _cut_sprite(
        self,
        background: _Layer,
        photograph: Photograph,
        mask: np.ndarray,
        rng: np.random.Generator,
        label: int = 0,
        in_place: bool = False,
        size: float | None = None,
    ) -> _Layer:
        """An object of a photograph that moves over the background.

        Args:
            in_place: it begins where it is in the background. size: square root of its area, in pixels; drawn if None.
        """
        motion, view = self.motion, background.matrices
        if in_place:
            scale = float(np.sqrt(np.linalg.det(view[0, :2, :2])))
            base_angle = float(np.arctan2(view[0, 1, 0], view[0, 0, 0]))
        else:
            size = size or _log_uniform(rng, self.scene.object_size) * self.size
            # Not much larger than it was taken, and not larger than the frame.
            longest = max(cv2.boundingRect(mask.view(np.uint8))[2:])
            scale = float(min(size / np.sqrt(mask.sum()), 2.5, 1.1 * self.size / longest))
            base_angle = rng.normal(0, 0.15)
        pixels, corner = cut_out(photograph.image, mask, scale, rng.uniform(*self.scene.feather))
        centre = np.array(pixels.shape[1::-1]) / 2
        start = rng.uniform(0.15, 0.85, 2) * self.size
        if in_place:
            start = _transform(view[:1], corner + (centre + 0.5) / scale - 0.5)[0]  # pixel centres are whole numbers
        elif rng.random() < 0.5:
            pixels = pixels[:, ::-1].copy()
        leaves = label == 1 and rng.random() < motion.leave_probability
        path = self._draw_excursion(start, pixels.shape, rng) if leaves else self._draw_object_path(start, rng)
        matrices = self._move_about(path, centre, base_angle, rng)
        if not leaves and (in_place or rng.random() < motion.follow_probability):
            matrices = view @ np.linalg.inv(view[0]) @ matrices
        light = _drift(rng, self.num_frames, np.log(self.flaws.object_light))
        if not in_place:
            light += rng.uniform(-1, 1) * np.log(self.flaws.object_light)
        radius = float(np.sqrt(mask.sum() / np.pi) * scale)
        bending = self._draw_bending(rng, motion.deformation * 2 * radius, 2 * radius)
        return _Layer(pixels, matrices, bending, centre, radius, np.exp(light), label)

    def _add_twin(self, drawing: _Drawing, rng: np.random.Generator) -> None:
        """Something that looks just like the first sprite and goes its own way, in front of it or behind; not annotated."""
        sprite = drawing.sprites[0]
        path = self._draw_object_path(rng.uniform(0.1, 0.9, 2) * self.size, rng)
        matrices = self._move_about(path, sprite.centre, rng.normal(0, 0.2), rng)
        bending = self._draw_bending(rng, self.motion.deformation * 2 * sprite.radius, 2 * sprite.radius)
        twin = _Layer(sprite.pixels, matrices, bending, sprite.centre, sprite.radius, sprite.light)
        drawing.sprites.insert(int(rng.integers(2)), twin)

    def _add_occluder(self, drawing: _Drawing, rng: np.random.Generator) -> None:
        """Something that passes in front of the first object, wherever that goes; not annotated."""
        target = next((sprite for sprite in drawing.sprites if sprite.label), drawing.background)
        photograph = self.photographs.read(self._draw_index(rng), rng)
        mask = draw_object(photograph, rng)
        if mask is None:
            return
        size = 2 * target.radius * rng.uniform(0.7, 1.6)
        occluder = self._cut_sprite(drawing.background, photograph, mask, rng, size=size)
        angle = rng.uniform(0, 2 * np.pi)
        reach = target.radius + occluder.radius
        step = reach / rng.uniform(1, 4)  # per frame, as seen from the target
        when = rng.uniform(1, self.num_frames - 1)
        offsets = (np.arange(self.num_frames) - when)[:, None] * step * np.array([np.cos(angle), np.sin(angle)])
        offsets += rng.normal(0, 0.2, 2) * target.radius
        occluder.matrices = _translation(target.path() + offsets - occluder.path()) @ occluder.matrices
        drawing.sprites.append(occluder)

    # How things move

    def _draw_path(self, rng: np.random.Generator, speed: tuple[float, float]) -> np.ndarray:
        """A smooth path from the origin, (T, 2), with a longest step of a size in `speed`."""
        path = _curve(np.cumsum(rng.normal(size=(4, 2)), axis=0), self.num_frames)
        path -= path[0]
        longest = np.linalg.norm(np.diff(path, axis=0), axis=1).max()
        return path * (_log_uniform(rng, speed) / longest)

    def _draw_object_path(self, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A smooth path (T, 2) in pixels of the frame."""
        fast = rng.random() < self.motion.fast_probability
        path = self._draw_path(rng, self.motion.fast_speed if fast else self.motion.speed) * self.size
        if rng.random() < 0.7:  # most things that are filmed stay in the view
            path *= np.where(path[-1] * (start - self.size / 2) > 0, -1, 1)
        return start + path

    def _draw_excursion(self, start: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """A path (T, 2) from `start` out of the frame, and back into it, of an object of (height, width, ...) pixels."""
        reach = np.hypot(*shape[:2]) / 2 * 1.2
        outside = rng.uniform(0, 1, 2) * self.size
        outside[rng.integers(2)] = -reach if rng.random() < 0.5 else self.size + reach
        times = np.linspace(0, 1, self.num_frames)[:, None]
        inside = start + times * (rng.uniform(0.2, 0.8, 2) * self.size - start)
        return inside + np.minimum(1.2 * np.sin(np.pi * times) ** 2, 1) * (outside - inside)

    def _move_about(self, path: np.ndarray, centre: np.ndarray, base_angle: float, rng: np.random.Generator) -> np.ndarray:
        """Matrices (T, 3, 3) that put `centre` on the path, while the object turns, grows and is sheared."""
        motion, num_frames = self.motion, self.num_frames
        angle = base_angle + _drift(rng, num_frames, np.radians(motion.rotation))
        scale = np.exp(_drift(rng, num_frames, np.log(motion.scale)))
        shear = np.tile(np.eye(3), (num_frames, 1, 1))
        shear[:, 0, 1] = _drift(rng, num_frames, motion.shear)
        return _similarity(angle, scale, path) @ shear @ _translation(-centre[None])

    def _draw_bending(self, rng: np.random.Generator, most: float, length: float, num_waves: int = 4) -> _Bending:
        """Waves of about `length` pixels that displace by up to `most`."""
        angles = rng.uniform(0, 2 * np.pi, num_waves)
        wave_numbers = 2 * np.pi / length * rng.uniform(0.2, 0.8, num_waves)
        amplitudes = rng.normal(size=(num_waves, 2))
        amplitudes *= most * rng.random() / np.linalg.norm(amplitudes, axis=1).sum()
        cycles = rng.uniform(-1, 1, num_waves)
        phases = 2 * np.pi * (rng.random(num_waves) + np.linspace(0, 1, self.num_frames)[:, None] * cycles)
        return _Bending(wave_numbers[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1), phases, amplitudes)

    # Drawing

    def _draw_frame(self, drawing: _Drawing, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame t: (size, size, 3) uint8 RGB, and labels (size, size) uint8."""
        background, size = drawing.background, self.size
        source = _source_positions(background, t, (0, 0, size, size))
        image = cv2.remap(background.pixels, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        labels = np.zeros((size, size), np.uint8)
        if drawing.labels.any():
            labels = cv2.remap(drawing.labels, source, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
        image = _blur_along(image, self._blur(drawing, _step(background, t, np.full(2, size / 2))))
        for sprite in drawing.sprites:
            blur = self._blur(drawing, _step(sprite, t))
            box = _box_in_frame(sprite, t, np.abs(blur).max() / 2, size)
            if box is None:
                continue
            x0, y0, x1, y1 = box
            pixels = cv2.remap(sprite.pixels, _source_positions(sprite, t, box), None, cv2.INTER_LINEAR)
            labels[y0:y1, x0:x1][pixels[..., 3] >= 128] = sprite.label
            pixels = _blur_along(pixels, blur)
            colours = cv2.convertScaleAbs(pixels[..., :3], alpha=sprite.light[t])
            transparency = cv2.merge([255 - pixels[..., 3]] * 3)
            behind = cv2.multiply(image[y0:y1, x0:x1], transparency, scale=1 / 255)
            image[y0:y1, x0:x1] = cv2.add(behind, colours)
        return image, labels

    def _blur(self, drawing: _Drawing, step: np.ndarray) -> np.ndarray:
        """How far something moves while the shutter is open, (2,) pixels, if it moves by `step` between frames."""
        limit = _MAX_BLUR * self.size / max(float(np.linalg.norm(step)), 1e-6)
        return step * min(drawing.shutter, limit)


def _source_positions(layer: _Layer, t: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """For each pixel of a box (x0, y0, x1, y1) of frame t, where it is in the layer's picture: (h, w, 2) float32."""
    x0, y0, x1, y1 = box
    # Centres of cells, of which one more lies on each side: cv2.resize then interpolates everywhere in the box.
    columns = x0 + (np.arange(-1, (x1 - x0 - 1) // _CELL + 2) + 0.5) * _CELL - 0.5
    rows = y0 + (np.arange(-1, (y1 - y0 - 1) // _CELL + 2) + 0.5) * _CELL - 0.5
    inverse = np.linalg.inv(layer.matrices[t])
    nodes = np.stack(np.meshgrid(columns, rows), axis=-1) @ inverse[:2, :2].T + inverse[:2, 2]
    nodes += layer.bending(nodes, t)
    source = cv2.resize(nodes.astype(np.float32), None, fx=_CELL, fy=_CELL, interpolation=cv2.INTER_LINEAR)
    return source[_CELL : _CELL + y1 - y0, _CELL : _CELL + x1 - x0]


def _box_in_frame(sprite: _Layer, t: int, margin: float, size: int) -> tuple[int, int, int, int] | None:
    """The part of the frame that a sprite may cover, (x0, y0, x1, y1); None if it is outside."""
    height, width = sprite.pixels.shape[:2]
    bent = np.linalg.norm(sprite.bending.amplitudes, axis=1).sum()
    corners = np.array([[x, y] for x in (-bent, width + bent) for y in (-bent, height + bent)])
    corners = corners @ sprite.matrices[t, :2, :2].T + sprite.matrices[t, :2, 2]
    x0, y0 = np.clip(np.floor(corners.min(0) - margin), 0, size).astype(int).tolist()
    x1, y1 = np.clip(np.ceil(corners.max(0) + margin), 0, size).astype(int).tolist()
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _step(layer: _Layer, t: int, position: np.ndarray | None = None) -> np.ndarray:
    """How far the layer's object, or what is at `position` in frame t, moves between frames: (2,) pixels."""
    other = t + 1 if t + 1 < len(layer.matrices) else t - 1
    point = layer.centre if position is None else _transform(np.linalg.inv(layer.matrices[t])[None], position)[0]
    return np.subtract(*_transform(layer.matrices[[other, t]], point))


def _blur_along(image: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Average an image over a movement by (2,) pixels, around where it is."""
    if np.abs(direction).max() < 1:
        return image
    size = image.shape[1::-1]
    for part in (1 / 4, 1 / 8, 1 / 16):  # averages of two make one of eight
        x, y = direction * part
        if max(abs(x), abs(y)) < 0.3:
            break
        shifted = [
            cv2.warpAffine(image, np.array([[1, 0, sign * x], [0, 1, sign * y]]), size, borderMode=cv2.BORDER_REPLICATE)
            for sign in (-1, 1)
        ]
        image = cv2.addWeighted(shifted[0], 0.5, shifted[1], 0.5, 0)
    return image


def _photograph(images: list[np.ndarray], flaws: Flaws, rng: np.random.Generator) -> list[np.ndarray]:
    """Frames (H, W, 3) uint8 as a camera would take them."""
    num_frames = len(images)
    gains = np.exp(rng.uniform(-1, 1) * np.log(flaws.light) / 2 + _drift(rng, num_frames, np.log(flaws.light)))
    gammas = np.exp(_drift(rng, num_frames, np.log(flaws.light)))
    values = np.linspace(0, 1, 256)
    tables = [np.clip(255 * gain * values**gamma, 0, 255).astype(np.uint8) for gain, gamma in zip(gains, gammas, strict=True)]
    images = [cv2.LUT(image, table) for image, table in zip(images, tables, strict=True)]
    if rng.random() < flaws.defocus_probability:
        blurs = np.abs(rng.uniform(0, flaws.defocus) + _drift(rng, num_frames, flaws.defocus / 2))
        images = [cv2.GaussianBlur(image, (0, 0), max(blur, 0.1)) for image, blur in zip(images, blurs, strict=True)]
    if rng.random() < flaws.low_resolution_probability:
        shrink = 1 / rng.uniform(1, flaws.low_resolution)
        images = [_resample(image, shrink) for image in images]
    if rng.random() < flaws.noise_probability:
        images = _add_noise(images, flaws.noise * rng.random(), rng)
    if rng.random() < flaws.jpeg_probability:
        quality = int(rng.integers(flaws.jpeg_quality[0], flaws.jpeg_quality[1] + 1))
        encoded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for image in images]
        images = [cv2.imdecode(data, cv2.IMREAD_COLOR) for data in encoded]
    return images


def _resample(image: np.ndarray, shrink: float) -> np.ndarray:
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _add_noise(images: list[np.ndarray], deviation: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Add Gaussian noise; the frames share one field of it, each from a random place on."""
    height, width = images[0].shape[:2]
    noise = np.rint(deviation * rng.standard_normal((height + 64, width + 64, 3), np.float32)).astype(np.int16)
    corners = rng.integers(0, 65, (len(images), 2))
    parts = [noise[y : y + height, x : x + width] for y, x in corners]
    return [cv2.add(image, part, dtype=cv2.CV_8U) for image, part in zip(images, parts, strict=True)]


def _curve(controls: np.ndarray, num_frames: int) -> np.ndarray:
    """The polynomial through control points (K, D) at equal times: (T, D)."""
    coefficients = np.polynomial.polynomial.polyfit(np.linspace(0, 1, len(controls)), controls, len(controls) - 1)
    return np.polynomial.polynomial.polyval(np.linspace(0, 1, num_frames), coefficients).T


def _drift(rng: np.random.Generator, num_frames: int, most: float) -> np.ndarray:
    """A smooth change from 0, (T,), by at most a random part of `most`."""
    curve = _curve(rng.uniform(-1, 1, (4, 1)), num_frames)[:, 0]
    curve -= curve[0]
    return curve * (most * rng.random() / np.abs(curve).max())


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _transform(matrices: np.ndarray, point: np.ndarray) -> np.ndarray:
    """A point (2,) under matrices (T, 3, 3): (T, 2)."""
    return matrices[:, :2, :2] @ point + matrices[:, :2, 2]


def _translation(offsets: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that move by (T, 2)."""
    matrices = np.tile(np.eye(3), (len(offsets), 1, 1))
    matrices[:, :2, 2] = offsets
    return matrices


def _similarity(angles: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Matrices (T, 3, 3) that turn by (T,) radians and scale by (T,) around the origin, then move by (T, 2)."""
    matrices = _translation(offsets)
    cosines, sines = scales * np.cos(angles), scales * np.sin(angles)
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = cosines, -sines, sines, cosines
    return matrices
