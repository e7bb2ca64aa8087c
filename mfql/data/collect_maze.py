"""Point mazes: an oracle that walks the shortest path, with noise, as in OGBench's locomotion datasets."""

from __future__ import annotations

import gymnasium
import numpy as np

from mfql.envs.ogbench import isolated

ACTION_NOISE = 0.5
STITCH_DISTANCE = 4
_NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))

Cell = tuple[int, int]


class MazeCollector:
    """Collects episodes of one point-maze dataset.

    Args:
        environment: a gymnasium name such as `pointmaze-medium-v0`.
        kind: `navigate` (a new goal at each success) or `stitch` (one goal, four cells from the start).
        steps: rows an episode.
    """

    def __init__(self, environment: str, kind: str, steps: int) -> None:
        self.env = isolated(
            lambda: gymnasium.make(
                environment, terminate_at_goal=False, max_episode_steps=steps, disable_env_checker=True
            ),
            environment,
        )
        self.maze = self.env.base
        self.kind = kind
        self.steps = steps
        self.free = free_cells(self.maze.maze_map)
        self.goals = [cell for cell in self.free if not is_corridor(self.maze.maze_map, cell)]
        self._subgoals: dict[tuple[Cell, Cell], np.ndarray] = {}

    def episode(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One episode, a pure function of `rng`'s state.

        Returns:
            observations, actions, qpos, qvel (float32) and terminals (bool), each [steps, ...].
        """
        start = _pick(self.free, rng)
        goals = self.goals
        if self.kind == "stitch":
            goals = cells_at(self.maze.maze_map, start, STITCH_DISTANCE) or [start]
        task = {"init_ij": start, "goal_ij": _pick(goals, rng)}
        observation, _ = self.env.reset(seed=int(rng.integers(2**32)), options={"task_info": task})
        noise = rng.normal(0.0, ACTION_NOISE, size=(self.steps, 2))
        rows: dict[str, list[np.ndarray]] = {"observations": [], "actions": [], "qpos": [], "qvel": []}
        for step in range(self.steps):
            action = np.clip(self._direction() + noise[step], -1.0, 1.0)
            following, _, _, truncated, info = self.env.step(action)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["qpos"].append(info["prev_qpos"])
            rows["qvel"].append(info["prev_qvel"])
            observation = following
            if info["success"] and self.kind == "navigate":
                self._set_goal(_pick(self.goals, rng))
        if not truncated:
            raise RuntimeError(f"the episode goes on after {self.steps} steps")
        arrays = {name: np.asarray(values, dtype=np.float32) for name, values in rows.items()}
        return arrays | {"terminals": np.arange(self.steps) == self.steps - 1}

    def _direction(self) -> np.ndarray:
        """The unit vector to the next cell's centre on the shortest path to the goal."""
        position, goal = self.maze.get_xy(), self.maze.cur_goal_xy
        cells = self.maze.xy_to_ij(position), self.maze.xy_to_ij(goal)
        if cells not in self._subgoals:  # The oracle searches the whole maze, and sees the two cells alone.
            self._subgoals[cells], _ = self.maze.get_oracle_subgoal(position, goal)
        difference = self._subgoals[cells] - position
        return difference / (np.linalg.norm(difference) + 1e-6)

    def _set_goal(self, cell: Cell) -> None:
        with self.env.in_turn():
            self.maze.set_goal(goal_xy=self.maze.add_noise(self.maze.ij_to_xy(cell)))


def free_cells(maze: np.ndarray) -> list[Cell]:
    """The cells of a maze map (1 is a wall) that are no walls, row by row."""
    return [(int(i), int(j)) for i, j in np.argwhere(maze == 0)]


def is_corridor(maze: np.ndarray, cell: Cell) -> bool:
    """Whether a free cell has free cells on two opposite sides and walls on the other two."""
    up, left, down, right = (maze[cell[0] + di, cell[1] + dj] == 0 for di, dj in _NEIGHBOURS)
    return bool(up == down and left == right and up != left)


def cells_at(maze: np.ndarray, start: Cell, distance: int) -> list[Cell]:
    """The free cells whose shortest path from `start` has exactly `distance` steps."""
    seen, ring = {start}, [start]
    for _ in range(distance):
        reached = ((i + di, j + dj) for i, j in ring for di, dj in _NEIGHBOURS)
        ring = [cell for cell in dict.fromkeys(reached) if maze[cell] == 0 and cell not in seen]
        seen.update(ring)
    return ring


def _pick(cells: list[Cell], rng: np.random.Generator) -> Cell:
    return cells[int(rng.integers(len(cells)))]
