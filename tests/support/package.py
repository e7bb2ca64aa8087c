"""The project's distributions, built as pip builds them but without an environment for that alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Literal

from tests.support.processes import run
from tests.support.training_runs import ROOT

# What the source distribution is made of, and nothing that a working tree has beside it.
_FOLDERS = [".test", "benchmarks", "config", "containers", "docs", "mfql", "profiles", "published", "tests", "workflow"]
_FILES = ["*.md", "*.cff", "LICENSE", "MANIFEST.in", "Makefile", "pyproject.toml", "setup.py"]


def build(kind: Literal["wheel", "sdist"], folder: Path) -> Path:
    """Build a distribution into a folder, from a copy: building leaves files beside what is built."""
    copy = folder / f"{kind}-of"
    copy.mkdir()
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for path in (path for pattern in _FILES for path in ROOT.glob(pattern)):
        shutil.copy(path, copy)
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    done = run([sys.executable, "-c", code], cwd=copy)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))
