"""Counts the parameters and the multiply-accumulates of each component: Tables 8 and 9 of the SAM-I2V paper.

    python tools/count_flops.py [--config i2v-infer] [OVERRIDE ...]   # each component of a model
    python tools/count_flops.py --tables                              # both tables, with the paper's numbers beside

For one frame and one object, with a full memory. Nothing is computed: the model is on PyTorch's meta device. "Layers" are
convolutions and linear layers, "products" those of activations with activations, that is attention.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# For the package test_pvs, which is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from i2v.build_i2v import build_meta_model
from i2v.image_predictor import build_image_segmenter
from i2v.load_config import known_configs
from i2v.modeling.backbones.tfi import TemporalFeatureIntegrator
from i2v.modeling.layers import Attention
from i2v.modeling.memory.selector import History, MemorySelector
from i2v.modeling.sam_i2v import SAMI2V, ObjectMemory
from i2v.utils.command_line import command_line, given_text
from test_pvs.paper.registry import PaperSystem, read_registry
from test_pvs.quotes import FLOPS, PAPER_QUOTES, PARAMETERS, read_quotes
from test_pvs.tables import TABLE_SETTINGS

# The modules of each component, and the methods through which the model and its users enter them.
COMPONENTS: dict[str, dict[str, tuple[str, ...]]] = {
    "image trunk": {"image_encoder.trunk_image": ("forward", "before_tail", "tail"), "image_encoder.adapters": ()},
    "TFI": {"image_encoder.trunk_video": ("stem_taps", "forward")},
    "memory encoder": {"memory_encoder": ("forward",)},
    "memory attention": {"memory_attention": ("forward",)},
    "MPG": {"memory_prompt_generator": ("forward",)},
    "prompt encoder, mask decoder": {"sam_prompt_encoder": ("forward", "image_position"), "sam_mask_decoder": ("forward",)},
}
OTHERS = "others"
WINDOWS = (3, 5)  # of the TFI: the paper's table, the released model

# The paper's numbers: parameters in M, and FLOPs in G, which are multiply-accumulates except for the selector.
SAM_I2V = "TinySAM + SAM-I2V"
SELECTOR, OVERALL = "memory selector", "overall"
# The rows of Table 9 by our names.
TABLE_9 = {
    "TFI": "Temporal Feature Integrator",
    "memory encoder": "Memory Selective Associator: Memory Encoder",
    SELECTOR: "Memory Selective Associator: Memory Selector",
    "memory attention": "Memory Selective Associator: Memory Attention",
    "MPG": "Memory Prompt Generator",
    OVERALL: "Overall",
}
# Image segmenters (see `build_image_segmenter`) in systems of Table 8 whose other part is a package that is not counted.
SEGMENTERS = {"SAM": "sam_b", "TinySAM": "tinysam"}
SELECTOR_MEGABYTES = 158
TABLE_WINDOW = 3  # of the TFI in both tables


def read_table(number: str) -> dict[str, tuple[float, float]]:
    """Read a table of the paper from the quoted numbers.

    Args:
        number (str): "8" or "9".

    Returns:
        Parameters in M and FLOPs in G, by name of the row.
    """
    quotes = [quote for quote in read_quotes(PAPER_QUOTES, TABLE_SETTINGS) if quote.table == number]
    values = {(quote.system, quote.dataset): quote.value for quote in quotes}
    return {name: (values[name, PARAMETERS], values[name, FLOPS]) for name in dict.fromkeys(quote.system for quote in quotes)}


# What is known of the published model.
QUOTED_CONFIG = "i2v-infer"
QUOTED_NOTE = """\
* from the project's design notes, not from the paper. † has the products of the window attention in it.
Quoted numbers appear to count PyTorch's own normalisation layers too (0.3 G of the trunk)."""


def quoted_components() -> dict[str, str]:
    """What is known of the components of the published model, by their names in the printed table."""
    table = read_table("9")

    def quoted(name: str) -> str:
        return "{} M, {} G".format(*table[TABLE_9[name]])

    return {
        "image trunk": "39.1 G *†",
        "TFI, window 3": quoted("TFI"),
        "TFI, window 5": "3.7 M, 37.4 G *",
        "memory encoder": quoted("memory encoder"),
        "memory attention": f"{quoted('memory attention')}; products 275 G *",
        "MPG": quoted("MPG"),
        "prompt encoder, mask decoder": "1.8 G *",
        "total": "18.9 M",
    }


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates.

    Attributes:
        layers (int): multiply-accumulates of convolutions and linear layers.
        products (int): multiply-accumulates of activations with activations.
    """

    layers: int = 0
    products: int = 0

    @property
    def total(self) -> int:
        return self.layers + self.products

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.layers + other.layers, self.products + other.products)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.layers - other.layers, self.products - other.products)


def component_modules(model: SAMI2V) -> dict[str, dict[str, nn.Module]]:
    """The modules of each component by their path; those that the config leaves out (TFI, MPG) are missing."""
    modules = dict(model.named_modules())
    return {name: {path: modules[path] for path in paths if path in modules} for name, paths in COMPONENTS.items()}


@contextmanager
def around_components(model: SAMI2V, around: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Inside of this context, every call of a component runs inside of `around(component)`."""
    active: set[str] = set()

    def wrap(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name in active:  # called by another method of the component
                return method(*args, **kwargs)
            with around(name):
                active.add(name)
                try:
                    return method(*args, **kwargs)
                finally:
                    active.remove(name)

        return call

    with ExitStack() as stack:
        for name, modules in component_modules(model).items():
            for path, module in modules.items():
                for method in COMPONENTS[name][path]:
                    stack.enter_context(patch.object(module, method, wrap(name, getattr(module, method))))
        yield


def count_parameters(model: SAMI2V) -> dict[str, int]:
    """Number of parameters per component."""

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    counts = {name: sum(map(count, modules.values())) for name, modules in component_modules(model).items()}
    return {**counts, OTHERS: count(model) - sum(counts.values())}


def count_costs(model: SAMI2V, num_objects: int = 1) -> dict[str, Cost]:
    """Multiply-accumulates per component, as computed here, for one frame of `num_objects` objects with a full memory.

    Args:
        model (SAMI2V): a network from `build_meta_model`.
        num_objects (int): number of objects.
    """
    costs = dict.fromkeys(COMPONENTS, Cost())
    with FlopCounterMode(display=False) as counter:

        @contextmanager
        def add_to(name: str) -> Iterator[None]:
            before = _cost_so_far(counter)
            yield
            costs[name] += _cost_so_far(counter) - before

        with torch.no_grad(), around_components(model, add_to):
            _run_frame(model, num_objects)
        total = _cost_so_far(counter)
    return {**costs, OTHERS: total - sum(costs.values(), Cost())}


def count_macs(model: SAMI2V, num_objects: int = 1) -> dict[str, int]:
    """Multiply-accumulates per component, attention included; see `count_costs`."""
    return {name: cost.total for name, cost in count_costs(model, num_objects).items()}


def count_published_costs(model: SAMI2V) -> dict[str, Cost]:
    """Multiply-accumulates per component, as the published network computes it, for one frame of one object.

    It differs from what is computed here in two places: it computes all slices of the TFI's window, with plain layers, and
    it projects the values of an attention before they are averaged.

    Args:
        model (SAMI2V): from `build_meta_model`.
    """
    corrections: dict[str, Cost] = {}

    def correct(name: str) -> Callable[..., None]:
        def hook(attention: Attention, inputs: Sequence[torch.Tensor], _: torch.Tensor) -> None:
            queries, keys, values = inputs[0].shape[1], inputs[1].shape[1], attention.v_proj
            if attention.num_heads == 1 and values.in_features < values.out_features:
                corrections[name] = corrections.get(name, Cost()) + Cost(
                    layers=(keys - queries) * values.weight.numel(),
                    products=queries * keys * (values.out_features - values.in_features),
                )

        return hook

    with ExitStack() as stack:
        for name, modules in component_modules(model).items():
            for part in nn.ModuleList(modules.values()).modules():
                if isinstance(part, Attention):
                    stack.callback(part.register_forward_hook(correct(name)).remove)
        costs = count_costs(model)
    costs = {name: cost + corrections.get(name, Cost()) for name, cost in costs.items()}
    if model.image_encoder.trunk_video is not None:
        costs["TFI"] = Cost(layers=plain_tfi_macs(model.image_encoder.trunk_video, model.feature_size**2))
    return costs


def plain_tfi_macs(tfi: TemporalFeatureIntegrator, cells: int) -> int:
    """Multiply-accumulates of the TFI for maps of `cells` cells, if every layer computes every slice of the window.

    All of its layers keep the resolution, the 3-dimensional ones (temporal branch) for each slice.
    """
    plane = sum(layer.weight.numel() for layer in tfi.modules() if isinstance(layer, nn.Conv2d))
    volume = sum(layer.weight.numel() for layer in tfi.modules() if isinstance(layer, nn.Conv3d))
    return cells * (plane + tfi.window * volume)


def _run_frame(model: SAMI2V, num_objects: int) -> None:
    """The steps of tracking a frame."""
    encoder, size = model.image_encoder, model.feature_size
    image = torch.empty(1, 3, model.image_size, model.image_size, device="meta")
    maps = encoder.trunk_maps(image)
    taps = encoder.stem_taps(image, maps)  # computed once per frame; the rest of the window is cached
    features = encoder.integrate(maps, [taps] * encoder.window)

    frames = 1 + model.memory_selector.num_tracked  # what a tracked object remembers once the video is long enough
    memory = ObjectMemory(
        features=torch.empty(num_objects, frames, model.memory_channels, size, size, device="meta"),
        foreground=torch.empty(num_objects, frames, size, size, device="meta", dtype=torch.bool),
        positions=torch.arange(frames),
        repeats=torch.ones(frames, dtype=torch.long),  # on the CPU, because the model looks at the values
        pointers=torch.empty(num_objects, frames, model.embed_dim, device="meta"),
        distances=torch.empty(frames, device="meta"),
        pointer_repeats=torch.ones(frames, dtype=torch.long),
    )
    conditioned, memory_prompts = model.condition(features, memory)
    prediction = model.decode(conditioned, memory_prompts, num_objects)
    model.encode_memory(features, model.upsample(prediction.masks), prediction.object_score_logits)


def _cost_so_far(counter: FlopCounterMode) -> Cost:
    operations = counter.get_flop_counts().get("Global", {})
    batched = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    # On the meta device attention is made of batched matrix products, and a layer is made of anything but these.
    products = sum(count for operation, count in operations.items() if operation in batched)
    return Cost((sum(operations.values()) - products) // 2, products // 2)


def compared_frames(selector: MemorySelector) -> int:
    """Number of frames that a selector compares with the current one, once the video is long enough."""
    compared: list[int] = []

    def similarity(times: Sequence[int]) -> torch.Tensor:
        compared.extend(times)
        return torch.zeros(len(times))

    time = selector.look_back + 2
    selector.plan(time, History([0], range(1, time), similarity))
    return len(compared)


def selector_flops(model: SAMI2V) -> int:
    """Floating-point operations of the published memory selector for one frame, as the paper's Table 9 counts them.

    For each compared map two operations per value for the product with the current one, and three for its normalisation; two
    for that of the current map.
    """
    frames = compared_frames(model.memory_selector)
    return model.feature_size**2 * model.embed_dim * (5 * frames + 2) if frames else 0


def selector_bytes(model: SAMI2V) -> int:
    """Bytes of the maps that are compared, in float32, once. The published code has a normalised copy besides."""
    return 4 * model.feature_size**2 * model.embed_dim * compared_frames(model.memory_selector)


def table_8(systems: Mapping[str, PaperSystem]) -> list[list[str]]:
    """The rows of Table 8, with the paper's numbers; those that are not made of SAM-I2V have no others.

    They are followed by the image segmenters alone, which the paper does not list.

    Args:
        systems (Mapping[str, PaperSystem]): the systems by name of the row.
    """
    table = read_table("8")
    counted: dict[str, tuple[int, int]] = {}
    for name, system in systems.items():
        if system.system == "sam-i2v":
            model = _table_model(system)
            layers = sum(cost.layers for cost in count_published_costs(model).values())
            counted[name] = sum(count_parameters(model).values()), layers
    rows = []
    for name, (parameters, flops) in table.items():
        cells = ["-", "-", "-"]
        if name in counted:
            number, layers = counted[name]
            cells = [f"{number / 1e6:.2f}", f"{layers / 1e9:.1f}", f"{(layers - counted[SAM_I2V][1]) / 1e9:.1f}"]
        difference = flops - table[SAM_I2V][1]
        rows.append([name, cells[0], f"{parameters:.1f}", cells[1], f"{flops:.1f}", cells[2], f"{difference:.1f}"])
    for name, segmenter in SEGMENTERS.items():
        number, layers = count_image_segmenter(segmenter)
        rows.append([f"{name} alone, one image", f"{number / 1e6:.2f}", "-", f"{layers / 1e9:.1f}", "-", "-", "-"])
    return rows


def count_image_segmenter(name: str) -> tuple[int, int]:
    """Count an image segmenter.

    Args:
        name (str): see `build_image_segmenter`.

    Returns:
        Its number of parameters, and the multiply-accumulates of its layers for an image and a click.
    """
    with torch.device("meta"):
        model = build_image_segmenter(name).requires_grad_(False).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            features = model.encode(torch.empty(1, 3, model.image_size, model.image_size))
            model.decode(features, torch.empty(1, 1, 2), torch.ones(1, 1, dtype=torch.int32))
    return sum(parameter.numel() for parameter in model.parameters()), _cost_so_far(counter).layers


def table_9(system: PaperSystem) -> list[list[str]]:
    """The rows of Table 9, and their sums, with the paper's numbers.

    Args:
        system (PaperSystem): SAM-I2V.
    """
    model = _table_model(system)
    table, parameters, costs = read_table("9"), count_parameters(model), count_published_costs(model)
    counted = {name: (parameters[name], costs[name].layers) for name in TABLE_9 if name in COMPONENTS}
    counted[SELECTOR] = 0, selector_flops(model)
    counted[OVERALL] = sum(number for number, _ in counted.values()), sum(flops for _, flops in counted.values())
    return [
        [name, f"{counted[name][0] / 1e6:.2f}", f"{quoted[0]:.1f}", f"{counted[name][1] / 1e9:.3f}", f"{quoted[1]:.3f}"]
        for name, quoted in ((name, table[row]) for name, row in TABLE_9.items())
    ]


def _table_model(system: PaperSystem) -> SAMI2V:
    model = system.meta_model()
    if model.image_encoder.trunk_video is not None:
        model.image_encoder.trunk_video.window = TABLE_WINDOW  # no weight depends on it
    return model


def print_tables() -> None:
    """Print Tables 8 and 9."""
    systems = read_registry().rows("1")
    ours = systems[SAM_I2V]
    print(f"Table 8: one frame, one object, layers alone, TFI with a window of {TABLE_WINDOW}.\n")
    header = ["system", "parameters, M", "quoted", "FLOPs, G", "quoted", "minus SAM-I2V", "quoted"]
    print(format_table(header, table_8(systems)))
    print("\nThe quoted FLOPs appear to include normalisation layers and the products of the trunk's window attention.")
    print(
        "XMem++, Cutie and SAM 2.1 are packages of other projects, so their rows have quoted numbers only.\n"
        "Of those with XMem++ and Cutie, the image segmenter is counted alone.\n"
    )
    print(f"Table 9: what SAM-I2V adds to TinySAM, TFI with a window of {TABLE_WINDOW}.\n")
    print(format_table(["component", "parameters, M", "quoted", "FLOPs, G", "quoted"], table_9(ours)))
    print("\nThe quoted sums are those of the rounded numbers.")
    model = _table_model(ours)
    once = selector_bytes(model) / 2**20
    print(
        f"The selector compares {compared_frames(model.memory_selector)} maps: {once:.0f} MiB in float32, and with the "
        f"normalised copies of the published code {2 * once:.0f} MiB (quoted: {SELECTOR_MEGABYTES} MB). There is no copy here."
    )


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are aligned to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    ruler = [(":" + "-" * (w - 1)) if i == 0 else ("-" * (w - 1) + ":") for i, w in enumerate(widths)]
    return "\n".join([line(header), line(ruler), *map(line, rows)])


@command_line
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", type=given_text, default=QUOTED_CONFIG, help=f"one of {', '.join(known_configs())}, or a YAML file"
    )
    parser.add_argument("--tables", action="store_true", help="print Tables 8 and 9 of the paper instead")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as model.memory_prompt_generator=null")
    args = parser.parse_intermixed_args(arguments)
    if args.tables:
        if args.overrides or args.config != QUOTED_CONFIG:
            parser.error("--tables prints the paper's systems: leave out --config and overrides")
        print_tables()
        return
    model = build_meta_model(args.config, args.overrides)
    tfi = model.image_encoder.trunk_video
    # The quoted numbers are those of SAM-I2V, not of another network.
    quoted = quoted_components() if Path(args.config).stem == QUOTED_CONFIG and not args.overrides else {}
    parameters = count_parameters(model)
    published, here = count_published_costs(model), count_costs(model)

    def row(label: str, num_parameters: int, published: Cost, here: Cost) -> list[str]:
        macs = [f"{count / 1e9:.2f}" for count in (published.layers, published.products, here.total)]
        return [label, f"{num_parameters / 1e6:.2f}", macs[0], quoted.get(label, ""), *macs[1:]]

    rows = []
    for name, cost in here.items():
        label = f"TFI, window {tfi.window}" if name == "TFI" and tfi is not None else name
        rows.append(row(label, parameters[name], published[name], cost))
    totals = [sum(costs.values(), Cost()) for costs in (published, here)]
    rows.append(row("total", sum(parameters.values()), *totals))
    if tfi is not None:
        for window in sorted({*WINDOWS} - {tfi.window}):
            tfi.window = window  # no weight depends on it
            costs = count_published_costs(model)["TFI"], count_costs(model)["TFI"]
            rows.append(row(f"TFI, window {tfi.window}", parameters["TFI"], *costs))

    frames, size = 1 + model.memory_selector.num_tracked, model.image_size
    pointer_tokens = frames * model.embed_dim // model.memory_channels
    print(f"One {size}x{size} frame, one object, {frames} memories, {pointer_tokens} tokens of object pointers.")
    print('"Published" is how the published network computes it. MACs: multiply-accumulates.\n')
    header = ["component", "parameters, M", "published: layers, G MACs", "quoted", "published: products, G", "here: all, G"]
    print(format_table(header, rows))
    if quoted:
        print(f"\n{QUOTED_NOTE}")


if __name__ == "__main__":
    sys.exit(main())
