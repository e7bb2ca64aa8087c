"""What the correction of contact margins does to an ant: policies and a scripted walker, scored in both physics.

The walker moves its legs by a sinusoid and steers by which leg does what. In D4RL's U-maze it records two datasets, one
with the correction (`mfql/envs/physics.py`) and one without it; of each, `mfql train` makes policies. Episodes of the
same starts are then run in both physics. Intervals are the report's, of the difference paired by seed.
`docs/d4rl.md` shows what this prints: `python -m benchmarks.ant_physics FOLDER`; the folder gets datasets and runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

from mfql import cli
from mfql.data.description import describe
from mfql.data.layouts import D4RL
from mfql.envs import physics
from mfql.envs.d4rl import TASKS
from mfql.envs.isolated import reset_env
from mfql.evaluation.evaluate import evaluate
from mfql.report.intervals import Group, weighted
from mfql.suites import make_env, split_paths

TASK = "antmaze-umaze-v2"
METHOD = "bc-quickstart+offline_steps=10000+eval_interval=10000+eval_episodes=1"
SEEDS = range(8)
RECORDED, NOISE = 400, 0.3
SCORED = 100  # episodes a seed
WALKED = range(1000, 1200)  # seeds of the walker's scored episodes
SAME, NUDGE = 50, 1e-6  # steps, radians
SECONDS = 0.1  # a step
SUCCESS = "success, %"

LEGS = np.pi / 4 + np.pi / 2 * np.arange(4)  # directions, in the body's frame
DOWN = np.array([1.0, -1.0, -1.0, 1.0])  # the sign of an ankle's angle that lowers the foot
ACTUATED = [3, 0, 1, 2]  # the legs in the order of actuators

# Found by a cross-entropy search for the longest way of 60 steps, in the corrected physics.
FREQUENCY, SWING, BEND, LIFT, LIFT_PHASE, REACH = 7.7, 0.75, 0.7, 0.3, 0.8, -0.4
STIFFNESS, DAMPING = 2.7, 0.2


def gait(phase: float, heading: float, joints: np.ndarray, speeds: np.ndarray) -> np.ndarray:
    """The action [8] that walks towards `heading`.

    Diagonal legs move together. A leg across the heading swings at its hip, one along it reaches with its ankle; so a
    heading turned by 90 degrees, half a period later, has each leg do what its neighbour did.

    Args:
        phase: of the first leg, radians.
        heading: in the body's frame, radians.
        joints: angles [8], hip and ankle a leg, radians.
        speeds: of the joints [8].
    """
    cycle = phase + np.pi * np.array([0, 1, 0, 1])
    hip = -SWING * np.sin(heading - LEGS) * np.cos(cycle)
    ankle = BEND + LIFT * np.cos(cycle + LIFT_PHASE) - REACH * np.cos(heading - LEGS) * np.cos(cycle)
    mirror = np.stack([np.ones(4), DOWN], axis=1)
    wanted = np.stack([hip, ankle], axis=1)
    force = STIFFNESS * (wanted - mirror * joints.reshape(4, 2)) - DAMPING * mirror * speeds.reshape(4, 2)
    return np.clip((mirror * force)[ACTUATED].ravel(), -1.0, 1.0)


def towards(position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The point [2] to walk to from a position [2] in the U-maze."""
    if position[1] < 2.0 and position[0] < 7.5:
        return np.array([8.0, 0.0])
    return np.array([8.0, 8.0]) if position[1] < 7.5 and position[0] > 6.0 else goal


def walk(env: Any, seed: int, noise: float = 0.0) -> dict[str, np.ndarray]:
    """The rows of one episode of the walker, in D4RL's layout and rewards.

    Args:
        env: the task's.
        seed: of the episode, the gait's first phase and the noise.
        noise: standard deviation of what is added to its actions.
    """
    draw = np.random.default_rng(seed)
    observation, _ = reset_env(env, seed)
    phase, ended, rows = draw.uniform(0, 2 * np.pi), False, []
    while not ended:
        position, (w, x, y, z) = observation[:2], observation[3:7]
        way = towards(position, env.unwrapped.goal) - position
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y**2 + z**2))
        action = gait(phase, np.arctan2(way[1], way[0]) - yaw, observation[7:15], observation[21:])
        action = np.clip(action + noise * draw.standard_normal(8), -1.0, 1.0).astype(np.float32)
        state = {"observations": observation, "infos/qpos": observation[:15], "infos/qvel": observation[15:]}
        observation, reward, terminated, truncated, _ = env.step(action)
        own = float(reward) - TASKS[TASK].reward_shift
        rows.append({**state, "actions": action, "rewards": own, "terminals": terminated, "timeouts": truncated})
        phase, ended = phase + FREQUENCY * SECONDS, terminated or truncated
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def record(folder: Path) -> None:
    """Write the task's dataset into a folder: noisy episodes of the walker."""
    env = make_env(TASK)
    episodes = [walk(env, seed, NOISE) for seed in range(RECORDED)]
    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{TASK}.hdf5", "w") as file:
        for name in episodes[0]:
            file[name] = np.concatenate([rows[name] for rows in episodes])
    describe(folder, TASK, split_paths(folder, TASK), D4RL, "generated", 0)


def train(folder: Path) -> list[Path]:
    """Train on the dataset in `folder/data`; returns the run's folder of each seed."""
    results = folder / "results"
    chosen = {"--method": METHOD, "--task": TASK, "--stage": "offline", "--data": folder / "data", "--results": results}
    here = {"--device": "cpu", "--threads": 1, "--workers": 0, "--compile": "off"}
    options = [str(part) for option in (chosen | here).items() for part in option]
    if cli.main(["train", *options, "--seeds", *map(str, SEEDS), "--no-progress"]):
        raise SystemExit("training failed")
    return [results / "runs" / METHOD / TASK / f"seed{seed}" / "offline" for seed in SEEDS]


def score(world: str, folder: Path, runs: dict[str, list[Path]]) -> dict[str, np.ndarray]:
    """What is found in the present physics, [runs, episodes of each] by what it is.

    Args:
        world: names the physics.
        folder: gets the policies' episodes.
        runs: of policies, by the physics of their data.
    """
    found = {}
    for data, paths in runs.items():
        each = [
            evaluate(path, SCORED, folder / data / f"seed{seed}-{world}.json", None, workers=0)["each"]
            for seed, path in zip(SEEDS, paths, strict=True)
        ]
        found[f"policy of {data} data: {SUCCESS}"] = 100 * np.array([one["success"] for one in each])
        found[f"policy of {data} data: steps"] = np.array([one["length"] for one in each])
    env = make_env(TASK)
    walks = [walk(env, seed) for seed in WALKED]
    found[f"walker: {SUCCESS}"] = 100.0 * np.array([rows["terminals"][-1:] for rows in walks])
    found["walker: steps"] = np.array([[len(rows["rewards"])] for rows in walks])
    return found


def reached(actions: list[np.ndarray], nudge: float = 0.0) -> np.ndarray:
    """Where each list of actions [steps, 8] takes the ant of its episode, [episodes, 2] from its start.

    Args:
        actions: of each episode of `WALKED`.
        nudge: radians by which a hip is turned at the start.
    """
    env: Any = make_env(TASK)
    found = []
    for seed, series in zip(WALKED, actions, strict=True):
        start = observation = reset_env(env, seed)[0]
        env.unwrapped.data.qpos[7] += nudge
        for action in series:
            observation = env.step(action)[0]
        found.append((observation - start)[:2])
    return np.array(found)


def row(name: str, before: np.ndarray, after: np.ndarray) -> str:
    """A row of the table: means, and their difference with its interval; both [runs, episodes of each]."""
    counts = [before.shape[1]] * len(before) if SUCCESS in name else None
    rise = weighted([Group.of_rises(before.mean(axis=1), after.mean(axis=1), counts, counts)], [1])
    cells = f"{before.size} | {before.mean():.4g} | {after.mean():.4g}"
    return f"| {name} | {cells} | {rise.value:+.2g} ({rise.low:+.2g} to {rise.high:+.2g}) |"


@contextmanager
def uncorrected() -> Iterator[None]:
    """Within the block models stay as the installed MuJoCo takes them."""
    with mock.patch.object(physics, "correct", return_value=None):
        yield


PHYSICS: dict[str, Callable[[], AbstractContextManager[None]]] = {"uncorrected": uncorrected, "corrected": nullcontext}


def main(folder: Path) -> None:
    """Record, train, score, print."""
    runs = {}
    for world, entered in PHYSICS.items():
        with entered():
            record(folder / world / "data")
        runs[world] = train(folder / world)
    env = make_env(TASK)
    actions = [walk(env, seed)["actions"][:SAME] for seed in WALKED]
    found, ends, nudged = {}, {}, reached(actions, NUDGE)
    for world, entered in PHYSICS.items():
        with entered():
            found[world], ends[world] = score(world, folder, runs), reached(actions)
        found[world][f"the same {SAME} actions: way, m"] = np.linalg.norm(ends[world], axis=1, keepdims=True)
    print("| what | episodes | uncorrected | corrected | difference, 95 % |")
    print("|---|---|---|---|---|")
    for name, before in found["uncorrected"].items():
        print(row(name, before, found["corrected"][name]))
    for what, other in (("the other physics", ends["uncorrected"]), (f"a hip {NUDGE:g} rad aside", nudged)):
        apart = np.median(np.linalg.norm(other - ends["corrected"], axis=1))
        print(f"The same {SAME} actions, {what}: {apart:.2g} m apart (median)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
