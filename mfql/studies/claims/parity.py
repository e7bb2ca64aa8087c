"""How far this project's losses and gradients are from released code's, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mfql.files import write_whole
from mfql.parity import comparisons, load_fixture


def write_parity(fixtures: Sequence[Path], out: Path) -> None:
    """Write the largest error of each fixture, in units of its bound: columns fixture, arrays, value (`inf` for NaN).

    Raises:
        UserError: a file is no fixture.
    """
    rows = []
    for path in fixtures:
        found = list(comparisons(load_fixture(path)))
        largest = np.max([comparison.error / comparison.bound for comparison in found])
        # An error that is no number is out of any bound, and `max` alone would pass over it.
        rows.append({"fixture": path.stem, "arrays": len(found), "value": np.inf if np.isnan(largest) else largest})
    with write_whole(out) as file:
        pd.DataFrame(rows).to_csv(file, index=False)
