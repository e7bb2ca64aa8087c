"""The fixture of MFQL: forward pass, losses, gradients, three updates, the learning rate's schedule and alpha."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from mfql.agents.flax import as_released, load_released
from mfql.agents.interface import Parameters
from mfql.agents.meanflow import candidate_actions, flow_terms, policy_rate, raw_actions
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.update import Updater, in_precision, initial_state, views_of
from mfql.errors import UserError
from mfql.parity.comparison import (
    BOUND,
    HERE,
    Arrays,
    Comparison,
    Computed,
    compare,
    critic_sizes,
    gradients_of,
    section,
)

# Adam's first steps divide by gradients near zero, so that float32 rounding shows.
CHANGE_BOUND = 1e-2
# What the names of its arrays begin with.
SECTIONS = {"param", "in", "in2", "in3", "out", "grad", "step1", "step2", "step3", "change3", "sched", "alpha"}

# Arrays of the fixture's outputs by the group that they are reported under.
_OUTPUT_GROUPS = {
    "g": "forward",
    "g_at_t1": "forward",
    "q": "forward",
    "dgdt": "JVP",
    "g_target": "JVP",
    "candidate_q": "candidates",
    "best_index": "candidates",
    "next_actions": "candidates",
    "target_q": "candidates",
}

# Settings that the fixture's documentation gives in words alone.
_ALPHA, _DISCOUNT, _OFFLINE_STEPS, _FIRST_STEP = 3.0, 0.97, 100_000, 5_000
# Times off this grid are taken as they are: above the largest grid a method takes a uniform number as the time.
_TIME_STEPS, _NO_GRID = 50, 10_000
_CRITIC_RATE = 3e-4


class Fixture:
    """A fixture with our networks at its sizes and weights."""

    def __init__(self, arrays: Arrays, computed: Computed = HERE) -> None:
        self.arrays, self.computed = arrays, computed
        self.weights = self.section("param")
        batch = self.batch("in")
        kernel = self.weights["modules_actor_bc_flow/FeatureEmbed_0/Dense_0/kernel"]
        blocks = len({name.split("/")[1] for name in self.weights if "/blocks_" in name})
        critic_hidden, num_critics = critic_sizes(self.weights)
        settings = MFQLSettings(
            offline_steps=_OFFLINE_STEPS,
            online_steps=50_000,
            precision=computed.precision,  # type: ignore[arg-type]
            discount=_DISCOUNT,
            batch_size=batch["actions"].shape[1],
            time_steps=_TIME_STEPS if self.on_grid() else _NO_GRID,
            policy_hidden=kernel.shape[1],
            policy_blocks=blocks,
            alpha=_ALPHA,
            num_candidates=arrays["in:noise_next"].shape[0],
            critic_hidden=critic_hidden,
            num_critics=num_critics,
            critic_learning_rate=_CRITIC_RATE,
        )
        self.agent = MFQL(settings, batch["observations"].shape[2:], batch["actions"].shape[-1])
        self.state = initial_state(self.agent, [torch.Generator()], computed.device)
        released = load_released(self.agent, self.weights)
        self.state.flat = {name: array.to(computed.device) for name, array in released.items()}
        self.state.step.fill_(_FIRST_STEP)

    def section(self, prefix: str) -> Arrays:
        """Arrays of one prefix, without it."""
        return section(self.arrays, f"{prefix}:")

    def on_grid(self) -> bool:
        """Whether all times lie on the grid of the fixture's documentation."""
        times = np.concatenate([self.arrays[f"{prefix}:t"].ravel() for prefix in ("in", "in2", "in3")]) * _TIME_STEPS
        return bool(np.abs(times - times.round()).max() < 1e-3)

    def batch(self, prefix: str) -> dict[str, torch.Tensor]:
        """Batch and draws `[1, ...]`, under our names."""
        arrays = self.computed.placed(self.section(prefix))
        # The middle of the interval that a method makes this grid time of.
        arrays["time"] = arrays["t"] - (0.5 / _TIME_STEPS if self.on_grid() else 0.0)
        arrays["noise_next"] = arrays["noise_next"].transpose(1, 2)
        return arrays

    def compare(self) -> Iterator[Comparison]:
        """Every array of the fixture against ours."""
        yield from self._outputs()
        yield from self._gradients()
        yield from self._updates()
        yield from self._schedule()
        yield from self._alpha_trace()

    def _outputs(self) -> Iterator[Comparison]:
        expected = self.section("out")
        for name, value in self._our_outputs().items():
            yield compare(_OUTPUT_GROUPS.get(name, "losses"), f"out:{name}", value, expected.pop(name))
        for name in expected:
            raise UserError(f"the fixture has out:{name}, which MFQL does not compute", "Give a fixture of MFQL.")

    def _our_outputs(self) -> dict[str, torch.Tensor]:
        agent, batch = self.agent, self.batch("in")
        parameters: Parameters = views_of(agent, in_precision(agent, self.state.flat))
        flow = flow_terms(
            agent.policy, parameters["policy"], batch["observations"], batch["actions"], batch, agent.settings
        )
        next_actions, target_q = agent.best_candidate(
            parameters["policy"], parameters["target_critic"], batch["next_observations"], batch["noise_next"]
        )
        candidate_q, best_index = self._candidates(parameters, batch)
        loss, info = agent.losses(parameters, batch, batch, self.state.own)
        return {
            "g": flow.prediction[0],
            "dgdt": flow.tangent[0],
            "g_target": flow.target[0],
            "meanflow_loss": info["flow_loss"][0],
            "g_at_t1": raw_actions(agent.policy, parameters["policy"], batch["observations"], batch["noise_pi"])[0],
            "q": agent.critic(parameters["critic"], batch["observations"], batch["actions"])[0],
            "candidate_q": candidate_q,
            "best_index": best_index,
            "next_actions": next_actions[0],
            "target_q": (batch["rewards"] + agent.settings.discount * batch["masks"] * target_q)[0],
            "critic_loss": info["critic_loss"][0],
            "actor_loss": (info["q_loss"] + info["bound_loss"])[0],
            "bound_loss": info["bound_loss"][0],
            "q_loss": info["q_loss"][0],
            "total_loss": loss[0],
        }

    def _candidates(self, parameters: Parameters, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        actions = candidate_actions(
            self.agent.policy, parameters["policy"], batch["next_observations"], batch["noise_next"]
        )
        values = self.agent.candidate_values(parameters["target_critic"], batch["next_observations"], actions)[0]
        return values.T, values.argmax(-1)

    def _gradients(self) -> Iterator[Comparison]:
        batch = self.batch("in")
        found, _, _ = gradients_of(self.agent, self.state.flat, batch, batch, self.state.own)
        yield from self._against("gradients", "grad", found, BOUND)

    def _against(self, group: str, prefix: str, flat: dict[str, torch.Tensor], bound: float) -> Iterator[Comparison]:
        reference = self.section(prefix)
        for name, ours in as_released(self.agent, flat, reference):
            yield compare(group, f"{prefix}:{name}", ours, reference[name], bound)

    def _updates(self) -> Iterator[Comparison]:
        before = {name: value.clone() for name, value in self.state.flat.items()}
        updater = Updater(self.agent, self.state, float("inf"))
        names = {
            "critic_loss": "critic_loss",
            "meanflow_loss": "flow_loss",
            "q_loss": "q_loss",
            "bound_loss": "bound_loss",
        }
        for index, prefix in enumerate(("in", "in2", "in3"), start=1):
            batch = self.batch(prefix)
            self.state.logged = {}
            updater(batch, batch)
            for name, reference in self.section(f"step{index}").items():
                yield compare("updates", f"step{index}:{name}", self.state.logged[names[name]][0], reference)
        change = {name: value - before[name] for name, value in self.state.flat.items()}
        yield from self._against("updates", "change3", change, CHANGE_BOUND)

    def _schedule(self) -> Iterator[Comparison]:
        steps = self.arrays["sched:steps"]
        device = self.computed.device
        ours = [policy_rate(self.agent.settings, torch.tensor(int(step), device=device)).item() for step in steps]
        yield compare("schedule", "sched:actor_lr", np.array(ours), self.arrays["sched:actor_lr"])

    def _alpha_trace(self) -> Iterator[Comparison]:
        device, trace = self.computed.device, []
        state = {name: value.to(device) for name, value in self.agent.initial_state(1).items()}
        for loss in self.arrays["alpha:losses"]:
            state = self.agent.adapt_alpha(
                state, torch.tensor([loss], device=device), torch.tensor(True, device=device)
            )
            trace.append(state["alpha"].item())
        yield compare("alpha", "alpha:alpha_after", np.array(trace), self.arrays["alpha:alpha_after"])
