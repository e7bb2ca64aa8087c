"""The training loop: offline and online, any method, one or several seeds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from mfql.agents.interface import Agent, Draw
from mfql.agents.update import initial_state, losses_of, views_of
from mfql.data.transitions import Dataset, Transitions
from mfql.draws import DrawStream, generator
from mfql.envs.patience import Hangs, able_to_hurry
from mfql.errors import UserError, note
from mfql.evaluation.policy import Actor
from mfql.evaluation.rollout import run_episodes
from mfql.experiment.run import RunFolder, flat_settings
from mfql.settings import steps_of
from mfql.suites import score_range
from mfql.tasks import ESTIMATE, Task
from mfql.training.checkpoint import Checkpoints
from mfql.training.chunks import memory_for, stored_fields
from mfql.training.compiled import update_of
from mfql.training.distance import ROWS as DISTANCE_ROWS
from mfql.training.distance import DataDistance
from mfql.training.fqe import FQESettings, fitted_q
from mfql.training.images import shift_draws
from mfql.training.interruption import Interrupted, asked_to_end
from mfql.training.log import TrainingLog
from mfql.training.memory import Memory, Normaliser, training_fields
from mfql.training.online import Environments
from mfql.training.provenance import machine
from mfql.training.rewards import OnlineRewards, with_rewards
from mfql.training.step import Step
from mfql.training.stopping import no_longer_improves
from mfql.training.tracking import Tell

# Inside functions: a machine without a simulator has the loop, if not its environments.
if TYPE_CHECKING:
    from mfql.evaluation.vector import EnvPool

# A seed whose mean value exceeds the largest possible return by this factor has diverged.
_VALUE_MARGIN = 100.0


@dataclass(frozen=True)
class Execution:
    """How a job runs; nothing here changes a result beyond rounding.

    Args:
        device: where it trains.
        workers: environment processes of evaluation.
        checkpoint_seconds: time between checkpoints; one follows every evaluation too.
        compiled: compile the update.
        progress: show a progress bar.
        threads: of updates on the processor that were asked for; None leaves torch's.
        trackers: that get the log beside TensorBoard.
        pause_at: number of the step after which it stops with its state saved; None trains to the end.
    """

    device: torch.device
    workers: int
    checkpoint_seconds: float = 300.0
    compiled: bool = False
    progress: bool = True
    threads: int | None = None
    trackers: tuple[str, ...] = ()
    pause_at: int | None = None


class Trainer:
    """Trains the seeds of one job together.

    Args:
        agent: the method.
        dataset: what it learns from.
        task: what it is scored in.
        runs: one folder a seed, all of one method, task and stage.
        execution: how it runs.
        starts: for `online`, the saved state of each seed's earlier stage, its own state as `Agent.carried_state`
            carries it over; None for a fresh start.
        saved: a checkpoint of each seed, all of one step; None starts from the beginning.
        tell: gets how many bytes of each run's log the last checkpoint vouches for, whose last step is whole.
    """

    def __init__(
        self,
        agent: Agent,
        dataset: Dataset,
        task: Task,
        runs: list[RunFolder],
        execution: Execution,
        starts: list[dict[str, Any]] | None = None,
        saved: list[dict[str, Any]] | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.agent, self.runs, self.execution = agent, runs, execution
        self.settings = agent.settings
        rewarded = with_rewards(dataset, self.settings)
        self.dataset = replace(rewarded, val=with_rewards(dataset.val, self.settings))
        # With the task's rewards, which it is scored by.
        self._unchanged = dataset
        self.online = runs[0].stage == "online"
        self.steps = steps_of(self.settings.as_dict(), runs[0].stage)
        # The number of the first step.
        self._first = 1 if self.online else self.settings.first_update
        self.seeds = [run.seed for run in runs]
        self.scores = score_range(task)
        self.metric, self.task = task.metric, task
        device = execution.device
        self.normaliser = Normaliser.of(dataset, self.settings.observation_statistics)
        self.memory = self._memory(self.dataset, self.steps if self.online else 0)
        self.state = initial_state(
            agent, [generator(torch.device("cpu"), seed, "initial") for seed in self.seeds], device
        )
        self.actor = Actor(agent, self.state.flat, self.normaliser.mean, self.normaliser.std, device)
        self.evaluations: list[list[dict[str, float]]] = [[] for _ in runs]
        self.stopped_at: list[int | None] = [None] * len(runs)
        self.segments: list[list[tuple[str, str]]] = [[] for _ in runs]
        self.segment_end = [0] * len(runs)
        self.step = 0
        self.step_seconds: float | None = None  # of this session's steps, evaluations apart; None before its end
        self._evaluation_seconds = 0.0
        self._logged_updates = 0
        self._environments: Environments | None = None
        self._stop = False
        self._end_at_once = True
        # Updates of the run that this one starts from.
        self.updates_before = 0 if starts is None else steps_of(self.settings.as_dict(), "offline")
        if starts is not None:
            self._take_start(starts)
        if saved is not None:
            self._restore(saved)
        self._updates = agent.updates_per_step if self.online else 1
        self._update = self._steps()
        self._saved = saved
        self._tell = tell or (lambda sizes: None)

    @cached_property
    def _validation(self) -> Memory:
        """The validation rows."""
        return self._memory(self.dataset.val, 0)

    def _memory(self, rows: Transitions, capacity: int) -> Memory:
        needed = self.agent.extra_fields
        if self.agent.horizon > 1:
            needed = (*needed, f"chunks of {self.agent.horizon} actions")
        if needed and rows.fragmented():
            raise UserError(
                f"{self.runs[0].method} learns from {' and '.join(needed)}, and the rows of {self.dataset.name} are in"
                " no order of time, so that nobody knows what followed them",
                "Write them in the order of their episodes, or train a method that learns from single transitions.",
            )
        share = self.agent.online_share if self.online else None
        replay_rows = self.settings.replay_rows if self.online else 0
        return memory_for(
            self.agent,
            training_fields(rows, self.normaliser, stored_fields(self.agent), self.settings.discount),
            len(self.runs),
            capacity,
            self.execution.device,
            online_share=share,
            replay_rows=replay_rows,
            name=self.dataset.name if rows is self.dataset else f"the validation rows of {self.dataset.name}",
        )

    def _steps(self) -> Step:
        """The updates of each step; on CUDA captured, if all that they read lies on the device."""
        execution = self.execution
        updater = update_of(self.agent, self.state, self._value_limit(), compiled=execution.compiled)
        on_device = all(images.on_device for images in self.memory.images.values())
        return Step(
            updater,
            self.memory,
            self._stream("update", self.agent.update_draws(), self._updates),
            self._updates,
            self.settings.augment_probability,
            captured=execution.compiled and execution.device.type == "cuda" and on_device,
        )

    def _stream(self, purpose: str, own: dict[str, Draw], repeats: int = 1) -> DrawStream:
        """Row indices and the method's own draws; several updates a step take draws of their own."""
        size = self.settings.batch_size
        draws = {"rows": Draw("integer", (size,)), **own}
        if self.memory.images:
            draws |= shift_draws(size)
        repeated = {name: Draw(draw.kind, (repeats, *draw.shape)) for name, draw in draws.items()}
        stage = "online" if self.online else "offline"
        return DrawStream(repeated, self.seeds, f"{stage}/{purpose}", self.execution.device)

    def _value_limit(self) -> float:
        largest = float(np.abs(self.dataset.rewards).max()) / (1.0 - self.settings.discount)
        return _VALUE_MARGIN * max(largest, 1.0)

    def _take_start(self, starts: list[dict[str, Any]]) -> None:
        """Begin online training from the state of the earlier stage; a seed that diverged there stays out.

        Settings may differ between the stages: what this one has no use for, and the sums for the log, are left behind.
        """
        taken = [
            {**one, "own": {name: one["own"][name] for name in self.state.own if name in one["own"]}, "logged": {}}
            for one in starts
        ]
        self.state.load_rows(
            taken,
            "What sizes it must be the same in the stage that online training starts from: give the setting one value "
            "for all stages in the method's file.",
        )
        self.state.step.fill_(self.updates_before)
        self.state.active.copy_(self.state.diverged_at < 0)
        self.state.diverged_at.copy_(torch.where(self.state.active, -1, 0))

    def _restore(self, saved: list[dict[str, Any]]) -> None:
        self.state.load_rows(
            [one["state"] for one in saved], "Remove the run's folder `checkpoint` to train it from the beginning."
        )
        self.step = saved[0]["step"]
        self._logged_updates = saved[0]["logged_updates"]
        for row, one in enumerate(saved):
            self.evaluations[row] = one["evaluations"]
            self.stopped_at[row] = one["stopped_at"]
            self.segments[row] = [tuple(segment) for segment in one["segments"]]
            self.segment_end[row] = one["segment_end"]
            if self.online:
                self.memory.restore(row, 0, one["tail"])
        if self.online:
            self.memory.restored(self.step)
            if len({"action" in one["episode"] for one in saved}) > 1:
                raise UserError(
                    f"of the checkpoints of step {self.step:,} in {self.runs[0].folder} and of the seeds beside it some"
                    " hold the next step begun and others do not",
                    "Train these seeds in jobs of their own: --seeds with one at a time.",
                )

    @property
    def number(self) -> int:
        """The number of the last step: steps so far or, where the first has the number 0, one less."""
        return self.step + self._first - 1

    @property
    def paused(self) -> bool:
        """Whether it is where it was to pause, with steps left to train."""
        last = self.execution.pause_at
        return last is not None and last <= self.number and self.step < self.steps and bool(self.state.active.any())

    def train(self) -> None:
        """Train to the last step, to a pause, or until every seed has ended; evaluations, log, checkpoints on the way.

        Raises:
            Interrupted: the process was asked to end; the state is saved.
        """
        with ExitStack() as stack:
            self._hurry = stack.enter_context(able_to_hurry())
            stack.enter_context(asked_to_end(self._ask))
            self._evaluation = stack.enter_context(
                _LazyPool(self.runs[0].task, self.settings, self.execution, len(self.seeds))
            )
            if self.online:
                self._environments = stack.enter_context(self._online_environments())
            self._logs = [self._log(row) for row in range(len(self.runs))]
            for log in self._logs:
                stack.callback(log.close)
            self._loop()

    def _log(self, row: int) -> TrainingLog:
        if not self._saved:
            run = self.runs[row]
            told = flat_settings(run.manifest() or {})
            return TrainingLog(run.trained, None, self.number, told=told, compared=(f"evaluation/{self.metric}",))
        saved = self._saved[row]
        return TrainingLog(self.runs[row].trained, saved["metrics_bytes"], self.number, saved.get("metrics_sha256"))

    @contextmanager
    def _online_environments(self) -> Iterator[Environments]:
        from mfql.evaluation.vector import EnvPool

        workers = min(len(self.seeds), self.execution.workers)
        with EnvPool(self.runs[0].task, len(self.seeds), workers) as pool:
            environments = Environments(
                pool,
                self.seeds,
                self.actor,
                self.memory,
                self.normaliser,
                self.settings.discount,
                OnlineRewards(self.settings, len(self.seeds)),
                self.execution.device,
            )
            for row, one in enumerate(self._saved or []):
                environments.restore(row, one["episode"])
            environments.start()
            yield environments

    def _loop(self) -> None:
        saved_at = began = time.monotonic()
        first = self.step
        run, seeds = self.runs[0], ",".join(map(str, self.seeds))
        bar = tqdm(
            total=self.steps,
            initial=self.step,
            unit="step",
            desc=f"{run.method} {run.task} {run.stage} seeds {seeds}",
            disable=not self.execution.progress,
            # A log file keeps every line that a terminal would overwrite.
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
            dynamic_ncols=True,
        )
        with bar:
            if self._evaluation_is_due():  # The job was asked to end during it.
                self._evaluate(bar)
                self._save_and_tell()
            while self._goes_on():
                self._tick()
                bar.update()
                evaluated = self._log_and_evaluate(bar)
                due = time.monotonic() - saved_at >= self.execution.checkpoint_seconds
                if evaluated or due or self._stop or self.step == self.steps:
                    self._save_and_tell()
                    saved_at = time.monotonic()
                if self._stop:
                    raise Interrupted
        if not self._is_saved():
            self.save()
        self._tell([log.size for log in self._logs])
        if self.step > first:
            self.step_seconds = (time.monotonic() - began - self._evaluation_seconds) / (self.step - first)

    def _save_and_tell(self) -> None:
        self.save()
        self._tell([log.size for log in self._logs])

    def _goes_on(self) -> bool:
        if self.step == self.steps or self.paused:
            return False
        return self.number % self.settings.log_interval != 0 or bool(self.state.active.any())

    def _is_saved(self) -> bool:
        return all(self.step in run.checkpoints.steps() for run in self.runs)

    def _tick(self) -> None:
        """One step: offline an update; online an action, the updates, and the new row after or before them."""
        row_first = self.settings.row_before_update
        # As a checkpoint holds it: what comes before the row is done.
        begun = self._environments is not None and self._environments.stepping
        if self._environments:
            if not begun:
                self._environments.act(self.step)
            if row_first:
                self._finish(self._environments)
        if row_first or not begun:
            self._update_once()
        if self._environments and not row_first:
            self._finish(self._environments)
        self.step += 1
        self._end_at_once = False

    def _update_once(self) -> None:
        self._update(self.step)
        self._logged_updates += self._updates

    def _finish(self, environments: Environments) -> None:
        """Have the environments end the step; where they do not, all is saved that was done.

        Raises:
            Interrupted: the process was asked to end, and they took too long.
            UserError: an environment hangs or fails.
        """
        try:
            environments.finish(self.step)
        except UserError as error:
            self._save_unfinished(environments)
            if self._stop and isinstance(error, Hangs):
                note(str(error).splitlines()[0])
                raise Interrupted from error
            raise

    def _save_unfinished(self, environments: Environments) -> None:
        """Save the present step begun, or, where its row is there and the next episode does not begin, done."""
        if environments.stepping:
            if self._is_saved():
                return
            environments.undo()
        else:
            if self.settings.row_before_update:
                self._update_once()
            self.step += 1
            if self._log_is_due():
                self._write_log()
        self.save()

    def _log_and_evaluate(self, bar: tqdm) -> bool:
        """What is due at this step; tells whether an evaluation was."""
        if self._log_is_due():
            self._write_log()
        if self.step == self.steps or self.number % self.settings.eval_interval == 0:
            self._evaluate(bar)
            return True
        return False

    def _log_is_due(self) -> bool:
        return self.step == self.steps or self.number % self.settings.log_interval == 0

    def broken_online(self, row: int) -> int:
        """How many episodes of a seed broke in which rows were collected."""
        return self._environments.broken[row] if self._environments else 0

    def _evaluation_is_due(self) -> bool:
        """Whether an active seed lacks the evaluation of the present step.

        Without an environment the last one alone takes longer than a process that is asked to end is given.
        """
        if not self.task.has_environment and self.step < self.steps:
            return False
        numbers = [evaluations[-1]["step"] if evaluations else self._first - 1 for evaluations in self.evaluations]
        lacking = any(
            active and number < self.number for active, number in zip(self.state.active.tolist(), numbers, strict=True)
        )
        return lacking and (self.step == self.steps or self.number % self.settings.eval_interval == 0)

    def _evaluate(self, bar: tqdm) -> None:
        began = time.monotonic()
        self.evaluate()
        self._evaluation_seconds += time.monotonic() - began
        latest = [evaluations[-1][self.metric] for evaluations in self.evaluations if evaluations]
        unit = "" if self.metric in ("return", ESTIMATE) else " %"
        bar.set_postfix_str(f"{self.metric} {' '.join(f'{value:.0f}' for value in latest)}{unit}")

    def _write_log(self) -> None:
        active = self.state.active.tolist()
        means = {name: (total / self._logged_updates).tolist() for name, total in self.state.logged.items()}
        for row, log in enumerate(self._logs):
            if active[row]:
                log.write(self.number, {f"training/{name}": values[row] for name, values in means.items()})
        for total in self.state.logged.values():
            total.zero_()
        self._logged_updates = 0

    def evaluate(self) -> None:
        """Score every active seed, log what tells a failing run, and stop seeds that no longer improve.

        A task without an environment is scored at the last step alone, by off-policy evaluation.
        """
        if self.task.has_environment:
            self._evaluate_in_episodes()
        else:
            self._evaluate_off_policy()

    def _evaluate_off_policy(self) -> None:
        """Log the losses on held-out episodes, and, at the last step, estimate the score of every active seed."""
        active = self.state.active.tolist()
        found = self.diagnostics() | self._validation_losses()
        estimates: dict[int, dict[str, float]] = {}
        if self.step == self.steps:
            with self._saved_if_asked_to_end():
                estimates = {row: self._estimate(row) for row in range(len(self.runs)) if active[row]}
        for row, log in enumerate(self._logs):
            if not active[row]:
                continue
            log.write(self.number, {name: values[row] for name, values in found.items()})
            if row in estimates:
                self.evaluations[row].append({"step": self.number, **estimates[row]})
                log.write(self.number, {f"evaluation/{name}": value for name, value in estimates[row].items()})

    def _estimate(self, row: int) -> dict[str, float]:
        """What the policy of a seed is estimated to reach, by the task's own discount, whatever the method's."""
        registered = self.task.registered
        assert registered is not None  # A task without an environment is one of one's own.
        assert registered.fqe_steps is not None
        protocol = FQESettings(offline_steps=registered.fqe_steps, discount=float(self.task.settings["discount"]))
        return fitted_q(self.actor.of_seed(row), self._unchanged, self.seeds[row], protocol).as_dict()

    @torch.enable_grad()
    def _validation_losses(self) -> dict[str, list[float]]:
        """What the method's losses log, of a batch of held-out rows."""
        draws = {
            name: value[:, 0]
            for name, value in self._stream("validate", self.agent.update_draws()).at(self.step).items()
        }
        batch = self._validation.batch(draws.pop("rows"))
        seen = {"step": self.state.step, **self.state.own}
        _, info = losses_of(self.agent, self.state.flat, batch, draws, seen)
        return {f"validation_loss/{name}": value.tolist() for name, value in info.items() if value.dim() == 1}

    def _evaluate_in_episodes(self) -> None:
        stage = "online" if self.online else "offline"
        with self._saved_if_asked_to_end():
            episodes = run_episodes(
                self.actor.fixed(),
                self.agent.act_draw(),
                self._evaluation.pool(),
                self.seeds,
                self.settings.eval_episodes,
                f"{stage}/evaluate/{self.number}",
                self.execution.device,
                self.agent.horizon,
            )
        episodes.say_broken(f"{self.runs[0].task} at step {self.number:,}, {stage}", self._evaluation.pool().faults)
        diagnostics = self.diagnostics()
        active = self.state.active.tolist()
        for row, log in enumerate(self._logs):
            if not active[row]:
                continue
            summary = episodes.summary(row, self.scores)
            self.evaluations[row].append({"step": self.number, "episodes": self.settings.eval_episodes, **summary})
            log.write(self.number, {f"evaluation/{name}": value for name, value in summary.items()})
            log.write(self.number, {name: values[row] for name, values in diagnostics.items()})
            if no_longer_improves([one[self.metric] for one in self.evaluations[row]], self.metric, self.settings):
                self.stopped_at[row] = self.number
                self.state.active[row] = False

    @torch.no_grad()
    def diagnostics(self) -> dict[str, list[float]]:
        """The method's diagnostics on random rows, Q against Monte-Carlo returns, and actions against the data's."""
        stream = self._stream("diagnose", self.agent.diagnose_draws())
        draws = {name: value[:, 0] for name, value in stream.at(self.step).items()}
        rows = draws.pop("rows")
        parameters = views_of(self.agent, self.state.flat)
        found: dict[str, list[float]] = {}
        for prefix, memory in (("diagnostics", self.memory), ("validation", self._validation)):
            values = self.agent.diagnostics(parameters, memory.batch(rows), draws, self.state.own)
            found |= {f"{prefix}/{name}": value.tolist() for name, value in values.items()}
        return found | self._against_returns(rows) | self._against_data(rows[:, :DISTANCE_ROWS])

    def _against_returns(self, rows: torch.Tensor) -> dict[str, list[float]]:
        """Q of the data's actions against their returns, where a trajectory reaches the goal and they are exact."""
        reaching = np.flatnonzero(self.dataset.mc_valid())
        if len(reaching) == 0:
            return {}
        chosen = torch.as_tensor(reaching, device=rows.device)[rows % len(reaching)]
        values = self.agent.data_values(views_of(self.agent, self.state.flat), self.memory.dataset_rows(chosen))
        if values is None:
            return {}
        returns = self.dataset.mc_returns(self.settings.discount)[chosen.cpu().numpy()]
        estimates = values.cpu().numpy()
        pairs = list(zip(estimates, returns, strict=True))
        return {
            "diagnostics/q_minus_return": [float((estimate - exact).mean()) for estimate, exact in pairs],
            "diagnostics/q_return_rank_correlation": [_rank_correlation(estimate, exact) for estimate, exact in pairs],
        }

    def _against_data(self, rows: torch.Tensor) -> dict[str, list[float]]:
        """How far the actions that the policy takes in these rows' states are from the data's."""
        batch, draw = self.memory.batch(rows), self.agent.act_draw()
        noise = None
        if draw is not None:
            drawn = {"noise": Draw(draw.kind, (rows.shape[1], *draw.shape))}
            purpose = f"{'online' if self.online else 'offline'}/distance"
            noise = DrawStream(drawn, self.seeds, purpose, self.execution.device).at(self.step)["noise"]
        parameters = self.agent.prepared(views_of(self.agent, self.state.flat))
        actions, first = self.agent.act(parameters, batch["observations"], noise), self.agent.action_dim
        # Of chunks the first actions are compared.
        distances = self._distance(batch | {"actions": batch["actions"][..., :first]}, actions[..., :first])
        return {f"diagnostics/{name}": value.tolist() for name, value in distances.items()}

    @cached_property
    def _distance(self) -> DataDistance:
        return DataDistance(self.memory)

    def save(self) -> None:
        """Write a checkpoint of every seed."""
        for row, run in enumerate(self.runs):
            first, checkpoints = self.segment_end[row], Checkpoints(run.checkpoints.folder)
            open_row = self._environments.episodes[row].first_row if self._environments else 0
            if open_row > first:
                rows = self.memory.tail_rows(row, first, open_row)
                self.segments[row].append(checkpoints.save_segment(first, rows))
                self.segment_end[row] = open_row
            metrics_bytes, metrics_sha256 = self._logs[row].sync()
            checkpoints.save(
                self.step,
                {
                    "method": run.method,
                    "task": run.task,
                    "seed": run.seed,
                    "stage": run.stage,
                    "identity": (run.manifest() or {}).get("identity"),
                    "machine": machine(self.execution.device, self.execution.compiled),
                    "step": self.step,
                    "state": self.state.seed_rows(row),
                    "logged_updates": self._logged_updates,
                    "evaluations": self.evaluations[row],
                    "stopped_at": self.stopped_at[row],
                    "metrics_bytes": metrics_bytes,
                    "metrics_sha256": metrics_sha256,
                    "segments": self.segments[row],
                    "segment_end": self.segment_end[row],
                    "open_rows": self.memory.tail_rows(row, open_row, self.step if self.online else 0),
                    "episode": self._environments.saved(row) if self._environments else None,
                },
            )

        self._end_at_once = True

    def _ask(self) -> None:
        """End at the next step, or, if all steps are saved, at once: compiling may take longer than the time given.

        An environment that hangs in the present one is waited for a while.
        """
        self._stop = True
        self._hurry()
        if self._end_at_once:
            raise Interrupted

    @contextmanager
    def _saved_if_asked_to_end(self) -> Iterator[None]:
        """What changes no state is broken off: an evaluation may take longer than the time given to end.

        What was trained until then is saved, as it is where an environment fails.
        """
        self._end_at_once = True
        try:
            if self._stop:
                raise Interrupted
            yield
        except (Interrupted, UserError):
            self._end_at_once = False
            self.save()
            raise
        self._end_at_once = False


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation; not a number where either side is constant or not finite."""
    if not np.isfinite(first).all() or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(spearmanr(first, second).statistic)


class _LazyPool:
    """The environments of evaluation, made at the first one and kept."""

    def __init__(self, task: str, settings: Any, execution: Execution, seeds: int) -> None:
        self._arguments = task, seeds * settings.eval_episodes, execution.workers
        self._pool: EnvPool | None = None

    def pool(self) -> EnvPool:
        """The pool, made if it is not there."""
        from mfql.evaluation.vector import EnvPool

        self._pool = self._pool or EnvPool(*self._arguments)
        return self._pool

    def __enter__(self) -> _LazyPool:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.close()
