"""Pixel observations: off-screen rendering without a display, and the last frames stacked."""

from __future__ import annotations

import importlib
import os
import sys
from ctypes.util import find_library
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

# Frames of an observation, the present one last.
FRAMES = 3
# The remedy where nothing can be rendered.
NO_RENDERER = (
    "Install EGL (NVIDIA's driver has it; for software rendering, Debian's libegl1 and libgl1-mesa-dri), or set"
    " MUJOCO_GL to egl or osmesa, whichever this machine has, before starting."
)


def choose_renderer() -> None:
    """Have MuJoCo render off-screen where there is no display, unless MUJOCO_GL already says how.

    Raises:
        ImportError: the library that renders is there but does not work.
    """
    if "MUJOCO_GL" in os.environ or os.environ.get("DISPLAY"):
        return
    for library, backend in (("EGL", "egl"), ("OSMesa", "osmesa")):
        if find_library(library):
            os.environ["MUJOCO_GL"] = backend
            # MuJoCo reads the variable when it is imported. Left as it was, its default would end the process.
            if chosen := sys.modules.get("mujoco.rendering.classic.gl_context"):
                importlib.reload(chosen)
            return


class StackedFrames(gymnasium.Wrapper):
    """Observations of the last `FRAMES` images [H, W, FRAMES * C], at an episode's start its first image repeated."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        space: Any = env.observation_space
        low, high = (np.tile(bound, (1, 1, FRAMES)) for bound in (space.low, space.high))
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=space.dtype)
        self._frames: tuple[np.ndarray, ...] = ()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode."""
        frame, info = self.env.reset(seed=seed, options=options)
        self._frames = (frame,) * FRAMES
        return self._stacked(), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        """One step."""
        frame, reward, terminated, truncated, info = self.env.step(action)
        self._frames = (*self._frames[1:], frame)
        return self._stacked(), reward, terminated, truncated, info

    def _stacked(self) -> np.ndarray:
        return np.concatenate(self._frames, axis=-1)
