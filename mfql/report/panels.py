"""Panels: a figure or a table with its question, caption, data and command, as a folder that the report shows.

    figure.svg                what is drawn; absent where the panel is a table alone
    figure.png                the same; absent too where it is a part of a whole picture, which lies beside the panels
    data.csv                  every number that is drawn
    table.csv, .md, .tex      what a person reads beside the figure, numbers as text; optional
    panel.json                what the panel says of itself: `Text`; written last

Every figure of the page is one. `docs/results.md` says where the folders lie. Whoever draws one calls `write_panel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from mfql.documents import read_object, write_json
from mfql.errors import UserError
from mfql.experiment.find import PANEL, panel_files
from mfql.experiment.owned import link_on_the_way, remove_files
from mfql.files import write_whole, writing
from mfql.report import formats
from mfql.report.drawing import save
from mfql.report.frames import read_frame

DATA = "data.csv"
TABLE = "table"
FIGURE = "figure"
LARGE_FIGURE = 1_500_000  # bytes; the page shows a larger SVG as PNG
_FILES = (DATA, *(f"{TABLE}.{kind}" for kind in ("csv", "md", "tex")), *(f"{FIGURE}.{kind}" for kind in ("svg", "png")))
# The page's sections by folder, in their order; the template has prose and tables of the first three.
SECTIONS = {"curves": "Learning curves", "over_tasks": "Over tasks", "cost": "Cost beside score"}
SECTIONS |= {"toy": "Toy", "ablations": "Ablations", "claims": "Claims of the paper", "replay": "Recorded steps"}


@dataclass(frozen=True)
class Text:
    """What a panel says of itself.

    Attributes:
        title: a few words, without a full stop.
        question: the question that the panel answers.
        caption: what is drawn: quantities with units, intervals, seeds, tasks.
        command: the command that makes the panel, to be run in the project's folder.
        methods: of a figure of methods these, each with the stage whose evidence its name leads to, or an empty one.
            The page shows such a figure with the methods' key and without question, table and command.
        task: the task that the panel is of, by which the page is filtered; empty for several.
        whole: the picture that the figure is a part of, as a name without a suffix in the folder that has the sections;
            the page links the picture's files instead of the part's.
    """

    title: str
    question: str
    caption: str
    command: str
    methods: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    whole: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel on disk.

    Attributes:
        folder: where its files lie.
        section: the first folder below the root that it was found under, such as `ablations`.
        text: what it says of itself.
        table: its `table.csv`, or the data of a panel without a figure, as text; None for a figure alone.
    """

    folder: Path
    section: str
    text: Text
    table: pd.DataFrame | None

    @property
    def has_figure(self) -> bool:
        """Whether there is something drawn."""
        return (self.folder / f"{FIGURE}.svg").is_file()


def write_panel(
    folder: str | Path, figure: Figure | None, data: pd.DataFrame, text: Text, table: pd.DataFrame | None = None
) -> None:
    """Write a panel's folder, the description last; closes the figure.

    Args:
        folder: such as `results/NAME/ablations/alpha`.
        figure: drawn within `mfql.report.drawing.drawing()`, so that it looks as the report's others; None for a table.
        data: tidy, one row a drawn value.
        text: what the panel says of itself.
        table: what a person reads beside the figure; its cells are written as they are.
    """
    folder = Path(folder)
    with writing(folder):
        (folder / PANEL).unlink(missing_ok=True)  # A folder without it is no panel: nothing half-written is shown.
    with write_whole(folder / DATA) as file:
        data.to_csv(file, index=False)
    if table is not None:
        formats.write_table(table, folder, TABLE)
    if figure is not None:
        save(figure, folder, FIGURE, ("svg",))
        if not text.whole or (folder / f"{FIGURE}.svg").stat().st_size > LARGE_FIGURE:
            save(figure, folder, FIGURE, ("png",))
        plt.close(figure)
    write_json(folder / PANEL, {name: value for name, value in asdict(text).items() if value or name in _WRITTEN})


def remove_panels(root: Path, command: str) -> None:
    """Remove the panels below a folder that a command made, each file by its name; what else lies there stays.

    Args:
        root: such as `results/NAME/aggregate`.
        command: as their descriptions have it.
    """
    for panel in panel_files(root):
        if link_on_the_way(panel, root) is None and read_object(panel).get("command") == command:
            files = [panel.with_name(name) for name in (PANEL, *_FILES)]
            remove_files([path for path in files if path.is_file() and not path.is_symlink()], root)


def read_panels(root: str | Path) -> list[Panel]:
    """The panels below a folder, such as `results/NAME`: those of `SECTIONS` in their order, then others by name.

    Those of the scores are read from the folder `aggregate` itself: see `mfql.experiment.find.panel_files`.

    Raises:
        UserError: a description lacks an entry, or files of a panel are absent or damaged.
    """
    root = Path(root)
    found = [_read(path.parent, root) for path in panel_files(root)]
    order = list(SECTIONS)
    return sorted(
        found,
        key=lambda panel: (
            order.index(panel.section) if panel.section in order else len(order),
            panel.folder.relative_to(root).parts,
        ),
    )


# The entries of every description.
_WRITTEN = {one.name for one in fields(Text) if one.default_factory is MISSING and one.default is MISSING}


def _fits(name: str, value: Any) -> bool:
    if name == "whole":  # A file's name: the page links no file elsewhere.
        return isinstance(value, str) and value != ".." and "/" not in value
    if name == "methods":
        return isinstance(value, dict) and all(isinstance(stage, str) for stage in value.values())
    return isinstance(value, str)


def _read(folder: Path, root: Path) -> Panel:
    remedy = "Remove the folder, or write it anew with the command that its panel.json names."
    path = folder / PANEL
    said = read_object(path)
    entries = {one.name for one in fields(Text)}
    lacking = [one.name for one in fields(Text) if one.name in _WRITTEN and one.name not in said]
    foreign = [name for name in said if name not in entries]
    wrong = [name for name in said if name in entries and not _fits(name, said[name])]
    for fault, names in (("lacks", lacking), ("has the unknown", foreign), ("has no text in", wrong)):
        if names:
            raise UserError(f"{path} is no panel's description: it {fault} {', '.join(names)}", remedy)
    text = Text(**said)
    drawn = [name for name in (f"{FIGURE}.svg", f"{FIGURE}.png") if (folder / name).is_file()]
    whole = len(drawn) != 1 or (text.whole and drawn == [f"{FIGURE}.svg"])
    if not whole or not (folder / DATA).is_file():
        raise UserError(f"{folder} lacks one of {FIGURE}.svg, {FIGURE}.png and {DATA}", remedy)
    table = folder / f"{TABLE}.csv"
    if not table.is_file():
        table = folder / DATA
    figure_alone = drawn and table.name == DATA
    shown = None if figure_alone else read_frame(table, remedy, dtype=str, keep_default_na=False)
    return Panel(folder, folder.relative_to(root).parts[0], text, shown)
