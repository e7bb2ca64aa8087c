"""The files and commands of docs/extend.md."""

from __future__ import annotations

import re

from tests.support.training_runs import ROOT

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
# `mylab/NAME`, an empty line, and its content in a fence.
FILES = dict(re.findall(r"^`(mylab/[\w./-]+)`\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^    ((?:MFQL_EXTENSIONS=\S+ )?(?:snakemake|mfql|python) .*)$", PAGE, re.MULTILINE)
