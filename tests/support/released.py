"""Checkpoints as the released code writes them."""

from __future__ import annotations

from typing import Any

import numpy as np


def nested(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays by their path as the released code nests them."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, leaf = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[leaf] = array
    return {"agent": {"rng": np.zeros(2, np.uint32), "network": {"step": np.array(1), "params": tree}}}
