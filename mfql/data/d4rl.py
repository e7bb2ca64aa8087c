"""D4RL's datasets: one HDF5 file of consecutive steps, read as the transitions that Q-learning may use."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from mfql.data.arrays import refuse_missing, refuse_other_lengths
from mfql.data.description import REPLACE, verify
from mfql.data.opening import content_of, hdf5_values, open_hdf5
from mfql.data.paths import d4rl_paths
from mfql.data.transitions import ACTION_LIMIT, Dataset, Transitions, observation_statistics
from mfql.data.values import as_float32, flags, refuse_absurd_actions, require_real
from mfql.envs.d4rl import D4RLTask, find_d4rl_task
from mfql.errors import UserError
from mfql.tasks import Task

# The share of trajectories that stands in for the validation split that D4RL has not.
_VAL_SHARE = 0.1


def load(task: Task, folder: str | Path) -> Dataset:
    """The dataset of a D4RL task as D4RL defines its transitions, with the protocol's reward shift.

    A row's next observation is the file's next row. The last step before a time-out is left out, since what followed it
    was not recorded, and so is the file's last row. A terminal row's mask is 0; a trajectory ends at a terminal row and
    where rows are left out. Statistics are of the rows kept.

    D4RL has no validation split, and training uses every row. `val` is the last tenth of the trajectories, which are
    *also trained on*: its losses show whether the loss is computed alike there, not whether it generalises.

    Args:
        task: a D4RL row of the task table.
        folder: where `{dataset}.hdf5` is; `{dataset}.json`, where present, must agree with it.

    Raises:
        UserError: the file is absent, damaged, changed, or belongs to another environment.
    """
    files = d4rl_paths(folder, task.dataset)
    path = files["train"]
    known = find_d4rl_task(task.name)
    steps = read_steps(path, known)
    source, digest = verify(folder, task.dataset, files)
    steps["actions"] = np.clip(steps["actions"], -ACTION_LIMIT, ACTION_LIMIT)
    train = transitions(steps, known.reward_shift)
    if len(train) == 0:
        raise UserError(f"{path} has no step that does not end in a time-out", REPLACE)
    mean, std = observation_statistics(train.observations)
    return Dataset(
        **vars(train),
        val=last_trajectories(train),
        observation_mean=mean,
        observation_std=std,
        sha256=digest,
        name=task.dataset,
        source=source,
    )


def read_steps(path: Path, task: D4RLTask) -> dict[str, np.ndarray]:
    """The arrays of a D4RL file, in its own rewards.

    Returns:
        observations [N, D], actions [N, A], rewards [N] as float32; terminals, timeouts [N] as bool.

    Raises:
        UserError: the file is absent or damaged, lacks an array, or an array has another environment's shape, or
            values that are no numbers or flags.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "observations": (task.observation_dim,),
        "actions": (task.action_dim,),
        "rewards": (),
        "terminals": (),
        "timeouts": (),
    }
    steps = read_arrays(path, shapes)
    refuse_absurd_actions(steps["actions"], f"{path}: actions", REPLACE, "row")
    ends = {name: flags(steps[name], f"{path}: {name}", REPLACE) for name in ("terminals", "timeouts")}
    numbers = ("observations", "actions", "rewards")
    return {name: as_float32(steps[name], f"{path}: {name}", REPLACE, "row") for name in numbers} | ends


def read_arrays(path: Path, shapes: dict[str, tuple[int, ...]], remedy: str = REPLACE) -> dict[str, np.ndarray]:
    """Arrays of an HDF5 file by name, all with as many rows.

    Args:
        path: the file.
        shapes: of a row of each array wanted.
        remedy: what to do about a file that is damaged or of another layout.

    Raises:
        UserError: the file is absent, cannot be opened now, or is damaged; or it lacks an array of the right shape and
            of numbers.
    """
    absent = "Make it with mfql data fetch, or copy D4RL's file there."
    with content_of(path, "is no readable HDF5 file", remedy, absent), open_hdf5(path) as file:
        arrays = [name for name in {*file, *shapes} if isinstance(file.get(name), h5py.Dataset)]
        refuse_missing(path, shapes, arrays, remedy)
        refuse_other_lengths(path, {name: file[name].shape for name in shapes}, remedy)
        _check_shapes(path, file, shapes, remedy)
        return {name: hdf5_values(file[name]).reshape(-1, *row) for name, row in shapes.items()}


def _check_shapes(path: Path, file: h5py.File, shapes: dict[str, tuple[int, ...]], remedy: str) -> None:
    rows = file[next(iter(shapes))].shape[:1]
    for name, row in shapes.items():
        found = file[name]
        # As D4RL does, a number a row may be a column.
        if found.shape != rows + row and not (row == () and found.shape == (*rows, 1)):
            expected = f"[{', '.join(map(str, rows + row))}]"
            raise UserError(
                f"{path}: {name} has the shape {list(found.shape)}, and the task's environment needs {expected}",
                f"It is the dataset of another environment. {remedy}",
            )
        require_real(found.dtype, f"{path}: {name}", remedy)


def transitions(steps: dict[str, np.ndarray], reward_shift: float) -> Transitions:
    """The steps whose next observation the file has, as `load` says."""
    kept = np.flatnonzero(~steps["timeouts"][:-1])
    terminal = steps["terminals"][kept]
    last = np.append(np.diff(kept) > 1, True)[: len(kept)]
    return Transitions(
        observations=steps["observations"][kept],
        actions=steps["actions"][kept],
        rewards=steps["rewards"][kept] + np.float32(reward_shift),
        masks=1.0 - terminal.astype(np.float32),
        terminals=(terminal | last).astype(np.float32),
        next_observations=steps["observations"][kept + 1],
    )


def last_trajectories(train: Transitions) -> Transitions:
    """The last tenth of the trajectories, at least one, for a dataset without validation split; shares its memory."""
    starts = train.starts
    start = starts[len(starts) - max(1, round(_VAL_SHARE * len(starts)))]
    return Transitions(**{name: values[start:] for name, values in vars(train).items()})
