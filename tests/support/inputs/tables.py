"""Task tables, method files and configurations as people write them."""

from __future__ import annotations

import codecs

from tests.support.forbidden import forbidden
from tests.support.inputs.lab import HEADER, TINY, Lab, Said, given

TABLE = f"{HEADER},discount,alpha,offline_steps\nbüro,point:mylab/Point-v0,data/point.npz,success,0.98,10,1000000\n"
CONFIGURATION = """name: mylab
offline: {methods: [tiny], tasks: [point]}
online: {methods: [], tasks: []}
seeds: [0]
data_dir: data
datasets: {}
"""


# --- tables -----------------------------------------------------------------------------------------------------------


def _table(lab: Lab, text: str | bytes) -> Said:
    """What the description of a table's one task, `point`, says."""
    content = text if isinstance(text, bytes) else text.encode()
    (lab.folder / "tasks.csv").write_bytes(content)
    return lab.mfql("data", "describe", "point", "--out", lab.folder / "described")


def _named(text: str) -> str:
    """The table with a name that a task can have."""
    return text.replace("büro", "point")


@given("a task table with a byte-order mark")
def _(lab: Lab) -> Said:
    return _table(lab, codecs.BOM_UTF8 + _named(TABLE).encode())


@given("a task table with empty columns and rows at its end")
def _(lab: Lab) -> Said:
    return _table(lab, "".join(f"{line},,\n" for line in _named(TABLE).splitlines()) + ",,,,,,,,\n,,,,,,,,\n")


@given("a task table with semicolons and decimal commas")
def _(lab: Lab) -> Said:
    from mfql.tasks import load_extension

    said = _table(lab, _named(TABLE).replace(",", ";").replace("0.98", "0,98").replace("\n", "\r\n"))
    assert load_extension(lab.folder / "tasks.csv")["point"].settings["discount"] == 0.98
    return said


@given("a task table that a spreadsheet saved as Unicode text")
def _(lab: Lab) -> Said:
    return _table(lab, _named(TABLE).replace(",", "\t").encode("utf-16"))


@given("a whole number in a task table as 1.00E+06")
def _(lab: Lab) -> Said:
    from mfql.tasks import load_extension

    said = _table(lab, _named(TABLE).replace("1000000", "1.00E+06"))
    steps = load_extension(lab.folder / "tasks.csv")["point"].settings["offline_steps"]
    assert (steps, type(steps)) == (1_000_000, int)
    return said


@given("a decimal comma in a task table that may be a thousand's")
def _(lab: Lab) -> Said:
    return _table(lab, _named(TABLE).replace(",10,", ",30_000,").replace(",", ";").replace("30_000", "30,000"))


@given("a column that stands twice in a task table")
def _(lab: Lab) -> Said:
    header, row = _named(TABLE).split()
    return _table(lab, f"{header},alpha\n{row},3\n")


@given("a task table in Windows' cp1252")
def _(lab: Lab) -> Said:
    return _table(lab, TABLE.encode("cp1252"))


@given("a task table that the user may not read")
def _(lab: Lab) -> Said:
    with forbidden(lab.folder / "tasks.csv"):
        return lab.mfql("data", "describe", "point", "--out", lab.folder / "described")


@given("a table of scores from elsewhere with semicolons and decimal commas")
def _(lab: Lab) -> Said:
    from mfql.report.published import read_outside

    path = lab.folder / "others.csv"
    path.write_text("task;method;stage;mean;std;seeds;source\npoint;theirs;offline;88,5;3,25;5;a notebook\n", "utf-8")
    found = []
    said = lab.called(lambda: found.extend(read_outside([path])))
    assert [(number.mean, number.std, number.seeds) for number in found] == [(88.5, 3.25, 5)]
    return said


@given("a method's name in a table of scores from elsewhere that a spreadsheet takes for a formula")
def _(lab: Lab) -> Said:
    from mfql.report.published import read_outside

    path = lab.folder / "others.csv"
    path.write_text("task,method,stage,mean,std,seeds,source\npoint,=SUM(1),offline,88.5,3,5,a notebook\n", "utf-8")
    return lab.called(lambda: read_outside([path]))


@given("a default of an agent's settings that only its code tells, where a launch is planned")
def _(lab: Lab) -> Said:
    from mfql.declared.unrun import read_agent

    code = (
        "from mfql.agents.bc import BC, BCSettings\n\n\nclass MineSettings(BCSettings):\n    beta: float = len('ab')\n"
    )
    code += "\n\nclass Mine(BC):\n    settings_type = MineSettings\n"
    return lab.called(lambda: read_agent(lab.folder / "mine.py", code))


@given("a method's table of settings with semicolons and decimal commas")
def _(lab: Lab) -> Said:
    from mfql.tables import find_row

    path = lab.folder / "settings.csv"
    path.write_text("task;stage;alpha;settings_source\n*;*;2,5;by hand\n", "utf-8")
    found = []
    said = lab.called(lambda: found.append(find_row(path, "point", "offline")))
    assert found[0].settings == {"alpha": 2.5}
    return said


# --- YAML -------------------------------------------------------------------------------------------------------------


def _method(lab: Lab, text: str | bytes) -> Said:
    """What training by a method's file says, up to its first look at data."""
    (lab.folder / "methods" / "tiny.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return lab.mfql("train", "--method", "tiny", "--task", "point", "--stage", "offline", "--seeds", "0",
                    "--data", lab.folder / "none", "--results", lab.folder / "results", "--threads", "1",
                    "--workers", "0", "--no-progress", "--device", "cpu")  # fmt: skip


def _configuration(lab: Lab, text: str) -> Said:
    """What `mfql status` says of a configuration."""
    path = lab.folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return lab.mfql("status", "--configfile", path, "--results", lab.folder / "results")


@given("`1e3` in a method's file")
def _(lab: Lab) -> Said:
    return _method(lab, TINY.replace("batch_size: 32", "batch_size: 1e3"))


@given("`1E-4` in a configuration")
def _(lab: Lab) -> Said:
    return _configuration(lab, "name: lab\ntuning: {grid: {alpha: [1E-4]}}\n")


@given("a number in quotes in a method's file")
def _(lab: Lab) -> Said:
    return _method(lab, TINY.replace("batch_size: 32", "batch_size: '32'"))


@given("a key that stands twice in a method's file")
def _(lab: Lab) -> Said:
    return _method(lab, f"{TINY}\nbatch_size: 64\n")


@given("a key that stands twice in a configuration")
def _(lab: Lab) -> Said:
    return _configuration(lab, "seeds: [0]\nthreads: 1\nseeds: [1]\n")


@given("a number that begins with 0 in a method's file")
def _(lab: Lab) -> Said:
    return _method(lab, TINY.replace("batch_size: 32", "batch_size: 0100"))


@given("a number with a colon in a method's file")
def _(lab: Lab) -> Said:
    return _method(lab, TINY.replace("batch_size: 32", "batch_size: 1:30"))


@given("no where a text is meant in a method's file")
def _(lab: Lab) -> Said:
    return _method(lab, f"{TINY}precision: no\n")


@given("no where a name is meant in a configuration")
def _(lab: Lab) -> Said:
    return _configuration(lab, "name: no\n")


@given("on as a key of a configuration")
def _(lab: Lab) -> Said:
    return _configuration(lab, "on: 3\n")


@given("a method's file in Windows' cp1252")
def _(lab: Lab) -> Said:
    return _method(lab, f"\n# für Tests{TINY}".encode("cp1252"))


@given("a method's file with a byte-order mark")
def _(lab: Lab) -> Said:
    (lab.folder / "methods" / "tiny.yaml").write_bytes(codecs.BOM_UTF8 + TINY.encode())
    from mfql.methods import raw_settings

    return lab.called(lambda: raw_settings("tiny", "point", "offline"))
