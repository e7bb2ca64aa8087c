"""What tests of several files need."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# The test processes share the processor: threads of torch that wait for each other spin, and leave the others no time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

from mfql import extensions
from mfql.extensions import VARIABLE
from tests.support.page import COMMANDS, FILES
from tests.support.project import clone
from tests.support.training_runs import MINIATURE, SHORT, Workplace

# Known to this process and to all that it starts.
os.environ[VARIABLE] = str(MINIATURE)

# No test is timed: a busy machine fails none.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PROBE = """
from mfql.envs.pixels import choose_renderer
choose_renderer()
import mujoco
mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).render()
"""


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read anew after a test that ran a Snakefile in its own process, which keeps what it reads."""
    monkeypatch.setattr(extensions, "_kept", None)


@pytest.fixture(scope="session")
def rendering() -> None:
    """Skips on a machine that cannot render off-screen; where MFQL_TEST_RENDERING is `required`, as in CI, fails there.

    Asked in a process of its own: without a driver MuJoCo may end the process.
    """
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, encoding="utf-8")
    if done.returncode:
        message = f"no off-screen rendering: {done.stderr.strip().splitlines()[-1:]}"
        if os.environ.get("MFQL_TEST_RENDERING") == "required":
            pytest.fail(message)
        pytest.skip(f"{message}; install libegl1 and libgl1-mesa-dri")


@pytest.fixture(autouse=True)
def extensions_stay() -> Iterator[None]:
    """A configuration that is read names its extensions to the whole process: no other test sees them."""
    before = os.environ[VARIABLE]
    yield
    os.environ[VARIABLE] = before


@pytest.fixture(autouse=True)
def small_numbers_stay() -> Iterator[None]:
    """Training in a test's process makes the processor take the smallest numbers for zero: no other test sees that."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="module")
def few_repetitions() -> Iterator[None]:
    """For tests that look at no bootstrap's numbers."""
    from mfql.report import bootstrap

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPETITIONS", 50)
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`made_once(name, make)`: a folder that `make` fills, one for all test processes; those that come later wait."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        with open(shared / f"{name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (shared / name).exists():
                make(shared / f"building-{name}")
                (shared / f"building-{name}").rename(shared / name)
        return shared / name

    return folder


@pytest.fixture(scope="session")
def finished_runs(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Workplace:
    """Finished runs to be copied: seeds 0 and 1 of `first` and `third`, seed 0 of `second`.

    Seed 0 of `first` was online too, and has beside its offline run one of earlier settings.
    """
    return Workplace(made_once("finished-runs", _train))


def _train(folder: Path) -> None:
    place = Workplace.make(folder)
    place.method("first", SHORT + "batch_size: 8\n")
    place.train_here("first", "offline", (0,))
    for method, seeds in (("first", (0, 1)), ("second", (0,)), ("third", (0, 1))):
        place.method(method, SHORT)
        place.train_here(method, "offline", seeds)
    place.train_here("first", "online", (0,))


@pytest.fixture(scope="session")
def lab(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The page's folder `mylab` with its data, beside the project's, to be read; Minari's datasets beside both."""

    def make(folder: Path) -> None:
        clone(folder / "mfql")
        for name, content in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        (command,) = [command for command in COMMANDS if command.endswith("collect.py")]
        environment = os.environ | {"MINARI_DATASETS_PATH": str(folder / "minari")}
        subprocess.run([sys.executable, *command.split()[1:]], cwd=folder / "mfql", env=environment, check=True)

    return made_once("lab", make)
