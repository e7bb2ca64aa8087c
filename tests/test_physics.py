"""The physics of the datasets: recorded steps of an earlier MuJoCo, and what is corrected for them in which models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import ogbench
import pytest
from dm_control import mjcf
from hypothesis import given
from hypothesis import strategies as st

from mfql.data import generate as generating
from mfql.envs import d4rl, physics
from mfql.envs.d4rl_package import package_folder
from mfql.envs.isolated import Isolated, reset_env
from mfql.envs.pixels import choose_renderer
from mfql.errors import UserError
from mfql.evaluation.vector import EnvPool
from mfql.suites import make_env, suite_of
from mfql.tasks import known_tasks, simulation_differences, simulation_version
from tests.check_physics import PLAYED, TASKS, errors, model_of, play, record, recorded, table

# 95 % of the root mean square error over qpos (m, rad) stays below; a step moves 0.03 to 0.2.
BOUNDS = {
    "ogbench/antmaze-large": 5e-4,
    "ogbench/antsoccer-arena": 5e-4,
    "ogbench/humanoidmaze-medium": 1e-12,
    "ogbench/cube-double": 1e-4,
    "ogbench/scene": 1e-3,
    "ogbench/puzzle-4x4": 1e-3,
    "d4rl/umaze": 5e-4,
    "d4rl/pen": 1e-6,
    "d4rl/hammer": 1e-6,
    "d4rl/door": 5e-4,
    "d4rl/relocate": 1e-12,
}
# Where random actions meet no drive at its limit, no margin and no cylinder or mesh, nothing is to be seen.
UNTOUCHED = ["ogbench/humanoidmaze-medium", "ogbench/cube-double"]
# Of play the median: 5 % of its steps press one box on another, which is not corrected. A step moves 0.013 to 0.017.
PLAYED_BOUNDS = {"ogbench/cube-double": 1e-5, "ogbench/scene": 1e-5, "ogbench/puzzle-4x4": 5e-5}


def error(model: mujoco.MjModel, rows: dict[str, np.ndarray], quantile: float = 0.95) -> float:
    """The quantile over recorded steps of the root mean square error over qpos."""
    return float(np.quantile(errors(model, rows), quantile))


def test_what_is_recorded_here_is_reproduced_and_the_table_says_so(tmp_path, capsys):
    scene = "ogbench/scene"
    record(tmp_path / "steps.npz", [scene], play, 40)
    assert recorded(tmp_path / "steps.npz")[scene].keys() >= recorded(PLAYED)[scene].keys()
    table(tmp_path / "steps.npz", {"corrected": (), "uncorrected": ("drive_rule",)})
    # Drives are at their limits.
    shown = capsys.readouterr().out.splitlines()[-1].split("|")
    median, high = map(float, shown[2].split(","))
    assert median <= high < 1e-9 < 1e-5 < float(shown[3].split(",")[1])


def without_correction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models stay as the installed MuJoCo takes them."""
    for rule, of_the_data in (("margin_rule", "larger"), ("drive_rule", "kept"), ("convex_rule", "one")):
        monkeypatch.setattr(physics, rule, lambda found=of_the_data: found)


def test_every_recorded_scene_has_a_bound():
    assert set(recorded()) == set(BOUNDS)


@pytest.mark.parametrize("scene", BOUNDS)
def test_models_reproduce_the_steps_of_the_datasets_mujoco(scene):
    assert error(model_of(scene), recorded()[scene]) <= BOUNDS[scene]


@pytest.mark.parametrize("scene", [scene for scene in BOUNDS if scene not in UNTOUCHED])
def test_without_the_correction_the_steps_are_others(scene, monkeypatch):
    without_correction(monkeypatch)
    assert error(model_of(scene), recorded()[scene]) > BOUNDS[scene]


@pytest.mark.parametrize("scene", PLAYED_BOUNDS)
def test_where_drives_are_at_their_limits_steps_are_those_of_the_datasets_mujoco(scene, monkeypatch):
    rows = recorded(PLAYED)[scene]
    assert error(model_of(scene), rows, 0.5) <= PLAYED_BOUNDS[scene]
    monkeypatch.setattr(physics, "drive_rule", lambda: "kept")
    assert error(model_of(scene), rows, 0.5) > 3 * PLAYED_BOUNDS[scene]


# Made slowly where there is no graphics card; their arm is that of visual-cube-single.
OTHER_PIXELS = ("visual-cube-double", "visual-scene", "visual-puzzle-3x3", "visual-puzzle-4x4")


def environments() -> dict[str, str]:
    """A task of each environment, and of a point and an ant with pixels, which the table lacks."""
    more = ("pointmaze-medium", "visual-antmaze-medium")
    tables = {task.environment: name for name, task in known_tasks().items()}
    tables = {environment: task for environment, task in tables.items() if environment not in OTHER_PIXELS}
    scenes = {known.scene: name for name, known in d4rl.TASKS.items()}
    return tables | scenes | {name: f"{name}-navigate-singletask-task1-v0" for name in more}


@pytest.mark.parametrize("environment", environments())
def test_declared_tasks_are_those_whose_models_are_corrected(environment, monkeypatch, request):
    task, calls, found, correct = environments()[environment], [], [], physics.correct
    if task.startswith("visual-"):
        request.getfixturevalue("rendering")

    def watched(model: mujoco.MjModel) -> None:
        margins, flags = model.geom_margin.copy(), model.opt.disableflags
        correct(model)
        calls.append(model)
        found.extend(["contact margins"] * (not np.array_equal(margins, model.geom_margin)))
        found.extend(["saturated drives"] * bool(model.jnt_actfrclimited.any()))
        found.extend(["convex contacts"] * (flags != model.opt.disableflags))

    monkeypatch.setattr(physics, "correct", watched)
    reset_env(make_env(task), 0)
    assert len(calls) == 1
    assert found == simulation_differences(task)
    assert simulation_version(task) == (2 if found else 1)
    assert physics.described(task) == {"mujoco": mujoco.__version__, "corrected": found}


def test_own_tasks_are_left_alone(monkeypatch):
    monkeypatch.setattr("mfql.tasks.registered_tasks", lambda: {"door-mine": None, "antmaze-mine": None})
    assert simulation_differences("door-mine") == []
    assert simulation_version("antmaze-mine") == 1
    assert simulation_version("antmaze-umaze-v2") == 2


# The joints of the arm, and those that the gripper's drive shares.
DRIVEN = [0, 1, 2, 3, 4, 5, 6, 10]


def test_what_a_manipulation_environment_compiles_anew_is_corrected_once(monkeypatch):
    compiled = []
    monkeypatch.setattr(physics, "correct", compiled.append)
    env, twin = suite_of(TASKS["ogbench/cube-double"]).make_many(TASKS["ogbench/cube-double"], 2)
    reset_env(env, 1)
    assert [model is env.base.model for model in compiled] == [True]
    env.base.mark_dirty()
    reset_env(env, 2)
    reset_env(twin, 0)
    assert len(compiled) == 2
    assert compiled[1] is env.base.model is not compiled[0]
    for model in (*compiled, twin.base.model):
        assert np.flatnonzero(model.jnt_actfrclimited).tolist() == DRIVEN


def test_what_collects_data_is_corrected_too(monkeypatch):
    compiled = []
    monkeypatch.setattr(physics, "correct", compiled.append)
    generating._collector.cache_clear()
    for dataset in ("scene-play-v0", "pointmaze-medium-navigate-v0"):
        generating.collect_episode(replace(generating.find_recipe(dataset), steps=2), 0, ("train", 0))
    generating._collector.cache_clear()
    assert len(compiled) == 2


def test_workers_step_in_the_datas_physics():
    env = make_env(TASKS["ogbench/antmaze-large"])
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 1, 8)).astype(np.float32)
    with EnvPool(TASKS["ogbench/antmaze-large"], 1, 1) as pool:
        pool.reset({0: 5})
        reset_env(env, 5)
        for action in actions:
            pool.step(action, np.ones(1, bool))
            observation, *_ = env.step(action[0])
        np.testing.assert_array_equal(pool.observations[0], observation.astype(np.float32))


@pytest.fixture
def uncorrected_drives(monkeypatch: pytest.MonkeyPatch) -> Isolated:
    """An environment with the drives as MuJoCo takes them, already reset."""
    with monkeypatch.context() as patch:
        patch.setattr(physics, "drive_rule", lambda: "kept")
        env = make_env(TASKS["ogbench/cube-double"])
        reset_env(env, 3)
    return env


def named(model: mujoco.MjModel) -> dict[str, list[str]]:
    """The names of a model's parts, in order."""
    kinds = ("actuator", "body", "geom", "joint", "site")
    return {
        kind: [getattr(model, kind)(i).name for i in range(getattr(model, count))]
        for kind, count in zip(kinds, ("nu", "nbody", "ngeom", "njnt", "nsite"), strict=True)
    }


def test_tendons_change_neither_names_nor_what_a_reset_shows(uncorrected_drives):
    env = make_env(TASKS["ogbench/cube-double"])
    (observation, info), (expected, as_before) = reset_env(env, 3), reset_env(uncorrected_drives, 3)
    np.testing.assert_allclose(observation, expected, rtol=0, atol=1e-12)
    assert info.keys() == as_before.keys()
    assert named(env.base.model) == named(uncorrected_drives.base.model)
    assert env.base.model.ntendon > uncorrected_drives.base.model.ntendon


def test_tendons_are_not_drawn(rendering, uncorrected_drives):
    choose_renderer()
    env = make_env(TASKS["ogbench/cube-double"])
    reset_env(env, 3)
    frame, expected = (one.render().astype(int) for one in (env, uncorrected_drives))
    assert expected.std() > 10
    assert np.abs(frame - expected).max() <= 1


# A drive of one joint whose limit is its class's, one of two joints with a limit of its own, and one without a limit.
DRIVES = """<mujoco model="m">
  <option timestep="0.01" gravity="0 0 0" integrator="implicitfast"/>
  <default><general biastype="affine"/>
    <default class="wrist"><general forcerange="-2 3"/><default class="small"><joint damping="0"/></default></default>
  </default>
  <worldbody>
    <body><joint name="one" type="slide"/><geom size="0.1" mass="2"/></body>
    <body pos="0 1 0"><joint name="left" type="slide"/><geom size="0.1" mass="2"/></body>
    <body pos="0 2 0"><joint name="right" type="slide"/><geom size="0.1" mass="2"/></body>
    <body pos="0 3 0"><joint name="free" type="slide"/><geom size="0.1" mass="2"/></body>
  </worldbody>
  <tendon><fixed name="split"><joint joint="left" coef="0.5"/><joint joint="right" coef="-0.25"/></fixed></tendon>
  <actuator>
    <general name="wrist" class="small" joint="one" gainprm="10" biasprm="0 -10 -5"/>
    <general name="fingers" tendon="split" gainprm="10" biasprm="0 -10 -5" forcerange="-1 4"/>
    <general name="free" joint="free" gainprm="10" biasprm="0 -10 -5"/>
  </actuator>
</mujoco>"""


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.lists(st.floats(-1, 1), min_size=4, max_size=4),
       st.lists(st.floats(-2, 2), min_size=3, max_size=3))  # fmt: skip
def test_drives_have_the_same_force_and_keep_their_damping_at_their_limits(positions, velocities, wanted):
    """Of each joint, h steps, kv feedback, c share in its drive: (m + h kv c²) (v' - v) = h clamp(f) c.

    Joints of one drive on different trees are damped apart, with the tendon as without.
    """
    root = mjcf.from_xml_string(DRIVES)
    physics.correct_drives(root)
    moved, forces = [], []
    for xml in (DRIVES, root.to_xml_string()):
        model = mujoco.MjModel.from_xml_string(xml)
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:], data.ctrl[:] = positions, velocities, wanted
        mujoco.mj_forward(model, data)
        forces.append(data.qfrc_actuator.copy())
        mujoco.mj_step(model, data)
        moved.append(data.qvel.copy())
    np.testing.assert_allclose(forces[1], forces[0], rtol=0, atol=1e-12)
    expected = velocities + 0.01 * forces[0] / (2.0 + 0.01 * 5.0 * np.array([1.0, 0.5, 0.25, 1.0]) ** 2)
    np.testing.assert_allclose(moved[1], expected, rtol=0, atol=1e-12)
    assert [model.actuator(i).name for i in range(3)] == ["wrist", "fingers", "free"]


def test_drives_stay_as_they_are_where_mujoco_keeps_their_damping(monkeypatch):
    monkeypatch.setattr(physics, "drive_rule", lambda: "kept")
    root = mjcf.from_xml_string(DRIVES)
    before = root.to_xml_string()
    physics.correct_drives(root)
    assert root.to_xml_string() == before


def test_cylinders_and_meshes_touch_in_one_point_and_other_models_are_left_alone():
    counts = []
    for kind in ("cylinder", "capsule", "box"):
        xml = physics._STANDING.replace("cylinder", kind).replace("0.05 0.1", "0.05 0.1 0.1")
        model = mujoco.MjModel.from_xml_string(xml)
        physics.correct(model)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        counts.append((data.ncon, model.opt.disableflags != 0))
    assert counts[0] == (1, physics.convex_rule() == "several")
    assert counts[2] == (4, False)
    assert not counts[1][1]


def test_no_model_file_asks_for_several_points():
    """Otherwise its data would have them."""
    folders = [Path(ogbench.__file__).parent, package_folder()]
    files = [path for folder in folders for path in folder.rglob("*.xml")]
    assert len(files) > 20
    assert [path for path in files if b"multiccd" in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("probe", "rule", "change", "message"),
    [
        ("_DRIVES", physics.drive_rule, ('gainprm="10"', 'gainprm="0.5"'), "two drives at their limits"),
        ("_STANDING", physics.convex_rule, ("0 0 0.199", "0 0 0.3"), "in 0 points, 0 without multiccd"),
    ],
)
def test_unknown_rules_of_drives_and_of_points_are_refused(probe, rule, change, message, monkeypatch):
    monkeypatch.setattr(physics, probe, getattr(physics, probe).replace(*change))
    rule.cache_clear()
    try:
        with pytest.raises(UserError, match=rf"(?s)MuJoCo .* {message}.*Install"):
            reset_env(make_env(TASKS["ogbench/cube-double"]), 0)
        reset_env(make_env("pointmaze-medium-navigate-singletask-task1-v0"), 0)
    finally:
        rule.cache_clear()


@pytest.mark.parametrize(
    ("probe", "rule", "task"),
    [
        ("_PROBE", physics.margin_rule, "ogbench/antmaze-large"),
        ("_DRIVES", physics.drive_rule, "ogbench/cube-double"),
        ("_STANDING", physics.convex_rule, "ogbench/cube-double"),
    ],
)
def test_a_probe_that_mujoco_does_not_take_is_no_misspelt_name(probe, rule, task, monkeypatch):
    monkeypatch.setattr(physics, probe, getattr(physics, probe).replace("size=", "extent="))
    rule.cache_clear()
    try:
        with pytest.raises(UserError, match=r"(?s)MuJoCo .* cannot simulate .*extent.*Install"):
            reset_env(make_env(TASKS[task]), 0)
    finally:
        rule.cache_clear()


def contact_margins(model: mujoco.MjModel) -> dict[tuple[int, int], float]:
    """The margin of each contact in the model's first state."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return {tuple(sorted(contact.geom.tolist())): contact.includemargin for contact in data.contact}


def spheres(margins: list[float], masks: list[tuple[int, int]], more: str = "") -> mujoco.MjModel:
    """Overlapping spheres on bodies of their own, with their contype and conaffinity."""
    bodies = "".join(
        f'<body pos="{0.01 * place} 0 0"><freejoint/><geom name="g{place}" type="sphere" size="0.1" margin="{margin}"'
        f' contype="{contype}" conaffinity="{conaffinity}"/></body>'
        for place, (margin, (contype, conaffinity)) in enumerate(zip(margins, masks, strict=True))
    )
    return mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}</worldbody>{more}</mujoco>")


@given(st.floats(1e-5, 0.1), st.floats(0.0, 1.0), st.integers(2, 5), st.integers(1, 3))
def test_contacts_have_the_larger_margin_where_sums_can_be_that(margin, share, many, others):
    """Geoms of one margin, which meet all; and of smaller ones, which do not meet each other, as in Adroit's hammer."""
    margins = [margin] * many + [margin * share] * others
    model = spheres(margins, [(1, 1)] * many + [(2, 1)] * others)
    expected = {pair: max(margins[pair[0]], margins[pair[1]]) for pair in contact_margins(model)}
    assert len(expected) == many * (many - 1) // 2 + many * others
    physics.correct(model)
    assert contact_margins(model) == pytest.approx(expected, abs=1e-12)


def test_explicit_pairs_keep_their_own_margin():
    pair = '<contact><pair geom1="g0" geom2="g1" margin="0.03"/></contact>'
    model = spheres([0.01, 0.01, 0.01], [(1, 1)] * 3, pair)
    physics.correct(model)
    assert contact_margins(model) == pytest.approx({(0, 1): 0.03, (0, 2): 0.01, (1, 2): 0.01})


def test_where_contacts_begin_follows_the_margin():
    """At less than the larger margin two spheres touch, at more they do not."""
    margins = (0.02, 0.0)
    for gap, touching in ((0.0199, True), (0.0201, False)):
        model = spheres(list(margins), [(1, 1), (2, 1)])
        model.body_pos[1] = model.qpos0[7:10] = (0.2 + gap, 0.0, 0.0)
        physics.correct(model)
        assert bool(contact_margins(model)) == touching


def test_models_that_cannot_be_corrected_are_refused():
    with pytest.raises(UserError, match="add up"):
        physics.correct(spheres([0.01, 0.03, 0.03, 0.01], [(1, 1)] * 4))
    model = spheres([0.01, 0.01], [(1, 1)] * 2)
    model.geom_gap[:] = 0.005
    with pytest.raises(UserError, match="gaps"):
        physics.correct(model)


def test_an_unknown_rule_of_margins_is_refused_and_models_without_margins_are_not_asked(monkeypatch):
    monkeypatch.setattr(physics, "_PROBE", physics._PROBE.replace('pos="0.15', 'pos="0.5'))
    physics.margin_rule.cache_clear()
    try:
        with pytest.raises(UserError, match=r"(?s)MuJoCo .* neither the larger nor the sum.*Install"):
            make_env(TASKS["ogbench/antmaze-large"])
        reset_env(make_env("pointmaze-medium-navigate-singletask-task1-v0"), 0)
    finally:
        physics.margin_rule.cache_clear()


def test_where_margins_are_not_added_nothing_is_changed(monkeypatch):
    without_correction(monkeypatch)
    model = spheres([0.01, 0.03], [(1, 1)] * 2)
    before = model.geom_margin.copy()
    physics.correct(model)
    np.testing.assert_array_equal(model.geom_margin, before)
    assert physics.described("antmaze-umaze-v2")["corrected"] == []
