"""Jobs on one machine each take a GPU of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mfql.errors import UserError
from mfql.training.device import choose_device

HOLD = "from mfql.training.device import free_index; print(free_index(2), flush=True); input()"


@pytest.mark.slow
def test_processes_take_different_gpus_and_free_them_when_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def start() -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().strip()

    (one, first), (two, second) = start(), start()
    assert {first, second} == {"0", "1"}
    one.kill()
    one.wait()
    three, third = start()
    assert third == first
    for process in (two, three):
        process.kill()
        process.wait()


def test_a_gpu_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="no GPU"):
        choose_device("cuda")
