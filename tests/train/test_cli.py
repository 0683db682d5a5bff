"""The command line: checks, errors, and a training from its start to the predictor."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from i2v import build_i2v_video_predictor
from i2v.typed_config import ConfigError
from i2v.utils.checkpoints import read_checkpoint
from tests.train.helpers import TINY_TRAINING, disc_clip, finish, start
from train.cli import SlurmTask, build_reader, build_settings, load_experiment, main
from train.dataset.sample import ClipDataset, RawClip
from train.trainer import Trainer

TINY = str(TINY_TRAINING)


@pytest.fixture(autouse=True)
def show_progress(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_unknown_config(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["-c", "nonsense"]) == 1
    assert "unknown config 'nonsense': neither a YAML file nor one of i2v-lite" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.nonsense=1", "Could not override 'trainer.nonsense'"),
        ("trainer.epochs", "trainer.epochs"),
        ("model=nonsense", "nonsense"),
        ("trainer.precision=half", "unknown trainer.precision 'half'"),
        ("trainer.workers=many", "trainer.workers must be a whole number, not 'many'"),
        ("+trainer.nonsense=1", "unknown key trainer.nonsense; TrainerSettings takes epochs, precision"),
        ("trainer.workers=${nonsense}", "Interpolation key 'nonsense' not found"),
        ("optimizer.learning_rate=high", "optimizer.learning_rate must be a number, not 'high'"),
        ("+loss.nonsense=1", "unknown key loss.nonsense; ClipLoss takes mask_weight"),
        ("data.parts.clips.batch_size=many", "data.parts.clips.batch_size must be a whole number, not 'many'"),
        ("data.parts.clips.batch_size=2.5", "data.parts.clips.batch_size must be a whole number, not 2.5"),
        ("seed=any", "seed must be a whole number, not 'any'"),
        ("frozen=[nonsense]", "frozen: no parameter's name begins with 'nonsense'"),
        ("device=cuda:99", "cannot use device"),
        ("device=meta", "cannot use device number 0 of kind 'meta': nothing is computed on it"),
        ("data.parts.clips.batch_size=0", "batch_size of clips must be at least 1"),
    ],
)
def test_bad_overrides(clips: Path, tmp_path: Path, override: str, message: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["-c", TINY, f"folder={clips}", f"output={tmp_path}", override]) == 1
    assert message in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_overrides_before_and_after_options(clips: Path, tmp_path: Path) -> None:
    assert main([f"folder={clips}", "-c", TINY, f"output={tmp_path / 'run'}", "--check", "device=cpu"]) == 0


def test_other_suffixes_are_not_configs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine.yml").write_bytes(TINY_TRAINING.read_bytes())
    assert main(["-c", str(tmp_path / "mine.yml")]) == 1
    assert "mine.yml': neither a YAML file nor one of" in caplog.text


@pytest.mark.slow
def test_too_many_bad_samples(clips: Path, tmp_path: Path) -> None:
    shutil.copytree(clips, tmp_path / "clips")
    for path in (tmp_path / "clips" / "JPEGImages").glob("*/*.jpg"):
        path.write_bytes(b"nonsense")
    process = start(
        *(sys.executable, "train/train.py", "-c", TINY, f"folder={tmp_path / 'clips'}", f"output={tmp_path / 'run'}"),
        "trainer.workers=1",
    )
    printed = finish(process, timeout=60)
    assert process.returncode == 1
    message = r"^error: .*Annotations: 3 bad samples in a row, the last one: .*\.jpg is not a readable image"
    assert re.search(message, printed, re.MULTILINE)
    assert "Traceback" not in printed


@pytest.mark.slow
def test_status_after_a_signal(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_train_step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["-c", TINY, f"folder={clips}", f"output={tmp_path}"]) == 128 + signal.SIGTERM


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["--help"])
    assert error.value.code == 0
    assert "i2v-train" in capsys.readouterr().out


@pytest.mark.slow
def test_check_lists_all_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    overrides = [
        "device=cpu",
        "output=file/run",
        "+validation.val._target_=train.validation.VideoValidation",
        "+validation.val.videos._target_=train.dataset.vos_folder.VOSFolder",
        "+validation.val.videos.frames=val/JPEGImages",
        "+validation.val.videos.annotations=val/Annotations",
        "trainer.precision=half",
    ]
    assert main(["-c", "i2v-train", "--check", *overrides]) == 1
    problems = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    patterns = [
        r"missing or wrong in i2v-train: model and initial weights: initial_weights: no such checkpoint: .*/tinysam\.pth",
        r"missing or wrong in i2v-train: data set sa1b: data\.parts\.sa1b\.dataset: no such folder: data/sa1b_train_jpg"
        r", and no such file list: train/txt/sa1b_10k_train_list\.txt",
        r"missing or wrong in i2v-train: data set sav: data\.parts\.sav\.dataset: no such folder: data/sav_train_json"
        r", and no such file list: train/txt/sav_train_list\.txt",
        r"missing or wrong in i2v-train: validation val: validation\.val\.videos: no such folder: val/Annotations",
        r"missing or wrong in i2v-train: output folder: .*file/run",
        r"missing or wrong in i2v-train: trainer: unknown trainer\.precision 'half'",
    ]
    assert len(problems) == len(patterns)
    for problem, pattern in zip(problems, patterns, strict=True):
        assert re.match(pattern, problem), problem


@pytest.mark.slow
def test_check(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    output = tmp_path / "run"
    caplog.set_level(logging.INFO)
    assert main(["-c", TINY, "--check", f"folder={clips}", f"output={output}"]) == 0
    assert caplog.messages[0].startswith(f"checking {TINY}: building everything, and reading a batch of each data set")
    assert "everything is there; the training can start" in caplog.text
    assert "2 samples; a batch has frames (1, 3, 3, 64, 64) and 2 objects" in caplog.text
    assert "8 steps in one process; the next one is 0" in caplog.text
    assert list(output.iterdir()) == []

    (clips_copy := tmp_path / "copy").mkdir()
    for name in ("JPEGImages", "Annotations"):
        (clips_copy / name).symlink_to(clips / name)
    (output / "last.pt").write_bytes(b"nonsense")
    assert main(["-c", TINY, "--check", f"folder={clips}", f"output={output}"]) == 1
    assert "last.pt" in caplog.records[-1].getMessage()


class NoClips(ClipDataset):
    """A data set of nothing."""

    name = "nothing"

    def __len__(self) -> int:
        return 0

    def load(self, index: int, rng: np.random.Generator) -> RawClip:
        raise NotImplementedError


def test_empty_data_set() -> None:
    config = OmegaConf.create({"data": {"parts": {"mine": {"dataset": {"_target_": f"{__name__}.NoClips"}}}}})
    with pytest.raises(ConfigError, match=r"data\.parts\.mine\.dataset: nothing has no images or videos"):
        build_reader(config, "mine")


@pytest.mark.slow
def test_check_reads_the_data(clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "JPEGImages").symlink_to(clips / "JPEGImages")
    for clip in ("clip0", "clip1"):
        (tmp_path / "Annotations" / clip).mkdir(parents=True)
        (tmp_path / "Annotations" / clip / "00000.png").write_bytes(b"nonsense")
    assert main(["-c", TINY, "--check", f"folder={tmp_path}", f"output={tmp_path / 'run'}"]) == 1
    assert ": data set clips: " in caplog.text
    assert "3 bad samples in a row" in caplog.text


@pytest.mark.slow
def test_train_and_predict(clips: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    overrides = [f"folder={clips}", f"output={output}", "trainer.epochs=1", "data.steps_per_epoch=3", "trainer.workers=1"]
    process = start(sys.executable, "train.py", "-c", TINY, *overrides, cwd=TINY_TRAINING.parents[2] / "train")
    printed = finish(process)
    assert process.returncode == 0, printed
    assert "3/3" in printed
    assert "mask=" in printed
    assert read_checkpoint(output / "last.pt")["step"] == 3
    assert any((output / "tensorboard").iterdir())

    predictor = build_i2v_video_predictor(TINY_TRAINING, output / "last.pt", device="cpu")
    frames, labels = disc_clip(0)
    state = predictor.init_state(frames)
    predictor.add_new_mask(state, 0, 1, labels[0] == 1)
    masks = [logits for _, _, logits in predictor.propagate_in_video(state)]
    assert len(masks) == len(frames)
    assert all(logits.shape == (1, 1, *labels.shape[1:]) and logits.isfinite().all() for logits in masks)
    untrained = build_i2v_video_predictor(TINY_TRAINING, device="cpu").model.state_dict()
    trained = predictor.model.state_dict()
    assert any(not np.allclose(trained[name], untrained[name]) for name in trained if name.endswith("norm1.weight"))


@pytest.mark.slow
def test_no_part_for_slurm(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["-c", "i2v-lite-image", "--slurm"]) == 1
    assert "the config has no part `slurm`" in caplog.text


def test_abbreviated_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-c", TINY, "--slur"])
    assert "--slur" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_may_refer_to_others(clips: Path, tmp_path: Path) -> None:
    config = load_experiment(
        TINY, [f"folder={clips}", "data.steps_per_epoch=7", "trainer.validate_every=${data.steps_per_epoch}"]
    )
    assert build_settings(config).validate_every == 7


@pytest.mark.slow
def test_no_slurm(clips: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["-c", TINY, "--slurm", f"folder={clips}", f"output={tmp_path}"]) == 1
    assert "cannot submit to Slurm" in caplog.text


@pytest.mark.slow
def test_slurm(fake_slurm: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = ["-c", TINY, f"folder={clips}", f"output={tmp_path / 'run'}", "slurm.hours=5"]
    assert main([arguments[0], arguments[1], "--slurm", *arguments[2:]]) == 0
    assert "submitted as job 17" in caplog.text
    script = fake_slurm.read_text()
    for line in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=10", "--time=300"):
        assert f"#SBATCH {line}\n" in script
    assert "partition" not in script
    assert "--kill-on-bad-exit=1" in script
    assert f"cd {TINY_TRAINING.parents[2]}\n" in script
    [pickled] = (tmp_path / "run" / "slurm").glob("*.pkl")
    from submitit.core.utils import DelayedSubmission

    task = DelayedSubmission.load(pickled).function
    assert isinstance(task, SlurmTask)
    assert task.arguments == arguments
    assert task.checkpoint().function.arguments == arguments


def test_slurm_task_fails_if_the_training_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = {}

    class Environment:
        def export(self, **options: bool) -> None:
            exported.update(options)

    monkeypatch.setattr("submitit.helpers.TorchDistributedEnvironment", Environment)
    with pytest.raises(RuntimeError, match="training did not finish"):
        SlurmTask(["-c", "nonsense"])()
    assert exported == {"set_cuda_visible_devices": False}  # processes choose their device by LOCAL_RANK
