"""What the functions of an agent give, in the shapes and types that `mfql.agents.interface` asks for.

`mfql.training.contract` asks them, and compares what they give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfql.agents.interface import Agent, Group, Losses, Parameters
from mfql.agents.parameters import Layout
from mfql.agents.update import gradients, losses_of, views_of
from mfql.declared import EXTRA_FIELDS
from mfql.errors import UserError, errors_of, nearest

READ = "mfql/agents/interface.py says what each function of an agent gets and gives (docs/extend.md)."
GRADIENT, LOSS = "the gradient of ", "the loss"
_FIELDS = ("observations", "next_observations", "actions", "rewards", "masks")
# What the weights of objectives tell, beside what the losses log; it is not looked at here.
_WEIGHED = ("conflict", "weight_share")

# What a function of an agent gives, by what it is called in a message; each with the axis of the seeds first.
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Given:
    """What an agent's functions get in a job of some seeds.

    Args:
        flat: parameters of the groups and their targets `[S, P]`.
        batch, draws, diagnosed, own: fields, draws of an update and of diagnostics, and the agent's state `[S, ...]`.
        noise: of `act` and of `explore`, where they take any.
        step: updates so far.
    """

    flat: dict[str, Tensor]
    batch: dict[str, Tensor]
    draws: dict[str, Tensor]
    diagnosed: dict[str, Tensor]
    own: dict[str, Tensor]
    noise: dict[str, Tensor]
    step: int

    @property
    def seeds(self) -> int:
        """S."""
        return len(self.batch["rewards"])

    @property
    def rows(self) -> int:
        """B."""
        return self.batch["rewards"].shape[1]

    @property
    def state(self) -> dict[str, Tensor]:
        """The state as `losses` gets it."""
        return {"step": torch.tensor(self.step, device=self.batch["rewards"].device), **self.own}

    @property
    def sizes(self) -> str:
        """S and B in words."""
        return f"with {self.seeds} seed{'s' * (self.seeds > 1)} and {self.rows} rows"

    def of(self, seeds: slice) -> Given:
        """Copies of what some seeds get."""
        parts = {name: value for name, value in vars(self).items() if name != "step"}
        taken = {name: {key: one[seeds].clone() for key, one in part.items()} for name, part in parts.items()}
        return Given(**taken, step=self.step)


class Faults:
    """Says where an agent breaks the contract: its file, its class, the function; and the lines of an error of its own.

    Args:
        kind: the agent's class.
        file: where it is written.
        sizes: B, D and A in words.

    Attributes:
        seeds: S, of those that a function is asked with.
        names: what it can look up by names, by kind.
    """

    def __init__(self, kind: type[Agent], file: Path, sizes: str) -> None:
        self.kind, self.file, self.sizes = kind, file, sizes
        self.seeds = 0
        self.names: dict[str, list[str]] = {}

    def where(self, method: str) -> str:
        """The function of an agent, as messages name it."""
        return f"{self.file}: {self.kind.__name__}.{method}"

    def of(self, method: str, what: str, remedy: str) -> UserError:
        """The error for what a function does."""
        return UserError(f"{self.where(method)} {what}", remedy)

    @contextmanager
    def calling(self, method: str) -> Iterator[None]:
        """Within it an error of the agent's own code is said as that of a function.

        Raises:
            UserError: such an error.
        """
        sizes = f"S = {self.seeds}, {self.sizes}" if self.seeds else self.sizes
        with errors_of(f"{self.where(method)} ({sizes})", self._remedy):
            yield

    def _remedy(self, error: Exception) -> str:
        """What to do about an error of the agent's own code."""
        if not isinstance(error, KeyError) or not self.names or not error.args:
            return f"Correct it there. {READ}"
        name = str(error.args[0])
        if name in EXTRA_FIELDS:
            return f'A batch has {name} where the agent asks for it: extra_fields = ("{name}",).'
        if name in self.names["groups"]:
            return f"act, explore and single get the groups that act_groups names: add {name} there."
        near = nearest(name, {one for names in self.names.values() for one in names} - {name})
        listed = "; ".join(f"{what} are {', '.join(names)}" for what, names in self.names.items() if names)
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        return f"{meant}Here {listed}."


class Answers:
    """Asks an agent's functions, and refuses what has not the shape and type that it must have.

    Args:
        agent: the agent.
        faults: says what is refused.

    Attributes:
        odd: what is refused by none and yet to be said.
    """

    def __init__(self, agent: Agent, faults: Faults) -> None:
        self.agent, self.faults = agent, faults
        self.odd: set[str] = set()
        self._require_declarations()
        groups = agent.groups
        self._weighed = any(group.weighting is not None for group in groups.values())
        # Weights that are solved for may turn with rounding; what they weigh is what is compared.
        self._unweighed = copy(agent)
        self._unweighed.groups = {name: replace(one, weighting=None) for name, one in groups.items()}
        faults.names = {
            "groups": [*groups, *(f"target_{name}" for name, one in groups.items() if one.target)],
            "fields of a batch": [*_FIELDS, *agent.extra_fields],
        }

    def _require_declarations(self) -> None:
        agent, where = self.agent, f"{self.faults.file}: {self.faults.kind.__name__}"
        groups = getattr(agent, "groups", None)
        if not isinstance(groups, Mapping) or not groups:
            raise UserError(
                f"{where}: groups is {said(groups)}", "Set self.groups in __init__, a dict of Group by names."
            )
        for name, group in groups.items():
            if not isinstance(group, Group) or not isinstance(group.layout, Layout):
                raise UserError(
                    f"{where}: its group {name} is {said(group)}", "It is Group(layout), of a network's layout."
                )
            if name.startswith("target_"):
                raise UserError(f"{where}: it has a group {name}", "Names that begin with target_ are of the targets.")
        fields: Any = agent.extra_fields
        if isinstance(fields, str) or not set(fields) <= set(EXTRA_FIELDS):
            expected = f"It is a tuple, such as ('mc_returns',), of {', '.join(EXTRA_FIELDS)}."
            raise UserError(f"{where}: extra_fields is {fields!r}", expected)
        share, updates = agent.online_share, agent.updates_per_step
        if share is not None and not 0 <= share <= 1:
            raise UserError(f"{where}: online_share is {share!r}", "It is None or a share in [0, 1].")
        if not isinstance(updates, int) or updates < 1:
            raise UserError(f"{where}: updates_per_step is {updates!r}", "It is a whole number, one or more.")

    # --- an update ----------------------------------------------------------------------------------------------------

    def losses(self, given: Given) -> Outputs:
        """The loss, its gradients, what is logged and the next state."""

        def asked(flat: Any, batch: Any, draws: Any, state: Any) -> Losses:
            found = losses_of(self.agent, flat, batch, draws, state)
            self._require_losses(found, given)
            self._require_reached(found[0], {name: flat[name] for name in self.agent.groups})
            return found

        found, loss, info = gradients(self._unweighed, given.flat, given.batch, given.draws, given.state, asked)
        info = {name: value.detach() for name, value in info.items()}
        if not torch.isfinite(loss).all():
            self.odd.add(
                f"{self.faults.where('losses')} gives a loss that is not finite on random rows; a seed whose loss is so"
                " ends as diverged"
            )
        return {
            LOSS: loss,
            **{f"{GRADIENT}{name}": value for name, value in found.items()},
            **{f"the logged {name}": value for name, value in info.items()},
            **self._following(given, info, loss),
        }

    def _require_losses(self, found: Any, given: Given) -> None:
        match found:
            case (Tensor() as loss, Mapping() as info):
                pass
            case _:
                expected = "It gives the loss [S] and a dict of what to log."
                raise self.faults.of("losses", f"gives {said(found)}", expected)
        seeds, rows = given.seeds, given.rows
        if self._weighed:
            fits = loss.dim() == 2 and len(loss) == seeds and loss.shape[1] != rows
            expected = "[S, J], each seed's objectives, where a group has a weighting: torch.stack(objectives, 1)."
        else:
            fits = loss.shape == (seeds,)
            expected = (
                f"[S], here [{seeds}], one number a seed: .mean(1) of [S, B], .mean((1, 2)) of [S, B, A]. A mean that"
                " names no axes is over the seeds too."
            )
        if not fits:
            what = f"gives a loss of the shape {shape_of(loss)} {given.sizes}"
            raise self.faults.of("losses", what, f"It is {expected}")
        if not loss.is_floating_point():
            raise self.faults.of("losses", f"gives a loss of {loss.dtype}", "It is of floating point.")
        self._require_logged(info, given)

    def _require_logged(self, info: Mapping[str, Any], given: Given) -> None:
        expected = f"It is a tensor [S], here [{given.seeds}], one number a seed, such as .mean(1) of [S, B]"
        # What has more axes is for the next state, and is not logged.
        most = None if self.agent.initial_state(1) else 1
        for name, value in info.items():
            if not isinstance(value, Tensor):
                raise self.faults.of("losses", f"logs {name}, which is {said(value)}", f"{expected}.")
            if value.dim() == 0 or len(value) != given.seeds or value.dim() > (most or value.dim()):
                what = f"logs {name} of the shape {shape_of(value)} {given.sizes}"
                raise self.faults.of("losses", what, f"{expected}.")
            if value.dim() == 1 and not value.is_floating_point():
                raise self.faults.of(
                    "losses", f"logs {name} of {value.dtype}", f"{expected}, of floating point: .float()."
                )

    def _require_reached(self, loss: Tensor, leaves: Mapping[str, Tensor]) -> None:
        """The gradient of the loss reaches every group, be it zero."""
        reached: list[Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:
            reached = list(torch.autograd.grad(loss.sum(), list(leaves.values()), retain_graph=True, allow_unused=True))
        if left := [name for name, found in zip(leaves, reached, strict=True) if found is None]:
            raise self.faults.of(
                "losses",
                f"gives a loss that has no gradient for the group {' and '.join(left)}",
                "Every group trains by the loss: use its parameters there without detach() and torch.no_grad(), or "
                "leave the group out. To hold it back for some steps, give the terms a weight of 0.",
            )

    def _following(self, given: Given, info: Mapping[str, Tensor], loss: Tensor) -> Outputs:
        told = dict.fromkeys(_WEIGHED, torch.zeros_like(loss)) if self._weighed else {}
        with torch.no_grad(), self.faults.calling("next_state"):
            found = self.agent.next_state(given.own, given.state["step"], {**info, **told})
        self._require_state("next_state", found, given.own)
        if lacking := [name for name in given.own if name not in found]:
            raise self.faults.of("next_state", f"gives no {lacking[0]}", "It gives all that initial_state has.")
        return {f"the state {name}": found[name] for name in given.own}

    def require_rates(self, step: Tensor) -> None:
        """Refuse learning rates that are not one number a group."""
        with self.faults.calling("learning_rates"):
            rates: Mapping[str, Any] = self.agent.learning_rates(step)
        for name in self.agent.groups:
            if name not in rates:
                expected = f"It gives one for each of {', '.join(self.agent.groups)}."
                raise self.faults.of("learning_rates", f"gives none for the group {name}", expected)
            rate = rates[name]
            if not isinstance(rate, int | float | Tensor) or (isinstance(rate, Tensor) and rate.numel() != 1):
                raise self.faults.of("learning_rates", f"gives {said(rate)} for the group {name}", "It is one number.")

    # --- the state ----------------------------------------------------------------------------------------------------

    def require_initial_state(self, own: Mapping[str, Tensor], seeds: int) -> None:
        """Refuse a state that has not the axis of the seeds first."""
        for name, value in own.items():
            if value.dim() == 0 or len(value) != seeds:
                what = f"gives {name} of the shape {shape_of(value)} with S = {seeds}"
                raise self.faults.of("initial_state", what, "It is [S, ...], a row a seed.")

    def carried_state(self, given: Given) -> Outputs:
        """The state of each seed as online training takes it over."""
        rows = []
        for row in range(given.seeds):
            own = {name: value[row] for name, value in given.own.items()}
            found = self.agent.carried_state(own, self.agent.settings.as_dict())
            self._require_state("carried_state", found, own)
            rows.append({name: found[name] for name in own if name in found})
        return {f"the state {name}": torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _require_state(self, method: str, found: Any, own: Mapping[str, Tensor]) -> None:
        if not isinstance(found, Mapping):
            raise self.faults.of(method, f"gives {said(found)}", "It gives a dict of the state's arrays.")
        for name, before in own.items():
            after = found.get(name, before)
            if not isinstance(after, Tensor) or after.shape != before.shape:
                expected = f"It is a tensor of the shape {shape_of(before)}, as before."
                raise self.faults.of(method, f"gives {name} as {said(after)}", expected)

    # --- acting -------------------------------------------------------------------------------------------------------

    def groups_that_act(self, given: Given) -> list[str]:
        """The groups that `act` gets."""
        with self.faults.calling("act_groups"):
            names: Any = self.agent.act_groups()
        if isinstance(names, str) or not set(names) <= set(given.flat):
            expected = f"It is a tuple of names out of {', '.join(given.flat)}."
            raise self.faults.of("act_groups", f"gives {names!r}", expected)
        return list(names)

    def act(self, groups: list[str], given: Given) -> Outputs:
        """Actions of evaluation, of prepared parameters."""

        def choose(parameters: Parameters, *seen: Any) -> Tensor:
            return self.agent.act(self.agent.prepared(parameters), *seen)

        return self._actions("act", choose, groups, given)

    def explore(self, groups: list[str], given: Given) -> Outputs:
        """Actions of online training."""
        return self._actions("explore", self.agent.explore, groups, given)

    def _actions(self, method: str, choose: Callable[..., Any], groups: list[str], given: Given) -> Outputs:
        with torch.no_grad():
            parameters = views_of(self.agent, {name: given.flat[name] for name in groups})
            actions = choose(parameters, given.batch["observations"], given.noise.get(method))
        self._require_actions(method, actions, given)
        return {"an action": actions}

    def _require_actions(self, method: str, actions: Any, given: Given) -> None:
        shape = (given.seeds, given.rows, self.agent.chunk_dim)
        if not isinstance(actions, Tensor) or actions.shape != shape:
            expected = f"It gives actions [S, B, A], here {list(shape)}; of chunks [S, B, h A]."
            raise self.faults.of(method, f"gives {said(actions)} {given.sizes}", expected)
        if actions.dtype not in (torch.float32, torch.float64):
            raise self.faults.of(method, f"gives actions of {actions.dtype}", "They are of float32: .float().")
        if not torch.isfinite(actions).all():
            raise self.faults.of(method, "gives actions that are not finite", "They are finite, in [-1, 1].")

    def single(self, groups: list[str], given: Given) -> Outputs:
        """Actions of each seed by what `single` makes."""
        found, noise = [], given.noise.get("act")
        with torch.no_grad():
            for row in range(given.seeds):
                one = views_of(self.agent, {name: given.flat[name][row : row + 1] for name in groups})
                choose = self.agent.single(self.agent.prepared(one))
                found.append(choose(given.batch["observations"][row], None if noise is None else noise[row]))
        actions = torch.stack(found)
        self._require_actions("single", actions, given)
        return {"an action": actions}

    # --- evaluations --------------------------------------------------------------------------------------------------

    def diagnostics(self, given: Given) -> Outputs:
        """What is logged at an evaluation."""
        with torch.no_grad():
            parameters = views_of(self.agent, given.flat)
            found = self.agent.diagnostics(parameters, given.batch, given.diagnosed, given.own)
        if not isinstance(found, Mapping):
            raise self.faults.of("diagnostics", f"gives {said(found)}", "It gives a dict of tensors [S].")
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.shape != (given.seeds,):
                expected = f"It is a tensor [S], here [{given.seeds}], one number a seed."
                raise self.faults.of("diagnostics", f"gives {name} as {said(value)} {given.sizes}", expected)
        return dict(found)

    def data_values(self, given: Given) -> Outputs:
        """Values of the data's actions; nothing of a method without."""
        with torch.no_grad():
            found = self.agent.data_values(views_of(self.agent, given.flat), given.batch)
        shape = (given.seeds, given.rows)
        if found is not None and (not isinstance(found, Tensor) or found.shape != shape):
            expected = f"It gives values [S, B], here {list(shape)}, or None."
            raise self.faults.of("data_values", f"gives {said(found)}", expected)
        return {} if found is None else {"a value": found}


def said(value: Any) -> str:
    """A value that is not what it must be."""
    if isinstance(value, Tensor):
        return f"a tensor of the shape {shape_of(value)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(said, value))})"
    return "None" if value is None else f"a value of the type {type(value).__name__}"


def shape_of(value: Tensor) -> str:
    """A tensor's shape as messages have it."""
    return str(list(value.shape))
