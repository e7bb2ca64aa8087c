"""LeRobot's datasets, as LeRobot itself wrote them (tests/data/lerobot), and what may be amiss in them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
from pyarrow import parquet

from mfql.documents import read_json, write_json
from tests.support.inputs.lab import Lab, Said, given
from tests.support.training_runs import ROOT

WRITTEN = ROOT / "tests" / "data" / "lerobot"
# The point's observation in parts, by the names that LeRobot's environments have for them.
PARTS = """
import gymnasium
from gymnasium.spaces import Box, Dict
from point import Point


class Parts(gymnasium.ObservationWrapper):
    observation_space = Dict(environment_state=Box(-2.0, 2.0, (2,)), agent_pos=Box(-2.0, 2.0, (2,)))

    def observation(self, seen):
        return {"agent_pos": seen[:2], "environment_state": seen[2:]}


if "lab/Parts-v0" not in gymnasium.registry:
    gymnasium.register("lab/Parts-v0", entry_point=lambda: Parts(Point()), max_episode_steps=40)
"""


def _written(lab: Lab, version: str = "v3.0") -> Path:
    """A copy of a dataset in the lab's folder."""
    return Path(shutil.copytree(WRITTEN / version, lab.folder / "data" / "case"))


def _described(lab: Lab) -> Said:
    return lab.describe("data/case")


def _info(folder: Path, **changes: object) -> None:
    about = folder / "meta" / "info.json"
    write_json(about, read_json(about) | changes)


def _without(folder: Path, *features: str) -> None:
    told = read_json(folder / "meta" / "info.json")["features"]
    _info(folder, features={name: feature for name, feature in told.items() if name not in features})


def _rewritten(folder: Path, change: Callable[[pa.Table], pa.Table], name: str = "file-000.parquet") -> None:
    """A file of frames with its table changed."""
    path = folder / "data" / "chunk-000" / name
    parquet.write_table(change(parquet.read_table(path)), path)


def _column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


@given("a dataset that LeRobot wrote in its layout 2.1")
def _(lab: Lab) -> Said:
    _written(lab, "v2.1")
    return _described(lab)


@given("a dataset that LeRobot wrote in its layout 3.0")
def _(lab: Lab) -> Said:
    _written(lab)
    return _described(lab)


@given("the same, for an environment that shows its parts as a Dict")
def _(lab: Lab) -> Said:
    (lab.folder / "lab_parts.py").write_text(PARTS, encoding="utf-8")
    _written(lab)
    lab.row("case,lab_parts:lab/Parts-v0,data/case,success")
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


@given("the same, for an environment of other observations")
def _(lab: Lab) -> Said:
    _written(lab)
    lab.row("case,Pendulum-v1,data/case,return")
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


@given("the same with `data_path` that leads out of its folder, which is not used")
def _(lab: Lab) -> Said:
    _info(_written(lab), data_path="../../../{chunk_index}{file_index}")
    return _described(lab)


@given("the same without `next.success`")
def _(lab: Lab) -> Said:
    _without(_written(lab), "next.success")
    return _described(lab)


@given("the same without `next.done` and `next.success`")
def _(lab: Lab) -> Said:
    _without(_written(lab), "next.success", "next.done")
    return _described(lab)


@given("the same without `next.reward`")
def _(lab: Lab) -> Said:
    _without(_written(lab), "next.reward")
    return _described(lab)


@given("the same of images alone")
def _(lab: Lab) -> Said:
    _without(_written(lab), "observation.state", "observation.environment_state")
    return _described(lab)


@given("the same with a split that is held out")
def _(lab: Lab) -> Said:
    _info(_written(lab), splits={"train": "0:4", "val": "4:5"})
    return _described(lab)


def _bare(lab: Lab, limit: str = "") -> Said:
    """Describe a dataset as a task without an environment."""
    (lab.folder / "tasks.csv").write_text(
        f"task,env_id,data,max_episode_steps\ncase,none,data/case,{limit}\n", encoding="utf-8"
    )
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


@given("a dataset that LeRobot wrote, as a task without an environment")
def _(lab: Lab) -> Said:
    _written(lab)
    return _bare(lab)


@given("the same without `next.success`, and no `max_episode_steps`")
def _(lab: Lab) -> Said:
    _without(_written(lab), "next.success")
    return _bare(lab)


@given("the same with `max_episode_steps`")
def _(lab: Lab) -> Said:
    _without(_written(lab), "next.success")
    return _bare(lab, "40")


@given("an episode that LeRobot marks as done before its time, without success")
def _(lab: Lab) -> Said:
    _rewritten(_written(lab), lambda table: _column(table, "next.success", pa.array([False] * len(table))))
    return _described(lab)


@given("a dataset in LeRobot's layout with frames lost within an episode")
def _(lab: Lab) -> Said:
    def late(table: pa.Table) -> pa.Table:
        times = [time + (row > 2) for row, time in enumerate(table["timestamp"].to_pylist())]
        return _column(table, "timestamp", pa.array(times, pa.float32()))

    _rewritten(_written(lab), late)
    return _described(lab)


@given("a dataset in LeRobot's layout 1.6")
def _(lab: Lab) -> Said:
    _info(_written(lab), codebase_version="v1.6")
    return _described(lab)


@given("a dataset in LeRobot's layout without one of its files")
def _(lab: Lab) -> Said:
    (_written(lab) / "data" / "chunk-000" / "file-001.parquet").unlink()
    return _described(lab)


@given("a dataset in LeRobot's layout that was not finalized, so that nothing tells of its episodes")
def _(lab: Lab) -> Said:
    shutil.rmtree(_written(lab) / "meta" / "episodes")
    return _described(lab)


@given("a dataset in LeRobot's layout with a link to a folder of files")
def _(lab: Lab) -> Said:
    folder = _written(lab)
    chunk = folder / "data" / "chunk-000"
    chunk.rename(folder / "elsewhere")
    chunk.symlink_to(folder / "elsewhere", target_is_directory=True)
    return _described(lab)


@given("a dataset in LeRobot's layout with a file that is cut short")
def _(lab: Lab) -> Said:
    path = _written(lab) / "data" / "chunk-000" / "file-000.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    return _described(lab)


@given("a dataset in LeRobot's layout with frames in another order")
def _(lab: Lab) -> Said:
    _rewritten(_written(lab), lambda table: table.take(list(range(len(table)))[::-1]))
    return _described(lab)


@given("a dataset in LeRobot's layout with a reward that is lacking")
def _(lab: Lab) -> Said:
    def lacking(table: pa.Table) -> pa.Table:
        return _column(table, "next.reward", pa.array([None, *table["next.reward"].to_pylist()[1:]], pa.float32()))

    _rewritten(_written(lab), lacking)
    return _described(lab)


@given("a dataset in LeRobot's layout with rows of another length than it says")
def _(lab: Lab) -> Said:
    def shorter(table: pa.Table) -> pa.Table:
        values = [row[:1] for row in table["action"].to_pylist()]
        return _column(table, "action", pa.array(values, pa.list_(pa.float32())))

    for path in sorted((_written(lab) / "data" / "chunk-000").iterdir()):
        _rewritten(lab.folder / "data" / "case", shorter, path.name)
    return _described(lab)


@given("a dataset in LeRobot's layout with more numbers than there is memory for")
def _(lab: Lab) -> Said:
    _rewritten(_written(lab), lambda table: table.take([0] * 500_000))
    with patch("mfql.footprint.free_memory", lambda: 1 << 20):
        return _described(lab)


@given("a dataset in LeRobot's layout, where pyarrow is not installed")
def _(lab: Lab) -> Said:
    _written(lab)
    with patch.dict(sys.modules, {"pyarrow": None}):
        return _described(lab)
