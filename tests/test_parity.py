"""The fixture of the released code's numbers, and that the comparison cannot pass by accident."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mfql import parity
from mfql.cli import main

FIXTURE = Path(__file__).parent / "data" / "reference.npz"


def test_every_group_of_the_fixture_is_within_its_bound(capsys):
    assert main(["parity", str(FIXTURE)]) == 0
    printed = capsys.readouterr().out
    for group in ("forward", "JVP", "losses", "candidates", "gradients", "updates", "schedule", "alpha"):
        assert group in printed


def test_every_array_of_the_fixture_is_compared():
    arrays = parity.load_fixture(FIXTURE)
    compared = {comparison.array for comparison in parity.Fixture(arrays).compare()}
    expected = {name for name in arrays if name.split(":")[0] in ("out", "grad", "change3", "step1", "step2", "step3")}
    assert compared == expected | {"sched:actor_lr", "alpha:alpha_after"}


@pytest.fixture(scope="module")
def ours() -> dict[str, parity.Comparison]:
    return {comparison.array: comparison for comparison in parity.Fixture(parity.load_fixture(FIXTURE)).compare()}


@pytest.mark.parametrize(
    "name",
    [
        "out:dgdt",
        "out:total_loss",
        "grad:modules_actor_bc_flow/blocks_1/Attention_0/qkv/kernel",
        "grad:modules_critic/value_net/LayerNorm_2/scale",
        "change3:modules_actor_bc_flow/pos_embed",
        "change3:modules_target_critic/value_net/Dense_4/bias",
    ],
)
def test_one_altered_number_is_found_and_named(name, tmp_path, capsys):
    arrays = dict(np.load(FIXTURE))
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


def test_a_foreign_npz_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "foreign.npz", observations=np.zeros(3))
    assert main(["parity", str(tmp_path / "foreign.npz")]) == 2
    assert "param:" in capsys.readouterr().err
