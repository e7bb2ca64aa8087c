"""One study of Optuna's: which points it asks for, and what it was told of them.

A sampler keeps no state from one point to the next: it has a seed of the point's number, and all else that it goes by
is in the storage. So a study that was killed goes on as it would have, and nothing is unpickled. That is also why
CMA-ES is not among the samplers: Optuna keeps its state as a pickle in the storage.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mfql.errors import UserError, naming_extras
from mfql.experiment.search import Choices, Study, identifying
from mfql.experiment.tuning import Point
from mfql.files import hash_of, open_file, there, writing
from mfql.methods import method_name
from mfql.tables import as_value

if TYPE_CHECKING:
    import optuna

# How SQLite's files begin, and tables that Optuna's have.
_MAGIC, _TABLES = b"SQLite format 3\0", {"studies", "version_info"}
_REMEDY = "Name another file with --storage, or move this one away: points that are trained already train nothing."
# The attribute of a study that says what all of its trials share.
_IDENTITY = "mfql"
_SEEDS = 2**32


class Trial:
    """A point that was asked for and of which nothing was told yet."""

    def __init__(self, trial: optuna.Trial, study: Study) -> None:
        self._trial, self.study = trial, study
        self.point = _suggested(trial, study)

    @property
    def number(self) -> int:
        """Its number in its study."""
        return self._trial.number

    @property
    def method(self) -> str:
        """The method that trains it."""
        return self.study.trained(self.point)

    def report(self, score: float, step: int) -> None:
        """Keep a score on the way, which later trials are compared with."""
        if step not in self._reported:
            self._trial.report(score, step)

    @property
    def _reported(self) -> Mapping[int, float]:
        frozen = self._trial.study.get_trials(deepcopy=False)[self.number]
        return frozen.intermediate_values

    def is_to_end(self) -> bool:
        """Whether the pruner gives it up at the score that was reported last."""
        return self._trial.should_prune()

    def complete(self, score: float) -> None:
        """Tell its score."""
        self._trial.study.tell(self._trial, score)

    def prune(self) -> None:
        """Tell that it was given up."""
        self._tell("PRUNED")

    def fail(self) -> None:
        """Tell that it has no score."""
        self._tell("FAIL")

    def _tell(self, state: str) -> None:
        from optuna.trial import TrialState

        self._trial.study.tell(self._trial, state=TrialState[state])


class Optimiser:
    """A study in its storage."""

    def __init__(self, study: Study, own: optuna.Study) -> None:
        self.study, self._own = study, own

    def batch(self) -> list[Trial]:
        """The points to train now: those that were asked for and not told, and further ones until a batch is full.

        Batches are by number, so that those of a study that was killed are those that it would have had.
        """
        from optuna.trial import Trial as OptunaTrial
        from optuna.trial import TrialState

        found = []
        for frozen in self._own.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._own.sampler = _sampler(self.study, frozen.number)
            found.append(Trial(OptunaTrial(self._own, frozen._trial_id), self.study))
        while self.asked < self.study.trials and (self.asked % self.study.at_once or not found):
            self._own.sampler = _sampler(self.study, self.asked)
            found.append(Trial(self._own.ask(), self.study))
        return found

    @property
    def asked(self) -> int:
        """How many points were asked for."""
        from optuna.trial import TrialState

        return sum(trial.state is not TrialState.WAITING for trial in self._own.get_trials(deepcopy=False))

    def methods(self, *states: str) -> list[str]:
        """The methods of the trials in these states of Optuna's, by number; a point asked for twice is there twice."""
        trials = self._own.get_trials(deepcopy=False)
        chosen = [trial for trial in trials if trial.state.name in states]
        return [method_name(self.study.method, _decoded(trial.params, self.study)) for trial in chosen]


@contextmanager
def opened(path: Path, studies: list[Study], config_dir: str | Path) -> Iterator[list[Optimiser]]:
    """The studies in their storage, a file of SQLite's; those that it lacks begin there.

    Raises:
        UserError: the file is damaged, or no storage of a search; or a study there is of other conditions.
    """
    _require_storage(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with naming_extras(), _quiet(), _said_of(path):
        from optuna.storages import RDBStorage
        from sqlalchemy.pool import NullPool

        # By a connection rather than an address, in which a path's characters have meanings.
        options = {"creator": lambda: sqlite3.connect(path, timeout=60.0), "poolclass": NullPool}
        storage = RDBStorage("sqlite://", engine_kwargs=options)
        try:
            yield [Optimiser(study, _study(storage, study, path, config_dir)) for study in studies]
        finally:
            storage.remove_session()


def _study(storage: Any, study: Study, path: Path, config_dir: str | Path) -> optuna.Study:
    import optuna

    pruning = study.pruning
    pruner = (
        optuna.pruners.PercentilePruner(pruning.percentile, n_startup_trials=pruning.startup)
        if pruning
        else optuna.pruners.NopPruner()
    )
    with _damage_said(path):
        found = optuna.create_study(
            storage=storage, study_name=study.name, direction="maximize", pruner=pruner, load_if_exists=True
        )
        known, trials = found.user_attrs.get(_IDENTITY), found.get_trials(deepcopy=False)
    wanted = _hashes(identifying(study, config_dir))
    if known is None and not trials:
        found.set_user_attr(_IDENTITY, wanted)
    elif known != wanted:
        known = known if isinstance(known, dict) else {}
        differing = ", ".join(key for key in wanted if known.get(key) != wanted[key])
        raise UserError(
            f"{path}: the study of {study.name} that is there has other {differing}",
            "Put back what it had; or name another file with --storage: points that are trained already train nothing.",
        )
    with _damage_said(path):
        for trial in trials:
            _decoded(trial.params, study)
    return found


def _hashes(identity: Mapping[str, Any]) -> dict[str, str]:
    return {key: hash_of(value) for key, value in identity.items()}


def _sampler(study: Study, number: int) -> Any:
    """The sampler of a point by its number."""
    from optuna import samplers

    seed = int(hash_of([study.seed, study.method, study.task, number]), 16) % _SEEDS
    if study.sampler == "qmc":
        # A sequence is of one seed; where a study is in it is in the storage.
        own = int(hash_of([study.seed, study.method, study.task]), 16) % _SEEDS
        first = samplers.RandomSampler(seed=seed)
        return samplers.QMCSampler(scramble=True, seed=own, independent_sampler=first, warn_independent_sampling=False)
    if study.sampler == "random":
        return samplers.RandomSampler(seed=seed)
    # Points that train beside it count as bad ones, so that a batch is no point many times.
    return samplers.TPESampler(seed=seed, constant_liar=True)


def _suggested(trial: optuna.Trial, study: Study) -> Point:
    """The point of a trial; of one that was killed as it was asked for, what it lacks is suggested now."""
    given: dict[str, Any] = {}
    for key, found in study.space.items():
        if isinstance(found, Choices):
            given[key] = trial.suggest_categorical(key, list(found.texts))
        elif found.whole:
            step = int(found.step or 1)
            given[key] = trial.suggest_int(key, int(found.low), int(found.high), step=step, log=found.log)
        else:
            given[key] = trial.suggest_float(key, found.low, found.high, step=found.step, log=found.log)
    return _decoded(given, study)


def _decoded(given: Mapping[str, Any], study: Study) -> Point:
    """What a storage has of a point, as a method's name has it."""
    return {
        key: as_value(given[key]) if isinstance(found, Choices) else found.value(given[key])
        for key, found in study.space.items()
        if key in given
    }


def _require_storage(path: Path) -> None:
    """Refuse a file that is no storage of Optuna's before anything is written into it."""
    if not there(path):
        return
    with open_file(path) as file:
        head = file.read(len(_MAGIC))
    if not head:
        return  # Killed as it was made.
    if head != _MAGIC:
        raise UserError(f"{path} is no storage of a search: it does not begin as SQLite's files do", _REMEDY)
    try:
        with closing(sqlite3.connect(path, timeout=60.0)) as database:
            found = [row[0] for row in database.execute("PRAGMA quick_check")]
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError as error:
        raise UserError(f"cannot read {path}: {error}", "The same command again when it can be read.") from error
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is damaged: {error}", _REMEDY) from error
    if found != ["ok"]:
        raise UserError(f"{path} is damaged: {found[0].splitlines()[0]}", _REMEDY)
    if tables and not tables & _TABLES:
        raise UserError(
            f"{path} is a database of something else: it has the tables {', '.join(sorted(tables))}", _REMEDY
        )


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """What Optuna and SQLAlchemy say of a storage that they cannot use, with its path."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        said = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"{path}: {said}", "The same command again where it can be written; or name another file."
        ) from error
    except RuntimeError as error:
        if "table schema" not in str(error):
            raise
        raise UserError(
            f"{path}: {error}", "Or name another file with --storage: points that are trained already train nothing."
        ) from error


@contextmanager
def _damage_said(path: Path) -> Iterator[None]:
    """Say of entries that cannot be read that the storage is damaged: SQLite's pages have no checksums."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}", _REMEDY) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says what it does at each step, and of what is experimental in it; none of it is for users here."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
