"""Completion of the command line, asked of a real bash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mfql.cli import _parser, main

# What bash does when the key is pressed: the function that `complete` has for the command is called with the words.
ASK = """
source completion.bash
set -- $(complete -p mfql)
while [ "$1" != -F ]; do shift; done
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"$2" mfql "${COMP_WORDS[COMP_CWORD]}"
printf '%%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with the completion for bash."""
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert not ended.value.code
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out, encoding="utf-8")
    return tmp_path


def completed(script: Path, words: str) -> set[str]:
    done = subprocess.run(["bash", "-c", ASK % words], cwd=script, capture_output=True, encoding="utf-8", check=True)
    return set(done.stdout.split())


def test_commands_options_and_choices_are_completed(script: Path) -> None:
    (commands,) = [action.choices for action in _parser()._actions if isinstance(action.choices, dict)]
    assert completed(script, "mfql ''") >= commands.keys() >= {"train", "plan", "status", "report"}
    assert completed(script, "mfql data f") == {"fetch"}
    assert completed(script, "mfql train --st") == {"--stage"}
    assert completed(script, "mfql train --device c") == {"cpu", "cuda"}


def test_paths_are_completed_and_folders_alone_where_one_must_be_given(script: Path) -> None:
    (script / "one.yaml").touch()
    (script / "once").mkdir()
    assert completed(script, "mfql plan --configfile on") == {"one.yaml", "once"}
    assert completed(script, "mfql data generate --out on") == {"once"}


@pytest.mark.parametrize(("shell", "registers"), [("zsh", "#compdef mfql\n"), ("tcsh", "complete mfql ")])
def test_other_shells_get_theirs(shell: str, registers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--print-completion", shell])
    printed = capsys.readouterr().out
    assert registers in printed
    assert "import-released" in printed


def test_who_asks_for_no_completion_imports_nothing_for_it() -> None:
    code = "import sys, mfql.cli; mfql.cli._parser().format_help(); sys.exit('shtab' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
