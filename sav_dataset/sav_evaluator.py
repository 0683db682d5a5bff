"""Score predicted masks of videos with J&F. Arguments, layouts and output are those of SA-V's evaluator.

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
# Bytes that a process needs to score a video: measured were 65 MB for 1080p and 85 MB for 4K; many large objects need more.
_WORKER_MEMORY = 300 * 10**6


@dataclass
class Problems:
    """Problems with the predictions of a video: counted, or raised as errors if `strict`.

    Attributes:
        strict (bool): whether a problem is an error.
        counts (Counter[str]): number of problems by kind.
        messages (list[str]): one message per problem.
    """

    strict: bool
    counts: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        """Count a problem.

        Args:
            kind (str): kind under which it is counted.
            message (str): text for the user.

        Raises:
            ValueError: with the message, if `strict`.
        """
        if self.strict:
            raise ValueError(message)
        self.counts[kind] += 1
        self.messages.append(message)


@dataclass
class VideoResult:
    """Scores of the objects of a video.

    Attributes:
        name (str): name of the video.
        scores (dict[str, JF]): scores by the object's number, written with at least three digits.
        problems (Problems): what is wrong with the predictions.
        masks_read (int): number of predicted images that were scored.
        masks_filled (int): number of those that show an object.
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
    """Score the predictions for all videos of a data set.

    Args:
        gt_root (str or Path): folder of the ground truth, with a folder per video. That folder holds either a folder per
            object, with a mask per annotated frame, or label images, or masks of 0 and 255.
        pred_root (str or Path): folder of the predictions, in the same layout; additional files are ignored.
        num_processes (int): number of processes, each of which scores a video at a time; the results do not depend on it.
        strict (bool): raise an error if a prediction is missing or unusable, instead of scoring it 0 and counting it.
        skip_first_and_last (bool): leave out the first and last annotated frame; of each object if objects have folders.
        show_progress (bool): show a progress bar.
        void (int or None): label of ground-truth pixels that are not scored, such as 255; None for no such label.

    Returns:
        One result per video, sorted by name.

    Raises:
        ValueError: there is nothing to evaluate, the name of a video is not UTF-8, ground truth and predictions have different
            layouts, the ground truth is unreadable, or, if `strict`, a prediction is missing or unusable.
        NotADirectoryError: no such folder.
        WorkerDiedError: a worker process died.
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
            video.name.encode()  # needed later, to write the table
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
    """Give a `map` function that keeps the order and works in this process or in several."""
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
    annotations = open_annotations(ground_truth)
    result = VideoResult(ground_truth.name, {}, Problems(strict))
    per_object = isinstance(annotations, ObjectFolders)
    folders = annotations.folders if isinstance(annotations, ObjectFolders) else {}
    prediction = _existing(pred_root / ground_truth.name, "video", result.problems)
    if prediction is not None:
        _check_layout(ground_truth, prediction, per_object)
    if isinstance(annotations, LabelImages):
        sequence = _Sequence(annotations, prediction, result.problems, void)
        scores = _evaluate_sequence(sequence, result, skip_first_and_last)
        result.scores.update({f"{label:03d}": score for label, score in scores.items()})
    for obj, folder in folders.items():
        predicted = _existing(prediction / folder.name, "object", result.problems) if prediction is not None else None
        sequence = _Sequence(LabelImages(folder, single=True), predicted, result.problems, void, per_object=True)
        scores = _evaluate_sequence(sequence, result, skip_first_and_last)
        result.scores.update({f"{obj:03d}": score for score in scores.values()})
    return result


def _existing(folder: Path, kind: str, problems: Problems) -> Path | None:
    """The folder, or None if it is missing, which is counted as a problem of this kind."""
    if folder.is_dir():
        return folder
    problems.add(kind, f"{folder} is missing: all its frames score 0")
    return None


def _check_layout(ground_truth: Path, prediction: Path, per_object: bool) -> None:
    """Raise a ValueError if predictions have the other layout, in which case all of them would count as missing."""
    has_folders, has_images = bool(subfolders(prediction)), bool(mask_paths(prediction))
    if has_folders != has_images and has_folders != per_object:
        layouts = ("a folder per object", "images of all objects")
        theirs, wanted = layouts if has_folders else layouts[::-1]
        raise ValueError(f"{prediction} has {theirs}, but {ground_truth} has {wanted}: use the same layout for both")


class _Sequence:
    """The label images of a video, or the masks of one of its objects, and their predictions.

    Args:
        ground_truth (LabelImages): true label images.
        prediction (Path or None): folder of the predicted ones; None if it is missing, which is counted already.
        problems (Problems): problems with predictions are added to it.
        void (int or None): see `evaluate`.
        per_object (bool): whether each image is the mask of one object.

    Attributes:
        is_binary (bool): whether every value but 0 is the object.

    Raises:
        ValueError: the ground truth has no frames.
    """

    def __init__(
        self, ground_truth: LabelImages, prediction: Path | None, problems: Problems, void: int | None, per_object: bool = False
    ) -> None:
        if not ground_truth.frames:
            raise ValueError(f"no PNGs in {ground_truth.source} (--gt_root holds a folder per video)")
        self.ground_truth = ground_truth
        self.per_object = per_object
        self._prediction = prediction
        self._paths = mask_paths(prediction) if prediction else {}
        self.is_binary = ground_truth.is_binary
        self._problems = problems
        self._void = void

    def read(self, frame: str) -> tuple[Image.Image, Image.Image | None]:
        """Read a frame.

        Args:
            frame (str): name of the frame.

        Returns:
            The true and the predicted label image, without void pixels; the latter is None if it is missing or unusable, which
            is counted.

        Raises:
            ValueError: the ground truth is unreadable, or its frames differ in size.
        """
        path = self.ground_truth.paths[frame]
        true = self.ground_truth.open(frame)
        _check_labels(true, path, self.is_binary)
        if self.per_object:
            require_one_object(true, path, self._void)
        found = None
        if frame in self._paths:
            found = self._read_prediction(frame)
            if found is not None and found.size != true.size:
                _check_true_sizes(self.ground_truth)
                found = self._require_size(found, frame, true.size)
        elif self._prediction:
            self._problems.add("frame", f"{self._prediction / path.name} is missing: it scores 0")
        if self._void is None:
            return true, found
        is_scored = np.asarray(true) != self._void
        return _only(is_scored, true), None if found is None else _only(is_scored, found)

    def report_lost(self, labels: set[int], unscored: Sequence[str], size: tuple[int, int]) -> None:
        """Count the objects that are in no prediction at all.

        An object is often prompted in the first frame, which is not scored: if the prediction shows it only there, it was
        lost, not forgotten.

        Args:
            labels (set[int]): labels of the objects that are in no scored prediction.
            unscored (Sequence[str]): names of the other frames.
            size (tuple of int): (width, height) of the ground truth in pixels.
        """
        for frame in unscored if labels else ():
            if frame in self._paths and (found := self._read_prediction(frame)) is not None:
                found = self._require_size(found, frame, size)
                labels = labels.difference(_labels(found, self.is_binary) if found is not None else ())
        for lost in sorted(labels):
            self._problems.add("object", f"{self._prediction} has object {lost} in no frame: it counts as empty")

    def _read_prediction(self, frame: str) -> Image.Image | None:
        """A predicted label image, or None if it is unusable, which is counted."""
        path = self._paths[frame]
        try:
            image = open_labels(path)
            _check_labels(image, path, self.is_binary)
            if self.per_object:
                require_one_object(image, path)
        except ValueError as error:
            self._problems.add("unreadable frame", f"{error}; it scores 0")
            return None
        return image

    def _require_size(self, image: Image.Image, frame: str, size: tuple[int, int]) -> Image.Image | None:
        """A predicted label image, or None if it is not (width, height) pixels, which is counted."""
        if image.size == size:
            return image
        sizes = "x".join(map(str, image.size)), "x".join(map(str, size))
        message = f"{self._paths[frame]} is {sizes[0]} pixels, the ground truth {sizes[1]}: it scores 0"
        self._problems.add("frame of another size", message)
        return None


def _evaluate_sequence(sequence: _Sequence, result: VideoResult, skip_first_and_last: bool) -> dict[int, JF]:
    """Score the objects of a sequence.

    Args:
        sequence (_Sequence): label images and their predictions.
        result (VideoResult): result of the video; the numbers of masks are added to it.
        skip_first_and_last (bool): see `evaluate`.

    Returns:
        Scores by label, of the objects that the ground truth shows in a scored frame.
    """
    frames = sequence.ground_truth.frames
    scored = frames[1:-1] if skip_first_and_last else frames
    objects: defaultdict[int, ObjectScores] = defaultdict(ObjectScores)
    predicted: set[int] = set()
    num_missing = 0
    size = (0, 0)
    for frame in scored:
        true_image, found_image = sequence.read(frame)
        size = true_image.size
        box = _box_around(true_image, found_image)
        true_masks = _masks(true_image, box, sequence.is_binary)
        if found_image is None:
            num_missing += 1
            for label in true_masks:
                objects[label].in_ground_truth = True
            continue
        found_masks = _masks(found_image, box, sequence.is_binary)
        predicted |= found_masks.keys()
        result.masks_read += 1
        result.masks_filled += bool(found_masks)
        empty = np.zeros((box[3] - box[1], box[2] - box[0]), bool)
        tolerance = tolerance_in_pixels(true_image.height, true_image.width)
        for label in objects.keys() | true_masks.keys() | found_masks.keys():
            objects[label].add(true_masks.get(label, empty), found_masks.get(label, empty), tolerance)
    scores = {label: objects[label].percent(num_missing) for label in sorted(objects) if objects[label].in_ground_truth}
    if not scores:
        log.warning("%s has no object in the scored frames: it is not scored", sequence.ground_truth.source)
    if not sequence.per_object and num_missing < len(scored):
        unscored = sorted({frames[0], frames[-1]}.difference(scored))
        sequence.report_lost(scores.keys() - predicted, unscored, size)
    return scores


def _check_labels(image: Image.Image, path: Path, is_binary: bool) -> None:
    """Raise a ValueError if there are labels above 255; in a binary image every value but 0 is the object."""
    if image.mode == "I" and not is_binary:
        raise ValueError(f"{path} has labels above 255: expected a palette or grayscale image of 8 bits")


def _check_true_sizes(ground_truth: LabelImages) -> None:
    """Raise a ValueError that names the first image whose size differs from that of most ground-truth images."""
    sizes = {path: upright_size(path) for path in ground_truth.paths.values()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    for path, size in sizes.items():
        if size != usual:
            raise ValueError(
                f"{path} is {size[0]}x{size[1]} pixels, but most of this video's ground truth is {usual[0]}x{usual[1]}"
            )


def _only(is_scored: np.ndarray, image: Image.Image) -> Image.Image:
    """A label image with 0 in all pixels that are not scored."""
    return Image.fromarray(np.where(is_scored, np.asarray(image), np.uint8(0)))


def _labels(image: Image.Image, is_binary: bool = False) -> list[int]:
    """The labels in an image, without 0; of a binary one 1, if there is an object."""
    if is_binary:
        return [1] if image.getbbox() else []
    return labels_in(image)


def _box_around(true: Image.Image, found: Image.Image | None) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around all objects of both images, with a margin of one pixel.

    The pixels outside of it are never converted to NumPy, which saves a third of the time that reading takes.
    """
    boxes = [box for image in (true, found) if image is not None and (box := image.getbbox())] or [(0, 0, 1, 1)]
    left, top, right, bottom = zip(*boxes, strict=True)
    return max(min(left) - 1, 0), max(min(top) - 1, 0), min(max(right) + 1, true.width), min(max(bottom) + 1, true.height)


def _masks(image: Image.Image, box: tuple[int, int, int, int], is_binary: bool) -> dict[int, np.ndarray]:
    """The objects' masks inside a box, (H, W) bool, by label."""
    part = image.crop(box)
    pixels = np.asarray(part)
    return {label: pixels != 0 if is_binary else pixels == label for label in _labels(part, is_binary)}


def table_rows(results: Sequence[VideoResult], all_frames: bool = False) -> list[tuple[str, str, float, float, float]]:
    """The rows of results.csv: the mean over all objects, then one row per object.

    Args:
        results (Sequence[VideoResult]): results of all videos.
        all_frames (bool): whether the first and last frame are scored too, which the table then says.

    Returns:
        Per row: video, object, and J&F, J and F in percent.
    """
    rows = [("Global score", ALL_FRAMES if all_frames else "", *_mean(results))]
    rows += [(result.name, name, *_numbers(score)) for result in results for name, score in result.scores.items()]
    return rows


def _numbers(score: JF) -> tuple[float, float, float]:
    return score.j_and_f, score.j, score.f


def _mean(results: Sequence[VideoResult]) -> tuple[float, float, float]:
    """The means of J&F, J and F over all objects of all videos, in percent."""
    numbers = [_numbers(score) for result in results for score in result.scores.values()]
    return tuple(np.mean(numbers, axis=0).tolist())


def report_problems(results: Sequence[VideoResult]) -> None:
    """Log which predictions were missing or unusable, and how many."""
    messages = [message for result in results for message in result.problems.messages]
    for message in messages[:_MESSAGES_SHOWN]:
        log.warning("warning: %s", message)
    if len(messages) > _MESSAGES_SHOWN:
        log.warning("warning: ... and %d more", len(messages) - _MESSAGES_SHOWN)
    counts = sum((result.problems.counts for result in results), Counter())
    if counts:
        listed = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))
        log.warning("warning: %d predictions are missing or unusable (%s); they lower the scores", len(messages), listed)
    if any(result.masks_read for result in results) and not any(result.masks_filled for result in results):
        log.warning("warning: every predicted mask is empty: were the weights loaded and the objects prompted?")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description="Score predicted masks of videos with J&F. Print a table and write it to results.csv in --pred_root."
    )
    parser.add_argument("--gt_root", type=given_path, required=True, help="folder of the ground truth, with a folder per video")
    parser.add_argument("--pred_root", type=given_path, required=True, help="folder of the predictions, in the same layout")
    parser.add_argument(
        "-n",
        "--num_processes",
        type=whole_number(1),
        help="number of videos scored in parallel (default: one per core, as far as memory allows)",
    )
    parser.add_argument(
        "-s", "--strict", action="store_true", help="stop at a missing or unusable prediction instead of scoring it 0"
    )
    parser.add_argument("--void", type=label, metavar="LABEL", help="label of ground-truth pixels that are not scored")
    parser.add_argument("-q", "--quiet", action="store_true", help="print warnings and errors only")
    parser.add_argument(
        "--do_not_skip_first_and_last_frame",
        action="store_true",
        help="score these frames too; by default they are left out, as in SA-V and DAVIS",
    )
    return parser


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments (Sequence[str] or None): arguments; by default those of the process.

    Returns:
        Exit status: 0, or 1 after an error.
    """
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
