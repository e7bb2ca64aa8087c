"""Under a locale that is not UTF-8 all is read and written as under one that is, and said as far as it can be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import clone, evaluation
from tests.support.training_runs import ROOT

# Of the operating system itself, so that it is there where no other locale is; Python would take UTF-8 instead.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def latin_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a Latin-1 locale, made for this test; of ASCII where the system lacks what makes one."""
    folder = tmp_path_factory.mktemp("locale")
    name = "en_US.ISO-8859-1"
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / name)]
    try:
        made = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        made = False
    return {"LOCPATH": str(folder), "LC_ALL": name, "PYTHONUTF8": "0"} if made else ASCII


def test_the_locale_is_no_utf_8(latin_1: dict[str, str]) -> None:
    code = "import locale; print(locale.getpreferredencoding())"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | latin_1, capture_output=True, check=True)
    assert done.stdout.decode().strip() in ("ISO-8859-1", "ANSI_X3.4-1968")


@pytest.mark.long
def test_a_study_ends_as_usual(latin_1: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = clone(tmp_path / "it's \u00fc here")
    for name, value in latin_1.items():
        monkeypatch.setenv(name, value)
    runs = ("offline={methods: [mfql-miniature]}", "online={methods: []}", "seeds=[0]", "threads=1")
    assert "report.html" in project.miniature(config=runs)
    assert (project.folder / evaluation(0)).is_file()
    study = project.folder / "results" / "miniature"
    for name in ("verdict/verdict.md", "report.html"):
        assert not (study / name).read_text(encoding="utf-8").isascii(), name
    assert "1 finished" in project.mfql("status")
    assert "nothing is wrong" in project.mfql("--extension", "tests/miniature", "verify")
    assert "report.html" in project.mfql("report", "--partial", "--configfile", "tests/miniature.yaml")


@pytest.mark.parametrize("locale", ["latin_1", "ascii"])
def test_what_the_locale_cannot_show_is_said_as_an_escape(locale: str, latin_1: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "printed.md"
    path.write_text("\u03b1 \u2265 0, \u00e9\n", encoding="utf-8")
    code = (
        "from pathlib import Path\nfrom mfql.errors import print_in_any_locale\nprint_in_any_locale()\n"
        f"print(Path({str(path)!r}).read_text(encoding='utf-8'))"
    )
    variables = {"latin_1": latin_1, "ascii": ASCII}[locale]
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"\\u03b1 \\u2265 0, ")


def test_no_text_is_opened_by_the_locale() -> None:
    """The linter sees files that are opened; this also paths of a type that it does not know, and other programs."""
    opened = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for folder in ("mfql", "benchmarks", "containers")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and _asks_the_locale(call)
    ]
    assert not opened
    rules = sorted((ROOT / "workflow").rglob("*.smk"))
    assert rules
    for line in (line for path in rules for line in path.read_text(encoding="utf-8").splitlines()):
        assert "open(" not in line or "encoding=" in line


def _asks_the_locale(call: ast.Call) -> bool:
    named = {keyword.arg for keyword in call.keywords}
    switches = {keyword.arg for keyword in call.keywords if getattr(keyword.value, "value", None) is True}
    if switches & {"text", "universal_newlines"}:
        return "encoding" not in named
    return isinstance(call.func, ast.Attribute) and (
        (call.func.attr == "read_text" and not call.args and "encoding" not in named)
        or (call.func.attr == "write_text" and len(call.args) < 2 and "encoding" not in named)
    )


def test_no_command_asks_the_locale_for_an_encoding(tmp_path: Path) -> None:
    """Python itself tells where one does."""
    clone(tmp_path / "mfql")
    code = (
        "import sys, warnings\nwarnings.filterwarnings('error', category=EncodingWarning, module='mfql')\n"
        "from mfql.cli import main\nsys.exit(main())"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-c", code]
    for arguments in (["plan", "--configfile", "tests/miniature.yaml"], ["ablation", "list"], ["toy", "list"]):
        done = subprocess.run([*command, *arguments], cwd=tmp_path / "mfql", capture_output=True, encoding="utf-8")
        assert "EncodingWarning" not in done.stderr.partition("Traceback")[2], done.stderr
