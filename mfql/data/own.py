"""Datasets of one's own, checked against their environment: OGBench's layout, D4RL's, or Minari's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.d4rl import last_trajectories, read_arrays, transitions
from mfql.data.description import describe_rows, verify
from mfql.data.opening import content_of
from mfql.data.paths import description_path, minari_folder, own_paths
from mfql.data.transitions import ACTION_LIMIT, Dataset, Transitions, observation_statistics
from mfql.envs.isolated import Isolated
from mfql.envs.registered import flat_observations, make_registered
from mfql.errors import UserError
from mfql.files import read_json, there
from mfql.tasks import Task

Arrays = Mapping[str, np.ndarray]

_LAYOUT = "docs/extend.md describes the layouts."
_ANEW = "Write it anew, or bring it back from a copy."
_ROWS = ("observations", "actions", "rewards", "masks", "terminals")
# By how much of its range an action may exceed its bounds: rounding.
_TOLERANCE = 1e-4
_MASKS = (
    "masks [N] says where the future counts: 0 in the step with which the task itself ends (solved, or failed), else 1;"
    " where episodes end by their time limit alone, ones."
)
# A dimension of observations needs this many steps of float32 between its least and its greatest value, and varies by
# this many of float64 if it varies at all.
_FEWEST_STEPS, _ROUNDINGS = 64, 64
# What a run depends on beside the data; a task's name stands for one of each.
_ENVIRONMENT = ("env_id", "max_episode_steps", "score_low", "score_high")


def load(task: Task, folder: str | Path) -> Dataset:
    """The dataset of a task of one's own, actions in units of the environment's bounds, rewards as they are.

    Without a validation file `val` is the last tenth of the trajectories, which are *also trained on*.

    Args:
        task: a row of an extension's table.
        folder: where `{task}.json` is, which `mfql data describe` writes; where present it must agree with the file
            and with the row.

    Raises:
        UserError: a file is absent, damaged or changed, or does not fit the environment.
    """
    refuse_changed_row(task, folder)
    splits = read_own(task)
    source, digest = verify(folder, task.dataset, own_paths(task))
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


def describe(task: Task, folder: str | Path) -> dict[str, Transitions]:
    """Check a dataset of one's own and write `{task}.json`, by which it is known from then on.

    Args:
        task: a row of an extension's table.
        folder: where to write; the data stay where they are.

    Returns:
        The transitions of each split, as training sees them.

    Raises:
        UserError: as of `load`; and the folder cannot be written.
    """
    refuse_changed_row(task, folder)
    splits = read_own(task)
    describe_rows(folder, task.dataset, own_paths(task), splits, environment=_environment(task))
    return splits


def refuse_changed_row(task: Task, folder: str | Path) -> None:
    """Refuse a task whose environment or scores are no longer those that its description names.

    Raises:
        UserError: names the column.
    """
    path = description_path(folder, task.dataset)
    described = read_json(path).get("environment") if there(path) else None
    for column, value in _environment(task).items():
        if described is not None and described.get(column) != value:
            raise UserError(
                f"{column} of {task.name} is {value} in its task table, and {path} says {described.get(column)}:"
                " a task's name stands for one environment and one score",
                f"Give the changed row another name. Or, to start over, remove {path} and the task's runs.",
            )


def read_own(task: Task) -> dict[str, Transitions]:
    """The transitions of each file of a task of one's own: `train`, and `val` where there is one.

    Raises:
        UserError: a file is absent or damaged, does not fit the environment, or has observations whose variation is
            lost in float32.
    """
    row = task.registered
    if row is None:
        raise ValueError(f"{task.name} names no dataset of its own")
    env = Isolated(make_registered(task))
    try:
        found = {}
        for split, path in own_paths(task).items():
            where = row.data if row.data.startswith("minari:") else str(path)
            rows = _read(row.data, path, env)
            found[split] = _fitting(rows, env, where)
            if split == "train":
                _refuse_lost_variation(np.asarray(rows.observations), where)
        return found
    finally:
        env.close()


def _environment(task: Task) -> dict[str, Any]:
    return {"metric": task.metric, **{column: getattr(task.registered, column) for column in _ENVIRONMENT}}


def _read(data: str, path: Path, env: Any) -> Transitions:
    """The transitions of a file as it has them: shapes, values and actions unchecked."""
    if data.startswith("minari:"):
        return _read_minari(data, env)
    if not there(path):
        raise UserError(
            f"{path} does not exist", "Correct `data` in the task table; it is relative to the table's folder."
        )
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in (".hdf5", ".h5"):
        return _read_hdf5(path, env)
    raise UserError(f"{path} is neither .npz nor .hdf5 nor minari:ID", _LAYOUT)


def _read_npz(path: Path) -> Transitions:
    """OGBench's layout; a trajectory's last row is a next observation alone, unless there are `next_observations`."""
    with content_of(path, "is no readable .npz file", _ANEW), np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in (*_ROWS, "next_observations") if name in file}
    missing = [name for name in _ROWS if name not in arrays]
    if missing:
        raise UserError(f"{path} lacks the arrays {', '.join(missing)}", _MASKS if missing == ["masks"] else _LAYOUT)
    rows = arrays["observations"].shape[:1]
    for name, values in arrays.items():
        if values.shape[:1] != rows or values.ndim != (1 if name in ("rewards", "masks", "terminals") else 2):
            raise UserError(
                f"{path}: {name} has the shape {list(values.shape)}, observations {list(arrays['observations'].shape)}",
                _LAYOUT,
            )
        if values.dtype.kind not in "biuf":
            raise UserError(f"{path}: {name} has the type {values.dtype}, which is no number", "Write numbers.")
    last = arrays["terminals"] > 0
    if not last.any() or not last[-1]:
        raise UserError(
            f"{path}: the last row does not end its trajectory", "Set terminals to 1 in the last row of each."
        )
    if "next_observations" in arrays:
        return Transitions(**{name: arrays[name] for name in (*_ROWS, "next_observations")} | {"terminals": last})
    kept = np.flatnonzero(~last)
    return Transitions(
        **{name: arrays[name][kept] for name in ("observations", "actions", "rewards", "masks")},
        terminals=last[kept + 1],
        next_observations=arrays["observations"][kept + 1],
    )


def _read_hdf5(path: Path, env: Any) -> Transitions:
    """D4RL's layout; see `mfql.data.d4rl.load` for which steps are transitions."""
    shapes = {
        "observations": env.observation_space.shape,
        "actions": env.action_space.shape,
        **dict.fromkeys(("rewards", "terminals", "timeouts"), ()),
    }
    steps = read_arrays(path, shapes, f"{_ANEW} {_LAYOUT}")
    return transitions(steps | {name: steps[name].astype(bool) for name in ("terminals", "timeouts")}, 0.0)


def _read_minari(data: str, env: Any) -> Transitions:
    name = data.removeprefix("minari:")
    try:
        import minari
    except ImportError as error:
        raise UserError(f"{data} needs the package minari: {error}", "pip install 'mfql[minari]'.") from error
    folder = minari_folder(data)
    if not (folder / "data" / "main_data.hdf5").is_file():
        raise UserError(
            f"{folder / 'data' / 'main_data.hdf5'} does not exist",
            f"Fetch it with `minari download {name}`, or set MINARI_DATASETS_PATH to the folder that has it.",
        )
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*_ROWS, "next_observations")}
    space = env.unwrapped.observation_space
    try:
        for episode in minari.load_dataset(name).iterate_episodes():
            seen = flat_observations(episode.observations, space)
            steps = len(episode.rewards)
            if steps == 0:
                continue
            parts["observations"].append(seen[:-1])
            parts["next_observations"].append(seen[1:])
            parts["actions"].append(np.asarray(episode.actions).reshape(steps, -1))
            parts["rewards"].append(np.asarray(episode.rewards))
            parts["masks"].append(1.0 - np.asarray(episode.terminations, np.float32))
            parts["terminals"].append(np.arange(steps) == steps - 1)
        return Transitions(**{name: np.concatenate(values) for name, values in parts.items()})
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"{data} cannot be read as a dataset of the task's environment: {error!r}",
            "Check that env_id is the environment that it was recorded in, and that the dataset is whole.",
        ) from error


def _fitting(rows: Transitions, env: Any, where: str) -> Transitions:
    """A file's transitions as training takes them: float32, actions in [-1, 1].

    Raises:
        UserError: another shape than the environment's, values that are no numbers, or actions out of bounds.
    """
    if len(rows) == 0:
        raise UserError(f"{where} has no transition", _LAYOUT)
    for name, shape in (("observations", env.observation_space.shape), ("actions", env.action_space.shape)):
        found = getattr(rows, name).shape[1:]
        if found != shape:
            raise UserError(
                f"{where}: {name} are vectors of {list(found)}, and the environment's are of {list(shape)}",
                "It is the dataset of another environment: correct `data` or `env_id` in the task table.",
            )
    for name in (*_ROWS, "next_observations"):
        values = getattr(rows, name)
        faulty = ~np.isfinite(values.reshape(len(rows), -1)).all(axis=1)
        _refuse(faulty, f"{where}: {name}", "no finite numbers", "Leave out these steps, or correct what wrote them.")
    _refuse((rows.masks < 0) | (rows.masks > 1), f"{where}: masks", "not between 0 and 1", _MASKS)
    actions = _in_units(rows.actions, env, where)
    return replace(
        rows,
        **{name: getattr(rows, name).astype(np.float32) for name in (*_ROWS, "next_observations")}
        | {"actions": actions},
    )


def _refuse_lost_variation(observations: np.ndarray, where: str) -> None:
    """Refuse observations [N, D] of which float32, as networks see them, leaves a dimension next to no variation.

    What varies by float64's own rounding alone is no variation.
    """
    if np.can_cast(observations.dtype, np.float32):
        return
    low, high = (ends(axis=0).astype(np.float64) for ends in (observations.min, observations.max))
    largest = np.maximum(np.abs(low), np.abs(high))
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
    bounds = f"out of the environment's bounds {np.round(low, 4).tolist()} to {np.round(high, 4).tolist()}"
    _refuse(
        outside,
        f"{where}: actions",
        bounds,
        "Write them in the environment's units; clip those of a policy that exceeds them.",
    )
    return np.clip(units, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)


def _refuse(faulty: np.ndarray, what: str, fault: str, remedy: str) -> None:
    if faulty.any():
        count, first = int(faulty.sum()), int(np.argmax(faulty))
        raise UserError(
            f"{what} of {count} of {len(faulty)} transitions are {fault}, first of transition {first}", remedy
        )
