"""Minari's datasets, as Minari itself writes them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any
from unittest.mock import patch

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

from mfql.documents import read_json, write_json
from mfql.suites import load
from mfql.tasks import find_task, minari_folder
from tests.support.inputs.lab import Lab, Said, given

POINT = "point:mylab/Point-v0"
# A point whose observations are a Dict, in another order than the alphabet's, and the same behind a wrapper.
WRAPPED = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict


class Goal(gymnasium.Env):
    observation_space = Dict(place=Box(-2.0, 2.0, (2,)), goal=Box(3.0, 4.0, (1,)))
    action_space = Box(-1.0, 1.0, (2,))

    def _seen(self):
        return {"place": self.place.astype(np.float32), "goal": np.float32([3.5])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1.0, 1.0, 2)
        return self._seen(), {}

    def step(self, action):
        self.place = np.clip(self.place + 0.2 * action, -2.0, 2.0)
        return self._seen(), -1.0, False, False, {"success": False}


class Vector(gymnasium.Env):
    observation_space, action_space = Box(-2.0, 4.0, (3,)), Goal.action_space

    def __init__(self):
        self.inner = Goal()

    def reset(self, *, seed=None, options=None):
        seen, info = self.inner.reset(seed=seed)
        return np.concatenate([seen["place"], seen["goal"]]), info

    def step(self, action):
        seen, *rest = self.inner.step(action)
        return np.concatenate([seen["place"], seen["goal"]]), *rest


def flat():
    return gymnasium.wrappers.FlattenObservation(Goal())


for name, entry in {"Goal": "Goal", "FlatGoal": "flat", "VectorGoal": "Vector"}.items():
    if f"lab/{name}-v0" not in gymnasium.registry:
        gymnasium.register(f"lab/{name}-v0", entry_point=f"lab_goal:{entry}", max_episode_steps=20)
"""


def _described(lab: Lab, data: str, env_id: str = POINT) -> Said:
    lab.row(f"case,{env_id},{data},return")
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


def _made(lab: Lab, env_id: str, **options: Any) -> gymnasium.Env:
    """An environment of the lab, whose modules the process that records it must find."""
    sys.path.append(str(lab.folder))
    try:
        return gymnasium.make(env_id, **options)
    finally:
        sys.path.remove(str(lab.folder))


def _recorded(lab: Lab, missing: Sequence[int], form: str = "hdf5", **options: Any) -> str:
    """A dataset of the point, an episode of six steps an entry: how many observations it lacks."""
    rng, env = np.random.default_rng(0), _made(lab, POINT, **options)
    episodes = [
        EpisodeBuffer(
            observations=list(np.cumsum(rng.uniform(-0.1, 0.1, (7 - lacking, 4)), axis=0)),
            actions=list(rng.uniform(-0.2, 0.2, (6, 2)).astype(np.float32)),
            rewards=[-1.0] * 6,
            terminations=[False] * 6,
            truncations=[False] * 5 + [True],
        )
        for lacking in missing
    ]
    minari.create_dataset_from_buffers("lab/case-v0", episodes, env=env, data_format=form)
    return "minari:lab/case-v0"


def _recorded_goal(lab: Lab) -> str:
    """Two episodes of `lab/Goal-v0`, recorded before anything is flattened."""
    (lab.folder / "lab_goal.py").write_text(WRAPPED, encoding="utf-8")
    env, episodes = _made(lab, "lab_goal:lab/Goal-v0"), []
    for seed in range(2):
        env.action_space.seed(seed)
        seen, actions = [env.reset(seed=seed)[0]], []
        for _ in range(20):
            actions.append(env.action_space.sample())
            seen.append(env.step(actions[-1])[0])
        episodes.append(
            EpisodeBuffer(
                observations={key: [one[key] for one in seen] for key in seen[0]},
                actions=actions,
                rewards=[-1.0] * 20,
                terminations=[False] * 20,
                truncations=[False] * 19 + [True],
            )
        )
    minari.create_dataset_from_buffers("lab/case-v0", episodes, env=env, data_format="hdf5")
    return "minari:lab/case-v0"


def _as_gymnasium_flattens(lab: Lab, said: Said) -> Said:
    """The rows are what Gymnasium's own wrapper makes of the recorded episode."""
    env = _made(lab, "lab_goal:lab/FlatGoal-v0")
    env.action_space.seed(0)
    first = [env.reset(seed=0)[0]]
    first += [env.step(env.action_space.sample())[0] for _ in range(19)]
    np.testing.assert_array_equal(load(find_task("case"), lab.folder / "described").observations[:20], first)
    return said


@given("a dataset in Arrow's format, a folder of files")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0, 0, 0], "arrow")
    said = _described(lab, data)
    minari.delete_dataset("lab/case-v0")
    _recorded(lab, [0, 0], "arrow")
    assert "is not the file that case.json describes" in _described(lab, data).text
    return said


@given("a dataset in Arrow's format with a link to an episode's folder")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0, 0], "arrow")
    episode = minari_folder(data) / "data" / "1"
    shutil.move(episode, lab.folder / "elsewhere")
    episode.symlink_to(lab.folder / "elsewhere")
    return _described(lab, data)


@given("an episode with as many observations as steps")
def _(lab: Lab) -> Said:
    return _described(lab, _recorded(lab, [0, 0, 1]))


@given("the same in Arrow's format, which does not read its last step")
def _(lab: Lab) -> Said:
    return _described(lab, _recorded(lab, [0, 0, 1], "arrow"))


@given("every episode with as many observations as steps")
def _(lab: Lab) -> Said:
    return _described(lab, _recorded(lab, [1, 1, 1]))


@given("Dict observations, for the environment that flattens them")
def _(lab: Lab) -> Said:
    return _as_gymnasium_flattens(lab, _described(lab, _recorded_goal(lab), "lab_goal:lab/FlatGoal-v0"))


@given("Dict observations, for the environment that shows them")
def _(lab: Lab) -> Said:
    return _as_gymnasium_flattens(lab, _described(lab, _recorded_goal(lab), "lab_goal:lab/Goal-v0"))


@given("Dict observations, for an environment that shows one vector by itself")
def _(lab: Lab) -> Said:
    return _as_gymnasium_flattens(lab, _described(lab, _recorded_goal(lab), "lab_goal:lab/VectorGoal-v0"))


@given("Dict observations whose keys are in another order than when they were described")
def _(lab: Lab) -> Said:
    data = _recorded_goal(lab)
    assert _described(lab, data, "lab_goal:lab/VectorGoal-v0").status == 0
    path = minari_folder(data) / "data" / "metadata.json"
    about = read_json(path)
    space = json.loads(about["observation_space"])
    space["subspaces"] = dict(reversed(space["subspaces"].items()))
    write_json(path, about | {"observation_space": json.dumps(space)})
    return lab.called(lambda: load(find_task("case"), lab.folder / "described"))


@given("Dict observations, for another environment")
def _(lab: Lab) -> Said:
    return _described(lab, _recorded_goal(lab))


@given("a dataset, and no `env_id`")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0] * 3)
    return _described(lab, data, "")


@given("a dataset recorded under another time limit, and no `env_id`")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0] * 3, max_episode_steps=6)
    said = _described(lab, data, "")
    assert read_json(lab.folder / "described" / "case.json")["environment"]["max_episode_steps"] == 6
    return said


@given("a dataset recorded in an environment with arguments, and no `env_id`")
def _(lab: Lab) -> Said:
    return _described(lab, _respecified(lab, kwargs={"size": 3}), "")


@given("a dataset recorded behind a wrapper, and no `env_id`")
def _(lab: Lab) -> Said:
    wrapper = {"name": "ClipReward", "entry_point": "gymnasium.wrappers:ClipReward", "kwargs": {}}
    return _described(lab, _respecified(lab, additional_wrappers=[wrapper]), "")


@given("a dataset that does not say its environment, and no `env_id`")
def _(lab: Lab) -> Said:
    return _described(lab, _respecified(lab, id=None), "")


@given("no `env_id`, and no dataset")
def _(lab: Lab) -> Said:
    return _described(lab, "minari:lab/case-v0", "")


@given("the same for a command that asks nothing of that task's environment")
def _(lab: Lab) -> Said:
    lab.row(f"case,,minari:lab/case-v0,return\npoint,{POINT},data/point.npz,return")
    listed = [lab.mfql("list", "methods"), lab.mfql("list", "tasks", "own"), lab.mfql("list", "tasks", "point")]
    assert all(said.status == 0 for said in listed), listed
    return Said(0, "".join(said.text for said in listed))


@given("a dataset that nobody fetched")
def _(lab: Lab) -> Said:
    return _described(lab, "minari:lab/case-v0")


@given("a dataset without its data")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0])
    (minari_folder(data) / "data" / "main_data.hdf5").unlink()
    return _described(lab, data)


@given("a dataset with a group in the place of an array")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0])
    with h5py.File(minari_folder(data) / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file.create_group("episode_0/rewards")
    return _described(lab, data)


@given("a dataset, where Minari is not installed")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0])
    with patch.dict(sys.modules, {"minari": None}):
        return _described(lab, data)


@given("a dataset in Arrow's format, where pyarrow is not installed")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0], "arrow")
    absent: dict[str, ModuleType | None] = {"pyarrow": None, "pyarrow.dataset": None}
    loaded = [name for name in sys.modules if name == "minari.dataset._storages.arrow_storage"]
    with patch.dict(sys.modules, absent):
        for name in loaded:
            del sys.modules[name]
        return _described(lab, data)


@given("a dataset whose folder was copied")
def _(lab: Lab) -> Said:
    data = _recorded(lab, [0] * 3)
    shutil.copytree(minari_folder(data), minari_folder("minari:lab/copy-v0"))
    return _described(lab, "minari:lab/copy-v0")


def _respecified(lab: Lab, **changes: Any) -> str:
    """A dataset whose metadata says something else of its environment."""
    import json

    data = _recorded(lab, [0] * 3)
    about = minari_folder(data) / "data" / "metadata.json"
    told = read_json(about)
    write_json(about, told | {"env_spec": json.dumps(json.loads(told["env_spec"]) | changes)})
    return data
