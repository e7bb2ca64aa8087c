"""What the tests of faults share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.faults import Runs


@pytest.fixture(autouse=True)
def nothing_lives_on() -> Iterator[None]:
    """What a test of faults starts ends with it."""
    yield
    if faults := sys.modules.get("tests.support.faults"):
        faults.end_all()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Data, and undisturbed runs to compare with."""
    from tests.support.faults import Runs  # torch, which the other checks of this folder do not need.

    return Runs.make(tmp_path_factory.mktemp("runs"))
