"""What each number rests on: settings, code, dataset and machine of the runs behind it, and what is still missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from mfql.data.terms import Terms, terms_of
from mfql.errors import UserError, warn_of
from mfql.experiment.find import runs_in
from mfql.experiment.records import read_evaluation, read_manifest
from mfql.files import there
from mfql.methods import keys_by_task
from mfql.report.frames import read_frame
from mfql.report.origin import COMPARED, described, mixed
from mfql.report.places import without_machine, without_places
from mfql.settings import STAGES
from mfql.suites import suites
from mfql.tasks import SETTINGS, registered_tasks

SECTIONS = ("settings", "code", "dataset", "physics", "hardware", "packages")
OTHER = "run"  # the section of entries that stand at the manifest's top
TIMES = "times"  # and of those among them that no two jobs have the same
_TIMES = frozenset({"started", "finished", "seconds", "step_ms", "acting_ms", "sessions"})
# What lies beside the page instead (`mfql.experiment.find.EVIDENCE`), and of it what is no formula for a spreadsheet.
_HASHES = "outputs"
_FILE, _SHA256 = re.compile(r"\w[\w./-]*", re.ASCII), re.compile(r"[0-9a-f]{64}")
_REQUIRED = ("settings", "code", "dataset", "hardware", "reduced")
_IN_HEADING = ("method", "task", "seed", "stage")
SHOWN_ONCE = 5  # so many methods, tasks and stages with the same section: the page has it once, and links it

Section = tuple[str, tuple[tuple[str, str], ...]]  # name, entries


@dataclass(frozen=True)
class Evidence:
    """The runs behind the numbers of one method, task and stage.

    Attributes:
        anchor: the id of its place on the page.
        shared: section -> entry -> value, for the entries that all its runs agree in.
        differing: the entries, "section.entry", in which they differ, without the section where it is of none.
        seeds: one row a run: seed, score, diverged, stopped (early), broken (how many of its episodes), run (its
            folder), and the differing entries.
        hashes: by seed the sha256 of the run's files by name; empty where its manifest knows none.
        without_manifest: the seeds whose manifest is not at hand.
        reduced: whether any run's settings are not of the paper's size.
        uncommitted: whether any run's code had changes that are in no commit.
    """

    anchor: str
    method: str
    task: str
    stage: str
    shared: dict[str, dict[str, str]]
    differing: list[str]
    seeds: list[dict[str, Any]]
    hashes: dict[int, dict[str, str]]
    without_manifest: list[int]
    reduced: bool
    uncommitted: bool

    @property
    def lies_elsewhere(self) -> bool:
        """Whether any of its runs is not where its method, task, seed and stage say."""
        folder = f"runs/{self.method}/{self.task}/seed{{}}/{self.stage}"
        return any(seed["run"] != folder.format(seed["seed"]) for seed in self.seeds)

    @property
    def sections(self) -> list[Section]:
        """What all its runs agree in, as keys of `recurring`."""
        return [(name, tuple(entries.items())) for name, entries in self.shared.items()]


@dataclass(frozen=True)
class Missing:
    """What a partial report does without.

    Attributes:
        targets: runs that were asked for and have no score.
        running: folder of a run that was begun and has no score -> the last step that it logged, or None.
    """

    targets: list[str] = field(default_factory=list)
    running: dict[str, int | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.targets or self.running)


Manifests = dict[Path, dict[str, Any]]  # by path, those that have been read


def evidence(
    runs: pd.DataFrame, results: str | Path, partial: bool = False, known: Manifests | None = None
) -> list[Evidence]:
    """Read the manifests of all runs, and sort out what the runs of a method, task and stage share.

    Args:
        runs: the table of `mfql.report.tasks.runs`.
        results: the folder that holds `runs/`.
        partial: do without manifests that are not at hand.
        known: gets the manifests.

    Raises:
        UserError: a manifest is absent, lacks an entry, or belongs to another run than the score (unless partial).
    """
    ordered = runs.assign(order=runs["stage"].map(STAGES.index)).sort_values(["task", "order", "method"], kind="stable")
    known = {} if known is None else known
    groups = groupby(ordered.to_dict("records"), key=itemgetter("task", "order", "method"))
    return [
        _evidence(f"evidence-{number}", list(rows), Path(results), partial, known)
        for number, (_, rows) in enumerate(groups, start=1)
    ]


@dataclass(frozen=True)
class Source:
    """A dataset that runs were trained on.

    Attributes:
        dataset, source, sha256: as the manifests have them.
        tasks: that were trained on it.
        terms: its licence, and whom to cite.
    """

    dataset: str
    source: str
    sha256: str
    tasks: list[str]
    terms: Terms


def datasets(found: Iterable[Evidence]) -> list[Source]:
    """The datasets of all runs whose manifests are at hand, by name; of one name several, where they differ."""
    tasks: dict[tuple[str, ...], set[str]] = {}
    for own in found:
        agreed = own.shared.get("dataset", {})
        for seed in own.seeds:
            entries = [agreed.get(name) or seed.get(f"dataset.{name}") for name in ("name", "source", "sha256")]
            tasks.setdefault(tuple(entry or "unknown" for entry in entries), set()).add(own.task)
    known = suites()

    def terms(task: str, source: str) -> Terms:
        return terms_of(next((suite.name for suite in known if suite.has(task)), ""), source)

    return [
        Source(dataset, source, digest, sorted(trained), terms(min(trained), source))
        for (dataset, source, digest), trained in sorted(tasks.items())
    ]


@dataclass(frozen=True)
class Shared:
    """Sections that the page has once.

    Attributes:
        anchor: the id of their place on the page.
        sections: those that the same methods, tasks and stages have.
        users: the anchors of these.
    """

    anchor: str
    sections: list[Section]
    users: frozenset[str]

    @property
    def name(self) -> str:
        """The sections' names."""
        return ", ".join(name for name, _ in self.sections)


def recurring(found: Iterable[Evidence]) -> list[Shared]:
    """What the page has once, since `SHOWN_ONCE` methods, tasks and stages or more share it."""
    users: dict[Section, list[str]] = {}
    for own in found:
        for section in own.sections:
            users.setdefault(section, []).append(own.anchor)
    together: dict[tuple[str, ...], list[Section]] = {}
    for section, of in users.items():
        if len(of) >= SHOWN_ONCE:
            together.setdefault(tuple(of), []).append(section)
    return [
        Shared(f"shared-{number}", sections, frozenset(of))
        for number, (of, sections) in enumerate(together.items(), start=1)
    ]


def hashes(found: Iterable[Evidence]) -> pd.DataFrame:
    """The table beside the page.

    Returns:
        one row a run whose manifest is at hand: method, task, stage, seed, run (its folder), and for each file that
        any manifest knows its sha256, in columns of the files' names.
    """
    rows = [
        {"method": own.method, "task": own.task, "stage": own.stage, "seed": seed["seed"], "run": seed["run"]}
        | own.hashes[seed["seed"]]
        for own in found
        for seed in own.seeds
    ]
    return pd.DataFrame(rows, columns=None if rows else ["method", "task", "stage", "seed", "run"])


def missing(runs: pd.DataFrame, results: str | Path, targets: Iterable[str | Path]) -> Missing:
    """The runs that were asked for and have no score; where none were named, those that were begun.

    Args:
        runs: the table of `mfql.report.tasks.runs`.
        results: the folder that holds `runs/`.
        targets: the `evaluation.json` of every run that was asked for. Others in `results` are another study's.
    """
    scored = set(runs["run"])
    asked = ["/".join(Path(target).absolute().parent.parts[-5:]) for target in targets]
    running: dict[str, int | None] = {}
    begun = runs_in(Path(results)) if there(Path(results, "runs")) else []
    for run in begun:
        name = run.folder.relative_to(run.results).as_posix()
        if name not in scored and (not asked or name in asked) and there(run.trained):
            running[name] = _last_step(run.trained / "metrics.csv")
    return Missing([run for run in asked if run not in scored and run not in running], running)


def mixtures(
    runs: pd.DataFrame,
    results: str | Path,
    config_dir: str | Path = "config",
    known: Mapping[Path, Mapping[str, Any]] = MappingProxyType({}),
) -> dict[str, list[str]]:
    """The averages whose runs differ in code, packages, data or settings, with what they differ in.

    Args:
        runs: the table of `mfql.report.tasks.runs`.
        results: the folder that holds `runs/`; a run whose manifest is not at hand, or damaged, is left out.
        config_dir: folder of `methods/`, whose files say which settings differ by task on purpose; for a method that
            has no file there they are those of the task table.
        known: manifests that have been read, as of `evidence`.

    Returns:
        "METHOD STAGE" or "METHOD TASK STAGE" -> a line for each difference.
    """
    manifests: dict[str, Mapping[str, Any]] = {}
    for run in runs["run"]:
        path = Path(results) / run / "run" / "manifest.json"
        with suppress(UserError):
            manifests[run.removeprefix("runs/")] = known.get(path) or read_manifest(path)

    @cache
    def by_task(method: str) -> Set[str]:
        with suppress(UserError):
            return keys_by_task(method, config_dir)
        return frozenset(SETTINGS)

    found = mixed({run: manifest for run, manifest in manifests.items() if manifest.keys() >= COMPARED}, by_task)
    return {
        average: [without_places(line) for line in described(differences)] for average, differences in found.items()
    }


def _evidence(anchor: str, rows: list[dict[Any, Any]], results: Path, partial: bool, known: Manifests) -> Evidence:
    """The evidence of one method, task and stage, from its rows of `runs`."""
    manifests = {row["seed"]: _evident(results / row["run"], partial, known) for row in rows}
    found = {seed: manifest for seed, manifest in manifests.items() if manifest is not None}
    entries = dict(zip(found, _flat(list(found.values())), strict=True))
    values = {
        name: [own.get(name, "none") for own in entries.values()]
        for name in dict.fromkeys(name for own in entries.values() for name in own)
    }
    agreed = {name for name, own in values.items() if len(set(own)) == 1}
    shared: dict[str, dict[str, str]] = {}
    for name, own in values.items():
        if name in agreed:
            section, entry = name.split(".", 1)
            shared.setdefault(section, {})[entry] = own[0]
    differing = {name: re.sub(f"^({OTHER}|{TIMES})\\.", "", name) for name in values if name not in agreed}
    seeds = [
        {key: row[key] for key in ("seed", "score", "diverged", "stopped", "broken", "run")}
        | {short: entries[row["seed"]].get(name, "none") for name, short in differing.items()}
        for row in rows
        if row["seed"] in found
    ]
    first = rows[0]
    return Evidence(
        anchor,
        first["method"],
        first["task"],
        first["stage"],
        {section: shared[section] for section in (OTHER, TIMES, *SECTIONS) if section in shared},
        list(differing.values()),
        seeds,
        {seed: _hashes(manifest) for seed, manifest in found.items()},
        without_manifest=[seed for seed in manifests if seed not in found],
        # Of a task of one's own no paper has runs of another size; manifests of earlier versions say so all the same.
        reduced=first["task"] not in registered_tasks() and any(manifest["reduced"] for manifest in found.values()),
        uncommitted=any(manifest["code"].get("dirty") for manifest in found.values()),
    )


def _evident(folder: Path, partial: bool, known: Manifests) -> dict[str, Any] | None:
    """The same, where a partial report does without a faulty one, and says so."""
    try:
        return _manifest(folder, partial, known)
    except UserError as error:
        if not partial:
            raise
        warn_of(error, "the report does without it")
        return None


def _manifest(folder: Path, partial: bool, known: Manifests) -> dict[str, Any] | None:
    """A run's manifest; None where it is not at hand and the report is partial."""
    path = folder / "run" / "manifest.json"
    scored = folder / "evaluation.json"
    if partial and not (there(path) and there(scored)):
        return None
    manifest = known[path] = read_manifest(path, _REQUIRED)
    if manifest.get("identity") != read_evaluation(scored)["identity"]:
        # A run that is being trained anew: its manifest is the new one's, its declared score still the old one's.
        if partial:
            return None
        raise UserError(f"{path} is not of the run that {scored} scores", "Let the training end, or use --partial.")
    return manifest


def _flat(manifests: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The entries of each manifest as "section.entry" -> text, without what they say of the machine."""
    flat: list[dict[str, dict[str, str]]] = []
    for manifest in manifests:
        # Of the runs of one method, task and stage most entries are those of the first one.
        flat.append(
            {
                key: flat[0][key] if flat and manifests[0].get(key) == value else _entries(key, value)
                for key, value in manifest.items()
                if key not in (*_IN_HEADING, _HASHES)
            }
        )
    return [{name: text for entries in own.values() for name, text in entries.items()} for own in flat]


def _hashes(manifest: Mapping[str, Any]) -> dict[str, str]:
    known = manifest.get(_HASHES) or {}
    return {name: value for name, value in known.items() if _FILE.fullmatch(name) and _SHA256.fullmatch(value)}


def _entries(key: str, value: Any) -> dict[str, str]:
    told = without_machine({key: value})[key]
    if key in SECTIONS and isinstance(told, dict):
        return {f"{key}.{entry}": _text(item) for entry, item in told.items()}
    return {f"{TIMES if key in _TIMES else OTHER}.{key}": _text(told)}


def _text(value: Any) -> str:
    """A manifest's value as a person reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value)


def _last_step(metrics: Path) -> int | None:
    """The last step of a training log, which may still be written to; None if there is none."""
    try:
        steps = read_frame(metrics, "", usecols=["step"], on_bad_lines="skip")["step"]
    except UserError:
        return None
    numbers = pd.to_numeric(steps, errors="coerce").dropna()
    return None if numbers.empty or numbers.max() >= 1 << 53 else int(numbers.max())
