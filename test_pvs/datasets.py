"""The data sets of the benchmarks: a small reader for each, and a checker that finds missing or odd files before a long run.

    python -m test_pvs.datasets --check davis2016 /data/DAVIS
    python -m test_pvs.datasets --export davis2016 /data/DAVIS ground_truth

--export writes the ground truth in the layout of saved masks, for SA-V's evaluator.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from i2v.data.annotations import LabelImages, ObjectFolders, RunLengths, save_object_mask
from i2v.data.files import (
    check_inside,
    entries,
    find_samples,
    is_foreign,
    listed,
    named_errors,
    read_json,
    read_list,
    subfolders,
    walk,
)
from i2v.data.mask_files import MAX_LABEL, check_void
from i2v.data.masklets import ANNOTATION_STRIDE
from i2v.utils.command_line import command_line, given_path, given_text, label, one_line
from i2v.utils.files import whole_folder
from i2v.utils.json_form import require_form
from i2v.utils.messages import did_you_mean
from test_pvs.evaluation_video import EvaluationVideo
from test_pvs.user_functions import find_function

log = logging.getLogger("test_pvs.datasets")


def read_sav(root: Path) -> list[EvaluationVideo]:
    """Read SA-V's validation or test set.

    JPEGImages_24fps/VIDEO/00000.jpg, Annotations_6fps/VIDEO/OBJECT/00000.png, 00004.png, ... and optional lists of the videos
    (sav_val.txt, sav_test.txt).
    """
    frames, annotations = _subfolders(root, "JPEGImages_24fps", "Annotations_6fps")
    names = _existing(annotations, _listed_names(root, "sav_*.txt") or find_samples(annotations, ("",)))
    return [EvaluationVideo(name, frames / name, ObjectFolders(annotations / name), ANNOTATION_STRIDE) for name in names]


def read_davis2016(root: Path) -> list[EvaluationVideo]:
    """Read DAVIS 2016: JPEGImages/480p/VIDEO/00000.jpg, Annotations/480p/VIDEO/00000.png. All objects count as one."""
    return _read_davis(root, ("480p/val.txt", "2016/val.txt"), single=True)


def read_davis2017(root: Path) -> list[EvaluationVideo]:
    """Read DAVIS 2017: the layout of DAVIS 2016, with label images."""
    return _read_davis(root, ("2017/val.txt",), single=False)


def read_folders(root: Path) -> list[EvaluationVideo]:
    """Read MOSE or YouTube-VOS: JPEGImages/VIDEO/00000.jpg, and label images of some frames Annotations/VIDEO/00000.png."""
    frames, annotations = _subfolders(root, "JPEGImages", "Annotations")
    return _read_label_images(frames, annotations)


def read_pumavos(root: Path) -> list[EvaluationVideo]:
    """Read PUMaVOS: the layout of MOSE, with label images of all frames."""
    frames, annotations = _subfolders(root, "JPEGImages", "Annotations")
    return _read_label_images(frames, annotations, every=1)


def read_lvvis(root: Path) -> list[EvaluationVideo]:
    """Read LV-VIS: JPEGImages/VIDEO/00000.jpg, and a YouTube-VIS JSON in the folder or beside it (val/, val_instances.json)."""
    (frames,) = _subfolders(root, "JPEGImages")
    file = _lvvis_file(root)
    content = read_json(file)
    require_form(content, _LVVIS_FORM, str(file))
    with named_errors(file):
        segmentations = _lvvis_annotations(content)
        videos = [_lvvis_video(video, segmentations[video["id"]], frames, file) for video in content["videos"]]
    return sorted(videos, key=lambda video: video.name)


def _lvvis_file(root: Path) -> Path:
    """Find the JSON with the annotations of LV-VIS."""
    name = root.resolve().name
    files = [path for path in entries(root) if path.suffix.lower() == ".json"] or [
        path for path in entries(root.resolve().parent) if path.name.startswith(name) and path.suffix.lower() == ".json"
    ]
    if len(files) != 1:
        found = f"found {listed([path.name for path in files])}" if files else "found none"
        raise ValueError(f"{root}: expected one JSON file with annotations there or beside it; {found}")
    return files[0]


def _lvvis_video(video: dict[str, Any], segmentations: list[dict[str, Any]], frames: Path, file: Path) -> EvaluationVideo:
    """Make a video from its entry in a YouTube-VIS JSON.

    Args:
        video (dict[str, Any]): the entry.
        segmentations (list[dict[str, Any]]): annotations of the video.
        frames (Path): folder of the videos' frames.
        file (Path): the JSON file.
    """
    paths = [Path(check_inside(name, file)) for name in video["file_names"]]
    names, folders = [path.stem for path in paths], list(dict.fromkeys(path.parent for path in paths))
    if len(folders) != 1:
        raise ValueError(f"the file_names of video {video['id']} are in {len(folders)} folders, expected one")
    if repeated := _repeated(names):
        raise ValueError(f"the file_names of video {video['id']} have the frame {listed(repeated)} several times")
    for entry in segmentations:
        if len(entry["segmentations"]) != len(names):
            counts = f"{len(entry['segmentations'])} segmentations, but its video has {len(names)} file_names"
            raise ValueError(f"the annotation with the id {entry['id']} has {counts}")
    check_inside(str(folders[0]), file)
    return EvaluationVideo(_flat(folders[0]), frames / folders[0], RunLengths(file, names, segmentations), 1)


# The parts of a YouTube-VIS JSON that are used. Ids must be integers: 1.5 taken for 1 would lose an object.
_LVVIS_FORM = {
    "videos": [{"id": int, "file_names": [str]}],
    "annotations": [{"id": int, "video_id": int, "segmentations": list}],
}


def _lvvis_annotations(content: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Group the annotations of a YouTube-VIS JSON by id of the video.

    Raises:
        ValueError: an id is repeated, or that of an annotation cannot be the number of an object.
    """
    if repeated := _repeated(video["id"] for video in content["videos"]):
        raise ValueError(f"several videos have the id {listed(repeated)}")
    annotations: dict[int, list[dict[str, Any]]] = {video["id"]: [] for video in content["videos"]}
    others = 0
    for entry in content["annotations"]:
        if not 0 <= entry["id"] <= MAX_LABEL:
            raise ValueError(f"an annotation has the id {entry['id']}: expected a whole number from 0 to {MAX_LABEL}")
        others += entry["video_id"] not in annotations
        annotations.setdefault(entry["video_id"], []).append(entry)
    for number, entries_of_video in annotations.items():
        if repeated := _repeated(entry["id"] for entry in entries_of_video):
            raise ValueError(f"video {number} has several annotations with the id {listed(repeated)}")
    if others:
        log.warning("warning: %d annotations of LV-VIS are ignored, because their videos are not in its list", others)
    return annotations


ESD_IMAGES, ESD_MASKS = ("rgb", "image", "images"), ("mask", "masks")


def read_esd(root: Path) -> list[EvaluationVideo]:
    """Read ESD-1: sequences at any depth, each with a folder of images (`ESD_IMAGES`) and one of label images (`ESD_MASKS`).

    The case of these names does not matter. An image and its mask have the same number in their names.
    """
    videos = []
    for folder in sorted({path.parent for path in walk(root) if path.parent.name.lower() in ESD_IMAGES} - {root}):
        masks = [path for path in subfolders(folder.parent) if path.name.lower() in ESD_MASKS]
        if not masks:
            raise ValueError(f"{folder.parent} has images but no folder of masks ({' or '.join(ESD_MASKS)})")
        name = _flat(folder.parent.relative_to(root)) if folder.parent != root else root.resolve().name
        videos.append(EvaluationVideo(name, folder, LabelImages(masks[0]), 1))
    if not videos:
        raise ValueError(f"no sequences in {root}: expected a folder {' or '.join(ESD_IMAGES)} beside {' or '.join(ESD_MASKS)}")
    return videos


class DatasetReader(Protocol):
    """Reads a data set: the contract of the functions in `READERS` and of user-defined ones ("package.module:function").

    A reader lists the videos; it should not open images or masks, because `EvaluationVideo` reads those when they are used.

    - Names of videos are unique, and each is the name of a folder: masks are saved in OUTPUT/masks/NAME.
    - `EvaluationVideo.annotations` is one of the classes in `i2v.data.annotations` (`LabelImages`, `ObjectFolders`,
      `RunLengths`), or another subclass of `Annotations`. `read_dataset` sets its `void`.
    - Videos can be pickled, since worker processes receive them.

    Args:
        root: folder of the data set, as given on the command line; it exists.

    Returns:
        All videos with ground truth, in the order in which they are evaluated; at least one.

    Raises:
        ValueError, OSError: the folder does not have the layout of this data set; the message names the folder or file.
    """

    def __call__(self, root: Path, /) -> list[EvaluationVideo]: ...


READERS: dict[str, DatasetReader] = {
    "sav": read_sav,
    "davis2016": read_davis2016,
    "davis2017": read_davis2017,
    "pumavos": read_pumavos,
    "lvvis": read_lvvis,
    "esd": read_esd,
    "mose": read_folders,
    "youtubevos": read_folders,
}

DATASET_HELP = f"{', '.join(READERS)}, or package.module:function"


def check_dataset_name(name: str) -> str:
    """Return the name of a data set, if it is in `READERS` or may be that of a user-defined reader.

    Raises:
        ValueError: it is neither.
    """
    if name not in READERS and ":" not in name:
        known, hint = ", ".join(READERS), did_you_mean(name.lower(), READERS)
        raise ValueError(f"unknown data set {name!r}{hint}: give {known}, or package.module:function for another one")
    return name


def dataset_name(text: str) -> str:
    """Parse the name of a data set: the type of an argument of a command line."""
    try:
        return check_dataset_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def find_reader(dataset: str) -> DatasetReader:
    """Find the reader of a data set; see `read_dataset`."""
    return READERS.get(check_dataset_name(dataset)) or find_function(dataset)


def read_dataset(dataset: str, root: str | Path, names: Iterable[str] = (), void: int | None = None) -> list[EvaluationVideo]:
    """List the videos of a data set. Their files are read only when they are used, or by `check`.

    Args:
        dataset (str): a name in `READERS`, or "package.module:function", a `DatasetReader`.
        root (str or Path): folder of the data set.
        names (Iterable[str]): names of the videos; by default all.
        void (int or None): label of pixels that belong to no object, such as 255; by default there is none. JSON files have
            none.

    Raises:
        ValueError: the data set or a video is unknown, the folder has another layout, or a user-defined reader returns
            something other than a list of `EvaluationVideo`.
        NotADirectoryError: there is no such folder.
        ImportError: the module of a user-defined reader cannot be imported.
    """
    read = find_reader(dataset)
    root, void = Path(root), check_void(void)
    if not root.is_dir():
        raise NotADirectoryError(f"no such folder: {root}")
    videos = read(root)
    if not isinstance(videos, list) or not all(isinstance(video, EvaluationVideo) for video in videos):
        raise ValueError(f"{dataset} must return a list of test_pvs.datasets.EvaluationVideo")
    if not videos:
        raise ValueError(f"{root} has no videos")
    if repeated := _repeated(video.name for video in videos):
        raise ValueError(f"{root} has several videos {listed(repeated)}")
    unknown = sorted(set(names) - {video.name for video in videos})
    if unknown:
        raise ValueError(f"{root} has no video {listed(unknown)}")
    for video in videos:
        video.annotations.void = void
    return [video for video in videos if not names or video.name in names]


def require_same_labels(settings: Path, dataset: str, void: int | None) -> None:
    """Make sure that a run read the masks with the same reader and void label. The folder may differ, since data sets move.

    Args:
        settings (Path): settings.json of the run.
        dataset (str): name of the data set; see `read_dataset`.
        void (int or None): label of pixels that belong to no object; see `read_dataset`.

    Raises:
        ValueError: the run has another data set or void label, or the file is not the settings of a run.
    """
    found = read_json(settings)
    require_form(found, {"dataset": str}, str(settings))
    require_form(found.get("void"), (int, type(None)), f"{settings}: 'void'")
    for name, value in (("dataset", dataset), ("void", void)):
        if found.get(name) != value:
            raise ValueError(f"{settings}: the run's {name} is {found.get(name)}, not {value}: give the same value")


def check(videos: Sequence[EvaluationVideo], thorough: bool = False) -> list[str]:
    """List what is missing or odd in a data set, a message for each problem; see `EvaluationVideo.problems`."""
    found = [f"{video.name}: {problem}" for video in tqdm(videos, unit="video") for problem in video.problems(thorough)]
    for folder in {video.frames.parent for video in videos if isinstance(video.annotations, (LabelImages, ObjectFolders))}:
        used = {video.frames for video in videos}
        unused = [path.name for path in subfolders(folder) if path not in used]
        # This may be intended, as in DAVIS, which includes its training set.
        if unused:
            log.info("left out, because no list names them or they have no masks: %s", listed(unused))
    return found


def export_ground_truth(videos: Sequence[EvaluationVideo], output: Path) -> list[str]:
    """Write the ground truth as OUTPUT/VIDEO/OBJECT/FRAME.png. Videos without objects are left out.

    Args:
        videos (Sequence[EvaluationVideo]): the videos.
        output (Path): a new folder.

    Returns:
        A message for each video whose ground truth cannot be used; it is left out, too.

    Raises:
        ValueError: `output` exists.
        OSError: it cannot be written.
    """
    if output.exists():  # it may have other videos, or outdated annotations
        raise ValueError(f"{output} already exists: remove it, or give another folder")
    found, empty = [], []
    with whole_folder(output) as root:
        for video in tqdm(videos, unit="video"):
            try:
                video.require_complete()
                masks = [(obj, frame) for obj in video.objects for frame in video.frames_of(obj)]
                if not masks:
                    empty.append(video.name)
                    continue
                with whole_folder(root / video.name) as folder:
                    for obj, frame in masks:
                        save_object_mask(folder, obj, video.frame_names[frame], video.mask(frame, obj))
            except (OSError, ValueError) as error:
                found.append(f"{video.name}: {error}")
    if empty:
        log.info(
            "%d of %d videos are left out, because they have no annotated object: %s", len(empty), len(videos), listed(empty)
        )
    return found


def _read_davis(root: Path, lists: Sequence[str], single: bool) -> list[EvaluationVideo]:
    frames, annotations = _subfolders(root, "JPEGImages", "Annotations")
    for resolution in ("480p", "Full-Resolution", "1080p"):
        if (annotations / resolution).is_dir():
            frames, annotations = frames / resolution, annotations / resolution
            break
    names = next(filter(None, (_listed_names(root / "ImageSets", name) for name in lists)), None)
    return _read_label_images(frames, annotations, names, every=1, single=single)


def _read_label_images(
    frames: Path, annotations: Path, names: list[str] | None = None, every: int | None = None, single: bool = False
) -> list[EvaluationVideo]:
    existing = _existing(annotations, names or find_samples(annotations, ("",)))
    return [EvaluationVideo(name, frames / name, LabelImages(annotations / name, single), every) for name in existing]


def _subfolders(root: Path, *names: str) -> list[Path]:
    folders = [root / name for name in names]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{root} is not the folder of this data set: {folder.name} is missing")
    return folders


def _listed_names(folder: Path, pattern: str) -> list[str]:
    """Read names of videos from lists: one per line, or, in DAVIS 2016, the paths of a frame and its mask.

    Such a line is "/JPEGImages/480p/VIDEO/00000.jpg /Annotations/480p/VIDEO/00000.png".
    """
    names = set()
    for source in sorted(path for path in folder.glob(pattern) if not is_foreign(path.name)):
        for path in (Path(line.split()[0]) for line in read_list(source)):
            names.add(check_inside(path.parent.name if path.suffix else path.name, source))
    return sorted(names)


def _existing(folder: Path, names: Sequence[str]) -> Sequence[str]:
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise ValueError(f"{folder} lacks {listed(missing)} of the list of videos: fix the list, or add them")
    return names


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def _flat(path: Path) -> str:
    """Make the name of a single folder from the path of a nested one."""
    return "--".join(path.parts)


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 if there is a problem."""
    parser = argparse.ArgumentParser(description="Check a data set, or write its ground truth for the evaluator.")
    action = parser.add_mutually_exclusive_group(required=True)
    names = f"check a data set; NAME is {DATASET_HELP}"
    action.add_argument("--check", nargs=2, type=given_text, metavar=("NAME", "PATH"), help=names)
    folders = ("NAME", "PATH", "OUT")
    action.add_argument(
        "--export",
        nargs=3,
        type=given_text,
        metavar=folders,
        help="write the ground truth to OUT, a folder per video and object",
    )
    parser.add_argument("--thorough", action="store_true", help="decode every frame (with --check)")
    parser.add_argument("--videos", nargs="*", default=(), metavar="VIDEO", help="names of videos (default: all)")
    parser.add_argument("--void", type=label, metavar="LABEL", help="label of pixels that belong to no object, such as 255")
    parser.add_argument(
        "--settings",
        type=given_path,
        metavar="FILE",
        help="settings.json of a run; its data set and void label must be the same",
    )
    args = parser.parse_args(arguments)
    if args.export and args.thorough:
        parser.error("--thorough needs --check")
    dataset, root, *output = args.check or args.export
    if args.settings:
        require_same_labels(args.settings, dataset, args.void)
    videos = read_dataset(dataset, root, args.videos, args.void)
    found = export_ground_truth(videos, Path(output[0])) if output else check(videos, args.thorough)
    print(*map(one_line, found), sep="\n", end="\n" if found else "")  # noqa: T201
    if args.check:
        print(f"{root}: {len(videos)} videos, {len(found)} problems")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
