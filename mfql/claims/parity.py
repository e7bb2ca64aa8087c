"""How far this project's losses and gradients are from released code's, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mfql.files import write_whole
from mfql.parity import comparisons, load_fixture


def write_parity(fixtures: Sequence[Path], out: Path) -> None:
    """Write the largest error of each fixture, in units of its bound: columns fixture, arrays, value.

    Raises:
        UserError: a file is no fixture.
    """
    rows = []
    for path in fixtures:
        found = list(comparisons(load_fixture(path)))
        largest = max(comparison.error / comparison.bound for comparison in found)
        rows.append({"fixture": path.stem, "arrays": len(found), "value": largest})
    with write_whole(out) as file:
        pd.DataFrame(rows).to_csv(file, index=False)
