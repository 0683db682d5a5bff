"""One thread for all work of the network: clicks before tracking, tracking before frames that are encoded ahead."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from typing import Any, TypeVar

_Result = TypeVar("_Result")


class Priority(IntEnum):
    """What comes first; work of the same priority runs in the order in which it was submitted."""

    PROMPT = 0
    TRACK = 1
    PREPARE = 2
    STOP = 3


class Scheduler:
    """Runs functions one after the other in a thread of its own.

    Long work is submitted in small steps, each of which submits the next one: so a click waits for one frame at most, and the
    sessions that track take turns.
    """

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], Any] | None, Future[Any]]] = queue.PriorityQueue()
        self._sequence = itertools.count()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)
        self._thread.start()

    def submit(self, priority: Priority, function: Callable[[], _Result]) -> Future[_Result]:
        """Run a function soon.

        Args:
            priority (Priority): what it waits for.
            function (Callable[[], Any]): the function.

        Returns:
            Its result, or the exception that it raised.

        Raises:
            RuntimeError: the scheduler was closed.
        """
        if self._is_closed:
            raise RuntimeError("the server is being stopped")
        future: Future[_Result] = Future()
        self._queue.put((priority, next(self._sequence), function, future))
        return future

    def close(self) -> None:
        """Finish what was submitted, and end the thread."""
        self._is_closed = True
        self._queue.put((Priority.STOP, next(self._sequence), None, Future()))
        self._thread.join()

    def _run(self) -> None:
        while True:
            _, _, function, future = self._queue.get()
            if function is None:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 # whoever waits for the result gets it
                future.set_exception(error)
            else:
                future.set_result(result)
            del function, future  # they may hold a session that was closed
