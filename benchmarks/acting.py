"""How long a policy takes for one observation, and every method's size and speed in one run."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.job import ACTION_DIM, OBSERVATION_DIM, Context, Job
from benchmarks.results import Found, LeftOut, Measurement
from benchmarks.timing import take_turns
from mfql.agents.interface import Agent, count_parameters, load_agent
from mfql.agents.update import initial_state
from mfql.draws import generator
from mfql.evaluation.policy import Actor, Policy
from mfql.methods import raw_settings
from mfql.settings import build_settings

_CANDIDATES = (1, 5, 32)
# Of the policy that is compared as loaded and as exported.
_EXPORTED = 5
# Its cells fill a method's settings that differ by task.
_TASK = "antmaze-large-navigate-singletask-task1-v0"
# Those whose update is another's, with other lengths or rates.
NOT_MEASURED = ("-small", "-ablation", "-tuning", "-released")


def policy_of(agent: Agent, device: torch.device) -> Policy:
    """A policy with initial weights, as `mfql.load_policy` gives one."""
    state = initial_state(agent, [generator(torch.device("cpu"), 0, "initial")], device)
    mean, std = (np.full(agent.observation_dim, value, np.float32) for value in (0.0, 1.0))
    return Policy(Actor(agent, state.flat, mean, std, device).fixed(), {})


def latencies(policies: Mapping[str, Callable[[np.ndarray], Any]], calls: int) -> dict[str, np.ndarray]:
    """Seconds of each call on one observation, the policies in turns, after a few calls that do not count."""
    observation = np.zeros(OBSERVATION_DIM, np.float32)
    warm_up = max(1, calls // 10)
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(warm_up + calls):
        for name, policy in policies.items():
            began = time.perf_counter()
            policy(observation)
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values[warm_up:]) for name, values in seconds.items()}


def acting(context: Context) -> Found:
    """Latency of one observation by number of candidates, on the processor and on the GPU if one is measured."""
    found: Found = []
    for device in dict.fromkeys([torch.device("cpu"), context.device]):
        policies = {str(count): policy_of(context.agent(num_candidates=count), device) for count in _CANDIDATES}
        for count, seconds in latencies(policies, context.effort.calls).items():
            case = {"candidates": int(count), "device": device.type, "calls": len(seconds)}
            for share in (50, 99):
                latency = float(np.percentile(seconds, share)) * 1e3
                found.append(Measurement.of("acting", f"latency p{share}", "ms", latency, **case))
    return found + _ways_of_acting(context)


def _ways_of_acting(context: Context) -> Found:
    """The same policy on one observation as loaded, as a batch of one, and as an exported file, on the processor."""
    policy = policy_of(context.agent(num_candidates=_EXPORTED), torch.device("cpu"))
    ways: dict[str, Callable[[np.ndarray], Any]] = {"loaded": policy, "a batch of one": lambda one: policy(one[None])}
    found: Found = []
    absent = [name for name in ("onnx", "onnxruntime", "onnxscript") if not importlib.util.find_spec(name)]
    if absent:
        found.append(LeftOut("acting, exported to ONNX", f"not installed: {', '.join(absent)}"))
    else:
        ways["exported to ONNX"] = _exported(policy)
    for way, seconds in latencies(ways, context.effort.calls).items():
        case = {"policy": way, "candidates": _EXPORTED, "device": "cpu", "calls": len(seconds)}
        found += [
            Measurement.of("acting", f"way p{share}", "ms", float(np.percentile(seconds, share)) * 1e3, **case)
            for share in (50, 99)
        ]
    return found


def _exported(policy: Policy) -> Callable[[np.ndarray], Any]:
    """What a robot calls: the file under onnxruntime, with noise of its own."""
    import onnxruntime  # type: ignore[import-untyped]

    from mfql.evaluation.export import onnx_content

    draw = policy.actor.agent.act_draw()
    assert draw is not None  # MFQL's.
    options = onnxruntime.SessionOptions()
    # Its threads would go on spinning through the turns of the other ways.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    content = onnx_content(policy, draw, {})
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)

    def act(observation: np.ndarray) -> Any:
        noise = rng.standard_normal((1, *draw.shape), np.float32)
        return session.run(["actions"], {"observations": observation[None], "noise": noise})[0][0]

    return act


def all_methods(config_dir: Path) -> dict[str, Agent]:
    """The agent of every method in `config/methods` with an update of its own, at the sizes of an ant's maze."""
    names = sorted(path.stem for path in (config_dir / "methods").glob("*.yaml"))
    return {name: agent_of(name, config_dir) for name in names if not name.endswith(NOT_MEASURED)}


def agent_of(
    method: str,
    config_dir: Path,
    task: str = _TASK,
    observation_dim: int = OBSERVATION_DIM,
    action_dim: int = ACTION_DIM,
) -> Agent:
    """The agent of a method with a task's settings, at the sizes of an ant's maze unless told."""
    kind = load_agent(raw_settings(method, task, "online", config_dir)["agent"])
    raw = raw_settings(method, task, kind.stages[0], config_dir)
    raw.pop("agent")
    return kind(build_settings(kind.settings_type, raw, f"method {method}"), (observation_dim,), action_dim)


def methods(context: Context) -> Found:
    """Every method: parameters, an eager update of one seed, and the latency of one observation on the processor."""
    agents = all_methods(context.config_dir)
    jobs = {name: Job(agent, 1, context.effort.rows, context.device) for name, agent in agents.items()}
    updates = take_turns({name: job.case for name, job in jobs.items()}, context.effort.long_budget)
    policies = {name: policy_of(agent, torch.device("cpu")) for name, agent in agents.items()}
    acted = latencies(policies, max(1, context.effort.calls // 10))
    found: Found = []
    for name, agent in agents.items():
        latency = float(np.median(acted[name])) * 1e3
        found += [
            Measurement.of("methods", "parameters", "", count_parameters(agent), method=name),
            Measurement.of("methods", "update", "ms", updates[name].times(1e3), method=name),
            Measurement.of("methods", "latency p50", "ms", latency, method=name),
        ]
    return found
