"""An environment of one's own, tried before anything rests on it: its contract, and an episode of random actions."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mfql.envs.isolated import Isolated, reset_env
from mfql.envs.patience import Limited
from mfql.envs.registered import RegisteredEnv
from mfql.errors import UserError, warn

# Episodes that are begun to find one without an error of the environment's.
_TRIES = 3
# Where success was not told, so many episodes and steps more are spent on finding a step that tells it.
_MORE_EPISODES, _MORE_STEPS = 100, 5000
# An episode that is longer is broken off.
_LONGEST = 10_000

_FAILED = "An episode that ends so counts as failed; mend the environment if that is not what it means."
_TELL = (
    "Score the task by return or normalized_return, or set info['success'] in every step, to False where the goal is"
    " not reached."
)


@dataclass(frozen=True)
class Trial:
    """An episode of random actions within their bounds.

    Args:
        observations: [T + 1, D], in the numbers that the environment gave; finite.
        actions: [T, A], in the environment's units.
        rewards: [T] float64; finite.
        end: how it ended. It is `broken` where an observation or a reward was not finite or the environment raised an
            error, whose step is left out, and `unfinished` where it was too long to be waited for.
        success: whether one of its steps said so; None where none told of success.
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    end: Literal["terminated", "truncated", "broken", "unfinished"]
    success: bool | None


def try_out(env: Isolated) -> Trial:
    """Try an environment that Gymnasium knows by id: two resets with one seed, one step, one whole episode.

    What it does follows from the environment alone: seeds are 0 and those that follow. It says on stderr what is odd.

    Args:
        env: that of a task of one's own, as its suite makes it.

    Raises:
        UserError: it breaks Gymnasium's contract, cannot be reset with a seed alone, has no finite numbers at its
            start, fails in every episode, or does not tell of the success that the task is scored by.
    """
    registered = _registered(env)
    _begin(env, registered.where)
    faults = []
    for seed in range(_TRIES):
        trial, fault = _episode(env, seed)
        faults += [fault] if fault is not None else []
        if fault is None or not fault.raised:
            break
    if len(faults) == _TRIES and faults[-1].raised:
        raise UserError(
            f"{registered.where}: each of {_TRIES} episodes of random actions ends with an error: {faults[0]}",
            "Mend the environment.",
        )
    if faults:
        warn(f"{registered.where}: an episode of random actions breaks: {faults[0]}", _FAILED)
    if registered.metric == "success" and trial.success is None and trial.end != "unfinished":
        _require_told(env, registered.where)
    return trial


@dataclass(frozen=True)
class _Fault:
    """Why an episode broke off, and where."""

    what: str
    seed: int
    step: int
    raised: bool = False

    def __str__(self) -> str:
        return f"{self.what} (seed {self.seed}, step {self.step})"


def _registered(env: Isolated) -> RegisteredEnv:
    if not isinstance(env.env, RegisteredEnv):
        raise ValueError("an environment that is no task's of one's own")
    return env.env


def _begin(env: Isolated, where: str) -> None:
    """Two resets with one seed, each with a step; refuse what has no finite numbers at its start."""
    action = _actions(env, 0)(1)[0]
    first, second = _start(env, action, where), _start(env, action, where)
    for name, value in first.items():
        if not np.isfinite(value).all():
            raise UserError(
                f"{where}: {name} is not finite: {np.asarray(value).tolist()}",
                "Networks cannot see it: mend the environment, or wrap it, and register that one.",
            )
        if not np.array_equal(value, second[name]):
            warn(
                f"{where}: two episodes of one seed differ: {name} is {np.asarray(value).tolist()} and then"
                f" {np.asarray(second[name]).tolist()}",
                "Episodes must follow from reset(seed=...) and the actions alone, or runs cannot be repeated nor"
                " continued: draw from self.np_random.",
            )
            return


def _start(env: Isolated, action: np.ndarray, where: str) -> dict[str, Any]:
    """What an episode shows first."""
    try:
        observation = _reset(env, 0)
    except UserError:
        raise
    except Exception as error:  # Whatever the environment's own code raises.
        raise UserError(
            f"{where} cannot be reset: reset(seed=0, options=None) raises {named(error)}",
            "Make reset work with a seed alone, as Gymnasium has it: a wrapper may give what options it needs.",
        ) from error
    try:
        after, reward, *_ = _step(env, action, f"{where}: the first step of the episode of seed 0")
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{where} fails in the first step, with the action {action.tolist()}: {named(error)}",
            "Mend the environment.",
        ) from error
    return {"the first observation": observation, "the first step's reward": reward, "the second observation": after}


def _episode(env: Isolated, seed: int) -> tuple[Trial, _Fault | None]:
    """One episode of random actions, without the step that broke it, and why it broke."""
    observation = _reset(env, seed)
    registered, draw = _registered(env), _actions(env, seed)
    observations, success = [registered.given.copy()], False
    actions: list[np.ndarray] = []
    rewards: list[float] = []
    end: Literal["terminated", "truncated", "broken", "unfinished"] = "unfinished"
    fault = None if np.isfinite(observation).all() else _Fault("the first observation is not finite", seed, 0)
    while end == "unfinished" and fault is None and len(actions) < _LONGEST:
        action, step = draw(1)[0], len(actions) + 1
        try:
            what = f"{registered.where}: step {step} of the episode of seed {seed}"
            observation, given, terminated, truncated, info = _step(env, action, what)
        except UserError:
            raise
        except Exception as error:  # Whatever the environment's own code raises.
            fault = _Fault(named(error), seed, step, raised=True)
            break
        reward = float(given)
        if not (np.isfinite(observation).all() and np.isfinite(np.float32(reward))):
            fault = _Fault("an observation or a reward is not finite", seed, step)
            break
        observations.append(registered.given.copy())
        actions.append(action)
        rewards.append(reward)
        success |= info["success"] > 0
        end = "terminated" if terminated else "truncated" if truncated else "unfinished"
    trial = Trial(
        np.array(observations),
        np.array(actions).reshape(-1, *registered.units.low.shape),
        np.array(rewards),
        end if fault is None else "broken",
        success if registered.told else None,
    )
    return trial, fault


def _reset(env: Isolated, seed: int) -> np.ndarray:
    """The first observation of an episode, if it comes in time."""
    with Limited(lambda: f"{_registered(env).where}: reset(seed={seed})"):
        return reset_env(env, seed)[0]


def _step(env: Isolated, action: np.ndarray, what: str) -> tuple[Any, ...]:
    """What a step gives, if it comes in time."""
    with Limited(lambda: what):
        return env.step(action)


def _actions(env: Isolated, seed: int) -> Any:
    """A function of n that draws [n, A] uniformly within the bounds."""
    rng, units = np.random.default_rng(seed), env.units
    return lambda count: units.to_env(rng.uniform(-1.0, 1.0, (count, len(units.low))))


def _require_told(env: Isolated, where: str) -> None:
    """Look for an episode that tells of success, which an environment may do when it is reached alone."""
    steps, episodes = 0, 0
    while episodes < _MORE_EPISODES and steps < _MORE_STEPS:
        episodes += 1
        trial, _ = _episode(env, _TRIES + episodes)
        if trial.success is not None:
            return
        steps += 1 + len(trial.actions)
    raise UserError(
        f"{where} says nothing of success in the infos (success or is_success) of {episodes + 1} episodes of random"
        " actions",
        _TELL,
    )


def named(error: Exception) -> str:
    """An error's type and message, and the line that raised it."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
