"""The memory of a GPU: what a job takes, held against the tensors of real ones, and what a plan says of a card."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from mfql import gpus
from mfql.agents.interface import Agent, load_agent
from mfql.agents.update import Updater, initial_state
from mfql.cli import main
from mfql.experiment.configuration import find_run
from mfql.experiment.run import RunFolder
from mfql.footprint import Footprint, row_bytes
from mfql.gpus import devices_here
from mfql.methods import raw_settings
from mfql.plan import EXIT_CARD_TOO_SMALL, EXIT_WANTS_GPU
from mfql.plan.cost import counted_parameters, operations_of
from mfql.plan.footprints import _KNOWN, Footprints
from mfql.plan.memory import job_memory
from mfql.settings import build_settings
from mfql.suites import load
from mfql.tasks import find_task
from mfql.training.footprint import _batch, _drawn, footprint, memory_of
from mfql.training.loop import Execution, Trainer
from mfql.training.memory import Memory
from tests.support.project import clone
from tests.support.training_runs import TASK, Workplace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"
LARGEST = "humanoidmaze-medium-navigate-singletask-task1-v0"
METHODS = ("mfql", "bc", "flow_bc", "fql", "ifql", "iql", "rebrac", "rlpd", "calql", "fawac", "fbrac")
ONLINE_ALONE = ("rlpd",)


def agent_of(
    method: str, stage: str = "offline", sizes: tuple[tuple[int, ...], int] = ((4,), 2), task: str = TASK
) -> Agent:
    raw = raw_settings(method, task, "online" if method.partition("-")[0] in ONLINE_ALONE else stage, CONFIG)
    kind = load_agent(raw.pop("agent"))
    return kind(build_settings(kind.settings_type, raw, method), *sizes)


def rows_held(memory: Memory) -> int:
    return sum(value.nbytes for value in memory.rows.values())


def tail_held(memory: Memory) -> int:
    return sum(value.nbytes for value in memory.tail.values())


@pytest.mark.parametrize("method", METHODS)
def test_rows_and_state_are_those_of_a_real_job_to_the_byte(
    method: str, finished_runs: Workplace, tmp_path: Path
) -> None:
    agent = agent_of(f"{method}-miniature", "online")
    dataset = load(find_task(TASK, CONFIG), finished_runs.folder / "data")
    agent = type(agent)(agent.settings, dataset.observations.shape[1:], dataset.actions.shape[-1])
    runs = [RunFolder(tmp_path, method, TASK, seed, "online") for seed in range(3)]
    job = Trainer(agent, dataset, find_task(TASK, CONFIG), runs, Execution(torch.device("cpu"), workers=1))
    told = footprint(agent)
    size = row_bytes(dataset.observations.shape[1], dataset.actions.shape[1], told.fields)
    assert rows_held(job.memory) == size * len(dataset)
    assert rows_held(job._validation) == size * len(dataset.val)
    assert tail_held(job.memory) == size * 3 * agent.settings.online_steps
    held = sum(tensor.nbytes for tensor in job.state.tensors())
    assert held == 3 * told.state - 2 * job.state.step.nbytes


def test_rows_of_the_largest_online_job_at_full_size() -> None:
    run = find_run({"seeds": range(8)}, CONFIG, "mfql", LARGEST, "online")
    memory = memory_of(agent_of("mfql", sizes=((69,), 21)), 2_001_000, 8, 1_000_000, torch.device("meta"))
    size = row_bytes(69, 21, ())
    assert rows_held(memory) == 2_001_000 * size
    assert tail_held(memory) == 8 * 1_000_000 * size
    assert job_memory(run, Footprints().of(run)).tail == 1_000_000 * size


@pytest.mark.parametrize("method", METHODS)
def test_an_update_holds_no_more_than_was_told(method: str) -> None:
    """The processor's allocations by torch's profiler, which knows nothing of how the bound is counted."""
    agent, device = agent_of(f"{method}-miniature"), torch.device("cpu")
    told = footprint(agent_of(f"{method}-miniature"))
    state = initial_state(agent, [torch.Generator().manual_seed(0)], device)
    memory, draws = memory_of(agent, 4, 1, 0, device), _drawn(agent.update_draws(), device)
    rows = torch.zeros((1, agent.settings.batch_size), dtype=torch.int64)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        Updater(agent, state, float("inf"))(_batch(agent, memory, rows), draws)
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    # Kernels of the processor have a few numbers of their own.
    assert 0.9 * told.update < peak < told.update + 1024


def test_what_a_launcher_without_torch_knows_is_what_the_agents_say() -> None:
    for method in ("mfql", "calql"):
        told = footprint(agent_of(method, sizes=((69,), 21), task=LARGEST))
        known = Footprint(*_KNOWN[method])
        assert known == told, method


def test_a_method_of_ones_own_counts_with_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "methods").mkdir()
    (tmp_path / "agents" / "wide.py").write_text(
        (ROOT / "mfql/agents/bc.py").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "methods" / "wide.yaml").write_text(
        "inherits: bc\nagent: wide\nactor_hidden: [3000, 3000]\n", encoding="utf-8"
    )
    for variable in ("MFQL_EXTENSIONS", "MFQL_TRUSTED"):  # Its size is asked of its code.
        monkeypatch.setenv(variable, str(tmp_path))
    run = find_run({"seeds": [0]}, CONFIG, "wide", TASK, "offline")
    told = Footprints().of(run)
    assert told.known
    # The first layer and its bias, the second, and the last.
    assert told.parameters == 2 * 3000 + 3000 + 3000 * 3000 + 3000 + 2 * 3000 + 2
    assert counted_parameters(run) == (told.parameters, 0)
    assert operations_of(run) == 256 * 8 * told.parameters


# --- what a plan says -------------------------------------------------------------------------------------------------

SMI = """#!/bin/sh
[ $# -gt 0 ] || {{ echo '| NVIDIA-SMI 570.00   Driver Version: 570.00   CUDA Version: {cuda} |'; exit; }}
echo '{gpus}'
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An `nvidia-smi` in PATH that lists these GPUs."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(*mebibytes: int, cuda: str = "13.0", torch_cuda: str | None = "13.0") -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        listed = "\n".join(f"{n}, GPU-{n}ab, NVIDIA A10, {size}, 570.00" for n, size in enumerate(mebibytes))
        (tmp_path / "bin" / "nvidia-smi").write_text(SMI.format(cuda=cuda, gpus=listed), encoding="utf-8")
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
        monkeypatch.setattr(gpus, "torch_cuda", lambda: torch_cuda)

    return write


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Plan the paper's size on one task; returns what is printed."""
    monkeypatch.chdir(clone(tmp_path / "mfql").folder)

    def run(*arguments: str, status: int = 0, task: str = LARGEST, **changes: object) -> str:
        paper = {"methods": ["mfql"], "tasks": [task]}
        content = (
            yaml.safe_load((CONFIG / "config.yaml").read_text(encoding="utf-8"))
            | {"offline": paper, "online": paper}
            | changes
        )
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        assert main(["plan", "--configfile", str(tmp_path / "config.yaml"), *arguments]) == status
        return capsys.readouterr().out

    return run


def test_gpus_are_those_that_the_variable_leaves(smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    smi(24_564, 8_192)
    assert [gpu.memory for gpu in devices_here().gpus] == [24_564 * 2**20, 8_192 * 2**20]
    assert devices_here().memory == 8_192 * 2**20
    for named, memory in (("0", [24_564]), ("GPU-1ab", [8_192]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert [gpu.memory / 2**20 for gpu in devices_here().gpus] == memory


def test_a_card_too_small_for_the_seeds_is_named_with_the_seeds_that_fit(
    smi: Callable[..., None], plan: Callable[..., str]
) -> None:
    smi(8_192)
    printed = plan()
    assert "THE CARD IS TOO SMALL for 8 seeds a job" in printed
    fitting = int(re.search(r"--config seeds_per_job=(\d+)", printed)[1])
    assert 1 <= fitting < 8
    assert "TOO SMALL" not in plan(seeds_per_job=fitting)
    assert "TOO SMALL" in plan(seeds_per_job=fitting + 1)
    assert "TOO SMALL" not in plan("--gpus", "1", "--gpu-memory", "16")


def test_a_card_that_cannot_hold_rows_and_weights_ends_the_launch(plan: Callable[..., str]) -> None:
    assert "before its first step" in plan("--gpus", "1", "--gpu-memory", "4", status=EXIT_CARD_TOO_SMALL)


def test_another_machines_gpus_are_not_judged_by_this_ones(smi: Callable[..., None], plan: Callable[..., str]) -> None:
    smi(4_096, cuda="11.4", torch_cuda="")
    printed = plan("--gpus", "100")
    assert "TOO SMALL" not in printed
    assert "NOT USED" not in printed


@pytest.mark.parametrize(
    ("cuda", "torch_cuda", "said"),
    [("12.4", "13.0", "make TORCH=cu126 install"), ("13.0", "", "make TORCH=auto install")],
)
def test_a_gpu_that_torch_cannot_use_is_none_and_the_remedy_is_named(
    smi: Callable[..., None], plan: Callable[..., str], cuda: str, torch_cuda: str, said: str
) -> None:
    smi(24_564, cuda=cuda, torch_cuda=torch_cuda)
    printed = plan(status=EXIT_WANTS_GPU)
    assert "THE GPU IS NOT USED" in printed
    assert said in printed


@pytest.mark.parametrize(("cuda", "torch_cuda"), [("12.4", "12.6"), ("13.0", "12.6"), ("13.0", None)])
def test_a_driver_of_the_same_major_version_or_a_later_one_will_do(
    smi: Callable[..., None], cuda: str, torch_cuda: str | None
) -> None:
    smi(24_564, cuda=cuda, torch_cuda=torch_cuda)
    assert devices_here().problem is None


def test_the_build_of_torch_is_known_without_importing_it() -> None:
    command = "import sys; from mfql.gpus import torch_cuda; print(torch_cuda(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == f"{torch.version.cuda or ''} False\n"


def test_questions_are_answered_in_a_process_of_their_own() -> None:
    run = find_run({"seeds": [0]}, CONFIG, "flow_bc-miniature", TASK, "offline")
    bad = {"agent": "absent", "settings": {}, "observation_shape": [4], "action_dim": 2}
    good = {"agent": run.agent, "settings": run.settings, "observation_shape": [4], "action_dim": 2}
    command = [sys.executable, "-m", "mfql.training.footprint"]
    done = subprocess.run(command, input=json.dumps([bad, good]), capture_output=True, encoding="utf-8", check=True)
    first, second = json.loads(done.stdout)
    assert first is None
    assert second["parameters"] == footprint(agent_of("flow_bc-miniature")).parameters
