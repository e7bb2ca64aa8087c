"""Code of an extension runs to train, evaluate and generate; planning, listing and dry runs read it and run none."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import get_type_hints

import pytest

from mfql.agents.interface import load_agent
from mfql.cli import main
from mfql.declared import agent_stages, declared_version
from mfql.declared.unrun import read_agent
from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.experiment.run import identity_in
from mfql.extensions import TRUSTED, VARIABLE, extend, running_code
from mfql.methods import declared_settings, settings_hash
from tests.support.fake_results import TASK, write_run
from tests.support.project import clone

ROOT = Path(__file__).parents[1]
AGENTS = sorted(
    path for path in (ROOT / "mfql/agents").glob("*.py") if "settings_type = " in path.read_text(encoding="utf-8")
)
OUTSIDE = [ROOT / "tests/support/brac.py", ROOT / "tests/support/declaring_agent.py"]
# An agent that leaves a file behind wherever it runs; its environment does the same.
TOUCH = """
from pathlib import Path

(Path(__file__).parent / "ran").touch()
"""
AGENT = (
    '"""An agent from somebody else."""\n'
    + TOUCH
    + """
from dataclasses import dataclass, field
from typing import Literal, Optional

import mfql.agents.bc
from mfql.agents.bc import BC as Cloning
from mfql.settings import require

_HALF = 1 / 2
Rule = Literal["mean", "min"]


@dataclass(frozen=True, kw_only=True)
class TheirsSettings(mfql.agents.bc.BCSettings):
    beta: float = -_HALF
    rule: Rule = "mean"
    limit: "int | None" = None
    sizes: tuple[int, ...] = (2**3, 10 * 4)
    other: Optional[float] = field(default=1e-3)
    gamma: float = DEFAULT

    def check(self):
        super().check()
        require("beta", self.beta, self.beta < 1, "below one")


class Theirs(Cloning):
    settings_type = TheirsSettings
    stages = ("offline",)
    training_version = 3


EXTRA
"""
)
METHOD = """
agent: theirs
offline_steps: 10
online_steps: 0
discount: 0.9
actor_hidden: [8, 8]
"""
DOUBLED = "_A0 = 1.0\n" + "".join(f"_A{n} = _A{n - 1} + _A{n - 1}\n" for n in range(1, 14))
TASKS = "task,env_id,data,metric\ntheirs,theirs_point:Theirs-v0,theirs.npz,success\n"
STUDY = (
    "name: theirs\nextensions: [{folder}]\noffline:\n  methods: [theirs]\n  tasks: [theirs]\nonline:\n  methods: []\n"
)


@pytest.fixture
def theirs(tmp_path: Path):
    """`write(default, extra)`: an extension that somebody else wrote, named to this process."""
    folder = tmp_path / "theirs"
    for name in ("agents", "methods"):
        (folder / name).mkdir(parents=True)
    (folder / "methods/theirs.yaml").write_text(METHOD, encoding="utf-8")
    (folder / "theirs_point.py").write_text(TOUCH, encoding="utf-8")
    (folder / "tasks.csv").write_text(TASKS, encoding="utf-8")
    extend([folder])

    def write(default: str = "2.0", extra: str = "") -> Path:
        code = AGENT.replace("DEFAULT", default).replace("EXTRA", extra)
        (folder / "agents/theirs.py").write_text(code, encoding="utf-8")
        return folder

    return write


def ran(folder: Path) -> bool:
    return bool(list(folder.rglob("ran")))


# --- what is read without running it is what running it makes ---------------------------------------------------------


@pytest.mark.parametrize("path", [*AGENTS, *OUTSIDE], ids=lambda path: path.stem)
def test_what_is_read_of_an_agent_is_what_running_it_makes(path: Path) -> None:
    read, made = read_agent(path, path.read_text(encoding="utf-8")), load_agent(str(path))
    fields = [[(one.name, one.default) for one in dataclasses.fields(kind.settings_type)] for kind in (read, made)]
    assert fields[0] == fields[1]
    assert get_type_hints(read.settings_type) == get_type_hints(made.settings_type)
    for name in ("stages", "training_version", "extra_fields", "online_share"):
        assert getattr(read, name) == getattr(made, name), name


@pytest.mark.parametrize("stage", ["offline"])
def test_settings_hash_and_version_are_the_same_where_the_code_may_run(theirs, stage: str) -> None:
    folder = theirs()
    asked = ("theirs", TASK, stage, ROOT / "config")
    read = (settings_hash(*asked), declared_settings(*asked)[1].as_dict(), declared_version("theirs"))
    assert agent_stages("theirs") == ("offline",)
    assert (read[1]["beta"], read[1]["sizes"], read[1]["other"]) == (-0.5, (8, 40), 1e-3)
    assert not ran(folder)
    with running_code():
        assert (settings_hash(*asked), declared_settings(*asked)[1].as_dict(), declared_version("theirs")) == read
    assert ran(folder)


def test_the_checks_of_the_projects_classes_hold_and_its_own_are_made_where_it_runs(theirs) -> None:
    theirs()
    with pytest.raises(UserError, match="setting batch_size is 0"):
        declared_settings("theirs+batch_size=0", TASK, "offline", ROOT / "config")
    with pytest.raises(UserError, match="setting rule is 'max'"):
        declared_settings("theirs+rule=max", TASK, "offline", ROOT / "config")
    declared_settings("theirs+beta=2", TASK, "offline", ROOT / "config")
    with running_code(), pytest.raises(UserError, match=r"setting beta is 2\.0"):
        declared_settings("theirs+beta=2", TASK, "offline", ROOT / "config")


@pytest.mark.parametrize(
    ("default", "extra", "said"),
    [
        ("float(2**5)", "", r"agents/theirs\.py, line \d+: the default of the setting gamma is float\(2 \*\* 5\)"),
        ("open('ran', 'w').fileno()", "", "the default of the setting gamma is open"),
        ("10.0**10**10", "", "the default of the setting gamma is"),
        ("_LATER", "_LATER = 1.0\n_LATER = 2.0", "the default of the setting gamma is _LATER"),
        ("2.0", "Theirs.training_version = 4", "class Theirs is bound or changed in several places"),
        ("2.0", "class Other(Theirs):\n    pass", "defines 2 agents"),
        ("2.0", "del Theirs", "class Theirs is bound or changed in several places"),
        ("2.0", "\n    def stages(self): ...", "stages of class Theirs is a function"),
        ("2.0", "\n    if True:\n        stages = ('online',)", "has more than declarations and functions"),
        ("2.0", "def (", r"agents/theirs\.py, line \d+: SyntaxError"),
        ("(" * 300 + "1.0" + ")" * 300, "", "too many nested parentheses"),
        ("+".join(["1.0"] * 5000), "", "theirs.py"),
        # Twice as much in each line: 2^13 values are more than are evaluated.
        ("_A13", DOUBLED, "the default of the setting gamma is _A13"),
    ],
    ids=lambda value: value[:20],
)
def test_what_only_running_it_would_tell_is_refused_with_its_line(theirs, default, extra, said) -> None:
    folder = theirs(default, extra)
    with pytest.raises(UserError, match=said):
        declared_settings("theirs", TASK, "offline", ROOT / "config")
    assert not ran(folder)


def test_trusted_code_runs_and_other_code_does_not(theirs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = theirs("float(2**5)")
    monkeypatch.setenv(TRUSTED, str(tmp_path / "the"))  # no folder of it, though its name begins so
    with pytest.raises(UserError, match=f"{TRUSTED}=DIR"):
        declared_settings("theirs", TASK, "offline", ROOT / "config")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/agents").symlink_to(folder / "agents")
    monkeypatch.setenv(TRUSTED, str(tmp_path / "mine"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    with pytest.raises(UserError, match=f"{TRUSTED}=DIR"):  # A link does not make it mine.
        agent_stages("theirs")
    monkeypatch.setenv(VARIABLE, str(folder))
    monkeypatch.setenv(TRUSTED, f"/nowhere:{folder}")
    assert declared_settings("theirs", TASK, "offline", ROOT / "config")[1].as_dict()["gamma"] == 32.0
    assert ran(folder)


def test_code_that_makes_something_else_than_one_reads_is_not_trained(theirs, monkeypatch) -> None:
    folder = theirs(extra="setattr(Theirs, 'training_version', 7)")
    assert declared_version("theirs") == 3
    with running_code(), pytest.raises(UserError, match="makes training_version 7, and without running it one reads 3"):
        declared_settings("theirs", TASK, "offline", ROOT / "config")
    monkeypatch.setenv(TRUSTED, str(folder))
    declared_settings("theirs", TASK, "offline", ROOT / "config")
    assert declared_version("theirs") == 7


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Finished runs of the extension's method on its task and on another."""
    for task in ("theirs", TASK):
        for seed in (0, 1):
            file = write_run(tmp_path / "project/results", [20.0, 40.0, 60.0], "theirs", task, seed)
            settings = {"offline_steps": 10, "online_steps": 0, "discount": 0.9}
            manifest = read_json(file.parent / "run/manifest.json") | {"starts_from": None, "settings": settings}
            identity = {"identity": identity_in(manifest)}
            write_json(file.parent / "run/manifest.json", manifest | identity)
            write_json(file, read_json(file) | identity)
            shutil.copy(file, file.parent / "run")  # As the trainer leaves a finished run.
    return tmp_path / "project/results"


@pytest.mark.slow
def test_planning_listing_and_reporting_run_nothing_of_an_extension(
    theirs, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = theirs()
    project = clone(tmp_path / "project")
    monkeypatch.chdir(project.folder)
    Path("study.yaml").write_text(STUDY.format(folder=folder), encoding="utf-8")
    study = ["--configfile", "study.yaml"]
    said = project.snakemake("-n", *study)
    assert len(re.findall(r"theirs\.py: its own checks of settings are made when it trains", said)) == 1
    files = [str(path) for path in results.glob("runs/*/*/*/*/evaluation.json")]
    for command in (
        ["plan", *study, "--gpus", "0", "--allow-cpu"],
        ["list", "methods"],
        ["list", "methods", "theirs"],
        ["list", "settings", "beta", "--method", "theirs"],
        ["list", "tasks", "theirs"],
        ["status", *study],
        ["verify"],
        ["clean"],
        ["scores", *files, "--out", "scores.csv"],
        ["aggregate", "scores.csv", "--out", "aggregate"],
        ["report", *study, "--partial", "--results", str(results)],
    ):
        status = main(command)
        said = capsys.readouterr()
        assert status == (1 if command[0] == "verify" else 0), (command, said)
        assert not ran(tmp_path), command
