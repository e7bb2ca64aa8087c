#!/usr/bin/env bash
# Minari 0.5.4 with Gymnasium 1.3.0: the order of a Dict observation's keys, recorded and read again.
#
# Guess: a dataset's `observation_space` is the space that its environment has, so that what Gymnasium's FlattenObservation
# makes of one is what it makes of the other.
#
# Seen: a Dict that was made of keywords keeps their order in the environment, and has them by the alphabet when the dataset
# is loaded: the two vectors hold the same numbers in other places, and the two spaces are equal all the same.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'minari[hdf5]==0.5.4' gymnasium==1.3.0 pillow==12.0.0 h5py==3.16.0
cat > "$folder/recorded.py" <<'END'
import gymnasium
from gymnasium.spaces import Box, Dict


class Env(gymnasium.Env):
    observation_space = Dict(velocity=Box(-1.0, 1.0, (1,)), angle=Box(-1.0, 1.0, (1,)))
    action_space = Box(-1.0, 1.0, (1,))


gymnasium.register("Keys-v0", entry_point="recorded:Env", max_episode_steps=5)
END
cat > "$folder/record.py" <<'END'
import sys
from importlib.metadata import version

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import flatten
from minari.data_collector import EpisodeBuffer

import recorded  # Registers the environment.

env = gymnasium.make("Keys-v0", disable_env_checker=True)
observations = {"velocity": np.full((3, 1), 0.5, np.float32), "angle": np.zeros((3, 1), np.float32)}
episode = EpisodeBuffer(
    observations=observations,
    actions=[np.zeros(1, np.float32)] * 2,
    rewards=[0.0] * 2,
    terminations=[False] * 2,
    truncations=[False, True],
)
minari.create_dataset_from_buffers("keys-v0", [episode], env=env, data_format="hdf5")
space = minari.load_dataset("keys-v0").observation_space
first = {key: values[0] for key, values in observations.items()}
own, read = (flatten(space, first).tolist() for space in (env.observation_space, space))
print("minari", version("minari"), "gymnasium", version("gymnasium"))
print("the environment's:", list(env.observation_space), own)
print("the dataset's:    ", list(space), read, "equal" if space == env.observation_space else "not equal")
sys.exit(not (own == [0.5, 0.0] and read == [0.0, 0.5] and space == env.observation_space))
END
MINARI_DATASETS_PATH="$folder/data" "$folder/venv/bin/python" -W ignore "$folder/record.py"
