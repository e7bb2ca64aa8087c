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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from mfql.agents.interface import Agent, Draw
from mfql.agents.update import Updater, initial_state
from mfql.data.transitions import StackedImages
from mfql.draws import BLOCK, DrawStream, generator
from mfql.errors import UserError, warn
from mfql.footprint import NUMBER, require_memory
from mfql.settings import Settings
from mfql.training.answers import GRADIENT, LOSS, READ, Answers, Faults, Given, Outputs, said, shape_of
from mfql.training.device import set_precision
from mfql.training.footprint import memory_of
from mfql.training.images import shift_draws
from mfql.training.memory import ENDS

_SEEDS = (0, 1)
# Of the first batch; a prime, so that few sizes of an agent's own are the same.
_ROWS = 7
_ROWS_OF_DATA = 64
# By so much, as a share of the largest number, two results may differ that rounding alone tells apart; a gradient,
# which jumps where a unit or a pixel is the largest by rounding, by so much of its length; and any by so much, since
# what cancels out leaves rounding alone.
_ROUNDING, _JUMPS, _CANCELLED = 1e-4, 1e-2, 1e-5
# Weights are moved by so much from where they start: of zeros nothing is seen.
_MOVED = 0.02
_KINDS = get_args(get_type_hints(Draw)["kind"])
_TAKEN = "rows"
_ALONE = (
    "Nothing may be taken together over the first axis, that of the seeds: a mean or a sum names its axes, as .mean(1) "
    "does. Else a seed's result depends on the seeds that train beside it."
)
_PURE = (
    "A run must follow from its seed: name random arrays in update_draws, act_draw, explore_draw or diagnose_draws, "
    "take them as arguments, and keep nothing on the agent from one call to the next; an initialiser draws from the "
    "generator that it is given (docs/extend.md)."
)
_MADE = (
    "Weights are of a group's layout, whose initialisers draw for each seed. What is random and stays the same for all "
    "is made of a generator with a number of its own: torch.Generator().manual_seed(0) (docs/extend.md)."
)


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

    def held(rows: int, index: int) -> set[str]:
        # In bf16 a share of another seed is hidden in rounding.
        odd = set()
        for precision in dict.fromkeys((settings.precision, "float32")):
            made = partial(replace, settings, batch_size=rows, precision=precision)
            sizes = f"B = {rows}, D = {' x '.join(map(str, observation_shape))}, A = {action_dim}"
            faults = Faults(kind, file, sizes)
            odd |= _Trial(faults, made, observation_shape, action_dim, device).run(index)
        return odd

    with _nothing_left(settings, device):
        try:
            odd = held(min(_ROWS, settings.batch_size), 0)
        except UserError:
            # It may need as many rows as it trains on, and by chance rounding may have turned the choice of a maximum.
            odd = held(settings.batch_size, 1)
    for one in sorted(odd):
        warn(one)


class _Trial:
    """One agent, asked with rows of one batch.

    Args:
        faults: says what it does wrong, and knows its class.
        made: gives the settings.
    """

    def __init__(
        self,
        faults: Faults,
        made: Callable[[], Settings],
        observation_shape: tuple[int, ...],
        action_dim: int,
        device: torch.device,
    ) -> None:
        self.device, self.faults, kind = device, faults, faults.kind
        if lacking := sorted(kind.__abstractmethods__):
            raise UserError(f"{faults.file}: {kind.__name__} lacks {', '.join(lacking)}", f"Write them: {READ}")
        with faults.calling("__init__"):
            self.settings = made()
        self._sizes = observation_shape, action_dim
        self.agent = self._made(1)
        self.answers = Answers(self.agent, faults)

    def _made(self, start: int) -> Agent:
        """An agent, made without random numbers of the process's generators, which begin at a number."""
        with self._drawing_nothing("__init__", start, _MADE), self.faults.calling("__init__"):
            return self.faults.kind(self.settings, *self._sizes)

    def run(self, index: int) -> set[str]:
        """Ask each function.

        Args:
            index: of the random numbers.

        Returns:
            what is odd, and refused by none.
        """
        given, answers = self._given(index), self.answers
        acting = answers.groups_that_act(given)
        # First, since losses may ask for actions.
        actions = self._hold("act", partial(answers.act, acting), given)
        if type(self.agent).single is not Agent.single:
            one_by_one = self._hold("single", partial(answers.single, acting), given)
            if found := _difference(actions, one_by_one):
                what = f"gives {found[0]} that is another than that of act, {found[1]}"
                raise self.faults.of("single", what, "It is act of one seed, in less time: mend it, or leave it out.")
        first = self._hold("losses", answers.losses, given)
        self._require_the_same_of_another(first, given)
        # What has a part in the loss later on alone is seen in the middle.
        own = {name: first[f"the state {name}"] for name in given.own}
        given = replace(given, own=own, step=max(1, self.settings.offline_steps // 2))
        self._hold("losses", answers.losses, given)
        self._hold("diagnostics", answers.diagnostics, given)
        self._hold("data_values", answers.data_values, given)
        if "online" in self.agent.stages:
            self._hold("explore", partial(answers.explore, acting), given)
            self._hold("carried_state", answers.carried_state, given)
        self._update(given)
        return answers.odd

    # --- what is asked, and how ---------------------------------------------------------------------------------------

    def _hold(self, method: str, ask: Callable[[Given], Outputs], given: Given) -> Outputs:
        """What a function gives to both seeds, if it gives it twice, and to each alone."""
        both = self._twice(method, lambda: self._left_alone(method, ask, given))
        for seed in range(len(_SEEDS) if self.settings.precision != "bf16" else 0):
            row = slice(seed, seed + 1)
            alone = self._once(method, partial(ask, given.of(row)), 1, 1)
            of_seed = {name: value[row] for name, value in both.items()}
            if found := _difference(of_seed, alone):
                what = f"mixes seeds: {found[0]} of a seed is another beside a second seed, {found[1]}"
                raise self.faults.of(method, what, _ALONE)
        return both

    def _twice(self, method: str, ask: Callable[[], Outputs]) -> Outputs:
        """What a function gives, if it gives it again whatever the process's random generators are at."""
        first, second = (self._once(method, ask, start, len(_SEEDS)) for start in (1, 2))
        if found := _difference(first, second):
            what = f"does not follow from its arguments: asked again, it gives {found[0]} otherwise, {found[1]}"
            raise self.faults.of(method, what, _PURE)
        return first

    def _once(self, method: str, ask: Callable[[], Outputs], start: int, seeds: int) -> Outputs:
        """What a function gives, without random numbers of the process's generators, which begin at a number."""
        self.faults.seeds = seeds
        with self._drawing_nothing(method, start, _PURE), self.faults.calling(method):
            return ask()

    @contextmanager
    def _drawing_nothing(self, method: str, start: int, remedy: str) -> Iterator[None]:
        _start_generators(self.device, start)
        before = _generators(self.device)
        yield
        after = _generators(self.device)
        if drawn := [name for name, state in before.items() if state != after[name]]:
            raise self.faults.of(method, f"draws random numbers from the generator of {' and of '.join(drawn)}", remedy)

    def _require_the_same_of_another(self, first: Outputs, given: Given) -> None:
        """Refuse an agent that another one of the same settings does not equal."""
        another = Answers(self._made(2), self.faults)
        if found := _difference(
            first, self._once("losses", partial(another.losses, given.of(slice(None))), 1, len(_SEEDS))
        ):
            what = f"does not follow from its arguments: made again, the agent gives {found[0]} otherwise, {found[1]}"
            raise self.faults.of("__init__", what, _MADE)

    def _left_alone(self, method: str, ask: Callable[[Given], Outputs], given: Given) -> Outputs:
        """What a function gives, if it leaves parameters and state as they are."""
        taken = given.of(slice(None))
        found = ask(taken)
        for what, before, after in (("parameters of", given.flat, taken.flat), ("state", given.own, taken.own)):
            if changed := [name for name in before if not torch.equal(before[name], after[name])]:
                remedy = "Make new tensors; next_state gives the state's next ones."
                raise self.faults.of(method, f"changes the {what} {changed[0]} in place", remedy)
        return found

    # --- what the functions get ---------------------------------------------------------------------------------------

    def _given(self, index: int) -> Given:
        agent, settings = self.agent, self.settings
        drawn = self._drawn("update_draws", agent.update_draws)
        diagnosed = self._drawn("diagnose_draws", agent.diagnose_draws)
        acting = {
            name: Draw(draw.kind, (settings.batch_size, *draw.shape))
            for name in ("act", "explore")
            if (draw := self._one_draw(f"{name}_draw", getattr(agent, f"{name}_draw"))) is not None
        }
        self.faults.names["draws"] = sorted({*drawn, *diagnosed})
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
        self.faults.names["entries of the state"] = ["step", *own]
        noise = self._stream(acting, index)
        return Given(flat, batch, self._stream(drawn, index), self._stream(diagnosed, index), own, noise, step=0)

    def _stream(self, draws: Mapping[str, Draw], index: int) -> dict[str, Tensor]:
        return DrawStream(draws, _SEEDS, "contract", self.device).at(index)

    def _drawn(self, method: str, declared: Callable[[], dict[str, Draw]]) -> dict[str, Draw]:
        with self.faults.calling(method):
            draws = declared()
        if not isinstance(draws, Mapping):
            raise self.faults.of(method, f"gives {said(draws)}", "It is a dict of Draw, each by its name.")
        for name, draw in draws.items():
            self._require_draw(method, f"gives {name},", draw)
            if name in (_TAKEN, *shift_draws(1)):
                raise self.faults.of(method, f"names a draw {name}, as the trainer's own", "Give it another name.")
        return dict(draws)

    def _one_draw(self, method: str, declared: Callable[[], Draw | None]) -> Draw | None:
        with self.faults.calling(method):
            draw = declared()
        if draw is not None:
            self._require_draw(method, "gives", draw)
        return draw

    def _require_draw(self, method: str, what: str, draw: Any) -> None:
        expected = "It is Draw(kind, shape), the shape a tuple of whole numbers without the axis of the seeds."
        if not isinstance(draw, Draw):
            raise self.faults.of(method, f"{what} a value of the type {type(draw).__name__}", expected)
        if draw.kind not in _KINDS:
            raise self.faults.of(method, f"{what} a draw of the kind {draw.kind!r}", f"Kinds are {', '.join(_KINDS)}.")
        if not isinstance(draw.shape, tuple) or not all(isinstance(one, int) and one >= 0 for one in draw.shape):
            raise self.faults.of(method, f"{what} a draw of the shape {draw.shape!r}", expected)

    def _require_room(self, draws: Collection[Draw]) -> None:
        """On a processor what takes too much memory would end the process."""
        weights = sum(group.layout.width * (4 if group.target else 3) for group in self.agent.groups.values())
        drawn = BLOCK * sum(math.prod(draw.shape) for draw in draws)
        if self.device.type == "cpu":
            require_memory(
                f"{self.faults.file}: an update of {self.faults.kind.__name__} of {len(_SEEDS)} seeds",
                len(_SEEDS) * NUMBER * (weights + drawn),
                "Correct the settings that size its networks and draws, or train on a machine with more memory.",
            )

    def _initial(self, index: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters near the initial ones, and the agent's initial state."""

        def initial() -> Outputs:
            state = initial_state(self.agent, [generator(torch.device("cpu"), one) for one in _SEEDS], self.device)
            self.answers.require_initial_state(state.own, len(_SEEDS))
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

    def _update(self, given: Given) -> None:
        """A whole update: learning rates, optimiser, targets, weights of objectives."""
        self.answers.require_rates(torch.zeros((), dtype=torch.int64, device=self.device))
        with self.faults.calling("losses, in an update,"):
            state = initial_state(self.agent, [generator(torch.device("cpu"), one) for one in _SEEDS], self.device)
            taken = given.of(slice(None))
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
    if name == ENDS:
        return (np.arange(rows) == rows - 1).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def _difference(first: Outputs, second: Outputs) -> tuple[str, str] | None:
    """What of two results differs by more than rounding lets it, and how."""
    if first.keys() != second.keys():
        return " and ".join(sorted(first.keys() ^ second.keys())), "which one of them lacks"
    least = _CANCELLED * max(1.0, _size(second[LOSS], math.inf) if LOSS in second else 1.0)
    for name, one in first.items():
        other = second[name]
        if torch.equal(one, other):
            continue
        if one.shape != other.shape:
            return name, f"{shape_of(one)} and {shape_of(other)}"
        if not torch.equal(one.isfinite(), other.isfinite()):
            return name, "where one of them is not finite"
        norm, share = (2.0, _JUMPS) if name.startswith(GRADIENT) else (math.inf, _ROUNDING)
        if _size(one.float() - other.float(), norm) > share * _size(other, norm) + least:
            gap, largest = _size(one.float() - other.float(), math.inf), _size(other, math.inf)
            return name, f"by {gap:.2g}, where the largest number is {largest:.2g}"
    return None


def _size(value: Tensor, norm: float) -> float:
    """The norm of the finite numbers."""
    return float(torch.linalg.vector_norm(value[value.isfinite()].float(), norm)) if value.isfinite().any() else 0.0


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
