"""`mfql data replay`: how far one step of today's simulator is from the step that a dataset recorded."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from mfql.data.d4rl import read_arrays, read_steps
from mfql.data.dataset import check_arrays
from mfql.data.description import REPLACE, split_paths
from mfql.errors import UserError
from mfql.files import sha256
from mfql.tasks import Task, simulation_version

if TYPE_CHECKING:
    from mfql.envs.d4rl_simulation import Simulation
    from mfql.envs.make import Isolated

# What a result is compared with, if not the next row of the array of its name: an array, and how many rows on. A row's
# reward is that of the step from it.
_COMPARED_WITH = {"rewards": ("rewards", 0), "recording": ("observations", 0)}


@dataclass(frozen=True)
class Recording:
    """A file's rows, and a simulation that steps from them.

    Args:
        arrays: `positions`, `velocities` and what else a step is compared with, [N, ...] each.
        ended: [N], whether an episode ended with the row.
        left_out: [N], whether something else than the simulator made the next row.
        step: of a row and the row that its episode starts with, what the simulator makes of it.
    """

    arrays: dict[str, np.ndarray]
    ended: np.ndarray
    left_out: np.ndarray
    step: Callable[[int, int], dict[str, np.ndarray]]

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows that the file's next row follows, evenly spread, and the row that starts each one's episode."""
        usable = np.flatnonzero(~(self.ended | self.left_out)[:-1])
        chosen = usable[np.unique(np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(int))]
        episode_starts = np.concatenate([[0], np.flatnonzero(self.ended[:-1]) + 1])
        return chosen, episode_starts[np.searchsorted(episode_starts, chosen, side="right") - 1]


def replay(task: Task, folder: str | Path, rows: int) -> dict[str, Any]:
    """Put the simulator into recorded states, apply the recorded actions, and compare with the rows that follow.

    The recording does not have all of the simulator's state: what the solver started from and, of D4RL, how far the
    positions of bodies lagged behind the joints; OGBench's is float32. What a recording of this same simulator leaves
    is rounding (a test pins it).

    Args:
        task: an OGBench or D4RL row of the task table; a pixel task's images play no part.
        folder: where the dataset is.
        rows: how many, spread evenly over the file; rows that end an episode are left out, and those from which a maze
            teleported.

    Returns:
        task, dataset, sha256 of the file, mujoco (version), simulation_version, rows, and `discrepancy`: of `positions`
        and `velocities` of the joints, of Adroit's `observations` and `rewards`, and of the `button_states` of
        OGBench's scene and puzzles, the median, the 95th percentile and the maximum over rows of the root mean square
        difference over a row's entries; `moved` is the median of the same for a simulator in which nothing moves.
        Adroit's `recording` has no step in it: there it is the observation of the recorded state that is compared with
        the one recorded beside it, and tells whether the two belong together. AntMaze's rewards are left out: its files
        do not tell for which goal they are.

    Raises:
        UserError: a task of one's own, or a file that is absent, damaged, or without recorded states.
    """
    from mfql.envs.d4rl import TASKS
    from mfql.envs.make import make_env

    if task.registered:
        raise UserError(
            f"{task.name} is a task of one's own, whose file has no states to put its simulator into",
            "OGBench's and D4RL's tasks can be replayed.",
        )
    path = split_paths(folder, task.dataset)["train"]
    # A pixel task's simulator with its renderer left out.
    env = make_env(task.name.removeprefix("visual-"))
    try:
        recording = (_d4rl if task.dataset in TASKS else _ogbench)(path, task, env)
        found: dict[str, list[tuple[float, float]]] = {}
        chosen, starts = recording.rows(rows)
        for row, start in zip(chosen, starts, strict=True):
            for name, simulated in recording.step(row, start).items():
                array, lead = _COMPARED_WITH.get(name, (name, 1))
                values, at = recording.arrays[array], row + lead
                moved = _rms(values[at] - values[max(at - 1, 0)])
                found.setdefault(name, []).append((_rms(simulated - values[at]), moved))
    finally:
        env.close()
    if not found:
        raise UserError(f"{path} has no step that its next row follows", REPLACE)
    return {
        "task": task.name,
        "dataset": task.dataset,
        "sha256": sha256(path),
        "mujoco": mujoco.__version__,
        "simulation_version": simulation_version(task.name),
        "rows": len(chosen),
        "discrepancy": {name: _summary(np.array(pairs)) for name, pairs in found.items()},
    }


def _ogbench(path: Path, task: Task, env: Isolated) -> Recording:
    """A file of OGBench's layout: joints before each step, and the buttons' states where there are buttons."""
    from mfql.envs.make import reset_env

    reset_env(env, 0)
    base = env.base
    actions = tuple(env.action_space.shape or ())
    shapes: dict[str, tuple[int, ...]] = {"qpos": (base.model.nq,), "qvel": (base.model.nv,), "actions": actions}
    shapes["terminals"] = ()
    if has_buttons := hasattr(base, "_cur_button_states"):
        shapes["button_states"] = base._cur_button_states.shape
    check_arrays(path, shapes, "Its recorded states are needed, which OGBench's own files have. " + REPLACE)
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in shapes}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}", REPLACE) from error
    arrays = {"positions": found["qpos"], "velocities": found["qvel"]}
    # Truth values and whole numbers are subtracted too.
    arrays |= {"button_states": found["button_states"].astype(np.float64)} if has_buttons else {}

    # Where there are buttons, a step ends with bodies and sites brought up to the joints.
    lags = env.compiled and not has_buttons

    def step(row: int, start: int) -> dict[str, np.ndarray]:
        with env.in_turn():
            if has_buttons:
                base._cur_button_states = found["button_states"][row].copy()
                base._apply_button_states()
            _set_joints(base, found["qpos"][row], found["qvel"][row], lagging=lags and row > start)
        env.step(found["actions"][row])
        after = {"positions": base.data.qpos.copy(), "velocities": base.data.qvel.copy()}
        return after | ({"button_states": base._cur_button_states} if has_buttons else {})

    return Recording(arrays, found["terminals"].astype(bool), _teleported(base, found["qpos"]), step)


def _set_joints(base: Any, qpos: np.ndarray, qvel: np.ndarray, lagging: bool) -> None:
    """Put an OGBench environment into the state [nq], [nv].

    Args:
        lagging: whether bodies and sites are where the last physics step began, as they are after a step. From there a
            manipulation environment reckons an action's target.
    """
    model, data = base.model, base.data
    mujoco.mj_resetData(model, data)
    data.qpos[:], data.qvel[:] = qpos, qvel
    if lagging:
        # Its integrator moved the positions by the velocities that the step ended with.
        mujoco.mj_integratePos(model, data.qpos, data.qvel, -model.opt.timestep)
    mujoco.mj_forward(model, data)
    data.qpos[:] = qpos


def _teleported(base: Any, qpos: np.ndarray) -> np.ndarray:
    """Whether a maze put the agent elsewhere after a row's step, [N], at an exit that it drew; it no longer does."""
    info, left = getattr(base, "_teleport_info", None), np.zeros(len(qpos), bool)
    if info is not None:
        base._teleport_info = None
        for exit_xy in info["teleport_out_xys"]:
            left[:-1] |= (qpos[1:, :2] == np.asarray(exit_xy, qpos.dtype)).all(axis=1)
    return left


def _d4rl(path: Path, task: Task, env: Isolated) -> Recording:
    """A file of D4RL's layout: the joints' positions and velocities, and what places an episode."""
    from mfql.envs.d4rl import find_d4rl_task

    simulation: Simulation = env.base
    steps = read_steps(path, find_d4rl_task(task.name))
    nq, nv = simulation.model.nq, simulation.model.nv
    if steps["observations"].shape[1] == nq + nv:  # AntMaze observes its whole state.
        arrays = steps | {"positions": steps["observations"][:, :nq], "velocities": steps["observations"][:, nq:]}
    else:
        states = {"infos/qpos": (nq,), "infos/qvel": (nv,)}
        placement = {name: (size,) for name, size in simulation.recorded.items()}
        arrays = steps | read_arrays(path, {"rewards": (), **states, **placement})
        arrays |= {"positions": arrays["infos/qpos"], "velocities": arrays["infos/qvel"]}
    ended = steps["terminals"] | steps["timeouts"]
    return Recording(arrays, ended, np.zeros_like(ended), lambda row, start: _d4rl_step(simulation, arrays, row, start))


def _d4rl_step(simulation: Simulation, recording: dict[str, np.ndarray], row: int, start: int) -> dict[str, np.ndarray]:
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
