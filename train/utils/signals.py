"""Signals that ask a training to stop: SIGTERM (from Slurm or torchrun) and SIGINT (Ctrl-C)."""

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
    """A context that notes signals, instead of letting them end the process.

    Attributes:
        made (signal.Signals or None): the signal that arrived.
    """

    def __init__(self) -> None:
        self.made: signal.Signals | None = None

    def __enter__(self) -> StopRequest:
        self._former = {kind: signal.signal(kind, self._note) for kind in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._former.items():
            signal.signal(kind, handler)

    def _note(self, number: int, _: Any) -> None:
        self.made = signal.Signals(number)


@contextmanager
def ignoring_signals(children: list[BaseProcess]) -> Iterator[None]:
    """A context in which started processes never receive these signals.

    Ctrl-C reaches all processes of a terminal, but only the one that trains decides. Signals for this process are delivered
    after the context.

    Args:
        children (list[BaseProcess]): the processes that are started are appended to it.
    """
    resource_tracker.ensure_running()  # otherwise the first spawned process starts it, which unblocks the signals
    earlier = multiprocessing.active_children()
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        children += [child for child in multiprocessing.active_children() if child not in earlier]


@contextmanager
def killed_children() -> Iterator[list[BaseProcess]]:
    """A list of processes, to be filled, that are killed at the end of the context unless they have ended by themselves.

    Processes that ignore signals must be killed: at exit, Python would send them SIGTERM and wait for ever.
    """
    children: list[BaseProcess] = []
    try:
        yield children
    finally:
        # PyTorch's handler would report a killed worker, instead of the error.
        former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            for child in children:
                child.kill()
                child.join()
        finally:
            signal.signal(signal.SIGCHLD, former)
