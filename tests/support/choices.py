"""The project's methods, and each with every other value of a setting that takes few."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

from mfql.agents.interface import load_agent
from mfql.methods import method_name, raw_settings
from mfql.settings import Settings
from tests.support.training_runs import ROOT

CONFIG = ROOT / "config"
TASK = "humanoidmaze-medium-navigate-singletask-task1-v0"
METHODS = sorted(path.stem for path in (CONFIG / "methods").glob("*.yaml") if "-" not in path.stem)
AGENTS = {method: raw_settings(method, TASK, "online", CONFIG)["agent"] for method in METHODS}
# What every method has: how long it trains, what is logged, sizes.
_SHARED = {field.name for field in fields(Settings)}
# What a setting has no effect without.
_WITH = {"q_scale": {"normalize_q": "true"}}
# Weights of objectives that torchjd's solvers find, one seed's at a time.
_SOLVERS = ("upgrad", "dualproj", "mgda", "pcgrad", "aligned_mtl", "imtl_g")


def solved(sizes: str = "") -> list[str]:
    """MFQL with each of torchjd's weightings.

    Args:
        sizes: of which methods, such as `-miniature`.
    """
    return [method_name(f"mfql{sizes}", {"balance": name}) for name in _SOLVERS]


def choices(sizes: str = "") -> list[str]:
    """Each method with every other value of each of its own settings that takes few, but for those of `solved`."""
    found = []
    for method in METHODS:
        kind = load_agent(AGENTS[method]).settings_type
        for field in fields(kind):
            hint = get_type_hints(kind)[field.name]
            values = get_args(hint) if get_origin(hint) is Literal else (False, True) if hint is bool else ()
            for value in set(values) - {field.default} if field.name not in _SHARED else ():
                changes = {**_WITH.get(field.name, {}), field.name: str(value).lower()}
                found.append(method_name(f"{method}{sizes}", changes))
    return sorted(set(found) - set(solved(sizes)))
