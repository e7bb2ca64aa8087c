"""Method settings: inheritance, stages, the task table, and refusals by name."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pytest

from mfql.agents.calql import CalQLSettings
from mfql.agents.interface import load_agent
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.declared import TRAINING_VERSION, agent_stages, training_version
from mfql.errors import UserError
from mfql.methods import checkpoint_stage, declared_settings, raw_settings, settings_hash, settings_source, table_keys
from mfql.published_settings import PUBLISHED, tables
from mfql.settings import Settings, build_settings
from mfql.tasks import load_tasks
from tests.support.training_runs import METHOD_FILES

CONFIG = Path(__file__).parents[1] / "config"
TASK = "cube-double-play-singletask-task2-v0"
HEADER = (
    "task,suite,environment,dataset,observations,metric,score_rule,discount,alpha,num_candidates,time_steps,"
    "offline_steps,pretrain_steps,online_steps,online,settings_source\n"
)
ROW = "a-task,ogbench,a,a-play-v0,state,success,last_three,0.995,120,5,50,1000,700,500,yes,table\n"


@pytest.fixture
def config(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "tasks.csv").write_text(HEADER + ROW, encoding="utf-8")

    def write(name: str, text: str) -> Path:
        (tmp_path / "methods" / f"{name}.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


BASE = "agent: mfql\nalpha: task\ndiscount: task\noffline_steps: task\nonline_steps: task\n"
# A method's file as far as its settings are read from it.
OWN_AGENT = """
from dataclasses import dataclass
from typing import ClassVar

from mfql.agents.interface import Agent
from mfql.settings import Settings


@dataclass(frozen=True, kw_only=True)
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
        agent.write_text(f"{OWN_AGENT}{version}", encoding="utf-8")
        hashes.add(settings_hash("m", "a-task", "offline", folder))
    assert len(hashes) == 2


DERIVED_AGENT = """
from mfql.agents.mfql import MFQL


class Derived(MFQL):
    pass
"""


BY_MODULE = DERIVED_AGENT.replace("from mfql.agents.mfql import MFQL", "import mfql.agents.mfql as base").replace(
    "(MFQL)", "(base.MFQL)"
)


@pytest.mark.parametrize("derived", [DERIVED_AGENT, BY_MODULE], ids=["by-name", "by-module"])
def test_the_version_of_a_derived_agent_follows_that_of_its_base(derived, tmp_path, monkeypatch):
    agent = tmp_path / "agent.py"
    agent.write_text(derived, encoding="utf-8")
    assert training_version(str(agent)) == training_version("mfql")
    monkeypatch.setattr(MFQL, "training_version", 3)
    raised = training_version(str(agent))
    agent.write_text(f"{derived}    training_version = 2\n", encoding="utf-8")
    assert (raised, training_version(str(agent))) == ([TRAINING_VERSION, 3], [TRAINING_VERSION, 4])


def test_of_classes_of_one_file_the_agents_own_version_counts(tmp_path):
    agent = tmp_path / "agent.py"
    mixin = "\n\nclass Base:\n    training_version = 5\n"
    agent.write_text(OWN_AGENT + "    training_version = 2\n" + mixin, encoding="utf-8")
    assert training_version(str(agent)) == [TRAINING_VERSION, 2]
    agent.write_text(OWN_AGENT.replace("class Mine(", mixin.strip() + "\n\n\nclass Mine(Base, "), encoding="utf-8")
    assert training_version(str(agent)) == [TRAINING_VERSION, 5]


def test_the_hash_follows_a_default_in_the_methods_code(config, tmp_path):
    agent = tmp_path / "agent.py"
    folder = config("m", BASE.replace("agent: mfql", f"agent: {agent}"))
    hashes = set()
    for width in (32, 64):
        agent.write_text(OWN_AGENT.replace("= 32", f"= {width}"), encoding="utf-8")
        hashes.add(settings_hash("m", "a-task", "offline", folder))
    assert len(hashes) == 2


def test_the_online_hash_follows_the_run_it_starts_from(config):
    folder = config("m", BASE)
    config("n", BASE + "pretrain: {tau: 0.5}\n")
    assert settings_hash("m", "a-task", "online", folder) != settings_hash("n", "a-task", "online", folder)


SECTIONS = BASE + "pretrain: {offline_steps: 40, tau: 0.1}\n"


def test_a_value_in_a_name_is_refused_in_the_stages_whose_section_has_another(config):
    folder = config("m", SECTIONS)
    assert raw_settings("m+offline_steps=200", "a-task", "offline", folder)["offline_steps"] == 200
    for stage in ("pretrain", "online"):
        with pytest.raises(UserError, match=r"m\+offline_steps=200: .* section pretrain of its file offline_steps: 40"):
            raw_settings("m+offline_steps=200", "a-task", stage, folder)
        assert raw_settings("m+offline_steps=40", "a-task", stage, folder)["offline_steps"] == 40
    assert raw_settings("m+tau=0.1", "a-task", "pretrain", folder)["tau"] == 0.1


def test_a_file_may_say_what_a_name_that_it_inherits_leaves_open(config):
    config("m", SECTIONS)
    folder = config("n", "inherits: m+offline_steps=200\npretrain: {offline_steps: 100}\n")
    assert [raw_settings("n", "a-task", stage, folder)["offline_steps"] for stage in ("offline", "pretrain")] == [
        200,
        100,
    ]
    folder = config("n", "inherits: m+offline_steps=200\n")
    with pytest.raises(UserError, match=r"m\+offline_steps=200"):
        raw_settings("n", "a-task", "pretrain", folder)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BASE + "alhpa: 3\n", "alpha"),
        (BASE + "tau: fast\n", "tau"),
        (BASE + "tau: true\n", "tau"),
        (BASE + "batch_size: 2.5\n", "batch_size"),
        (BASE.replace("offline_steps: task", "offline_steps: -4"), "offline_steps"),
        (BASE.replace("discount: task", "discount: 1.0"), "discount"),
        (BASE + "q_agg: median\n", "q_agg"),
        (BASE + "critic_hidden: 512\n", "critic_hidden"),
        (BASE.replace("alpha: task", "alpha: .nan"), "alpha"),
        (BASE + "12: 3\n", "unknown setting 12"),
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
    (tmp_path / "tasks.csv").write_text(HEADER + row, encoding="utf-8")
    with pytest.raises(UserError, match="a-task"):
        load_tasks(tmp_path / "tasks.csv")


@pytest.mark.parametrize("path", METHOD_FILES, ids=lambda path: path.stem)
def test_every_shipped_method_builds_in_every_stage_that_it_has(path):
    agent = raw_settings(path.stem, TASK, "online", CONFIG)["agent"]
    kind = load_agent(agent)
    assert agent_stages(agent) == kind.stages
    for stage in kind.stages:
        raw = raw_settings(path.stem, TASK, stage, CONFIG)
        raw.pop("agent")
        settings = build_settings(kind.settings_type, raw, path.name)
        assert (settings.offline_steps > 0) == ("offline" in kind.stages)
        declared = declared_settings(path.stem, TASK, stage, CONFIG)[1]
        assert declared.as_dict() == settings.as_dict()


# --- tables of methods ------------------------------------------------------------------------------------------------

TABLE = """task,stage,alpha,q_agg,discount,settings_source
a-task,offline,30,min,0.99,a paper
a-task,online,100,mean,0.98,untuned; as offline
b-task,*,7,,0.5,mine
*,offline,10,mean,task,untuned
"""
WITH_TABLE = BASE + "q_agg: task\ntable: own.csv\n"


@pytest.fixture
def with_table(config, tmp_path):
    def write(table: str = TABLE) -> Path:
        (tmp_path / "own.csv").write_text(table, encoding="utf-8")
        (tmp_path / "tasks.csv").write_text(
            HEADER + ROW + ROW.replace("a-task", "b-task") + ROW.replace("a-task", "c-task"), encoding="utf-8"
        )
        return config("m", WITH_TABLE)

    return write


def test_a_methods_own_table_goes_before_the_task_table_by_stage(with_table):
    folder = with_table()
    found = {stage: raw_settings("m", "a-task", stage, folder) for stage in ("offline", "pretrain", "online")}
    assert [(raw["alpha"], raw["q_agg"], raw["discount"]) for raw in found.values()] == [
        (30, "min", 0.99),
        (100, "mean", 0.98),
        (100, "mean", 0.98),
    ]
    assert found["offline"]["offline_steps"] == 1000
    assert checkpoint_stage("m", "a-task", folder) == "pretrain"


def test_a_star_is_any_other_task_or_stage_and_may_defer_to_the_task_table(with_table):
    folder = with_table()
    other = raw_settings("m", "c-task", "offline", folder)
    assert (other["alpha"], other["discount"]) == (10, 0.995)
    assert [raw_settings("m", "b-task", stage, folder)["alpha"] for stage in ("offline", "online")] == [7, 7]
    assert raw_settings("m", "b-task", "offline", folder)["q_agg"] is None


def test_the_source_of_settings_is_the_methods_table_then_the_task_tables_where_it_is_used(with_table, config):
    folder = with_table()
    config("plain", BASE)
    config("fixed", BASE.replace("alpha: task", "alpha: 3"))
    assert settings_source("m", "a-task", "offline", folder) == "a paper"
    assert settings_source("m", "a-task", "pretrain", folder) == "untuned; as offline"
    assert settings_source("plain", "a-task", "offline", folder) == "table"
    assert settings_source("fixed", "a-task", "offline", folder) == "the same for all tasks"


def test_a_row_may_leave_its_source_and_some_settings_to_the_task_table(with_table):
    folder = with_table(TABLE.replace("task,untuned", "task,task"))
    assert settings_source("m", "c-task", "offline", folder) == "table"
    assert table_keys("m", folder) == {"discount", "offline_steps", "online_steps"}


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (TABLE.replace("*,offline", "*,later"), "later"),
        (TABLE.replace("a-task,online", "a-task,offline"), "twice"),
        (TABLE.replace(",mine", ","), "settings_source"),
        (TABLE.replace(",0.5,mine", ",mine"), "own.csv:4"),
        (TABLE.replace("stage", "stadium", 1), "lacks the columns stage"),
        ("task,stage,alpha,settings_source\n", "has no row"),
    ],
)
def test_a_faulty_table_is_refused_where_it_is_faulty(with_table, table, named):
    with pytest.raises(UserError, match=named) as error:
        raw_settings("m", "c-task", "offline", with_table(table))
    assert "own.csv" in str(error.value)


def test_a_task_without_a_row_and_a_table_that_is_not_there_are_named(with_table, config):
    folder = with_table("\n".join(TABLE.splitlines()[:4]) + "\n")
    with pytest.raises(UserError, match="no row for c-task"):
        raw_settings("m", "c-task", "offline", folder)
    config("n", WITH_TABLE.replace("own", "absent"))
    with pytest.raises(UserError, match=r"absent\.csv"):
        raw_settings("n", "a-task", "offline", folder)


def test_the_hash_follows_the_cells_of_a_methods_table_that_it_uses(with_table, config, tmp_path):
    folder = with_table()
    hashes = [settings_hash("m", "a-task", stage, folder) for stage in ("offline", "online")]
    config("n", WITH_TABLE.replace("own", "changed"))
    (tmp_path / "changed.csv").write_text(
        TABLE.replace("100,mean", "200,mean").replace("a paper", "another"), encoding="utf-8"
    )
    assert settings_hash("n", "a-task", "offline", folder) == hashes[0]
    assert settings_hash("n", "a-task", "online", folder) != hashes[1]


def test_the_baselines_tables_are_what_the_published_settings_give():
    for name, text in tables(CONFIG).items():
        assert (CONFIG / "baselines" / f"{name}.csv").read_text(encoding="utf-8") == text, (
            "python -m mfql.published_settings"
        )


CORRECTED = "arXiv 2502.02538, tables, read by OCR; corrected"
DIFFER = "untuned; as read by OCR, and its dataset's tasks differ"


@pytest.mark.parametrize(
    ("read", "exact", "expected"),
    [
        # Most agree: the fifth is corrected.
        ([3, 3, 3, 3, 30], [], [("3", "arXiv")] * 4 + [("3", CORRECTED)]),
        ([3, 30], [], [("3", DIFFER), ("30", DIFFER)]),
        ([3, 3, 30, 30, 300], [], [("3", DIFFER)] * 2 + [("30", DIFFER)] * 2 + [("300", DIFFER)]),
        # An exact row stays, and doubts those that most agree against it with.
        ([3, 3, 3, 3, 30], [5], [("3", DIFFER)] * 4 + [("30", "arXiv 2502.02538, commands")]),
        ([3, 3, 3, 3, 30], [1], [("3", "arXiv 2502.02538, commands")] + [("3", "arXiv")] * 3 + [("3", CORRECTED)]),
    ],
)
def test_tasks_of_a_dataset_that_were_read_otherwise_are_corrected_or_doubted(tmp_path, read, exact, expected):
    (tmp_path / "baselines/published").mkdir(parents=True)
    (tmp_path / "tasks.csv").write_text((CONFIG / "tasks.csv").read_text(encoding="utf-8"), encoding="utf-8")
    header, *lines = (CONFIG / PUBLISHED).read_text(encoding="utf-8").splitlines()
    names = [f"cube-double-play-singletask-task{number}-v0" for number in range(1, 1 + len(read))]
    others = [line for line in lines if not line.startswith("cube-double-play") or ",IQL,offline," not in line]
    confidences = ["exact" if number in exact else "ocr" for number in range(1, 1 + len(read))]
    own = [
        f"{name},IQL,offline,alpha={alpha},0.99,,,0,{confidence}"
        for name, alpha, confidence in zip(names, read, confidences, strict=True)
    ]
    (tmp_path / PUBLISHED).write_text("\n".join([header, *others, *own]) + "\n", encoding="utf-8")
    rows = {(row["task"], row["stage"]): row for row in csv.DictReader(tables(tmp_path)["iql"].splitlines())}
    for name, (alpha, source) in zip(names, expected, strict=True):
        row = rows[name, "offline"]
        assert row["alpha"] == alpha
        assert row["settings_source"].startswith(source)


HUMANOID, SOCCER = "humanoidmaze-medium-navigate-singletask-task1-v0", "antsoccer-arena-navigate-singletask-task4-v0"


@pytest.mark.parametrize(
    ("method", "task", "stage", "settings", "source"),
    [
        ("fql", "antmaze-giant-navigate-singletask-task3-v0", "offline", {"alpha": 10, "q_agg": "min"}, "arXiv"),
        ("fql", "pen-cloned-v1", "offline", {"alpha": 10000, "discount": 0.99}, "arXiv"),
        ("fql", "pen-cloned-v1", "pretrain", {"alpha": 1000, "offline_steps": 1_000_000}, "arXiv"),
        ("fql", HUMANOID, "online", {"alpha": 100, "discount": 0.995}, "arXiv"),
        ("iql", "cube-double-play-singletask-task4-v0", "offline", {"alpha": 0.3, "discount": 0.99}, "arXiv"),
        ("iql", SOCCER.replace("task4", "task2"), "offline", {"alpha": 1}, "untuned"),
        ("iql", "pen-human-v1", "offline", {"alpha": 10}, "untuned"),
        ("rebrac", "cube-single-play-singletask-task2-v0", "offline", {"alpha_actor": 1, "alpha_critic": 0}, "arXiv"),
        ("ifql", SOCCER, "online", {"num_samples": 64}, "arXiv"),
        ("fbrac", "pen-human-v1", "offline", {"alpha": 30000}, "untuned"),
        ("calql", TASK, "online", {"cql_alpha": 0.01, "target_gap_beta": None}, "arXiv"),
        ("calql", SOCCER, "online", {"cql_alpha": None, "target_gap_beta": 0.2}, "arXiv"),
        ("rlpd", HUMANOID, "online", {"discount": 0.995, "offline_steps": 0}, "arXiv"),
        ("rlpd", "pointmaze-medium-navigate-singletask-task1-v0", "online", {"discount": 0.995}, "the task"),
    ],
)
def test_published_settings_reach_the_run(method, task, stage, settings, source):
    assert raw_settings(method, task, stage, CONFIG).items() >= settings.items()
    assert settings_source(method, task, stage, CONFIG).startswith(source)


def test_a_name_gives_cal_ql_the_other_of_its_two_weights():
    raw = raw_settings("calql+target_gap_beta=0.8+cql_alpha=null", TASK, "online", CONFIG)
    assert raw.pop("agent") == "calql"
    found = build_settings(CalQLSettings, raw, "here")
    assert (found.cql_alpha, found.target_gap_beta) == (None, 0.8)


def test_the_released_protocols_settings_by_task_name_their_source():
    for name, task in load_tasks(CONFIG / "tasks.csv").items():
        named = name in (HUMANOID, HUMANOID.replace("medium", "large"))
        source = settings_source("mfql-released", name, "offline", CONFIG)
        assert source == ("released README" if named else task.settings_source)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_a_method_without_an_offline_part_starts_from_nothing(config, tmp_path):
    agent = tmp_path / "agent.py"
    agent.write_text(OWN_AGENT + '    stages = ("online",)\n', encoding="utf-8")
    folder = config("m", BASE.replace("agent: mfql", f"agent: {agent}"))
    assert checkpoint_stage("m", "a-task", folder) is None
    assert settings_hash("m", "a-task", "online", folder)
    with pytest.raises(UserError, match="method m has no stage pretrain"):
        raw_settings("m", "a-task", "pretrain", folder)


def test_a_setting_that_may_be_null_takes_null_or_a_number(config):
    @dataclass(frozen=True, kw_only=True)
    class Nullable(Settings):
        weight: float | None = None

    common = {"offline_steps": 1, "online_steps": 0, "discount": 0.9}
    assert build_settings(Nullable, common | {"weight": None}, "here").weight is None
    assert build_settings(Nullable, common | {"weight": 3}, "here").weight == 3.0
    with pytest.raises(UserError, match="weight"):
        build_settings(Nullable, common | {"weight": "heavy"}, "here")


def test_an_agent_that_is_no_name_is_refused_by_the_file(config):
    folder = config("m", "agent: 1.5\n")
    with pytest.raises(UserError, match=r"m\.yaml: agent is 1\.5, and not a name"):
        raw_settings("m", "a-task", "offline", folder)


@pytest.mark.parametrize(("right", "wrong"), [("success", "sucess"), ("last_three", "last_two")])
def test_a_task_table_with_a_word_that_is_none_is_refused(right, wrong, tmp_path):
    (tmp_path / "tasks.csv").write_text(HEADER + ROW.replace(right, wrong), encoding="utf-8")
    with pytest.raises(UserError, match=f"a-task: [a-z_]+ is {wrong!r}\n *Write .*{right}"):
        load_tasks(tmp_path / "tasks.csv")
