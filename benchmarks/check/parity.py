"""Parity on the device: float32 within the fixtures' bounds, tf32 and bf16 with what they lose."""

from __future__ import annotations

from benchmarks.check.part import Check, Outcome
from benchmarks.results import ROOT, LeftOut, Measurement
from mfql.parity import Computed, compare_all

FIXTURES = [ROOT / "tests" / "data" / name for name in ("reference.npz", "baselines.npz")]
# Errors are so small that a table shows them as millionths.
_SCALE = 1e6


def parity(check: Check) -> Outcome:
    """The largest error of each group of arrays in each precision; of float32 what is out of bounds is a failure."""
    absent = [path for path in FIXTURES if not path.exists()]
    if absent:
        return Outcome([LeftOut("parity", f"the fixtures of the source tree: {', '.join(map(str, absent))}")])
    outcome = Outcome()
    for precision in ("float32", "tf32", "bf16"):
        if precision == "tf32" and not check.on_gpu:
            outcome.found.append(LeftOut("parity in tf32", "a GPU: a processor has none"))
            continue
        worst, outside = compare_all(FIXTURES, Computed(check.device, precision))
        outcome.found += [
            Measurement.of("parity", precision, "", one.error * _SCALE, group=group) for group, one in worst.items()
        ]
        if precision == "float32":
            outcome.found += [
                Measurement.of("parity", "bound of float32", "", one.bound * _SCALE, group=group)
                for group, one in worst.items()
            ]
            outcome.failures += [
                f"parity: {one.array} is off by {one.error:.2e}, bound {one.bound:.0e}" for one in outside
            ]
    return outcome
