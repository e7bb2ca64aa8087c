"""The package as others get it: its wheel in fresh environments, called in an empty folder: `make check-package`.

    python tests/check_package.py [INDEX]       # that torch comes from, such as that of its builds for processors

One environment has `mfql[workflow]`: it generates a dataset, trains, evaluates, plans, compares with the fixtures, and
runs the workflow to a report, all without a checkout. Another has the core alone: it acts and evaluates with the
policies that the first one trained, and says which extra is missing for what else it is asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.package import build
from tests.support.training_runs import MINIATURE, TASK

ROOT = Path(__file__).parents[1]
# A task in an environment of Gymnasium's own, which needs no simulator.
_PENDULUM = """task,env_id,data,metric,max_episode_steps
pendulum,Pendulum-v1,pendulum.npz,return,20
"""
_COLLECT = """
import gymnasium, numpy as np
rng, env = np.random.default_rng(0), gymnasium.make("Pendulum-v1")
rows = {name: [] for name in ("observations", "actions", "rewards", "masks", "terminals")}
for seed in range(2):
    observation, _ = env.reset(seed=seed)
    for step in range(40):
        action = rng.uniform(-2.0, 2.0, 1).astype(np.float32)
        after, reward, *_ = env.step(action)
        for name, value in zip(rows, (observation, action, reward, 1.0, step == 39)):
            rows[name].append(value)
        observation = after
np.savez("mine/pendulum.npz", **{name: np.array(values) for name, values in rows.items()})
"""
_ACT = """
import sys, numpy as np, mfql
policy = mfql.load_policy(sys.argv[1])
print(policy(np.zeros(policy.description["observation_shape"])).tolist())
more = {"mujoco", "ogbench", "snakemake", "torchjd", "pandas", "matplotlib", "h5py", "scipy"} & set(sys.modules)
assert not more, more
"""


class Installed:
    """A fresh environment with the wheel and one of its extras.

    Args:
        folder: of the environment.
        wheel: with its extra, as pip takes it.
        torch: the index that torch comes from, if another than pip's.
    """

    def __init__(self, folder: Path, wheel: str, torch: str | None) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        pip = [self.bin / "python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        pinned = ROOT / "containers/torch.txt"
        if torch:
            run([*pip, "--index-url", torch, "--requirement", pinned], ROOT)
        run([*pip, "--constraint", pinned, wheel], ROOT)

    def python(self, folder: Path, code: str, *arguments: str) -> str:
        """Run a program in a folder; returns all that it prints."""
        return run([self.bin / "python", "-c", code, *arguments], folder)

    def mfql(self, folder: Path, *arguments: str, fails: bool = False) -> str:
        """Run `mfql` in a folder; returns all that it prints."""
        return run([self.bin / "mfql", *arguments], folder, fails)


def run(command: list[str | Path], folder: Path, fails: bool = False) -> str:
    """Run a command without this process's Python; says how long it took, and ends where it does not do as meant."""
    began = time.monotonic()
    ours = {"PYTHONPATH", "VIRTUAL_ENV", "MFQL_EXTENSIONS"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    said = " ".join(Path(word).name if "/" in word else word for word in map(str, command[:9]) if "\n" not in word)
    print(f"{said}: {time.monotonic() - began:.0f} s", flush=True)
    if (done.returncode != 0) != fails:
        sys.exit(f"{' '.join(map(str, command))} exits with {done.returncode}:\n{done.stdout}")
    return done.stdout


def trained(full: Installed, folder: Path) -> None:
    """Line by line what a user does who has no checkout; own methods, tasks and configurations lie in `mine`."""
    shutil.copytree(MINIATURE, folder / "mine")
    (folder / "mine/tasks.csv").write_text(_PENDULUM, encoding="utf-8")
    full.python(folder, _COLLECT)
    full.mfql(folder, "data", "generate", "pointmaze-medium-navigate-v0", "--episodes", "2", "--out", "data")
    one = ("--stage", "offline", "--seeds", "0", "--threads", "1", "--workers", "0")
    for task in (TASK, "pendulum"):
        full.mfql(folder, "--extension", "mine", "train", "--method", "mfql-miniature", "--task", task, *one)
        found = full.mfql(folder, "evaluate", run_of(task), "--episodes", "2", "--out", f"{task}.json")
        assert "over 2 episodes" in found, found
    assert "12 runs" in full.mfql(folder, "plan", "--configfile", "config/quickstart.yaml")
    assert "OUT OF BOUNDS" not in full.mfql(folder, "parity")
    assert "This was a dry-run" in full.mfql(folder, "run", "-n", "--configfile", "config/quickstart.yaml")


def run_of(task: str) -> str:
    """The folder of a trained run."""
    return f"results/runs/mfql-miniature/{task}/seed0/offline"


def launched(full: Installed, folder: Path) -> None:
    """The workflow in miniature, to its report; its configuration is of this folder."""
    configuration = (ROOT / "tests/miniature.yaml").read_text(encoding="utf-8")
    (folder / "small.yaml").write_text(configuration.replace("tests/miniature", "mine"), encoding="utf-8")
    said = full.mfql(folder, "run", "--cores", "2", "--configfile", "small.yaml", "--config", "seeds=[0]")
    assert (folder / "results/miniature/report.html").is_file(), said


def acted(core: Installed, folder: Path, runs: Path) -> None:
    """What the core alone can do, and what it says of the rest."""
    for task in (TASK, "pendulum"):
        shutil.copytree(runs / run_of(task) / "run/policy", folder / task)
        core.python(folder, _ACT, task)
    assert "over 2 episodes" in core.mfql(folder, "evaluate", "pendulum", "--episodes", "2", "--out", "score.json")
    core.mfql(folder, "parity")
    for command, extra in (
        (["evaluate", TASK, "--episodes", "2", "--out", "score.json"], "envs"),
        (["data", "generate", "pointmaze-medium-navigate-v0", "--out", "data"], "train"),
        (["run", "-n"], "workflow"),
        (["plan"], "workflow"),
        (["verify"], "train"),
    ):
        said = core.mfql(folder, *command, fails=True)
        assert re.search(rf"is not installed\n +pip install 'mfql\[{extra}\]'", said), said


def main(torch: str | None = None) -> None:
    """Build, install twice, and do all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work, alone = folder / "work", folder / "alone"
        work.mkdir()
        alone.mkdir()
        wheel = build("wheel", folder)
        full = Installed(folder / "full", f"{wheel}[workflow]", torch)
        trained(full, work)
        launched(full, work)
        acted(Installed(folder / "core", str(wheel), torch), alone, work)
    print("the package trains, plans, evaluates and reports without a checkout; its core acts and evaluates")


if __name__ == "__main__":
    main(*sys.argv[1:])
