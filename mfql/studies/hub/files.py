"""Which files of a run are shared, under which names, how large they may be, and where they lie in its folder.

A repository has them side by side, as `mfql.load_policy` takes them from whatever brought them; in a run's folder they
lie where training writes them.
"""

from __future__ import annotations

from typing import NamedTuple

from mfql.files import MOST_JSON, MOST_TEXT, MOST_WEIGHTS

CARD = "README.md"


class Shared(NamedTuple):
    """A file that is shared.

    Args:
        place: in the run's folder `METHOD/TASK/seedN/STAGE`.
        most: bytes that it may have.
    """

    place: str
    most: int


# What a run's manifest vouches for, the manifest itself, and the card, for which nothing vouches.
FILES = {
    CARD: Shared(CARD, MOST_TEXT),
    "manifest.json": Shared("run/manifest.json", MOST_JSON),
    "evaluation.json": Shared("run/evaluation.json", MOST_JSON),
    "metrics.csv": Shared("run/metrics.csv", MOST_WEIGHTS),
    "policy.json": Shared("run/policy/policy.json", MOST_JSON),
    "policy.safetensors": Shared("run/policy/policy.safetensors", MOST_WEIGHTS),
}
REQUIRED = tuple(name for name in FILES if name != CARD)
# What `mfql export` wrote beside the policy, under these names: pushed for those who have no MFQL, and not pulled,
# since nothing vouches for it and the policy makes it again.
EXPORTED = ("policy.onnx", "policy.pt2")
