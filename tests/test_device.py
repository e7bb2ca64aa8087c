"""Jobs on one machine each take a GPU of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

from mfql.errors import UserError
from mfql.gpus import GPU, Devices
from mfql.training.device import choose_device
from tests.support.processes import end, started

HOLD = "from mfql.training.device import free_index; print(free_index(2), flush=True); input()"


@pytest.mark.slow
def test_processes_take_different_gpus_and_free_them_when_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    with ExitStack() as processes:

        def start() -> tuple[subprocess.Popen, str]:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = processes.enter_context(started([sys.executable, "-c", HOLD], encoding="utf-8", **pipes))
            return process, process.stdout.readline().strip()

        (one, first), (_, second) = start(), start()
        assert {first, second} == {"0", "1"}
        end(one)
        assert start()[1] == first


def test_the_gpu_that_is_chosen_is_the_one_that_streams_and_graphs_are_made_on(monkeypatch):
    taken = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("mfql.training.device.free_index", lambda count: count - 1)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    assert choose_device("cuda") == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]


@pytest.fixture
def machine(monkeypatch):
    """A machine by what its driver and torch say: its GPUs, the CUDA of torch's build, and why they are of no use."""

    def pretend(gpus: int, cuda: str | None, said: str = "") -> None:
        def refuse() -> None:
            raise RuntimeError(said)

        monkeypatch.setattr("mfql.training.device.devices_here", lambda: Devices((GPU("H100", 80e9, "580.1"),) * gpus))
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr("torch.version.cuda", cuda)
        monkeypatch.setattr("torch.cuda.init", refuse)

    return pretend


def test_a_machine_without_a_gpu_trains_on_its_processor_unless_told_otherwise(machine, capsys):
    machine(0, "13.0")
    assert choose_device("auto").type == "cpu"
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"sees no GPU, and the driver lists none\n.*use --device cpu"):
        choose_device("cuda")


# As torch words it, where a build for CUDA 13.0 meets the driver of CUDA 12.4.
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by ..."


@pytest.mark.parametrize(
    ("cuda", "said", "why"),
    [
        (None, "Torch not compiled with CUDA enabled", r"is built without CUDA\n.*make TORCH=auto install"),
        ("13.0", TOO_OLD, r"too old for torch .* CUDA 13\.0: it knows CUDA up to 12\.4\n.*make TORCH=auto install"),
        ("13.0", "CUDA unknown error - this may be due to", r"cannot use it: CUDA unknown error.*\n.*nvidia-smi"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_spoken_of_with_the_remedy(machine, capsys, cuda, said, why):
    machine(1, cuda, said)
    with pytest.raises(UserError, match=why):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    assert re.search(why, capsys.readouterr().err)
    assert choose_device("cpu").type == "cpu"
    assert capsys.readouterr().err == ""
