"""D4RL's AntMaze: an ant with eight joints walks to a goal that it is not shown. Lengths are metres.

After D4RL 1.1's environments of version 2: play and diverse share one environment, evaluation starts in one corner, and
each episode draws its goal anew around the opposite one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

import mujoco
import numpy as np

from mfql.envs import physics
from mfql.envs.d4rl_package import package_folder
from mfql.envs.d4rl_simulation import Simulation
from mfql.errors import UserError

# Walls #, the cell that the ant starts in S, the goal's cell G. Rows run along y, columns along x.
_MAPS = {
    "umaze": """
        #####
        #S..#
        ###.#
        #G..#
        #####""",
    "medium": """
        ########
        #S.##..#
        #..#...#
        ##...###
        #..#...#
        #.#..#.#
        #...#.G#
        ########""",
    "large": """
        ############
        #S...#.....#
        #.##.#.#.#.#
        #......#...#
        #.####.###.#
        #..#.#.....#
        ##.#.#.#.###
        #..#...#.G.#
        ############""",
}
_CELL = 4.0
_WALL_HEIGHT = 2.0
_GOAL_RADIUS = 0.5


def compile_model(scene: str) -> Maze:
    """The ant in the maze `umaze`, `medium` or `large`, with the data's physics; its starting cell is the origin.

    Raises:
        UserError: `d4rl` is not installed, its ant cannot be loaded, or its physics cannot be corrected.
    """
    path = package_folder() / "locomotion" / "assets" / "ant.xml"
    rows = _MAPS[scene].split()
    start, goal = _cell(rows, "S"), _cell(rows, "G")
    try:
        root = ElementTree.parse(path).getroot()
        world = root.find("worldbody")
        if world is None:
            raise ValueError("no worldbody")
        for y, row in enumerate(rows):
            for x in (x for x, cell in enumerate(row) if cell == "#"):
                _add_wall(world, (np.array([x, y]) - start) * _CELL)
        model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise UserError(f"the ant's model {path} cannot be loaded: {error}", "Reinstall d4rl==1.1.") from error
    physics.correct(model)
    size = np.array([len(rows[0]), len(rows)])
    return Maze(model, (goal - start) * _CELL, ((size - 1) / 2 - start) * _CELL, float(size.max()) * _CELL)


@dataclass(frozen=True)
class Maze:
    """A compiled maze: its model, the centre [2] of the goal's cell, the maze's centre [2] and its longer side."""

    model: mujoco.MjModel
    goal: np.ndarray
    centre: np.ndarray
    side: float


class AntMaze(Simulation):
    """Walk to the goal: reward 1 and the end within 0.5 of it, else 0.

    Attributes:
        goal: [2], of this episode; not observed.
    """

    elevation = -89.0

    def __init__(self, maze: Maze) -> None:
        self._goal_cell = maze.goal
        self.goal = maze.goal
        self.lookat, self.distance = (float(maze.centre[0]), float(maze.centre[1]), 0.0), 1.4 * maze.side
        super().__init__(maze.model, [])

    def draw(self) -> None:
        """The goal, up to 1.5 beyond its cell's centre in x and y; joints within 0.1, velocities N(0, 0.1)."""
        random = self.np_random
        self.goal = np.maximum(self._goal_cell + random.uniform(0.0, 1.0, 2) + random.uniform(0.0, 0.5, 2), 0.0)
        self.data.qpos[:] = self.model.qpos0 + random.uniform(-0.1, 0.1, self.model.nq)
        self.data.qvel[:] = 0.1 * random.standard_normal(self.model.nv)
        # The MuJoCo that D4RL used normalised the state's quaternions in place; now they stay as they are.
        mujoco.mj_normalizeQuat(self.model, self.data.qpos)

    def observation(self) -> np.ndarray:
        """Positions 15 (x and y first) and velocities 14."""
        return np.concatenate([self.data.qpos, self.data.qvel])

    def judge(self) -> tuple[float, bool, bool]:
        """Whether the goal is reached, three times."""
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= _GOAL_RADIUS)
        return float(reached), reached, reached


SCENES: Mapping[str, Callable[[Maze], Simulation]] = dict.fromkeys(_MAPS, AntMaze)


def _cell(rows: list[str], mark: str) -> np.ndarray:
    """Column and row of a marked cell, [2]."""
    y = next(y for y, row in enumerate(rows) if mark in row)
    return np.array([rows[y].index(mark), y], dtype=np.float64)


def _add_wall(world: ElementTree.Element, centre: np.ndarray) -> None:
    half = (_CELL / 2, _CELL / 2, _WALL_HEIGHT / 2)
    ElementTree.SubElement(
        world,
        "geom",
        type="box",
        pos=f"{centre[0]} {centre[1]} {half[2]}",
        size=" ".join(map(str, half)),
        contype="1",
        conaffinity="1",
        rgba="0.7 0.5 0.3 1",
    )
