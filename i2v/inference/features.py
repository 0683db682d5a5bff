"""Image features per frame, and the frames and TFI window that they are computed from, in caches of bounded size."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2v.data.frames import Frames
from i2v.modeling.backbones.image_encoder import ImageEncoder

# The process that PyTorch's threads live in.
_IMPORTED_BY = os.getpid()

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RecentlyUsed(Generic[Key, Value]):
    """A mapping that computes missing values, and drops the least recently used one beyond its capacity."""

    def __init__(self, capacity: int, make: Callable[[Key], Value]) -> None:
        self.capacity = capacity
        self._make = make
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __getitem__(self, key: Key) -> Value:
        if key not in self._values:
            self.put(key, self._make(key))
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        """Set a value that was computed elsewhere."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self.capacity:
            self._values.popitem(last=False)

    def __contains__(self, key: Key) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        self._values.clear()


def preprocess(frame: np.ndarray, image_size: int) -> Tensor:
    """Resize a frame (H, W, 3) uint8 RGB to the network's input, (1, 3, image_size, image_size) float32 in [0, 1].

    All in NumPy: a PyTorch operation in the background thread would start a second pool of OpenMP threads there, and the two
    pools slow down each other's matrix products.
    """
    image = np.asarray(Image.fromarray(frame).resize((image_size, image_size)), np.float32)
    pixels = image / np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).unsqueeze(0)


class FrameLoader:
    """Decodes and preprocesses frames, ahead of time in a background thread.

    Args:
        frames (Frames): the source, which other loaders may read too.
        image_size (int): side of the network's input, in pixels.
        device (torch.device): device that the frames are moved to.
        keep_on_cpu (bool): move a frame to the device only when it is used.
        keep (int): number of frames in the cache.
        background (bool): whether `prefetch` does anything.
    """

    def __init__(
        self, frames: Frames, image_size: int, device: torch.device, keep_on_cpu: bool, keep: int, background: bool
    ) -> None:
        self.frames = frames
        self.image_size = image_size
        self.device = device
        self.keep_on_cpu = keep_on_cpu
        # A source of unknown length may block, so it is read inline: no worker thread, no prefetching.
        inline = frames.num_frames is None
        if os.getpid() != _IMPORTED_BY:
            _settle_after_fork()
        self._worker = None if inline else _start_worker()
        self._process = os.getpid()
        self._background = background and not inline
        self._futures: RecentlyUsed[int, Future[Tensor]] = RecentlyUsed(keep, self._submit)

    def load(self, index: int) -> Tensor:
        """Return frame `index` on the device, (1, 3, S, S) float32 in [0, 1]."""
        self._restart_after_fork()
        try:
            return self._to_device(self._futures[index].result())
        except Exception:
            self._futures.clear()  # so that a failed frame is tried again
            raise

    def decoded(self, index: int) -> np.ndarray:
        """Frame `index` as in the source, (height, width, 3) uint8 RGB."""
        return self._run(self.frames.__getitem__, index)

    def has(self, index: int) -> bool:
        """Whether frame `index` exists."""
        return self._run(self.frames.has, index)

    def count(self) -> int:
        """Number of frames; an iterator is read to its end."""
        return self._run(self.frames.count)

    def prefetch(self, indices: Iterable[int]) -> None:
        """Start to decode frames that will be needed soon, skipping those that do not exist."""
        num_frames = self.frames.num_frames
        if not self._background or num_frames is None:
            return
        self._restart_after_fork()
        for index in indices:
            if 0 <= index < num_frames and index not in self._futures:
                _ = self._futures[index]

    def close(self) -> None:
        """Stop the background thread, and drop all frames."""
        self._futures.clear()
        if self._worker is not None and self._process == os.getpid():
            self._worker.shutdown(cancel_futures=True)

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._restart_after_fork()
        return function(*arguments) if self._worker is None else self._worker.submit(function, *arguments).result()

    def _restart_after_fork(self) -> None:
        """In a forked process, start a new thread: the old one stayed in the parent process, with all its tasks."""
        if self._process != os.getpid():
            self._process = os.getpid()
            _settle_after_fork()
            self._futures.clear()
            if self._worker is not None:
                self._worker = _start_worker()

    def _submit(self, index: int) -> Future[Tensor]:
        if self._worker is not None:
            return self._worker.submit(self._decode, index)
        future: Future[Tensor] = Future()
        future.set_result(self._decode(index))
        return future

    def _decode(self, index: int) -> Tensor:
        image = preprocess(self.frames[index], self.image_size)
        if self.device.type == "cuda":
            image = image.pin_memory()
        return image if self.keep_on_cpu else self._to_device(image)

    def _to_device(self, image: Tensor) -> Tensor:
        # Only from pinned memory: elsewhere the copy may still be read when its source is freed.
        return image.to(self.device, non_blocking=self.device.type == "cuda")


def _settle_after_fork() -> None:
    """Run PyTorch on one thread: it would wait forever for OpenMP's threads, which stayed in the parent process."""
    torch.set_num_threads(1)


def _start_worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="i2v-frames")


class FeatureStore:
    """The features of a video's frames, computed on demand.

    Args:
        encoder (ImageEncoder): the network's image encoder.
        loader (FrameLoader): source of preprocessed frames.
        capacity (int): number of frames whose features are cached.
        storage_device (torch.device): device on which they are cached.
    """

    def __init__(self, encoder: ImageEncoder, loader: FrameLoader, capacity: int, storage_device: torch.device) -> None:
        self._encoder = encoder
        self._loader = loader
        self._storage_device = storage_device
        self._features: RecentlyUsed[int, Tensor] = RecentlyUsed(capacity, self._encode)
        self._stem_taps: RecentlyUsed[int, Tensor] = RecentlyUsed(encoder.window + 1, self._apply_stem)
        # Both the trunk and the stem read the current frame.
        self._images: RecentlyUsed[int, Tensor] = RecentlyUsed(1, lambda index: encoder.normalize(loader.load(index)))
        # Large, and needed only while a frame's masks are decoded.
        self._high_res: RecentlyUsed[int, list[Tensor]] = RecentlyUsed(2, self._high_res_features)

    def __getitem__(self, index: int) -> Tensor:
        """Features of frame `index`, (1, C, h, w) float32 on the model's device."""
        return self._features[index].to(self._loader.device)

    def high_res(self, index: int) -> list[Tensor]:
        """High-resolution features of frame `index` on the model's device: (1, C_l, h_l, w_l) per level, if there are any."""
        return self._high_res[index]

    def similarity(self, index: int, others: Sequence[int]) -> Tensor:
        """Cosine similarity of frame `index` to others, (len(others),) (SAM-I2V, section 3.3)."""
        current = self._features[index].flatten()
        similarities = [torch.cosine_similarity(current, self._features[i].flatten(), dim=0) for i in others]
        return torch.stack(similarities)

    def clear(self) -> None:
        """Drop everything; it is recomputed on demand."""
        for values in (self._features, self._stem_taps, self._images, self._high_res):
            values.clear()

    def _encode(self, index: int) -> Tensor:
        maps = self._encoder.trunk_maps(self._images[index])
        self._high_res.put(index, self._project(maps))
        if index not in self._stem_taps:
            self._stem_taps.put(index, self._encoder.stem_taps(self._images[index], maps))
        window = range(max(index - self._encoder.window + 1, 0), index + 1)
        features = self._encoder.integrate(maps, [self._stem_taps[i] for i in window])
        return features.float().contiguous().to(self._storage_device)

    def _high_res_features(self, index: int) -> list[Tensor]:
        return self._project(self._encoder.trunk_maps(self._images[index]) if self._encoder.high_res_levels else [])

    def _project(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [x.float().contiguous() for x in self._encoder.high_res_features(maps)]

    def _apply_stem(self, index: int) -> Tensor:
        return self._encoder.stem_taps(self._images[index])
