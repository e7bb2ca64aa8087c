"""D4RL's own task classes, run on the state of one of this project's simulations.

The package cannot be imported on a current stack. Its task files can be run alone once the modules that they name are
stood in for by empty ones: what they compute of a simulator's state is plain numpy.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from mfql.envs.d4rl_package import package_folder
from mfql.envs.d4rl_simulation import Simulation

_PEN_AND_OTHERS = {"pen": "PenEnvV0", "hammer": "HammerEnvV0", "door": "DoorEnvV0", "relocate": "RelocateEnvV0"}
_MAZES = {"umaze": "U_MAZE_TEST", "medium": "BIG_MAZE_TEST", "large": "HARDEST_MAZE_TEST"}


def _empty_modules() -> dict[str, ModuleType]:
    """The modules that D4RL's task files import, without content; the package itself without its `__init__`."""
    names = ("gym", "gym.envs", "gym.envs.mujoco", "mjrl", "mjrl.envs", "mujoco_py", "d4rl")
    modules = {name: ModuleType(name) for name in names}

    class Env:
        pass

    class EzPickle:
        pass

    mujoco_env = SimpleNamespace(MujocoEnv=type("MujocoEnv", (), {}))
    modules["gym"].__dict__.update(
        Env=Env, utils=SimpleNamespace(EzPickle=EzPickle), spaces=None, error=None, make=None
    )
    for name, attributes in {"gym.utils": {"seeding": None}, "gym.spaces": {"Box": None, "Discrete": None}}.items():
        modules[name] = ModuleType(name)
        modules[name].__dict__.update(attributes)
    modules["gym.envs.mujoco"].__dict__["mujoco_env"] = mujoco_env
    modules["mjrl.envs"].__dict__["mujoco_env"] = mujoco_env
    modules["mujoco_py"].__dict__.update(MjViewer=None, get_version=lambda: "2.1")
    modules["d4rl"].__path__ = [str(package_folder())]
    for part in ("locomotion", "hand_manipulation_suite"):
        modules[f"d4rl.{part}"] = ModuleType(f"d4rl.{part}")
        modules[f"d4rl.{part}"].__path__ = [str(package_folder() / part)]
    offline = ModuleType("d4rl.offline_env")
    offline.__dict__["OfflineEnv"] = type("OfflineEnv", (), {})
    modules["d4rl.offline_env"] = offline
    modules["d4rl"].__dict__["offline_env"] = offline
    return modules


@contextmanager
def _standing_in():
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name.split(".")[0] in ("gym", "mjrl", "d4rl", "mujoco_py")]:
        del sys.modules[name]
    sys.modules.update(_empty_modules())
    try:
        yield
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
        sys.modules.update(before)


def _import(name: str) -> ModuleType:
    with _standing_in():
        return importlib.import_module(name)


def _as_mujoco_py(simulation: Simulation) -> tuple[Any, Any]:
    """Model and data under the names that mujoco-py gives them."""
    model, data = simulation.model, simulation.data
    kinds = {"body": "body", "site": "site", "actuator": "actuator", "joint": "joint", "sensor": "sensor"}
    lookups = {f"{kind}_name2id": (lambda name, kind=kind: getattr(model, kind)(name).id) for kind in kinds}
    arrays = {name: getattr(data, name) for name in ("qpos", "qvel", "site_xpos", "sensordata", "cfrc_ext")}
    fields = {name: getattr(model, name) for name in ("body_pos", "body_quat", "site_pos", "jnt_dofadr")}
    return SimpleNamespace(**fields, **lookups), SimpleNamespace(**arrays, body_xpos=data.xpos, body_xquat=data.xquat)


def original_adroit(simulation: Simulation, scene: str) -> Any:
    """D4RL's task on a simulation's state; its `step` computes, and moves nothing."""
    module = _import(f"d4rl.hand_manipulation_suite.{scene}_v0")
    task = object.__new__(getattr(module, _PEN_AND_OTHERS[scene]))
    task.model, task.data = _as_mujoco_py(simulation)
    task.sim = SimpleNamespace(model=task.model, data=task.data, forward=lambda: None)
    task.do_simulation = lambda action, frames: None
    task.frame_skip, task.act_mid, task.act_rng = 5, 0.0, 1.0
    body, site = task.model.body_name2id, task.model.site_name2id
    if scene == "pen":
        task.target_obj_bid, task.obj_bid = body("target"), body("Object")
        task.eps_ball_sid = site("eps_ball")
        task.obj_t_sid, task.obj_b_sid = site("object_top"), site("object_bottom")
        task.tar_t_sid, task.tar_b_sid = site("target_top"), site("target_bottom")
        xpos = task.data.site_xpos
        task.pen_length = np.linalg.norm(xpos[task.obj_t_sid] - xpos[task.obj_b_sid])
        task.tar_length = np.linalg.norm(xpos[task.tar_t_sid] - xpos[task.tar_b_sid])
    elif scene == "hammer":
        task.target_obj_sid, task.S_grasp_sid, task.obj_bid = site("S_target"), site("S_grasp"), body("Object")
        task.tool_sid, task.goal_sid = site("tool"), site("nail_goal")
    elif scene == "door":
        task.door_hinge_did = task.model.jnt_dofadr[task.model.joint_name2id("door_hinge")]
        task.grasp_sid, task.handle_sid, task.door_bid = site("S_grasp"), site("S_handle"), body("frame")
    else:
        task.target_obj_sid, task.S_grasp_sid, task.obj_bid = site("target"), site("S_grasp"), body("Object")
    return task


def original_antmaze(simulation: Simulation, scene: str) -> Any:
    """D4RL's maze on a simulation's state; its `step` computes, and moves nothing."""
    ant, maze = _import("d4rl.locomotion.ant"), _import("d4rl.locomotion.maze_env")
    task = object.__new__(ant.AntMazeEnv)
    task.model, task.data = _as_mujoco_py(simulation)
    task.sim = SimpleNamespace(data=task.data)
    task.do_simulation = lambda action, frames: None
    task.get_body_com = lambda name: simulation.data.body(name).xpos
    task.state_vector = lambda: np.concatenate([task.data.qpos, task.data.qvel])
    task.frame_skip, task.dt, task.eval, task.reward_type = 5, 0.1, True, "sparse"
    task._expose_all_qpos, task._expose_body_coms, task._expose_body_comvels = True, None, None
    task._maze_map, task._maze_size_scaling, task._manual_collision = getattr(maze, _MAZES[scene]), 4.0, False
    task._init_torso_x, task._init_torso_y = task._find_robot()
    task._goal = task.target_goal = np.zeros(2)
    return task
