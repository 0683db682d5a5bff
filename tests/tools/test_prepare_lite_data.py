"""tools/prepare_lite_data.py converts public data sets for the Lite model's training."""

from __future__ import annotations

import json
import shlex
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2v.data.mask_files import read_labels
from train.cli import load_experiment
from train.dataset.stills import Photographs
from train.dataset.vos_folder import VOSFolder

savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat


@pytest.fixture
def prepare(load_tool):
    return load_tool("prepare_lite_data")


def photograph(path: Path, size: tuple[int, int] = (48, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size[::-1], 3), 100, np.uint8)).save(path)


@pytest.fixture
def bsds500(tmp_path: Path) -> Path:
    """Two photographs, each segmented by four people into 2 to 5 regions, the finest with more than 255 labels."""
    root = tmp_path / "BSDS500"
    (root / "groundTruth/train").mkdir(parents=True)
    for name in ("1", "2"):
        photograph(root / f"images/train/{name}.jpg")
        people = np.empty((1, 4), object)
        for i, regions in enumerate((300, 2, 4, 3)):
            labels = 1 + np.arange(32 * 48).reshape(32, 48) * regions // (32 * 48)
            people[0, i] = {"Segmentation": labels.astype(np.uint16), "Boundaries": np.zeros((32, 48), np.uint8)}
        savemat(root / f"groundTruth/train/{name}.mat", {"groundTruth": people})
    return root


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    photograph(tmp_path / "val2017/000000000007.jpg")
    photograph(tmp_path / "val2017/000000000008.jpg")
    sizes = {"width": 48, "height": 32}
    square = [[4, 4, 20, 4, 20, 24, 4, 24]]
    content = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", **sizes} for i in (7, 8)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 1,
                "segmentation": square,
                "area": 320,
                "iscrowd": 0,
                "bbox": [4, 4, 16, 20],
            },
            {
                "id": 2,
                "image_id": 7,
                "category_id": 1,
                "segmentation": square,
                "area": 320,
                "iscrowd": 1,
                "bbox": [4, 4, 16, 20],
            },
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    root = tmp_path / "DAVIS"
    for t in range(3):
        photograph(root / f"JPEGImages/480p/bear/{t:05d}.jpg", (96, 64))
        labels = np.zeros((64, 96), np.uint8)
        labels[16:48, 16:48] = 255
        (root / "Annotations/480p/bear").mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(root / f"Annotations/480p/bear/{t:05d}.png")
    (root / "ImageSets/480p").mkdir(parents=True)
    lines = [f"/JPEGImages/480p/bear/{t:05d}.jpg /Annotations/480p/bear/{t:05d}.png" for t in range(3)]
    (root / "ImageSets/480p/train.txt").write_text("\n".join(lines))
    return root


@pytest.mark.slow
def test_all_three(prepare, bsds500: Path, coco: Path, davis: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "lite"
    arguments = ["--bsds500", str(bsds500), "--coco", str(coco / "instances.json"), str(coco / "val2017")]
    prepare.main([str(output), *arguments, "--davis", str(davis), "--height", "32"])
    regions = sorted((output / "bsds500/regions").iterdir())
    assert [path.name for path in regions] == [f"{name}_{i}.png" for name in "12" for i in range(3)]
    assert [len(np.unique(read_labels(path))) for path in regions[:3]] == [2, 4, 300]  # coarse to fine
    [annotation] = json.loads((output / "coco-mini/000000000007.json").read_text())["annotations"]  # without the crowd
    assert annotation["segmentation"]["size"] == [32, 48]
    assert not (output / "coco-mini/000000000008.json").exists()  # it shows no object
    # Training reads the folders.
    for name, photograph, masks in (("bsds500", "1", {2, 4, 300}), ("coco-mini", "000000000007", {1})):
        split = "validation" if zlib.crc32(photograph.encode()) % 10 == 0 else "train"
        assert len(Photographs([output / name], split).read(0, np.random.default_rng(0)).masks) in masks
    clips = VOSFolder(output / "davis2016-train/JPEGImages", output / "davis2016-train/Annotations", num_frames=2)
    clip = clips.load(0, np.random.default_rng(0))
    assert clip.frames.shape == (2, 3, 32, 48)
    assert int(clip.masks[0, 0].sum()) == 16 * 16
    # The printed overrides compose.
    printed = capsys.readouterr().out
    variables = dict(word.split("=", 1) for word in shlex.split(printed[printed.index("make train-lite") :])[2:])
    assert variables["SHARED"] == str(output)
    overrides = [f"shared={variables['SHARED']}", *shlex.split(variables["LITE"])]
    assert load_experiment("i2v-lite-image", overrides).stills == [f"{output}/bsds500", f"{output}/coco-mini"]
    clips = load_experiment("i2v-lite-video", [*overrides, *shlex.split(variables["LITE_CLIPS"])])
    assert list(clips.data.parts) == ["stills", "davis", "clips"]
    without = prepare.command(output, ["bsds500"])
    assert "data.parts.davis=null validation.davis=null" in without
    assert "coco" not in without
    # Existing folders stay.
    prepare.main([str(output), *arguments])
    assert "already exists; left unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --bsds500 or --coco"),
        (["--davis", "nowhere"], "give --bsds500 or --coco"),
        (["--bsds500", "nowhere"], "nowhere has no images"),
        (["--coco", "nowhere.json", "images"], "nowhere.json"),
    ],
)
def test_wrong_arguments(prepare, arguments: list[str], message: str, tmp_path: Path, outcome) -> None:
    status, text = outcome(prepare.main, tmp_path / "lite", *arguments)
    assert status
    assert message in text
    assert not list((tmp_path / "lite").glob("*"))


def test_davis_without_its_lists(prepare, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has neither ImageSets"):
        prepare.convert_davis(tmp_path, tmp_path / "target", 32)


@pytest.mark.parametrize("content", [None, b"", b"nonsense" * 100])
def test_file_that_is_not_from_bsds500_is_named(content: bytes | None, prepare, bsds500: Path, tmp_path: Path, outcome) -> None:
    path = bsds500 / "groundTruth/train/2.mat"
    if content is None:
        savemat(path, {"other": np.zeros(3)})
    else:
        path.write_bytes(content)
    status, text = outcome(prepare.main, tmp_path / "lite", "--bsds500", bsds500)
    assert status == 1
    assert f"{path} is not a ground truth of BSDS500" in text
    assert not (tmp_path / "lite/bsds500").exists()


COCO_IMAGE = {"id": 7, "file_name": "a.jpg", "height": 32, "width": 48}
COCO_OBJECT = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "iscrowd": 0}
COCO = {"categories": [], "images": [COCO_IMAGE], "annotations": [COCO_OBJECT]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object"),
        ({}, "lacks 'images'"),
        (COCO | {"images": []}, "has no images"),
        (COCO | {"images": [{"id": 7}]}, "'images', entry 0 lacks 'file_name'"),
        (COCO | {"annotations": None}, "'annotations' is null, expected a list"),
        (COCO | {"annotations": [COCO_OBJECT | {"segmentation": [[1, 2]]}]}, "a segmentation of a.jpg cannot be read"),
        (COCO | {"images": [COCO_IMAGE | {"file_name": "../a.jpg"}]}, "'../a.jpg', expected one without folders"),
        (COCO, "a.jpg, a photograph of"),
    ],
)
def test_file_that_is_not_from_coco_is_named(content, message: str, prepare, tmp_path: Path, outcome) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    status, text = outcome(prepare.main, tmp_path / "lite", "--coco", path, tmp_path)
    assert status == 1
    assert str(path) in text
    assert message in text
    assert not (tmp_path / "lite/coco-mini").exists()
