"""Every method that is shipped, in miniature: it trains and acts offline and online by the same loop and rules."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mfql
from mfql.experiment.configuration import find_run, planned_runs, read_configuration
from mfql.experiment.run import RunFolder
from mfql.report.verdict_tables import References
from mfql.tasks import load_tasks
from mfql.training.checkpoint import Checkpoints
from mfql.training.memory import Normaliser
from tests.support.miniature import METHODS, agent_of, stages_of
from tests.support.project import Project, clone
from tests.support.training_runs import ROOT, TASK, Workplace

CONFIG = ROOT / "config"
# What a method goes through to be fine-tuned online.
STAGES = {method: stages_of(method, "pretrain", "online") for method in METHODS}
BASELINES = {"bc", "iql", "rebrac", "fql", "ifql", "fbrac", "fawac", "rlpd", "calql"}


@pytest.fixture(scope="session")
def data(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Workplace:
    """A small dataset and the configuration."""
    return Workplace(made_once("methods-data", Workplace.make))


def short(method: str) -> str:
    """A method in miniature with the fewest episodes."""
    return f"{method}+eval_episodes=1+eval_interval=40"


def test_every_method_has_a_miniature():
    assert {"mfql", "flow_bc", *BASELINES} <= set(map(agent_of, METHODS))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_and_acts_offline_and_online(data, method):
    for stage in STAGES[method]:
        data.train_here(short(method), stage, (0,))
        run = data.run(short(method), 0, stage)
        result = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
        assert result["status"] == "finished"
        assert result["evaluations"][-1]["step"] == result["steps"] > 0
        action = mfql.load_policy(run)(np.zeros(2, np.float32))
        assert action.shape == (2,)
        assert np.abs(action).max() <= 1.0
    assert result["starts_from"] == (STAGES[method][-2] if len(STAGES[method]) > 1 else None)


@pytest.mark.slow
def test_a_stage_that_a_method_lacks_is_refused_by_name(data):
    done = data.call(data.arguments("rlpd-miniature", "offline", [0]))
    assert done.returncode == 2
    assert "method rlpd-miniature has no stage offline\n  It has online." in done.stderr


def test_no_methods_name_is_in_the_loop_or_the_rules():
    """`mfql` is the command's name too, and so cannot be looked for."""
    code = [
        *(ROOT / "mfql" / "training").glob("*.py"),
        *(ROOT / "workflow" / "rules").glob("*.smk"),
        ROOT / "workflow" / "Snakefile",
    ]
    code += [*(ROOT / "mfql" / "evaluation").glob("*.py"), *(ROOT / "mfql" / "plan").glob("*.py")]
    # A table of sizes by agent, for a machine without torch to ask; one that it lacks is asked where there is torch.
    code.remove(ROOT / "mfql/plan/footprints.py")
    names = re.compile(rf"[\"'/ ](?:{'|'.join(BASELINES | {'flow_bc'})})[\"'/ :.]")
    assert len(code) > 20
    assert not [
        f"{path}: {line}"
        for path in code
        for line in path.read_text(encoding="utf-8").splitlines()
        if names.search(line)
    ]


@pytest.fixture
def project(data, tmp_path: Path) -> Project:
    """A working copy whose configuration asks for nothing."""
    return clone(tmp_path / "mfql")


@pytest.mark.long
def test_one_launch_plans_every_method_and_a_method_without_an_offline_part_trains(project):
    everywhere = [f"results/runs/{method}/{TASK}/seed0/online/evaluation.json" for method in METHODS]
    planned = project.miniature("-n", *everywhere)
    for method in METHODS:
        for stage in STAGES[method][:-1]:
            assert f"results/runs/{method}/{TASK}/seed0/{stage}/evaluation.json" in planned
    alone = next(method for method in METHODS if STAGES[method] == ["online"])
    project.miniature(everywhere[METHODS.index(alone)])
    runs = {path.parent.name for path in (project.folder / "results" / "runs" / alone / TASK / "seed0").glob("*/run")}
    assert runs == {"online"}


def test_the_plan_counts_no_run_before_a_method_without_an_offline_part(tmp_path):
    alone = next(method for method in METHODS if STAGES[method] == ["online"])
    (tmp_path / "own.yaml").write_text(
        f"offline: {{methods: []}}\nonline: {{methods: [{alone}], tasks: [{TASK}]}}\n", encoding="utf-8"
    )
    config = read_configuration(tmp_path / "own.yaml", CONFIG)
    assert [run.stage for run in planned_runs(config, CONFIG)] == ["online"]
    assert find_run(config, CONFIG, alone, TASK, "online").start is None


@pytest.mark.parametrize(("method", "explores"), [("iql-miniature", True), ("bc-miniature", False)])
def test_online_training_explores_as_the_method_says(data, method, explores):
    for stage in STAGES[method]:
        data.train_here(short(method), stage, (0,))
    checkpoints = Checkpoints(RunFolder(data.folder / "results", short(method), TASK, 0, "online").checkpoints.folder)
    rows = checkpoints.load(checkpoints.steps()[-1])["open_rows"]["actions"]
    # A mean of hardly any training is near zero; IQL's policy has unit deviation, cut at the bounds.
    assert bool(rows.std() > 0.4) == explores
    assert rows.abs().max() <= 1.0


def test_observations_may_stay_as_they_are():
    statistics = SimpleNamespace(observation_mean=np.array([3.0, -1.0]), observation_std=np.array([2.0, 0.5]))
    raw = np.array([[1.0, 2.0]], np.float32)
    assert np.array_equal(Normaliser.of(statistics, "none")(raw), raw)
    assert np.allclose(Normaliser.of(statistics, "valid")(raw), [[-1.0, 6.0]])


def test_the_verdict_takes_a_methods_own_source_of_settings():
    task = "pen-human-v1"
    references = References({}, [], load_tasks(CONFIG / "tasks.csv"), CONFIG)
    assert references.settings_source("fql", task, "offline").startswith("arXiv 2502.02538")
    assert references.settings_source("iql", task, "offline").startswith("untuned")
    assert references.settings_source("bc", task, "offline") == "the same for all tasks"
    for name in ("mfql", "a-method-without-a-file"):
        assert references.settings_source(name, task, "offline") == references.tasks[task].settings_source
