"""Method settings: every value that changes a number, from `config/methods/NAME.yaml`.

A method's name may change values of the file that it begins with: `mfql+alpha=300+q_agg=min` is `mfql` with two others.
So a grid's points and an ablation need no file each, and no two of them share a run folder.

This module needs no torch, so that a launcher can compare settings on a machine that never trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

from mfql.errors import UserError, unknown
from mfql.extensions import METHODS, files, find, find_agent
from mfql.files import identity_of
from mfql.tables import as_scalar, find_row, own_columns, scalar_text
from mfql.tasks import SOURCED, Task, find_task, simulation_version

STAGES = ("offline", "pretrain", "online")
# Raise it when the code that all methods share changes a number: finished runs are then trained anew.
TRAINING_VERSION = 1
_META = ("agent", "inherits", "table", *STAGES)
# Settings that came after runs were finished, each with the value that all of those had: with it a setting is no part
# of a run's identity, so that they stay finished.
LATER: dict[str, Any] = {
    "first_update": 1,
    "early_stopping_rule": "score",
    "replay_rows": 0,
    "row_before_update": False,
    "next_action": "trajectory",
    "ranking": "critic",
    "alpha_timing": "after",
    "policy_init": "glorot",
    "norm_epsilon": 1e-16,
    "target_follows": "updated",
}
# Settings that count under a condition alone: the other setting that it is of, and the values of that.
Conditions = Mapping[str, tuple[str, tuple[Any, ...]]]
_COUNTS_WHERE: Conditions = {"reward_delay": ("reward", ("delayed",))}


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
            buffer of 2,000,000 rows of which the rest is zero, as the released code has it; or not at all, with `none`.
        first_update: the number of the offline part's first update. With 0, as the released code counts, there is one
            update more, and an evaluation after it, at step 0.
        early_stopping: stop a seed after this many evaluations in a row without a new best one; 0 never stops.
        early_stopping_rule: what the best one is of: `score`, the task's own; or `success`, as in the released code: of
            that alone, so that a task with another score never stops, and an evaluation without any is never the best.
        replay_rows: online, the oldest rows are overwritten in a buffer of this many or, where that is more, one more
            than the dataset's, as in the released code; 0 keeps every row.
        row_before_update: online, the row of a step enters before the step's updates, as in the released code, instead
            of after them, while which the environments step.
        encoder_channels: of each stage of the image encoder; encoder_features: that it gives. Pixel tasks alone have
            one.
        augment_probability: share of a pixel task's batches whose frames are shifted at random (random crop after
            padding).
        reward: what the method is given of the task's rewards, offline and online: `dataset`, all; `goal`, 1 at the
            step that ends an episode in success, else 0; `delayed`, their sums, every `reward_delay` steps of an
            episode and at its end, or at its end alone where that is 0. Scores never change with it.
    """

    offline_steps: int
    online_steps: int
    discount: float
    batch_size: int = 256
    eval_interval: int = 100_000
    eval_episodes: int = 50
    log_interval: int = 5_000
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    observation_statistics: Literal["valid", "padded", "none"] = "valid"
    first_update: Literal[0, 1] = 1
    early_stopping: int = 0
    early_stopping_rule: Literal["score", "success"] = "score"
    replay_rows: int = 0
    row_before_update: bool = False
    encoder_channels: tuple[int, ...] = (16, 32, 32)
    encoder_features: int = 512
    augment_probability: float = 0.5
    reward: Literal["dataset", "goal", "delayed"] = "dataset"
    reward_delay: int = 0

    def check(self) -> None:
        """Refuse values out of range, and those that change nothing, which would train a run twice under two names.

        Raises:
            UserError: names the key, its value and the range or the condition in which it counts.
        """
        for key in ("offline_steps", "online_steps", "replay_rows", "reward_delay"):
            require(key, getattr(self, key), getattr(self, key) >= 0, "zero or more")
        for key in ("batch_size", "eval_interval", "eval_episodes", "log_interval", "encoder_features"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        require("early_stopping", self.early_stopping, self.early_stopping >= 0, "zero or more")
        require(
            "early_stopping_rule",
            self.early_stopping_rule,
            self.early_stopping > 0 or self.early_stopping_rule == "score",
            "score where early_stopping is 0",
        )
        require("discount", self.discount, 0.0 <= self.discount < 1.0, "in [0, 1)")
        require("augment_probability", self.augment_probability, 0.0 <= self.augment_probability <= 1.0, "in [0, 1]")
        channels = self.encoder_channels
        require("encoder_channels", channels, all(size >= 1 for size in channels), "sizes of one or more")
        require_effect(self, _COUNTS_WHERE)

    def as_dict(self) -> dict[str, Any]:
        """The values, as JSON holds them."""
        return asdict(self)


def identified(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run is known by: all but those of `LATER` that have the value there."""
    return {key: value for key, value in settings.items() if key not in LATER or value != LATER[key]}


def steps_of(settings: Mapping[str, Any], stage: str) -> int:
    """Updates of an offline part, or environment steps of the online one, from settings as JSON holds them."""
    if stage == "online":
        return int(settings["online_steps"])
    # Runs from before the setting have none.
    return int(settings["offline_steps"]) + 1 - int(settings.get("first_update", 1))


def later_facts(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is known by that is no setting and came after runs were finished; None where it is as those had it.

    Args:
        described: a manifest, or what `describe_run` describes of a run.
    """
    simulation = described.get("simulation_version", 1)
    # Observations that are not normalised are divided by 1 in every dimension, as they always were.
    normalised = described["settings"].get("observation_statistics") != "none"
    return {
        "simulation_version": simulation if simulation > 1 else None,
        "constant_dimensions": (described["dataset"].get("constant_dimensions") or None) if normalised else None,
    }


def require(key: str, value: Any, condition: bool, expected: str) -> None:
    """Refuse a setting unless the condition holds."""
    if not condition:
        raise UserError(f"setting {key} is {value}", f"It must be {expected}.")


def require_effect(settings: Settings, conditions: Conditions) -> None:
    """Refuse a setting other than its default where the condition does not hold in which it counts."""
    defaults = {field.name: field.default for field in fields(settings)}
    for key, (other, values) in conditions.items():
        value, found = getattr(settings, key), getattr(settings, other)
        if found not in values and value != defaults[key]:
            wanted = " or ".join(map(scalar_text, values))
            raise UserError(
                f"setting {key} is {value}, which has no effect",
                f"It counts where {other} is {wanted}; {other} is {scalar_text(found)}: change it, or leave {key} out.",
            )


@dataclass(frozen=True)
class _Lost:
    """A value in a method's name that a section of its file stands against: refused where the section's stage is used.

    Where it is not, as the `pretrain` of a method that trains offline alone, the name does what it says.
    """

    method: str
    named: Any
    kept: Any


def raw_settings(method: str, task: str, stage: str, config_dir: str | Path = "config") -> dict[str, Any]:
    """Agent and values of a method's file for one task and stage, inheritance and tables resolved.

    The value `task` takes the cell of the method's own table, or else of the task table. The result has the key `agent`
    and the settings' keys; defaults of the settings class are not in it.

    Raises:
        UserError: unknown method, task or stage, a stage that the method lacks, a cycle of `inherits`, a file that is
            no YAML mapping, or a table that is faulty or has no such cell.
    """
    if stage not in STAGES:
        raise unknown("stage", stage, list(STAGES))
    row = find_task(task, config_dir)
    document = _load_method(method, config_dir)
    stages = _stages_of(method, document)
    if stage not in stages:
        raise UserError(f"method {method} has no stage {stage}", f"It has {', '.join(stages)}.")
    values = _values(document, stage)
    if stage == "online" and "offline_steps" not in document.get(stage, {}):
        start = checkpoint_stage(method, task, config_dir)
        values["offline_steps"] = raw_settings(method, task, start, config_dir)["offline_steps"] if start else 0
    cells = _cells(document, row, stage, config_dir)
    for key, value in values.items():
        if value == "task":
            if key not in cells:
                raise UserError(
                    f"method {method}: {key} is 'task', but no table has a column {key}",
                    f"Columns: {', '.join(cells)}.",
                )
            values[key] = cells[key]
    return {"agent": document["agent"], **values}


def settings_source(method: str, task: str, stage: str, config_dir: str | Path = "config") -> str:
    """Where the settings by task of a method are from.

    A method with a table of its own has the row's; another, or one whose row says `task`, that of the task table, if
    it takes any setting from there that the table has a source for.

    Raises:
        UserError: as of `raw_settings`.
    """
    row = find_task(task, config_dir)
    document = _load_method(method, config_dir)
    if "table" in document:
        source = find_row(find(config_dir, document["table"]), task, stage).source
        if source != "task":
            return source
    takes = {key for key, value in _values(document, stage).items() if value == "task"}
    return row.settings_source if takes & set(SOURCED) else "the same for all tasks"


def _values(document: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The values of a stage as they are written.

    Raises:
        UserError: a value in the method's name is lost to that of the stage's section.
    """
    values = _written(document, stage)
    for key, value in values.items():
        if isinstance(value, _Lost):
            raise UserError(
                f"method {value.method}: the name says {key}={scalar_text(value.named)}, the section {stage} of its "
                f"file {key}: {scalar_text(value.kept)}",
                f"Leave {key} out of the name, or write a file that inherits {value.method.partition('+')[0]} and has "
                f"the value in its section {stage}.",
            )
    return values


def _written(document: Mapping[str, Any], stage: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in _META} | document.get(stage, {})


def _cells(document: Mapping[str, Any], row: Task, stage: str, config_dir: str | Path) -> dict[str, Any]:
    """What the value `task` stands for, by setting."""
    cells = dict(row.settings)
    if stage == "pretrain":
        cells["offline_steps"] = cells["pretrain_steps"]
    if "table" not in document:
        return cells
    own = find_row(find(config_dir, document["table"]), row.name, stage).settings
    return cells | {key: cells[key] if cell == "task" else cell for key, cell in own.items()}


def _stages_of(method: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    """The stages of a method's agent."""
    from mfql.declared import agent_stages

    if "agent" not in document:
        raise UserError(f"method {method} names no agent", "Add `agent: mfql` or another to its file.")
    return agent_stages(document["agent"])


def keys_by_task(method: str, config_dir: str | Path = "config") -> set[str]:
    """The settings that a method takes from a table by task, the task table or its own, in any stage.

    Raises:
        UserError: there is no such method, or its file is faulty.
    """
    document = _load_method(method, config_dir)
    return {key for stage in STAGES for key, value in _written(document, stage).items() if value == "task"}


def table_keys(method: str, config_dir: str | Path = "config") -> set[str]:
    """The settings that a method takes from the task table for its offline stage."""
    document = _load_method(method, config_dir)
    own = own_columns(find(config_dir, document["table"])) if "table" in document else set()
    return {key for key, value in _values(document, "offline").items() if value == "task"} - own


def method_name(base: str, values: Mapping[str, float | str | None]) -> str:
    """The name of a method with these values changed: `mfql` and {alpha: 300} give `mfql+alpha=300`."""
    return "+".join([base, *(f"{key}={scalar_text(value)}" for key, value in values.items())])


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
        values[key] = as_scalar(value)
    return base, values


def settings_hash(method: str, task: str, stage: str, config_dir: str | Path = "config") -> str:
    """Changes with every value that changes a number, defaults of the method's code included.

    That of `online` changes with those of the run that it starts from, too.
    """
    from mfql.declared import declared_settings

    agent, own = declared_settings(method, task, stage, config_dir)
    hashed = [stage, agent, identified(own.as_dict()), training_version(agent)]
    start = checkpoint_stage(method, task, config_dir) if stage == "online" else None
    if (simulation := simulation_version(task)) > 1:
        hashed.append(f"simulation_version {simulation}")
    if start is not None:
        hashed.append(identified(declared_settings(method, task, start, config_dir)[1].as_dict()))
    return identity_of(hashed)


def training_version(agent: str) -> list[int]:
    """The declared versions of the shared training code and of a method's own.

    What the agents that it is derived from are raised by is added to its own, so that a raise of theirs counts.

    Raises:
        UserError: there is no such agent, or its file cannot be run here.
    """
    from mfql.declared import declared_version

    return [TRAINING_VERSION, declared_version(agent)]


def agent_file(agent: str) -> Path:
    """The file of an agent: `mfql/agents/NAME.py`, `agents/NAME.py` of an extension, or a path to a Python file.

    Raises:
        UserError: there is no such file.
    """
    folder = Path(__file__).parent / "agents"
    path = Path(agent) if agent.endswith(".py") else find_agent(folder, agent)
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.py") if "settings_type = " in file.read_text()]
        raise unknown("agent", agent, [*known, "a path to a .py file"])
    return path


def checkpoint_stage(method: str, task: str, config_dir: str | Path = "config") -> str | None:
    """The stage that `online` starts from; None for a method that has no offline part.

    `offline` where `pretrain` equals it in every value, else `pretrain`.
    """
    has = _stages_of(method, _load_method(method, config_dir))
    raw = {stage: raw_settings(method, task, stage, config_dir) for stage in ("offline", "pretrain") if stage in has}
    if len(raw) == 2 and raw["offline"] == raw["pretrain"]:
        return "offline"
    return "pretrain" if "pretrain" in raw else next(iter(raw), None)


def method_file(method: str, config_dir: str | Path = "config") -> Path:
    """The file that a method's name begins with, in the configuration's folder or an extension.

    Raises:
        UserError: there is none, or there are two.
    """
    name, _ = split_method(method)
    path = find(config_dir, f"{METHODS}/{name}.yaml")
    if not path.is_file():
        known = [file.stem for file in [*(Path(config_dir) / METHODS).glob("*.yaml"), *files(f"{METHODS}/*.yaml")]]
        raise unknown("method", name, known, str(path.parent))
    return path


def _load_method(method: str, config_dir: str | Path, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    name, changed = split_method(method)
    document = _load_file(name, config_dir, seen)
    sections = {
        stage: {
            key: _against(method, changed[key], value) if key in changed else value
            for key, value in document[stage].items()
        }
        for stage in STAGES
        if stage in document
    }
    return document | changed | sections


def _against(method: str, named: Any, kept: Any) -> Any:
    """What a section has for a setting that the method's name has too."""
    kept = kept.kept if isinstance(kept, _Lost) else kept
    return kept if named == kept else _Lost(method, named, kept)


def _load_file(name: str, config_dir: str | Path, seen: tuple[str, ...]) -> dict[str, Any]:
    path = method_file(name, config_dir)
    if name in seen:
        raise UserError(f"{path} inherits from itself through {' -> '.join((*seen, name))}", "Break the circle.")
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}", "Correct the file.") from error
    mapping = isinstance(document, dict) and all(isinstance(document.get(stage, {}), dict) for stage in STAGES)
    if not mapping or not isinstance(document.get("table", ""), str):
        raise UserError(f"{path} is not a mapping of settings", "See config/README.md.")
    if "inherits" not in document:
        return document
    parent = _load_method(str(document.pop("inherits")), config_dir, (*seen, name))
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
    if get_origin(hint) is UnionType:
        (kind,) = (kind for kind in get_args(hint) if kind is not NoneType)
        return None if value is None else _typed(key, value, kind)
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
