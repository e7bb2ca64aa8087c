"""Names as people give them: what they are nearest to, OGBench's of default tasks, and one writing for each run."""

from __future__ import annotations

import csv
from pathlib import Path

import ogbench
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mfql.errors import nearest, unknown
from mfql.methods import canonical_method, same_settings
from mfql.tasks import default_task, known_tasks, task_name
from tests.support.project import Project, clone, evaluation
from tests.support.training_runs import METHOD, ROOT, TASK, Workplace

with open(ROOT / "config" / "tasks.csv", encoding="utf-8") as file:
    TASKS = [row["task"] for row in csv.DictReader(file)]
CUBE = "cube-double-play-singletask-task2-v0"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("cube-double-singletask-task2-v0", [CUBE]),
        ("cube-double-task2-v0", [CUBE]),
        ("cube-play-double-singletask-task2-v0", [CUBE]),
        ("cube-double-play-singletask-task2-v1", [CUBE]),
        ("Cube_Double_Play_Singletask_Task2_v0", [CUBE]),
        ("cube-doubel-play-singletask-task2-v0", [CUBE]),
        ("scene-task4", ["scene-play-singletask-task4-v0"]),
        ("cube-double-play-singletask-task7-v0", [f"cube-double-play-singletask-task{n}-v0" for n in range(1, 6)]),
        (
            "puzzle-3x4-play-singletask-task2-v0",
            ["puzzle-3x3-play-singletask-task2-v0", "puzzle-4x4-play-singletask-task2-v0"],
        ),
        ("pen-human-v0", ["pen-human-v1"]),
        ("xyz", []),
    ],
)
def test_the_nearest_names_are_those_that_are_meant(given: str, meant: list[str]) -> None:
    assert nearest(given, TASKS) == meant


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("alpa", ["adaptive_alpha", "alpha", "alpha_interval"], "alpha"),
        ("mfql_laptop", ["mfql", "mfql-laptop"], "mfql-laptop"),
        ("onlin", ["offline", "online", "pretrain"], "online"),
        ("task3", ["task2", "task10", "task1"], "task1"),
    ],
)
def test_so_are_those_of_short_names(given: str, known: list[str], meant: str) -> None:
    assert nearest(given, known)[0] == meant


@given(st.sampled_from(TASKS), st.data())
def test_of_a_name_without_one_of_its_words_the_others_are_found(name: str, data: st.DataObject) -> None:
    words = name.split("-")
    left_out = data.draw(st.sampled_from(range(len(words))))
    given = "-".join(words[:left_out] + words[left_out + 1 :])
    if given not in TASKS:
        assert all(set(given.split("-")) <= set(found.split("-")) for found in nearest(given, TASKS))


def test_a_name_of_another_kind_is_told() -> None:
    said = str(unknown("task", "mfql", TASKS, others={"method": ["mfql"], "suite": ["ogbench"]}))
    assert "unknown task 'mfql', which is a method\n" in said
    said = str(unknown("task", "mfql", TASKS, "tasks.csv", {"method": ["mfql"]}))
    assert "unknown task 'mfql', which is a method, in tasks.csv\n" in said


# Pixel tasks are the same with images, which not every machine renders.
STATE = {task.dataset for task in known_tasks(ROOT / "config").values() if task.suite in ("ogbench", "pointmaze")}
MORE = {"puzzle-4x5-play-v0", "puzzle-4x6-play-v0", "cube-quadruple-play-v0", "antmaze-teleport-navigate-v0"}


@pytest.mark.slow
@pytest.mark.parametrize("dataset", sorted(STATE | MORE))
def test_default_tasks_are_those_of_the_installed_ogbench(dataset: str) -> None:
    alias = dataset.replace("-v0", "-singletask-v0")
    env = ogbench.make_env_and_datasets(alias, env_only=True)
    assert default_task(alias) == alias.replace("-v0", f"-task{env.unwrapped._reward_task_id}-v0")
    env.close()


@pytest.mark.parametrize("name", [CUBE, "pen-human-v1", "scene-play-v0", "mylab-singletask-v0", "singletask-v0"])
def test_other_names_mean_no_default_task(name: str) -> None:
    assert default_task(name) is None
    assert task_name(name, ROOT / "config") == name


def test_one_method_has_one_writing(capsys: pytest.CaptureFixture[str]) -> None:
    assert canonical_method("mfql+alpha=30+critic_hidden=64x64") == "mfql+alpha=30+critic_hidden=64x64"
    assert not capsys.readouterr().err
    for written in ("mfql+alpha=30.0", "mfql+alpha=3e1", "mfql+alpha=0030"):
        assert canonical_method(written) == "mfql+alpha=30"
        assert capsys.readouterr().err == f"mfql: note: the method {written} is read as mfql+alpha=30\n"
    assert same_settings("mfql+alpha=1+tau=0.1") == same_settings("mfql+tau=1e-1+alpha=1.0")
    assert same_settings("mfql+alpha=1") != same_settings("mfql+alpha=true")


@pytest.mark.slow
def test_a_run_by_ogbenchs_name_lies_in_the_folder_of_its_task(tmp_path: Path) -> None:
    place = Workplace.make(tmp_path)
    place.method("short", "inherits: mfql-miniature\noffline_steps: 5\neval_interval: 5\neval_episodes: 1\n")
    done = place.train("short+batch_size=16.0", "offline", [0], task=TASK.replace("-task1", ""))
    assert done.stderr.count("mfql: note: ") == 2
    assert (place.run("short+batch_size=16", 0, "offline") / "evaluation.json").is_file()
    assert [path.name for path in tmp_path.glob("results/runs/*/*")] == [TASK]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return clone(tmp_path_factory.mktemp("names") / "mfql")


@pytest.mark.slow
def test_targets_are_read_by_the_names_that_runs_have(project: Project) -> None:
    alias = evaluation(9).replace("-task1", "").replace(METHOD, f"{METHOD}+alpha=3.0")
    printed = project.miniature("-n", f"./{alias}")
    assert f"--method {METHOD}+alpha=3 --task {TASK} --stage offline --seeds 9 " in printed
    assert printed.count("mfql: note: ") == 2
    planned = project.mfql("plan", alias, "--configfile", "tests/miniature.yaml")
    assert "1 run," in planned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "said"),
    [
        (evaluation(9).replace("seed9", "seed009"), "seed009 is no name of a run's seed\n  Write seed9."),
        (evaluation(9).replace("offline", "Offline"), "Did you mean offline?"),
        ("offlin", "unknown target 'offlin'\n  Did you mean offline?"),
    ],
)
def test_targets_that_name_no_run_are_refused_at_once(project: Project, target: str, said: str) -> None:
    printed = project.miniature("-n", target, fails=True)
    assert said in printed
    assert "Traceback" not in printed
