"""Cubes, scene and puzzles: scripted oracles that pursue one random target after another, as in OGBench's datasets."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from mfql.envs.ogbench import isolated

PLAN_NOISE = 0.1
PLAN_SMOOTHING = 0.5
MARKOV_MIN_NORM = 0.4
ACTION_NOISE = 0.1
ACTION_NOISE_SCALE = np.array([1.0, 1.0, 1.0, 3.0, 10.0])
RANDOM_ACTIONS = {"cube": 0.1, "scene": 0.1, "puzzle": 0.2}
STACKING = {
    "cube-single": (0.0, 0.0),
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
    "cube-quadruple": (0.1, 0.5),
}
STACKING_ELSEWHERE = (0.5, 0.5)


class ManipulationCollector:
    """Collects episodes of one manipulation dataset.

    Args:
        environment: a gymnasium name such as `cube-single-v0` or `visual-scene-v0`.
        kind: `play` (oracles that follow a plan) or `noisy` (Markov oracles with noisy and random actions).
        steps: rows an episode.
    """

    def __init__(self, environment: str, kind: str, steps: int) -> None:
        self.env = isolated(
            lambda: gymnasium.make(
                environment,
                terminate_at_goal=False,
                mode="data_collection",
                max_episode_steps=steps,
                disable_env_checker=True,
            ),
            environment,
        )
        self.kind = kind
        self.steps = steps
        body = environment.removeprefix("visual-").removesuffix("-v0")
        self.family = body.split("-")[0]
        self.stacking = STACKING.get(body, STACKING_ELSEWHERE)
        self.random_actions = RANDOM_ACTIONS[self.family] if kind == "noisy" else 0.0
        self.pixels = environment.startswith("visual-")
        self.oracles = _oracles(self.env, self.family, kind)

    def episode(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One episode, a pure function of `rng`'s state; a scene whose cube left the table is tried again.

        Returns:
            observations (float32, or uint8 for pixels), actions, qpos, qvel (float32), terminals (bool), and
            button_states (int64) where there are buttons, each [steps, ...].
        """
        while True:
            episode = self._attempt(rng)
            if self.family != "scene" or cube_stays_visible(episode["qpos"][:, 14:17]):
                return episode

    def _attempt(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        observation, info = self.env.reset(seed=int(rng.integers(2**32)))
        stacking = rng.uniform(*self.stacking)
        noise = rng.uniform(0.0, ACTION_NOISE) * ACTION_NOISE_SCALE if self.kind == "noisy" else np.zeros(5)
        oracle = self._start(observation, info)
        rows: dict[str, list[Any]] = {"observations": [], "actions": [], "qpos": [], "qvel": [], "button_states": []}
        for _ in range(self.steps):
            if rng.random() < self.random_actions:
                action = rng.uniform(-1.0, 1.0, size=5)
            else:
                action = oracle.select_action(observation, info) + noise * rng.normal(size=5)
            action = np.clip(action, -1.0, 1.0)
            following, _, _, truncated, info = self.env.step(action)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["qpos"].append(info["prev_qpos"])
            rows["qvel"].append(info["prev_qvel"])
            if "prev_button_states" in info:
                rows["button_states"].append(info["prev_button_states"])
            observation = following
            if oracle.done:
                oracle = self._start(*self.env.base.set_new_target(p_stack=stacking))
        if not truncated:
            raise RuntimeError(f"the episode goes on after {self.steps} steps")
        return self._arrays(rows)

    def _start(self, observation: np.ndarray, info: dict[str, Any]) -> Any:
        """The oracle of the target's kind, started from the present state."""
        oracle = self.oracles[info["privileged/target_task"]]
        with self.env.in_turn():
            oracle.reset(observation, info)
        return oracle

    def _arrays(self, rows: dict[str, list[Any]]) -> dict[str, np.ndarray]:
        types: dict[str, type[np.generic]] = dict.fromkeys(rows, np.float32) | {"button_states": np.int64}
        if self.pixels:
            types["observations"] = np.uint8
        arrays = {name: np.asarray(values, dtype=types[name]) for name, values in rows.items() if values}
        return arrays | {"terminals": np.arange(self.steps) == self.steps - 1}


def cube_stays_visible(positions: np.ndarray) -> bool:
    """Whether a scene's cube, at `positions` [T, 3] in metres, never left the table other than into the drawer.

    Elsewhere than in the drawer a goal image would not show it.
    """
    y, z = positions[:, 1], positions[:, 2]
    too_far_left = (y <= -0.3) & ((z < 0.06) | (z > 0.08))
    return not (np.any(y >= 0.29) or np.any(too_far_left))


def _oracles(env: Any, family: str, kind: str) -> dict[str, Any]:
    """The oracle of each kind of target that the environment sets."""
    return (_plan_oracles if kind == "play" else _markov_oracles)(env, family)


def _plan_oracles(env: Any, family: str) -> dict[str, Any]:
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    common = {"env": env, "noise": PLAN_NOISE, "noise_smoothing": PLAN_SMOOTHING}
    if family == "cube":
        return {"cube": CubePlanOracle(**common)}
    if family == "puzzle":
        return {"button": ButtonPlanOracle(**common, gripper_always_closed=True)}
    return {
        "cube": CubePlanOracle(**common),
        "button": ButtonPlanOracle(**common),
        "drawer": DrawerPlanOracle(**common),
        "window": WindowPlanOracle(**common),
    }


def _markov_oracles(env: Any, family: str) -> dict[str, Any]:
    from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
    from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

    common = {"env": env, "min_norm": MARKOV_MIN_NORM}
    if family == "cube":
        return {"cube": CubeMarkovOracle(**common)}
    if family == "puzzle":
        return {"button": ButtonMarkovOracle(**common, gripper_always_closed=True)}
    return {
        "cube": CubeMarkovOracle(**common, max_step=100),
        "button": ButtonMarkovOracle(**common),
        "drawer": DrawerMarkovOracle(**common),
        "window": WindowMarkovOracle(**common),
    }
