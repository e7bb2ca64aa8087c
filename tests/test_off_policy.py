"""Off-policy evaluation: closed forms, its interval, tasks without an environment, and the command on a real run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mfql.agents.interface import Agent, Draw
from mfql.data.transitions import Dataset, Transitions, observation_statistics
from mfql.evaluation.policy import Actor
from mfql.settings import Settings
from mfql.training.fqe import Estimate, FQESettings, fitted_q, interval

DISCOUNT = 0.9
# The protocol at a size that closed forms need.
SMALL = FQESettings(
    offline_steps=1500, discount=DISCOUNT, hidden=(32, 32), batch_size=64, tau=0.05, learning_rate=3e-3, members=3
)


class Fixed(Agent):
    """A policy without parameters: gain times the first observed number, plus an offset and noise."""

    settings_type = Settings
    groups: dict = {}

    def __init__(self, gain: float, offset: float, noise: float, size: int, actions: int = 1) -> None:
        super().__init__(Settings(offline_steps=1, online_steps=0, discount=DISCOUNT), (size,), actions)
        self.gain, self.offset, self.noise = gain, offset, noise

    def update_draws(self):
        return {}

    def losses(self, parameters, batch, draws, state):
        raise NotImplementedError

    def learning_rates(self, step):
        return {}

    def act_draw(self):
        return Draw("normal", (1,)) if self.noise else None

    def act(self, parameters, observations, noise):
        chosen = self.gain * observations[..., :1] + self.offset
        return chosen if noise is None else chosen + self.noise * noise


def acting(agent: Agent) -> Actor:
    size = agent.observation_shape[0]
    return Actor(agent, {}, np.zeros(size, np.float32), np.ones(size, np.float32), torch.device("cpu"))


def dataset(rows: dict[str, np.ndarray], held_out: int) -> Dataset:
    """Transitions of which the last so many are held out."""
    cast = {name: np.asarray(values, np.float32) for name, values in rows.items()}
    train, val = (
        {name: values[part] for name, values in cast.items()} for part in (np.s_[:-held_out], np.s_[-held_out:])
    )
    mean, std = observation_statistics(train["observations"])
    return Dataset(
        **train,
        val=Transitions(**val),
        observation_mean=mean,
        observation_std=std,
        sha256="",
        name="mine",
        source="own",
    )


def chain(masked: bool) -> Dataset:
    """Episodes of 12 steps along states 0 to 3: an action above 0 goes on and pays 1, one below stays and pays 0.

    Going on from state 3 ends the task, if `masked`; else it stays there, and all episodes end by time alone.
    """
    rng = np.random.default_rng(0)
    rows: dict[str, list] = {
        name: [] for name in ("observations", "actions", "rewards", "masks", "terminals", "next_observations")
    }
    for _ in range(200):
        state = 0
        for step in range(12):
            action = rng.choice([-0.5, 0.5])
            ends = masked and state == 3 and action > 0
            after = min(state + (action > 0), 3)
            for name, value in zip(
                rows,
                (np.eye(4)[state], [action], float(action > 0), float(not ends), 0.0, np.eye(4)[after]),
                strict=True,
            ):
                rows[name].append(value)
            if ends:
                break
            state = after
        rows["terminals"][-1] = 1.0
    ends = np.flatnonzero(rows["terminals"])
    return dataset({name: np.array(values) for name, values in rows.items()}, len(rows["rewards"]) - ends[-21] - 1)


def test_terminations_end_values_and_time_outs_do_not() -> None:
    forwards = acting(Fixed(0.0, 0.5, 0.0, 4))
    ended = fitted_q(forwards, chain(masked=True), 0, SMALL)
    endless = fitted_q(forwards, chain(masked=False), 0, SMALL)
    assert ended.fqe_return == pytest.approx(1 + 0.9 + 0.9**2 + 0.9**3, rel=0.03)
    assert endless.fqe_return == pytest.approx(1 / (1 - DISCOUNT), rel=0.03)
    # The policy is judged, not whoever recorded the data.
    backwards = fitted_q(acting(Fixed(0.0, -0.5, 0.0, 4)), chain(masked=True), 0, SMALL)
    assert backwards.fqe_return == pytest.approx(0.0, abs=0.1)
    assert ended.episodes == 20
