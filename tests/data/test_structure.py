"""Nothing but `i2v.data` reads a file format, and no package imports another one beside it for a reader."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

FILES = [path for name in ("i2v", "train", "test_pvs", "sav_dataset", "tools") for path in (PROJECT / name).rglob("*.py")]
READERS = re.compile(r"\b(Image\.open|cv2\.imread|cv2\.VideoCapture|av\.open|json\.load)\(")


def imports(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_formats_are_read_in_one_place(path):
    package, *below = path.relative_to(PROJECT).parts
    if (package, below[0]) != ("i2v", "data"):
        assert not READERS.findall(path.read_text(encoding="utf-8"))
    sideways = {module.split(".")[0] for module in imports(path)} & {"train", "test_pvs", "sav_dataset"} - {package}
    if package == "i2v":
        assert not sideways
    if package in ("train", "test_pvs"):  # the measure, J&F, is no format
        assert sideways <= {"sav_dataset"}
        assert {module for module in imports(path) if module.startswith("sav_dataset")} <= {"sav_dataset.jf"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("i2v.data.frames", "torch"),
        ("sav_dataset.sav_evaluator", "torch"),
        ("test_pvs.systems", "torchvision"),
        ("test_pvs.datasets", "train"),
    ],
)
def test_what_is_not_needed_is_not_imported(module, absent):
    code = f"import sys; import {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
