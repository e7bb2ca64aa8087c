"""`policy.json`: what of it acting needs, checked against a schema before anything is made of it."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mfql.documents import read_json
from mfql.errors import UserError

DESCRIPTION = "policy.json"
COPY = "Copy both files again from the run's folder run/policy."

_LARGEST = float(np.finfo(np.float32).max)
_NAME = {"type": "string", "minLength": 1}
_SIZE = {"type": "integer", "minimum": 1}
_NAME_OR_NONE = {"type": ["string", "null"]}
_BOUND = {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max}
_BOUNDS = {"type": "array", "items": _BOUND}
_STATISTIC = {"type": "array", "items": {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}}
_NEEDED: dict[str, Any] = {
    "method": _NAME,
    "agent": _NAME,
    "task": _NAME,
    "seed": {"type": "integer", "minimum": 0},
    "stage": _NAME,
    "identity": _NAME,
    "settings": {"type": "object"},
    "observation_shape": {"type": "array", "items": _SIZE},
    "action_dim": _SIZE,
    "observation_mean": _STATISTIC,
    "observation_std": _STATISTIC,
}
# What a description of an earlier version has nothing of; with one of the units' entries go the others.
_UNITS: dict[str, Any] = {
    "action_low": _BOUNDS,
    "action_high": _BOUNDS,
    "action_dtype": {"type": "string", "pattern": "^float(16|32|64|96|128)$"},
    "actions_rescaled": {"type": "boolean"},
}
# A task of one's own says its row of the table.
_ROW: dict[str, Any] = {
    "env_id": _NAME,
    "metric": {"enum": ["success", "normalized_return", "return"]},
    "max_episode_steps": {"type": ["integer", "null"], "minimum": 1},
    "score_low": {"type": ["number", "null"]},
    "score_high": {"type": ["number", "null"]},
}
_BY_NAME = {"type": "object", "additionalProperties": {"type": "string"}}
_CODE = {"type": ["object", "null"], "properties": {"files": _BY_NAME, "packages": _BY_NAME}}
_ENVIRONMENT = {
    "type": "object",
    "properties": _ROW
    | {"suite": _NAME_OR_NONE, "folder": _NAME_OR_NONE, "registered_by": _NAME_OR_NONE, "code": _CODE},
    "dependentRequired": {"env_id": list(_ROW)},
    "if": {"properties": {"suite": {"const": "gymnasium"}}, "required": ["suite"]},
    "then": {"required": ["env_id"]},
}
_LAYOUT = {
    "type": ["array", "null"],
    "items": {
        "type": "array",
        "prefixItems": [
            {"type": "array", "items": {"type": "string"}, "minItems": 1},
            {"type": "integer", "minimum": 0},
        ],
        "items": False,
        "minItems": 2,
    },
}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": list(_NEEDED),
    "properties": _NEEDED
    | _UNITS
    | {
        "environment": _ENVIRONMENT,
        "observation_layout": _LAYOUT,
        # 1 of an earlier version.
        "horizon": _SIZE,
        "agent_file": _NAME_OR_NONE,
        "weights_sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    },
    "dependentRequired": {name: [other for other in _UNITS if other != name] for name in _UNITS},
}


def _is_whole(_: Any, value: Any) -> bool:
    """Sizes are Python's integers: to JSON Schema 2.0 is one too."""
    return isinstance(value, int) and not isinstance(value, bool)


@cache
def _validator() -> Any:
    # Inside a function: who trains and never reads a policy does without the package.
    import jsonschema

    kind = jsonschema.Draft202012Validator
    whole = kind.TYPE_CHECKER.redefine("integer", _is_whole)
    return jsonschema.validators.extend(kind, type_checker=whole)(_SCHEMA)


def read_description(folder: Path) -> dict[str, Any]:
    """What a policy's `policy.json` holds.

    Raises:
        UserError: it is absent or no JSON, or names the entry that is absent or does not fit.
    """
    from jsonschema.exceptions import best_match

    path = folder / DESCRIPTION
    description = read_json(path)
    fault = best_match(_validator().iter_errors(description))
    if fault is not None:
        entry = fault.json_path.removeprefix("$").removeprefix(".")
        raise UserError(f"{path}: {entry + ': ' if entry else ''}{_short(fault.message)}", COPY)
    layout, shape = description.get("observation_layout"), description["observation_shape"]
    if len(shape) not in (1, 3):
        raise UserError(f"{path}: observation_shape: {shape} is neither [D] nor [H, W, C]", COPY)
    if layout is not None and [sum(size for _, size in layout)] != shape:
        raise UserError(f"{path}: observation_layout: its parts do not add up to observations of {shape}", COPY)
    return description


def _short(message: str) -> str:
    """A message without the middle of a long value that it shows."""
    return message if len(message) <= 300 else f"{message[:150]} ... {message[-150:]}"
