"""Paths as people give them, and what they may not read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mfql.experiment.configuration import read_configuration
from tests.support.forbidden import forbidden
from tests.support.inputs.lab import Lab, Said, given


@contextmanager
def at_home(lab: Lab) -> Iterator[None]:
    """The lab is the home of the user, and no folder gets the name of what stands for it."""
    before = os.environ.get("HOME")
    os.environ["HOME"] = str(lab.folder)
    os.environ.pop("UNSET_HERE", None)
    try:
        yield
    finally:
        os.environ.pop("HOME") if before is None else os.environ.update(HOME=before)
    for folder in (lab.folder, Path.cwd()):
        assert not [path.name for path in folder.iterdir() if path.name[0] in "~$"]


@given("`~` in `data` of a task table")
def _(lab: Lab) -> Said:
    with at_home(lab):
        return lab.describe("~/data/point.npz")


@given("`$HOME` in `data` of a task table")
def _(lab: Lab) -> Said:
    with at_home(lab):
        return lab.describe("$HOME/data/point.npz")


@given("`~` of a user that there is not, in `data` of a task table")
def _(lab: Lab) -> Said:
    with at_home(lab):
        return lab.describe("~nobody-here/point.npz")


@given("a variable that is not set, in `data` of a task table")
def _(lab: Lab) -> Said:
    with at_home(lab):
        return lab.describe("$UNSET_HERE/point.npz")


def _configured(lab: Lab, text: str) -> tuple[Said, dict]:
    """What is said of a configuration with these lines, and what it comes to."""
    path, found = lab.folder / "study.yaml", {}
    runs = "offline: {methods: [tiny], tasks: [point]}\nonline: {methods: [], tasks: []}\n"
    path.write_text(f"extensions: ['{lab.folder}']\n{runs}{text}", encoding="utf-8")
    with at_home(lab):
        said = lab.called(lambda: found.update(read_configuration(path, Path("config"))))
    return said, found


@given("`~` in each path of a configuration")
def _(lab: Lab) -> Said:
    said, found = _configured(
        lab, "data_dir: ~/data\ndatasets_from: ~/mirror\nexpected: ~/expected.yaml\noutside_scores: [~/others.csv]\n"
    )
    assert [found[key] for key in ("data_dir", "datasets_from", "expected", "outside_scores")] == [
        f"{lab.folder}/data", f"{lab.folder}/mirror", f"{lab.folder}/expected.yaml", [f"{lab.folder}/others.csv"]
    ]  # fmt: skip
    return said


@given("`$HOME` in `data_dir` of a configuration")
def _(lab: Lab) -> Said:
    said, found = _configured(lab, "data_dir: $HOME/data\ndatasets_from: https://host/~name/$file\n")
    assert (found["data_dir"], found["datasets_from"]) == (f"{lab.folder}/data", "https://host/~name/$file")
    return said


@given("a variable that is not set, in `data_dir` of a configuration")
def _(lab: Lab) -> Said:
    return _configured(lab, "data_dir: ${UNSET_HERE}/data\n")[0]


@given("`--out=~/described` on the command line")
def _(lab: Lab) -> Said:
    lab.row("case,point:mylab/Point-v0,data/point.npz,success")
    with at_home(lab):
        said = lab.mfql("data", "describe", "case", "--out=~/described")
    assert (lab.folder / "described" / "case.json").is_file()
    return said


def _module(lab: Lab, name: str) -> Said:
    """The lab with its module under another name."""
    path = lab.folder / name
    path.parent.mkdir(exist_ok=True)
    (lab.folder / "point.py").rename(path)
    module = name.removesuffix(".py").removesuffix("/__init__")
    lab.row(f"case,{module}:mylab/Point-v0,data/point.npz,success")
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


@given("a module beside tasks.csv with the name of one of Python's")
def _(lab: Lab) -> Said:
    return _module(lab, "code.py")


@given("a module beside tasks.csv with the name of one that is built in")
def _(lab: Lab) -> Said:
    return _module(lab, "time.py")


@given("a package beside tasks.csv with the name of one that is installed")
def _(lab: Lab) -> Said:
    return _module(lab, "pandas/__init__.py")


@given("results of which the user may not read a run")
def _(lab: Lab) -> Said:
    run = lab.folder / "results" / "runs" / "tiny" / "point" / "seed0" / "offline" / "run"
    run.mkdir(parents=True)
    (run / "evaluation.json").write_text("{}", encoding="utf-8")
    with forbidden(run):
        return lab.mfql("verify", lab.folder / "results", "--data", lab.folder / "data")
