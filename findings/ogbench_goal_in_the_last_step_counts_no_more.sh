#!/usr/bin/env bash
# OGBench 1.1.5 and 1.2.2: reward, success and end of a step are those of the state after it in one release, of the state before
# it in the other.
#
# Guess: between two minor releases of a benchmark with the same task names (`...-v0`) a trajectory has the same rewards.
#
# Seen: the step that reaches the goal pays 0 and ends the episode in 1.1.5. In 1.2.2 it pays -1 and goes on; the next step, from
# the goal, pays 0 and ends, wherever it leads. Rows shift by one, returns fall by one, and a goal that is reached in the last
# step that the time limit leaves is a failure. Only the single-task names do so; `success_timing='post'` gives the former.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/goal.py" <<'END'
from importlib.metadata import version

import gymnasium
import numpy as np
import ogbench  # noqa: F401 - registers its environments

np.random.seed(0)
env = gymnasium.make("pointmaze-medium-singletask-task1-v0")
env.reset(seed=0)
base = env.unwrapped
goal = np.array(base.cur_goal_xy)
base.set_xy(goal + [base._goal_tol + 0.1, 0.0])  # Half a step away.
print("ogbench", version("ogbench"))
for action in ([-1.0, 0.0], [1.0, 0.0]):
    _, reward, terminated, _, info = env.step(np.array(action))
    distance = np.linalg.norm(base.get_xy() - goal)
    print(f"  at the goal: {bool(distance <= base._goal_tol)}; reward {reward:g}, terminated {terminated}, success {info['success']:g}")
    if terminated:
        break
END

seen() {
    "${PYTHON:-python3}" -m venv "$folder/$1"
    "$folder/$1/bin/pip" install --quiet --disable-pip-version-check \
        "ogbench==$1" mujoco==4.0.0 dm_control==1.0.50 gymnasium==1.4.0 numpy==2.4.6
    MUJOCO_GL=disable "$folder/$1/bin/python" -W ignore "$folder/goal.py" | tee "$folder/$1.txt"
}

seen 1.1.5
seen 1.2.2
diff "$folder/1.1.5.txt" - <<'END'
ogbench 1.1.5
  at the goal: True; reward 0, terminated True, success 1
END
diff "$folder/1.2.2.txt" - <<'END'
ogbench 1.2.2
  at the goal: True; reward -1, terminated False, success 0
  at the goal: False; reward 0, terminated True, success 1
END
