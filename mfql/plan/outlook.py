"""What training would make of each configured run, told from its folder.

The decision is `RunFolder.fate`, which `mfql train` takes too. Only what is dear to know is taken from a description:
a dataset is known by the sha256 written beside it, and a checkpoint by its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfql.data.checksums import known
from mfql.data.description import check_simulation, identifying, recorded_facts
from mfql.data.paths import description_path
from mfql.errors import UserError
from mfql.experiment.configuration import Run, dataset_folder
from mfql.experiment.run import CheckpointFolder, Fate, RunFolder, changes, describe_run
from mfql.files import there
from mfql.suites import split_paths


@dataclass(frozen=True)
class Outlook:
    """What becomes of one seed.

    Args:
        folder: its run's.
        fate: what training would make of it.
        reason: why it is trained anew or refused; empty for the others.
        checkpoints: steps that it could go on from.
        identity: of the run that is wanted.
    """

    folder: RunFolder
    fate: Fate
    reason: str
    checkpoints: tuple[int, ...]
    identity: str


@dataclass
class Outlooks:
    """The outlook of each seed, found once.

    Args:
        results: folder that has `runs/`.
        lock: the lock file of published datasets.
    """

    config: Mapping[str, Any]
    results: Path
    lock: Path
    _found: dict[RunFolder, Outlook] = field(default_factory=dict)
    _data: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, run: Run, seed: int) -> Outlook:
        """The outlook of a seed of a run."""
        folder = RunFolder(self.results, run.method, run.task.name, seed, run.stage)
        if folder not in self._found:
            self._found[folder] = self._judge(run, folder)
        return self._found[folder]

    def _judge(self, run: Run, folder: RunFolder) -> Outlook:
        start = None if run.start is None else Run(run.method, run.task, run.start, run.seeds, run.config_dir)
        parent = None if start is None else self.of(start, folder.seed)
        try:
            described, manifest = self.data(run.task.dataset), folder.manifest()
            used = manifest["dataset"] if manifest else {}
            sha256 = described.get("sha256") or used.get("sha256", "")
            wanted = describe_run(
                folder,
                run.agent,
                run.settings,
                identifying(run.task.dataset, sha256, (described, used)),
                None if parent is None else {"stage": parent.folder.stage, "identity": parent.identity},
            )
            fate, reason = folder.fate(wanted, manifest), ""
        except (UserError, KeyError) as error:
            said = str(error).splitlines()[0] if isinstance(error, UserError) else f"its manifest lacks {error}"
            return Outlook(folder, Fate.REFUSED, said, (), "")
        if parent is not None and parent.fate is Fate.REFUSED:
            fate, reason = Fate.REFUSED, "the run that it starts from is refused"
        elif manifest is not None and fate in (Fate.RETRAINED, Fate.REFUSED):
            reason = ", ".join(changes(manifest, wanted))
        elif fate is Fate.REFUSED:
            reason = "its manifest is gone"
        place = CheckpointFolder(folder.place_of(wanted["identity"]) / "checkpoint")
        steps = tuple(place.steps()) if fate is Fate.CONTINUED else ()
        return Outlook(folder, fate, reason, steps, wanted["identity"])

    def data(self, dataset: str) -> dict[str, Any]:
        """What is recorded of the training data beside it, else its sha256 in the lock file; empty if neither is.

        Raises:
            UserError: they were generated in another physics.
        """
        if dataset not in self._data:
            folder = dataset_folder(self.config, dataset)
            check_simulation(folder, dataset)
            description = description_path(folder, dataset)
            if there(description):
                self._data[dataset] = recorded_facts(description)
            else:
                fetched = self.config["datasets"].get(dataset, {}).get("source", "fetch") == "fetch"
                checksum = known(self.lock, split_paths(folder, dataset)["train"].name) if fetched else None
                sha256 = None if checksum is None else checksum.sha256
                self._data[dataset] = {} if sha256 is None else {"sha256": sha256}
        return self._data[dataset]
