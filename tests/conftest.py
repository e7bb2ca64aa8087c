"""What tests of several files need."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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
