"""SA-1B's reader, and what all readers do with folders, file lists and broken files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2v.data.rle import mask_to_rle
from train.dataset.sa1b import SA1B
from train.dataset.sample import SampleError

SIZE = (24, 32)
# pycocotools does not know NumPy 2 well.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def stripe(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask whose columns from 4 * index on, 4 of them, are set."""
    mask = np.zeros(size, bool)
    mask[:, 4 * index : 4 * index + 4] = True
    return mask


def write_sample(folder: Path, name: str, masks: list) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / f"{name}.jpg", quality=95)
    (folder / f"{name}.json").write_text(json.dumps({"annotations": [{"segmentation": rle} for rle in masks]}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in sub-folders; five objects, and an empty mask between them."""
    masks = [mask_to_rle(stripe(i)) for i in range(5)]
    masks.insert(2, mask_to_rle(np.zeros(SIZE, bool)))
    for name in ("sa_000000/sa_1", "sa_000001/sa_2"):
        write_sample(tmp_path / "SA-1B", name, masks)
    return tmp_path / "SA-1B"


def load(folder: Path, index: int = 0, seed: int = 0, **options):
    return SA1B(folder, **options).load(index, np.random.default_rng(seed))


def test_load(folder: Path) -> None:
    clip = load(folder, index=1, max_objects=9)
    assert clip.name == str(folder / "sa_000001/sa_2")
    assert clip.frames.shape == (1, 3, *SIZE)
    assert clip.frames.dtype == torch.uint8
    expected = np.array(Image.open(folder / "sa_000001/sa_2.jpg"))
    assert np.array_equal(clip.frames[0].permute(1, 2, 0), expected)
    assert clip.masks.dtype == torch.bool
    assert np.array_equal(clip.masks[0], np.stack([stripe(i) for i in range(5)]))


def test_objects_are_drawn(folder: Path) -> None:
    drawn = [load(folder, seed=seed, max_objects=2).masks for seed in range(20)]
    assert all(masks.shape == (1, 2, *SIZE) for masks in drawn)
    assert len({tuple(masks.flatten().tolist()) for masks in drawn}) > 3
    assert torch.equal(load(folder, seed=3, max_objects=2).masks, drawn[3])


def test_uncompressed_rle(folder: Path) -> None:
    height, width = SIZE
    write_sample(folder, "a", [{"size": SIZE, "counts": [height * 4, height * 4, height * (width - 8)]}])
    assert np.array_equal(load(folder).masks[0, 0], stripe(1))


def test_file_list(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("sa_000001/sa_2\n\n")
    assert SA1B(folder, names).names == ["sa_000001/sa_2"]
    assert SA1B(folder).names == ["sa_000000/sa_1", "sa_000001/sa_2"]


def test_published_lists_have_suffixes_and_no_sub_folders(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    names.write_text("sa_2.jpg\nsa_000000/sa_1.jpg\nsa_1\n")
    assert SA1B(folder, names).names == ["sa_000001/sa_2", "sa_000000/sa_1", "sa_000000/sa_1"]
    names.write_text("sa_2.jpg\nsa_7.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"lacks sa_7\.jpg.* of the 2 names in .*list\.txt"):
        SA1B(folder, names)
    (folder / "sa_000000/sa_2.jpg").write_bytes((folder / "sa_000001/sa_2.jpg").read_bytes())
    names.write_text("sa_2.jpg\n")
    with pytest.raises(ValueError, match=r"names sa_2\.jpg, which is in .* more than once: sa_000000/sa_2, sa_000001/sa_2"):
        SA1B(folder, names)


def test_images_and_json_files_in_two_folders(folder: Path, tmp_path: Path) -> None:
    expected = SA1B(folder).load(1, np.random.default_rng(0)).masks
    for path in list(folder.glob("*/*.json")):
        target = tmp_path / "json" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert torch.equal(SA1B(folder, annotations=tmp_path / "json").load(1, np.random.default_rng(0)).masks, expected)
    with pytest.raises(ValueError, match="has no JSON"):
        SA1B(folder, annotations=tmp_path / "nowhere")


def test_wrong_folders_and_lists(folder: Path, tmp_path: Path) -> None:
    names = tmp_path / "list.txt"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SA1B(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"sa_1\.jpg"):
        SA1B(folder / "sa_000000/sa_1.jpg")
    with pytest.raises(ValueError, match=r"empty has no \*\.jpg"):
        SA1B(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"list\.txt"):
        SA1B(folder, names)
    names.write_text("\n")
    with pytest.raises(ValueError, match=r"list\.txt is empty"):
        SA1B(folder, names)
    names.write_text("sa_000000/sa_1\nsa_7\nsa_8\n")
    with pytest.raises(FileNotFoundError, match=r"lacks sa_7\.jpg and 1 more of the 3 names in .*list\.txt"):
        SA1B(folder, names)
    for path in folder.glob("*/*.json"):
        path.unlink()
    with pytest.raises(ValueError, match="SA-1B has no JSON"):
        SA1B(folder)


CUT_OFF = {"size": [24, 32], "counts": mask_to_rle(stripe(0))["counts"][:-1]}
BAD_JSON = {
    "corrupt": '{"annotations": [',
    "another layout": "[1, 2]",
    "no annotations": '{"image": {}}',
    "annotations of another kind": '{"annotations": ["a"]}',
    "no objects": '{"annotations": []}',
    "only empty objects": '{"annotations": [{"segmentation": null}]}',
    "another size": json.dumps({"annotations": [{"segmentation": mask_to_rle(stripe(0, (24, 33)))}]}),
    "a run too long": '{"annotations": [{"segmentation": {"size": [24, 32], "counts": [1, 2000]}}]}',
    "a negative run": '{"annotations": [{"segmentation": {"size": [24, 32], "counts": [1, 3, -1]}}]}',
    "a run too short": '{"annotations": [{"segmentation": {"size": [24, 32], "counts": [1, 3]}}]}',
    "counts cut off": json.dumps({"annotations": [{"segmentation": CUT_OFF}]}),
    "garbage as counts": '{"annotations": [{"segmentation": {"size": [24, 32], "counts": "zzzzzzzz"}}]}',
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json(folder: Path, case: str) -> None:
    (folder / "sa_000000/sa_1.json").write_text(BAD_JSON[case])
    with pytest.raises(SampleError, match=r"sa_1\.json"):
        load(folder)


def test_suffixes_in_capitals(folder: Path) -> None:
    before = load(folder)
    for path in [*folder.glob("*/*.json"), *folder.glob("*/*.jpg")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    after = load(folder)
    assert torch.equal(after.masks, before.masks)
    assert torch.equal(after.frames, before.frames)


def test_missing_json(folder: Path) -> None:
    (folder / "sa_000000/sa_1.json").unlink()
    with pytest.raises(SampleError, match=r"no such file: .*sa_1\.json"):
        load(folder)


@pytest.mark.parametrize("size", [0, 300, -20])
def test_truncated_image(folder: Path, size: int) -> None:
    path = folder / "sa_000000/sa_1.jpg"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(SampleError, match=r"sa_1\.jpg"):
        load(folder)


def test_missing_image(folder: Path) -> None:
    dataset = SA1B(folder)
    (folder / "sa_000000/sa_1.jpg").unlink()
    with pytest.raises(SampleError, match=r"no such file: .*sa_1\.jpg"):
        dataset.load(0, np.random.default_rng(0))


def test_coco128(shared: Path) -> None:
    dataset = SA1B(shared / "data/coco128", max_objects=4)
    assert len(dataset) == 128
    for index in range(0, 128, 16):
        clip = dataset.load(index, np.random.default_rng(index))
        assert clip.masks.shape[2:] == clip.frames.shape[2:]
        assert clip.masks.flatten(2).any(2).all()
