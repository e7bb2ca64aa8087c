"""What OGBench's files record of their simulator, and today's simulator put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from mfql.data.description import REPLACE
from mfql.data.npz import check_arrays
from mfql.data.opening import content_of, open_npz
from mfql.data.replay import Recording
from mfql.envs.isolated import Isolated, reset_env
from mfql.envs.ogbench import make_task
from mfql.errors import UserError


def recording(path: Path, task: str) -> Recording:
    """A file of OGBench's layout: joints before each step, and the buttons' states where there are buttons.

    Args:
        path: of the training file.
        task: a task in its environment without pixels, which play no part.

    Raises:
        UserError: the file is absent, damaged, or without recorded states.
    """
    env = make_task(task)
    try:
        return _recording(path, env)
    except UserError:
        env.close()
        raise


def _recording(path: Path, env: Isolated) -> Recording:
    reset_env(env, 0)
    base = env.base
    actions = tuple(env.action_space.shape or ())
    shapes: dict[str, tuple[int, ...]] = {"qpos": (base.model.nq,), "qvel": (base.model.nv,), "actions": actions}
    shapes["terminals"] = ()
    if has_buttons := hasattr(base, "_cur_button_states"):
        shapes["button_states"] = base._cur_button_states.shape
    check_arrays(path, shapes, "Its recorded states are needed, which OGBench's own files have. " + REPLACE)
    with content_of(path, "is damaged", REPLACE), open_npz(path) as file:
        found = {name: file[name] for name in shapes}
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

    def begin(row: int) -> tuple[Isolated, np.ndarray]:
        reset_env(env, 0)  # Places the task's goal, which is no part of the state.
        with env.in_turn():
            _set_joints(base, found["qpos"][row], found["qvel"][row], lagging=False)
            return env, np.asarray(base.get_ob())

    # Of a manipulation environment the state has more than the joints, and a maze that teleports no longer does.
    whole = hasattr(base, "get_ob") and getattr(base, "_teleport_info", None) is None
    ended, left_out = found["terminals"].astype(bool), _teleported(base, found["qpos"])
    return Recording(arrays, ended, left_out, step, env.close, begin if whole else None)


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
