"""What D4RL's simulated tasks have in common: a MuJoCo model, five physics steps an action, a state that can be set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

_FRAME_SKIP = 5
_FRAME = (256, 256)  # pixels, height and width


class Simulation(gymnasium.Env[np.ndarray, np.ndarray], ABC):
    """A task on a MuJoCo model; several of one thread may share it, since each writes its own placement before it runs.

    Positions of bodies and sites in observations and rewards are those that the last physics step began with: like
    D4RL, an environment does not bring them up to the joint positions that the step ended with.

    Args:
        model: the compiled model.
        moved: views into arrays of `model` that an episode places anew (where the door stands, say).

    Attributes:
        model, data: MuJoCo's.
        placement: the values of the moved parts in this episode, one array a view.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (gymnasium declares it so)
    render_mode = "rgb_array"
    # Arrays of a D4RL file that say how an episode was placed, and their rows' lengths; see `recorded_placement`.
    recorded: Mapping[str, int] = MappingProxyType({})
    # Of the camera: degrees, metres, and the point that it looks at.
    azimuth, elevation, distance = 90.0, -45.0, 1.5
    lookat: tuple[float, float, float] = (0.0, -0.1, 0.2)

    def __init__(self, model: mujoco.MjModel, moved: list[np.ndarray]) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self._moved = moved
        self.placement = [view.copy() for view in moved]
        self._renderer: mujoco.Renderer | None = None
        mujoco.mj_forward(model, self.data)
        self.observation_space = Box(-np.inf, np.inf, self.observation().shape, np.float64)
        self.action_space = Box(-1.0, 1.0, (model.nu,), np.float32)

    @abstractmethod
    def draw(self) -> None:
        """Draw the start of an episode from `np_random`: placement, joint positions, velocities."""

    @abstractmethod
    def observation(self) -> np.ndarray:
        """The observation [D] of the present state."""

    @abstractmethod
    def judge(self) -> tuple[float, bool, bool]:
        """Reward of the present state, whether the goal is achieved in it, and whether it ends the episode."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; all that it draws follows from the seed."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.draw()
        self._place()
        mujoco.mj_forward(self.model, self.data)
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Hold an action [A] in [-1, 1], mapped to the actuators' ranges, for five physics steps."""
        self._place()
        low, high = self.model.actuator_ctrlrange.T
        self.data.ctrl[:] = (low + high) / 2 + np.clip(action, -1.0, 1.0) * (high - low) / 2
        mujoco.mj_step(self.model, self.data, nstep=_FRAME_SKIP)
        reward, success, terminated = self.judge()
        return self.observation(), reward, terminated, False, {"success": float(success)}

    def recorded_placement(self, qpos: np.ndarray, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The placement of an episode from the row of a D4RL file that it starts with.

        Args:
            qpos: that row's joint positions [nq].
            arrays: that row of each array of `recorded`.
        """
        return [arrays[name] for name in self.recorded]

    def set_state(self, qpos: np.ndarray, qvel: np.ndarray, placement: list[np.ndarray]) -> np.ndarray:
        """Put the simulation into a state and return its observation.

        Args:
            qpos: joint positions [nq].
            qvel: joint velocities [nv].
            placement: as the attribute.
        """
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = qpos, qvel
        self.placement = [np.asarray(values, dtype=np.float64) for values in placement]
        self._place()
        mujoco.mj_forward(self.model, self.data)
        return self.observation()

    def _place(self) -> None:
        for view, values in zip(self._moved, self.placement, strict=True):
            view[:] = values

    def render(self) -> np.ndarray:
        """A frame [H, W, 3] uint8."""
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, *_FRAME)
        self._place()
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(self.model, camera)
        camera.lookat[:] = self.lookat
        camera.azimuth, camera.elevation, camera.distance = self.azimuth, self.elevation, self.distance
        self._renderer.update_scene(self.data, camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free what rendering holds."""
        if self._renderer is not None:
            self._renderer.close()
        self._renderer = None
