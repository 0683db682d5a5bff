"""Which package imports which, and that only `i2v.data` reads file formats."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

READERS = re.compile(r"\b(Image\.open|cv2\.imread|cv2\.VideoCapture|av\.open|json\.load)\(")
PACKAGES = {"i2v", "train", "test_pvs", "sav_dataset", "tools"}
FILES = [path for name in sorted(PACKAGES) for path in sorted((PROJECT / name).rglob("*.py"))]
# The packages stand beside each other on i2v; tools read the data sets and the systems of the benchmarks.
ARROWS = {*((package, "i2v") for package in PACKAGES - {"i2v"}), ("tools", "test_pvs")}


def imported_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {module.split(".")[0] for module in modules}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_formats_are_read_in_one_place(path):
    if not path.is_relative_to(PROJECT / "i2v" / "data"):
        assert not READERS.findall(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_packages_import_only_packages_below_them(path):
    package = path.relative_to(PROJECT).parts[0]
    used = imported_packages(path) & PACKAGES - {package}
    assert {(package, other) for other in used} <= ARROWS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("i2v.data.frames", "torch"),
        ("sav_dataset.sav_evaluator", "torch"),
        ("i2v.utils.jf", "torch"),
        ("test_pvs.systems", "torchvision"),
        ("test_pvs.datasets", "train"),
    ],
)
def test_imports_are_limited_to_what_is_needed(module, absent):
    code = f"import sys; import {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0
