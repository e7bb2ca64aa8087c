"""Minari's datasets: every episode is counted, and its observations flattened as the task's environment does."""

from __future__ import annotations

import json
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from mfql.data.opening import Damaged, content_of
from mfql.data.own_rows import ROWS
from mfql.data.transitions import Transitions
from mfql.data.values import listed, real_numbers
from mfql.documents import read_object
from mfql.envs.registered import flat_observations
from mfql.errors import UserError, install, note
from mfql.files import there
from mfql.tasks import minari_folder

_OF_ANOTHER = (
    "Check that env_id is the environment that it was recorded in, or a wrapper of it, and that the dataset is whole."
)


def read_minari(data: str, env: Any) -> Transitions:
    """The transitions of a dataset, as `minari:ID` names it.

    Args:
        data: the name.
        env: the task's environment; None of a task that has none.

    Raises:
        UserError: it is absent, cannot be read, or an episode has not one observation more than steps.
    """
    dataset = _opened(data)
    recorded = _in_order(dataset.observation_space, _told_space(data))
    space = _flattened(data, recorded, env)
    fault = "cannot be read as a dataset of the task's environment"
    try:
        with content_of(data, fault, _OF_ANOTHER):
            return _transitions(data, dataset, space)
    except (AssertionError, AttributeError, TypeError) as error:  # Of arrays of another kind, or of none.
        said = str(error) or "an entry of an episode is no array"  # Minari's own assertion is without a word.
        raise Damaged(data, f"{fault}: {said}", _OF_ANOTHER) from error


def recorded_bounds(data: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The bounds [A] of actions that a dataset says; None where they are no vectors between finite bounds.

    Raises:
        UserError: it is absent, or cannot be opened.
    """
    space = _opened(data).action_space
    if not isinstance(space, spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
        return None
    return space.low.astype(np.float64), space.high.astype(np.float64)


def recorded_keys(data: str) -> list[str]:
    """The keys of a dataset's observations as they were written, whose order no sha256 of its files tells of.

    Returns:
        none of observations that are no Dict.

    Raises:
        UserError: what Minari wrote of them cannot be read.
    """

    def keys(told: Any, above: str) -> list[str]:
        if not isinstance(told, dict) or told.get("type") != "Dict":
            return [above]
        return [key for name, part in (told.get("subspaces") or {}).items() for key in keys(part, f"{above}/{name}")]

    return [key.removeprefix("/") for key in keys(_told_space(data), "") if key]


def recorded_infos(data: str) -> list[str]:
    """What a dataset recorded of the environment's infos, by the first episode's keys; none of it is read.

    Raises:
        UserError: it is absent, or cannot be read.
    """
    dataset = _opened(data)
    with content_of(data, "cannot be read", _OF_ANOTHER):
        infos = next(iter(dataset.iterate_episodes())).infos if len(dataset) else None
    return sorted(infos) if isinstance(infos, dict) else []


def _told_space(data: str) -> Any:
    about = minari_folder(data) / "data" / "metadata.json"
    told = read_object(about).get("observation_space") if there(about) else None  # Who opens it says that it is absent.
    try:
        return json.loads(told) if told else None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{about}: observation_space is none that can be read: {error}", _OF_ANOTHER) from error


def _transitions(data: str, dataset: Any, space: spaces.Space) -> Transitions:
    steps = [int(of["total_steps"]) for of in dataset.storage.get_episode_metadata(dataset.episode_indices)]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*ROWS, "next_observations")}
    short = []
    for number, episode in enumerate(dataset.iterate_episodes()):
        seen = real_numbers(flat_observations(episode.observations, space), f"{data}: observations", _OF_ANOTHER)
        # In Arrow's format the last step of an episode without its last observation is not even read.
        count = steps[number]
        if len(seen) == count and count:
            short.append(number)
            continue
        _refuse_counts(data, number, count, seen, episode)
        parts["observations"].append(seen[:-1])
        parts["next_observations"].append(seen[1:])
        parts["actions"].append(np.asarray(episode.actions).reshape(count, -1))
        parts["rewards"].append(np.asarray(episode.rewards).reshape(-1))
        parts["masks"].append(1.0 - np.asarray(episode.terminations, np.float32).reshape(-1))
        parts["terminals"].append(np.arange(count) == count - 1)
    _refuse_short(data, short, len(steps))
    kept = [i for i, rewards in enumerate(parts["rewards"]) if len(rewards)]
    if not kept:
        raise UserError(f"{data} has no transition", "Record some episodes.")
    return Transitions(**{name: np.concatenate([values[i] for i in kept]) for name, values in parts.items()})


def _opened(data: str) -> Any:
    name, folder = data.removeprefix("minari:"), minari_folder(data)
    about = folder / "data" / "metadata.json"
    if not there(about):
        raise UserError(
            f"{about} does not exist",
            f"Fetch it with `minari download {name}`, or set MINARI_DATASETS_PATH to the folder that has it.",
        )
    form = str(read_object(about).get("data_format", "hdf5"))
    needs = f"{install('minari')}, or in this project's folder: pip install -e '.[minari]'."
    try:
        import minari
    except ImportError as error:
        raise UserError(f"{data} needs the package minari: {error}", needs) from error
    try:
        with content_of(folder, "is no dataset of Minari's", "Fetch or record it again."):
            return minari.load_dataset(name)
    except (ImportError, AssertionError, TypeError) as error:
        raise UserError(f"{data} is in Minari's format {form}, and cannot be opened: {error}", needs) from error


def _in_order(space: spaces.Space, told: Any) -> spaces.Space:
    """A recorded space with its keys as they were written; Minari reads them in the order of the alphabet."""
    if not isinstance(space, spaces.Dict) or not isinstance(told, dict):
        return space
    parts = told.get("subspaces") or dict.fromkeys(space.spaces)
    return spaces.Dict([(key, _in_order(space.spaces[key], part)) for key, part in parts.items()])


def _flattened(data: str, recorded: spaces.Space, env: Any) -> spaces.Space:
    """The space by whose keys and order the recorded observations are flattened.

    That is the one which the environment's own wrapper flattens, where it has one; else the recorded one, in the order
    in which Gymnasium's FlattenObservation would.

    Raises:
        UserError: the environment flattens keys that were not recorded.
    """
    if not isinstance(recorded, spaces.Dict) or env is None:
        return recorded
    below = env.env.env  # Of Isolated and RegisteredEnv.
    while not isinstance(below.observation_space, spaces.Dict) and isinstance(below, gymnasium.Wrapper):
        below = below.env
    own = below.observation_space
    if not isinstance(own, spaces.Dict):
        if spaces.flatdim(recorded) == env.observation_space.shape[0]:
            note(f"{data}: recorded as a Dict, read as one vector of {', '.join(recorded.spaces)}, in this order")
        return recorded
    missing = [key for key in own.spaces if key not in recorded.spaces]
    if missing:
        raise UserError(
            f"{data}: its observations have no {', '.join(missing)}, which the environment's have; they are"
            f" {', '.join(recorded.spaces)}",
            _OF_ANOTHER,
        )
    return own


def _refuse_counts(data: str, number: int, steps: int, seen: np.ndarray, episode: Any) -> None:
    counts = {name: len(getattr(episode, name)) for name in ("rewards", "terminations", "actions")}
    wrong = {name: count for name, count in counts.items() if count != steps}
    if len(seen) != steps + 1 or wrong:
        counts["observations"] = len(seen)
        raise UserError(
            f"{data}: episode {number} says {steps} steps, and has"
            f" {' and '.join(f'{count} {name}' for name, count in sorted(counts.items()))}",
            "Record it anew, with one observation more than steps.",
        )


def _refuse_short(data: str, short: list[int], episodes: int) -> None:
    if short:
        which = "each episode has" if len(short) == episodes else f"the episodes {listed(np.array(short))} have"
        raise UserError(
            f"{data}: {which} as many observations as steps ({len(short)} of {episodes} episodes): what followed the"
            " last step was not recorded",
            "Record it anew with the last observation, as minari.DataCollector does, or leave the last step out of each"
            " of them.",
        )
