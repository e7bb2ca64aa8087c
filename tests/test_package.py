"""What is installed and given away: contents of wheel and source distribution, extras, the project's files anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import mfql
from mfql.errors import UserError, naming_extras
from mfql.extensions import TASKS, project_path
from tests.support.package import build
from tests.support.processes import run
from tests.support.training_runs import ROOT

POLICY = ROOT / "shipped/runs/fql-small/cube-single-play-singletask-task1-v0/seed0/offline/run/policy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def versioned(*folders: str) -> set[str]:
    """The files of folders of the checkout that are no leftovers, by their paths from its top."""
    found = (path for name in folders for path in [ROOT / name, *(ROOT / name).rglob("*")] if path.is_file())
    return {
        str(path.relative_to(ROOT))
        for path in found
        if not re.search(r"/__pycache__/|/\.", str(path)[len(str(ROOT)) :])
    }


def test_the_wheel_has_what_its_commands_read_and_says_that_it_is_typed(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
        read = {name: wheel.read(name) for name in names if name.startswith("mfql/project/")}
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    files = versioned(
        "config", "published", "profiles", "workflow", "tests/data/reference.npz", "tests/data/baselines.npz"
    )
    files |= {f"workflow/{name}" for name in versioned("profiles")}
    assert {name.removeprefix("mfql/project/") for name in read} == files
    assert all(content == (ROOT / name.removeprefix("mfql/project/")).read_bytes() for name, content in read.items())
    assert versioned("mfql") <= names
    assert "mfql/py.typed" in names
    assert f"\nVersion: {mfql.__version__}\n" in metadata


def test_the_source_distribution_builds_and_documents_what_the_checkout_does(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("benchmarks", "config", "containers", "docs", "mfql", "profiles", "published", "tests", "workflow")
    built = {name for name in versioned(*folders) if not name.endswith((".sif", ".cdx.json", ".part"))}
    ignored = {name for name in built if name.startswith(("benchmarks/results/", "containers/site/"))}
    assert built - ignored <= names
    assert {"Makefile", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "setup.py", "pyproject.toml"} <= names
    assert not {name for name in names if "__pycache__" in name or name.startswith(("results", "data/", "logs"))}


def core() -> set[str]:
    """The modules of packages that the core names, and of those that these need, where they are installed."""
    from importlib.metadata import packages_distributions, requires

    waiting, known = {"mfql"}, set()
    while waiting:
        package = waiting.pop()
        known.add(package)
        try:
            needed = requires(package) or []
        except ModuleNotFoundError:  # Of another system.
            continue
        plain = (one for one in needed if "extra ==" not in one)
        waiting |= {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in plain} - known
    return {
        name for name, of in packages_distributions().items() if {one.lower().replace("_", "-") for one in of} & known
    }


_ALONE = """
import json, sys
from importlib.metadata import packages_distributions
THERE = set(json.loads(sys.argv[1]))
HIDDEN = set(packages_distributions()) - THERE
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import numpy as np, mfql
policy = mfql.load_policy(sys.argv[2])
assert policy(np.zeros(policy.description["observation_shape"])).shape == (policy.description["action_dim"],)
import mfql.evaluation.evaluate, mfql.experiment.listing, mfql.operations.status, mfql.parity
from mfql.errors import UserError
for asked in (policy.make_env, lambda: mfql.make_env(policy.description["task"])):
    try:
        asked()
    except UserError as error:
        print(error)
"""


def test_the_core_alone_acts_and_names_the_extra_of_an_environment(tmp_path: Path) -> None:
    done = run(
        [sys.executable, "-c", _ALONE, json.dumps(sorted(core())), POLICY], cwd=tmp_path, env=plain_environment()
    )
    assert done.returncode == 0, done.stderr
    said = "this needs the package mujoco, which is not installed\n  pip install 'mfql[envs]'\n"
    assert done.stdout == 2 * said


def plain_environment() -> dict[str, str]:
    """Without extensions."""
    return {name: value for name, value in os.environ.items() if name != "MFQL_EXTENSIONS"}


@pytest.mark.parametrize(
    ("module", "extra", "install"),
    [
        ("pandas", "", "pip install 'mfql[report]'"),
        ("ot", "", "pip install 'mfql[studies]'"),
        ("snakemake.cli", "", "pip install 'mfql[workflow]'"),
        ("h5py", "workflow", "pip install 'mfql[workflow]'"),
        ("minari", "", "pip install 'mfql[minari]'"),
        ("yaml", "", "pip install mfql"),
    ],
)
def test_what_is_missing_is_said_with_its_extra(module: str, extra: str, install: str) -> None:
    with pytest.raises(UserError) as caught, naming_extras(extra):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    assert str(caught.value).endswith(f"\n  {install}")


def test_a_source_tree_that_is_not_installed_leaves_the_error_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.requires", absent)
    with pytest.raises(ModuleNotFoundError, match="No module named 'pandas'"), naming_extras():
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")


def test_a_module_of_nobody_known_stays_the_error_that_it_is() -> None:
    with pytest.raises(ModuleNotFoundError), naming_extras():
        raise ModuleNotFoundError("No module named 'mylab'", name="mylab")


def test_every_extra_is_made_of_others_or_of_packages_and_all_has_them_all() -> None:
    extras = PROJECT["optional-dependencies"]
    reached, waiting = set(), {"all"}
    while waiting:
        extra = waiting.pop()
        reached.add(extra)
        inner = (re.fullmatch(r"mfql\[([\w,]+)\]", one) for one in extras[extra])
        waiting |= {name for match in inner if match for name in match[1].split(",")} - reached
    assert reached == set(extras) - {"dev"}


# --- the project's own files, from any folder ------------------------------------------------------------------------


def test_files_of_the_project_are_found_from_any_folder_and_those_of_the_folder_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "config",
        "config/quickstart.yaml",
        "profiles/slurm",
        "workflow/Snakefile",
        "tests/data/reference.npz",
    ):
        found = project_path(name)
        assert found.resolve() == (ROOT / name).resolve()
        assert not found.is_absolute()
    assert project_path("config/none.yaml") == Path("config/none.yaml")
    Path("config").mkdir()
    Path("config/datasets.lock.json").write_text("{}", encoding="utf-8")
    assert project_path("config").resolve() == ROOT / "config"  # Where datasets were fetched, no more.
    Path("config/quickstart.yaml").touch()
    assert project_path("config/quickstart.yaml") == Path("config/quickstart.yaml")
    Path("config", TASKS).touch()
    assert project_path("config") == Path("config")


def test_in_the_checkout_nothing_is_named_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for name in ("config", "config/quickstart.yaml", "profiles/slurm", "workflow/Snakefile"):
        assert project_path(name) == Path(name)


def mfql_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run([sys.executable, "-P", "-m", "mfql.cli", *arguments], cwd=folder, env=plain_environment())


def test_the_workflow_runs_from_an_empty_folder_with_words_of_snakemake(tmp_path: Path) -> None:
    options = ("offline", "-n", "--configfile=config/quickstart.yaml", "--config", "name=mine")
    done = mfql_in(tmp_path, "run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This was a dry-run" in done.stdout + done.stderr
    assert f"--config-dir {os.path.relpath(ROOT / 'config', tmp_path)} " in done.stdout + done.stderr


def test_a_config_of_the_folder_counts_for_the_workflow_as_for_every_command(tmp_path: Path) -> None:
    (tmp_path / "config/methods").mkdir(parents=True)
    (tmp_path / "config/methods/bc.yaml").write_text("agent: bc\n", encoding="utf-8")
    shutil.copy(ROOT / "config/tasks.csv", tmp_path / "config")
    done = mfql_in(tmp_path, "run", "-n")
    assert done.returncode != 0
    assert "cannot read config/config.yaml" in done.stdout + done.stderr
    listed = mfql_in(tmp_path, "list", "methods").stdout
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["bc"]
