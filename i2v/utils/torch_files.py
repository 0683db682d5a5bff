"""A look at files of `torch.save` before PyTorch unpacks them: small ones can take all memory, or forever."""

from __future__ import annotations

import io
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_MAX_DEPTH = 100
_MAX_REPEATED = 1_000_000  # values; what is met once is not counted, such as a tensor
_FILLS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
_STORES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_FETCHES = ("GET", "BINGET", "LONG_BINGET")


class BombError(ValueError):
    """A file is far more than it seems. The message, which goes on after the file's name, says in what way."""


@dataclass(slots=True)
class _Item:
    """Something that a pickle builds: how many values it has, and how deep they are, and if it is in several places."""

    size: int = 1
    depth: int = 0
    is_shared: bool = False


def check_torch_file(path: Path) -> None:
    """Check that a file unpacks to no more than what it holds. Its numbers are not read.

    Raises:
        BombError: it has compressed records, or such that lie over each other; or what it holds is nested too deeply, or the
            same again and again.
        OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile: it is damaged.
    """
    with path.open("rb") as file:
        if file.peek(4)[:4] != b"PK\x03\x04":  # PyTorch looks at no more, either
            # The old format: a number, a version, the system, the content and its tensors' names; then the numbers.
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
                if record.filename.lower().endswith("data.pkl"):  # PyTorch finds it in capitals, too
                    with archive.open(record) as content:
                        content._expected_crc = None  # PyTorch can leave it out, and does not look at it
                        _check_pickle(io.BytesIO(content.read()))


def _check_pickle(file: IO[bytes]) -> None:
    """Read a pickle's instructions without following them.

    A tuple of twice the same tuple, of twice the same one ... is short, but its hash takes forever if it is the key of a
    dictionary; the text of such a list, too.
    """
    stack: list[_Item | None] = []  # None is a mark
    memo: dict[int, _Item] = {}
    repeated = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in _STORES:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif opcode.name in _FETCHES:
            item = memo[argument]
            item.is_shared = True
            repeated += item.size - 1
            if repeated > _MAX_REPEATED:
                raise BombError("holds the same values again and again")
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
            parts += [stack.pop() for _ in range(number)]
            item = parts.pop() if opcode.name in _FILLS else _Item()
            if parts and item.is_shared:
                raise BombError("holds what is changed after it was used")
            item.size += sum(part.size for part in parts)
            item.depth = max([item.depth, *(part.depth + 1 for part in parts)])
            if item.depth > _MAX_DEPTH:
                raise BombError(f"is nested more than {_MAX_DEPTH} deep")
            stack += [item] * len(opcode.stack_after)
