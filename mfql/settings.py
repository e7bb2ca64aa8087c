"""Method settings: every value that changes a number, from `config/methods/NAME.yaml`.

A method's name may change values of the file that it begins with: `mfql+alpha=300+q_agg=min` is `mfql` with two others.
So a grid's points and an ablation need no file each, and no two of them share a run folder.

This module needs no torch, so that a launcher can compare settings on a machine that never trains.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from mfql.errors import UserError, unknown
from mfql.files import identity_of
from mfql.tasks import find_task

STAGES = ("offline", "pretrain", "online")
# Raise it when the code that all methods share changes a number: finished runs are then trained anew.
TRAINING_VERSION = 1
_META = ("agent", "inherits", *STAGES)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every method has. A method's own settings are a subclass.

    Args:
        offline_steps: updates of the offline part.
        online_steps: environment steps of the online part; one of `updates_per_step` updates each.
        batch_size: B, rows of one update.
        discount: of future rewards.
        eval_interval: updates (online: environment steps) between two evaluations.
        eval_episodes: episodes of one evaluation.
        log_interval: updates between two rows of the training log, each the mean since the last.
        precision: of matrix products in an update: `float32`, `tf32` (CUDA alone, float32 elsewhere) or `bf16`; all
            else is float32, acting too.
        observation_statistics: observations are normalised by those of the dataset's `valid` rows, or of a `padded`
            buffer of 2,000,000 rows of which the rest is zero, as the released code has it.
        early_stopping: stop a seed after this many evaluations without a new best score; 0 never stops.
        encoder_channels: of each stage of the image encoder; encoder_features: that it gives. Pixel tasks alone have
            one.
        augment_probability: share of a pixel task's batches whose frames are shifted at random (random crop after
            padding).
        reward: what the method is given of the task's rewards, offline and online: `dataset`, all; `goal`, 1 at the step
            that ends an episode in success, else 0; `delayed`, their sums, every `reward_delay` steps of an episode and
            at its end, or at its end alone where that is 0. Scores never change with it.
    """

    offline_steps: int
    online_steps: int
    discount: float
    batch_size: int = 256
    eval_interval: int = 100_000
    eval_episodes: int = 50
    log_interval: int = 5_000
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    observation_statistics: Literal["valid", "padded"] = "valid"
    early_stopping: int = 0
    encoder_channels: tuple[int, ...] = (16, 32, 32)
    encoder_features: int = 512
    augment_probability: float = 0.5
    reward: Literal["dataset", "goal", "delayed"] = "dataset"
    reward_delay: int = 0

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: names the key, its value and the range.
        """
        for key in ("offline_steps", "online_steps", "reward_delay"):
            require(key, getattr(self, key), getattr(self, key) >= 0, "zero or more")
        for key in ("batch_size", "eval_interval", "eval_episodes", "log_interval", "encoder_features"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        require("early_stopping", self.early_stopping, self.early_stopping >= 0, "zero or more")
        require("discount", self.discount, 0.0 <= self.discount < 1.0, "in [0, 1)")
        require("augment_probability", self.augment_probability, 0.0 <= self.augment_probability <= 1.0, "in [0, 1]")
        channels = self.encoder_channels
        require("encoder_channels", channels, all(size >= 1 for size in channels), "sizes of one or more")

    def as_dict(self) -> dict[str, Any]:
        """The values, as JSON holds them."""
        return asdict(self)


def require(key: str, value: Any, condition: bool, expected: str) -> None:
    """Refuse a setting unless the condition holds."""
    if not condition:
        raise UserError(f"setting {key} is {value}", f"It must be {expected}.")


def raw_settings(method: str, task: str, stage: str, config_dir: str | Path = "config") -> dict[str, Any]:
    """Agent and values of a method's file for one task and stage, inheritance and the task table resolved.

    The result has the key `agent` and the settings' keys; defaults of the settings class are not in it.

    Raises:
        UserError: unknown method, task or stage, a cycle of `inherits`, or a file that is no YAML mapping.
    """
    if stage not in STAGES:
        raise unknown("stage", stage, list(STAGES))
    row = find_task(task, config_dir)
    document = _load_method(method, Path(config_dir) / "methods")
    values = {key: value for key, value in document.items() if key not in _META} | document.get(stage, {})
    if stage == "online" and "offline_steps" not in document.get(stage, {}):
        start = checkpoint_stage(method, task, config_dir)
        values["offline_steps"] = raw_settings(method, task, start, config_dir)["offline_steps"]
    for key, value in values.items():
        if value == "task":
            column = "pretrain_steps" if (stage, key) == ("pretrain", "offline_steps") else key
            if column not in row.settings:
                raise UserError(
                    f"method {method}: {key} is 'task', but the task table has no column {column}",
                    f"Columns: {', '.join(row.settings)}.",
                )
            values[key] = row.settings[column]
    if "agent" not in document:
        raise UserError(f"method {method} names no agent", "Add `agent: mfql` or another to its file.")
    return {"agent": document["agent"], **values}


def table_keys(method: str, config_dir: str | Path = "config") -> set[str]:
    """The settings that a method takes from the task table for its offline stage."""
    document = _load_method(method, Path(config_dir) / "methods")
    return {key for key, value in (document | document.get("offline", {})).items() if value == "task"}


def method_name(base: str, values: Mapping[str, float]) -> str:
    """The name of a method with these numbers changed: `mfql` and {alpha: 300} give `mfql+alpha=300`."""
    return "+".join([base, *(f"{key}={value}" for key, value in values.items())])


def split_method(method: str) -> tuple[str, dict[str, Any]]:
    """The file that a method's name begins with, and the values that the name changes.

    Raises:
        UserError: a part of the name is no KEY=VALUE, names no setting, or a key twice.
    """
    base, *parts = method.split("+")
    values: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (key and equals and value) or key in _META or key in values:
            raise UserError(
                f"method {method}: {part!r} changes no setting", "Write it as NAME+KEY=VALUE, each key once."
            )
        values[key] = _scalar(value)
    return base, values


def _scalar(text: str) -> Any:
    """A number, true or false where the text is one, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)


def settings_hash(method: str, task: str, stage: str, config_dir: str | Path = "config") -> str:
    """Changes with every value that changes a number, defaults of the method's code included.

    That of `online` changes with those of the run that it starts from, too.
    """
    from mfql.declared import declared_settings

    agent, own = declared_settings(method, task, stage, config_dir)
    hashed = [stage, agent, own.as_dict(), training_version(agent)]
    if stage == "online":
        _, start = declared_settings(method, task, checkpoint_stage(method, task, config_dir), config_dir)
        hashed.append(start.as_dict())
    return identity_of(hashed)


def training_version(agent: str) -> list[int]:
    """The declared versions of the shared training code and of a method's own, read from its file without running it.

    Raises:
        UserError: there is no such agent.
    """
    return [TRAINING_VERSION, _own_version(agent_file(agent).read_text())]


@cache
def _own_version(code: str) -> int:
    own = 1
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "training_version" for target in targets):
                own = int(str(node.value.value))
    return own


def agent_file(agent: str) -> Path:
    """The file of an agent: `mfql/agents/NAME.py`, or a path to a Python file.

    Raises:
        UserError: there is no such file.
    """
    folder = Path(__file__).parent / "agents"
    path = Path(agent) if agent.endswith(".py") else folder / f"{agent}.py"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.py") if "settings_type = " in file.read_text()]
        raise unknown("agent", agent, [*known, "a path to a .py file"])
    return path


def checkpoint_stage(method: str, task: str, config_dir: str | Path = "config") -> str:
    """The stage that `online` starts from: `offline` where `pretrain` equals it in every value, else `pretrain`."""
    same = raw_settings(method, task, "offline", config_dir) == raw_settings(method, task, "pretrain", config_dir)
    return "offline" if same else "pretrain"


def _load_method(method: str, folder: Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    name, changed = split_method(method)
    return _load_file(name, folder, seen) | changed


def _load_file(name: str, folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = folder / f"{name}.yaml"
    if name in seen:
        raise UserError(f"{path} inherits from itself through {' -> '.join((*seen, name))}", "Break the circle.")
    try:
        document = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise unknown("method", name, [file.stem for file in folder.glob("*.yaml")], str(folder)) from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}", "Correct the file.") from error
    if not isinstance(document, dict) or not all(isinstance(document.get(stage, {}), dict) for stage in STAGES):
        raise UserError(f"{path} is not a mapping of settings", "See config/README.md.")
    if "inherits" not in document:
        return document
    parent = _load_method(str(document.pop("inherits")), folder, (*seen, name))
    stages = {
        stage: parent.get(stage, {}) | document.get(stage, {})
        for stage in STAGES
        if stage in parent or stage in document
    }
    return parent | document | stages


T = TypeVar("T", bound=Settings)


def build_settings(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A settings object from values of a file.

    Args:
        kind: the method's settings class.
        values: keys and values, without `agent`.
        where: named in errors.

    Raises:
        UserError: an unknown or missing key, a wrong type, or a value out of range.
    """
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise unknown("setting", key, list(hints), where)
    for field in fields(kind):
        if field.default is MISSING and field.name not in values:
            raise UserError(f"{where} lacks the setting {field.name}", "Give it a value.")
    try:
        settings = kind(**{key: _typed(key, value, hints[key]) for key, value in values.items()})
        settings.check()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return settings


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value as the annotated type; whole floats pass as int, ints as float."""
    if get_origin(hint) is Literal:
        require(key, repr(value), value in get_args(hint), f"one of {', '.join(map(str, get_args(hint)))}")
        return value
    if get_origin(hint) is tuple:
        require(key, repr(value), isinstance(value, list | tuple), "a list")
        return tuple(_typed(key, item, get_args(hint)[0]) for item in value)
    if hint is bool:
        require(key, repr(value), isinstance(value, bool), "true or false")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        require(key, repr(value), number and math.isfinite(value) and value == int(value), "a whole number")
        return int(value)
    if hint is float:
        require(key, repr(value), number and math.isfinite(value), "a number")
        return float(value)
    require(key, repr(value), isinstance(value, hint), f"a {hint.__name__}")
    return value
