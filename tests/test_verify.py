"""`mfql verify` on real runs: what is altered, stale, mixed or incomplete is found, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mfql.cli import main
from mfql.data.generate import generate
from mfql.operations.verify import Finding, Kind, verify
from mfql.report import aggregate, chain
from mfql.report.scores import collect, read_scores, write_scores
from mfql.tasks import known_tasks
from tests.support.training_runs import DATASET, ROOT, SHORT, TASK, Workplace


@pytest.fixture
def place(finished_runs, tmp_path) -> Workplace:
    """Finished runs in which nothing is wrong, and their scores."""
    place = Workplace(tmp_path / "place")
    shutil.copytree(finished_runs.folder, place.folder)
    score(place)
    return place


def score(place: Workplace) -> None:
    files = place.folder.glob("results/runs/*/*/*/*/evaluation.json")
    write_scores(collect(files), place.folder / "results" / "study" / "scores.csv")


def findings(place: Workplace) -> list[Finding]:
    return verify(place.folder / "results", place.folder / "config", place.folder / "data").findings


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def name(method: str, seed: int, stage: str = "offline") -> str:
    return f"{method}/{TASK}/seed{seed}/{stage}"


def alter_a_policy(place: Workplace) -> None:
    path = place.run("first", 1, "offline") / "policy" / "policy.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def change_the_settings_of_second(place: Workplace) -> None:
    place.method("second", SHORT + "batch_size: 8\n")


def train_one_of_third_with_other_code(place: Workplace) -> None:
    edit(place.run("third", 1, "offline") / "manifest.json", lambda manifest: manifest["code"].update(hash="0" * 16))
    score(place)


def test_nothing_is_wrong_with_runs_as_they_were_trained(place, capsys):
    arguments = ["--config-dir", str(place.folder / "config"), "--data", str(place.folder / "data")]
    assert main(["verify", str(place.folder / "results"), *arguments]) == 0
    assert capsys.readouterr().out == "6 finished runs and 1 table of scores: nothing is wrong\n"


def test_an_altered_result_a_stale_one_and_a_mixed_average_are_found_and_nothing_else(place, capsys):
    train_one_of_third_with_other_code(place)
    alter_a_policy(place)
    change_the_settings_of_second(place)
    found = findings(place)
    assert [(one.kind, one.where) for one in found] == [
        (Kind.ALTERED, name("first", 1)),
        (Kind.STALE, name("second", 0)),
        (Kind.MIXED, "study/scores.csv, third offline"),
    ]
    assert found[0].what == "run/policy/policy.safetensors is not the file that the manifest knows"
    assert found[1].what == "batch_size 16 -> 8"
    assert found[2].what.startswith("code: ")
    assert f"{'0' * 16} (0.1.0 " in found[2].what
    assert f"({name('third', 1)})" in found[2].what
    arguments = ["--config-dir", str(place.folder / "config"), "--data", str(place.folder / "data")]
    assert main(["verify", str(place.folder / "results"), *arguments]) == 1
    assert "6 finished runs and 1 table of scores: 3 findings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "column", "cell"),
    [
        ("aggregate/tasks", "value", "99.5"),
        ("aggregate/curves", "high", "3"),
        ("verdict/verdict", "verdict", "reproduced"),
    ],
)
def test_a_table_that_was_made_of_scores_and_edited_is_found(place, table, column, cell):
    study, config = place.folder / "results" / "study", place.folder / "config"
    aggregate.write(read_scores(study / "scores.csv"), study / "aggregate")
    compared = chain.references(ROOT / "published", known_tasks(config), config)
    chain.judge(study / "scores.csv", place.folder / "results", compared, [], study / "verdict")
    assert findings(place) == []
    file = study / f"{table}.csv"
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    before = rows.loc[0, column]
    rows.loc[0, column] = cell
    rows.to_csv(file, index=False)
    (found,) = findings(place)
    assert (found.kind, found.where) == (Kind.ALTERED, f"study/{table}.csv")
    assert found.what.startswith(
        f"line 2: {column} is '{cell}', where scores.csv gives '{before}': edited, or written by"
    )
    file.write_text('"', encoding="utf-8")
    (found,) = findings(place)
    assert str(file) in found.what


def test_a_folder_of_runs_is_looked_at_alone(place):
    alter_a_policy(place)
    change_the_settings_of_second(place)
    found = verify(place.folder / "results/runs/second", place.folder / "config", place.folder / "data")
    assert (found.runs, [one.where for one in found.findings]) == (1, [name("second", 0)])


def lose_the_training_log(place: Workplace) -> None:
    (place.run("second", 0, "offline") / "metrics.csv").unlink()


def raise_a_delivered_score(place: Workplace) -> None:
    edit(place.run("second", 0, "offline").parent / "evaluation.json", lambda result: result.update(score=100.0))


def raise_a_score_in_its_folder_too(place: Workplace) -> None:
    raise_a_delivered_score(place)
    shutil.copy(place.run("second", 0, "offline").parent / "evaluation.json", place.run("second", 0, "offline"))


def change_a_setting_in_the_manifest(place: Workplace) -> None:
    path = place.run("second", 0, "offline") / "manifest.json"
    edit(path, lambda manifest: manifest["dataset"].update(sha256="0" * 64))


def forget_an_output(name: str) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        edit(place.run("second", 0, "offline") / "manifest.json", lambda found: found["outputs"].pop(name))

    return change


def break_the_manifest(place: Workplace) -> None:
    (place.run("second", 0, "offline") / "manifest.json").write_text("{", encoding="utf-8")


def lose_the_method(place: Workplace) -> None:
    (place.folder / "config" / "methods" / "second.yaml").unlink()


def forget_the_hardware(place: Workplace) -> None:
    edit(place.run("second", 0, "offline") / "manifest.json", lambda manifest: manifest.pop("hardware"))


def raise_the_table(place: Workplace) -> None:
    path = place.folder / "results" / "study" / "scores.csv"
    table = pd.read_csv(path)
    table.loc[(table["method"] == "second") & (table["metric"] == "score"), "value"] += 1
    write_scores(table, path)


def link_a_delivered_result_to_nowhere(place: Workplace) -> None:
    path = place.run("second", 0, "offline").parent / "evaluation.json"
    path.unlink()
    path.symlink_to("moved.json")


def link_the_table_to_nowhere(place: Workplace) -> None:
    path = place.folder / "results" / "study" / "scores.csv"
    path.unlink()
    path.symlink_to("moved.csv")


def say_it_of_another(column: str) -> Callable[[Workplace], None]:
    def change(place: Workplace) -> None:
        path = place.folder / "results" / "study" / "scores.csv"
        table = pd.read_csv(path)
        table.loc[table["method"] == "second", column] = 5 if column == "seed" else "another"
        write_scores(table, path)

    return change


@pytest.mark.parametrize(
    ("change", "kinds", "said"),
    [
        (lose_the_training_log, {Kind.ALTERED}, "run/metrics.csv is gone"),
        (raise_a_delivered_score, {Kind.ALTERED}, "is not a copy of run/evaluation.json"),
        (raise_a_score_in_its_folder_too, {Kind.ALTERED}, "run/evaluation.json is not the file"),
        # A manifest that says other data is also not that of the data of now.
        (change_a_setting_in_the_manifest, {Kind.ALTERED, Kind.STALE}, "than its identity is of"),
        *(
            (forget_an_output(name), {Kind.ALTERED}, f"run/manifest.json does not know run/{name}")
            for name in ("evaluation.json", "metrics.csv", "policy/policy.json")
        ),
        (break_the_manifest, {Kind.ALTERED}, "manifest.json is not valid JSON"),
        (lose_the_method, {Kind.UNKNOWN}, "unknown method 'second'"),
        (forget_the_hardware, {Kind.INCOMPLETE}, "lacks hardware"),
        (link_a_delivered_result_to_nowhere, {Kind.ALTERED}, "evaluation.json is a link that leads nowhere"),
        (link_the_table_to_nowhere, {Kind.ALTERED}, "scores.csv does not exist"),
        (raise_the_table, {Kind.ALTERED}, f"does not hold what {name('second', 0)} says"),
        *(
            (say_it_of_another(column), {Kind.ALTERED}, f"does not hold what {name('second', 0)} says")
            for column in ("method", "task", "seed", "device")
        ),
    ],
)
def test_each_fault_is_named(change, kinds, said, place):
    change(place)
    found = findings(place)
    assert {one.kind for one in found} == kinds
    assert {one.where for one in found} <= {name("second", 0), "study/scores.csv"}
    assert said in " ".join(one.what for one in found)


def test_a_changed_dataset_makes_every_run_on_it_stale(place):
    generate(DATASET, place.folder / "data", episodes=4, seed=2, progress=False)
    found = findings(place)
    assert {one.kind for one in found} == {Kind.STALE}
    assert len(found) == 6
    assert all("dataset " in one.what for one in found if not one.where.endswith("online"))


def test_a_folder_in_place_of_a_datasets_description_is_named(place):
    (file,) = (place.folder / "data").glob("*.json")
    file.unlink()
    file.mkdir()
    found = verify(place.folder / "results", place.folder / "config", place.folder / "data").findings
    assert found
    assert all("Is a directory" in finding.what for finding in found if finding.kind is Kind.UNREADABLE)
    assert any(finding.kind is Kind.UNREADABLE for finding in found)


def test_a_dataset_that_is_not_at_hand_is_no_fault(place):
    shutil.rmtree(place.folder / "data")
    assert findings(place) == []


def test_a_start_that_would_be_trained_anew_makes_the_online_run_stale(place):
    changed = SHORT.replace("pretrain: {", "pretrain: {batch_size: 8, ")
    place.method("first", changed + "offline: {batch_size: 8}\n")
    stale = {one.where: one.what for one in findings(place)}
    assert stale == {
        name("first", 0): "batch_size 16 -> 8",
        name("first", 1): "batch_size 16 -> 8",
        name("first", 0, "online"): "starts from another run",
    }
