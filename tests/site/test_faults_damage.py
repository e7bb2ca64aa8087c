"""Files that are cut or altered, and data that change: refused by name or passed over, never used."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from mfql.cli import EXIT_CONTINUE
from mfql.data.generate import generate
from mfql.training import online, train
from mfql.training.checkpoint import Checkpoints
from tests.support.faults import EPISODE, Moment, Runs, before, call, receive, refused, sessions
from tests.support.training_runs import DATASET

# Pointmaze's episodes have 1000 steps; a finished one lies in a segment.
TWO_EPISODES = "inherits: mfql-miniature\nonline_steps: 1010\neval_interval: 1010\n"
SECOND_EPISODE: Moment = (online.Environments, "finish", 1005)


def flip(path: Path, where: int | None = None) -> None:
    """Alter one byte, in the middle or where it is said."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if where is None else where] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Keep the first half."""
    os.truncate(path, path.stat().st_size // 2)


def killed(runs: Runs, results: str, moment: Moment = EPISODE) -> tuple[list[str], Path]:
    """An online run that was killed."""
    arguments = runs.begin_online(results)
    assert call(arguments, before(moment, receive(signal.SIGKILL)))[0] == -signal.SIGKILL
    return arguments, runs.trained("online", results) / "checkpoint"


def test_of_two_checkpoints_the_whole_one_is_used_and_of_none_the_run_starts_anew(runs: Runs) -> None:
    arguments, folder = killed(runs, "cut")
    earlier, last = (Checkpoints(folder).path(step) for step in Checkpoints(folder).steps())
    cut(last)
    status, said = call(arguments, before((Checkpoints, "save", 1), receive(signal.SIGKILL)))
    assert status == -signal.SIGKILL
    assert f"{last} is cut or altered: its content does not match its checksum; passed over" in said
    assert sessions(folder.parent) == [0, 12]
    cut(last)
    flip(earlier)
    said = runs.assert_continues(arguments, "cut")
    assert "starts anew, since none of its checkpoints can be used" in said
    assert sessions(folder.parent) == [0, 12, 0]


def test_an_altered_segment_of_the_replay_is_refused_with_its_checkpoint(runs: Runs) -> None:
    place, method = runs.place, "two-episodes"
    place.method(method, TWO_EPISODES)
    first, second = (
        place.arguments(method, stage, [0], "segments", "--workers", "0") for stage in ("pretrain", "online")
    )
    assert call(first)[0] == 0
    assert call(second, before(SECOND_EPISODE, receive(signal.SIGTERM)))[0] == EXIT_CONTINUE
    own = place.run(method, 0, "online", "segments")
    (segment,) = (own / "checkpoint").glob("tail-*.pt")
    whole = segment.read_bytes()
    flip(segment)
    status, said = call(second, before((train, "_start_anew", 1), receive(signal.SIGKILL)))
    assert status == -signal.SIGKILL
    assert f"{segment} is cut or altered" in said
    segment.write_bytes(whole)
    status, said = call(second)
    assert status == 0, said
    assert "altered" not in said
    assert sessions(own)[-1] == 1005


@pytest.mark.parametrize("stage", ["pretrain", "online"])
def test_an_altered_result_is_not_delivered_and_can_be_made_again(runs: Runs, stage: str) -> None:
    results = f"result-{stage}"
    shutil.copytree(runs.place.folder / "results", runs.place.folder / results)
    own, arguments = runs.trained(stage, results), runs.arguments(stage, results)
    flip(own / "evaluation.json")
    assert "run/evaluation.json is altered" in refused(arguments)
    (own / "evaluation.json").unlink()
    runs.assert_continues(arguments, results, stage)


def test_an_altered_policy_is_refused_and_can_be_made_again(runs: Runs, tmp_path: Path) -> None:
    shutil.copytree(runs.place.folder / "results", runs.place.folder / "policy")
    own = runs.trained("online", "policy")
    flip(own / "policy" / "policy.safetensors", -1)
    evaluate = ["evaluate", str(own.parent), "--episodes", "1", "--workers", "0", "--out", str(tmp_path / "a.json")]
    assert "policy.safetensors is altered" in refused(evaluate)
    verified = call(["verify", str(runs.place.folder / "policy")])
    assert verified[0] == 1
    assert "run/policy/policy.safetensors is not the file that the manifest knows" in verified[1]
    (own / "evaluation.json").unlink()
    runs.assert_continues(runs.arguments("online", "policy"), "policy")
    assert call(evaluate)[0] == 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [('{\n "method"', "is not valid JSON"), ('"identity": "', "manifest.json is altered: its identity")],
    ids=["syntax", "identity"],
)
def test_an_altered_manifest_is_refused_and_nothing_trains(runs: Runs, entry: str, said: str) -> None:
    results = "manifest" + str(len(entry))
    shutil.copytree(runs.place.folder / "results", runs.place.folder / results)
    manifest = runs.trained("online", results) / "manifest.json"
    whole = manifest.read_text(encoding="utf-8")
    at = whole.rindex(entry) + (1 if entry[0] == "{" else len(entry))
    flip(manifest, at)
    assert said in refused(runs.arguments("online", results))
    manifest.write_text(whole, encoding="utf-8")
    runs.assert_continues(runs.arguments("online", results), results)


def test_data_that_change_under_a_run_are_refused_interrupted_or_finished(runs: Runs, tmp_path: Path) -> None:
    interrupted, _ = killed(runs, "data")
    arguments = {"online": interrupted, "pretrain": runs.arguments("pretrain", "data")}
    data, kept = runs.place.folder / "data", tmp_path / "kept"
    shutil.copytree(data, kept)
    try:
        flip(data / f"{DATASET}.npz")
        for stage in arguments:
            assert f"{DATASET}.npz is not the file that" in refused(arguments[stage])
        (data / f"{DATASET}.npz").unlink()  # A file that is not as it was generated is not written over.
        generate(DATASET, data, episodes=3, seed=7, progress=False)
        assert "was trained on another version of" in refused(arguments["online"])
        assert "changed under" in refused(arguments["pretrain"])
    finally:
        shutil.rmtree(data)
        shutil.copytree(kept, data)
    runs.assert_continues(arguments["online"], "data")
    runs.assert_continues(arguments["pretrain"], "data", "pretrain")
