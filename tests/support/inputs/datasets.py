"""Datasets' files in OGBench's, D4RL's and other layouts."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from tests.support.forbidden import FAILING_DISK, NO_LOCKS, forbidden, open_for_writing, preloaded
from tests.support.inputs.lab import Lab, Said, given


@given("an OGBench layout with an array that nobody reads")
def _(lab: Lab) -> Said:
    arrays = lab.point()
    return lab.describe_npz(arrays | {"qpos": np.zeros((len(arrays["rewards"]), 3))})


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
