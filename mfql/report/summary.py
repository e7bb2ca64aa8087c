"""What a study amounts to in a few lines of text, for the end of a launch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mfql.report.answer import answer, ends
from mfql.report.expected import Expected, compare
from mfql.report.tasks import is_estimate


def summary(tables: Mapping[str, pd.DataFrame], expected: Expected, report: Path) -> str:
    """The scores found beside those to expect, the answer in sentences, and where the report is.

    Args:
        tables: the frames of `mfql.report.aggregate.TABLES` by name.
        expected: of `mfql.report.expected.read_expected`; empty where nothing is expected.
        report: the page.
    """
    lines = [("task", "stage", "method", "found", "seeds", *(("expected", "") if expected else ()))]
    for row in compare(tables["tasks"], expected).to_dict("records"):
        is_found = row["verdict"] != "not found"
        is_expected = row["verdict"] != "nothing to expect"
        mark = " (estimate)" if is_found and is_estimate(row["unit"]) else ""
        found = f"{row['value']:.1f} {ends(row['low'], row['high'])}{mark}" if is_found else "-"
        stage = row["stage"] if row["metric"] == "score" else "rise online"
        seeds = f"{row['seeds']:.0f}" if is_found else "-"
        to_expect = f"{row['expected_low']:g} to {row['expected_high']:g}" if is_expected else "-"
        beside = (to_expect, row["verdict"] if is_expected else "") if expected else ()
        lines.append((row["task"], stage, row["method"], found, seeds, *beside))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    sentences = [sentence.striptags() for sentence in answer(dict(tables))]
    said = ["", "Scores: mean over seeds [95 % interval]", "", *table, "", *sentences, "", f"Report: {report}"]
    return "\n".join(said)
