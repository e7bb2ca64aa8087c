"""Datasets' files in OGBench's, D4RL's and other layouts."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import pytest

from mfql.suites import load, suite_of
from mfql.tasks import find_task
from tests.support.forbidden import FAILING_DISK, NO_LOCKS, forbidden, open_for_writing, preloaded
from tests.support.inputs.lab import Lab, Said, given
from tests.support.inputs.minari import WRAPPED


@given("an OGBench layout with an array that nobody reads")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"qpos": np.zeros((len(arrays["rewards"]), 3))})


@given("rewards as a column `[N, 1]`")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"rewards": arrays["rewards"][:, None]})


@given("actions that are whole numbers")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"actions": np.zeros(arrays["actions"].shape, np.int64)})


@given("an array of Python's objects")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"observations": arrays["observations"].astype(object)})


@given("arrays of which one has a row less")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"rewards": arrays["rewards"][:-1]})


@given("arrays under names of other libraries")
def _(lab: Lab) -> Said:
    names = {"observations": "obs", "rewards": "reward", "terminals": "done"}
    return lab.describe_npz({names.get(name, name): values for name, values in lab.point().items()})


@given("masks below 0")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"masks": 1.0 - 2.0 * arrays["terminals"]})


@given("masks that are the opposite of what is meant")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"masks": 1.0 - arrays["masks"]})


@given("masks between 0 and 1")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"masks": 0.9 * arrays["masks"]})


@given("an observation that has one value alone, where the environment shows others")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    arrays["observations"][:, 3] = 0.5
    return lab.describe_npz(arrays)


@given("the same for `mfql train`, without `mfql data describe` before it")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    arrays["observations"][:, 3] = 0.5
    np.savez(lab.folder / "data" / "case.npz", **arrays)
    lab.row("case,point:mylab/Point-v0,data/case.npz,success")
    return lab.called(lambda: suite_of("case").try_out("case", lab.folder / "described"))


@given("a file without its last row")
def _(lab: Lab) -> Said:
    return lab.describe_npz({name: values[:-1] for name, values in lab.point().items()})


@given("every row ends its trajectory")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"terminals": np.ones(len(arrays["terminals"]))})


@given("complex numbers")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"rewards": arrays["rewards"].astype(complex)})


@given("terminals of 0 and 255")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"terminals": arrays["terminals"] * np.uint8(255)})


@given("terminals of 0, 1 and 2")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    terminals = arrays["terminals"].astype(int)
    terminals[np.flatnonzero(terminals)[::2]] = 2
    return lab.describe_npz(arrays | {"terminals": terminals})


@given("terminals of 1 and -1")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"terminals": 2 * arrays["terminals"].astype(int) - 1})


@given("values of float16")
def _(lab: Lab) -> Said:
    return lab.describe_npz({name: values.astype(np.float16) for name, values in lab.point().items()})


@given("observations of bool")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"observations": arrays["observations"] > 0})


@given("a file without rows")
def _(lab: Lab) -> Said:
    return lab.describe_npz({name: values[:0] for name, values in lab.point().items()})


@given("a validation file without rows")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    np.savez(lab.folder / "data" / "case-val.npz", **{name: values[:0] for name, values in arrays.items()})
    return lab.describe_npz(arrays)


@given("one row")
def _(lab: Lab) -> Said:
    return lab.describe_npz({name: values[-1:] for name, values in lab.point().items()})


@given("one episode")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    first, last = np.flatnonzero(arrays["terminals"])[:2]
    return lab.describe_npz({name: values[first + 1 : last + 1] for name, values in arrays.items()})


@given("an .npz file with an array twice")
def _(lab: Lab) -> Said:
    arrays, path = lab.point(), lab.folder / "data" / "case.npz"
    np.savez(path, **arrays)
    again = io.BytesIO()
    np.save(again, np.full(len(arrays["rewards"]), -7.0))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("rewards.npy", again.getvalue())
    return lab.describe("data/case.npz")


@given("an .npz file with an array under two names that numpy takes for one")
def _(lab: Lab) -> Said:
    path = lab.folder / "data" / "case.npz"
    np.savez(path, **lab.point())
    again = io.BytesIO()
    np.save(again, np.full(len(lab.point()["rewards"]), -7.0))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards", again.getvalue())
    return lab.describe("data/case.npz")


def _with_header(lab: Lab, rows: object, held: int) -> Said:
    """What is said of rewards whose header says more rows, of which the file holds so many bytes."""
    path, header = lab.folder / "data" / "case.npz", io.BytesIO()
    np.savez(path, **{name: values for name, values in lab.point().items() if name != "rewards"})
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (rows,)})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rewards.npy", header.getvalue() + bytes(held))
    return lab.describe("data/case.npz")


@given("an .npz file whose header says more numbers than it has")
def _(lab: Lab) -> Said:
    return _with_header(lab, 10**13, 800)


@given("an .npz file whose header says a number of rows that is none")
def _(lab: Lab) -> Said:
    return _with_header(lab, True, 8)


@given("an .npz file with more numbers than there is memory for")
def _(lab: Lab) -> Said:
    with patch("mfql.footprint.free_memory", lambda: 1 << 20):
        return _with_header(lab, 1 << 22, 8 << 22)


@given("an HDF5 file with more numbers than there is memory for")
def _(lab: Lab) -> Said:
    arrays = lab.point_hdf5()
    with h5py.File(lab.folder / "data" / "case.hdf5", "w") as file:
        for name in arrays:
            file.create_dataset(name, (10**13, *np.shape(arrays[name])[1:]), np.float64, chunks=True)
    return lab.describe("data/case.hdf5")


def _elsewhere(lab: Lab, make: Callable[[h5py.File, Path, np.ndarray], object]) -> Said:
    """What is said of a file whose rewards lie in another one, and whole otherwise."""
    arrays, other = lab.point_hdf5(), lab.folder / "data" / "other.hdf5"
    lab.write_hdf5({name: values for name, values in arrays.items() if name != "rewards"})
    with h5py.File(other, "w") as file:
        file["rewards"] = arrays["rewards"]
    with h5py.File(lab.folder / "data" / "case.hdf5", "a") as file:
        make(file, other, arrays["rewards"])
        assert file["rewards"].shape == arrays["rewards"].shape
    return lab.describe("data/case.hdf5")


@given("an HDF5 file with a link to an array of another file")
def _(lab: Lab) -> Said:
    def link(file: h5py.File, other: Path, _: np.ndarray) -> None:
        file["rewards"] = h5py.ExternalLink(other.name, "/rewards")

    return _elsewhere(lab, link)


@given("an HDF5 file with a link along a link to another file")
def _(lab: Lab) -> Said:
    def link(file: h5py.File, other: Path, _: np.ndarray) -> None:
        file["kept/there"] = h5py.ExternalLink(other.name, "/")
        file["rewards"] = h5py.SoftLink("/kept/there/rewards")

    return _elsewhere(lab, link)


@given("an HDF5 file that keeps an array in a file of its own")
def _(lab: Lab) -> Said:
    def keep(file: h5py.File, other: Path, rewards: np.ndarray) -> None:
        raw = [(str(other.with_name("rewards.raw")), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("rewards", rewards.shape, rewards.dtype, external=raw)
        file["rewards"][:] = rewards

    return _elsewhere(lab, keep)


@given("an HDF5 file that puts an array together of those of another file")
def _(lab: Lab) -> Said:
    def put_together(file: h5py.File, other: Path, rewards: np.ndarray) -> None:
        layout = h5py.VirtualLayout(rewards.shape, rewards.dtype)
        layout[:] = h5py.VirtualSource(other, "rewards", rewards.shape)
        file.create_virtual_dataset("rewards", layout)

    return _elsewhere(lab, put_together)


@given("an HDF5 file with a link to an array of its own")
def _(lab: Lab) -> Said:
    arrays = lab.point_hdf5()
    lab.write_hdf5({name: values for name, values in arrays.items() if name != "rewards"})
    with h5py.File(lab.folder / "data" / "case.hdf5", "a") as file:
        file["paid/rewards"] = arrays["rewards"]
        file["rewards"] = h5py.SoftLink("/paid/rewards")
    return lab.describe("data/case.hdf5")


@given("next_observations that are not those of the row that follows, in some rows that terminals do not mark")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    last = np.flatnonzero(arrays["terminals"])
    after = np.roll(arrays["observations"], -1, axis=0)
    after[last] = arrays["observations"][last]
    arrays["terminals"][last[:-1:2]] = 0
    said = lab.describe_npz(arrays | {"next_observations": after})
    assert np.flatnonzero(load(find_task("case"), lab.folder / "described").terminals).tolist() == last.tolist()
    return said


@given("numbers that float32 has not")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][5] = 1e39
    return lab.describe_npz(arrays)


@given("observations out of the environment's bounds")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    arrays["observations"][::50, 1] += 7.0
    return lab.describe_npz(arrays)


@given("rewards of the other sign")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"rewards": arrays["rewards"] + 1.0 + np.arange(len(arrays["rewards"])) % 2})


@given("actions of other units")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"actions": 1e-4 * arrays["actions"]})


@given("actions in [-1, 1] for an environment with wider bounds")
def _(lab: Lab) -> Said:
    with np.load(lab.folder / "data" / "pendulum.npz") as file:
        arrays = dict(file)
    np.savez(lab.folder / "data" / "case.npz", **arrays | {"actions": arrays["actions"] / 2.0})
    lab.row("case,Pendulum-v1,data/case.npz,return\npendulum,Pendulum-v1,data/pendulum.npz,return")
    assert "warning" not in lab.mfql("data", "describe", "pendulum", "--out", lab.folder / "described").text
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


@given("actions in [-1, 1] for an environment with narrower bounds")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"actions": np.clip(arrays["actions"] / 0.2, -1.0, 1.0)})


def _drift(rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One trajectory of a point that drifts slowly, in so many rows."""
    place = np.linspace(-1.0, 1.0, rows)[:, None] * np.ones(2)
    return {
        "observations": np.concatenate([place, np.broadcast_to(rng.uniform(-1.0, 1.0, 2), place.shape)], axis=1),
        "actions": np.full((rows, 2), 2.0 / rows) * rng.uniform(0.9, 1.1, (rows, 2)),
        "rewards": np.full(rows, -1.0),
        "masks": np.ones(rows),
        "terminals": np.arange(rows) == rows - 1,
    }


@given("trajectories that are longer than an episode")
def _(lab: Lab) -> Said:
    rng = np.random.default_rng(0)
    parts = [_drift(101, rng) for _ in range(3)]
    return lab.describe_npz({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


@given("a file longer than an episode in which no row but the last ends one")
def _(lab: Lab) -> Said:
    arrays = _drift(101, np.random.default_rng(0))
    said = lab.describe_npz(arrays)
    after = np.append(arrays["observations"][1:], arrays["observations"][-1:], axis=0)
    believed = lab.describe_npz(arrays | {"next_observations": after})
    assert "101 transitions, 1 trajectories" in believed.text
    return said


@given("ends of episodes that are not marked, in an .npz file")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    ends = np.flatnonzero(arrays["terminals"])[:-1]
    arrays["terminals"][ends[::2]] = 0
    return lab.describe_npz(arrays)


@given("leaps within episodes whose ends are all marked, and come by chance")
def _(lab: Lab) -> Said:
    rng, rows = np.random.default_rng(0), []
    for steps in np.minimum(rng.geometric(0.05, 150) + 1, 40):
        place = rng.uniform(-1.0, 1.0, 4)
        for step in range(steps):
            rows.append((place, step == steps - 1))
            leaps = rng.random() < 0.03
            place = rng.uniform(-1.0, 1.0, 4) if leaps else np.clip(place + rng.uniform(-0.02, 0.02, 4), -1.0, 1.0)
    return lab.describe_npz(
        {
            "observations": np.array([place for place, _ in rows]),
            "actions": rng.uniform(-0.2, 0.2, (len(rows), 2)),
            "rewards": np.full(len(rows), -1.0),
            "masks": np.ones(len(rows)),
            "terminals": np.array([last for _, last in rows]),
        }
    )


@given("actions whose bounds are those of a type of numbers")
def _(lab: Lab) -> Said:
    largest = "Box(float(np.finfo(np.float32).min), float(np.finfo(np.float32).max), (2,), np.float32)"
    text = (lab.folder / "point.py").read_text(encoding="utf-8").replace("Box(-0.2, 0.2, (2,), np.float32)", largest)
    (lab.folder / "endless.py").write_text(
        text.replace("mylab/Point-v0", "mylab/Endless-v0").replace("point:", "endless:"), encoding="utf-8"
    )
    lab.row("case,endless:mylab/Endless-v0,data/point.npz,success")
    return lab.mfql("data", "describe", "case", "--out", lab.folder / "described")


# --- HDF5 -------------------------------------------------------------------------------------------------------------


def _with_next(lab: Lab) -> dict[str, np.ndarray]:
    """The transitions of the point, each with its next observation, as D4RL's qlearning_dataset has them."""
    steps = lab.point_hdf5()
    kept = np.flatnonzero(~steps["timeouts"][:-1])
    rows = {name: steps[name][kept] for name in ("observations", "actions", "rewards", "terminals")}
    return rows | {"next_observations": steps["observations"][kept + 1]}


@given("D4RL's layout, compressed and in chunks, with flags of float and groups that nobody reads")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    steps |= {name: steps[name].astype(np.float32) for name in ("terminals", "timeouts")}
    steps |= {"infos/goal": np.zeros((len(steps["rewards"]), 2))}
    return lab.describe_hdf5(steps, compression="gzip", chunks=True)


@given("a saved `qlearning_dataset`: next_observations, no timeouts")
def _(lab: Lab) -> Said:
    return lab.describe_hdf5(_with_next(lab))


@given("a replay buffer in random order, with next_observations")
def _(lab: Lab) -> Said:
    rows = _with_next(lab)
    order = np.random.default_rng(0).permutation(len(rows["rewards"]))
    shuffled = {name: values[order] for name, values in rows.items()}
    said = lab.describe_hdf5(shuffled | {"timeouts": np.zeros(len(order), bool)})
    found = load(find_task("case"), lab.folder / "described")
    np.testing.assert_array_equal(found.next_observations, shuffled["next_observations"].astype(np.float32))
    return said


@given("the same for a method that learns from returns")
def _(lab: Lab) -> Said:
    rows = _with_next(lab)
    order = np.random.default_rng(0).permutation(len(rows["rewards"]))
    lab.describe_hdf5({name: values[order] for name, values in rows.items()})
    (lab.folder / "methods" / "small.yaml").write_text(
        "inherits: rebrac\noffline_steps: 10\nbatch_size: 8\n", encoding="utf-8"
    )
    folders = ("--data", lab.folder / "described", "--results", lab.folder / "results")
    said = lab.mfql("train", "--method", "small", "--task", "case", "--seeds", "0", "--stage", "offline", *folders)
    return Said(said.status, said.text[said.text.index("small learns") :])  # After the note of the case before.


@given("next_observations and timeouts that agree")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    return lab.describe_hdf5(steps | {"next_observations": np.roll(steps["observations"], -1, axis=0)})


@given("half of the time-outs unmarked")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    steps["timeouts"][np.flatnonzero(steps["timeouts"])[::2]] = False
    return lab.describe_hdf5(steps)


@given("no time-out marked, of episodes that all end so")
def _(lab: Lab) -> Said:
    rng = np.random.default_rng(0)
    steps = {"observations": [], "actions": [], "rewards": []}
    for _ in range(30):
        place, goal = rng.uniform(-1.0, 1.0, (2, 2))
        actions = rng.uniform(-0.01, 0.01, (40, 2))
        seen = place + np.cumsum(actions, axis=0) - actions
        steps["observations"].append(np.concatenate([seen, np.broadcast_to(goal, seen.shape)], axis=1))
        steps["actions"].append(actions)
        steps["rewards"].append(np.full(40, -1.0))
    ends = np.zeros(1200, bool)
    return lab.describe_hdf5(
        {name: np.concatenate(parts) for name, parts in steps.items()} | {"terminals": ends, "timeouts": ends}
    )


def _unmarked(lab: Lab, rows: int) -> Said:
    arrays, ends = _drift(rows, np.random.default_rng(0)), np.zeros(rows, bool)
    steps = {name: arrays[name] for name in ("observations", "actions", "rewards")}
    return lab.describe_hdf5(steps | {"terminals": ends, "timeouts": ends})


@given("D4RL's layout, longer than an episode, without a marked end")
def _(lab: Lab) -> Said:
    return _unmarked(lab, 101)


@given("the same, no longer than an episode")
def _(lab: Lab) -> Said:
    said = _unmarked(lab, 41)
    assert "40 transitions, 1 trajectories of 40 to 40 steps" in said.text
    return said


@given("terminals that are NaN")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    terminals = steps["terminals"].astype(float)
    terminals[3] = np.nan
    return lab.describe_hdf5(steps | {"terminals": terminals})


@given("an infinite reward")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    steps["rewards"][5] = np.inf
    return lab.describe_hdf5(steps)


@given("terminals that are timeouts, too")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    return lab.describe_hdf5(steps | {"timeouts": steps["timeouts"] | steps["terminals"]})


@given("D4RL's layout of which one array has a row less")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    return lab.describe_hdf5(steps | {"rewards": steps["rewards"][:-1]})


@given("D4RL's layout under names of other libraries")
def _(lab: Lab) -> Said:
    names = {"rewards": "reward", "timeouts": "truncations"}
    return lab.describe_hdf5({names.get(name, name): values for name, values in lab.point_hdf5().items()})


@given("one transition")
def _(lab: Lab) -> Said:
    return lab.describe_hdf5({name: values[:2] for name, values in lab.point_hdf5().items()})


@given("D4RL's layout without timeouts")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    return lab.describe_hdf5({name: values for name, values in steps.items() if name != "timeouts"})


@given("d3rlpy's layout, version 1: `episode_terminals`, no `timeouts`")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    steps["episode_terminals"] = (steps["terminals"] | steps.pop("timeouts")).astype(np.float32)
    said = lab.describe_hdf5(steps | {"discrete_action": np.array(False), "version": np.array(b"1.0")})
    assert "2447 transitions, 200 trajectories" in said.text
    return said


@given("d3rlpy's layout, version 2: arrays an episode")
def _(lab: Lab) -> Said:
    steps = lab.point_hdf5()
    arrays: dict[str, np.ndarray] = {}
    for i, rows in enumerate(np.split(np.arange(len(steps["rewards"])), np.flatnonzero(steps["timeouts"])[:-1] + 1)):
        terminated = bool(steps["terminals"][rows].any())
        rows = rows[:-1] if terminated else rows
        arrays[f"observations_{i}"], arrays[f"actions_{i}"] = steps["observations"][rows], steps["actions"][rows]
        arrays[f"rewards_{i}"], arrays[f"terminated_{i}"] = steps["rewards"][rows][:, None], np.array(terminated)
    told = {"columns": np.array([b"observations"]), "num_episodes": np.array(i + 1), "version": np.array(b"2.1")}
    said = lab.describe_hdf5(arrays | told)
    assert "2447 transitions, 200 trajectories" in said.text
    return said


def _demonstrations(keys: Mapping[str, slice]) -> dict[str, np.ndarray]:
    """robomimic's layout: two drives to a goal, whose observations are these parts of the point's."""
    rng, arrays = np.random.default_rng(0), {}
    for i in range(2):
        actions = rng.uniform(-0.1, 0.1, (6, 2))
        place = np.cumsum(actions, axis=0) - actions
        goal = np.broadcast_to(place[-1] + actions[-1], place.shape)
        seen = np.concatenate([place, goal + 0.01 * i], axis=1)
        arrays |= {f"data/demo_{i}/obs/{key}": seen[:, part] for key, part in keys.items()}
        arrays |= {f"data/demo_{i}/actions": actions, f"data/demo_{i}/rewards": np.array([-1.0] * 5 + [0.0])}
        arrays[f"data/demo_{i}/dones"] = np.arange(6) == 5
    return arrays


@given("robomimic's layout, its observations one array")
def _(lab: Lab) -> Said:
    said = lab.describe_hdf5(_demonstrations({"state": slice(4)}))
    assert "12 transitions, 2 trajectories" in said.text
    return said


@given("robomimic's layout, its observations several arrays, for an environment that shows them")
def _(lab: Lab) -> Said:
    (lab.folder / "lab_goal.py").write_text(WRAPPED, encoding="utf-8")
    lab.write_hdf5(_demonstrations({"goal": slice(2, 3), "place": slice(2)}))
    lab.row("case,lab_goal:lab/Goal-v0,data/case.hdf5,return")
    said = lab.mfql("data", "describe", "case", "--out", lab.folder / "goal")
    assert "observations [3], actions [2]" in said.text, said.text
    return said


@given("robomimic's layout with filter keys")
def _(lab: Lab) -> Said:
    return lab.describe_hdf5(_demonstrations({"state": slice(4)}) | {"mask/train": np.array([b"demo_0"])})


@given("robomimic's layout, its observations several arrays, for an environment that shows one")
def _(lab: Lab) -> Said:
    return lab.describe_hdf5(_demonstrations({"place": slice(2), "goal": slice(2, 4)}))


# --- what cannot be opened now ---------------------------------------------------------------------------------------


def _untouched(lab: Lab, said: Said) -> Said:
    """Nothing in the folder of the data was moved, and nobody is told to make it again."""
    assert {path.name for path in (lab.folder / "data").iterdir()} == {"point.npz", "point.hdf5", "pendulum.npz"}
    assert "again when" in said.text or " again" not in said.text, said.text
    assert "anew" not in said.text, said.text
    assert said.status == 0 or not (lab.folder / "described").exists(), said.text
    return said


@given("an HDF5 file on a file system without locks")
def _(lab: Lab) -> Said:
    return _untouched(lab, lab.describe("data/point.hdf5", lab.apart, **preloaded(lab.folder, NO_LOCKS)))


@given("an HDF5 file that a notebook has open for writing")
def _(lab: Lab) -> Said:
    with open_for_writing(lab.folder / "data" / "point.hdf5") as number:
        said = _untouched(lab, lab.describe("data/point.hdf5"))
        assert f"process {number} (" in said.text
    assert lab.describe("data/point.hdf5").status == 0
    return said


@given("an HDF5 file whose writer ended without closing it")
def _(lab: Lab) -> Said:
    path = lab.folder / "data" / "point.hdf5"
    code = f"import h5py, os; file = h5py.File({str(path)!r}, 'w', libver='latest'); file.flush(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    return _untouched(lab, lab.describe("data/point.hdf5"))


@given("an HDF5 file that the user may not read")
def _(lab: Lab) -> Said:
    with forbidden(lab.folder / "data" / "point.hdf5"):
        return _untouched(lab, lab.describe("data/point.hdf5"))


@given("an HDF5 file on a disk that fails")
def _(lab: Lab) -> Said:
    return _untouched(lab, lab.describe("data/point.hdf5", lab.apart, **preloaded(lab.folder, FAILING_DISK)))


@given("an HDF5 file that is cut short")
def _(lab: Lab) -> Said:
    path = lab.folder / "data" / "point.hdf5"
    path.write_bytes(path.read_bytes()[:-100])
    said = lab.describe("data/point.hdf5")
    assert path.is_file()
    return said


@given("an .npz file that the user may not read")
def _(lab: Lab) -> Said:
    with forbidden(lab.folder / "data" / "point.npz"):
        return _untouched(lab, lab.describe("data/point.npz"))


@given("an .npz file in a folder that the user may not enter")
def _(lab: Lab) -> Said:
    with forbidden(lab.folder / "data"):
        said = lab.describe("data/point.npz")
    return _untouched(lab, said)


def _minari(lab: Lab, steps: int = 6) -> Path:
    """A Minari dataset of the lab's environment; its file of steps."""
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    with patch.object(sys, "path", [*sys.path, str(lab.folder)]):
        env = gymnasium.make("point:mylab/Point-v0")
    rng = np.random.default_rng(0)
    episode = EpisodeBuffer(
        observations=list(rng.uniform(-1.0, 1.0, (steps + 1, 4))),
        actions=list(rng.uniform(-0.2, 0.2, (steps, 2)).astype(np.float32)),
        rewards=[-1.0] * steps,
        terminations=[False] * steps,
        truncations=[False] * (steps - 1) + [True],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of what a dataset may say of itself and this one does not.
        minari.create_dataset_from_buffers("held/point-v0", [episode], env=env)
    return Path(os.environ["MINARI_DATASETS_PATH"], "held", "point-v0", "data", "main_data.hdf5")


@given("a Minari dataset in HDF5 with a link to an episode of another file")
def _(lab: Lab) -> Said:
    path = _minari(lab)
    with h5py.File(path, "a") as file, h5py.File(path.with_name("episode.raw"), "w") as other:
        file.copy("episode_0", other)
        del file["episode_0"]
        file["episode_0"] = h5py.ExternalLink("episode.raw", "/episode_0")
    return lab.describe("minari:held/point-v0")


@given("a Minari dataset in HDF5 on a file system without locks")
def _(lab: Lab) -> Said:
    _minari(lab)
    return lab.describe("minari:held/point-v0", lab.apart, **preloaded(lab.folder, NO_LOCKS))


@given("a Minari dataset in HDF5 that a notebook has open for writing")
def _(lab: Lab) -> Said:
    with open_for_writing(_minari(lab)):
        return lab.describe("minari:held/point-v0")


@given("a Minari dataset in HDF5 that the user may not read")
def _(lab: Lab) -> Said:
    with forbidden(_minari(lab)):
        return lab.describe("minari:held/point-v0")


@given("a Minari dataset in HDF5 on a disk that fails")
def _(lab: Lab) -> Said:
    _minari(lab, steps=400)
    said = lab.describe("minari:held/point-v0", lab.apart, **preloaded(lab.folder, FAILING_DISK))
    assert "env_id" not in said.text, said.text
    return said
