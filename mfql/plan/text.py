"""What a plan says to people."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mfql.errors import counted
from mfql.experiment.run import Fate
from mfql.plan.cost import Hours
from mfql.plan.graph import Graph
from mfql.plan.launch import Launch, TrainingJob
from mfql.plan.outlook import Outlook
from mfql.plan.sizes import Data

_STAGES = {
    "fetch": "data fetched",
    "generate": "data generated",
    "describe": "data of your own",
    "offline": "offline",
    "pretrain": "pretrain",
    "online": "online",
    "toy": "toy",
    "evaluation": "evaluation",
    "report": "report",
    "replay": "replay",
    "other": "other",
    "target": "target",
}
_FATES = {
    Fate.NEW: "new",
    Fate.CONTINUED: "continued",
    Fate.RETRAINED: "trained anew",
    Fate.REFUSED: "refused",
    Fate.FINISHED: "finished",
}
_LEFT = "left alone"
# Groups of reasons that are named without --verbose, and runs of each.
_SHOWN_GROUPS, _SHOWN_RUNS = 8, 2


def job_lines(launch: Launch) -> list[str]:
    """Jobs by stage, for training stages with what becomes of their runs."""
    lines = []
    for stage, name in _STAGES.items():
        runs = Counter(seen.fate for job in launch.jobs if job.run.stage == stage for seen in job.outlooks)
        what = ", ".join(f"{runs[fate]} {said}" for fate, said in _FATES.items() if runs[fate])
        if launch.counts[stage]:
            runs_of_stage = f"  {counted(sum(runs.values()), 'run')}: {what}" if what else ""
            lines.append(f"  {name:<16}{launch.counts[stage]:>6}{runs_of_stage}")
    lines.insert(0, f"  {'jobs':<16}{sum(launch.counts.values()):>6}")
    lines += [f"  generated anew: {reason}" for reason in launch.anew]
    if bare := sorted({job.run.task.name for job in launch.training if not job.run.task.has_environment}):
        lines.append(f"  scored by an estimate, without an environment: {', '.join(bare)}")
    return lines


def size_lines(data: Data, results: float, config: Mapping[str, Any], folder: Path) -> list[str]:
    """Gigabytes to bring and to keep, and the room that there is."""
    lines = []
    if data.fetched:
        source = config["datasets_from"]
        verb = f"to take from {source}" if source and "://" not in source else "to download"
        lines.append(f"  about {_gigabytes(data.fetched)} {verb}")
    guess = f" ({data.estimated} datasets estimated from their rows)" if data.estimated else ""
    lines.append(f"  about {_gigabytes(data.kept)} of data{guess} and {_gigabytes(results)} of results to keep")
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if free < data.kept + results:
        lines.append(f"  THE DISK IS TOO SMALL: {_gigabytes(free)} are free")
    return lines


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e11 else f"{size / 1e9:,.0f} GB"


def queue_lines(graph: Graph) -> list[str]:
    """How many jobs a cluster's queue holds at once by the profile, and which of its resources hold back more."""
    queue, needed = graph.queue, graph.needed
    if queue is None:
        return []
    most = "any number of" if queue.jobs == sys.maxsize else f"at most {queue.jobs}"
    lines = [f"  {most} jobs in the queue at once, by the profile's `jobs`"]
    for resource, size in queue.pools.items():
        largest = max(needed, key=lambda job: job.asks.get(resource, 0.0), default=None)
        if largest is None or resource not in largest.asks:
            continue
        fitting = queue.at_once(largest, resource)
        if fitting < min(queue.jobs, sum(resource in job.asks for job in needed)):
            lines += [
                f"  THE PROFILE POOLS {resource}: all jobs in the queue share {size:,.0f}, and {largest.rule} asks for"
                f" {largest.asks[resource]:,.0f}: {fitting} at once",
                f"    To limit each job, not their sum, the profile needs set-resource-scopes: {{{resource}: local}}"
                + ("; or max_runtime in its place, which limits groups too" if resource == "runtime" else ""),
            ]
    return lines


def time_lines(hours: Hours, source: str, gpus: int, cores: int) -> list[str]:
    """Hours of processors, and from start to end."""
    machine = f"{cores} cores and {f'{gpus} GPU' if gpus else 'no GPU'}"
    gpu = f"{_hours(hours.gpu)} GPU-hours and " if gpus else ""
    return [
        f"  about {gpu}{_hours(hours.cpu)} CPU-hours: {_duration(hours.elapsed)} on {machine}",
        f"  speed: {source}",
    ]


def _hours(hours: float) -> str:
    return f"{hours:.1f}" if hours < 10 else f"{hours:,.0f}"


def _duration(hours: float) -> str:
    if hours < 1:
        return f"{60 * hours:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 72 else f"{hours / 24:.0f} days"


def run_lines(launch: Launch, verbose: bool) -> list[str]:
    """Which runs go on from where, and which are trained anew or refused and why; with `verbose`, each run."""
    if verbose:
        return [
            f"  {_said(job, one):<14}{one.folder.folder}{_because(one)}"
            for job in launch.training
            for one in job.outlooks
        ]
    seen = [outlook for job in launch.jobs for outlook in job.outlooks]
    lines = []
    for fate in (Fate.CONTINUED, Fate.RETRAINED, Fate.REFUSED):
        groups: dict[str, list[Outlook]] = {}
        for one in seen:
            if one.fate is fate:
                groups.setdefault(one.reason, []).append(one)
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        for reason, outlooks in ordered[:_SHOWN_GROUPS]:
            lines.append(f"  {len(outlooks)} {_FATES[fate]}{f': {reason}' if reason else ''} ({_some(outlooks)})")
        if len(ordered) > _SHOWN_GROUPS:
            lines.append(f"  and {_FATES[fate]} for {len(ordered) - _SHOWN_GROUPS} reasons more: --verbose")
    held = sum(len(job.outlooks) for job in launch.jobs if job.refused) - sum(one.fate is Fate.REFUSED for one in seen)
    if held:
        lines.append(f"  {held} more share a job with one that is refused, and wait for it")
    left = [one for job in launch.training for one in job.outlooks if _said(job, one) == _LEFT]
    if left:
        lines.append(f"  {len(left)} {_LEFT} that are not as configured: mfql verify ({_some(left)})")
    return lines


def _said(job: TrainingJob, one: Outlook) -> str:
    """What becomes of a seed; of files that Snakemake holds for in order nothing, whatever the run beside them says."""
    return _FATES[one.fate] if job.needed or one.fate is Fate.FINISHED else _LEFT


def _because(one: Outlook) -> str:
    if one.checkpoints:
        return f" from step {one.checkpoints[-1]}"
    return f": {one.reason}" if one.reason else ""


def _some(outlooks: Iterable[Outlook]) -> str:
    named = [f"{_named(one)}{_because(one) if one.checkpoints else ''}" for one in outlooks]
    more = len(named) - _SHOWN_RUNS
    return ", ".join(named[:_SHOWN_RUNS]) + (f" and {more} more" if more > 0 else "")


def _named(one: Outlook) -> str:
    run = one.folder
    return f"{run.method}/{run.task}/seed{run.seed}/{run.stage}"
