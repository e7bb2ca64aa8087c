"""Every ablation of config/ablations.yaml at the miniature's size, trained and drawn: `make check-science`.

    python tests/check_science.py              # all
    python tests/check_science.py alpha size   # some

Nothing is learnt. What is checked: every point's settings are possible, every run trains to its end, and every figure
and table is drawn. The runs are trained in this process, which costs no start of another; the workflow's own rules are
tested by tests/test_ablation.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mfql.experiment.ablation import read_ablations
from mfql.extensions import extend
from tests.support.ablations import drawn
from tests.support.training_runs import MINIATURE, ROOT, Workplace


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="ablations; default: all")
    names = parser.parse_args().names or list(read_ablations(ROOT / "config"))
    extend([MINIATURE])
    with tempfile.TemporaryDirectory() as scratch:
        place = Workplace.make(Path(scratch))
        for name in names:
            began = time.monotonic()
            folder = drawn(place, name)
            rows = len((folder / "table.csv").read_text(encoding="utf-8").splitlines()) - 1
            print(f"{name}: {rows} rows, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
