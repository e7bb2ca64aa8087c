"""The documentation names things that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", (ROOT / "docs" / "method.md").read_text())))


def definitions(path: Path) -> set[str]:
    """Names of classes and functions of a file, methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda value: str(value))
def test_what_the_method_page_names_exists(file, name):
    assert name in definitions(ROOT / file)


def test_the_method_page_names_the_equations():
    assert len(NAMED) >= 10


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")]), ids=str
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
