"""The methods of the tests' extension: every method that is shipped, in a few seconds of training."""

from __future__ import annotations

from mfql.declared import agent_stages
from mfql.methods import raw_settings
from tests.support.training_runs import MINIATURE, ROOT, TASK

METHODS = sorted(path.stem for path in MINIATURE.glob("methods/*-miniature.yaml"))


def agent_of(method: str) -> str:
    """The name of a method's agent."""
    return raw_settings(method, TASK, "online", ROOT / "config")["agent"]


def stages_of(method: str, *among: str) -> list[str]:
    """Those of these stages that a method has."""
    return [stage for stage in among if stage in agent_stages(agent_of(method))]
