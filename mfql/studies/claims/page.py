"""What was found of the claims, for people: the panel of the report, and the tables of docs/claims.md."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd

from mfql.documents import read_text
from mfql.errors import UserError
from mfql.experiment.claims import GROUPS, Claim
from mfql.files import write_whole
from mfql.report.panels import Text, write_panel
from mfql.studies.claims.evidence import Finding, Judged

COLUMNS = ["group", "claim", "says", "verdict", "confidence", "paper_confidence", "check", "value", "low", "high"]
COLUMNS += ["must", "outcome", "reason", "seeds", "seeds_to_decide", "target", "minutes"]
_BEGIN, _END = "<!-- written by `mfql claims page` from here -->", "<!-- to here -->"


def write(judged: Sequence[Judged], folder: str | Path, command: str) -> None:
    """Write the panel of the claims: `data.csv` with a row a check, `table.md` and others with a row a claim.

    Args:
        judged: of `mfql.studies.claims.evidence.judge`.
        folder: such as `results/NAME/claims`.
        command: what makes it, for its readers.
    """
    text = Text(
        "Claims of the paper",
        "Which claims of the paper hold here, and how sure may one be of each?",
        "A check holds or fails where its 95 % interval lies on one side of its bound; a claim holds if all its checks "
        "do. At a reduced size, confidence in the paper's claim is moderate at most. docs/claims.md has the rules.",
        command,
    )
    write_panel(folder, None, tidy(judged), text, pd.DataFrame([_shown(one) for one in judged]))


def tidy(judged: Sequence[Judged]) -> pd.DataFrame:
    """One row a check, and one for each claim without any; the columns are `COLUMNS`."""
    rows = []
    for one in judged:
        claim = one.claim
        common = {
            "group": claim.group,
            "claim": claim.name,
            "says": claim.says,
            "verdict": str(one.verdict),
            "confidence": one.confidence,
            "paper_confidence": claim.paper_confidence,
            "target": claim.target,
            "minutes": claim.minutes or nan,
        }
        rows += [common | _of_check(finding) for finding in one.findings] or [common]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_check(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check.says,
        **vars(finding.found),
        "must": finding.check.must,
        "outcome": str(finding.verdict),
        "reason": finding.reason,
        "seeds": finding.seeds,
        "seeds_to_decide": finding.seeds_to_decide,
    }


def _shown(one: Judged) -> dict[str, str]:
    return {
        "claim": one.claim.says,
        "here": str(one.verdict),
        "found": "; ".join(map(_found, made)) if (made := one.made) else one.claim.not_testable,
        "our confidence": one.confidence,
        "the paper's": one.claim.paper_confidence,
    }


def _found(finding: Finding) -> str:
    found = finding.found
    if finding.reason:
        return f"{finding.check.says}: {finding.reason}"
    ends = "" if isnan(found.low) or found.low == found.high else f" [{found.low:.3g}, {found.high:.3g}]"
    more = "" if (seeds := finding.seeds_to_decide) is None else f"; about {seeds} seeds would decide"
    return f"{finding.check.says}: {found.value:.3g}{ends} ({finding.check.must}{more})"


def update_page(page: str | Path, judged: Sequence[Judged], source: str) -> None:
    """Write the tables of a page anew, between its two marks.

    Args:
        page: docs/claims.md.
        judged: what was found; claims without it are said to be `not run`.
        source: what it was found from, for the page's readers.

    Raises:
        UserError: the page cannot be read, or lacks the marks.
    """
    path = Path(page)
    before, _, rest = read_text(path, "Name the page that has the marks.").partition(_BEGIN)
    _, mark, after = rest.partition(_END)
    if not mark:
        raise UserError(f"{path} has not both lines {_BEGIN} and {_END}", "Put them around the tables to be written.")
    with write_whole(path) as file:
        file.write(f"{before}{_BEGIN}\n\n{tables(judged, source)}\n{_END}{after}")


def tables(judged: Sequence[Judged], source: str) -> str:
    """The claims as Markdown: how to test each, and what was found."""
    lines = []
    for group, title in GROUPS.items():
        own = [one for one in judged if one.claim.group == group]
        lines += [
            f"## {title}",
            "",
            "| claim | target | minutes | expected | what needs full size |",
            "|---|---|---|---|---|",
        ]
        lines += [_cells(f"`{c.name}`: {c.says}", *_how(c), c.full_size) for c in (one.claim for one in own)]
        lines += [""]
    lines += ["## What was found", "", source, ""]
    lines += ["| claim | here | found | our confidence | the paper's |", "|---|---|---|---|---|"]
    lines += [_cells(f"`{one.claim.name}`", *_result(one)) for one in judged]
    return "\n".join([*lines, ""])


def _how(claim: Claim) -> tuple[str, str, str]:
    if claim.not_testable:
        return "none", "", claim.not_testable
    return f"`{claim.target}`", f"{claim.minutes:g}", claim.expect


def _result(one: Judged) -> tuple[str, str, str, str]:
    shown, claim = _shown(one), one.claim
    found = ". ".join(filter(None, (shown["found"], f"Third parties: {claim.others}" if claim.others else "")))
    return f"**{shown['here']}**", found, shown["our confidence"], f"{claim.paper_confidence}: {claim.paper_because}"


def _cells(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |"
