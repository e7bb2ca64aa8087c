"""The benchmarks in miniature: what they record, count and write. How fast anything is, no test asserts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import mujoco
import numpy as np
import psutil
import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import EventList, FunctionEvent

from benchmarks import ant_physics
from benchmarks.__main__ import main
from benchmarks.acting import NOT_MEASURED
from benchmarks.goals import GOALS, goal_rows
from benchmarks.job import MINIATURE, Context, Job
from benchmarks.processes import _empty_job
from benchmarks.products import Product, ProductsAlone, record
from benchmarks.profile import _self_time, profiled
from benchmarks.reference import Reference, ReferenceUpdates
from benchmarks.results import Measurement, document, number
from benchmarks.run import measure
from benchmarks.shared import OURS, under_load
from benchmarks.speed import write_speed
from benchmarks.tables import BEGIN, END, section, write_docs
from benchmarks.timing import Budget, Values, take_turns
from mfql.cores import usable_cores
from mfql.envs.d4rl_package import package_folder
from mfql.errors import UserError
from mfql.plan.cost import MeasuredSpeed, find_speed

CPU = torch.device("cpu")
SCHEMA = json.loads((Path(__file__).parents[1] / "benchmarks" / "schema.json").read_text(encoding="utf-8"))
CONTEXT = Context(MINIATURE, CPU)

CHECKOUT = """
import numpy as np


def get_config():
    return {"width": 1}


class Agent:
    def __init__(self, config, updates=0):
        self.config, self.updates = config, updates

    @classmethod
    def create(cls, seed, ex_observations, ex_actions, config):
        print("creating", config["width"])
        assert ex_observations.shape == (16, 29)
        assert ex_actions.shape == (16, 8)
        return cls(config)

    def update(self, batch):
        assert batch["terminals"].shape == batch["rewards"].shape == batch["masks"].shape == (16,)
        assert batch["next_observations"].dtype == np.float32
        if self.config["width"] == 2 and self.updates == 2:  # After those that compile.
            raise RuntimeError("too wide")
        return Agent(self.config, self.updates + 1), {"loss": self.updates}
"""

# cProfile imports Python's profile, of which benchmarks/ has a namesake beside the worker.
JAX = """
import cProfile


def block_until_ready(tree):
    return tree
"""

MAIN = """
import os

import a_simulator_that_is_not_there
from absl import flags
from ml_collections import config_flags

FLAGS = flags.FLAGS

flags.DEFINE_integer("offline_steps", 1_000_000, "Number of " "steps.", lower_bound=0)
_FACTOR = flags.DEFINE_float(name="pretrain_factor", default=0.25, help="Share.")
flags.DEFINE_bool("stopping", True, "Whether.")
flags.DEFINE_enum("schedule", "cosine", ["cosine", "constant"], "Which.")
flags.DEFINE_list("widths", "512,256", "Of layers.")
flags.DEFINE_multi_string("tags", ["a", "b"], "More of them.")
flags.DEFINE_string("restore_path", None, "From where.")
flags.DEFINE_integer("seed", 0, "Which the agent defines otherwise.")
flags.DEFINE_string("save_dir", os.path.join("exp", "1"), "No literal.")
config_flags.DEFINE_config_file("agent", "agents/flagged.py", lock_config=False)
config_flags.DEFINE_config_dict(config={"width": 1})
"""

MAIN_FLAGGED = """
from absl import flags

flags.DEFINE_integer("online_steps", -7, "As many.")
flags.DEFINE_integer("offline_steps", 5, "Which main.py defined before.")
"""

FLAGGED = """
from absl import flags

from agents.reference import Agent as Unflagged
from agents.reference import get_config

FLAGS = flags.FLAGS
flags.DEFINE_integer("seed", 3, "Of its own.")


class Agent(Unflagged):
    @classmethod
    def create(cls, seed, ex_observations, ex_actions, config):
        assert (FLAGS.offline_steps, FLAGS.online_steps, FLAGS.pretrain_factor) == (1_000_000, -7, 0.25)
        assert (FLAGS.stopping, FLAGS.schedule, FLAGS.widths) == (True, "cosine", ["512", "256"])
        assert (FLAGS.tags, FLAGS.restore_path, FLAGS.seed) == (["a", "b"], None, 3)
        if config["width"] == 4:
            FLAGS.save_dir
        return super().create(seed, ex_observations, ex_actions, config)
"""


@pytest.fixture
def checkout(tmp_path):
    """A stand-in for a checkout of the released code, and for the part of jax that the worker uses.

    The released code itself was run by hand, with the versions that docs/benchmarks.md names.
    """
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "reference.py").write_text(CHECKOUT, encoding="utf-8")
    (tmp_path / "jax.py").write_text(JAX, encoding="utf-8")
    return Reference(tmp_path, "agents.reference:Agent")


@pytest.fixture
def flagged(checkout):
    """A checkout whose agent reads flags that only the scripts beside it define."""
    scripts = {"main.py": MAIN, "main_flagged.py": MAIN_FLAGGED, "agents/flagged.py": FLAGGED}
    for name, text in scripts.items():
        (checkout.checkout / name).write_text(text, encoding="utf-8")
    return replace(checkout, agent="agents.flagged:Agent")


def test_recorded_products_sum_to_the_operations_that_torch_counts():
    products, operations = record(Job(CONTEXT.agent(), 2, 100, CPU).once)
    assert sum(product.operations for product in products) == operations > 0
    assert {product.batch for product in products} == {2, 4}  # Seeds, and seeds times critics.


def test_products_in_bf16_are_recorded_as_such():
    products, _ = record(Job(CONTEXT.agent(precision="bf16"), 1, 100, CPU).once)
    assert torch.bfloat16 in {product.dtype for product in products}


@pytest.mark.parametrize(("left", "right"), [((2, 3, 4), (2, 4, 5)), ((3, 4), (4, 5))])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_computed_alone_in_its_own_layout(left, right, transposed):
    first = torch.zeros(*left[:-2], left[-1], left[-2]).mT if transposed else torch.zeros(left)
    products, operations = record(lambda: first @ torch.zeros(right))
    again, _ = record(ProductsAlone(products, CPU))
    assert again == products
    assert products == [Product(left[0] if len(left) == 3 else 1, 3, 4, 5, transposed, False, torch.float32)]
    assert products[0].operations == operations


def test_cases_take_turns():
    order = []
    times = take_turns({name: lambda calls, name=name: order.append(name) or 1.0 for name in "ab"}, Budget(3, 0.0))
    assert "".join(order) == "aabb" + "ab" * 3
    assert times["a"].rounds == (1.0, 1.0, 1.0)


def test_quotients_are_taken_round_by_round():
    assert Values((2.0, 9.0, 4.0)).over(Values((1.0, 3.0, 4.0))).median == 2.0


@pytest.fixture(scope="module")
def measured():
    parts = ["update", "seeds", "acting", "methods", "plan"]
    return measure(CONTEXT, parts, quick=False)


@pytest.mark.slow
def test_results_follow_their_schema(measured):
    result = json.loads(json.dumps(measured[0]))
    jsonschema.validate(result, SCHEMA)
    assert {one["part"] for one in result["measurements"]} >= {"update", "seeds", "acting", "methods", "plan"}


@pytest.mark.slow
def test_an_update_at_the_quickstarts_size_is_measured_beside_its_products(measured):
    small = [one for one in measured[0]["measurements"] if one["part"] == "small"]
    assert {one["case"]["seeds"] for one in small} == {1, 3, 8}
    assert all(one["value"] > 0 for one in small)


@pytest.mark.slow
def test_every_method_that_one_trains_with_is_measured(measured):
    methods = {one["case"]["method"] for one in measured[0]["measurements"] if one["part"] == "methods"}
    files = {path.stem for path in CONTEXT.config_dir.glob("methods/*.yaml")}
    assert methods == {name for name in files if not name.endswith(NOT_MEASURED)}
    assert {"mfql", "rlpd", "fql-quickstart"} <= methods


@pytest.mark.slow
def test_the_plan_reads_the_file_of_measured_speed(measured, tmp_path):
    write_speed(tmp_path / "speed.json", measured[1], CONTEXT)
    speed = find_speed(tmp_path / "speed.json", gpus=0)
    assert isinstance(speed, MeasuredSpeed)
    assert {stage: len(points) for stage, points in speed.points.items()} == {"offline": 3, "online": 3}
    assert "measured on" in speed.source


def test_what_a_machine_lacks_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result, _ = measure(CONTEXT, ["plan", "online", "evaluation", "data"], quick=False)
    assert [one["what"] for one in result["left_out"]] == ["plan", "online", "evaluation", "data"]
    assert all("ogbench" in one["needs"] for one in result["left_out"])
    assert "Not measured on this machine" in section(result)


def test_environments_step_online_and_in_evaluation(monkeypatch):
    from benchmarks import environments

    monkeypatch.setattr(environments, "ONLINE", {"pointmaze": environments.ONLINE["pointmaze"]})
    result, _ = measure(CONTEXT, ["online", "evaluation"], quick=True)
    found = {(one["part"], one["quantity"], one["case"]["seeds"]) for one in result["measurements"]}
    assert {("online", "steps", 1), ("online", "seed-steps", 2), ("evaluation", "times one at a time", 1)} <= found


def test_the_released_code_takes_turns_with_ours(checkout):
    result, _ = measure(CONTEXT, ["update"], quick=True, reference=checkout)
    found = {one["quantity"] for one in result["measurements"] if one["part"] == "reference"}
    assert found == {"updates", "times the reference"}


def children() -> set[psutil.Process]:
    """Those of this process that run; not by their commands, which a process that has just begun may not show yet."""
    return {child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def test_busy_processes_run_beside_the_turns_and_end_with_them():
    beside, before = [], children()

    def case(calls: int) -> float:
        beside.append([process.pid for process in children() - before])
        return float(calls * (1 + len(beside[-1])))

    found = under_load(CPU, case, lambda calls: 3.0 * case(calls), Budget(2, 0.0))
    cores = usable_cores()
    turns = 2 * 4  # Of two cases: two to find out how many calls a turn has, and two rounds.
    assert list(map(len, beside)) == [0] * turns + [1] * turns + [cores] * turns
    assert not any(psutil.pid_exists(pid) for pids in beside for pid in pids)

    kept = [one.value for one in found if one.quantity == "of the own quiet rate" and one.case["update"] == OURS]
    assert kept == pytest.approx([100.0, 50.0, 100.0 / (1 + cores)])
    assert [one.value for one in found if one.quantity == "times the reference"] == pytest.approx([3.0, 3.0, 3.0])


def test_busy_processes_end_with_a_case_that_fails():
    running, before = [], children()

    def case(calls: int) -> float:
        running[:] = children() - before
        if running:
            raise UserError("the released code ended")
        return float(calls)

    with pytest.raises(UserError, match="the released code ended"):
        under_load(CPU, case, None, Budget(1, 0.0))
    assert len(running) == 1
    assert not running[0].is_running()


def test_released_code_that_fails_is_named(checkout, capfd):
    reference = ReferenceUpdates(replace(checkout, settings=("width=2",)), 16)
    with pytest.raises(UserError, match=r"ended with status 1.*agents\.reference:Agent"):
        reference(1)
    reference.close()
    assert "too wide" in capfd.readouterr().err


def test_an_agent_reads_the_flags_of_the_checkouts_own_scripts(flagged, capfd):
    reference = ReferenceUpdates(replace(flagged, settings=("width=3",)), 16)
    assert reference(2) > 0.0
    reference.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": ("width=4",)}, "reads the flag 'save_dir', which no main"),
        ({"settings": ("widht=4",)}, "'widht=4' is no KEY=VALUE of the agent's configuration, which has width"),
        ({"agent": "agents.nothing:Agent"}, "has the module 'agents.nothing'"),
        ({"agent": "agents.flagged:Agents"}, "agents.flagged has no Agents; agents in it: Agent"),
        ({"agent": "jax:block_until_ready"}, "jax has no get_config"),
    ],
)
def test_what_the_released_code_lacks_is_said_without_a_traceback(flagged, capfd, changes, said):
    with pytest.raises(UserError, match="ended with status 1"):
        ReferenceUpdates(replace(flagged, **changes), 16)
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_an_interpreter_without_jax_is_said_without_a_traceback(checkout, capfd):
    (checkout.checkout / "jax.py").write_text("import jax_that_is_not_there\n", encoding="utf-8")
    result, _ = measure(CONTEXT, ["update"], quick=True, reference=checkout)
    assert "ended with status 1" in result["left_out"][0]["needs"]
    error = capfd.readouterr().err
    assert "has the module 'jax_that_is_not_there'" in error
    assert "--reference-python names an interpreter that has jax" in error
    assert "Traceback" not in error


def test_an_interpreter_is_found_from_where_the_benchmarks_are_started(checkout, monkeypatch):
    script = checkout.checkout / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.chdir(checkout.checkout.parent)
    reference = ReferenceUpdates(replace(checkout, python=f"{checkout.checkout.name}/python"), 16)
    assert reference(1) > 0.0
    reference.close()
    with pytest.raises(UserError, match="is no program"):
        ReferenceUpdates(replace(checkout, python="absent/python"), 16)


def test_a_reference_is_refused_where_no_part_measures_it(tmp_path, capsys):
    assert main(["--device", "cpu", "--parts", "acting", "--reference", str(tmp_path)]) == 2
    assert "--reference is measured in the part update" in capsys.readouterr().err


def test_a_part_that_fails_costs_no_other(checkout, capfd):
    result, _ = measure(CONTEXT, ["update", "acting"], quick=True, reference=replace(checkout, settings=("width=2",)))
    assert {one["part"] for one in result["measurements"]} == {"acting"}
    assert result["left_out"][0]["what"] == "update"
    assert "failed: the released code ended" in result["left_out"][0]["needs"]


@pytest.mark.long
def test_an_empty_job_of_the_scheduler_is_timed():
    import shutil

    snakemake = shutil.which("snakemake", path=str(Path(sys.executable).parent))
    assert snakemake is not None
    assert len(_empty_job(snakemake, 1, Budget(1, 0.0)).rounds) == 1


def test_differences_are_taken_round_by_round():
    assert Values((5.0, 7.0)).less(Values((1.0, 4.0))) == Values((4.0, 3.0))


@pytest.mark.slow
def test_a_profile_names_operations_by_their_share():
    result = profiled(CONTEXT, compiled=False, precision="float32")
    operations = result["steps"]["eager"]["operations"]
    shares = [one["percent"] for one in operations]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.001
    assert f"| `{operations[0]['operation']}` |" in section(result)


def test_a_gpus_time_is_that_of_its_kernels_once():
    launching = FunctionEvent(
        id=1, name="aten::bmm", thread=1, start_us=0, end_us=10, stack=[], use_device="cuda", device_type=DeviceType.CPU
    )
    launching.append_kernel("kernel", 0, 100.0)
    kernel = FunctionEvent(
        id=2, name="kernel", thread=1, start_us=20, end_us=120, stack=[], use_device="cuda", device_type=DeviceType.CUDA
    )
    named = FunctionEvent(
        id=3, name="step", thread=1, start_us=20, end_us=120, stack=[], use_device="cuda", device_type=DeviceType.CUDA,
        is_user_annotation=True,
    )  # fmt: skip
    events = EventList([launching, kernel, named], use_device="cuda")
    events._build_tree()
    spent = {event.key: _self_time(event, on_gpu=True) for event in events.key_averages()}
    assert spent == {"aten::bmm": 0.0, "kernel": 100.0, "step": 0.0}


def found_on(gpu: str | None, quick: bool = False, cores: int = 2) -> dict:
    case = {"precision": "tf32", "mode": "captured", "seeds": 1}
    result = document([Measurement.of("update", "updates", "1/s", 1_700.0, **case)], CPU, quick)
    return result | {"machine": result["machine"] | {"gpu": gpu, "cores": cores}}


def measured_cells(results) -> list[str]:
    return [row[2] for row in goal_rows(results) if not row[2].startswith("not measured here: needs ")]


def test_a_goal_is_held_against_a_machine_of_its_kind_alone():
    assert len(goal_rows([])) == len(GOALS)
    assert measured_cells([found_on("NVIDIA H100 80GB HBM3")]) == ["1,700 1/s (NVIDIA H100 80GB HBM3)"]
    assert measured_cells([found_on("NVIDIA H200")]) == ["1,700 1/s (NVIDIA H200)"]
    assert measured_cells([found_on("NVIDIA A100")]) == []


def test_times_of_the_released_code_are_measured_ones_alone():
    of_ours = Measurement.of("update", "updates", "1/s", 12.0, precision="bf16", mode="compiled", seeds=1)
    theirs = Measurement.of("reference", "times the reference", "x", 3.0, precision="bf16", mode="compiled", seeds=1)
    assert measured_cells([document([of_ours], CPU, False)]) == []
    assert [cell[:4] for cell in measured_cells([document([of_ours, theirs], CPU, False)])] == ["3 x "]


def test_a_quick_run_meets_no_goal():
    assert measured_cells([found_on("NVIDIA H100", quick=True)]) == []


def test_tables_replace_what_stands_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nearlier tables\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):
        write_docs(page, [found_on("NVIDIA H100")])
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "earlier tables" not in text
    assert text.count("## Goals") == 1


def test_a_page_without_markers_is_refused_and_kept(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("mine\n", encoding="utf-8")
    with pytest.raises(UserError, match="lacks the lines"):
        write_docs(page, [])
    assert page.read_text(encoding="utf-8") == "mine\n"


@pytest.mark.parametrize(("value", "text"), [(1600.0, "1,600"), (0.01234, "0.0123"), (12345.6, "12,346"), (0.0, "0")])
def test_numbers_have_three_digits_and_no_exponent(value, text):
    assert number(value) == text


def walked(phase: float, heading: float) -> np.ndarray:
    """Where the gait takes the ant in 60 steps without walls or steering, [2]."""
    model = mujoco.MjModel.from_xml_path(str(package_folder() / "locomotion" / "assets" / "ant.xml"))
    data = mujoco.MjData(model)
    for step in range(60):
        now = phase + step * ant_physics.FREQUENCY * ant_physics.SECONDS
        action = ant_physics.gait(now, heading, data.qpos[7:], data.qvel[6:])
        data.ctrl[:] = action * model.actuator_ctrlrange[:, 1]
        mujoco.mj_step(model, data, nstep=5)
    return data.qpos[:2]


@pytest.mark.parametrize(("phase", "heading"), [(0.0, 0.0), (0.3, 0.7), (2.0, -2.5)])
def test_a_gait_turned_by_90_degrees_walks_the_way_turned_by_90_degrees(phase, heading):
    x, y = walked(phase, heading)
    assert np.hypot(x, y) > 4.0
    np.testing.assert_allclose(walked(phase + np.pi, heading + np.pi / 2), [-y, x], atol=1e-9)
