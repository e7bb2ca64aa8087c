"""Results folders with known numbers, as the trainer would leave them, for the tests of what comes after training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mfql.documents import read_json, write_json
from mfql.files import hash_of

TASK = "pointmaze-medium-navigate-singletask-task1-v0"
EPISODES = 50
INTERVAL = 1000  # steps between evaluations


def write_run(
    results: Path,
    successes: Sequence[float],
    method: str = "mfql",
    task: str = TASK,
    seed: int = 0,
    stage: str = "offline",
    diverged_at: int | None = None,
    metric: str = "success",
    starts_from: str | None = None,
    stopped_at: int | None = None,
    is_success: bool = False,
    **manifest: Any,
) -> Path:
    """Write one run's evaluation.json and manifest.json; returns the path of the former.

    Args:
        results: the results folder, which gets `runs/...`.
        successes: the evaluations' scores in percent, one every `INTERVAL` steps.
        is_success: whether the scores are the success rates too, whatever the metric.
        manifest: entries of the manifest to set or replace.
    """
    folder = results / "runs" / method / task / f"seed{seed}" / stage
    evaluations = [
        {
            "step": (i + 1) * INTERVAL,
            "episodes": EPISODES,
            metric: value,
            "return": -100.0 + value,
            "length": 200 - value,
        }
        for i, value in enumerate(successes)
    ]
    if is_success:
        evaluations = [one | {"success": one[metric]} for one in evaluations]
    if metric == "fqe_return":
        evaluations = [one | {"fqe_low": one[metric] - 5.0, "fqe_high": one[metric] + 3.0} for one in evaluations]
    scored = successes[-3:] or [0.0]
    evaluation = {
        "method": method,
        "task": task,
        "seed": seed,
        "stage": stage,
        "identity": hash_of([method, task, seed, stage]),
        "status": "finished" if diverged_at is None else "diverged",
        "diverged_at": diverged_at,
        "metric": metric,
        "score_rule": "last_three",
        "score": sum(scored) / len(scored),
        "episodes": EPISODES,
        "steps": len(successes) * INTERVAL if diverged_at is None else diverged_at,
        "starts_from": starts_from,
        "stopped_at": stopped_at,
        "evaluations": evaluations,
    }
    write_json(folder / "evaluation.json", evaluation)
    write_json(folder / "run" / "manifest.json", _manifest(evaluation) | manifest)
    return folder / "evaluation.json"


def _manifest(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {key: evaluation[key] for key in ("method", "task", "seed", "stage", "identity")} | {
        "agent": evaluation["method"].split("-")[0],
        "settings": {"discount": 0.98, "batch_size": 256, "hidden_sizes": [128, 128], "protocol": "paper"},
        "training_version": 1,
        "reduced": False,
        "code": {"version": "0.1.0", "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6", "mujoco": "3.3.0"},
        "dataset": {
            "name": "pointmaze-medium-navigate-v0",
            "source": "generated",
            "sha256": "ab" * 32,
            "episodes": 100,
            "rows": 100_000,
        },
        "hardware": {"cpu": "Example CPU", "cores": 2, "gpu": None, "memory_gb": 8},
        "threads": 2,
        "device": "cpu",
        "seeds_in_job": [0, 1, 2],
        "started": "2025-01-01T10:00:00+00:00",
        "finished": "2025-01-01T10:10:00+00:00",
        "seconds": 600.0,
        "parameters": 1_234_567,
        "step_ms": 8.5,
        "acting_ms": 0.75,
    }


def write_study(
    results: Path,
    offline: Sequence[str],
    online: Sequence[str],
    methods: Sequence[str],
    seeds: int,
    evaluations: int = 5,
    returns: Sequence[str] = (),
) -> list[Path]:
    """A benchmark: every method on every task, on the tasks `online` before and after going online too.

    Args:
        results: the results folder.
        offline: tasks of the offline part.
        online: tasks of the offline-to-online part.
        methods: the better the later; they differ in their settings, time and size.
        seeds: of every run.
        evaluations: of every run.
        returns: which tasks are scored by normalised return.
    """
    files = []
    for place, method in enumerate(methods):
        cost = {"seconds": 600.0 * (place + 1), "step_ms": 2.0 + place, "acting_ms": 0.2 + 0.1 * place}
        settings = {"discount": 0.99, "batch_size": 256, "hidden_sizes": [512] * 4, "alpha": 10.0 * place}
        known = {"settings": settings, "parameters": 1_000_000 * (place + 1), **cost}
        stages = [("offline", task) for task in offline]
        stages += [(stage, task) for task in online for stage in ("pretrain", "online")]
        for number, (stage, task) in enumerate(stages):
            for seed in range(seeds):
                end = min(100.0, 8.0 * place + (7 * number + 3 * seed) % 20 + (15 if stage == "online" else 0))
                values = [end * (at + 1) / evaluations for at in range(evaluations)]
                files.append(
                    write_run(
                        results,
                        values,
                        method=method,
                        task=task,
                        seed=seed,
                        stage=stage,
                        metric="normalized_return" if task in returns else "success",
                        starts_from="pretrain" if stage == "online" else None,
                        **known,
                    )
                )
    return files


def write_final(evaluation: Path, success: float) -> None:
    """Write the separate evaluation of a run beside its evaluation.json."""
    run = read_json(evaluation)
    keys = ("method", "task", "seed", "stage", "identity")
    write_json(
        evaluation.with_name("final.json"), {key: run[key] for key in keys} | {"episodes": EPISODES, "success": success}
    )


def write_quickstart(results: Path) -> list[Path]:
    """A small study: two methods offline, one of them online after a short pretrain stage; three seeds each."""
    files = []
    for seed, end in enumerate((90.0, 94.0, 98.0)):
        files.append(write_run(results, [10.0, 60.0, end, end, end], seed=seed, reduced=True))
        files.append(write_run(results, [5.0, 30.0 + seed], seed=seed, stage="pretrain", reduced=True))
        online = [60.0 + seed, 90.0, 92.0 + seed, 94.0]
        files.append(write_run(results, online, seed=seed, stage="online", starts_from="pretrain", reduced=True))
    for seed, end in enumerate((16.0, 20.0, 24.0)):
        files.append(write_run(results, [2.0, 8.0, end, end, end], method="flow_bc", seed=seed, reduced=True))
    return files
