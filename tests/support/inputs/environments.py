"""Environments that bend Gymnasium's contract, and how a dataset fits its environment."""

from __future__ import annotations

import os
from textwrap import indent

from mfql.envs.patience import VARIABLE
from tests.support.inputs.lab import Lab, Said, given

# The point of docs/extend.md with some of its functions replaced.
ODD = """
import time

import gymnasium
import numpy as np
from point import Point


class Odd(Point):
{body}

gymnasium.register("odd/{name}-v0", entry_point="{name}:Odd", max_episode_steps=40)
"""
# What a step returns, in the names of a body below.
STEP = """
def step(self, action):
    observation, reward, ended, cut, info = super().step(action)
    {line}
    return observation, reward, ended, cut, info
"""
RESET = """
def reset(self, *, seed=None, options=None):
    self.taken = 0
    observation, info = super().reset(seed=seed)
    {line}
    return observation, info
"""


def described(lab: Lab, name: str, body: str, metric: str = "success") -> Said:
    """What `mfql data describe` says of the point's dataset with such an environment."""
    odd(lab, name, body, metric)
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


def odd(lab: Lab, name: str, body: str, metric: str = "success") -> None:
    """Make `case` a task of the point's dataset and such an environment, in a module of that name."""
    (lab.folder / f"{name}.py").write_text(ODD.format(name=name, body=indent(body, "    ")), encoding="utf-8")
    lab.row(f"case,{name}:odd/{name}-v0,data/point.npz,{metric}")


def stepping(line: str) -> str:
    return STEP.format(line=line)


def resetting(line: str) -> str:
    return RESET.format(line=line)


# --- accepted ---------------------------------------------------------------------------------------------------------


@given("an info that is None, where a return is the metric")
def _(lab: Lab) -> Said:
    return described(lab, "odd_no_info", resetting("info = None") + stepping("info = None"), "return")


@given("`info['success']` as an array of one number")
def _(lab: Lab) -> Said:
    return described(lab, "odd_array_info", stepping("info = {'success': np.array([ended])}"))


@given("success told only in the step that reaches it")
def _(lab: Lab) -> Said:
    return described(lab, "odd_reached", stepping("info = {'success': True} if ended else {}"))


@given("a reward as an array of one number")
def _(lab: Lab) -> Said:
    return described(lab, "odd_array_reward", stepping("reward = np.array([reward])"))


@given("rewards and ends of numpy's types")
def _(lab: Lab) -> Said:
    return described(lab, "odd_numpy", stepping("reward, ended = np.float32(reward), np.bool_(ended)"))


@given("`terminated` and `truncated` as arrays of one")
def _(lab: Lab) -> Said:
    return described(lab, "odd_array_ends", stepping("ended, cut = np.array([ended]), np.array([cut])"))


@given("an observation as a list")
def _(lab: Lab) -> Said:
    line = "observation = list(observation)"
    return described(lab, "odd_list", resetting(line) + stepping(line))


@given("an observation as a row `[1, D]`")
def _(lab: Lab) -> Said:
    line = "observation = observation[None]"
    return described(lab, "odd_row", resetting(line) + stepping(line))


@given("actions of float64")
def _(lab: Lab) -> Said:
    return described(lab, "odd_float64", "action_space = gymnasium.spaces.Box(-0.2, 0.2, (2,), np.float64)")


# --- warned -----------------------------------------------------------------------------------------------------------


@given("an environment whose numbers are not finite from some step on")
def _(lab: Lab) -> Said:
    line = "self.taken += 1; observation = observation if self.taken < 10 else observation * np.nan"
    return described(lab, "odd_unstable", resetting("") + stepping(line))


@given("an environment that raises an error in some episodes")
def _(lab: Lab) -> Said:
    start = resetting("self.breaks = seed == 0")
    step = stepping("self.taken += 1; 1 / (self.taken < 5 or not self.breaks)")
    return described(lab, "odd_raises", start + step)


@given("an environment whose episodes do not follow from their seeds")
def _(lab: Lab) -> Said:
    line = "observation = observation + np.random.default_rng().uniform(size=4)"
    return described(lab, "odd_unseeded", resetting(line))


# --- refused ----------------------------------------------------------------------------------------------------------


@given("success that is never told, where it is the metric")
def _(lab: Lab) -> Said:
    return described(lab, "odd_never", stepping("info = {'episode_task_completions': []}"))


@given("the same in `mfql train` without `mfql data describe`")
def _(lab: Lab) -> Said:
    odd(lab, "odd_never_train", stepping("info = {}"))
    run = ("--method", "tiny", "--task", "case", "--stage", "offline", "--seeds", "0", "--device", "cpu")
    said = lab.mfql(
        "train", *run, "--data", lab.folder, "--results", lab.folder / "results", "--no-progress", "--threads", "1"
    )
    assert not list((lab.folder / "results").rglob("run"))
    return said


@given("an info that is None, where success is the metric")
def _(lab: Lab) -> Said:
    return described(lab, "odd_no_success", stepping("info = None"))


@given("`info['success']` that is None")
def _(lab: Lab) -> Said:
    return described(lab, "odd_none", stepping("info = {'success': None}"))


@given("`info['success']` that is a text")
def _(lab: Lab) -> Said:
    return described(lab, "odd_text", stepping("info = {'success': 'yes' if ended else 'no'}"))


@given("`info['success']` that is a dict")
def _(lab: Lab) -> Said:
    return described(lab, "odd_dict", stepping("info = {'success': {'arm': ended}}"))


@given("an info that is no dict")
def _(lab: Lab) -> Said:
    return described(lab, "odd_info", stepping("info = [ended]"))


@given("a reward that is no number")
def _(lab: Lab) -> Said:
    return described(lab, "odd_reward", stepping("reward = [reward, reward]"))


@given("a reward that is not finite from the first step on")
def _(lab: Lab) -> Said:
    return described(lab, "odd_nan_reward", stepping("reward = float('nan')"))


@given("a first observation that is not finite")
def _(lab: Lab) -> Said:
    return described(lab, "odd_nan", resetting("observation = observation * np.nan"))


@given("a first observation that is not finite in float32")
def _(lab: Lab) -> Said:
    return described(lab, "odd_large", resetting("observation = observation * 1e300"))


@given("observations of another length than the observation_space")
def _(lab: Lab) -> Said:
    line = "observation = np.append(observation, 0.0)"
    return described(lab, "odd_length", resetting(line) + stepping(line))


@given("a step of Gym's older interface, with four values")
def _(lab: Lab) -> Said:
    body = "def step(self, action):\n    seen, reward, ended, _, info = super().step(action)\n"
    return described(lab, "odd_old_step", body + "    return seen, reward, ended, info\n")


@given("a reset of Gym's older interface, without an info")
def _(lab: Lab) -> Said:
    return described(lab, "odd_old_reset", "def reset(self, **given):\n    return super().reset(**given)[0]\n")


@given("a reset that needs options")
def _(lab: Lab) -> Said:
    return described(lab, "odd_options", resetting("options['level']"))


@given("an environment that raises an error in every episode")
def _(lab: Lab) -> Said:
    return described(lab, "odd_breaks", resetting("") + stepping("self.taken += 1; 1 / (self.taken < 5)"))


@given("an environment that hangs")
def _(lab: Lab) -> Said:
    return in_time(lab, "odd_hangs", "2", resetting("") + stepping("self.taken += 1; self.taken < 5 or time.sleep(60)"))


@given("an environment that hangs and catches every error")
def _(lab: Lab) -> Said:
    line = """
self.taken += 1
    while self.taken == 5:
        try:
            time.sleep(60)
        except Exception:
            pass
"""
    return in_time(lab, "odd_hangs_on", "2", resetting("") + stepping(line.strip()))


@given(f"a `{VARIABLE}` that is no number above 0")
def _(lab: Lab) -> Said:
    return in_time(lab, "odd_timeout", "ten", stepping(""))


def in_time(lab: Lab, name: str, seconds: str, body: str) -> Said:
    """What is said where a step may take so long."""
    os.environ[VARIABLE] = seconds
    try:
        return described(lab, name, body)
    finally:
        del os.environ[VARIABLE]
