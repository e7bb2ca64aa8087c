"""The settings of a training on the toy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from typing_extensions import override

from mfql.agents.flow_bc import FlowBCSettings
from mfql.errors import UserError
from mfql.experiment.toy import method_values, read_configuration
from mfql.settings import build_settings, require


@dataclass(frozen=True, kw_only=True)
class ToySettings(FlowBCSettings):
    """Settings of one training on the toy: those of the flow, of which `offline_steps` is its length, and

    Args:
        policy: `flow`; or, without training, `gaussian`, the normal distribution with the data's mean and covariance,
            and `exact`, the exact map.
        data_size: points that a seed trains on; 0 draws new ones at every update.
        generations: each number of steps of generation that samples are drawn with.
        evaluations: looks at the samples through training, at steps in geometric progression.
        repeats: sets of samples at the last look; one at the others.
        samples: of a set, and points at which average velocities are compared; transport_points: samples of a set that
            the distance is of.
    """

    online_steps: int = 0
    discount: float = 0.0
    policy: Literal["flow", "gaussian", "exact"] = "flow"
    data_size: int = 0
    generations: tuple[int, ...] = (1,)
    evaluations: int = 10
    repeats: int = 5
    samples: int = 2000
    transport_points: int = 1000

    @override
    def check(self) -> None:
        super().check()
        require("horizon", self.horizon, self.horizon == 1, "1 in the toy, which has no steps")
        for key in ("offline_steps", "evaluations", "repeats", "samples"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "one or more")
        require("data_size", self.data_size, self.data_size >= 0, "zero or more")
        points, most = self.transport_points, self.samples
        require("transport_points", points, 1 <= points <= most, f"from 1 to samples, {most}")
        require("generations", self.generations, all(steps >= 1 for steps in self.generations), "one or more each")


@dataclass(frozen=True)
class Training:
    """A training of a method at a size, all its seeds together."""

    method: str
    size: str
    settings: ToySettings
    seeds: list[int]


def read_training(path: str | Path, method: str, size: str) -> Training:
    """The settings of a method at a size.

    Raises:
        UserError: the file is no such configuration, it has no such method or size, or a value is refused.
    """
    values = method_values(read_configuration(path), method, size, str(path))
    seeds = values.pop("seeds", None)
    if not (isinstance(seeds, list) and seeds and all(isinstance(seed, int) and seed >= 0 for seed in seeds)):
        raise UserError(f"{path}: size {size}: seeds is {seeds}", "Give a list of whole numbers of zero or more.")
    return Training(method, size, build_settings(ToySettings, values, f"{path}: {method} at size {size}"), seeds)
