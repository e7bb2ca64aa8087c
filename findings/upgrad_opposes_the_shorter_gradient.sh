#!/usr/bin/env bash
# torchjd 0.18.0: UPGrad with its defaults moves against the shorter of two gradients.
#
# Guess: UPGrad projects every gradient onto the dual cone of all of them, so that, to rounding, the update has no negative
# product with any gradient, whatever their lengths; and the update of c J is c times that of J.
#
# Seen: the projection adds 1e-4 of the Gramian's trace to its diagonal (`QuadprogProjector(reg_eps=1e-4)`). A gradient that is
# r times shorter than the other enters the trace 1 + r^2 times larger than itself: at 120 degrees the update opposes it beyond
# r = 25, though the numbers are in float64 and the problem is well posed. `reg_eps=1e-12` gives what one expects. And where the
# squared lengths add up to less than 1e-4 (`norm_eps`), the update is the plain mean, conflict or not.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchjd==0.18.0 torch==2.13.0 numpy==2.4.6 qpsolvers==4.13.0 quadprog==0.1.14

"$folder/venv/bin/python" - <<'END'
from importlib.metadata import version

import torch
from torchjd.aggregation import UPGrad
from torchjd.linalg import QuadprogProjector

print(*(f"{name} {version(name)}" for name in ("torchjd", "torch", "qpsolvers", "quadprog")))


def pair(ratio: float) -> torch.Tensor:
    """Two gradients at 120 degrees, the second so many times as long as the first."""
    return torch.tensor([[1.0, 0.0], [-0.5 * ratio, 0.75**0.5 * ratio]], dtype=torch.float64)


print("\ncosine of the update with the shorter gradient\n ratio  defaults  reg_eps=1e-12  plain mean")
found = {}
for ratio in (1.0, 10.0, 25.0, 26.0, 100.0, 1000.0):
    gradients = pair(ratio)
    updates = UPGrad()(gradients), UPGrad(projector=QuadprogProjector(reg_eps=1e-12))(gradients), gradients.mean(0)
    found[ratio] = [torch.cosine_similarity(update, gradients[0], dim=0).item() for update in updates]
    print(f"{ratio:6g}  {found[ratio][0]:8.4f}  {found[ratio][1]:13.4f}  {found[ratio][2]:10.4f}")

assert all(values[1] > 0 for values in found.values()), "without regularisation the update opposes no gradient"
assert [ratio for ratio, values in found.items() if values[0] < 0] == [26.0, 100.0, 1000.0], "it opposes the shorter one"
assert found[1000.0][0] < -0.49, "almost as the plain mean does"

tiny = 1e-3 * pair(1.0)
print("\nsquared lengths of the tiny pair:", tiny.square().sum().item())
print("update of the tiny pair / 1e-3:", (UPGrad()(tiny) / 1e-3).tolist())
print("update of the pair:            ", UPGrad()(pair(1.0)).tolist())
assert torch.allclose(UPGrad()(tiny), tiny.mean(0), rtol=1e-6, atol=0), "the plain mean"
assert not torch.allclose(UPGrad()(tiny) / 1e-3, UPGrad()(pair(1.0)), rtol=1e-2, atol=0), "not that of the scaled pair"
END
