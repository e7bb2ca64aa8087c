"""A policy's folder: what does not fit its description is refused, and earlier versions' folders act as they did."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from safetensors.torch import load_file, save_file

from mfql.errors import UserError
from mfql.evaluation.policy import load_policy
from mfql.extensions import VARIABLE
from tests.support.own_tasks import BOUNDED, VECTOR, registered

# --- the folder -------------------------------------------------------------------------------------------------------
from tests.support.policies import PEN, POINTMAZE, edited, write
from tests.support.training_runs import ROOT


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Other weights beside a description that does not know their hash, as those of earlier versions."""
    arrays = load_file(folder / "policy.safetensors")
    change(arrays)
    save_file(arrays, folder / "policy.safetensors")
    edited(folder, weights_sha256=...)


def first(arrays: dict[str, torch.Tensor]) -> str:
    return min(name for name, array in arrays.items() if array.dim() == 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop(first(arrays)), "is absent"),
        (lambda arrays: arrays.update(more=torch.zeros(1)), "there are 1 more, such as more"),
        (lambda arrays: arrays.update({first(arrays): arrays[first(arrays)].to(torch.int32)}), "is torch.int32"),
        (lambda arrays: arrays.update({first(arrays): arrays[first(arrays)].double()}), "is torch.float64"),
        (lambda arrays: arrays.update({first(arrays): arrays[first(arrays)][:1]}), "not torch.float32 ["),
        (lambda arrays: arrays.update({first(arrays): torch.zeros(())}), "is torch.float32 [], not"),
        (lambda arrays: arrays[first(arrays)].fill_(float("nan")), "has numbers that are not finite"),
    ],
    ids=["absent", "more", "whole", "double", "broadcasts", "one", "broken"],
)  # fmt: skip
def test_weights_that_do_not_fit_their_description_are_refused(tmp_path: Path, change: Callable, said: str) -> None:
    rewritten(write(tmp_path, POINTMAZE), change)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_policy(tmp_path)
    assert "policy.safetensors does not hold the weights of policy.json beside it" in str(caught.value)
    assert "Copy both files again" in str(caught.value)


def test_weights_of_another_policy_are_refused_in_a_folder_copied_alone(tmp_path: Path) -> None:
    write(tmp_path / "one", POINTMAZE, seed=1)
    write(tmp_path / "other", POINTMAZE, seed=2)
    shutil.copy(tmp_path / "one" / "policy.safetensors", tmp_path / "other")
    with pytest.raises(UserError, match=r"its sha256 is [0-9a-f]{16}"):
        load_policy(tmp_path / "other")
    (tmp_path / "other" / "policy.safetensors").unlink()
    with pytest.raises(UserError, match="does not hold the weights"):
        load_policy(tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation_mean": [0.0]}, "observation_mean is not one finite number for each of 2"),
        ({"observation_mean": [0.0, float("nan")]}, "NaN is no number of JSON"),
        ({"observation_mean": [0.0, 10**400]}, "the number 10000000000000000000... has more than 64 bits"),
        ({"observation_std": [1.0, None]}, "observation_std[1]: None is not of type 'number'"),
        ({"observation_std": [1.0, "a"]}, "observation_std[1]: 'a' is not of type 'number'"),
        ({"observation_std": [1.0, 0.0]}, "observation_std is not above 0 everywhere"),
        ({"observation_shape": [3]}, "not torch.float32"),
        ({"observation_shape": [2, 2]}, "observation_shape: [2, 2] is neither [D] nor [H, W, C]"),
        ({"observation_shape": [2.0]}, "observation_shape[0]: 2.0 is not of type 'integer'"),
        ({"observation_shape": [3, 3, 3]}, "[3, 3, 3], action_dim 2 and the settings: images of 3 x"),
        ({"observation_shape": [10**12]}, "not torch.float32 [1000000000"),
        ({"action_dim": 3}, "not torch.float32"),
        ({"action_dim": 10**9}, "not torch.float32 ["),
        ({"action_dim": True}, "action_dim: True is not of type 'integer'"),
        ({"action_dim": 0}, "action_dim: 0 is less than the minimum of 1"),
        ({"action_dim": ...}, "'action_dim' is a required property"),
        ({"agent": ...}, "'agent' is a required property"),
        ({"seed": ...}, "'seed' is a required property"),
        ({"seed": "3"}, "seed: '3' is not of type 'integer'"),
        ({"task": ...}, "'task' is a required property"),
        ({"task": 5}, "task: 5 is not of type 'string'"),
        ({"identity": ...}, "'identity' is a required property"),
        ({"settings": []}, "settings: [] is not of type 'object'"),
        ({"environment": [1]}, "environment: [1] is not of type 'object'"),
        ({"environment": {"suite": ["X"]}}, "environment.suite: ['X'] is not of type 'string', 'null'"),
        ({"environment": {"env_id": "X"}}, "environment: 'metric' is a dependency of 'env_id'"),
        ({"environment": {"suite": "gymnasium"}}, "environment: 'env_id' is a required property"),
        ({"observation_layout": [[1]]}, "observation_layout[0]: [1] is too short"),
        ({"observation_layout": [["a", 2]]}, "observation_layout[0][0]: 'a' is not of type 'array'"),
        ({"observation_layout": [[["a"], 3]]}, "observation_layout: its parts do not add up to observations of [2]"),
        ({"weights_sha256": 5}, "weights_sha256: 5 is not of type 'string'"),
        ({"action_low": [-1.0]}, "are no bounds of 2 actions"),
        ({"action_low": [2.0, 2.0]}, "are no bounds of 2 actions"),
        ({"action_low": ["a", 1.0]}, "action_low[0]: 'a' is not of type 'number'"),
        ({"action_high": ...}, "'action_high' is a dependency of 'action_low'"),
        ({"actions_rescaled": ...}, "'actions_rescaled' is a dependency of 'action_low'"),
        ({"actions_rescaled": "no"}, "actions_rescaled: 'no' is not of type 'boolean'"),
        ({"action_dtype": "U3"}, "action_dtype: 'U3' does not match"),
        ({"action_dtype": "float33"}, "action_dtype: 'float33' does not match"),
        ({"agent": "no_such", "agent_file": "no_such.py"}, "unknown agent 'no_such'; it was trained with no_such.py"),
    ],
)  # fmt: skip
def test_a_description_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    edited(write(tmp_path, POINTMAZE), **changes)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load_policy(tmp_path)
    assert "\n  " in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (write(tmp_path, POINTMAZE) / "policy.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        load_policy(tmp_path)


# --- folders of earlier versions --------------------------------------------------------------------------------------


def as_before(folder: Path) -> Path:
    """The entries that a policy had before its units and its use were noted."""
    names = ("method", "agent", "task", "seed", "stage", "identity", "settings", "observation_shape", "action_dim")
    names += ("observation_mean", "observation_std")
    description = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
    (folder / "policy.json").write_text(json.dumps({name: description[name] for name in names}), encoding="utf-8")
    return folder


def test_a_policy_of_an_earlier_version_acts_as_it_did_where_bounds_are_known(tmp_path: Path) -> None:
    observations = np.random.default_rng(0).normal(size=(20, 45))
    now = load_policy(write(tmp_path, PEN))(observations)
    before = load_policy(as_before(tmp_path))
    assert np.array_equal(before(observations), now)
    env = before.make_env()
    assert env.action_space.shape == (24,)


def test_a_policy_of_an_earlier_version_gets_the_bounds_of_its_extension_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    observations = np.random.default_rng(0).normal(size=(20, 3))
    now = load_policy(write(tmp_path / "policy", "mine"))(observations)
    assert np.array_equal(load_policy(as_before(tmp_path / "policy"))(observations), now)
    registered(tmp_path, observations=VECTOR, actions=Box(-1.0, 1.0, (3,)))
    with pytest.raises(UserError, match="action_dim: 2, and the environment of the task mine here has 3 actions"):
        load_policy(tmp_path / "policy")
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(UserError, match="the task mine is none of OGBench, D4RL or an extension here") as caught:
        load_policy(tmp_path / "policy")
    assert "Name the extension" in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "shipped" / "runs").glob("**/policy")), ids=str)
def test_shipped_policies_are_loaded(path: Path) -> None:
    policy = load_policy(path)
    (size,) = policy.actor.agent.observation_shape
    assert policy(np.zeros(size)).shape == (policy.actor.agent.action_dim,)
