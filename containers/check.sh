#!/bin/sh
# Whether the image works: with its own code it collects a dataset, trains ten steps of MFQL and renders a scene.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export PYTHONPATH=/mfql/repository XDG_CACHE_HOME="$work/cache" MPLCONFIGDIR="$work/cache/matplotlib"
# No file is needed for a method whose name has what differs.
method=mfql-quickstart+offline_steps=10+eval_interval=10+eval_episodes=1
task=pointmaze-medium-navigate-singletask-task1-v0

{
    mfql data generate pointmaze-medium-navigate-v0 --out data --episodes 2 --workers 1 &&
        mfql train --method "$method" --task "$task" --stage offline --seeds 0 --data data --threads 1 --workers 0 \
            --config-dir /mfql/repository/config &&
        python /mfql/repository/containers/check.py "results/runs/$method/$task/seed0/offline/run/manifest.json"
} > log 2>&1 || {
    cat log >&2
    exit 1
}
echo "mfql-check: ten steps trained, a scene rendered, as user $(id -u)"
