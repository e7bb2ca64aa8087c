"""The processor's update as one library, compiled ahead of time and kept for later jobs of the same shapes.

Losses, gradients, optimiser and targets are traced as one graph, which inductor turns into C++ and a compiler into a
shared library (AOTInductor). A job that finds its library loads it in milliseconds, without inductor and compiler.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfql.agents.interface import Agent, Batch, Draws
from mfql.agents.update import TrainState, Updater
from mfql.documents import read_object, write_json
from mfql.errors import UserError
from mfql.files import hash_of, sha256
from mfql.locks import locked
from mfql.training.provenance import cpu_model

# Compiled with what an update's library is: OpenMP and the standard library's headers.
_TRIAL = "#include <omp.h>\n#include <algorithm>\nint threads() { return std::max(1, omp_get_max_threads()); }\n"
# The name of a library; one that no job took for so long goes when another is made.
_LIBRARY, _KEPT_SECONDS = re.compile(r"[0-9a-f]{16}\.so"), 60 * 86_400
_ELSEWHERE = "Free space there, or name a folder for caches by XDG_CACHE_HOME; --compile off trains without a library."
_PARTS = ("flat", "first", "second", "count", "own", "logged")


def update_of(agent: Agent, state: TrainState, value_limit: float, *, compiled: bool) -> Updater | CompiledUpdate:
    """The update of a state, as a job runs it on the state's device.

    Args:
        value_limit: as of `Updater`.
        compiled: on a processor one library, on CUDA torch's compiled functions, which a step captures.
    """
    ahead = compiled and state.step.device.type == "cpu"
    updater = Updater(agent, state, value_limit, compiled=compiled and not ahead)
    return CompiledUpdate(updater) if ahead else updater


class CompiledUpdate:
    """An update on the processor that runs as one compiled library.

    The first call finds the library of these shapes or makes it, which takes a minute. One is used only by what it was
    made of: code, settings, versions, processor, compiler, threads, and the shapes of state, batch and draws. With one
    thread these are of one seed, and the library is called for each.

    Args:
        updater: what is compiled; its state is changed in place.
        folder: where libraries are kept; None is the user's folder for caches.

    Raises:
        UserError: the C++ compiler fails, or nothing can be written in the folder or loaded from it.
    """

    def __init__(self, updater: Updater, folder: Path | None = None) -> None:
        self.agent, self.state, self.value_limit = updater.agent, updater.state, updater.value_limit
        self._folder = kept_in() if folder is None else folder
        self._run: Callable[[list[Tensor]], Any] | None = None
        # How many seeds are updated at once, and the state of each such pack; its tensors are changed in place.
        self._together, self._state = 0, list[list[Tensor]]()

    def __call__(self, batch: Batch, draws: Draws) -> None:
        """One update on a batch with its draws."""
        if self._run is None:
            if not self.state.logged:
                self.state.logged = self._sums_of(batch, draws)
            # One thread takes one seed after the other: what one needs stays in a core's cache, and a library serves
            # any number of seeds. Of one small network several threads have too little to share.
            self._together = 1 if torch.get_num_threads() == 1 else len(self.state.active)
            self._state = _split(_of_state(self.state), self._together)
            named = _named(self.state, batch, draws)
            self._run = self._library(
                {name: value[: self._together] if value.dim() else value for name, value in named.items()}
            )
        for state, given in zip(self._state, _split(_of_update(batch, draws), self._together), strict=True):
            self._run([self.state.step.clone(), *state, *given])  # Each counts the steps for itself.
        self.state.step.add_(1)

    def _sums_of(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The sums for the log, which the first update of a state makes: of one on a copy."""
        named = {name: value.clone() for name, value in _named(self.state, batch, draws).items()}
        copy = _state_of(named)
        Updater(self.agent, copy, self.value_limit)(_part(named, "batch"), _part(named, "draws"))
        return {name: torch.zeros_like(value) for name, value in copy.logged.items()}

    def _library(self, named: Mapping[str, Tensor]) -> Callable[[list[Tensor]], Any]:
        made_of = _as_read(
            {
                "code": _code(type(self.agent)),
                "settings": self.agent.settings.as_dict(),
                "value_limit": repr(self.value_limit),
                "torch": f"{torch.__version__} {torch.version.git_version}",
                "processor": f"{cpu_model()} {torch.backends.cpu.get_cpu_capability()}",
                "compiler": _compiler_version(),
                "threads": torch.get_num_threads(),
                "inputs": [[name, str(value.dtype), list(value.shape)] for name, value in named.items()],
            }
        )
        library = self._folder / f"{hash_of(made_of)}.so"
        if not _is_whole(library, made_of):
            with _said_of(self._folder):
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                with locked(library.with_suffix(".lock"), wait=math.inf):
                    if not _is_whole(library, made_of):  # Another job may have made it meanwhile.
                        self._compile(named, library)
                        write_json(library.with_suffix(".json"), {"sha256": sha256(library), "made_of": made_of})
                        _remove_unused(self._folder)
        with suppress(OSError):  # In a folder that can only be read none is removed either.
            os.utime(library)
        try:
            return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run
        except RuntimeError as error:  # On a file system from which nothing is run, say.
            raise UserError(f"cannot load {library}: {str(error).splitlines()[0]}", _ELSEWHERE) from error

    def _compile(self, named: Mapping[str, Tensor], library: Path) -> None:
        """Trace the update and make its library; what a killed job left of it goes first."""
        from torch._inductor import aot_compile
        from torch._inductor.exc import CppCompileError, InductorError

        making, began = library.with_suffix(".making"), time.monotonic()
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                graph = self._traced(named)
                made = making / library.name
                aot_compile(graph, tuple(named.values()), options={"aot_inductor.output_path": str(made)})
            os.replace(made, library)
        except (CppCompileError, InductorError) as error:
            raise UserError(
                f"the update cannot be compiled: {_reason(str(error))}",
                "Look to the compiler (CXX) and its space for temporary files (TMPDIR), or train with --compile off.",
            ) from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
        print(f"the update is compiled, in {time.monotonic() - began:.0f} s; kept as {library}", flush=True)

    def _traced(self, named: Mapping[str, Tensor]) -> torch.fx.GraphModule:
        from torch.fx.experimental.proxy_tensor import make_fx

        def update(*tensors: Tensor) -> tuple[Tensor]:
            given = dict(zip(named, tensors, strict=True))
            state = _state_of(given)
            Updater(self.agent, state, self.value_limit)(_part(given, "batch"), _part(given, "draws"))
            return (state.step + 0,)  # A library has an output.

        # Constants of the agent are no inputs, and real.
        trace = make_fx(update, _cheaper(), tracing_mode="fake", _allow_non_fake_inputs=True)
        graph = trace(*named.values())
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


def _cheaper() -> dict[Any, Callable[..., Tensor]]:
    """What stands for operations of which inductor would make slower code.

    tanh-GELU x / 2 (1 + tanh u) is x sigmoid(2 u): the exp of vectors takes a fraction of the time of their tanh, which
    would be the costliest operation of a small update. A bias is added in the pass that reads the product anyway, where
    `baddbmm` writes it to memory first, for the product to read (docs/benchmarks.md).
    """
    aten = torch.ops.aten
    slope, cubic = math.sqrt(8 / math.pi), 0.044715

    def share(x: Tensor) -> Tensor:
        twice = slope * (x + cubic * x * x * x)
        # Nothing where 1 + tanh rounds to nothing: products of numbers below the smallest normal one take a multiple.
        least = math.log(torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps) - 4
        return torch.where(twice > least, torch.sigmoid(twice), 0.0)

    def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
        return x * share(x) if approximate == "tanh" else NotImplemented

    def gelu_backward(grad: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
        if approximate != "tanh":
            return NotImplemented
        own = share(x)
        return grad * (own + x * own * (1 - own) * (slope * (1 + 3 * cubic * x * x)))

    def baddbmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
        return torch.bmm(left, right) + bias if beta == alpha == 1 else NotImplemented

    return {aten.gelu.default: gelu, aten.gelu_backward.default: gelu_backward, aten.baddbmm.default: baddbmm}


def kept_in() -> Path:
    """The folder of libraries: `mfql/updates` of the user's folder for caches.

    Raises:
        UserError: there is no such folder, of a user without a home.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(given) if given else Path.home() / ".cache") / "mfql" / "updates"
    except RuntimeError as error:
        raise UserError(
            "the compiled update is kept in the user's folder for caches, and there is none", _ELSEWHERE
        ) from error


@contextmanager
def _said_of(folder: Path) -> Iterator[None]:
    """Say what to do where the folder of libraries cannot be used."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot keep the compiled update in {folder}: {error.strerror or error}", _ELSEWHERE
        ) from error


def _reason(said: str) -> str:
    """The line of a compiler's messages that says what is wrong."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[-1] if lines else "it does not say why")


@cache
def compiles() -> bool:
    """Whether this machine has a C++ compiler that makes libraries with OpenMP."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cpp")
        source.write_text(_TRIAL, encoding="utf-8")
        command = [_compiler(), "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(source.with_suffix(".so"))]
        try:
            return subprocess.run(command, capture_output=True, timeout=120).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


@cache
def _compiler_version() -> str:
    """What the compiler says of itself; nothing where there is none, of a library that was made elsewhere."""
    try:
        said = subprocess.run(
            [_compiler(), "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.partition("\n")[0]


@cache
def _code(agent: type[Agent]) -> str:
    """The hash of all code that is traced: the agents', that of an agent and of what it derives from, and this file."""
    derived = [kind for kind in agent.__mro__ if issubclass(kind, Agent)]
    files = {
        *Path(inspect.getfile(Updater)).parent.glob("*.py"),
        *map(Path, map(inspect.getfile, derived)),
        Path(__file__),
    }
    return hash_of([agent.__qualname__, *sorted(f"{file.name} {sha256(file)}" for file in files)])


def _is_whole(library: Path, made_of: Mapping[str, Any]) -> bool:
    """Whether a library is there as it was made, of just this; one that another user could have written is not used."""
    try:
        status, record = library.stat(), read_object(library.with_suffix(".json"))
        own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
        return own and record == {"sha256": sha256(library), "made_of": made_of}
    except (OSError, UserError):
        return False


def _remove_unused(folder: Path) -> None:
    """Remove the libraries that no job took for months."""
    for library in folder.iterdir():
        if _LIBRARY.fullmatch(library.name) and time.time() - library.stat().st_mtime > _KEPT_SECONDS:
            library.unlink(missing_ok=True)
            library.with_suffix(".json").unlink(missing_ok=True)


def _as_read(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as it is read again."""
    read: dict[str, Any] = json.loads(json.dumps(record))
    return read


def _named(state: TrainState, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    """All that an update reads and writes, by name, in one order; batch and draws without gaps in memory."""
    return {"step": state.step, **_of_state(state), **_of_update(batch, draws)}


def _of_state(state: TrainState) -> dict[str, Tensor]:
    """What a state has of each seed, by name."""
    named = {"active": state.active, "diverged_at": state.diverged_at}
    for part in _PARTS:
        named |= {f"{part}.{name}": value for name, value in getattr(state, part).items()}
    return named


def _of_update(batch: Batch, draws: Draws) -> dict[str, Tensor]:
    """What an update reads of each seed, by name."""
    named = {f"batch.{name}": value.contiguous() for name, value in batch.items()}
    return named | {f"draws.{name}": value.contiguous() for name, value in draws.items()}


def _split(named: Mapping[str, Tensor], seeds: int) -> list[list[Tensor]]:
    """The same of so many seeds at a time, in the same memory."""
    return [list(part) for part in zip(*(value.split(seeds) for value in named.values()), strict=True)]


def _part(named: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in named.items() if name.startswith(f"{part}.")}


def _state_of(named: Mapping[str, Tensor]) -> TrainState:
    parts = {part: _part(named, part) for part in _PARTS}
    return TrainState(step=named["step"], active=named["active"], diverged_at=named["diverged_at"], **parts)
