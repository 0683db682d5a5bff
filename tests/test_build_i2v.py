"""Building a network or a predictor from a config: from anywhere, twice, beside other Hydra programs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import i2v
from i2v import I2VVideoPredictor, build_i2v, build_i2v_video_predictor
from i2v.load_config import CONFIG_DIR, known_configs, load_config
from i2v.modeling.memory.selector import GreedySelector
from i2v.utils.checkpoints import save_checkpoint
from i2v.utils.devices import default_device

TINY_CONFIG = Path(__file__).parent / "configs" / "tiny.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing here depends on the working directory."""
    monkeypatch.chdir(tmp_path)


PACKAGED = ["i2v-infer", "i2v-infer.yaml", "./i2v/configs/i2v-infer.yaml", "i2v/configs/i2v-infer.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("config", [*PACKAGED, CONFIG_DIR / "i2v-infer.yaml", Path("../x/i2v/configs/i2v-infer.yaml")])
def test_packaged_config_is_found_from_anywhere(config):
    assert "i2v-infer" in known_configs()
    for _ in range(2):
        assert load_config(config).model.image_size == 1024


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ä b", "a (copy)", "a,b=c", "a[1]&{x}", "it's"])
def test_own_config_uses_the_package_wherever_that_lies(name, tmp_path, monkeypatch):
    package = Path(shutil.copytree(CONFIG_DIR, tmp_path / name))
    monkeypatch.setitem(load_config.__globals__, "CONFIG_DIR", package)
    assert load_config(TINY_CONFIG).model.image_size == 128


@pytest.mark.slow
def test_own_config_builds_on_the_experiments_of_the_clone(tmp_path):
    (tmp_path / "mine.yaml").write_text("defaults: [base/lite@_here_, _self_]\noutput: runs/mine\n")
    assert build_i2v(tmp_path / "mine.yaml", device="meta").image_size == 384


@pytest.mark.slow
def test_packaged_config_is_trusted():
    assert load_config("i2v-lite", trusted=False).model.image_size == 384
    assert load_config(CONFIG_DIR / "i2v-lite.yaml", trusted=False).model.image_size == 384


def test_names_of_the_package():
    assert {"build_i2v", "build_i2v_video_predictor", "I2VVideoPredictor", "__version__"} <= set(dir(i2v))
    assert re.fullmatch(r"\d+\.\d+\.\d+", i2v.__version__)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["package/checkpoints", "checkpoints"])
def test_config_with_weights(place, tmp_path, monkeypatch, make_tiny_predictor):
    package = Path(shutil.copytree(CONFIG_DIR, tmp_path / "package" / "configs"))
    monkeypatch.setitem(load_config.__globals__, "CONFIG_DIR", package)
    (package / "own.yaml").write_text(f"{TINY_CONFIG.read_text()}\ncheckpoint: own.pt\n")
    with pytest.raises(FileNotFoundError, match=r"own\.pt is missing"):
        build_i2v("own", device="cpu")
    trained = make_tiny_predictor().model
    (tmp_path / place).mkdir()
    save_checkpoint(tmp_path / place / "own.pt", {"model": trained.state_dict()})
    weight = build_i2v("own", device="cpu").mask_downsample.weight
    torch.testing.assert_close(weight, trained.mask_downsample.weight)
    untrained = build_i2v("own", device="cpu", hydra_overrides_extra=["checkpoint=null"])
    assert not torch.equal(untrained.mask_downsample.weight, weight)


@pytest.mark.slow
def test_config_without_a_predictor(tmp_path):
    text = TINY_CONFIG.read_text()
    (tmp_path / "own.yaml").write_text(text[: text.index("predictor:")])
    predictor = build_i2v_video_predictor(tmp_path / "own.yaml", device="cpu", apply_postprocessing=False)
    assert isinstance(predictor, I2VVideoPredictor)


@pytest.mark.parametrize("name", ["i2v-infer.txt", "i2v-infer.v2", "i2v-infer.yml"])
def test_names_like_those_of_configs_are_unknown(name):
    with pytest.raises(ValueError, match="unknown config"):
        load_config(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.image_encodr.levels=[1]", r"Did you mean model\.image_encoder\.levels\?$"),
        ("model.image_sise=256", r"Did you mean model\.image_size\?$"),
        ("predictr.fill_hole_area=0", r"Did you mean predictor\.fill_hole_area\?$"),
        ("model.upgrade=ta", "Did you mean model/upgrade=NAME"),
        ("model.image_size.x=1", r"use \+model\.image_size\.x=1$"),
        ("something=1", r"use \+something=1$"),
    ],
)
def test_misspelt_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        load_config("i2v-lite", [override])


def test_packaged_model_is_the_published_size():
    with torch.device("meta"):
        model = build_i2v("i2v-infer", device="meta")
    assert len(model.state_dict()) == 733
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(18.9, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own.yaml", "sub/i2v-infer.yaml", "i2v-infer.yaml"])
def test_own_config_is_found_by_its_path_and_sees_the_packaged_model(name, tmp_path):
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    shutil.copy(TINY_CONFIG, own)
    for path in (own, str(own), name, f"./{name}"):
        assert load_config(path, ["model/memory_selector=greedy"]).model.image_size == 128
    predictor = build_i2v_video_predictor(name, device="cpu")
    assert predictor.model.image_size == 128


def test_groups_beside_the_file_are_found(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("defaults: [sam_i2v]\nnum_maskmem: 9\n")
    (tmp_path / "own.yaml").write_text("defaults: [model: mine, _self_]\n")
    config = load_config("own.yaml")
    assert (config.model.num_maskmem, config.model.image_size) == (9, 1024)


@pytest.mark.slow
def test_twice_in_one_process_and_inside_another_hydra_program(tmp_path):
    (tmp_path / "conf").mkdir()
    with initialize_config_dir(str(tmp_path / "conf"), version_base=None):
        theirs = GlobalHydra.instance().hydra
        for _ in range(2):
            assert isinstance(build_i2v_video_predictor(TINY_CONFIG, device="cpu"), I2VVideoPredictor)
            assert GlobalHydra.instance().hydra is theirs
        with pytest.raises(ValueError, match="nothing"):
            load_config(TINY_CONFIG, ["nothing=1"])
        assert GlobalHydra.instance().hydra is theirs
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.slow
def test_same_checkpoint_same_masks(tiny_predictor, tiny_video):
    save_checkpoint("a.pt", {"model": tiny_predictor.model.state_dict()})

    def masks(predictor):
        state = predictor.init_state(tiny_video)
        predictor.add_new_points_or_box(state, 0, 1, [[16, 24]], [1])
        return [masks.numpy() for _, _, masks in predictor.propagate_in_video(state)]

    built = build_i2v_video_predictor(TINY_CONFIG, ckpt_path="a.pt", device="cpu")
    np.testing.assert_array_equal(masks(built), masks(tiny_predictor))


@pytest.mark.slow
def test_overrides_reach_model_and_predictor(make_tiny_predictor):
    predictor = make_tiny_predictor("model/memory_selector=greedy", "predictor.precision=bf16")
    assert isinstance(predictor.model.memory_selector, GreedySelector)
    config = load_config(TINY_CONFIG, ["model.image_size=64", "predictor.fill_hole_area=0"])
    assert OmegaConf.select(config, "model.sam_prompt_encoder.image_size") == 64  # what depends on it follows
    assert config.predictor.fill_hole_area == 0


@pytest.mark.slow
@pytest.mark.parametrize(("postprocessing", "overrides", "filled"), [(True, (), True), (False, (), False)])
@pytest.mark.parametrize("override", [None, 8, 0])
def test_apply_postprocessing(postprocessing, overrides, filled, override, make_tiny_predictor):
    """Holes show it; an override has the last word."""
    if override is not None:
        overrides, filled = (f"predictor.fill_hole_area={override}",), override > 0
    predictor = make_tiny_predictor(*overrides, apply_postprocessing=postprocessing)
    assert predictor.model.sam_mask_decoder.dynamic_multimask_via_stability == postprocessing
    video = np.zeros((1, 128, 128, 3), np.uint8)
    mask = np.ones((128, 128), bool)
    mask[40:48, 40:48] = False  # 2x2 cells of the low-resolution mask
    state = predictor.init_state(video)
    _, _, logits = predictor.add_new_mask(state, 0, 1, mask)
    assert bool(logits[0, 0, 44, 44] > 0) == filled


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("train", True)])
@pytest.mark.parametrize("build", [lambda **kwargs: build_i2v_video_predictor(**kwargs).model, build_i2v])
def test_mode(build, mode, training):
    model = build(config_file=TINY_CONFIG, device="cpu", mode=mode)
    assert model.training == model.memory_attention.training == training


@pytest.mark.slow
def test_unknown_mode():
    with pytest.raises(ValueError, match="'test'"):
        build_i2v(TINY_CONFIG, device="cpu", mode="test")


@pytest.mark.slow
@pytest.mark.parametrize(("cuda", "mps", "expected"), [(1, 1, "cuda"), (1, 0, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_default_device_is_cuda_then_mps_then_cpu(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(cuda))
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: bool(mps))
    assert default_device() == torch.device(expected)
    if expected == "cpu":
        assert build_i2v_video_predictor(TINY_CONFIG).device == torch.device("cpu")
