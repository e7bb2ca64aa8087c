"""The jobs that a launch of the workflow would run for its targets, counted as Snakemake counts them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfql.ablation.grid import plan_of, read_ablations
from mfql.claims.claims import needed_files, read_claims, require_configuration
from mfql.data.description import description_path
from mfql.data.generate import find_recipe
from mfql.envs import d4rl
from mfql.files import read_json
from mfql.plan.configuration import Run, asked_runs, dataset_folder, find_run, pack_of
from mfql.plan.outlook import Outlook, Outlooks
from mfql.tasks import registered_tasks, replayed, simulation_version
from mfql.training.run import Fate, go_on_together

STAGES = ("fetch", "generate", "describe", "offline", "pretrain", "online", "evaluation", "report", "replay")
# The files of `results/NAME/`, which are also the names of their rules, each with those that it is made from.
_REPORT = {
    "list_runs": ("runs.txt", ()),
    "scores": ("scores.csv", ("list_runs",)),
    "aggregate": ("aggregate/tasks.csv", ("scores",)),
    "verdict": ("verdict/verdict.csv", ("scores",)),
    "report": ("report.html", ("scores", "aggregate", "verdict")),
}
_RUN_FILE = re.compile(
    r"results/runs/(?P<method>[^/]+)/(?P<task>[^/]+)/seed(?P<seed>\d+)/(?P<stage>offline|pretrain|online)"
    r"/(?P<name>evaluation\.json|final\.json|video\.gif|video\.json|strip\.png)"
)

_FILM = re.compile(r"video\.gif|strip\.png")  # written with video.json by one job


# One environment step of one worker, and steps of a typical OGBench episode.
STEP_SECONDS, _EPISODE_STEPS = 0.0007, 500


def episode_seconds(run: Run, episodes: int) -> float:
    """Core-seconds of the environment in that many episodes."""
    known = d4rl.TASKS.get(run.task.name)
    return episodes * (known.limit if known else _EPISODE_STEPS) * STEP_SECONDS


@dataclass(frozen=True)
class TrainingJob:
    """One call of `mfql train`, with what becomes of each of its seeds."""

    run: Run
    outlooks: tuple[Outlook, ...]
    needed: bool

    @property
    def refused(self) -> bool:
        """Whether it ends before it trains anything: a seed that is refused holds up those beside it."""
        return any(outlook.fate is Fate.REFUSED for outlook in self.outlooks)

    @property
    def parts(self) -> list[tuple[int, int]]:
        """Seeds that train side by side, and the steps that they have to go."""
        if self.refused:
            return []
        waiting = {seen.folder.seed: seen.checkpoints for seen in self.outlooks if seen.fate is not Fate.FINISHED}
        groups = go_on_together(waiting)
        return [(len(group), self.run.steps - (next(iter(group.values())) or 0)) for group in groups]


@dataclass
class Launch:
    """What a launch would run.

    Args:
        targets: as given to Snakemake; none stands for `all`.
        outlooks: what becomes of the runs.

    Attributes:
        training: the training jobs that the targets rest on, needed or not.
        datasets: those that are not there, with `fetch`, `generate` or, of one's own, `describe`.
        anew: why those are generated that are there in an earlier physics.
        counts: jobs by stage.
        beside: core-seconds of what is no training: evaluations, films, collecting data.
        unknown: targets that are not counted.
    """

    config: Mapping[str, Any]
    config_dir: Path
    targets: Iterable[str]
    outlooks: Outlooks
    training: dict[tuple[Any, ...], TrainingJob] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    anew: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    beside: float = 0.0
    unknown: list[str] = field(default_factory=list)
    _made: dict[Path, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for target in list(self.targets) or ["all"]:
            self._ask(target)

    @property
    def jobs(self) -> list[TrainingJob]:
        """The training jobs that would run."""
        return [job for job in self.training.values() if job.needed]

    def _ask(self, target: str) -> None:
        folder = f"results/{self.config['name']}/"
        inside = target.removeprefix(folder)
        if target == "all":
            self._ask_for_all()
        elif target in ("offline", "online"):
            for run, seed in self._asked(target):
                self._train(run, seed)
        elif target == "replay":
            self._replay()
        elif target == "ablations":
            for name in read_ablations(self.config_dir):
                self._ablation(name)
        elif target.startswith("ablation_"):
            self._ablation(target.removeprefix("ablation_"))
        elif target == "claims":
            self._claims()
        elif target in _REPORT:
            self._report(target)
        elif found := _RUN_FILE.fullmatch(target):
            run = find_run(self.config, self.config_dir, found["method"], found["task"], found["stage"])
            self._evaluate(run, int(found["seed"]), _FILM.sub("video.json", found["name"]))
        elif inside != target and (rule := _rule_of(inside)):
            self._report(rule)
        else:
            self.unknown.append(target)

    def _ask_for_all(self) -> None:
        for run, seed in [*self._asked("offline"), *self._asked("online")]:
            self._train(run, seed)
            if self.config["final_episodes"]:
                self._evaluate(run, seed, "final.json")
        for video in self.config["videos"]:
            self._ask(f"results/runs/{video}/video.gif")
        self._report("report")

    def _asked(self, stage: str) -> list[tuple[Run, int]]:
        return [(run, seed) for run in asked_runs(self.config, self.config_dir, stage) for seed in run.seeds]

    def _train(self, run: Run, seed: int) -> bool:
        """Count the job that trains a seed, unless nothing is left to do; returns whether it would run."""
        pack = pack_of(self.config, run, seed)
        key = (run.method, run.task.name, run.stage, pack)
        if key not in self.training:
            outlooks = tuple(self.outlooks.of(run, each) for each in pack)
            needed = any(outlook.fate is not Fate.FINISHED or not outlook.delivered for outlook in outlooks)
            if run.start is not None:
                start = find_run(self.config, self.config_dir, run.method, run.task.name, run.start)
                starts = [self._train(start, each) for each in pack]
                needed |= any(starts)
            self.training[key] = TrainingJob(run, outlooks, needed)
            if needed:
                self.counts[run.stage] += 1
                self._need_dataset(run.task.dataset)
        return self.training[key].needed

    def _need_dataset(self, dataset: str) -> bool:
        folder = dataset_folder(self.config, dataset)
        missing = not description_path(folder, dataset).exists()
        if missing and dataset not in self.datasets:
            made: Mapping[str, Any] = self.config["datasets"].get(dataset, {"source": "fetch"})
            if dataset in registered_tasks():
                made = {"source": "describe"}
            self.datasets[dataset] = made["source"]
            self.counts[made["source"]] += 1
            if made["source"] == "generate":
                self._note_earlier(dataset)
                self.beside += made["episodes"] * find_recipe(dataset).steps * STEP_SECONDS
        return missing

    def _note_earlier(self, dataset: str) -> None:
        now = simulation_version(dataset)
        for before in range(1, now):
            folder = dataset_folder(self.config, dataset, before)
            if description_path(folder, dataset).exists():
                self.anew.append(f"{dataset}: simulation version {before} -> {now}; earlier data stay in {folder}")

    def _evaluate(self, run: Run, seed: int, name: str) -> bool:
        """Count a file that is made from a finished policy, or the training alone; returns whether it would be made."""
        trained = self._train(run, seed)
        path = self.outlooks.of(run, seed).folder.folder / name
        if name != "evaluation.json" and (trained or not path.exists()) and path not in self._made:
            self._made[path] = True
            self.counts["evaluation"] += 1
            self.beside += episode_seconds(run, self.config["final_episodes"] if name == "final.json" else 1)
        return path in self._made

    def _report(self, rule: str) -> bool:
        """Count a rule of the report and those before it; returns whether it would run."""
        file, sources = _REPORT[rule]
        path = self._results / self.config["name"] / file
        if path not in self._made:
            made_anew = [self._report(source) for source in sources]
            if rule == "scores":
                asked = [*self._asked("offline"), *self._asked("online")]
                made_anew += [self._train(*one) for one in asked]
                if self.config["final_episodes"]:
                    made_anew += [self._evaluate(*one, "final.json") for one in asked]
            if rule == "report":
                for video in self.config["videos"]:
                    self._ask(f"results/runs/{video}/video.gif")
            self._made[path] = any(made_anew) or not path.exists()
            self.counts["report"] += self._made[path]
        return self._made[path]

    def _replay(self) -> None:
        """One file for each of the configuration's datasets of OGBench and D4RL, and their table."""
        folder = self._results / self.config["name"] / "replay"
        tasks = {run.task.name: run.task for stage in ("offline", "online") for run, _ in self._asked(stage)}
        made = [
            self._need_dataset(tasks[name].dataset) or not _replayed_as_now(folder / f"{name}.json", name)
            for name in replayed(tasks.values())
        ]
        self.counts["replay"] += sum(made) + (any(made) or not (folder / "panel.json").exists())

    def _ablation(self, name: str) -> None:
        """The runs of an ablation, its list of them, and its figure."""
        folder = self._results / self.config["name"] / "ablations" / name
        trained = [
            self._train(find_run(self.config, self.config_dir, point["method"], point["task"], "offline"), seed)
            for point in plan_of(name, self.config, self.config_dir)["points"]
            for seed in point["seeds"]
        ]
        made = {"plan.json": not (folder / "plan.json").exists()}
        made["panel.json"] = any(trained) or not (folder / "panel.json").exists()
        for file, needed in made.items():
            if folder / file not in self._made:  # Another target may have asked for it.
                self._made[folder / file] = needed
                self.counts["report"] += needed

    def _claims(self) -> None:
        """The tables that the paper's claims are judged by, those of the toy not counted, and their judging."""
        claims = read_claims(self.config_dir)
        require_configuration(claims, self.config["name"])
        folder = self._results / self.config["name"]
        for file in [*needed_files(claims), "claims/panel.json"]:
            top, name, *_ = Path(file).parts
            if top == "ablations":
                self._ablation(name)
            elif top == "claims":
                self.counts["report"] += not (folder / file).exists()
            elif rule := _rule_of(file):
                self._report(rule)
            else:
                self.unknown.append(file)

    @property
    def _results(self) -> Path:
        return self.outlooks.results


def _replayed_as_now(file: Path, task: str) -> bool:
    """Whether a replay is there, and of the task's present physics; earlier ones do not say of which they are."""
    return file.exists() and read_json(file).get("simulation_version") == simulation_version(task)


def _rule_of(inside: str) -> str | None:
    """The rule of a file in `results/NAME/`."""
    top = inside.partition("/")[0]
    return next((rule for rule, (file, _) in _REPORT.items() if file.partition("/")[0] == top), None)
