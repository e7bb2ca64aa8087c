"""A method that uses every declaration of the interface; what it learns is of no interest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mfql.agents.interface import Agent, Draw, Group
from mfql.agents.parameters import Layout, Parameter, constant, normal
from mfql.settings import Settings


@dataclass(frozen=True, kw_only=True)
class DeclaringSettings(Settings):
    """Settings of every method."""


class Declaring(Agent):
    """A linear policy and a constant value, learnt from extra fields, twice a step, half a batch from online rows."""

    settings_type = DeclaringSettings
    stages = ("pretrain", "online")
    extra_fields = ("next_actions", "mc_returns")
    online_share = 0.5
    updates_per_step = 2

    def __init__(self, settings, observation_shape, action_dim):
        super().__init__(settings, observation_shape, action_dim)
        policy = Layout({"kernel": Parameter((self.observation_dim, action_dim), normal(0.1))})
        value = Layout({"mean": Parameter((1,), constant(0.0))})
        self.groups = {"policy": Group(policy, 1.0, interval=2), "value": Group(value, 1.0, target=True)}

    def update_draws(self):
        return {"noise": Draw("normal", (self.settings.batch_size, self.action_dim))}

    def act_draw(self):
        return None

    def learning_rates(self, step):
        return {"policy": 1e-2, "value": 1e-2}

    def losses(self, parameters, batch, draws, state):
        wanted = batch["next_actions"] + 0.01 * draws["noise"]
        policy_loss = (batch["observations"] @ parameters["policy"]["kernel"] - wanted).square().mean((1, 2))
        value_loss = (parameters["value"]["mean"] - batch["mc_returns"]).square().mean(1)
        return policy_loss + value_loss, {"policy_loss": policy_loss, "value_loss": value_loss}

    def act(self, parameters, observations, noise):
        assert noise is None
        return torch.tanh(observations @ parameters["policy"]["kernel"])
