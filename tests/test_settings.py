"""Method settings: inheritance, stages, the task table, and refusals by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mfql.agents.interface import load_agent
from mfql.agents.mfql import MFQLSettings
from mfql.errors import UserError
from mfql.settings import build_settings, checkpoint_stage, raw_settings, settings_hash
from mfql.tasks import load_tasks

CONFIG = Path(__file__).parents[1] / "config"
TASK = "cube-double-play-singletask-task2-v0"
HEADER = (
    "task,suite,environment,dataset,metric,score_rule,discount,alpha,num_candidates,time_steps,"
    "offline_steps,pretrain_steps,online_steps,online,settings_source\n"
)
ROW = "a-task,ogbench,a,a-play-v0,success,last_three,0.995,120,5,50,1000,700,500,yes,table\n"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "tasks.csv").write_text(HEADER + ROW)

    def write(name: str, text: str) -> Path:
        (tmp_path / "methods" / f"{name}.yaml").write_text(text)
        return tmp_path

    return write


BASE = "agent: mfql\nalpha: task\ndiscount: task\noffline_steps: task\nonline_steps: task\n"
# A method's file as far as its settings are read from it.
OWN_AGENT = """
from mfql.agents.interface import Agent
from mfql.settings import Settings


class MySettings(Settings):
    alpha: float
    width: int = 32


class Mine(Agent):
    settings_type = MySettings
"""


def test_task_takes_the_tables_cell_and_pretraining_its_own_length(config):
    folder = config("m", BASE)
    assert raw_settings("m", "a-task", "offline", folder)["alpha"] == 120
    assert raw_settings("m", "a-task", "offline", folder)["offline_steps"] == 1000
    assert raw_settings("m", "a-task", "pretrain", folder)["offline_steps"] == 700
    assert raw_settings("m", "a-task", "online", folder)["offline_steps"] == 700
    assert checkpoint_stage("m", "a-task", folder) == "pretrain"


def test_a_pretrain_stage_equal_to_offline_is_the_offline_run(config):
    folder = config("m", BASE.replace("offline_steps: task", "offline_steps: 1000"))
    assert checkpoint_stage("m", "a-task", folder) == "offline"


def test_inheritance_overrides_key_by_key_in_stages_too(config):
    config("m", BASE + "pretrain: {batch_size: 8, tau: 0.1}\n")
    folder = config("n", "inherits: m\nalpha: 3\npretrain: {tau: 0.2}\n")
    pretrain = raw_settings("n", "a-task", "pretrain", folder)
    assert (pretrain["alpha"], pretrain["batch_size"], pretrain["tau"]) == (3, 8, 0.2)


def test_the_hash_follows_values_and_not_comments_or_order(config):
    folder = config("m", BASE)
    config("same", "# why\ndiscount: 0.995\n" + BASE.replace("discount: task\n", ""))
    config("other", BASE + "tau: 0.01\n")
    hashes = {name: settings_hash(name, "a-task", "offline", folder) for name in ("m", "same", "other")}
    assert hashes["m"] == hashes["same"] != hashes["other"]


def test_the_hash_follows_the_declared_version_of_the_method(config, tmp_path):
    agent = tmp_path / "agent.py"
    folder = config("m", BASE.replace("agent: mfql", f"agent: {agent}"))
    hashes = set()
    for version in ("", "    training_version = 1\n", "    training_version: ClassVar[int] = 2\n"):
        agent.write_text(f"{OWN_AGENT}{version}")
        hashes.add(settings_hash("m", "a-task", "offline", folder))
    assert len(hashes) == 2


def test_the_hash_follows_a_default_in_the_methods_code(config, tmp_path):
    agent = tmp_path / "agent.py"
    folder = config("m", BASE.replace("agent: mfql", f"agent: {agent}"))
    hashes = set()
    for width in (32, 64):
        agent.write_text(OWN_AGENT.replace("= 32", f"= {width}"))
        hashes.add(settings_hash("m", "a-task", "offline", folder))
    assert len(hashes) == 2


def test_the_online_hash_follows_the_run_it_starts_from(config):
    folder = config("m", BASE)
    config("n", BASE + "pretrain: {tau: 0.5}\n")
    assert settings_hash("m", "a-task", "online", folder) != settings_hash("n", "a-task", "online", folder)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BASE + "alhpa: 3\n", "alpha"),
        (BASE + "tau: fast\n", "tau"),
        (BASE + "tau: true\n", "tau"),
        (BASE + "batch_size: 2.5\n", "batch_size"),
        (BASE + "offline_steps: -4\n", "offline_steps"),
        (BASE + "discount: 1.0\n", "discount"),
        (BASE + "q_agg: median\n", "q_agg"),
        (BASE + "critic_hidden: 512\n", "critic_hidden"),
        (BASE + "alpha: .nan\n", "alpha"),
    ],
)
def test_bad_values_are_refused_by_key_and_file(config, text, named):
    folder = config("m", text)
    raw = raw_settings("m", "a-task", "offline", folder)
    with pytest.raises(UserError, match=named) as error:
        build_settings(MFQLSettings, {key: value for key, value in raw.items() if key != "agent"}, "methods/m.yaml")
    assert "methods/m.yaml" in str(error.value)


def test_unknown_names_come_with_the_nearest(config):
    folder = config("mfql", BASE)
    with pytest.raises(UserError, match="Did you mean mfql"):
        raw_settings("mfqll", "a-task", "offline", folder)
    with pytest.raises(UserError, match="a-task"):
        raw_settings("mfql", "a-tesk", "offline", folder)
    with pytest.raises(UserError, match="Did you mean online"):
        raw_settings("mfql", "a-task", "onlin", folder)


def test_a_circle_of_inheritance_is_named(config):
    config("a", "inherits: b\n")
    folder = config("b", "inherits: a\n")
    with pytest.raises(UserError, match="a -> b -> a"):
        raw_settings("a", "a-task", "offline", folder)


@pytest.mark.parametrize("row", [ROW.replace("0.995", "x"), ROW + ROW, ROW.replace(",yes,", ",maybe,")])
def test_a_bad_task_table_is_refused(tmp_path, row):
    (tmp_path / "tasks.csv").write_text(HEADER + row)
    with pytest.raises(UserError, match="a-task"):
        load_tasks(tmp_path / "tasks.csv")


@pytest.mark.parametrize("path", sorted((CONFIG / "methods").glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", ["offline", "pretrain", "online"])
def test_every_shipped_method_builds(path, stage):
    raw = raw_settings(path.stem, TASK, stage, CONFIG)
    kind = load_agent(raw.pop("agent"))
    assert build_settings(kind.settings_type, raw, path.name).offline_steps > 0
