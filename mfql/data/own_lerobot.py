"""LeRobot's layout of a dataset, versions 2.0, 2.1 and 3: states, actions and rewards of its Parquet files.

What is read lies in three places of the dataset's folder, as LeRobot's own reader finds it: `meta/info.json` says the
features, `meta/episodes.jsonl` (version 2) or `meta/episodes/*/*.parquet` (3) the episodes and their lengths, and
`data/*/*.parquet` has the frames. The templates of paths that `info.json` has are not used.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.opening import Damaged, content_of, parquet_columns, refuse_linked_folders
from mfql.data.own_rows import LAYOUT, episode_rows, joined
from mfql.data.own_spaces import NO_LIMIT
from mfql.data.transitions import Transitions
from mfql.data.values import flags, real_numbers
from mfql.documents import read_json_lines, read_object
from mfql.errors import UserError, counted, note, warn
from mfql.files import listed, there

_STATE, _AROUND = "observation.state", "observation.environment_state"
_ACTION, _REWARD, _DONE, _SUCCESS, _TRUNCATED = (
    "action",
    "next.reward",
    "next.done",
    "next.success",
    "next.truncated",
)
_FLAGS = (_DONE, _SUCCESS, _TRUNCATED)
# What LeRobot calls parts of an environment's observation otherwise than the environment.
_NAMES = {"agent_pos": _STATE}
_VERSIONS = re.compile(r"v2\.[01]|v3\.\d+")
_FAULT = "is no readable Parquet file"
_ANEW = "Fetch or record the dataset again."
_IMAGES = ("image", "video")


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is a dataset in LeRobot's layout."""
    return there(folder / "meta" / "info.json")


def read_lerobot(path: Path, env: Any, limit: int) -> Transitions:
    """The transitions of a dataset's frames; an episode's last one counts if it ends the task.

    Args:
        path: the dataset's folder.
        env: the task's environment; None of a task that has none.
        limit: the steps after which an episode is cut off; `NO_LIMIT` where that is not known.

    Raises:
        UserError: it is of another version, lacks a feature or a part of its episodes, or cannot be read.
    """
    features = _features(path)
    observed = _observed(path, features, env)
    if _REWARD not in features:
        raise UserError(
            f"{path} has no {_REWARD}, without which nothing can be learned from it; its features are"
            f" {', '.join(features)}",
            f"Add the feature {_REWARD} (float32, its shape the tuple (1,)), the reward of a frame's action: to a copy"
            " lerobot.datasets.dataset_tools.add_features of LeRobot 0.4 does; or record it with each frame.",
        )
    if _ACTION not in features:
        raise UserError(f"{path} has no {_ACTION}; its features are {', '.join(features)}", LAYOUT)
    told = [name for name in _FLAGS if name in features]
    frames = _frames(path, features, [*observed, _ACTION, _REWARD, *told])
    starts = _starts(path, frames)
    _warn_of_gaps(path, frames["timestamp"], starts)
    marks = {name: flags(frames[name].reshape(-1), f"{path}: {name}", "Write true or false.") for name in told}
    ended = _ended(path, marks, starts, len(frames[_REWARD]), limit)
    seen = np.concatenate([frames[name].reshape(len(ended), -1) for name in observed], axis=1)
    parts = [
        episode_rows(
            f"{path}: episode {int(frames['episode_index'][start])}",
            seen[start:end],
            None,
            frames[_ACTION][start:end],
            frames[_REWARD][start:end],
            ended[start:end],
        )
        for start, end in zip(starts, np.append(starts[1:], len(ended)), strict=True)
    ]
    found = joined(parts, str(path))
    _say_what_is_read(path, features, observed, len(starts), told, limit)
    return found


def _features(path: Path) -> dict[str, dict[str, Any]]:
    """What `meta/info.json` says of each feature: `dtype`, `shape` and perhaps `names`."""
    about = path / "meta" / "info.json"
    told = read_object(about)
    version, features = told.get("codebase_version"), told.get("features")
    if not isinstance(version, str) or not _VERSIONS.fullmatch(version):
        raise UserError(
            f"{about} says codebase_version {version!r}, and versions 2.0, 2.1 and 3 of LeRobot's layout are read",
            f"Convert it with the scripts in lerobot.datasets (v2, v21, v30), or export it to another layout. {LAYOUT}",
        )
    if not isinstance(features, dict) or not all(_is_feature(feature) for feature in features.values()):
        raise Damaged(about, "says no features with dtype and shape", _ANEW)
    splits = told.get("splits")
    if isinstance(splits, dict) and (others := {str(name) for name in splits} - {"train"}):
        warn(
            f"{path}: its splits ({', '.join(sorted({'train', *others}))}) are not used: every episode is read",
            "Write the episodes that are wanted to a dataset of their own, as lerobot-edit-dataset does.",
        )
    return features


def _is_feature(told: Any) -> bool:
    shape = told.get("shape") if isinstance(told, dict) else None
    return (
        isinstance(shape, list)
        and all(isinstance(size, int) and size > 0 for size in shape)
        and isinstance(told.get("dtype"), str)
    )


def _observed(path: Path, features: dict[str, dict[str, Any]], env: Any) -> list[str]:
    """The features that the environment's observations are made of, in its order; without one all that there are."""
    vectors = [name for name, told in features.items() if told["dtype"] not in _IMAGES]
    layout = None if env is None else env.env.layout
    if layout is not None:
        wanted = [_feature_of(keys, vectors) for keys, _ in layout]
        if absent := [name for name in wanted if name not in vectors]:
            raise UserError(
                f"{path} has no {', '.join(absent)}, which the environment's observations have; its features are"
                f" {', '.join(features)}",
                "Correct env_id or data, or wrap the environment to show what was recorded.",
            )
        return wanted
    own = [name for name in (_STATE, _AROUND) if name in vectors]
    if not own:
        images = [name for name, told in features.items() if told["dtype"] in _IMAGES]
        raise UserError(
            f"{path} has no {_STATE}"
            + (f" beside the images {', '.join(images)}, which are not read" if images else "")
            + f"; its features are {', '.join(features)}",
            "Policies of a task of one's own see vectors of numbers: record the state with each frame.",
        )
    if env is None:
        return own
    size = math.prod(env.observation_space.shape)
    sizes = {name: math.prod(features[name]["shape"]) for name in own}
    for names in [[name] for name in own] + [own]:
        if sum(sizes[name] for name in names) == size:
            return names
    found = ", ".join(f"{name} [{sizes[name]}]" for name in own)
    raise UserError(
        f"{path}: its observations are {found}, and the environment's are vectors of [{size}]",
        "It is the dataset of another environment: correct `data` or `env_id` in the task table.",
    )


def _feature_of(keys: list[str], features: list[str]) -> str:
    """What LeRobot calls a part of an environment's observation."""
    own = f"observation.{'.'.join(keys)}"
    return own if own in features else _NAMES.get(".".join(keys), own)


def _frames(path: Path, features: dict[str, dict[str, Any]], wanted: list[str]) -> dict[str, np.ndarray]:
    """The frames of all files, in the order of the files' names; held against the shapes that are described."""
    for folder in (path / "data", path / "meta" / "episodes"):
        refuse_linked_folders(folder)
    files = [file for chunk in listed(path / "data") for file in listed(chunk) if file.suffix == ".parquet"]
    if not files:
        raise UserError(f"{path / 'data'} has no Parquet files, such as chunk-000/file-000.parquet", _ANEW)
    names = [*wanted, "timestamp", "episode_index", "frame_index"]
    sizes = {name: math.prod(features[name]["shape"]) if name in features else 1 for name in names}
    parts = [_columns(file, sizes) for file in files]
    found = {}
    for name in names:
        shapes = {part[name].shape[1:] for part in parts if len(part[name])}
        values = np.concatenate([part[name] for part in parts if len(part[name])] or [parts[0][name]])
        shape = features[name]["shape"] if name in features else [1]
        if len(shapes) > 1 or math.prod(values.shape[1:]) != math.prod(shape):
            raise UserError(
                f"{path}: {name} has rows of {' and of '.join(str(list(one)) for one in sorted(shapes))}, and"
                f" meta/info.json says {shape}",
                _ANEW,
            )
        found[name] = real_numbers(values, f"{path}: {name}", "Write numbers.")
    return found


def _columns(file: Path, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    try:
        with content_of(file, _FAULT, _ANEW, absent=_ANEW):
            found = parquet_columns(file, sizes)
    except TypeError as error:  # Of values of a kind that no array has.
        raise Damaged(file, f"{_FAULT}: {error}", _ANEW) from error
    lengths = {len(values) for values in found.values()}
    if len(lengths) > 1:
        raise Damaged(file, f"{_FAULT}: it has columns of {', '.join(map(str, sorted(lengths)))} rows", _ANEW)
    return found


def _starts(path: Path, frames: dict[str, np.ndarray]) -> np.ndarray:
    """The first row of each episode; refuses frames that are missing, doubled or in another order."""
    episode, frame = (frames[name].reshape(-1) for name in ("episode_index", "frame_index"))
    if len(episode) == 0:
        raise UserError(f"{path} has no frames", f"Record some. {LAYOUT}")
    starts = np.append(0, np.flatnonzero(episode[1:] != episode[:-1]) + 1)
    lengths = np.diff(np.append(starts, len(episode)))
    if (
        len(np.unique(episode[starts])) < len(starts)
        or (frame != np.arange(len(frame)) - np.repeat(starts, lengths)).any()
    ):
        raise UserError(
            f"{path}: the frames of an episode are not one after the other, by episode_index and frame_index", _ANEW
        )
    found = dict(zip(episode[starts].tolist(), lengths.tolist(), strict=True))
    told = _lengths(path)
    if found != told:
        wrong = sorted(number for number in found.keys() | told.keys() if found.get(number) != told.get(number))
        raise UserError(
            f"{path}: {counted(len(wrong), 'episode')} of {len(told)} that meta/ tells of are not in data/ with all"
            f" their frames, or not described there, the first {wrong[0]}"
            f" ({found.get(wrong[0], 0)} frames in data/, {told.get(wrong[0], 0)} in meta/)",
            "The download or the recording is incomplete: complete it. A recording is, after finalize().",
        )
    return starts


def _lengths(path: Path) -> dict[int, int]:
    """The frames of each episode, as `meta/` has them."""
    about, found = path / "meta", {}
    if there(lines := about / "episodes.jsonl"):
        for number, told in enumerate(read_json_lines(lines, _ANEW), 1):
            episode, length = (
                told.get(name) if isinstance(told, dict) else None for name in ("episode_index", "length")
            )
            if not isinstance(episode, int) or not isinstance(length, int):
                raise Damaged(lines, f"has no episode_index and length in line {number}", _ANEW)
            found[episode] = length
        return found
    files = [file for chunk in listed(about / "episodes") for file in listed(chunk) if file.suffix == ".parquet"]
    if not files:
        raise UserError(f"{about} has neither episodes.jsonl nor files in episodes/", _ANEW)
    for file in files:
        columns = _columns(file, {"episode_index": 1, "length": 1})
        found |= dict(zip(columns["episode_index"].tolist(), columns["length"].tolist(), strict=True))
    return found


def _warn_of_gaps(path: Path, times: np.ndarray, starts: np.ndarray) -> None:
    """Say where frames are missing in time, so that a next frame is not what the action led to."""
    steps = np.diff(times.reshape(-1).astype(np.float64))
    within = np.ones(len(steps), bool)
    within[starts[1:] - 1] = False
    usual = np.median(steps[within]) if within.any() else 0.0
    if gaps := int((within & (np.abs(steps - usual) > 0.5 * usual)).sum()):
        warn(
            f"{path}: {gaps} frames come at another time after the frame before than the usual {usual:.4g} seconds",
            "Where frames were lost, the next one is not what the action led to: leave these episodes out.",
        )


def _ended(path: Path, marks: dict[str, np.ndarray], starts: np.ndarray, rows: int, limit: int) -> np.ndarray:
    """The frames with whose action the task itself ended, [N] bool; `next.done` alone is also of time limits."""
    last = np.zeros(rows, bool)
    last[np.append(starts[1:], rows) - 1] = True
    done, success, truncated = (marks.get(name) for name in _FLAGS)
    if done is not None and truncated is not None:
        return done & ~truncated
    lengths = np.diff(np.append(starts, rows))
    at_the_limit = last & (np.repeat(lengths, lengths) >= limit)
    if success is not None:
        failed = int((done & ~success & ~at_the_limit).sum()) if done is not None else 0
        if failed:
            early = "" if limit == NO_LIMIT else f", before the time limit of {limit} steps,"
            warn(
                f"{path}: {counted(failed, 'frame')} of {_DONE} without {_SUCCESS}{early} are read as cut off, so that"
                " the future counts there",
                f"Where the task failed there, add the feature {_TRUNCATED}: true where an episode was only cut off.",
            )
        return success & (last if done is None else done)
    if done is None:
        return np.zeros(rows, bool)
    if limit == NO_LIMIT and done.any():
        warn(
            f"{path}: {counted(int(done.sum()), 'frame')} of {_DONE} are read as the task's end, also where a recording"
            " was only cut off, since no time limit is known",
            f"Write the limit as max_episode_steps in the task table; or add the feature {_TRUNCATED}: true where an"
            " episode was only cut off.",
        )
    return done & ~at_the_limit


def _say_what_is_read(
    path: Path, features: dict[str, dict[str, Any]], observed: list[str], episodes: int, told: list[str], limit: int
) -> None:
    named = [f"{name} ({', '.join(names)})" if (names := _names(features[name])) else name for name in observed]
    if _DONE in told and _TRUNCATED in told:
        ends = f"{_DONE} without {_TRUNCATED} is read as the task's end"
    elif _SUCCESS in told:
        ends = f"{_SUCCESS} in an episode's last frame is read as the task's end"
    elif _DONE in told:
        ends = f"{_DONE} is read as the task's end" + (
            "" if limit == NO_LIMIT else f", but at the limit of {limit} steps"
        )
    else:
        ends = f"every episode is read as cut off, since there is no {_DONE} nor {_SUCCESS}"
    images = [name for name, feature in features.items() if feature["dtype"] in _IMAGES]
    unread = f"; images are not read ({', '.join(images)})" if images else ""
    seen = f"{counted(episodes, 'episode')} of observations {', '.join(named)}"
    note(f"{path} is in LeRobot's layout: {seen}; {ends}{unread}")


def _names(feature: dict[str, Any]) -> list[str]:
    """What the numbers of a feature are called, where that is a list of as many."""
    names = feature.get("names")
    return list(map(str, names)) if isinstance(names, list) and len(names) == math.prod(feature["shape"]) else []
