"""What a method gives to the training loop, evaluation and checkpoints.

A method is one file with a settings dataclass and a subclass of `Agent`. All its functions are pure: they depend on
their arguments alone, and every random number is an argument. `mfql.training.contract` holds an extension's to that.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, ClassVar, Literal

from torch import Tensor

from mfql.agents.balance import Weighting
from mfql.agents.encoders import ImpalaEncoder
from mfql.agents.parameters import Layout, Views
from mfql.errors import UserError
from mfql.extensions import agent_code, agent_file
from mfql.placeholder import Placeholder
from mfql.settings import STAGES, Settings

Batch = Mapping[str, Tensor]
Draws = Mapping[str, Tensor]
Losses = tuple[Tensor, dict[str, Tensor]]
Single = Callable[[Tensor, Tensor | None], Tensor]
# The field of a batch of chunks that says which of a chunk's actions the data have, `[S, B, h]`.
KEPT = "kept"


@dataclass(frozen=True)
class Draw:
    """A random array that one update (or one action) takes, without the seed axis."""

    kind: Literal["normal", "uniform", "integer"]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """A group of parameters that one optimiser trains.

    Args:
        layout: names and shapes.
        max_grad_norm: the gradient of a seed is scaled down to this norm.
        target: whether a slowly moving copy is kept, under the name `target_<group>`.
        target_lags: the target moves towards the group as it was before the update, not after it.
        interval: n; the optimiser takes the gradient of every n-th update, those of the others are discarded.
        coasts: at the others the optimiser takes a zero gradient, so that its momentum decays and moves the group on;
            without it they leave the group and the optimiser as they are.
        target_interval: updates between two steps of the target.
        weighting: where the losses are several objectives, their weights for this group from the Gramian of their
            gradients (`mfql.agents.balance`); None takes the sum.
    """

    layout: Layout
    max_grad_norm: float = float("inf")
    target: bool = False
    target_lags: bool = False
    interval: int = 1
    coasts: bool = False
    target_interval: int = 1
    weighting: Weighting | None = None


@dataclass
class Parameters:
    """Parameters of a forward pass: named views of each group and of each target."""

    groups: dict[str, Views] = field(default_factory=dict)

    def __getitem__(self, group: str) -> Views:
        return self.groups[group]

    def replaced(self, group: str, views: Views) -> Parameters:
        """These parameters with other views of one group."""
        return Parameters({**self.groups, group: views})


class Agent(ABC):
    """One method. Subclasses set the declarations below and `groups`, and write `losses`, `act` and the rest.

    Args:
        settings: the method's settings.
        observation_shape: `(D,)`, or height, width and channels of a pixel task's stacked frames.
        action_dim: A.

    Attributes:
        horizon: h, actions of a chunk; 1 of a method that has no such setting.
        chunk_dim: h A, numbers of a chunk: what networks see and give where they would an action.
        discount: of the value of the observation at a chunk's end: that of a step to the power of h.
        observation_dim: D, what networks see of an observation: of a pixel task the features of `encode`.
    """

    # The settings dataclass of the method.
    settings_type: ClassVar[type[Settings]]
    # Raise it, as a plain number, when the method's numbers change: finished runs are then trained anew.
    training_version: ClassVar[int] = 1
    # Stages that the method has.
    stages: ClassVar[tuple[str, ...]] = STAGES
    # Fields of a transition that it needs beside the usual: next_actions, next_row_actions, mc_returns.
    extra_fields: tuple[str, ...] = ()
    # Share of rows from the online tail in a batch of the online stage; None draws from all rows alike.
    online_share: float | None = None
    # Updates for each environment step.
    updates_per_step: int = 1
    # Rate of the targets: target <- target + tau (group - target), the group after its optimiser's step or before it.
    tau: float = 0.005

    groups: dict[str, Group]

    def __init__(self, settings: Settings, observation_shape: tuple[int, ...], action_dim: int) -> None:
        self.settings: Any = settings
        self.observation_shape, self.action_dim = tuple(observation_shape), action_dim
        self.horizon = int(getattr(settings, "horizon", 1))
        self.chunk_dim = self.horizon * action_dim
        self.discount = settings.discount**self.horizon
        self._encoder = _encoder(settings, self.observation_shape)
        self.observation_dim = self._encoder.features if self._encoder else self.observation_shape[0]

    def with_encoder(self, layout: Layout) -> Layout:
        """The layout of a group that sees observations: of a pixel task it has an encoder of its own."""
        return Layout(self._encoder.parameters | layout.parameters) if self._encoder else layout

    def encode(self, parameters: Views, observations: Tensor) -> Tensor:
        """What a group's networks see of observations `[S, B, *observation_shape]`: features `[S, B, D]`.

        Observations of a state task pass as they are. Encode once a batch, before candidates or a derivative.
        """
        return self._encoder(parameters, observations) if self._encoder else observations

    @abstractmethod
    def update_draws(self) -> dict[str, Draw]:
        """The random arrays of one update."""

    @abstractmethod
    def losses(self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]) -> Losses:
        """The loss of each seed, and what to log.

        Args:
            parameters: views of every group and target.
            batch: observations, next_observations `[S, B, *observation_shape]` (normalised; pixels as they are),
                actions `[S, B, A]`, rewards, masks `[S, B]`, extra fields; of chunks as
                `mfql.training.chunks.ChunkMemory.batch` gives them, with h A for A.
            draws: as declared, each with the leading seed axis.
            state: the method's own state, see `initial_state`; in training `step` too, updates so far.

        Returns:
            the sum of the losses `[S]`, whose gradient trains every group, and a dict of `[S]` to log; arrays of more
            axes are for `next_state` alone. Where a group has a `weighting`, its objectives `[S, J]`, no sum;
            for the other groups they are added up.
        """

    def diagnose_draws(self) -> dict[str, Draw]:
        """The random arrays of `diagnostics`: those of an update, to which a method may add its own."""
        return self.update_draws()

    @property
    def compilable(self) -> bool:
        """Whether an update can be compiled and captured: weights of objectives are solved for on the processor."""
        return all(group.weighting is None for group in self.groups.values())

    def prepared(self, parameters: Parameters) -> Parameters:
        """The parameters with what all rows share computed once, for `losses` or for acting with fixed weights."""
        return parameters

    @abstractmethod
    def learning_rates(self, step: Tensor) -> dict[str, Tensor | float]:
        """The learning rate of each group at a step, counted from 0 through the offline and the online part."""

    @abstractmethod
    def act_draw(self) -> Draw | None:
        """The random array that one action takes, or None."""

    @abstractmethod
    def act(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """Actions `[S, B, A]` in [-1, 1] for observations as `losses` gets them and noise `[S, B, *act_draw]`.

        Of chunks `[S, B, h A]`, one action after another.
        """

    def ranked(self, parameters: Parameters, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor] | None:
        """Where `act` takes the best of K candidates, those and their values; None of a method that ranks none.

        Of such a method the noise `[S, B, K, A]` says K, which may be another than `act_draw`'s.

        Returns:
            actions `[S, B, K, h A]` and values `[S, B, K]`.
        """
        return None

    def single(self, parameters: Parameters) -> Single:
        """`act` of one seed whose weights stay, within rounding; a method overrides it with what takes less time.

        Args:
            parameters: prepared, each view `[1, ...]`.

        Returns:
            a function of observations `[B, *observation_shape]` and noise `[B, *act_draw]` to actions `[B, h A]`.
        """

        def actions(observations: Tensor, noise: Tensor | None) -> Tensor:
            drawn = None if noise is None else noise.unsqueeze(0)
            return self.act(parameters, observations.unsqueeze(0), drawn).squeeze(0)

        return actions

    def explore_draw(self) -> Draw | None:
        """The random array that one action of online training takes."""
        return self.act_draw()

    def explore(self, parameters: Parameters, observations: Tensor, noise: Tensor | None) -> Tensor:
        """Actions of online training, as `act` gives those of evaluation; a method with own noise adds it here."""
        return self.act(parameters, observations, noise)

    def act_groups(self) -> tuple[str, ...]:
        """The groups that `act` reads, saved with an exported policy."""
        return tuple(self.groups)

    def initial_state(self, seeds: int) -> dict[str, Tensor]:
        """State of the method's own beside parameters, such as an adaptive weight: arrays `[S, ...]`."""
        return {}

    def next_state(self, state: Mapping[str, Tensor], step: Tensor, info: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The agent's state after the update of a step, from what the losses logged; no Python decision on a value."""
        return dict(state)

    def carried_state(self, state: Mapping[str, Tensor], before: Mapping[str, Any]) -> dict[str, Tensor]:
        """The agent's state at the start of the online part, from its end in the run that it starts from.

        Args:
            state: of one seed, arrays without the seed axis. What `initial_state` has no entry for is dropped after.
            before: the settings of that run, which may be others than this agent's.
        """
        return dict(state)

    def diagnostics(
        self, parameters: Parameters, batch: Batch, draws: Draws, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """What tells a failing run, of a fixed batch at each evaluation: a dict of `[S]`."""
        return {}

    def data_values(self, parameters: Parameters, batch: Batch) -> Tensor | None:
        """Q of the data's actions `[S, B]`, to hold against Monte-Carlo returns; None for a method without values."""
        return None


def _encoder(settings: Settings, observation_shape: tuple[int, ...]) -> ImpalaEncoder | None:
    match observation_shape:
        case (height, width, channels):
            return ImpalaEncoder((height, width, channels), settings.encoder_channels, settings.encoder_features)
        case (_,):
            return None
    raise ValueError(f"observations of shape {observation_shape}; an agent sees (D,) or (height, width, channels)")


def load_agent(name: str) -> type[Agent]:
    """The agent class of `mfql/agents/NAME.py`, of an extension's `agents/NAME.py`, or of a file given by its path.

    Raises:
        UserError: there is no such file, it imports what is not installed, has an error or ends with one as it is
            imported, or does not define one agent.
    """
    path = agent_file(name)
    is_ours = path.parent == Path(__file__).parent
    try:
        module = importlib.import_module(f"mfql.agents.{path.stem}") if is_ours else _module_of(path, agent_code(path))
    except ModuleNotFoundError as error:
        raise UserError(
            f"{path} imports {error.name}, which is not installed here",
            "Install it, or import it inside the functions that use it: a launcher and a dry run run the file too.",
        ) from error
    except SyntaxError as error:
        raise _of_file(path, error.filename or str(path), error.lineno, error) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError) or isinstance(sys.modules.get("torch"), Placeholder):
            raise  # The second may be the placeholder's doing.
        frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename == str(path)]
        raise _of_file(path, str(path), frames[-1].lineno if frames else None, error) from error
    agents = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Agent) and value.__module__ == module.__name__
    ]
    if len(agents) != 1:
        raise UserError(f"{name} defines {len(agents)} agents", "An agent's file defines one subclass of Agent.")
    return agents[0]


def _of_file(path: Path, file: str, line: int | None, error: BaseException) -> UserError:
    """What is said of an agent's file that cannot be imported, or imports one that cannot."""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    where = f"{file}, line {line}" if line else file
    return UserError(
        f"{where}: {type(error).__name__}: {said}",
        f"Correct it; {path} is run whenever a method of its agent is looked at."
        if file == str(path)
        else f"Correct it; {path} imports it.",
    )


@cache
def _module_of(path: Path, code: str) -> ModuleType:
    """The module of a file outside the package, run once as long as its code stays.

    It is registered by name: its dataclasses look their types up there.
    """
    name = f"mfql_agent_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # A .py file has a loader.
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def count_parameters(agent: Agent) -> int:
    """Parameters of one seed, targets not counted."""
    return sum(group.layout.count for group in agent.groups.values())


def mean_over_actions(errors: Tensor, kept: Tensor | None) -> Tensor:
    """Errors `[S, B, A]`, meant over action dims: `[S, B]`; of chunks `[S, B, h A]` over those of the actions kept.

    Args:
        kept: 1 of an action that counts and 0 of another, `[S, B, h]`, the first always 1; None where all count.
    """
    if kept is None:
        return errors.mean(-1)
    by_action = errors.unflatten(-1, (kept.shape[-1], -1)).mean(-1)
    return (by_action * kept).sum(-1) / kept.sum(-1)


def no_grad_views(parameters: Views) -> dict[str, Tensor]:
    """Views of parameters, cut off from the gradient: a frozen critic costs no weight gradient."""
    return {name: view.detach() for name, view in parameters.items()}
