"""Rows that online training appends, from scripted environments."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mfql.data.transitions import Transitions
from mfql.settings import Settings
from mfql.training.memory import Memory, Normaliser
from mfql.training.online import Environments
from mfql.training.rewards import OnlineRewards

CPU = torch.device("cpu")
SETTINGS = Settings(offline_steps=1, online_steps=1, discount=0.9)
# Two seeds: rewards, whether the task's episode ended, whether time ran out.
REWARDS = np.array([[-1, -1], [-2, -1], [0, -1], [-1, -3], [-1, -1], [-2, -2]], np.float32)
TERMINATED = np.array([[0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0]], bool)
TRUNCATED = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [0, 0], [0, 0]], bool)


class ScriptedPool:
    """As of `EnvPool`, two environments that follow the script whatever is done."""

    def __init__(self) -> None:
        self.steps, self.action_dim = 0, 1
        self.observations, self.broken = np.zeros((2, 1), np.float32), np.zeros(2, bool)
        self.step_async = self.reset = lambda *_: None

    def step_wait(self) -> None:
        """Make the next step of the script."""
        script = (REWARDS, TERMINATED, TRUNCATED)
        self.rewards, self.terminated, self.truncated = (array[self.steps].copy() for array in script)
        self.steps += 1


@pytest.fixture
def environments() -> Environments:
    fields = {name: np.zeros((1, 1), np.float32) for name in ("observations", "next_observations", "actions")}
    fields |= {name: np.zeros(1, np.float32) for name in ("rewards", "masks", "mc_returns")}
    actor = SimpleNamespace(
        agent=SimpleNamespace(explore_draw=lambda: None), explore=lambda observations, noise: observations
    )
    memory = Memory(fields, 2, len(REWARDS), None, CPU)
    normaliser = Normaliser(np.zeros(1, np.float32), np.ones(1, np.float32))
    return Environments(ScriptedPool(), [0, 1], actor, memory, normaliser, 0.9, OnlineRewards(SETTINGS, 2), CPU)


def test_returns_to_go_are_at_every_step_those_of_a_dataset_that_ends_there(environments):
    tail = environments.memory.tail
    ended = TERMINATED | TRUNCATED
    for step in range(len(REWARDS)):
        environments.act(step)
        environments.finish(step)
        for seed in range(2):
            terminals = ended[: step + 1, seed].astype(np.float32)
            terminals[-1] = 1.0
            masks = 1.0 - TERMINATED[: step + 1, seed].astype(np.float32)
            nothing = np.zeros((step + 1, 1), np.float32)
            rows = Transitions(nothing, nothing, REWARDS[: step + 1, seed], masks, terminals, nothing)
            np.testing.assert_allclose(tail["mc_returns"][seed, : step + 1], rows.mc_returns(0.9), rtol=1e-5)
