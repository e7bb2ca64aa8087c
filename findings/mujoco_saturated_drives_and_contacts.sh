#!/usr/bin/env bash
# MuJoCo 3.4.0 to 4.0.0: one step of saturated drives, of boxes and of cylinders on boxes is another than in 3.3.7.
#
# Guess: one step of an unchanged model from one state is the same, to rounding, in 3.3.7 and 4.0.0.
#
# Seen: an actuator at its `forcerange` leaves the implicit integrators' matrix in 3.5.0: OGBench's UR5e wrist, at rest
# with its target 1 rad away, is 2.7 times as fast after 2 ms. A limit at the joint (`actuatorfrcrange`) kept it in the
# matrix until 3.17.0, in 4.0.0 only where the actuator drives through a fixed tendon. A box pressed on a box reports
# its whole depth from 3.4.0 on, before half of it. Cylinders touch boxes in several points from 3.8.0 on; in one again
# with `mjDSBL_MULTICCD`.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/step.py" <<'END'
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import mujoco

ARM = Path(find_spec("ogbench").submodule_search_locations[0], "manipspace/descriptions/universal_robots_ur5e/ur5e.xml")


def wrist(*edits):
    """Speed [rad/s] after one step of 2 ms from rest, the target 1 rad away, at the limit of 28 N m."""
    spec = mujoco.MjSpec.from_file(str(ARM))
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    for edit in edits:
        edit(spec, spec.actuator("wrist_1"), spec.joint("wrist_1_joint"))
    model = spec.compile()
    data = mujoco.MjData(model)
    data.ctrl[model.actuator("wrist_1").id] = 1.0
    mujoco.mj_step(model, data)
    return round(float(data.joint("wrist_1_joint").qvel[0]), 4)


def at_joint(spec, actuator, joint):
    """The limit is the joint's."""
    actuator.forcelimited, joint.actfrclimited, joint.actfrcrange = 0, 1, actuator.forcerange


def by_tendon(spec, actuator, joint):
    """The actuator drives the joint through a fixed tendon."""
    spec.add_tendon(name="drive").wrap_joint(joint.name, 1.0)
    actuator.trntype, actuator.target = mujoco.mjtTrn.mjTRN_TENDON, "drive"


def touch(upper, flag=""):
    """Number of contacts and the deepest [m] of something that stands 1 mm in the top of a box."""
    model = mujoco.MjModel.from_xml_string(f"""
        <mujoco><worldbody>
          <geom type='box' size='.1 .1 .1'/>
          <body pos='0 0 .199'><freejoint/><geom {upper}/></body>
        </worldbody></mujoco>""")
    model.opt.disableflags |= int(getattr(mujoco.mjtDisableBit, flag, 0))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return data.ncon, round(float(data.contact.dist.min()), 6)


box, cylinder = "type='box' size='.1 .1 .1'", "type='cylinder' size='.05 .1'"
seen = {
    "limit at the actuator": wrist(),
    "limit at the joint": wrist(at_joint),
    "limit at the joint, by a tendon": wrist(at_joint, by_tendon),
    "depth of a box in a box": touch(box)[1],
    "contacts of a cylinder": touch(cylinder)[0],
    "without multiccd": touch(cylinder, "mjDSBL_MULTICCD")[0],
}
print(f"MuJoCo {mujoco.__version__}: {seen}")
assert list(seen.values()) == json.loads(sys.argv[1]), f"expected {sys.argv[1]}"
END

check() {
    "${PYTHON:-python3}" -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet --disable-pip-version-check "mujoco==$1" numpy==2.4.6
    "$folder/$1/bin/pip" install --quiet --disable-pip-version-check --no-deps ogbench==1.2.2
    "$folder/$1/bin/python" "$folder/step.py" "$2"
    rm -rf "${folder:?}/$1"
}
check 3.3.7 "[0.1741, 0.1741, 0.1741, -0.0005, 1, 1]"
check 3.4.0 "[0.1741, 0.1741, 0.1741, -0.001, 1, 1]"
check 3.5.0 "[0.4667, 0.1741, 0.1741, -0.001, 1, 1]"
check 3.8.0 "[0.4667, 0.1741, 0.1741, -0.001, 5, 1]"
check 3.17.0 "[0.4667, 0.1741, 0.1741, -0.001, 4, 1]"
check 4.0.0 "[0.4667, 0.4667, 0.1741, -0.001, 4, 1]"
