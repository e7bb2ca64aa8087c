"""Whether a dataset of one's own can be what it says: against itself, and against an episode of its environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mfql.data.constant import is_constant
from mfql.data.transitions import Transitions
from mfql.data.values import listed
from mfql.envs.trial import Trial
from mfql.envs.units import ActionUnits
from mfql.errors import UserError, warn

# So many marked ends say what a step across an end is like; so many unmarked ones are no accident of a simulator.
_FEWEST_ENDS, _FEWEST_JUMPS = 10, 3
# Where more steps than this share are as large as those across ends, size tells nothing.
_MOST_JUMPS = 0.1
# A step is alike if it moves far in this share of the dimensions in which a step across an end does: a new goal alone
# is no new episode.
_ALIKE = 0.75
# Two episodes in one trajectory make it so many times as long as others.
_LONGER = 1.3
# Lengths that vary by more than this share of their mean may be of ends by chance: leaps cut such episodes into parts
# as long as episodes without one, and others into shorter parts.
_SPREAD, _AS_LONG = 0.65, 0.85
# How many starts of episodes a step is compared with.
_STARTS = 300
# A step at the limit stands out if it is so many times as large as the largest hundredth of the others.
_STANDS_OUT = 1.5
# A step counts at most as so many usual ones in a dimension, so that one dimension does not decide.
_CAP = 1e3
# Squares of larger numbers are not what they say.
_LARGEST = 1e100
# Rows at a time; what is usual is taken from as many.
_BLOCK = 1 << 16
# A dimension that moves in fewer steps than that is constant within episodes, as a goal is; one that moves in more, and
# in fewer than half of them, is of events, such as contacts, whose size says nothing.
_RARELY = 0.05
# A random episode of so many steps says what an environment pays.
_FEWEST_REWARDS = 20
# Actions that take a smaller share of their bounds than this are in other units.
_LEAST_SHARE = 1e-3

# So near to -1 and 1 the actions of many steps come that are clipped or squashed to them.
_NEAR_ONE = 0.01

NORMALISED = (
    "Where -1 and 1 stand for the bounds, write them in the environment's units: low + (action + 1) / 2 * (high - low)."
)
_MARK = (
    "Mark the last row of every episode: timeouts in HDF5, terminals in .npz. Or, if these are steps of the"
    " environment, write the array next_observations [N, D], which is then believed."
)


def refuse_unmarked_ends(observations: np.ndarray, ends: np.ndarray, over: np.ndarray, limit: int, where: str) -> None:
    """Refuse a file some of whose episodes run into the next, so that their last step ends where the next began.

    That is so, too, where no end is marked at all, and the file has more rows than an episode. Otherwise such a step is
    as large as the steps across the ends that are marked, and ends where episodes begin; and the task was over there,
    or the lengths of episodes tell. Where they but hint at it, a warning says so: the longer an episode is, the
    likelier is a leap of the environment's own in it.

    Args:
        observations: [N, D], in consecutive rows.
        ends: [N] bool, the rows whose next row is of another episode.
        over: [N] bool, the rows of steps with which the task itself ends, and those after them.
        limit: the steps after which the environment ends an episode.
        where: the file.

    Raises:
        UserError: names the rows.
    """
    _refuse_steps_like_ends(observations, ends, over, limit, where)
    if not ends[:-1].any() and len(ends) > limit + 1:
        raise UserError(
            f"{where}: no row before the last of {len(ends)} ends an episode, and an episode has at most {limit} steps:"
            " it would be learned from as one that never ends",
            f"{_MARK} In HDF5 leave out timeouts then.",
        )


def _refuse_steps_like_ends(
    observations: np.ndarray, ends: np.ndarray, over: np.ndarray, limit: int, where: str
) -> None:
    across = ends[:-1]
    if not np.abs(observations, dtype=np.float64).max(initial=0.0) < _LARGEST:
        return  # Refused for its values.
    steps = _steps(observations, across)
    if steps is None:
        return
    found = _like_ends(observations, ends, steps)
    if len(found) >= _FEWEST_JUMPS:
        said = (
            f"{where}: at least {len(found)} steps are as large as those across the {int(across.sum())} marked ends of"
            " episodes, and end where episodes begin: unmarked ends"
        )
        if _ended(found, ends, over, limit):
            raise UserError(f"{said}, at the rows {listed(found)}", _MARK)
        if _in_longer_ones(found, ends):
            warn(f"{said}, or leaps within episodes, at the rows {listed(found)}", _MARK)
    found = _at_the_limit(ends, steps.size, limit)
    if len(found):
        raise UserError(
            f"{where}: {len(found)} episodes are longer than the {limit} steps that their environment has, and the step"
            f" after these is one of the largest of all: unmarked ends, at the rows {listed(found)}",
            _MARK,
        )


def warn_of_long_episodes(rows: Transitions, limit: int, where: str) -> None:
    """Say which trajectories have more steps than an episode of the environment; data may be recorded under others."""
    lengths = rows.lengths
    if (lengths > limit).any():
        warn(
            f"{where}: {int((lengths > limit).sum())} of {len(lengths)} trajectories are longer than the {limit} steps"
            f" after which the environment ends an episode, the longest has {lengths.max()}",
            "Where they were not recorded under another limit, ends of episodes are unmarked: mark them.",
        )


def warn_against_trial(rows: Transitions, actions: np.ndarray, trial: Trial, env: Any, where: str) -> None:
    """Say what of a dataset is not as its environment has it.

    Args:
        rows: as the file has them.
        actions: [N, A], in [-1, 1].
        trial: an episode of the environment.
        env: the environment, whose own observation space is below its wrappers.
        where: the file.
    """
    _warn_of_bounds(np.asarray(rows.observations), trial, env, where)
    _warn_of_constants(np.asarray(rows.observations), trial, where)
    _warn_of_rewards(rows.rewards, trial.rewards, where)
    warn_of_normalised(np.asarray(rows.actions), env.units, where)
    share = float(actions.max() - actions.min()) / 2.0 if len(actions) else 1.0
    if len(actions) > 1 and share == 0.0:
        warn(f"{where}: all actions are the same", "Check what wrote them.")
    elif len(actions) > 1 and np.abs(actions).max() < _LEAST_SHARE:
        warn(
            f"{where}: actions take {share:.2g} of the range between the environment's bounds",
            "Write them in the environment's units; or narrow its bounds, if they mean nothing.",
        )


def shown_bounds(env: Any) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest observation [D], as float64, that the environment itself says; it may say infinity."""
    space = env.env.env.observation_space  # Isolated and RegisteredEnv are ours, and the last says no bounds.
    return space.low.astype(np.float64), space.high.astype(np.float64)


def look_normalised(actions: np.ndarray, units: ActionUnits) -> bool:
    """Whether actions [N, A], to be in an environment's units, rather lie in [-1, 1], which stands for its bounds.

    They do where these are others, and they reach -1 and 1, and nothing beyond, in each dimension that has such.
    """
    other = (np.abs(units.low + 1.0) > _NEAR_ONE) | (np.abs(units.high - 1.0) > _NEAR_ONE)
    if not other.any() or len(actions) == 0:
        return False
    least, greatest = (ends(axis=0).astype(np.float64)[other] for ends in (actions.min, actions.max))
    return bool((np.abs(least + 1.0) <= _NEAR_ONE).all() and (np.abs(greatest - 1.0) <= _NEAR_ONE).all())


def warn_of_normalised(actions: np.ndarray, units: ActionUnits, where: str) -> None:
    """Say of actions [N, A] within the bounds that they look normalised."""
    if look_normalised(actions, units):
        warn(
            f"{where}: actions lie between -1 and 1, and reach both, and their bounds are"
            f" {np.round(units.low, 4).tolist()} to {np.round(units.high, 4).tolist()}",
            NORMALISED,
        )


def _warn_of_bounds(observations: np.ndarray, trial: Trial, env: Any, where: str) -> None:
    low, high = shown_bounds(env)
    slack = 1e-4 * (1.0 + np.abs(low)), 1e-4 * (1.0 + np.abs(high))

    def outside(values: np.ndarray) -> np.ndarray:
        return (values < low - slack[0]) | (values > high + slack[1])

    # Of a dimension in which the environment itself leaves its space nothing is said.
    faulty = outside(observations) & ~outside(trial.observations).any(axis=0)
    if faulty.any():
        count, dimensions = int(faulty.any(axis=1).sum()), np.flatnonzero(faulty.any(axis=0))
        warn(
            f"{where}: observations of {count} of {len(observations)} transitions are out of the bounds that the"
            f" environment's observation_space says, in the dimensions {listed(dimensions)}",
            "Check that it is the dataset of this environment, in the same order and units.",
        )


def _warn_of_constants(observations: np.ndarray, trial: Trial, where: str) -> None:
    constant = is_constant(observations)
    other = constant & ~np.isclose(trial.observations, observations[0], rtol=1e-4, atol=1e-6).all(axis=0)
    if other.any():
        warn(
            f"{where}: observations have one value alone in the dimensions {listed(np.flatnonzero(other))}, and the"
            " environment shows others",
            "Record more episodes, or correct what wrote these dimensions.",
        )


def _warn_of_rewards(data: np.ndarray, tried: np.ndarray, where: str) -> None:
    if len(tried) < _FEWEST_REWARDS:
        return
    found = f"{data.min():.4g} to {data.max():.4g}"
    remedy = "Check that the environment's reward is the one that was recorded: neither shifted, scaled nor another."
    if tried.min() == tried.max() and not np.isclose(data, tried[0], rtol=1e-3, atol=1e-6).any():
        warn(
            f"{where}: the environment pays {tried[0]:.4g} in each step of a random episode, and no row has that:"
            f" rewards are {found}",
            remedy,
        )
    elif (tried.max() < 0 < data.max() and data.min() >= 0) or (data.max() < 0 < tried.max() and tried.min() >= 0):
        warn(
            f"{where}: rewards are {found}, and the environment pays {tried.min():.4g} to {tried.max():.4g} in a random"
            " episode, of the other sign",
            remedy,
        )


@dataclass(frozen=True)
class _Steps:
    """From each row to the next, [N - 1].

    Args:
        size: in usual steps of the dimensions that tell.
        share: of these dimensions, in how many the step is larger than nearly all within episodes.
    """

    size: np.ndarray
    share: np.ndarray


def _steps(observations: np.ndarray, across: np.ndarray) -> _Steps | None:
    """None where no dimension tells of steps within episodes."""
    within = np.flatnonzero(~across)
    if len(within) == 0:
        return None
    some = within[:: max(1, len(within) // _BLOCK)]
    steps = _differences(observations, some)
    deviation = observations[some].std(axis=0, dtype=np.float64)
    usual, moved = np.median(steps, axis=0), (steps > 0).mean(axis=0)
    telling = (deviation > 0) & ((usual > 0) | (moved < _RARELY))
    if not telling.any():
        return None
    scale = np.maximum(usual, 1e-3 * deviation)[telling]
    bound = 2.0 * np.quantile(steps[:, telling], 0.95, axis=0)
    found = _Steps(np.empty(len(across)), np.empty(len(across)))
    for start in range(0, len(across), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(across)))
        moves = _differences(observations, rows)[:, telling]
        found.size[rows] = np.sqrt(np.square(np.minimum(moves / scale, _CAP)).mean(axis=1))
        found.share[rows] = (moves > bound).mean(axis=1)
    return found


def _differences(observations: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.abs(observations[rows + 1].astype(np.float64) - observations[rows])


def _like_ends(observations: np.ndarray, ends: np.ndarray, steps: _Steps) -> np.ndarray:
    """The rows whose step is like one across an end; none where something else may be what makes them large.

    That is so where steps between those and usual ones are as many, so that the large ones are but the largest.
    """
    none, across, size = np.empty(0, np.int64), ends[:-1], steps.size
    if across.sum() < _FEWEST_ENDS:
        return none
    least, most = np.quantile(size[across], 0.25), 1.5 * size[across].max()
    alike = ~across & (steps.share >= _ALIKE * np.median(steps.share[across]))
    large = np.flatnonzero(alike & (size >= least) & (size <= most))
    between = np.flatnonzero(alike & (size >= least / 2.0) & (size < least))
    if len(large) == 0 or max(len(large), len(between)) > _MOST_JUMPS * len(size):
        return none
    begins = _Begins(observations, np.flatnonzero(across) + 1)
    found = large[begins.near(large + 1)]
    return none if int(begins.near(between + 1).sum()) > len(found) else found


def _ended(found: np.ndarray, ends: np.ndarray, over: np.ndarray, limit: int) -> bool:
    """Whether an episode ended at most of these rows, and no environment leapt within one.

    The task was over there; or their trajectories are longer than an episode may be, but for these ends; or these cut
    them into parts as long as other episodes, whose lengths are no matter of chance: leaps cut them shorter.
    """
    last, have = np.flatnonzero(ends), _having(found, ends)
    lengths = np.diff(last, prepend=-1)
    cut = np.union1d(last, found)
    pieces = np.diff(cut, prepend=-1)
    longest = np.maximum.reduceat(pieces, np.searchsorted(cut, np.append(-1, last[:-1]) + 1))
    mended = (lengths[have] > limit + 1) & (longest[have] <= limit + 1)
    if over[found].mean() > 0.5 or mended.mean() > 0.5:
        return True
    whole, parts = lengths[~have], pieces[have[np.searchsorted(last, cut)]]
    if min(len(whole), len(found)) < _FEWEST_ENDS:
        return False
    return bool(whole.std() <= _SPREAD * whole.mean() and np.median(parts) >= _AS_LONG * np.median(whole))


def _in_longer_ones(found: np.ndarray, ends: np.ndarray) -> bool:
    """Whether the trajectories that have these rows are longer than others, as two in one are."""
    lengths, have = np.diff(np.flatnonzero(ends), prepend=-1), _having(found, ends)
    return not have.all() and bool(np.median(lengths[have]) >= _LONGER * np.median(lengths[~have]))


def _having(found: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which trajectories have some of these rows, a flag a trajectory."""
    last = np.flatnonzero(ends)
    return np.isin(np.arange(len(last)), np.searchsorted(last, found))


class _Begins:
    """Whether an observation is like the first ones of episodes: as near to one of them as nine in ten of these are."""

    def __init__(self, observations: np.ndarray, starts: np.ndarray) -> None:
        starts = starts[:: max(1, len(starts) // _STARTS)]
        deviation = observations[:: max(1, len(observations) // _BLOCK)].std(axis=0, dtype=np.float64)
        self.observations, self.varying = observations, deviation > 0
        self.deviation = deviation[self.varying]
        self.starts, self.begins = starts, self._scaled(starts)
        self.within = np.quantile(self._distance(self.starts, apart=True), 0.9)

    def near(self, rows: np.ndarray) -> np.ndarray:
        """[rows] bool."""
        return self._distance(rows) <= self.within

    def _distance(self, rows: np.ndarray, apart: bool = False) -> np.ndarray:
        found = np.empty(len(rows))
        for i, (row, scaled) in enumerate(zip(rows, self._scaled(rows), strict=True)):
            squares = np.square(self.begins - scaled).mean(axis=1)
            found[i] = (np.where(self.starts == row, np.inf, squares) if apart else squares).min()
        return found

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return self.observations[rows][:, self.varying] / self.deviation


def _at_the_limit(ends: np.ndarray, size: np.ndarray, limit: int) -> np.ndarray:
    """The rows at which episodes that are too long ought to have ended, if most of their steps there stand out.

    An episode has as many rows as steps, or one more for its last observation.
    """
    last = np.append(np.flatnonzero(ends), len(ends) - 1) if not ends[-1] else np.flatnonzero(ends)
    first = np.append(0, last[:-1] + 1)
    for rows in (limit, limit + 1):
        at = np.concatenate([np.arange(a + rows - 1, b, rows) for a, b in zip(first, last, strict=True)])
        others = np.delete(size, at)
        if len(at) >= _FEWEST_JUMPS and np.median(size[at]) > _STANDS_OUT * np.quantile(others, 0.99):
            return at
    return np.empty(0, np.int64)
