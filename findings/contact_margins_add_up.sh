#!/usr/bin/env bash
# MuJoCo 3.5.0: the margins of two geoms add up; until 3.4.0 the larger one counted.
#
# Guess: an unchanged model, read by the next minor release, has contacts where it had them.
#
# Seen: two spheres with a margin of 0.01 each, 0.015 apart, have no contact in 3.4.0 and one in 3.5.0, whose `includemargin` is
# 0.02; they are pushed apart at once. A model whose geoms all share one margin has contacts from twice the distance on, so that
# trajectories recorded with an earlier release are not those of the same model today.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for release in 3.4.0 3.5.0; do
    "${PYTHON:-python3}" -m venv "$folder/$release"
    "$folder/$release/bin/pip" install --quiet --disable-pip-version-check "mujoco==$release" numpy==2.4.6
done

cat > "$folder/spheres.py" <<'END'
import sys

import mujoco

contacts, margin, acceleration = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
model = mujoco.MjModel.from_xml_string("""
<mujoco>
  <option gravity="0 0 0"/>
  <worldbody>
    <geom type="sphere" size="0.1" margin="0.01"/>
    <body pos="0.215 0 0">
      <freejoint/>
      <geom type="sphere" size="0.1" margin="0.01" mass="1"/>
    </body>
  </worldbody>
</mujoco>
""")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
found = data.contact.includemargin[0] if data.ncon else None
print(f"MuJoCo {mujoco.__version__}: {data.ncon} contacts, includemargin {found}, acceleration {data.qacc[0]:g}")
assert data.ncon == contacts, "number of contacts at a distance of 0.015"
assert abs(data.qacc[0] - acceleration) < 1e-6, "acceleration of the free sphere"

# Nearer than either margin there is a contact in both, with margins of its own.
data.qpos[0] = 0.205
mujoco.mj_forward(model, data)
print(f"MuJoCo {mujoco.__version__}: at a distance of 0.005 includemargin {data.contact.includemargin[0]:g}")
assert data.ncon == 1 and abs(data.contact.includemargin[0] - margin) < 1e-12, "the contact's margin"
END
"$folder/3.4.0/bin/python" "$folder/spheres.py" 0 0.01 0
"$folder/3.5.0/bin/python" "$folder/spheres.py" 1 0.02 12.5
