"""Free memory is returned to the system."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest

from i2v.utils.process_memory import release_free_memory


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc: nothing is released")
def test_free_memory_between_tensors_that_stay_is_released() -> None:
    blocks = [bytearray(b"x") * 65536 for _ in range(1000)]
    stay = blocks[::50] + blocks[-1:]  # the last one keeps the heap from shrinking by itself
    del blocks
    before = resident()
    release_free_memory()
    assert resident() < before - 40 * 2**20
    assert all(block[0] == ord("x") for block in stay)


def test_it_does_no_harm_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    release_free_memory()
