"""Settings of a method: their class, types and ranges, and which of them a run is known by.

This module needs no torch. `mfql.methods` reads the values of a method, `mfql.declared` its settings class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from typing_extensions import override

from mfql.errors import UserError, unknown
from mfql.tables import as_value, value_text

STAGES = ("offline", "pretrain", "online")
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
    "horizon": 1,
}
# More episodes are not evaluated together: each has an environment of its own.
MOST_EPISODES = 100_000
# Longer chunks are of no use, and sizes of networks grow with them.
_MOST_STEPS = 1_000
# The largest whole number below which a float has every one.
_LARGEST_WHOLE = 2**53
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
        require("eval_episodes", self.eval_episodes, self.eval_episodes <= MOST_EPISODES, f"at most {MOST_EPISODES:,}")
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


@dataclass(frozen=True, kw_only=True)
class ChunkSettings(Settings):
    """Settings of a method that can act in chunks (docs/chunking.md).

    Args:
        horizon: h, actions of a chunk, which the policy gives at once and the critic values; 1 is a single action.
    """

    horizon: int = 1

    @override
    def check(self) -> None:
        super().check()
        require("horizon", self.horizon, 1 <= self.horizon <= _MOST_STEPS, f"from 1 to {_MOST_STEPS:,}")


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
        # Of a task of one's own, and of no run from before it was looked at.
        "environment": described.get("environment"),
        # Of a task without an environment, what scores it.
        "estimator": described.get("estimator"),
    }


def misread_hint(value: Any, kinds: Sequence[str]) -> str:
    """How YAML came to read a value that is of none of these JSON types, and what to write, after what was wrong."""
    if isinstance(value, bool) and "string" in kinds:
        return " (YAML reads yes, no, on and off as true and false: put a text in quotes)"
    number = as_value(value) if isinstance(value, str) and {"number", "integer"} & set(kinds) else None
    if isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number):
        return f" (it is a text; write {int(number) if number == int(number) else repr(number)})"
    return ""


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
            wanted = " or ".join(map(value_text, values))
            raise UserError(
                f"setting {key} is {value}, which has no effect",
                f"It counts where {other} is {wanted}; {other} is {value_text(found)}: change it, or leave {key} out.",
            )


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
    hints = _hints(cast("Any", kind))
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


@cache  # A study asks for the settings of hundreds of jobs, which are of a dozen classes.
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value as the annotated type; whole floats pass as int, ints as float."""
    if get_origin(hint) is UnionType:
        (kind,) = (kind for kind in get_args(hint) if kind is not NoneType)
        return None if value is None else _typed(key, value, kind)
    if get_origin(hint) is Literal:
        choices = ", ".join(map(str, get_args(hint)))
        require(key, repr(value), value in get_args(hint), f"one of {choices}{misread_hint(value, ['string'])}")
        return value
    if get_origin(hint) is tuple:
        require(key, repr(value), isinstance(value, list | tuple), "a list, in a name such as 64x64")
        return tuple(_typed(key, item, get_args(hint)[0]) for item in value)
    if hint is bool:
        require(key, repr(value), isinstance(value, bool), "true or false")
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int):
        require(key, f"of {value.bit_length()} bits", abs(value) <= _LARGEST_WHOLE, f"at most {_LARGEST_WHOLE:,}")
    if hint is int:
        require(
            key,
            repr(value),
            number and math.isfinite(value) and value == int(value),
            f"a whole number{misread_hint(value, ['integer'])}",
        )
        return int(value)
    if hint is float:
        require(key, repr(value), number and math.isfinite(value), f"a number{misread_hint(value, ['number'])}")
        return float(value)
    require(key, repr(value), isinstance(value, hint), f"a {hint.__name__}{misread_hint(value, ['string'])}")
    return value
