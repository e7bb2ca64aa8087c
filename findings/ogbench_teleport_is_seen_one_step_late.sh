#!/usr/bin/env bash
# OGBench 1.2.2: the observation that a teleporting step returns is that of before the teleport.
#
# Guess: the observation of `step` is that of the state in which the simulator stands afterwards, so that a point that stepped
# onto a teleporter is seen where it came out.
#
# Seen: the observation is made before the point is moved. `step` returns the teleporter's place while the simulator stands at
# the exit, some twenty units away; the next step returns a place beside the exit. A transition that teleports therefore reads
# as two: one that ends on the teleporter, and one that leaps. Whatever is drawn or computed from the observations is one step
# late at each teleport, and a policy chooses one action by a place where it no longer is.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    ogbench==1.2.2 mujoco==4.0.0 dm_control==1.0.50 gymnasium==1.4.0 numpy==2.4.6

MUJOCO_GL=disable "$folder/venv/bin/python" -W ignore - <<'END'
from importlib.metadata import version

import gymnasium
import numpy as np
import ogbench  # noqa: F401 - registers its environments

print(*(f"{name} {version(name)}" for name in ("ogbench", "mujoco", "gymnasium", "numpy")))
np.random.seed(0)
env = gymnasium.make("pointmaze-teleport-singletask-task1-v0")
env.reset(seed=0)
base = env.unwrapped
base.set_xy(np.array([21.55, 12.0]))  # A tenth of a step before the teleporter at (20, 12), which reaches 1.5 units.

west = np.array([-1.0, 0.0])
apart = []
print("\nstep  observed           simulated")
for step in range(3):
    observed = env.step(west)[0][:2]
    simulated = base.get_xy().copy()
    apart.append(float(np.linalg.norm(observed - simulated)))
    print(f"{step:4}  {observed.round(2)!s:17}  {simulated.round(2)}")

assert apart[0] > 10, "seen on the teleporter, though it stands at an exit"
assert max(apart[1:]) == 0.0, "from the next step on it is seen where it stands"
END
