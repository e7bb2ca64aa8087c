"""A study's configuration: one reading and one check, of the rules and of every command."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from snakemake.cli import parse_config

from mfql.cli import main
from mfql.documents import option_value
from mfql.errors import UserError
from mfql.experiment.ablation import plan_of
from mfql.experiment.configuration import (
    asked_runs,
    check_configuration,
    checksum_file,
    dataset_folder,
    named_packs,
    pack_name,
    packs_of_task,
    planned_runs,
    read_configuration,
)
from mfql.experiment.find import asked_files
from mfql.experiment.schema import schema
from mfql.experiment.tuning import tuning_runs
from mfql.tasks import find_task
from tests.support.project import clone
from tests.support.training_runs import ROOT, TASK

CONFIG = ROOT / "config"
FILE = "own.yaml"
WHOLE = "Write a whole number of one or more."
SEEDS = "Write a list of different whole numbers from 0 to 99, such as [0, 1, 2]."
TUNED = "Write a list of different whole numbers from 100 on, such as [100, 101]."
PATHS = "Write a list of paths, each once, or [] for none."
TASKS = "Write a list of tasks, environments or suites of tasks.csv, each once, or [] for none."
MADE = "Write {source: fetch}, or {source: generate, episodes: 100, seed: 0}."
GRID = "Write lists of different values, such as {alpha: [10, 100], num_candidates: [5], time_steps: [50]}."
NAME = "Write letters, digits and _.-, a letter or digit first; runs, published, shipped and toy-runs are taken."
RUNS = "Write {methods: [METHOD, ...], tasks: [TASK, ...]}; the lists may be empty."
FILMS = "Write runs as METHOD/TASK/seed0/offline, each once, or [] for none."
DATASET = "pointmaze-medium-navigate-v0"

# What a file says -> the place and the complaint, and what to write.
FAULTS = {
    "seeds_per_job: 0": ("seeds_per_job: 0 is below 1", WHOLE),
    "seeds_per_job: 2.0": ("seeds_per_job: 2.0 is not a whole number", WHOLE),
    "seeds_per_job: 1000000": ("seeds_per_job: 1000000 is above 1024", WHOLE),
    "threads: 0": ("threads: 0 is below 1", WHOLE),
    "threads: true": ("threads: true is not a whole number", WHOLE),
    "threads: null": ("threads: null is not a whole number", WHOLE),
    "threads: '1e1'": ('threads: "1e1" is not a whole number (it is a text; write 10)', WHOLE),
    "name: no": (
        "name: false is not a text (YAML reads yes, no, on and off as true and false: put a text in quotes)", NAME
    ),
    "seeds: 3": ("seeds: 3 is not a list", SEEDS),
    "seeds: []": ("seeds: [] is empty", SEEDS),
    "seeds: [-1]": ("seeds: entry 1: -1 is below 0", SEEDS),
    "seeds: [0, 100]": ("seeds: entry 2: 100 is above 99", SEEDS),
    "seeds: [1.0, 2]": ("seeds: entry 1: 1.0 is not a whole number", SEEDS),
    "seeds: [true]": ("seeds: entry 1: true is not a whole number", SEEDS),
    "seeds: [00, 0]": ("seeds: [0, 0] has an entry twice", SEEDS),
    'seeds: ["00", 0]': ("seeds: [0, 0] has an entry twice", SEEDS),
    "pixel_seeds: {0: 1}": ('pixel_seeds: {"0": 1} is not a list', SEEDS),
    "name: null": ("name: null is not a text", NAME),
    "name: 7": ("name: 7 is not a text", NAME),
    "name: runs": ('name: "runs" does not fit', NAME),
    'name: "paper\\n"': ('name: "paper\\n" does not fit', NAME),
    "name: 2026-11-27": ('name: "2026-11-27" is not a text', NAME),
    "offline: null": ("offline: null is not a mapping", RUNS),
    "offline: {methods: x}": (
        'offline: methods: "x" is not a list',
        "Write a list of methods, each once, or [] for none.",
    ),
    "online: {tasks: [a b]}": ('online: tasks: entry 1: "a b" does not fit', TASKS),
    "online: {tasks: [scene, scene]}": ('online: tasks: ["scene", "scene"] has an entry twice', TASKS),
    "data_dir: null": ("data_dir: null is not a text", "Write the path of a folder."),
    'data_dir: ""': ('data_dir: "" does not fit', "Write the path of a folder."),
    "datasets_from: [a]": (
        'datasets_from: ["a"] is not a text or null',
        "Write an address, the path of a folder, or null for the published address.",
    ),
    "datasets: null": (
        "datasets: null is not a mapping",
        "Write datasets by name, such as {pointmaze-medium-navigate-v0: {source: fetch}}, or {} for none.",
    ),
    f"datasets: {{{DATASET}: null}}": (f"datasets: {DATASET}: null is not a mapping", MADE),
    f"datasets: {{{DATASET}: {{}}}}": (f"datasets: {DATASET}: lacks source", MADE),
    f"datasets: {{{DATASET}: {{source: git}}}}": (
        f'datasets: {DATASET}: source: "git" is none of fetch, generate',
        MADE,
    ),
    f"datasets: {{{DATASET}: {{source: generate, seed: 0}}}}": (f"datasets: {DATASET}: lacks episodes", MADE),
    "final_episodes: 100001": ("final_episodes: 100001 is above 100000", "Write a whole number, or 0 for none."),
    f"datasets: {{{DATASET}: {{source: generate, seed: 0, episodes: 10000000}}}}": (
        f"datasets: {DATASET}: episodes: 10000000 is above 1000000",
        MADE,
    ),
    "final_episodes: -1": ("final_episodes: -1 is below 0", "Write a whole number, or 0 for none."),
    "videos: null": ("videos: null is not a list", FILMS),
    "videos: [a/b]": ('videos: entry 1: "a/b" does not fit', FILMS),
    "seeds: {}": ("seeds: {} is not a list", SEEDS),
    "tuning: {seeds: {}}": ("tuning: seeds: {} is not a list", TUNED),
    "expected: {}": ("expected: {} is not a text or null", "Write the path of a file, or null for none."),
    "outside_scores: a.csv": ('outside_scores: "a.csv" is not a list', PATHS),
    "extensions: [null]": ("extensions: entry 1: null is not a text", PATHS),
    "trackers: [wandb2]": (
        'trackers: entry 1: "wandb2" is none of wandb, mlflow, trackio',
        "Write a list of wandb, mlflow and trackio, each once, or [] for none.",
    ),
    "allow_cpu: yep": ('allow_cpu: "yep" is not true or false', "Write true or false."),
    "tuning: 3": ("tuning: 3 is not a mapping", "Write method, grid, seeds and tasks; config/config.yaml shows them."),
    "tuning: {seeds: [7]}": ("tuning: seeds: entry 1: 7 is below 100", TUNED),
    "tuning: {grid: {alpha: []}}": ("tuning: grid: alpha: [] is empty", GRID),
    "tuning: {grid: {alpha: [.nan]}}": ("tuning: grid: alpha: entry 1: NaN is not a number", GRID),
    "tuning: {grid: {alpha: [.inf]}}": ("tuning: grid: alpha: entry 1: Infinity is not a number", GRID),
    "tuning: {grid: {alpha: [10, '1e1']}}": ("tuning: grid: alpha: [10, 10.0] has an entry twice", GRID),
    "tuning: {grid: {num_candidates: [0]}}": ("tuning: grid: num_candidates: entry 1: 0 is below 1", GRID),
    "ablations: {tasks: {one: null}}": ("ablations: tasks: one: null is not a list", TASKS),
    "ablations: {method: mfql alpha}": (
        'ablations: method: "mfql alpha" does not fit',
        "A method is the name of a file in methods/, with values after it if wanted, as mfql+alpha=1000.",
    ),
}  # fmt: skip
# The whole message of what is no fault of a value.
OTHERS = {
    "sedes: [1]": f"unknown key 'sedes' in {FILE}\n  Did you mean seeds",
    "tuning: {sed: [1]}": f"unknown key 'sed' in {FILE}: tuning\n  Did you mean seeds?",
    "offline: {method: [mfql]}": f"unknown key 'method' in {FILE}: offline\n  Did you mean methods?",
    "1: 2": f"unknown key '1' in {FILE}\n  Known: ablations, ",
    "datasets: {pointmaze-medium-navigat-v0: {source: fetch}}": (
        f"unknown dataset 'pointmaze-medium-navigat-v0' in {FILE}: datasets\n  Did you mean {DATASET}"
    ),
    "offline: {tasks: [scenee]}": "unknown task, environment or suite 'scenee' in config/tasks.csv\n  Did you mean ",
    "online: {methods: [mfqll]}": "unknown method 'mfqll' in config/methods\n  Did you mean mfql",
    "extensions: [nowhere]": (
        "nowhere is no extension: it has neither tasks.csv nor methods nor agents nor ablations.yaml\n  Name "
    ),
    "seeds: [1]\nthreads: 1\nseeds: [2]": (
        f"cannot read {FILE}: line 3: the key seeds stands there twice, first in line 1: keep one of the two\n"
    ),
    "threads: 010": f"cannot read {FILE}: line 1: 010 is read as 8, since a number that begins with 0 counts in eights",
    "threads: 1:30": f"cannot read {FILE}: line 1: 1:30 is read as 90, since a number with a colon counts in sixties",
    "tuning: {grid: {alpha: [1e3]}}": f"cannot read {FILE}: line 1: 1e3 is a text in YAML 1.1, no number: write 1.0e+3",
    "on: 3": f"cannot read {FILE}: line 1: the key on is read as true or false: put it in quotes",
    "__use_yte__: true": f"{FILE} is a template of YTE, which Snakemake alone reads\n",
}
# Of these Snakemake's own reader has said something before the rules are read.
UNREADABLE = {
    "3": f"{FILE} is no mapping of keys to values\n",
    "seeds: [": f"cannot read {FILE}: line 1: ",
    "name: 2026-13-45": f"cannot read {FILE}: month must be in 1..12\n",
    "name: &name [*name]": f"cannot read {FILE}: line 1: *name holds itself\n",
    "name: \udcff": f"{FILE}: line 1: the byte 0xff is not of UTF-8",
}
SAID = {
    text: f"{FILE}: {fault}\n  {told} config/README.md explains each key." for text, (fault, told) in FAULTS.items()
}
COMMANDS = (
    ["status", "--configfile", FILE],
    ["clean", "--configfile", FILE],
    ["report", "--partial", "--configfile", FILE],
    ["ablation", "list", "--configfile", FILE],
    ["plan", "--configfile", FILE],
)

# Runs `snakemake` with each of the arguments in a process of its own, which has imported already what takes long, and
# says with what each ended.
SNAKEMAKE = """
import json, os, sys
import jsonschema, smart_open, snakemake.cli
import mfql.experiment.claims, mfql.experiment.configuration, mfql.experiment.find, mfql.plan

snakemake.cli.parse_args(["--dry-run"])
said = []
for arguments in json.load(sys.stdin):
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(read)
        try:
            snakemake.cli.main(arguments)
        except SystemExit as ended:  # As the interpreter takes it.
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            os._exit(ended.code if isinstance(ended.code, int) else 1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, errors="replace") as pipe:
        printed = pipe.read()
    said.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), printed])
json.dump(said, sys.stdout)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, without any run: a faulty configuration is refused before anybody looks for one."""
    return clone(tmp_path_factory.mktemp("configuration") / "mfql").folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MFQL_EXTENSIONS", raising=False)
    yield project
    (project / FILE).unlink(missing_ok=True)


def snakemakes(folder: Path, arguments: list[list[str]]) -> list[tuple[int, str]]:
    """The exit status and all that is printed of `snakemake` with each of the arguments."""
    command = [sys.executable, "-c", SNAKEMAKE]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=folder,
        input=json.dumps(arguments),
        capture_output=True,
        encoding="utf-8",
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return [(status, printed) for status, printed in json.loads(done.stdout)]


def write(text: str, file: Path) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_the_same_of_a_faulty_configuration(
    command: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for text, said in (SAID | OTHERS | UNREADABLE).items():
        if command[0] == "plan" and text in SAID and list(SAID).index(text) % 5:
            continue  # It asks Snakemake, of which the next test sees them all.
        write(text, here / FILE)
        assert main(command) == 2, text
        printed = capsys.readouterr()
        assert said in printed.err.removeprefix("mfql: "), text
        if text in SAID:
            assert printed.err == f"mfql: {said}\n"
        assert not printed.out


@pytest.mark.slow
def test_snakemake_says_what_the_commands_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked, expected = [], []
    for number, text in enumerate([*SAID, *OTHERS]):
        write(text, here / FILE)
        assert main(["status", "--configfile", FILE]) == 2
        expected.append(capsys.readouterr().err.replace("mfql: ", "Error: ", 1))
        write(text, here / f"{number}.yaml")
        asked.append(["-n", "--configfile", f"{number}.yaml"])
    for number, (text, said, (status, printed)) in enumerate(
        zip([*SAID, *OTHERS], expected, snakemakes(here, asked), strict=True)
    ):
        assert said.replace(FILE, f"{number}.yaml") in printed, (text, printed)
        assert (status, "Traceback" in printed) == (1, False), text
        (here / f"{number}.yaml").unlink()


@pytest.mark.slow
def test_a_change_by_an_option_is_checked_as_a_file_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "allow_cpu=maybe": 'configuration: allow_cpu: "maybe" is not true or false\n  Write true or false.',
        "threads=0": f"configuration: threads: 0 is below 1\n  {WHOLE}",
        "seeds=[00,0]": f"configuration: seeds: [0, 0] has an entry twice\n  {SEEDS}",
        "name=": f"configuration: name: null is not a text\n  {NAME}",
        "offline={methods: x}": 'configuration: offline: methods: "x" is not a list\n  Write a list of methods',
        "sedes=3": "unknown key 'sedes' in configuration\n  Did you mean seeds",
        "offline={tasks: [scenee]}": "unknown task, environment or suite 'scenee' in config/tasks.csv\n  Did you mean ",
        "offline={methods: [mfqll]}": "unknown method 'mfqll' in config/methods\n  Did you mean mfql",
        f"datasets={{{DATASET}: {{source: generate}}}}": (
            f"configuration: datasets: {DATASET}: lacks episodes, seed\n  {MADE}"
        ),
    }
    write("threads: 3", here / FILE)
    printed = snakemakes(here, [["-n", "--configfile", FILE, "--config", change] for change in changes])
    for (change, said), (status, output) in zip(changes.items(), printed, strict=True):
        assert (status, f"Error: {said}" in output) == (1, True), output
        for command in (["plan"], ["status"], ["report", "--partial"], ["ablation", "list"]):
            assert main([*command, "--configfile", FILE, "--config", change]) == 2
            assert capsys.readouterr().err.startswith(f"mfql: {said}")


@given(st.text("0123456789.-+e_aTruefalsn[]{}: ,'\"~", max_size=12))
@example("{tasks: [scene], methods: [a, b]}")
@example("1e3")
@example("True")
def test_a_value_of_an_option_is_what_snakemake_takes_it_for(text: str) -> None:
    try:
        theirs = parse_config([f"key={text}"])["key"]
    except AssertionError:  # It has no word for a value of blanks.
        theirs = None
    ours = option_value(text)
    assert repr(ours) == repr(theirs)


def test_texts_of_an_option_are_the_numbers_that_a_file_has() -> None:
    file = read_configuration(ROOT / "tests" / "miniature.yaml", CONFIG)
    # As `--config` gives them: whatever is in a list or a mapping is text.
    told = copy.deepcopy(file) | {"seeds": ["00", "1"], "allow_cpu": "true", "expected": "null"}
    told["tuning"]["grid"] = {"alpha": ["10", "1e3", "0.5"], "num_candidates": ["5"], "time_steps": ["50"]}
    told["datasets"] = {DATASET: {"source": "generate", "episodes": "2", "seed": "0"}}
    found = check_configuration(told, [], CONFIG)
    assert found["tuning"]["grid"] == {"alpha": [10, 1000.0, 0.5], "num_candidates": [5], "time_steps": [50]}
    assert [type(value) for value in found["tuning"]["grid"]["alpha"]] == [int, float, float]
    assert (found["seeds"], found["allow_cpu"], found["expected"]) == ([0, 1], True, None)
    assert found["datasets"] == file["datasets"]
    assert check_configuration(found, [], CONFIG) == found


def test_the_file_that_has_the_fault_is_named(tmp_path: Path) -> None:
    (tmp_path / "lower.yaml").write_text("threads: 0\ntuning: {seeds: [100]}", encoding="utf-8")
    (tmp_path / "upper.yaml").write_text("seeds: [0]\ntuning: {grid: {alpha: [10]}}", encoding="utf-8")
    files = [tmp_path / "lower.yaml", tmp_path / "upper.yaml"]
    config = read_configuration(None, CONFIG) | {"threads": 0}
    with pytest.raises(UserError, match=r"lower\.yaml: threads: 0 is below 1"):
        check_configuration(config, files, CONFIG)
    with pytest.raises(UserError, match=r"^configuration: threads: -1 is below 1"):
        check_configuration(config | {"threads": -1}, files, CONFIG)
    config = read_configuration(None, CONFIG)
    del config["threads"]
    with pytest.raises(UserError, match=r"upper\.yaml: lacks threads"):
        check_configuration(config, files, CONFIG)


def test_a_faulty_row_of_the_task_table_is_named(tmp_path: Path) -> None:
    for name in ("config.yaml", "tasks.csv"):
        (tmp_path / name).write_text((CONFIG / name).read_text(encoding="utf-8"), encoding="utf-8")
    table = (tmp_path / "tasks.csv").read_text(encoding="utf-8")
    (tmp_path / "tasks.csv").write_text(table.replace("last_three,0.995,", "last_three,1.5,", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"tasks\.csv: \S+-v0: discount: 1\.5 "):
        read_configuration(None, tmp_path)


def test_every_shipped_configuration_can_be_read() -> None:
    names = ("config", "quickstart", "laptop", "baselines", "reduced")
    for file in (*(CONFIG / f"{name}.yaml" for name in names), ROOT / "tests" / "miniature.yaml"):
        assert planned_runs(read_configuration(file, CONFIG), CONFIG)


@pytest.mark.parametrize("name", ["config", "ablations", "toy", "tasks"])
def test_a_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))


def test_the_page_explains_every_key() -> None:
    page = (CONFIG / "README.md").read_text(encoding="utf-8")
    table = page[page.index("## The keys of a configuration") : page.index("## Fetched datasets")]
    rows = [re.findall(r"`([^`]+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    explained = {name.split(":")[0] for first, *_ in rows for name in [first]}
    properties = schema("config")["properties"]
    assert explained == properties.keys() == set(schema("config")["required"])
    definitions = schema("config")["$defs"]
    for key, part in properties.items():
        part = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        inner = part.get("properties") or (part.get("additionalProperties") or {}).get("properties", {})
        words = {word for row in rows if row[0].split(":")[0] == key for name in row for word in name.split(": ")[1:]}
        words |= {name for row in rows if row[0].split(":")[0] == key for name in row[1:]}
        assert inner.keys() <= words, key


def test_files_stand_by_task_then_seed_then_method(tmp_path: Path) -> None:
    config = read_configuration(None, CONFIG) | {
        "offline": {"methods": ["mfql", "bc"], "tasks": ["visual-cube-single-play-singletask-task1-v0", TASK]},
        "online": {"methods": [], "tasks": []},
        "seeds": [3, 0],
        "pixel_seeds": [5],
    }
    found = [path.relative_to(tmp_path / "runs").as_posix() for path in asked_files(config, CONFIG, tmp_path)]
    visual = "visual-cube-single-play-singletask-task1-v0"
    assert found == [
        f"{run}/offline/evaluation.json"
        for run in (
            f"mfql/{visual}/seed5",
            f"bc/{visual}/seed5",
            f"mfql/{TASK}/seed3",
            f"bc/{TASK}/seed3",
            f"mfql/{TASK}/seed0",
            f"bc/{TASK}/seed0",
        )
    ]
    assert len(asked_runs(config, CONFIG, "offline")) == 4


def test_seeds_share_jobs_and_those_of_pixel_tasks_do_not() -> None:
    config = {"seeds": [4, 0, 1], "pixel_seeds": [1, 0], "seeds_per_job": 2, "tuning": {"seeds": [101, 100]}}
    assert named_packs(config) == [[0, 1], [4], [100, 101]]
    assert [pack_name(pack) for pack in named_packs(config)] == ["0-1", "4", "100-101"]
    assert packs_of_task(config, find_task(TASK, CONFIG)) == [[0, 1], [4]]
    assert packs_of_task(config, find_task("visual-cube-single-play-singletask-task1-v0", CONFIG)) == [[0], [1]]


def test_a_generated_dataset_has_a_folder_of_its_own() -> None:
    made = {DATASET: {"source": "generate", "episodes": 2, "seed": 0}, "cube-single-play-v0": {"source": "fetch"}}
    made["cube-double-play-v0"] = made[DATASET]
    config = {"data_dir": "./data", "datasets": made}
    assert checksum_file(config, DATASET) == f"./data/episodes2-seed0/{DATASET}.json"
    assert checksum_file(config, "cube-double-play-v0") == "./data/episodes2-seed0-simulation2/cube-double-play-v0.json"
    assert checksum_file(config, "cube-single-play-v0") == "./data/cube-single-play-v0.json"
    assert dataset_folder(config, "cube-double-play-v0", 1) == Path("data/episodes2-seed0")
    assert dataset_folder(config, "scene-play-v0") == Path("data")


# --- whatever a file says ---------------------------------------------------------------------------------------------

MINIATURE = yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8")) | yaml.safe_load(
    (ROOT / "tests" / "miniature.yaml").read_text(encoding="utf-8")
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.sampled_from([10**400, 1.0, 0.5, float("nan"), float("inf"), "", "0", "1e3", "mfql", "mfql+alpha=3", TASK])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, without its top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, entry in inner for place in ((*above, key), *places(entry, (*above, key)))]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A configuration with a key dropped, a value of any kind, or a key more; up to twice."""
    document = copy.deepcopy(MINIATURE)
    for _ in range(draw(st.integers(1, 2))):
        *above, key = draw(st.sampled_from(places(document)))
        inner: Any = document
        for step in above:
            inner = inner[step]
        change = draw(st.sampled_from(["drop", "replace", "add"]))
        if change == "drop":
            del inner[key]
        elif change == "replace" or isinstance(inner, list):
            inner[key] = draw(VALUES)
        else:
            inner[draw(st.text(max_size=5) | st.integers(0, 2))] = draw(VALUES)
        if not places(document):
            break
    return document


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of configurations, with the project's methods and tables."""
    folder = tmp_path_factory.mktemp("any") / "config"
    folder.mkdir()
    for path in CONFIG.iterdir():
        if path.name != "config.yaml":
            (folder / path.name).symlink_to(path)
    return folder


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents())
def test_what_can_be_read_can_be_used(configurations: Path, document: dict[str, Any]) -> None:
    (configurations / "config.yaml").write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8")
    try:
        config = read_configuration(None, configurations)
    except UserError:
        return
    assert all(pack_name(pack) for pack in named_packs(config))
    for use in (
        lambda: [
            (packs_of_task(config, run.task), dataset_folder(config, run.task.dataset), run.settings)
            for run in planned_runs(config, configurations)
        ],
        lambda: asked_files(config, configurations, Path("results")),
        lambda: tuning_runs(config["tuning"], configurations),
        lambda: plan_of("alpha", config, configurations),
    ):
        try:
            use()
        except UserError:  # A task, method or setting that there is not.
            continue
