"""A disk that is really full: nothing half-written lies under a final name, and with space again the same command ends
as if nothing had been. Needs root, for a small disk of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mfql.data import generate
from mfql.data.description import verify
from mfql.suites import split_paths
from mfql.training import log, train
from mfql.training.checkpoint import Checkpoints
from tests.support.faults import EPISODE, FINISHING, LOADING, Moment, Runs, before, call, fill, refused, small_disk
from tests.support.training_runs import DATASET

CHECKPOINT: Moment = (Checkpoints, "save", 5)
METRICS: Moment = (log.TrainingLog, "write", 3)
LOCK: Moment = (train, "locked", 1)
DATA: Moment = (generate, "write_whole", 2)
PUBLISHED = "antmaze-large-navigate-v0"


@pytest.fixture
def disk(runs: Runs) -> Iterator[Path]:
    with small_disk(runs.place.folder / "disk") as folder:
        yield folder
    folder.rmdir()


@pytest.mark.parametrize(
    "moment",
    [LOCK, LOADING, METRICS, EPISODE, CHECKPOINT, FINISHING],
    ids=["lock", "loading", "metrics", "episode", "checkpoint", "finishing"],
)
def test_a_run_on_a_disk_that_fills_up_ends_with_a_message_and_continues(
    moment: Moment, runs: Runs, disk: Path
) -> None:
    arguments = runs.begin_online("disk")
    said = refused(arguments, before(moment, lambda: fill(disk)))
    assert "cannot write" in said
    assert "No space left on device" in said
    assert "free space" in said
    assert not (runs.trained("online", "disk") / "evaluation.json").exists()
    refused(arguments)  # As long as it is full.
    (disk / "filler").unlink()
    runs.assert_continues(arguments, "disk")


def test_data_generated_onto_a_disk_that_fills_up_are_not_taken_for_whole(runs: Runs, disk: Path) -> None:
    arguments = ["data", "generate", DATASET, "--out", str(disk), "--episodes", "3", "--seed", "1", "--workers", "1"]
    said = refused(arguments, before(DATA, lambda: fill(disk, leave=4096)))
    assert "cannot write" in said
    assert sorted(path.name for path in disk.iterdir()) == ["filler", f"{DATASET}.npz"]
    (disk / "filler").unlink()
    assert call(arguments)[0] == 0
    for path in split_paths(disk, DATASET).values():
        assert path.read_bytes() == (runs.place.folder / "data" / path.name).read_bytes()


def test_a_fetch_onto_a_full_disk_says_what_it_needs_and_what_is_free(runs: Runs, disk: Path, published: Path) -> None:
    out = disk / "data"
    arguments = [
        "data", "fetch", PUBLISHED, "--out", str(out), "--from", str(published), "--lock", str(disk / "lock.json"),
    ]  # fmt: skip
    fill(disk, leave=200_000)
    said = refused(arguments)
    assert "too full for" in said
    assert "needed" in said
    assert list(out.iterdir()) == []
    (disk / "filler").unlink()
    assert call(arguments)[0] == 0
    assert verify(out, PUBLISHED, split_paths(out, PUBLISHED))[0] == "downloaded"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the two files of a dataset, some hundred kilobytes."""
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    for path in split_paths(folder, PUBLISHED).values():
        np.savez_compressed(
            path,
            observations=rng.standard_normal((4000, 29)).astype(np.float32),
            actions=np.zeros((4000, 8), np.float32),
            terminals=np.arange(1, 4001) % 100 == 0,
        )
    return folder
