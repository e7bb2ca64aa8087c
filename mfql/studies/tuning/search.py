"""`mfql tune search`: Optuna asks for points, Snakemake trains their runs, Optuna is told the scores.

A batch of points is one launch of the workflow, so that whatever profile carries launches to a cluster carries a search
there. The runs are those of any other launch: a point whose runs are there trains nothing, and what was killed goes on.
With pruning a batch is several launches: at each of the steps named all runs pause, and those of the points that the
pruner gives up stay there, to be gone on with whenever somebody asks for them.

This process alone opens the storage, and decides by what lies in the runs' folders when a launch has ended: nothing
depends on which run was the first to get there.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mfql.errors import UserError, counted
from mfql.experiment.records import if_there, read_evaluation, read_pause
from mfql.experiment.run import RunFolder
from mfql.experiment.search import rungs, studies
from mfql.extensions import extend
from mfql.locks import locked
from mfql.methods import settings_hash
from mfql.plan import Request, graph_asked
from mfql.plan.graph import Graph, launch
from mfql.report.scores import worst_returns
from mfql.studies.tuning.choose import choose, summary, tuning_score, write_proposal
from mfql.studies.tuning.study import Optimiser, Trial, opened

_RESULTS = Path("results")
# A rule that every configuration has, by which Snakemake tells how it laid the configuration together.
_ANY_TARGET = "list_runs"

Launch = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Place:
    """Where a search works.

    Args:
        launch: trains the files that it is given the paths of; returns the exit status.
        config_dir: folder of the task table.
        skip_failed: points of which a run failed have no score; else they end the search, and are tried again.
    """

    launch: Launch
    config_dir: Path
    skip_failed: bool = False


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a point."""

    trial: Trial
    config_dir: Path

    @cached_property
    def folders(self) -> list[RunFolder]:
        """One a seed."""
        study = self.trial.study
        return [RunFolder(_RESULTS, self.trial.method, study.task, seed, "offline") for seed in study.seeds]

    @cached_property
    def _hash(self) -> str:
        return settings_hash(self.trial.method, self.trial.study.task, "offline", self.config_dir)

    @cached_property
    def rungs(self) -> list[int]:
        """The steps at which the point is looked at."""
        return rungs(self.trial.study, self.config_dir)

    def results(self, step: int | None = None) -> list[dict[str, Any]]:
        """What the runs came to, or what they had at a step; empty where one is not there yet, or of other settings."""
        found = [self._result(run, step) for run in self.folders]
        return [one for one in found if one is not None] if None not in found else []

    def _result(self, run: RunFolder, step: int | None) -> dict[str, Any] | None:
        manifest = run.manifest() or {}
        if manifest.get("settings_hash") != self._hash:
            return None
        result = if_there(read_evaluation, run.folder / "evaluation.json")
        if step is not None and result is not None:
            result = {**result, "evaluations": [one for one in result["evaluations"] if one["step"] <= step]}
            if result["status"] == "diverged" and result["diverged_at"] > step:
                result["status"] = "paused"
        elif step is not None:
            result = if_there(read_pause, run.pause_file(step))
        return result if result is not None and result["identity"] == manifest.get("identity") else None

    def files(self, step: int | None = None) -> list[str]:
        """The files to launch for."""
        return [str(run.folder / "evaluation.json" if step is None else run.pause_file(step)) for run in self.folders]

    def failed(self) -> bool:
        """Whether an error ended the last attempt at one of them."""
        return any(run.failure() is not None for run in self.folders)


def search(request: Request, storage: Path | None = None, skip_failed: bool = False) -> str:
    """Search as the configuration's section `tuning: search` says, and propose the best points.

    Args:
        request: of Snakemake; its targets are the search's.
        storage: SQLite's file with the studies; None for `results/NAME/tuning/search.db`.
        skip_failed: as of `Place`.

    Returns:
        what was found and where the proposals lie, for people.

    Raises:
        UserError: the configuration has no search; the storage cannot be used; another search uses it; or runs failed.
    """
    graph = graph_asked(replace(request, targets=[_ANY_TARGET]))
    here, storage = Path.cwd(), None if storage is None else storage.absolute()
    with chdir(graph.folder):
        extend(graph.config["extensions"])  # Asking leaves nothing of what the Snakefile sets.
        plans = studies(graph.config["tuning"], graph.config_dir)
        folder = _RESULTS / graph.config["name"] / "tuning"
        path = storage or folder / "search.db"
        place = Place(partial(_launch, request, here), graph.config_dir, skip_failed)
        with locked(path.with_name(f"{path.name}.lock")), opened(path, plans, graph.config_dir) as optimisers:
            run(optimisers, place)
            return _proposals(optimisers, folder / "search", graph)


def _launch(request: Request, here: Path, files: Sequence[str]) -> int:
    """Have Snakemake make files, called where this command was."""
    with chdir(here):
        return launch(replace(request, targets=files).arguments)


def run(optimisers: Sequence[Optimiser], place: Place) -> None:
    """Ask for points, train and tell them, until each study has had its number.

    Raises:
        UserError: runs failed; those that did not are told.
    """
    while batch := [trial for optimiser in optimisers for trial in optimiser.batch()]:
        for trial in batch:
            print(f"{trial.study.name}: point {trial.number + 1} of {trial.study.trials}: {trial.method}", flush=True)
        _train(batch, place)


def _train(batch: Sequence[Trial], place: Place) -> None:
    """Train the points of a batch and tell each."""
    waiting = [Runs(trial, place.config_dir) for trial in batch]
    for rung in range(max(len(runs.rungs) for runs in waiting)):
        waiting = _pruned(waiting, rung, place)
    _make([file for runs in waiting if not runs.results() for file in runs.files()], place)
    # Told when all are known, so that what the pruner goes by is the same for each of a batch.
    done = _complete(waiting, None, place)
    worst = worst_returns(result for runs in done for result in runs.results())
    for runs in done:
        score = _score(runs.results(), worst)
        runs.trial.complete(score)
        print(f"{runs.trial.study.name}: point {runs.trial.number + 1}: score {score:.4g}", flush=True)


def _pruned(waiting: Sequence[Runs], rung: int, place: Place) -> list[Runs]:
    """The points that the pruner does not give up at a step; those that are finished already it does not look at."""
    going = [runs for runs in waiting if not runs.results()]
    _make([file for runs in going for file in runs.files(runs.rungs[rung])], place)
    there = _complete(waiting, rung, place)
    worst = worst_returns(result for runs in there for result in runs.results(runs.rungs[rung]))
    for runs in there:
        runs.trial.report(_score(runs.results(runs.rungs[rung]), worst), runs.rungs[rung])
    kept = []
    for runs in there:
        if runs in going and runs.trial.is_to_end():
            runs.trial.prune()
            print(f"{runs.trial.study.name}: point {runs.trial.number + 1}: pruned", flush=True)
        else:
            kept.append(runs)
    return kept


def _make(files: Iterable[str], place: Place) -> None:
    if asked := list(dict.fromkeys(files)):
        place.launch(asked)


def _complete(waiting: Sequence[Runs], rung: int | None, place: Place) -> list[Runs]:
    """The points whose runs are there.

    Raises:
        UserError: some are not.
    """
    found = [runs for runs in waiting if runs.results(None if rung is None else runs.rungs[rung])]
    lacking = [runs for runs in waiting if runs not in found]
    failed = [runs for runs in lacking if place.skip_failed and runs.failed()]
    if len(failed) < len(lacking):
        named = ", ".join(runs.trial.method for runs in lacking if runs not in failed)
        raise UserError(
            f"{len(lacking) - len(failed)} of {counted(len(waiting), 'point')} did not come to their end: {named}",
            "Nothing is lost: the same command goes on with them. --skip-failed leaves out those that an error ended.",
        )
    for runs in failed:
        runs.trial.fail()
    return found


def _score(results: Sequence[Mapping[str, Any]], worst: Mapping[str, float]) -> float:
    """The mean over seeds, as `choose` has it."""
    return sum(tuning_score(dict(result), worst)[0] for result in results) / len(results)


def _proposals(optimisers: Sequence[Optimiser], folder: Path, graph: Graph) -> str:
    """Write a proposal of each method; returns what they say."""
    command = shlex.join(["mfql", *(word for one in graph.config["extensions"] for word in ("--extension", one))])
    said = []
    for method in dict.fromkeys(optimiser.study.method for optimiser in optimisers):
        own = [optimiser for optimiser in optimisers if optimiser.study.method == method]
        files = [file for optimiser in own for file in _files(optimiser)]
        if not files:
            said.append(f"{method}: no point has a score")
            continue
        spaces = {optimiser.study.task: optimiser.study.space for optimiser in own}
        proposal = choose(files, graph.config_dir, own[0].study.chosen, spaces)
        for optimiser in own:
            if optimiser.study.task in proposal:
                proposal[optimiser.study.task]["search"] = _described(optimiser)
        path = folder / f"{method}.yaml"
        write_proposal(proposal, path)
        said.append(f"{method}\n{summary(proposal)}\nReview {path}, then: {command} tune freeze {path}")
    return "\n\n".join(said)


def _files(optimiser: Optimiser) -> list[Path]:
    study = optimiser.study
    folders = [
        RunFolder(_RESULTS, method, study.task, seed, "offline").folder
        for method in optimiser.methods("COMPLETE")
        for seed in study.seeds
    ]
    return [folder / "evaluation.json" for folder in folders]


def _described(optimiser: Optimiser) -> dict[str, Any]:
    """What a proposal says of the search behind it."""
    counts = {state.lower(): len(optimiser.methods(state)) for state in ("COMPLETE", "PRUNED", "FAIL")}
    study = optimiser.study
    return {"sampler": study.sampler, "seed": study.seed, "at_once": study.at_once, **counts}
