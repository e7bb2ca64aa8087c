"""Ablations at the miniature's size, trained in the process that asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mfql.cli import main
from mfql.documents import write_json
from mfql.experiment.ablation import plan_of
from mfql.experiment.configuration import read_configuration
from tests.support.training_runs import ROOT, Workplace

# The least that trains and is evaluated twice.
TINY = """
inherits: mfql-miniature
offline_steps: 10
eval_interval: 5
eval_episodes: 1
log_interval: 5
"""


def miniature(**changes: Any) -> dict[str, Any]:
    """The miniature's configuration with some keys changed."""
    return read_configuration(ROOT / "tests" / "miniature.yaml", ROOT / "config") | changes


def drawn(place: Workplace, name: str) -> Path:
    """The folder of an ablation's panel, after training its runs; runs that are there are not trained again."""
    place.method("tiny", TINY)
    config = miniature(seeds=[0, 1])
    config["ablations"] = config["ablations"] | {"method": "tiny"}
    folder = place.folder / "results" / "miniature" / "ablations" / name
    plan = plan_of(name, config, place.folder / "config")
    for point in plan["points"]:
        place.train_here(point["method"], "offline", tuple(point["seeds"]), task=point["task"])
    write_json(folder / "plan.json", plan)
    arguments = [str(folder / "plan.json"), "--results", str(place.folder / "results"), "--out", str(folder)]
    assert main(["ablation", "draw", *arguments, "--threads", "1"]) == 0
    return folder
