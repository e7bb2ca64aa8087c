"""`mfql report --partial --configfile FILE`: what a configuration's finished runs amount to so far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mfql.errors import UserError
from mfql.experiment.find import asked_files
from mfql.report import aggregate, benchmark, figures, formats, html, published, scores, verdict_tables
from mfql.report.expected import read_expected
from mfql.tasks import known_tasks


def write_partial(configuration: Mapping[str, Any], config_dir: Path, results: Path) -> Path:
    """Write scores, aggregates, verdicts and the page of what is finished to `results/NAME/partial`.

    Args:
        configuration: a complete one.
        config_dir: folder with the task table and `methods/`; `published/` beside it has what verdicts compare with.
        results: the folder that holds `runs/`.

    Returns:
        the page, which lists what is missing.

    Raises:
        UserError: nothing is finished yet, or a run's files are damaged.
    """
    asked = asked_files(configuration, config_dir, results)
    finished = [file for file in asked if file.is_file()]
    if not finished:
        raise UserError(
            f"none of the {len(asked)} runs that the configuration asks for is finished",
            "`mfql status --configfile FILE` says how far they are.",
        )
    folder = results / configuration["name"] / "partial"
    table = scores.collect(finished, partial=True)
    scores.write_scores(table, folder / "scores.csv")
    # As `mfql report` reads them: the page is the same as of its commands one by one.
    table = scores.read_scores(folder / "scores.csv")
    tables = aggregate.write(table, folder / "aggregate")
    formats.write(tables, folder / "aggregate")
    figures.write(tables, folder / "aggregate")
    options = html.Options(
        results=results,
        aggregates=folder / "aggregate",
        partial=True,
        expected=read_expected(configuration["expected"]) if configuration["expected"] else None,
        targets=asked,
        verdict=_verdict(table, configuration, config_dir, results),
        tasks=known_tasks(config_dir),
        panels=results / configuration["name"],
        config_dir=config_dir,
    )
    html.write_report(table, html.read_tables(folder / "aggregate"), folder / "report.html", options)
    return folder / "report.html"


def _verdict(table: Any, configuration: Mapping[str, Any], config_dir: Path, results: Path) -> Path | None:
    """The verdicts' table, with the benchmark's beside it; None without published numbers to compare with."""
    source = Path(config_dir).absolute().parent / "published"
    if not source.is_dir():
        return None
    references = verdict_tables.References(
        published.read_published(source), published.read_third_party(source), known_tasks(config_dir), config_dir
    )
    verdicts = verdict_tables.verdicts(table, results, references)
    folder = results / configuration["name"] / "partial" / "verdict"
    verdict_tables.write(verdicts, folder)
    outside = published.read_outside(configuration["outside_scores"])
    benchmark.write(benchmark.benchmark(verdicts, references.published, references.tasks, outside), folder)
    return folder / "verdict.csv"
