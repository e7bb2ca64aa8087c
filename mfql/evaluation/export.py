"""A policy as one file that acts without this project: a graph of ONNX, or a program of torch.export.

The file holds the whole way from raw observations to actions in the environment's units, and says of itself what it is.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mfql.agents.interface import Draw
from mfql.draws import DrawStream
from mfql.errors import UserError, naming_extras
from mfql.evaluation.description import DESCRIPTION
from mfql.evaluation.policy import WEIGHTS, Policy, load_policy, policy_folder
from mfql.files import hash_of, sha256, there, write_whole

# By the form of a file, how its name ends.
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
# What a file's actions may be off, where [-1, 1] are the bounds of actions.
TOLERANCE = 1e-5
# The entry of a program's extra files that says what it is.
ABOUT = "mfql.json"
# Observations on which a file is compared with its policy, and in which batches.
_COMPARED, _BATCHES = 1_000, (1, 7, 92, 300, 300, 300)
# Operators that onnxruntime 1.22 has, and which the exporter writes without converting versions.
_OPSET = 20
# `seed` of ONNX's random operators is a float32, which holds every whole number up to here.
_ATTRIBUTES = 2**24
# A value as good as the best one: by this share of the largest of the K.
_AS_GOOD = 1e-5
# What of a traced graph names this machine's folders.
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")


class Options(NamedTuple):
    """What is asked of a file.

    Args:
        form: an entry of `SUFFIXES`.
        candidates: K; None is the policy's own.
        noise_seed: of noise that the file draws; None has noise as an input.
    """

    form: str
    candidates: int | None = None
    noise_seed: int | None = None


def export(run: Path, out: Path, options: Options) -> dict[str, Any]:
    """Write a policy as one file, whole or not at all, that was found equal to it.

    Args:
        run: as of `load_policy`.
        out: the file, which must not be there.

    Returns:
        what the file says of itself.

    Raises:
        UserError: there is no policy, or it cannot be had in that form; the file is there, or cannot be written; or it
            acts otherwise than the policy does.
    """
    if out.suffix != (suffix := SUFFIXES[options.form]):
        raise UserError(f"{out} is no name of a file of this form", f"Give it the ending {suffix}.")
    if there(out):
        raise UserError(f"{out} is there already", "Name another file, or remove that one.")
    with naming_extras("export"):
        make = onnx_content if options.form == "onnx" else _program
        policy = load_policy(run)
        draw = _draw_of(policy, options)
        about = {**_about(policy, draw, options), "policy_sha256": _hashes(policy_folder(run))}
        content = make(policy, draw, about)
    with write_whole(out, "wb") as file:
        file.write(content)
    return about


def _draw_of(policy: Policy, options: Options) -> Draw | None:
    """What the file takes as noise for one observation."""
    draw = policy.actor.agent.act_draw()
    method = policy.description["method"]
    if draw is None and options.noise_seed is not None:
        raise UserError(f"{method} acts without noise", "Export it without --noise seed.")
    if options.noise_seed is not None and options.form != "onnx":
        raise UserError(
            "a program of torch.export has no generator of its own to draw noise with",
            "Export it with --noise input, and give it the noise of a torch.Generator; or --to onnx.",
        )
    if options.candidates is None:
        return draw
    nothing = np.zeros((1, 1, *policy.actor.agent.observation_shape), _observed(policy))
    if draw is None or policy.actor.ranked(nothing, torch.zeros(1, 1, *draw.shape)) is None:
        raise UserError(f"{method} does not choose among candidates", "Export it without --candidates.")
    return Draw(draw.kind, (options.candidates, *draw.shape[1:]))


def _observed(policy: Policy) -> type[np.generic]:
    return np.uint8 if len(policy.actor.agent.observation_shape) == 3 else np.float32


class _Graph(nn.Module):
    """A policy from raw observations and noise to actions, as it is traced.

    Args:
        policy: on the processor.
        draw: what of noise an observation takes.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    span: Tensor

    def __init__(self, policy: Policy, draw: Draw | None) -> None:
        super().__init__()
        actor = policy.actor
        self.policy, self.draw = policy, draw
        self._act, self._horizon, self._units = actor.single, policy.horizon, policy.units
        self._images = len(actor.agent.observation_shape) == 3
        self.register_buffer("mean", torch.from_numpy(actor.mean.copy()))
        self.register_buffer("std", torch.from_numpy(actor.std.copy()))
        if self._units is not None:
            self.register_buffer("low", torch.from_numpy(self._units.low.copy()))
            self.register_buffer("span", torch.from_numpy(self._units.high - self._units.low))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Observations `[B, *observation_shape]` and noise `[B, *draw]` to actions `[B, A]`, of chunks `[B, h, A]`."""
        seen = observations if self._images else (observations - self.mean) / self.std
        actions = self._act(seen, noise)
        if self._horizon > 1:
            actions = actions.unflatten(-1, (self._horizon, -1))
        if self._units is not None and self._units.rescaled:
            # As `ActionUnits.to_env`.
            share = (actions.clamp(-1.0, 1.0).double() + 1.0) / 2.0
            actions = (self.low + share * self.span).to(_torch_type(self._units.dtype))
        if self._images:
            return actions
        # A runtime's clip makes a bound of what is not a number, which nobody would notice.
        finite = torch.isfinite(observations).all(-1)
        return torch.where(finite.view(-1, *[1] * (actions.dim() - 1)), actions, float("nan"))

    def example(self, batch: int) -> tuple[Tensor, ...]:
        """Inputs of the right shapes and types."""
        shape = self.policy.actor.agent.observation_shape
        observations = torch.zeros(batch, *shape, dtype=torch.uint8 if self._images else torch.float32)
        return (observations,) if self.draw is None else (observations, torch.zeros(batch, *self.draw.shape))

    def traced(self) -> torch.export.ExportedProgram:
        """The graph, for any number of observations, without what says where it was traced."""
        inputs = self.example(3)
        program = torch.export.export(
            self.eval(), inputs, dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in inputs), strict=False
        )
        for node in program.graph.nodes:
            for name in _TRACES:
                node.meta.pop(name, None)
        # Example inputs would be a pickle in the file.
        program.example_inputs = None
        return program


def _torch_type(name: str) -> torch.dtype:
    """Torch's type of an environment's actions; of those that it lacks the largest."""
    return {"float16": torch.float16, "float32": torch.float32}.get(name, torch.float64)


def _about(policy: Policy, draw: Draw | None, options: Options) -> dict[str, Any]:
    """What the file says of the policy and of how it is used."""
    from mfql import __version__

    description, agent = policy.description, policy.actor.agent
    units = policy.units
    drawn: dict[str, Any] | None = {"kind": draw.kind, "shape": ["batch", *draw.shape]} if draw else None
    if drawn is not None:
        drawn["from"] = "input" if options.noise_seed is None else "seed"
        if options.noise_seed is not None:
            drawn["seed"] = options.noise_seed
    ranks = draw is not None and len(draw.shape) == 2
    return {
        **{name: description[name] for name in ("method", "agent", "task", "seed", "stage", "identity")},
        "observations": {
            "type": _observed(policy).__name__,
            "shape": ["batch", *agent.observation_shape],
            "layout": description.get("observation_layout"),
        },
        "noise": drawn,
        "candidates": draw.shape[0] if ranks and draw else 1,
        "horizon": policy.horizon,
        "action_low": None if units is None else units.low.tolist(),
        "action_high": None if units is None else units.high.tolist(),
        "action_dtype": "float32" if units is None else str(_torch_type(units.dtype)).removeprefix("torch."),
        "actions_rescaled": bool(units and units.rescaled),
        "versions": {"mfql": __version__, **_versions(options.form)},
    }


def _versions(form: str) -> dict[str, str]:
    from importlib.metadata import version

    used = ("torch", "onnx", "onnxruntime", "onnxscript") if form == "onnx" else ("torch",)
    return {name: version(name) for name in used}


def _hashes(folder: Path) -> dict[str, str]:
    return {name: sha256(folder / name) for name in (DESCRIPTION, WEIGHTS)}


# --- the two forms ----------------------------------------------------------------------------------------------------

Run = Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]


def _program(policy: Policy, draw: Draw | None, about: dict[str, Any]) -> bytes:
    """The content of a program's file, which compares as `about` then says.

    It holds JSON and numbers as they lie in memory; `torch.export.load` unpickles nothing of it.
    """

    def run(loaded: torch.export.ExportedProgram) -> Run:
        module = loaded.module()

        def actions(observations: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
            given = [torch.from_numpy(one) for one in (observations, noise) if one is not None]
            with torch.no_grad():
                return module(*given).numpy(), noise

        return actions

    def saved(extra: Mapping[str, Any]) -> io.BytesIO:
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={ABOUT: json.dumps(extra, indent=1)})
        content.seek(0)
        return content

    graph = _Graph(policy, draw)
    with _quiet():
        program = graph.traced()
        _compare(graph, run(torch.export.load(saved(about))), about)
        return saved(about).getvalue()


def onnx_content(policy: Policy, draw: Draw | None, about: dict[str, Any]) -> bytes:
    """The content of an ONNX file, which compares as `about` then says.

    Args:
        draw: what the file takes as noise for one observation.
        about: what it says of itself; of it the graph depends on the entry `noise`.

    Raises:
        UserError: its actions are not the policy's.
    """
    import onnx
    import onnxruntime  # type: ignore[import-untyped]
    import onnxscript  # noqa: F401 - torch's exporter imports it later, and says in words of its own that it is absent

    graph = _Graph(policy, draw)
    with _quiet():
        inputs = ["observations"] if graph.draw is None else ["observations", "noise"]
        exported = torch.onnx.export(
            graph.traced(),
            input_names=inputs,
            output_names=["actions"],
            opset_version=_OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None  # It was given no file.
    model = exported.model_proto
    _without_traces(model)
    seed = (about.get("noise") or {}).get("seed")
    if seed is not None and graph.draw is not None:
        _draw_inside(model, graph.draw, seed)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(observations: np.ndarray, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        if seed is not None:
            actions, noise = session.run(["actions", "noise"], {"observations": observations})
            return actions, noise
        given = {"observations": observations} | ({} if noise is None else {"noise": noise})
        return session.run(["actions"], given)[0], noise

    _compare(graph, run, about)
    onnx.helper.set_model_props(
        model, {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    )
    return bytes(model.SerializeToString())


def _without_traces(model: Any) -> None:
    """Take away what a model says of the code that it was traced from."""
    for part in (model.graph, *model.functions):
        for node in part.node:
            del node.metadata_props[:]
            node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]


def _draw_inside(model: Any, draw: Draw, seed: int) -> None:
    """Make the input `noise` a result of the graph, which is an output too, so that what was drawn can be seen."""
    from onnx import TensorProto, helper, numpy_helper

    (noise,) = [value for value in model.graph.input if value.name == "noise"]
    model.graph.input.remove(noise)
    model.graph.output.append(noise)
    model.graph.initializer.append(numpy_helper.from_array(np.array(draw.shape, np.int64), "noise_shape"))
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "normal": ("RandomNormalLike", {"mean": 0.0, "scale": 1.0}),
        "uniform": ("RandomUniformLike", {"low": 0.0, "high": 1.0}),
    }
    operator, numbers = kinds[draw.kind]
    zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    drawing = [
        helper.make_node("Shape", ["observations"], ["noise_batch"], start=0, end=1),
        helper.make_node("Concat", ["noise_batch", "noise_shape"], ["noise_sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["noise_sizes"], ["noise_zeros"], value=zero),
        helper.make_node(
            operator, ["noise_zeros"], ["noise"], dtype=TensorProto.FLOAT, seed=_attribute(seed), **numbers
        ),
    ]
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*drawing, *rest])


def _attribute(seed: int) -> float:
    """The attribute `seed` of a random operator for a seed, by a hash.

    onnxruntime's generator is linear: what it draws uniformly from k is k times what it draws from 1, modulo 1. Small
    numbers begin near 0 all, and their sequences stay alike.
    """
    return float(1 + int(hash_of(["noise", seed]), 16) % _ATTRIBUTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's warnings, which are of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# --- the comparison ---------------------------------------------------------------------------------------------------


def _compare(graph: _Graph, run: Run, about: dict[str, Any]) -> None:
    """Hold a file's actions against the policy's, and note in `about` how far they are apart.

    Where rounding lets a candidate be chosen that is as good, the action is held against that one.

    Raises:
        UserError: they are further apart than rounding explains.
    """
    policy, rng = graph.policy, np.random.default_rng(0)
    worst, others = 0.0, 0
    noise = _noise(graph, sum(_BATCHES))
    start = 0
    for batch in _BATCHES:
        observations = _observations(policy, batch, rng)
        given = None if noise is None else noise[start : start + batch]
        start += batch
        found, drawn = run(observations, given)
        differences, other = _differences(policy, observations, drawn, found)
        worst, others = max(worst, float(differences.max())), others + other
    if not worst <= TOLERANCE:
        raise UserError(
            f"the file's actions differ from the policy's by {worst:.2g} where the bounds are -1 and 1, more than"
            f" {TOLERANCE:.0e}; nothing was written",
            "Another version of torch or of onnxruntime may do; and say so to who maintains this project.",
        )
    about["comparison"] = {
        "observations": _COMPARED,
        "max_abs_difference": worst,
        "tolerance": TOLERANCE,
        # How often another candidate was taken, whose value is the same within rounding.
        "other_candidates": others,
    }


def _noise(graph: _Graph, rows: int) -> np.ndarray | None:
    """Noise for so many observations, drawn as the policy's own is."""
    if graph.draw is None:
        return None
    drawn = Draw(graph.draw.kind, (rows, *graph.draw.shape))
    return DrawStream({"noise": drawn}, [0], "export", torch.device("cpu")).at(0)["noise"][0].numpy()


def _observations(policy: Policy, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Observations like those that the policy was trained on, as far as it knows of them."""
    shape = (rows, *policy.actor.agent.observation_shape)
    if _observed(policy) is np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    return (policy.actor.mean + policy.actor.std * rng.standard_normal(shape)).astype(np.float32)


def _differences(
    policy: Policy, observations: np.ndarray, noise: np.ndarray | None, found: np.ndarray
) -> tuple[np.ndarray, int]:
    """How far each action `[B]` is from the policy's, where bounds are -1 and 1; how many are another candidate's."""
    drawn = None if noise is None else torch.from_numpy(np.ascontiguousarray(noise))[None]
    expected = policy.actor(observations[None], drawn)[0]
    away = _away(policy, found, expected)
    other = np.flatnonzero(away > TOLERANCE)
    ranked = (
        None if drawn is None or not len(other) else policy.actor.ranked(observations[other][None], drawn[:, other])
    )
    if ranked is None:
        return away, 0
    (actions,), (values,) = ranked
    best = values.max(-1, keepdims=True)
    as_good = values >= best - _AS_GOOD * np.abs(values).max(-1, keepdims=True)
    for candidate in range(values.shape[1]):
        of_it = np.where(as_good[:, candidate], _away(policy, found[other], actions[:, candidate]), np.inf)
        away[other] = np.minimum(away[other], of_it)
    return away, int((away[other] <= TOLERANCE).sum())


def _away(policy: Policy, found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """The largest difference of each row `[B]`, less what rounding to the type of actions makes of it."""
    units = policy.units
    expected = expected.reshape(*expected.shape[:-1], policy.horizon, -1)
    found = found.reshape(expected.shape).astype(np.float64)
    if units is None or not units.rescaled:
        return np.abs(found - expected).max(axis=(1, 2))
    half = (units.high - units.low) / 2.0
    rounding = np.finfo(found.dtype if units.dtype == "float64" else units.dtype).eps
    rounding = rounding * np.maximum(np.abs(units.low), np.abs(units.high)) / half
    away = np.abs(found - units.to_env(expected).astype(np.float64)) / half
    return np.maximum(away - rounding, 0.0).max(axis=(1, 2))
