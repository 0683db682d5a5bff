"""test_pvs.systems: the adapters of the predictors, and the baselines on videos with known motion."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from i2v import I2VVideoPredictor
from i2v.inference.state import VideoState
from i2v.prompt import Prompt
from i2v.utils.jf import region_similarity
from test_pvs.systems import (
    OpticalFlow,
    PredictorSession,
    SAMI2VSystem,
    StaticMask,
    SystemSettings,
    VideoSession,
    VideoSystem,
    build_system,
    recorded_settings,
)
from tests.conftest import TINY_CONFIG

HEIGHT, WIDTH, NUM_FRAMES, STEP = 60, 80, 8, 2
Y, X = np.mgrid[:HEIGHT, :WIDTH]


def object_at(frame: int) -> np.ndarray:
    """A disc that moves to the right by `STEP` pixels per frame."""
    return (X - 20 - STEP * frame) ** 2 + (Y - 30) ** 2 <= 12**2


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc with a pattern, moving over another pattern that does not move; read-only."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(0)
    noise = (rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.uint8) for _ in range(2))
    background, pattern = (cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for image in noise)
    for t in range(NUM_FRAMES):
        image = np.where(object_at(t)[..., None], np.roll(pattern, STEP * t, axis=1), background)
        Image.fromarray(image).save(folder / f"frame_{t:03d}.png")
    return folder


def track(session: VideoSession, first: int = 0, last: int = NUM_FRAMES - 1) -> dict[int, dict[int, np.ndarray]]:
    return dict(session.propagate(first, last))


def test_a_static_mask_stays(frames: Path) -> None:
    session = StaticMask().start(frames)
    scores = session.prompt(0, 3, Prompt(mask=object_at(0)))
    assert scores.dtype == np.float32
    assert np.array_equal(scores > 0, object_at(0))
    results = track(session)
    assert list(results) == list(range(NUM_FRAMES))
    assert all(list(scores) == [3] and np.array_equal(scores[3] > 0, object_at(0)) for scores in results.values())


def test_optical_flow_follows_the_object(frames: Path) -> None:
    session = OpticalFlow().start(frames)
    session.prompt(0, 1, Prompt(mask=object_at(0)))
    results = track(session)
    # What it uncovers behind itself stays in the mask, which costs a little with every frame.
    assert region_similarity(object_at(1), results[1][1] > 0) > 0.9
    assert region_similarity(object_at(7), results[7][1] > 0) > 0.6
    assert region_similarity(object_at(7), object_at(0)) < 0.2  # a mask that stays


def test_optical_flow_leaves_what_does_not_move(frames: Path) -> None:
    still = (X >= 60) & (Y <= 15)
    session = OpticalFlow().start(frames)
    session.prompt(0, 1, Prompt(mask=still))
    session.prompt(0, 2, Prompt(mask=object_at(0)))
    results = track(session)
    assert region_similarity(still, results[NUM_FRAMES - 1][1] > 0) > 0.95
    assert region_similarity(object_at(7), results[7][2] > 0) > 0.6  # both objects at once


def test_boxes_and_clicks_become_ellipses_and_discs(frames: Path) -> None:
    session = StaticMask().start(frames)
    ellipse = session.prompt(0, 1, Prompt(box=(10, 20, 50, 40))) > 0
    assert ellipse.sum() == pytest.approx(np.pi * 20 * 10, rel=0.05)
    assert [ellipse[30, 10], ellipse[20, 30], ellipse[20, 10]] == [True, True, False]
    discs = session.prompt(0, 2, Prompt.of_clicks([(30, 30, 1), (60, 30, 1)])) > 0
    assert [discs[30, 30], discs[30, 60], discs[30, 45]] == [True, True, False]
    bitten = session.prompt(0, 1, Prompt([(10, 30)], [0], (10, 20, 50, 40))) > 0
    assert not bitten[30, 10]
    assert bitten[30, 30]


def test_a_click_corrects_a_carried_mask(frames: Path) -> None:
    session = StaticMask().start(frames)
    session.prompt(0, 1, Prompt(mask=object_at(0)))
    track(session, 0, 4)
    corrected = session.prompt(4, 1, Prompt.of_clicks([(70, 10, 1), (20, 30, 0)])) > 0
    assert [corrected[10, 70], corrected[30, 20], corrected[30, 10]] == [True, False, True]
    # It takes effect from there, and tracking continues from the frame that was corrected.
    results = track(session, 4)
    assert list(results) == [4, 5, 6, 7]
    assert all(np.array_equal(scores[1] > 0, corrected) for scores in results.values())


def test_objects_that_come_later_and_other_passes(frames: Path) -> None:
    session = StaticMask().start(frames)
    session.prompt(2, 1, Prompt(mask=object_at(2)))
    session.prompt(5, 2, Prompt(mask=object_at(5)))
    session.prompt(6, 1, Prompt(mask=object_at(6)))
    results = track(session)
    assert [list(scores) for scores in results.values()] == [[], [], [1], [1], [1], [1, 2], [1, 2], [1, 2]]
    assert np.array_equal(results[5][1] > 0, object_at(2))
    assert np.array_equal(results[7][1] > 0, object_at(6))
    session.clear(6, 1)
    assert np.array_equal(track(session)[7][1] > 0, object_at(2))
    session.reset()
    with pytest.raises(ValueError, match="prompt"):
        track(session)
    session.prompt(0, 9, Prompt(mask=object_at(0)))
    assert list(track(session)[7]) == [9]


def test_bad_prompts_of_baselines(frames: Path) -> None:
    session = StaticMask().start(frames)
    with pytest.raises(ValueError, match="shape"):
        session.prompt(0, 1, Prompt(mask=np.ones((5, 5), bool)))
    with pytest.raises(IndexError, match="frame 8"):
        session.prompt(8, 1, Prompt(mask=object_at(0)))


@pytest.fixture
def system(tiny_predictor: I2VVideoPredictor, tmp_path: Path) -> SAMI2VSystem:
    torch.save({"model": tiny_predictor.model.state_dict()}, tmp_path / "tiny.pt")
    return SAMI2VSystem(str(TINY_CONFIG), str(tmp_path / "tiny.pt"))


@pytest.mark.slow
def test_sam_i2v_returns_what_its_predictor_returns(
    system: SAMI2VSystem, tiny_predictor: I2VVideoPredictor, frames: Path
) -> None:
    session = system.start(frames)
    state = tiny_predictor.init_state(frames)
    prompts = {(0, 4): {"points": [[20, 30], [60, 30]], "labels": [1, 0]}, (0, 2): {"box": [10, 20, 30, 40]}}
    for (frame, obj), prompt in prompts.items():
        scores = session.prompt(frame, obj, Prompt(**prompt))
        _, objects, expected = tiny_predictor.add_new_points_or_box(state, frame, obj, **prompt)
        assert np.array_equal(scores, expected[objects.index(obj), 0].numpy())
    assert np.array_equal(
        session.prompt(0, 7, Prompt(mask=object_at(0))), tiny_predictor.add_new_mask(state, 0, 7, object_at(0))[2][2, 0]
    )
    results = track(session)
    expected = list(tiny_predictor.propagate_in_video(state))
    assert list(results) == [frame for frame, *_ in expected] == list(range(NUM_FRAMES))
    for frame, objects, logits in expected:
        assert list(results[frame]) == objects == [4, 2, 7]
        assert all(np.array_equal(results[frame][obj], logits[i, 0]) for i, obj in enumerate(objects))


@pytest.mark.slow
def test_sam_i2v_continues_where_it_stopped(system: SAMI2VSystem, frames: Path) -> None:
    whole, parts = system.start(frames), system.start(frames)
    for session in (whole, parts):
        session.prompt(0, 1, Prompt(mask=object_at(0)))
    expected = track(whole)
    results = track(parts, 0, 2)
    assert list(results) == [0, 1, 2]
    results |= track(parts, 3)
    assert list(results) == list(expected)
    assert all(np.array_equal(results[frame][1], expected[frame][1]) for frame in expected)


@pytest.mark.slow
def test_sam_i2v_forgets(system: SAMI2VSystem, frames: Path) -> None:
    session = system.start(frames)
    once = session.prompt(0, 1, Prompt.of_clicks([(20, 30, 1)]))
    refined = session.prompt(0, 1, Prompt.of_clicks([(20, 30, 1), (30, 30, 1)]))
    assert not np.array_equal(once, refined)
    session.clear(0, 1)
    assert np.array_equal(session.prompt(0, 1, Prompt.of_clicks([(20, 30, 1)])), once)
    session.reset()
    assert list(session.prompt(0, 5, Prompt.of_clicks([(20, 30, 1)])).shape) == [HEIGHT, WIDTH]
    assert all(list(scores) == [5] for scores in track(session).values())


@pytest.mark.slow
def test_precision_and_overrides_reach_sam_i2v(system: SAMI2VSystem, frames: Path, tmp_path: Path) -> None:
    masks = {"fp32": system.start(frames).prompt(0, 1, Prompt.of_clicks([(20, 30, 1)]))}
    for settings in ({"precision": "bf16"}, {"overrides": ("model.memory_prompt_generator=null",)}):
        other = SystemSettings("sam-i2v", str(TINY_CONFIG), str(tmp_path / "tiny.pt"), **settings)
        if "overrides" in settings:  # the weights of that part have no place then
            with pytest.raises(ValueError, match="memory_prompt_generator"):
                build_system(other)
        else:
            masks["bf16"] = build_system(other).start(frames).prompt(0, 1, Prompt.of_clicks([(20, 30, 1)]))
    assert not np.array_equal(masks["fp32"], masks["bf16"])


def test_sam2_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sam2", None)
    with pytest.raises(ImportError, match="pip install"):
        build_system(SystemSettings("sam2"))


class SAM2Like(I2VVideoPredictor):
    """A predictor that tracks corrected frames again, which loses the corrections."""

    def propagate_in_video(self, state: VideoState, *arguments: Any) -> Iterator[tuple[int, list[int], torch.Tensor]]:
        for obj in state.objects.values():
            obj.prompts = {frame: prompt for frame, prompt in obj.prompts.items() if frame in obj.bank.conditioning}
        return super().propagate_in_video(state, *arguments)


@pytest.fixture
def sam2_calls(monkeypatch: pytest.MonkeyPatch, tiny_predictor: I2VVideoPredictor) -> list[tuple[Any, ...]]:
    """A stand-in for the package sam2 that builds the tiny predictor; returns the arguments of each call."""
    calls = []

    def build(*arguments: Any, **options: Any) -> I2VVideoPredictor:
        calls.append((*arguments, options))
        return SAM2Like(tiny_predictor.model)

    module = ModuleType("sam2.build_sam")
    module.build_sam2_video_predictor = build
    monkeypatch.setitem(sys.modules, "sam2", ModuleType("sam2"))
    monkeypatch.setitem(sys.modules, "sam2.build_sam", module)
    return calls


@pytest.mark.slow
def test_sam2_gets_numbered_jpegs(sam2_calls: list, frames: Path, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    weights = str(tmp_path / "weights.pt")
    system = build_system(SystemSettings("sam2", "sam2.1.yaml", weights, overrides=("a=1",)))
    assert sam2_calls == [("sam2.1.yaml", weights, "cpu", {"hydra_overrides_extra": ["a=1"]})]
    session = system.start(frames)
    assert isinstance(session, PredictorSession)
    links = sorted(Path(session._state.frames.name).iterdir())
    assert [path.name for path in links] == [f"{index:05d}.jpg" for index in range(NUM_FRAMES)]
    assert links[3].resolve() == frames.resolve() / "frame_003.png"
    session.prompt(0, 1, Prompt(mask=object_at(0)))
    assert len(track(session)) == NUM_FRAMES


@pytest.mark.slow
@pytest.mark.parametrize("stop", [3, NUM_FRAMES - 1])
def test_sam2_keeps_corrections_as_sam_i2v_does(
    stop: int, sam2_calls: list, tiny_predictor: I2VVideoPredictor, frames: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights.pt").touch()
    sam2 = build_system(SystemSettings("sam2", checkpoint=str(tmp_path / "weights.pt"))).start(frames)
    sessions = (sam2, PredictorSession(tiny_predictor, tiny_predictor.init_state(sam2._state.frames.name)))
    runs = []
    for session in sessions:
        for _ in range(2):  # the second time after a reset, which leaves nothing of the first
            session.reset()
            session.prompt(0, 1, Prompt(mask=object_at(0)))
            session.prompt(0, 2, Prompt(mask=~object_at(0)))
            tracked = track(session, 0, stop)
            session.prompt(stop, 1, Prompt.of_clicks([(70, 10, 1)]))
            corrected = session.prompt(stop, 1, Prompt.of_clicks([(70, 10, 1), (20, 30, 0)]))
            runs.append(track(session, stop))
        assert not np.array_equal(corrected, tracked[stop][1])
        assert np.array_equal(runs[-1][stop][1], corrected)
    for run in runs:
        assert list(run) == list(range(stop, NUM_FRAMES))
        # How many objects are tracked at once makes a difference in the last digits.
        assert all(np.allclose(run[frame][obj], runs[-1][frame][obj], atol=1e-3) for frame in run for obj in (1, 2))


def test_sam2_needs_weights(sam2_calls: list) -> None:
    with pytest.raises(ValueError, match="weights"):
        build_system(SystemSettings("sam2"))
    assert sam2_calls == []


@pytest.mark.slow
def test_bundled_weights_are_recorded(tmp_path: Path) -> None:
    lite = hashlib.sha256((TINY_CONFIG.parents[2] / "checkpoints/sam-i2v_lite.pt").read_bytes()).hexdigest()
    (tmp_path / "own.pt").write_text("weights")
    own = str(tmp_path / "own.pt")
    painter = "adapter.segmenter=tests.test_pvs.stubs:painter"
    for settings, expected in (
        (SystemSettings(), lite),
        (SystemSettings(overrides=("checkpoint=null",)), None),
        (SystemSettings("sam+optical-flow", overrides=("adapter.size=100",)), lite),
        (SystemSettings("sam+optical-flow", config="painted", overrides=(painter,)), None),
        (SystemSettings("sam2", "sam2.1.yaml", own), hashlib.sha256(b"weights").hexdigest()),
        (SystemSettings("static-mask", checkpoint=own), None),
    ):
        assert recorded_settings(settings)["weights_sha256"] == expected, settings


def test_systems_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_a_package.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(build_system(SystemSettings("static-mask")), StaticMask)
    assert isinstance(build_system(SystemSettings("optical-flow")), OpticalFlow)
    assert isinstance(build_system(SystemSettings("tests.test_pvs.stubs:unusual")), VideoSystem)
    with pytest.raises(ValueError, match="static-mask"):
        build_system(SystemSettings("magic"))
    with pytest.raises(ValueError, match="has no function magic"):
        build_system(SystemSettings("tests.test_pvs.stubs:magic"))
    with pytest.raises(ImportError, match=r"no_such_module.*PYTHONPATH"):
        build_system(SystemSettings("no_such_module:magic"))
    with pytest.raises(
        ImportError, match=r"needs_a_package:magic: No module named 'no_such_package', which needs_a_package needs"
    ):
        build_system(SystemSettings("needs_a_package:magic"))


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["torchvision", "sam2", "cutie", "matplotlib"])
def test_a_package_that_another_system_needs_may_be_missing(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
from test_pvs.systems import SYSTEMS, SystemSettings, build_system
build_system(SystemSettings("static-mask"))
build_system(SystemSettings("optical-flow"))
assert not [name for name in sys.modules if name.startswith("test_pvs.systems.") and "propag" in name]
build_system(SystemSettings("sam+optical-flow", overrides=("adapter.segmenter=tests.test_pvs.stubs:painter",)))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=TINY_CONFIG.parents[2], timeout=120)


def test_weights_are_hashed_once_until_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, hashed = tmp_path / "weights.pt", []
    weights.write_bytes(b"one")
    monkeypatch.setattr("test_pvs.systems.sha256", lambda path: hashed.append(path) or path.read_text())
    settings = SystemSettings("tests.test_pvs.stubs:system", checkpoint=str(weights))
    assert [recorded_settings(settings)["weights_sha256"] for _ in range(2)] == ["one", "one"]
    weights.write_bytes(b"other")
    assert recorded_settings(settings)["weights_sha256"] == "other"
    assert len(hashed) == 2
