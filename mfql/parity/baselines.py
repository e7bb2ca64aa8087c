"""The fixture of FQL, IFQL, IQL and ReBRAC: the losses and gradients of one batch each.

Its methods share a batch (`in:`). Each has its weights, draws, losses and their parts, and the gradient of the total
loss, under its own name: `fql/param:`, `fql/draw:`, `fql/out:`, `fql/grad:`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfql.agents.flax import as_released, load_released
from mfql.agents.interface import Agent, Batch, Parameters, load_agent
from mfql.agents.update import in_precision, views_of
from mfql.errors import UserError
from mfql.parity.comparison import HERE, Arrays, Comparison, Computed, compare, critic_sizes, gradients_of, section
from mfql.settings import build_settings

# Settings that the fixture's documentation gives in words alone.
_DISCOUNT = 0.97

_Array = Callable[[Any, Parameters, Batch], Tensor]


def _q(agent: Any, parameters: Parameters, batch: Batch) -> Tensor:
    return agent.critic(parameters["critic"], batch["observations"], batch["actions"])


def _v(agent: Any, parameters: Parameters, batch: Batch) -> Tensor:
    return agent.state_values(parameters, batch["observations"])


def _implicit_targets(agent: Any, parameters: Parameters, batch: Batch) -> Tensor:
    return agent.td_targets(batch, agent.state_values(parameters, batch["next_observations"]))


@dataclass(frozen=True)
class Method:
    """What the fixture calls the quantities of a method.

    Args:
        settings: of the method in the fixture.
        draws: our draws by the fixture's names.
        outputs: our logged quantities by the fixture's names; a number is a constant of the method.
        arrays: what the fixture has the mean, maximum and minimum of, by the beginning of their names.
        left_out: outputs that depend on a draw that the fixture does not have.
    """

    outputs: Mapping[str, str | float]
    arrays: Mapping[str, _Array]
    settings: Mapping[str, Any] = field(default_factory=dict)
    draws: Mapping[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()


_FLOW_DRAWS = {"noise_flow": "noise_bc", "t": "time"}
_IMPLICIT = {"value.value_loss": "value_loss", "critic.critic_loss": "critic_loss"}

METHODS = {
    "fql": Method(
        settings={"alpha": 3.0, "flow_steps": 10, "q_agg": "mean"},
        draws={**_FLOW_DRAWS, "noise_policy": "noise_pi", "noise_next": "noise_next"},
        outputs={
            "critic.critic_loss": "critic_loss",
            "actor.actor_loss": "policy_loss",
            "actor.bc_flow_loss": "flow_loss",
            "actor.distill_loss": "distill_loss",
            "actor.q_loss": "q_loss",
            "actor.q": "q_policy",
        },
        arrays={"critic.q": _q},
        # The error of actions from noise that was drawn for the log alone.
        left_out=frozenset({"actor.mse"}),
    ),
    "ifql": Method(
        settings={"expectile": 0.9},
        draws=_FLOW_DRAWS,
        outputs={**_IMPLICIT, "actor.actor_loss": "flow_loss"},
        arrays={"critic.q": _implicit_targets, "value.v": _v},
    ),
    "iql": Method(
        settings={"expectile": 0.9, "alpha": 3.0},
        outputs={
            **_IMPLICIT,
            "actor.actor_loss": "policy_loss",
            "actor.adv": "advantage",
            "actor.bc_log_prob": "log_likelihood",
            "actor.mse": "action_error",
            "actor.std": 1.0,
        },
        arrays={"critic.q": _implicit_targets, "value.v": _v},
    ),
    "rebrac": Method(
        settings={"alpha_actor": 0.1, "alpha_critic": 0.05},
        draws={"noise_next": "noise_next"},
        outputs={
            "critic.critic_loss": "critic_loss",
            "actor.total_loss": "policy_loss",
            "actor.actor_loss": "q_loss",
            "actor.bc_loss": "bc_loss",
            "actor.mse": "distance",
            "actor.std": 1.0,
        },
        arrays={"critic.q": _q},
    ),
}

# What the arrays of each method in a fixture begin with, beside `in:`.
SECTIONS = ("param", "out", "grad")

_STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {"mean": Tensor.mean, "max": Tensor.max, "min": Tensor.min}


class BaselineFixture:
    """A fixture of one or more of `METHODS`, with our networks at its sizes and weights."""

    def __init__(self, arrays: Arrays, computed: Computed = HERE) -> None:
        self.arrays, self.computed = arrays, computed
        self.batch = computed.placed(section(arrays, "in:"))

    def compare(self) -> Iterator[Comparison]:
        """Every output and gradient of every method in the fixture against ours."""
        for name in dict.fromkeys(array.partition("/")[0] for array in self.arrays if "/" in array.partition(":")[0]):
            if name not in METHODS:
                raise UserError(f"the fixture has arrays of {name}", f"It may have {', '.join(METHODS)}.")
            yield from self._compare(name, METHODS[name])

    def _compare(self, name: str, method: Method) -> Iterator[Comparison]:
        agent = self.agent(name)
        released = load_released(agent, section(self.arrays, f"{name}/param:"))
        flat = {group: array.to(self.computed.device) for group, array in released.items()}
        draws = self.computed.placed(section(self.arrays, f"{name}/draw:"))
        ours = {method.draws[known]: value for known, value in draws.items()}
        own = {part: value.to(self.computed.device) for part, value in agent.initial_state(1).items()}
        found, loss, info = gradients_of(agent, flat, self.batch, ours, own)
        outputs = {known: _value(info, source) for known, source in method.outputs.items()} | {"total_loss": loss[0]}
        with torch.no_grad():
            for beginning, array in method.arrays.items():
                values = array(agent, views_of(agent, in_precision(agent, flat)), self.batch)
                outputs |= {f"{beginning}_{kind}": of(values) for kind, of in _STATISTICS.items()}
        for known, reference in section(self.arrays, f"{name}/out:").items():
            if known in outputs:
                yield compare(f"{name} losses", f"{name}/out:{known}", outputs[known], reference)
            elif known not in method.left_out:
                raise UserError(f"the fixture has {name}/out:{known}, which {name} does not compute", _OTHER_FIXTURE)
        expected = section(self.arrays, f"{name}/grad:")
        for known, gradient in as_released(agent, found, expected):
            yield compare(f"{name} gradients", f"{name}/grad:{known}", gradient, expected[known])

    def agent(self, name: str) -> Agent:
        """Our method at the sizes of the fixture's weights."""
        weights = section(self.arrays, f"{name}/param:")
        critic_hidden, num_critics = critic_sizes(weights)
        biases = [known for known in weights if known.startswith("modules_actor") and known.endswith("bias")]
        # Of one actor; FQL's two have the same hidden layers.
        module = biases[0].partition("/")[0]
        sizes = [weights[known].shape[0] for known in biases if known.startswith(f"{module}/")]
        kind = load_agent(name)
        values = {
            "offline_steps": 1,
            "online_steps": 0,
            "precision": self.computed.precision,
            "discount": _DISCOUNT,
            "batch_size": self.batch["actions"].shape[1],
            "actor_hidden": sizes[:-1],
            "critic_hidden": critic_hidden,
            "num_critics": num_critics,
            **METHODS[name].settings,
        }
        settings = build_settings(kind.settings_type, values, f"the fixture's {name}")
        return kind(settings, self.batch["observations"].shape[2:], self.batch["actions"].shape[-1])


_OTHER_FIXTURE = "Give a fixture of the methods in mfql/parity/baselines.py."


def _value(info: Mapping[str, Tensor], source: str | float) -> Tensor | np.ndarray:
    return info[source][0] if isinstance(source, str) else np.array(source)
