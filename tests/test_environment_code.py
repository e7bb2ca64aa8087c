"""What an environment of one's own is made of: it is part of a run's identity, and of no run of the project's tasks."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

import mfql
from mfql.errors import UserError
from mfql.experiment.run import Fate, RunFolder, changes, describe_run, hash_for_launch, identity_in
from mfql.extensions import environment_code, extend
from mfql.methods import settings_hash
from mfql.operations.verify import verify
from mfql.report.origin import incomparable
from tests.support.training_runs import MINIATURE, ROOT, SHORT, Workplace

ENVIRONMENT = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box

GAIN = 1.0


class Line(gymnasium.Env):
    observation_space, action_space = Box(-5.0, 5.0, (2,)), Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.place, {}

    def step(self, action):
        self.place = np.clip(self.place + GAIN * np.append(action, 0.1), -5.0, 5.0).astype(np.float32)
        return self.place, float(self.place[0]), False, False, {}


if "lab/Line-v0" not in gymnasium.registry:
    gymnasium.register("lab/Line-v0", entry_point=Line, max_episode_steps=4)
"""
TASK = "line"
IMPORTING = f"""
import numpy, gear
from wheels import round
register("x", entry_point="classes.cars:Car")
open(Path(__file__).parent / "car.xml")
import_module("late")
A = Path(__file__).parent / "meshes", os.path.join(HERE, "skins"), f"shapes/{{A}}.stl"
INFO = dict(notes="notes")
B = "data", "tasks.csv", "agents", "/", "..", "/etc", {"x" * 150!r}
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def made_of(folder: Path, env_id: str = "lab_env:lab/Line-v0") -> set[str]:
    code = environment_code(env_id, [folder])
    assert code is not None
    return set(code["files"])


# --- which files count ------------------------------------------------------------------------------------------------


def test_a_module_counts_with_what_it_imports_and_names_and_nothing_else_of_its_folder(tmp_path):
    write(
        tmp_path,
        {
            "lab_env.py": IMPORTING,
            "gear.py": "import teeth\n",
            "teeth.py": "import gear\n",
            "late.py": "import no_such_module\n",
            "wheels/__init__.py": "",
            "wheels/spokes.py": "",
            "wheels/tyre.xml": "",
            "wheels/__pycache__/spokes.cpython-311.pyc": "",
            "classes/__init__.py": "",
            "classes/cars.py": "",
            "car.xml": "<car/>",
            "meshes/door.stl": "",
            "skins/red.png": "",
            "shapes/cone.stl": "",
            "notes/monday.txt": "",
            "data/line.npz": "",
            "tasks.csv": "",
            "collect.py": "import lab_env",
            "agents/mine.py": "",
        },
    )
    assert made_of(tmp_path) == {
        "lab_env.py", "gear.py", "teeth.py", "late.py", "wheels/__init__.py", "wheels/spokes.py", "wheels/tyre.xml",
        "classes/__init__.py", "classes/cars.py", "car.xml", "meshes/door.stl",
        "skins/red.png", "shapes/cone.stl",
    }  # fmt: skip


def test_code_is_looked_at_and_not_run(tmp_path):
    write(tmp_path, {"lab_env.py": "raise SystemExit\n", "broken.py": "def (:\n"})
    assert made_of(tmp_path) == {"lab_env.py"}
    assert made_of(tmp_path, "broken:X-v0") == {"broken.py"}
    assert "lab_env" not in sys.modules


def test_an_installed_package_counts_by_its_version_and_one_of_every_run_is_not_named_again(tmp_path):
    found = environment_code("pytest:lab/Line-v0", [tmp_path])
    assert found == {"files": {}, "packages": {"pytest": pytest.__version__}}
    nothing = {"files": {}, "packages": {}}
    assert environment_code("Pendulum-v1", [tmp_path]) == environment_code("ogbench:cube-v0", [tmp_path]) == nothing
    assert environment_code("no_such_module:X-v0", [tmp_path]) is None


@pytest.mark.parametrize("linked", [True, False])
def test_a_package_that_is_installed_as_a_link_to_its_folder_counts_by_its_files(tmp_path, monkeypatch, linked):
    place = write(tmp_path / "site", {"linked_lab/__init__.py": "", "linked_lab/cars.py": ""})
    about = {"METADATA": "Metadata-Version: 2.1\nName: linked-lab\nVersion: 3.1\n", "top_level.txt": "linked_lab\n"}
    about["direct_url.json"] = json.dumps({"url": "file:///lab", "dir_info": {"editable": linked}})
    write(place / "linked_lab-3.1.dist-info", about)
    monkeypatch.syspath_prepend(str(place))
    mfql.extensions._distributions.cache_clear()
    found = environment_code("linked_lab:X-v0", [tmp_path / "elsewhere"])
    mfql.extensions._distributions.cache_clear()
    assert found is not None
    assert set(found["files"]) == ({"linked_lab/__init__.py", "linked_lab/cars.py"} if linked else set())
    assert found["packages"] == ({} if linked else {"linked-lab": "3.1"})


# --- what a run is known by -------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An extension with a task whose environment is a module in it, and its data."""
    folder = write(
        tmp_path / "lab",
        {"lab_env.py": ENVIRONMENT, "tasks.csv": f"task,env_id,data,metric\n{TASK},lab_env:lab/Line-v0,a.npz,return\n"},
    )
    rng = np.random.default_rng(0)
    np.savez(
        folder / "a.npz",
        observations=rng.uniform(-1, 1, (20, 2)).astype(np.float32),
        actions=rng.uniform(-1, 1, (20, 1)).astype(np.float32),
        rewards=rng.normal(size=20),
        masks=np.ones(20),
        terminals=np.arange(20) % 5 == 4,
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    extend([MINIATURE, folder])
    yield folder
    sys.modules.pop("lab_env", None)
    gymnasium.registry.pop("lab/Line-v0", None)


def edit(lab: Path) -> None:
    (lab / "lab_env.py").write_text(ENVIRONMENT.replace("GAIN = 1.0", "GAIN = 0.5"), encoding="utf-8")


def described(results: Path, seed: int = 0, task: str = TASK, **settings: object) -> tuple[RunFolder, dict]:
    run = RunFolder(results, "mfql", task, seed, "offline")
    return run, describe_run(run, "mfql", {"batch_size": 8} | settings, {"name": task, "sha256": "a" * 64}, None)


def leave(run: RunFolder, manifest: dict) -> None:
    write(run.trained, {"manifest.json": json.dumps(manifest), "evaluation.json": "{}"})


def test_another_environment_is_another_run_and_the_same_again_is_put_back(lab, tmp_path):
    run, before = described(tmp_path)
    hashed = settings_hash("flow_bc-miniature", TASK, "offline", ROOT / "config")
    leave(run, before)
    assert run.fate(described(tmp_path)[1]) is Fate.FINISHED
    edit(lab)
    _, now = described(tmp_path)
    assert (run.fate(now), now["identity"] != before["identity"]) == (Fate.RETRAINED, True)
    (said,) = changes(before, now)
    assert said.startswith("environment: lab_env.py ")
    assert settings_hash("flow_bc-miniature", TASK, "offline", ROOT / "config") != hashed
    assert incomparable({"one": before | {"code": {}}, "other": now | {"code": {}}}).keys() == {"environment"}
    run.claim(now)
    assert not run.finished()
    leave(run, now)
    (lab / "lab_env.py").write_text(ENVIRONMENT, encoding="utf-8")
    assert run.fate(described(tmp_path)[1]) is Fate.FINISHED
    run.claim(described(tmp_path)[1])
    assert (run.manifest(), run.finished()) == (json.loads(json.dumps(before)), True)


def without(manifest: dict) -> dict:
    """A manifest as earlier versions wrote it."""
    earlier = {name: value for name, value in manifest.items() if name != "environment"}
    return earlier | {"identity": identity_in(earlier)}


def test_a_run_from_before_stays_finished_and_is_averaged_with_later_ones(lab, tmp_path):
    run, now = described(tmp_path)
    leave(run, without(now))
    assert run.fate(described(tmp_path)[1]) is Fate.FINISHED
    assert changes(run.manifest(), described(tmp_path)[1]) == []
    _, other = described(tmp_path, seed=1)
    assert "environment" in other
    assert incomparable({"one": without(now) | {"code": {}}, "other": other | {"code": {}}}) == {}
    _, changed = described(tmp_path, batch_size=16)
    assert (run.fate(changed), "environment" in changed) == (Fate.RETRAINED, True)
    run.claim(changed)
    leave(run, changed)
    assert run.fate(described(tmp_path)[1]) is Fate.FINISHED
    run.claim(described(tmp_path)[1])
    assert run.manifest() == json.loads(json.dumps(without(now)))


def test_a_launch_makes_nothing_anew_of_runs_from_before_as_long_as_their_settings_hold(lab, tmp_path):
    method, config = "flow_bc-miniature", ROOT / "config"
    runs = [RunFolder(tmp_path, method, TASK, seed, "offline") for seed in (0, 1)]
    now, before = (settings_hash(method, TASK, "offline", config, known) for known in (True, False))
    _, manifest = described(tmp_path)
    for run in runs:
        leave(run, without(manifest) | {"method": method, "seed": run.seed, "settings_hash": before})
    edit(lab)
    assert hash_for_launch(runs, config) == before != now
    leave(runs[1], without(manifest) | {"method": method, "seed": 1, "settings_hash": "of other settings"})
    assert hash_for_launch(runs, config) == settings_hash(method, TASK, "offline", config) != now
    (runs[1].trained / "manifest.json").write_text("{", encoding="utf-8")
    assert hash_for_launch(runs, config) != before


def test_where_a_package_is_not_installed_the_runs_own_word_counts(lab, tmp_path):
    run, now = described(tmp_path)
    leave(run, now)
    (lab / "lab_env.py").unlink()
    assert run.fate(described(tmp_path)[1]) is Fate.FINISHED


@pytest.mark.parametrize("task", ["scene-play-singletask-task2-v0", "pen-human-v1"])
def test_the_projects_tasks_are_known_as_before(task, tmp_path):
    _, found = described(tmp_path, task=task)
    assert "environment" not in found
    assert found["identity"] == identity_in(without(found))


def test_a_module_of_another_extension_is_not_run_for_one_of_the_same_name(lab, tmp_path):
    mfql.make_env(TASK).close()
    copy = tmp_path / "copy"
    shutil.copytree(lab, copy)
    extend([MINIATURE, copy])
    mfql.make_env(TASK).close()
    edit(copy)
    with pytest.raises(UserError, match=r"copy/lab_env\.py is shadowed by .*lab/lab_env\.py"):
        mfql.make_env(TASK)


@pytest.mark.slow
def test_a_trained_run_and_its_policy_say_what_their_environment_was_made_of(lab, tmp_path, capsys):
    place = Workplace(tmp_path / "place")
    shutil.copytree(ROOT / "config", place.folder / "config")
    (place.folder / "data").mkdir()
    place.method("short", SHORT)
    place.train_here("short", "offline", (0,), task=TASK)
    run = RunFolder(place.folder / "results", "short", TASK, 0, "offline")
    manifest = run.manifest()
    assert manifest is not None
    assert manifest["environment"] == environment_code("lab_env:lab/Line-v0", [lab])
    assert verify(place.folder / "results", place.folder / "config", place.folder / "data").findings == []
    capsys.readouterr()
    mfql.load_policy(run.folder).make_env().close()
    assert capsys.readouterr().err == ""

    extend([MINIATURE])
    unnamed = verify(place.folder / "results", place.folder / "config", place.folder / "data")
    assert [finding.kind for finding in unnamed.findings] == ["unknown"]
    assert "unknown task 'line'" in unnamed.text()
    assert "name its extension" in unnamed.text()
    extend([MINIATURE, lab])

    edit(lab)
    (found,) = verify(place.folder / "results", place.folder / "config", place.folder / "data").findings
    assert (found.kind, found.what.startswith("environment: lab_env.py ")) == ("stale", True)
    mfql.load_policy(run.folder).make_env().close()
    assert "warning: line: the policy was trained in another environment: lab_env.py" in capsys.readouterr().err
