"""Runs updates of the authors' JAX code, as many as each line of standard input says, and prints the seconds they took.

It imports jax, numpy and the checkout alone, so that it runs in an environment of its own. `benchmarks/reference.py`
starts it.
"""

from __future__ import annotations

import ast
import importlib
import sys
import time
from typing import Any

import numpy as np


def main(checkout: str, where: str, observation_dim: int, action_dim: int, batch_size: int, changes: list[str]) -> None:
    """Answer each number on standard input with the seconds of so many updates; the first compiles."""
    sys.path.insert(0, checkout)
    import jax  # type: ignore[import-not-found, unused-ignore]

    module_name, _, class_name = where.partition(":")
    module = importlib.import_module(module_name)
    config = module.get_config()
    for change in changes:
        key, _, value = change.partition("=")
        config[key] = _value(value)
    batch = _batch(observation_dim, action_dim, batch_size)
    agent: Any = getattr(module, class_name).create(0, batch["observations"], batch["actions"], config)
    print("ready", flush=True)
    for line in sys.stdin:
        info: Any = None
        began = time.perf_counter()
        for _ in range(int(line)):
            agent, info = agent.update(batch)
        jax.block_until_ready((agent, info))
        print(time.perf_counter() - began, flush=True)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _batch(observation_dim: int, action_dim: int, size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    observations, following = rng.standard_normal((2, size, observation_dim), dtype=np.float32)
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (size, action_dim)).astype(np.float32),
        "next_observations": following,
        "rewards": -np.ones(size, np.float32),
        "masks": np.ones(size, np.float32),
        "terminals": np.zeros(size, np.float32),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6:])
