"""Updates of small agents: MFQL at a small size, batches and draws of any agent."""

from __future__ import annotations

import torch
from torch import Tensor

from mfql.agents.interface import Agent
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.update import TrainState, initial_state
from mfql.draws import Draw, DrawStream, generator

CPU = torch.device("cpu")
SMALL = MFQLSettings(
    offline_steps=100,
    online_steps=10,
    discount=0.9,
    batch_size=12,
    time_steps=5,
    policy_hidden=8,
    policy_blocks=2,
    zero_init=False,
    critic_hidden=(16, 16),
    num_candidates=3,
    alpha=2.0,
    alpha_interval=10,
    alpha_window=2,
)


def make(
    seeds: list[int], options: MFQLSettings = SMALL, observation_dim: int = 4, action_dim: int = 2
) -> tuple[MFQL, TrainState]:
    """A small MFQL and its state before the first update."""
    agent = MFQL(options, (observation_dim,), action_dim)
    state = initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)
    return agent, state


def batch_of(agent: Agent, seeds: list[int], index: int = 0) -> dict[str, Tensor]:
    """A batch of an agent's size whose fields are those that any agent asks for."""
    size = agent.settings.batch_size
    fields = {
        "observations": Draw("normal", (size, agent.observation_dim)),
        "next_observations": Draw("normal", (size, agent.observation_dim)),
        "actions": Draw("uniform", (size, agent.action_dim)),
        "next_actions": Draw("uniform", (size, agent.action_dim)),
        "rewards": Draw("normal", (size,)),
        "mc_returns": Draw("normal", (size,)),
        "masks": Draw("uniform", (size,)),
    }
    return DrawStream(fields, seeds, "test", CPU).at(index)


def draws_of(agent: Agent, seeds: list[int], index: int = 0) -> dict[str, Tensor]:
    """The draws of an agent's update."""
    return DrawStream(agent.update_draws(), seeds, "update", CPU).at(index)
