"""What D4RL's files record of their simulator, and today's simulator put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.d4rl import read_arrays, read_steps
from mfql.data.replay import Recording
from mfql.envs.d4rl import find_d4rl_task
from mfql.envs.d4rl_make import make_simulations
from mfql.envs.d4rl_simulation import Simulation


def recording(path: Path, task: str) -> Recording:
    """A file of D4RL's layout: the joints' positions and velocities, and what places an episode.

    Args:
        path: the file.
        task: that it is of.

    Raises:
        UserError: the file is absent, damaged, or without recorded states.
    """
    steps = read_steps(path, find_d4rl_task(task))
    (env,) = make_simulations(task, 1)
    simulation: Any = env.unwrapped
    nq, nv = simulation.model.nq, simulation.model.nv
    if steps["observations"].shape[1] == nq + nv:  # AntMaze observes its whole state.
        arrays = steps | {"positions": steps["observations"][:, :nq], "velocities": steps["observations"][:, nq:]}
    else:
        states = {"infos/qpos": (nq,), "infos/qvel": (nv,)}
        placement = {name: (size,) for name, size in simulation.recorded.items()}
        arrays = steps | read_arrays(path, {"rewards": (), **states, **placement})
        arrays |= {"positions": arrays["infos/qpos"], "velocities": arrays["infos/qvel"]}
    ended = steps["terminals"] | steps["timeouts"]

    def step(row: int, start: int) -> dict[str, np.ndarray]:
        return _step(simulation, arrays, row, start)

    return Recording(arrays, ended, np.zeros_like(ended), step, env.close)


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
