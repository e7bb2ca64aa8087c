"""Trackers of experiments beside TensorBoard: Weights & Biases, MLflow, Trackio, each a thin layer on its library.

Where one sends its runs is said by the library's own variables, as its users know them. Where they name neither server
nor account, all stays in the run's folder, and the library asks for nothing, sends nothing and collects nothing of the
machine. What is set here for that is a default: whoever sets the variable otherwise, means it.

A run has one identifier, made of its identity and its place, so that a continued run continues its curve.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mfql.errors import naming_extras, unknown
from mfql.experiment.owned import own_files, remove_files
from mfql.experiment.run import flat_settings
from mfql.files import hash_of

# What groups runs where the library's own variable names no other project or experiment.
PROJECT = "mfql"
_CALLED = ("method", "task", "seed", "stage")
_MOST_OF_A_TAG = 64  # characters, of W&B
_MOST_OF_A_PARAMETER = 6000  # characters, of MLflow
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # in one request, of MLflow

Row = tuple[int, Mapping[str, float]]


class Ending(IntEnum):
    """How a session of a run ended: trained to its end, asked to end or paused, or by an error."""

    FINISHED = 1
    INTERRUPTED = 2
    FAILED = 3


class Tracker(ABC):
    """One run as one tracker has it.

    Args:
        folder: the folder that the trainer owns of the run. The tracker's files lie in it, under its name.
        manifest: as the trainer wrote it.
    """

    # The module of its library, and what is set in the environment before that is imported, where nobody set it.
    module: str
    defaults: Mapping[str, str] = {}
    # Whether one process can have several runs.
    together = True

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.id = hash_of([*(manifest[key] for key in _CALLED), manifest["identity"]])
        self.name = "/".join(str(manifest[key]) for key in ("method", "task")) + f"/seed{manifest['seed']}"
        self.name += f"/{manifest['stage']}"

    @abstractmethod
    def start(self) -> None:
        """Begin the run, or continue it where the tracker has it; may be called again after an error."""

    @abstractmethod
    def log(self, rows: Sequence[Row]) -> None:
        """Add rows of metrics, each a step and its values by name, steps ascending; those that it has are left out."""

    @abstractmethod
    def finish(self, ending: Ending, summary: Mapping[str, Any]) -> None:
        """End the session.

        Args:
            ending: see `Ending`.
            summary: of a run that is finished its score, and what else is one value a run.
        """

    @property
    def place(self) -> Path:
        """Where its files lie, if the library's own variables name no other place."""
        return self.folder / self.module

    def forget(self) -> None:
        """Remove what an earlier session left of this tracker, so that the whole log is written once."""
        remove_files([path for path in own_files(self.folder).own if path.is_relative_to(self.place)], self.folder)


class Wandb(Tracker):
    """A run of Weights & Biases: online where WANDB_MODE or a key says so, else offline, for `wandb sync`.

    Of several offline folders of one run each replaces on the server what the one before brought. So there is one, with
    the whole log: a continued run writes it anew.
    """

    module = "wandb"
    defaults: Mapping[str, str] = {
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_JOB_CREATION": "true",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_HOST": "",
        "WANDB_INIT_TIMEOUT": "30",
        "WANDB_SILENT": "true",
        "WANDB_SYMLINK": "false",
        "WANDB_X_DISABLE_MACHINE_INFO": "true",
        "WANDB_X_DISABLE_META": "true",
        "WANDB_X_DISABLE_STATS": "true",
        "WANDB_X_SAVE_REQUIREMENTS": "false",
    }
    _ACCOUNTS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")

    _run: Any = None
    _offline = True

    def start(self) -> None:
        """As of `Tracker`."""
        import wandb

        if self._run is not None:  # An error ended it.
            with suppress(Exception):
                self._run.finish(exit_code=1)
            wandb.teardown()
        mode: Any = os.environ.get("WANDB_MODE") or (
            "online" if any(map(os.environ.get, self._ACCOUNTS)) else "offline"
        )
        self._offline = mode in ("offline", "dryrun")
        if self._offline:
            self.forget()
        self._run = wandb.init(
            dir=str(self.folder),
            mode=mode,
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.id,
            name=self.name,
            group="/".join(str(self.manifest[key]) for key in ("method", "task", "stage")),
            job_type=self.manifest["stage"],
            tags=[str(self.manifest[key])[:_MOST_OF_A_TAG] for key in ("method", "task", "stage")],
            config=flat_settings(self.manifest),
            resume=None if self._offline else "allow",
            reinit="create_new",  # Seeds that train together are as many runs.
        )
        if self._offline:  # Made for code, which is not saved.
            for empty in ("tmp/code", "tmp"):
                with suppress(OSError):
                    Path(self._run.dir).parent.joinpath(empty).rmdir()

    def log(self, rows: Sequence[Row]) -> None:
        """As of `Tracker`."""
        for step, values in rows:
            if step >= self._run.starting_step:
                self._run.log(dict(values), step=step)

    def finish(self, ending: Ending, summary: Mapping[str, Any]) -> None:
        """As of `Tracker`."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if ending == Ending.FINISHED else 1)


class MLflow(Tracker):
    """A run of MLflow, at MLFLOW_TRACKING_URI or in an SQLite file of its own, in which no other job writes.

    A second value of the same step would be a second point: it has of each metric what lies beyond its last step.
    """

    module = "mlflow"
    defaults: Mapping[str, str] = {
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # What fails is tried again later, since all of it lies in the run's log.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }

    def start(self) -> None:
        """As of `Tracker`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        given = os.environ.get("MLFLOW_TRACKING_URI")
        if not given:
            self.place.mkdir(exist_ok=True)
        self._client = MlflowClient(given or f"sqlite:///{(self.place / 'mlflow.db').absolute()}")
        experiment = self._experiment(None if given else (self.place / "artifacts").absolute().as_uri())
        tag = "mfql.id"
        found = self._client.search_runs([experiment], f"tags.`{tag}` = '{self.id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            self._last = {name: self._last_step(name) for name in found[0].data.metrics}
            return
        tags = {tag: self.id, **{key: str(self.manifest[key]) for key in _CALLED}}
        self._run = self._client.create_run(experiment, tags=tags, run_name=self.name).info.run_id
        self._last = {}
        said = [
            Param(name, _text(value)[:_MOST_OF_A_PARAMETER]) for name, value in flat_settings(self.manifest).items()
        ]
        for part in _parts(said, _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=part)

    def _experiment(self, artifacts: str | None) -> str:
        """The experiment that the run belongs to, by MLflow's own variables."""
        from mlflow.exceptions import MlflowException

        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifacts))
            except MlflowException:  # Another job has made it since.
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return str(found.experiment_id)

    def _last_step(self, name: str) -> int:
        return max(point.step for point in self._client.get_metric_history(self._run, name))

    def log(self, rows: Sequence[Row]) -> None:
        """As of `Tracker`."""
        from time import time

        from mlflow.entities import Metric

        now = int(1000 * time())
        new = [
            Metric(name, value, now, step)
            for step, values in rows
            for name, value in values.items()
            if step > self._last.get(name, -1)
        ]
        for part in _parts(new, _MOST_METRICS):
            self._client.log_batch(self._run, metrics=part)
            self._last |= {metric.key: metric.step for metric in part}

    def finish(self, ending: Ending, summary: Mapping[str, Any]) -> None:
        """As of `Tracker`."""
        for name, value in summary.items():
            if isinstance(value, float):
                self.log([(self._summary_step(), {name: value})])
            else:
                self._client.set_tag(self._run, name, _text(value))
        status = {Ending.FINISHED: "FINISHED", Ending.INTERRUPTED: "KILLED", Ending.FAILED: "FAILED"}
        self._client.set_terminated(self._run, status[ending])

    def _summary_step(self) -> int:
        return max(self._last.values(), default=0)


class Trackio(Tracker):
    """A run of Trackio: in its folder, or where TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL says."""

    module = "trackio"
    together = False  # A process has one folder of them.
    _ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")

    _run: Any = None

    def start(self) -> None:
        """As of `Tracker`."""
        if not any(map(os.environ.get, self._ELSEWHERE)):
            if "TRACKIO_DIR" not in os.environ:
                # One process writes in it: a file that all file systems hold, from which a run is continued.
                os.environ |= {"TRACKIO_STORAGE_MODE": "sqlite", "TRACKIO_SQLITE_JOURNAL_MODE": "delete"}
                os.environ["TRACKIO_DIR"] = str(self.place.absolute())
            os.environ["HF_HUB_OFFLINE"] = "1"  # Else it asks the Hub for the name behind a token.
        import trackio

        self._run = trackio.init(
            os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{self.name}/{self.id}",  # By the name a run is found again.
            group="/".join(str(self.manifest[key]) for key in ("method", "task", "stage")),
            config=flat_settings(self.manifest),
            resume="allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self._next: int = self._run._next_step  # What W&B calls `starting_step`; it has no other name.

    def log(self, rows: Sequence[Row]) -> None:
        """As of `Tracker`."""
        for step, values in rows:
            if step >= self._next:
                self._run.log(dict(values), step=step)
                self._next = step + 1

    def finish(self, ending: Ending, summary: Mapping[str, Any]) -> None:
        """As of `Tracker`."""
        numbers = {name: value for name, value in summary.items() if isinstance(value, float)}
        if numbers:  # It has no summary: what a run ends with is one more point.
            self.log([(self._next, numbers)])
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {"wandb": Wandb, "mlflow": MLflow, "trackio": Trackio}


def require_trackers(names: Iterable[str]) -> None:
    """Look whether the libraries of trackers are installed; imports none.

    Raises:
        UserError: there is no such tracker, or its library is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        module = TRACKERS[name].module
        found = find_spec(module)
        with naming_extras():
            if found is None or found.origin is None:  # A folder of this name in the current one is no package.
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _parts(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
