"""Every method through the workflow, one launch of Snakemake a method, in miniature: `make check-methods`.

    python tests/check_methods.py [METHOD ...]      # such as iql-miniature; default: all

Each launch asks for a seed's runs in every stage that the method has, and ends in its scores, offline and online.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mfql.extensions import extend
from tests.support.miniature import METHODS, stages_of
from tests.support.project import clone
from tests.support.training_runs import MINIATURE, TASK


def main(methods: list[str]) -> int:
    """Launch each method; returns how many failed."""
    extend([MINIATURE])
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        project = clone(Path(folder) / "mfql")
        for method in methods:
            stages = stages_of(method, "offline", "online")
            # A seed that the configuration does not name, so that it is trained alone.
            targets = [f"results/runs/{method}/{TASK}/seed7/{stage}/evaluation.json" for stage in stages]
            began = time.monotonic()
            try:
                project.miniature(*targets)
            except AssertionError as error:
                print(f"{method}: FAILED\n{error}", flush=True)
                failed += 1
                continue
            found = (json.loads((project.folder / target).read_text(encoding="utf-8")) for target in targets)
            scores = ", ".join(f"{run['stage']} {run['status']} {run['score']:.0f} %" for run in found)
            print(f"{method}: {scores} ({time.monotonic() - began:.0f} s)", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or METHODS))
