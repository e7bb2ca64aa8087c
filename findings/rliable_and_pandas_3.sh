#!/usr/bin/env bash
# rliable 1.2.0: its intervals cannot be imported beside pandas 3, by whichever release of arch.
#
# Guess: rliable asks for arch below 8 and arch 7.2.0, the last of those, for pandas 1.4 or later, so that what pip resolves works.
#
# Seen: pip takes pandas 3.1.1, with which arch 7.2.0 ends with a TypeError as rliable's `library` imports it. With pandas 2.3.3 it
# works. `rliable.metrics` alone works with both.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"

tried() {
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check rliable==1.2.0 numpy==2.4.6 scipy==1.17.1 "$@"
    "$folder/venv/bin/python" - <<'END'
from importlib.metadata import version

import numpy as np
from rliable import metrics

found = metrics.aggregate_iqm(np.linspace(0.0, 1.0, 8)[:, None])
try:
    from rliable import library

    scores = {"method": np.random.default_rng(0).random((5, 3))}
    _, ends = library.get_interval_estimates(scores, lambda runs: np.array([metrics.aggregate_mean(runs)]), reps=50)
    said = "intervals" if ends["method"].shape == (2, 1) else "other intervals"
except Exception as error:
    said = type(error).__name__
print(f"arch {version('arch')}, pandas {version('pandas')}: metrics {found:.2f}, library: {said}")
END
}

seen=$(tried arch==7.2.0 pandas==3.1.1; tried arch==7.2.0 pandas==2.3.3)
echo "$seen"
[ "$seen" = "arch 7.2.0, pandas 3.1.1: metrics 0.50, library: TypeError
arch 7.2.0, pandas 2.3.3: metrics 0.50, library: intervals" ]
