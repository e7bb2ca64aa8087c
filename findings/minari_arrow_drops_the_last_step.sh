#!/usr/bin/env bash
# Minari 0.5.4: an episode with as many observations as steps, in its two formats.
#
# Guess: both formats give the episode back with the rewards, actions and flags that were written, as HDF5's does.
#
# Seen: Arrow's gives it back one step shorter, and without the step that said how it ended; nothing is said. Its metadata
# still count all steps.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'minari[hdf5,arrow]==0.5.4' gymnasium==1.3.0 pillow==12.0.0 h5py==3.16.0 pyarrow==26.0.1
cat > "$folder/recorded.py" <<'END'
import gymnasium
from gymnasium.spaces import Box


class Env(gymnasium.Env):
    observation_space = action_space = Box(-1.0, 1.0, (1,))


gymnasium.register("Short-v0", entry_point="recorded:Env", max_episode_steps=9)
END
cat > "$folder/record.py" <<'END'
import sys
from importlib.metadata import version

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer

import recorded  # Registers the environment.

print("minari", version("minari"), "pyarrow", version("pyarrow"))
found = {}
for form in ("hdf5", "arrow"):
    episode = EpisodeBuffer(
        observations=[np.full(1, 0.1 * step, np.float32) for step in range(4)],
        actions=[np.zeros(1, np.float32)] * 4,
        rewards=[0.0, 1.0, 2.0, 3.0],
        terminations=[False] * 3 + [True],
        truncations=[False] * 4,
    )
    env = gymnasium.make("Short-v0", disable_env_checker=True)
    dataset = minari.create_dataset_from_buffers(f"short-{form}-v0", [episode], env=env, data_format=form)
    (read,) = dataset.iterate_episodes()
    (told,) = dataset.storage.get_episode_metadata([0])
    found[form] = (len(read.observations), read.rewards.tolist(), bool(read.terminations.any()), int(told["total_steps"]))
    print(f"{form}: {found[form][0]} observations, rewards {found[form][1]}, terminated {found[form][2]}, total_steps {found[form][3]}")
sys.exit(found != {"hdf5": (4, [0.0, 1.0, 2.0, 3.0], True, 4), "arrow": (4, [0.0, 1.0, 2.0], False, 4)})
END
MINARI_DATASETS_PATH="$folder/data" "$folder/venv/bin/python" -W ignore "$folder/record.py"
