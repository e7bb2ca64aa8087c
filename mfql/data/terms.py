"""What a dataset's publishers say of its licence, and whom its users cite."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """The terms of a dataset.

    Args:
        licence: of the data, as far as its publishers say; else that they do not.
        citation: whom to cite; None where nobody is known.
    """

    licence: str
    citation: str | None

    def lines(self) -> str:
        """The terms for people, two lines."""
        return f"licence: {self.licence}\ncite: {self.citation or 'unknown'}"


_OGBENCH = (
    "S. Park, K. Frans, B. Eysenbach, S. Levine: OGBench: Benchmarking Offline Goal-Conditioned RL. ICLR 2025,"
    " arXiv:2410.20092"
)
_D4RL = (
    "J. Fu, A. Kumar, O. Nachum, G. Tucker, S. Levine: D4RL: Datasets for Deep Data-Driven Reinforcement Learning."
    " 2020, arXiv:2004.07219"
)
_PUBLISHED = {
    # The LICENSE of github.com/seohongpark/ogbench; its README has no other for the datasets.
    "ogbench": Terms("MIT is that of OGBench's repository, which names none for the datasets apart", _OGBENCH),
    # The section Licenses of the README of github.com/Farama-Foundation/D4RL.
    "d4rl": Terms("CC BY 4.0, unless D4RL notes otherwise of one; its code is under Apache 2.0", _D4RL),
}
_GENERATED = Terms("of whoever generated them, with the oracles of OGBench's repository, which is under MIT", _OGBENCH)
# Of a run's online episodes.
COLLECTED = Terms("of whoever collected them: steps of the task's environment, whose own licence holds", None)
_UNKNOWN = Terms("unknown: nothing that this project reads says it", None)


def terms_of(suite: str, source: str) -> Terms:
    """The terms of a dataset.

    Args:
        suite: the suite's name; "" where none is known.
        source: of the dataset, as of `mfql.data.transitions.Dataset`.
    """
    if source == "generated":
        return _GENERATED
    return _UNKNOWN if source == "own" else _PUBLISHED.get(suite, _UNKNOWN)
