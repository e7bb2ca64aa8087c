"""The environment side of online training: one environment a seed, episodes that can be replayed, rows for the tail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mfql.data.transitions import endless
from mfql.draws import DrawStream, derived_seed
from mfql.errors import UserError, warn
from mfql.evaluation.policy import Actor
from mfql.training.memory import ENDS, Memory, Normaliser
from mfql.training.rewards import OnlineRewards

if TYPE_CHECKING:
    from mfql.evaluation.vector import EnvPool


# Episodes in a row that may break as soon as they begin.
_MOST_BROKEN = 100


@dataclass
class Episode:
    """The unfinished episode of one seed: its number, its first row in the tail, and the actions so far.

    Of a chunk that is being done `queue` has the actions that are left.
    """

    number: int = 0
    first_row: int = 0
    actions: list[np.ndarray] = field(default_factory=list)
    queue: list[np.ndarray] = field(default_factory=list)


class Environments:
    """Acts, steps and appends, one environment a seed.

    An episode starts from a function of (seed, number), so that a killed run replays its actions and stands where it
    stood: restoring positions and velocities would not be bit-equal in MuJoCo.

    A step that breaks its episode has no row: the next episode begins, and its first step is this step's row.

    A checkpoint may hold a step that had begun and did not end: its actions, with all else as it was before.

    Args:
        pool: one environment for each seed.
        seeds: the job's seeds.
        actor: acts with the current weights.
        memory: receives the rows.
        normaliser: of observations.
        discount: of the returns to go, where the memory keeps them.
        rewards: what the method is given of the environments' rewards.

    Attributes:
        broken: how many episodes of each seed broke so far.
        stepping: whether a step has begun whose row is not there yet.
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
        self.broken = [0] * len(seeds)
        self.stepping = False
        draw = actor.agent.explore_draw()
        self._noise = DrawStream({"noise": _one_row(draw)} if draw else {}, seeds, "online/act", device)
        self._before = np.empty(0)
        self._actions = np.empty(0)
        self._begun: dict[int, np.ndarray] = {}
        self._earlier: tuple[list[Episode], list[int], np.ndarray] | None = None
        self._given = np.empty(0)

    def start(self) -> None:
        """Reset every environment to its unfinished episode and replay what was done in it."""
        self.pool.reset({row: self._seed_of(row) for row in range(len(self.seeds))})
        longest = max(len(episode.actions) for episode in self.episodes)
        for step in range(longest):
            # One that breaks, as it did not before, is over: an environment is not stepped beyond its episode's end.
            mask = np.array([step < len(episode.actions) for episode in self.episodes]) & ~self.pool.broken
            actions = np.stack(
                [
                    episode.actions[step] if going else np.zeros(self.pool.action_dim, np.float32)
                    for episode, going in zip(self.episodes, mask, strict=True)
                ]
            )
            self.pool.step(actions, mask)
            self.rewards(self.pool.rewards, self.pool.terminated, self.pool.truncated, mask)
        for row in self._broken():
            self._count([row])
            self._begin([row], self.episodes[row].first_row + len(self.episodes[row].actions))
        if self._begun:
            self._before = self.pool.observations.copy()
            self._actions = np.stack([self._begun[row] for row in range(len(self.seeds))])
            self._begin_step()

    def act(self, step: int) -> None:
        """Choose every seed's action with the present weights and begin the environments' step."""
        self._actions = self._chosen(step, range(len(self.seeds)))
        if "next_actions" in self.memory.tail:
            self._follow(step)
        self._begin_step()

    def _begin_step(self) -> None:
        self._earlier, self.stepping = (list(self.episodes), list(self.broken), self._actions), True
        self.pool.step_async(self._actions, np.ones(len(self.seeds), dtype=bool))

    def undo(self) -> None:
        """Take back what a step that does not end has changed, so that a checkpoint holds it begun and no more."""
        assert self._earlier is not None  # As long as one has begun.
        self.episodes, self.broken, self._actions = self._earlier

    def finish(self, step: int) -> None:
        """Wait for the environments, append the row of this step, and start new episodes where one ended."""
        self.pool.step_wait()
        self._given = self.rewards(self.pool.rewards, self.pool.terminated, self.pool.truncated)
        if self.pool.broken.any():
            self._step_anew(step)
        self.memory.append(step, self._transition())
        for row, episode in enumerate(self.episodes):
            episode.actions.append(self._actions[row].copy())
        if "mc_returns" in self.memory.tail:
            self._accumulate(step)
        self.stepping = False
        ended = np.flatnonzero(self.pool.terminated | self.pool.truncated).tolist()
        if ended:
            self._begin(ended, step + 1)

    def _chosen(self, step: int, rows: Iterable[int]) -> np.ndarray:
        """The actions [S, A] that these seeds take: the next of their chunks, new ones with the present weights."""
        self._before = self.pool.observations.copy()
        begin = [row for row in rows if not self.episodes[row].queue]
        if begin:
            noise = self._noise.at(step).get("noise")
            chunks = self.actor.explore(self._before[:, None], noise)[:, 0]
            for row in begin:
                self.episodes[row].queue = list(chunks[row].reshape(self.memory.horizon, -1))
        actions = np.zeros((len(self.seeds), self.pool.action_dim), np.float32)
        for row in rows:
            actions[row] = self.episodes[row].queue.pop(0)
        return actions

    def _begin(self, rows: list[int], first_row: int) -> None:
        """Start the next episode of these seeds, or the first after it that does not break at once.

        Raises:
            UserError: too many do.
        """
        for _ in range(_MOST_BROKEN):
            for row in rows:
                self.episodes[row] = Episode(self.episodes[row].number + 1, first_row)
                if first_row > 0:
                    self.memory.end(row, first_row - 1)
            self.pool.reset({row: self._seed_of(row) for row in rows})
            rows = [row for row in rows if self.pool.broken[row]]
            if not rows:
                return
            self._count(rows)
        raise self._too_many(rows[0])

    def _step_anew(self, step: int) -> None:
        """Where the episode broke, the first step of the next one takes the place of the step that broke it."""
        before = self._before
        for _ in range(_MOST_BROKEN):
            rows = self._broken()
            if not rows:
                return
            self._count(rows)
            self._begin(rows, step)
            mask = np.isin(np.arange(len(self.seeds)), rows)
            before, actions = before.copy(), self._chosen(step, rows)
            before[mask], self._before = self._before[mask], before
            self._actions = np.where(mask[:, None], actions, self._actions)
            self.pool.step(self._actions, mask)
            pool = self.pool
            self._given = np.where(mask, self.rewards(pool.rewards, pool.terminated, pool.truncated, mask), self._given)
        raise self._too_many(self._broken()[0])

    def _broken(self) -> list[int]:
        return np.flatnonzero(self.pool.broken).tolist()

    def _count(self, rows: list[int]) -> None:
        """Count episodes that broke, and say so, ever more seldom."""
        for row in rows:
            self.broken[row] += 1
            if self.broken[row].bit_count() == 1:
                warn(
                    f"{self.broken[row]} of {self.episodes[row].number + 1} online episodes of seed {self.seeds[row]}"
                    f" broke, the last: {self.pool.faults[row]}",
                    "What broke them is not learnt from: docs/extend.md.",
                )

    def _too_many(self, row: int) -> UserError:
        return UserError(
            f"{_MOST_BROKEN} online episodes of seed {self.seeds[row]} in a row broke in their first step, the last:"
            f" {self.pool.faults[row]}",
            "Mend the environment; the same command goes on from the last checkpoint.",
        )

    def _transition(self) -> dict[str, torch.Tensor]:
        pool = self.pool
        arrays = {
            "observations": self.normaliser(self._before),
            "next_observations": self.normaliser(pool.observations),
            "actions": self._actions,
            "rewards": self._given,
            "masks": 1.0 - pool.terminated.astype(np.float32),
        }
        if ENDS in self.memory.tail:
            arrays[ENDS] = (pool.terminated | pool.truncated).astype(np.float32)
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
        saved = {"number": episode.number, "first_row": episode.first_row, "actions": torch.from_numpy(actions)}
        saved |= {"action": torch.from_numpy(self._actions[row].copy())} if self.stepping else {}
        if episode.queue:
            saved["queue"] = torch.from_numpy(np.stack(episode.queue))
        return saved | ({"broken": self.broken[row]} if self.broken[row] else {})

    def restore(self, row: int, saved: dict[str, Any]) -> None:
        """Take one seed's unfinished episode from a checkpoint; `start` replays it."""
        queue = list(saved["queue"].numpy()) if "queue" in saved else []
        self.episodes[row] = Episode(saved["number"], saved["first_row"], list(saved["actions"].numpy()), queue)
        self.broken[row] = saved.get("broken", 0)
        if "action" in saved:
            self._begun[row] = saved["action"].numpy()


def _one_row(draw: Any) -> Any:
    """An action's draw for a batch of one observation."""
    return type(draw)(draw.kind, (1, *draw.shape))
