"""The authors' JAX code beside ours: a checkout that the user has, in a process that takes turns with our updates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.job import ACTION_DIM, OBSERVATION_DIM
from mfql.errors import UserError

_WORKER = Path(__file__).with_name("reference_worker.py")


@dataclass(frozen=True)
class Reference:
    """A checkout of the released code.

    Args:
        checkout: its folder, put on Python's path.
        agent: `MODULE:CLASS` of the agent; the module has `get_config()`, the class `create(seed, ex_observations,
            ex_actions, config)` and `update(batch)`, which returns the agent and what it logs, as OGBench's reference
            agents have them. Flags of the checkout's `main*.py` have their defaults.
        python: an interpreter with jax and what the checkout imports.
        settings: `KEY=VALUE` changes of the agent's configuration.
    """

    checkout: Path
    agent: str
    python: str = sys.executable
    settings: tuple[str, ...] = ()


class ReferenceUpdates:
    """Updates of the released code; a case like any other.

    Raises:
        UserError: it does not start, or fails.
    """

    def __init__(self, reference: Reference, batch_size: int) -> None:
        if not reference.checkout.is_dir():
            raise UserError(f"{reference.checkout} is no folder", "Give --reference a checkout of the released code.")
        if ":" not in reference.agent:
            raise UserError(f"{reference.agent!r} is no MODULE:CLASS", "Such as --reference-agent agents.NAME:CLASS.")
        # Absolute, since the process starts in the checkout; not resolved, which would leave a virtual environment.
        python = shutil.which(reference.python)
        if python is None:
            raise UserError(
                f"{reference.python} is no program", "--reference-python names an interpreter that has jax."
            )
        sizes = map(str, (OBSERVATION_DIM, ACTION_DIM, batch_size))
        command = [os.path.abspath(python), str(_WORKER), str(reference.checkout.resolve()), reference.agent, *sizes]
        # Else JAX takes three quarters of a GPU's memory.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self._command = [*command, *reference.settings]
        self._process = subprocess.Popen(
            self._command,
            cwd=reference.checkout,
            env=environment,
            encoding="utf-8",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            while self._line() != "ready":  # What the checkout itself prints.
                pass
        except UserError:
            self.close()
            raise

    def _line(self) -> str:
        assert self._process.stdout is not None  # A pipe.
        line = self._process.stdout.readline()
        if not line:
            raise UserError(
                f"the released code ended with status {self._process.wait()}: {' '.join(self._command)}",
                "Its error stands above. --reference-python names an interpreter that has jax and what the checkout "
                "imports, --reference-agent the agent.",
            )
        return line.strip()

    def __call__(self, calls: int) -> float:
        """So many updates; the seconds that they took."""
        assert self._process.stdin is not None  # A pipe.
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        while True:
            try:
                return float(self._line())
            except ValueError:  # What the checkout itself prints.
                continue

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
