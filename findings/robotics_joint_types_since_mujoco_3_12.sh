#!/usr/bin/env bash
# Gymnasium-Robotics 1.4.2 with MuJoCo 3.11.0 and 3.12.0: environments that set a robot's joints by name.
#
# Guess: a joint's type as a model's array has it, a number of numpy's, is found among MuJoCo's enumerators, as `==` says that
# it is equal to one of them; so that Fetch's environments are made with either release, which 1.4.2 does not exclude.
#
# Seen: from 3.12.0 on `in` a tuple of enumerators does not find it, though `==` of the same two is true, and making the
# environment fails in an assertion of Gymnasium-Robotics that asks so.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat > "$folder/make.py" <<'END'
from importlib.metadata import version

import gymnasium
import numpy as np
from mujoco import mjtJoint

found = np.int32(2)  # As model.jnt_type has it of a slide joint.
print("mujoco", version("mujoco"), "gymnasium", version("gymnasium"), "gymnasium-robotics", version("gymnasium-robotics"))
print("equal", bool(found == mjtJoint.mjJNT_SLIDE), "among", found in (mjtJoint.mjJNT_HINGE, mjtJoint.mjJNT_SLIDE))
try:
    gymnasium.make("gymnasium_robotics:FetchReach-v4").close()
    print("FetchReach-v4 made")
except AssertionError:
    print("FetchReach-v4 AssertionError")
END
for release in 3.11.0 3.12.0; do
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check gymnasium-robotics==1.4.2 gymnasium==1.3.0 mujoco==$release
    "$folder/venv/bin/python" -W ignore "$folder/make.py" | tee "$folder/$release"
done
grep -qx 'equal True among True' "$folder/3.11.0"
grep -qx 'FetchReach-v4 made' "$folder/3.11.0"
grep -qx 'equal True among False' "$folder/3.12.0"
grep -qx 'FetchReach-v4 AssertionError' "$folder/3.12.0"
