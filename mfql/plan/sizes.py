"""Bytes of datasets and results, before they are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfql.data.checksums import recorded
from mfql.data.description import split_paths
from mfql.data.generate import VAL_SHARE, recipes
from mfql.envs import d4rl
from mfql.plan.configuration import Run, dataset_folder
from mfql.plan.cost import parameters
from mfql.tasks import is_visual

# Weights, targets and both moments, of the last two checkpoints.
_COPIES, _CHECKPOINTS = 5, 2
# What compression leaves of a file: of generated pointmaze, cube-single and scene 0.61, 0.86 and 0.71.
_COMPRESSED = 0.8
_IMAGE = 64 * 64 * 3
# Three stacked images.
IMAGE_SHAPE = (64, 64, 9)
# Rows of published datasets that cannot be generated here, where they are not a million.
_ROWS = {
    "humanoidmaze-medium": 2_001_000,
    "humanoidmaze-large": 2_001_000,
    "pen-human": 5_000,
    "hammer-human": 11_310,
    "door-human": 6_729,
    "relocate-human": 9_942,
    "pen-cloned": 500_000,
    "pen-expert": 499_206,
}
_MILLION = 1_000_500


@dataclass(frozen=True)
class Data:
    """Bytes of the datasets that a launch brings.

    Args:
        fetched: of files that are not there, to download or to take from a folder.
        kept: of all that it adds to the disk.
        estimated: datasets of which no size is recorded.
    """

    fetched: float
    kept: float
    estimated: int


def data_of(datasets: Mapping[str, str], config: Mapping[str, Any], lock: Path) -> Data:
    """The bytes of datasets that are to be fetched or generated; a file that is in place counts as nothing.

    Args:
        datasets: `fetch`, `generate` or `describe` by name; what is described stays where it is.
        lock: the lock file of published datasets.
    """
    fetched = kept = 0.0
    estimated = 0
    for dataset, source in datasets.items():
        if source == "describe":
            continue
        paths = split_paths(dataset_folder(config, dataset), dataset)
        checksums = {path: recorded(lock, path.name) for path in paths.values()} if source == "fetch" else {}
        missing = [path for path in paths.values() if not path.exists()]
        known = [one.bytes for path in missing if (one := checksums.get(path)) is not None]
        size = float(sum(known))
        if len(known) < len(missing):
            estimated += 1
            size = dataset_bytes(dataset, config["datasets"].get(dataset, {}).get("episodes"))
        fetched += size if source == "fetch" else 0.0
        kept += size + _unpacked(dataset)
    return Data(fetched, kept, estimated)


def dataset_bytes(dataset: str, episodes: int | None = None) -> float:
    """An estimate of a dataset's files from rows and the sizes of arrays; `episodes` of one that is generated."""
    return dataset_rows(dataset, episodes) * _row_bytes(dataset) * _COMPRESSED


def dataset_rows(dataset: str, episodes: int | None) -> float:
    """An estimate of its rows, the validation split's among them; `episodes` of one that is generated."""
    if dataset in d4rl.TASKS:
        return _ROWS.get(dataset.rpartition("-")[0], 1_000_000)
    recipe = recipes().get(dataset)
    if recipe is not None:
        rows = (episodes or recipe.episodes) * recipe.steps
    else:
        rows = next((rows for name, rows in _ROWS.items() if dataset.startswith(name)), _MILLION)
    return rows * (1 + 1 / VAL_SHARE)


@dataclass(frozen=True)
class _Row:
    """Numbers in a row of a dataset: observation, action, state of the simulator, and buttons."""

    observation: int
    action: int
    state: int
    buttons: int = 0


_OGBENCH = {
    "antmaze": _Row(29, 8, 29, 0),
    "humanoidmaze": _Row(69, 21, 55, 0),
    "antsoccer": _Row(42, 8, 42, 0),
    "pointmaze": _Row(2, 2, 4, 0),
    "cube-single": _Row(28, 5, 41, 0),
    "cube-double": _Row(37, 5, 54, 0),
    "cube-triple": _Row(46, 5, 67, 0),
    "cube-quadruple": _Row(55, 5, 80, 0),
    "scene": _Row(40, 5, 49, 2),
    "puzzle-3x3": _Row(55, 5, 46, 9),
    "puzzle-4x4": _Row(83, 5, 60, 16),
    "puzzle-4x5": _Row(99, 5, 68, 20),
    "puzzle-4x6": _Row(115, 5, 76, 24),
}


def _row(dataset: str) -> _Row:
    if dataset in d4rl.TASKS:
        task = d4rl.TASKS[dataset]
        return _Row(task.observation_dim, task.action_dim, task.observation_dim)
    body = dataset.removeprefix("visual-")
    return next((row for name, row in _OGBENCH.items() if body.startswith(name)), _OGBENCH["puzzle-4x4"])


def row_sizes(dataset: str) -> tuple[int, int]:
    """Numbers of an observation and of an action."""
    row = _row(dataset)
    return row.observation, row.action


def _row_bytes(dataset: str) -> int:
    row = _row(dataset)
    seen = _IMAGE if is_visual(dataset) else 4 * row.observation
    return seen + 4 * (row.action + row.state + 1) + 8 * row.buttons


def _unpacked(dataset: str) -> float:
    """Images are unpacked beside their file, to be read by row."""
    return dataset_rows(dataset, None) * _IMAGE if is_visual(dataset) else 0.0


def result_bytes(run: Run, seeds: int) -> float:
    """What runs of so many seeds leave behind: checkpoints, the policy, and the transitions of the online part."""
    weights = 4.0 * sum(parameters(run.settings)) * (_COPIES * _CHECKPOINTS + 1)
    row = _row(run.task.dataset)
    # An observation and the next, an action, and reward, mask and end.
    transition = 4 * (2 * row.observation + row.action + 3)
    return seeds * (weights + (run.steps * transition if run.stage == "online" else 0.0))
