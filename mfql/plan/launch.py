"""The jobs of a launch, as Snakemake counts them, with what becomes of each seed and what it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mfql.data.paths import description_path
from mfql.data.recipes import find_recipe
from mfql.experiment.configuration import Run, dataset_folder
from mfql.experiment.run import Fate, go_on_together
from mfql.experiment.toy import AGENT, method_values, read_configuration, training_settings
from mfql.files import there
from mfql.plan.graph import Graph, Job
from mfql.plan.outlook import Outlook, Outlooks
from mfql.suites import suite_of
from mfql.tasks import Task, find_task, simulation_version

STAGES = (
    "fetch",
    "generate",
    "describe",
    "offline",
    "pretrain",
    "online",
    "toy",
    "evaluation",
    "report",
    "replay",
    "other",
    "target",
)
# The stage of a rule, for people. Training rules have that of their wildcard; a rule without files is a target.
_STAGE_OF = {
    "fetch": "fetch",
    "generate": "generate",
    "describe": "describe",
    "video": "evaluation",
    "trajectories": "report",
    "replay_dataset": "replay",
    "replay_table": "replay",
    "list_runs": "report",
    "scores": "report",
    "aggregate": "report",
    "verdict": "report",
    "report": "report",
    "plan_ablation": "report",
    "list_tuning_runs": "report",
    "choose_settings": "report",
    "parity": "report",
    "judge_claims": "report",
}
_PANELS = ("ablation_", "toy_")
_TRAINING, _TOYS, _SCORING = ("train_offline_", "train_online_"), "train_toy_", "evaluate_"
_SEED = re.compile(r"/seed(\d+)/")

# One environment step of one worker.
STEP_SECONDS = 0.0007


def episode_seconds(run: Run, episodes: int) -> float:
    """Core-seconds of the environment in that many episodes; none of a task that has no environment."""
    if not run.task.has_environment:
        return 0.0
    return episodes * suite_of(run.task.name).episode_steps(run.task.name) * STEP_SECONDS


@dataclass(frozen=True)
class TrainingJob:
    """One call of `mfql train`, with what becomes of each of its seeds."""

    run: Run
    outlooks: tuple[Outlook, ...]
    needed: bool
    until: int | None = None  # The step at which it pauses.

    @property
    def refused(self) -> bool:
        """Whether the job ends before it trains anything: a seed that is refused holds up those beside it."""
        return any(outlook.fate is Fate.REFUSED for outlook in self.outlooks)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Seeds that train side by side, and the steps that they have to go."""
        if self.refused:
            return []
        waiting = {seen.folder.seed: seen.checkpoints for seen in self.outlooks if seen.fate is not Fate.FINISHED}
        groups = go_on_together(waiting)
        last = self.run.steps if self.until is None else min(self.until, self.run.steps)
        return [(len(group), max(0, last - (next(iter(group.values())) or 0))) for group in groups]


# The toy has no row in the task table: no data, no environment.
_TOY = Task("toy", "toy", "toy", "", "", "last", False, {}, "")


@dataclass(frozen=True)
class ToyRun(Run):
    """A method of the toy at a size."""

    size: str

    @classmethod
    def of(cls, method: str, size: str, config_dir: Path) -> ToyRun:
        """The training of a method at a size of `config_dir/toy.yaml`, of all its seeds."""
        file = config_dir / "toy.yaml"
        seeds = method_values(read_configuration(file), method, size, str(file)).get("seeds") or []
        return cls(method, _TOY, "offline", tuple(seeds), config_dir, size)

    @cached_property
    def agent(self) -> str:
        """The agent whose network and losses the training has."""
        return AGENT

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every setting, defaults included; its looks at samples run no episodes."""
        file = self.config_dir / "toy.yaml"
        settings, _ = training_settings(read_configuration(file), self.method, self.size, str(file))
        return settings.as_dict() | {"eval_episodes": 0}


@dataclass(frozen=True)
class ToyJob(TrainingJob):
    """A training of the toy, all of its seeds together."""

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Seeds that train together, and their steps; a distribution that is known exactly is not trained."""
        return [(len(self.run.seeds), self.run.steps)] if self.run.settings["policy"] == "flow" else []


def stage_of(job: Job) -> str:
    """What a job is counted as: one of `STAGES`."""
    if not job.output:
        return "target"
    if job.rule.startswith(_TRAINING):
        return job.wildcards["stage"]
    if job.rule.startswith(_SCORING):
        return "evaluation"
    if job.rule.startswith(_TOYS):
        return "toy"
    return _STAGE_OF.get(job.rule, "report" if job.rule.startswith(_PANELS) else "other")


@dataclass
class Launch:
    """What a launch would run.

    Args:
        graph: Snakemake's jobs.
        outlooks: what becomes of the runs.

    Attributes:
        training: the training jobs that the targets rest on, needed or not.
        toys: trainings of the toy that would run.
        datasets: those that are not there, with `fetch`, `generate` or, of one's own, `describe`.
        anew: why those are generated that are there in an earlier physics.
        counts: jobs by stage.
        beside: core-seconds of what is no training: evaluations, films, collecting data.
    """

    graph: Graph
    config_dir: Path
    outlooks: Outlooks
    training: list[TrainingJob] = field(default_factory=list)
    toys: list[ToyJob] = field(default_factory=list)
    datasets: dict[str, str] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    beside: float = 0.0

    def __post_init__(self) -> None:
        for job in self.graph.jobs:
            stage = stage_of(job)
            self.counts[stage] += job.needed
            if job.rule.startswith(_TRAINING):
                self.training.append(self._training(job))
            elif job.needed:
                self._note(stage, job)

    @property
    def jobs(self) -> list[TrainingJob]:
        """The training jobs that would run."""
        return [job for job in self.training if job.needed]

    def _training(self, job: Job) -> TrainingJob:
        seeds = tuple(sorted(int(_SEED.search(path)[1]) for path in job.output))  # type: ignore[index]
        run = self._run(job, seeds)
        until = job.wildcards.get("step")
        outlooks = tuple(self.outlooks.of(run, seed) for seed in seeds)
        return TrainingJob(run, outlooks, job.needed, None if until is None else int(until))

    def _run(self, job: Job, seeds: tuple[int, ...]) -> Run:
        method, task, stage = (job.wildcards[name] for name in ("method", "task", "stage"))
        return Run(method, find_task(task, self.config_dir), stage, seeds, self.config_dir)

    def _note(self, stage: str, job: Job) -> None:
        """What a job that is no training takes, as far as that is more than a moment."""
        if stage in ("fetch", "generate", "describe"):
            dataset = job.wildcards["dataset"]
            self.datasets[dataset] = stage
            if stage == "generate":
                self._note_earlier(dataset)
                self.beside += int(job.wildcards["episodes"]) * find_recipe(dataset).steps * STEP_SECONDS
        elif stage == "evaluation":
            scoring = job.rule.startswith(_SCORING)
            episodes = len(job.output) * self.graph.config["final_episodes"] if scoring else 1  # else a film's
            run = Run(
                job.wildcards["method"], find_task(job.wildcards["task"], self.config_dir), "", (), self.config_dir
            )
            self.beside += episode_seconds(run, episodes)
        elif stage == "toy":
            toy = ToyRun.of(job.wildcards["method"], job.wildcards["size"], self.config_dir)
            self.toys.append(ToyJob(toy, (), needed=True))

    def _note_earlier(self, dataset: str) -> None:
        now = simulation_version(dataset)
        for before in range(1, now):
            folder = dataset_folder(self.graph.config, dataset, before)
            if there(description_path(folder, dataset)):
                self.anew.append(f"{dataset}: simulation version {before} -> {now}; earlier data stay in {folder}")
