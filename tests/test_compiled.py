"""The compiled update is the eager one, and its library is used for nothing else."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from benchmarks.acting import agent_of
from benchmarks.job import Job
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.update import TrainState, Updater, initial_state
from mfql.draws import Draw, DrawStream, generator
from mfql.errors import UserError
from mfql.training import compiled as module
from mfql.training.compiled import CompiledUpdate
from mfql.training.memory import Memory
from mfql.training.step import Step

CPU, CONFIG = torch.device("cpu"), Path(__file__).parents[1] / "config"
TASK = "pointmaze-medium-navigate-singletask-task2-v0"
METHODS = ["bc", "calql", "fawac", "fbrac", "flow_bc", "fql", "ifql", "iql", "mfql", "rebrac", "rlpd"]
SEEDS, ROWS, UPDATES = [0, 1], 200, 100
SETTINGS = MFQLSettings(
    # Long past the warm-up at the first update, so that weights move.
    offline_steps=1000, online_steps=0, discount=0.9, alpha=1.0, batch_size=16, num_candidates=3, time_steps=8,
    policy_hidden=16, policy_blocks=1, critic_hidden=(16,), warmup_share=0.0, alpha_interval=5, alpha_window=2,
    alpha_threshold=1.01, alpha_warmup=0.0,
)  # fmt: skip


def trained(
    folder: Path | None, settings: MFQLSettings = SETTINGS, limit: float = 1e9, seeds: Sequence[int] = SEEDS
) -> tuple[TrainState, TrainState]:
    """The state before and after the updates, on random rows; with a folder for its library compiled."""
    agent = MFQL(settings, (4,), 2)
    state = initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)
    before = initial_state(agent, [generator(CPU, seed, "initial") for seed in seeds], CPU)
    source = generator(CPU, "rows")
    rows = {
        "observations": torch.randn(ROWS, 4, generator=source).numpy(),
        "next_observations": torch.randn(ROWS, 4, generator=source).numpy(),
        "actions": (2 * torch.rand(ROWS, 2, generator=source) - 1).numpy(),
        "rewards": -torch.rand(ROWS, generator=source).numpy(),
        "masks": (torch.rand(ROWS, generator=source) < 0.9).float().numpy(),
    }
    draws = {"rows": Draw("integer", (settings.batch_size,)), **agent.update_draws()}
    stream = DrawStream(
        {name: Draw(draw.kind, (1, *draw.shape)) for name, draw in draws.items()}, list(seeds), "offline/update", CPU
    )
    eager = Updater(agent, state, limit)
    updater = eager if folder is None else CompiledUpdate(eager, folder)
    step = Step(updater, Memory(rows, len(seeds), 0, None, CPU), stream, 1, 0.0)
    for number in range(UPDATES):
        step(number)
    return before, state


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainState]:
    """A folder with the library, and the state that it trained."""
    folder = tmp_path_factory.mktemp("caches") / "updates"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, state = trained(folder)
    finally:
        torch.set_num_threads(threads)
    return folder, state


@pytest.fixture
def kept(made: tuple[Path, TrainState], tmp_path: Path) -> Iterator[Path]:
    """A copy of that folder, used with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield shutil.copytree(made[0], tmp_path / "updates")
    torch.set_num_threads(threads)


class CompilesError(Exception):
    """A library is made."""


@pytest.fixture
def compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiles(*_: object) -> None:
        raise CompilesError

    monkeypatch.setattr(CompiledUpdate, "_compile", compiles)


pytestmark = pytest.mark.skipif(not module.compiles(), reason="compiling for a processor needs a C++ compiler")


@given(
    hnp.arrays(np.float64, 5, elements=st.floats(-1e3, 1e3)), hnp.arrays(np.float64, 5, elements=st.floats(-1.0, 1.0))
)
def test_what_stands_for_gelu_is_gelu(at: np.ndarray, after: np.ndarray) -> None:
    x, grad = torch.from_numpy(at), torch.from_numpy(after)
    given = x.clone().requires_grad_()
    expected = functional.gelu(given, approximate="tanh")
    expected.backward(grad)
    aten, near = torch.ops.aten, {"rtol": 1e-12, "atol": 1e-12}
    instead = module._cheaper()
    torch.testing.assert_close(instead[aten.gelu.default](x, approximate="tanh"), expected.detach(), **near)
    torch.testing.assert_close(instead[aten.gelu_backward.default](grad, x, approximate="tanh"), given.grad, **near)


def test_what_stands_for_gelu_makes_no_numbers_that_slow_a_product_down() -> None:
    x = torch.linspace(-50.0, 0.0, 10_001)
    aten, instead = torch.ops.aten, module._cheaper()
    values = instead[aten.gelu.default](x, approximate="tanh")
    slopes = instead[aten.gelu_backward.default](torch.ones_like(x), x, approximate="tanh")
    for found in (values, slopes):
        assert found[found != 0].abs().min() > 1e-12
        assert (found[:1000] == 0).all()


@given(
    *(hnp.arrays(np.float64, shape, elements=st.floats(-1e3, 1e3)) for shape in ((2, 1, 4), (2, 3, 5), (2, 5, 4))),
    st.sampled_from([(1, 1), (2, 1), (1, 0.5)]),
)
def test_what_stands_for_a_product_with_a_bias_is_both(bias, left, right, factors):
    given, (beta, alpha) = [torch.from_numpy(own) for own in (bias, left, right)], factors
    baddbmm = torch.ops.aten.baddbmm.default
    found = module._cheaper()[baddbmm](*given, beta=beta, alpha=alpha)
    if factors == (1, 1):
        torch.testing.assert_close(found, baddbmm(*given), rtol=1e-12, atol=1e-6)
    else:
        assert found is NotImplemented


@pytest.mark.slow
def test_a_hundred_compiled_updates_equal_eager_ones(made):
    _, compiled = made
    before, eager = trained(None)
    moved = eager.flat["policy"] - before.flat["policy"]
    assert moved.abs().max() > 1e-3
    for name, expected in eager.flat.items():
        torch.testing.assert_close(compiled.flat[name], expected, rtol=0, atol=1e-4)
    for ours, expected in zip(compiled.tensors(), eager.tensors(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert eager.own["alpha_moves"].min() > 0


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_nothing")
def test_a_later_job_of_the_same_shapes_takes_the_library_and_ends_bit_equal(made, kept):
    _, again = trained(kept)
    for ours, expected in zip(again.tensors(), made[1].tensors(), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_nothing")
@pytest.mark.parametrize("seeds", [[1], [1, 5, 0]])
def test_other_seeds_take_the_same_library_and_each_ends_as_it_does_among_others(seeds, made, kept):
    _, alone = trained(kept, seeds=seeds)
    found, expected = alone.seed_rows(seeds.index(1)), made[1].seed_rows(SEEDS.index(1))
    assert found["step"] == expected["step"] == UPDATES
    assert found["logged"]
    for part, values in expected.items():
        for name, value in values.items() if isinstance(values, dict) else [(part, values)]:
            assert torch.equal(found[part][name] if isinstance(values, dict) else found[part], value), (part, name)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_methods_update_comes_apart_by_seed(method, kept, monkeypatch):
    """Whatever a method keeps and draws has an axis of seeds; `kept` has the one thread."""
    calls: list[list[torch.Tensor]] = []
    monkeypatch.setattr(CompiledUpdate, "_library", lambda *_: calls.append)
    agent = agent_of(f"{method}-quickstart", CONFIG, TASK, 4, 2)
    job = Job(agent, 3, 300, CPU, compiled=True)
    job.once()
    assert [{len(value) for value in call if value.dim()} for call in calls] == 3 * [{1}]
    assert int(job.updater.state.step) == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "change", "near"), [*((name, "", 0.01) for name in METHODS), ("mfql", "+precision=bf16", 0.1)]
)
def test_every_methods_library_updates_as_it_does_without(method, change, near, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "kept_in", lambda: tmp_path)
    agent = agent_of(f"{method}-quickstart{change}", CONFIG, TASK, 4, 2)
    compiled, eager, before = (Job(agent, 2, 300, CPU, compiled=compiled) for compiled in (True, False, False))
    for _ in range(20):
        compiled.once()
        eager.once()
    assert next(tmp_path.glob("*.so"))
    moved = torch.cat([(eager.state.flat[name] - own).flatten() for name, own in before.state.flat.items()])
    apart = torch.cat([(eager.state.flat[name] - own).flatten() for name, own in compiled.state.flat.items()])
    assert apart.norm() < near * moved.norm()


@pytest.mark.slow
def test_several_threads_take_all_seeds_at_once(kept, monkeypatch):
    inputs = []

    def library(self: CompiledUpdate, named: dict[str, torch.Tensor]) -> Callable[[list[torch.Tensor]], None]:
        inputs.append({len(value) for value in named.values() if value.dim()})
        return lambda _: None

    monkeypatch.setattr(CompiledUpdate, "_library", library)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        trained(kept)
    assert inputs == [{1}, {len(SEEDS)}]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_nothing")
@pytest.mark.parametrize(
    "fault",
    [
        lambda library: flip(library),
        lambda library: library.unlink(),
        lambda library: library.chmod(0o777),
        lambda library: library.with_suffix(".json").unlink(),
        lambda library: library.with_suffix(".json").write_text("{", encoding="utf-8"),
        lambda library: flip(library.with_suffix(".json")),
    ],
    ids=["another byte", "gone", "writable by all", "no record", "half a record", "another record"],
)
def test_a_damaged_library_is_made_anew(fault, kept):
    (library,) = kept.glob("*.so")
    fault(library)
    with pytest.raises(CompilesError):
        trained(kept)


@pytest.mark.slow
@pytest.mark.usefixtures("compiles_nothing")
@pytest.mark.parametrize(
    ("changed", "value"),
    [("settings", replace(SETTINGS, alpha=2.0)), ("limit", 1e8), ("threads", 2), ("code", "other"), ("compiler", "14")],
)
def test_a_library_is_used_for_nothing_but_what_it_was_made_of(changed, value, kept, monkeypatch):
    if changed == "threads":
        torch.set_num_threads(value)
    elif changed in ("code", "compiler"):
        name = {"code": "_code", "compiler": "_compiler_version"}[changed]
        monkeypatch.setattr(module, name, lambda *_: value)
    with pytest.raises(CompilesError):
        trained(kept, **({changed: value} if changed in ("settings", "limit") else {}))


@pytest.mark.slow
def test_what_a_killed_compiler_left_goes_with_the_next(made, kept, monkeypatch):
    (library,) = kept.glob("*.so")
    library.unlink()
    left = library.with_suffix(".making")
    left.mkdir()
    (left / library.name).write_bytes(b"half")

    def compiled(*_: object, options: dict[str, str]) -> None:
        shutil.copy2(made[0] / library.name, options["aot_inductor.output_path"])

    monkeypatch.setattr("torch._inductor.aot_compile", compiled)
    _, again = trained(kept)
    assert torch.equal(again.flat["policy"], made[1].flat["policy"])
    assert {path.suffix for path in kept.iterdir()} == {".so", ".json"}


@pytest.mark.slow
def test_libraries_that_no_job_took_for_months_go_as_one_is_made(made, kept, monkeypatch):
    (library,) = kept.glob("*.so")
    old, foreign = kept / f"{'0' * 16}.so", kept / "notes.so"
    for file in (old, old.with_suffix(".json"), foreign):
        file.write_bytes(b"")
        os.utime(file, (0, 0))
    os.utime(library, (0, 0))
    trained(kept)
    assert old.exists()
    library.with_suffix(".json").unlink()
    monkeypatch.setattr(
        "torch._inductor.aot_compile",
        lambda *_, options: shutil.copy2(made[0] / library.name, options["aot_inductor.output_path"]),
    )
    trained(kept)
    assert {file.name for file in kept.iterdir()} == {library.name, library.with_suffix(".json").name, foreign.name}


def test_a_folder_that_cannot_be_written_is_said_with_what_to_do(tmp_path):
    (tmp_path / "full").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"full/updates: Not a directory\n.*XDG_CACHE_HOME; --compile off"):
        trained(tmp_path / "full" / "updates")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # As where neither HOME nor an account names one.
    with pytest.raises(UserError, match=r"there is none\n.*XDG_CACHE_HOME"):
        module.kept_in()


def test_code_that_an_agent_derives_from_is_part_of_what_a_library_is_made_of(tmp_path, monkeypatch):
    file = tmp_path / "base_of_an_extension.py"
    file.write_text("from mfql.agents.mfql import MFQL\n\n\nclass Base(MFQL):\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    base = importlib.import_module(file.stem).Base
    derived = type("Derived", (base,), {"__module__": __name__})
    monkeypatch.setattr(module, "_code", module._code.__wrapped__)
    before = module._code(derived)
    file.write_text(file.read_text(encoding="utf-8") + "    weight = 2.0\n", encoding="utf-8")
    assert module._code(derived) != before
