"""Datasets' files in OGBench's, D4RL's and other layouts."""

from __future__ import annotations

import numpy as np

from tests.support.inputs.lab import Lab, Said, given


@given("an OGBench layout with an array that nobody reads")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"qpos": np.zeros((len(arrays["rewards"]), 3))})
