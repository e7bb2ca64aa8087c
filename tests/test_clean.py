"""`mfql clean` on real runs: what goes, what stays, and that what stays can still be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from mfql import load_policy
from mfql.cli import main
from mfql.files import read_json, write_json
from mfql.locks import locked
from tests.support.training_runs import DATASET, SHORT, TASK, Workplace

KEPT = {"manifest.json", "evaluation.json", "metrics.csv", "policy.safetensors", "policy.json"}


@pytest.fixture
def place(finished_runs, tmp_path, monkeypatch) -> Workplace:
    """Runs of `first`: seed 0 was online, seed 1 not yet; seed 0 has an earlier run of other settings."""
    place = Workplace(tmp_path / "place")
    shutil.copytree(finished_runs.folder, place.folder)
    for method in ("second", "third"):
        shutil.rmtree(place.folder / "results" / "runs" / method)
    for name in (f".{DATASET}.npz.part", f".{DATASET}.npz.refused", ".x-v0.npz.refused", ".y-v0.npz.part"):
        (place.folder / "data" / name).write_bytes(b"0" * 1000)
    note = {"url": f"https://example.org/{DATASET}.npz", "size": 2000, "validator": None}
    write_json(place.folder / "data" / f".{DATASET}.npz.part.json", note)
    monkeypatch.chdir(place.folder)
    return place


def contents(folder: Path) -> set[str]:
    """The files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def earlier_run(place: Workplace) -> Path:
    """The run of earlier settings that lies beside that of `first`, seed 0."""
    (found,) = place.run("first", 0, "offline").parent.glob("run.*")
    return found


def asked_online(place: Workplace, *seeds: int) -> str:
    configuration = {
        "offline": {"methods": ["first"], "tasks": [TASK]},
        "online": {"methods": ["first"] if seeds else [], "tasks": [TASK]},
        "seeds": list(seeds) or [0, 1],
    }
    (place.folder / "configuration.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return "configuration.yaml"


def test_nothing_goes_unless_one_says_so(place, capsys):
    before = contents(place.folder)
    assert main(["clean", "--list"]) == 0
    said = capsys.readouterr().out
    assert "Nothing was removed; --yes removes it." in said
    assert f"first/{TASK}/seed0/offline: run/manifest.json" not in said
    identity = read_json(earlier_run(place) / "manifest.json")["identity"]
    assert f"first/{TASK}/seed0/offline: run.{identity}/checkpoint/step-000000005.pt, run.{identity}/" in said
    assert f"first/{TASK}/seed1/offline: checkpoint/step-000000005.pt\n" in said
    assert "kept: 1 final states from which an online run still has to start" in said
    assert contents(place.folder) == before


def test_what_finished_runs_need_no_more_goes_and_their_results_stay(place, capsys):
    before = contents(place.folder)
    assert main(["clean", "--yes"]) == 0
    assert " removed\n" in capsys.readouterr().out
    after = contents(place.folder)
    gone = before - after
    assert not {path for path in gone if Path(path).name in KEPT and "/run." not in path}
    assert not [path for path in after if "/run." in path]
    assert not list(place.run("first", 0, "offline").glob("checkpoint/*"))
    assert not list(place.run("first", 0, "online").glob("checkpoint/*"))
    # The other seed has not been online: the last of its two checkpoints stays.
    assert [path.name for path in place.run("first", 1, "offline").glob("checkpoint/*")] == ["step-000000010.pt"]
    # A part that a fetch would continue stays, and a refused file without another in its place.
    assert {path for path in after if path.startswith("data/.")} == {"data/.x-v0.npz.refused", "data/.y-v0.npz.part"}
    assert load_policy(place.run("first", 0, "online"))([0.0, 0.0]).shape == (2,)
    assert main(["clean", "--yes"]) == 0
    assert "0 B that finished runs" in capsys.readouterr().out


def test_what_is_left_can_be_restored_started_from_and_verified(place):
    assert main(["clean", "--yes"]) == 0
    place.train_here("first", "offline", (0, 1))
    place.train_here("first", "online", (0, 1))
    assert (place.run("first", 1, "online") / "evaluation.json").exists()
    assert main(["verify"]) == 0


def test_an_online_run_that_is_not_asked_for_needs_no_start(place):
    assert main(["clean", "--yes", "--configfile", asked_online(place)]) == 0
    assert not list(place.folder.glob("results/runs/**/checkpoint/*"))


def test_an_online_run_that_is_asked_for_anew_needs_its_start(place):
    """Its settings changed: it would be trained anew, from the same start."""
    place.method("first", SHORT + "online: {batch_size: 8}\n")
    assert main(["clean", "--yes", "--configfile", asked_online(place, 0)]) == 0
    assert list(place.run("first", 0, "offline").glob("checkpoint/*"))
    assert not list(place.run("first", 1, "offline").glob("checkpoint/*"))


def test_an_online_run_that_was_begun_keeps_its_start_and_itself(place):
    online = place.run("first", 0, "online")
    (online / "evaluation.json").unlink()
    before = contents(online)
    assert main(["clean", "--yes", "--configfile", asked_online(place)]) == 0
    assert contents(online) == before
    assert list(place.run("first", 0, "offline").glob("checkpoint/*"))


def test_a_run_in_use_is_left_alone(place, capsys):
    run = place.run("first", 0, "offline")
    before = contents(run.parent)
    with locked(run.parent / "lock"):
        assert main(["clean", "--yes"]) == 0
    assert contents(run.parent) == before
    assert "kept: 1 runs in use" in capsys.readouterr().out


def test_a_dataset_that_is_being_fetched_is_left_alone(place):
    with locked(place.folder / "data" / f".{DATASET}.fetch"):
        assert main(["clean", "--yes", "--only", "downloads"]) == 0
    assert {path.name for path in (place.folder / "data").glob(f".{DATASET}*.part*")} == {
        f".{DATASET}.npz.part",
        f".{DATASET}.npz.part.json",
    }
    assert (place.folder / "data" / f".{DATASET}.npz.refused").exists()


def test_one_kind_goes_alone(place):
    before = contents(place.folder)
    assert main(["clean", "--yes", "--only", "earlier-runs"]) == 0
    gone = before - contents(place.folder)
    assert gone
    assert all("/run." in path for path in gone)
