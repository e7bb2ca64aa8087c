"""What a launch ends with: the study's answer, or what failed, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mfql.documents import read_text
from mfql.experiment.find import run_of
from mfql.operations.run_status import error_and_remedy, status_of
from mfql.operations.status import headline
from mfql.plan.graph import FailedJob, Graph

SUMMARY = "summary.txt"
_LOGS = Path("logs")
# More folders are not named.
_MOST_WRITTEN = 8


def answer_of(graph: Graph) -> str:
    """What a launch that came to its end has found: scores and the report's path where it made them, and its runs.

    Args:
        graph: the jobs of the launch, its folder the current one.
    """
    if graph.storage is not None:
        return _answer_in_storage(graph.storage, graph)
    study = Path("results", graph.config["name"])
    summary, outputs = study / SUMMARY, [Path(file) for job in graph.jobs for file in job.output]
    if summary in outputs and summary.is_file():
        said = [read_text(summary, "The next launch writes it anew.").rstrip("\n")]
    else:
        written = {str(Path(file).parent) for job in graph.needed for file in job.output if run_of(Path(file)) is None}
        said = ["", *(f"Written: {folder}" for folder in sorted(written)[:_MOST_WRITTEN])]
    return "\n".join([*said, *_runs(outputs)])


def _answer_in_storage(prefix: str, graph: Graph) -> str:
    """What a launch wrote of which nothing lies in this folder."""
    page = f"results/{graph.config['name']}/report.html"
    made = {file for job in graph.jobs for file in job.output if run_of(Path(file)) is None}
    written = [page] if page in made else sorted({str(Path(file).parent) for file in made})[:_MOST_WRITTEN]
    return "\n".join(["", *(f"Written: {prefix.rstrip('/')}/{name}" for name in written)])


def failure_of(graph: Graph, failed: Sequence[FailedJob]) -> str:
    """What of a launch failed, why, and what to do.

    Args:
        graph: as of `answer_of`.
        failed: the jobs that failed at their last attempt; none of a launch that was stopped.
    """
    if not failed:
        return "\nStopped before its end: the same command goes on, and finished runs stay."
    said = ["", f"{len(failed)} job{'s' if len(failed) > 1 else ''} failed:"]
    for job in failed:
        log = next(iter(job.logs), None)
        why = error_and_remedy(Path(log)) if log is not None else []
        said.append(f"  {job.name}  {log or ''}".rstrip())
        unsaid = "its log says no error; it may have been killed"
        said += [f"    {line}" for line in why or [unsaid if graph.storage is None else "its log lies in the storage"]]
    if graph.storage is None:
        said += _runs([Path(file) for job in graph.jobs for file in job.output])
    return "\n".join([*said, "Mend the cause; the same command then goes on, and finished runs stay."])


def _runs(outputs: Iterable[Path]) -> list[str]:
    """How many of the launch's runs are in which state."""
    runs = dict.fromkeys(run for file in outputs if (run := run_of(file)))
    return [headline(status_of(run, _LOGS).state for run in runs)] if runs else []
