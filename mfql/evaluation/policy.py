"""A trained policy on disk, and in two lines: `policy = mfql.load_policy(folder)`, `action = policy(observation)`."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mfql.agents.interface import Agent, Draw, Parameters, Single, load_agent
from mfql.agents.update import views_of
from mfql.documents import read_object, write_json
from mfql.draws import DrawStream
from mfql.envs.units import ActionUnits
from mfql.errors import UserError
from mfql.evaluation.description import COPY, DESCRIPTION, read_description
from mfql.evaluation.rollout import SCORING, SCORING_EPISODES, episode_key, start_seed
from mfql.experiment.records import read_manifest
from mfql.experiment.run import has_own_identity
from mfql.files import MOST_WEIGHTS, require_file, sha256, there, write_whole
from mfql.settings import Settings, build_settings
from mfql.suites import suite_of
from mfql.suites.own import Own

if TYPE_CHECKING:
    from mfql.envs.isolated import Isolated

WEIGHTS = "policy.safetensors"


class Actor:
    """Acts for several seeds at once.

    Args:
        agent: the method.
        flat: flat parameters `[S, P]` of the groups that acting reads; looked up anew at each call.
        mean, std: of raw observations `[D]`; images (uint8) are not normalised.
        device: where the parameters are.
        prepared: the parameters, where they are fixed; see `fixed`.
    """

    def __init__(
        self,
        agent: Agent,
        flat: Mapping[str, Tensor],
        mean: np.ndarray,
        std: np.ndarray,
        device: torch.device,
        prepared: Parameters | None = None,
    ) -> None:
        self.agent, self.flat, self.device = agent, flat, device
        self.mean, self.std = mean, std
        self._prepared = prepared

    @torch.no_grad()
    def fixed(self) -> Actor:
        """This actor for as long as its weights stay as they are; it acts faster."""
        prepared = self.agent.prepared(self._parameters())
        return Actor(self.agent, self.flat, self.mean, self.std, self.device, prepared)

    def of_seed(self, row: int) -> Actor:
        """One of the seeds alone, for as long as its weights stay as they are."""
        flat = {name: self.flat[name][row : row + 1] for name in self.agent.act_groups()}
        return Actor(self.agent, flat, self.mean, self.std, self.device).fixed()

    def _parameters(self) -> Parameters:
        return self._prepared or views_of(self.agent, {name: self.flat[name] for name in self.agent.act_groups()})

    def __call__(self, observations: np.ndarray, noise: Tensor | None) -> np.ndarray:
        """Raw observations `[S, B, ...]` and noise to actions `[S, B, A]`; zeros from a broken network."""
        return self._actions(self.agent.act, observations, noise)

    def explore(self, observations: np.ndarray, noise: Tensor | None) -> np.ndarray:
        """Raw observations `[S, B, ...]` and noise to the actions `[S, B, A]` that online training takes."""
        return self._actions(self.agent.explore, observations, noise)

    @torch.no_grad()
    def ranked(self, observations: np.ndarray, noise: Tensor) -> tuple[np.ndarray, np.ndarray] | None:
        """The candidates `[S, B, K, A]` of a call and their values `[S, B, K]`; None of a method that ranks none."""
        taken = torch.from_numpy(self._normalised(observations)).to(self.device)
        found = self.agent.ranked(self._parameters(), taken, noise)
        return None if found is None else (found[0].cpu().numpy(), found[1].cpu().numpy())

    @cached_property
    def single(self) -> Single:
        """How an actor of one seed and fixed weights acts, within rounding, in less time than a call takes.

        Takes normalised observations and noise as `Agent.single` says.
        """
        with torch.no_grad():
            return self.agent.single(self._parameters())

    @torch.inference_mode()
    def one(self, observation: np.ndarray, noise: Tensor | None) -> np.ndarray:
        """One raw observation and noise `[1, 1, *act_draw]` to an action `[A]`, as a call within rounding.

        Few rows take as long as the operations on them are many: `single` has few.
        """
        if self._prepared is None:
            return self(observation[None, None], noise)[0, 0]
        taken = torch.from_numpy(self._normalised(observation)[None]).to(self.device)
        actions = self.single(taken, None if noise is None else noise[0])
        return torch.nan_to_num(actions[0]).cpu().numpy()

    def _normalised(self, observations: np.ndarray) -> np.ndarray:
        if observations.dtype == np.uint8:
            return observations
        return ((observations - self.mean) / self.std).astype(np.float32)

    @torch.no_grad()
    def _actions(self, choose: Callable[..., Tensor], observations: np.ndarray, noise: Tensor | None) -> np.ndarray:
        taken = torch.from_numpy(self._normalised(observations)).to(self.device)
        actions = choose(self._parameters(), taken, noise)
        return torch.nan_to_num(actions).cpu().numpy()


class Policy:
    """A trained policy. Calling it with an observation gives an action in the environment's own units.

    One that was trained with a horizon h above 1 gives h actions at once, which are done without looking again: a call
    takes the next of them, and looks at the observation where none is left. `reset` begins an episode; `chunk` gives
    all h.

    Args:
        actor: acts for one seed.
        description: what `policy.json` holds: agent, settings, method, task, seed, stage, sizes, and how it is used.
        seed: of the noise; call n uses the n-th draw, so that two policies with the same seed act alike.
        units: of the environment's actions; None leaves them in [-1, 1].
    """

    def __init__(
        self, actor: Actor, description: dict[str, Any], seed: int = 0, units: ActionUnits | None = None
    ) -> None:
        self.actor, self.description, self.units = actor, description, units
        self._seed, self._calls = seed, 0
        self._streams: dict[int, DrawStream] = {}
        self._episode: _Episode | None = None
        self._queue: list[np.ndarray] = []

    def __call__(self, observation: Any) -> np.ndarray:
        """One observation or several to actions `[A]` or `[B, A]` in the environment's units, within its bounds.

        Args:
            observation: `[D]` or `[B, D]`; where the environment shows a Dict, one observation as it shows it; of a
                pixel task stacked images `[H, W, C]` or `[B, H, W, C]` of whole numbers from 0 to 255, as `make_env`
                shows them.

        Raises:
            ValueError: another shape or type, or a number that is not finite in float32.
        """
        if self.horizon == 1:
            return self._chunk(observation)[..., 0, :]
        # What is looked at anew is checked there; what is not, here: it has the shape of what the chunk was made of.
        observations = self._taken(observation)
        if not self._queue:
            chunk = self._chunk(observation)
            self._queue = [chunk[..., step, :] for step in range(self.horizon)]
        if observations.shape[:-1] != self._queue[0].shape[:-1]:
            raise ValueError(
                f"observations of shape {observations.shape} within a chunk of actions of shape"
                f" {self._queue[0].shape}; call `reset` where others begin"
            )
        return self._queue.pop(0)

    @property
    def horizon(self) -> int:
        """h, actions that the policy gives at once."""
        return self.actor.agent.horizon

    def chunk(self, observation: Any) -> np.ndarray:
        """The h actions that follow an observation or several: `[h, A]` or `[B, h, A]`, as a call has them.

        What is left of a chunk that calls have begun is dropped.

        Raises:
            ValueError: as of a call.
        """
        self._queue = []
        return self._chunk(observation)

    def reset(self) -> None:
        """Begin an episode: the next call looks at its observation, whatever is left of a chunk."""
        self._queue = []

    def _chunk(self, observation: Any) -> np.ndarray:
        observations = self._taken(observation)
        single = observations.ndim == len(self.actor.agent.observation_shape)
        if self._episode is not None:
            if not single:
                raise ValueError("an episode has one observation at a time; a batch is for a policy without `begin`")
            actions = self._episode.act(self.actor, observations)
        elif single:
            actions = self.actor.one(observations, self._noise(1))
        elif not len(observations):
            actions = np.zeros((0, self.horizon * self.actor.agent.action_dim), np.float32)
        else:
            actions = self.actor(observations[None], self._noise(len(observations)))[0]
        actions = actions.reshape(*actions.shape[:-1], self.horizon, self.actor.agent.action_dim)
        return actions if self.units is None else self.units.to_env(actions)

    def begin(self, episode: int, episodes: int = SCORING_EPISODES) -> int:
        """Start an episode of `mfql evaluate`: until the next one, actions are those that it takes there.

        Noise is that episode's, and an observation is acted on in the batch that it has there, since rounding depends
        on a batch's size. Acting then costs what it costs there for all episodes together. Both are of the processor:
        on another device noise is drawn otherwise.

        Args:
            episode: which, from 0 on.
            episodes: how many are evaluated together, as `mfql evaluate --episodes` is told.

        Returns:
            The seed for the environment's `reset`.

        Raises:
            ValueError: there is no such episode.
        """
        if not 0 <= episode < episodes:
            raise ValueError(f"episode {episode} of {episodes}")
        key = episode_key(self.description["seed"], episode)
        self._episode = _Episode(self.actor, key, episode, episodes)
        self.reset()
        return start_seed(key, SCORING)

    def make_env(self, *, render: bool = False) -> Isolated:
        """The environment that the policy was trained for, in whose units it acts.

        Args:
            render: whether it will be asked for frames.

        Raises:
            UserError: it cannot be made here.
        """
        from mfql.evaluation.usage import make_used, warn_of_other_environment

        warn_of_other_environment(self.description)
        return make_used(self.description, render)

    def _taken(self, observation: Any) -> np.ndarray:
        """One observation or several, uint8 or float32."""
        expected = self.actor.agent.observation_shape
        if isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], Mapping):
            raise ValueError("an observation and infos, as reset gives them; this policy takes the observation alone")
        if isinstance(observation, Mapping):
            observation = self._flattened(observation)
        if isinstance(observation, Tensor):
            observation = observation.detach().cpu()
        found = np.asarray(observation)
        if found.shape[-len(expected) :] != expected or found.ndim > len(expected) + 1:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"observations of shape {found.shape}; this policy takes [{sizes}] or [B, {sizes}]")
        return _images(found) if len(expected) == 3 else _numbers(found)

    def _flattened(self, observation: Mapping[str, Any]) -> np.ndarray:
        layout = self.description.get("observation_layout")
        if layout is None:
            raise ValueError("an observation that is a mapping; this policy takes vectors")
        parts = []
        for keys, size in layout:
            part: Any = observation
            for key in keys:
                if not isinstance(part, Mapping) or key not in part:
                    raise ValueError(f"an observation without {'/'.join(keys)}")
                part = part[key]
            part = np.asarray(part).reshape(-1)
            if len(part) != size:
                raise ValueError(f"an observation with {len(part)} numbers as {'/'.join(keys)}; it has {size}")
            parts.append(part)
        return np.concatenate(parts)

    def _noise(self, batch: int) -> Tensor | None:
        draw = self.actor.agent.act_draw()
        if draw is None:
            return None
        if batch not in self._streams:
            shaped = {"noise": Draw(draw.kind, (batch, *draw.shape))}
            self._streams[batch] = DrawStream(shaped, [self._seed], f"policy/{batch}", self.actor.device)
        noise = self._streams[batch].at(self._calls)["noise"]
        self._calls += 1
        return noise


class _Episode:
    """One episode of `run_episodes`, acted in alone: its row of the acting batch, step by step."""

    def __init__(self, actor: Actor, key: str, row: int, rows: int) -> None:
        draw = actor.agent.act_draw()
        self._noise = DrawStream({"noise": draw} if draw else {}, [key], SCORING, actor.device)
        self._row, self._rows, self._step = row, rows, 0

    def act(self, actor: Actor, observation: np.ndarray) -> np.ndarray:
        """The action `[A]`, or chunk `[h A]`, for an observation that is looked at. What stands in the other rows
        changes none of it.
        """
        noise = self._noise.at(self._step).get("noise")
        self._step += 1
        if noise is not None:
            noise = noise.unsqueeze(0).repeat_interleave(self._rows, dim=1)
        return actor(np.repeat(observation[None, None], self._rows, axis=1), noise)[0, self._row]


def _images(found: np.ndarray) -> np.ndarray:
    """Images as uint8.

    Raises:
        ValueError: they are no whole numbers from 0 to 255.
    """
    if found.dtype != np.uint8 and (found.dtype.kind not in "iu" or found.min() < 0 or found.max() > 255):
        height, width, channels = found.shape[-3:]
        said = f" from {found.min()} to {found.max()}" if found.dtype.kind in "iuf" and found.size else ""
        raise ValueError(
            f"images of {found.dtype}{said}; this policy takes whole numbers from 0 to 255 (uint8), [{height}, {width},"
            f" {channels}]: {channels // 3} frames stacked along the channels, the present one last"
        )
    return found.astype(np.uint8, copy=False)


def _numbers(found: np.ndarray) -> np.ndarray:
    """Numbers as float32.

    Raises:
        ValueError: they are none, or some are not finite in float32.
    """
    if found.dtype.kind not in "biufO":
        raise ValueError(f"observations of {found.dtype}; this policy takes numbers")
    try:
        with np.errstate(over="ignore"):
            numbers = found.astype(np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"observations that are no numbers: {error}") from error
    finite = np.isfinite(numbers)
    if not finite.all():
        faulty = np.flatnonzero(~finite.reshape(-1, finite.shape[-1]).all(axis=0))
        named = ", ".join(f"{dimension} ({found[..., dimension][~finite[..., dimension]][0]})" for dimension in faulty)
        raise ValueError(f"observations that are not finite in dimensions {named}: there is no action for them")
    return numbers


def acting_seconds(actor: Actor, row: int, calls: int = 20) -> float:
    """The median time of one action, or chunk, for one observation on the processor, as a loaded policy takes it.

    Args:
        actor: acts for several seeds.
        row: which of them is timed.
        calls: how often it acts; a tenth as many more before, which do not count.
    """
    flat = {name: actor.flat[name][row : row + 1].cpu() for name in actor.agent.act_groups()}
    single = Actor(actor.agent, flat, actor.mean, actor.std, torch.device("cpu")).fixed()
    policy = Policy(single, {})
    shape = actor.agent.observation_shape
    observation = np.zeros(shape, np.uint8 if len(shape) == 3 else np.float64)
    seconds = []
    for _ in range(calls + calls // 10):
        policy.reset()
        began = time.perf_counter()
        policy(observation)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[calls // 10 :]))


def save_policy(folder: Path, actor: Actor, row: int, description: dict[str, Any]) -> None:
    """Write one seed's policy: weights as safetensors, the rest as JSON, the JSON last.

    Args:
        description: agent, settings, task and seed; what `mfql.evaluation.usage.usage_of` says of the task's
            environment; and what else is to be said of the policy.
    """
    views = views_of(actor.agent, {name: actor.flat[name][row : row + 1] for name in actor.agent.act_groups()})
    arrays = {
        f"{group}.{name}": view[0].cpu().contiguous()
        for group, named in views.groups.items()
        for name, view in named.items()
    }
    with write_whole(folder / WEIGHTS, "wb") as file:
        file.write(save(arrays))
    write_json(
        folder / DESCRIPTION,
        {
            **description,
            "observation_shape": list(actor.agent.observation_shape),
            "action_dim": actor.agent.action_dim,
            "horizon": actor.agent.horizon,
            "observation_mean": actor.mean.tolist(),
            "observation_std": actor.std.tolist(),
            "weights_sha256": sha256(folder / WEIGHTS),
        },
    )


def load_policy(folder: str | Path, *, seed: int = 0, device: str = "cpu") -> Policy:
    """The policy of a run's folder, or of a `policy` folder itself.

    A `policy.json` of a version that did not note the bounds of actions is of a task whose bounds are known: -1 and 1
    of OGBench's and D4RL's, of an extension's those of its environment, which is made to ask.

    Args:
        folder: `results/runs/{method}/{task}/seed{seed}/{stage}`, its `run`, or a folder with the two files.
        seed: of the noise.
        device: where it acts.

    Raises:
        UserError: there is no policy, its files do not fit each other or are altered, as far as a manifest beside them
            knows, or is itself, or the units of its actions are not known.
    """
    path = policy_folder(Path(folder))
    _refuse_altered(path)
    description = _described(path)
    kind = _agent(description, path)
    settings = build_settings(kind.settings_type, description["settings"], str(path / DESCRIPTION))
    agent = _made(kind, settings, description, path)
    if description.get("horizon", 1) != agent.horizon:
        raise UserError(
            f"{path / DESCRIPTION}: horizon: {description.get('horizon', 1)}, and {agent.horizon} by the settings", COPY
        )
    arrays = _arrays(path)
    flat = {name: _flat(agent, name, arrays, path) for name in agent.act_groups()}
    if arrays:
        raise _unfit(path, f"there are {len(arrays)} more, such as {min(arrays)}")
    mean, std = _statistics(agent, description, path)
    target = torch.device(device)
    actor = Actor(agent, {name: value.to(target) for name, value in flat.items()}, mean, std, target)
    return Policy(actor.fixed(), description, operator.index(seed), _units(description, path))


def _refuse_altered(folder: Path) -> None:
    """Of a policy that lies in its run's folder, the manifest there knows the files; altered ones would act."""
    manifest = folder.parent / "manifest.json"
    known = read_object(manifest).get("outputs") if there(manifest) else {}
    known = known if isinstance(known, dict) else {}
    for name in (WEIGHTS, DESCRIPTION):
        expected = known.get(f"policy/{name}")
        absent = not there(folder / name)
        if known and expected is None:
            raise UserError(f"{manifest} is altered: it does not know {folder / name}", "Put the right file back.")
        if expected is not None and (absent or sha256(folder / name, MOST_WEIGHTS) != expected):
            how = "is not there, a" if absent else "is altered: it is not the"
            raise UserError(
                f"{folder / name} {how} file that {manifest} knows",
                "Put the right file back; or delete evaluation.json beside the manifest and train again with the same "
                "command: the policy is made again from the last checkpoint.",
            )
    if known and not has_own_identity(read_manifest(manifest)):
        raise UserError(
            f"{manifest} is altered: it has other settings, versions or data than its identity is of",
            "Put the right file back, or train the run anew.",
        )


def policy_folder(folder: Path) -> Path:
    """Where the two files of a policy lie, as `load_policy` takes a folder.

    Raises:
        UserError: there is none.
    """
    for candidate in (folder, folder / "policy", folder / "run" / "policy"):
        if there(candidate / DESCRIPTION):
            return candidate
    raise UserError(
        f"{folder} holds no policy",
        "Give the folder of a finished run, such as results/runs/METHOD/TASK/seed0/offline.",
    )


def _agent(description: dict[str, Any], folder: Path) -> type[Agent]:
    try:
        return load_agent(description["agent"])
    except UserError as error:
        file = description.get("agent_file")
        said = f"; it was trained with {file}" if file else ""
        raise UserError(
            f"{folder / DESCRIPTION}: {str(error).splitlines()[0]}{said}",
            "Name the extension that has its code: MFQL_EXTENSIONS=DIR in the environment, or mfql --extension DIR.",
        ) from error


def _described(folder: Path) -> dict[str, Any]:
    """What `policy.json` holds; the weights beside it are those that it knows."""
    description = read_description(folder)
    expected = description.get("weights_sha256")
    if (
        expected is not None
        and (folder / WEIGHTS).is_file()
        and (found := sha256(folder / WEIGHTS, MOST_WEIGHTS)) != expected
    ):
        raise _unfit(folder, f"its sha256 is {found[:16]}..., that of the described weights {expected[:16]}...")
    return description


def _unfit(folder: Path, what: str) -> UserError:
    return UserError(f"{folder / WEIGHTS} does not hold the weights of {DESCRIPTION} beside it: {what}", COPY)


def _arrays(folder: Path) -> dict[str, Tensor]:
    try:
        require_file(folder / WEIGHTS)
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise _unfit(folder, str(error)) from error


def _made(kind: type[Agent], settings: Settings, description: dict[str, Any], folder: Path) -> Agent:
    shape, actions = tuple(description["observation_shape"]), description["action_dim"]
    try:
        return kind(settings, shape, actions)
    except ValueError as error:
        raise UserError(
            f"{folder / DESCRIPTION}: no networks are made of observation_shape {list(shape)}, action_dim"
            f" {actions} and the settings: {error}",
            COPY,
        ) from error


def _flat(agent: Agent, group: str, arrays: dict[str, Tensor], folder: Path) -> Tensor:
    """The flat parameters `[1, P]` of a group, whose arrays are taken out of those given.

    They are compared with what is described before memory is taken for that.
    """
    layout = agent.groups[group.removeprefix("target_")].layout
    found = {}
    for name, parameter in layout.parameters.items():
        array = arrays.pop(f"{group}.{name}", None)
        if array is None:
            raise _unfit(folder, f"{group}.{name} is absent")
        expected = list(parameter.shape)
        if list(array.shape) != expected or array.dtype != torch.float32:
            raise _unfit(folder, f"{group}.{name} is {array.dtype} {list(array.shape)}, not torch.float32 {expected}")
        if not array.isfinite().all():
            raise _unfit(folder, f"{group}.{name} has numbers that are not finite")
        found[name] = array
    flat = torch.zeros(1, layout.width)
    for name, view in layout.views(flat).items():
        view.copy_(found[name])
    return flat


def _statistics(agent: Agent, description: dict[str, Any], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of observations, float32 `[D]`; of images one number each, which is not used."""
    size = agent.observation_shape[0] if len(agent.observation_shape) == 1 else 1
    found = []
    for name in ("observation_mean", "observation_std"):
        values = np.array(description[name], dtype=np.float32)
        if values.shape != (size,) or not np.isfinite(values).all():
            raise UserError(f"{folder / DESCRIPTION}: {name} is not one finite number for each of {size}", COPY)
        found.append(values)
    if not (found[1] > 0).all():
        raise UserError(f"{folder / DESCRIPTION}: observation_std is not above 0 everywhere", COPY)
    return found[0], found[1]


def _units(description: dict[str, Any], folder: Path) -> ActionUnits:
    """The units of the policy's actions, as noted, or as the task is known to have them."""
    path, size = folder / DESCRIPTION, description["action_dim"]
    if "actions_rescaled" not in description:
        return _known_units(description["task"], size, path)
    low, high = (np.array(description[name], dtype=np.float64) for name in ("action_low", "action_high"))
    if low.shape != (size,) or high.shape != (size,) or not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        raise UserError(f"{path}: action_low and action_high are no bounds of {size} actions", COPY)
    return ActionUnits(low, high, description["action_dtype"], description["actions_rescaled"])


def _known_units(task: str, size: int, path: Path) -> ActionUnits:
    suite = suite_of(task)
    if isinstance(suite, Own):
        env = suite.make(task)
        env.close()
        if env.units.low.shape != (size,):
            raise UserError(
                f"{path}: action_dim: {size}, and the environment of the task {task} here has"
                f" {len(env.units.low)} actions",
                "Name the extension that the policy was trained with.",
            )
        return env.units
    if not suite.has(task):
        raise UserError(
            f"{path} is of an earlier version, which did not note the bounds of actions, and the task {task} is none of"
            " OGBench, D4RL or an extension here",
            "Name the extension that has the task: MFQL_EXTENSIONS=DIR, or mfql --extension DIR.",
        )
    return ActionUnits(np.full(size, -1.0), np.full(size, 1.0), "float32", rescaled=False)
