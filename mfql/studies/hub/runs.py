"""The one finished run that is shared or described, with what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfql.errors import UserError
from mfql.evaluation.description import read_description
from mfql.experiment.find import existing_run, runs_in
from mfql.experiment.records import IDENTIFYING, read_evaluation, read_manifest
from mfql.experiment.run import RunFolder, has_own_identity, is_vouched_for

# What a card is made of, beside what tells one run from another.
_NEEDED = (*IDENTIFYING, "method", "task", "stage", "outputs")


@dataclass(frozen=True)
class Finished:
    """A finished run.

    Attributes:
        run: its folder.
        manifest: what its `manifest.json` holds.
        result: what its `evaluation.json` holds.
        policy: what its `policy.json` holds.
    """

    run: RunFolder
    manifest: dict[str, Any]
    result: dict[str, Any]
    policy: dict[str, Any]


def finished_run(path: Path) -> Finished:
    """The finished run of a folder.

    Args:
        path: such as `results/runs/METHOD/TASK/seed0/offline`, or what lies in it.

    Raises:
        UserError: it holds no run or several, the run is not finished or diverged, or its result or manifest is not
            what it was when it ended.
    """
    runs = runs_in(existing_run(path))
    if len(runs) > 1:
        raise UserError(f"{path} holds {len(runs)} runs", f"Give one of them, such as {runs[0].folder}.")
    return read_finished(runs[0])


def read_finished(run: RunFolder) -> Finished:
    """What a finished run says of itself.

    Raises:
        UserError: as of `finished_run`.
    """
    if not run.finished():
        raise UserError(f"{run.folder} is not finished", "`mfql status` says how far it is.")
    result_file, manifest_file = run.trained / "evaluation.json", run.trained / "manifest.json"
    result, manifest = read_evaluation(result_file), read_manifest(manifest_file, _NEEDED)
    if result["status"] == "diverged":
        raise UserError(
            f"{run.folder} diverged at step {result['diverged_at']:,}: its policy is none to use",
            "Choose a seed that finished.",
        )
    if not is_vouched_for(result_file, manifest):
        raise UserError(f"{result_file} is altered: it is not the file that its manifest knows", _RESTORE)
    if not has_own_identity(manifest):
        raise UserError(
            f"{manifest_file} is altered: it has other settings, versions or data than its identity is of", _RESTORE
        )
    policy = read_description(run.trained / "policy")
    for key in ("method", "task", "seed", "stage", "identity", "settings", "agent"):
        if policy[key] != manifest[key]:
            raise UserError(f"{run.trained / 'policy' / 'policy.json'}: its {key} is not the manifest's", _RESTORE)
    if result["identity"] != manifest["identity"]:
        raise UserError(f"{result_file}: its identity is not the manifest's", _RESTORE)
    return Finished(run, manifest, result, policy)


_RESTORE = "Restore it, or train the run anew; `mfql verify` looks at all of the run."
