"""Small HDF5 files in D4RL's layout, from random rollouts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from mfql.envs.d4rl import TASKS
from mfql.envs.isolated import reset_env
from mfql.suites import make_env


def _placement(base) -> dict[str, np.ndarray]:
    """What D4RL's files say of an episode's placement, in the present state."""
    names = list(base.recorded)
    if "infos/obj_pos" in names:
        return {"infos/obj_pos": base.data.body("Object").xpos.copy(), "infos/target_pos": base.placement[1]}
    return dict(zip(names, base.placement, strict=True))


def write_rollouts(folder: Path, task: str, episodes: int, steps: int, seed: int = 0) -> Path:
    """Record `{task}.hdf5`: episodes of random actions, each with a time-out after `steps` unless it ends before.

    Rewards are D4RL's own, without this project's shift.
    """
    env = make_env(task)
    base = env.unwrapped
    draw = np.random.default_rng(seed)
    rows: dict[str, list] = {}

    def record(**values) -> None:
        for name, value in values.items():
            rows.setdefault(name.replace("infos_", "infos/"), []).append(value)

    for episode in range(episodes):
        observation, _ = reset_env(env, seed * 1000 + episode)
        for step in range(steps):
            action = draw.uniform(-1, 1, TASKS[task].action_dim).astype(np.float32)
            record(
                observations=observation.astype(np.float32),
                actions=action,
                infos_qpos=base.data.qpos.copy(),
                infos_qvel=base.data.qvel.copy(),
                **_placement(base),
            )
            observation, reward, terminated, _, _ = env.step(action)
            ended = terminated or step == steps - 1
            record(
                rewards=np.float32(reward - TASKS[task].reward_shift),
                terminals=terminated,
                timeouts=ended and not terminated,
            )
            if ended:
                break
    path = folder / f"{task}.hdf5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            file.create_dataset(name, data=np.array(values))
    return path
