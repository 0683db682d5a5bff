"""System errors that name the file."""

from __future__ import annotations

import errno
import os

import pytest

from i2v.utils.files import atomic_write


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EFBIG, "ulimit -f")]
)
def test_file_that_cannot_be_written_whole_is_named(number, message, tmp_path):
    with pytest.raises(OSError, match=rf"cannot write .*a\.json: .*{message}"), atomic_write(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))
    assert list(tmp_path.iterdir()) == []
