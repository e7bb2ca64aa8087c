"""One update of all seeds: losses, gradients, Adam, targets, the method's own state.

Nothing here decides in Python on a value of a tensor, so that the step can be compiled and captured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mfql.agents.balance import combined
from mfql.agents.interface import Agent, Batch, Draws, Group, Losses, Parameters
from mfql.errors import UserError

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
# For inductor: kernels that it chose by timing them would be others in another process, in other rounding.
INDUCTOR = {"deterministic": True}


@dataclass
class TrainState:
    """Everything that training carries from one update to the next, for all seeds of a job.

    Args:
        flat: flat parameters `[S, P]` by group, and of targets under `target_<group>`.
        first, second: Adam's moments `[S, P]` by group.
        count: steps of each group's optimiser `[S]`.
        own: the method's own state `[S, ...]`.
        step: updates so far, a whole number `[]`.
        active: seeds that still train `[S]`; an update leaves the others untouched.
        diverged_at: update at which a seed diverged, -1 where it did not `[S]`.
        logged: sums `[S]` of what the losses logged since the last row of the training log.
    """

    flat: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    count: dict[str, Tensor]
    own: dict[str, Tensor]
    step: Tensor
    active: Tensor
    diverged_at: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor of the state."""
        yield self.step
        for name in _BY_SEED:
            value = getattr(self, name)
            yield from value.values() if isinstance(value, dict) else [value]

    def seed_rows(self, row: int) -> dict[str, Any]:
        """The state of one seed, on the CPU, as nested dicts of tensors without the seed axis."""
        arrays = {name: _pick(getattr(self, name), row) for name in _BY_SEED}
        return {**arrays, "step": self.step.cpu().clone()}

    def load_rows(self, rows: list[dict[str, Any]], remedy: str) -> None:
        """Take over saved states, one a seed, all at the same step.

        Args:
            rows: of `seed_rows`.
            remedy: what to do where they do not fit.

        Raises:
            UserError: an array has another shape than this state's; names it and both.
        """
        for name in _BY_SEED:
            _place(getattr(self, name), [row[name] for row in rows], self.step.device, _SAID.get(name, name), remedy)
        self.step.copy_(rows[0]["step"])


_BY_SEED = ("flat", "first", "second", "count", "own", "active", "diverged_at", "logged")
# What is said of them to people.
_SAID = {"flat": "parameters of", "own": "the method's state"}


def _pick(value: Any, row: int) -> Any:
    return (
        {key: _pick(item, row) for key, item in value.items()} if isinstance(value, dict) else value[row].cpu().clone()
    )


def _place(into: Any, rows: list[Any], device: torch.device, said: str, remedy: str) -> None:
    if isinstance(into, dict):
        for key in rows[0]:
            if key not in into:
                first = rows[0][key]
                into[key] = torch.zeros((len(rows), *first.shape), dtype=first.dtype, device=device)
            _place(into[key], [row[key] for row in rows], device, f"{said} {key}", remedy)
        return
    for row in rows:
        if row.shape != into.shape[1:]:
            shapes = f"the shape {list(row.shape)} in the checkpoint and {list(into.shape[1:])} by this run's settings"
            raise UserError(f"{said} have {shapes}", remedy)
    into.copy_(torch.stack(rows))


def initial_state(agent: Agent, generators: list[torch.Generator], device: torch.device) -> TrainState:
    """A fresh state; each seed's parameters come from its own generator."""
    seeds = len(generators)
    flat: dict[str, Tensor] = {}
    for name, group in agent.groups.items():
        flat[name] = group.layout.initial(generators).to(device)
        if group.target:
            flat[f"target_{name}"] = flat[name].clone()
    return TrainState(
        flat=flat,
        first={name: torch.zeros_like(flat[name]) for name in agent.groups},
        second={name: torch.zeros_like(flat[name]) for name in agent.groups},
        count={name: torch.zeros(seeds, device=device) for name in agent.groups},
        own={name: value.to(device) for name, value in agent.initial_state(seeds).items()},
        step=torch.zeros((), dtype=torch.int64, device=device),
        active=torch.ones(seeds, dtype=torch.bool, device=device),
        diverged_at=torch.full((seeds,), -1, dtype=torch.int64, device=device),
    )


def views_of(agent: Agent, flat: Mapping[str, Tensor]) -> Parameters:
    """Named views of every group and target that `flat` has."""
    return Parameters(
        {name: agent.groups[name.removeprefix("target_")].layout.views(array) for name, array in flat.items()}
    )


def gradients(
    agent: Agent, flat: Mapping[str, Tensor], batch: Batch, draws: Draws, own: Mapping[str, Tensor], losses: Callable
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """Gradients `[S, P]` of each group, the loss `[S]`, and what it logged. Losses are summed: seeds do not mix."""
    leaves = {name: flat[name].detach().requires_grad_() for name in agent.groups}
    loss, info = losses({**flat, **leaves}, batch, draws, own)
    if loss.dim() == 1:
        found = torch.autograd.grad(loss.sum(), list(leaves.values()))
        return dict(zip(leaves, found, strict=True)), loss.detach(), info
    jacobians = _jacobians(loss, leaves)
    gradient = {}
    for name, jacobian in jacobians.items():
        weighting = agent.groups[name].weighting
        if weighting is None:
            gradient[name] = jacobian.sum(1)
        else:
            gradient[name], told = combined(jacobian, weighting)
            info = {**info, **told}
    return gradient, loss.detach().sum(1), info


def _jacobians(objectives: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients `[S, J, P]` of objectives `[S, J]` by group: a backward pass for each objective."""
    rows = [
        torch.autograd.grad(
            objective.sum(), list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for objective in objectives.unbind(1)
    ]
    return {name: torch.stack(of_group, 1) for name, of_group in zip(leaves, zip(*rows, strict=True), strict=True)}


def losses_of(
    agent: Agent, flat: Mapping[str, Tensor], batch: Batch, draws: Draws, own: Mapping[str, Tensor]
) -> Losses:
    """The agent's losses of flat parameters, in the precision of its settings; TF32 is a switch of the device's."""
    return agent.losses(views_of(agent, in_precision(agent, flat)), batch, draws, own)


def in_precision(agent: Agent, flat: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Flat parameters as the losses see them: rounded where the settings ask for bf16."""
    if agent.settings.precision != "bf16":
        return flat
    return {name: array.bfloat16() for name, array in flat.items()}


class Updater:
    """Updates a state in place.

    Args:
        agent: the method.
        state: what it trains.
        value_limit: a seed whose mean value `q` exceeds this in magnitude has diverged, as has one whose loss is not
            finite.
        compiled: compile losses and optimiser; needs a C++ compiler, and an agent that is `compilable`.
        backend: what compiles them, by torch's name for it; `aot_eager` traces them and runs them as they are.

    Raises:
        ValueError: `compiled`, and the agent cannot be.
    """

    def __init__(
        self, agent: Agent, state: TrainState, value_limit: float, *, compiled: bool = False, backend: str = "inductor"
    ) -> None:
        if compiled and not agent.compilable:
            raise ValueError("an update whose objectives are weighed on the processor cannot be compiled")
        self.agent, self.state, self.value_limit = agent, state, value_limit
        options = INDUCTOR if backend == "inductor" else None
        compile_ = partial(torch.compile, dynamic=False, backend=backend, options=options)
        self._losses: Callable = compile_(self._losses_of) if compiled else self._losses_of
        self._step: Callable = compile_(self._apply) if compiled else self._apply

    def __call__(self, batch: Batch, draws: Draws) -> None:
        """One update on a batch with its draws."""
        seen = {"step": self.state.step, **self.state.own}
        found, loss, info = gradients(self.agent, self.state.flat, batch, draws, seen, self._losses)
        if not self.state.logged:
            self.state.logged = {name: torch.zeros_like(value) for name, value in info.items() if value.dim() == 1}
        self._step(found, loss, {name: value.detach() for name, value in info.items()})

    def _losses_of(self, flat: Mapping[str, Tensor], batch: Batch, draws: Draws, own: Mapping[str, Tensor]) -> Losses:
        return losses_of(self.agent, flat, batch, draws, own)

    @torch.no_grad()
    def _apply(self, found: Mapping[str, Tensor], loss: Tensor, info: Mapping[str, Tensor]) -> None:
        state = self.state
        healthy = torch.isfinite(loss)
        if "q" in info:
            healthy = healthy & (info["q"].abs() <= self.value_limit)
        state.diverged_at.copy_(torch.where(state.active & ~healthy, state.step, state.diverged_at))
        state.active.logical_and_(healthy)
        rates = self.agent.learning_rates(state.step)
        for name, group in self.agent.groups.items():
            self._step_group(name, group, found[name], rates[name])
        own = self.agent.next_state(state.own, state.step, info)
        for name, value in state.own.items():
            value.copy_(torch.where(_along(state.active, value), own[name], value))
        for name, total in state.logged.items():
            total.copy_(torch.where(state.active, total + info[name], total))
        state.step.add_(1)

    def _step_group(self, name: str, group: Group, gradient: Tensor, rate: Tensor | float) -> None:
        """Adam (Kingma and Ba 2015) on the clipped gradient, then the target."""
        state = self.state
        learns = (state.step + 1) % group.interval == 0
        due = state.active.unsqueeze(1) if group.coasts else (state.active & learns).unsqueeze(1)
        if group.coasts:
            gradient = torch.where(learns, gradient, 0.0)
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient = gradient * (group.max_grad_norm / norm).clamp(max=1.0)
        count = state.count[name] + 1
        first = torch.lerp(state.first[name], gradient, 1.0 - _BETA_1)
        second = torch.lerp(state.second[name], gradient.square(), 1.0 - _BETA_2)
        correction_1 = (1.0 - _BETA_1**count).unsqueeze(1)
        correction_2 = (1.0 - _BETA_2**count).unsqueeze(1)
        change = rate * (first / correction_1) / ((second / correction_2).sqrt() + _EPSILON)
        flat = state.flat[name] - change
        if group.target and group.target_lags:
            self._move_target(name, group, due, state.flat[name])
        state.first[name].copy_(torch.where(due, first, state.first[name]))
        state.second[name].copy_(torch.where(due, second, state.second[name]))
        state.count[name].copy_(torch.where(due.squeeze(1), count, state.count[name]))
        state.flat[name].copy_(torch.where(due, flat, state.flat[name]))
        if group.target and not group.target_lags:
            self._move_target(name, group, due, flat)

    def _move_target(self, name: str, group: Group, due: Tensor, flat: Tensor) -> None:
        target = self.state.flat[f"target_{name}"]
        due = due & ((self.state.step + 1) % group.target_interval == 0)
        target.copy_(torch.where(due, torch.lerp(target, flat, self.agent.tau), target))


def _along(mask: Tensor, value: Tensor) -> Tensor:
    """A mask `[S]` shaped to broadcast along the seed axis of `value`."""
    return mask.view(-1, *[1] * (value.dim() - 1))
