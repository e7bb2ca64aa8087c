"""Models as the datasets' MuJoCo simulated them; what later releases do otherwise is corrected where models are made.

Until MuJoCo 3.4 the margin of two geoms' contact, the distance at which it begins, was the larger of the geoms' two;
since 3.5 it is their sum. OGBench's and D4RL's ant and Adroit's hand have margins, and their data are from before.
Whether there is anything to correct is found out by what the installed MuJoCo does, not by its version.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import mujoco
import numpy as np

from mfql.errors import UserError
from mfql.tasks import CONTACT_MARGINS, simulation_differences

_LARGER, _SUM = "larger", "sum"
# Two overlapping spheres whose margins, 3 cm and 1 cm, tell the rules apart.
_PROBE = """<mujoco><worldbody>
  <geom type="sphere" size="0.1" margin="0.03"/>
  <body pos="0.15 0 0"><freejoint/><geom type="sphere" size="0.1" margin="0.01"/></body>
</worldbody></mujoco>"""
_ROUNDING = 1e-12  # metres


def correct(model: mujoco.MjModel) -> None:
    """Give a newly compiled model the physics of the datasets, in place; twice would be once too often.

    Raises:
        UserError: this MuJoCo combines margins in a way that is not known, or no margins of single geoms add up to
            what each pair of them had.
    """
    if model.geom_margin.any() and margin_rule() == _SUM:
        _correct_margins(model)


def correct_env(base: Any) -> None:
    """Correct the model of an OGBench environment: the present one, and each that it compiles in a later reset.

    Args:
        base: newly made and unwrapped; one of the manipulation suite changes its class.

    Raises:
        UserError: as of `correct`.
    """
    kind = type(base)
    if hasattr(kind, "post_compilation"):

        def post_compilation(self: Any) -> None:
            kind.post_compilation(self)
            correct(self.model)

        base.__class__ = type(kind.__name__, (kind,), {"post_compilation": post_compilation})
        if base._never_compiled:
            return
    correct(base.model)


def described(task: str) -> dict[str, Any]:
    """What simulates a task, for a run's manifest: `mujoco`, its version, and `corrected`, what `correct` changes.

    Raises:
        UserError: as of `correct`.
    """
    here = {CONTACT_MARGINS: lambda: margin_rule() == _SUM}
    corrected = [name for name in simulation_differences(task) if here[name]()]
    return {"mujoco": mujoco.__version__, "corrected": corrected}


@cache
def margin_rule() -> str:
    """How the installed MuJoCo makes a contact's margin of two geoms': `larger` or `sum`.

    Raises:
        UserError: neither.
    """
    model = mujoco.MjModel.from_xml_string(_PROBE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    one, other = model.geom_margin
    found = [contact.includemargin for contact in data.contact]
    for rule, expected in ((_LARGER, max(one, other)), (_SUM, one + other)):
        if len(found) == 1 and abs(found[0] - expected) < _ROUNDING:
            return rule
    raise UserError(
        f"MuJoCo {mujoco.__version__} makes of the margins {one:g} and {other:g} of two geoms {found} for their "
        "contact: neither the larger nor the sum, so that its contacts are not those of the datasets",
        "Install a MuJoCo that this project was tested with (pyproject.toml names the release).",
    )


def _correct_margins(model: mujoco.MjModel) -> None:
    """Set the geoms' margins so that each pair's sum is the larger of the two that the geoms had.

    Geoms of one margin keep one margin. Explicit pairs have a margin of their own, which nothing is added to.

    Raises:
        UserError: there are no such margins, or a geom has a gap, whose meaning changed too.
    """
    if model.geom_gap.any():
        raise UserError(
            "a model's geoms have gaps, which other releases of MuJoCo take otherwise",
            "Use the model files of the releases of ogbench and d4rl that this project names.",
        )
    margins, kind = np.unique(model.geom_margin, return_inverse=True)
    shares = margins / 2 + _to_add(margins, _meeting(model, kind, len(margins)))
    model.geom_margin[:] = shares[kind]
    # The broad phase compares bodies by the largest margin of their geoms.
    model.body_margin[:] = 0.0
    np.maximum.at(model.body_margin, model.geom_bodyid, model.geom_margin)


def _to_add(margins: np.ndarray, meeting: np.ndarray) -> np.ndarray:
    """What each kind of geom needs beside half of its margin; 0 where it meets none.

    Args:
        margins: [K], of each kind.
        meeting: [K, K], whether geoms of two kinds can collide.
    """
    pairs = np.argwhere(np.triu(meeting))
    equations = np.zeros((len(pairs), len(margins)))
    np.add.at(equations, (np.arange(len(pairs))[:, None], pairs), 1.0)
    missing = margins[pairs].max(axis=1) - margins[pairs].sum(axis=1) / 2
    added = np.linalg.lstsq(equations, missing, rcond=None)[0]
    if np.abs(equations @ added - missing).max(initial=0.0) > _ROUNDING or (margins / 2 + added < -_ROUNDING).any():
        raise UserError(
            f"no margins of geoms add up, pair by pair, to the larger of the model's {margins.tolist()}",
            "Use the model files of the releases of ogbench and d4rl that this project names.",
        )
    return added


def _meeting(model: mujoco.MjModel, kind: np.ndarray, kinds: int) -> np.ndarray:
    """Whether geoms of two kinds can collide, [K, K], by their masks and by what is welded together.

    Args:
        kind: [geoms], that of each.
    """
    masks = model.geom_contype[:, None] & model.geom_conaffinity
    welded = model.body_weldid[model.geom_bodyid]
    first, second = np.nonzero((masks | masks.T).astype(bool) & (welded[:, None] != welded))
    meeting = np.zeros((kinds, kinds), dtype=bool)
    meeting[kind[first], kind[second]] = True
    return meeting
