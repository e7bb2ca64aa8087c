"""How OGBench collects each of the datasets that can be generated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mfql.errors import UserError, unknown

# Episodes of a training file for one of its validation file.
VAL_SHARE = 10


@dataclass(frozen=True)
class Recipe:
    """How a dataset is collected.

    Args:
        dataset: such as `cube-single-play-v0`.
        environment: the gymnasium name of the environment that collects it.
        kind: `navigate`, `stitch`, `play` or `noisy`.
        episodes: the official number in the training file.
        steps: rows an episode.
    """

    dataset: str
    environment: str
    kind: str
    episodes: int
    steps: int


@cache
def recipes() -> dict[str, Recipe]:
    """All datasets that can be generated, by name, with OGBench's official sizes."""
    found: list[Recipe] = []
    for maze in ("medium", "large", "giant", "teleport"):
        environment = f"pointmaze-{maze}"
        navigate = (500, 2001) if maze == "giant" else (1000, 1001)
        found.append(Recipe(f"{environment}-navigate-v0", f"{environment}-v0", "navigate", *navigate))
        found.append(Recipe(f"{environment}-stitch-v0", f"{environment}-v0", "stitch", 5000, 201))
    episodes = {
        "cube-single": 1000,
        "cube-double": 1000,
        "cube-triple": 3000,
        "cube-quadruple": 5000,
        "scene": 1000,
        "puzzle-3x3": 1000,
        "puzzle-4x4": 1000,
        "puzzle-4x5": 3000,
        "puzzle-4x6": 5000,
    }
    for body, number in episodes.items():
        for environment in (body, f"visual-{body}"):
            for kind in ("play", "noisy"):
                found.append(Recipe(f"{environment}-{kind}-v0", f"{environment}-v0", kind, number, 1001))
    return {recipe.dataset: recipe for recipe in found}


def find_recipe(dataset: str) -> Recipe:
    """The recipe of a dataset.

    Raises:
        UserError: no such dataset, or one that can only be downloaded.
    """
    if dataset in recipes():
        return recipes()[dataset]
    if dataset.removeprefix("visual-").startswith(("antmaze-", "humanoidmaze-", "antsoccer-")):
        raise UserError(
            f"{dataset!r} cannot be generated: its behaviour policies are trained networks that OGBench does not ship",
            "Download it (mfql data fetch), or copy its two .npz files into the data folder.",
        )
    raise unknown("dataset", dataset, list(recipes()))
