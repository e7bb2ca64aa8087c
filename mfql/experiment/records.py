"""What the files of a run's folder, and that beside a dataset, may hold: each is held against its schema as it is read.

A file that another program wrote, or that was altered, is a sentence with its path, not an error of whoever uses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema

from mfql.documents import read_json
from mfql.errors import UserError
from mfql.files import CannotRead, there
from mfql.settings import STAGES
from mfql.tasks import ESTIMATE, SCORED_EVALUATIONS

_DRAFT = "http://json-schema.org/draft-07/schema"
_TEXT, _WHOLE, _OBJECT = {"type": "string"}, {"type": "integer"}, {"type": "object"}
_NAME = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 0}
_SOME = {"type": "integer", "minimum": 1}
_NUMBER_OR_NONE = {"type": ["number", "null"]}
_PERCENT_OR_LOST = {"type": ["number", "null"], "minimum": 0, "maximum": 100}

_RESULT: dict[str, Any] = {
    "method": _NAME,
    "task": _NAME,
    "seed": _COUNT,
    "stage": {"enum": list(STAGES)},
    "identity": _NAME,
    "status": {"enum": ["finished", "diverged"]},
    "metric": {"enum": ["success", "normalized_return", "return", ESTIMATE]},
    "score_rule": {"enum": list(SCORED_EVALUATIONS)},
    "score": _NUMBER_OR_NONE,
    "episodes": _SOME,
    "steps": _COUNT,
    "evaluations": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["step", "episodes"],
            "properties": {"step": _COUNT, "episodes": _SOME, "success": _PERCENT_OR_LOST},
            "additionalProperties": _NUMBER_OR_NONE,
        },
    },
}
_EVALUATION: dict[str, Any] = {
    "type": "object",
    "required": list(_RESULT),
    "properties": _RESULT
    | {
        "starts_from": {"enum": [None, "offline", "pretrain"]},
        "stopped_at": {"type": ["integer", "null"]},
        "broken_online": _COUNT,
    },
    "if": {"properties": {"status": {"const": "diverged"}}},
    "then": {"required": ["diverged_at"], "properties": {"diverged_at": _COUNT}},
    "else": {"properties": {"evaluations": {"minItems": 1}}},
}
# What the result was where a run paused, which may be before its first evaluation.
_PAUSED: dict[str, Any] = {key: value for key, value in _EVALUATION.items() if key not in ("if", "then", "else")} | {
    "properties": _EVALUATION["properties"] | {"status": {"enum": ["paused", "diverged"]}}
}
_BY_NAME = {"type": "object", "additionalProperties": _TEXT}
_MADE_OF = {
    "type": "object",
    "required": ["files", "packages"],
    "properties": {"files": _BY_NAME, "packages": _BY_NAME},
}
# Of a manifest no entry is required here: those of earlier versions lack some, and `mfql verify` says which.
_MANIFEST: dict[str, Any] = {
    "type": "object",
    "properties": {
        **dict.fromkeys(("method", "agent", "task", "identity", "settings_hash"), _NAME),
        **dict.fromkeys(("seed", "threads", "parameters"), _COUNT),
        **dict.fromkeys(("code", "hardware"), _OBJECT),
        "packages": _BY_NAME,
        **dict.fromkeys(("seconds", "step_ms", "acting_ms"), _NUMBER_OR_NONE),
        **dict.fromkeys(("settings_source", "device", "started", "finished"), _TEXT),
        "stage": {"enum": list(STAGES)},
        "simulation_version": _SOME,
        "estimator": {"type": ["object", "null"]},
        "settings": {
            "type": "object",
            "properties": dict.fromkeys(("offline_steps", "online_steps", "first_update"), _WHOLE),
        },
        "starts_from": {
            "type": ["object", "null"],
            "required": ["stage", "identity"],
            "properties": {"stage": {"enum": list(STAGES)}, "identity": _NAME},
        },
        "dataset": {
            "type": "object",
            "required": ["name", "sha256"],
            "properties": {
                "name": _NAME,
                "sha256": _NAME,
                "source": _TEXT,
                "constant_dimensions": {"type": ["array", "null"], "items": _COUNT},
            },
        },
        # Of a task of one's own.
        "environment": _MADE_OF,
        "reduced": {"type": "boolean"},
        "seeds_in_job": {"type": "array", "items": _COUNT},
        "outputs": {"type": "object", "additionalProperties": _TEXT},
        "sessions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"started": _TEXT, "from_step": _COUNT},
            },
        },
    },
}
_DATASET = {
    "type": "object",
    "required": ["source", "sha256"],
    "properties": {
        "source": _NAME,
        "sha256": {"type": "object", "required": ["train"], "additionalProperties": _NAME},
        "simulation_version": _SOME,
        "constant_dimensions": {"type": ["array", "null"], "items": _COUNT},
        "environment": {"type": ["object", "null"]},
        "observation_keys": {"type": "array", "items": _TEXT},
        "rows": {"type": "object", "additionalProperties": _COUNT},
        "versions": _OBJECT,
    },
}
_FAILURE = {"type": "object", "required": ["error"], "properties": {"error": _TEXT, "when": _TEXT}}
_FINAL = {
    "type": "object",
    "required": ["identity", "episodes"],
    "properties": {"identity": _NAME, "episodes": _SOME, "success": _PERCENT_OR_LOST}
    | dict.fromkeys(("normalized_return", "return"), _NUMBER_OR_NONE),
}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "evaluation": _EVALUATION,
    "paused": _PAUSED,
    "manifest": _MANIFEST,
    "failure": _FAILURE,
    "final": _FINAL,
    "dataset": _DATASET,
}
# What `RunFolder.fate` and `changes` compare.
IDENTIFYING = ("identity", "agent", "training_version", "seed", "settings", "starts_from", "dataset")
_OF_RUN = ("method", "task", "seed", "stage")


def read_evaluation(path: Path) -> dict[str, Any]:
    """An `evaluation.json`.

    Raises:
        UserError: it is absent, cannot be read, or is none, or that of another run than the folder's.
    """
    return _read_result(path, "evaluation")


def read_pause(path: Path) -> dict[str, Any]:
    """A `paused-STEP.json`: an `evaluation.json` of a run that goes on; its `status` is `paused` or `diverged`.

    Raises:
        UserError: it is absent, cannot be read, or is none, or that of another run than the folder's.
    """
    return _read_result(path, "paused")


def _read_result(path: Path, kind: str) -> dict[str, Any]:
    remedy = "Ask for the file again: the trainer restores it from its run folder."
    found = _checked(path, kind, remedy)
    # An estimate is nothing without its interval.
    needed = (ESTIMATE, "fqe_low", "fqe_high") if found["metric"] == ESTIMATE else (found["metric"],)
    if any(name not in evaluation for evaluation in found["evaluations"] for name in needed):
        raise UserError(f"{path}: an evaluation lacks the run's metric {found['metric']!r}", remedy)
    _require_own(path, found, f"It belongs elsewhere. {remedy}")
    return found


def read_manifest(path: Path, required: Collection[str] = ()) -> dict[str, Any]:
    """A run's `manifest.json`.

    Args:
        required: entries that it must have.

    Raises:
        UserError: it is absent, cannot be read, or is none, or that of another run than the folder's.
    """
    remedy = f"Put the right file back, or move {path.parent} away to train anew."
    found = _checked(path, "manifest", remedy)
    _require_own(path, found, remedy)
    require(path, found, required)
    return found


def require(path: Path, manifest: Mapping[str, Any], entries: Collection[str]) -> None:
    """Refuse a manifest without some entries.

    Raises:
        UserError: names those that it lacks.
    """
    if lacking := [entry for entry in entries if entry not in manifest]:
        raise UserError(
            f"{path} lacks {', '.join(lacking)}", f"Put the right file back, or move {path.parent} away to train anew."
        )


def read_failure(path: Path) -> dict[str, Any]:
    """What ended the last attempt to train a run.

    Raises:
        UserError: it is absent, cannot be read, or is none.
    """
    return _checked(path, "failure", "Remove it: the next attempt writes it anew.")


def read_final(path: Path) -> dict[str, Any]:
    """The separate evaluation of a run's policy.

    Raises:
        UserError: it is absent, cannot be read, or is none.
    """
    return _checked(path, "final", "Write it anew with `mfql evaluate`.")


def read_dataset(path: Path) -> dict[str, Any]:
    """The description beside a dataset's files, `{dataset}.json`.

    Raises:
        UserError: it is absent, cannot be read, or is none.
    """
    return _checked(path, "dataset", "Generate or fetch the dataset again; one of one's own, `mfql data describe`.")


def if_there(read: Callable[[Path], dict[str, Any]], path: Path) -> dict[str, Any] | None:
    """What a function reads of a file, or None where there is none, be it that it was moved away just now.

    Raises:
        UserError: as of the function.
    """
    try:
        return read(path) if there(path) else None
    except UserError:
        if there(path):
            raise
        return None


def unreadable(error: UserError) -> str:
    """What is said of a file that was left out, in a line."""
    return str(error).splitlines()[0]


def _checked(path: Path, kind: str, remedy: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = read_json(path)
    except CannotRead:
        raise
    except UserError as error:
        if not there(path):
            raise
        raise UserError(unreadable(error), remedy) from error
    try:
        _validator(kind)(found)
    except fastjsonschema.JsonSchemaValueException as error:
        where, _, fault = str(error.message).partition(" ")
        raise UserError(f"{path}: {where.removeprefix('data').removeprefix('.') or 'it'} {fault}", remedy) from error
    return found


@cache
def _validator(kind: str) -> Callable[[Any], Any]:
    validate: Callable[[Any], Any] = fastjsonschema.compile({"$schema": _DRAFT, **_SCHEMAS[kind]}, use_default=False)
    return validate


def _require_own(path: Path, found: Mapping[str, Any], remedy: str) -> None:
    """Refuse what another run says of itself: `.../METHOD/TASK/seedN/STAGE/FILE`, or that in a folder `run` of it."""
    parts = os.path.abspath(path).split(os.sep)[:-1]
    if parts[-1].partition(".")[0] == "run":
        del parts[-1]
    own = dict(zip(reversed(_OF_RUN), reversed(parts), strict=False))
    said = [f"seed{found[key]}" if key == "seed" else found[key] for key in _OF_RUN if key in found]
    if said != [own.get(key) for key in _OF_RUN if key in found]:
        raise UserError(f"{path} says that it is the run {'/'.join(map(str, said))}", remedy)
