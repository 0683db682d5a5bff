"""Signals that ask a training to stop, SIGTERM (Slurm, torchrun) and SIGINT (Ctrl-C), and the processes that read its data."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes the signals that arrive inside of `with`, instead of ending the process.

    Attributes:
        made: the signal that arrived, or None.
    """

    def __init__(self) -> None:
        self.made: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._former = {kind: signal.signal(kind, self._note) for kind in _SIGNALS}
        return self

    def __exit__(self, *_: Any) -> None:
        for kind, handler in self._former.items():
            signal.signal(kind, handler)

    def _note(self, number: int, _: Any) -> None:
        self.made = signal.Signals(number)


@contextmanager
def deaf_children(children: list[BaseProcess]) -> Iterator[None]:
    """Processes that are started inside of this context never get these signals, and are added to `children`. Ctrl-C reaches
    all processes of a terminal, but only the one that trains shall decide. What arrives for this process meanwhile comes after
    the context."""
    resource_tracker.ensure_running()  # or the first process that is spawned starts it, and that lifts the block
    earlier = multiprocessing.active_children()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        children += [child for child in multiprocessing.active_children() if child not in earlier]


def kill_children(children: list[BaseProcess]) -> None:
    """End deaf processes that have not ended by themselves. Python would ask them with SIGTERM when it exits, and wait for
    ever."""
    # PyTorch's handler would report that a worker was killed, instead of the error.
    former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        for child in children:
            child.kill()
            child.join()
    finally:
        signal.signal(signal.SIGCHLD, former)
