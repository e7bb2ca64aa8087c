"""Bytes of datasets and results, before they are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfql.data.checksums import known
from mfql.experiment.configuration import Run, dataset_folder
from mfql.files import there
from mfql.plan.cost import counted_parameters
from mfql.suites import split_paths, suite_of
from mfql.suites.suite import Row

# Weights, targets and both moments, of the last two checkpoints.
_COPIES, _CHECKPOINTS = 5, 2
# What compression leaves of a file: of generated pointmaze, cube-single and scene 0.61, 0.86 and 0.71.
_COMPRESSED = 0.8
_IMAGE = 64 * 64 * 3


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
        checksums = {path: known(lock, path.name) for path in paths.values()} if source == "fetch" else {}
        missing = [path for path in paths.values() if not there(path)]
        sizes = [one.bytes for path in missing if (one := checksums.get(path)) is not None]
        size = float(sum(sizes))
        if len(sizes) < len(missing):
            estimated += 1
            size = dataset_bytes(dataset, config["datasets"].get(dataset, {}).get("episodes"))
        fetched += size if source == "fetch" else 0.0
        kept += size + _unpacked(dataset)
    return Data(fetched, kept, estimated)


def dataset_bytes(dataset: str, episodes: int | None = None) -> float:
    """An estimate of a dataset's files from rows and the sizes of arrays; `episodes` of one that is generated."""
    suite = suite_of(dataset)
    return suite.rows(dataset, episodes) * _row_bytes(suite.row(dataset)) * _COMPRESSED


def _row_bytes(row: Row) -> int:
    seen = _IMAGE if row.image else 4 * row.observation
    return seen + 4 * (row.action + row.state + 1) + 8 * row.buttons


def _unpacked(dataset: str) -> float:
    """Images are unpacked beside their file, to be read by row."""
    suite = suite_of(dataset)
    return suite.rows(dataset, None) * _IMAGE if suite.row(dataset).image else 0.0


def result_bytes(run: Run, seeds: int) -> float:
    """What runs of so many seeds leave behind: checkpoints, the policy, and the transitions of the online part."""
    weights = 4.0 * sum(counted_parameters(run)) * (_COPIES * _CHECKPOINTS + 1)
    row = suite_of(run.task.dataset).row(run.task.dataset)
    # An observation and the next, an action, and reward, mask and end.
    transition = 4 * (2 * row.observation + row.action + 3)
    return seeds * (weights + (run.steps * transition if run.stage == "online" else 0.0))
