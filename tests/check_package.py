"""The package as others get it: its wheel in fresh environments, called in an empty folder: `make check-package`.

    python tests/check_package.py [INDEX]       # that torch comes from, such as that of its builds for processors

One environment has `mfql[export,workflow]`: it generates a dataset, trains, evaluates, plans, compares with the
fixtures, and runs the workflow to a report, all without a checkout. Another has the core alone: it acts and evaluates
with the policies that the first one trained, and says which extra is missing for what else it is asked. The third has
neither this package nor torch: onnxruntime acts there with a policy that the first one exported, as the policy does.
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
# The actions of a policy on a few observations, with the noise that it drew for them.
_EXPECT = """
import sys, numpy as np, torch, mfql
from mfql.draws import DrawStream
policy = mfql.load_policy(sys.argv[1])
seen = np.random.default_rng(0).normal(0.0, 2.0, (5, *policy.description["observation_shape"])).astype(np.float32)
draw = policy.actor.agent.act_draw()
noise = DrawStream({"noise": type(draw)(draw.kind, (5, *draw.shape))}, [0], "policy/5", torch.device("cpu")).at(0)
np.savez("expected.npz", observations=seen, noise=noise["noise"][0].numpy(), actions=policy(seen))
"""
_ELSEWHERE = """
import importlib.util, numpy as np, onnxruntime
assert not any(map(importlib.util.find_spec, ("torch", "mfql")))
expected = dict(np.load("expected.npz"))
actions, session = expected.pop("actions"), onnxruntime.InferenceSession("policy.onnx")
found = session.run(["actions"], {name: value.astype(np.float32) for name, value in expected.items()})[0]
print(float(np.abs(found - actions).max()))
assert found.shape == actions.shape
assert np.abs(found - actions).max() <= 1e-5
"""


class Installed:
    """A fresh environment with the wheel and one of its extras.

    Args:
        folder: of the environment.
        wheel: with its extra, as pip takes it.
        torch: the index that torch comes from, if another than pip's.
    """

    def __init__(self, folder: Path, wheel: str, torch: str | None) -> None:
        self.bin = folder / "bin"
        pip, pinned = fresh(folder), ROOT / "containers/torch.txt"
        if torch:
            run([*pip, "--index-url", torch, "--requirement", pinned], ROOT)
        run([*pip, "--constraint", pinned, wheel], ROOT)

    def python(self, folder: Path, code: str, *arguments: str) -> str:
        """Run a program in a folder; returns all that it prints."""
        return run([self.bin / "python", "-c", code, *arguments], folder)

    def mfql(self, folder: Path, *arguments: str, fails: bool = False) -> str:
        """Run `mfql` in a folder; returns all that it prints."""
        return run([self.bin / "mfql", *arguments], folder, fails)


def fresh(folder: Path) -> list[str | Path]:
    """A fresh environment; returns the command that installs into it."""
    venv.create(folder, with_pip=True)
    return [folder / "bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]


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


def exported(full: Installed, folder: Path, elsewhere: Path) -> None:
    """A policy as one file, and its actions where neither this package nor torch is."""
    run_folder = run_of("pendulum")
    full.mfql(folder, "--extension", "mine", "export", run_folder, "--to", "onnx", "--out", "policy.onnx")
    full.python(folder, _EXPECT, run_folder)
    run([*fresh(elsewhere), "onnxruntime"], ROOT)
    run([elsewhere / "bin/python", "-c", _ELSEWHERE], folder)


def main(torch: str | None = None) -> None:
    """Build, install twice, and do all of it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        work, alone = folder / "work", folder / "alone"
        work.mkdir()
        alone.mkdir()
        wheel = build("wheel", folder)
        full = Installed(folder / "full", f"{wheel}[export,workflow]", torch)
        trained(full, work)
        exported(full, work, folder / "elsewhere")
        launched(full, work)
        acted(Installed(folder / "core", str(wheel), torch), alone, work)
    print(
        "the package trains, plans, evaluates, exports and reports without a checkout; its core acts and evaluates; an"
        " exported policy acts without either"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
