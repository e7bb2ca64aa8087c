"""Compares this project's methods with reference fixtures: `mfql parity [FILE...]`.

A fixture is an npz of random weights under the released names, random batches, every random draw, and what released
code makes of them. One is of MFQL, another of FQL, IFQL, IQL and ReBRAC; each is recognised by its contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mfql.errors import UserError
from mfql.parity import baselines, reference
from mfql.parity.baselines import METHODS, BaselineFixture
from mfql.parity.comparison import BOUND, HERE, Arrays, Comparison, Computed, read_arrays
from mfql.parity.reference import Fixture
from mfql.training.device import set_precision

__all__ = [
    "BOUND",
    "METHODS",
    "BaselineFixture",
    "Comparison",
    "Computed",
    "Fixture",
    "compare_all",
    "comparisons",
    "load_fixture",
    "report",
]


def load_fixture(path: str | Path) -> Arrays:
    """The arrays of a fixture.

    Raises:
        UserError: the file is absent, cut, or no fixture.
    """
    arrays = read_arrays(path)
    found = {name.split(":")[0] for name in arrays}
    methods = {name.partition("/")[0] for name in found if "/" in name}
    expected = {"in", *(f"{method}/{part}" for method in methods for part in baselines.SECTIONS)}
    missing = (expected if methods else reference.SECTIONS) - found
    if missing:
        raise UserError(
            f"{path} has no arrays named {', '.join(sorted(f'{name}:' for name in missing))}",
            f"Give a fixture of MFQL, or of one or more of {', '.join(METHODS)}.",
        )
    return arrays


def comparisons(arrays: Arrays, computed: Computed = HERE) -> Iterator[Comparison]:
    """Every array of a fixture against ours."""
    set_precision(computed.precision, computed.device)
    of_mfql = any(name.startswith("param:") for name in arrays)
    return (Fixture if of_mfql else BaselineFixture)(arrays, computed).compare()


def _compared(path: str | Path, computed: Computed) -> Iterator[Comparison]:
    """The comparisons of a fixture.

    Raises:
        UserError: its arrays do not fit together, so that nothing of ours can be computed from them.
    """
    try:
        yield from comparisons(load_fixture(path), computed)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"nothing of ours can be computed from the arrays of {path}: {type(error).__name__}: {error}",
            "Copy the fixture again from its source. If it is whole, the fault is in the method's code.",
        ) from error


def compare_all(
    paths: Sequence[str | Path], computed: Computed = HERE
) -> tuple[dict[str, Comparison], list[Comparison]]:
    """The comparison of the largest error of each group, by group, and all that are out of bounds."""
    worst: dict[str, Comparison] = {}
    outside: list[Comparison] = []
    for path in paths:
        for comparison in _compared(path, computed):
            if not comparison.within:
                outside.append(comparison)
            known = worst.get(comparison.group)
            if known is None or not comparison.error / comparison.bound <= known.error / known.bound:
                worst[comparison.group] = comparison
    return worst, outside


def report(paths: Sequence[str | Path], computed: Computed = HERE) -> bool:
    """Print the largest error of each group, name every array out of bounds, and tell whether all are within.

    The bounds are those of float32: of another precision it is said what it loses, and nothing is out of bounds.
    """
    judged = computed.precision == "float32"
    worst, outside = compare_all(paths, computed)
    print(f"{'group':<16} {'largest error':>13} {'bound' if judged else '':>8}  array")
    for group, comparison in worst.items():
        bound = f"{comparison.bound:.0e}" if judged else ""
        print(f"{group:<16} {comparison.error:>13.2e} {bound:>8}  {comparison.array}")
    if not judged:
        print(f"{computed.precision}: the errors are what it loses; the bounds are those of float32")
        return True
    for comparison in outside:
        print(f"OUT OF BOUNDS {comparison.array}: error {comparison.error:.3g}, bound {comparison.bound:g}")
    return not outside
