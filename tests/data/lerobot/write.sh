#!/usr/bin/env bash
# Writes the datasets beside this file with LeRobot itself: v2.1 with lerobot 0.3.3, v3.0 with 0.4.4, of the same episodes.
# What was recorded lies in episodes.npz, which no code of LeRobot's has touched.
#
# torchvision stands as an empty module: LeRobot imports it, and uses it for images that it reads alone.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install --quiet --disable-pip-version-check "$@"; }
pip 'datasets==4.4.2' 'huggingface-hub==0.35.3' 'numpy==2.2.6' 'pandas==2.3.3' 'pyarrow==26.0.1' 'av==15.1.0' \
  'packaging==25.0' 'jsonlines==4.0.0' 'deepdiff==9.1.0' 'termcolor==3.3.0' 'accelerate==1.15.0' 'torch==2.13.0'
mkdir -p "$folder/stands/torchvision"
echo 'from . import transforms' > "$folder/stands/torchvision/__init__.py"
touch "$folder/stands/torchvision/transforms.py"
for pair in v2.1=0.3.3 v3.0=0.4.4; do
  version=${pair%%=*}
  pip --no-deps --target "$folder/$version" "lerobot==${pair##*=}"
  rm -rf "${here:?}/$version"
  HF_HUB_OFFLINE=1 PYTHONPATH="$folder/$version:$folder/stands" \
    "$folder/venv/bin/python" "$here/write.py" "$here/$version" "$here/episodes.npz"
done
