#!/usr/bin/env bash
# rliable 1.2.0: the interquartile mean of up to three runs is their mean.
#
# Guess: `aggregate_iqm` is the mean of the middle half of the runs, so that of three runs one that failed has little say.
#
# Seen: it cuts floor(n / 4) of the n runs at either end. Of three none are cut, and the one that failed weighs a third; of five
# to seven one is cut at either end, so that three fifths to five sevenths are left.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rliable==1.2.0 numpy==2.4.6 scipy==1.17.1

"$folder/venv/bin/python" - <<'END'
from importlib.metadata import version

import numpy as np
from rliable import metrics

print(*(f"{name} {version(name)}" for name in ("rliable", "scipy", "numpy")))
print("one run fails, the others score 90 to 100\nruns  mean   IQM    runs left")
for count in range(2, 10):
    scores = np.array([0.0, *np.linspace(90, 100, count - 1)])[:, None]
    cut = count // 4
    found = metrics.aggregate_iqm(scores)
    print(f"{count:4}  {scores.mean():5.1f}  {found:5.1f}  {count - 2 * cut}")
    assert np.isclose(found, scores[cut : count - cut].mean()), "the mean without floor(n / 4) runs at either end"
    assert np.isclose(found, scores.mean()) == (count < 4), "the plain mean of up to three runs"
END
