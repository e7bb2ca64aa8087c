"""A policy as one file: it acts as the policy does, in a process without torch and without this project."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from mfql.agents.interface import Draw, load_agent
from mfql.agents.update import initial_state
from mfql.cli import main
from mfql.draws import DrawStream, generator
from mfql.evaluation import cli, export
from mfql.evaluation.policy import Actor, Policy, load_policy
from mfql.files import sha256
from mfql.methods import raw_settings
from mfql.settings import build_settings
from tests.support.own_tasks import BOUNDED, VECTOR, registered
from tests.support.policies import CPU, POINTMAZE, edited, write
from tests.support.training_runs import ROOT

FLOWS = ["mfql", "flow_bc", "fql", "ifql", "fawac", "fbrac"]
GAUSSIANS = ["bc", "iql", "rebrac", "calql", "rlpd"]
CLOSE = {"rtol": 0.0, "atol": 1e-5}
# What runs the file: nothing but onnxruntime and NumPy.
ALONE = """
import json, sys
import numpy as np

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "mfql"):
            raise ImportError(f"{name} is not to be imported")

sys.meta_path.insert(0, Refuse())
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = np.load(sys.argv[2])
names = [one.name for one in session.get_inputs()]
batches = sorted({name.rpartition("/")[2] for name in given.files})
found = {batch: session.run(["actions"], {name: given[f"{name}/{batch}"] for name in names})[0] for batch in batches}
assert not {"torch", "mfql"} & set(sys.modules)
np.savez(sys.argv[3], **found)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
"""


def exported(run: Path, out: Path, *more: str) -> Path:
    form = "onnx" if out.suffix == ".onnx" else "torch-export"
    assert main(["export", str(run), "--to", form, "--out", str(out), *more]) == 0
    return out


def refused(capsys: pytest.CaptureFixture[str], run: Path, out: Path, *more: str) -> str:
    """What is said of an export that is refused, which leaves nothing."""
    before = sorted(out.parent.iterdir()) if out.parent.is_dir() else []
    form = "onnx" if "--to" not in more else more[more.index("--to") + 1]
    assert main(["export", str(run), "--out", str(out), *more, *(() if "--to" in more else ("--to", form))]) == 2
    assert (sorted(out.parent.iterdir()) if out.parent.is_dir() else []) == before
    return capsys.readouterr().err


def inputs(policy: Policy, batch: int) -> dict[str, np.ndarray]:
    """Observations, and the noise that a policy which was just loaded acts on with so many of them."""
    agent = policy.actor.agent
    given = {"observations": np.random.default_rng(batch).normal(0.3, 2.0, (batch, *agent.observation_shape))}
    if (draw := agent.act_draw()) is not None:
        stream = DrawStream({"noise": Draw(draw.kind, (batch, *draw.shape))}, [0], f"policy/{batch}", CPU)
        given["noise"] = stream.at(0)["noise"][0].numpy()
    return {name: value.astype(np.float32) for name, value in given.items()}


def alone(file: Path, given: dict[int, dict[str, np.ndarray]]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What the file gives in a process of its own, by batch; and its metadata."""
    arrays = {f"{name}/{batch}": value for batch, values in given.items() for name, value in values.items()}
    np.savez(file.with_name("given.npz"), **arrays)
    arguments = [str(file), str(file.with_name("given.npz")), str(file.with_name("found.npz"))]
    ran = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    with np.load(file.with_name("found.npz")) as found:
        return dict(found), json.loads(ran.stdout)


def check_alone(file: Path, run: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Hold a file against the policy of a folder, for one observation and for several."""
    given = {batch: inputs(load_policy(run), batch) for batch in (1, 7)}
    found, about = alone(file, given)
    for batch, values in given.items():
        policy = load_policy(run)
        observations = values["observations"]
        expected = policy(observations) if policy.horizon == 1 else policy.chunk(observations)
        assert found[str(batch)].shape == expected.shape
        assert found[str(batch)].dtype == expected.dtype
        np.testing.assert_allclose(found[str(batch)], expected, **CLOSE)
    return found, about


# --- the page about it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [(), ("--noise", "seed")])
def test_the_page_s_ten_lines_act(
    noise: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "policy", POINTMAZE, "mfql-miniature")
    exported(run, tmp_path / "policy.onnx", *noise)
    assert capfd.readouterr().err == ""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(page.partition("```python\n")[2].partition("```")[0], used := {})  # noqa: S102 - what readers are told to run
    policy = load_policy(run)
    first, second = (used["act"](np.zeros(policy.actor.agent.observation_shape)) for _ in range(2))
    assert first.shape == (policy.actor.agent.action_dim,)
    assert (first != second).any()


# --- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [*FLOWS, *GAUSSIANS])
def test_a_file_acts_alone_as_the_policy_does(tmp_path: Path, method: str) -> None:
    run = write(tmp_path / "policy", POINTMAZE, f"{method}-miniature")
    found, about = check_alone(exported(run, tmp_path / "policy.onnx"), run)
    assert found["7"].std() > 0.01
    assert (json.loads(about["noise"]) is None) == (load_policy(run).actor.agent.act_draw() is None)
    compared = json.loads(about["comparison"])
    assert compared["observations"] == 1000
    assert compared["max_abs_difference"] <= compared["tolerance"] == 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("candidates", "method"), [(1, "mfql"), (5, "mfql"), (2, "ifql")])
def test_another_number_of_candidates_is_that_of_a_policy_with_it(tmp_path: Path, candidates: int, method: str) -> None:
    own = "acting_candidates" if method == "mfql" else "num_samples"
    run = write(tmp_path / "policy", POINTMAZE, f"{method}-miniature+{own}=3")
    other = write(tmp_path / "other", POINTMAZE, f"{method}-miniature+{own}={candidates}")
    file = exported(run, tmp_path / "policy.onnx", "--candidates", str(candidates))
    _, about = check_alone(file, other)
    assert json.loads(about["candidates"]) == candidates
    assert json.loads(about["noise"])["shape"] == ["batch", candidates, 2]


@pytest.mark.slow
def test_a_chunk_has_its_shape_and_the_environments_units(tmp_path: Path) -> None:
    """Of an environment whose bounds are not -1 and 1, with normalised observations."""
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    run = write(tmp_path / "policy", "mine", "mfql-miniature+horizon=3")
    found, about = check_alone(exported(run, tmp_path / "policy.onnx"), run)
    assert found["7"].shape == (7, 3, 2)
    assert (found["7"].min(axis=(0, 1)) >= BOUNDED.low).all()
    assert found["7"].max() > 1.5
    description = json.loads((run / "policy.json").read_text(encoding="utf-8"))
    assert json.loads(about["horizon"]) == 3
    assert json.loads(about["action_low"]) == description["action_low"] == [0.0, -2.0]
    assert json.loads(about["action_high"]) == description["action_high"] == [1.0, 4.0]


@pytest.mark.slow
def test_weights_that_rows_are_multiplied_by_have_two_axes_which_a_runtime_packs_once(tmp_path: Path) -> None:
    write(tmp_path, POINTMAZE, "mfql-miniature")
    graph = onnx.load(exported(tmp_path, tmp_path / "policy.onnx")).graph
    axes = {constant.name: len(constant.dims) for constant in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    weights = [axes[node.input[1]] for node in products if node.input[1] in axes]
    assert len(weights) > 10
    assert set(weights) == {2}


@pytest.mark.slow
def test_a_file_says_what_it_is_and_nothing_of_where_it_was_made(tmp_path: Path) -> None:
    run = write(tmp_path / "policy", POINTMAZE, "mfql-miniature", identity="0123456789abcdef")
    file = exported(run, tmp_path / "policy.onnx")
    about = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert about["method"] == "mfql-miniature"
    assert about["task"] == POINTMAZE
    assert about["identity"] == "0123456789abcdef"
    assert json.loads(about["policy_sha256"]) == {
        name: sha256(run / name) for name in ("policy.json", "policy.safetensors")
    }
    assert json.loads(about["versions"]).keys() == {"mfql", "torch", "onnx", "onnxruntime", "onnxscript"}
    model = onnx.load(file)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    content = file.read_bytes()
    for name in (str(ROOT), str(Path.home()), "site-packages", str(tmp_path)):
        assert name.encode() not in content


@pytest.mark.slow
def test_an_observation_that_is_not_finite_has_no_action_and_the_others_have_theirs(tmp_path: Path) -> None:
    run = write(tmp_path / "policy", POINTMAZE, "bc-miniature")
    session = onnxruntime.InferenceSession(exported(run, tmp_path / "policy.onnx"))
    observations = np.array([[0.0, 0.0], [np.nan, 0.0], [0.0, np.inf]], np.float32)
    (actions,) = session.run(None, {"observations": observations})
    assert np.isfinite(actions).all(axis=1).tolist() == [True, False, False]
    assert np.isnan(actions[1:]).all()


@pytest.mark.slow
@pytest.mark.parametrize("noise_type", ["normal", "uniform"])
def test_noise_that_a_file_draws_is_seen_and_acted_on_and_begins_anew_with_a_session(
    tmp_path: Path, noise_type: str
) -> None:
    run = write(tmp_path / "policy", POINTMAZE, f"mfql-miniature+noise_type={noise_type}")
    file = exported(run, tmp_path / "policy.onnx", "--noise", "seed", "--seed", "3")
    observations = inputs(load_policy(run), 2000)["observations"]

    def calls(file: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        session = onnxruntime.InferenceSession(file)
        assert [one.name for one in session.get_inputs()] == ["observations"]
        return [session.run(["actions", "noise"], {"observations": observations}) for _ in range(2)]

    (actions, noise), (_, later) = calls(file)
    assert not np.array_equal(noise, later)
    assert all(
        np.array_equal(one[1], other[1]) for one, other in zip(calls(file), [(0, noise), (0, later)], strict=True)
    )
    actor = load_policy(run).actor
    np.testing.assert_allclose(actions, actor(observations[None], torch.from_numpy(noise)[None])[0], **CLOSE)
    # 20,000 numbers: five standard errors.
    mean, deviation = (0.0, 1.0) if noise_type == "normal" else (0.5, 12**-0.5)
    assert abs(noise.mean() - mean) < 5 * deviation / noise.size**0.5
    assert abs(noise.std() - deviation) < 5 * deviation / noise.size**0.5
    other = calls(exported(run, tmp_path / "other.onnx", "--noise", "seed", "--seed", "4"))
    assert not np.array_equal(other[0][1], noise)


def test_seeds_that_follow_one_another_draw_noise_that_differs() -> None:
    """From k onnxruntime draws k times what it draws from 1, modulo 1: the first of 0 to 31 are all below 0.001."""

    def first(seed: float) -> float:
        node = onnx.helper.make_node("RandomUniform", [], ["noise"], shape=[1], seed=seed)
        noise = onnx.helper.make_tensor_value_info("noise", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([node], "draw", [], [noise])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
        (drawn,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {})
        return float(drawn[0])

    assert max(map(first, map(float, range(32)))) < 0.001
    drawn = sorted(map(first, map(export._attribute, range(32))))
    assert drawn[3] < 0.25 < drawn[13] < 0.75 < drawn[28]
    assert len(set(drawn)) == 32


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mfql-miniature", "ifql-miniature"])
def test_a_policy_of_images_is_had_in_both_forms(method: str) -> None:
    """Neither is made unless it acts as the policy does."""
    raw = raw_settings(method, POINTMAZE, "online", ROOT / "config") | {"encoder_channels": [2], "encoder_features": 4}
    kind = load_agent(raw.pop("agent"))
    agent = kind(build_settings(kind.settings_type, raw, "this test"), (16, 16, 9), 2)
    flat = initial_state(agent, [generator(CPU, 0, "initial")], CPU).flat
    drawn = {
        name: value + 0.1 * torch.randn(value.shape, generator=generator(CPU, name)) for name, value in flat.items()
    }
    actor = Actor(agent, drawn, np.zeros(1, np.float32), np.ones(1, np.float32), CPU).fixed()
    policy = Policy(actor, {})
    draw, about = agent.act_draw(), {}
    session = onnxruntime.InferenceSession(export.onnx_content(policy, draw, about))
    assert about["comparison"]["max_abs_difference"] <= 1e-5
    (images, _) = session.get_inputs()
    assert (images.type, images.shape[1:]) == ("tensor(uint8)", [16, 16, 9])
    assert export._program(policy, draw, {})


# --- torch.export -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mfql", "ifql", "fql", "calql", "mfql-miniature+horizon=3"])
def test_a_program_acts_as_the_policy_does_and_holds_no_pickle(tmp_path: Path, method: str) -> None:
    registered(tmp_path, observations=VECTOR, actions=BOUNDED)
    run = write(tmp_path / "policy", "mine", method if "+" in method else f"{method}-miniature")
    file = exported(run, tmp_path / "policy.pt2")
    extra = {export.ABOUT: ""}
    module = torch.export.load(file, extra_files=extra).module()
    for batch in (1, 7):
        policy = load_policy(run)
        given = inputs(policy, batch)
        expected = policy(given["observations"]) if policy.horizon == 1 else policy.chunk(given["observations"])
        found = module(*(torch.from_numpy(value) for value in given.values())).numpy()
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, **CLOSE)
    assert json.loads(extra[export.ABOUT])["comparison"]["max_abs_difference"] <= 1e-5
    with zipfile.ZipFile(file) as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    for entry, content in contents.items():
        # A protocol of pickle's begins with its number; torch's own pickles are archives.
        assert not content.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")), entry
        assert not any(name.encode() in content for name in (str(ROOT), "site-packages", str(tmp_path))), entry
        if entry.endswith("_config.json"):
            assert b'"use_pickle": true' not in content


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mfql, bc = write(tmp_path / "mfql", POINTMAZE), write(tmp_path / "bc", POINTMAZE, "bc-miniature")
    flow = write(tmp_path / "flow", POINTMAZE, "flow_bc-miniature")
    (tmp_path / "there.onnx").write_bytes(b"")
    out = tmp_path / "policy.onnx"
    assert "there already" in refused(capsys, mfql, tmp_path / "there.onnx")
    assert "Give it the ending .onnx" in refused(capsys, mfql, tmp_path / "policy.pt2")
    assert "holds no policy" in refused(capsys, tmp_path, out)
    assert "bc-miniature acts without noise" in refused(capsys, bc, out, "--noise", "seed")
    for run in (bc, flow):
        assert "does not choose among candidates" in refused(capsys, run, out, "--candidates", "5")
    pt2 = tmp_path / "policy.pt2"
    assert "no generator of its own" in refused(capsys, mfql, pt2, "--to", "torch-export", "--noise", "seed")
    assert "Add --noise seed" in refused(capsys, mfql, out, "--seed", "1")
    assert "0 or more" in refused(capsys, mfql, out, "--noise", "seed", "--seed", "-1")
    assert "One or more" in refused(capsys, mfql, out, "--candidates", "0")


def test_a_policy_with_weights_that_are_no_numbers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "policy", POINTMAZE)
    arrays = load_file(run / "policy.safetensors")
    arrays["policy.output.bias"][0] = float("nan")
    save_file(arrays, run / "policy.safetensors")
    edited(run, weights_sha256=sha256(run / "policy.safetensors"))
    assert "policy.output.bias has numbers that are not finite" in refused(capsys, run, tmp_path / "policy.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_said_with_its_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    run = write(tmp_path / "policy", POINTMAZE)
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(capsys, run, tmp_path / "policy.onnx")
    assert f"needs the package {package}" in said
    assert "pip install 'mfql[export]'" in said


def test_a_file_that_acts_otherwise_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write(tmp_path / "policy", POINTMAZE, "fql-miniature")
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    said = refused(capsys, run, tmp_path / "policy.pt2", "--to", "torch-export")
    assert "differ from the policy's" in said


def test_a_candidate_as_good_counts_as_the_policys_and_another_does_not(tmp_path: Path) -> None:
    run = write(tmp_path / "policy", POINTMAZE)
    arrays = load_file(run / "policy.safetensors")
    for name in ("kernel", "bias"):
        arrays[f"critic.layer2.{name}"].zero_()
    assert "critic.layer3.kernel" not in arrays
    save_file(arrays, run / "policy.safetensors")
    edited(run, weights_sha256=sha256(run / "policy.safetensors"))
    policy, given = load_policy(run), inputs(load_policy(run), 7)
    ranked = policy.actor.ranked(given["observations"][None], torch.from_numpy(given["noise"])[None])
    assert ranked is not None
    (actions,), (values,) = ranked
    assert (values == 0.0).all()
    away, others = export._differences(policy, given["observations"], given["noise"], actions[:, 1])
    assert (away.max(), others) == (0.0, 7)
    away, others = export._differences(policy, given["observations"], given["noise"], actions[:, 1] + 0.01)
    assert away.min() > 0.009
    assert others == 0
    # Where values differ, only the best will do.
    write(tmp_path / "other", POINTMAZE)
    decided = load_policy(tmp_path / "other")
    (actions,), (values,) = decided.actor.ranked(given["observations"][None], torch.from_numpy(given["noise"])[None])
    worst = actions[np.arange(7), values.argmin(-1)]
    away, others = export._differences(decided, given["observations"], given["noise"], worst)
    assert away.max() > 0.01
    assert others == 0


def test_the_command_knows_the_forms_without_torch() -> None:
    assert tuple(export.SUFFIXES) == cli.FORMS
