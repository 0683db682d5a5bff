"""The command that scores predicted masks of videos with J&F. Arguments, layouts and output are those of SA-V's evaluator.

python sav_dataset/sav_evaluator.py --gt_root Annotations_6fps --pred_root predictions
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from i2v.data.annotations import LabelImages, ObjectFolders, open_annotations
from i2v.data.files import subfolders
from i2v.data.images import upright_size
from i2v.data.mask_files import labels_in, mask_paths, open_labels, require_one_object
from i2v.data.scores import ALL_FRAMES, format_scores, score_cells
from i2v.utils.command_line import command_line, given_path, label, make_room_for, whole_number
from i2v.utils.files import atomic_write
from i2v.utils.jf import JF, ObjectScores, tolerance_in_pixels
from i2v.utils.processes import default_workers, worker_pool

log = logging.getLogger("sav_dataset.sav_evaluator")

_MESSAGES_SHOWN = 10
# Bytes of a process that scores a video: 65 MB were measured with frames of 1080p, 85 MB with 4K; many large objects take more.
_WORKER_MEMORY = 300 * 10**6


@dataclass
class Problems:
    """What is wrong with the predictions of a video: counted, or an error with `strict`.

    Attributes:
        counts: by kind. messages: one per problem.
    """

    strict: bool
    counts: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        """Count a problem.

        Raises:
            ValueError: with `strict`.
        """
        if self.strict:
            raise ValueError(message)
        self.counts[kind] += 1
        self.messages.append(message)


@dataclass
class VideoResult:
    """Scores of a video's objects, by their names (numbers of at least three digits).

    Attributes:
        masks_read: predicted images that were scored.
        masks_filled: those of them with an object in them.
    """

    name: str
    scores: dict[str, JF]
    problems: Problems
    masks_read: int = 0
    masks_filled: int = 0


def evaluate(
    gt_root: str | Path,
    pred_root: str | Path,
    num_processes: int = 1,
    strict: bool = False,
    skip_first_and_last: bool = True,
    show_progress: bool = False,
    void: int | None = None,
) -> list[VideoResult]:
    """Score the predictions of all videos of a data set.

    Args:
        gt_root: a folder per video, either with a folder per object, each with a mask per annotated frame, or with label
            images, or with masks of 0 and 255.
        pred_root: the same files, predicted; further ones are ignored.
        num_processes: that work at the same time, a video each; the results do not depend on it.
        strict: raise an error where a prediction is missing or cannot be used, instead of scoring it 0 and counting it.
        skip_first_and_last: leave out the first and last annotated frame, of each object where these have folders.
        show_progress: with a bar.
        void: the label, such as 255, of pixels of the ground truth that are not scored; none by default.

    Returns:
        One result per video, in the order of their names.

    Raises:
        ValueError: there is nothing to evaluate, the name of a video is not UTF-8, ground truth and predictions have different
            layouts, the ground truth cannot be read, or a prediction cannot, with `strict`.
        NotADirectoryError: no such folder.
        WorkerDiedError: one of several processes died.
    """
    gt_root, pred_root = Path(gt_root), Path(pred_root)
    for root in (gt_root, pred_root):
        if not root.is_dir():
            raise NotADirectoryError(f"no such folder: {root}")
    videos = subfolders(gt_root)
    if not videos:
        raise ValueError(f"no videos in {gt_root}: expected a folder for each")
    for video in videos:
        try:
            video.name.encode()  # as the table will need it
        except UnicodeEncodeError as error:
            raise ValueError(f"{gt_root}: the folder {video.name!r} has a name that is not UTF-8: rename it") from error
    if num_processes < 1:
        raise ValueError(f"the number of processes must be at least 1, got {num_processes}")
    work = partial(_evaluate_video, pred_root=pred_root, strict=strict, skip_first_and_last=skip_first_and_last, void=void)
    with _mapper(min(num_processes, len(videos))) as ordered_map:
        results = list(tqdm(ordered_map(work, videos), total=len(videos), unit="video", disable=not show_progress))
    if not any(result.scores for result in results):
        raise ValueError(f"nothing to score in {gt_root}: no object in any frame that counts")
    return results


@contextmanager
def _mapper(num_processes: int) -> Iterator[Callable]:
    """A `map` that keeps the order, in this process or in several."""
    if num_processes == 1:
        yield map
        return
    with worker_pool(num_processes, "-n", _one_thread) as pool:
        yield pool.map


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _evaluate_video(
    ground_truth: Path, pred_root: Path, strict: bool, skip_first_and_last: bool, void: int | None
) -> VideoResult:
    prediction: Path | None = pred_root / ground_truth.name
    problems = Problems(strict)
    annotations = open_annotations(ground_truth)
    per_object = isinstance(annotations, ObjectFolders)
    objects = annotations.objects if per_object else []
    if not prediction.is_dir():
        problems.add("video", f"{prediction} is missing: all its frames score 0")
        prediction = None
    else:
        _check_layout(ground_truth, prediction, per_object)
    result = VideoResult(ground_truth.name, {}, problems)
    if not per_object:
        scores = _evaluate_sequence(annotations, prediction, result, skip_first_and_last, void)
        result.scores.update({f"{label:03d}": score for label, score in scores.items()})
        return result
    for obj in objects:
        folder = annotations.folders[obj]
        predicted_folder = prediction and prediction / folder.name
        if predicted_folder and not predicted_folder.is_dir():
            problems.add("object", f"{predicted_folder} is missing: all its frames score 0")
            predicted_folder = None
        masks = LabelImages(folder, single=True)
        scores = _evaluate_sequence(masks, predicted_folder, result, skip_first_and_last, void, per_object=True)
        result.scores.update({f"{obj:03d}": score for score in scores.values()})
    return result


def _check_layout(ground_truth: Path, prediction: Path, per_object: bool) -> None:
    """Raise a ValueError for predictions in the other layout, which would all be missing."""
    has_folders, has_images = bool(subfolders(prediction)), bool(mask_paths(prediction))
    if has_folders != has_images and has_folders != per_object:
        layouts = ("a folder per object", "images of all objects")
        theirs, wanted = layouts if has_folders else layouts[::-1]
        raise ValueError(f"{prediction} has {theirs}, but {ground_truth} {wanted}: give both in one layout")


def _evaluate_sequence(
    ground_truth: LabelImages,
    prediction: Path | None,
    result: VideoResult,
    skip_first_and_last: bool,
    void: int | None,
    per_object: bool = False,
) -> dict[int, JF]:
    """Scores by label of a folder of label images. Objects that are in no frame of the ground truth that counts have none.

    Args:
        ground_truth: the label images.
        prediction: its folder; None if it is missing, which was counted already.
        result: of the video; what is wrong is added to it, and what was read.
        skip_first_and_last: see `evaluate`.
        void: see `evaluate`.
        per_object: the label images are masks of one object.
    """
    frames = ground_truth.frames
    if not frames:
        raise ValueError(f"no PNGs in {ground_truth.source} (--gt_root holds a folder per video)")
    problems = result.problems
    predictions = mask_paths(prediction) if prediction else {}
    binary = ground_truth.is_binary
    objects: defaultdict[int, ObjectScores] = defaultdict(ObjectScores)
    predicted: set[int] = set()
    num_missing = 0
    evaluated = frames[1:-1] if skip_first_and_last else frames
    for frame in evaluated:
        true_image = ground_truth.open(frame)
        _check_labels(true_image, ground_truth.paths[frame], binary)
        if per_object:
            require_one_object(true_image, ground_truth.paths[frame], void)
        found_image = None
        if frame in predictions:
            found_image = _read_prediction(
                predictions[frame], true_image.size, problems, binary, per_object, ground_truth=ground_truth
            )
        elif prediction:
            problems.add("frame", f"{prediction / ground_truth.paths[frame].name} is missing: it scores 0")
        if void is not None:
            true_image, found_image = _without_void(true_image, found_image, void)
        box = _box_around(true_image, found_image)
        true_masks = _masks(true_image, box, binary)
        if not found_image:
            num_missing += 1
            for label in true_masks:
                objects[label].in_ground_truth = True
            continue
        found_masks = _masks(found_image, box, binary)
        predicted |= found_masks.keys()
        result.masks_read += 1
        result.masks_filled += bool(found_masks)
        nothing = np.zeros((box[3] - box[1], box[2] - box[0]), bool)
        tolerance = tolerance_in_pixels(true_image.height, true_image.width)
        for label in objects.keys() | true_masks.keys() | found_masks.keys():
            objects[label].add(true_masks.get(label, nothing), found_masks.get(label, nothing), tolerance)
    scores = {label: objects[label].percent(num_missing) for label in sorted(objects) if objects[label].in_ground_truth}
    if not scores:
        log.warning("%s has no object in the frames that count: it is not scored", ground_truth.source)
    lost = scores.keys() - predicted
    if lost and not per_object and num_missing < len(evaluated):
        # Where it was prompted is often a frame that does not count: an object that is only there is lost, not forgotten.
        ends = [predictions[end] for end in sorted({frames[0], frames[-1]}.difference(evaluated)) if end in predictions]
        images = filter(None, (_read_prediction(path, true_image.size, problems, binary) for path in ends))
        lost = lost.difference(*(_labels(image, binary) for image in images))
        for label in sorted(lost):
            problems.add("object", f"{prediction} has object {label} in no frame: it counts as empty")
    return scores


def _check_labels(image: Image.Image, path: Path, binary: bool) -> None:
    """Raise a ValueError for labels above 255; in a binary image everything but 0 is the object."""
    if image.mode == "I" and not binary:
        raise ValueError(f"{path} has labels above 255: expected a palette or a grey image of 8 bits")


def _read_prediction(
    path: Path,
    size: tuple[int, int],
    problems: Problems,
    binary: bool,
    per_object: bool = False,
    ground_truth: LabelImages | None = None,
) -> Image.Image | None:
    """A predicted label image, or mask, of the size (width, height), or None, counted, if it cannot be used.

    Raises:
        ValueError: it has another size, and the file of the `ground_truth` is the one to blame.
    """
    try:
        image = open_labels(path)
        _check_labels(image, path, binary)
        if per_object:
            require_one_object(image, path)
    except ValueError as error:
        return problems.add("unreadable frame", f"{error}; it scores 0")
    if image.size != size:
        if ground_truth is not None:
            _check_true_sizes(ground_truth)
        sizes = "x".join(map(str, image.size)), "x".join(map(str, size))
        return problems.add("frame of another size", f"{path} is {sizes[0]} pixels, the ground truth {sizes[1]}: it scores 0")
    return image


def _check_true_sizes(ground_truth: LabelImages) -> None:
    """Raise a ValueError that names the first image whose size is not that of most images of the ground truth."""
    sizes = {path: upright_size(path) for path in ground_truth.paths.values()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    for path, size in sizes.items():
        if size != usual:
            raise ValueError(
                f"{path} is {size[0]}x{size[1]} pixels, most of the ground truth of this video {usual[0]}x{usual[1]}"
            )


def _without_void(true: Image.Image, found: Image.Image | None, void: int) -> tuple[Image.Image, Image.Image | None]:
    """Both label images without the pixels that are not scored."""
    keep = np.asarray(true) != void
    return tuple(image and Image.fromarray(np.where(keep, np.asarray(image), np.uint8(0))) for image in (true, found))


def _labels(image: Image.Image, binary: bool = False) -> list[int]:
    """The labels in an image, without 0; of a binary one 1, if there is an object."""
    if binary:
        return [1] if image.getbbox() else []
    return labels_in(image)


def _box_around(*images: Image.Image | None) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around all objects of images of one size, and one pixel more on each side. What is
    outside never leaves Pillow, which saves a third of the time of reading."""
    boxes = [box for image in images if image and (box := image.getbbox())] or [(0, 0, 1, 1)]
    left, top, right, bottom = zip(*boxes, strict=True)
    width, height = images[0].size
    return max(min(left) - 1, 0), max(min(top) - 1, 0), min(max(right) + 1, width), min(max(bottom) + 1, height)


def _masks(image: Image.Image, box: tuple[int, int, int, int], binary: bool) -> dict[int, np.ndarray]:
    """The objects' masks inside a box, (H, W) bool, by label."""
    part = image.crop(box)
    pixels = np.asarray(part)
    return {label: pixels != 0 if binary else pixels == label for label in _labels(part, binary)}


def table_rows(results: Sequence[VideoResult], all_frames: bool = False) -> list[tuple[str, str, float, float, float]]:
    """The rows of results.csv: the mean over all objects, then one per object.

    Args:
        results: of the videos.
        all_frames: whether the first and the last one are scored, too, which the table then says.
    """
    rows = [("Global score", ALL_FRAMES if all_frames else "", *_mean(results))]
    rows += [(result.name, name, *_numbers(score)) for result in results for name, score in result.scores.items()]
    return rows


def _numbers(score: JF) -> tuple[float, float, float]:
    return score.j_and_f, score.j, score.f


def _mean(results: Sequence[VideoResult]) -> tuple[float, float, float]:
    """J&F, J and F: the means over all objects of all videos."""
    numbers = [_numbers(score) for result in results for score in result.scores.values()]
    return tuple(np.mean(numbers, axis=0).tolist())


def report_problems(results: Sequence[VideoResult]) -> None:
    """Log what was missing or not usable, and how often."""
    messages = [message for result in results for message in result.problems.messages]
    for message in messages[:_MESSAGES_SHOWN]:
        log.warning("warning: %s", message)
    if len(messages) > _MESSAGES_SHOWN:
        log.warning("warning: ... and %d more", len(messages) - _MESSAGES_SHOWN)
    counts = sum((result.problems.counts for result in results), Counter())
    if counts:
        listed = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))
        log.warning("warning: %d predictions are missing or not usable (%s); they lower the scores", len(messages), listed)
    if any(result.masks_read for result in results) and not any(result.masks_filled for result in results):
        log.warning("warning: every predicted mask is empty: were the weights loaded, and the objects prompted?")


def build_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        description="Score predicted masks of videos with J&F. Prints a table, and writes it to results.csv in --pred_root."
    )
    parser.add_argument("--gt_root", type=given_path, required=True, help="the ground truth: a folder per video")
    parser.add_argument("--pred_root", type=given_path, required=True, help="the predictions, with the same names and layout")
    parser.add_argument(
        "-n",
        "--num_processes",
        type=whole_number(1),
        help="videos that are scored at the same time; by default one per core, as far as they fit into the memory",
    )
    parser.add_argument(
        "-s", "--strict", action="store_true", help="stop at a missing or unusable prediction, instead of scoring it 0"
    )
    parser.add_argument("--void", type=label, metavar="LABEL", help="label of pixels of the ground truth that are not scored")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings and errors")
    parser.add_argument(
        "--do_not_skip_first_and_last_frame",
        action="store_true",
        help="score these frames, too; by default they are left out, as in SA-V and DAVIS",
    )
    return parser


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or 1 after an error."""
    args = build_parser().parse_args(arguments)
    started = time.perf_counter()
    target = args.pred_root / "results.csv"
    if args.pred_root.is_dir():
        make_room_for(target)
    results = evaluate(
        args.gt_root,
        args.pred_root,
        args.num_processes or default_workers(_WORKER_MEMORY),
        args.strict,
        skip_first_and_last=not args.do_not_skip_first_and_last_frame,
        show_progress=not args.quiet,
        void=args.void,
    )
    rows = table_rows(results, args.do_not_skip_first_and_last_frame)
    with atomic_write(target) as temporary:
        temporary.write_text(format_scores(rows, 8), encoding="utf-8")
    report_problems(results)
    if not args.quiet:
        j_and_f, j, f = _mean(results)
        table = "".join(" ".join(cells) + "\n" for cells in score_cells(rows, decimals=1))
        summary = f"Global score: J&F: {j_and_f:.1f} J: {j:.1f} F: {f:.1f}\nTime taken: {time.perf_counter() - started:.2f}s"
        print(f"{table}\nSummary:\n{summary}\nThe table is in {target}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
