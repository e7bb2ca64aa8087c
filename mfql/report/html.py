"""The report: one self-contained HTML page, from the answer down to what each number rests on.

The page loads nothing: style, figures and the script that filters it are inside, and its content security policy
forbids all else. Without the script everything is there to see. Every name in it is escaped by jinja2.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isnan, nan
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mfql.documents import read_json, read_text
from mfql.errors import UserError, counted, shown
from mfql.evaluation.interval import CONFIDENCE
from mfql.experiment.find import EVIDENCE
from mfql.files import MOST_PICTURE, read_bytes, write_whole
from mfql.report import benchmark, provenance, verdict_tables
from mfql.report.aggregate import COLUMNS, FEW_SEEDS, KNOWN, NAMING, TABLES, TEXTS
from mfql.report.answer import answer, ends, number
from mfql.report.compact import shared
from mfql.report.drawing import Style, styles
from mfql.report.expected import Expected, compare
from mfql.report.figures import of_leaders
from mfql.report.frames import read_frame
from mfql.report.panels import DATA, FIGURE, LARGE_FIGURE, SECTIONS, Panel, read_panels
from mfql.report.places import link, without_dead_links, without_places
from mfql.report.svg import inlined
from mfql.report.tasks import SUCCESS, is_estimate, runs, split
from mfql.settings import STAGES
from mfql.tasks import Task

FEW_METHODS = 3  # up to here every two methods are compared on the page; above, each with the leading one
_AGGREGATE = "Write it anew with `mfql aggregate`."
_PROSE = ("title", "question", "caption", "command")  # of a panel
STRIP, BENCHMARK = "strip.png", "benchmark.csv"


@dataclass(frozen=True)
class Options:
    """What a report is made from besides its scores.

    Attributes:
        results: the folder that holds `runs/`, for the manifests.
        aggregates: the folder of `mfql aggregate`.
        partial: whether to report what is finished and list the rest, instead of refusing.
        expected: the ranges of `mfql.report.expected.read_expected`.
        targets: the `evaluation.json` of every run that was asked for.
        verdict: the `verdict.csv` of `mfql.report.verdict_tables`, to show the verdicts; where the `benchmark.csv` of
            `mfql.report.benchmark` lies beside it, every method's numbers too.
        tasks: the task table by name, for the suites that the page is filtered by.
        panels: the folder below which panels lie.
        speed: results files of `python -m benchmarks`.
        config_dir: folder of `methods/`, whose files say which settings differ by task on purpose.
        drawn: the folder below which the panels of the scores lie, if not that of the aggregates.
    """

    results: Path
    aggregates: Path
    partial: bool = False
    expected: Expected | None = None
    targets: Iterable[Path] = ()
    verdict: Path | None = None
    tasks: Mapping[str, Task] | None = None
    panels: Path | None = None
    speed: Sequence[Path] = ()
    config_dir: Path = Path("config")
    drawn: Path | None = None


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the frames that `mfql.report.aggregate.write` wrote into the folder, by name.

    Raises:
        UserError: one is absent, is no CSV, or holds what no aggregate is of.
    """
    tables = {}
    for name in TABLES:
        filled = sorted(NAMING.intersection(COLUMNS[name]))
        known = {column: KNOWN[column] for column in filled if column in KNOWN}
        path = Path(folder) / f"{name}.csv"
        tables[name] = read_frame(path, _AGGREGATE, COLUMNS[name], TEXTS, filled=filled, known=known)
    _require_ends(tables["tasks"], Path(folder) / "tasks.csv")
    return tables


def _require_ends(tasks: pd.DataFrame, path: Path) -> None:
    """Refuse rises that lead to no score."""
    keys = ["task", "method"]
    reached = tasks.loc[(tasks["stage"] == "online") & (tasks["metric"] == "score"), keys]
    for row in tasks.loc[tasks["metric"] == "rise", keys].merge(reached, how="left", indicator=True).itertuples():
        if row[-1] == "left_only":
            raise UserError(f"{path} has a rise of {row.method} on {row.task}, and no score online", _AGGREGATE)


def write_report(scores: pd.DataFrame, tables: dict[str, pd.DataFrame], out: str | Path, options: Options) -> None:
    """Write the page, and beside it a table that is named after it: see `mfql.experiment.find.EVIDENCE`.

    Args:
        scores: the table of `mfql.report.scores`.
        tables: the frames of `read_tables`, computed from these scores.
        out: the page's path.
        options: where the runs lie, and what was asked for.

    Raises:
        UserError: a manifest or a run that was asked for is not at hand, and the report is not partial.
    """
    page, evidence = page_of(scores, tables, Path(out), options)
    with write_whole(Path(out).with_suffix(EVIDENCE)) as file:
        evidence.to_csv(file, index=False)
    with write_whole(out) as file:
        file.write(page)


def page_of(
    scores: pd.DataFrame, tables: dict[str, pd.DataFrame], out: Path, options: Options
) -> tuple[str, pd.DataFrame]:
    """The page as text, and the table of `mfql.report.provenance.hashes` that lies beside it; see `write_report`."""
    run_table = runs(scores)
    asked = options.partial or options.targets
    missing = provenance.missing(run_table, options.results, options.targets) if asked else provenance.Missing()
    lacking = [*missing.targets, *(missing.running if options.targets else ())]
    if lacking and not options.partial:
        raise UserError(
            f"{counted(len(lacking), 'run')} without a score, the first of them {lacking[0]}",
            "Let them finish, or use --partial for a report of what is.",
        )
    known: provenance.Manifests = {}
    evidence = provenance.evidence(run_table, options.results, options.partial, known)
    style = styles(scores["method"])
    benchmarks = _benchmarks(options.verdict)
    methods = _methods(style, benchmarks)
    suites = {task: _suite(task, options.tasks) for task in sorted(run_table["task"].unique())}
    few = tables["aggregate"]["seeds"].min() < FEW_SEEDS
    script = _file("page.js")
    sections = _sections(options, methods, out)
    markers, figures_css = _share(sections)
    verdict = _verdict(options.verdict, methods, out) if options.verdict else None
    benchmark_sources = _sources(benchmarks)
    told = [*benchmark_sources, *(str(row["source"]) for row in verdict["tasks"])] if verdict else benchmark_sources
    page = (
        _environment()
        .get_template("template.html.j2")
        .render(
            answer=answer(tables),
            style=style,
            css=Markup(_file("page.css")),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            suites=suites,
            methods=methods,
            runs=run_table,
            estimated_tasks=sorted(run_table.loc[run_table["unit"].map(is_estimate), "task"].unique()),
            diverged=run_table[run_table["diverged"]].to_dict("records"),
            evidence=evidence,
            recurring=provenance.recurring(evidence),
            evidence_data=_link(out.with_suffix(EVIDENCE), out),
            datasets=provenance.datasets(evidence),
            reduced={(own.task, own.stage, own.method) for own in evidence if own.reduced},
            anchors={(own.task, own.stage, own.method): own.anchor for own in evidence},
            mixtures=provenance.mixtures(run_table, options.results, options.config_dir, known),
            missing=missing,
            partial=options.partial,
            tasks=_score_rows(tables["tasks"], options.expected),
            has_expected=options.expected is not None,
            has_final=bool((tables["tasks"]["final_seeds"] > 0).any()),
            benchmarks=benchmarks,
            comparisons=_comparisons(tables["comparisons"]),
            few_methods=FEW_METHODS,
            aggregate=tables["aggregate"][tables["aggregate"]["tasks"] > 1].to_dict("records"),
            improvement=tables["improvement"][tables["improvement"]["tasks"] > 1].to_dict("records"),
            few_seeds=FEW_SEEDS if few else None,
            cost=tables["cost"].to_dict("records"),
            speed=_speed(options.speed),
            sections=sections,
            markers=Markup(markers),
            figures_css=Markup(figures_css),
            strips=_strips(run_table, options.results, out),
            confidence=round(100 * CONFIDENCE),
            data=_link(options.aggregates, out),
            success=SUCCESS,
            verdict=verdict,
            benchmark_sources=benchmark_sources,
            sources={source: place for place, source in enumerate(filter(None, dict.fromkeys(told)), start=1)},
            benchmark_data=_link(options.verdict.parent, out) if options.verdict else None,
        )
    )
    return without_dead_links(page), provenance.hashes(evidence)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mfql.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "ends": lambda row: ends(row["low"], row["high"]),
        "plus_minus": benchmark.number,
        "digits": _digits,
        "heading": _heading,
    }
    environment.tests["estimated"] = lambda unit: is_estimate(str(unit))
    return environment


def _visible(value: Any) -> Any:
    """What the page prints of a value: names may be anybody's, and turn no line round; what is made here stays."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _file(name: str) -> str:
    """The text of a file of this package."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _link(path: Path, out: Path) -> str:
    """The address of a file or folder from the page."""
    return link(path, out.parent)


def _digits(value: float, digits: int = 3) -> str:
    """A quantity to some digits, thousands set apart; a dash where it is not known."""
    if value is None or isnan(value):
        return "–"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _suite(task: str, tasks: Mapping[str, Task] | None) -> str:
    """The suite that a task belongs to."""
    return tasks[task].suite if tasks and task in tasks else "other"


def _methods(style: Mapping[str, Style], tables: list[benchmark.Table]) -> dict[str, int]:
    """Every method on the page and its number, by which the page is filtered: ours as they are drawn, then others."""
    others = [column.name for table in tables for column in table.columns]
    return {name: place for place, name in enumerate(dict.fromkeys([*style, *others]))}


def _verdict(path: Path, methods: Collection[str], out: Path) -> dict[str, Any]:
    """What the page shows of a verdict, which is one on these methods."""
    found = verdict_tables.for_page(path, out.parent)
    judged = {row["method"] for row in (*found["aggregates"], *found["tasks"])}
    if others := sorted(judged.difference(methods)):
        raise UserError(
            f"{path} judges {', '.join(others)}, of which the scores have nothing", "Make both of the same scores."
        )
    return found


def _benchmarks(verdict: Path | None) -> list[benchmark.Table]:
    """The tables with numbers that are not ours; ours alone stand in the table of scores."""
    path = verdict.parent / BENCHMARK if verdict else None
    if path is None or not path.is_file():
        return []
    found = benchmark.tables(benchmark.read(path))
    return [table for table in found if table.origins() != {benchmark.OURS}]


def _sources(tables: Iterable[benchmark.Table]) -> list[str]:
    """Where the numbers in the tables that are not ours stand, each once."""
    cells = (cell for table in tables for row in table.rows.values() for cell in row.values())
    return list(dict.fromkeys(str(number["source"]) for cell in cells for number in cell.values() if number["source"]))


def _comparisons(table: pd.DataFrame) -> list[dict[Any, Any]]:
    """The differences to show: of two methods each, or, of more than a few, of the leading method and each other."""
    shown = []
    for _, part in table.groupby(["stage", "unit"], sort=False):
        several = len({*part["method"], *part["baseline"]}) > FEW_METHODS
        shown.append(of_leaders(part) if several else part)
    return pd.concat(shown).to_dict("records") if shown else []


def _score_rows(tasks: pd.DataFrame, expected: Expected | None) -> dict[str, list[dict[Any, Any]]]:
    """The rows of the table of scores by task, each with its chart and with what to expect."""
    compared = compare(tasks, expected or {}).fillna({"seeds": 0})
    keys = ["task", "stage", "method", "metric"]
    details = ["diverged", "episodes", "by_seed", "final", "final_low", "final_high", "final_seeds"]
    details += [name for name in ("final_episodes",) if name in tasks]  # Tables of an earlier version lack it.
    detailed = compared.merge(tasks[[*keys, *details]], on=keys, how="left")
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

    def place(value: float) -> str:
        return f"{100 * (value - lowest) / (highest - lowest):.1f}".removesuffix(".0")

    single = isnan(row["low"])
    return {
        "value": place(row["value"]),
        "low": place(row["value"] if single else row["low"]),
        "high": place(row["value"] if single else row["high"]),
        "seeds": [place(value) for value in seeds],
        "zero": place(0.0),
    }


def _speed(files: Sequence[Path]) -> list[dict[str, Any]]:
    """What `python -m benchmarks` measured of each method, one entry a machine."""
    found: list[dict[str, Any]] = []
    for path in files:
        measured = read_json(path)
        fault = jsonschema.exceptions.best_match(_MEASURED.iter_errors(measured))
        if fault is not None:
            raise UserError(
                f"{path} is no result of `python -m benchmarks`: {fault.json_path}: {fault.message[:200]}",
                "Measure anew.",
            )
        by_method: dict[str, dict[str, float]] = {}
        for one in measured["measurements"]:
            if one["part"] == "methods" and one["quantity"] in _SPEED:
                by_method.setdefault(one["case"]["method"], dict.fromkeys(_SPEED, nan))[one["quantity"]] = one["value"]
        if by_method and not measured["quick"]:
            machine = measured["machine"]
            name = machine["gpu"] if machine["device"] == "cuda" else machine["cpu"]
            found.append({"machine": name, "date": measured["date"], "methods": by_method})
    return found


# What is shown of a method's speed, and what a file has that says it.
_SPEED = ("parameters", "update", "latency p50")
_OF_METHOD = {
    "properties": {
        "case": {"type": "object", "properties": {"method": {"type": "string"}}, "required": ["method"]},
        "quantity": {"type": "string"},
        "value": {"type": ["number", "null"]},
    },
    "required": ["case", "quantity", "value"],
}
_MEASURED = jsonschema.Draft202012Validator(
    {
        "type": "object",
        "properties": {
            "measurements": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["part"],
                    "if": {"properties": {"part": {"const": "methods"}}},
                    "then": _OF_METHOD,
                },
            },
            "quick": {"type": "boolean"},
            "date": {"type": "string"},
            "machine": {
                "type": "object",
                "properties": {
                    "device": {"type": "string"},
                    "gpu": {"type": ["string", "null"]},
                    "cpu": {"type": "string"},
                },
                "required": ["device", "gpu", "cpu"],
            },
        },
        "required": ["measurements", "quick", "date", "machine"],
    }
)


def _sections(options: Options, methods: Collection[str], out: Path) -> dict[str, list[dict[str, Any]]]:
    """The panels of scores and others by section, those of `SECTIONS` first, with what the page shows of them."""
    roots = [(options.drawn or options.aggregates, options.aggregates)]
    roots += [(options.panels, options.panels)] if options.panels else []
    panels: dict[Path, tuple[Panel, Path]] = {}
    for root, home in roots:
        for panel in read_panels(root):
            panels.setdefault(panel.folder.resolve(), (panel, home))  # The scores' may lie below the others'.
    found: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS}
    for place, (panel, home) in enumerate(panels.values(), start=1):
        found.setdefault(panel.section, []).append(_panel(panel, home, f"panel-{place}", methods, out))
    return found


def _share(sections: Mapping[str, list[dict[str, Any]]]) -> tuple[str, str]:
    """Have the panels' figures refer to what they repeat; returns the markers and the style sheet's rules."""
    panels = [panel for found in sections.values() for panel in found]
    figures, markers, rules = shared([panel["svg"] for panel in panels])
    for panel, figure in zip(panels, figures, strict=True):
        panel["svg"] = Markup(figure)
    return markers, rules


def _heading(section: str) -> str:
    return SECTIONS.get(section, section.replace("_", " ").capitalize())


def _panel(panel: Panel, home: Path, name: str, methods: Collection[str], out: Path) -> dict[str, Any]:
    drawn = panel.folder / f"{FIGURE}.svg"
    shown = ""
    if panel.has_figure:
        of = f" Of {', '.join(panel.text.methods)}." if panel.text.methods else ""
        label = str(escape(f"{panel.text.title}. {panel.text.question}{of}"))
        small = drawn.stat().st_size <= LARGE_FIGURE
        ids = name.replace("panel-", "p")  # They stand before thousands of numbers.
        picture = inlined(read_text(drawn, "Draw the panel anew."), ids, label) if small else None
        pixels = drawn.with_suffix(".png")
        shown = picture or (_image(pixels, label) if pixels.is_file() else "")
    whole = home / panel.text.whole if panel.text.whole else None
    files = {"csv": Path(f"{whole}.csv") if whole else panel.folder / DATA}
    if panel.has_figure:
        files |= {kind: Path(f"{whole or panel.folder / FIGURE}.{kind}") for kind in ("svg", "png")}
    table = panel.table
    said: dict[str, Any] = {one: without_places(getattr(panel.text, one)) for one in _PROSE}
    return {
        "name": name,
        "text": replace(panel.text, **said),
        "methods": {method: stage for method, stage in panel.text.methods.items() if method in methods},
        "svg": Markup(shown),
        "links": {kind: _link(file, out) for kind, file in files.items()},
        "columns": None if table is None else list(table.columns),
        "rows": None if table is None else [list(map(without_places, row)) for row in table.to_numpy().tolist()],
    }


def _strips(run_table: pd.DataFrame, results: Path, out: Path) -> list[dict[Any, Any]]:
    """The film strips of the runs on the page."""
    found = []
    for row in run_table.to_dict("records"):
        path = results / row["run"] / STRIP
        if path.is_file():
            label = f"Frames of one episode of {row['method']} on {row['task']}, seed {row['seed']}, {row['stage']}"
            film = path.with_name("video.gif")
            links = {"png": _link(path, out)} | ({"gif": _link(film, out)} if film.is_file() else {})
            data = path.with_name("video.json")
            links |= {"json": _link(data, out)} if data.is_file() else {}
            found.append(row | {"image": Markup(_image(path, str(escape(label)))), "links": links})
    return found


def _image(path: Path, label: str) -> str:
    """A PNG as an element for the page; the label is escaped by the caller."""
    content = base64.b64encode(read_bytes(path, MOST_PICTURE)).decode()
    return f'<img alt="{shown(label)}" src="data:image/png;base64,{content}">'
