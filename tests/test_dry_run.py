"""A dry run refuses every setting that a job would refuse, in the same words, on a machine that has no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st

import mfql.agents.mfql
from mfql import settings as shared
from mfql.agents import meanflow
from mfql.agents.mfql import MFQLSettings
from mfql.declared import agent_class
from mfql.errors import UserError
from mfql.extensions import TRUSTED, VARIABLE
from mfql.methods import checkpoint_stage, raw_settings
from mfql.settings import STAGES, Settings
from mfql.training.loop import Execution
from mfql.training.train import Job, train
from tests.support.page import FILES
from tests.support.project import clone
from tests.support.training_runs import METHOD_FILES, MINIATURE
from tests.support.without_torch import BLOCK

ROOT = Path(__file__).parents[1]

DECLARING = str(ROOT / "tests" / "support" / "declaring_agent.py")
# The shipped methods, and the one-file agent of docs/extend.md.
LAB = {name: content for name, content in FILES.items() if name in ("mylab/agents/rwr.py", "mylab/methods/rwr.yaml")}
METHODS = [*(path.stem for path in METHOD_FILES), "rwr"]
TASKS = [
    "pointmaze-medium-navigate-singletask-task2-v0",
    "cube-double-play-singletask-task2-v0",
    "visual-cube-single-play-singletask-task1-v0",
    "antmaze-umaze-v2",
]
# What the rules call for each job, on a launcher.
LAUNCHER = f"""
import json, sys
{BLOCK}
from mfql.errors import UserError
from mfql.methods import settings_hash

for line in sys.stdin:
    try:
        settings_hash(*json.loads(line))
        said = None
    except UserError as error:
        said = str(error)
    print(json.dumps(said), flush=True)
"""


class Place:
    """A configuration's folder with a method `tried`, a launcher that has no torch, and the trainer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder, folder / "config"
        (self.config / "methods").mkdir(parents=True)
        for source in (ROOT / "config").iterdir():
            if source.name != "methods":
                (self.config / source.name).symlink_to(source)
        for source in (ROOT / "config" / "methods").iterdir():
            (self.config / "methods" / source.name).symlink_to(source)
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
        )

    def write(self, base: str, values: dict[str, Any]) -> None:
        """The method `tried` is another with these values in every stage."""
        document = {
            **({"inherits": base} if base else {}),
            **values,
            **{stage: {key: value for key, value in values.items() if key != "agent"} for stage in STAGES if values},
        }
        (self.config / "methods" / "tried.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def launcher_says(self, task: str, stage: str) -> str | None:
        """Why a dry run ends; None if it does not."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(["tried", task, stage, str(self.config)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def job_says(self, task: str, stage: str) -> str | None:
        """Why the job ends before it looks for its dataset, of which there is none; None if it is that."""
        job = Job("tried", task, stage, (0,), self.folder / "data", self.folder / "results", self.config)
        with pytest.raises(UserError) as raised:
            train(job, Execution(torch.device("cpu"), 1))
        said = str(raised.value)
        return None if said.startswith(str(self.folder / "data")) else said

    def jobs_say(self, task: str, stage: str) -> str | None:
        """The same of a job and the one that it starts from."""
        said = self.job_says(task, stage)
        start = checkpoint_stage("tried", task, self.config) if said is None and stage == "online" else None
        return self.job_says(task, start) if start else said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("dry_run")
    for name, content in LAB.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, os.pathsep.join([str(MINIATURE), str(folder / "mylab")]))
        patch.setenv(TRUSTED, os.pathsep.join([str(folder / "mylab"), str(ROOT / "tests" / "support")]))
        made = Place(folder)
        with made.process:  # Which closes its pipes: it ends with its input.
            yield made


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a setting's type, in its range and out of it."""
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        return st.lists(of_type(get_args(hint)[0]), max_size=8)
    if hint is bool:
        return st.booleans()
    near = [-1, 0, 1, 2, 8, 1001]
    if hint is int:
        return st.sampled_from(near) | st.integers(-(10**9), 10**9)
    return st.sampled_from([*near, 0.3, 0.999, -0.0]) | st.floats()


ODD = st.sampled_from(
    ["fast", "", "1e3", None, True, 2.5, float("nan"), float("inf"), [], [0], [3, "x"], {"a": 1}, "task"]
)


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, dict[str, Any], str, str]:
    method = draw(st.sampled_from(METHODS))
    kind: type[Settings] = agent_class(raw_settings(method, TASKS[0], "online", ROOT / "config")["agent"]).settings_type
    hints = get_type_hints(kind)
    names = st.sampled_from([field.name for field in fields(kind)])
    chosen = draw(st.lists(names, max_size=3, unique=True))
    values = {name: draw(of_type(hints[name]) | of_type(hints[name]) | of_type(hints[name]) | ODD) for name in chosen}
    if draw(st.integers(0, 30)) == 0:
        values["alhpa"] = 3
    return method, values, draw(st.sampled_from(TASKS)), draw(st.sampled_from(STAGES))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(changes())
def test_a_dry_run_refuses_what_a_job_refuses_and_nothing_else(place: Place, change: tuple) -> None:
    method, values, task, stage = change
    place.write(method, values)
    said = place.launcher_says(task, stage)
    event("refused" if said else "passes")
    assert said == place.jobs_say(task, stage)


CONDITIONS = {
    key: condition for module in (shared, meanflow, mfql.agents.mfql) for key, condition in module._COUNTS_WHERE.items()
}


@pytest.mark.parametrize("key", CONDITIONS)
def test_each_setting_without_effect_is_refused_by_both(place: Place, key: str) -> None:
    """The property draws few of these by chance: each needs two settings that go together."""
    other, counting = CONDITIONS[key]
    hints, defaults = get_type_hints(MFQLSettings), {field.name: field.default for field in fields(MFQLSettings)}

    def another(name: str, than: tuple[Any, ...]) -> Any:
        typed = {bool: (True, False), int: (2, 3), float: (0.3, 0.4)}
        values = typed.get(hints[name]) or get_args(hints[name])
        return next(value for value in values if value not in than)

    place.write("mfql-miniature", {other: another(other, counting), key: another(key, (defaults[key],))})
    refused = place.launcher_says(TASKS[0], "offline")
    assert f"setting {key} is" in str(refused)
    assert "which has no effect" in str(refused)
    assert refused == place.jobs_say(TASKS[0], "offline")


@pytest.mark.parametrize(
    ("values", "task", "stage", "said"),
    [
        ({}, TASKS[2], "online", "is not trained online"),
        ({"encoder_channels": [4] * 7}, TASKS[2], "offline", "encoder_channels"),
        (
            {"agent": "rwr", "temperature": 0},
            TASKS[0],
            "offline",
            "setting temperature is 0.0\n  It must be above zero",
        ),
        (
            {"agent": DECLARING},
            TASKS[0],
            "offline",
            "has no stage offline",
        ),
        (
            {"agent": DECLARING, "replay_rows": 9},
            TASKS[0],
            "online",
            "has no effect",
        ),
        (
            {"agent": DECLARING},
            TASKS[2],
            "pretrain",
            "this method has no encoder",
        ),
    ],
)
def test_what_a_task_or_a_stage_cannot_have_is_refused_by_both(
    place: Place, values: dict[str, Any], task: str, stage: str, said: str
) -> None:
    common = {"offline_steps": 10, "online_steps": 5, "discount": 0.9}
    place.write("" if "agent" in values else "mfql-miniature", common | values)
    refused = place.launcher_says(task, stage)
    assert said in str(refused)
    assert refused == place.jobs_say(task, stage)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("alpha=-1", "setting alpha is -1.0\n  It must be zero or more."),
        ("num_candidates=0", "setting num_candidates is 0\n  It must be one or more."),
        ("q_scale=std", "setting q_scale is std, which has no effect\n  It counts where normalize_q is true"),
        ("critic_hidden=64", "setting critic_hidden is 64\n  It must be a list, in a name such as 64x64."),
        (
            f"alpha={''.join(map(str, range(150)))}",
            "of which a folder's name has room for 250\n  Give its values a shorter name",
        ),
    ],
)
def test_snakemake_and_plan_name_a_setting_that_is_refused(tmp_path: Path, change: str, said: str) -> None:
    project = clone(tmp_path / "mfql")
    run = {"methods": [f"mfql-quickstart+{change}"], "tasks": [TASKS[0]]}
    configuration = yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text(encoding="utf-8")) | {"offline": run}
    (project.folder / "mine.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    for ask in (partial(project.snakemake, "-n"), partial(project.mfql, "plan")):
        printed = ask("--configfile", "mine.yaml", fails=True)
        assert said in printed
        assert "Traceback" not in printed
