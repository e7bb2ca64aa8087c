"""The report: one self-contained HTML page, from the answer down to what each number rests on.

The page loads nothing: style and figures are inside, there is no script. Every name in it is escaped by jinja2.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mfql.errors import UserError
from mfql.files import write_whole
from mfql.report import figures, provenance, verdict_tables
from mfql.report.aggregate import FEW_SEEDS, TABLES
from mfql.report.answer import answer, ends, number
from mfql.report.expected import Expected, compare
from mfql.report.intervals import CONFIDENCE
from mfql.report.scores import STAGES
from mfql.report.tasks import SUCCESS, runs, split


@dataclass(frozen=True)
class Options:
    """What a report is made from besides its scores.

    Attributes:
        results: the folder that holds `runs/`, for the manifests.
        aggregates: the folder of `mfql.report.aggregate.write`, which the page names as the figures' data.
        partial: whether to report what is finished and list the rest, instead of refusing.
        expected: the ranges of `mfql.report.expected.read_expected`.
        targets: the `evaluation.json` of every run that was asked for.
        verdict: the `verdict.csv` of `mfql.report.verdict_tables`, to show the verdicts.
    """

    results: Path
    aggregates: Path
    partial: bool = False
    expected: Expected | None = None
    targets: Iterable[Path] = ()
    verdict: Path | None = None


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the frames that `mfql.report.aggregate.write` wrote into the folder, by name.

    Raises:
        UserError: one is absent or is no CSV.
    """
    tables = {}
    for name in TABLES:
        path = Path(folder) / f"{name}.csv"
        try:
            tables[name] = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}", "Write it anew with `mfql aggregate`.") from error
    return tables


def write_report(scores: pd.DataFrame, tables: dict[str, pd.DataFrame], out: str | Path, options: Options) -> None:
    """Write the page.

    Args:
        scores: the table of `mfql.report.scores`.
        tables: the frames of `read_tables`, computed from these scores.
        out: the page's path.
        options: where the runs lie, and what was asked for.

    Raises:
        UserError: a manifest or a run that was asked for is not at hand, and the report is not partial.
    """
    page = page_of(scores, tables, Path(out), options)
    with write_whole(out) as file:
        file.write(page)


def page_of(scores: pd.DataFrame, tables: dict[str, pd.DataFrame], out: Path, options: Options) -> str:
    """The page as text; see `write_report`."""
    run_table = runs(scores)
    missing = provenance.missing(run_table, options.results, options.targets)
    if missing.targets and not options.partial:
        raise UserError(
            f"{len(missing.targets)} runs have no score, the first of them {missing.targets[0]}",
            "Let them finish, or use --partial for a report of what is.",
        )
    evidence = provenance.evidence(run_table, options.results, options.partial)
    style = figures.styles(scores["method"])
    few = tables["aggregate"]["seeds"].min() < FEW_SEEDS
    environment = Environment(
        loader=PackageLoader("mfql.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "ends": lambda row: ends(row["low"], row["high"])}
    return environment.get_template("template.html.j2").render(
        answer=answer(tables),
        style=style,
        runs=run_table,
        diverged=run_table[run_table["diverged"]].to_dict("records"),
        evidence=evidence,
        anchors={(own.task, own.stage, own.method): own.anchor for own in evidence},
        mixtures=provenance.mixtures(run_table, options.results),
        missing=missing,
        partial=options.partial,
        tasks=_score_rows(tables["tasks"], options.expected),
        has_expected=options.expected is not None,
        comparisons=tables["comparisons"].to_dict("records"),
        curves=_curve_figures(tables["curves"], style),
        aggregate=tables["aggregate"][tables["aggregate"]["tasks"] > 1].to_dict("records"),
        improvement=tables["improvement"][tables["improvement"]["tasks"] > 1].to_dict("records"),
        profiles=_profile_figures(tables["profiles"], style),
        few_seeds=FEW_SEEDS if few else None,
        confidence=round(100 * CONFIDENCE),
        data=quote(os.path.relpath(options.aggregates, out.parent)),
        success=SUCCESS,
        verdict=verdict_tables.for_page(options.verdict, out.parent) if options.verdict else None,
    )


def _score_rows(tasks: pd.DataFrame, expected: Expected | None) -> dict[str, list[dict[Any, Any]]]:
    """The rows of the table of scores by task, each with its chart and with what to expect."""
    compared = compare(tasks, expected or {}).fillna({"seeds": 0})
    keys = ["task", "stage", "method", "metric"]
    detailed = compared.merge(tasks[[*keys, "unit", "diverged", "episodes", "by_seed"]], on=keys, how="left")
    detailed["order"] = detailed["stage"].map(STAGES.index) + detailed["metric"].map({"score": 0, "rise": len(STAGES)})
    detailed = detailed.sort_values(["order", "value"], ascending=[True, False], kind="stable")
    return {
        task: [{**row, "strip": _strip(row)} for row in own.to_dict("records")]
        for task, own in sorted(split(detailed, "task").items())
    }


def _strip(row: dict[Any, Any]) -> dict[str, Any] | None:
    """Where a row's value, interval and seeds lie on its chart, from 0 at the left to 100 at the right.

    The chart spans 0 to 100 percent or points, and more where a value lies outside.
    """
    if isnan(row["value"]):
        return None
    seeds = [float(pair.split(":")[1]) for pair in row["by_seed"].split()]
    inside = [value for value in (row["low"], row["high"], row["value"], *seeds) if not isnan(value)]
    lowest, highest = min(0.0, *inside), max(100.0, *inside)

    def place(value: float) -> float:
        return round(100 * (value - lowest) / (highest - lowest), 2)

    single = isnan(row["low"])
    return {
        "value": place(row["value"]),
        "low": place(row["value"] if single else row["low"]),
        "high": place(row["value"] if single else row["high"]),
        "seeds": [place(value) for value in seeds],
        "zero": place(0.0),
    }


def _curve_figures(curves: pd.DataFrame, style: dict[str, figures.Style]) -> list[dict[str, Any]]:
    """One learning-curve figure a task and curve."""
    drawn = []
    for number_, ((task, curve), part) in enumerate(curves.groupby(["task", "curve"]), start=1):
        methods = sorted(part["method"].unique())
        label = f"Learning curve of {', '.join(methods)} on {task}, {curve}"
        svg = figures.inline_svg(figures.curves(part, style, bare=True), f"curve-{number_}", str(escape(label)))
        stages = {method: own["stage"].iloc[-1] for method, own in split(part, "method").items()}
        drawn.append({"task": task, "curve": curve, "stages": stages, "svg": Markup(svg)})
    return drawn


def _profile_figures(profiles: pd.DataFrame, style: dict[str, figures.Style]) -> list[dict[str, Any]]:
    """One performance profile a stage and unit that has several tasks."""
    drawn = []
    several = profiles[profiles["tasks"] > 1]
    for number_, ((stage, unit), part) in enumerate(several.groupby(["stage", "unit"], sort=False), start=1):
        label = f"Performance profile of {', '.join(sorted(part['method'].unique()))}, {stage}"
        svg = figures.inline_svg(figures.profiles(part, style, bare=True), f"profile-{number_}", str(escape(label)))
        shown = {"stage": stage, "unit": figures.LABELS[str(unit)], "tasks": part["tasks"].iloc[0]}
        drawn.append(shown | {"methods": sorted(part["method"].unique()), "svg": Markup(svg)})
    return drawn
