"""What is vouched for is checked before it is used, and nothing is lost: results, manifests, logs, states of runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mfql.cli import main
from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.evaluation.policy import load_policy
from mfql.experiment.configuration import LOCK, planned_runs, read_configuration
from mfql.experiment.run import Fate
from mfql.plan.outlook import Outlook, Outlooks
from mfql.report.absent import absent_seeds
from mfql.training.checkpoint import Checkpoints
from tests.support.training_runs import SHORT, TASK, Workplace

ALTERED_MANIFEST = "other settings, versions or data than its identity is of"


@pytest.fixture
def place(finished_runs, tmp_path, monkeypatch) -> Workplace:
    """Runs of `first`: seed 0 was online, seed 1 not yet; seed 0 has an earlier run of other settings."""
    place = Workplace(tmp_path / "place")
    shutil.copytree(finished_runs.folder, place.folder)
    monkeypatch.chdir(place.folder)
    return place


def alter(path: Path, **changes: object) -> None:
    write_json(path, read_json(path) | changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scores_of(place: Workplace, *runs: Path, partial: bool = False) -> int:
    """The exit status of `mfql scores` on these runs."""
    files = [str(run.parent / "evaluation.json") for run in runs]
    return main(["scores", *files, "--out", "study/scores.csv", *(["--partial"] if partial else [])])


def table(place: Workplace) -> pd.DataFrame:
    return pd.read_csv(place.folder / "study" / "scores.csv")


def an_altered_result(run: Path) -> None:
    alter(run.parent / "evaluation.json", score=100.0)


def a_result_of_another_identity(run: Path) -> None:
    alter(run.parent / "evaluation.json", identity="0123456789abcdef")


def an_altered_setting(run: Path) -> None:
    manifest = read_json(run / "manifest.json")
    alter(run / "manifest.json", settings=manifest["settings"] | {"batch_size": 99})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (an_altered_result, "evaluation.json is altered: it is not the file that its manifest knows"),
        (a_result_of_another_identity, "evaluation.json is altered: it is not the file that its manifest knows"),
        (an_altered_setting, f"run/manifest.json is altered: it has {ALTERED_MANIFEST}"),
    ],
)
def test_a_table_has_no_run_that_its_manifest_does_not_vouch_for(change, said, place, capsys):
    runs = [place.run("third", seed, "offline") for seed in (0, 1)]
    change(runs[1])
    assert scores_of(place, *runs) == 2
    assert f"{runs[1].parent}/{said}" in capsys.readouterr().err
    assert not (place.folder / "study").exists()
    assert scores_of(place, *runs, partial=True) == 1
    assert f"Left out, since a file of theirs cannot be used: {runs[1].parent}/{said}" in capsys.readouterr().err
    assert set(table(place)["seed"]) == {0}


def test_a_rise_is_none_from_a_start_that_is_altered(place, capsys):
    an_altered_result(place.run("first", 0, "offline"))
    assert scores_of(place, place.run("first", 0, "online")) == 2
    assert scores_of(place, place.run("first", 0, "online"), partial=True) == 1
    assert "score" in set(table(place)["metric"])
    assert not {"start", "rise"} & set(table(place)["metric"])
    assert f"{TASK}/seed0/offline/evaluation.json is altered" in capsys.readouterr().err


def test_an_earlier_result_is_held_against_the_manifest_that_was_moved_aside(place):
    """While the run of other settings trains, the copy of the earlier one's result stays, and may be altered too."""
    run = place.run("second", 0, "offline")
    aside = run.with_name(f"run.{read_json(run / 'manifest.json')['identity']}")
    run.rename(aside)
    shutil.copytree(aside, run)
    alter(run / "manifest.json", identity="0123456789abcdef")
    (run / "evaluation.json").unlink()
    assert scores_of(place, run) == 0
    assert "unknown" not in set(table(place)["origin"])
    an_altered_result(run)
    assert scores_of(place, run) == 2


def test_a_partial_report_ends_as_verify_does_where_a_run_is_altered(place, few_repetitions, capsys):
    configuration = {"name": "study", "offline": {"methods": ["third"], "tasks": [TASK]}, "seeds": [0, 1]}
    write_json(place.folder / "study.yaml", configuration | {"online": {"methods": [], "tasks": [TASK]}})
    an_altered_result(place.run("third", 1, "offline"))
    assert main(["report", "--partial", "--configfile", "study.yaml"]) == 1
    assert "seed1/offline/evaluation.json is altered" in capsys.readouterr().err
    assert (place.folder / "results" / "study" / "partial" / "report.html").exists()


# --- a seed without a score -------------------------------------------------------------------------------------------


def cut(table: Path, **cells: object) -> None:
    """Cut a table's rows that have these values."""
    scores = pd.read_csv(table)
    scores[~(scores[list(cells)] == pd.Series(cells)).all(axis=1)].to_csv(table, index=False)


def test_a_seed_whose_rows_are_missing_is_named_wherever_a_mean_is_made(place, few_repetitions, capsys):
    study = place.folder / "results" / "study"
    files = [
        str(place.run(method, seed, "offline").parent / "evaluation.json")
        for method in ("first", "third")
        for seed in (0, 1)
    ]
    assert main(["scores", *files, "--out", str(study / "scores.csv")]) == 0
    (study / "runs.txt").write_text("\n".join(files), encoding="utf-8")
    assert main(["verify", "results"]) == 0
    cut(study / "scores.csv", method="third", seed=1)
    assert main(["aggregate", str(study / "scores.csv"), "--out", str(study / "aggregate")]) == 0
    assert f"no score of seed 1 of third {TASK} offline: means are of the other seeds" in capsys.readouterr().err
    assert main(["ship", str(study), "--out", "shipped"]) == 0
    assert f"no score of seed 1 of third {TASK} offline: means are of the other seeds" in capsys.readouterr().err
    assert main(["verify", "results"]) == 1
    assert f"study/scores.csv: has no score of seed 1 of third {TASK} offline" in capsys.readouterr().out
    report = ["--scores", str(study / "scores.csv"), "--aggregates", str(study / "aggregate")]
    assert main(["report", *report, "--targets", str(study / "runs.txt"), "--out", "report.html"]) == 2
    assert f"1 run without a score, the first of them runs/third/{TASK}/seed1" in capsys.readouterr().err
    cut(study / "scores.csv", method="first", seed=1, metric="score")
    assert main(["aggregate", str(study / "scores.csv"), "--out", str(study / "aggregate")]) == 2
    assert f"has rows of first {TASK} seed 1 offline, and no score of it" in capsys.readouterr().err
    assert main(["verify", "results"]) == 1
    assert f"study/scores.csv has rows of first {TASK} seed 1 offline, and no score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seeds", "planned", "lacking"),
    [
        ({"a": [0, 1, 3], "b": [0, 1, 2, 3]}, {}, {"a": [2]}),
        ({"a": [0, 1, 2], "b": [0, 1, 2, 3]}, {}, {"a": [3]}),  # Compared with more seeds of another method.
        ({"a": [0, 2, 4]}, {}, {"a": [1, 3]}),
        ({"a": [0, 2, 4]}, {"a": [0, 2, 4]}, {}),
        ({"a": [0, 1]}, {"a": [0, 1, 2], "b": [0]}, {"a": [2], "b": [0]}),
    ],
)
def test_which_seeds_a_table_should_have(seeds, planned, lacking):
    rows = [(method, "t", seed, "offline", "score") for method, own in seeds.items() for seed in own]
    scores = pd.DataFrame(rows, columns=["method", "task", "seed", "stage", "metric"])
    expected = {(method, "t", "offline"): set(own) for method, own in planned.items()}
    found = absent_seeds(scores, expected, as_others=True)
    assert found == {(method, "t", "offline"): own for method, own in lacking.items()}


# --- training ---------------------------------------------------------------------------------------------------------


def interrupt(run: Path) -> None:
    """As if it had been killed after its last checkpoint."""
    for path in (run / "evaluation.json", run.parent / "evaluation.json"):
        path.unlink()


def test_a_training_log_is_vouched_for_by_its_content(place):
    run = place.run("second", 0, "offline")
    log, before = run / "metrics.csv", contents(run)
    interrupt(run)
    log.write_text(log.read_text(encoding="utf-8").replace("\n10,", "\n11,"), encoding="utf-8")
    assert log.stat().st_size == len(before["metrics.csv"])
    with pytest.raises(UserError, match=r"metrics\.csv is altered: its checkpoint vouches for other content"):
        place.train_here("second", "offline", (0,))
    assert not (run / "evaluation.json").exists()
    log.write_bytes(before["metrics.csv"] + b"11,training/loss,1.0\n")  # Written after the checkpoint.
    place.train_here("second", "offline", (0,))
    assert log.read_bytes() == before["metrics.csv"]


def test_a_checkpoint_from_before_the_logs_hash_continues(place):
    run = place.run("second", 0, "offline")
    before = contents(run)
    checkpoints = Checkpoints(run / "checkpoint")
    saved = checkpoints.load(checkpoints.steps()[-1])
    assert saved.pop("metrics_sha256")
    checkpoints.save(saved["step"], saved)
    interrupt(run)
    place.train_here("second", "offline", (0,))
    assert contents(run)["evaluation.json"] == before["evaluation.json"]
    assert contents(run)["metrics.csv"] == before["metrics.csv"]


def the_manifest(run: Path, other: Path) -> None:
    an_altered_setting(run)


def the_policy(run: Path, other: Path) -> None:
    shutil.copy(other / "policy" / "policy.safetensors", run / "policy")


def the_state_of_another_seed(run: Path, other: Path) -> None:
    shutil.copy(other / "checkpoint" / "step-000000010.pt", run / "checkpoint")


def the_last_state(run: Path, other: Path) -> None:
    (run / "checkpoint" / "step-000000010.pt").unlink()


@pytest.mark.parametrize(
    ("alter_start", "said"),
    [
        (the_manifest, ALTERED_MANIFEST),
        (the_policy, "run/policy/policy.safetensors is not the file that the manifest knows"),
        (the_state_of_another_seed, "run/checkpoint/step-000000010.pt is of seed 0, not 1"),
        (the_last_state, "run/checkpoint/step-000000005.pt is not the state of its end"),
    ],
)
def test_an_online_run_starts_from_nothing_altered(alter_start, said, place):
    alter_start(place.run("first", 1, "offline"), place.run("first", 0, "offline"))
    with pytest.raises(UserError, match=said):
        place.train_here("first", "online", (1,))
    assert not (place.run("first", 1, "online") / "evaluation.json").exists()


# --- nothing is lost --------------------------------------------------------------------------------------------------


def outlook(place: Workplace, method: str) -> Outlook:
    """What a launch would make of the first seed's offline run."""
    configuration = {"offline": {"methods": [method], "tasks": [TASK]}, "online": {"methods": [], "tasks": [TASK]}}
    write_json(place.folder / "study.yaml", configuration | {"seeds": [0], "data_dir": "data"})
    configured = read_configuration(place.folder / "study.yaml", place.folder / "config")
    (run,) = planned_runs(configured, place.folder / "config")
    return Outlooks(configured, place.folder / "results", LOCK).of(run, 0)


def test_a_launch_takes_the_earlier_run_whose_settings_hold_again(place):
    assert outlook(place, "first").fate is Fate.FINISHED
    place.method("first", SHORT + "batch_size: 4\n")
    assert outlook(place, "first").fate is Fate.RETRAINED
    put_back(place)
    assert outlook(place, "first").fate is Fate.FINISHED
    (place.run("second", 0, "offline") / "manifest.json").unlink()
    lost = outlook(place, "second")
    assert (lost.fate, lost.reason) == (Fate.REFUSED, "its manifest is gone")


def put_back(place: Workplace) -> tuple[Path, dict[str, bytes]]:
    """The earlier run's settings hold again; where it lies, and what it holds."""
    place.method("first", SHORT + "batch_size: 8\n")
    (earlier,) = place.run("first", 0, "offline").parent.glob("run.*")
    return earlier, contents(earlier)


@pytest.mark.parametrize("left", ["no folder", "nothing", ".manifest.json.1.part", "metrics.csv", "evaluation.json"])
def test_a_run_without_a_manifest_hides_no_finished_one(left, place, capsys):
    earlier, before = put_back(place)
    run = place.run("first", 0, "offline")
    kept = (run / "evaluation.json").read_bytes()
    shutil.rmtree(run)
    if left != "no folder":  # As a claim leaves it that was killed.
        run.mkdir()
    if left not in ("no folder", "nothing"):
        (run / left).write_bytes(kept)
    place.train_here("first", "offline", (0,))
    assert f"{earlier.name} is the run of these settings, and is put back" in capsys.readouterr().out
    assert contents(run) == before
    unknown = run.with_name("run.unknown")
    assert unknown.exists() == (left != "no folder")
    # What was being written when it was killed is nobody's.
    assert contents(unknown) == ({} if left in ("no folder", "nothing", ".manifest.json.1.part") else {left: kept})


def test_a_result_without_a_manifest_is_delivered_as_nobodys(place):
    """It may be of any settings."""
    run = place.run("first", 0, "offline")
    manifest = (run / "manifest.json").read_bytes()
    (run / "manifest.json").unlink()
    before = contents(run)
    with pytest.raises(UserError, match=r"manifest\.json is gone"):
        place.train_here("first", "offline", (0,))
    assert contents(run) == before
    (run / "manifest.json").write_bytes(manifest)
    place.train_here("first", "offline", (0,))
    assert not (run.parent / "failure.json").exists()


@pytest.mark.parametrize("unfinished", ["run", "aside"])
def test_of_two_runs_of_one_identity_none_is_removed_and_the_finished_one_is_found(unfinished, place):
    run = place.run("first", 0, "offline")
    identity = read_json(run / "manifest.json")["identity"]
    aside = run.with_name(f"run.{identity}")
    shutil.copytree(run, aside)
    (aside / "of-the-other").touch()
    finished = contents(aside if unfinished == "run" else run)
    ((run if unfinished == "run" else aside) / "evaluation.json").unlink()
    unknown = contents(run if unfinished == "run" else aside)
    earlier, before = put_back_beside(place, aside)
    place.train_here("first", "offline", (0,))
    assert contents(run) == before
    assert contents(aside) == finished
    assert contents(aside.with_name(f"{aside.name}.2")) == unknown
    place.method("first", SHORT)
    place.train_here("first", "offline", (0,))
    assert contents(run) == finished
    assert earlier.exists()


def put_back_beside(place: Workplace, other: Path) -> tuple[Path, dict[str, bytes]]:
    place.method("first", SHORT + "batch_size: 8\n")
    (earlier,) = set(other.parent.glob("run.*")) - {other}
    return earlier, contents(earlier)


def test_an_altered_manifest_delivers_nothing(place):
    run = place.run("second", 0, "offline")
    an_altered_setting(run)
    (run.parent / "evaluation.json").unlink()
    with pytest.raises(UserError, match=ALTERED_MANIFEST):
        place.train_here("second", "offline", (0,))
    assert not (run.parent / "evaluation.json").exists()
    with pytest.raises(UserError, match=ALTERED_MANIFEST):
        load_policy(run.parent)
