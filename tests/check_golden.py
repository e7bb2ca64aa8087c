"""A short training run against what it gave when its numbers were last stated: `make check-golden`.

    python tests/check_golden.py            # compare
    python tests/check_golden.py --write    # state the numbers anew, for review

A tiny MFQL is trained offline and online on a few generated episodes. What is compared: the data's statistics, the last
row of each training log, and the norm of every weight. Other packages, processors and thread counts round otherwise,
which a hundred steps carry on; a changed number of the method shows as much more.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from mfql.documents import read_json, write_json
from tests.support.training_runs import DATASET, Workplace

GOLDEN = Path(__file__).parent / "data" / "golden.json"
TOLERANCE = 1e-4
METHOD = """
inherits: mfql
offline_steps: 60
pretrain: {offline_steps: 60}
online_steps: 40
batch_size: 32
policy_hidden: 16
policy_blocks: 1
critic_hidden: [32, 32]
num_candidates: 3
time_steps: 10
alpha: 3
eval_interval: 1000
eval_episodes: 1
log_interval: 20
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="state the numbers anew")
    write = parser.parse_args().write
    with tempfile.TemporaryDirectory() as scratch:
        found = numbers(Path(scratch))
    packages = {name: version(name) for name in ("torch", "numpy", "mujoco", "ogbench")}
    if write:
        write_json(GOLDEN, {"packages": packages, "numbers": found})
        print(f"{GOLDEN}: {len(found)} numbers")
        return 0
    golden = read_json(GOLDEN)
    print(f"stated with {golden['packages']}, found with {packages}")
    return compare(golden["numbers"], found)


def compare(golden: dict[str, float], found: dict[str, float]) -> int:
    """Print what is out of tolerance, and the largest error; 1 if anything is."""
    outside = [f"{name}: stated {golden.get(name)}, found {found.get(name)}" for name in golden.keys() ^ found.keys()]
    errors = {name: abs(found[name] - value) / max(abs(value), 1e-3) for name, value in golden.items() if name in found}
    outside += [
        f"{name}: stated {golden[name]:.7g}, found {found[name]:.7g}, off by a share of {error:.1e}"
        for name, error in errors.items()
        if not error <= TOLERANCE
    ]
    worst = max(errors, key=errors.__getitem__)
    print(f"{len(errors)} numbers; largest error {errors[worst]:.1e} ({worst}), tolerance {TOLERANCE:.0e}")
    for line in outside:
        print(f"OUT OF TOLERANCE {line}")
    return 1 if outside else 0


def numbers(folder: Path) -> dict[str, float]:
    """Train in the folder, and name what came of it."""
    place = Workplace.make(folder)
    place.method("golden", METHOD)
    with np.load(folder / "data" / f"{DATASET}.npz") as data:
        found = {f"data/{name}/std": float(data[name].std()) for name in ("observations", "actions")}
    for stage in ("offline", "online"):
        place.train_here("golden", stage, (0, 1))
        for seed in (0, 1):
            run = place.run("golden", seed, stage)
            with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            last = {row["metric"]: float(row["value"]) for row in rows if row["step"] == rows[-1]["step"]}
            found |= {f"{stage}/seed{seed}/{name}": value for name, value in last.items() if math.isfinite(value)}
            weights = load_file(run / "policy" / "policy.safetensors")
            found |= {f"{stage}/seed{seed}/norm/{name}": float(np.linalg.norm(one)) for name, one in weights.items()}
    return found


if __name__ == "__main__":
    sys.exit(main())
