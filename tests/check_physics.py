"""Compare the project's models with recorded steps of an earlier MuJoCo: the tables of docs/physics.md.

    python tests/check_physics.py                    # a minute on one core
    python tests/check_physics.py --record FOLDER    # under an earlier MuJoCo: records such steps

`data/steps.npz` and `data/play_steps.npz` are of MuJoCo 3.3.2. To record anew, from the project's folder:

    python3.11 -m venv earlier && earlier/bin/pip install mujoco==3.3.2 dm-control==1.0.30 ogbench==1.2.2 pyyaml
    earlier/bin/pip install --no-deps d4rl==1.1
    PYTHONPATH=. earlier/bin/python tests/check_physics.py --record recorded

Of each scene, SCENE/qpos (qvel, act, ctrl, warmstart, and damping of the joints) is before and next_qpos after
SCENE/substeps calls of mj_step, one row a state. States come from random actions, and from the play collector, whose
drives are at their limits. Nothing is corrected there: an earlier MuJoCo has the data's physics by itself.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import mujoco
import numpy as np

from mfql.data.collect_manipulation import ManipulationCollector
from mfql.envs import d4rl_adroit, d4rl_antmaze, physics
from mfql.envs.isolated import reset_env
from mfql.suites import make_env

RECORDED = Path(__file__).parent / "data" / "steps.npz"
PLAYED = Path(__file__).parent / "data" / "play_steps.npz"
# Of OGBench's scenes a task that has it.
TASKS = {
    "ogbench/antmaze-large": "antmaze-large-navigate-singletask-task1-v0",
    "ogbench/antsoccer-arena": "antsoccer-arena-navigate-singletask-task4-v0",
    "ogbench/humanoidmaze-medium": "humanoidmaze-medium-navigate-singletask-task1-v0",
    "ogbench/cube-double": "cube-double-play-singletask-task2-v0",
    "ogbench/scene": "scene-play-singletask-task2-v0",
    "ogbench/puzzle-4x4": "puzzle-4x4-play-singletask-task4-v0",
}
D4RL_SUBSTEPS = 5
OF_THE_DATA = {"margin_rule": "larger", "drive_rule": "kept", "convex_rule": "one"}
# Steps that states are taken from.
WALK, PLAY = 150, 200


@cache
def recorded(path: Path = RECORDED) -> dict[str, dict[str, np.ndarray]]:
    """The arrays of each recorded scene."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path) as arrays:
        for key in arrays.files:
            if key.count("/") == 2:
                scene, name = key.rsplit("/", 1)
                found.setdefault(scene, {})[name] = arrays[key]
    return found


def model_of(scene: str) -> mujoco.MjModel:
    """As the project simulates the scene."""
    if scene in TASKS:
        env = make_env(TASKS[scene])
        reset_env(env, 0)
        return env.base.model
    name = scene.removeprefix("d4rl/")
    return d4rl_antmaze.compile_model(name).model if name == "umaze" else d4rl_adroit.compile_model(name)


def errors(model: mujoco.MjModel, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Of each recorded step the root mean square error over qpos (m, rad), [rows]."""
    data, found = mujoco.MjData(model), []
    for row in range(len(rows["qpos"])):
        mujoco.mj_resetData(model, data)
        if "damping" in rows:
            model.dof_damping[:] = rows["damping"][row]
        data.qpos[:], data.qvel[:], data.act[:] = rows["qpos"][row], rows["qvel"][row], rows["act"][row]
        data.ctrl[:], data.qacc_warmstart[:] = rows["ctrl"][row], rows["warmstart"][row]
        mujoco.mj_step(model, data, nstep=int(rows["substeps"]))
        found.append(np.sqrt(np.mean((data.qpos - rows["next_qpos"][row]) ** 2)))
    return np.array(found)


@contextmanager
def uncorrected(*rules: str) -> Iterator[None]:
    """Within the block, what these rules are of stays as the installed MuJoCo has it."""
    with ExitStack() as patches:
        for rule in rules:
            patches.enter_context(mock.patch.object(physics, rule, return_value=OF_THE_DATA[rule]))
        yield


def table(path: Path, columns: dict[str, tuple[str, ...]]) -> None:
    """Print median and 95 % of each scene's errors, by what is not corrected, and what a step moves."""
    print(f"\n| scene | {' | '.join(columns)} | step |\n|---|{'---|' * len(columns)}---|")
    for scene, rows in recorded(path).items():
        cells = []
        for rules in columns.values():
            with uncorrected(*rules):
                found = errors(model_of(scene), rows)
            cells.append(", ".join(f"{np.quantile(found, share):.1e}".replace("e-0", "e-") for share in (0.5, 0.95)))
        moved = np.sqrt(np.mean((rows["next_qpos"] - rows["qpos"]) ** 2, axis=1))
        print(f"| {scene} | {' | '.join(cells)} | {np.median(moved):.2g} |", flush=True)


def stepped(model: mujoco.MjModel, data: mujoco.MjData, substeps: int) -> dict[str, np.ndarray]:
    """A state with its controls, and what a step on a copy of it comes to."""
    after = copy.copy(data)
    mujoco.mj_step(model, after, nstep=substeps)
    row = {"qpos": data.qpos, "qvel": data.qvel, "act": data.act, "ctrl": data.ctrl, "warmstart": data.qacc_warmstart}
    row |= {"damping": model.dof_damping, "next_qpos": after.qpos, "substeps": np.array(substeps)}
    return {name: values.copy() for name, values in row.items()}


def stepped_env(base: Any) -> dict[str, np.ndarray]:
    """The same of an OGBench environment."""
    substeps = getattr(base, "frame_skip", None) or round(base._control_timestep / base._physics_timestep)
    return stepped(base.model, base.data, substeps)


def walk(scene: str) -> list[dict[str, np.ndarray]]:
    """Steps after random actions or, in D4RL's models, controls."""
    rng, rows = np.random.default_rng(0), []
    if scene in TASKS:
        env = make_env(TASKS[scene])
        reset_env(env, 0)
        for _ in range(WALK):
            env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32))
            rows.append(stepped_env(env.base))
        return rows
    model = model_of(scene)
    data = mujoco.MjData(model)
    for _ in range(WALK):
        data.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T)
        mujoco.mj_step(model, data, nstep=D4RL_SUBSTEPS)
        rows.append(stepped(model, data, D4RL_SUBSTEPS))
    return rows


def play(scene: str) -> list[dict[str, np.ndarray]]:
    """The steps of an episode of the play collector, each from where its action has set the controls."""
    collector, rows = ManipulationCollector(f"{scene.removeprefix('ogbench/')}-v0", "play", PLAY), []
    base, set_control = collector.env.base, collector.env.base.set_control

    def watched(action: np.ndarray) -> None:
        set_control(action)
        rows.append(stepped_env(base))

    with mock.patch.object(base, "set_control", watched):
        collector.episode(np.random.default_rng(0))
    return rows[-PLAY:]


def record(path: Path, scenes: Iterable[str], steps: Callable[[str], list[dict[str, np.ndarray]]], every: int) -> None:
    """Write each so many'th of the scenes' steps, as the installed MuJoCo computes them."""
    found = {"version": np.array(mujoco.__version__)}
    for scene in scenes:
        rows = steps(scene)[::every]
        found |= {f"{scene}/{name}": np.array([row[name] for row in rows]) for name in rows[0]}
        found[f"{scene}/substeps"] = rows[0]["substeps"]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **found)


def main() -> None:
    """Print the tables, or record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="write steps.npz and play_steps.npz there")
    parser.add_argument("--folder", type=Path, default=RECORDED.parent, help="of the two files to compare with")
    options = parser.parse_args()
    if options.record:
        record(options.record / RECORDED.name, recorded(), walk, 3)
        record(options.record / PLAYED.name, recorded(PLAYED), play, 5)
        return
    every = tuple(OF_THE_DATA)
    print(f"MuJoCo {mujoco.__version__}; root mean square error over qpos, median and 95 %, and what a step moves")
    table(options.folder / RECORDED.name, {"uncorrected": every, "corrected": ()})
    alone = ("margin_rule", "convex_rule")
    table(options.folder / PLAYED.name, {"uncorrected": every, "drives alone": alone, "corrected": ()})


if __name__ == "__main__":
    main()
