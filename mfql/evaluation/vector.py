"""Many environments of one task, stepped side by side by worker processes; their number does not change the results.

Workers are plain child processes: they import neither the caller's main script nor torch. Arrays lie in memory that
parent and workers share; a socket for each worker carries only whose turn it is. When the parent dies, however that
happens, the system ends its workers, also one whose environment hangs.

An episode breaks where an observation or a reward is not finite, or where an environment of one's own raises an error:
there it ends, and what broke it is not shown. Episodes follow from their seeds and actions, so that one that raised an
error would raise it again whenever the same command goes on: a run would never come to its end. It counts as failed
(`mfql.evaluation.rollout`) instead, and is said.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import IO, Any

import numpy as np

from mfql.envs.isolated import reset_env
from mfql.envs.patience import DEFAULT, Hangs, Limited, Waiting, env_timeout, hanging
from mfql.envs.registered import RegisteredEnv, has_float32
from mfql.envs.trial import named
from mfql.errors import UserError
from mfql.evaluation.usage import make_all_used
from mfql.extensions import end_with_parent, start_module
from mfql.files import is_refusal

_ALIGNMENT = 64  # bytes; a cache line
_LARGEST = float(np.finfo(np.float32).max)
_SHARED_FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_RESET, _STEP, _FINISHED = b"reset", b"step", b""
# Has a worker write down where it stands, and how many seconds that is waited for.
_WHERE, _SECONDS_TO_SAY = signal.SIGUSR1, 5.0


class WorkerError(RuntimeError):
    """An environment raised an error, or a worker process died. The message names both."""


class WorkerDied(UserError, WorkerError):
    """A worker process ended that was not asked to: the system killed it, as it does when memory runs out."""


class WorkerHangs(Hangs, WorkerError):
    """A reset or a step did not end in time; its worker process was ended."""


class EnvPool:
    """`num_envs` environments of one task.

    The array attributes hold what each environment's last reset or step gave. Workers write them between `step_async`
    and `step_wait`: copy what must outlast a step.

    Args:
        task: the name of an OGBench single task, a D4RL task, or one of an extension; or a policy's description, whose
            task no extension here need have.
        num_envs: environments in the pool.
        workers: worker processes, of which at most `num_envs` are started; 0 steps in the calling process.

    Attributes:
        observations: [n, D] float32 (pixels: [n, H, W, C] uint8).
        rewards: [n] float32; 0 after a reset.
        terminated: [n] bool; false after a reset, like the next two.
        truncated: [n] bool; true where the episode broke.
        success: [n] bool, of the last step alone.
        broken: [n] bool, whether the last reset or step broke the episode. Observations are those before it then, of a
            reset zeros; rewards are 0.
        faults: why the present episode of an environment broke, by its number.
        action_dim: A.
        limit: steps after which an episode is truncated.

    Raises:
        UserError: no such task, or no number of seconds in `MFQL_ENV_TIMEOUT`.
        WorkerError: an environment cannot be made.
    """

    def __init__(self, task: str | Mapping[str, Any], num_envs: int, workers: int) -> None:
        if num_envs < 1 or workers < 0:
            raise ValueError(f"a pool of {num_envs} environments and {workers} workers")
        self.num_envs, self.faults = num_envs, dict[int, str]()
        self._turn: bytes | None = None
        self._local: _Slice | None = None
        self._workers: list[_Worker] = []
        try:
            self._arrays = self._start(_used(task), min(workers, num_envs))
        except BaseException:
            self.close()
            raise
        self.observations = self._arrays["observations"]
        self.rewards = self._arrays["rewards"]
        self.terminated = self._arrays["terminated"]
        self.truncated = self._arrays["truncated"]
        self.success = self._arrays["success"]
        self.broken = self._arrays["broken"]
        self.action_dim = self._arrays["actions"].shape[1]

    def _start(self, used: dict[str, Any], workers: int) -> dict[str, np.ndarray]:
        """Make the environments, and the arrays that their owners write."""
        if workers == 0:
            self._local = _Slice(used, 0, self.num_envs)
            self._local.arrays = self._local.layout.arrays(self.num_envs)
            self.limit = self._local.layout.limit
            return self._local.arrays
        bounds = [self.num_envs * i // workers for i in range(workers + 1)]
        with _shared_file() as shared:
            for first, last in pairwise(bounds):
                self._workers.append(_Worker(used, first, last, shared.fileno()))
            answers = [worker.receive() for worker in self._workers]
            layout = _Layout(**json.loads(answers[0]))
            self.limit = layout.limit
            _allocate(shared.fileno(), layout.place(self.num_envs)[1])
            for worker in self._workers:
                worker.send(str(self.num_envs).encode())
            arrays = layout.arrays(self.num_envs, mmap.mmap(shared.fileno(), 0))
            for worker in self._workers:
                worker.receive()
                worker.arrays = arrays
            return arrays

    def reset(self, seeds: Mapping[int, int]) -> None:
        """Start the episode of `seeds[i]` in environment i; environments that are not named stay as they are."""
        self._require_idle()
        chosen = list(seeds)
        self._arrays["mask"][:] = False
        self._arrays["mask"][chosen] = True
        self._arrays["seeds"][chosen] = list(seeds.values())
        for index in chosen:
            self.faults.pop(index, None)
        self._begin(_RESET)
        self.step_wait()

    def step(self, actions: np.ndarray, mask: np.ndarray) -> None:
        """One step of the environments that `mask` [n] bool names, with their rows of `actions` [n, A] in [-1, 1]."""
        self.step_async(actions, mask)
        self.step_wait()

    def step_async(self, actions: np.ndarray, mask: np.ndarray) -> None:
        """Begin a step and return; `step_wait` must be called before anything else."""
        self._require_idle()
        self._arrays["mask"][:] = mask
        self._arrays["actions"][mask] = actions[mask]
        self._begin(_STEP)

    def step_wait(self) -> None:
        """Wait until all environments have finished their step.

        Raises:
            WorkerError: an environment of a suite of the project raised an error or a worker died; the pool is closed
                then.
            UserError: what an environment of one's own returns is not what Gymnasium asks for, or it hangs; the same.
        """
        if self._turn is None:
            raise RuntimeError("step_wait without step_async")
        try:
            if self._local is not None:
                with self._local.limited:
                    self.faults |= self._local.turn(self._turn)
            for worker in self._workers:
                if answer := worker.receive():
                    self.faults |= {int(index): fault for index, fault in json.loads(answer).items()}
        except BaseException:  # Also an interrupt: the replies still to come would be taken for those of the next step.
            self.close()
            raise
        self._turn = None

    def close(self) -> None:
        """End the worker processes. A closed pool's arrays stay readable."""
        for worker in self._workers:
            worker.close()
        self._workers = []
        if self._local is not None:
            self._local.close()
        self._local = None

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _require_idle(self) -> None:
        if self._local is None and not self._workers:
            raise RuntimeError("the pool is closed")
        if self._turn is not None:
            raise RuntimeError("step_async without step_wait")

    def _begin(self, command: bytes) -> None:
        self._turn = command
        for worker in self._workers:
            worker.send(command)


def _shared_file() -> IO[bytes]:
    """A file without a name, whose content lies in memory where the system has a place for that."""
    try:
        return tempfile.TemporaryFile(dir=_SHARED_FOLDER)
    except OSError as error:
        raise _no_room("a file", error) from error


def _allocate(descriptor: int, size: int) -> None:
    """Give a file its bytes now: of those that are only promised, the first to be written would end the process."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        raise _no_room(f"{size / 1e6:.3g} MB", error) from error


def _no_room(what: str, error: OSError) -> UserError:
    place = _SHARED_FOLDER or tempfile.gettempdir()
    return UserError(
        f"{place} has no room for {what} that the workers of environments share: {error.strerror or error}",
        f"Remove what others left in {place}, make it larger (docker run --shm-size), take fewer episodes, or do"
        " without workers (--workers 0).",
    )


def _used(task: str | Mapping[str, Any]) -> dict[str, Any]:
    """What `make_all_used` needs of a description, small enough for a command line."""
    if isinstance(task, str):
        return {"task": task}
    return {"task": task["task"], "environment": task.get("environment", {})}


@dataclass(frozen=True)
class _Layout:
    """What decides the size and place of a pool's arrays."""

    observation_shape: list[int]
    observation_dtype: str
    action_dim: int
    limit: int

    def place(self, num_envs: int) -> tuple[dict[str, tuple[int, tuple[int, ...], np.dtype]], int]:
        """Offset in bytes, shape and type of each array by name, and the bytes of all."""
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "observations": (tuple(self.observation_shape), self.observation_dtype),
            "actions": ((self.action_dim,), "float32"),
            "rewards": ((), "float32"),
            "seeds": ((), "uint32"),
            "mask": ((), "bool"),
            "terminated": ((), "bool"),
            "truncated": ((), "bool"),
            "success": ((), "bool"),
            "broken": ((), "bool"),
            # Of the episode, the one that is being made counted; and twice the turns: odd while it is one's turn.
            "steps": ((), "uint32"),
            "turns": ((), "uint32"),
        }
        places, end = {}, 0
        for name, (row, dtype) in shapes.items():
            kind = np.dtype(dtype)
            places[name] = (end, (num_envs, *row), kind)
            end += -(-num_envs * int(np.prod(row)) * kind.itemsize // _ALIGNMENT) * _ALIGNMENT
        return places, end

    def arrays(self, num_envs: int, memory: mmap.mmap | None = None) -> dict[str, np.ndarray]:
        """The arrays of `num_envs` environments, zero at first, in `memory` or in memory of their own."""
        places, size = self.place(num_envs)
        buffer = bytearray(size) if memory is None else memory
        return {name: np.ndarray(shape, dtype, buffer, offset) for name, (offset, shape, dtype) in places.items()}


class _Slice:
    """The environments `first` to `last - 1` of a pool, in this process."""

    def __init__(self, used: dict[str, Any], first: int, last: int) -> None:
        self.task_name, self._used = used["task"], used
        self.indices = range(first, last)
        self.envs = make_all_used(used, len(self.indices))
        space = self.envs[0].observation_space
        self._pixels = space.dtype == np.uint8
        self._own = isinstance(self.envs[0].env, RegisteredEnv)
        self.layout = _Layout(
            observation_shape=list(space.shape or ()),
            observation_dtype="uint8" if self._pixels else "float32",
            action_dim=int(np.prod(self.envs[0].action_space.shape or ())),
            limit=int(self.envs[0].get_wrapper_attr("_max_episode_steps")),
        )
        self.arrays: dict[str, np.ndarray] = {}
        self.limited = Limited(self._present, self._progress)
        self._faults: dict[int, str] = {}
        self._turns, self._steps = 0, [0] * len(self.indices)

    def turn(self, command: bytes) -> dict[int, str]:
        """Reset or step the environments that the mask names; returns why episodes broke in it, by environment.

        Raises:
            WorkerError: an environment of the project's suites raised an error.
            UserError: an environment says what its user can mend.
        """
        act = {_RESET: self._reset, _STEP: self._step}[command]
        mask, turns = self.arrays["mask"], self.arrays["turns"]
        self._faults = {}
        self._turns += 2
        for row, index in enumerate(self.indices):
            if mask[index]:
                turns[index] = self._turns - 1
                try:
                    act(row, index)
                except UserError:
                    raise
                except Exception as error:
                    self._raised(row, error, command)
                turns[index] = self._turns
        return self._faults

    def _present(self) -> str:
        """Whose turn it is."""
        return _present(self.arrays, self.indices, self.task_name)

    def _progress(self) -> int:
        """A number that changes with each reset and step."""
        return int(self.arrays["turns"][self.indices.start : self.indices.stop].sum())

    def _raised(self, row: int, error: Exception, command: bytes) -> None:
        """An environment of one's own that raised an error is made anew: nobody knows what state it is in.

        Raises:
            UserError: the error is the system's, such as one of memory or files, which says nothing of the episode.
            WorkerError: the environment is one of the project's suites.
        """
        index = self.indices[row]
        if isinstance(error, MemoryError) or is_refusal(error):
            where = _present(self.arrays, self.indices, self.task_name)
            raise UserError(
                f"{where} has an error of the system's: {named(error)}",
                "The same command goes on from the last checkpoint; if memory ran out, use fewer workers (--workers;"
                " threads in a configuration).",
            ) from error
        if not self._own:
            message = f"environment {index} of {self.task_name} failed in {command.decode()}"
            raise WorkerError(f"{message}:\n{traceback.format_exc()}") from error
        with suppress(Exception):
            self.envs[row].close()
        self.envs[row] = make_all_used(self._used, 1)[0]
        self._break(index, named(error), command == _RESET)

    def _reset(self, row: int, index: int) -> None:
        self._steps[row] = self.arrays["steps"][index] = 0
        observation, _ = reset_env(self.envs[row], int(self.arrays["seeds"][index]))
        if self._finite(observation, 0.0):
            self._write(index, observation, 0.0, False, False, False)
        else:
            self._break(index, "the first observation is not finite", True)

    def _step(self, row: int, index: int) -> None:
        env = self.envs[row]
        self._steps[row] += 1
        self.arrays["steps"][index] = self._steps[row]
        action = env.units.to_env(self.arrays["actions"][index].copy())
        observation, reward, terminated, truncated, info = env.step(action)
        if self._finite(observation, reward):
            self._write(index, observation, reward, terminated, truncated, info["success"] > 0)
        else:
            self._break(index, "an observation or a reward is not finite", False)

    def _finite(self, observation: np.ndarray, reward: Any) -> bool:
        """Whether float32, which is what is seen, has numbers for both."""
        return bool(abs(reward) <= _LARGEST) and (self._pixels or has_float32(observation))

    def _break(self, index: int, fault: str, first: bool) -> None:
        """End an episode; what is seen of it stays what it was before, of one that just begins zeros."""
        arrays = self.arrays
        seen = 0 if first else arrays["observations"][index].copy()
        self._write(index, seen, 0.0, False, True, False)
        arrays["broken"][index] = True
        self._faults[index] = f"{fault} (seed {arrays['seeds'][index]}, step {arrays['steps'][index]})"

    def _write(
        self, index: int, observation: Any, reward: Any, terminated: bool, truncated: bool, success: bool
    ) -> None:
        arrays = self.arrays
        arrays["observations"][index] = observation
        arrays["rewards"][index] = reward
        arrays["terminated"][index] = terminated
        arrays["truncated"][index] = truncated
        arrays["success"][index] = success
        arrays["broken"][index] = False

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            env.close()


def _present(arrays: Mapping[str, np.ndarray], indices: range, task: str) -> str:
    """Whose turn it is among some environments: which, in what episode, and where in it."""
    for index in indices:
        if arrays["turns"][index] % 2:
            seed, step = arrays["seeds"][index], arrays["steps"][index]
            what = f"step {step} of the episode of seed {seed}" if step else f"reset(seed={seed})"
            return f"{task}: environment {index}: {what}"
    return f"{task}: environments {indices.start} to {indices.stop - 1}: a step"


class _Worker:
    """A worker process, as its parent sees it.

    Attributes:
        arrays: of the pool, once it has them.
    """

    def __init__(self, used: dict[str, Any], first: int, last: int, shared: int) -> None:
        self.name = f"environments {first} to {last - 1} of {used['task']}"
        self.arrays: dict[str, np.ndarray] = {}
        self._task, self._indices = used["task"], range(first, last)
        self._timeout = env_timeout()
        self._stack = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        ours, theirs = socket.socketpair()
        with theirs:
            passed = theirs.fileno(), shared, self._stack.fileno()
            self.process, self._lives = start_module(__name__, [json.dumps(used), str(first), str(last)], passed)
        self.connection = Connection(ours.detach())
        self._answers = select.poll()
        self._answers.register(self.connection.fileno(), select.POLLIN)

    def send(self, message: bytes) -> None:
        """Send a message; that the worker is gone shows in `receive`."""
        with suppress(OSError):
            self.connection.send_bytes(message)

    def receive(self) -> bytes:
        """The worker's answer.

        Raises:
            WorkerError: the worker failed or died.
            UserError: the worker's environment does not exist, or hangs.
        """
        self._wait()
        try:
            answer = self.connection.recv_bytes()
        except (EOFError, OSError):
            code = self._end()
            cause = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
            raise WorkerDied(
                f"the worker process {self.process.pid} of {self.name} ended {cause}"
                + (" (out of memory?)" if code == -signal.SIGKILL else ""),
                "Run the same command again: training continues from its last checkpoint. If memory ran out, use fewer "
                "workers (--workers; threads in a configuration).",
            ) from None
        if answer.startswith(b"!"):
            failure = json.loads(answer[1:])
            raise (UserError if failure["user"] else WorkerError)(failure["message"])
        return answer

    def _wait(self) -> None:
        """Wait for an answer, as long as one environment after the other is done; all of them are made in one.

        A process that begins imports packages, which takes its time whatever a step may take.
        """
        limit = self._timeout if self.arrays else max(self._timeout, DEFAULT) * len(self._indices)
        waiting = Waiting(limit)
        while not self._answers.poll(1000.0 * waiting.part):
            if waiting.is_over(self._progress()):
                raise self._hangs(waiting)

    def _hangs(self, waiting: Waiting) -> WorkerHangs:
        what = _present(self.arrays, self._indices, self._task) if self.arrays else f"making the {self.name}"
        return WorkerHangs(*hanging(f"{what} (process {self.process.pid}, ended now)", waiting.waited, self._where()))

    def _progress(self) -> int:
        return int(self.arrays["turns"][self._indices.start : self._indices.stop].sum()) if self.arrays else 0

    def _where(self) -> str:
        """Where the process stands, which then ends."""
        self.process.send_signal(_WHERE)
        said, until = b"", time.monotonic() + _SECONDS_TO_SAY
        while time.monotonic() < until and not (said and said == self._said()):
            said = self._said()
            time.sleep(0.05)
        self.process.kill()
        return said.decode(errors="replace") or "nowhere that it would tell"

    def _said(self) -> bytes:
        return os.pread(self._stack.fileno(), 1 << 16, 0)

    def _end(self) -> int:
        """Wait for the process, end what its environments started that is still in its group; its exit status."""
        if self.process.returncode is None:
            # As long as nobody has asked how it ended, its number is no other process's.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.kill()
        self._end()
        self._stack.close()
        os.close(self._lives)


def _serve(used: dict[str, Any], first: int, last: int, connection: Connection, shared: int, stack: int) -> None:
    """The worker's life: make its environments, then answer turns until the parent's end of the socket closes."""
    faulthandler.register(_WHERE, stack)
    try:
        environments = _Slice(used, first, last)
        connection.send_bytes(json.dumps(asdict(environments.layout)).encode())
        num_envs = int(connection.recv_bytes())
        environments.arrays = environments.layout.arrays(num_envs, mmap.mmap(shared, 0))
        connection.send_bytes(_FINISHED)
        while True:
            faults = environments.turn(connection.recv_bytes())
            connection.send_bytes(json.dumps(faults).encode() if faults else _FINISHED)
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        named = isinstance(error, UserError | WorkerError)
        failure = {"user": isinstance(error, UserError), "message": str(error) if named else traceback.format_exc()}
        connection.send_bytes(b"!" + json.dumps(failure).encode())


if __name__ == "__main__":
    _used_by, _first, _last, _socket, _shared, _stack, _lives = sys.argv[1:]
    end_with_parent(int(_lives))
    _serve(json.loads(_used_by), int(_first), int(_last), Connection(int(_socket)), int(_shared), int(_stack))
