"""Whether the runs behind an average are of one kind: the same settings, data, code and packages.

Runs of one method, task and stage whose settings, data, simulation or training version differ are no sample of one
thing: they are not averaged. Runs of other code or packages of the same declared training version are, and it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from itertools import groupby
from typing import Any

from mfql.files import hash_of
from mfql.settings import LATER, later_facts

Manifest = Mapping[str, Any]
# An aspect in which runs differ -> its values -> the runs that have it.
Differences = dict[str, dict[str, list[str]]]

# The entries of a manifest without which runs cannot be compared.
COMPARED = frozenset({"method", "task", "stage", "settings", "code", "dataset"})
# An aspect of which earlier runs say nothing: these are compared in the others alone.
_NOT_OF_ALL = frozenset({"environment"})
UNKNOWN = "unknown"  # the origin of a run whose manifest is not at hand


def origin(manifest: Manifest | None) -> str:
    """Eight hexadecimal digits, the same for runs of the same code, training version and packages."""
    if manifest is None:
        return UNKNOWN
    return hash_of([_code(manifest), manifest.get("training_version"), manifest.get("packages")])[:8]


def device(manifest: Manifest | None) -> str:
    """The name of the GPU or the processor that a run trained on."""
    hardware = (manifest or {}).get("hardware") or {}
    return str(hardware.get("gpu") or hardware.get("cpu") or UNKNOWN)


def incomparable(manifests: Mapping[str, Manifest]) -> Differences:
    """The differences between runs of one method, task and stage that change their numbers on purpose."""
    return _differences(manifests, _decisive)


def mixed(manifests: Mapping[str, Manifest], by_task: Callable[[str], Set[str]]) -> dict[str, Differences]:
    """The differences between the runs that one average takes.

    Args:
        manifests: of the runs of one experiment, by name.
        by_task: of a method the settings that are the task's; all others are the method's.

    Returns:
        "METHOD STAGE" -> differences over all of its tasks, in code, packages and the settings that are the method's;
        "METHOD TASK STAGE" -> those in data and in the settings that are the task's. Without those that have none.
    """

    def of_method(manifest: Manifest) -> dict[str, str]:
        return _of_method(manifest, by_task(manifest["method"]))

    def of_task(manifest: Manifest) -> dict[str, str]:
        return _of_task(manifest, by_task(manifest["method"]))

    found = {}
    for keys, aspects in ((("method", "stage"), of_method), (("method", "task", "stage"), of_task)):
        ordered = sorted(manifests.items(), key=lambda item: [str(item[1][key]) for key in keys])
        for values, part in groupby(ordered, key=lambda item: [str(item[1][key]) for key in keys]):
            if differences := _differences(dict(part), aspects):
                found[" ".join(values)] = differences
    return found


def described(differences: Differences, most: int = 3) -> list[str]:
    """A line for each aspect: its values, each with the first of its runs."""
    return [
        f"{aspect}: {'; '.join(f'{value} ({_some(runs, most)})' for value, runs in values.items())}"
        for aspect, values in differences.items()
    ]


def _some(runs: list[str], most: int) -> str:
    return ", ".join(runs) if len(runs) <= most else f"{', '.join(runs[:most])} and {len(runs) - most} more"


def _differences(manifests: Mapping[str, Manifest], aspects: Callable[[Manifest], dict[str, str]]) -> Differences:
    by_run = {name: aspects(manifest) for name, manifest in manifests.items()}
    every = dict.fromkeys(aspect for found in by_run.values() for aspect in found)
    differences = {aspect: _by_value(by_run.items(), aspect) for aspect in every}
    return {aspect: values for aspect, values in differences.items() if len(values) > 1}


def _by_value(by_run: Iterable[tuple[str, dict[str, str]]], aspect: str) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, aspects in by_run:
        if aspect in aspects or aspect not in _NOT_OF_ALL:
            values.setdefault(aspects.get(aspect, "none"), []).append(name)
    return values


def _decisive(manifest: Manifest) -> dict[str, str]:
    decisive = {key.replace("_", " "): str(manifest.get(key, "none")) for key in ("agent", "training_version")}
    return decisive | _data(manifest) | {f"setting {key}": str(value) for key, value in _settings(manifest).items()}


def _of_method(manifest: Manifest, by_task: Set[str]) -> dict[str, str]:
    of_task = {f"setting {key}" for key in by_task} | _data(manifest).keys()
    decisive = {key: value for key, value in _decisive(manifest).items() if key not in of_task}
    packages = {f"package {name}": version for name, version in manifest.get("packages", {}).items()}
    return {"code": _code(manifest), **decisive, **packages}


def _of_task(manifest: Manifest, by_task: Set[str]) -> dict[str, str]:
    settings = {f"setting {key}": str(value) for key, value in _settings(manifest).items() if key in by_task}
    return _data(manifest) | settings


def _settings(manifest: Manifest) -> dict[str, Any]:
    """A run's settings, with the values of those that came after it."""
    return LATER | manifest["settings"]


def _data(manifest: Manifest) -> dict[str, str]:
    """What a task is learned from and scored in."""
    dataset, later = manifest["dataset"], later_facts(manifest)
    return {
        "dataset": f"{dataset['name']} {dataset['sha256'][:16]}",
        "simulation version": str(later["simulation_version"] or 1),
        "constant dimensions": str(later["constant_dimensions"] or "none"),
        **({"environment": hash_of(later["environment"])} if later["environment"] else {}),
    }


def _code(manifest: Manifest) -> str:
    """The hash of the code; of an installation without it the commit."""
    code = manifest["code"]
    commit = f"{code.get('version')} {str(code.get('commit'))[:8]}{' with changes' if code.get('dirty') else ''}"
    return f"{code['hash']} ({commit})" if "hash" in code else commit
