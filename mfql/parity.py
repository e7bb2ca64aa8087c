"""Compares this project's MFQL with a reference fixture: `mfql parity [FILE]`.

A fixture is an npz of random weights under the released names, random batches, every random draw, and what the
released code makes of them. The error of an array is max|ours - reference| / max|reference|.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mfql.agents.flax import as_released, load_released
from mfql.agents.interface import Batch, Draws, Losses, Parameters
from mfql.agents.meanflow import candidate_actions, flow_terms, raw_actions
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.update import Updater, gradients, initial_state, views_of
from mfql.errors import UserError

BOUND = 2e-5
# Adam's first steps divide by gradients near zero, so that float32 rounding shows.
CHANGE_BOUND = 1e-2

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


@dataclass(frozen=True)
class Comparison:
    """The error of one array of the fixture."""

    group: str
    array: str
    error: float
    bound: float

    @property
    def within(self) -> bool:
        """Whether the error is a number within the bound."""
        return self.error <= self.bound


def load_fixture(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a fixture.

    Raises:
        UserError: the file is absent, cut, or no fixture of MFQL.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", "Give the path of a fixture (npz).") from error
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} is not a readable npz file: {error}", "Copy it again from its source.") from error
    missing = {"param", "in", "in2", "in3", "out", "grad", "step1", "step2", "step3", "change3", "sched", "alpha"} - {
        name.split(":")[0] for name in arrays
    }
    if missing:
        raise UserError(
            f"{path} has no arrays named {', '.join(sorted(f'{name}:' for name in missing))}", "Give an MFQL fixture."
        )
    return arrays


class Fixture:
    """A fixture with our networks at its sizes and weights."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self.weights = self.section("param")
        batch = self.batch("in")
        kernel = self.weights["modules_actor_bc_flow/FeatureEmbed_0/Dense_0/kernel"]
        self.hidden = kernel.shape[1]
        self.blocks = len({name.split("/")[1] for name in self.weights if "/blocks_" in name})
        layers = [
            value for name, value in self.weights.items() if name.startswith("modules_critic/") and "scale" in name
        ]
        critic_kernel = self.weights["modules_critic/value_net/Dense_0/kernel"]
        settings = MFQLSettings(
            offline_steps=_OFFLINE_STEPS,
            online_steps=50_000,
            discount=_DISCOUNT,
            batch_size=batch["actions"].shape[1],
            time_steps=_TIME_STEPS if self.on_grid() else _NO_GRID,
            policy_hidden=self.hidden,
            policy_blocks=self.blocks,
            alpha=_ALPHA,
            num_candidates=arrays["in:noise_next"].shape[0],
            critic_hidden=tuple(value.shape[-1] for value in layers),
            num_critics=critic_kernel.shape[0],
            critic_learning_rate=_CRITIC_RATE,
        )
        self.agent = MFQL(settings, batch["observations"].shape[2:], batch["actions"].shape[-1])
        self.state = initial_state(self.agent, [torch.Generator()], torch.device("cpu"))
        self.state.flat = load_released(self.agent, self.weights, self.hidden, self.blocks)
        self.state.step.fill_(_FIRST_STEP)

    def section(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays of one prefix, without it."""
        return {name[len(prefix) + 1 :]: value for name, value in self.arrays.items() if name.startswith(f"{prefix}:")}

    def on_grid(self) -> bool:
        """Whether all times lie on the grid of the fixture's documentation."""
        times = np.concatenate([self.arrays[f"{prefix}:t"].ravel() for prefix in ("in", "in2", "in3")]) * _TIME_STEPS
        return bool(np.abs(times - times.round()).max() < 1e-3)

    def batch(self, prefix: str) -> dict[str, torch.Tensor]:
        """Batch and draws `[1, ...]`, under our names."""
        arrays = {name: torch.as_tensor(value).unsqueeze(0) for name, value in self.section(prefix).items()}
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
            yield _compare(_OUTPUT_GROUPS.get(name, "losses"), f"out:{name}", value, expected.pop(name))
        for name in expected:
            raise UserError(f"the fixture has out:{name}, which MFQL does not compute", "Give a fixture of MFQL.")

    def _our_outputs(self) -> dict[str, torch.Tensor]:
        agent, batch = self.agent, self.batch("in")
        parameters: Parameters = views_of(agent, self.state.flat)
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
            "g_at_t1": raw_actions(agent.policy, parameters["policy"], batch["observations"], batch["noise_pi"])[
                0
            ],
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
        def losses(
            flat: Mapping[str, torch.Tensor], batch: Batch, draws: Draws, own: Mapping[str, torch.Tensor]
        ) -> Losses:
            return self.agent.losses(views_of(self.agent, flat), batch, draws, own)

        batch = self.batch("in")
        found, _, _ = gradients(self.agent, self.state.flat, batch, batch, self.state.own, losses)
        yield from self._against("gradients", "grad", found, BOUND)

    def _against(self, group: str, prefix: str, flat: dict[str, torch.Tensor], bound: float) -> Iterator[Comparison]:
        reference = self.section(prefix)
        for name, ours in as_released(self.agent, flat, reference, self.hidden, self.blocks):
            yield _compare(group, f"{prefix}:{name}", ours, reference[name], bound)

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
                yield _compare("updates", f"step{index}:{name}", self.state.logged[names[name]][0], reference)
        change = {name: value - before[name] for name, value in self.state.flat.items()}
        yield from self._against("updates", "change3", change, CHANGE_BOUND)

    def _schedule(self) -> Iterator[Comparison]:
        steps = self.arrays["sched:steps"]
        ours = [self.agent.settings.policy_rate(torch.tensor(int(step))).item() for step in steps]
        yield _compare("schedule", "sched:actor_lr", np.array(ours), self.arrays["sched:actor_lr"])

    def _alpha_trace(self) -> Iterator[Comparison]:
        state, trace = self.agent.initial_state(1), []
        for loss in self.arrays["alpha:losses"]:
            state = self.agent.adapt_alpha(state, torch.tensor([loss]), torch.tensor(True))
            trace.append(state["alpha"].item())
        yield _compare("alpha", "alpha:alpha_after", np.array(trace), self.arrays["alpha:alpha_after"])


def _compare(
    group: str, array: str, ours: torch.Tensor | np.ndarray, reference: np.ndarray, bound: float = BOUND
) -> Comparison:
    own = np.asarray(ours.detach() if isinstance(ours, torch.Tensor) else ours, dtype=np.float64)
    expected = np.asarray(reference, dtype=np.float64)
    if own.shape != expected.shape:
        raise UserError(
            f"{array} has shape {expected.shape}, ours {own.shape}", "The fixture does not fit its weights."
        )
    scale = np.abs(expected).max()
    return Comparison(group, array, float(np.abs(own - expected).max() / (scale if scale > 0 else 1.0)), bound)


def report(path: str | Path) -> bool:
    """Print the largest error of each group, name every array out of bounds, and tell whether all are within."""
    worst: dict[str, Comparison] = {}
    outside: list[Comparison] = []
    for comparison in Fixture(load_fixture(path)).compare():
        if not comparison.within:
            outside.append(comparison)
        known = worst.get(comparison.group)
        if known is None or not comparison.error / comparison.bound <= known.error / known.bound:
            worst[comparison.group] = comparison
    print(f"{'group':<12} {'largest error':>13} {'bound':>8}  array")
    for group, comparison in worst.items():
        print(f"{group:<12} {comparison.error:>13.2e} {comparison.bound:>8.0e}  {comparison.array}")
    for comparison in outside:
        print(f"OUT OF BOUNDS {comparison.array}: error {comparison.error:.3g}, bound {comparison.bound:g}")
    return not outside
