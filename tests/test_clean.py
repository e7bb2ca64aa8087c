"""`mfql clean` on real runs: what goes, what stays, and that what stays can still be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from mfql import load_policy
from mfql.cli import main
from mfql.documents import read_json, write_json
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
    for name in (f".{DATASET}.npz.refused", ".x-v0.npz.refused"):
        write_json(place.folder / "data" / f"{name}.json", {"file": name})
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
    left = {f"data/{name}" for name in (".x-v0.npz.refused", ".x-v0.npz.refused.json", ".y-v0.npz.part")}
    assert {path for path in after if path.startswith("data/.")} == left
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


def test_what_the_project_did_not_write_is_left_and_named(place, capsys):
    """Others' files among checkpoints and in earlier runs, folders of such names, and what a link leads to."""
    run, earlier = place.run("first", 0, "offline"), earlier_run(place)
    elsewhere = place.folder / "elsewhere"
    elsewhere.mkdir()
    others = [
        run / "checkpoint" / "notes.txt",
        run / "checkpoint" / "step-5.pt",
        run / "checkpoint" / "step-000000005.pt.bak",
        earlier / "notes.txt",
        earlier / "tensorboard" / "..0123456789abcdef.part",
        run.parent / "run.old" / "step-000000005.pt",
        run.parent / "run.0123456789abcdef" / "manifest.json",
        run.parent / "run." / "manifest.json",
        elsewhere / "step-000000005.pt",
        place.folder / "data" / ".z-v0.npz.part",
    ]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    (place.folder / "data" / "z-v0.npz").touch()
    linked = place.run("first", 1, "offline") / "checkpoint"
    for path in linked.iterdir():
        path.rename(elsewhere / f"moved-{path.name}")
    linked.rmdir()
    linked.symlink_to(elsewhere)
    others += elsewhere.iterdir()
    assert main(["clean", "--yes"]) == 0
    said = capsys.readouterr().out
    assert all(path.exists() for path in others)
    shown = {line.split(": ")[1] for line in said.splitlines() if line.startswith("left: ")}
    named = [str(path.relative_to(place.folder)) for path in others[:5]]
    named += [str(path.parent.relative_to(place.folder)) for path in others[5:8]]
    assert shown == {
        *named,
        str(linked.relative_to(place.folder)),
        *(f"data/{name}" for name in (".x-v0.npz.refused", ".z-v0.npz.part")),
    }
    assert not (run / "checkpoint" / "step-000000010.pt").exists()
    assert not (earlier / "manifest.json").exists()


def test_runs_behind_a_link_are_left_unless_their_folder_is_given(place, capsys):
    runs = place.folder / "results" / "runs"
    (place.folder / "disk").mkdir()
    (runs / "first").rename(place.folder / "disk" / "first")
    (runs / "first").symlink_to(place.folder / "disk" / "first")
    before = contents(place.folder / "disk")
    assert main(["clean", "--yes", "--only", "checkpoints", "earlier-runs"]) == 0
    assert f"left: {runs / 'first'}: a link" in capsys.readouterr().out
    assert contents(place.folder / "disk") == before
    assert main(["clean", "--yes", str(runs / "first")]) == 0
    assert contents(place.folder / "disk") < before


def test_a_mistyped_key_is_refused_before_anything_goes(place, capsys):
    """Read as it stands, it would ask for no online run, and no state would be needed any more."""
    asked_online(place, 0, 1)
    file = place.folder / "configuration.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("online:", "onlin:"), encoding="utf-8")
    before = contents(place.folder)
    assert main(["clean", "--yes", "--configfile", str(file)]) == 2
    assert "unknown key 'onlin'" in capsys.readouterr().err
    assert contents(place.folder) == before


@pytest.mark.parametrize("configured", [False, True])
def test_an_earlier_run_whose_settings_hold_again_stays_and_is_put_back(place, configured, capsys):
    place.method("first", SHORT + "batch_size: 8\n")
    earlier = earlier_run(place)
    before = contents(earlier)
    assert main(["clean", "--yes", *(["--configfile", asked_online(place, 0)] if configured else [])]) == 0
    assert "kept: 1 earlier runs of the settings of now" in capsys.readouterr().out
    assert contents(earlier) == before
    place.train_here("first", "offline", (0,))
    assert f"{earlier.name} is the run of these settings, and is put back" in capsys.readouterr().out
    assert contents(place.run("first", 0, "offline")) == before


def test_an_earlier_run_stays_whose_method_is_not_known_here(place, capsys):
    """As where its extension is not named: what it makes of the settings of now nobody can tell."""
    earlier = earlier_run(place)
    before = contents(earlier)
    (place.folder / "config" / "methods" / "first.yaml").unlink()
    assert main(["clean", "--yes", "--only", "earlier-runs"]) == 0
    assert "kept: 1 earlier runs of methods or tasks that are not known here" in capsys.readouterr().out
    assert contents(earlier) == before


def test_an_earlier_run_that_an_online_run_has_begun_from_stays(place):
    earlier, online = earlier_run(place), place.run("first", 0, "online")
    manifest = read_json(online / "manifest.json")
    start = {"stage": "offline", "identity": read_json(earlier / "manifest.json")["identity"]}
    write_json(online / "manifest.json", manifest | {"starts_from": start})
    (online / "evaluation.json").unlink()
    before = contents(earlier)
    assert main(["clean", "--yes"]) == 0
    assert contents(earlier) == before


def test_the_states_of_an_altered_run_stay_which_make_its_result_again(place, capsys):
    run = place.run("first", 0, "offline")
    for name in ("run/evaluation.json", "evaluation.json"):
        path = run.parent / name
        write_json(path, read_json(path) | {"score": 100.0})
    before = contents(run)
    assert main(["clean", "--yes"]) == 0
    assert "kept: 1 runs that are not what their manifests say" in capsys.readouterr().out
    assert contents(run) == before


def test_the_state_of_a_run_stays_whose_policy_it_alone_can_make_again(place, capsys):
    run = place.run("first", 0, "offline")
    (run / "policy" / "policy.safetensors").write_bytes(b"0")
    before = contents(run)
    assert main(["clean", "--yes"]) == 0
    assert "kept: 1 runs that are not what their manifests say" in capsys.readouterr().out
    assert contents(run) == before


def test_refused_data_stay_as_long_as_a_run_does_not_say_what_it_was_trained_on(place, capsys):
    data = place.folder / "data"
    (place.run("first", 1, "offline") / "manifest.json").write_text("[]", encoding="utf-8")
    assert main(["clean", "--yes", "--only", "downloads"]) == 0
    assert f"left: data/.{DATASET}.npz.refused: a run's manifest cannot be read" in capsys.readouterr().out
    assert (data / f".{DATASET}.npz.refused").exists()


def test_data_that_runs_were_trained_on_stay_whatever_they_are_called(place, capsys):
    """A fetch with another checksum in its lock file may have moved them away."""
    data = place.folder / "data"
    shutil.copy(data / f"{DATASET}.npz", data / f".{DATASET}.npz.refused")
    assert main(["clean", "--yes", "--only", "downloads"]) == 0
    assert f"left: data/.{DATASET}.npz.refused: runs were trained on it" in capsys.readouterr().out
    assert (data / f".{DATASET}.npz.refused").exists()


def test_nothing_goes_outside_the_folder_that_is_given(place):
    """An earlier run lies beside `run`, and its name would be found from there."""
    given = place.run("first", 0, "offline")
    before = contents(place.folder)
    assert main(["clean", "--yes", "--only", "checkpoints", "earlier-runs", "--", str(given)]) == 0
    gone = before - contents(place.folder)
    assert {path.removeprefix(f"{given.relative_to(place.folder)}/") for path in gone} == {
        "checkpoint/step-000000005.pt",
        "checkpoint/step-000000010.pt",
    }
