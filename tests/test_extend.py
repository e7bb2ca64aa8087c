"""Tasks, datasets, environments and methods from outside the project; docs/extend.md is run as a reader runs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Text
from gymnasium.wrappers import TimeAwareObservation
from safetensors.torch import load_file

from mfql.cli import main
from mfql.envs.isolated import Isolated, reset_env
from mfql.envs.registered import RegisteredEnv, flat_observations
from mfql.envs.trial import try_out
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.evaluation.policy import load_policy
from mfql.evaluation.vector import EnvPool
from mfql.extensions import VARIABLE, extend
from mfql.methods import raw_settings, settings_hash
from mfql.report.aggregate import over_tasks
from mfql.report.curves import curves
from mfql.report.scores import collect
from mfql.report.tasks import by_task
from mfql.studies.tuning.freeze import freeze
from mfql.suites import load, make_env
from mfql.tasks import find_task, select_tasks
from tests.support.equal_runs import final_state
from tests.support.own_tasks import BOUNDED, VECTOR, Odd, registered, table
from tests.support.page import COMMANDS, FILES
from tests.support.plain_loop import played
from tests.support.project import Project
from tests.support.training_runs import MINIATURE, TASK, Workplace
from tests.support.without_torch import BLOCK

ROOT = Path(__file__).parents[1]


@pytest.fixture
def extended(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's extension in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(lab / "minari"))
    extend([lab / "mylab"])
    return lab


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_commands_of_the_page_run(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mfql", "mylab"):
        shutil.copytree(lab / name, tmp_path / name)
    project = Project(tmp_path / "mfql")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(lab / "minari"))
    monkeypatch.chdir(project.folder)
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "snakemake":
            project.snakemake(*arguments)
        elif program == "mfql":
            assert main(arguments) == 0, command
        elif command.endswith("use.py"):
            variable, script = program, arguments[-1]
            environment = os.environ | dict([variable.split("=")])
            printed = subprocess.run(
                [sys.executable, script],
                cwd=project.folder,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                check=True,
            )
    evaluated = json.loads((project.folder / "results/rwr.json").read_text(encoding="utf-8"))
    assert printed.stdout == f"{evaluated['success']:.0f} %\n"
    assert_policies_act_alone(project.folder / "results" / "runs", evaluated["each"], tmp_path)
    found = {
        (run["method"], run["task"], run["stage"], run["seed"]): run
        for run in map(
            json.loads,
            (
                path.read_text(encoding="utf-8")
                for path in project.folder.glob("results/runs/**/seed*/*/evaluation.json")
            ),
        )
    }
    assert {key[:3] for key in found} == {
        ("rwr", "point", "offline"),
        ("mfql-point", "point", "offline"),
        ("mfql-point", "point", "online"),
        ("rwr", "pendulum", "offline"),
    }
    # What a controller of noise and direction did is not hard to imitate.
    assert min(found["rwr", "point", "offline", seed]["score"] for seed in (0, 1)) >= 60
    assert found["rwr", "pendulum", "offline", 0]["metric"] == "normalized_return"
    page = (project.folder / "results/mylab/report.html").read_text(encoding="utf-8")
    assert "rwr" in page
    assert "a colleague's controller" in (project.folder / "results/mylab/verdict/benchmark.md").read_text(
        encoding="utf-8"
    )
    described = json.loads((project.folder / "data/point.json").read_text(encoding="utf-8"))
    assert described["source"] == "own"
    assert described["environment"]["env_id"] == "point:mylab/Point-v0"


def assert_policies_act_alone(runs: Path, each: dict[str, list[float]], folder: Path) -> None:
    """A policy gives the episodes of its evaluation, and one copied away from its run, without the extension, too."""
    extend([folder / "mylab"])
    policy = load_policy(runs / "rwr" / "point" / "seed0" / "offline")
    assert played(policy, gymnasium.make("point:mylab/Point-v0"), 50) == each
    run = runs / "mfql-point" / "point" / "seed1" / "online"
    expected = evaluate(run, 20, folder / "found.json", None, workers=0)["each"]
    shutil.copytree(run / "run" / "policy", folder / "alone")
    os.environ[VARIABLE] = str(MINIATURE)
    alone = load_policy(folder / "alone")
    assert played(alone, alone.make_env(), 20) == expected


@pytest.mark.slow
def test_what_the_check_of_a_dataset_says_is_seen_in_a_launch(lab: Path, tmp_path: Path) -> None:
    for name in ("mfql", "mylab"):
        shutil.copytree(lab / name, tmp_path / name)
    with np.load(tmp_path / "mylab" / "data" / "point.npz") as file:
        np.savez(tmp_path / "mylab" / "data" / "half.npz", **{name: file[name].astype(np.float16) for name in file})
    tasks = tmp_path / "mylab" / "tasks.csv"
    tasks.write_text(tasks.read_text(encoding="utf-8").replace("data/point.npz", "data/half.npz"), encoding="utf-8")
    said = Project(tmp_path / "mfql").snakemake("data/point.json", "--configfile", "../mylab/study.yaml")
    assert "mfql: warning: " in said
    assert "have the type float16" in said


def test_every_file_of_the_page_is_used() -> None:
    assert {Path(name).suffix for name in FILES} == {".csv", ".yaml", ".py"}
    assert len(FILES) >= 7
    assert len(COMMANDS) >= 5


def test_three_layouts_of_the_same_episodes_are_the_same_transitions(extended: Path, tmp_path: Path) -> None:
    first, *others = (load(find_task(name), tmp_path) for name in ("point", "point-hdf5", "point-minari"))
    assert len(first) > 1000
    assert first.actions.min() < -0.9  # in units of the bounds
    for other in others:
        for name in ("observations", "actions", "rewards", "masks", "terminals", "next_observations"):
            np.testing.assert_allclose(getattr(other, name), getattr(first, name), atol=1e-6, err_msg=name)
    assert {0.0, 1.0} == set(np.unique(first.masks))


def test_what_is_known_of_the_project_is_known_beside_an_extension(extended: Path) -> None:
    assert select_tasks(["own", "scene"])[:2] == ["point", "point-hdf5"]
    assert raw_settings("mfql-point", "point", "offline")["discount"] == 0.98
    assert raw_settings("mfql", "point", "offline")["alpha"] == 10.0
    with pytest.raises(UserError, match=r"unknown task 'pint'.*mylab/tasks\.csv") as caught:
        find_task("pint")
    assert "point" in str(caught.value)
    with pytest.raises(UserError, match="unknown method 'rwx'"):
        raw_settings("rwx", "point", "offline")


@pytest.mark.slow
def test_reports_are_made_anew_with_an_extensions_tables(lab: Path, tmp_path: Path) -> None:
    for name in ("mfql", "mylab"):
        shutil.copytree(lab / name, tmp_path / name)
    (tmp_path / "mylab" / "methods" / "tabled.yaml").write_text("inherits: rwr\ntable: tabled.csv\n", encoding="utf-8")
    (tmp_path / "mylab" / "tabled.csv").write_text("task,stage,temperature,settings_source\n", encoding="utf-8")
    project = Project(tmp_path / "mfql")
    printed = project.snakemake("-n", "report", "--configfile", "../mylab/study.yaml")
    for rule in ("verdict", "report"):
        listed = re.search(rf"rule {rule}:\n    input: (.*)\n", printed)
        assert listed is not None
        assert {f"../mylab/{name}" for name in ("tasks.csv", "tabled.csv")} <= set(listed[1].split(", "))


# --- a method ---------------------------------------------------------------------------------------------------------

BRAC = """
agent: brac
alpha: 10.0
discount: task
offline_steps: 20
online_steps: 10
batch_size: 8
actor_hidden: [8, 8]
critic_hidden: [8, 8]
eval_interval: 10
eval_episodes: 1
log_interval: 10
"""


@pytest.mark.slow
def test_a_method_with_a_third_network_is_one_file_and_its_settings(tmp_path: Path) -> None:
    """Seeds train together in both parts; a policy has the one network that acts; rules read the file without torch."""
    place = Workplace.make(tmp_path)
    for folder in ("agents", "methods"):
        (tmp_path / "mylab" / folder).mkdir(parents=True)
    shutil.copy(ROOT / "tests/support/brac.py", tmp_path / "mylab/agents")
    (tmp_path / "mylab/methods/brac.yaml").write_text(BRAC, encoding="utf-8")
    extend([tmp_path / "mylab"])
    for stage in ("offline", "online"):
        place.train_here("brac", stage, (0, 1))
    for seed in (0, 1):
        before, after = (final_state(place.run("brac", seed, stage)) for stage in ("offline", "online"))
        assert {name for name in before if name.startswith("flat/")} == {
            f"flat/{name}" for name in ("policy", "behaviour", "critic", "target_critic")
        }
        assert not any(torch.equal(before[f"flat/{name}"], after[f"flat/{name}"]) for name in ("behaviour", "policy"))
    saved = load_file(place.run("brac", 0, "online") / "policy/policy.safetensors")
    assert {name.partition(".")[0] for name in saved} == {"policy"}
    asked = ("brac", TASK, "online", str(place.folder / "config"))
    code = f"{BLOCK}\nfrom mfql.methods import settings_hash\nprint(settings_hash(*{asked!r}))"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert said.strip() == settings_hash(*asked)


# --- a score that is a return -----------------------------------------------------------------------------------------


def write_return(folder: Path, task: str, seed: int, returns: list[float], diverged_at: int | None = None) -> Path:
    """The result of a run that is scored by its return."""
    path = folder / "runs" / "mine" / task / f"seed{seed}" / "offline" / "evaluation.json"
    evaluations = [
        {"step": 10 * (i + 1), "episodes": 5, "success": 0.0, "return": value, "length": 3.0}
        for i, value in enumerate(returns)
    ]
    result = {
        **{"method": "mine", "task": task, "seed": seed, "stage": "offline", "identity": "0"},
        **{"status": "finished" if diverged_at is None else "diverged", "diverged_at": diverged_at},
        **{"metric": "return", "score_rule": "last", "score": returns[-1], "episodes": 5, "steps": 30},
        **{"starts_from": None, "stopped_at": None, "evaluations": evaluations},
    }
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


def test_returns_are_no_percentages_and_never_averaged_over_tasks(tmp_path: Path) -> None:
    files = [write_return(tmp_path, task, seed, [-900.0, -700.0, -500.0]) for task in "ab" for seed in (0, 1)]
    files.append(write_return(tmp_path, "a", 2, [-900.0, -950.0], diverged_at=25))
    scores = collect(files)
    table = by_task(scores).set_index("task")
    assert set(table["unit"]) == {"return"}
    assert table.loc["b", "value"] == -500
    assert table.loc["a", "by_seed"] == "0:-500 1:-500 2:-950"
    over = over_tasks(scores).set_index(["unit", "statistic"])["value"]
    assert over["return of b", "mean"] == -500
    assert over["return of a", "mean"] == pytest.approx(-650)
    curve = curves(scores).set_index(["task", "step"])["value"]
    assert curve["a", 30] == pytest.approx((-500 - 500 - 950) / 3)


# --- a task table -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("mine,Pendulum-v1,a.npz,,,,\n", "tasks.csv:2: metric of mine is empty"),
        ("mine,Pendulum-v1,,success,,,\n", "data of mine is empty"),
        ("mine,Pendulum-v1,a.npz,reward,,,\n", "metric is 'reward'"),
        ("mine,Pendulum-v1,a.npz,normalized_return,,0,\n", "score_high is None"),
        ("mine,Pendulum-v1,a.npz,return,,0,1\n", "metric is return"),
        ("mine,Pendulum-v1,a.npz,normalized_return,,5,1\n", "score_low 5 is not below score_high 1"),
        ("mine,Pendulum-v1,a.npz,return,ten,,\n", "max_episode_steps is 'ten'"),
        ("mine,Pendulum-v1,a.npz,return\n", "has not 7 cells"),
        ("my task,Pendulum-v1,a.npz,return,,,\n", "task is 'my task'"),
        ("mine,Pendulum-v1,a.npz,return,,,\n" * 2, "names the task mine twice"),
        ("pen-human-v1,Pendulum-v1,a.npz,return,,,\n", "names the task pen-human-v1, which another task table has"),
        ("mine,,,success,,,\n", "dataset of mine is empty"),
    ],
)
def test_a_faulty_row_is_named(tmp_path: Path, rows: str, said: str) -> None:
    table(tmp_path, rows)
    with pytest.raises(UserError, match=re.escape(said)):
        find_task("mine", ROOT / "config")


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    table(tmp_path, "mine,1\n", "task,aplha\n")
    with pytest.raises(UserError, match=r"unknown column 'aplha' in .*tasks\.csv\n.*alpha"):
        find_task("mine", ROOT / "config")


def test_a_folder_that_holds_nothing_is_no_extension(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--extension", str(tmp_path), "data", "describe", "mine", "--out", str(tmp_path)]) == 2
    assert "is no extension: it has neither tasks.csv nor methods nor agents" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["methods/mfql.yaml", "agents/mfql.py"])
def test_a_method_of_the_project_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("agent: mfql\n", encoding="utf-8")
    extend([tmp_path])
    with pytest.raises(UserError, match="have the same name"):
        raw_settings("mfql", "pen-human-v1", "offline", ROOT / "config")


def test_freezing_leaves_the_table_of_an_extension_to_its_owner(tmp_path: Path) -> None:
    table(tmp_path, "mine,Pendulum-v1,a.npz,return,,,\n")
    point = {"alpha": 10, "num_candidates": 4, "time_steps": 10}
    entry = {"chosen": point, "certainty": "clear", "carried_to": ["mine"], "method": "mfql", "points": [point]}
    (tmp_path / "proposal.yaml").write_text(json.dumps({"mine": entry}), encoding="utf-8")
    with pytest.raises(UserError, match="mine is a task of an extension"):
        freeze(tmp_path / "proposal.yaml", ROOT / "config")


# --- an environment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observations", "actions", "said"),
    [
        (VECTOR, Discrete(4), "the policies here are continuous"),
        (VECTOR, Box(-np.inf, np.inf, (2,)), "must lie between finite bounds"),
        (VECTOR, Box(-1.0, 1.0, (2, 2)), "actions of the shape [2, 2]"),
        (Discrete(5), BOUNDED, "no flat Box"),
        (Box(0, 255, (8, 8, 3), np.uint8), BOUNDED, "images"),
        (Dict(image=Box(0, 255, (8, 8, 3), np.uint8)), BOUNDED, "no flat Box"),
    ],
)
def test_spaces_that_do_not_fit_are_refused_by_name(tmp_path: Path, observations, actions, said: str) -> None:
    registered(tmp_path, observations=observations, actions=actions)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        make_env("mine")
    assert "mine: the environment Odd-v0" in str(caught.value)


def wrapped_as_said(made: Callable[[], gymnasium.Env], task: str, folder: Path) -> Isolated:
    """The task's environment, wrapped by the lines that the refusals give until there is none."""
    for _ in range(3):
        gymnasium.envs.registration.registry.pop("Wrapped-v0", None)
        gymnasium.register("Wrapped-v0", entry_point=lambda made=made, **_: made(), max_episode_steps=20)
        table(folder, "mine,Wrapped-v0,a.npz,return,,,\n")
        try:
            return make_env("mine")
        except UserError as refused:
            line = str(refused).partition("as docs/extend.md does: ")[2].removesuffix(".").partition(" (with")[0]
            made = partial(eval, line, {"gymnasium": gymnasium, "numpy": np, "env": made()})  # noqa: S307 - our own message
    raise AssertionError("it is still refused")


IMAGE = Box(0, 255, (4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("made", "observations", "actions"),
    [
        (lambda: gymnasium.make("CartPole-v1"), 4, 2),
        (lambda: gymnasium.make("FrozenLake-v1"), 16, 4),
        (lambda: gymnasium.make("Blackjack-v1"), 45, 2),
        (lambda: TimeAwareObservation(gymnasium.make("Pendulum-v1"), flatten=False), 4, 1),
        (lambda: Odd(IMAGE, BOUNDED), 60, 2),
        (lambda: Odd(Dict(image=IMAGE, place=VECTOR, kind=Discrete(4)), BOUNDED), 67, 2),
        (lambda: Odd(VECTOR, Discrete(3, start=2)), 3, 3),
        (lambda: Odd(VECTOR, MultiDiscrete([2, 7])), 3, 2),
        (lambda: Odd(VECTOR, MultiBinary(3)), 3, 3),
        (lambda: Odd(VECTOR, Box(0, 9, (2,), np.int64)), 3, 2),
        (lambda: Odd(VECTOR, Box(-1.0, 1.0, (2, 3))), 3, 6),
        (lambda: Odd(VECTOR, Dict(arm=Box(-1.0, 1.0, (2,)), hand=Box(0.0, 1.0, (1,)))), 3, 3),
        (lambda: Odd(VECTOR, Box(-np.inf, np.inf, (2,))), 3, 2),
    ],
)
def test_the_line_that_a_refusal_gives_wraps_the_environment(
    tmp_path: Path, made: Callable[[], gymnasium.Env], observations: int, actions: int
) -> None:
    env = wrapped_as_said(made, "mine", tmp_path)
    assert (env.observation_space.shape, env.action_space.shape) == ((observations,), (actions,))
    trial = try_out(env)
    assert trial.observations.shape[1:] == (observations,)
    inner = env.unwrapped
    assert all(inner.action_space.contains(action) for action in getattr(inner, "acted", []))
    env.close()


def test_the_page_wraps_an_environment_of_discrete_actions(tmp_path: Path) -> None:
    (tmp_path / "cartpole.py").write_text(FILES["mylab/cartpole.py"], encoding="utf-8")
    table(tmp_path, "mine,cartpole:mylab/CartPole-v0,a.npz,return,,,\n")
    env = make_env("mine")
    assert (env.observation_space.shape, env.action_space.shape, env.spec.max_episode_steps) == ((4,), (2,), 500)
    assert 1.0 <= try_out(env).rewards.sum() <= 500.0
    env.close()


def test_spaces_for_which_no_line_can_be_given_say_what_is_to_be_written(tmp_path: Path) -> None:
    registered(tmp_path, observations=Sequence(VECTOR), actions=BOUNDED)
    with pytest.raises(UserError, match=r"VECTOR_OF, .*SIZE"):
        make_env("mine")
    registered(tmp_path, observations=VECTOR, actions=Text(3))
    with pytest.raises(UserError, match=r"ACTION_OF, .*SIZE"):
        make_env("mine")


def test_an_environment_without_time_limit_is_refused(tmp_path: Path) -> None:
    registered(tmp_path, "mine,Odd-v0,a.npz,return,,,\n", observations=VECTOR, actions=BOUNDED)
    with pytest.raises(UserError, match="no time limit"):
        make_env("mine")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Pendulum-v99", "is not known to Gymnasium"),
        ("no_such_module:Odd-v0", "cannot be imported"),
        ("nonsense", "is not known to Gymnasium"),
    ],
)
def test_an_unknown_environment_is_named(tmp_path: Path, name: str, said: str) -> None:
    table(tmp_path, f"mine,{name},a.npz,return,,,\n")
    with pytest.raises(UserError, match=said):
        make_env("mine")


def test_methods_act_in_bounds_that_stand_for_the_environments(tmp_path: Path) -> None:
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    with EnvPool("mine", 1, 0) as pool:
        pool.reset({0: 0})
        for action in ((-1.0, -1.0), (1.0, 1.0), (0.0, 3.0)):
            pool.step(np.array([action], np.float32), np.ones(1, bool))
        acted = pool._local.envs[0].base.acted
    np.testing.assert_allclose(acted, [[0.0, -2.0], [1.0, 4.0], [0.5, 4.0]])


def test_an_environment_takes_actions_in_its_own_units(tmp_path: Path) -> None:
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    env = make_env("mine")
    reset_env(env, 0)
    env.step(np.array([0.25, 3.5]))
    np.testing.assert_array_equal(env.base.acted, [[0.25, 3.5]])
    assert env.action_space == BOUNDED


def test_a_dict_is_flattened_as_a_dataset_of_it_is(tmp_path: Path) -> None:
    space = Dict(goal=Box(-1.0, 1.0, (2,)), body=Dict(speed=Box(-1.0, 1.0, ()), arm=Box(-1.0, 1.0, (3,))))
    registered(tmp_path, observations=space, actions=BOUNDED)
    env = make_env("mine")
    seen, _ = reset_env(env, 7)
    reset_env(env, 7)
    env.base.reset(seed=7)
    env.base.np_random.bit_generator.state = np.random.default_rng(7).bit_generator.state
    raw = env.base.reset(seed=7)[0]
    stacked = {"goal": raw["goal"][None], "body": {key: np.asarray(value)[None] for key, value in raw["body"].items()}}
    assert seen.dtype == np.float32
    np.testing.assert_allclose(flat_observations(stacked, space)[0], seen, rtol=1e-6)


def test_episodes_follow_from_seed_and_actions(extended: Path) -> None:
    first, second = make_env("point"), make_env("point")
    seen = reset_env(first, 3)[0]
    reset_env(second, 9)
    np.testing.assert_array_equal(seen, reset_env(second, 3)[0])
    assert not np.array_equal(seen, reset_env(first, 4)[0])


@pytest.mark.parametrize("info", [{"success": True}, {"is_success": np.bool_(True)}])
def test_success_is_what_either_key_says(tmp_path: Path, info: dict) -> None:
    registered(tmp_path, "mine,Odd-v0,a.npz,success,10,,\n", observations=VECTOR, actions=BOUNDED, info=info)
    env = make_env("mine")
    reset_env(env, 0)
    assert env.step(np.zeros(2))[4]["success"] == 1.0


def test_an_environment_that_tells_nothing_of_success_is_named(tmp_path: Path) -> None:
    registered(tmp_path, "mine,Odd-v0,a.npz,success,10,,\n", observations=VECTOR, actions=BOUNDED)
    with pytest.raises(UserError, match="says nothing of success"):
        try_out(make_env("mine"))


def test_a_trial_is_an_episode_in_the_environments_own_units(extended: Path) -> None:
    found, again = try_out(make_env("point")), try_out(make_env("point"))
    steps = len(found.rewards)
    assert (found.end, found.success) == ("truncated", False)
    assert (found.observations.shape, found.actions.shape) == ((steps + 1, 4), (steps, 2))
    assert (found.observations.dtype, found.actions.dtype) == (np.float64, np.float32)
    assert 0.19 < np.abs(found.actions).max() <= np.float32(0.2)
    env = gymnasium.make("point:mylab/Point-v0")
    played = [env.reset(seed=0)[0], *(env.step(action)[0] for action in found.actions)]
    np.testing.assert_array_equal(found.observations, played)
    np.testing.assert_array_equal(found.observations, again.observations)


def test_registered_environments_are_what_the_wrapper_says(extended: Path) -> None:
    env = make_env("pendulum").env
    assert isinstance(env, RegisteredEnv)
    assert (env.units.low.tolist(), env.units.high.tolist(), env.units.rescaled) == ([-2.0], [2.0], True)
