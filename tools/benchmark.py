"""Times tracking on a synthetic video: per frame, per component, and against this machine's matrix product.

    python tools/benchmark.py [--config i2v-infer] [--checkpoint FILE] [--device cpu] [--precision bf16]
                              [--frames 5] [--objects 2] [OVERRIDE ...]
    python tools/benchmark.py --attention        # tiled attention against PyTorch's, at the model's shape
    python tools/benchmark.py --memory 400       # how much memory grows from frame 40 to frame 400
    python tools/benchmark.py --config i2v-lite --clicks    # from a click on the page to the masks of its frame

Without a checkpoint it has the weights that come with the config, or random ones, which takes the same time. A shared machine
changes its speed from minute to minute: compare ratios within a run, not seconds between runs, and look at "processor cores",
how many the run got. With fewer than there are threads, the threads wait for each other, and a frame can take several times as
long.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from count_flops import COMPONENTS, around_components, count_macs, format_table

from i2v import I2VVideoPredictor, build_i2v_video_predictor
from i2v.app.scheduler import Priority, Scheduler
from i2v.app.session import AnnotationSession
from i2v.app.store import SessionStore
from i2v.build_i2v import build_meta_model
from i2v.data.frames import Frames, open_frames
from i2v.load_config import known_configs
from i2v.modeling.cpu_attention import tiled_attention
from i2v.modeling.precision import PRECISIONS
from i2v.modeling.sam_i2v import SAMI2V
from i2v.prompt import Prompt
from i2v.utils.command_line import command_line, given_text, whole_number
from i2v.utils.devices import device_of_option
from i2v.utils.process_memory import peak_memory

MATRIX_PRODUCT = (4096, 1024, 4096)  # rows, inner size, columns of the product that this machine is measured by
ATTEMPTS = 3  # the best one counts
SETTLED = 40  # first frame of the measurement of memory: all stores that are bounded are full by then
MEGABYTE = 2**20
BUNNY = Path(__file__).resolve().parents[1] / "assets" / "bunny.mp4"


class SyntheticVideo(Frames):
    """Noise with a disc per object, which circles. No frame repeats, and none is stored.

    Args:
        num_objects (int): number of discs.
        seed (int): random seed of the noise.
    """

    def __init__(self, num_objects: int, seed: int = 0) -> None:
        self.name = "the synthetic video"
        self.height, self.width = 480, 720
        self.num_frames = 1_000_000
        self.num_objects = num_objects
        self.seed = seed

    def __getitem__(self, index: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, index))
        frame = generator.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)
        for number in range(self.num_objects):
            frame[self.mask(index, number)] = (255, 40 * number % 256, 0)
        return frame

    def mask(self, index: int, number: int) -> np.ndarray:
        """Where disc `number` is in frame `index`: (height, width) bool."""
        angle = 0.1 * index
        x = self.width * (number + 1) / (self.num_objects + 1) + 30 * math.cos(angle)
        y = self.height / 2 + 100 * math.sin(angle)
        rows, columns = np.ogrid[: self.height, : self.width]
        return (columns - x) ** 2 + (rows - y) ** 2 < 50**2


@dataclass
class Timing:
    """What was measured for one number of objects.

    Attributes:
        frames (list[float]): seconds of each frame.
        components (dict[str, float]): seconds of each component, summed over the frames.
        processor (float): seconds of processor time that the frames took, summed over all cores.
    """

    frames: list[float] = field(default_factory=list)
    components: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    processor: float = 0.0

    @property
    def median(self) -> float:
        """Seconds per frame."""
        return statistics.median(self.frames)

    def share(self, component: str) -> float:
        """Part of the time that a component took, in [0, 1]."""
        return self.components[component] / sum(self.frames)


def now(device: torch.device) -> float:
    """The time in seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def start_tracking(predictor: I2VVideoPredictor, num_objects: int) -> Iterator[tuple[int, list[int], torch.Tensor]]:
    """Prompt objects with masks in frame 0 of a synthetic video, and track them."""
    video = SyntheticVideo(num_objects)
    state = predictor.init_state(video)
    for number in range(num_objects):
        predictor.add_new_mask(state, 0, number + 1, video.mask(0, number))
    return predictor.propagate_in_video(state)


def measure_tracking(predictor: I2VVideoPredictor, object_counts: Sequence[int], num_frames: int) -> dict[int, Timing]:
    """Time `num_frames` frames for each number of objects, in turn, so that a change of the machine's speed hits all alike."""
    device = predictor.device
    seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timer(component: str) -> Iterator[None]:
        started = now(device)
        yield
        seconds[component] += now(device) - started

    timings = {count: Timing() for count in object_counts}
    runs = {count: start_tracking(predictor, count) for count in object_counts}
    for run in runs.values():
        for _ in range(predictor.model.memory_selector.frames_to_full_memory):
            next(run)
    with around_components(predictor.model, timer):
        for _ in range(num_frames):
            for count, run in runs.items():
                seconds.clear()
                started, processor_started = now(device), time.process_time()
                next(run)
                timings[count].frames.append(now(device) - started)
                for component, duration in seconds.items():
                    timings[count].components[component] += duration
                timings[count].processor += time.process_time() - processor_started
    return timings


def matrix_product_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply-accumulates per second of a matrix product, the best of a few."""
    rows, inner, columns = MATRIX_PRODUCT
    a = torch.ones(rows, inner, device=device, dtype=dtype)
    b = torch.ones(inner, columns, device=device, dtype=dtype)
    repeats = 1 if device.type == "cpu" else 50  # an accelerator's product is too short to be timed alone

    def attempt() -> float:
        started = now(device)
        for _ in range(repeats):
            a @ b
        return now(device) - started

    attempt()
    return repeats * rows * inner * columns / min(attempt() for _ in range(ATTEMPTS))


def memory_in_use(device: torch.device) -> int:
    """Bytes that PyTorch holds on a CUDA device, or that this process has resident."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.exists() else peak_memory(device)


def report_tracking(predictor: I2VVideoPredictor, meta_model: SAMI2V, precision: str, num_objects: int, frames: int) -> None:
    """Print what `measure_tracking` finds, for one object and for `num_objects`."""
    device = predictor.device
    dtypes = {name: PRECISIONS[name] for name in ("fp32", precision)}
    before = {name: matrix_product_speed(device, dtype) for name, dtype in dtypes.items()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timings = measure_tracking(predictor, sorted({1, num_objects}), frames)
    peak = peak_memory(device)
    after = {name: matrix_product_speed(device, dtype) for name, dtype in dtypes.items()}

    print(format_table(*component_table(timings)))
    products = [f"of the {name} product" for name in dtypes]
    header = ["objects", "frames/s", "processor cores", "G MACs/frame", "G MACs/s", *products]
    rows = []
    for count, timing in timings.items():
        macs = sum(count_macs(meta_model, count).values())
        speed = macs / timing.median
        # The faster of the two products is what the machine can do.
        ratios = [f"{speed / max(before[name], after[name]):.2f}" for name in dtypes]
        # Fewer cores than threads: the machine was busy with something else, and the times are not worth much.
        cores = timing.processor / sum(timing.frames)
        numbers = (f"{1 / timing.median:.2f}", f"{cores:.1f}", f"{macs / 1e9:.2f}", f"{speed / 1e9:.1f}")
        rows.append([str(count), *numbers, *ratios])
    print(f"\n{format_table(header, rows)}\n")
    for name in dtypes:
        print(f"matrix product, {name}: {before[name] / 1e9:.1f} G MACs/s before, {after[name] / 1e9:.1f} after")
    if num_objects > 1:
        print(f"time of {num_objects} objects: {timings[num_objects].median / timings[1].median:.2f} times that of one")
    print(f"peak memory: {peak / MEGABYTE:.0f} MB ({'PyTorch' if device.type == 'cuda' else 'the whole process'})")


def component_table(timings: dict[int, Timing]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: milliseconds per frame and share of each component, for each number of objects."""
    header = ["per frame"]
    rows = [["all (median)"], *([component] for component in COMPONENTS), ["rest"]]
    for count, timing in timings.items():
        header += [f"{count} object{'s' if count > 1 else ''}, ms", "share"]
        shares = [timing.share(component) for component in COMPONENTS]
        for row, share in zip(rows, [1, *shares, 1 - sum(shares)], strict=True):
            row += [f"{1e3 * timing.median * share:.1f}", f"{share:.1%}"]
    return header, rows


def report_memory(predictor: I2VVideoPredictor, num_objects: int, last: int) -> None:
    """Print how memory grows while objects are tracked up to frame `last`."""
    usage = {}
    for frame, _, _ in start_tracking(predictor, num_objects):
        usage[frame] = memory_in_use(predictor.device)
        if frame == last:
            break
    growth = (usage[last] - usage[SETTLED]) / MEGABYTE
    per_frame = growth / (last - SETTLED) / num_objects
    print(f"memory grows by {growth:.1f} MB from frame {SETTLED} to frame {last}, with {num_objects} object(s):")
    print(f"{per_frame:.3f} MB/frame/object")


def report_attention(meta_model: SAMI2V, device: torch.device) -> None:
    """Print the time of the memory's cross-attention: PyTorch's, which needs values as wide as the keys, and the tiled one."""
    cells = meta_model.feature_size**2
    embed_dim, narrow = meta_model.embed_dim, meta_model.memory_channels
    frames = 1 + meta_model.memory_selector.num_tracked
    keys = frames * (cells + embed_dim // narrow)
    generator = torch.Generator(device).manual_seed(0)
    shapes = {"q": (1, cells, embed_dim), "k": (1, keys, embed_dim), "wide": (1, keys, embed_dim), "narrow": (1, keys, narrow)}
    tensors = {name: torch.randn(shape, generator=generator, device=device) for name, shape in shapes.items()}
    rows = []
    for precision in ("fp32", "bf16"):
        q, k, wide, values = (tensor.to(PRECISIONS[precision]) for tensor in tensors.values())
        seconds = {"sdpa": math.inf, "tiled": math.inf}
        for _ in range(1 + ATTEMPTS):  # in turn; the first one warms up
            started = now(device)
            F.scaled_dot_product_attention(q[:, None], k[:, None], wide[:, None])
            between = now(device)
            tiled_attention(q, k, values)
            seconds["sdpa"] = min(seconds["sdpa"], between - started)
            seconds["tiled"] = min(seconds["tiled"], now(device) - between)
        times = [f"{1e3 * value:.1f}" for value in seconds.values()]
        speeds = [
            f"{cells * keys * (embed_dim + e) / seconds[name] / 1e9:.1f}"
            for name, e in (("sdpa", embed_dim), ("tiled", narrow))
        ]
        rows.append([precision, *times, f"{seconds['sdpa'] / seconds['tiled']:.2f}", *speeds])
    print(f"{cells} queries, {keys} keys of {embed_dim} channels, values of {embed_dim} (sdpa) and {narrow} (tiled) channels\n")
    print(format_table(["precision", "sdpa, ms", "tiled, ms", "sdpa / tiled", "sdpa, G/s", "tiled, G/s"], rows))


def report_clicks(predictor: I2VVideoPredictor) -> None:
    """Print how long the page's session takes from a click to the masks as JSON, in frames that were encoded ahead."""
    frames = open_frames(BUNNY)
    scheduler, seconds = Scheduler(), []
    with tempfile.TemporaryDirectory() as folder:
        store = SessionStore(Path(folder) / "session.db")
        session = AnnotationSession(predictor, scheduler, frames, BUNNY.name, store, lambda event: None)
        session.add_object()
        for frame in range(frames.count()):
            session.prepare_later(frame)
            scheduler.submit(Priority.PREPARE, lambda: None).result()  # after it
            started = time.perf_counter()
            click = partial(session.set_prompt, 1, frame, Prompt.of_clicks([(frames.width / 2, frames.height / 2, 1)]))
            scheduler.submit(Priority.PROMPT, click).result()
            json.dumps(session.masks(frame))
            seconds.append(time.perf_counter() - started)
        session.close()
        scheduler.close()
    quantiles = statistics.quantiles(seconds, n=10)
    times = {"median": quantiles[4], "90 %": quantiles[8], "largest": max(seconds)}
    print(", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in times.items()), f"of {len(seconds)} clicks")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=given_text, default="i2v-infer", help=f"one of {', '.join(known_configs())}, or a YAML file"
    )
    parser.add_argument(
        "--checkpoint", type=given_text, help="path of the weights (default: those of the config, or random ones)"
    )
    parser.add_argument("--device", type=given_text, help="cuda, mps or cpu (default: the first available)")
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32", help="precision of the matrix products")
    parser.add_argument(
        "--frames", type=whole_number(1), default=5, help="number of frames to time, after those that fill the memory"
    )
    parser.add_argument(
        "--objects", type=whole_number(1), default=1, help="number of objects to track; one is timed for comparison"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--attention", action="store_true", help="compare implementations of attention instead")
    last = whole_number(SETTLED + 1)
    mode.add_argument("--memory", type=last, metavar="FRAMES", help="measure the growth of memory up to this frame instead")
    mode.add_argument("--clicks", action="store_true", help="time clicks of the page on the bundled video instead")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as model/memory_selector=greedy")
    return parser


@command_line
@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_intermixed_args(arguments)
    device = device_of_option(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {torch.get_num_threads()} threads"
    print(f"{' '.join([args.config, *args.overrides])} on {name}, PyTorch {torch.__version__}, {args.precision}\n")

    if args.attention:
        report_attention(build_meta_model(args.config, args.overrides), device)
        return
    overrides = [*args.overrides, f"predictor.precision={args.precision}"]
    predictor = build_i2v_video_predictor(args.config, args.checkpoint, device, hydra_overrides_extra=overrides)
    if args.clicks:
        report_clicks(predictor)
    elif args.memory is not None:
        report_memory(predictor, args.objects, args.memory)
    else:
        meta_model = build_meta_model(args.config, args.overrides)
        report_tracking(predictor, meta_model, args.precision, args.objects, args.frames)


if __name__ == "__main__":
    sys.exit(main())
