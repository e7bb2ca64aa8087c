"""Compare generated datasets with what OGBench's official collection scripts produce. Slow: run by hand.

    python tests/check_generator.py                               # all six datasets, about an hour on one core
    python tests/check_generator.py cube-single-play-v0:20 --workers 2

`data/generator_stats.npz` holds, for each dataset, statistics of the official scripts' output with standard errors
(bootstrap over episodes). Ours get standard errors the same way, and the two sides are compared. The official scripts
ran on a MuJoCo whose drives are not damped at their limits, and corrected nothing; nor is anything corrected here: the
comparison is of the collectors, docs/physics.md of the physics.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from mfql.data.generate import generate
from mfql.envs import physics

STATS = Path(__file__).parent / "data" / "generator_stats.npz"
EPISODES = {
    "pointmaze-medium-navigate-v0": 100,
    "cube-single-play-v0": 40,
    "cube-double-play-v0": 40,
    "scene-play-v0": 40,
    "puzzle-3x3-play-v0": 30,
    "cube-single-noisy-v0": 40,
}
RESAMPLES = 60
WITHIN_THREE = 0.97
FAR_OUT = 6.0
# The reference sums 100,000 rows in float32: means and deviations of nearly constant dimensions are off by this much.
ROUNDING = 1e-3
# A quantile in a gap or at a bound jumps with a few rows: it also agrees if it moves by this much probability at most.
QUANTILE_SLACK = 0.02


def statistics(rows: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, standard deviation and quantiles of each column of [N, D]."""
    return {"mean": rows.mean(0), "std": rows.std(0), "quantiles": np.quantile(rows, probabilities, axis=0)}


def standard_errors(episodes: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics' standard errors by bootstrap over episodes [E, T, D]."""
    rng = np.random.default_rng(0)
    count, _, width = episodes.shape
    drawn = [
        statistics(episodes[rng.integers(count, size=count)].reshape(-1, width), probabilities)
        for _ in range(RESAMPLES)
    ]
    return {name: np.std([one[name] for one in drawn], axis=0) for name in drawn[0]}


def compare(dataset: str, path: Path, reference: np.lib.npyio.NpzFile) -> bool:
    """Print how a generated file differs from the reference; whether they agree."""
    probabilities = reference["probabilities"]
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    kinds = {f"{name}:{array.dtype}:{'x'.join(map(str, array.shape[1:]))}" for name, array in arrays.items()}
    lengths = np.diff(np.flatnonzero(arrays["terminals"]), prepend=-1)
    same_form = kinds == set(reference[f"{dataset}/keys"]) and set(lengths) == set(
        reference[f"{dataset}/episode_length"]
    )
    print(f"{dataset}: {len(lengths)} episodes; arrays and lengths {'agree' if same_form else 'DIFFER'}")
    scores: list[np.ndarray] = []
    for name in ("observations", "actions"):
        rows = arrays[name].astype(np.float64)
        ours = statistics(rows, probabilities)
        errors = standard_errors(rows.reshape(len(lengths), -1, rows.shape[1]), probabilities)
        for statistic, values in ours.items():
            key = f"{dataset}/{name}/{statistic}"
            expected, error = reference[key].astype(np.float64), reference[f"{key}_se"].astype(np.float64)
            spread = error * np.sqrt(reference[f"{dataset}/episodes"] / len(lengths))
            scale = np.sqrt(error**2 + np.maximum(errors[statistic], spread) ** 2) + ROUNDING * np.abs(ours["mean"])
            z = np.abs(values - expected) / (scale + 1e-9)
            if statistic == "quantiles":
                below = np.stack([(rows < expected[i]).mean(0) for i in range(len(expected))])
                up_to = np.stack([(rows <= expected[i]).mean(0) for i in range(len(expected))])
                p = probabilities[:, None]
                z[(below - QUANTILE_SLACK <= p) & (p <= up_to + QUANTILE_SLACK)] = 0.0
            for index in np.argwhere(z > 3.0):
                at = tuple(index)
                where = f"{name} {statistic} {[int(i) for i in at]}"
                print(f"  {where}: {values[at]:.4f}, not {expected[at]:.4f}: z {z[at]:.1f}")
            scores.append(z.ravel())
    z = np.concatenate(scores)
    within, farthest = float((z <= 3.0).mean()), float(z.max())
    agrees = same_form and within >= WITHIN_THREE and farthest <= FAR_OUT
    verdict = "ok" if agrees else "FAILED"
    print(f"  {within:.1%} of {len(z)} within three standard errors, farthest {farthest:.1f}: {verdict}")
    return agrees


def collect(entry: str, folder: Path, seed: int) -> None:
    """Generate `DATASET` or `DATASET:EPISODES` into the folder, unless it is there, in the physics of the reference."""
    physics.margin_rule, physics.drive_rule, physics.convex_rule = lambda: "larger", lambda: "kept", lambda: "one"
    dataset, _, episodes = entry.partition(":")
    if not (folder / f"{dataset}.npz").exists():
        generate(dataset, folder, episodes=int(episodes or EPISODES[dataset]), seed=seed)


def main() -> int:
    """Generate and compare; 1 if any dataset differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", help="DATASET or DATASET:EPISODES", default=list(EPISODES))
    parser.add_argument("--workers", type=int, default=1, help="processes, a dataset each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the files here; a file that is there is compared as it is")
    options = parser.parse_args()
    agree = True
    with np.load(STATS) as reference, tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        with ProcessPoolExecutor(options.workers) as pool:
            list(pool.map(partial(collect, folder=folder, seed=options.seed), options.datasets))
        for entry in options.datasets:
            dataset = entry.partition(":")[0]
            agree &= compare(dataset, folder / f"{dataset}.npz", reference)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
