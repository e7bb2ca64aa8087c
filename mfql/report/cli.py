"""The command line of everything after training: `scores`, `aggregate`, `verdict`, `report`, `summary`,
`trajectories`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mfql.arguments import ALL_CORES, CORES, count, processes
from mfql.errors import UserError, counted
from mfql.experiment.cli import add_configuration, configuration_of

MOST_DRAWN = 50
# The modules that do the work load pandas and matplotlib, seconds that `mfql --help` should not cost: the functions
# import them.


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands of this package; each sets `func`, which takes the parsed arguments, may raise UserError."""
    _add_scores(commands)
    _add_aggregate(commands)
    _add_verdict(commands)
    _add_report(commands)
    _add_summary(commands)
    _add_trajectories(commands)


def _add_scores(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("scores", help="collect runs' evaluation.json files into one tidy scores.csv")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="an evaluation.json")
    parser.add_argument(
        "--from-file", type=Path, metavar="LIST", help="a text file that names one evaluation.json a line"
    )
    parser.add_argument(
        "--below", type=Path, default=Path(), metavar="DIR", help="the folder that the paths in LIST begin in"
    )
    parser.add_argument("--out", type=Path, required=True, help="the CSV to write")
    parser.add_argument(
        "--partial", action="store_true", help="leave out what does not exist yet or is of earlier settings"
    )
    parser.set_defaults(func=run_scores)


def _add_aggregate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("aggregate", help="tables and figures of means, intervals and curves from scores.csv")
    parser.add_argument("scores", type=Path, help="the CSV of `mfql scores`")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write them to")
    parser.add_argument("--workers", type=processes(1), default=CORES, help=f"processes that draw; {ALL_CORES}")
    parser.set_defaults(func=run_aggregate)


def _add_verdict(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("verdict", help="whether the scores reproduce the published ones")
    parser.add_argument("--scores", type=Path, required=True, help="the CSV of `mfql scores`")
    parser.add_argument("--published", type=Path, required=True, metavar="DIR", help="the folder of published numbers")
    parser.add_argument("--tasks", type=Path, required=True, help="the task table, beside methods/")
    parser.add_argument("--results", type=Path, required=True, help="the folder that holds runs/")
    parser.add_argument(
        "--outside",
        nargs="*",
        type=Path,
        default=[],
        metavar="CSV",
        help="scores from elsewhere, shown beside ours; columns as of the published numbers",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="gets verdict and benchmark, as CSV and for people"
    )
    parser.set_defaults(func=run_verdict)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="one self-contained HTML page, from the answer to what it rests on")
    parser.add_argument("--partial", action="store_true", help="report what is finished, and list what is missing")
    add_configuration(
        parser,
        "with --partial and without --scores: scores, aggregates, verdicts and the page of its finished runs, all in "
        "one, in RESULTS/NAME/partial",
    )
    parser.add_argument("--scores", type=Path, help="the CSV of `mfql scores`")
    parser.add_argument("--aggregates", type=Path, help="the folder of `mfql aggregate`")
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder that holds runs/")
    parser.add_argument("--out", type=Path, help="the page to write")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="gets what `mfql summary` prints")
    parser.add_argument("--targets", type=Path, metavar="LIST", help="a text file of every evaluation.json asked for")
    parser.add_argument("--expected", type=Path, metavar="YAML", help="scores to expect")
    parser.add_argument(
        "--verdict",
        type=Path,
        metavar="CSV",
        help="the verdict.csv of `mfql verdict`, to show it and what lies beside it",
    )
    parser.add_argument("--tasks", type=Path, metavar="CSV", help="the task table, to filter the page by suite")
    parser.add_argument("--panels", type=Path, metavar="DIR", help="show the panels below this folder, as results/NAME")
    parser.add_argument(
        "--speed",
        nargs="*",
        type=Path,
        default=[],
        metavar="JSON",
        help="results of `python -m benchmarks`, to show them",
    )
    parser.set_defaults(func=run_report)


def _add_summary(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "summary", help="print the scores found beside those to expect, and where the report is"
    )
    parser.add_argument("--aggregates", type=Path, required=True, help="the folder of `mfql aggregate`")
    parser.add_argument("--report", type=Path, required=True, help="the page of `mfql report`")
    parser.add_argument("--expected", type=Path, metavar="YAML", help="scores to expect")
    parser.set_defaults(func=run_summary)


def _add_trajectories(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("trajectories", help="draw where trained policies go in their maze, for the report")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="such as results/runs/METHOD/TASK/seed0/offline; of one task"
    )
    parser.add_argument("--episodes", type=count(1, MOST_DRAWN), default=5, help="of each run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="gets the panel, such as DIR/panel.json")
    parser.set_defaults(func=run_trajectories, extra="workflow")


def run_trajectories(arguments: argparse.Namespace) -> None:
    """`mfql trajectories`."""
    from mfql.report.trajectories import write

    print(f"Written: {write(arguments.runs, arguments.episodes, arguments.out)}")


def run_scores(arguments: argparse.Namespace) -> int:
    """`mfql scores`; 1 where a run is left out that is not what its manifest says, as of `mfql verify`."""
    from mfql.report import chain

    listed = _listed(arguments.from_file) if arguments.from_file else []
    files = [*arguments.files, *(arguments.below / file for file in listed)]
    written = chain.collect(files, arguments.out, arguments.partial)
    print(f"{arguments.out}: {counted(written.runs, 'run')}")
    return 1 if written.altered else 0


def run_aggregate(arguments: argparse.Namespace) -> None:
    """`mfql aggregate`."""
    from mfql.report import chain

    chain.aggregate(arguments.scores, arguments.out, arguments.workers)
    print(f"{arguments.out}: {', '.join(sorted(path.name for path in arguments.out.iterdir()))}")


def run_verdict(arguments: argparse.Namespace) -> None:
    """`mfql verdict`."""
    from mfql.report import chain
    from mfql.tasks import load_tasks, with_extensions

    tasks = with_extensions(load_tasks(arguments.tasks))
    compared = chain.references(arguments.published, tasks, arguments.tasks.parent)
    chain.judge(arguments.scores, arguments.results, compared, arguments.outside, arguments.out)
    unused = sorted({number.task for number in compared.published.values()} - tasks.keys())
    if unused:
        print(f"Numbers of tasks that {arguments.tasks} lacks were not used: {', '.join(unused)}\n")
    print((arguments.out / "verdict.md").read_text(encoding="utf-8"))


def run_report(arguments: argparse.Namespace) -> int:
    """`mfql report`; 1 where a partial one leaves a run out that is not what its manifest says."""
    if arguments.configfile or arguments.config:
        return _run_partial_report(arguments)
    if None in (arguments.scores, arguments.aggregates, arguments.out):
        raise UserError(
            "a report needs --scores, --aggregates and --out", "Or --partial --configfile FILE, all in one."
        )
    from mfql.files import write_whole
    from mfql.report import chain, html
    from mfql.report.expected import read_expected
    from mfql.report.summary import summary
    from mfql.tasks import load_tasks, with_extensions

    options = html.Options(
        results=arguments.results,
        aggregates=arguments.aggregates,
        partial=arguments.partial,
        expected=read_expected(arguments.expected) if arguments.expected else None,
        targets=_listed(arguments.targets) if arguments.targets else (),
        verdict=arguments.verdict,
        tasks=with_extensions(load_tasks(arguments.tasks)) if arguments.tasks else None,
        panels=arguments.panels,
        speed=arguments.speed,
        config_dir=arguments.config_dir,
    )
    chain.page(arguments.scores, arguments.out, options)
    if arguments.summary:
        found = summary(html.read_tables(arguments.aggregates), options.expected or {}, arguments.out)
        with write_whole(arguments.summary) as file:
            file.write(f"{found}\n")
    print(arguments.out)
    return 0


# What a report of a configuration takes from there.
_OF_TABLES = ("aggregates", "out", "expected", "targets", "verdict", "tasks", "panels", "summary")


def _run_partial_report(arguments: argparse.Namespace) -> int:
    if not arguments.partial or arguments.scores is not None:
        raise UserError("--configfile is for --partial without --scores", "Leave one of them out.")
    given = [name for name in _OF_TABLES if getattr(arguments, name) is not None]
    if given:
        raise UserError(f"--configfile says itself what --{given[0]} would", f"Leave --{given[0]} out.")
    from mfql.report import chain

    page, written = chain.partial(configuration_of(arguments), arguments.config_dir, arguments.results, arguments.speed)
    print(page)
    return 1 if written.altered else 0


def run_summary(arguments: argparse.Namespace) -> None:
    """`mfql summary`."""
    from mfql.report.expected import read_expected
    from mfql.report.html import read_tables
    from mfql.report.summary import summary

    expected = read_expected(arguments.expected) if arguments.expected else {}
    print(summary(read_tables(arguments.aggregates), expected, arguments.report))


def _listed(path: Path) -> list[Path]:
    """The paths that a text file names, one a line."""
    from mfql.documents import read_text

    lines = read_text(path, "Give a text file with one path a line.").splitlines()
    return [Path(line.strip()) for line in lines if line.strip()]
