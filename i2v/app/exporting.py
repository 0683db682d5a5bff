"""Exports of a session: the files of `i2v.exports` in an archive."""

from __future__ import annotations

import json
import logging
import secrets
import shutil
import threading
import zipfile
from collections.abc import Sequence
from pathlib import Path

from i2v.app.jobs import Job
from i2v.app.session import ConflictError, SessionResults
from i2v.app.workspace import OpenSession
from i2v.exports import FORMATS, export
from i2v.prompt_files import PromptFile
from i2v.utils.command_line import EXPECTED_ERRORS, one_line
from i2v.utils.files import full_disk_named, whole_folder

log = logging.getLogger(__name__)

_KEPT = 3  # number of exports that a session keeps
_STORED = {".mp4", ".webm", ".png"}  # already compressed


class _StoppedError(Exception):
    """The user stopped the export."""


def start_export(opened: OpenSession, formats: Sequence[str]) -> Job:
    """Write an export in a thread of its own.

    Args:
        opened (OpenSession): the session.
        formats (Sequence[str]): keys of `i2v.exports.FORMATS`.

    Returns:
        The job.

    Raises:
        ValueError: an unknown format, or none.
        ConflictError: there is nothing to export, or a job is running.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise ValueError(f"formats are some of {', '.join(FORMATS)}, not {unknown}")
    results, prompts = opened.session.results(), opened.session.prompt_file()
    if not results.tracked() and set(formats) != {"prompts"}:
        raise ConflictError("there are no masks to export: click an object first, or show one that is hidden")
    if "prompts" in formats and not prompts.prompts():
        raise ConflictError("there are no prompts to export: click an object first")
    job = opened.session.start_export()
    arguments = (opened, results, prompts, list(dict.fromkeys(formats)), job)
    threading.Thread(target=_run, args=arguments, name="export", daemon=True).start()
    return job


def _run(opened: OpenSession, results: SessionResults, prompts: PromptFile, formats: list[str], job: Job) -> None:
    message = None
    try:
        _write(opened, results, prompts, formats, job)
    except _StoppedError:
        pass
    except EXPECTED_ERRORS as error:
        message = f"the export failed: {one_line(error)}"
    except Exception as error:
        log.exception("the export of %s failed", opened.session.name)
        message = f"the export failed: {one_line(error)}"
    opened.session.end_job(job, message)


def _write(opened: OpenSession, results: SessionResults, prompts: PromptFile, formats: list[str], job: Job) -> None:
    def progress(done: int, total: int) -> None:
        _check_stopped(job)
        job.total = total
        job.advance(done)
        opened.session.report(job)

    name = results.name
    exports = opened.folder / "exports"
    exports.mkdir(exist_ok=True)
    frames = opened.session.frames.another()  # it reads them in order, whatever the tracker and the page read
    try:
        with whole_folder(exports / secrets.token_hex(8)) as folder:
            files = folder / "files"
            files.mkdir()
            export(results, formats, files, frames.__getitem__, progress, prompts)
            made = [path for path in sorted(files.rglob("*")) if path.is_file()]
            if len(made) == 1:
                target = folder / f"{name}-{made[0].name}"
                made[0].rename(target)
            else:
                target = folder / f"{name}.zip"
                _zip(target, name, files, made, job)
            shutil.rmtree(files)
            about = {"name": target.name, "bytes": target.stat().st_size, "formats": formats}
            (folder / "export.json").write_text(json.dumps(about))
    finally:
        if frames is not opened.session.frames:
            frames.close()
    finished = sorted(exports.glob("*/export.json"), key=lambda path: path.stat().st_mtime)
    for path in finished[:-_KEPT]:
        shutil.rmtree(path.parent)
    opened.refresh_exports()


def _check_stopped(job: Job) -> None:
    if job.stopping:
        raise _StoppedError


def _zip(target: Path, name: str, folder: Path, files: Sequence[Path], job: Job) -> None:
    with full_disk_named(target), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            _check_stopped(job)
            kind = zipfile.ZIP_STORED if path.suffix in _STORED else zipfile.ZIP_DEFLATED
            archive.write(path, f"{name}/{path.relative_to(folder).as_posix()}", kind)
