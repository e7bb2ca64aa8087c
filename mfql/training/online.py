"""The environment side of online training: one environment a seed, episodes that can be replayed, rows for the tail."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mfql.data.transitions import endless
from mfql.draws import DrawStream, derived_seed
from mfql.evaluation.policy import Actor
from mfql.training.memory import Memory, Normaliser
from mfql.training.rewards import OnlineRewards

if TYPE_CHECKING:
    from mfql.evaluation.vector import EnvPool


@dataclass
class Episode:
    """The unfinished episode of one seed: its number, its first row in the tail, and the actions so far."""

    number: int = 0
    first_row: int = 0
    actions: list[np.ndarray] = field(default_factory=list)


class Environments:
    """Acts, steps and appends, one environment a seed.

    An episode starts from a function of (seed, number), so that a killed run replays its actions and stands where it
    stood: restoring positions and velocities would not be bit-equal in MuJoCo.

    Args:
        pool: one environment for each seed.
        seeds: the job's seeds.
        actor: acts with the current weights.
        memory: receives the rows.
        normaliser: of observations.
        discount: of the returns to go, where the memory keeps them.
        rewards: what the method is given of the environments' rewards.
    """

    def __init__(
        self,
        pool: EnvPool,
        seeds: list[int],
        actor: Actor,
        memory: Memory,
        normaliser: Normaliser,
        discount: float,
        rewards: OnlineRewards,
        device: torch.device,
    ) -> None:
        self.pool, self.seeds, self.actor = pool, seeds, actor
        self.memory, self.normaliser, self.discount, self.device = memory, normaliser, discount, device
        self.rewards = rewards
        self.episodes = [Episode() for _ in seeds]
        draw = actor.agent.explore_draw()
        self._noise = DrawStream({"noise": _one_row(draw)} if draw else {}, seeds, "online/act", device)
        self._before = np.empty(0)
        self._actions = np.empty(0)
        self._given = np.empty(0)

    def start(self) -> None:
        """Reset every environment to its unfinished episode and replay what was done in it."""
        self.pool.reset({row: self._seed_of(row) for row in range(len(self.seeds))})
        longest = max(len(episode.actions) for episode in self.episodes)
        for step in range(longest):
            mask = np.array([step < len(episode.actions) for episode in self.episodes])
            actions = np.stack(
                [
                    episode.actions[step] if going else np.zeros(self.pool.action_dim, np.float32)
                    for episode, going in zip(self.episodes, mask, strict=True)
                ]
            )
            self.pool.step(actions, mask)
            self.rewards(self.pool.rewards, self.pool.terminated, self.pool.truncated, mask)

    def act(self, step: int) -> None:
        """Choose every seed's action with the present weights and begin the environments' step."""
        self._before = self.pool.observations.copy()
        noise = self._noise.at(step).get("noise")
        self._actions = self.actor.explore(self._before[:, None], noise)[:, 0]
        if "next_actions" in self.memory.tail:
            self._follow(step)
        self.pool.step_async(self._actions, np.ones(len(self.seeds), dtype=bool))

    def finish(self, step: int) -> None:
        """Wait for the environments, append the row of this step, and start new episodes where one ended."""
        self.pool.step_wait()
        self._given = self.rewards(self.pool.rewards, self.pool.terminated, self.pool.truncated)
        self.memory.append(step, self._transition())
        for row, episode in enumerate(self.episodes):
            episode.actions.append(self._actions[row].copy())
        if "mc_returns" in self.memory.tail:
            self._accumulate(step)
        ended = np.flatnonzero(self.pool.terminated | self.pool.truncated).tolist()
        for row in ended:
            self.episodes[row] = Episode(self.episodes[row].number + 1, step + 1)
        if ended:
            self.pool.reset({row: self._seed_of(row) for row in ended})

    def _transition(self) -> dict[str, torch.Tensor]:
        pool = self.pool
        arrays = {
            "observations": self.normaliser(self._before),
            "next_observations": self.normaliser(pool.observations),
            "actions": self._actions,
            "rewards": self._given,
            "masks": 1.0 - pool.terminated.astype(np.float32),
        }
        if "next_actions" in self.memory.tail:
            arrays["next_actions"] = self._actions
        if "mc_returns" in self.memory.tail:
            # As in a dataset: what follows is worth as much, unless the step ends the task's episode.
            arrays["mc_returns"] = self._given + self.discount * arrays["masks"] * endless(self._given, self.discount)
        return {name: torch.from_numpy(value).to(self.device) for name, value in arrays.items()}

    def _follow(self, step: int) -> None:
        """Write this action as the next action of the row before, where the episode goes on."""
        actions = torch.from_numpy(self._actions).to(self.device)
        for row, episode in enumerate(self.episodes):
            if episode.actions:
                self.memory.tail["next_actions"][row, step - 1] = actions[row]

    def _accumulate(self, step: int) -> None:
        """Correct the returns to go of the episode's earlier rows by what the row before this took to follow.

        The row before is worth its reward for ever, and so is what it took to follow; this row says what does. The
        returns are those of `Transitions.mc_returns` of the rows so far.
        """
        returns = self.memory.tail["mc_returns"]
        for row, episode in enumerate(self.episodes):
            change = returns[row, step] - returns[row, step - 1]
            distance = torch.arange(step - episode.first_row, 0, -1, device=self.device)
            returns[row, episode.first_row : step] += self.discount**distance * change

    def _seed_of(self, row: int) -> int:
        return derived_seed(self.seeds[row], "online/episode", self.episodes[row].number)

    def saved(self, row: int) -> dict[str, Any]:
        """One seed's unfinished episode for a checkpoint."""
        episode = self.episodes[row]
        actions = np.array(episode.actions, dtype=np.float32).reshape(-1, self.pool.action_dim)
        return {"number": episode.number, "first_row": episode.first_row, "actions": torch.from_numpy(actions)}

    def restore(self, row: int, saved: dict[str, Any]) -> None:
        """Take one seed's unfinished episode from a checkpoint; `start` replays it."""
        self.episodes[row] = Episode(saved["number"], saved["first_row"], list(saved["actions"].numpy()))


def _one_row(draw: Any) -> Any:
    """An action's draw for a batch of one observation."""
    return type(draw)(draw.kind, (1, *draw.shape))
