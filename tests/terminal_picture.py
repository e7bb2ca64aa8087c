"""What a command printed, as a picture of a terminal for the docs: an SVG that fetches nothing.

    make quickstart 2>&1 | .venv/bin/python tests/terminal_picture.py docs/launch.svg "make quickstart"

The folder that it was called in is no part of the picture.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def picture(printed: str, title: str) -> str:
    """The SVG of lines, which may have a terminal's colours; as wide as the longest of them."""
    lines = Text.from_ansi(printed.replace(f"{Path.cwd()}/", ""))
    width = max(map(len, lines.plain.splitlines()), default=1)
    console = Console(record=True, width=width, file=io.StringIO(), highlight=False)
    console.print(lines, soft_wrap=True)
    svg = console.export_svg(title=title, unique_id="terminal")
    # Rich names fonts and itself by their addresses on the web.
    svg = re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", svg, flags=re.DOTALL).replace(
        "Fira Code, monospace", "monospace"
    )
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(sys.stdin.read(), sys.argv[2]), encoding="utf-8")
