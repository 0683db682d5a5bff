"""Signals that ask a training to stop: SIGTERM (Slurm, torchrun) and SIGINT (Ctrl-C)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes the signals that arrive inside of `with`, instead of ending the process.

    Attributes:
        made: whether one arrived.
    """

    def __init__(self) -> None:
        self.made = False

    def __enter__(self) -> StopRequest:
        self._former = {kind: signal.signal(kind, self._note) for kind in _SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for kind, handler in self._former.items():
            signal.signal(kind, handler)

    def _note(self, *_: Any) -> None:
        self.made = True


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started inside of this context never get these signals. Ctrl-C reaches all processes of a terminal,
    but only the one that trains shall decide. What arrives for this process meanwhile comes after the context."""
    resource_tracker.ensure_running()  # or the first process that is spawned starts it, and that lifts the block
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
