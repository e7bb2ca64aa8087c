"""`mfql data replay`: how far one step of today's simulator is from the step that a D4RL dataset recorded."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mfql.data.d4rl import read_arrays, read_steps
from mfql.data.description import split_paths
from mfql.errors import UserError
from mfql.files import read_json, sha256, write_whole
from mfql.tasks import Task

if TYPE_CHECKING:
    from mfql.envs.d4rl_simulation import Simulation

# What a result is compared with, if not the next row of the array of its name: an array, and how many rows on. A row's
# reward is that of the step from it.
_COMPARED_WITH = {"rewards": ("rewards", 0), "recording": ("observations", 0)}


def replay(task: Task, folder: str | Path, rows: int) -> dict[str, Any]:
    """Put the simulator into recorded states, apply the recorded actions, and compare with the rows that follow.

    The recording does not have all of the simulator's state: what the solver started from, and how far the positions
    of bodies lagged behind the joints. What a recording of this same simulator leaves is rounding (a test pins it).

    Args:
        task: a D4RL row of the task table.
        folder: where the dataset is.
        rows: how many, spread evenly over the file; rows that end an episode are left out.

    Returns:
        task, sha256 of the file, mujoco (version), rows, and `discrepancy`: of `positions` and `velocities` of the
        joints, and of Adroit's `observations` and `rewards`, the median, the 95th percentile and the maximum over rows
        of the root mean square difference over a row's entries; `moved` is the median of the same for a simulator in
        which nothing moves. Adroit's `recording` has no step in it: there it is the observation of the recorded state
        that is compared with the one recorded beside it, and tells whether the two belong together. AntMaze's rewards
        are left out: its files do not tell for which goal they are.

    Raises:
        UserError: no D4RL task, or a file without recorded states.
    """
    from mfql.envs.d4rl import find_d4rl_task
    from mfql.envs.make import make_env

    known = find_d4rl_task(task.name)
    path = split_paths(folder, task.dataset)["train"]
    env = make_env(task.name)
    simulation: Simulation = env.base
    recording = _recording(path, read_steps(path, known), simulation)
    chosen, starts = _rows(recording, rows)
    found: dict[str, list[tuple[float, float]]] = {}
    for row, start in zip(chosen, starts, strict=True):
        for name, simulated in _step(simulation, recording, row, start).items():
            array, lead = _COMPARED_WITH.get(name, (name, 1))
            values, at = recording[array], row + lead
            moved = _rms(values[at] - values[max(at - 1, 0)])
            found.setdefault(name, []).append((_rms(simulated - values[at]), moved))
    env.close()
    return {
        "task": task.name,
        "sha256": sha256(path),
        "mujoco": mujoco.__version__,
        "rows": len(chosen),
        "discrepancy": {name: _summary(np.array(pairs)) for name, pairs in found.items()},
    }


def _recording(path: Path, steps: dict[str, np.ndarray], simulation: Simulation) -> dict[str, np.ndarray]:
    """The file's arrays with the joints' `positions` and `velocities`, and those that place an episode."""
    nq, nv = simulation.model.nq, simulation.model.nv
    if steps["observations"].shape[1] == nq + nv:  # AntMaze observes its whole state.
        return steps | {"positions": steps["observations"][:, :nq], "velocities": steps["observations"][:, nq:]}
    states = {"infos/qpos": (nq,), "infos/qvel": (nv,)}
    arrays = read_arrays(
        path, {"rewards": (), **states, **{name: (size,) for name, size in simulation.recorded.items()}}
    )
    return steps | arrays | {"positions": arrays["infos/qpos"], "velocities": arrays["infos/qvel"]}


def _rows(recording: dict[str, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that the file's next row follows, evenly spread, and the row that starts each one's episode."""
    ended = recording["terminals"] | recording["timeouts"]
    usable = np.flatnonzero(~ended[:-1])
    chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int))]
    episode_starts = np.concatenate([[0], np.flatnonzero(ended[:-1]) + 1])
    return chosen, episode_starts[np.searchsorted(episode_starts, chosen, side="right") - 1]


def _step(simulation: Simulation, recording: dict[str, np.ndarray], row: int, start: int) -> dict[str, np.ndarray]:
    """What the simulator makes of a recorded row: its next positions and so on."""
    qpos = recording["positions"][start].astype(np.float64)
    placed = {name: recording[name][start].astype(np.float64) for name in simulation.recorded}
    placement = simulation.recorded_placement(qpos, placed)
    present = simulation.set_state(recording["positions"][row], recording["velocities"][row], placement)
    observation, reward, *_ = simulation.step(recording["actions"][row])
    found = {"positions": simulation.data.qpos.copy(), "velocities": simulation.data.qvel.copy()}
    if simulation.recorded:
        found |= {"observations": observation, "rewards": np.array([reward]), "recording": present}
    return found


def _rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def _summary(pairs: np.ndarray) -> dict[str, float]:
    """Quantiles of the differences, and what they are to be compared with; `pairs` is [rows, 2]."""
    differences, moved = pairs.T
    return {
        "median": float(np.median(differences)),
        "p95": float(np.quantile(differences, 0.95)),
        "max": float(differences.max()),
        "moved": float(np.median(moved)),
    }


def table(result: dict[str, Any]) -> str:
    """A replay's result for a terminal."""
    lines = [f"{result['task']}: {result['rows']} steps on MuJoCo {result['mujoco']}, root mean square differences"]
    lines += [f"{'':14}{'median':>11}{'95 %':>11}{'max':>11}{'step itself':>13}"]
    for name, row in result["discrepancy"].items():
        values = "".join(f"{row[key]:>11.2e}" for key in ("median", "p95", "max"))
        lines += [f"{name:14}{values}{row['moved']:>13.2e}"]
    return "\n".join(lines)


_COLUMNS = ("task", "quantity", "median", "p95", "max", "moved", "rows", "mujoco", "sha256")


def gather(files: Sequence[str | Path], out: str | Path) -> None:
    """One table of the results of several replays: CSV, one row a task and quantity.

    Args:
        files: what `replay` gave, as JSON.
        out: columns as in a result's `discrepancy`, each in the quantity's own unit.

    Raises:
        UserError: a file is absent or is no result of a replay.
    """
    rows = [row for file in files for row in _table_rows(Path(file))]
    with write_whole(out) as target:
        writer = csv.DictWriter(target, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _table_rows(file: Path) -> list[dict[str, Any]]:
    result = read_json(file)
    try:
        of_all = {name: result[name] for name in ("task", "rows", "mujoco", "sha256")}
        return [
            of_all | {"quantity": quantity} | {name: f"{value:.6g}" for name, value in values.items()}
            for quantity, values in result["discrepancy"].items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no result of a replay ({error})", "Run `mfql data replay --out` anew.") from error
