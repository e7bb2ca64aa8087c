#!/usr/bin/env bash
# Writes the datasets beside this file with Minari's own collector, which needs jax; nothing else here does.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'minari[create,hdf5,arrow]==0.5.4' 'gymnasium[mujoco]==1.4.0' \
  'mujoco==4.0.0' 'jax==0.10.2' 'pyarrow==26.0.1' 'h5py==3.16.0'
rm -rf "$here/pendulum" "$here/invertedpendulum"
MINARI_DATASETS_PATH=$here JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore "$here/write.py"
