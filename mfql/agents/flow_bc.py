"""Behaviour cloning with MFQL's policy: the flow loss alone, and one action a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from mfql.agents.interface import KEPT, Agent, Batch, Draw, Draws, Group, Losses, Parameters, Single
from mfql.agents.meanflow import (
    FlowPolicy,
    FlowSettings,
    candidate_actions,
    flow_draws,
    flow_state,
    flow_terms,
    noise_draw,
    policy_rate,
    raw_actions,
    scaled_noise,
    single_candidates,
)
from mfql.agents.mlp import required
from mfql.settings import ChunkSettings


@dataclass(frozen=True, kw_only=True)
class FlowBCSettings(FlowSettings, ChunkSettings):
    """Settings of behaviour cloning: those of the flow."""


class FlowBC(Agent):
    """One-step MeanFlow behaviour cloning."""

    settings_type = FlowBCSettings
    settings: FlowBCSettings

    def __init__(self, settings: FlowBCSettings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        super().__init__(settings, observation_shape, action_dim)
        self.policy = FlowPolicy(settings, self.observation_dim, self.chunk_dim)
        self.groups = {"policy": Group(self.with_encoder(self.policy.layout), settings.max_grad_norm)}

    @override
    def update_draws(self) -> dict[str, Draw]:
        return flow_draws(self.settings, self.chunk_dim)

    @override
    def act_draw(self) -> Draw:
        return noise_draw(self.settings, 1, self.chunk_dim)

    @override
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        return {"policy": policy_rate(self.settings, step)}

    @override
    def prepared(self, parameters: Parameters) -> Parameters:
        return parameters.replaced("policy", self.policy.prepared(parameters["policy"]))

    @override
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        policy = self.prepared(parameters)["policy"]
        seen = self.encode(policy, batch["observations"])
        flow = flow_terms(self.policy, policy, seen, batch["actions"], draws, self.settings, state, batch.get(KEPT))
        return flow.loss, {"flow_loss": flow.loss, "flow_error": flow.error, **flow.state}

    @override
    def initial_state(self, seeds: int) -> dict[str, Tensor]:
        return flow_state(self.settings, seeds)

    @override
    def next_state(self, state: Mapping[str, Tensor], step: Tensor, info: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: info[name] for name in state}

    @override
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        seen, scaled = self.encode(parameters["policy"], observations), scaled_noise(self.settings, required(noise))
        return candidate_actions(self.policy, parameters["policy"], seen, scaled).squeeze(2)

    @override
    def single(self, parameters: Parameters) -> Single:
        policy = parameters["policy"]
        candidates = single_candidates(self.policy, policy)

        def actions(observations: Tensor, noise: Tensor | None) -> Tensor:
            seen = self.encode(policy, observations.unsqueeze(0)).squeeze(0)
            return candidates(seen, scaled_noise(self.settings, required(noise)))

        return actions

    @override
    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        seen = self.encode(parameters["policy"], batch["observations"])
        flow = flow_terms(
            self.policy, parameters["policy"], seen, batch["actions"], draws, self.settings, state, batch.get(KEPT)
        )
        raw = raw_actions(self.policy, parameters["policy"], seen, scaled_noise(self.settings, draws["noise_bc"]))
        return {
            "out_of_bounds": (raw.abs() > 1.0).float().mean((1, 2)),
            "flow_loss": flow.loss,
            "flow_error": flow.error,
        }
