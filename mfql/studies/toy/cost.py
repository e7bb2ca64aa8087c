"""What an update of each method costs, on this machine."""

from __future__ import annotations

import time

import numpy as np
import torch

from mfql.studies.toy.settings import Training
from mfql.studies.toy.train import Flow

# The methods take turns, so that what else the machine does falls on all alike.
_ROUNDS, _UPDATES = 15, 4


def milliseconds_per_update(trainings: list[Training]) -> dict[str, float]:
    """The median time of an update of all seeds of each method, on the processor."""
    models = {
        training.method: Flow(training.settings, training.seeds, torch.device("cpu"))
        for training in trainings
        if training.settings.policy == "flow"
    }
    seconds: dict[str, list[float]] = {method: [] for method in models}
    for turn in range(_ROUNDS + 1):
        for method, model in models.items():
            start = time.perf_counter()
            model.train_to(model.step + _UPDATES)
            if turn:  # The first warms up.
                seconds[method].append((time.perf_counter() - start) / _UPDATES)
    return {method: 1000.0 * float(np.median(values)) for method, values in seconds.items()}
