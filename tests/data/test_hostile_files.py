"""Paths that are not files, and files that are too deep, too large, or lead elsewhere: an immediate error that names them."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.annotations import open_annotations
from i2v.data.files import find_samples, read_json, read_list
from i2v.data.frames import open_frames
from i2v.data.mask_files import read_labels, read_mask
from i2v.data.masklets import Masklets
from i2v.data.video_file import VideoFile, iterate_frames
from test_pvs.datasets import read_dataset
from train.dataset.sa1b import SA1B
from train.dataset.sample import SampleError

resource = pytest.importorskip("resource", reason="Windows has neither named pipes nor limits")

READERS: dict[str, Callable[[Path], object]] = {
    "frames": open_frames,
    "video": VideoFile,
    "video, once": lambda path: list(iterate_frames(path, lambda index: True)),
    "list": read_list,
    "JSON": read_json,
    "masklets": Masklets,
    "mask": read_mask,
    "labels": read_labels,
}


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(str(path))


def make_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "what"),
    [(make_fifo, "a named pipe"), (make_socket, "a socket"), (make_device, "a device"), (make_folder, "a folder")],
    ids=["named pipe", "socket", "device", "folder"],
)
@pytest.mark.parametrize("reader", READERS)
def test_paths_that_are_not_files_are_refused_immediately(reader, make, what, tmp_path, monkeypatch):
    if reader == "frames" and make is make_folder:
        pytest.skip("a folder of frames")
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    make(Path("it"))
    with pytest.raises(ValueError, match=rf"it is {what}, not a file"):
        READERS[reader](Path("it"))


@pytest.mark.parametrize("name", ["00001.png", "00001.jpg"])
def test_named_pipes_among_frames_and_masks(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is a named pipe"):
        open_frames(tmp_path)
    annotations = open_annotations(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} is a named pipe"):
        annotations.mask("00001", 1, (8, 8))


def deep_json(depth: int = 100_000) -> str:
    return "[" * depth + "]" * depth


def write_image(path: Path, size: tuple[int, int]) -> None:
    Image.new("1", size).save(path)


BOMBS = {
    "deep JSON": (lambda path: path.write_text(deep_json()), read_json),
    "deep JSON of masklets": (lambda path: path.write_text(deep_json()), Masklets),
    "image": (lambda path: write_image(path, (30_000, 30_000)), lambda path: open_frames(path.parent)),
    "large image": (lambda path: write_image(path, (12_000, 12_000)), lambda path: open_frames(path.parent)),
    "mask": (lambda path: write_image(path, (30_000, 30_000)), read_mask),
    "label of 2^30": (lambda path: Image.fromarray(np.full((4, 4), 2**30, np.int32)).save(path, format="TIFF"), read_labels),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BOMBS)
def test_too_deep_or_too_large_files_cost_little(case, tmp_path):
    write, read = BOMBS[case]
    path = tmp_path / "00001.png"
    write(path)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"00001\.png"):
        read(path)
    assert time.process_time() - started < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_decompression_bomb_in_training_is_a_bad_sample(tmp_path):
    Image.new("RGB", (32, 24)).save(tmp_path / "a.jpg")
    for content in (deep_json(), json.dumps({"annotations": [{"segmentation": {"size": [10**9, 10**9], "counts": [10**18]}}]})):
        (tmp_path / "a.json").write_text(content)
        with pytest.raises(SampleError, match=r"a\.json"):
            SA1B(tmp_path).load(0, np.random.default_rng(0))


def test_object_folders_with_huge_numbers(tmp_path):
    (tmp_path / "2147483648").mkdir()
    Image.new("1", (8, 8), 1).save(tmp_path / "2147483648/00000.png")
    with pytest.raises(ValueError, match=r"\(at most 65535\), but it has 2147483648"):
        _ = open_annotations(tmp_path).objects


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "txt", "m3u8"])
@pytest.mark.parametrize("kind", ["ffconcat", "concat", "HLS", "DASH", "SDP"])
def test_playlists_open_no_other_file(kind, suffix, tmp_path, make_video, tiny_video):
    make_video(tmp_path / "secret.mp4", tiny_video)
    text = {
        "ffconcat": "ffconcat version 1.0\nfile secret.mp4\n",
        "concat": "file 'secret.mp4'\n",
        "DASH": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>secret.mp4</BaseURL></MPD>',
        "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.2,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    }[kind]
    path = tmp_path / f"list.{suffix}"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"list\.{suffix} is not a video but a playlist, which is not supported"):
        VideoFile(path)


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../../b", "..", "."])
def test_names_in_lists_stay_inside(name, tmp_path):
    (tmp_path / "data/inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "list.txt").write_text(f"inside\n{name}\n")
    with pytest.raises(ValueError, match=r"list\.txt names .*inside of its folder"):
        find_samples(tmp_path / "data", ("",), tmp_path / "list.txt")


@pytest.mark.parametrize(
    "name", ["../../outside/00000.jpg", "/tmp/video/00000.jpg", "video/../../x/00000.jpg", "00000.jpg", ""]
)
def test_names_in_json_stay_inside(name, tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    content = {"videos": [{"id": 1, "file_names": [name]}], "annotations": []}
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"all\.json names .*inside of its folder"):
        read_dataset("lvvis", tmp_path)


def test_names_of_videos_in_lists_stay_inside(tmp_path):
    for folder in ("JPEGImages_24fps/video", "Annotations_6fps/video", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sav_val.txt").write_text("video\n..\n")
    with pytest.raises(ValueError, match=r"sav_val\.txt names '\.\.'"):
        read_dataset("sav", tmp_path)
