"""OGBench's datasets: two `.npz` files, relabelled for one task by OGBench itself."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mfql.data.description import REPLACE, verify
from mfql.data.npz import check_arrays
from mfql.data.opening import content_of, open_npz
from mfql.data.paths import ogbench_paths
from mfql.data.pixels import read_pixels
from mfql.data.transitions import ACTION_LIMIT, Dataset, Transitions, observation_statistics
from mfql.data.values import as_float32, refuse, refuse_absurd_actions
from mfql.envs.isolated import reset_env
from mfql.envs.ogbench import make_task
from mfql.errors import UserError
from mfql.tasks import Task

if TYPE_CHECKING:
    import gymnasium


def load(task: Task, folder: str | Path) -> Dataset:
    """The dataset of a task, with rewards and masks as OGBench relabels them.

    Args:
        task: an OGBench row of the task table.
        folder: where `{dataset}.npz` and `{dataset}-val.npz` are; `{dataset}.json`, where present, must agree with
            them.

    Raises:
        UserError: a file is absent, damaged, changed, or belongs to another environment.
    """
    files = ogbench_paths(folder, task.dataset)
    env = make_task(task.name)
    try:
        reset_env(env, 0)  # Relabelling resets it without a seed; what that draws follows from this one.
        # Images are mapped from where they are unpacked.
        mapped = ("observations",) if task.pixels else ()
        for path in files.values():
            check_arrays(path, _array_shapes(env), f"It is no dataset of this task. {REPLACE}", mapped)
        source, digest = verify(folder, task.dataset, files)
        with content_of(f"{files['train']} or {files['val'].name}", "is damaged", REPLACE):
            for path in files.values():
                _check_rows(path)
            train, val = (read_pixels if task.pixels else _read_states)(task, files, env)
    finally:
        env.close()
    mean, std = observation_statistics(train.observations)
    return Dataset(
        **vars(train),
        val=val,
        observation_mean=mean,
        observation_std=std,
        sha256=digest,
        name=task.dataset,
        source=source,
    )


def _read_states(task: Task, files: dict[str, Path], env: gymnasium.Env) -> list[Transitions]:
    """Training and validation transitions of a state task, as OGBench's own loader makes them."""
    import ogbench

    splits = ogbench.make_env_and_datasets(task.name, dataset_path=str(files["train"]), dataset_only=True, cur_env=env)
    for path, split in zip(files.values(), splits, strict=True):
        for name, values in split.items():
            as_float32(values, f"{path}: {name}", REPLACE)
        np.clip(split["actions"], -ACTION_LIMIT, ACTION_LIMIT, out=split["actions"])
    return [Transitions(**{field.name: split[field.name] for field in fields(Transitions)}) for split in splits]


def _check_rows(path: Path) -> None:
    """Refuse rows that OGBench's loader would take for others: of states that are no numbers it makes rewards of -1.

    What stands in a trajectory's last row beside its observation nobody reads.

    Raises:
        UserError: names the array, how many rows, and the first.
    """
    with open_npz(path) as file:
        terminals = file["terminals"]
        refuse((terminals != 0) & (terminals != 1), f"{path}: terminals", "neither 0 nor 1", REPLACE, "row")
        if not len(terminals) or not terminals[-1]:
            raise UserError(f"{path}: the last row does not end its trajectory", REPLACE)
        kept = terminals == 0
        refuse_absurd_actions(file["actions"][kept], f"{path}: actions", REPLACE)
        for name in ("qpos", "button_states"):
            if name in file:
                as_float32(file[name][kept], f"{path}: {name}", REPLACE)


def _array_shapes(env: gymnasium.Env) -> dict[str, tuple[int, ...]]:
    """The shape of a row of each array that a dataset of this environment must have."""
    base: Any = env.unwrapped
    shapes = {
        "observations": tuple(base.observation_space.shape or ()),
        "actions": tuple(env.action_space.shape or ()),
        "terminals": (),
        "qpos": (base.model.nq,),
    }
    if hasattr(base, "_num_buttons"):
        shapes["button_states"] = (base._num_buttons,)
    return shapes
