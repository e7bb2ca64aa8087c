"""D4RL's Adroit and AntMaze tasks, as they are named.

What a task is (observation, reward, end) is written after D4RL 1.1's definitions; see `d4rl_adroit` and `d4rl_antmaze`.
"""

from __future__ import annotations

from dataclasses import dataclass

from mfql.errors import unknown


@dataclass(frozen=True)
class D4RLTask:
    """What is fixed about a D4RL task.

    Args:
        name: such as `pen-human-v1`; its dataset has the same name.
        scene: the environment that it shares with tasks on other data: `pen`, `hammer`, `door`, `relocate`, `umaze`,
            `medium` or `large`.
        observation_dim, action_dim: D and A.
        limit: steps after which an episode is truncated.
        reward_shift: what this project's protocol adds to every reward, in the dataset and in the environment alike:
            -1 in AntMaze, so that a step costs 1 until the goal.
    """

    name: str
    scene: str
    observation_dim: int
    action_dim: int
    limit: int
    reward_shift: float


def _adroit(scene: str, observation_dim: int, action_dim: int, limit: int) -> list[D4RLTask]:
    names = [f"{scene}-{data}-v1" for data in ("human", "cloned", "expert")]
    return [D4RLTask(name, scene, observation_dim, action_dim, limit, 0.0) for name in names]


def _antmaze(scene: str, datasets: tuple[str, ...], limit: int) -> list[D4RLTask]:
    return [D4RLTask(f"antmaze-{dataset}-v2", scene, 29, 8, limit, -1.0) for dataset in datasets]


TASKS: dict[str, D4RLTask] = {
    task.name: task
    for task in (
        *_antmaze("umaze", ("umaze", "umaze-diverse"), 700),
        *_antmaze("medium", ("medium-play", "medium-diverse"), 1000),
        *_antmaze("large", ("large-play", "large-diverse"), 1000),
        *_adroit("pen", 45, 24, 100),
        *_adroit("hammer", 46, 26, 200),
        *_adroit("door", 39, 28, 200),
        *_adroit("relocate", 39, 30, 200),
    )
}


def find_d4rl_task(name: str) -> D4RLTask:
    """The D4RL task of that name.

    Raises:
        UserError: D4RL's part in this project has no such task.
    """
    if name not in TASKS:
        raise unknown("D4RL task", name, list(TASKS))
    return TASKS[name]
