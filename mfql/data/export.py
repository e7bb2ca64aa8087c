"""Transitions written in layouts that others read: Minari's, in HDF5 or Arrow's format, and OGBench's `.npz`."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import registry

from mfql.data.transitions import StackedImages, Transitions
from mfql.errors import UserError, naming_extras, note
from mfql.files import whole_folder, write_whole, writing

if TYPE_CHECKING:
    from mfql.envs.isolated import Isolated

_MINARI_NAME = re.compile(r"[\w.+-]+-v\d+")


def export(rows: Transitions, env: Isolated, about: Mapping[str, Any], form: str, out: Path) -> None:
    """Write transitions, whole or not at all; what is read of them again is equal to the last bit.

    Args:
        rows: actions in the environment's units.
        env: the environment that they are of.
        about: what is recorded beside them, such as the task, the licence and where they come from.
        form: an entry of `FORMS`.
        out: a file `.npz`; or of Minari's dataset the folder, which has its id as name and must not be there.

    Raises:
        UserError: the form cannot hold these transitions, or the file or folder cannot be written.
    """
    if isinstance(rows.observations, StackedImages):
        raise UserError(
            "observations are images, which are not exported", "The dataset's own .npz file has them: copy that."
        )
    FORMS[form](rows, env, about, out)


def _npz(rows: Transitions, env: Isolated, about: Mapping[str, Any], out: Path) -> None:
    """OGBench's layout with `next_observations`, and what is known of it as JSON in the array `about`."""
    if out.suffix != ".npz":
        raise UserError(f"{out} is no name of an .npz file", "Give it the ending .npz.")
    described = json.dumps({**about, **_described_environment(env)})
    arrays: dict[str, Any] = {field.name: np.asarray(getattr(rows, field.name)) for field in fields(Transitions)}
    arrays["terminals"] = arrays["terminals"] > 0
    with write_whole(out, "wb") as file:
        np.savez(file, **arrays, about=np.array(described))


def _minari(data_format: str) -> Callable[[Transitions, Isolated, Mapping[str, Any], Path], None]:
    def write(rows: Transitions, env: Isolated, about: Mapping[str, Any], out: Path) -> None:
        _write_minari(rows, env, about, out, data_format)

    return write


FORMS: dict[str, Callable[[Transitions, Isolated, Mapping[str, Any], Path], None]] = {
    "minari": _minari("hdf5"),
    "minari-arrow": _minari("arrow"),
    "npz": _npz,
}


def _write_minari(rows: Transitions, env: Isolated, about: Mapping[str, Any], out: Path, data_format: str) -> None:
    """A step with mask 0 is a termination; the last of a trajectory that is none is a truncation."""
    if not _MINARI_NAME.fullmatch(out.name):
        raise UserError(
            f"{out.name} is no id of a dataset of Minari's", f"Name the folder NAME-v0: {out.name or 'data'}-v0."
        )
    _refuse_what_minari_lacks(rows)
    with naming_extras("minari"):
        from minari import MinariDataset
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage

    with whole_folder(out) as folder:
        (folder / "data").mkdir(parents=True)
        with writing(out), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Bounds of another type than the actions: rounded, and known.
            storage = MinariStorage.new(
                folder / "data",
                observation_space=_observed(np.asarray(rows.observations), env),
                action_space=_bounded(rows.actions, env),
                env_spec=_spec(env),
                data_format=data_format,
            )
            storage.update_metadata(_metadata(about, out.name))
            storage.update_episodes(_episodes(rows, EpisodeBuffer))
            MinariDataset(storage)  # It reads what it needs to be one.


def _episodes(rows: Transitions, buffer: Any) -> Iterator[Any]:
    observations, following = np.asarray(rows.observations), np.asarray(rows.next_observations)
    for number, (start, end) in enumerate(zip(rows.starts, rows.ends + 1, strict=True)):
        terminations = rows.masks[start:end] == 0
        truncations = np.zeros(end - start, bool)
        truncations[-1] = not terminations[-1]
        yield buffer(
            id=number,
            observations=np.concatenate([observations[start:end], following[end - 1 : end]]),
            actions=rows.actions[start:end],
            rewards=rows.rewards[start:end],
            terminations=terminations,
            truncations=truncations,
            infos={},
        )


def _refuse_what_minari_lacks(rows: Transitions) -> None:
    """Refuse transitions that episodes of observations, flags and numbers cannot say."""
    if between := int(((rows.masks > 0) & (rows.masks < 1)).sum()):
        raise UserError(
            f"masks of {between} transitions are neither 0 nor 1, and Minari has flags alone", "Export --to npz."
        )
    inside = ~(rows.terminals > 0)[:-1]
    observations, following = np.asarray(rows.observations), np.asarray(rows.next_observations)
    differing = int((inside & (following[:-1] != observations[1:]).any(axis=1)).sum())
    if differing:
        raise UserError(
            f"next_observations of {differing} transitions are not to the last bit the observation of the row that"
            " follows, and Minari has one for both",
            "Export --to npz.",
        )
    if early := int((inside & (rows.masks[:-1] == 0)).sum()):
        note(
            f"{early} steps with mask 0 are no last ones of their trajectories: they are terminations within episodes"
            " that go on"
        )


def _metadata(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    from minari import __version__

    told = "; ".join(f"{key}: {value}" for key, value in about.items() if value is not None)
    return {"dataset_id": name, "minari_version": __version__, "description": told, "mfql": json.dumps(about)}


def _spec(env: Isolated) -> Any:
    """What Gymnasium makes the environment from, with its time limit; None, with a note, where it cannot be written."""
    spec = env.base.spec
    try:
        if spec is not None and spec.to_json():
            # A bare environment's spec lacks what its wrappers were made for.
            flags = registry.get(spec.id, spec)
            return replace(
                spec,
                max_episode_steps=env.spec.max_episode_steps if env.spec else None,
                order_enforce=flags.order_enforce,
                disable_env_checker=flags.disable_env_checker,
            )
    except (TypeError, ValueError):
        pass  # Of a function that makes it, or of arguments that are no JSON.
    note("the environment is not recorded: Gymnasium has no id of it that can be written")
    return None


def _described_environment(env: Isolated) -> dict[str, Any]:
    spec = env.base.spec
    return {
        "env_id": None if spec is None else spec.id,
        "observation_space": str(env.observation_space),
        "action_space": str(env.action_space),
    }


def _observed(observations: np.ndarray, env: Isolated) -> spaces.Box:
    """The environment's space, of the observations' type, if they are in it; else one without bounds."""
    kind, own = cast(Any, observations.dtype.type), env.base.observation_space
    if isinstance(own, spaces.Box) and own.shape == observations.shape[1:]:
        least, most = own.low.astype(kind), own.high.astype(kind)
        if ((observations >= least) & (observations <= most)).all():
            return spaces.Box(least, most, own.shape, kind)
    low, high = (-np.inf, np.inf)
    if observations.dtype.kind == "b":
        low, high = 0, 1
    elif observations.dtype.kind in "iu":
        low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return spaces.Box(low, high, observations.shape[1:], kind)


def _bounded(actions: np.ndarray, env: Isolated) -> spaces.Box:
    kind: Any = actions.dtype.type
    return spaces.Box(env.units.low.astype(kind), env.units.high.astype(kind), actions.shape[1:], kind)
