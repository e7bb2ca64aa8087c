"""Snakemake's own graph of jobs: what a launch is about to run, and what a dry run finds.

Both are read from the `workflow` that the Snakefile sees, by `graph_of` alone: Snakemake documents that name and not
all that it has, so that what is taken of it stands in one place, which tests hold against the table of a dry run.
"""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from typing_extensions import override

from mfql.errors import UserError, shown
from mfql.experiment.configuration import check_file
from mfql.experiment.run import CHECKPOINT, RUN
from mfql.extensions import project_path, reading_once

# Executors that start jobs on this machine, or none at all.
_HERE = (None, "local", "dryrun", "touch")
# What the project has for Snakemake: its workflow, and what the command line names.
_SNAKEFILE, _SHIPPED = "workflow/Snakefile", ("config/", "profiles/")
# Lines that are no complaint of Snakemake's.
_TOLD = re.compile(r"Using |Assuming unrestricted |host: |Building DAG of jobs")


@dataclass(frozen=True)
class Job:
    """A job of the graph.

    Args:
        output: its files, by the names that they have without a storage; no archives of runs.
        needed: whether a launch runs it; of the others the files are there and in order.
        asks: how much of each pooled resource it takes at its first attempt.
    """

    rule: str
    wildcards: Mapping[str, str]
    output: tuple[str, ...]
    needed: bool
    asks: Mapping[str, float]


@dataclass(frozen=True)
class FailedJob:
    """A job that failed at its last attempt.

    Args:
        name: its rule and what it is of.
        logs: its log files.
    """

    name: str
    logs: tuple[str, ...]


@dataclass(frozen=True)
class StartedJob:
    """A job as Snakemake says that it starts it.

    Args:
        number: by which Snakemake speaks of it later.
        output, logs: its files.
        here: whether this process starts it; a cluster's queue gets it otherwise.
    """

    number: int
    rule: str
    wildcards: Mapping[str, str]
    output: tuple[str, ...]
    logs: tuple[str, ...]
    here: bool


class Teller(Protocol):
    """Says in lines what becomes of jobs, in the place of what Snakemake says."""

    def started(self, job: StartedJob) -> list[str]:
        """Lines of a job that starts."""

    def finished(self, numbers: Sequence[int], done: int, total: int) -> list[str]:
        """Lines of jobs that finished, with how many have by now, of how many."""

    def failed(self, number: int, logs: Sequence[str], said: Sequence[str]) -> list[str]:
        """Lines of a job that failed, which may be tried again, with what Snakemake or a scheduler says of it."""


@dataclass(frozen=True)
class Queue:
    """How a profile fills a cluster's queue.

    Args:
        jobs: that it holds at once at most; `sys.maxsize` for any number.
        pools: the resources that its jobs share, and how much there is of each.
        gpu_memory: gigabytes of one of its GPUs, where the profile says it.
    """

    jobs: int
    pools: Mapping[str, float]
    gpu_memory: float | None = None

    def at_once(self, job: Job, resource: str | None = None) -> int:
        """How many such jobs it holds at once, by all that limits it or by one resource; one at least."""
        pools = self.pools if resource is None else {resource: self.pools[resource]}
        fitting = [int(size // job.asks[name]) for name, size in pools.items() if job.asks.get(name)]
        return max(1, min([self.jobs, *fitting]))


@dataclass(frozen=True)
class Graph:
    """The jobs that targets rest on.

    Args:
        asked: the targets, and what confines them, as people say it.
        config: the configuration as the workflow has it, all files and changes laid over each other.
        config_dir: folder with the workflow's task table and `methods/`, from `folder`.
        queue: of the cluster that jobs go to; None if they run here.
        folder: that the workflow works in.
        storage: before the names of all files, where jobs share no folder; None where they do.
    """

    asked: str
    config: Mapping[str, Any]
    config_dir: Path
    jobs: tuple[Job, ...]
    queue: Queue | None
    folder: Path
    storage: str | None = None

    @property
    def needed(self) -> list[Job]:
        """The jobs that a launch runs."""
        return [job for job in self.jobs if job.needed]


# The workflow of this process, its configuration and its task table's folder, from the Snakefile that was read last.
_read: list[tuple[Any, Mapping[str, Any], Path]] = []


def hand_over(workflow: Any, config: Mapping[str, Any], config_dir: str | Path) -> None:
    """Called by the Snakefile, which alone is given its `workflow`."""
    _read[:] = [(workflow, config, Path(config_dir))]


def name_targets(workflow: Any, canonical: Callable[[str], str]) -> None:
    """Give the files that a launch is asked for, to stop at or to leave out, the names that runs have.

    Snakemake reads the Snakefile before it knows the targets, and has no hook for them: each passes here on its way
    to the jobs, as files that rules name do, which have those names already.

    Args:
        workflow: as the Snakefile sees it.
        canonical: the name of a file that Snakemake is to look for.
    """
    modifier = workflow.modifier.path_modifier
    original = modifier.apply_default_storage

    def named(path: Any) -> Any:
        other = canonical(path) if isinstance(path, str) else path
        return original(path if other == path else other)  # A path may have marks of Snakemake's, which another lacks.

    modifier.apply_default_storage = named


def graph_of(workflow: Any, config: Mapping[str, Any], config_dir: str | Path, nodes: int | None) -> Graph:
    """The graph of a workflow whose jobs Snakemake has found.

    Args:
        workflow: as the Snakefile sees it.
        config_dir: folder with its task table and `methods/`.
        nodes: jobs at once on a cluster, `sys.maxsize` for any number; None where they run on this machine.
    """
    dag, settings = workflow.dag, workflow.dag_settings
    limits = _pools(workflow)
    # No job asks for it: it is what a profile tells of the cluster.
    gpu_memory = limits.pop("gpu_memory", None)
    queue = None if nodes is None else Queue(nodes, limits, gpu_memory)
    asked = [*(sorted(settings.targets) or ["all"])]
    asked += [f"until {name}" for name in sorted(settings.until)]
    asked += [f"without {name}" for name in sorted(settings.omit_from)]
    jobs = []
    for job in dag.jobs:
        needed = dag.needrun(job)
        pools = queue.pools if queue is not None and needed else ()
        asks = {name: float(value) for name in pools if isinstance(value := job.resources.get(name), int | float)}
        jobs.append(Job(job.rule.name, dict(job.wildcards_dict), _output(workflow, job), needed, asks))
    return Graph(" ".join(asked), config, Path(config_dir), tuple(jobs), queue, Path.cwd(), _storage(workflow))


def _storage(workflow: Any) -> str | None:
    """The prefix of what a storage holds in the place of folders; None where there is none."""
    settings = workflow.storage_settings
    return None if settings.default_storage_provider is None else settings.default_storage_prefix or ""


def _output(workflow: Any, job: Any) -> tuple[str, ...]:
    """A job's files by the names that they have without a storage; no archives of runs."""
    prefix = _storage(workflow)
    names = [_whole_name(file) for file in job.output]
    if prefix:
        names = [name.removeprefix(f"{prefix.rstrip('/')}/") for name in names]
    return tuple(name for name in names if Path(name).name not in (RUN, CHECKPOINT))


def _whole_name(file: Any) -> str:
    """The name of a job's file; of one that a storage holds, that which it has there."""
    return str(file.storage_object.query if file.is_storage else file)


def failed_jobs(workflow: Any) -> list[FailedJob]:
    """The jobs of a launch that failed for good, those of a submission one by one."""
    failed = [one for job in workflow.scheduler.failed for one in getattr(job, "jobs", [job])]
    found = [
        FailedJob(" ".join([job.rule.name, *map(str, job.wildcards_dict.values())]), tuple(map(_whole_name, job.log)))
        for job in failed
    ]
    return sorted(found, key=lambda job: job.name)


class _NothingToBeDone(logging.Filter):
    """Hears Snakemake say that everything is made, for which it has no hook."""

    def __init__(self, said: str, workflow: Any, tell: Callable[[], None]) -> None:
        super().__init__()
        self._said, self._workflow, self._tell = said, workflow, tell

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == self._said and not self._workflow.dryrun:
            self._tell()
        return True


def when_nothing_is_to_be_done(workflow: Any, tell: Callable[[], None]) -> None:
    """Have `tell` called where Snakemake finds everything made; not in a dry run, nor for an earlier workflow."""
    from snakemake.logging import logger
    from snakemake.workflow import NOTHING_TO_BE_DONE_MSG

    for earlier in [heard for heard in logger.filters if isinstance(heard, _NothingToBeDone)]:
        logger.removeFilter(earlier)
    logger.addFilter(_NothingToBeDone(NOTHING_TO_BE_DONE_MSG, workflow, tell))


# What a launch says of itself beside its jobs: what it takes is told by `mfql.plan.tell`.
_ASIDE = re.compile(
    "Building DAG of jobs|Select jobs to execute|Using shell: |Provided |Rules claiming more threads|Job stats:|"
    "Singularity containers: ignored|Conda environments: ignored|Group jobs: inactive|Execute [0-9]+ jobs"
)


# What Snakemake says behind the name of a file that a storage holds.
_STORED = re.compile(r" \((send to|retrieve from|in) storage\)$")
# What Snakemake says of a job's command that failed.
_COMMAND = re.compile(r"CalledProcessError in .*\nCommand '(.*)' (returned non-zero exit status .*|died with .*)", re.S)


class _InShort(logging.Filter):
    """Puts a teller's lines in the place of what a handler would print of jobs; a dry run and `--verbose` stay whole.

    It gets what the handler's own filter, which is before it, lets through: `--quiet` counts as ever. A logger plugin
    would have to be chosen by each launch, is found in no editable installation, and leaves no room for a user's own.
    """

    def __init__(self, handler: logging.Handler, workflow: Any, teller: Teller) -> None:
        super().__init__()
        self._handler, self._workflow, self._teller = handler, workflow, teller
        self._finished: list[int] = []
        self._ended: list[tuple[str, str]] = []  # commands, and the status that each ended with
        self._lock = threading.Lock()

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", None)
        if event == _IN_SHORT or self._workflow.dryrun or self._workflow.output_settings.verbose:
            return True
        with self._lock:
            try:
                lines = self._lines(None if event is None else str(event), vars(record))
            except (
                Exception
            ):  # A launch does not end because of what is printed of it, by whatever release of Snakemake.
                return True
            for line in lines or ():
                said = logging.makeLogRecord({"msg": line, "event": _IN_SHORT})
                said.levelno, said.levelname = record.levelno, record.levelname
                self._handler.handle(said)
        return lines is None

    def _lines(self, event: str | None, said: Mapping[str, Any]) -> list[str] | None:
        """What is said of a record; None where it is printed as it is."""
        if event == "job_info":
            return self._teller.started(
                StartedJob(
                    said["jobid"],
                    said["rule_name"],
                    {name: str(value) for name, value in said["wildcards"].items()},
                    tuple(_STORED.sub("", str(file)) for file in said["output"]),
                    tuple(map(str, said["log"])),
                    bool(said["local"]),
                )
            )
        if event == "job_finished":
            self._finished.append(said["job_id"])
            return []
        if event == "progress":
            finished, self._finished = self._finished, []
            return self._teller.finished(finished, said["done"], said["total"])
        if event == "error" and (ended := _COMMAND.search(str(said["msg"]))):
            self._ended.append((ended[1], ended[2]))  # Of a job that is said to have failed next.
            return []
        if event == "job_error":
            about = [f"{name}: {value}" for name, value in (said.get("aux") or {}).items()]
            for one in [one for one in self._ended if str(said.get("shellcmd")) in one[0]]:
                self._ended.remove(one)
                about.append(one[1])
            return self._teller.failed(
                said["jobid"], tuple(map(str, said["log"])), [*filter(None, [said.get("rule_msg")]), *about]
            )
        if event in ("shellcmd", "workflow_started", "resources_info", "run_info", "job_started", "group_info"):
            return []
        is_aside = event is None and said["levelno"] < logging.WARNING and _ASIDE.match(str(said["msg"]))
        return [] if is_aside else None


# What marks a record as a teller's, which Snakemake's formatter prints as it is.
_IN_SHORT = "in short"


def tell_in_short(workflow: Any, teller: Teller) -> None:
    """Have the launch print a teller's lines of its jobs; its log in `.snakemake/log` has all that Snakemake says.

    Args:
        workflow: as the Snakefile sees it.
    """
    from snakemake.logging import ColorizingTextHandler, logger

    for handler in logger.handlers:
        if isinstance(handler, ColorizingTextHandler):
            for earlier in [heard for heard in handler.filters if isinstance(heard, _InShort)]:
                handler.removeFilter(earlier)
            handler.addFilter(_InShort(handler, workflow, teller))


def _pools(workflow: Any) -> dict[str, float]:
    """Snakemake shares a resource out among all jobs of a cluster, unless its scope is `local`: then it limits each."""
    # Sizes are limited by `mem_mb` and have a scope as `mem`, in later releases of Snakemake 9.
    local = {name for scoped in workflow.resource_scopes.locals for name in (scoped, f"{scoped}_mb", f"{scoped}_mib")}
    limits = {name: getattr(limit, "value", limit) for name, limit in workflow.global_resources.items()}
    return {
        name: float(limit)
        for name, limit in limits.items()
        if limit is not None and name not in ("_cores", "_nodes", *local)
    }


class _ShownRecords(logging.Formatter):
    """Gives what another formatter gives, as `shown`; colours are put around it after that."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    @override
    def format(self, record: logging.LogRecord) -> str:
        text: str | None = self._formatter.format(record)
        return shown(text or "")  # Snakemake's gives None for what it does not print.


def escape_logs() -> None:
    """Have Snakemake print names and paths, which may be anybody's, with control characters as escapes."""
    from snakemake.logging import logger

    for handler in logger.handlers:
        if handler.formatter is not None and not isinstance(handler.formatter, _ShownRecords):
            handler.setFormatter(_ShownRecords(handler.formatter))


def in_any_folder(arguments: Sequence[str]) -> list[str]:
    """Arguments of `snakemake` with which it finds what is the project's from any folder.

    Words are taken as `project_path` takes them, such as `config/quickstart.yaml` or `profiles/slurm`. Where the
    current folder has no workflow and none is named, it is the project's.

    Raises:
        UserError: a word behind `--configfile` is no configuration; Snakemake's own reader says less.
    """
    from snakemake.cli import resolve_snakefile

    words = [_found(word) for word in arguments]
    for file in _configurations(words):
        if not (Path(file).suffix or os.path.lexists(file)):
            said = f"--configfile takes every word up to the next option, and there is no file {file}"
            raise UserError(said, "Name targets before it.")
        check_file(file)
    named = any(re.match("-s|--snakefile", word) for word in words)
    if not named and resolve_snakefile(None, allow_missing=True) is None:
        words += ["--snakefile", str(project_path(_SNAKEFILE))]
    return words


def _found(word: str) -> str:
    """A word, or the value of `--option=value`, that begins like something of the project's: no target does."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{project_path(value) if value.startswith(_SHIPPED) else value}"


def _configurations(words: Sequence[str]) -> Iterator[str]:
    """The values of `--configfile`: every word from it to the next option."""
    within = False
    for word in words:
        option, equals, value = word.partition("=")
        if word.startswith("-"):
            within = option in ("--configfile", "--configfiles") and not equals
        if within and not word.startswith("-"):
            yield word
        elif equals and option in ("--configfile", "--configfiles"):
            yield value


def become_snakemake(arguments: Sequence[str]) -> NoReturn:
    """Go on as `snakemake`, called as of `in_any_folder`: signals and the exit status are its own."""
    # As its script does: the current folder is no place for modules, and jobs in containers inherit nothing of here.
    command = [sys.executable, "-P", "-m", "snakemake", *in_any_folder(arguments)]
    sys.stdout.flush()
    os.execv(command[0], command)


def launch(arguments: Sequence[str]) -> int:
    """Run `snakemake` beside this process, called as of `in_any_folder`; what asks this one to end asks it, too.

    Returns:
        its exit status.
    """
    command = [sys.executable, "-P", "-m", "snakemake", *in_any_folder(arguments)]
    sys.stdout.flush()
    with subprocess.Popen(command) as running, _passed_on(running):
        return running.wait()


@contextmanager
def _passed_on(running: subprocess.Popen[bytes]) -> Iterator[None]:
    """Pass on what asks this process to end; Ctrl-C reaches both by itself."""
    handlers: dict[signal.Signals, Any] = {
        signal.SIGINT: lambda *_: None,
        **dict.fromkeys((signal.SIGTERM, signal.SIGHUP), lambda *_: running.terminate()),
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def ask(arguments: Sequence[str]) -> Graph:
    """What `snakemake` finds to do with these arguments, by a dry run in this process.

    Raises:
        UserError: Snakemake refuses them, or the configuration; says what it said.
    """
    # Snakemake takes a second to import: those that do not ask should not wait for it.
    from snakemake.cli import args_to_api, parse_args

    _read.clear()
    said, environment = io.StringIO(), dict(os.environ)
    try:
        with redirect_stdout(said), redirect_stderr(said), reading_once():
            # With just these two Snakemake finds the jobs and prints none of them.
            parser, options = parse_args([*in_any_folder(arguments), "--dry-run", "--quiet", "rules", "progress"])
            # Read before the dry run takes their place.
            nodes = None if options.executor in _HERE else (options.jobs or sys.maxsize)
            agreed = args_to_api(options, parser)
    except SystemExit as ended:  # The Snakefile's own message, or that of an unknown option.
        raise _refusal(ended.code if isinstance(ended.code, str) else said.getvalue()) from None
    except Exception as error:
        raise _refusal(f"{said.getvalue()}\n{error}") from error
    finally:  # What Snakefile and profile set is for jobs.
        os.environ.clear()
        os.environ.update(environment)
    workflow, config, config_dir = _read[0] if _read else (None, {}, Path())
    if not agreed:
        raise _refusal(said.getvalue())
    if workflow is None or workflow.dag is None:
        raise UserError("snakemake looks for no jobs here", "Leave out options that make it list or do something else.")
    return graph_of(workflow, config, config_dir, nodes)


def _refusal(said: str) -> UserError:
    """The error that says what Snakemake said last."""
    found = [line.rstrip() for line in said.rpartition("Building DAG of jobs...")[2].splitlines() if line.strip()]
    lines = [line for line in found if not _TOLD.match(line)] or ["snakemake refuses, and says nothing"]
    # A usage or a traceback ends with what was wrong.
    if any(line.startswith(("usage: ", "Traceback ")) for line in lines):
        lines = lines[-1:]
    message, *rest = (re.sub(r"^(\S+: error|Error): ", "", line) for line in lines)
    if message.endswith(":") and rest:
        message = f"{message} {rest.pop(0)}"
    return UserError(
        message, "\n".join(rest).strip() or "`snakemake -n` with the same targets and options says the same."
    )
