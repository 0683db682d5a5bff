"""The network's thread: what comes first, errors, and its end."""

from __future__ import annotations

import threading

import pytest

from i2v.app.scheduler import Priority, Scheduler


@pytest.fixture
def scheduler():
    scheduler = Scheduler()
    yield scheduler
    scheduler.close()


@pytest.fixture
def held(scheduler):
    """A scheduler that is busy until the returned event is set."""
    started, go = threading.Event(), threading.Event()
    scheduler.submit(Priority.PROMPT, lambda: (started.set(), go.wait()))
    assert started.wait(10)
    yield go
    go.set()


def test_prompts_before_tracking_before_preparing(scheduler, held):
    done = []
    for priority in (Priority.PREPARE, Priority.TRACK, Priority.PROMPT) * 2:
        future = scheduler.submit(priority, lambda priority=priority: done.append(priority))
    last = scheduler.submit(Priority.PREPARE, lambda: None)
    held.set()
    last.result(10)
    assert future.done()
    assert done == [Priority.PROMPT] * 2 + [Priority.TRACK] * 2 + [Priority.PREPARE] * 2


def test_those_that_submit_step_by_step_take_turns(scheduler, held):
    done, ended = [], threading.Event()

    def step(name, left):
        done.append(name)
        if left:
            scheduler.submit(Priority.TRACK, lambda: step(name, left - 1))
        elif done.count("a") == done.count("b") == 3:
            ended.set()

    for name in "ab":
        scheduler.submit(Priority.TRACK, lambda name=name: step(name, 2))
    held.set()
    assert ended.wait(10)
    assert done == ["a", "b"] * 3


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), MemoryError()])
def test_errors_reach_whoever_asked(scheduler, error):
    def fail():
        raise error

    failed = scheduler.submit(Priority.PROMPT, fail)
    assert failed.exception(10) is error
    assert scheduler.submit(Priority.PROMPT, lambda: 3).result(10) == 3


def test_cancelled_work_is_not_done(scheduler, held):
    done = []
    future = scheduler.submit(Priority.TRACK, lambda: done.append(1))
    assert future.cancel()
    held.set()
    scheduler.submit(Priority.PREPARE, lambda: None).result(10)
    assert done == []


def test_close_finishes_what_was_submitted():
    scheduler, done = Scheduler(), []
    for _ in range(5):
        scheduler.submit(Priority.PREPARE, lambda: done.append(1))
    scheduler.close()
    assert len(done) == 5 and not scheduler._thread.is_alive()
    with pytest.raises(RuntimeError, match="being stopped"):
        scheduler.submit(Priority.PROMPT, lambda: None)


def test_results_are_not_kept():
    """A session that was closed is not held by the thread that waits for more work."""
    import gc
    import weakref

    class Large:
        pass

    scheduler, large = Scheduler(), Large()
    reference = weakref.ref(large)
    scheduler.submit(Priority.PROMPT, lambda large=large: large).result(10)
    del large
    scheduler.submit(Priority.PROMPT, lambda: None).result(10)
    gc.collect()
    assert reference() is None
    scheduler.close()
