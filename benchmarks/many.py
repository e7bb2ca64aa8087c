"""A study of thousands of finished runs, and what the commands take that look at all of them.

The runs are made up, and such that no command finds anything wrong with them: their identities, hashes and folders are
those that a trainer would leave with the settings of now. Their policies and logs are a few bytes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from benchmarks.job import Context
from benchmarks.results import ROOT, Found, Measurement
from mfql.errors import UserError
from mfql.experiment.configuration import Run, planned_runs, read_configuration
from mfql.experiment.run import OUTPUTS, RunFolder, describe_run
from mfql.methods import settings_hash

# Ten methods on the paper's 73 tasks, and those 15 online: 987 runs a seed.
METHODS = ("bc", "iql", "rebrac", "fawac", "fbrac", "ifql", "calql", "fql", "mfql-released", "mfql")
EVALUATIONS, EPISODES = 10, 50
CONFIGURATION = "many.yaml"
_LIST, _SCORES, _AGGREGATE, _VERDICT = "runs.txt", "scores.csv", "aggregate", "verdict"
_TOLD = ("--tasks", "config/tasks.csv", "--results", "results")
# In this order: each of the last ones reads what those before it wrote.
COMMANDS: dict[str, tuple[str, ...]] = {
    "mfql status": ("mfql.cli", "status", "--configfile", CONFIGURATION),
    "mfql verify": ("mfql.cli", "verify"),
    "mfql clean": ("mfql.cli", "clean"),
    "mfql plan": ("mfql.cli", "plan", "--configfile", CONFIGURATION),
    "snakemake -n": ("snakemake", "--dry-run", "--quiet", "all", "--configfile", CONFIGURATION),
    "mfql scores": ("mfql.cli", "scores", "--from-file", _LIST, "--out", _SCORES),
    "mfql aggregate": ("mfql.cli", "aggregate", _SCORES, "--out", _AGGREGATE),
    "mfql verdict": (
        "mfql.cli", "verdict", "--scores", _SCORES, "--published", "published", *_TOLD, "--out", _VERDICT,
    ),
    "mfql report": (
        "mfql.cli", "report", "--scores", _SCORES, "--aggregates", _AGGREGATE, "--verdict", f"{_VERDICT}/verdict.csv",
        *_TOLD, "--out", "report.html",
    ),
}  # fmt: skip


def commands(context: Context) -> Found:
    """Seconds of processor time of each command over studies of ten methods, and the size of the page."""
    found: Found = []
    for seeds in context.effort.studies:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name).resolve()
            files = write_study(folder, seeds)
            listed = "".join(f"{file.relative_to(folder)}\n" for file in files)
            (folder / _LIST).write_text(listed, encoding="utf-8")
            for command, arguments in COMMANDS.items():
                case = {"command": command, "runs": len(files)}
                found.append(Measurement.of("many", "processor time", "s", _seconds(arguments, folder), **case))
            megabytes = (folder / "report.html").stat().st_size / 1e6
            found.append(Measurement.of("many", "the page", "MB", megabytes, runs=len(files)))
    return found


def _seconds(arguments: Sequence[str], folder: Path) -> float:
    """The processor's seconds of a command, a Python module with arguments; others' load does not count.

    Raises:
        UserError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise UserError(f"`{' '.join(arguments)}` failed with status {done.returncode}:\n{last}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def write_study(folder: Path, seeds: int, methods: Sequence[str] = METHODS, **changes: Any) -> list[Path]:
    """Write a study, its configuration and the project's files that its commands read.

    Args:
        folder: gets `results/`, `data/`, `many.yaml` and copies of the workflow, its configuration and its profiles.
        seeds: of every run.
        methods: the better the later.
        changes: of the configuration, such as of `offline`.

    Returns:
        the `evaluation.json` of each run.
    """
    for name in ("workflow", "config", "profiles", "published"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    config = read_configuration(None, folder / "config")
    numbers = list(range(seeds))
    asked = {part: config[part] | {"methods": list(methods)} for part in ("offline", "online")}
    said = {"name": "many", "allow_cpu": True, "seeds": numbers, "pixel_seeds": numbers, **asked, **changes}
    file = folder / CONFIGURATION
    file.write_text(yaml.safe_dump(said), encoding="utf-8")
    runs = planned_runs(read_configuration(file, folder / "config"), folder / "config")
    datasets = {run.task.dataset for run in runs}
    for dataset in datasets:
        _write(folder / "data" / f"{dataset}.json", _text(_dataset(dataset)))
    return [_write_run(folder, run, seed, end) for run, ends in _ends(runs, methods) for seed, end in enumerate(ends)]


def _ends(runs: Sequence[Run], methods: Sequence[str]) -> Iterator[tuple[Run, list[float]]]:
    """Each run with the last score of every seed."""
    for number, run in enumerate(runs):
        best = 8.0 * methods.index(run.method) + (15.0 if run.stage == "online" else 0.0)
        yield run, [min(100.0, best + (7 * number + 3 * seed) % 20) for seed in run.seeds]


def _dataset(name: str) -> dict[str, Any]:
    digest = sha256(name.encode()).hexdigest()
    return {"source": "downloaded", "sha256": {"train": digest}, "rows": {"train": 1_000_000}}


def _write_run(folder: Path, run: Run, seed: int, end: float) -> Path:
    """Write a finished run as its trainer would leave it."""
    own = RunFolder(folder / "results", run.method, run.task.name, seed, run.stage)
    described = _described(own, run)
    result = _result(run, described, end)
    policy = {"policy": {"policy.json": "{}\n", "policy.safetensors": "weights " * 64}}
    log = "step,metric,value\n" + "".join(f"{one['step']},loss,0.5\n" for one in result["evaluations"])
    texts = dict(zip(OUTPUTS, (*reversed(policy["policy"].values()), log, _text(result)), strict=True))
    hashes = {name: sha256(text.encode()).hexdigest() for name, text in texts.items()}
    manifest = described | _provenance(run, described) | {"outputs": hashes}
    for name, text in {**texts, "manifest.json": _text(manifest)}.items():
        _write(own.trained / name, text)
    _write(own.folder / "evaluation.json", _text(result))
    return own.folder / "evaluation.json"


def _described(own: RunFolder, run: Run) -> dict[str, Any]:
    dataset = {
        "name": run.task.dataset,
        "source": "downloaded",
        "sha256": _dataset(run.task.dataset)["sha256"]["train"],
    }
    parent = None
    if run.start is not None:
        start = RunFolder(own.results, own.method, own.task, own.seed, run.start)
        first = Run(run.method, run.task, run.start, run.seeds, run.config_dir)
        parent = {"stage": run.start, "identity": _described(start, first)["identity"]}
    return describe_run(own, run.agent, run.settings, dataset, parent)


def _result(run: Run, described: dict[str, Any], end: float) -> dict[str, Any]:
    steps = [run.steps * (place + 1) // EVALUATIONS for place in range(EVALUATIONS)]
    values = [end * (place + 1) / EVALUATIONS for place in range(EVALUATIONS)]
    metric = run.task.metric
    scored = values[-3:] if run.task.score_rule == "last_three" else values[-1:]
    return {
        **{name: described[name] for name in ("method", "task", "seed", "stage", "identity")},
        "status": "finished",
        "diverged_at": None,
        "metric": metric,
        "score_rule": run.task.score_rule,
        "score": sum(scored) / len(scored),
        "episodes": EPISODES,
        "steps": run.steps,
        "starts_from": run.start,
        "stopped_at": None,
        "evaluations": [
            {"step": step, "episodes": EPISODES, metric: value, "return": value - 100.0, "length": 200.0 - value}
            for step, value in zip(steps, values, strict=True)
        ],
    }


def _provenance(run: Run, described: dict[str, Any]) -> dict[str, Any]:
    """What a manifest says of code, machine and time beside what identifies the run."""
    place = METHODS.index(run.method) if run.method in METHODS else 0
    return {
        "settings_hash": settings_hash(run.method, run.task.name, run.stage, run.config_dir),
        "reduced": False,
        "code": {"version": "0.1.0", "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "packages": {"torch": "2.13.0", "numpy": "2.4.6", "mujoco": "3.3.0"},
        "hardware": {"cpu": "Example CPU", "cores": 2, "gpu": None, "memory_gb": 8},
        "threads": 2,
        "device": "cpu",
        "image": None,
        "seeds_in_job": list(run.seeds),
        "started": "2026-01-01T10:00:00+0000",
        "finished": "2026-01-01T10:10:00+0000",
        "seconds": 600.0 * (place + 1),
        "parameters": 1_000_000 * (place + 1),
        "step_ms": 2.0 + place,
        "acting_ms": 0.2 + 0.1 * place,
    }


def _text(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    # Not through the project's whole-file writes: they wait for the disk, once a file.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
