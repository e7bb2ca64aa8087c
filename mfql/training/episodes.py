"""The online episodes of a run, read back from its checkpoint as transitions in the environment's units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mfql.data.transitions import Dataset, StackedImages, Transitions
from mfql.envs.units import ActionUnits
from mfql.errors import UserError, note
from mfql.experiment.records import IDENTIFYING, read_manifest, require
from mfql.experiment.run import has_own_identity
from mfql.files import there
from mfql.settings import LATER
from mfql.training.checkpoint import Checkpoints
from mfql.training.memory import ENDS, Normaliser

# What another process may have written anew while this one read: looked at so often.
_LOOKS = 3


@dataclass(frozen=True)
class OnlineRun:
    """A run whose online episodes are asked for.

    Args:
        folder: that the trainer owns, with the manifest and the checkpoints.
        manifest: of the run.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The run, for people."""
        return f"{self.manifest['method']} {self.manifest['task']} seed {self.manifest['seed']}"


def online_run(path: Path, task: str) -> OnlineRun:
    """The online run in a folder, or in its folder `run`.

    Args:
        path: such as `results/runs/METHOD/TASK/seed0/online`.
        task: that it has to be of.

    Raises:
        UserError: there is none, it is of another task or stage, or its manifest is altered.
    """
    folder = next((place for place in (path, path / "run") if there(place / "manifest.json")), None)
    if folder is None:
        raise UserError(
            f"{path} holds no run", "Give the folder of an online run, such as results/runs/METHOD/TASK/seed0/online."
        )
    file = folder / "manifest.json"
    manifest = read_manifest(file)
    require(file, manifest, (*IDENTIFYING, "method", "task", "stage"))
    if not has_own_identity(manifest):
        raise UserError(
            f"{file} is altered: it has other settings, versions or data than its identity is of",
            "Put the right file back.",
        )
    if manifest["stage"] != "online":
        raise UserError(
            f"{path} is a run of the stage {manifest['stage']}, which steps no environment",
            "Give the folder of the online run: METHOD/TASK/seedN/online.",
        )
    if manifest["task"] != task:
        raise UserError(f"{path} is a run of {manifest['task']}, and not of {task}", f"Name the task it is of: {task}.")
    return OnlineRun(folder, manifest)


def online_episodes(run: OnlineRun, dataset: Dataset, units: ActionUnits) -> tuple[Transitions, dict[str, Any]]:
    """The episodes that a run collected, as its last whole checkpoint has them.

    A run that trains goes on meanwhile: its checkpoints and segments are written whole, and no segment changes. What
    the environment said beside observation, reward and end is not in them.

    Args:
        run: whose they are.
        dataset: that it was trained on, by which its observations were normalised.
        units: of the environment's actions.

    Returns:
        Observations [N, D] float32, in the environment's numbers up to rounding; actions in the environment's units;
        rewards as the method was given them; terminals 1 in the last step of each episode. And what is to be said of
        them.

    Raises:
        UserError: the dataset is another, or there is no whole checkpoint.
    """
    known = run.manifest["dataset"]
    if known["sha256"] != dataset.sha256:
        raise UserError(
            f"{run.folder} was trained on another version of {known['name']} than lies here, and its observations are"
            " normalised by that one's",
            "Give the folder of the dataset that it was trained on: --data DIR.",
        )
    saved = _last_checkpoint(run)
    tail = {name: values.numpy() for name, values in saved["tail"].items()}
    if "observations" not in tail or isinstance(dataset.observations, StackedImages):
        raise UserError(f"{run.folder}: the observations of its episodes are images, which are not exported")
    if len(tail["rewards"]) == 0:
        raise UserError(
            f"{run.folder}: its last checkpoint is of before the first online step",
            "Export it when it has stepped and saved a checkpoint.",
        )
    settings = run.manifest["settings"]
    normaliser = Normaliser.of(dataset, settings.get("observation_statistics", "valid"))
    ends = _ends(tail, saved)
    rows = Transitions(
        observations=_given(tail["observations"], normaliser),
        actions=units.to_env(tail["actions"]),
        rewards=tail["rewards"],
        masks=tail["masks"],
        terminals=ends.astype(np.float32),
        next_observations=_given(tail["next_observations"], normaliser),
    )
    return rows, _said(run, saved, rows, dataset)


def _last_checkpoint(run: OnlineRun) -> dict[str, Any]:
    """The last checkpoint that is whole, of this run."""
    checkpoints = Checkpoints(run.folder / "checkpoint")
    for _ in range(_LOOKS):
        steps = checkpoints.steps()
        for step in reversed(steps):
            try:
                saved = checkpoints.load(step)
            except UserError as error:
                if not there(checkpoints.path(step)):
                    break  # The trainer saved others meanwhile.
                note(f"{str(error).splitlines()[0]}; passed over")
                continue
            if saved.get("identity") not in (None, run.manifest["identity"]):
                raise UserError(
                    f"{checkpoints.path(step)} is of another run than the manifest beside it",
                    "Put the right files back.",
                )
            return saved
        else:
            break
    raise UserError(
        f"{run.folder} has no whole checkpoint, which alone has the online episodes",
        "`mfql clean` removes those of finished runs; without them train the run anew.",
    )


def _ends(tail: dict[str, np.ndarray], saved: dict[str, Any]) -> np.ndarray:
    """The last row of each episode, [N] bool.

    Methods with chunks record it. Of others it is where the task ended, where the next row is no next observation, and
    where a segment ended, since segments hold whole episodes.
    """
    observations, following = tail["observations"], tail["next_observations"]
    ends = np.zeros(len(observations), bool)
    ends[:-1] = (following[:-1] != observations[1:]).any(axis=1)
    ends |= tail["masks"] == 0.0
    if ENDS in tail:
        ends |= tail[ENDS] > 0.0
    for row in (saved["segment_end"], saved["episode"]["first_row"], len(ends)):
        if row > 0:
            ends[row - 1] = True
    return ends


def _given(observations: np.ndarray, normaliser: Normaliser) -> np.ndarray:
    """Normalised observations [N, D] in the environment's numbers, float32."""
    given = observations.astype(np.float64) * normaliser.std + normaliser.mean
    return given.astype(np.float32)


def _said(run: OnlineRun, saved: dict[str, Any], rows: Transitions, dataset: Dataset) -> dict[str, Any]:
    """What is recorded beside the episodes, and said of them."""
    settings, count, finished = run.manifest["settings"], len(rows), there(run.folder / "evaluation.json")
    state = "finished" if finished else "not finished"
    print(f"{run.name}: {state}; its checkpoint of step {saved['step']:,} has all {count:,} online steps so far")
    slots = max(int(settings.get("replay_rows", LATER["replay_rows"])), len(dataset) + 1)
    if settings.get("replay_rows") and settings.get("horizon", 1) == 1:
        overwritten = max(0, len(dataset) + count - slots)
        online = max(0, overwritten - len(dataset))
        print(
            f"of its buffer of {slots:,} rows {overwritten:,} were overwritten, {online:,} of these online steps among"
            " them: they are not drawn any more, and written here all the same"
        )
    if open_rows := count - int(saved["episode"]["first_row"]):
        note(f"the last episode was not finished: its {open_rows:,} steps end as if a time limit had cut them off")
    normalised = settings.get("observation_statistics", "valid") != "none"
    if normalised:
        note("observations were recorded normalised, in float32: they are the environment's up to rounding")
    rewards = settings.get("reward", "dataset")
    if rewards != "dataset":
        note(f"rewards are those that the method was given (reward: {rewards}), and not the task's")
    return {
        "run": f"{run.manifest['method']}/{run.manifest['task']}/seed{run.manifest['seed']}/online",
        "identity": run.manifest["identity"],
        "step": int(saved["step"]),
        "finished": finished,
        "observations": "normalised in float32, and back" if normalised else "as the environment gave them, in float32",
        "rewards": rewards,
        "broken": int(saved["episode"].get("broken", 0)),
    }
