"""HDF5 files of one's own, a function a layout: D4RL's, d3rlpy's of both of its versions, and robomimic's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.arrays import refuse_missing
from mfql.data.d4rl import read_arrays, transitions
from mfql.data.opening import Damaged, content_of, hdf5_values, open_hdf5
from mfql.data.own_rows import ANEW, LAYOUT, episode_rows, goes_on, joined, with_next_observations
from mfql.data.plausible import refuse_unmarked_ends
from mfql.data.transitions import Transitions
from mfql.data.values import flags
from mfql.errors import UserError, note, warn

_REMEDY = f"{ANEW} {LAYOUT}"
_FLAG = "Write 1 in the rows that end an episode, else 0."
# Where after more than this share of the rows that end the task comes one that timed out, it is the same episode's.
_OWN_ROW = 0.1
_TIMEOUTS = "Write timeouts [N], 1 in the last row of each episode that did not end by itself; or next_observations."
_FAULT = "is no readable HDF5 file"


def read_hdf5(path: Path, env: Any, limit: int) -> Transitions:
    """The transitions of a file, by the layout that its names are of.

    Args:
        path: the file.
        env: the task's environment; None of a task that has none.
        limit: the steps after which it ends an episode.

    Raises:
        UserError: it cannot be read, or is not what its layout says.
    """
    with content_of(path, _FAULT, _REMEDY), open_hdf5(path) as file:
        names = frozenset(file)
    layouts = (read for marks, read in _LAYOUTS.items() if names.issuperset(marks))
    try:
        return next(layouts, _read_d4rl)(path, env, limit, names)
    except TypeError as error:  # Of one number where there are to be many.
        raise Damaged(path, f"{_FAULT}: {error}", _REMEDY) from error


def _read_d4rl(path: Path, env: Any, limit: int, names: frozenset[str]) -> Transitions:
    """Consecutive rows; see `mfql.data.d4rl.load` for which steps are transitions. Or rows with next observations."""
    own = "next_observations" in names
    if not own and "timeouts" not in names and names.issuperset({"observations", "terminals"}):
        refuse_missing(path, ("observations", "actions", "rewards", "terminals", "timeouts"), names, _TIMEOUTS)
    steps = _steps(path, env, ("terminals", *(("timeouts",) if "timeouts" in names or not own else ())), own)
    after = steps.pop("next_observations", None)
    ends = steps["terminals"] | steps.get("timeouts", False)
    if after is None or ("timeouts" in steps and _consecutive(steps["observations"], after, ends)):
        if after is not None:
            note(f"{path}: next_observations are those of the rows that follow; a row that timed out is left out")
        return _consecutive_rows(path, steps, limit)
    if "timeouts" in steps:
        note(f"{path}: next_observations are used, since they are not those of the rows that follow")
    rows = {name: steps[name] for name in ("observations", "actions", "rewards")}
    masks = 1.0 - steps["terminals"].astype(np.float32)
    return with_next_observations(Transitions(**rows, masks=masks, terminals=ends, next_observations=after), str(path))


def _read_d3rlpy_1(path: Path, env: Any, limit: int, names: frozenset[str]) -> Transitions:
    """d3rlpy 0 and 1: consecutive rows; `episode_terminals` is 1 in the last row of each episode, however it ended."""
    steps = _steps(path, env, ("terminals", "episode_terminals"))
    steps["timeouts"] = steps.pop("episode_terminals") & ~steps["terminals"]
    if steps["terminals"][-1]:  # It counts, though no row follows it: nothing is made of what follows a task's end.
        steps = {name: np.append(values, values[-1:], axis=0) for name, values in steps.items()}
    note(f"{path} is in d3rlpy's layout, version 1: episode_terminals without terminals are read as timeouts")
    return _consecutive_rows(path, steps, limit)


def _read_d3rlpy_2(path: Path, env: Any, limit: int, names: frozenset[str]) -> Transitions:
    """d3rlpy 2: arrays an episode, of as many observations as actions; `terminated` is of the whole episode."""
    arrays = ("observations", "actions", "rewards", "terminated")
    with content_of(path, _FAULT, _REMEDY), open_hdf5(path) as file:
        count = int(hdf5_values(file["num_episodes"]).item())
        episodes = [{name: hdf5_values(file[f"{name}_{i}"]) for name in arrays} for i in range(count)]
        terminated = [bool(episode["terminated"].item()) for episode in episodes]
    note(f"{path} is in d3rlpy's layout, version 2: {count} episodes; the last step of one not terminated is left out")
    parts = []
    for i, episode in enumerate(episodes):
        terminals = np.zeros(len(episode["rewards"]), bool)
        terminals[-1:] = terminated[i]
        parts.append(
            episode_rows(
                f"{path}: episode {i}",
                episode["observations"],
                None,
                episode["actions"],
                episode["rewards"],
                terminals,
            )
        )
    return joined(parts, str(path))


def _read_robomimic(path: Path, env: Any, limit: int, names: frozenset[str]) -> Transitions:
    """robomimic: a group a demonstration, whose `obs` has an array a key; `dones` end the task."""
    with content_of(path, _FAULT, _REMEDY), open_hdf5(path) as file:
        demos = sorted((name for name in file["data"]), key=_number)
        if not demos:
            raise UserError(f"{path}: data has no demonstration", LAYOUT)
        keys = _observation_keys(path, file["data"][demos[0]], env)
        note(
            f"{path} is in robomimic's layout: {len(demos)} demonstrations of observations {', '.join(keys)}; dones are"
            " read as the task's end"
        )
        if "mask" in names:
            warn(
                f"{path}: its filter keys ({', '.join(file['mask'])}) are not used: every demonstration is read",
                "Write the demonstrations that are wanted to a file of their own.",
            )
        return joined([_demonstration(path, name, file["data"][name], keys) for name in demos], str(path))


def _observation_keys(path: Path, demo: Any, env: Any) -> list[str]:
    """The arrays of `obs` in the order of the environment's own, or the only one."""
    missing = [name for name in ("obs", "actions", "rewards", "dones") if name not in demo]
    if missing:
        raise UserError(
            f"{path}: {demo.name} lacks {', '.join(missing)}",
            "robomimic's dataset_states_to_obs.py extracts them from states.",
        )
    found = list(demo["obs"])
    if env is None:  # Nothing else says what a policy is to see.
        return sorted(key for key in found if demo["obs"][key].ndim <= 2)
    layout = env.env.layout
    if layout is not None:
        wanted = ["/".join(keys) for keys, _ in layout]
        if absent := [key for key in wanted if key not in demo["obs"]]:
            raise UserError(
                f"{path}: {demo.name}/obs lacks {', '.join(absent)} of the environment's observations",
                f"It has {', '.join(found)}: correct env_id or data, or wrap the environment to show these.",
            )
        return wanted
    if len(found) == 1 or "flat" in found:
        return found if len(found) == 1 else ["flat"]
    raise UserError(
        f"{path}: {demo.name}/obs has {', '.join(found)}, and the environment shows one vector: nothing says which of"
        " them it is of, nor in which order",
        "Register the environment with a Dict of these as its observations; or write them as observations in D4RL's"
        f" layout. {LAYOUT}",
    )


def _demonstration(path: Path, name: str, demo: Any, keys: list[str]) -> Transitions:
    def seen(group: str) -> np.ndarray:
        parts = [hdf5_values(demo[group][key]) for key in keys]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    where = f"{path}: data/{name}"
    terminals = flags(hdf5_values(demo["dones"]).reshape(-1), f"{where}: dones", _FLAG)
    after = seen("next_obs") if "next_obs" in demo else None
    actions, rewards = (hdf5_values(demo[name]) for name in ("actions", "rewards"))
    return episode_rows(where, seen("obs"), after, actions, rewards, terminals)


def _number(name: str) -> tuple[int, str]:
    found = re.search(r"\d+$", name)
    return (int(found[0]) if found else -1, name)


def _steps(path: Path, env: Any, ends: tuple[str, ...], own_next: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a file of rows; `ends` are flags."""
    seen, acted = _sizes(path) if env is None else (env.observation_space.shape, env.action_space.shape)
    shapes = {
        "observations": seen,
        "actions": acted,
        **dict.fromkeys(("rewards", *ends), ()),
        **({"next_observations": seen} if own_next else {}),
    }
    steps = read_arrays(path, shapes, _REMEDY)
    if len(steps["rewards"]) == 0:
        raise UserError(f"{path} has no rows", f"Write some. {LAYOUT}")
    return steps | {name: flags(steps[name], f"{path}: {name}", _FLAG) for name in ends}


def _sizes(path: Path) -> list[tuple[int, ...]]:
    """What a file itself says of the shapes of its observations and actions; vectors where it says nothing."""
    with content_of(path, _FAULT, _REMEDY), open_hdf5(path) as file:
        return [tuple(file[name].shape[1:2]) if name in file else (1,) for name in ("observations", "actions")]


def _consecutive(observations: np.ndarray, after: np.ndarray, ends: np.ndarray) -> bool:
    """Whether next observations are the next rows, wherever no episode ends."""
    return bool((goes_on(observations, after) | ends[:-1]).all())


def _consecutive_rows(path: Path, steps: dict[str, np.ndarray], limit: int) -> Transitions:
    terminals, timeouts = steps["terminals"], steps["timeouts"]
    both = terminals & timeouts
    if both.any():
        warn(
            f"{path}: {int(both.sum())} of {int(terminals.sum())} rows with which the task ends are also timeouts, and"
            " a row that timed out is left out: these ends are not learned from",
            "Set timeouts to 0 in rows whose terminals are 1, where the next row is of another episode.",
        )
    # Some write an episode's last observation as a row of its own, which counts as a time-out: after a terminal row
    # the next is still of the episode.
    own_row = (terminals[:-1] & timeouts[1:]).sum() > _OWN_ROW * max(1, terminals[:-1].sum())
    across = timeouts if own_row else terminals | timeouts
    over = terminals | np.append(False, terminals[:-1])
    refuse_unmarked_ends(steps["observations"], across, over, limit, str(path))
    return transitions(steps, 0.0)


_Read = Callable[[Path, Any, int, frozenset[str]], Transitions]
# By the names that tell, the first that fits; a file without any is in D4RL's.
_LAYOUTS: dict[tuple[str, ...], _Read] = {
    ("observations", "timeouts"): _read_d4rl,
    ("data",): _read_robomimic,
    ("num_episodes", "columns"): _read_d3rlpy_2,
    ("episode_terminals", "terminals"): _read_d3rlpy_1,
}
