"""The fixtures of released code's numbers, and that the comparison cannot pass by accident."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mfql import parity
from mfql.agents.flax import as_released, load_checkpoint, load_released
from mfql.cli import main
from mfql.errors import UserError
from mfql.parity.comparison import section
from tests.support.released import nested

ROOT = Path(__file__).parents[1]
FIXTURE = ROOT / "tests" / "data" / "reference.npz"
BASELINES = FIXTURE.with_name("baselines.npz")


def test_every_group_of_both_fixtures_is_within_its_bound(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["parity"]) == 0
    printed = {line[:16].strip() for line in capsys.readouterr().out.splitlines()}
    assert {"forward", "JVP", "losses", "candidates", "gradients", "updates", "schedule", "alpha"} <= printed
    assert {f"{method} {part}" for method in parity.METHODS for part in ("losses", "gradients")} <= printed


def test_of_another_precision_it_is_said_what_it_loses_and_nothing_is_out_of_bounds(capsys):
    computed = parity.Computed(torch.device("cpu"), "bf16")
    assert parity.report([FIXTURE, BASELINES], computed)
    worst, outside = parity.compare_all([FIXTURE, BASELINES], computed)
    # bf16 has 8 bits: what passes through its products is off by more than float32's bound, what does not is not.
    assert all(
        comparison.error > 100 * parity.BOUND for comparison in worst.values() if "gradients" in comparison.group
    )
    assert worst["alpha"].within
    assert len(outside) > 10
    printed = capsys.readouterr().out
    assert "OUT OF BOUNDS" not in printed
    assert f"{worst['losses'].error:.2e}" in printed


def test_parity_on_a_gpu_that_is_not_there_is_refused(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["parity", "--device", "cuda", str(FIXTURE)]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_every_array_of_the_baselines_is_compared_but_one():
    arrays = parity.load_fixture(BASELINES)
    compared = {comparison.array for comparison in parity.comparisons(arrays)}
    expected = {name for name in arrays if name.partition("/")[2].split(":")[0] in ("out", "grad")}
    assert expected - compared == {"fql/out:actor.mse"}  # of noise that the file does not have
    assert {name.split("/")[0] for name in expected} == {"fql", "ifql", "iql", "rebrac"}


def test_every_array_of_the_fixture_is_compared():
    arrays = parity.load_fixture(FIXTURE)
    compared = {comparison.array for comparison in parity.Fixture(arrays).compare()}
    expected = {name for name in arrays if name.split(":")[0] in ("out", "grad", "change3", "step1", "step2", "step3")}
    assert compared == expected | {"sched:actor_lr", "alpha:alpha_after"}


@pytest.mark.parametrize(
    "name",
    [
        "out:dgdt",
        "out:total_loss",
        "grad:modules_actor_bc_flow/blocks_1/Attention_0/qkv/kernel",
        "grad:modules_critic/value_net/LayerNorm_2/scale",
        "change3:modules_actor_bc_flow/pos_embed",
        "change3:modules_target_critic/value_net/Dense_4/bias",
        "fql/out:actor.distill_loss",
        "fql/grad:modules_actor_bc_flow/mlp/Dense_4/bias",
        "ifql/out:value.v_max",
        "iql/grad:modules_value/value_net/LayerNorm_0/scale",
        "rebrac/grad:modules_actor/mean_net/kernel",
    ],
)
def test_one_altered_number_is_found_and_named(name, tmp_path, capsys):
    arrays = dict(np.load(BASELINES if "/" in name.split(":")[0] else FIXTURE))
    altered = arrays[name].copy()
    altered.reshape(-1)[-1] += 0.1 * np.abs(altered).max()
    np.savez(tmp_path / "altered.npz", **(arrays | {name: altered}))
    assert main(["parity", str(tmp_path / "altered.npz")]) == 1
    assert f"OUT OF BOUNDS {name}" in capsys.readouterr().out


def test_a_cut_file_is_refused_by_name(tmp_path, capsys):
    cut = tmp_path / "cut.npz"
    cut.write_bytes(FIXTURE.read_bytes()[:2000])
    assert main(["parity", str(cut)]) == 2
    assert str(cut) in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(10**13,), (True,)])
def test_a_header_that_says_what_is_not_there_is_refused_by_name(tmp_path, capsys, shape):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "said.npz", "w") as archive:
        archive.writestr("observations.npy", header.getvalue() + bytes(4))
    assert main(["parity", str(tmp_path / "said.npz")]) == 2
    assert f"{tmp_path / 'said.npz'} is not a readable npz file" in capsys.readouterr().err


def test_a_foreign_npz_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "foreign.npz", observations=np.zeros(3))
    assert main(["parity", str(tmp_path / "foreign.npz")]) == 2
    assert "param:" in capsys.readouterr().err


def test_a_fixture_of_an_unknown_method_is_refused(tmp_path, capsys):
    arrays = {name.replace("rebrac/", "td3/"): array for name, array in np.load(BASELINES).items()}
    np.savez(tmp_path / "unknown.npz", **arrays)
    assert main(["parity", str(tmp_path / "unknown.npz")]) == 2
    assert "td3" in capsys.readouterr().err


def test_a_fixture_without_gradients_is_refused(tmp_path, capsys):
    arrays = {name: array for name, array in np.load(BASELINES).items() if not name.startswith("fql/grad:")}
    np.savez(tmp_path / "cut.npz", **arrays)
    assert main(["parity", str(tmp_path / "cut.npz")]) == 2
    assert "fql/grad:" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["fql", "ifql", "iql", "rebrac"])
def test_the_weights_of_a_baseline_go_to_released_names_and_back_and_come_from_its_checkpoints(method, tmp_path):
    arrays = parity.load_fixture(BASELINES)
    weights = section(arrays, f"{method}/param:")
    agent = parity.BaselineFixture(arrays).agent(method)
    flat = load_released(agent, weights)
    back = dict(as_released(agent, flat, weights))
    assert all(np.array_equal(back[name], value) for name, value in weights.items())
    (tmp_path / "params_1.pkl").write_bytes(pickle.dumps(nested(weights)))
    read = load_checkpoint(agent, tmp_path / "params_1.pkl")
    assert all(torch.equal(read[name], value) for name, value in flat.items())
    (tmp_path / "params_1.pkl").write_bytes(
        pickle.dumps(nested({k: v for k, v in weights.items() if "Dense_3" not in k}))
    )
    with pytest.raises(UserError, match="lacks"):
        load_checkpoint(agent, tmp_path / "params_1.pkl")


def test_weights_on_a_gpu_go_to_released_names_by_way_of_the_processor(monkeypatch):
    """The meta device stands for the GPU: what is on it is no array, either."""
    arrays = parity.load_fixture(BASELINES)
    weights = section(arrays, "iql/param:")
    agent = parity.BaselineFixture(arrays).agent("iql")
    placed = {name: value.to("meta") for name, value in load_released(agent, weights).items()}
    with pytest.raises(TypeError, match="meta"):
        placed["policy"].numpy()
    monkeypatch.setattr("torch.Tensor.cpu", lambda tensor: torch.ones(tensor.shape))
    back = dict(as_released(agent, placed, weights))
    assert {name: value.shape for name, value in back.items()} == {name: value.shape for name, value in weights.items()}
    assert any(value.any() for value in back.values())


def test_arrays_that_do_not_fit_together_are_refused_by_the_files_name(tmp_path: Path, capsys) -> None:
    arrays = dict(parity.load_fixture(FIXTURE))
    name = next(name for name in arrays if name.startswith("param:modules_critic/") and name.endswith("kernel"))
    np.savez(tmp_path / "cut.npz", **arrays | {name: arrays[name][:-1]})
    assert main(["parity", str(tmp_path / "cut.npz")]) == 2
    assert f"nothing of ours can be computed from the arrays of {tmp_path / 'cut.npz'}" in capsys.readouterr().err
