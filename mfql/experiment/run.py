"""A run's folder: who owns it, what it says of itself, and when it is finished."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

from mfql.declared import training_version
from mfql.documents import write_json
from mfql.errors import UserError
from mfql.experiment.owned import WRITTEN
from mfql.experiment.records import IDENTIFYING, if_there, read_evaluation, read_failure, read_manifest, require
from mfql.files import MOST_JSON, MOST_WEIGHTS, CannotRead, hash_of, listed, move, remove_left, sha256, there
from mfql.methods import settings_hash
from mfql.settings import LATER, identified, later_facts
from mfql.tasks import code_of_environment, estimator, registered_tasks, simulation_version

# What a finished run's manifest knows, the result last.
OUTPUTS = ("policy/policy.safetensors", "policy/policy.json", "metrics.csv", "evaluation.json")
# What jobs hand on where they share no folder (`mfql.experiment.carried`): all of a finished run but its checkpoints,
# and the last of these, from which another stage starts.
RUN, CHECKPOINT = "run.tar", "checkpoint.tar"
# What names a run, its settings' versions and origin.
_TOLD = (
    *("method", "task", "seed", "stage", "agent"),
    *("training_version", "simulation_version", "identity", "settings_hash", "settings_source"),
)
# A checkpoint's whole name: `step-10.pt` is none of a run's.
_STEP = re.compile(r"step-(\d{9,})\.pt")
# Regular expressions of the files that a trainer writes beside the folder that it owns.
_DELIVERED = (r"evaluation\.json", r"failure\.json", r"paused-\d+\.json")


class Fate(Enum):
    """What training makes of a run's folder."""

    NEW = "new"
    CONTINUED = "continued"
    FINISHED = "finished"
    RETRAINED = "retrained"
    REFUSED = "refused"


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the checkpoints of one run lie: `step-<n>.pt`, which `mfql.training.checkpoint` reads and writes."""

    folder: Path

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        matches = (_STEP.fullmatch(path.name) for path in listed(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:09d}.pt"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one method, task, seed and stage; see docs/architecture.md for what lies in it."""

    results: Path
    method: str
    task: str
    seed: int
    stage: str

    @cached_property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.results, "runs", self.method, self.task, f"seed{self.seed}", self.stage)

    @cached_property
    def trained(self) -> Path:
        """The folder that the trainer owns."""
        return self.folder / "run"

    @property
    def lock(self) -> Path:
        """Held while a trainer uses the folder."""
        return self.folder / "lock"

    @property
    def checkpoints(self) -> CheckpointFolder:
        """The folder of the run's checkpoints."""
        return CheckpointFolder(self.trained / "checkpoint")

    def manifest(self) -> dict[str, Any] | None:
        """What the folder says of itself, or None for a new one.

        Raises:
            UserError: it cannot be read, is no manifest, or another run's; so of the others below.
        """
        if there(self.folder) and not self.folder.is_dir():
            raise CannotRead(self.folder, NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
        return if_there(read_manifest, self.trained / "manifest.json")

    def result(self) -> dict[str, Any] | None:
        """The result of the run, or None for one that is not finished."""
        return if_there(read_evaluation, self.trained / "evaluation.json")

    def _known(self, read: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The manifest, which must have what tells one run from another."""
        manifest = read or self.manifest()
        if manifest is not None:
            require(self.trained / "manifest.json", manifest, IDENTIFYING)
        return manifest

    def place_of(self, identity: str) -> Path:
        """The folder that has the run of an identity: where it was moved aside for other settings, else `trained`."""
        aside = self.trained.with_name(f"run.{identity}")
        if there(aside / "manifest.json") and (self.manifest() or {}).get("identity") != identity:
            return aside
        return self.trained

    def has(self, identity: str) -> bool:
        """Whether the run of an identity lies there, be it moved aside for other settings."""
        manifest = if_there(read_manifest, self.place_of(identity) / "manifest.json")
        return manifest is not None and manifest.get("identity") == identity

    def finished(self) -> bool:
        """Whether the result is there."""
        return there(self.trained / "evaluation.json")

    def pause_file(self, step: int) -> Path:
        """What the run's result was at a step at which it paused; beside `evaluation.json`."""
        return self.folder / f"paused-{step}.json"

    def failure(self) -> dict[str, Any] | None:
        """The `error` that ended the last attempt to train the run, and `when`; None if none did."""
        return if_there(read_failure, self.folder / "failure.json")

    def record_failure(self, error: Exception) -> None:
        """Write down what ended an attempt, so that it is told from one that was killed."""
        first = str(error).splitlines()[:1]
        said = first[0] if first and isinstance(error, UserError) else ": ".join([type(error).__name__, *first])
        write_json(self.folder / "failure.json", {"error": said, "when": now()})

    def begin_attempt(self) -> None:
        """Forget how the last attempt failed, and remove what a killed one left half-written; the lock is held."""
        (self.folder / "failure.json").unlink(missing_ok=True)
        remove_left(self.folder, _DELIVERED, locked=True)
        for place, names in WRITTEN.items():
            remove_left(self.trained / place, names, locked=True)

    def deliver(self) -> None:
        """Copy the result to where it is declared, written last.

        Raises:
            UserError: it is not as it was when the run ended.
        """
        self.require_result()
        source, target = self.trained / "evaluation.json", self.folder / "evaluation.json"
        with suppress(UserError):  # Whatever lies there instead is replaced.
            if there(target) and sha256(target, MOST_JSON) == sha256(source, MOST_JSON):
                return
        write_json(target, read_evaluation(source))

    def require_result(self) -> None:
        """Refuse a result that is not as it was when the run ended.

        Raises:
            UserError: the manifest does not vouch for it, or is altered itself.
        """
        source, manifest = self.trained / "evaluation.json", self.manifest() or {}
        if not has_own_identity(manifest):
            raise _altered(self, "it has other settings, versions or data than its identity is of")
        if not is_vouched_for(source, manifest):
            raise UserError(
                f"{source} is altered: it is not the file that the manifest beside it knows",
                "Put the right file back; or delete it, and the same command makes it again from the last checkpoint.",
            )

    def fate(self, wanted: dict[str, Any], read: dict[str, Any] | None = None) -> Fate:
        """What training the run that `describe_run` describes makes of the folder as it is.

        Args:
            read: the manifest, where it was read just now.
        """
        manifest, place = self._known(read), self.place_of(wanted["identity"])
        if manifest is None and place == self.trained and there(place / "evaluation.json"):
            return Fate.REFUSED  # Nobody knows whose result it is.
        if manifest is not None and manifest["identity"] != wanted["identity"]:
            before, now = manifest["dataset"], wanted["dataset"]
            other_data = before["name"] == now["name"] and before["sha256"] != now["sha256"]
            # Generated data change on purpose with what simulates them; downloaded ones never do.
            simulated_anew = manifest.get("simulation_version", 1) != wanted["simulation_version"]
            generated_anew = before.get("source") == "generated" and simulated_anew
            if other_data and not generated_anew:
                return Fate.REFUSED
            if place == self.trained:
                return Fate.RETRAINED
        if there(place / "evaluation.json"):
            return Fate.FINISHED
        return Fate.CONTINUED if CheckpointFolder(place / "checkpoint").steps() else Fate.NEW

    def claim(self, wanted: dict[str, Any]) -> None:
        """Make the folder ready for the run that `describe_run` describes.

        A run of other settings is moved aside, and an earlier one of these, which was, is put back.

        Raises:
            UserError: the folder holds a run on another version of the dataset, or its manifest is altered.
        """
        before, place = self._known(), self.place_of(wanted["identity"])
        if before is not None and before["identity"] != wanted["identity"]:
            self._refuse_change(before, wanted)
            print(f"{self.folder}: the earlier run is kept in {self.move_aside(before['identity']).name}", flush=True)
            if place == self.trained:
                reasons = ", ".join(changes(before, wanted))
                print(f"{self.folder}: trained anew ({reasons})", flush=True)
        elif before is None and place == self.trained and there(place / "evaluation.json"):
            refusal = UserError(
                f"{place / 'manifest.json'} is gone: nothing says what evaluation.json beside it is the result of",
                f"Put the file back; or move {place} away, and the same command trains the run.",
            )
            self.record_failure(refusal)
            raise refusal
        if place != self.trained:
            if before is None and there(self.trained):
                kept = self.move_aside("unknown")
                print(f"{self.folder}: run has no manifest, and is kept in {kept.name}", flush=True)
            move(place, self.trained)
            print(f"{self.folder}: {place.name} is the run of these settings, and is put back", flush=True)

    def _refuse_change(self, before: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Refuse to train where a run lies of other data, or one whose manifest is altered."""
        if self.fate(wanted) is Fate.REFUSED:
            refusal = UserError(
                f"the dataset {wanted['dataset']['name']} changed under {self.folder}: it was "
                f"{before['dataset']['sha256'][:16]}..., it is {wanted['dataset']['sha256'][:16]}...",
                "Restore the dataset, or move that folder away to train on the new one.",
            )
            self.record_failure(refusal)  # The run may be finished, and would pass for one.
            raise refusal
        if not changes(before, wanted):
            raise _altered(
                self,
                "its identity is not that of its settings, versions and data",
                f", or write {wanted['identity']} as its identity",
            )

    def move_aside(self, name: str) -> Path:
        """Move `run` to `run.NAME`; where one lies there already, the finished one of the two has that name.

        Returns:
            where it lies now.
        """
        aside = self.trained.with_name(f"run.{name}")
        if there(aside):
            further = _free(aside)
            if there(aside / "evaluation.json") and not self.finished():
                aside = further
            else:
                move(aside, further)
        move(self.trained, aside)
        return aside


def _altered(run: RunFolder, how: str, other_remedy: str = "") -> UserError:
    return UserError(f"{run.trained / 'manifest.json'} is altered: {how}", f"Put the right file back{other_remedy}.")


def _free(path: Path) -> Path:
    """The first of `NAME.2`, `NAME.3` ... that is not there."""
    number = 2
    while there(found := path.with_name(f"{path.name}.{number}")):
        number += 1
    return found


def describe_run(
    run: RunFolder, agent: str, settings: dict[str, Any], dataset: dict[str, Any], parent: dict[str, Any] | None
) -> dict[str, Any]:
    """What identifies a run: the part of its manifest that is known before it trains.

    Args:
        run: its folder.
        agent: the method's code.
        settings: every value, defaults of the settings class included.
        dataset: `name` and `sha256`, `constant_dimensions` where it has any, and what else is to be said of it.
        parent: `stage` and `identity` of the run that it starts from; None for the offline part.
    """
    described = {
        "method": run.method,
        "agent": agent,
        "task": run.task,
        "seed": run.seed,
        "stage": run.stage,
        "training_version": training_version(agent),
        "settings": settings,
        "starts_from": parent and {"stage": parent["stage"], "identity": parent["identity"]},
        "dataset": dataset,
        "simulation_version": simulation_version(run.task),
    }
    if (scoring := estimator(run.task)) is not None:
        described["estimator"] = scoring
    before = _with_identity(described)
    if run.task not in registered_tasks():
        return before
    # Where the code is not to be found, that of the run that lies there.
    environment = code_of_environment(run.task) or (run.manifest() or {}).get("environment")
    if environment is None:
        return before
    now = _with_identity(described | {"environment": environment})
    # One from before an environment's code was part of a run stays what it was, also where it was moved aside since.
    return before if run.has(before["identity"]) and not run.has(now["identity"]) else now


def hash_for_launch(runs: Collection[RunFolder], config_dir: str | Path) -> str:
    """The `settings_hash` that a launch compares of one job's runs, which differ in their seeds alone.

    Where all were begun before an environment's code was part of a run, and have these settings, it is theirs, so that
    nothing of them is made again.
    """
    of = next((run.method, run.task, run.stage, config_dir) for run in runs)
    now, before = settings_hash(*of), settings_hash(*of, with_environment=False)
    return before if now != before and all(_is_known_by(before, run) for run in runs) else now


def _is_known_by(before: str, run: RunFolder) -> bool:
    try:
        manifest = run.manifest() or {}
    except UserError:  # It is said where the run is judged.
        return False
    return "environment" not in manifest and manifest.get("settings_hash") == before


def _with_identity(described: dict[str, Any]) -> dict[str, Any]:
    return described | {"identity": identity_in(described)}


def identity_in(described: Mapping[str, Any]) -> str:
    """The hash of everything that changes a run's numbers, of a description or a manifest.

    Raises:
        KeyError: an entry is absent.
    """
    parent = described["starts_from"]
    return hash_of(
        {
            "agent": described["agent"],
            "training_version": described["training_version"],
            "stage": "online" if described["stage"] == "online" else "offline",
            "seed": described["seed"],
            "settings": identified(described["settings"]),
            "dataset": described["dataset"]["sha256"],
            "parent": parent and parent["identity"],
        }
        | {name: value for name, value in later_facts(described).items() if value is not None}
    )


def is_vouched_for(result: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether an `evaluation.json` is what a run's manifest says that it ended with.

    Runs of versions that wrote no hashes say nothing of it, and are believed.
    """
    outputs = manifest.get("outputs")
    return not outputs or sha256(result, MOST_JSON) == outputs.get("evaluation.json")


def flat_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a run and what names it, by which it is compared with others.

    Nothing of it says anything of the machine, of a person or of code.
    """
    told = {key: manifest[key] for key in _TOLD if key in manifest}
    dataset = {"dataset": manifest["dataset"]["name"]} if "dataset" in manifest else {}
    return {**manifest.get("settings", {}), **told, **dataset}


def has_own_identity(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest's identity is that of its settings, versions and data; one that lacks entries says nothing."""
    try:
        return identity_in(manifest) == manifest["identity"]
    except KeyError:
        return True


def alterations(run: RunFolder, manifest: Mapping[str, Any]) -> Iterator[str]:
    """What of a finished run's own folder is not as it was when it ended, for people."""
    outputs = manifest.get("outputs", {})
    for name in OUTPUTS if outputs else ():
        if name not in outputs:
            yield f"run/manifest.json does not know run/{name}"
    for name, expected in outputs.items():
        path = run.trained / name
        if not there(path):
            yield f"run/{name} is gone"
        elif sha256(path, MOST_JSON if name.endswith(".json") else MOST_WEIGHTS) != expected:
            yield f"run/{name} is not the file that the manifest knows"
    if not has_own_identity(manifest):
        yield "run/manifest.json has other settings, versions or data than its identity is of"


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between the manifest of a run and the description of the one that is wanted, for people.

    It is empty if and only if the two have the same identity.
    """
    found = [
        f"{name.replace('_', ' ')} {before[name]} -> {now[name]}"
        for name in ("agent", "training_version", "seed")
        if before[name] != now[name]
    ]
    # As JSON holds them: a list and a tuple are one.
    was, wanted = (LATER | json.loads(json.dumps(settings)) for settings in (before["settings"], now["settings"]))
    for key in sorted(was.keys() | wanted.keys()):
        if was.get(key) != wanted.get(key):
            found.append(f"{key} {was.get(key, 'unset')} -> {wanted.get(key, 'unset')}")
    earlier, later = later_facts(before), later_facts(now)
    found += [
        environment_changes(earlier[name], later[name])
        if name == "environment"
        else f"{name.replace('_', ' ')} {earlier[name] or 'as before'} -> {later[name] or 'as before'}"
        for name in later
        if earlier[name] != later[name]
    ]
    if before["dataset"]["sha256"] != now["dataset"]["sha256"]:
        found.append(f"dataset {before['dataset']['sha256'][:16]} -> {now['dataset']['sha256'][:16]}")
    if (before["starts_from"] or {}).get("identity") != (now["starts_from"] or {}).get("identity"):
        found.append("starts from another run")
    return found


def environment_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """The files and packages in which two environments differ."""
    parts = [{**(one or {}).get("files", {}), **(one or {}).get("packages", {})} for one in (before, now)]
    names = sorted(name for name in parts[0].keys() | parts[1].keys() if parts[0].get(name) != parts[1].get(name))
    said = [f"{name} {parts[0].get(name, 'none')[:16]} -> {parts[1].get(name, 'none')[:16]}" for name in names]
    return f"environment: {', '.join(said) or 'not known of the earlier run'}"


def go_on_together(checkpoints: Mapping[int, Collection[int]]) -> list[dict[int, int | None]]:
    """The seeds of a job that train side by side, and from which step; those of one job share their latest common one.

    Args:
        checkpoints: steps with a checkpoint, by seed.

    Returns:
        groups, one after the other; None stands for a start from the beginning.
    """
    waiting = dict(checkpoints)
    found: list[dict[int, int | None]] = []
    while waiting:
        common = max(set.intersection(*map(set, waiting.values())), default=None)
        step = max((step for steps in waiting.values() for step in steps), default=None) if common is None else common
        group = {seed: step for seed, steps in waiting.items() if step is None or step in steps}
        found.append(group)
        waiting = {seed: steps for seed, steps in waiting.items() if seed not in group}
    return found


def now() -> str:
    """The local time with its zone, as manifests have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
