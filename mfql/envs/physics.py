"""Models as the datasets' MuJoCo simulated them; what later releases do otherwise is corrected where models are made.

Margins of two geoms' contact: until MuJoCo 3.4 the larger of the geoms' two, since 3.5 their sum. Drives at the limit
of their force: until 3.4 the implicit integrators kept the damping of their feedback, since 3.5 they leave it out.
Cylinders and meshes: until 3.7 they touched in one point, since 3.8 in several. OGBench's and D4RL's data are from
before. Whether there is anything to correct is found out by what the installed MuJoCo does, not by its version.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import mujoco
import numpy as np

from mfql.errors import UserError
from mfql.tasks import CONTACT_MARGINS, CONVEX_CONTACTS, SATURATED_DRIVES, simulation_differences

_LARGER, _SUM = "larger", "sum"
_KEPT, _LEFT_OUT = "kept", "left out"
_ONE, _SEVERAL = "one", "several"
# Two overlapping spheres whose margins, 3 cm and 1 cm, tell the rules apart.
_PROBE = """<mujoco><worldbody>
  <geom type="sphere" size="0.1" margin="0.03"/>
  <body pos="0.15 0 0"><freejoint/><geom type="sphere" size="0.1" margin="0.01"/></body>
</worldbody></mujoco>"""
# Two masses, each at rest and driven by as much as its drive may: one is limited at the drive, one behind a tendon.
_DRIVES = """<mujoco>
  <option timestep="0.01" gravity="0 0 0" integrator="implicitfast"/>
  <worldbody>
    <body><joint name="direct" type="slide"/><geom size="0.1" mass="1"/></body>
    <body pos="0 1 0"><joint name="behind" type="slide" actuatorfrcrange="-1 1"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <tendon><fixed name="drive"><joint joint="behind" coef="1"/></fixed></tendon>
  <actuator>
    <general joint="direct" biastype="affine" gainprm="10" biasprm="0 0 -100" forcerange="-1 1"/>
    <general tendon="drive" biastype="affine" gainprm="10" biasprm="0 0 -100"/>
  </actuator>
</mujoco>"""
# A cylinder that stands 1 mm deep in a box.
_STANDING = """<mujoco><worldbody>
  <geom type="box" size="0.1 0.1 0.1"/>
  <body pos="0 0 0.199"><freejoint/><geom type="cylinder" size="0.05 0.1"/></body>
</worldbody></mujoco>"""
_ROUNDING = 1e-12  # metres
_REMEDY = "Install a MuJoCo that this project was tested with (pyproject.toml names the release)."
# Kinds of geoms whose contacts a general algorithm finds, and those that can touch them in more than one point.
_CONVEX = [int(mujoco.mjtGeom.mjGEOM_CYLINDER), int(mujoco.mjtGeom.mjGEOM_MESH)]
_BROAD = [int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_BOX), *_CONVEX]


def correct(model: mujoco.MjModel) -> None:
    """Give a newly compiled model the physics of the datasets, in place; twice would be once too often.

    What a drive does at its limit is another matter: `correct_drives`.

    Raises:
        UserError: this MuJoCo does what the correction is of in a way that is not known, or no margins of single geoms
            add up to what each pair of them had.
    """
    if model.geom_margin.any() and margin_rule() == _SUM:
        _correct_margins(model)
    if _touches_broadly(model) and convex_rule() == _SEVERAL:
        # No model file of OGBench or D4RL asks for more than one point, which is also all that their MuJoCo gave.
        model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_MULTICCD)


def correct_drives(root: Any) -> None:
    """Have the limits of a model's drives act at their joints, behind fixed tendons; in place, before it is compiled.

    There the implicit integrators keep the damping of a drive's feedback at the limit. A joint of one drive, whose gear
    is 1, gets the same force: clamp(f) c = clamp(f c), with c its share in the tendon. Names, order and meaning of
    actuators and joints stay.

    Args:
        root: `dm_control.mjcf`'s element of the whole model, with drives of joints and of fixed tendons.

    Raises:
        UserError: this MuJoCo moves drives at their limits in a way that is not known.
    """
    limits = {drive: _attribute(drive, "forcerange") for drive in root.find_all("actuator")}
    limits = {drive: limit for drive, limit in limits.items() if limit is not None}
    if not limits or drive_rule() == _KEPT:
        return
    for drive, limit in limits.items():
        if drive.joint is not None:
            joint = drive.joint
            tendon = root.tendon.add("fixed", name=f"drive_{joint.full_identifier.replace('/', '_')}")
            tendon.add("joint", joint=joint, coef=1.0)
            del drive.joint
            drive.tendon = tendon
        for share in drive.tendon.joint:
            share.joint.actuatorfrclimited = "true"
            share.joint.actuatorfrcrange = np.sort(np.asarray(limit) * share.coef)
        drive.forcelimited = "false"


def correct_env(base: Any) -> None:
    """Correct the model of an OGBench environment: the present one, or each that it compiles in a reset.

    Args:
        base: newly made and unwrapped; one of the manipulation suite, which has no model yet, changes its class.

    Raises:
        UserError: as of `correct`.
    """
    kind = type(base)
    if not hasattr(kind, "post_compilation"):
        correct(base.model)
        return

    def build_mjcf_model(self: Any) -> Any:
        root = kind.build_mjcf_model(self)
        correct_drives(root)
        return root

    def post_compilation(self: Any) -> None:
        kind.post_compilation(self)
        correct(self.model)

    hooks = {"build_mjcf_model": build_mjcf_model, "post_compilation": post_compilation}
    base.__class__ = type(kind.__name__, (kind,), hooks)


def described(task: str) -> dict[str, Any]:
    """What simulates a task, for a run's manifest: `mujoco`, its version, and `corrected`, what its models got.

    Raises:
        UserError: as of `correct`.
    """
    here = {
        CONTACT_MARGINS: lambda: margin_rule() == _SUM,
        SATURATED_DRIVES: lambda: drive_rule() == _LEFT_OUT,
        CONVEX_CONTACTS: lambda: convex_rule() == _SEVERAL,
    }
    corrected = [name for name in simulation_differences(task) if here[name]()]
    return {"mujoco": mujoco.__version__, "corrected": corrected}


@cache
def margin_rule() -> str:
    """How the installed MuJoCo makes a contact's margin of two geoms': `larger` or `sum`.

    Raises:
        UserError: neither.
    """
    model, data = _simulated(_PROBE, mujoco.mj_forward)
    one, other = model.geom_margin
    found = [contact.includemargin for contact in data.contact]
    for rule, expected in ((_LARGER, max(one, other)), (_SUM, one + other)):
        if len(found) == 1 and abs(found[0] - expected) < _ROUNDING:
            return rule
    raise UserError(
        f"MuJoCo {mujoco.__version__} makes of the margins {one:g} and {other:g} of two geoms {found} for their "
        "contact: neither the larger nor the sum, so that its contacts are not those of the datasets",
        _REMEDY,
    )


@cache
def drive_rule() -> str:
    """Whether the installed MuJoCo's implicit integrators damp a drive at the limit of its force: `kept`, `left out`.

    Raises:
        UserError: neither, or not behind a tendon, where `correct_drives` has it damped.
    """
    model, data = _simulated(_DRIVES, mujoco.mj_step, control=1.0)
    step, damping = model.opt.timestep, -float(model.actuator_biasprm[0, 2])
    # Of 1 kg and 1 N: (m + h kv) v = h f, or m v = h f.
    damped, free = step / (1.0 + step * damping), step
    for rule, direct in ((_KEPT, damped), (_LEFT_OUT, free)):
        if np.abs(data.qvel - (direct, damped)).max() < _ROUNDING:
            return rule
    raise UserError(
        f"MuJoCo {mujoco.__version__} moves two drives at their limits by {data.qvel.tolist()} m/s, neither of the "
        f"pairs ({damped:g}, {damped:g}) and ({free:g}, {damped:g}), so that its arm is not that of the datasets",
        _REMEDY,
    )


@cache
def convex_rule() -> str:
    """The contact points that the installed MuJoCo gives a cylinder that stands on a box: `one` or `several`.

    Raises:
        UserError: in none, or in several that cannot be made one.
    """
    flag = int(getattr(mujoco.mjtDisableBit, "mjDSBL_MULTICCD", 0))
    found = [_simulated(_STANDING, mujoco.mj_forward, disabled=flags)[1].ncon for flags in (0, flag)]
    if found[1] == 1:
        return _ONE if found[0] == 1 else _SEVERAL
    raise UserError(
        f"MuJoCo {mujoco.__version__} has a cylinder stand on a box in {found[0]} points, {found[1]} without multiccd: "
        "not in one, so that its contacts are not those of the datasets",
        _REMEDY,
    )


def _simulated(
    xml: str, advance: Callable[[Any, Any], None], control: float = 0.0, disabled: int = 0
) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A small model with these controls and disabling flags, and its data after `advance`.

    Raises:
        UserError: the installed MuJoCo cannot compile or advance it.
    """
    try:
        model = mujoco.MjModel.from_xml_string(xml)
        model.opt.disableflags |= disabled
        data = mujoco.MjData(model)
        data.ctrl[:] = control
        advance(model, data)
    except (ValueError, mujoco.FatalError, mujoco.UnexpectedError) as error:
        raise UserError(
            f"MuJoCo {mujoco.__version__} cannot simulate a small model that is to tell its physics: {error}", _REMEDY
        ) from error
    return model, data


def _attribute(drive: Any, name: str) -> Any:
    """An actuator's own attribute, or that of the nearest of its default classes; None where neither has it."""
    value = getattr(drive, name)
    default = drive.root.default if drive.dclass is None else drive.dclass
    while value is None and default.tag == "default":
        value = getattr(getattr(default, drive.tag), name)
        default = default.parent
    return value


def _touches_broadly(model: mujoco.MjModel) -> bool:
    """Whether a cylinder or mesh can collide with what can touch it in more than one point."""
    meeting = _meeting(model, model.geom_type, int(mujoco.mjtGeom.mjNGEOMTYPES))
    return bool(meeting[np.ix_(_CONVEX, _BROAD)].any())


def _correct_margins(model: mujoco.MjModel) -> None:
    """Set the geoms' margins so that each pair's sum is the larger of the two that the geoms had.

    Geoms of one margin keep one margin. Explicit pairs have a margin of their own, which nothing is added to.

    Raises:
        UserError: there are no such margins, or a geom has a gap, whose meaning changed too.
    """
    if model.geom_gap.any():
        raise UserError(
            "a model's geoms have gaps, which other releases of MuJoCo take otherwise",
            "Use the model files of the releases of ogbench and d4rl that this project names.",
        )
    margins, kind = np.unique(model.geom_margin, return_inverse=True)
    shares = margins / 2 + _to_add(margins, _meeting(model, kind, len(margins)))
    model.geom_margin[:] = shares[kind]
    # The broad phase compares bodies by the largest margin of their geoms.
    model.body_margin[:] = 0.0
    np.maximum.at(model.body_margin, model.geom_bodyid, model.geom_margin)


def _to_add(margins: np.ndarray, meeting: np.ndarray) -> np.ndarray:
    """What each kind of geom needs beside half of its margin; 0 where it meets none.

    Args:
        margins: [K], of each kind.
        meeting: [K, K], whether geoms of two kinds can collide.
    """
    pairs = np.argwhere(np.triu(meeting))
    equations = np.zeros((len(pairs), len(margins)))
    np.add.at(equations, (np.arange(len(pairs))[:, None], pairs), 1.0)
    missing = margins[pairs].max(axis=1) - margins[pairs].sum(axis=1) / 2
    added = np.linalg.lstsq(equations, missing, rcond=None)[0]
    if np.abs(equations @ added - missing).max(initial=0.0) > _ROUNDING or (margins / 2 + added < -_ROUNDING).any():
        raise UserError(
            f"no margins of geoms add up, pair by pair, to the larger of the model's {margins.tolist()}",
            "Use the model files of the releases of ogbench and d4rl that this project names.",
        )
    return added


def _meeting(model: mujoco.MjModel, kind: np.ndarray, kinds: int) -> np.ndarray:
    """Whether geoms of two kinds can collide, [K, K], by their masks and by what is welded together.

    Args:
        kind: [geoms], that of each.
    """
    masks = model.geom_contype[:, None] & model.geom_conaffinity
    welded = model.body_weldid[model.geom_bodyid]
    first, second = np.nonzero((masks | masks.T).astype(bool) & (welded[:, None] != welded))
    meeting = np.zeros((kinds, kinds), dtype=bool)
    meeting[kind[first], kind[second]] = True
    return meeting
