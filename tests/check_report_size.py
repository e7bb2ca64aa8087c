"""How long the report of the whole paper takes with many methods, and how large it is: made-up runs, real commands.

    PYTHONPATH=. python tests/check_report_size.py FOLDER [--methods 10] [--seeds 8]

Prints the seconds of processor time of each command, and the sizes of what it writes.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from mfql.tasks import load_tasks
from tests.support.fake_results import write_study

ROOT = Path(__file__).parents[1]
METHODS = ["bc", "iql", "rebrac", "fawac", "fbrac", "ifql", "calql", "fql", "mfql-released", "mfql"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", type=int, default=len(METHODS))
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    tasks = [task for task in load_tasks(ROOT / "config/tasks.csv").values() if task.suite != "pointmaze"]
    files = write_study(
        options.folder,
        [task.name for task in tasks],
        [task.name for task in tasks if task.online],
        METHODS[-options.methods :],
        options.seeds,
        evaluations=10,
        returns=[task.name for task in tasks if task.metric != "success"],
    )
    print(f"{len(files)} runs")
    (options.folder / "runs.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    scores, aggregate, verdict = (options.folder / name for name in ("scores.csv", "aggregate", "verdict"))
    about = ["--tasks", ROOT / "config/tasks.csv", "--results", options.folder]
    page = options.folder / "report.html"
    timed("scores", "--from-file", options.folder / "runs.txt", "--out", scores)
    timed("aggregate", scores, "--out", aggregate)
    timed("verdict", "--scores", scores, "--published", ROOT / "published", *about, "--out", verdict)
    shown = ["--verdict", verdict / "verdict.csv", *about]
    timed("report", "--scores", scores, "--aggregates", aggregate, *shown, "--out", page)
    for path in (scores, page, *sorted(aggregate.glob("*.png"))):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")


def timed(*command: object) -> None:
    """Run one command of mfql and print what it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [sys.executable, "-m", "mfql.cli", *map(str, command)]
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"mfql {command[0]}: {after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime:.0f} s", flush=True)


if __name__ == "__main__":
    main()
