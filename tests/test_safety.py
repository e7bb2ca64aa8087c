"""Nothing that is read may run, and nothing may be written outside its folder: files made to try it get a message."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import stat
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mfql import load_policy
from mfql.agents.flax import load_checkpoint, load_released
from mfql.agents.mfql import MFQL
from mfql.cli import main
from mfql.data.generate import generate
from mfql.errors import UserError
from mfql.evaluation.policy import Actor, save_policy
from mfql.experiment.configuration import check_configuration, read_configuration
from mfql.methods import raw_settings
from mfql.parity import Fixture, load_fixture
from mfql.report.expected import read_expected
from mfql.suites import load, suite_of
from mfql.tasks import find_task
from mfql.training.checkpoint import Checkpoints
from mfql.unpickle import load_arrays
from tests.support.project import clone
from tests.support.released import nested
from tests.support.training_runs import DATASET, ROOT, TASK

FIXTURE = ROOT / "tests" / "data" / "reference.npz"


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """The file that there must not be."""
    return tmp_path / "touched"


def test_the_trap_works(trap: Path) -> None:
    pickle.loads(pickle.dumps(Touch(trap)))  # noqa: S301
    assert trap.exists()


pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch, of files that are refused


# --- pickles named as what is loaded ----------------------------------------------------------------------------------


def as_released_checkpoint(folder: Path, content: bytes) -> Callable[[], Any]:
    (folder / "params_1000000.pkl").write_bytes(content)
    return lambda: load_checkpoint(Fixture(load_fixture(FIXTURE)).agent, folder / "params_1000000.pkl")


def as_checkpoint(folder: Path, content: bytes) -> Callable[[], Any]:
    (folder / "step-000000010.pt").write_bytes(content)
    return lambda: Checkpoints(folder).load(10)


def as_checkpoint_with_its_checksum(folder: Path, content: bytes) -> Callable[[], Any]:
    return as_checkpoint(folder, hashlib.sha256(content).hexdigest().encode() + content)


def as_torch_archive_with_its_checksum(folder: Path, content: bytes) -> Callable[[], Any]:
    saved = io.BytesIO()
    torch.save({"step": 1}, saved)
    altered = io.BytesIO()
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(altered, "w") as target:
        for name in source.namelist():
            target.writestr(name, content if name.endswith("data.pkl") else source.read(name))
    return as_checkpoint_with_its_checksum(folder, altered.getvalue())


def as_policy(folder: Path, content: bytes) -> Callable[[], Any]:
    fixture = Fixture(load_fixture(FIXTURE))
    sizes = np.zeros(11, np.float32)
    actor = Actor(fixture.agent, fixture.state.flat, sizes, sizes + 1, torch.device("cpu"))
    run = {"method": "mfql", "agent": "mfql", "task": TASK, "seed": 0, "stage": "offline", "identity": "0" * 16}
    save_policy(folder, actor, 0, run | {"settings": fixture.agent.settings.as_dict()})
    load_policy(folder)
    (folder / "policy.safetensors").write_bytes(content)
    return lambda: load_policy(folder)


def as_fixture(folder: Path, content: bytes) -> Callable[[], Any]:
    (folder / "reference.npz").write_bytes(content)
    return lambda: load_fixture(folder / "reference.npz")


def as_dataset(folder: Path, content: bytes) -> Callable[[], Any]:
    for name in (DATASET, f"{DATASET}-val"):
        (folder / f"{name}.npz").write_bytes(content)
    return lambda: load(find_task(TASK, ROOT / "config"), folder)


def as_d4rl_dataset(folder: Path, content: bytes) -> Callable[[], Any]:
    (folder / "pen-human-v1.hdf5").write_bytes(content)
    return lambda: load(find_task("pen-human-v1", ROOT / "config"), folder)


def as_fetched_dataset(folder: Path, content: bytes) -> Callable[[], Any]:
    (folder / "source").mkdir()
    as_dataset(folder / "source", content)
    return lambda: suite_of(DATASET).fetch(
        DATASET, folder / "data", lock=folder / "lock.json", local=folder / "source", progress=False
    )


LOADERS = [
    as_released_checkpoint,
    as_checkpoint,
    as_checkpoint_with_its_checksum,
    as_torch_archive_with_its_checksum,
    as_policy,
    as_fixture,
    as_dataset,
    as_d4rl_dataset,
    as_fetched_dataset,
]


@pytest.mark.parametrize("loader", LOADERS)
def test_a_pickle_that_would_run_something_gives_a_message(loader, tmp_path: Path, trap: Path) -> None:
    read = loader(tmp_path, pickle.dumps(Touch(trap)))
    with pytest.raises(UserError):
        read()
    assert not trap.exists()


def arrays_with(item: Any) -> bytes:
    """An npz whose arrays are pickles of a list of the item."""
    file = io.BytesIO()
    names = ("observations", "actions", "terminals", "qpos", "param:a")
    np.savez(file, **dict.fromkeys(names, np.array([item], dtype=object)))
    return file.getvalue()


@pytest.mark.parametrize("loader", [as_fixture, as_dataset])
def test_a_pickle_inside_an_array_gives_a_message(loader, tmp_path: Path, trap: Path) -> None:
    read = loader(tmp_path, arrays_with(Touch(trap)))
    with pytest.raises(UserError):
        read()
    assert not trap.exists()


def test_a_pickle_inside_a_fetched_array_runs_nothing(tmp_path: Path, trap: Path) -> None:
    with pytest.raises(UserError):
        as_fetched_dataset(tmp_path, arrays_with(Touch(trap)))()
    assert not trap.exists()


@pytest.mark.parametrize("loader", [as_fixture, as_dataset, as_fetched_dataset])
def test_an_archive_writes_nothing_outside_its_folder(loader, tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("../touched.npy", "../../touched.npy", str(tmp_path / "touched.npy"), "\x1b[2J.npy"):
            archive.writestr(name, "x")
        way = zipfile.ZipInfo("observations.npy")  # A link, as archives have them, to a file elsewhere.
        way.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(way, str(tmp_path / "touched.npy"))
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    read = loader(folder, file.getvalue())
    with pytest.raises(UserError):
        read()
    assert not list(tmp_path.rglob("touched*"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_checkpoint_that_would_run_something_is_passed_over(tmp_path: Path, trap: Path) -> None:
    as_checkpoint_with_its_checksum(tmp_path, pickle.dumps(Touch(trap)))
    assert Checkpoints(tmp_path).usable() == {}
    assert not trap.exists()


# --- the unpickler ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(3, 6))
def test_arrays_come_out_of_a_pickle_as_they_went_in(protocol: int, tmp_path: Path) -> None:
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    arrays = {"c": wide, "fortran": np.asfortranarray(wide), "empty": np.empty((0, 2)), "bool": wide > 3}
    content = {"agent": {**arrays, "scalar": np.float64(0.1), "plain": [1, 2.5, "a", None, (True,)]}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    read = load_arrays(tmp_path / "a.pkl")["agent"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype
    assert (read["scalar"], read["plain"]) == (0.1, [1, 2.5, "a", None, (True,)])


@pytest.mark.parametrize(
    "content",
    [
        os.system,
        print,
        np.load,
        OrderedDict(),
        Path("a"),
        {1, 2},
        np.array([Path("a")], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
        np.datetime64("2025-01-01"),
    ],
    # Not as text: a function's has its address, which differs between test processes.
    ids=["system", "print", "load", "dict", "path", "set", "objects", "record", "date"],
)
def test_what_is_no_array_is_refused_by_name(content: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"agent": content}))
    with pytest.raises(UserError, match="no pickle of arrays alone"):
        load_arrays(tmp_path / "a.pkl")


@pytest.mark.parametrize("content", [b"", b"\x80", b"text", pickle.dumps(np.zeros(100))[:-30], b"\x80\x04K\x01R."])
def test_a_damaged_pickle_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pkl is no readable pickle"):
        load_arrays(tmp_path / "a.pkl")


class JaxArray:
    """Pickles as an array of jax does."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __reduce__(self) -> tuple[Any, ...]:
        function, arguments, state = self.value.__reduce__()
        return sys.modules["jax._src.array"]._reconstruct_array, (function, arguments, state, {"weak_type": False})


@pytest.fixture
def pickled_as_jax(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], bytes]:
    """Arrays to bytes as jax pickles them, without jax: in a pickle it is a module's name."""

    def _reconstruct_array(*arguments: Any) -> None:
        raise AssertionError("nothing of jax is called")

    module = ModuleType("jax._src.array")
    _reconstruct_array.__module__, _reconstruct_array.__qualname__ = module.__name__, "_reconstruct_array"
    module._reconstruct_array = _reconstruct_array  # type: ignore[attr-defined]
    for name in ("jax", "jax._src"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "jax._src.array", module)

    def wrapped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: wrapped(item) for key, item in value.items()}
        return JaxArray(value)

    return lambda value: pickle.dumps(wrapped(value))


# --- released checkpoints ---------------------------------------------------------------------------------------------


def test_a_released_checkpoint_gives_the_fixtures_weights(tmp_path: Path, pickled_as_jax) -> None:
    fixture = Fixture(load_fixture(FIXTURE))
    expected = load_released(fixture.agent, fixture.weights)
    for content in (pickle.dumps(nested(fixture.weights)), pickled_as_jax(nested(fixture.weights))):
        (tmp_path / "params_1.pkl").write_bytes(content)
        found = load_checkpoint(fixture.agent, tmp_path / "params_1.pkl")
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def without_the_output_layer(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if "FinalLayer_0/Dense_1" not in name}


def with_a_fourth_block(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {name.replace("blocks_2", "blocks_3"): array for name, array in arrays.items()}


def with_another_width(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {"modules_critic/value_net/Dense_0/kernel": np.zeros((2, 14, 64), np.float32)}


def without_a_policy(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if "actor" not in name}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_the_output_layer, "lacks 2 parameters, such as policy output"),
        (with_a_fourth_block, "does not fit"),
        (with_another_width, "does not fit"),
        (without_a_policy, "holds no modules_actor"),
    ],
)
def test_a_checkpoint_of_other_sizes_is_refused(change, named: str, tmp_path: Path) -> None:
    fixture = Fixture(load_fixture(FIXTURE))
    (tmp_path / "params_1.pkl").write_bytes(pickle.dumps(nested(change(fixture.weights))))
    with pytest.raises(UserError, match=named):
        load_checkpoint(fixture.agent, tmp_path / "params_1.pkl")


def test_a_released_checkpoint_becomes_a_policy_that_acts(tmp_path: Path) -> None:
    """The fixture's weights, cut to the sizes of a point maze: 2 observations, 2 actions."""
    arrays = dict(Fixture(load_fixture(FIXTURE)).weights)
    for name in ("modules_actor_bc_flow/FeatureEmbed_0/Dense_0/kernel", *critic_inputs()):
        arrays[name] = arrays[name][..., :4, :]
    for leaf in ("kernel", "bias"):
        arrays[f"modules_actor_bc_flow/FinalLayer_0/Dense_1/{leaf}"] = arrays[
            f"modules_actor_bc_flow/FinalLayer_0/Dense_1/{leaf}"
        ][..., :2]
    (tmp_path / "params_1.pkl").write_bytes(pickle.dumps(nested(arrays)))
    generate(DATASET, tmp_path / "data", episodes=2, seed=1, progress=False)
    method = tmp_path / "config" / "methods"
    method.mkdir(parents=True)
    (tmp_path / "config" / "tasks.csv").write_bytes((ROOT / "config" / "tasks.csv").read_bytes())
    (tmp_path / "config" / "baselines").mkdir()
    for name in ("methods/mfql.yaml", "methods/mfql-released.yaml", "baselines/mfql-released.csv"):
        (tmp_path / "config" / name).write_bytes((ROOT / "config" / name).read_bytes())
    (method / "small.yaml").write_text(
        "inherits: mfql-released\npolicy_hidden: 32\npolicy_blocks: 3\ncritic_hidden: [32, 32, 32, 32]\n",
        encoding="utf-8",
    )
    asked = ["--method", "small", "--task", TASK, "--data", str(tmp_path / "data")]
    asked += ["--config-dir", str(tmp_path / "config"), "--out", str(tmp_path / "policy")]
    assert main(["import-released", str(tmp_path / "params_1.pkl"), *asked]) == 0
    policy = load_policy(tmp_path / "policy")
    agent = policy.actor.agent
    assert isinstance(agent, MFQL)
    expected = load_released(agent, arrays)
    for group, flat in policy.actor.flat.items():
        assert torch.equal(flat, expected[group])
    # The released statistics are those of a buffer of two million rows, most of them zero.
    assert np.abs(policy.actor.mean).max() < 0.1
    noted = policy.description
    assert (noted["dataset"]["name"], noted["environment"]["suite"], noted["score"]) == (DATASET, "ogbench", None)
    actions = policy(np.ones((5, 2)))
    assert actions.shape == (5, 2)
    assert np.abs(actions).max() <= 1


def critic_inputs() -> tuple[str, str]:
    return tuple(f"modules_{name}/value_net/Dense_0/kernel" for name in ("critic", "target_critic"))  # type: ignore[return-value]


# --- settings ---------------------------------------------------------------------------------------------------------


def yaml_that_touches(path: Path) -> str:
    return f"name: !!python/object/apply:os.system ['touch {path}']\n"


@pytest.mark.parametrize("kind", ["method", "configuration", "expected"])
def test_yaml_that_would_run_something_gives_a_message(kind: str, tmp_path: Path, trap: Path) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "tasks.csv").write_bytes((ROOT / "config" / "tasks.csv").read_bytes())
    for file in (tmp_path / "methods" / "evil.yaml", tmp_path / "evil.yaml"):
        file.write_text(yaml_that_touches(trap), encoding="utf-8")
    read = {
        "method": lambda: raw_settings("evil", TASK, "offline", tmp_path),
        "configuration": lambda: read_configuration(tmp_path / "evil.yaml", ROOT / "config"),
        "expected": lambda: read_expected(tmp_path / "evil.yaml"),
    }[kind]
    with pytest.raises(UserError, match="evil"):
        read()
    assert not trap.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "$(touch x)"},
        {"name": "../x"},
        {"offline": {"methods": ["$(touch x)"], "tasks": []}},
        {"offline": {"methods": [], "tasks": ["; touch x"]}},
        {"online": {"methods": ["mfql+alpha=$(touch x)"], "tasks": []}},
        {"seeds": ["$(touch x)"]},
        {"seeds_per_job": "$(touch x)"},
        {"threads": "$(touch x)"},
        {"final_episodes": "$(touch x)"},
        {"datasets": {"a": {"source": "generate", "episodes": "$(touch x)", "seed": 0}}},
        {"videos": ["$(touch x)/a/seed0/offline"]},
        {"videos": ["../a/seed0/offline"]},
    ],
    ids=str,
)
def test_a_setting_that_goes_into_a_command_is_a_name_or_a_number(change: dict[str, Any]) -> None:
    configuration = read_configuration(None, ROOT / "config")
    with pytest.raises(UserError, match=f"{next(iter(change))}: "):
        check_configuration(configuration | change, [], ROOT / "config")


@pytest.mark.slow
def test_a_path_of_the_configuration_is_no_command(tmp_path: Path) -> None:
    """Folders may have any name; Snakemake runs real shells here, which must quote them."""
    project = clone(tmp_path / "mfql")
    strange = "$(touch touched); touch touched; `touch touched` 'a' &"
    (project.folder / strange).mkdir()
    configuration = {"data_dir": strange, "datasets_from": strange, "expected": None}
    (project.folder / "strange.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    target = f"{strange}/{DATASET}.json"
    said = project.snakemake(target, "--configfile", "strange.yaml", "--quiet", "host", fails=True)
    assert f"{DATASET}.npz does not exist" in said
    assert not list(project.folder.rglob("touched"))
