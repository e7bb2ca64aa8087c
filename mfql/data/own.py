"""Datasets of one's own, checked against themselves and their environment; a module beside each family of layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.d4rl import last_trajectories
from mfql.data.description import describe_rows, refuse_other_rows, verify
from mfql.data.opening import opened_by_a_library
from mfql.data.own_hdf5 import read_hdf5
from mfql.data.own_lerobot import is_lerobot, read_lerobot
from mfql.data.own_minari import read_minari, recorded_infos, recorded_keys
from mfql.data.own_npz import read_npz
from mfql.data.own_rows import LAYOUT, MASKS, ROWS
from mfql.data.own_spaces import NO_LIMIT, RecordedSpaces, held_out
from mfql.data.paths import description_path, own_paths
from mfql.data.plausible import (
    NORMALISED,
    look_normalised,
    shown_bounds,
    warn_against_trial,
    warn_of_long_episodes,
    warn_of_normalised,
)
from mfql.data.summary import Bounds, Described
from mfql.data.transitions import ACTION_LIMIT, Dataset, Transitions, observation_statistics
from mfql.data.values import as_float32, refuse
from mfql.envs.isolated import Isolated
from mfql.envs.registered import make_registered
from mfql.envs.trial import Trial, try_out
from mfql.errors import UserError, note, warn
from mfql.experiment.records import if_there, read_dataset
from mfql.files import there
from mfql.tasks import Registered, Task

# By how much of its range an action may exceed its bounds: rounding.
_TOLERANCE = 1e-4
# Of which share of the steps it is odd that the task ends with them.
_MOST_ENDED = 0.5
# A dimension of observations needs this many steps of float32 between its least and its greatest value, and varies by
# this many of float64 if it varies at all.
_FEWEST_STEPS, _ROUNDINGS = 64, 64
# What a run depends on beside the data; a task's name stands for one of each.
_ENVIRONMENT = ("env_id", "max_episode_steps", "score_low", "score_high")
_ESTIMATED = ("action_low", "action_high", "fqe_steps")


def load(task: Task, folder: str | Path) -> Dataset:
    """The dataset of a task of one's own, actions in units of the environment's bounds, rewards as they are.

    Without a validation file `val` is the last tenth of the trajectories, which are *also trained on*, unless the task
    has no environment: its score is of trajectories that are held out.

    Args:
        task: a row of an extension's table.
        folder: where `{task}.json` is, which `mfql data describe` writes; where present it must agree with the file
            and with the row.

    Raises:
        UserError: a file is absent, damaged, changed or read otherwise than when it was described, or does not fit the
            environment.
    """
    refuse_changed_row(task, folder)
    _refuse_other_order(task, folder)
    splits = read_own(task)
    source, digest = verify(folder, task.dataset, own_paths(task))
    refuse_other_rows(folder, task.dataset, splits)
    train = splits["train"]
    mean, std = observation_statistics(train.observations)
    return Dataset(
        **vars(train),
        val=splits.get("val") or last_trajectories(train),
        observation_mean=mean,
        observation_std=std,
        sha256=digest,
        name=task.dataset,
        source=source,
    )


def describe(task: Task, folder: str | Path) -> Described:
    """Check a dataset of one's own and write `{task}.json`, by which it is known from then on.

    Args:
        task: a row of an extension's table.
        folder: where to write; the data stay where they are.

    Raises:
        UserError: as of `load`; and the folder cannot be written.
    """
    refuse_changed_row(task, folder)
    _refuse_other_order(task, folder)
    found = _read_own(task, tried=True)
    splits = found.splits
    verify(folder, task.dataset, own_paths(task))
    refuse_other_rows(folder, task.dataset, splits)
    order = {"observation_keys": keys} if (keys := _keys(task)) else {}
    describe_rows(folder, task.dataset, own_paths(task), splits, environment=_environment(task), **order)
    return found


def _keys(task: Task) -> list[str]:
    """The keys by which a dataset of Minari's has its observations, in their order; none of any other."""
    data = task.registered.data if task.registered else ""
    return recorded_keys(data) if data.startswith("minari:") else []


def _refuse_other_order(task: Task, folder: str | Path) -> None:
    """Refuse observations in another order than when they were described, which the files' sha256 does not tell."""
    path = description_path(folder, task.dataset)
    before, now = (if_there(read_dataset, path) or {}).get("observation_keys"), _keys(task)
    if before not in (None, now):
        raise UserError(
            f"{path} says observations of {', '.join(before)}, in this order, and the dataset's metadata.json now has"
            f" {', '.join(now)}",
            "Bring back its metadata.json; or, to start over, remove the description and the task's runs.",
        )


def refuse_changed_row(task: Task, folder: str | Path) -> None:
    """Refuse a task whose environment or scores are no longer those that its description names.

    Raises:
        UserError: names the column.
    """
    path = description_path(folder, task.dataset)
    described = (if_there(read_dataset, path) or {}).get("environment")
    for column, value in _environment(task).items():
        if described is not None and described.get(column) != value:
            raise UserError(
                f"{column} of {task.name} is {value} in its task table, and {path} says {described.get(column)}:"
                " a task's name stands for one environment and one score",
                f"Give the changed row another name. Or, to start over, remove {path} and the task's runs.",
            )


def read_own(task: Task, tried: bool = False, fitting: bool = True) -> Mapping[str, Transitions]:
    """The transitions of each file of a task of one's own: `train`, and `val` where there is one.

    Args:
        task: a row of an extension's table.
        tried: whether the environment is tried, and the data held against what it does then.
        fitting: whether they are as training takes them; else in the numbers of the file, held against nothing.

    Raises:
        UserError: a file is absent or damaged, does not fit the environment, cannot be what it says, or has
            observations whose variation is lost in float32.
    """
    return _read_own(task, tried, fitting).splits


def _read_own(task: Task, tried: bool = False, fitting: bool = True) -> Described:
    row = task.registered
    if row is None:
        raise ValueError(f"{task.name} names no dataset of its own")
    if row.env_id is None:
        return _read_bare(task, row, tried, fitting)
    env = Isolated(make_registered(task))
    try:
        trial = try_out(env) if tried else None
        files = own_paths(task).items()
        if not fitting:
            return Described({split: _read(row.data, path, env, _limit(env)) for split, path in files})
        splits = {split: _read_split(row.data, split, path, env, trial) for split, path in files}
        return Described(splits, Bounds(shown_bounds(env), env.units))
    finally:
        env.close()


def _read_bare(task: Task, row: Registered, tried: bool, fitting: bool) -> Described:
    """The transitions of each file of a task without an environment, as `read_own` has them; some are held out."""
    limit = row.max_episode_steps or NO_LIMIT
    files = {split: (_where(row.data, path), path) for split, path in own_paths(task).items()}
    found = {split: _read(row.data, path, None, limit) for split, (_, path) in files.items()}
    if not fitting:
        return Described(found)
    spaces = RecordedSpaces.of(found["train"], row, files["train"][0])
    fitted = {split: _fitting(rows, spaces, files[split][0]) for split, rows in found.items()}
    for split, rows in fitted.items():
        warn_of_long_episodes(rows, limit, files[split][0])
        if tried:
            warn_of_normalised(np.asarray(found[split].actions), spaces.units, files[split][0])
    _refuse_lost_variation(np.asarray(found["train"].observations), files["train"][0])
    splits = fitted if "val" in fitted else held_out(fitted["train"], files["train"][0])
    return Described(splits, Bounds(units=spaces.units))


def recorded_spaces(task: Task) -> RecordedSpaces:
    """The spaces of a task without an environment, which are those of its dataset.

    Raises:
        UserError: as of `read_own`.
    """
    row = task.registered
    if row is None or row.env_id is not None:
        raise ValueError(f"{task.name} has an environment")
    path = own_paths(task)["train"]
    rows = _read(row.data, path, None, row.max_episode_steps or NO_LIMIT)
    return RecordedSpaces.of(rows, row, _where(row.data, path))


def _where(data: str, path: Path) -> str:
    return data if data.startswith("minari:") else str(path)


def note_what_is_left(task: Task) -> None:
    """Say what a dataset has beside transitions, which no export writes."""
    data = task.registered.data if task.registered else ""
    if data.startswith("minari:") and (keys := recorded_infos(data)):
        note(f"{data} has infos of its steps ({', '.join(keys)}), which are not written")


def _read_split(data: str, split: str, path: Path, env: Isolated, trial: Trial | None) -> Transitions:
    where, limit = _where(data, path), _limit(env)
    rows = _read(data, path, env, limit)
    found = _fitting(rows, env, where)
    warn_of_long_episodes(found, limit, where)
    if split == "train":
        _refuse_lost_variation(np.asarray(rows.observations), where)
    if trial is not None:
        warn_against_trial(rows, found.actions, trial, env, where)
    return found


def _limit(env: Isolated) -> int:
    assert env.spec is not None
    assert env.spec.max_episode_steps is not None  # A task without one is refused.
    return env.spec.max_episode_steps


def _environment(task: Task) -> dict[str, Any]:
    columns = _ENVIRONMENT if task.has_environment else (*_ENVIRONMENT, *_ESTIMATED)
    found = {column: getattr(task.registered, column) for column in columns}
    # As JSON holds them.
    return {"metric": task.metric} | {
        name: list(cell) if isinstance(cell, tuple) else cell for name, cell in found.items()
    }


def _read(data: str, path: Path, env: Any, limit: int) -> Transitions:
    """The transitions of a file as it has them, in its own numbers: not yet held against the environment."""
    if data.startswith("minari:"):
        with opened_by_a_library(path):
            return read_minari(data, env)
    if not there(path):
        raise UserError(
            f"{path} does not exist", "Correct `data` in the task table; it is relative to the table's folder."
        )
    if path.is_dir() and is_lerobot(path):
        return read_lerobot(path, env, limit)
    if path.suffix == ".npz":
        return read_npz(path, limit)
    if path.suffix in (".hdf5", ".h5"):
        return read_hdf5(path, env, limit)
    raise UserError(f"{path} is neither .npz nor .hdf5 nor minari:ID nor a folder in LeRobot's layout", LAYOUT)


def _fitting(rows: Transitions, env: Any, where: str) -> Transitions:
    """A file's transitions as training takes them: float32, actions in [-1, 1].

    Raises:
        UserError: another shape than the environment's, values that are no numbers, or actions out of bounds.
    """
    if len(rows) == 0:
        raise UserError(f"{where} has no transition", LAYOUT)
    for name, shape in (("observations", env.observation_space.shape), ("actions", env.action_space.shape)):
        found = getattr(rows, name).shape[1:]
        if found != shape:
            whose, remedy = "the environment's", "correct `data` or `env_id` in the task table."
            if isinstance(env, RecordedSpaces):
                whose, remedy = "those trained on", "lay the right one beside the training file."
            raise UserError(
                f"{where}: {name} are vectors of {list(found)}, and {whose} are of {list(shape)}",
                f"It is the dataset of another environment: {remedy}",
            )
    if rows.next_observations.shape != rows.observations.shape:
        raise UserError(
            f"{where}: next_observations has the shape {list(rows.next_observations.shape)}, observations"
            f" {list(rows.observations.shape)}",
            LAYOUT,
        )
    remedy = "Leave out these steps, or correct what wrote them."
    cast = {name: as_float32(getattr(rows, name), f"{where}: {name}", remedy) for name in (*ROWS, "next_observations")}
    _check_odd(rows, where)
    return replace(rows, **cast | {"actions": _in_units(rows.actions, env, where)})


def _check_odd(rows: Transitions, where: str) -> None:
    """Refuse masks that are none, and say what is odd of values that can be used."""
    refuse((rows.masks < 0) | (rows.masks > 1), f"{where}: masks", "not between 0 and 1", MASKS)
    between = int(((rows.masks > 0) & (rows.masks < 1)).sum())
    if between:
        warn(f"{where}: masks of {between} transitions are neither 0 nor 1: they scale what follows", MASKS)
    types = {name: np.asarray(getattr(rows, name)).dtype for name in ("observations", "actions", "rewards")}
    if halves := [name for name, kind in types.items() if kind == np.float16]:
        warn(
            f"{where}: {', '.join(halves)} have the type float16, which keeps three digits of a number",
            "Record float32 at least.",
        )
    if types["observations"].kind == "b":
        note(f"{where}: observations are bool, read as 0 and 1")
    if types["actions"].kind in "biu":
        warn(
            f"{where}: actions are whole numbers ({rows.actions.dtype}), and the environment's are continuous",
            "Check that they are no indices of actions, and were not rounded.",
        )
    if (ended := float((rows.masks == 0).mean())) > _MOST_ENDED and len(rows) > 1:
        warn(
            f"{where}: masks of {ended:.0%} of the transitions are 0, as if the task ended with each",
            "Check that they, or the terminals that they come from, are not the opposite of what is meant.",
        )
    if len(rows) == 1:
        warn(f"{where} has one transition alone", "Check that it is the whole file.")


def _refuse_lost_variation(observations: np.ndarray, where: str) -> None:
    """Refuse observations [N, D] of which float32, as networks see them, leaves a dimension next to no variation.

    What varies by float64's own rounding alone is no variation.
    """
    if np.can_cast(observations.dtype, np.float32):
        return
    low, high = (ends(axis=0).astype(np.float64) for ends in (observations.min, observations.max))
    largest = np.maximum(np.abs(low), np.abs(high))
    with np.errstate(invalid="ignore", divide="ignore"):  # torch may have the spacing next to 0 count as 0.
        steps = (high - low) / np.spacing(largest.astype(np.float32))
    exact = (observations.astype(np.float32) == observations).all(axis=0)
    lost = ~exact & (steps < _FEWEST_STEPS) & (high - low > _ROUNDINGS * np.spacing(largest))
    if lost.any():
        first = int(np.argmax(lost))
        raise UserError(
            f"{where}: networks see observations as float32, which has {int(steps[first])} steps between"
            f" {float(low[first])!r} and {float(high[first])!r}, where dimension {first} lies; lost alike: dimensions"
            f" {', '.join(map(str, np.flatnonzero(lost)))}",
            "Subtract the offset in data and environment alike: wrap the environment, and register what you wrapped.",
        )


def _in_units(actions: np.ndarray, env: Any, where: str) -> np.ndarray:
    """Actions [N, A] of the environment's bounds as float32 within those of the policy."""
    low, high, units = env.units.low, env.units.high, env.units.from_env(actions)
    outside = (np.abs(units) > 1.0 + 2.0 * _TOLERANCE).any(axis=1)
    whose, remedy = (
        "the environment's",
        "Write them in the environment's units; clip those of a policy that exceeds them.",
    )
    if isinstance(env, RecordedSpaces):
        whose, remedy = "the task's", "Write wider ones as action_low and action_high in the task table; or clip them."
    if look_normalised(np.asarray(actions), env.units):
        remedy = NORMALISED
    bounds = f"out of {whose} bounds {np.round(low, 4).tolist()} to {np.round(high, 4).tolist()}"
    refuse(outside, f"{where}: actions", bounds, remedy)
    return np.clip(units, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)
