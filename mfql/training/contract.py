"""An agent of one's own held against the contract of `mfql.agents.interface`, before anything is trained with it.

What breaks it is seldom an error in training: a mean over seeds too, random numbers that are no argument and shapes
that broadcasting lets pass all train, and give results that depend on which seeds train beside a seed, or that no
second run gives again. So each function of an agent is asked with a few random rows: twice, with other states of the
process's random generators, and with two seeds as well as with each of them alone. Nothing of it is left in the process
that would change a number of a run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from mfql.agents.interface import Agent, Draw, Group, Losses
from mfql.agents.parameters import Layout
from mfql.agents.update import Updater, gradients, initial_state, losses_of, views_of
from mfql.data.transitions import StackedImages
from mfql.declared import EXTRA_FIELDS
from mfql.draws import BLOCK, DrawStream, generator
from mfql.errors import UserError, errors_of, nearest, warn
from mfql.footprint import NUMBER, require_memory
from mfql.settings import Settings
from mfql.training.device import set_precision
from mfql.training.footprint import memory_of
from mfql.training.images import shift_draws

_SEEDS = (0, 1)
# Of the first batch; a prime, so that few sizes of an agent's own are the same.
_ROWS = 7
_ROWS_OF_DATA = 64
# By so much, as a share of the largest number, two results may differ that rounding alone tells apart; a gradient,
# which jumps where a unit or a pixel is the largest by rounding, by so much of its length; and any by so much, since
# what cancels out leaves rounding alone.
_ROUNDING, _JUMPS, _CANCELLED = 1e-4, 1e-2, 1e-5
_GRADIENT, _LOSS = "the gradient of ", "the loss"
# Weights are moved by so much from where they start: of zeros nothing is seen.
_MOVED = 0.02
_KINDS = get_args(get_type_hints(Draw)["kind"])
_TAKEN = "rows"
_READ = "mfql/agents/interface.py says what each function of an agent gets and gives (docs/extend.md)."
_ALONE = (
    "Nothing may be taken together over the first axis, that of the seeds: a mean or a sum names its axes, as .mean(1) "
    "does. Else a seed's result depends on the seeds that train beside it."
)
_PURE = (
    "A run must follow from its seed: name random arrays in update_draws, act_draw, explore_draw or diagnose_draws, "
    "take them as arguments, and keep nothing on the agent from one call to the next (docs/extend.md)."
)

# What a function of an agent gives, by what it is called in a message; each with the axis of the seeds first.
Outputs = dict[str, Tensor]


def require_contract(
    kind: type[Agent],
    file: Path,
    settings: Settings,
    observation_shape: tuple[int, ...],
    action_dim: int,
    device: torch.device,
) -> None:
    """Refuse an agent that breaks its contract, at the sizes that it is trained with.

    Args:
        kind: the agent's class.
        file: where it is written; named in errors.
        settings: of the run.
        observation_shape, action_dim: of the task.
        device: that the run trains on.

    Raises:
        UserError: names the class, its file and the function, says what it gives and what it must give; of an error of
            the agent's own code, the lines that led to it.
    """

    def held(rows: int, index: int) -> None:
        # In bf16 a share of another seed is hidden in rounding.
        for precision in dict.fromkeys((settings.precision, "float32")):
            made = partial(replace, settings, batch_size=rows, precision=precision)
            _Trial(kind, file, made, observation_shape, action_dim, device).run(index)

    with _nothing_left(settings, device):
        try:
            held(min(_ROWS, settings.batch_size), 0)
        except UserError:
            # It may need as many rows as it trains on, and by chance rounding may have turned the choice of a maximum.
            held(settings.batch_size, 1)


@dataclass(frozen=True)
class _Given:
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
        return len(self.batch["rewards"])

    @property
    def rows(self) -> int:
        return self.batch["rewards"].shape[1]

    @property
    def state(self) -> dict[str, Tensor]:
        """The state as `losses` gets it."""
        return {"step": torch.tensor(self.step, device=self.batch["rewards"].device), **self.own}

    def of(self, row: slice) -> _Given:
        """Copies of what some seeds get."""
        parts = {name: value for name, value in vars(self).items() if name != "step"}
        taken = {name: {key: one[row].clone() for key, one in part.items()} for name, part in parts.items()}
        return _Given(**taken, step=self.step)


_BOTH = slice(None)


class _Trial:
    """One agent, asked with rows of one batch.

    Args:
        made: gives the settings.
    """

    def __init__(
        self,
        kind: type[Agent],
        file: Path,
        made: Callable[[], Settings],
        observation_shape: tuple[int, ...],
        action_dim: int,
        device: torch.device,
    ) -> None:
        self.kind, self.file, self.device = kind, file, device
        self.sizes = f"D = {' x '.join(map(str, observation_shape))}, A = {action_dim}"
        self.odd: list[str] = []
        self.draw_names: list[str] = []
        if lacking := sorted(kind.__abstractmethods__):
            raise UserError(f"{file}: {kind.__name__} lacks {', '.join(lacking)}", f"Write them: {_READ}")
        with self._calling("__init__"):
            self.settings = made()
            self.agent = kind(self.settings, observation_shape, action_dim)
        self._require_declarations()
        self.unweighted = copy(self.agent)
        self.unweighted.groups = {name: replace(one, weighting=None) for name, one in self.agent.groups.items()}

    def run(self, index: int) -> None:
        """Ask each function.

        Args:
            index: of the random numbers.
        """
        given = self._given(index)
        acting = self._groups_that_act(given)
        asked: dict[str, Callable[[_Given], Outputs]] = {
            # First, since losses may ask for actions.
            "act": partial(self._acted, "act", acting),
            "losses": self._losses,
            "diagnostics": self._diagnosed,
            "data_values": self._valued,
        }
        if "online" in self.agent.stages:
            asked |= {"explore": partial(self._acted, "explore", acting), "carried_state": self._carried}
        if self.kind.single is not Agent.single:
            asked["single"] = partial(self._single, acting)
        for method, ask in asked.items():
            self._hold(method, ask, given)
        # What has a part in the loss later on is seen in the middle, and what has none at first at the start.
        self._hold("losses", self._losses, replace(given, step=max(1, self.settings.offline_steps // 2)))
        self._update(given)
        for said in self.odd:
            warn(said)

    # --- what is asked, and how ---------------------------------------------------------------------------------------

    def _hold(self, method: str, ask: Callable[[_Given], Outputs], given: _Given) -> None:
        """Ask a function twice with both seeds, and with each alone."""
        both = self._twice(method, lambda: self._left_alone(method, ask, given))
        if self.settings.precision == "bf16":
            return
        for seed in range(len(_SEEDS)):
            row = slice(seed, seed + 1)
            alone = self._once(method, partial(ask, given.of(row)), 1)
            of_seed = {name: value[row] for name, value in both.items()}
            if found := _difference(of_seed, alone):
                raise self._fault(
                    method, f"mixes seeds: {found[0]} of a seed is another beside a second seed, {found[1]}", _ALONE
                )

    def _twice(self, method: str, ask: Callable[[], Outputs]) -> Outputs:
        """What a function gives, if it gives it again whatever the process's random generators are at."""
        first, second = (self._once(method, ask, start) for start in (1, 2))
        if found := _difference(first, second):
            raise self._fault(
                method,
                f"does not follow from its arguments: asked again, it gives {found[0]} otherwise, {found[1]}",
                _PURE,
            )
        return first

    def _once(self, method: str, ask: Callable[[], Outputs], start: int) -> Outputs:
        """What a function gives, without random numbers of the process's generators, which begin at a number."""
        _start_generators(self.device, start)
        before = _generators(self.device)
        with self._calling(method):
            found = ask()
        after = _generators(self.device)
        if drawn := [name for name, state in before.items() if state != after[name]]:
            raise self._fault(method, f"draws random numbers from the generator of {' and of '.join(drawn)}", _PURE)
        return found

    def _left_alone(self, method: str, ask: Callable[[_Given], Outputs], given: _Given) -> Outputs:
        """What a function gives, if it leaves parameters and state as they are."""
        taken = given.of(_BOTH)
        found = ask(taken)
        for said, before, after in (("parameters of", given.flat, taken.flat), ("state", given.own, taken.own)):
            if changed := [name for name in before if not torch.equal(before[name], after[name])]:
                raise self._fault(
                    method,
                    f"changes the {said} {changed[0]} in place",
                    "Make new tensors; next_state gives the state's next ones.",
                )
        return found

    @contextmanager
    def _calling(self, method: str) -> Iterator[None]:
        with errors_of(f"{self._where(method)} ({self.sizes})", partial(self._remedy, method)):
            yield

    def _where(self, method: str) -> str:
        return f"{self.file}: {self.kind.__name__}.{method}"

    def _fault(self, method: str, what: str, remedy: str) -> UserError:
        return UserError(f"{self._where(method)} {what}", remedy)

    def _remedy(self, method: str, error: Exception) -> str:
        """What to do about an error of the agent's own code."""
        if not isinstance(error, KeyError) or method == "__init__":
            return f"Correct it there. {_READ}"
        name = str(error.args[0]) if error.args else ""
        if name in EXTRA_FIELDS:
            return f'A batch has {name} where the agent asks for it: extra_fields = ("{name}",).'
        has = {
            "groups": [*self.agent.groups, *(f"target_{key}" for key, one in self.agent.groups.items() if one.target)],
            "draws": self.draw_names,
            "fields of a batch": ["observations", "next_observations", "actions", "rewards", "masks"],
        }
        has["fields of a batch"] += list(self.agent.extra_fields)
        near = nearest(name, {one for names in has.values() for one in names})
        listed = "; ".join(f"{what} are {', '.join(names)}" for what, names in has.items() if names)
        meant = f"Did you mean {' or '.join(near)}? " if near else ""
        return f"{meant}Here {listed}."

    # --- what the functions get ---------------------------------------------------------------------------------------

    def _given(self, index: int) -> _Given:
        agent, settings = self.agent, self.settings
        drawn = self._drawn("update_draws", agent.update_draws)
        diagnosed = self._drawn("diagnose_draws", agent.diagnose_draws)
        acting = {
            name: Draw(draw.kind, (settings.batch_size, *draw.shape))
            for name in ("act", "explore")
            if (draw := self._one_draw(f"{name}_draw", getattr(agent, f"{name}_draw"))) is not None
        }
        self.draw_names = sorted({*drawn, *diagnosed})
        self._require_room([*drawn.values(), *diagnosed.values(), *acting.values()])
        memory = memory_of(
            agent,
            _ROWS_OF_DATA + 2 * agent.horizon,
            len(_SEEDS),
            0,
            self.device,
            partial(_filled, np.random.default_rng(index)),
        )
        rows = self._stream({_TAKEN: Draw("integer", (settings.batch_size,))}, index)[_TAKEN]
        batch = memory.batch(rows)
        flat, own = self._initial(index)
        noise = self._stream(acting, index)
        return _Given(flat, batch, self._stream(drawn, index), self._stream(diagnosed, index), own, noise, step=0)

    def _stream(self, draws: Mapping[str, Draw], index: int) -> dict[str, Tensor]:
        return DrawStream(draws, _SEEDS, "contract", self.device).at(index)

    def _drawn(self, method: str, declared: Callable[[], dict[str, Draw]]) -> dict[str, Draw]:
        with self._calling(method):
            draws = declared()
        if not isinstance(draws, Mapping):
            raise self._fault(method, f"gives {_said(draws)}", "It is a dict of Draw, each by its name.")
        for name, draw in draws.items():
            self._require_draw(method, f"{name} is", draw)
            if name in (_TAKEN, *shift_draws(1)):
                raise self._fault(method, f"names a draw {name}, as the trainer's own", "Give it another name.")
        return dict(draws)

    def _one_draw(self, method: str, declared: Callable[[], Draw | None]) -> Draw | None:
        with self._calling(method):
            draw = declared()
        if draw is not None:
            self._require_draw(method, "gives", draw)
        return draw

    def _require_draw(self, method: str, said: str, draw: Any) -> None:
        expected = "It is Draw(kind, shape), the shape a tuple of whole numbers without the axis of the seeds."
        if not isinstance(draw, Draw):
            raise self._fault(method, f"{said} {_said(draw)}", expected)
        if draw.kind not in _KINDS:
            raise self._fault(method, f"{said} of the kind {draw.kind!r}", f"Kinds are {', '.join(_KINDS)}.")
        if not isinstance(draw.shape, tuple) or not all(isinstance(one, int) and one >= 0 for one in draw.shape):
            raise self._fault(method, f"{said} of the shape {draw.shape!r}", expected)

    def _require_room(self, draws: Collection[Draw]) -> None:
        """On a processor what takes too much memory would end the process."""
        weights = sum(group.layout.width * (4 if group.target else 3) for group in self.agent.groups.values())
        drawn = BLOCK * sum(math.prod(draw.shape) for draw in draws)
        if self.device.type == "cpu":
            require_memory(
                f"{self.file}: an update of {self.kind.__name__} of {len(_SEEDS)} seeds",
                len(_SEEDS) * NUMBER * (weights + drawn),
                "Correct the settings that size its networks and draws, or train on a machine with more memory.",
            )

    def _initial(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters near the initial ones, and the agent's initial state."""

        def initial() -> Outputs:
            state = initial_state(self.agent, [generator(torch.device("cpu"), one) for one in _SEEDS], self.device)
            self._require_arrays("initial_state", "its ", state.own, len(_SEEDS))
            return {f"flat/{name}": one for name, one in state.flat.items()} | {
                f"own/{name}": one for name, one in state.own.items()
            }

        found = self._twice("initial_state, or an initialiser of its groups,", initial)
        flat, own = (
            {name[len(of) :]: one for name, one in found.items() if name.startswith(of)} for of in ("flat/", "own/")
        )
        source = generator(torch.device("cpu"), "contract", index)
        moves = {name: torch.randn(one.shape, generator=source).to(self.device) for name, one in flat.items()}
        return {name: one + _MOVED * moves[name] for name, one in flat.items()}, own

    # --- what they must give ------------------------------------------------------------------------------------------

    def _require_declarations(self) -> None:
        agent, name = self.agent, self.kind.__name__

        def refused(what: str, remedy: str) -> UserError:
            return UserError(f"{self.file}: {name}: {what}", remedy)

        groups = getattr(agent, "groups", None)
        if not isinstance(groups, Mapping) or not groups:
            raise refused(f"groups is {_said(groups)}", "Set self.groups in __init__, a dict of Group by names.")
        for key, group in groups.items():
            if not isinstance(group, Group) or not isinstance(group.layout, Layout):
                raise refused(f"its group {key} is {_said(group)}", "It is Group(layout), of a network's layout.")
            if key.startswith("target_"):
                raise refused(
                    f"it has a group {key}", "Names that begin with target_ are of the targets: name it otherwise."
                )
        fields: Any = agent.extra_fields
        if isinstance(fields, str) or not set(fields) <= set(EXTRA_FIELDS):
            raise refused(
                f"extra_fields is {fields!r}", f"It is a tuple, such as ('mc_returns',), of {', '.join(EXTRA_FIELDS)}."
            )
        share, updates = agent.online_share, agent.updates_per_step
        if share is not None and not 0 <= share <= 1:
            raise refused(f"online_share is {share!r}", "It is None or a share in [0, 1].")
        if not isinstance(updates, int) or updates < 1:
            raise refused(f"updates_per_step is {updates!r}", "It is a whole number, one or more.")

    def _losses(self, given: _Given) -> Outputs:
        """The loss, its gradients, what is logged and the next state."""

        def asked(flat: Any, batch: Any, draws: Any, state: Any) -> Losses:
            found = losses_of(self.agent, flat, batch, draws, state)
            self._require_losses(found, given)
            self._require_reached(found[0], {name: flat[name] for name in self.agent.groups})
            return found

        found, loss, info = gradients(self.unweighted, given.flat, given.batch, given.draws, given.state, asked)
        info = {name: value.detach() for name, value in info.items()}
        self._say_if_not_finite(loss)
        return {
            _LOSS: loss,
            **{f"{_GRADIENT}{name}": value for name, value in found.items()},
            **{f"{name}, which is logged,": value for name, value in info.items()},
            **{f"the state {name}": value for name, value in self._following(given, info).items()},
        }

    def _require_losses(self, found: Any, given: _Given) -> None:
        match found:
            case (Tensor() as loss, Mapping() as info):
                pass
            case _:
                raise self._fault("losses", f"gives {_said(found)}", "It gives the loss [S] and a dict of what to log.")
        seeds, rows = given.seeds, given.rows
        weighed = any(group.weighting is not None for group in self.agent.groups.values())
        shaped = f"with {seeds} seed{'s' * (seeds > 1)} and {rows} rows"
        if weighed and (loss.dim() != 2 or len(loss) != seeds or loss.shape[1] == rows):
            raise self._fault(
                "losses",
                f"gives a loss of the shape {_shape(loss)} {shaped}",
                "Where a group has a weighting, it is [S, J], each seed's objectives: torch.stack(objectives, 1).",
            )
        if not weighed and loss.shape != (seeds,):
            raise self._fault(
                "losses",
                f"gives a loss of the shape {_shape(loss)} {shaped}",
                f"It is [S], here [{seeds}], one number a seed: .mean(1) of [S, B], .mean((1, 2)) of [S, B, A]. "
                "A mean without axes is over the seeds too.",
            )
        if not loss.is_floating_point():
            raise self._fault("losses", f"gives a loss of {loss.dtype}", "It is of floating point.")
        self._require_logged(info, seeds, shaped)

    def _require_logged(self, info: Mapping[str, Any], seeds: int, shaped: str) -> None:
        remedy = f"It is a tensor [S], here [{seeds}], one number a seed, such as .mean(1) of [S, B]"
        for name, value in info.items():
            if not isinstance(value, Tensor):
                raise self._fault("losses", f"logs {name}, which is {_said(value)}", f"{remedy}.")
            # What has more axes is for the next state, and is not logged.
            fits = value.dim() > 0 and len(value) == seeds and (value.dim() == 1 or bool(self._has_state))
            if not fits:
                raise self._fault("losses", f"logs {name} of the shape {_shape(value)} {shaped}", f"{remedy}.")
            if not value.is_floating_point() and value.dim() == 1:
                raise self._fault("losses", f"logs {name} of {value.dtype}", f"{remedy}, of floating point: .float().")

    @property
    def _has_state(self) -> bool:
        return bool(self.agent.initial_state(1))

    def _require_reached(self, loss: Tensor, leaves: Mapping[str, Tensor]) -> None:
        """The gradient of the loss reaches every group, be it zero."""
        reached: list[Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:
            reached = list(torch.autograd.grad(loss.sum(), list(leaves.values()), retain_graph=True, allow_unused=True))
        if left := [name for name, found in zip(leaves, reached, strict=True) if found is None]:
            raise self._fault(
                "losses",
                f"gives a loss that has no gradient for the group {' and '.join(left)}",
                "Every group trains by the loss: use its parameters there without detach() and torch.no_grad(), or "
                "leave the group out. To hold it back for some steps, give the terms a weight of 0.",
            )

    def _say_if_not_finite(self, loss: Tensor) -> None:
        said = (
            f"{self._where('losses')} gives a loss that is not finite on random rows; a seed whose loss is so diverges"
        )
        if not torch.isfinite(loss).all() and said not in self.odd:
            self.odd.append(said)

    def _following(self, given: _Given, info: Mapping[str, Tensor]) -> Outputs:
        with torch.no_grad(), self._calling("next_state"):
            found = self.agent.next_state(given.own, given.state["step"], info)
        self._require_state("next_state", found, given.own)
        return {name: found[name] for name in given.own}

    def _carried(self, given: _Given) -> Outputs:
        """The state of each seed as online training takes it over."""
        rows = []
        for row in range(given.seeds):
            own = {name: value[row] for name, value in given.own.items()}
            found = self.agent.carried_state(own, self.settings.as_dict())
            self._require_state("carried_state", found, own, lenient=True)
            rows.append({name: found[name] for name in own if name in found})
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _require_state(self, method: str, found: Any, own: Mapping[str, Tensor], *, lenient: bool = False) -> None:
        if not isinstance(found, Mapping):
            raise self._fault(method, f"gives {_said(found)}", "It gives a dict of the state's arrays.")
        for name, before in own.items():
            if name not in found and not lenient:
                raise self._fault(method, f"gives no {name}", "It gives all that initial_state has.")
            after = found.get(name, before)
            if not isinstance(after, Tensor) or after.shape != before.shape:
                raise self._fault(
                    method, f"gives {name} as {_said(after)}", f"It is a tensor of {_shape(before)}, as before."
                )

    def _groups_that_act(self, given: _Given) -> list[str]:
        with self._calling("act_groups"):
            names: Any = self.agent.act_groups()
        if isinstance(names, str) or not set(names) <= set(given.flat):
            raise self._fault(
                "act_groups", f"gives {names!r}", f"It is a tuple of names out of {', '.join(given.flat)}."
            )
        return list(names)

    def _acted(self, method: str, groups: list[str], given: _Given) -> Outputs:
        """Actions, as evaluation takes them with prepared parameters and exploration without."""
        agent = self.agent
        choose = agent.act if method == "act" else agent.explore
        with torch.no_grad():
            parameters = views_of(agent, {name: given.flat[name] for name in groups})
            actions = choose(
                agent.prepared(parameters) if method == "act" else parameters,
                given.batch["observations"],
                given.noise.get(method),
            )
        self._require_actions(method, actions, (given.seeds, given.rows, agent.chunk_dim))
        return {"an action": actions}

    def _require_actions(self, method: str, actions: Any, shape: tuple[int, ...]) -> None:
        if not isinstance(actions, Tensor) or actions.shape != shape:
            said = f"gives {_said(actions)} with S = {shape[0]} and B = {shape[1]}"
            raise self._fault(method, said, f"It gives actions [S, B, A], here {list(shape)}; of chunks [S, B, h A].")
        if actions.dtype not in (torch.float32, torch.float64):
            raise self._fault(method, f"gives actions of {actions.dtype}", "They are of float32: .float().")
        if not torch.isfinite(actions).all():
            raise self._fault(method, "gives actions that are not finite", "They are finite, in [-1, 1].")

    def _single(self, groups: list[str], given: _Given) -> Outputs:
        """Actions of each seed by what `single` makes, which are those of `act`."""
        expected = self._acted("act", groups, given)["an action"]
        found, noise = [], given.noise.get("act")
        with torch.no_grad():
            for row in range(given.seeds):
                one = views_of(self.agent, {name: given.flat[name][row : row + 1] for name in groups})
                choose = self.agent.single(self.agent.prepared(one))
                found.append(choose(given.batch["observations"][row], None if noise is None else noise[row]))
        actions = torch.stack(found)
        self._require_actions("single", actions, tuple(expected.shape))
        if _difference({"an action": expected}, {"an action": actions}):
            raise self._fault(
                "single", "gives other actions than act", "It is act of one seed: mend it, or leave it out."
            )
        return {"an action": actions}

    def _diagnosed(self, given: _Given) -> Outputs:
        with torch.no_grad():
            parameters = views_of(self.agent, given.flat)
            found = self.agent.diagnostics(parameters, given.batch, given.diagnosed, given.own)
        if not isinstance(found, Mapping):
            raise self._fault("diagnostics", f"gives {_said(found)}", "It gives a dict of tensors [S].")
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.shape != (given.seeds,):
                raise self._fault(
                    "diagnostics",
                    f"gives {name} as {_said(value)} with S = {given.seeds} and B = {given.rows}",
                    f"It is a tensor [S], here [{given.seeds}], one number a seed.",
                )
        return dict(found)

    def _valued(self, given: _Given) -> Outputs:
        with torch.no_grad():
            found = self.agent.data_values(views_of(self.agent, given.flat), given.batch)
        shape = (given.seeds, given.rows)
        if found is None:
            return {}
        if not isinstance(found, Tensor) or found.shape != shape:
            raise self._fault(
                "data_values", f"gives {_said(found)}", f"It gives values [S, B], here {list(shape)}, or None."
            )
        return {"a value": found}

    def _require_arrays(self, method: str, said: str, arrays: Mapping[str, Any], seeds: int) -> None:
        for name, value in arrays.items():
            if value.dim() == 0 or len(value) != seeds:
                raise self._fault(method, f"gives {name} of the shape {_shape(value)}", "It is [S, ...], a row a seed.")

    def _update(self, given: _Given) -> None:
        """A whole update: learning rates, optimiser, targets, weights of objectives."""
        step = torch.zeros((), dtype=torch.int64, device=self.device)
        with self._calling("learning_rates"):
            rates: Mapping[str, Any] = self.agent.learning_rates(step)
        for name in self.agent.groups:
            if name not in rates:
                raise self._fault(
                    "learning_rates",
                    f"gives none for the group {name}",
                    f"It gives one for each of {', '.join(self.agent.groups)}.",
                )
            if isinstance(rates[name], Tensor) and rates[name].numel() != 1:
                raise self._fault(
                    "learning_rates", f"gives {_said(rates[name])} for the group {name}", "It is one number."
                )
        with self._calling("losses, in an update,"):
            state = initial_state(self.agent, [generator(torch.device("cpu"), one) for one in _SEEDS], self.device)
            taken = given.of(_BOTH)
            Updater(self.agent, state, math.inf)(taken.batch, taken.draws)


def _filled(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray | StackedImages:
    """A field of a dataset's rows at random."""
    rows = shape[0]
    if len(shape) > 2:
        return StackedImages(rng.integers(0, 256, shape, np.uint8), np.arange(rows)[:, None])
    if name in ("actions", "next_actions"):
        return rng.uniform(-0.99, 0.99, shape).astype(np.float32)
    if name == "rewards":
        return rng.uniform(-1.0, 0.0, shape).astype(np.float32)
    if name == "masks":
        return (rng.random(shape) > 0.1).astype(np.float32)
    if name == "ends":
        return (np.arange(rows) == rows - 1).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def _difference(first: Outputs, second: Outputs) -> tuple[str, str] | None:
    """What of two results differs by more than rounding lets it, and how."""
    if first.keys() != second.keys():
        return " and ".join(sorted(first.keys() ^ second.keys())), "which one of them lacks"
    least = _CANCELLED * max(1.0, _size(second[_LOSS], math.inf) if _LOSS in second else 1.0)
    for name, one in first.items():
        other = second[name]
        if torch.equal(one, other):
            continue
        if one.shape != other.shape:
            return name, f"{_shape(one)} and {_shape(other)}"
        if not torch.equal(one.isfinite(), other.isfinite()):
            return name, "where one of them is not finite"
        norm, share = (2.0, _JUMPS) if name.startswith(_GRADIENT) else (math.inf, _ROUNDING)
        if _size(one.float() - other.float(), norm) > share * _size(other, norm) + least:
            gap, largest = _size(one.float() - other.float(), math.inf), _size(other, math.inf)
            return name, f"by {gap:.2g}, where the largest number is {largest:.2g}"
    return None


def _size(value: Tensor, norm: float) -> float:
    """The norm of the finite numbers."""
    return float(torch.linalg.vector_norm(value[value.isfinite()].float(), norm)) if value.isfinite().any() else 0.0


def _said(value: Any) -> str:
    """A value that is not what it must be."""
    if isinstance(value, Tensor):
        return f"a tensor of the shape {_shape(value)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_said, value))})"
    return "None" if value is None else f"a {type(value).__name__}"


def _shape(value: Tensor) -> str:
    return str(list(value.shape))


def _start_generators(device: torch.device, number: int) -> None:
    """Have the process's random generators begin at a number."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002 - the generator that an agent must not draw from
    random.seed(number)


def _generators(device: torch.device) -> dict[str, bytes]:
    """The states of the process's random generators."""
    of_device = {"torch on CUDA": torch.cuda.get_rng_state(device).numpy().tobytes()} if device.type == "cuda" else {}
    of_numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - as above
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        **of_device,
        "numpy": repr([of_numpy["state"]["key"].tobytes(), of_numpy["state"]["pos"], of_numpy["has_gauss"]]).encode(),
        "Python's random": repr(random.getstate()).encode(),
    }


@contextmanager
def _nothing_left(settings: Settings, device: torch.device) -> Iterator[None]:
    """Within it random generators may be drawn from and products are not rounded to TF32; after it all is as before."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002 - put back
    set_precision("float32", device)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002 - put back
        random.setstate(of_python)
        set_precision(settings.precision, device)
