"""`mfql train`: from settings and data to finished run folders; finished seeds are restored, killed ones continued."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfql.agents.interface import Agent, count_parameters
from mfql.data.description import check_simulation
from mfql.data.transitions import Dataset
from mfql.declared import agent_class, require_trainable
from mfql.documents import json_text, write_json
from mfql.envs.physics import described
from mfql.errors import UserError
from mfql.evaluation.interval import wilson
from mfql.evaluation.policy import acting_seconds, save_policy
from mfql.evaluation.usage import usage_of
from mfql.experiment.owned import TRACKERS, own_files, remove_files
from mfql.experiment.records import IDENTIFYING, read_evaluation, require
from mfql.experiment.run import OUTPUTS, Fate, RunFolder, alterations, describe_run, go_on_together, has_own_identity
from mfql.extensions import agent_file, is_own, running_code
from mfql.files import sha256, there, write_whole
from mfql.locks import locked
from mfql.methods import checkpoint_stage, declared_settings, raw_settings, settings_hash, settings_source
from mfql.settings import Settings, steps_of
from mfql.suites import load, split_paths, suite_of
from mfql.tasks import ESTIMATE, Task, find_task, scored
from mfql.training.checkpoint import Checkpoints
from mfql.training.contract import require_contract
from mfql.training.device import (
    can_compile,
    memory_errors_for_people,
    repays_compiling,
    set_precision,
    use_threads,
)
from mfql.training.log import end_board
from mfql.training.loop import Execution, Trainer
from mfql.training.memory import require_memory_for
from mfql.training.provenance import machine, provenance
from mfql.training.trackers import require_trackers
from mfql.training.tracking import tracked

# Offline lengths from which a run is the paper's size.
_PAPER_STEPS = 500_000
# What says in a result that a seed ended before its last step.
_ENDS = ("diverged_at", "stopped_at")


@dataclass(frozen=True)
class Job:
    """What one call of the trainer trains.

    Args:
        method, task, stage: as in the run's path.
        seeds: trained together.
        data: folder of the dataset; results: folder that has `runs/`; config_dir: folder with the task table and
            `methods/`.
    """

    method: str
    task: str
    stage: str
    seeds: tuple[int, ...]
    data: Path
    results: Path
    config_dir: Path

    def run(self, seed: int, stage: str | None = None) -> RunFolder:
        """The folder of one seed, of this stage or another."""
        return RunFolder(self.results, self.method, self.task, seed, stage or self.stage)


@running_code()
def train(job: Job, execution: Execution, *, choose_compiling: bool = False, wait: bool = False) -> None:
    """Train what is missing of a job and deliver every seed's `evaluation.json`; at a pause, its `paused-STEP.json`.

    Args:
        choose_compiling: compile the update where that repays itself, whatever `execution` says.
        wait: for another process that trains one of these runs, and take its result; else that is an error.

    Raises:
        UserError: bad settings, data or folders, or a pause that is no earlier than the end; nothing is half-written.
        Interrupted: the job was asked to end; the same command continues it.
    """
    require_trackers(execution.trackers)
    kind, settings = _agent_and_settings(job)
    task = find_task(job.task, job.config_dir)
    steps = steps_of(settings.as_dict(), job.stage)
    if execution.pause_at is not None and execution.pause_at >= steps:
        raise UserError(
            f"--pause-at {execution.pause_at}: {job.method} ends with step {steps:,}",
            "Name an earlier step, or leave the option out.",
        )
    if choose_compiling:
        updates = settings.online_steps * kind.updates_per_step if job.stage == "online" else settings.offline_steps
        execution = replace(execution, compiled=repays_compiling(execution.device, updates))
    set_precision(settings.precision, execution.device)
    if not all(map(there, split_paths(job.data, task.dataset).values())):
        check_simulation(job.data, task.dataset)
        load(task, job.data)  # Says what is missing where a wrong path was given, before a folder is made for it.
    with ExitStack() as locks:
        run_locks = [job.run(seed).lock for seed in sorted(job.seeds)]
        locks.enter_context(locked(*run_locks, wait=math.inf if wait else 0.0))
        locks.enter_context(_failure_recorded([job.run(seed) for seed in job.seeds]))
        locks.enter_context(memory_errors_for_people())
        check_simulation(job.data, task.dataset)
        dataset = load(task, job.data)
        if settings.reward == "goal" and dataset.masks.all():
            print(f"{job.method} {job.task}: no row of {dataset.name} ends in success, so that every reward is 0")
        manifests = {seed: _manifest(job, seed, kind, settings, dataset, task) for seed in job.seeds}
        fates = [job.run(seed).fate(manifests[seed]) for seed in job.seeds]
        if set(fates) - {Fate.FINISHED}:
            _require_contract(job, kind, settings, dataset, execution)
        if {Fate.NEW, Fate.RETRAINED} & set(fates):
            suite_of(task.name).try_out(task.name, job.data)
        for seed in job.seeds:
            job.run(seed).claim(manifests[seed])
        missing = [seed for seed in job.seeds if not job.run(seed).finished()]
        for group in _groups(job, missing):
            _train_group(job, group, kind, settings, dataset, task, manifests, execution)
        for seed in job.seeds:
            _deliver(job.run(seed), execution.pause_at)
        for seed in job.seeds:
            print(_said_of(job.run(seed)))
        restored = sorted(set(job.seeds) - set(missing))
        if restored:
            print(
                f"{job.method} {job.task} {job.stage}: finished before, restored: seeds {', '.join(map(str, restored))}"
            )


def _deliver(run: RunFolder, pause_at: int | None) -> None:
    if pause_at is None:
        run.deliver()
    elif run.finished():  # Of one that is not, it was written where it paused.
        run.require_result()
        _write_pause(run, read_evaluation(run.trained / "evaluation.json"), pause_at)


def _write_pause(run: RunFolder, result: Mapping[str, Any], step: int) -> None:
    """Write what a run's result was at a step, from what it is now."""
    evaluations = [one for one in result["evaluations"] if one["step"] <= step]
    diverged, stopped = (found if found is not None and found <= step else None for found in map(result.get, _ENDS))
    at_step = {
        "status": "paused" if diverged is None else "diverged",
        "diverged_at": diverged,
        "stopped_at": stopped,
        "score": score(evaluations, result["metric"], result["score_rule"]),
        "steps": step,
        "evaluations": evaluations,
    }
    write_json(run.pause_file(step), {**result, **at_step})


def _said_of(run: RunFolder) -> str:
    """Where a run lies that has come to its end or to a pause, and its score."""
    if not run.finished():
        return f"{run.folder}: paused, the same command without --pause-at goes on"
    result = read_evaluation(run.trained / "evaluation.json")
    if result["status"] == "diverged":
        return f"{run.folder}: diverged at step {result['diverged_at']:,}"
    score = result["score"]
    if score is None:
        return f"{run.folder}: finished, without an evaluation"
    if result["metric"] == ESTIMATE:
        last = result["evaluations"][-1]
        reach = f"{score:.4g} [{last['fqe_low']:.4g}, {last['fqe_high']:.4g}]"
        return f"{run.folder}: finished, estimated discounted return (FQE) {reach}; no episode was played"
    unit = " %" if result["metric"] == "success" else ""
    return f"{run.folder}: finished, {result['metric'].replace('_', ' ')} {score:.4g}{unit}"


@contextmanager
def _failure_recorded(runs: list[RunFolder]) -> Iterator[None]:
    """An error is written down in the folders of the runs that it leaves unfinished."""
    for run in runs:
        run.begin_attempt()
    try:
        yield
    except Exception as error:
        for run in runs:
            if not run.finished():
                with suppress(UserError):  # A full disk must not hide what happened.
                    run.record_failure(error)
        raise


def _require_contract(job: Job, kind: type[Agent], settings: Settings, dataset: Dataset, execution: Execution) -> None:
    """Refuse an extension's agent that breaks its contract; tests hold the project's own."""
    agent = raw_settings(job.method, job.task, job.stage, job.config_dir)["agent"]
    if is_own(agent):
        sizes = dataset.observations.shape[1:], dataset.actions.shape[-1]
        require_contract(kind, agent_file(agent), settings, *sizes, execution.device)


def _agent_and_settings(job: Job) -> tuple[type[Agent], Settings]:
    agent, settings = declared_settings(job.method, job.task, job.stage, job.config_dir)
    return agent_class(agent), settings


def _manifest(
    job: Job, seed: int, kind: type[Agent], settings: Settings, dataset: Dataset, task: Task
) -> dict[str, Any]:
    """What identifies the run of a seed; provenance is added when it trains."""
    agent = raw_settings(job.method, job.task, job.stage, job.config_dir)["agent"]
    described = {
        "name": dataset.name,
        "source": dataset.source,
        "sha256": dataset.sha256,
        "rows": len(dataset),
        "episodes": int(dataset.terminals.sum()),
    }
    if constant := dataset.constant_dimensions:
        described["constant_dimensions"] = constant
    parent = _parent(job, seed, dataset) if job.stage == "online" else None
    wanted = describe_run(job.run(seed), agent, settings.as_dict(), described, parent)
    return wanted | {
        "settings_hash": settings_hash(job.method, job.task, job.stage, job.config_dir, "environment" in wanted),
        "settings_source": settings_source(job.method, job.task, job.stage, job.config_dir),
        # A method without an offline part has the steps of the online one alone; of a task of one's own no paper has
        # runs of another size.
        "reduced": task.registered is None and (settings.offline_steps or settings.online_steps) < _PAPER_STEPS,
    }


def _parent(job: Job, seed: int, dataset: Dataset) -> dict[str, Any] | None:
    """The manifest of the finished run that a seed's online part starts from; None for a method without offline part.

    Raises:
        UserError: it is not finished, its manifest is altered, or it saw another version of the dataset.
    """
    start = checkpoint_stage(job.method, job.task, job.config_dir)
    if start is None:
        return None
    run = job.run(seed, start)
    manifest = run.manifest()
    if manifest is None or not run.finished():
        raise UserError(
            f"online training starts from {run.folder}, which is not finished",
            f"Run `mfql train --stage {run.stage}` for seed {seed} first.",
        )
    require(run.trained / "manifest.json", manifest, IDENTIFYING)
    if not has_own_identity(manifest):
        raise _altered_start(run, "run/manifest.json has other settings, versions or data than its identity is of")
    if manifest["dataset"]["sha256"] != dataset.sha256:
        raise UserError(
            f"{run.folder} was trained on another version of {dataset.name}",
            "Restore the dataset, or train that stage anew.",
        )
    return manifest


def _groups(job: Job, seeds: list[int]) -> list[list[tuple[int, dict[str, Any] | None]]]:
    """Seeds that go on together, with their checkpoints: each as it began, compiled or not."""
    usable = {seed: Checkpoints(job.run(seed).checkpoints.folder).usable() for seed in seeds}
    groups: list[list[tuple[int, dict[str, Any] | None]]] = []
    for together in go_on_together(usable):
        of_mode: dict[bool, list[tuple[int, dict[str, Any] | None]]] = {}
        for seed, step in together.items():
            saved = None if step is None else usable[seed][step]
            of_mode.setdefault(saved is not None and bool(saved["machine"]["compiled"]), []).append((seed, saved))
        groups += of_mode.values()
    return groups


def _train_group(
    job: Job,
    group: list[tuple[int, dict[str, Any] | None]],
    kind: type[Agent],
    settings: Settings,
    dataset: Dataset,
    task: Task,
    manifests: dict[int, dict[str, Any]],
    execution: Execution,
) -> None:
    usage = usage_of(task.name)
    agent = kind(settings, dataset.observations.shape[1:], dataset.actions.shape[-1])
    require_trainable(agent, settings, task, job.stage)
    if execution.device.type == "cpu":
        require_memory_for(agent, dataset, [seed for seed, _ in group], job.stage)
    seeds = [seed for seed, _ in group]
    saved = [one for _, one in group if one is not None]
    if saved:
        execution = replace(execution, compiled=bool(saved[0]["machine"]["compiled"]) and can_compile(execution.device))
    execution = replace(execution, compiled=execution.compiled and agent.compilable)
    if execution.threads is not None:  # What another group of the job took is not for this one.
        use_threads(execution.threads, {one["machine"]["threads"] for one in saved})
    for seed, one in group:
        if one is not None:
            _check_checkpoint(job.run(seed), one, manifests[seed]["identity"], execution)
        else:
            _start_anew(job.run(seed))
    began = time.monotonic()
    origin = provenance(execution.device, manifests[seeds[0]]["agent"])
    origin["packages"] |= task.registered.packages() if task.registered else {}
    session = {
        **origin,
        "physics": described(task.name),
        "compiled": machine(execution.device, execution.compiled)["compiled"],
        "seeds_in_job": seeds,
    }
    for seed in seeds:
        manifest = manifests[seed] | session | {"parameters": count_parameters(agent)}
        _write_manifest(job.run(seed), manifest, saved[0]["step"] if saved else 0)
    starts = _starts(job, seeds, agent)
    runs = [job.run(seed) for seed in seeds]
    with tracked(execution.trackers, [run.trained for run in runs]) as tell:
        trainer = Trainer(agent, dataset, task, runs, execution, starts, saved or None, tell)
        trainer.train()
        if trainer.paused and execution.pause_at is not None:
            for row, seed in enumerate(seeds):
                result = _result(job.run(seed), trainer, row, manifests[seed], task)
                _write_pause(job.run(seed), result, execution.pause_at)
            return
        times = _times(trainer, time.monotonic() - began)
        for row, seed in enumerate(seeds):
            _finish(job.run(seed), trainer, row, manifests[seed], task, times, usage)


def _times(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """What a job took, of which all of its seeds have the same: see docs/architecture.md."""
    step = trainer.step_seconds
    return {
        "seconds": round(seconds, 1),
        "step_ms": None if step is None else round(1e3 * step, 4),
        "acting_ms": round(1e3 * acting_seconds(trainer.actor, 0), 4),
    }


def _check_checkpoint(run: RunFolder, saved: dict[str, Any], identity: str, execution: Execution) -> None:
    """Refuse a checkpoint of another run; say so where a continued run cannot be bit-equal."""
    for key, expected in (("method", run.method), ("task", run.task), ("seed", run.seed), ("identity", identity)):
        if saved[key] != expected:
            raise UserError(
                f"the checkpoint in {run.trained / 'checkpoint'} is of {key} {saved[key]}, not {expected}",
                "Remove that folder to train anew, or put the right one back.",
            )
    now = machine(execution.device, execution.compiled)
    changed = [f"{key} {saved['machine'][key]} -> {now[key]}" for key in now if saved["machine"][key] != now[key]]
    if changed:
        print(f"{run.folder}: continues, but not bit-equal to an undisturbed run: {'; '.join(changed)}", flush=True)


def _start_anew(run: RunFolder) -> None:
    """What a run left that has no usable checkpoint is removed."""
    if run.checkpoints.steps():
        print(f"{run.folder}: starts anew, since none of its checkpoints can be used", flush=True)
    own = [run.trained / name for name in ("checkpoint", "tensorboard", "policy", *TRACKERS)]
    found = own_files(run.trained).own
    remove_files([path for path in found if any(map(path.is_relative_to, own))], run.trained)


def _starts(job: Job, seeds: list[int], agent: Agent) -> list[dict[str, Any]] | None:
    """The final states of the stage that `online` starts from, as the agent carries them over; None without one."""
    stage = checkpoint_stage(job.method, job.task, job.config_dir) if job.stage == "online" else None
    if stage is None:
        return None
    starts = []
    for seed in seeds:
        run = job.run(seed, stage)
        manifest = run.manifest() or {}
        state = _final_state(run, manifest)
        starts.append({**state, "own": agent.carried_state(state["own"], manifest["settings"])})
    return starts


def _final_state(run: RunFolder, manifest: dict[str, Any]) -> dict[str, Any]:
    """The state that a finished run ended with.

    Raises:
        UserError: it is gone, or the run or its last checkpoint is not what the manifest knows.
    """
    if (fault := next(alterations(run, manifest), None)) is not None:
        raise _altered_start(run, fault)
    steps = run.checkpoints.steps()
    if not steps:
        raise UserError(f"{run.folder} has no final checkpoint", "Remove that folder to train the stage anew.")
    saved = Checkpoints(run.checkpoints.folder).load(steps[-1])
    name, result = run.checkpoints.path(steps[-1]).name, read_evaluation(run.trained / "evaluation.json")
    for key in ("method", "task", "seed", "identity"):
        if saved[key] != manifest[key]:
            raise _altered_start(run, f"run/checkpoint/{name} is of {key} {saved[key]}, not {manifest[key]}")
    # An earlier checkpoint has not all of the evaluations.
    evaluations = json.loads(json_text(saved["evaluations"]))
    if (evaluations, saved["stopped_at"]) != (result["evaluations"], result.get("stopped_at")):
        raise _altered_start(run, f"run/checkpoint/{name} is not the state of its end: that has other evaluations")
    state: dict[str, Any] = saved["state"]
    return state


def _altered_start(run: RunFolder, fault: str) -> UserError:
    return UserError(
        f"online training starts from {run.folder}, which is altered: {fault}",
        "Put the right file back, or move that folder away to train its stage anew.",
    )


def _write_manifest(run: RunFolder, manifest: dict[str, Any], from_step: int) -> None:
    earlier = run.manifest() or {}
    session = {"started": manifest["started"], "host": manifest["hardware"]["host"], "from_step": from_step}
    write_json(run.trained / "manifest.json", manifest | {"sessions": [*earlier.get("sessions", []), session]})


def _finish(
    run: RunFolder,
    trainer: Trainer,
    row: int,
    manifest: dict[str, Any],
    task: Task,
    times: dict[str, Any],
    usage: dict[str, Any],
) -> None:
    """Write the policy, the manifest with the hash of every output, and, last, the result."""
    found = _result(run, trainer, row, manifest, task)
    end_board(run.trained, found["score"], trainer.number)
    session = run.manifest() or {}
    save_policy(
        run.trained / "policy",
        trainer.actor,
        row,
        {key: manifest[key] for key in ("method", "agent", "task", "seed", "stage", "identity", "settings")}
        | policy_origin(manifest["agent"], manifest["dataset"], session)
        | {"score": _policy_score(found, task)}
        | usage,
    )
    result = json_text(found)
    *written, last = OUTPUTS
    outputs = {name: sha256(run.trained / name) for name in written}
    finished = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **times,
        "outputs": outputs | {last: hashlib.sha256(result.encode()).hexdigest()},
    }
    write_json(run.trained / "manifest.json", session | finished)
    with write_whole(run.trained / "evaluation.json") as file:
        file.write(result)


def _result(run: RunFolder, trainer: Trainer, row: int, manifest: dict[str, Any], task: Task) -> dict[str, Any]:
    """What `evaluation.json` says, see docs/architecture.md."""
    settings = manifest["settings"]
    diverged = int(trainer.state.diverged_at[row])
    if diverged >= 0 and run.stage == "online":
        diverged = max(0, (diverged - trainer.updates_before) // trainer.agent.updates_per_step)
    evaluations = trainer.evaluations[row]
    starts_from = manifest["starts_from"]
    broken = trainer.broken_online(row)
    return {
        **{key: manifest[key] for key in ("method", "task", "seed", "stage", "identity")},
        "status": "finished" if diverged < 0 else "diverged",
        "diverged_at": None if diverged < 0 else diverged,
        "stopped_at": trainer.stopped_at[row],
        "metric": task.metric,
        "score_rule": task.score_rule,
        "score": score(evaluations, task.metric, task.score_rule),
        # Of an estimate those that are held out, whatever the method's setting.
        "episodes": settings["eval_episodes"] if task.has_environment else _held_out(trainer),
        "steps": settings["online_steps" if run.stage == "online" else "offline_steps"],
        "starts_from": starts_from and starts_from["stage"],
        **({"broken_online": broken} if broken else {}),
        "evaluations": evaluations,
    }


def _held_out(trainer: Trainer) -> int:
    return len(trainer.dataset.val.ends)


def policy_origin(agent: str, dataset: dict[str, Any], session: dict[str, Any]) -> dict[str, Any]:
    """What `policy.json` says of data, code, packages and physics.

    Args:
        agent: the method's code; `agent_file` is its file's name, where that is none of the project's. Where the file
            lay says nothing elsewhere, and is nobody's business.
        dataset: as a manifest has it; its `constant_dimensions` are those of observations that were divided by 1.
        session: with `code` and `packages`, as of `provenance`, and `physics`, as of `mfql.envs.physics.described`.
    """
    file = agent_file(agent)
    return {
        "agent_file": None if file.parent == agent_file("mfql").parent else file.name,
        "dataset": {key: dataset[key] for key in ("name", "source", "sha256")},
        "constant_dimensions": dataset.get("constant_dimensions", []),
        "code": session["code"],
        "packages": session["packages"],
        "physics": session["physics"],
    }


def _policy_score(result: dict[str, Any], task: Task) -> dict[str, Any]:
    """A run's score with the 95 % interval that its episodes give it, for `policy.json`.

    Of a success rate that is Wilson's. A mean return has none: evaluations keep their means alone. Both are of the
    evaluations counted, which the policies of those steps made. An estimate has its own.
    """
    counted = scored(result["evaluations"], task.score_rule)
    episodes = len(counted) * result["episodes"]
    value, low, high, kind = result["score"], None, None, "Wilson's, 95 %"
    if task.metric == "success" and value is not None:
        low, high = (100.0 * end for end in wilson(value / 100.0, episodes))
    if task.metric == ESTIMATE and value is not None:
        low, high, kind = counted[-1]["fqe_low"], counted[-1]["fqe_high"], "of fitted Q evaluation, 95 %"
    return {
        "metric": task.metric,
        "rule": task.score_rule,
        "value": value,
        "low": low,
        "high": high,
        "interval": kind if low is not None else None,
        "episodes": episodes,
        "steps": [evaluation["step"] for evaluation in counted],
        "status": result["status"],
    }


def score(evaluations: Sequence[Mapping[str, Any]], metric: str, rule: str) -> float | None:
    """A run's score: the mean of what its rule counts of its evaluations; None without any."""
    values = [float(evaluation[metric]) for evaluation in scored(evaluations, rule)]
    return sum(values) / len(values) if values else None
