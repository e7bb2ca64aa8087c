"""Times of cases that take turns, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

# Makes so many calls and returns the seconds that they took.
Case = Callable[[int], float]


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Args:
        rounds: turns of each case.
        seconds: of one turn, about; a turn has one call at least.
    """

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Values:
    """One value a round, of seconds or of anything else."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return median(self.rounds)

    def times(self, factor: float) -> Values:
        """Each round's value, so many times."""
        return Values(tuple(factor * value for value in self.rounds))

    def plus(self, other: Values) -> Values:
        """The sum with another case of the same rounds, round by round."""
        return Values(tuple(ours + theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True)))

    def less(self, other: Values) -> Values:
        """The difference from another case of the same rounds, round by round."""
        return Values(tuple(ours - theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True)))

    def rate(self, count: float = 1.0) -> Values:
        """Of seconds a round: how many a second, if so many took each of them."""
        return Values(tuple(count / value for value in self.rounds))

    def over(self, other: Values) -> Values:
        """The quotient with another case of the same rounds, round by round."""
        return Values(tuple(ours / theirs for ours, theirs in zip(self.rounds, other.rounds, strict=True)))


def repeated(call: Callable[[], object], device: torch.device) -> Case:
    """A case that makes a call again and again and then waits for the device."""

    def run(calls: int) -> float:
        synchronise(device)
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronise(device)
        return time.perf_counter() - began

    return run


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def take_turns(cases: Mapping[str, Case], budget: Budget) -> dict[str, Values]:
    """Seconds of one call of each case, A B A B; how many calls a turn has follows from one call after a warm-up."""
    calls = {name: _calls(case, budget.seconds) for name, case in cases.items()}
    rounds = [{name: case(calls[name]) / calls[name] for name, case in cases.items()} for _ in range(budget.rounds)]
    return {name: Values(tuple(one[name] for one in rounds)) for name in cases}


def _calls(case: Case, seconds: float) -> int:
    case(1)
    return max(1, round(seconds / max(case(1), 1e-9)))
