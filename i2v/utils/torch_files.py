"""Checks of `torch.save` files before PyTorch unpacks them: small ones can exhaust the memory or take forever."""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_MAX_DEPTH = 100
_MAX_REPEATED = 1_000_000  # values; those that occur once are not counted, such as tensors
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_STORES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_FETCHES = ("GET", "BINGET", "LONG_BINGET")


class BombError(ValueError):
    """A file unpacks to far more than its size. The message says how, as a phrase that follows the file's name."""


@dataclass(slots=True)
class _Item:
    """An object that a pickle builds.

    Attributes:
        size (int): number of values in it.
        depth (int): depth of their nesting.
        is_shared (bool): whether it is used in several places.
    """

    size: int = 1
    depth: int = 0
    is_shared: bool = False


def check_torch_file(path: Path) -> None:
    """Check that a file unpacks to no more than it holds, without reading its tensors.

    Args:
        path (Path): the file.

    Raises:
        BombError: records are compressed or overlap, or objects are nested too deeply or repeated too often.
        OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, zipfile.BadZipFile: the file is damaged.
    """
    with path.open("rb") as file:
        if file.peek(4)[:4] != b"PK\x03\x04":  # as PyTorch does
            # The old format: a magic number, a version, the system, the content and its tensors' names; then the tensors.
            for _ in range(5):
                if file.peek(1):
                    _check_pickle(file)
            return
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            if any(record.compress_type != zipfile.ZIP_STORED for record in records):
                raise BombError("is compressed inside, which torch.save does not do")
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise BombError("has records that are larger than the file")
            for record in records:
                if record.filename.lower().endswith("data.pkl"):  # PyTorch accepts capitals too
                    with archive.open(record) as content:
                        # PyTorch neither requires nor checks the CRC, and zipfile has no public way to ignore it.
                        content._expected_crc = None  # type: ignore[attr-defined]
                        _check_pickle(io.BytesIO(content.read()))


def _check_pickle(file: IO[bytes]) -> None:
    """Read a pickle's instructions without executing them.

    A tuple that holds the same tuple twice, which holds the same one twice, and so on, is a short pickle, but hashing it as the
    key of a dictionary takes forever, and so does printing such a list.
    """
    stack: list[_Item | None] = []  # None is a mark
    memo: dict[Any, _Item] = {}
    repeated = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _STORES:
            memo[len(memo) if argument is None else argument] = _value(stack[-1])
        elif opcode.name in _FETCHES:
            item = memo[argument]
            item.is_shared = True
            repeated += item.size - 1
            if repeated > _MAX_REPEATED:
                raise BombError("repeats the same values too often")
            stack.append(item)
        elif opcode.name == "MARK":
            stack.append(None)
        else:
            parts = []
            number = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                while (part := stack.pop()) is not None:
                    parts.append(part)
                number = opcode.stack_before.index(pickletools.markobject)
            parts += [_value(stack.pop()) for _ in range(number)]
            item = parts.pop() if opcode.name in _FILLS else _Item()
            if parts and item.is_shared:
                raise BombError("changes an object after using it")
            item.size += sum(part.size for part in parts)
            item.depth = max([item.depth, *(part.depth + 1 for part in parts)])
            if item.depth > _MAX_DEPTH:
                raise BombError(f"is nested more than {_MAX_DEPTH} deep")
            stack += [item] * len(opcode.stack_after)


def _value(item: _Item | None) -> _Item:
    assert item is not None  # a mark in the place of a value
    return item
