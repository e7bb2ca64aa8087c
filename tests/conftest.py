"""What tests of several files need."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

# The test processes share the processor: threads of torch that wait for each other spin, and leave the others no time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from tests.training_runs import SHORT, Workplace

# No test is timed: a busy machine fails none.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PROBE = """
from mfql.envs.pixels import choose_renderer
choose_renderer()
import mujoco
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).render()
"""


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips on a machine that cannot render off-screen; where MFQL_TEST_RENDERING is `required`, as in CI, fails there.

    Asked in a process of its own: without a driver MuJoCo may end the process.
    """
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if done.returncode:
        message = f"no off-screen rendering: {done.stderr.strip().splitlines()[-1:]}"
        if os.environ.get("MFQL_TEST_RENDERING") == "required":
            pytest.fail(message)
        pytest.skip(f"{message}; install libegl1 and libgl1-mesa-dri")


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Finished runs to be copied, one place for all workers: seeds 0 and 1 of `first` and `third`, seed 0 of `second`.

    Seed 0 of `first` was online too, and has beside its offline run one of earlier settings.
    """
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    with open(shared / "finished_runs.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "finished_runs").exists():
            place = Workplace.make(shared / "building_runs")
            place.method("first", SHORT + "batch_size: 8\n")
            place.train_here("first", "offline", (0,))
            for method, seeds in (("first", (0, 1)), ("second", (0,)), ("third", (0, 1))):
                place.method(method, SHORT)
                place.train_here(method, "offline", seeds)
            place.train_here("first", "online", (0,))
            place.folder.rename(shared / "finished_runs")
    return Workplace(shared / "finished_runs")
