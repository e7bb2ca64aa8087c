"""`python -m benchmarks check`: its parts, what a call goes on with after another, and what each part finds wrong."""

from __future__ import annotations

import importlib.util
import json
import os
import site
import subprocess
import sys
import venv
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from importlib.metadata import PackageNotFoundError, files, requires
from pathlib import Path

import jsonschema
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import __main__ as command
from benchmarks.check import killed, parity, run, speed, steps, task
from benchmarks.check.part import SIZES, Check, Outcome, Part
from benchmarks.results import Measurement, document
from mfql.cli import EXIT_CONTINUE
from mfql.errors import UserError
from mfql.parity import Comparison
from mfql.plan.cost import MeasuredSpeed, find_speed
from tests.support.processes import run as run_to_end
from tests.support.processes import started, until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "benchmarks" / "schema.json").read_text(encoding="utf-8"))
CPU = torch.device("cpu")


def start(out: Path, *arguments: str, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [sys.executable, "-m", "benchmarks", "check", "--device", "cpu", "--out", str(out), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def part_of(out: Path, name: str) -> dict:
    return json.loads((out / f"part-{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def check(tmp_path) -> Check:
    return Check(CPU, SIZES["small"], tmp_path)


@pytest.mark.long
def test_all_parts_run_on_a_processor_and_a_killed_call_is_gone_on_with(tmp_path):
    with start(tmp_path) as process:
        until((tmp_path / "part-update.json").exists, process, process.stdout.read)
    finished = {path.stem.removeprefix("part-") for path in tmp_path.glob("part-*.json")}
    assert "task" not in finished

    with start(tmp_path) as again:
        printed, _ = again.communicate()
    assert again.returncode == 0, printed
    names = [part.name for part in run.parts(Check(CPU, SIZES["small"], tmp_path))]
    assert {name for name in names if f"check: {name}: finished before" in printed} == finished
    assert {name: part_of(tmp_path, name)["status"] for name in names} == dict.fromkeys(names, "finished")

    bench = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    jsonschema.validate(bench, SCHEMA)
    assert not {path for path in tmp_path.iterdir() if path.name.startswith("tmp")}
    measured = {one["part"] for one in bench["measurements"]}
    expected = {"machine", "parity", "steps", "killed", "update", "seeds", "plan", "acting", "memory", "online"}
    assert measured >= expected | {"evaluation", "task"}
    methods = {one["case"]["method"] for one in bench["measurements"] if one["part"] == "steps"}
    assert methods == {path.stem for path in (ROOT / "config" / "methods").glob("*.yaml") if "-" not in path.stem}
    assert [one["value"] for one in bench["measurements"] if one["part"] == "killed"] == [0]
    curve = [one["case"]["step"] for one in bench["measurements"] if one["quantity"] == "success"]
    assert curve == [30, 60]
    assert isinstance(find_speed(tmp_path / "speed.json", gpus=0), MeasuredSpeed)


def test_without_a_gpu_the_check_says_so_and_ends(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main(["check", "--device", "cuda", "--out", str(tmp_path)]) == 2
    assert "sees no GPU" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--parts", "prity"], "parity"), (["--size", "full"], "would take weeks")]
)
def test_what_cannot_be_checked_is_refused(arguments, said, tmp_path, capsys):
    assert command.main(["check", "--device", "cpu", "--out", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_when_time_is_up_the_rest_is_named_with_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    arguments = ["check", "--device", "cpu", "--out", str(tmp_path), "--minutes", "0", "--parts", "step-bc", "parity"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *arguments])
    assert command.main(arguments) == EXIT_CONTINUE
    assert part_of(tmp_path, "parity")["status"] == "finished"
    said = capsys.readouterr().err
    assert "Left: step-bc." in said
    assert f"python -m benchmarks {' '.join(arguments)}" in said
    assert command.main(arguments) == 0
    assert "check: parity: finished before" in capsys.readouterr().out


def only(monkeypatch, outcome: Outcome) -> list[int]:
    """Let the check have one part, which counts its runs."""
    runs: list[int] = []

    def part(check: Check) -> Outcome:
        runs.append(1)
        return outcome

    monkeypatch.setattr(run, "parts", lambda check: [Part("one", part, 0.0)])
    return runs


def test_a_part_runs_again_under_other_code_and_not_under_the_same(check, monkeypatch):
    runs = only(monkeypatch, Outcome())
    assert run.run(check, []) == run.run(check, []) == 0
    assert len(runs) == 1
    monkeypatch.setattr(run, "_code", lambda: "other")
    assert run.run(check, []) == 0
    assert len(runs) == 2


def test_a_part_that_failed_or_is_not_through_runs_again(check, monkeypatch, capsys):
    runs = only(monkeypatch, Outcome(failures=["off by 2"]))
    assert run.run(check, []) == run.run(check, []) == 1
    assert "one failed: off by 2" in capsys.readouterr().err
    more = only(monkeypatch, Outcome(left="trained to step 7"))
    assert run.run(check, []) == run.run(check, []) == EXIT_CONTINUE
    assert "Left: one (trained to step 7)." in capsys.readouterr().err
    assert (len(runs), len(more)) == (2, 2)


def test_float32_out_of_bounds_fails_and_other_precisions_do_not(check, monkeypatch):
    def off(paths, computed):
        comparison = Comparison("losses", f"out:{computed.precision}", 1e-3, 2e-5)
        return {"losses": comparison}, [comparison]

    monkeypatch.setattr(parity, "compare_all", off)
    outcome = parity.parity(check)
    assert outcome.failures == ["parity: out:float32 is off by 1.00e-03, bound 2e-05"]
    bf16 = next(one for one in outcome.found if isinstance(one, Measurement) and one.quantity == "bf16")
    assert bf16.value == pytest.approx(1e3)


@pytest.mark.parametrize("stage", ["offline", "online"])
@pytest.mark.parametrize("fault", ["draws", "tail"])
def test_a_step_of_other_draws_or_rows_ends_elsewhere(check, monkeypatch, stage, fault):
    agent = steps.agent_of("rebrac-miniature", check.context.config_dir)
    form = steps.Form("eager", CPU)
    ends = [dict(steps._ends(agent, form, [stage], 20)) for _ in range(2)]
    assert steps._compare("same", ends[0][stage], ends[1][stage], exact=True) == []
    if fault == "draws":
        block = steps.ProcessorDraws.block
        monkeypatch.setattr(steps.ProcessorDraws, "block", lambda self, number: block(self, number + 1))
    elif stage == "online":
        monkeypatch.setattr("mfql.training.memory.Memory.append", lambda self, row, transition: None)
    else:
        monkeypatch.setattr("mfql.training.memory.Memory._drawn", lambda self, indices: indices % 7)
    other = dict(steps._ends(agent, form, [stage], 20))
    failures = steps._compare("other", ends[0][stage], other[stage], exact=False)
    assert len(failures) == 1
    assert "of the way apart" in failures[0]


def test_one_number_of_a_state_that_differs_is_named():
    state = {"flat": {"policy": torch.zeros(3)}, "step": torch.tensor(4)}
    other = {"flat": {"policy": torch.tensor([0.0, 0.0, 1e-30])}, "step": torch.tensor(4)}
    assert killed._unequal(state, state) == []
    assert killed._unequal(state, other) == ["flat policy"]


def test_a_missed_goal_is_profiled_for_one_seed_and_for_several(check):
    def results(rate: float) -> dict:
        case = {"precision": "tf32", "mode": "captured", "seeds": 8}
        found = document([Measurement.of("seeds", "seed-updates", "1/s", rate, **case)], CPU, quick=False)
        return found | {"machine": found["machine"] | {"gpu": "NVIDIA H100 80GB HBM3"}}

    assert speed.profile(check, results(6_100.0)).documents == {}
    documents = speed.profile(check, results(5_900.0)).documents
    assert [one["seeds"] for one in documents.values()] == [1, 2]
    assert all(one["steps"]["eager"]["operations"] for one in documents.values())


def test_a_trainer_that_was_asked_to_end_leaves_the_task_to_the_next_call(check, monkeypatch):
    (check.out / "data").mkdir()
    (check.out / "data" / "cube-single-play-v0.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(task, "_train", lambda check, data: EXIT_CONTINUE)
    assert task.task(check).left == "trained to step 0"
    monkeypatch.setattr(task, "_train", lambda check, data: 2)
    assert task.task(check).failures == ["mfql train ended with status 2"]


# What a machine for measuring has; it lacks a simulator, and much of what else this project installs.
PRESENT = (
    "torch", "numpy", "scipy", "pandas", "h5py", "safetensors", "matplotlib", "seaborn", "pyarrow", "tqdm",
    "tensorboard", "psutil", "pyyaml", "requests", "jinja2", "pytest", "hypothesis",
)  # fmt: skip


def brought() -> list[str]:
    """The packages that `make wheels` brings along."""
    spec = importlib.util.spec_from_file_location("wheels", ROOT / "containers" / "wheels.py")
    assert spec
    assert spec.loader
    wheels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(wheels)
    return wheels._BROUGHT


def with_requirements(names: Iterable[str]) -> set[str]:
    """Packages that are installed here, and all that they need."""
    found, left = set(), list(names)
    while left:
        name = canonicalize_name(left.pop())
        with suppress(PackageNotFoundError):
            needed = [Requirement(one) for one in requires(name) or []] if name not in found else []
            found.add(name)
            left += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def machine(folder: Path, others: Iterable[str]) -> Path:
    """The Python of an environment with what such a machine has, with others and nothing else."""
    venv.create(folder, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    names = [one for package in [*with_requirements(PRESENT), *others] for one in files(package) or []]
    names += [Path(one.name) for one in Path(site.getsitepackages()[0]).glob("mfql-*.dist-info")]
    for top in {name.parts[0] for name in names} - {"..", "__pycache__"}:
        (packages / top).symlink_to(Path(site.getsitepackages()[0], top))
    return folder / "bin" / "python"


def on_the_machine(python: Path, out: Path, *parts: str) -> subprocess.CompletedProcess[str]:
    """A check of parts there, from the source tree."""
    arguments = ["-m", "benchmarks", "check", "--device", "cpu", "--out", str(out), "--parts", *parts]
    return run_to_end([str(python), *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_check_starts_with_what_a_machine_has_and_what_is_brought(tmp_path):
    done = on_the_machine(machine(tmp_path / "venv", brought()), tmp_path / "out", "machine", "step-bc")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "check: step-bc: finished" in done.stdout


@pytest.mark.long
def test_a_machine_with_the_simulator_brought_along_leaves_out_no_part(tmp_path):
    parts = ("parity", "plan", "online", "evaluation", "task")
    done = on_the_machine(machine(tmp_path / "venv", brought()), tmp_path / "out", *parts)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in parts:
        assert f"check: {name}: finished" in done.stdout
    assert isinstance(find_speed(tmp_path / "out" / "speed.json", gpus=0), MeasuredSpeed)


@pytest.mark.long
def test_a_machine_without_a_simulator_leaves_out_its_parts_by_name(tmp_path):
    python = machine(tmp_path / "venv", ["fastjsonschema"])
    done = on_the_machine(python, tmp_path / "out", "parity", "killed", "update", "plan", "online", "step-bc", "task")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("parity", "killed", "update", "step-bc"):
        assert f"check: {name}: finished" in done.stdout
    for name in ("plan", "online", "task"):
        assert f"- {name}: not installed: gymnasium, mujoco, ogbench" in done.stdout
    assert "ogbench, jsonschema" in done.stdout


def test_two_checks_in_one_folder_are_refused(check, monkeypatch):
    def part(inner: Check) -> Outcome:
        with pytest.raises(UserError, match="in use by process"):
            run.run(inner, [])
        return Outcome()

    monkeypatch.setattr(run, "parts", lambda check: [Part("one", part, 0.0)])
    assert run.run(check, []) == 0
