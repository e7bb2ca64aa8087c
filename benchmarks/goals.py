"""The project's speed goals, each beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import shared
from benchmarks.results import number

Document = Mapping[str, Any]
# From a results file to the measured value, None where it was not measured.
Look = Callable[[Document], float | None]


@dataclass(frozen=True)
class Goal:
    """A quantity and its bound.

    Args:
        bound: `at_most` or at least that.
        on: `cpu`, or parts of names, one of which a GPU's name has.
        needs: what a machine must have to measure it.
        cores: that it needs.
    """

    text: str
    unit: str
    bound: float
    look: Look
    on: str | Sequence[str]
    needs: str
    at_most: bool = False
    cores: int = 1

    def fits(self, result: Document) -> bool:
        """Whether the goal is about a machine like that of a results file."""
        machine = result["machine"]
        if machine["cores"] < self.cores:
            return False
        return self.on == "cpu" or (machine["gpu"] is not None and any(name in machine["gpu"] for name in self.on))

    def met(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return value <= self.bound if self.at_most else value >= self.bound


def found(part: str, quantity: str, **case: Any) -> Look:
    """Looks a measurement up by part, quantity and what its case must say."""

    def look(result: Document) -> float | None:
        return next(
            (
                float(one["value"])
                for one in result["measurements"]
                if (one["part"], one["quantity"]) == (part, quantity)
                and all(one["case"].get(key) == value for key, value in case.items())
            ),
            None,
        )

    return look


# The two compute alike; the second has more and faster memory.
_HOPPER = ("H100", "H200")
_H100: Mapping[str, Any] = {"on": _HOPPER, "needs": "an H100 or H200"}
_TF32: Mapping[str, Any] = {"precision": "tf32", "mode": "captured"}
_WITH_SIMULATOR: Mapping[str, Any] = {"on": _HOPPER, "needs": "an H100 or H200, mujoco and ogbench"}


def _at_quickstart_size(text: str, unit: str, quantity: str, bounds: Mapping[int, float]) -> tuple[Goal, ...]:
    """A goal for each number of seeds of compiled updates on a processor."""
    return tuple(
        Goal(
            f"{text}, {seeds} {'seed' if seeds == 1 else 'seeds'}",
            unit,
            bound,
            found("small", quantity, mode="compiled", seeds=seeds),
            "cpu",
            "a CPU run that is not --quick",
        )
        for seeds, bound in bounds.items()
    )


def _beside(busy: str, others: str) -> tuple[Goal, ...]:
    """The goals of updates beside other processes on a processor."""
    case = {"busy processes": busy}
    return (
        Goal(
            f"updates/s with float32 beside {others}, against the released JAX code in the same company",
            "x",
            1,
            found("shared", "times the reference", **case),
            "cpu",
            "a CPU run with --reference, not --quick",
        ),
        Goal(
            f"updates/s with float32 beside {others}, of the own quiet rate",
            "%",
            40,
            found("shared", "of the own quiet rate", **case, update=shared.OURS),
            "cpu",
            "a CPU run that is not --quick",
        ),
    )


GOALS: Sequence[Goal] = (
    Goal(
        "updates/s of one seed at the paper's size on a CPU, float32, against the same matrix products alone",
        "%",
        70,
        found("update", "of the products' rate", precision="float32", mode="compiled"),
        "cpu",
        "a CPU run that is not --quick",
    ),
    *_at_quickstart_size(
        "an update at the quickstart's size, one thread, against the same matrix products alone",
        "%",
        "of the products' rate",
        {1: 85, 3: 85, 8: 85},
    ),
    *_at_quickstart_size("the same against the eager update", "x", "times eager", {1: 3, 3: 2, 8: 2}),
    Goal(
        "a job to its first update, compiled by a job before, beyond an eager one",
        "s",
        3,
        found("start", "a second job beyond an eager one"),
        "cpu",
        "a CPU run that is not --quick",
        at_most=True,
    ),
    Goal(
        "updates/s of one seed at the paper's size on a CPU, float32, against the released JAX code",
        "x",
        2.1,
        found("reference", "times the reference", precision="float32", mode="compiled"),
        "cpu",
        "a CPU run with --reference, not --quick",
    ),
    Goal(
        "the same with bf16, against the released JAX code",
        "x",
        4,
        found("reference", "times the reference", precision="bf16", mode="compiled"),
        "cpu",
        "a CPU run with --reference, not --quick",
    ),
    *_beside(shared.ONE, "one busy process"),
    *_beside(shared.ALL, "a busy process a core"),
    Goal("updates/s, one seed, H100, tf32", "1/s", 1_600, found("update", "updates", **_TF32), **_H100),
    Goal(
        "seed-updates/s, 8 seeds, H100, tf32", "1/s", 6_000, found("seeds", "seed-updates", seeds=8, **_TF32), **_H100
    ),
    Goal(
        "online seed-steps/s, 8 seeds, H100, antmaze",
        "1/s",
        2_500,
        found("online", "seed-steps", seeds=8, environment="antmaze"),
        **_WITH_SIMULATOR,
    ),
    Goal(
        "online seed-steps/s, 8 seeds, H100, cube",
        "1/s",
        2_000,
        found("online", "seed-steps", seeds=8, environment="cube"),
        **_WITH_SIMULATOR,
    ),
    Goal(
        "online steps/s, one seed, H100, antmaze",
        "1/s",
        700,
        found("online", "steps", seeds=1, environment="antmaze"),
        **_WITH_SIMULATOR,
    ),
    Goal(
        "evaluation, 50 episodes of antmaze-large x 8 seeds on 16 cores, against one at a time",
        "x",
        10,
        found("evaluation", "times one at a time", suite="OGBench antmaze", seeds=8, episodes=50),
        "cpu",
        "16 cores, mujoco and ogbench",
        cores=16,
    ),
    Goal(
        "evaluation, 50 episodes of antmaze-large, one seed: of the time that acting and stepping take alone",
        "%",
        85,
        found("evaluation", "of acting and stepping alone", suite="OGBench antmaze", seeds=1, episodes=50),
        "cpu",
        "mujoco and ogbench",
    ),
    Goal(
        "acting, K = 5, one observation, CPU, p50",
        "ms",
        1,
        found("acting", "latency p50", candidates=5, device="cpu"),
        "cpu",
        "the part acting",
        at_most=True,
    ),
    Goal(
        "the paper's state-based runs, by `mfql plan`",
        "GPU-hours",
        80,
        found("plan", "the paper's state-based runs"),
        at_most=True,
        **_WITH_SIMULATOR,
    ),
    Goal(
        "quickstart after installation on 2 cores, with no compiled updates kept",
        "min",
        8,
        found("quickstart", "whole workflow", **{"compiled updates": "none"}),
        "cpu",
        "the part quickstart (`--parts quickstart`)",
        at_most=True,
    ),
)


def goal_rows(results: Sequence[Document]) -> list[list[str]]:
    """Rows of a table: goal, bound, what was measured, whether it holds. A run with --quick counts as none."""
    return [_row(goal, [result for result in results if not result["quick"]]) for goal in GOALS]


def missed(result: Document) -> list[str]:
    """The goals about a machine like that of a results file that were measured on it and missed."""
    if result["quick"]:
        return []
    values = {goal: goal.look(result) for goal in GOALS if goal.fits(result)}
    return [goal.text for goal, value in values.items() if value is not None and not goal.met(value)]


def _row(goal: Goal, results: Sequence[Document]) -> list[str]:
    bound = f"{'≤' if goal.at_most else '≥'} {number(goal.bound)} {goal.unit}"
    for result in results:
        value = goal.look(result) if goal.fits(result) else None
        if value is not None:
            machine = result["machine"]
            where = machine["gpu"] if goal.on != "cpu" else f"{machine['cpu']}, {machine['cores']} cores"
            return [goal.text, bound, f"{number(value)} {goal.unit} ({where})", "yes" if goal.met(value) else "no"]
    return [goal.text, bound, f"not measured here: needs {goal.needs}", ""]
