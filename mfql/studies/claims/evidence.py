"""Whether a claim holds: its comparisons, each with an interval, judged by finished tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from math import exp, hypot, isnan, log, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mfql.errors import UserError
from mfql.evaluation.interval import student_quantile
from mfql.experiment.claims import Check, Claim, Claims
from mfql.report.frames import read_frame
from mfql.report.intervals import Interval
from mfql.report.verdict import MOST_SEEDS

_NOTHING = Interval(nan, nan, nan)
_REMEDY = "Make it anew with the target that writes it."


class Verdict(StrEnum):
    """What the tables say of a claim."""

    HELD = "held"
    NOT_HELD = "not held"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"
    NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Finding:
    """A check and what was found: the quantity with its 95 % interval, NaN where there is none, and then why not.

    Attributes:
        seeds: of the row that has the fewest; None where a table does not say, or says more than `MOST_SEEDS`.
    """

    check: Check
    found: Interval
    verdict: Verdict
    reason: str = ""
    seeds: int | None = None

    @property
    def seeds_to_decide(self) -> int | None:
        """About how many seeds in all would decide an undecided check; None if `MOST_SEEDS` would not.

        Quantity and spread are taken to stay as they are, so that half the interval shrinks as Student's quantile does,
        over the root of the number of seeds. Where the episodes' floor is the wider one, it shrinks a little faster.
        """
        if self.verdict is not Verdict.UNDECIDED or self.seeds is None or self.seeds < 2:
            return None
        value, low, high, bound = self.found.value, self.found.low, self.found.high, self.check.bound
        if self.check.form == "ratio":
            if min(low, bound) <= 0:
                return None
            value, low, high, bound = map(log, (value, low, high, bound))
        reach = value - low if value > bound else high - value
        if not reach > abs(value - bound) > 0:
            return None
        numbers = np.arange(self.seeds, MOST_SEEDS + 1)
        shrunk = student_quantile(numbers - 1.0) / np.sqrt(numbers)
        enough = numbers[reach * shrunk / shrunk[0] < abs(value - bound)]
        return int(enough[0]) if enough.size else None


@dataclass(frozen=True)
class Judged:
    """A claim and what was found of it."""

    claim: Claim
    findings: tuple[Finding, ...]

    @property
    def made(self) -> list[Finding]:
        """The findings that say something: their tables are there."""
        return [finding for finding in self.findings if finding.verdict is not Verdict.NOT_RUN or finding.reason]

    @property
    def verdict(self) -> Verdict:
        """Held if every check is; not held if one is not; else what keeps it from being decided."""
        if not self.findings:
            return Verdict.NOT_TESTABLE
        found = {finding.verdict for finding in self.findings}
        order = (Verdict.NOT_HELD, Verdict.NOT_RUN, Verdict.UNDECIDED)
        return next((verdict for verdict in order if verdict in found), Verdict.HELD)

    @property
    def confidence(self) -> str:
        """Our confidence in the claim as the paper makes it.

        `high` where what holds here is the claim itself, `moderate` where it is the claim at a smaller size, one less
        where third parties found against it; `low` while undecided, `against` where it does not hold, `none` where
        nothing was found.
        """
        levels = ("high", "moderate", "low")
        if self.verdict is Verdict.HELD:
            return levels[int(not self.claim.any_size) + int(bool(self.claim.others))]
        return {Verdict.NOT_HELD: "against", Verdict.UNDECIDED: "low"}.get(
            self.verdict, "low" if self.claim.others else "none"
        )


def judge(claims: Claims, folder: str | Path) -> list[Judged]:
    """Judge every claim by the tables below a folder.

    A table or row that is not there leaves its check `not run`, several rows for one quantity leave it `undecided`.

    Args:
        folder: such as `results/NAME`.

    Raises:
        UserError: a table is damaged, or lacks a column that is asked for.
    """
    return [
        Judged(claim, tuple(_find(check, Path(folder) / claims.tables[check.table]) for check in claim.checks))
        for claim in claims.claims
    ]


def _find(check: Check, path: Path) -> Finding:
    if not path.is_file():
        return Finding(check, _NOTHING, Verdict.NOT_RUN)
    asked = [row for row in (check.of, check.than) if row]
    rows = [_rows(path, row, check) for row in asked]
    if check.same and not any(part.empty for part in rows):
        shared = set.intersection(*(set(part[check.same]) for part in rows))
        rows = [part[part[check.same].isin(shared)] for part in rows]
        if not shared:
            return Finding(check, _NOTHING, Verdict.NOT_RUN, f"no {check.same} has both rows")
    for row, part in zip(asked, rows, strict=True):
        if len(part) != 1:
            reason = f"{len(part) or 'no'} rows with {', '.join(f'{name} {cell}' for name, cell in row.items())}"
            return Finding(check, _NOTHING, Verdict.UNDECIDED if len(part) else Verdict.NOT_RUN, reason)
    try:
        seeds = float(np.min([float(part.iloc[0].get("seeds", nan)) for part in rows]))
        found, *other = [_quantity(part.iloc[0], check.column) for part in rows]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}", _REMEDY) from error
    if other:
        found = difference(found, *other) if check.form == "difference" else ratio(found, *other)
    return Finding(check, found, _verdict(check, found), seeds=int(seeds) if 1 <= seeds <= MOST_SEEDS else None)


def _verdict(check: Check, found: Interval) -> Verdict:
    """Decided where all of the interval or none of it does what is asked; exactly the bound does not exceed it."""
    if isnan(found.low) or isnan(found.high):
        return Verdict.UNDECIDED
    if check.relation == "exceed":
        held, failed = found.low > check.bound, found.high <= check.bound
    else:
        held, failed = found.high < check.bound, found.low >= check.bound
    return Verdict.HELD if held else Verdict.NOT_HELD if failed else Verdict.UNDECIDED


def difference(first: Interval, second: Interval) -> Interval:
    """`first - second`, its interval from theirs as Newcombe combines two."""
    value = first.value - second.value
    below = hypot(first.value - first.low, second.high - second.value)
    above = hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)


def ratio(first: Interval, second: Interval) -> Interval:
    """`first / second` of positive quantities: the difference of their logarithms; NaN ends where one reaches zero."""
    if first.value <= 0 or second.value <= 0:
        return Interval(nan, nan, nan)
    logs = [Interval(log(one.value), _log(one.low), _log(one.high)) for one in (first, second)]
    found = difference(*logs)
    return Interval(exp(found.value), exp(found.low), exp(found.high))


def _log(end: float) -> float:
    return log(end) if end > 0 else nan


def _rows(path: Path, row: Mapping[str, Any], check: Check) -> pd.DataFrame:
    """The rows of a table that have these cells."""
    table = _read(path)
    wanted = [*row, check.column, *filter(None, [check.same])]
    missing = [name for name in wanted if name not in table]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}", "Correct config/claims.yaml, or make the table anew."
        )
    for name, cell in row.items():
        table = table[table[name] == cell]
    return table


def _quantity(cells: pd.Series, column: str) -> Interval:
    """The quantity of a row. A `value` without `low` and `high` is exact, another column's without its ends is not."""
    value = float(cells[column])
    if column == "value":
        return Interval(value, float(cells.get("low", value)), float(cells.get("high", value)))
    return Interval(value, float(cells.get(f"{column}_low", nan)), float(cells.get(f"{column}_high", nan)))


@cache
def _read(path: Path) -> pd.DataFrame:
    return read_frame(path, _REMEDY, keep_default_na=False, na_values=["", "nan"])
