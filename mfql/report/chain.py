"""The links from runs' results to the page, which the commands take one by one, and `mfql report --partial` at once.

scores.csv  --aggregate-->  tables, figures, panels  --judge-->  verdicts, benchmark  --page-->  report.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from mfql.cores import usable_cores
from mfql.errors import UserError
from mfql.experiment.find import DRAWN, asked_files, panel_files
from mfql.extensions import project_path
from mfql.files import there, write_whole
from mfql.processes import mapped
from mfql.report import scores
from mfql.report.absent import say_absent
from mfql.report.expected import read_expected
from mfql.tasks import Task, known_tasks

# Each link imports its own modules: scipy and matplotlib take seconds, and `mfql scores` needs neither.
if TYPE_CHECKING:
    from mfql.report import html
    from mfql.report.verdict_tables import References

# Fewer drawings do not repay the start of a process that imports what draws.
_MANY = 24


class Written(NamedTuple):
    """What a link wrote.

    Attributes:
        runs: how many there are in the scores.
        altered: the runs that are left out, since they are not what their manifests say.
    """

    runs: int
    altered: list[str]


def collect(files: Iterable[Path], out: Path, partial: bool = False) -> Written:
    """Write the scores of these `evaluation.json` to a CSV.

    Args:
        files: those that do not exist are refused, or left out of a partial collection.
        out: the `scores.csv`.
        partial: see `mfql.report.scores.gather`.
    """
    table, altered = scores.gather([file for file in files if not partial or there(file)], partial)
    scores.write_scores(table, out)
    return Written(int((table["metric"] == "score").sum()), altered)


def aggregate(scores_file: Path, folder: Path, workers: int = 1) -> None:
    """Write tables, figures and panels of the scores into a folder.

    Args:
        scores_file: the CSV of `collect`.
        folder: gets them.
        workers: processes that draw; they change the time alone.
    """
    from mfql.report import aggregate as aggregates
    from mfql.report import figures, formats, score_panels

    tables = aggregates.write(_read(scores_file), folder)
    formats.write(tables, folder)
    # A whole picture takes as long as many panels: where processes share, they come first.
    drawings = [*figures.drawings(tables, folder), *score_panels.drawings(tables, folder)]
    with mapped(_draw, drawings, workers if len(drawings) >= _MANY else 1) as done:
        for _ in done:
            pass
    with write_whole(folder / DRAWN) as file:
        drawn = [path for panel in panel_files(folder) for path in sorted(panel.parent.iterdir())]
        file.writelines(f"{path}\n" for path in drawn)


def _draw(write: Callable[[], None]) -> None:
    write()


def references(source: Path, tasks: Mapping[str, Task], config_dir: Path) -> References:
    """What scores are compared with.

    Args:
        source: the folder of published numbers.
        tasks: by name.
        config_dir: the folder of `methods/`.
    """
    from mfql.report import published
    from mfql.report.verdict_tables import References

    return References(published.read_published(source), published.read_third_party(source), tasks, config_dir)


def judge(scores_file: Path, results: Path, compared: References, outside: Sequence[Path], folder: Path) -> None:
    """Write the verdicts on the scores, and the table of every method's numbers, into a folder.

    Args:
        scores_file: the CSV of `collect`.
        results: the folder that holds `runs/`.
        compared: of `references`.
        outside: CSVs of scores from elsewhere.
        folder: gets `verdict.*` and `benchmark.*`.
    """
    from mfql.report import benchmark, published, verdict_tables

    verdicts = verdict_tables.verdicts(_read(scores_file), results, compared)
    verdict_tables.write(verdicts, folder)
    others = published.read_outside(outside)
    benchmark.write(benchmark.benchmark(verdicts, compared.published, compared.tasks, others), folder)


def page(scores_file: Path, out: Path, options: html.Options) -> None:
    """Write the page from the scores and from what the links before wrote.

    The scores' panels are drawn for this page alone where the aggregates have none: shipped, or of an earlier version.
    """
    from mfql.report import html, score_panels

    tables = html.read_tables(options.aggregates)
    with TemporaryDirectory() as drawn:
        if not panel_files(options.aggregates):
            score_panels.write(tables, drawn)
            options = replace(options, drawn=Path(drawn))
        html.write_report(_read(scores_file), tables, out, options)


def _read(scores_file: Path) -> pd.DataFrame:
    """A table of scores, of which means are made: whose seeds are missing is said."""
    table = scores.read_scores(scores_file)
    say_absent(table, scores_file)
    return table


def partial(
    configuration: Mapping[str, Any], config_dir: Path, results: Path, speed: Sequence[Path] = ()
) -> tuple[Path, Written]:
    """Take every link for what a configuration has finished, in `results/NAME/partial`.

    Args:
        configuration: a complete one.
        config_dir: folder with the task table and `methods/`; `published/` beside it has what verdicts compare with,
            and without it there are none.
        results: the folder that holds `runs/`.
        speed: see `mfql.report.html.Options`.

    Returns:
        the page, which lists what is missing, and what it is of.

    Raises:
        UserError: nothing is finished yet, or a run's files are damaged.
    """
    from mfql.report import html

    asked = asked_files(configuration, config_dir, results)
    if not any(map(there, asked)):
        raise UserError(
            f"none of the {len(asked)} runs that the configuration asks for is finished",
            "`mfql status --configfile FILE` says how far they are.",
        )
    folder = results / configuration["name"] / "partial"
    scores_file, tasks = folder / "scores.csv", known_tasks(config_dir)
    source = project_path(config_dir).absolute().parent / "published"
    collected = collect(asked, scores_file, partial=True)
    aggregate(scores_file, folder / "aggregate", usable_cores())
    if source.is_dir():
        outside = [Path(file) for file in configuration["outside_scores"]]
        judge(scores_file, results, references(source, tasks, config_dir), outside, folder / "verdict")
    options = html.Options(
        results=results,
        aggregates=folder / "aggregate",
        partial=True,
        expected=read_expected(configuration["expected"]) if configuration["expected"] else None,
        targets=asked,
        verdict=folder / "verdict" / "verdict.csv" if source.is_dir() else None,
        tasks=tasks,
        panels=results / configuration["name"],
        speed=speed,
        config_dir=config_dir,
    )
    page(scores_file, folder / "report.html", options)
    return folder / "report.html", collected
