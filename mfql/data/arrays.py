"""Arrays of a dataset's file by name: whether all that are needed are there, under their names, and of one length."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mfql.errors import UserError, nearest

_MOST_SHOWN = 20
# What others call an array, where its own name is not near.
_ALSO = {
    "observations": ("obs", "state", "states"),
    "next_observations": ("next_obs", "next_state", "next_states"),
    "actions": ("act", "acts"),
    "rewards": ("rew", "rews"),
    "terminals": ("done", "dones"),
    "timeouts": ("truncations", "truncated"),
}


def refuse_missing(path: str | Path, wanted: Collection[str], found: Collection[str], remedy: str) -> None:
    """Refuse a file without some of its arrays; it may have them under other names, which are then said.

    Args:
        path: the file.
        wanted: the arrays that are needed.
        found: the names that the file has at its top, and of those below it the ones that are needed.
        remedy: what to do.

    Raises:
        UserError: names what is missing, and what there is.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        shown = sorted(found)[:_MOST_SHOWN] + (["..."] if len(found) > _MOST_SHOWN else [])
        others = [name for name in found if name not in wanted and name not in _ALSO]
        said = [f"{name} by {other}" for name in missing if (other := _other_name(name, others))]
        meant = f"Did you mean {', '.join(said)}? Then rename what the file has. " if said else ""
        raise UserError(
            f"{path} lacks the arrays {', '.join(missing)}; it has {', '.join(shown) or 'none'}", f"{meant}{remedy}"
        )


def _other_name(name: str, found: Collection[str]) -> str | None:
    """The name under which a file probably has an array; None of one below a group, or where none is near."""
    if "/" in name:
        return None
    also = [other for other in found if other.lower() in _ALSO.get(name, ())]
    return next(iter([*also, *nearest(name, found)]), None)


def refuse_other_lengths(path: str | Path, shapes: Mapping[str, tuple[int, ...]], remedy: str) -> None:
    """Refuse a file whose arrays have more or fewer rows than the first one.

    Args:
        path: the file.
        shapes: of each array; those without rows are left to who looks at shapes.
        remedy: what to do.

    Raises:
        UserError: names that array, the others, and how many rows each has.
    """
    rows = {name: shape[0] for name, shape in shapes.items() if shape}
    first = next(iter(rows), "")
    if others := [f"{name} {count}" for name, count in rows.items() if count != rows[first]]:
        raise UserError(
            f"{path}: {first} has {rows[first]} rows, {', '.join(others)}, and a row is a step of them all",
            remedy,
        )
