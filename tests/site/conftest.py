"""What the tests of faults share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.faults import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Data, and undisturbed runs to compare with."""
    from tests.support.faults import Runs  # torch, which the other checks of this folder do not need.

    return Runs.make(tmp_path_factory.mktemp("runs"))
