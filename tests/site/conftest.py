"""What the tests of faults share."""

from __future__ import annotations

import pytest

from tests.site.faults import Runs


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs.make(tmp_path_factory.mktemp("runs"))
