"""What a seed of a method takes of a GPU beside its rows, and how many parameters it has; without torch.

It is asked of the agent itself, built and updated once on tensors without memory in a process that has torch
(`mfql.training.footprint`): of any method, one's own too. A launcher without torch has `_KNOWN`, the same answers for
the shipped agents at the paper's size.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mfql.experiment.configuration import Run
from mfql.extensions import may_run, module_command
from mfql.footprint import Footprint
from mfql.suites import suite_of

# Settings that no tensor's size depends on.
_SIZELESS = ("alpha", "discount", "offline_steps", "online_steps", "eval_interval", "log_interval")
# Parameters, and bytes of state, draws, update and acting of a seed at 69 observations and 21 actions, the largest that
# the task table has, and of `pixels`; updates a step, and fields.
_KNOWN: dict[str, tuple[int, int, int, int, int, int, tuple[str, ...]]] = {
    "mfql": (5_127_959, 68_249_333, 9_830_400, 103_468_063, 27_133_976, 1, ()),
    "bc": (834_581, 10_015_125, 131_072, 23_554_983, 1_737_728, 1, ()),
    "flow_bc": (3_449_621, 41_395_605, 1_572_864, 96_754_599, 17_193_984, 1, ()),
    "fql": (3_369_516, 47_148_061, 4_325_376, 60_658_528, 2_851_844, 1, ()),
    "ifql": (3_352_600, 46_945_117, 1_572_864, 60_569_352, 20_410_600, 1, ()),
    "iql": (3_341_336, 46_809_949, 131_072, 60_545_824, 3_317_764, 1, ()),
    "rebrac": (2_512_919, 40_207_129, 1_507_328, 57_232_080, 1_759_232, 1, ()),
    "rlpd": (2_523_693, 36_998_173, 2_883_584, 57_253_720, 1_737_728, 1, ()),
    "calql": (2_523_694, 36_998_369, 56_557_568, 622_284_872, 1_738_752, 1, ("mc_returns",)),
    "fawac": (3_352_600, 46_945_117, 2_949_120, 60_569_368, 3_314_688, 1, ()),
    "fbrac": (2_524_183, 37_003_929, 4_325_376, 74_096_656, 3_357_700, 1, ()),
    "pixels": (7_882_247, 107_473_461, 2_621_696, 662_907_924, 174_595_072, 1, ()),
}


@dataclass
class Footprints:
    """The footprints of runs, asked for together and once."""

    _found: dict[str, Footprint] = field(default_factory=dict)

    def ask(self, runs: Iterable[Run]) -> None:
        """Find the footprints of these runs, in one process."""
        questions = {_key(run): _question(run) for run in runs if _key(run) not in self._found}
        if questions:
            asked = {key: question for key, question in questions.items() if may_run(question["agent"])}
            answers = dict(zip(asked, _answers(list(asked.values())) if asked else [], strict=True))
            for key, question in questions.items():
                answer = answers.get(key)
                self._found[key] = _assumed(question) if answer is None else answer

    def of(self, run: Run) -> Footprint:
        """The footprint of a run."""
        self.ask([run])
        return self._found[_key(run)]


def _question(run: Run) -> dict[str, Any]:
    row = suite_of(run.task.dataset).row(run.task.dataset)
    settings = {key: value for key, value in run.settings.items() if key not in _SIZELESS}
    # What stands for those: values that every agent takes.
    plain = {key: run.settings[key] for key in _SIZELESS if key in run.settings}
    return {
        "agent": run.agent,
        "settings": settings | plain,
        "observation_shape": list(row.shape),
        "action_dim": row.action,
    }


def _key(run: Run) -> str:
    question = _question(run)
    settings = {key: value for key, value in question["settings"].items() if key not in _SIZELESS}
    return json.dumps(question | {"settings": settings}, sort_keys=True, default=list)


def _answers(questions: list[Mapping[str, Any]]) -> list[Footprint | None]:
    command, variables = module_command("mfql.training.footprint")
    try:
        done = subprocess.run(
            command,
            input=json.dumps(questions),
            env=os.environ | variables,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=600,
        )
        answers = json.loads(done.stdout) if done.returncode == 0 else [None] * len(questions)
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError):
        answers = [None] * len(questions)
    return [None if one is None else Footprint(**one | {"fields": tuple(one["fields"])}) for one in answers]


def _assumed(question: Mapping[str, Any]) -> Footprint:
    """The footprint without an answer: a shipped agent's at the paper's size; for another, MFQL's, as unknown."""
    name = "pixels" if len(question["observation_shape"]) > 1 else str(question["agent"])
    return Footprint(*_KNOWN.get(name, _KNOWN["mfql"]), known=name in _KNOWN)


# Those of this process, each asked for once.
FOOTPRINTS = Footprints()
