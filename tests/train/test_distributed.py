"""Several processes that train together, on the CPU with gloo."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from i2v.data.mask_files import read_labels, save_label_image
from i2v.utils.checkpoints import read_checkpoint
from tests.train.helpers import PROJECT, TINY_TRAINING, difference, finish, same, start
from train import cli

RUN = "tests.train.distributed_run"
TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2", "-m", RUN)


def load(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{name}.pt", weights_only=True)


@pytest.mark.slow
def test_two_processes_are_as_good_as_one(clips: Path, tmp_path: Path) -> None:
    """Also where they have different numbers of objects, or recompute activations."""
    one, two, recomputing = tmp_path / "one", tmp_path / "two", tmp_path / "recomputing"
    clips = shutil.copytree(clips, tmp_path / "clips")
    for path in (clips / "Annotations" / "clip1").iterdir():
        labels = read_labels(path)
        save_label_image(path, np.where(labels == 2, 0, labels).astype(np.uint8))
    runs = (
        (one, (sys.executable, "-m", RUN), "plain"),
        (two, TORCHRUN, "plain"),
        (recomputing, TORCHRUN, "recompute"),
    )
    for folder, command, mode in runs:
        process = start(*command, clips, folder, mode)
        printed = finish(process)
        assert process.returncode == 0, printed
    gradients = load(one, "gradients0")
    assert same(load(two, "gradients0"), load(two, "gradients1"))
    assert difference(gradients, load(two, "gradients0")) < 1e-4
    assert difference(gradients, load(recomputing, "gradients0")) < 1e-4
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    assert same(load(two, "weights0"), load(two, "weights1"))
    assert same(load(two, "weights0"), read_checkpoint(two / "last.pt")["model"])
    assert read_checkpoint(two / "last.pt")["step"] == 4


@pytest.mark.slow
def test_non_finite_loss_in_one_process(clips: Path, tmp_path: Path) -> None:
    skip, stop = tmp_path / "skip", tmp_path / "stop"
    process = start(*TORCHRUN, clips, skip, "skip")
    printed = finish(process)
    assert process.returncode == 0, printed
    assert printed.count("is skipped, its loss is not finite") == 4  # two steps, in both processes
    assert same(load(skip, "weights0"), load(skip, "weights1"))
    assert read_checkpoint(skip / "last.pt")["step"] == 4
    assert all(value.isfinite().all() for value in load(skip, "weights0").values())

    process = start(*TORCHRUN, clips, stop, "stop")
    printed = finish(process)
    assert process.returncode != 0
    assert "the loss of step 0 is not finite. Samples: " in printed
    assert not (stop / "last.pt").exists()


@pytest.mark.slow
def test_all_processes_validate_the_same_network(clips: Path, tmp_path: Path) -> None:
    """Also their running statistics, which are those of each process's own batches during training."""
    process = start(*TORCHRUN, clips, tmp_path, "validate")
    printed = finish(process)
    assert process.returncode == 0, printed
    assert same(load(tmp_path, "validated0"), load(tmp_path, "validated1"))
    assert same(load(tmp_path, "validated0"), read_checkpoint(tmp_path / "best.pt")["model"])


@pytest.mark.slow
def test_one_process_fails(clips: Path, tmp_path: Path) -> None:
    process = start(*TORCHRUN, clips, tmp_path, "dies")
    printed = finish(process, timeout=60)  # nobody waits for it
    assert process.returncode != 0
    assert "the disk is gone" in printed
    assert not list(tmp_path.glob("weights*"))


@pytest.mark.slow
def test_script_for_one_node(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUS", "2")
    process = start("sh", "train.sh", *training(clips, tmp_path), cwd=PROJECT / "train")
    printed = finish(process)
    assert process.returncode == 0, printed
    checkpoint = read_checkpoint(tmp_path / "last.pt")
    assert (checkpoint["step"], checkpoint["world_size"]) == (4, 2)


@pytest.mark.slow
def test_script_says_once_what_is_missing(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUS", "8")
    process = start("sh", "train/train.sh", *training(clips / "nowhere", tmp_path))
    printed = finish(process)
    assert process.returncode == 1
    assert printed.count("no such folder") == 1
    assert "Traceback" not in printed and "torchrun" not in printed


def test_published_arguments_start_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(os, "execvpe", lambda file, arguments, environment: started.append((arguments[1:], environment)))
    cli.main(["-c", "configs/i2v-train", "--use-cluster", "0", "--num-gpus", "4"])
    cli.main(["-c", "configs/i2v-train", "--num-nodes", "4", "trainer.epochs=1"])
    (one, environment), (several, of_several) = started
    assert one == [str(PROJECT / "train/train.sh"), "configs/i2v-train"]
    assert environment["GPUS"] == "4" and environment["PYTHON"] == sys.executable
    assert several == [str(PROJECT / "train/multi_node_train_4_nodes.sh"), "configs/i2v-train", "trainer.epochs=1"]
    assert of_several["NODES"] == "4"


@pytest.mark.parametrize("option", ["--check", "--slurm"])
def test_published_arguments_start_a_training(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["-c", "i2v-train", option, "--num-gpus", "1"])
    assert "give them without --check and --slurm" in capsys.readouterr().err


@pytest.mark.slow
def test_published_arguments_submit_to_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    submitted = []
    monkeypatch.setattr(cli, "submit", lambda arguments, config: submitted.append((arguments, config)))
    assert cli.main(["-c", "configs/i2v-train", "--use-cluster", "1", "--num-gpus", "4", "--num-nodes", "2"]) == 0
    ((arguments, config),) = submitted
    assert arguments == ["-c", "configs/i2v-train", "slurm.nodes=2", "slurm.gpus_per_node=4"]
    assert (config.slurm.nodes, config.slurm.gpus_per_node) == (2, 4)


@pytest.mark.slow
def test_script_for_several_nodes(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    for name, value in {"GPUS": 1, "NODES": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    nodes = [start("sh", "train/multi_node_train_4_nodes.sh", *training(clips, tmp_path)) for _ in range(2)]
    printed = [finish(node) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    checkpoint = read_checkpoint(tmp_path / "last.pt")
    assert (checkpoint["step"], checkpoint["world_size"]) == (4, 2)


def training(clips: Path, output: Path) -> tuple[str, ...]:
    """Of two epochs of two steps."""
    return (str(TINY_TRAINING), f"folder={clips}", f"output={output}", "data.steps_per_epoch=2")


def test_several_nodes_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    process = start("sh", "train/multi_node_train_4_nodes.sh")
    assert "set it to the host name of one of the nodes" in finish(process)
    assert process.returncode != 0
