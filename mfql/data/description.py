"""`{dataset}.json`: where a dataset's files come from, and the sha256 by which they are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mfql.data.constant import constant_dimensions
from mfql.data.layouts import Layout
from mfql.data.opening import content_of
from mfql.data.paths import description_path
from mfql.data.transitions import Transitions
from mfql.documents import write_json
from mfql.errors import UserError, warn
from mfql.experiment.records import if_there, read_dataset
from mfql.files import sha256, there
from mfql.tasks import simulation_version

T = TypeVar("T")

REPLACE = "Generate or fetch the dataset again."
# What a description says of how files were made, beside source and seed.
_OF_MAKING = ("simulation_version", "versions")


def describe(
    folder: str | Path,
    dataset: str,
    paths: Mapping[str, Path],
    layout: Layout | None,
    source: str,
    seed: int | None = None,
) -> None:
    """Describe the files of a dataset.

    Args:
        folder: where the description is written.
        dataset: such as `cube-single-play-v0`.
        paths: the file of each split.
        layout: how they are read; None where the suite's `load` alone can: then no rows are described.
        source: `generated` or `downloaded`.
        seed: that they were generated with; None for a download.
    """
    simulated = {"simulation_version": simulation_version(dataset)} if source == "generated" else {}
    if layout is None:
        _write(folder, dataset, paths, source, seed)
    else:
        _describe_files(folder, dataset, paths, layout, source, seed, **simulated)


def describe_anew(folder: str | Path, dataset: str, paths: Mapping[str, Path], layout: Layout) -> None:
    """Write the description of fetched or generated files again, as of today's version.

    What the files do not tell stays as it was described: source, seed, and what they were made with.

    Raises:
        UserError: there is no description, without which nobody knows where the files come from; or the files are not
            those described.
    """
    path = description_path(folder, dataset)
    if not there(path):
        raise UserError(
            f"{path} does not exist, so that nothing says where the files of {dataset} come from",
            "mfql data fetch, or generate, brings the dataset and describes it.",
        )
    verify(folder, dataset, paths)
    before = read_dataset(path)
    kept = {name: before[name] for name in _OF_MAKING if name in before}
    _describe_files(folder, dataset, paths, layout, before["source"], before.get("seed"), **kept)


def describe_rows(
    folder: str | Path, dataset: str, paths: Mapping[str, Path], rows: Mapping[str, Transitions], **more: Any
) -> None:
    """Describe the files of a dataset by the transitions that were read of them.

    Args:
        folder, dataset, paths: as of `describe`.
        rows: the transitions of each of them, as training sees them.
        more: further entries.

    Raises:
        UserError: the files are not those described before.
    """
    source = verify(folder, dataset, paths)[0]
    lengths = _lengths(rows)
    observations = rows["train"].observations
    constant = constant_dimensions(observations) if isinstance(observations, np.ndarray) else []
    _write_rows(folder, dataset, paths, "own" if source == "unknown" else source, None, lengths, constant, **more)


def refuse_other_rows(folder: str | Path, dataset: str, rows: Mapping[str, Transitions]) -> None:
    """Refuse transitions of files of which others were read when they were described, as an earlier version may have.

    The files are the same, and so would be the identity of runs that learn from something else.

    Args:
        folder, dataset, rows: as of `describe_rows`.

    Raises:
        UserError: there are more or fewer of them, or they are of other trajectories.
    """
    path = description_path(folder, dataset)
    described = if_there(read_dataset, path) or {}
    for name, found in _counts(_lengths(rows)).items():
        if described.get(name, found) != found:
            raise UserError(
                f"{path} says {name} {described[name]}, and of the same files {found} are read now: an earlier version"
                " read them otherwise",
                "Give the task another name, since runs on the two do not compare. Or, to start over, remove"
                f" {path} and the task's runs.",
            )


def warn_of_other_dimensions(folder: str | Path, dataset: str, constant: list[int]) -> None:
    """Say where a description has other dimensions that do not vary than its files; plans and checks go by it.

    Args:
        constant: the dimensions of the training rows.
    """
    path = description_path(folder, dataset)
    described = (if_there(read_dataset, path) or {}).get("constant_dimensions", constant)
    if described != constant:
        warn(
            f"{path} says constant_dimensions {described}, and those of the files are {constant}, which count",
            "`mfql plan` and `mfql verify` go by what it says: write it anew with `mfql data describe`.",
        )


def _lengths(rows: Mapping[str, Transitions]) -> dict[str, np.ndarray]:
    """The rows of each trajectory by split."""
    return {split: part.lengths for split, part in rows.items()}


def _counts(lengths: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {
        "episodes": len(lengths["train"]),
        "val_episodes": len(lengths.get("val", ())),
        "rows": {split: int(lengths[split].sum()) for split in lengths},
    }


def _describe_files(
    folder: str | Path,
    dataset: str,
    paths: Mapping[str, Path],
    layout: Layout,
    source: str,
    seed: int | None,
    **more: Any,
) -> None:
    lengths = {split: _read(layout.lengths, path) for split, path in paths.items()}
    constant = _read(layout.constant, paths["train"])
    _write_rows(folder, dataset, paths, source, seed, lengths, constant, **more)


def _write_rows(
    folder: str | Path,
    dataset: str,
    paths: Mapping[str, Path],
    source: str,
    seed: int | None,
    lengths: Mapping[str, np.ndarray],
    constant: list[int],
    **more: Any,
) -> None:
    """`lengths` are the rows of each episode by split; `more` are further entries, or others than today's versions."""
    found = np.unique(np.concatenate(list(lengths.values())))
    counts = _counts(lengths) | {
        "steps": int(found[0]) if len(found) == 1 else None,
        "constant_dimensions": constant,
    }
    _write(folder, dataset, paths, source, seed, **counts, **more)


def _write(
    folder: str | Path, dataset: str, paths: Mapping[str, Path], source: str, seed: int | None, **more: Any
) -> None:
    write_json(
        description_path(folder, dataset),
        {
            "dataset": dataset,
            "source": source,
            "seed": seed,
            "sha256": {split: sha256(path) for split, path in paths.items()},
            "versions": {package: _version(package) for package in ("mfql", "ogbench", "mujoco", "numpy")},
            **more,
        },
    )


def source_of(description: Path) -> str | None:
    """Where a description says that its dataset's files are from; None where there is none."""
    return (if_there(read_dataset, description) or {}).get("source")


def recorded_facts(path: Path) -> dict[str, Any]:
    """What a description says of the training data: `sha256`, and `constant_dimensions` unless it is an older one."""
    described = read_dataset(path)
    found = {"sha256": str(described["sha256"]["train"])}
    if "constant_dimensions" in described:
        found["constant_dimensions"] = described["constant_dimensions"]
    return found


def identifying(name: str, sha256: str, known: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run's identity takes of its dataset, told without reading the data.

    Descriptions of earlier versions do not say which dimensions are constant: then what a run's manifest says counts,
    and without one none. `mfql train`, which reads the data, decides.

    Args:
        name, sha256: of the dataset.
        known: what is said of datasets, as of `recorded_facts`, first what is to be believed first.
    """
    found: dict[str, Any] = {"name": name, "sha256": sha256}
    for facts in known:
        if facts.get("sha256") == sha256 and "constant_dimensions" in facts:
            return found | {"constant_dimensions": facts["constant_dimensions"]}
    return found


def verify(folder: str | Path, dataset: str, paths: Mapping[str, Path]) -> tuple[str, str]:
    """The source of a dataset and the sha256 of its training file.

    Args:
        folder: where its description is, if there is one.
        paths: the file of each split.

    Returns:
        `generated`, `downloaded`, `own`, or `unknown` if there is no description; and 64 hexadecimal digits.

    Raises:
        UserError: the files are not those described.
    """
    path = description_path(folder, dataset)
    found = {split: sha256(file) for split, file in paths.items()}
    if not there(path):
        return "unknown", found["train"]
    described = read_dataset(path)
    source, expected = described["source"], described["sha256"]
    if lacking := found.keys() - expected.keys():
        raise UserError(f"{path} does not say the sha256 of {', '.join(sorted(lacking))}", REPLACE)
    for split, file in paths.items():
        if found[split] != expected[split]:
            raise UserError(
                f"{file} is not the file that {path.name} describes: its sha256 is {found[split]}, described is "
                f"{expected[split]}",
                f"{'Bring it back.' if source == 'own' else f'Move it away. {REPLACE}'} If you replaced the data on"
                f" purpose, delete {path.name}.",
            )
    return source, found["train"]


def check_simulation(folder: str | Path, dataset: str) -> None:
    """Refuse data that were generated in another physics than their policies would be evaluated in.

    Raises:
        UserError: their simulation version is not that of the dataset's tasks.
    """
    path = description_path(folder, dataset)
    described = if_there(read_dataset, path) or {}
    before, now = described.get("simulation_version", 1), simulation_version(dataset)
    if described.get("source") == "generated" and before != now:
        raise UserError(
            f"{dataset} in {path.parent} was generated with simulation version {before}, today's is {now}",
            "Generate the dataset again; docs/physics.md says what changed.",
        )


def _read(read: Callable[[Path], T], path: Path) -> T:
    """What a function reads of a file.

    Raises:
        UserError: the file cannot be read, is damaged, or holds Python objects instead of numbers.
    """
    with content_of(path, "is no dataset", REPLACE):
        return read(path)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"  # This package, run from its source folder.
