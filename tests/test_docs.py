"""The documentation names things that exist."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from mfql.envs.trial import try_out
from mfql.suites import make_env
from tests.support.fuzz import kinds
from tests.support.own_tasks import table

ROOT = Path(__file__).parents[1]
PAGES = ("method", "glossary")
NAMED = sorted(
    {
        found
        for page in PAGES
        for found in re.findall(r"`([\w/]+\.py):([\w.]+)`", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))
    }
)


def definitions(path: Path) -> set[str]:
    """Names of classes and functions of a file, methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda value: str(value))
def test_what_the_pages_name_exists(file, name):
    assert name in definitions(ROOT / file)


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_name_code(page):
    assert len(re.findall(r"\.py:\w", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))) >= 10


def test_every_page_is_in_the_reading_order():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if f"({page.name})" not in index] == ["README.md"]


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")]), ids=str
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


# As `gymnasium.make` takes them: with the package that registers them, or with a capital, as Gymnasium's own; not those
# that a page wraps.
ENVIRONMENTS = sorted(
    {
        found
        for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("config/*.md")]
        for found in re.findall(
            r"(?<![\w:/-])(?<!gymnasium\.make\(\")(?!minari:)(?:\w+:[\w/-]+|[A-Z][a-z]\w*)-v\d+\b",
            page.read_text(encoding="utf-8"),
        )
    }
)


def test_the_pages_name_environments():
    assert {"Pendulum-v1", "point:mylab/Point-v0"} < set(ENVIRONMENTS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_environment_that_a_page_names_works_as_a_task(name, lab, tmp_path):
    """With what is installed for the tests alone; a page that names another says what it needs instead of its id."""
    for module in ("point.py", "cartpole.py"):
        shutil.copy(lab / "mylab" / module, tmp_path)
    table(tmp_path, f"mine,{name},a.npz,return\n", "task,env_id,data,metric\n")
    assert len(try_out(make_env("mine")).rewards) > 0


def test_no_test_is_imported_by_another():
    code = re.compile(r"^(?:from|import) (?:tests\.)?(?:site\.)?test_", re.MULTILINE)
    assert not [path for path in ROOT.glob("tests/**/*.py") if code.search(path.read_text(encoding="utf-8"))]


def test_the_page_of_faults_lists_every_kind_of_file_that_is_changed_at_random() -> None:
    assert kinds.table() in (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
