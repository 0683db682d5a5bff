"""test_pvs.systems.segment_then_propagate and propagators: what a segmenter and a propagator are given.

Stand-ins with the same methods replace the packages, which are not installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from i2v import I2VVideoPredictor
from i2v.data.frames import ImageFolder
from i2v.image_predictor import SamPredictor, build_image_segmenter
from i2v.prompt import Prompt
from i2v.utils.jf import region_similarity
from test_pvs.datasets import read_dataset
from test_pvs.interactive import offline, online
from test_pvs.systems import SystemSettings, VideoSystem, build_system
from tests.conftest import TINY_CONFIG
from tests.test_pvs import layouts, stubs
from tests.test_pvs.layouts import APPEARS, HEIGHT, NUM_FRAMES, WIDTH

LABELS = layouts.discs(0)[1]
FIRST, SECOND = LABELS[0] == 1, LABELS[APPEARS] == 2
SETTINGS = {"overrides": ("adapter.segmenter=tests.test_pvs.stubs:painter", "adapter.size=-1")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def frames(data: Path) -> Path:
    return data / "JPEGImages/one"


# --- The segmenters


def test_clicks_are_given_to_a_sam_predictor_one_by_one(frames: Path) -> None:
    name = "adapter.segmenter=tests.test_pvs.stubs:fake_sam"
    session = build_system(SystemSettings("sam+optical-flow", overrides=(name,))).start(frames)
    scores = session.prompt(2, 1, Prompt.of_clicks([(10, 11, 1), (20, 21, 0)]))
    assert np.array_equal(stubs.FAKE_SAM.images[0], ImageFolder(frames)[2])
    first, second = stubs.FAKE_SAM.calls
    assert first["point_coords"].tolist() == [[10, 11]]
    assert first["multimask_output"]
    assert (first["mask_input"], first["box"]) == (None, None)
    assert second["point_coords"].tolist() == [[10, 11], [20, 21]]
    assert second["point_labels"].tolist() == [1, 0]
    assert not second["multimask_output"]
    assert np.allclose(second["mask_input"], 1.1)  # of the first click's best mask, of three
    assert second["mask_input"].shape == (1, 256, 256)
    assert (scores > 0).sum() == HEIGHT * WIDTH - WIDTH  # the only mask of the second click
    session.prompt(3, 2, Prompt(box=(1, 2, 30, 40)))
    assert stubs.FAKE_SAM.calls[2]["box"].tolist() == [1, 2, 30, 40]
    assert stubs.FAKE_SAM.calls[2]["point_coords"] is None
    assert not stubs.FAKE_SAM.calls[2]["multimask_output"]


def test_a_correction_starts_from_the_tracked_mask(frames: Path) -> None:
    name = "adapter.segmenter=tests.test_pvs.stubs:fake_sam"
    session = build_system(SystemSettings("sam+optical-flow", overrides=(name,))).start(frames)
    session.prompt(0, 1, Prompt(mask=FIRST))
    tracked = dict(session.propagate(0, 3))[3][1] > 0
    session.prompt(3, 1, Prompt.of_clicks([(10, 11, 1)]))
    (call,) = stubs.FAKE_SAM.calls
    low = call["mask_input"][0] > 0
    assert not low[192:].any()  # 64x48 pixels fill three quarters of the square
    assert region_similarity(np.kron(tracked, np.ones((4, 4))).astype(bool), low[:192]) > 0.98
    assert not call["multimask_output"]


@pytest.fixture
def tiny_settings(tiny_predictor: I2VVideoPredictor, tmp_path: Path) -> dict[str, str]:
    torch.save({"model": tiny_predictor.model.state_dict()}, tmp_path / "tiny.pt")
    return {"config": str(TINY_CONFIG), "checkpoint": str(tmp_path / "tiny.pt")}


@pytest.mark.slow
def test_sam_i2v_segments_single_frames(tiny_settings: dict[str, str], tiny_predictor: I2VVideoPredictor, frames: Path) -> None:
    session = build_system(SystemSettings("sam+optical-flow", **tiny_settings)).start(frames)
    image = ImageFolder(frames)[5]
    state = tiny_predictor.init_state(image[None])
    points, labels = [[20, 14], [40, 30]], [1, 0]
    for number in (1, 2):
        *_, expected = tiny_predictor.add_new_points_or_box(state, 0, 1, points=points[:number], labels=labels[:number])
    found = session.prompt(5, 1, Prompt.of_clicks([(20, 14, 1), (40, 30, 0)]))
    assert np.array_equal(found > 0, expected[0, 0].numpy() > 0)
    assert (found > 0).any()
    # A correction starts from what was tracked, as a mask that was given.
    session.prompt(0, 2, Prompt(mask=FIRST))
    tracked = dict(session.propagate(0, 3))[3][2] > 0
    state = tiny_predictor.init_state(ImageFolder(frames)[3][None])
    tiny_predictor.add_new_mask(state, 0, 1, tracked)
    *_, expected = tiny_predictor.add_new_points_or_box(state, 0, 1, points=points[:1], labels=labels[:1])
    found = session.prompt(3, 2, Prompt.of_clicks([(20, 14, 1)]))
    assert np.array_equal(found > 0, expected[0, 0].numpy() > 0)


@pytest.mark.slow
def test_published_image_segmenters_are_built_in(monkeypatch: pytest.MonkeyPatch, frames: Path) -> None:
    predictor = SamPredictor(build_image_segmenter("tiny_vit", TINY_CONFIG).eval())
    built = []

    def build(*arguments: Any) -> SamPredictor:
        built.append(arguments)
        return predictor

    monkeypatch.setattr("test_pvs.systems.segment_then_propagate.build_sam", build)
    overrides = ("adapter.segmenter=edge_sam",)
    session = build_system(SystemSettings("sam+optical-flow", None, "edge_sam.pth", overrides=overrides)).start(frames)
    assert built == [("edge_sam", "edge_sam.pth", "cpu", "fp32")]
    found = session.prompt(2, 1, Prompt(box=(10, 5, 40, 40)))
    predictor.set_image(ImageFolder(frames)[2])
    expected, *_ = predictor.predict(box=[10, 5, 40, 40], multimask_output=False)
    assert np.array_equal(found > 0, expected[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"segmenter": "tinysamm"},
            "unknown adapter.segmenter=tinysamm \\(did you mean tinysam\\?\\): give tinysam, .*, or package",
        ),
        ({"segmenter": "tinysam"}, "adapter.segmenter=tinysam needs its published weights: give a checkpoint"),
        ({"segmenter": "sam_b", "config": "i2v-infer"}, "adapter.segmenter=sam_b has no config: leave out --config"),
    ],
)
def test_image_segmenters_that_cannot_be_built(settings: dict[str, str], message: str) -> None:
    overrides = (f"adapter.segmenter={settings.pop('segmenter')}",)
    with pytest.raises(ValueError, match=message):
        build_system(SystemSettings("sam+optical-flow", overrides=overrides, **settings))


# --- The propagators


@pytest.mark.slow
def test_optical_flow_carries_the_segmented_mask(data: Path, tmp_path: Path) -> None:
    system = build_system(SystemSettings("sam+optical-flow", **SETTINGS))
    options = {"clicks": 1, "frames": 8, "threshold": 0.75, "curve": False, "again": "masks", "seed": None}
    for protocol in (online, offline):
        (tmp_path / protocol.__name__).mkdir()
        result = protocol(system, read_dataset("mose", data)[0], options, tmp_path / protocol.__name__)
        for entry in result["objects"]:
            assert entry["interactions"][0]["clicks"][0]["iou"] > 0.8  # the disc has one colour, but for JPEG's errors
            # Before the first correction, if it is offline: clicks on the rim of a disc confuse this segmenter.
            assert entry["curve"][0 if protocol is offline else -1]["j"] > 70


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> None:
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:number]), ModuleType(".".join(parts[:number])))
    for key, value in content.items():
        setattr(sys.modules[name], key, value)


class FakeNetwork(torch.nn.Module):
    cfg = "the config"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.arguments = (*arguments, options)


class FakeCutie:
    """A stand-in for Cutie's InferenceCore: an object stays where it was given."""

    made: list[FakeCutie]

    def __init__(self, network: FakeNetwork, cfg: str) -> None:
        assert cfg == network.cfg
        self.max_internal_size = 0
        self.calls: list[Any] = []
        self.masks: dict[int, torch.Tensor] = {}
        self.made.append(self)

    def step(self, image: torch.Tensor, mask: torch.Tensor | None = None, objects: list[int] | None = None) -> torch.Tensor:
        assert image.shape == (3, HEIGHT, WIDTH)
        assert image.dtype == torch.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert (mask is None) == (objects is None)
        if mask is not None:
            assert mask.shape == (HEIGHT, WIDTH)
            assert mask.dtype == torch.int64
            self.masks |= {number: mask == number for number in objects}
        self.calls.append(objects)
        found = torch.stack([self.masks[number] for number in sorted(self.masks)]).float()
        return torch.cat([1 - found.amax(0, keepdim=True), found])

    def output_prob_to_mask(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities.argmax(dim=0)


@pytest.fixture
def cutie(monkeypatch: pytest.MonkeyPatch) -> type[FakeCutie]:
    FakeCutie.made = []
    fake_module(monkeypatch, "cutie.inference.inference_core", InferenceCore=FakeCutie)
    monkeypatch.setitem(sys.modules, "cutie.utils", ModuleType("cutie.utils"))
    fake = ModuleType("cutie.utils.get_default_model")
    fake.get_default_model = FakeNetwork
    monkeypatch.setitem(sys.modules, "cutie.utils.get_default_model", fake)
    return FakeCutie


def masks_of(session: Any, first: int, last: int) -> dict[int, dict[int, np.ndarray]]:
    tracked = session.propagate(first, last)
    return {frame: {obj: score > 0 for obj, score in scores.items()} for frame, scores in tracked}


def test_cutie_is_given_the_frames_and_masks(cutie: type[FakeCutie], frames: Path) -> None:
    system = build_system(SystemSettings("sam+cutie", **SETTINGS))
    session = system.start(frames)
    session.prompt(2, 7, Prompt(mask=FIRST))
    masks = masks_of(session, 0, 4)
    assert [sorted(found) for found in masks.values()] == [[], [], [7], [7], [7]]
    assert np.array_equal(masks[4][7], FIRST)
    (core,) = cutie.made
    assert core.max_internal_size == -1
    assert core.calls == [[1], None, None]  # nothing is asked of it before there is an object
    # A correction in the last frame that it saw is a new reference, and tracking continues from there.
    session.prompt(4, 7, Prompt(mask=SECOND))
    session.prompt(5, 3, Prompt(mask=FIRST))
    masks = masks_of(session, 4, 6)
    assert cutie.made == [core]
    assert core.calls[3:] == [[1], [2], None]
    assert np.array_equal(masks[4][7], SECOND)
    assert np.array_equal(masks[6][3], FIRST)


def test_cutie_leaves_the_hydra_state_of_others(cutie: type[FakeCutie]) -> None:
    with hydra.initialize(config_path=None, version_base=None):
        theirs = GlobalHydra.instance().hydra
        build_system(SystemSettings("sam+cutie", **SETTINGS))
        assert GlobalHydra.instance().hydra is theirs


def test_another_pass_starts_with_an_empty_memory(cutie: type[FakeCutie], frames: Path) -> None:
    session = build_system(SystemSettings("sam+cutie", **SETTINGS)).start(frames)
    session.prompt(0, 1, Prompt(mask=FIRST))
    masks_of(session, 0, 5)
    session.prompt(4, 1, Prompt(mask=SECOND))
    masks = masks_of(session, 0, 5)  # back at the start
    assert len(cutie.made) == 2
    assert cutie.made[1].calls == [[1], None, None, None, [1], None]
    assert np.array_equal(masks[3][1], FIRST)
    assert np.array_equal(masks[5][1], SECOND)
    session.reset()
    session.prompt(5, 1, Prompt(mask=FIRST))  # the next frame of the video, but of another pass
    assert np.array_equal(masks_of(session, 5, 6)[6][1], FIRST)
    assert len(cutie.made) == 3


class FakeXMem:
    """A stand-in for XMem++'s InferenceCore: an object is where the latest reference, permanent or not, has it."""

    made: list[FakeXMem]

    def __init__(self, network: FakeNetwork, config: dict[str, Any]) -> None:
        assert config["enable_long_term"]
        self.network = network
        self.labels: list[int] = []
        self.permanent: dict[int, torch.Tensor] = {}
        self.calls: list[Any] = []
        self.current: torch.Tensor | None = None
        self.shape: torch.Size | None = None
        self.made.append(self)

    def set_all_labels(self, labels: list[int]) -> None:
        self.labels = labels

    def put_to_permanent_memory(self, image: torch.Tensor, mask: torch.Tensor, ti: int | None = None) -> bool:
        self._check(image, mask)
        known = ti in self.permanent
        self.permanent[ti] = mask
        return known

    def step(
        self,
        image: torch.Tensor,
        mask: torch.Tensor | None = None,
        valid_labels: list[int] | None = None,
        end: bool = False,
        manually_curated_masks: bool = False,
        disable_memory_updates: bool = False,
        do_not_add_mask_to_memory: bool = False,
    ) -> torch.Tensor:
        self._check(image, mask)
        self.calls.append((valid_labels, do_not_add_mask_to_memory))
        if mask is not None:
            before = torch.zeros_like(mask)
            if self.current is not None:
                before[: len(self.current)] = self.current
            given = torch.zeros(len(mask), 1, 1)
            given[[label - 1 for label in valid_labels]] = 1
            self.current = given * mask + (1 - given) * before
        return torch.cat([1 - self.current.amax(0, keepdim=True), self.current])

    def _check(self, image: torch.Tensor, mask: torch.Tensor | None) -> None:
        assert image.ndim == 3
        assert image.min() < -0.5  # normalised
        self.shape = image.shape
        assert mask is None or mask.shape == (len(self.labels), *image.shape[1:])


@pytest.fixture
def xmem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for a clone of the repository."""
    FakeXMem.made = []
    fake_module(monkeypatch, "inference.inference_core", InferenceCore=FakeXMem)
    fake_module(monkeypatch, "model.network", XMem=FakeNetwork)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "XMem2/saves").mkdir(parents=True)
    (tmp_path / "XMem2/saves/XMem.pth").touch()
    return tmp_path / "XMem2"


def start_xmem(repository: Path, frames: Path, size: int = -1) -> tuple[VideoSystem, Any]:
    overrides = (SETTINGS["overrides"][0], f"adapter.size={size}", f"adapter.repository={repository}")
    system = build_system(SystemSettings("sam+xmem++", overrides=overrides))
    return system, system.start(frames)


def test_xmem_knows_all_references_before_tracking(xmem: Path, frames: Path) -> None:
    _, session = start_xmem(xmem, frames)
    session.prompt(0, 5, Prompt(mask=FIRST))
    session.prompt(3, 5, Prompt(mask=SECOND))
    masks = []
    for frame, scores in session.propagate(0, 4):
        if frame == 0:
            assert sorted(FakeXMem.made[0].permanent) == [0, 3]
        masks.append(scores[5] > 0)
    (core,) = FakeXMem.made
    assert core.network.arguments[1:] == (str(xmem / "saves/XMem.pth"), {"map_location": "cpu"})
    assert core.labels == [1]
    # What is in the permanent memory is not added to the other one again.
    assert core.calls == [([1], True), (None, False), (None, False), ([1], True), (None, False)]
    assert all(np.array_equal(mask, FIRST) for mask in masks[:3])
    assert np.array_equal(masks[4], SECOND)


def test_xmem_does_not_learn_that_an_object_without_a_reference_is_absent(xmem: Path, frames: Path) -> None:
    _, session = start_xmem(xmem, frames)
    session.prompt(0, 1, Prompt(mask=FIRST))
    masks_of(session, 0, APPEARS - 1)
    session.prompt(APPEARS, 2, Prompt(mask=SECOND))
    masks = masks_of(session, APPEARS, NUM_FRAMES - 1)
    (core,) = FakeXMem.made
    assert core.labels == [1, 2]
    assert list(core.permanent) == [0]  # not the frame in which only the second object was given
    assert core.calls[APPEARS] == ([2], False)
    assert np.array_equal(masks[NUM_FRAMES - 1][1], FIRST)
    assert np.array_equal(masks[NUM_FRAMES - 1][2], SECOND)


def test_a_correction_replaces_the_permanent_reference(xmem: Path, frames: Path) -> None:
    _, session = start_xmem(xmem, frames)
    session.prompt(0, 1, Prompt(mask=FIRST))
    masks_of(session, 0, 3)
    session.prompt(3, 1, Prompt(mask=SECOND))
    masks = masks_of(session, 3, 4)
    (core,) = FakeXMem.made
    assert sorted(core.permanent) == [0, 3]
    assert np.array_equal(masks[4][1], SECOND)


def test_xmem_is_given_frames_of_the_requested_size(xmem: Path, frames: Path) -> None:
    _, session = start_xmem(xmem, frames, size=2 * HEIGHT)
    session.prompt(0, 1, Prompt(mask=FIRST))
    masks = masks_of(session, 0, 2)
    assert FakeXMem.made[0].shape == (3, 2 * HEIGHT, 2 * WIDTH)
    assert np.array_equal(masks[2][1], FIRST)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XMEM_REPOSITORY", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "cutie", None)
    with pytest.raises(ImportError, match=r"git clone https://github.com/hkchengrex/Cutie"):
        build_system(SystemSettings("sam+cutie", **SETTINGS))
    with pytest.raises(ImportError, match=r"no repository given.*git clone .*XMEM_REPOSITORY"):
        build_system(SystemSettings("sam+xmem++", **SETTINGS))
    monkeypatch.setenv("XMEM_REPOSITORY", str(tmp_path))
    monkeypatch.setitem(sys.modules, "inference", None)
    with pytest.raises(ImportError, match=f"cannot be imported from {tmp_path}"):
        build_system(SystemSettings("sam+xmem++", **SETTINGS))
    fake_module(monkeypatch, "inference.inference_core", InferenceCore=FakeXMem)
    fake_module(monkeypatch, "model.network", XMem=FakeNetwork)
    with pytest.raises(FileNotFoundError, match=r"XMem\.pth"):
        build_system(SystemSettings("sam+xmem++", **SETTINGS))


@pytest.mark.parametrize(
    ("override", "message"),
    [("adapter.magic=1", "adapter.magic"), ("adapter.segmenter", "segmenter"), ("adapter.size=0", "size")],
)
def test_bad_options(override: str, message: str, xmem: Path) -> None:
    overrides = (SETTINGS["overrides"][0], f"adapter.repository={xmem}", override)
    with pytest.raises(ValueError, match=message):
        build_system(SystemSettings("sam+xmem++", overrides=overrides))
